//! Our own answers over HTTP/2: the same as over HTTP/1.1, with a request id, one log line and one count each.

use serde_json::json;

use super::secured;
use crate::harness::http2::Answer;
use crate::harness::{Address, Gate, Gateway, Origin};

const TOML: &str = r#"
    [server]
    listen = []
    listen_tls = ["127.0.0.1:0"]
    allowed_hosts = ["test"]
    [server.client]
    request_line_max = "1KiB"
    header_max = "4KiB"
    max_body = "1KiB"
    [upstreams.busy]
    endpoints = ["{origin}"]
    max_in_flight = 1
    queue = { max = 0, timeout = "1s" }
    [upstreams.late]
    endpoints = ["{other}"]
    first_byte_timeout = "50ms"
    retry = { idempotent = 0 }
    [upstreams.gone]
    endpoints = ["{gone}"]
    queue = { max = 0, timeout = "10ms" }
    retry = { connect = 0, idempotent = 0 }
    [upstreams.broken]
    endpoints = ["{other}"]
    retry = { idempotent = 0 }
    [[routes]]
    path = "/busy"
    upstream = "busy"
    [[routes]]
    path = "/late"
    upstream = "late"
    [[routes]]
    path = "/gone"
    upstream = "gone"
    [[routes]]
    path = "/broken"
    upstream = "broken"
    [[routes]]
    path = "/fixed"
    methods = ["GET", "POST"]
    respond = { body = "fixed" }
"#;

/// Nobody listens there.
fn refusing() -> Address {
    let mut origin = Origin::fixed("");
    origin.stop();
    origin.address().clone()
}

struct Scene {
    gateway: Gateway,
    origin: Origin,
    _other: Origin,
    release: Gate,
}

fn scene() -> Scene {
    let release = Gate::new();
    let gate = release.clone();
    let origin = Origin::start(move |connection| {
        while connection.read_request().is_some() {
            gate.wait();
            connection.answer(200, "ok");
        }
    });
    let other = Origin::start(|connection| match connection.read_request() {
        Some(request) if request.target == "/late" => connection.hang(),
        Some(_) => drop(connection.write("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n")),
        None => {}
    });
    let gateway = secured(TOML).set("origin", origin.address()).set("other", other.address());
    let gateway = gateway.set("gone", &refusing()).start();
    Scene { gateway, origin, _other: other, release }
}

/// One of ours: it says why, in the form that was asked for.
#[track_caller]
fn explained(answer: &Answer, reason: &str, is_html: bool) {
    let id = answer.field("x-request-id").expect("a request id");
    let text = answer.text();
    if is_html {
        assert_eq!(answer.field("content-type"), Some("text/html; charset=utf-8"));
        assert!(text.contains("<html") && text.contains(id), "{text}");
    } else {
        assert_eq!(answer.field("content-type"), Some("application/problem+json"));
        assert_eq!((&answer.json()["reason"], &answer.json()["request_id"]), (&json!(reason), &json!(id)));
    }
    assert_eq!(answer.field("content-length"), Some(&*text.len().to_string()));
    assert_eq!(answer.field("connection"), None);
}

/// Method, target, fields, bytes of the body, and with what status and why it is refused.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], usize, u16, &'a str);

#[test]
fn each_refusal_is_answered_logged_and_counted_once() {
    let scene = scene();
    let gateway = &scene.gateway;
    let client = gateway.http2();
    let held = client.start("GET", "/busy", &[], true);
    scene.origin.wait_for_requests(1);
    let long = format!("/{}", "a".repeat(2000));
    let field = "b".repeat(5000);
    let cases: &[Case] = &[
        ("GET", "/nowhere", &[], 0, 404, "no_route"),
        ("DELETE", "/fixed", &[], 0, 405, "method_not_allowed"),
        ("POST", "/fixed", &[("content-length", "2000")], 2000, 413, "body_too_large"),
        ("GET", &long, &[], 0, 414, "request_line_too_long"),
        ("GET", "/fixed", &[("x-long", &field)], 0, 431, "head_too_large"),
        ("GET", "/broken", &[], 0, 502, "upstream_invalid"),
        ("GET", "/busy", &[], 0, 503, "queue_full"),
        ("GET", "/gone", &[], 0, 503, "upstream_unreachable"),
        ("GET", "/late", &[], 0, 504, "upstream_timeout"),
        ("POST", "/fixed", &[("expect", "a miracle")], 1, 417, "expectation_failed"),
    ];
    for is_html in [false, true] {
        for (method, target, fields, body, status, reason) in cases {
            let accept: &[(&str, &str)] = if is_html { &[("accept", "text/html")] } else { &[] };
            let answer = client.request(method, target, &[fields, accept].concat(), vec![b'x'; *body]);
            let got = answer.clone();
            assert_eq!(answer.status, *status, "{method} {target:.20}: {}", got.text());
            // Of a head that was refused nothing is known, not even what the client accepts.
            explained(&answer, reason, is_html && !matches!(status, 414 | 417 | 431));
            match status {
                405 => assert_eq!(answer.field("allow"), Some("GET, HEAD, POST")),
                503 => assert!(answer.field("retry-after").is_some()),
                _ => {}
            }
        }
    }
    scene.release.open();
    held.answer().expect(200);

    let lines = gateway.access_log(2 * cases.len() + 1);
    assert_eq!(lines.len(), 2 * cases.len() + 1);
    let metrics = gateway.metrics();
    for (.., status, reason) in cases {
        let of = lines.iter().filter(|line| line["reason"] == *reason);
        assert!(of.clone().all(|line| line["protocol"] == "HTTP/2" && line["status"] == *status), "{reason}");
        assert_eq!(of.count(), 2, "{reason}");
        assert_eq!(metrics.value("propylon_rejections_total", &[("reason", reason)]), Some(2.0), "{reason}");
    }
    assert!(!client.has_ended());
}

#[test]
fn another_host_is_misdirected() {
    let scene = scene();
    let mut client = scene.gateway.frames();
    let fields = [(":method", "GET"), (":scheme", "https"), (":authority", "other"), (":path", "/fixed")];
    client.send(crate::harness::http2_frames::headers(1, 1, &fields));
    client.fate(1).expect(421);
    client.get(3, "/fixed").expect(200);
}
