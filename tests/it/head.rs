//! How large a request head may be, and what a client is told whose head is larger (414, 431).

use crate::harness::{Gateway, Origin};

const GATEWAY: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    [server.client]
    request_line_max = "1KiB"
    header_max = "6KiB"
    field_max = "2KiB"
    headers_max = 20
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [upstreams.app]
    endpoints = ["{origin}"]
    [[routes]]
    upstream = "app"
"#;

/// `GET /aaa…` of which the request line has `length` bytes.
fn line_of(length: usize) -> String {
    format!("GET /{} HTTP/1.1", "a".repeat(length - "GET / HTTP/1.1".len()))
}

/// A field line of `length` bytes.
fn field_of(length: usize) -> String {
    format!("X-Long: {}", "a".repeat(length - "X-Long: ".len()))
}

/// A head of these lines.
fn head(lines: &[String]) -> String {
    lines.join("\r\n") + "\r\n\r\n"
}

/// Fields whose lines make `head` `size` bytes long together with what is there already.
fn padded(size: usize) -> String {
    let mut lines = vec![line_of(100), "Host: test".to_owned(), field_of(2000), field_of(2000)];
    let rest = size - head(&lines).len() - 2;
    lines.push(field_of(rest));
    let head = head(&lines);
    assert_eq!(head.len(), size);
    head
}

#[test]
fn each_limit_has_its_own_answer_and_is_met_exactly() {
    let origin = Origin::echo_head();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let host = || "Host: test".to_owned();
    let fields = |count: usize| -> Vec<String> { (1..count).map(|n| format!("X-{n}: 1")).collect() };

    let fitting = [
        head(&[line_of(1024), host()]),
        head(&[line_of(50), host(), field_of(2048)]),
        head(&[vec![line_of(50), host()], fields(20)].concat()),
        padded(6 * 1024),
    ];
    for head in &fitting {
        let mut client = gateway.connect();
        client.send(head);
        client.response().expect(200);
    }

    let too_large = [
        (head(&[line_of(1025), host()]), 414, "request_line_too_long"),
        (head(&[line_of(50), host(), field_of(2049)]), 431, "head_too_large"),
        (head(&[vec![line_of(50), host()], fields(21)].concat()), 431, "head_too_large"),
        (padded(6 * 1024 + 1), 431, "head_too_large"),
        // Never ending lines are refused as soon as they are too long.
        ("G".repeat(1100), 414, "request_line_too_long"),
        (line_of(1100), 414, "request_line_too_long"),
        (format!("GET / HTTP/1.1\r\nHost: test\r\n{}", field_of(2100)), 431, "head_too_large"),
        (format!("GET / HTTP/1.1\r\nHost: test\r\n{}", "X: y\r\n".repeat(25)), 431, "head_too_large"),
        (format!("GET / HTTP/1.1\r\nHost: test\r\n{}", "a".repeat(60_000)), 431, "head_too_large"),
    ];
    for (head, status, reason) in &too_large {
        let mut client = gateway.connect();
        client.send(head);
        let told = client.response().expect(*status);
        assert_eq!(told.json()["reason"], *reason, "{told}");
        assert_eq!(told.field("connection"), Some("close"));
        client.closed();
    }

    let lines = gateway.access_log(fitting.len() + too_large.len());
    assert_eq!(lines.len(), fitting.len() + too_large.len());
    let metrics = gateway.metrics();
    let count = |reason| metrics.value("propylon_rejections_total", &[("reason", reason)]);
    assert_eq!((count("request_line_too_long"), count("head_too_large")), (Some(3.0), Some(6.0)));
    assert_eq!(origin.requests().len(), fitting.len());
}

#[test]
fn the_limits_hold_for_every_request_of_a_connection_and_however_the_head_arrives() {
    let origin = Origin::echo_head();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    client.get("/first").expect(200);
    for byte in head(&[line_of(300), "Host: test".to_owned(), field_of(500)]).as_bytes() {
        client.send([*byte]);
    }
    client.response().expect(200);
    let long = head(&[line_of(50), "Host: test".to_owned(), field_of(2049)]);
    let (start, end) = long.split_at(100);
    client.send(start);
    client.send(end);
    client.response().expect(431);
    client.closed();
    assert_eq!(origin.requests().len(), 2);
}

#[test]
fn a_preset_lowers_the_limits_to_what_its_server_takes() {
    let origin = Origin::echo_head();
    let gateway = Gateway::with(
        r#"
        [server]
        listen = ["127.0.0.1:0"]
        [admin]
        listen = ["127.0.0.1:0"]
        [log]
        access = "{dir}/access.log"
        [upstreams.gunicorn]
        preset = "gunicorn-gthread"
        endpoints = ["{origin}"]
        [upstreams.any]
        endpoints = ["{origin}"]
        [[routes]]
        path = "/any/*"
        upstream = "any"
        [[routes]]
        upstream = "gunicorn"
        "#,
    )
    .set("origin", origin.address())
    .start();

    let line = |prefix: &str, length: usize| {
        let rest = length - prefix.len() - "GET  HTTP/1.1".len();
        format!("GET {prefix}{} HTTP/1.1", "a".repeat(rest))
    };
    let host = || "Host: test".to_owned();
    let fields = |count: usize| -> Vec<String> { (1..count).map(|n| format!("X-{n}: 1")).collect() };
    let mut client = gateway.connect();
    for (head, status, reason) in [
        (head(&[line("/", 4094), host()]), 200, ""),
        (head(&[line("/", 4095), host()]), 414, "request_line_too_long"),
        (head(&[line("/any/", 4095), host()]), 200, ""),
        (head(&[line("/", 50), host(), field_of(8190)]), 200, ""),
        (head(&[line("/", 50), host(), field_of(8191)]), 431, "head_too_large"),
        (head(&[line("/any/", 50), host(), field_of(8191)]), 200, ""),
        (head(&[vec![line("/", 50), host()], fields(87)].concat()), 200, ""),
        (head(&[vec![line("/", 50), host()], fields(88)].concat()), 431, "head_too_large"),
        (head(&[vec![line("/any/", 50), host()], fields(88)].concat()), 200, ""),
    ] {
        client.send(&head);
        let told = client.response().expect(status);
        if !reason.is_empty() {
            assert_eq!(told.json()["reason"], reason);
            assert_eq!(told.field("connection"), Some("close"));
            client.closed();
            client = gateway.connect();
        }
    }
    // Gunicorn takes 100 fields: with ours they are no more.
    let most = origin.requests().iter().filter(|r| !r.target.starts_with("/any/")).map(|r| r.fields.0.len()).max();
    assert!(most.is_some_and(|most| (92..=100).contains(&most)), "{most:?}");
}
