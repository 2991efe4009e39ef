//! Clients that are slow: with their head, with their body, with the next request, and with reading.

// Counters are whole numbers, and small ones.
#![allow(clippy::float_cmp, clippy::cast_precision_loss)]

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::harness::{Broken, Client, Gateway, Origin, eventually, scripted_delay};

const HEAD: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    [server.client]
    header_timeout = "300ms"
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [[routes]]
    respond = { body = "hello" }
"#;

/// The counter of refusals for `reason`.
fn rejections(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metrics().value("propylon_rejections_total", &[("reason", reason)]).unwrap()
}

#[test]
fn a_head_that_drips_is_answered_408_once() {
    let gateway = Gateway::start(HEAD);
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n");
    client.drip(["X", "-", "A", ":", " ", "1", "\r", "\n", "X", "-", "B", ":"], Duration::from_millis(40));
    let told = client.response().expect(408);
    assert_eq!(told.json()["reason"], "header_timeout");
    assert_eq!(told.field("connection"), Some("close"));
    client.closed();
    assert_eq!(gateway.access_log(1).len(), 1);
    assert_eq!(gateway.access_log_now()[0]["reason"], "header_timeout");
    assert_eq!(rejections(&gateway, "header_timeout"), 1.0);
    assert_eq!(gateway.metrics().value("propylon_requests_total", &[]), Some(1.0));
}

#[test]
fn half_a_head_and_then_silence_is_answered_408() {
    let gateway = Gateway::start(HEAD);
    for half in ["G", "GET / HT", "GET / HTTP/1.1\r\nHost: test\r\n", "GET / HTTP/1.1\r\nHost: test\r\n\r"] {
        let mut first = gateway.connect();
        first.send(half);
        let mut second = gateway.connect();
        second.get("/").expect(200);
        second.send(half);
        for mut client in [first, second] {
            let told = client.response().expect(408);
            assert_eq!(told.field("connection"), Some("close"));
            client.closed();
        }
    }
    assert_eq!(gateway.access_log(12).len(), 12);
    assert_eq!(rejections(&gateway, "header_timeout"), 8.0);
}

#[test]
fn a_connection_that_sends_nothing_is_closed_without_an_answer() {
    let gateway = Gateway::start(HEAD);
    gateway.connect().closed();
    // An empty line is no beginning of a request.
    let mut client = gateway.connect();
    client.send("\r\n");
    client.closed();
    assert!(gateway.access_log_now().is_empty());
    assert_eq!(rejections(&gateway, "header_timeout"), 0.0);
}

#[test]
fn an_idle_connection_is_closed_after_keepalive_timeout() {
    let gateway = Gateway::start(
        r#"
        [server]
        listen = ["127.0.0.1:0"]
        [server.client]
        keepalive_timeout = "200ms"
        [admin]
        listen = ["127.0.0.1:0"]
        [log]
        access = "{dir}/access.log"
        [[routes]]
        respond = { body = "hello" }
        "#,
    );
    let mut client = gateway.connect();
    client.get("/").expect(200);
    client.get("/").expect(200);
    client.closed();
    assert_eq!(gateway.access_log(2).len(), 2);
}

#[test]
fn keepalive_timeout_0_closes_each_connection_and_says_so() {
    let gateway = Gateway::start(
        r#"
        [server]
        listen = ["127.0.0.1:0"]
        [server.client]
        keepalive_timeout = "0s"
        [admin]
        listen = ["127.0.0.1:0"]
        [log]
        access = "{dir}/access.log"
        [[routes]]
        respond = { body = "hello" }
        "#,
    );
    for request in ["GET / HTTP/1.1\r\nHost: test\r\n\r\n", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"] {
        let mut client = gateway.connect();
        client.send(request.repeat(2));
        assert_eq!(client.response().expect(200).field("connection"), Some("close"));
        client.closed();
    }
    assert_eq!(gateway.access_log(2).len(), 2);
}

const BODY: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    [server.client]
    body_idle_timeout = "300ms"
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [upstreams.app]
    endpoints = ["{origin}"]
    [[routes]]
    upstream = "app"
"#;

#[test]
fn a_body_that_stops_is_answered_408_and_leaves_nothing_behind() {
    let origin = Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            connection.answer(200, request.body);
        }
    });
    let gateway = Gateway::with(BODY).set("origin", origin.address()).start();
    for (fields, body) in
        [("Content-Length: 10", "abc"), ("Transfer-Encoding: chunked", "a\r\nabc"), ("Content-Length: 10", "")]
    {
        let mut client = gateway.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n{body}"));
        let told = client.response().expect(408);
        assert_eq!(told.json()["reason"], "body_timeout");
        assert_eq!(told.field("connection"), Some("close"));
        client.closed();
        assert_eq!(gateway.connect().request("POST", "/", &[], "whole").expect(200).text(), "whole");
    }
    let lines = gateway.access_log(6);
    assert_eq!(lines.iter().filter(|line| line["reason"] == "body_timeout").count(), 3);
    assert_eq!(rejections(&gateway, "body_timeout"), 3.0);
    assert_eq!(gateway.metrics().value("propylon_upstream_in_flight", &[]), Some(0.0));
    assert!(origin.requests().iter().all(|request| request.body == b"whole"));
}

#[test]
fn a_body_that_drips_within_the_limit_arrives() {
    let origin = Origin::echo_head();
    let gateway = Gateway::with(&BODY.replace("300ms", "1500ms")).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\n");
    // Longer than the limit all together, and never nearly as long at a time.
    assert!(client.drip(["a", "b", "c", "d", "e", "f"], Duration::from_millis(300)));
    client.response().expect(200);
    assert_eq!(origin.requests()[0].body, b"abcdef");
}

const WRITE: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    [server.client]
    write_idle_timeout = "400ms"
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [upstreams.app]
    endpoints = ["{origin}"]
    keepalive_timeout = "60s"
    [[routes]]
    upstream = "app"
    [[routes]]
    path = "/streamed/*"
    upstream = "app"
    buffer_responses = false
"#;
/// More than the buffers of all sockets between origin and client hold.
const LARGE: usize = 32 * 1024 * 1024;

/// An app with one large answer and many small ones. It says, for each of the large, whether it could write all of it.
fn large_and_small() -> (Origin, Receiver<bool>) {
    let (tell, written) = channel();
    let origin = Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            let is_large = request.target.ends_with("/large");
            let whole = connection.answer(200, vec![b'x'; if is_large { LARGE } else { 1 }]);
            if is_large {
                tell.send(whole).unwrap();
            }
            if !whole {
                return;
            }
        }
    });
    (origin, written)
}

/// The one line of a client that did not read, and that nothing is left of its request.
fn assert_cut_off(gateway: &Gateway, client: &mut Client) {
    let line = gateway.access_log(1).remove(0);
    assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"write_timeout".into()), "{line}");
    assert!(line["bytes_out"].as_u64().unwrap() < LARGE as u64, "{line}");
    // What it reads now is a part, and not to be taken for the whole.
    assert!(matches!(client.try_response(), Err(Broken::Truncated(_) | Broken::Reset)));
    assert_eq!(rejections(gateway, "write_timeout"), 1.0);
    let metrics = gateway.metrics();
    assert_eq!(metrics.value("propylon_client_aborts_total", &[]), Some(1.0));
    for gauge in ["propylon_requests_in_flight", "propylon_upstream_in_flight"] {
        gateway.counts(gauge, &[], 0.0);
    }
    gateway.get("/small").expect(200);
}

#[test]
fn a_client_that_does_not_read_is_cut_off_and_costs_the_app_nothing() {
    let (origin, written) = large_and_small();
    // Longer than the gateway needs for the whole answer.
    let gateway = Gateway::with(&WRITE.replace("400ms", "2s")).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    client.send_request("GET", "/large", &[], "");
    assert!(written.recv().unwrap(), "the app gives its answer as if the client were fast");
    assert_cut_off(&gateway, &mut client);
    assert_eq!(gateway.access_log(1)[0]["upstream_status"], 200);
    // Its connection to us ended well, and served the next.
    let requests = origin.requests();
    assert_eq!(requests[0].connection, requests[1].connection);
}

#[test]
fn a_client_that_does_not_read_what_is_streamed_is_cut_off_and_the_app_with_it() {
    let (origin, written) = large_and_small();
    let gateway = Gateway::with(WRITE).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    client.send_request("GET", "/streamed/large", &[], "");
    assert!(!written.recv().unwrap(), "the app was held up, and then cut");
    assert_cut_off(&gateway, &mut client);
}

#[test]
fn a_client_that_reads_slowly_gets_everything() {
    let origin = Origin::fixed(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n{}", "x".repeat(LARGE)));
    let gateway = Gateway::with(&WRITE.replace("400ms", "1500ms")).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    client.set_receive_buffer(1024 * 1024);
    client.send_request("GET", "/", &[], "");
    client.response_head().expect(200);
    let mut left = LARGE;
    // Longer than the limit all together, and never nearly as long at a time.
    for _ in 0..8 {
        scripted_delay(Duration::from_millis(250));
        left -= client.read_raw(3 * 1024 * 1024).len();
    }
    assert_eq!(client.read_raw(left).len(), left);
    let line = eventually("the log line", || gateway.access_log_now().pop());
    assert_eq!((&line["status"], &line["bytes_out"]), (&200.into(), &LARGE.into()));
    assert_eq!(line.get("reason"), None);
}

/// An app that has hints without end, and has taken no more of the request than its head.
fn hinting() -> Origin {
    Origin::start(|connection| {
        connection.read_head();
        while connection.try_write("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").is_ok() {
            connection.delay(Duration::from_millis(60));
        }
    })
}

const HINTED: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [upstreams.app]
    endpoints = ["{origin}"]
    first_byte_timeout = "300ms"
    [[routes]]
    upstream = "app"
    max_body = "32MiB"
"#;

#[test]
fn interim_answers_do_not_stretch_the_wait_for_the_real_one() {
    let origin = hinting();
    let gateway = Gateway::with(HINTED).set("origin", origin.address()).start();
    gateway.get("/").expect(504);
    // It takes nothing of an upload meanwhile, either.
    gateway.connect().request("POST", "/", &[], vec![b'x'; LARGE]).expect(504);
    assert!(gateway.access_log(2).iter().all(|line| line["reason"] == "upstream_timeout"));
}
