//! Clients and apps that would have others given what is not for them, or keep workers busy.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Said, app, builder, builder_with, site, status_of};
use crate::harness::{Gate, Origin, eventually};

const RULE: &str = r#"ttl = "1m""#;

/// An app sees how a host is written and may answer with a redirect; others are not to follow it.
#[test]
fn a_host_that_is_written_in_another_way_is_answered_by_the_app_alone() {
    let site = site(RULE, |request, _| match request.field("host") {
        Some("site.test") => Said::ok("", "the page"),
        other => Said::status(301, "Location: http://site.test/", other.unwrap_or_default()),
    });
    for host in ["SITE.test", "site.test.", "site.test:80"] {
        let answer = site.get(&[("Host", host)]).expect(301);
        assert_eq!(status_of(&answer), "propylon; fwd=bypass; detail=host", "{host}");
        assert_eq!(site.get(&[("Host", "site.test")]).expect(200).text(), "the page", "{host}");
    }
    // What a trusted proxy says of host and port, and what Host says.
    for fields in [
        [("Host", "site.test"), ("X-Forwarded-Host", "other.test")],
        [("Host", "other.test"), ("X-Forwarded-Host", "site.test")],
        [("Host", "site.test:1234"), ("X-Forwarded-Port", "443")],
    ] {
        assert_eq!(status_of(&site.get(&fields)), "propylon; fwd=bypass; detail=host", "{fields:?}");
    }
    let same = [("Host", "site.test"), ("X-Forwarded-Host", "site.test"), ("X-Forwarded-Port", "80")];
    assert_eq!(site.get(&same).expect(200).text(), "the page");
    assert!(status_of(&site.get(&same)).starts_with("propylon; hit"));
}

#[test]
fn another_method_in_a_field_goes_past() {
    let site = site(RULE, |request, _| Said::ok("", request.field("x-http-method-override").unwrap_or("GET")));
    assert_eq!(site.get(&[("X-HTTP-Method-Override", "HEAD")]).text(), "HEAD");
    assert_eq!(site.get(&[]).text(), "GET");
}

/// What an app says to a range is not for those who ask for all.
#[test]
fn an_answer_to_a_range_is_not_kept_unless_it_is_the_whole() {
    for (status, fields) in
        [(416, "Content-Range: bytes */5"), (416, ""), (200, "Content-Range: items 0-9/50"), (404, "")]
    {
        let site = site(RULE, move |request, _| match request.field("range") {
            Some(_) => Said::status(status, &format!("Cache-Control: max-age=60\n{fields}"), "part"),
            None => Said::ok("", "whole"),
        });
        site.get(&[("Range", "items=0-9")]).expect(status);
        assert_eq!(site.get(&[]).expect(200).text(), "whole", "{status} {fields}");
    }
}

/// One request that has its own answer spoiled does not spoil what is kept, nor make everybody else ask the app.
#[test]
fn what_one_client_brings_about_does_not_evict_what_is_good() {
    for (status, fields) in [(406, ""), (500, ""), (200, "Set-Cookie: a=b"), (200, "Cache-Control: private")] {
        for vary in ["", "Vary: Accept-Language"] {
            let site = site(RULE, move |request, count| match request.field("x-spoil") {
                Some(_) => Said::status(status, fields, "spoiled"),
                None => Said::ok(vary, count.to_string()),
            });
            site.get(&[]);
            site.get(&[("Cache-Control", "no-cache"), ("X-Spoil", "1")]).expect(status);
            let again = site.get(&[]);
            assert!(
                status_of(&again).starts_with("propylon; hit") && again.text() == "0",
                "{status} {fields}: {again}"
            );
        }
    }
}

/// An answer without an end keeps no worker busy once its client has left, and holds up nobody else.
#[test]
fn an_answer_that_never_ends() {
    let origin = Origin::start(|connection| {
        while connection.read_request().is_some() {
            connection.write("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n");
            while connection.write("4\r\nmore\r\n") {
                connection.delay(Duration::from_millis(5));
            }
        }
    });
    let gateway = builder(&origin, "ttl = \"1m\"\ncollapse_timeout = \"100ms\"").start();
    let mut first = gateway.connect();
    first.send_request("GET", "/", &[], "");
    origin.wait_for_requests(1);
    let mut second = gateway.connect();
    second.send_request("GET", "/", &[], "");
    origin.wait_for_requests(2);
    let mut third = gateway.connect();
    third.send_request("GET", "/", &[], "");
    origin.wait_for_requests(3);
    let waited = gateway.metrics().value("propylon_cache_requests_total", &[("rule", "all"), ("result", "collapsed")]);
    assert_eq!(waited, Some(0.0));
    drop((first, second, third));
    eventually("the app is let go", || (origin.open_connections() == 0).then_some(()));
}

/// Pages that are asked about each time are not asked about one after the other.
#[test]
fn pages_that_are_always_asked_about_make_no_convoy() {
    const CLIENTS: usize = 20;
    let (first, all_here, count) = (Gate::new(), Gate::new(), AtomicUsize::new(0));
    let begin = first.clone();
    let site = site("collapse_timeout = \"1h\"", move |request, _| {
        let fields = "ETag: \"1\"\nCache-Control: no-cache\nVary: Accept-Encoding";
        if request.field("if-none-match").is_none() {
            return Said::ok(fields, "page");
        }
        match count.fetch_add(1, Ordering::SeqCst) {
            // Those who wait for it cannot have its answer.
            0 => first.wait(),
            // The others come together. One after the other they would take longer than a client waits.
            number if number + 2 < CLIENTS => drop(all_here.wait_at_most(Duration::from_secs(1))),
            _ => all_here.open(),
        }
        Said::status(304, fields, "")
    });
    site.get(&[]).expect(200);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| site.gateway.connect()).collect();
    clients.iter_mut().for_each(|client| client.send_request("GET", "/", &[], ""));
    eventually("all have asked", || {
        let in_flight = site.gateway.metrics().value("propylon_requests_in_flight", &[("route", "app")]);
        in_flight.filter(|count| *count == 20.0)
    });
    begin.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.response().expect(200).text(), "page"));
}

/// Somebody with a token is not answered with the page of those without, by way of what that page is validated with.
#[test]
fn what_is_on_disk_for_others_is_not_asked_about_for_one_with_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let origin = app(|request, _| {
        if request.field("if-modified-since").is_some() {
            return Said::status(304, "", "");
        }
        Said::ok("Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", request.field("authorization").unwrap_or("nobody"))
    });
    let disk = format!("disk = {{ path = \"{}\" }}", dir.path().display());
    let start = || {
        let gateway = builder_with(&origin, RULE, "", &disk).start();
        eventually("the disk is known", || {
            gateway.metrics().value("propylon_cache_disk_loaded", &[]).filter(|loaded| *loaded == 1.0)
        });
        gateway
    };
    let gateway = start();
    gateway.get("/me").expect(200);
    eventually("it is written", || {
        let written = gateway.metrics().value("propylon_cache_disk_writes_total", &[("result", "written")]);
        written.filter(|written| *written == 1.0)
    });
    gateway.stop();
    let gateway = start();
    let mine = gateway.connect().request("GET", "/me", &[("Authorization", "Bearer mine")], "").expect(200);
    assert_eq!(mine.text(), "Bearer mine");
    assert_eq!(gateway.get("/me").expect(200).text(), "nobody");
}

/// A folder that somebody else could have filled is not used.
#[test]
fn a_folder_that_others_may_write_to_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("propylon-cache-1");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    let origin = app(|_, _| Said::ok("", "page"));
    let disk = format!("disk = {{ path = \"{}\" }}", dir.path().display());
    let gateway = builder_with(&origin, RULE, "", &disk).allow_error("the disk cache cannot be opened").start();
    gateway.wait_for_log("it is somebody else's, or others may write to it");
    gateway.get("/").expect(200);
    assert_eq!(gateway.metrics().value("propylon_cache_disk_loaded", &[]), Some(0.0));
    assert!(!folder.join("lock").exists());
}
