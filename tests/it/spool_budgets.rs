//! What bodies may hold together: where it is used up a request is refused and a response waits for its client.

// Counters are whole numbers, and small ones.
#![allow(clippy::float_cmp, clippy::cast_precision_loss)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::harness::{Gateway, eventually};
use crate::spool_requests::{
    connections, echo, expect_refused, held, metric, nothing_held, pattern, request, spool_dir, spooling,
};
use crate::spool_responses::{ENDLESS, endless, expect_body, large, waits_to_read};

type Step<'a> = &'a dyn Fn();

/// Limits how large a file of the gateway may grow: its disk is full.
fn limit_files(gateway: &Gateway, bytes: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(gateway.pid()).unwrap());
    let maximum = getrlimit(Resource::Fsize).maximum;
    prlimit(pid, Resource::Fsize, Rlimit { current: bytes.or(maximum), maximum }).unwrap();
}

#[test]
fn a_full_disk_budget_is_503_and_the_rest_goes_on() {
    let (origin, dir) = (echo(), spool_dir());
    let keys = [
        ("client", r#"max_body = "700KiB""#),
        ("spool", "memory_per_body = \"16KiB\"\ndisk = \"1MiB\"\ndisk_per_body = \"1MiB\""),
    ];
    let gateway = spooling(origin.address(), &dir, &keys).start();
    let body = pattern(700 * 1024);
    let counted = request("POST", &body, None);
    let mut first = gateway.connect();
    first.send(&counted[..300_000]);
    eventually("the first body has its share", || (held(&gateway)[1] >= body.len() as f64).then_some(()));

    // There is no room for what is announced: nobody is asked to send it.
    let mut second = gateway.connect();
    second.send(format!(
        "POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    expect_refused(&mut second, 503, "spool_full");
    // Nor for all of what is not; who sends it all before it reads is told all the same.
    let mut third = gateway.connect();
    third.send(request("POST", &body, Some(5000)));
    expect_refused(&mut third, 503, "spool_full");
    let line = gateway.wait_for_log("the disk budget of all bodies is used up");
    assert!(line.contains("WARN") && line.contains("spool_full") && line.contains("503"), "{line}");
    assert_eq!(metric(&gateway, "propylon_spool_full_total", &[("limit", "disk")]), 2.0);
    assert_eq!(metric(&gateway, "propylon_rejections_total", &[("reason", "spool_full")]), 2.0);
    assert_eq!(connections(&origin, &gateway), 0);

    gateway.connect().request("POST", "/", &[], "small").expect(200);
    gateway.get("/").expect(200);
    first.send(&counted[300_000..]);
    assert!(first.response().expect(200).body == body);
    nothing_held(&gateway);
    for chunk in [None, Some(5000)] {
        let mut again = gateway.connect();
        again.send(request("POST", &body, chunk));
        assert!(again.response().expect(200).body == body);
    }
}

#[test]
fn full_memory_and_no_disk_is_503_and_the_rest_goes_on() {
    let (origin, dir) = (echo(), spool_dir());
    let keys = [
        ("client", r#"max_body = "48KiB""#),
        ("spool", "memory = \"64KiB\"\nmemory_per_body = \"64KiB\"\ndisk = \"0B\""),
    ];
    let gateway = spooling(origin.address(), &dir, &keys).start();
    let body = pattern(48 * 1024);
    let counted = request("POST", &body, None);
    let mut first = gateway.connect();
    first.send(&counted[..1000]);
    eventually("the first body has its share", || (held(&gateway)[0] >= body.len() as f64).then_some(()));
    for chunk in [None, Some(700)] {
        let mut client = gateway.connect();
        client.send(request("POST", &body, chunk));
        let told = client.response().expect(503);
        assert_eq!((&told.json()["reason"], told.field("retry-after")), (&"spool_full".into(), Some("1")));
    }
    gateway.wait_for_log("spool_full");
    assert_eq!(metric(&gateway, "propylon_spool_full_total", &[("limit", "disk")]), 2.0);
    assert_eq!(connections(&origin, &gateway), 0);
    gateway.get("/").expect(200);
    first.send(&counted[1000..]);
    assert!(first.response().expect(200).body == body);
    nothing_held(&gateway);
    assert_eq!(metric(&gateway, "propylon_spool_bodies_on_disk_total", &[]), 0.0);
}

#[test]
fn a_body_at_its_limit_is_taken_however_it_is_cut() {
    for (spool, limit) in [
        ("memory = \"64KiB\"\nmemory_per_body = \"64KiB\"\ndisk = \"0B\"", 64 * 1024),
        ("memory = \"16KiB\"\nmemory_per_body = \"16KiB\"\ndisk = \"256KiB\"", 256 * 1024),
        ("memory = \"64KiB\"\nmemory_per_body = \"64KiB\"\ndisk = \"256KiB\"", 256 * 1024),
    ] {
        let (origin, dir) = (echo(), spool_dir());
        let client = format!("max_body = \"{limit}B\"");
        let gateway = spooling(origin.address(), &dir, &[("client", &*client), ("spool", spool)]).start();
        let body = pattern(limit);
        for chunk in [None, Some(1), Some(4093), Some(30_001), Some(limit)] {
            let mut client = gateway.connect();
            client.send(request("POST", &body, chunk));
            assert!(client.response().expect(200).body == body, "{limit} in {chunk:?} came back otherwise");
            nothing_held(&gateway);
        }
    }
}

#[test]
fn a_disk_that_is_full_or_gone_is_503_until_it_is_back() {
    let (origin, dir) = (echo(), spool_dir());
    let gateway = spooling(origin.address(), &dir, &[]).start();
    let body = pattern(2_000_000);
    let (full, gone) = (|| limit_files(&gateway, Some(400_000)), || std::fs::remove_dir(dir.path()).unwrap());
    let (emptied, back) = (|| limit_files(&gateway, None), || std::fs::create_dir(dir.path()).unwrap());
    let faults: [(Step, Step, &str); 2] = [(&full, &emptied, "File too large"), (&gone, &back, "No such file")];
    let mut refused = 0.0;
    for (breaks, mends, says) in faults {
        let served = origin.requests().len();
        breaks();
        for chunk in [None, Some(5000)] {
            let mut client = gateway.connect();
            client.send(request("POST", &body, chunk));
            expect_refused(&mut client, 503, "spool_full");
            nothing_held(&gateway);
            refused += 1.0;
        }
        let line = gateway.wait_for_log(says);
        assert!(line.contains("spool_full") && line.contains("the spool file failed"), "{line}");
        assert_eq!(metric(&gateway, "propylon_spool_io_errors_total", &[]), refused);
        assert_eq!(metric(&gateway, "propylon_rejections_total", &[("reason", "spool_full")]), refused);
        assert_eq!(origin.requests().len(), served);
        gateway.connect().request("POST", "/", &[], "small").expect(200);
        mends();
        let mut client = gateway.connect();
        client.send(request("POST", &body, None));
        assert!(client.response().expect(200).body == body);
    }
}

#[test]
fn where_the_disk_is_full_the_app_waits_for_the_client() {
    let (body, dir) = (pattern(ENDLESS), spool_dir());
    let origin = large(&body);
    let gateway =
        spooling(origin.address(), &dir, &[]).allow_error("the spool cannot take a response: the app waits").start();
    limit_files(&gateway, Some(500_000));
    for framing in ["/counted", "/chunked"] {
        let before = metric(&gateway, "propylon_spool_io_errors_total", &[]);
        let mut client = waits_to_read(&gateway, framing);
        eventually("the disk is full", || {
            (metric(&gateway, "propylon_spool_io_errors_total", &[]) > before).then_some(())
        });
        gateway.get("/").expect(200);
        expect_body(&mut client, &body);
        nothing_held(&gateway);
    }
    let lines = gateway.log().into_iter().filter(|line| line.contains("the app waits for the client"));
    assert_eq!(lines.count(), 2, "one for each answer");
}

#[test]
fn where_the_spool_is_at_its_end_the_app_waits_for_the_client() {
    let cap = 1024.0 * 1024.0;
    for spool in [
        "memory_per_body = \"16KiB\"\ndisk_per_body = \"1MiB\"",
        "memory_per_body = \"16KiB\"\ndisk = \"1MiB\"",
        "memory = \"64KiB\"\nmemory_per_body = \"64KiB\"\ndisk = \"0B\"",
    ] {
        let (dir, finished) = (spool_dir(), Arc::default());
        let origin = endless(vec![String::from("X-Any: a")], &finished);
        let keys = [("client", "max_body = \"64KiB\""), ("spool", spool)];
        let gateway = spooling(origin.address(), &dir, &keys).start();
        let mut client = waits_to_read(&gateway, "/0");
        let full = || metric(&gateway, "propylon_spool_full_total", &[("limit", "disk_per_body")]);
        // A body that waits and asks again counts once.
        eventually("the spool is full", || (full() == 1.0).then_some(()));
        assert!(held(&gateway)[1] <= cap);
        assert_eq!(finished.load(Ordering::SeqCst), 0);
        assert_eq!(metric(&gateway, "propylon_upstream_in_flight", &[]), 1.0);
        gateway.get("/").expect(200);
        expect_body(&mut client, &pattern(ENDLESS));
        nothing_held(&gateway);
        assert_eq!(gateway.access_log(2)[1].get("reason"), None);
    }
}
