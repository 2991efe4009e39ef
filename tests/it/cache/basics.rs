//! The plain way: asked once, given again; and what rules, keys and sizes have to do with it.

use super::{Said, app, builder_with, is_kept, site, status_of};
use crate::harness::Gateway;
use crate::harness::http2::Http2;
use crate::harness::tls::{Authority, TlsClient};

/// What is kept is the same over every version of HTTP, and counts against limits as everything does.
#[test]
fn over_http2_and_within_limits() {
    let origin = app(|_, count| Said::ok("ETag: \"1\"", format!("{count}{}", "x".repeat(100_000))));
    let gateway = Gateway::with(
        r#"
        [server]
        listen_tls = ["127.0.0.1:0"]
        [[tls.certificates]]
        cert = "{dir}/gateway.pem"
        key = "{dir}/gateway.key"
        [upstreams.app]
        endpoints = ["{origin}"]
        [[routes]]
        upstream = "app"
        rate_limit = { rate = "5/h" }
        [[cache.rules]]
        ttl = "1h"
        "#,
    );
    let issued = Authority::shared().issue(&["localhost"]);
    let gateway = gateway.set("origin", origin.address()).certificate("gateway", &issued).start();
    let tls = TlsClient::new(Authority::shared(), "localhost");
    let first = gateway.connect_tls(&tls).request("GET", "/", &[], "").expect(200);
    let client = Http2::connect(gateway.tls_addr());
    let again = client.get("/").expect(200);
    assert_eq!(*again.body, *first.body);
    assert!(again.field("cache-status").unwrap().starts_with("propylon; hit"));
    assert!(client.request("HEAD", "/", &[], "").expect(200).body.is_empty());
    let part = client.request("GET", "/", &[("range", "bytes=0-1")], "").expect(206);
    assert_eq!(part.text(), "0x");
    client.request("GET", "/", &[("if-none-match", "\"1\"")], "").expect(304);
    client.get("/").expect(429);
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn an_answer_is_asked_for_once_and_given_again() {
    let site = site(r#"ttl = "1m""#, |_, count| {
        Said::ok("Content-Type: text/plain\nX-Own: 1\nX-Request-ID: of-the-first", format!("body {count}"))
    });
    let first = site.get(&[]).expect(200);
    assert_eq!(status_of(&first), "propylon; fwd=miss; stored");
    let again = site.get(&[("X-Request-ID", "mine")]).expect(200);
    assert_eq!((again.text(), again.field("x-own"), again.field("content-length")), ("body 0", Some("1"), Some("6")));
    assert_eq!(again.field("x-request-id"), Some("mine"));
    assert!(again.field("date").is_some() && again.field("age") == Some("0"), "{again}");
    let status = status_of(&again);
    assert!(status == "propylon; hit; ttl=59" || status == "propylon; hit; ttl=60", "{status}");
    assert_eq!(site.asked(), 1);
    let head = site.request("HEAD", "/", &[]).expect(200);
    assert_eq!((head.field("content-length"), head.body.len()), (Some("6"), 0));
    assert_eq!(site.asked(), 1);
    for (result, count) in [("miss", 1.0), ("hit", 2.0), ("bypass", 0.0)] {
        site.counts(result, count);
    }
    assert_eq!(site.value("propylon_cache_entries", &[("tier", "memory"), ("rule", "all")]), 1.0);
    assert!(site.value("propylon_cache_bytes", &[("tier", "memory"), ("rule", "all")]) > 6.0);
    let status = site.gateway.admin_get("/status").json();
    let rule = &status["cache"]["rules"][0];
    assert_eq!((&rule["name"], &rule["hit_rate"], &rule["entries"]), (&"all".into(), &0.667.into(), &1.into()));
    let lines = site.gateway.access_log(3);
    assert_eq!((&lines[0]["cache"], &lines[1]["cache"]), (&"miss".into(), &"hit".into()));
    assert!(lines[1].get("upstream_status").is_none() && lines[1]["upstream"] == "app", "{}", lines[1]);
}

#[test]
fn without_a_rule_for_it_nothing_is_kept() {
    assert!(!is_kept(r#"path = "/else/*""#, "Cache-Control: max-age=60", &[]));
    assert!(!is_kept(r#"host = ["else.example"]"#, "Cache-Control: max-age=60", &[]));
    assert!(is_kept(r#"host = ["test"]"#, "Cache-Control: max-age=60", &[]));
}

#[test]
fn the_key_is_scheme_host_path_and_what_counts_of_the_query() {
    let site = site("ttl = \"1m\"\nkey = { query = [\"page\"] }", |_, count| Said::ok("", count.to_string()));
    let get = |target: &str, host: &str, proto: &str| {
        let fields = [("Host", host), ("X-Forwarded-Proto", proto)];
        site.request("GET", target, &fields).expect(200).text().to_owned()
    };
    assert_eq!(get("/a?page=1&utm=x", "one.test", "http"), "0");
    assert_eq!(get("/a?utm=y&page=1", "one.test", "http"), "0");
    assert_eq!(get("/a?page=2", "one.test", "http"), "1");
    assert_eq!(get("/a?page=1", "two.test", "http"), "2");
    assert_eq!(get("/a?page=1", "one.test", "https"), "3");
    assert_eq!(get("/a?page=1", "one.test:8080", "http"), "4");
    assert_eq!(get("/b?page=1", "one.test", "http"), "5");
    assert_eq!(get("/%61?page=1", "one.test", "http"), "6", "the client's bytes");
}

#[test]
fn chosen_fields_count() {
    let site = site("ttl = \"1m\"\nkey = { headers = [\"Accept-Language\"] }", |request, _| {
        Said::ok("", request.field("accept-language").unwrap_or("none"))
    });
    let get = |language: &str| site.get(&[("Accept-Language", language)]).text().to_owned();
    assert_eq!((get("de"), get("en"), get("de"), get("en")), ("de".into(), "en".into(), "de".into(), "en".into()));
    assert_eq!((site.get(&[]).text(), site.asked()), ("none", 3));
}

#[test]
fn what_is_too_large_passes_and_is_not_kept() {
    let origin = app(|request, _| {
        let length: usize = request.target.trim_start_matches('/').parse().unwrap();
        Said::ok("", vec![b'x'; length])
    });
    let sizes = "memory = \"4MiB\"\nmax_body = \"100KiB\"";
    let gateway = builder_with(&origin, r#"ttl = "1m""#, "", sizes).start();
    for (length, asked) in [(1, 1), (102_400, 2), (102_401, 4), (1_000_000, 6)] {
        for _ in 0..2 {
            let answer = gateway.get(&format!("/{length}")).expect(200);
            assert_eq!(answer.body.len(), length);
        }
        assert_eq!(origin.requests().len(), asked, "{length}");
    }
    let labels = [("rule", "all"), ("reason", "too_large")];
    assert_eq!(gateway.metrics().value("propylon_cache_not_stored_total", &labels), Some(4.0));
}

#[test]
fn empty_and_large_bodies_come_back_byte_by_byte() {
    let body: Vec<u8> = (0..900_000_u32).flat_map(u32::to_le_bytes).take(900_000).collect();
    let expected = body.clone();
    let site =
        site(r#"ttl = "1m""#, move |request, _| Said::ok("", if request.target == "/empty" { &[][..] } else { &body }));
    for _ in 0..3 {
        assert_eq!(site.get(&[]).expect(200).body, expected);
        assert_eq!(site.request("GET", "/empty", &[]).expect(200).body.len(), 0);
    }
    assert_eq!(site.asked(), 2);
}

#[test]
fn a_reload_keeps_what_was_kept() {
    let site = site(r#"ttl = "1m""#, |_, count| Said::ok("", count.to_string()));
    site.get(&[]);
    site.gateway.reload();
    assert_eq!((site.get(&[]).text(), site.asked()), ("0", 1));
}
