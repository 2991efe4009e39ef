//! Every kind of answer the gateway can give: each carries a request id, is logged once and counted once, says its reason
//! in one word everywhere, and says truly whether the connection is kept.

// Counters are whole numbers, and small ones.
#![allow(clippy::float_cmp, clippy::cast_precision_loss)]

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Client, DnsServer, Gateway, Metrics, Origin, Response, eventually};

const GATEWAY: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    allowed_hosts = ["test"]
    resolvers = ["{dns}"]
    [server.client]
    header_timeout = "400ms"
    body_idle_timeout = "400ms"
    request_line_max = "1KiB"
    field_max = "2KiB"
    max_body = "1KiB"
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [error_pages]
    "421" = "{pages}/421.html"

    [upstreams.app]
    endpoints = ["{origin}"]
    [upstreams.dead]
    endpoints = ["unix:{dir}/nobody.sock"]
    queue = { timeout = "100ms" }
    [upstreams.full]
    endpoints = ["{stuck}"]
    workers = 1
    first_byte_timeout = "100ms"
    queue = { max = 0 }
    [upstreams.busy]
    endpoints = ["{stuck}"]
    workers = 1
    queue = { timeout = "100ms" }
    [upstreams.unknown]
    endpoints = ["unknown.test:80"]

    [[routes]]
    path = "/app/*"
    upstream = "app"
    [[routes]]
    path = "/slow"
    upstream = "app"
    timeouts = { first_byte = "200ms" }
    [[routes]]
    path = "/dead"
    upstream = "dead"
    [[routes]]
    path = "/full"
    upstream = "full"
    [[routes]]
    path = "/busy"
    upstream = "busy"
    [[routes]]
    path = "/unknown"
    upstream = "unknown"
    [[routes]]
    path = "/get-only"
    methods = ["GET"]
    respond = { body = "hello" }
    [[routes]]
    path = "/fixed"
    respond = { status = 203, body = "hello", content_type = "text/plain" }
    [[routes]]
    path = "/empty"
    respond = { status = 204 }
    [[routes]]
    path = "/moved/*"
    redirect = { to = "https://new.test{path}{query}", status = 307 }
"#;

/// What is sent, and what must come of it.
struct Case {
    bytes: String,
    status: u16,
    /// None: it is no refusal of ours.
    reason: Option<&'static str>,
    keeps: bool,
    /// Whether the head was understood, so that its Accept counts.
    understood: bool,
    /// What is not the same for every answer.
    fields: &'static [(&'static str, &'static str)],
}

impl Case {
    fn new(bytes: impl Into<String>, status: u16) -> Self {
        Self { bytes: bytes.into(), status, reason: None, keeps: true, understood: true, fields: &[] }
    }

    fn get(target: &str, status: u16) -> Self {
        Self::new(request("GET", target, "", ""), status)
    }

    fn reason(self, reason: &'static str) -> Self {
        Self { reason: Some(reason), ..self }
    }

    fn closes(self) -> Self {
        Self { keeps: false, ..self }
    }

    fn not_understood(self) -> Self {
        Self { understood: false, ..self.closes() }
    }

    fn with(self, fields: &'static [(&'static str, &'static str)]) -> Self {
        Self { fields, ..self }
    }
}

/// `{accept}` stands where a browser would say what it accepts.
fn request(method: &str, target: &str, fields: &str, body: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{{accept}}{fields}\r\n{body}")
}

fn cases() -> Vec<Case> {
    let post = |target: &str, fields: &str, body: &str| request("POST", target, fields, body);
    vec![
        // The app's.
        Case::get("/app/ok", 200),
        Case::get("/app/none", 204),
        Case::get("/app/unmodified", 304),
        Case::get("/app/missing", 404),
        Case::get("/app/failed", 500),
        Case::get("/app/unavailable", 503),
        Case::new("GET /app/ok HTTP/1.0\r\nHost: test\r\n{accept}\r\n", 200).closes(),
        Case::new(request("GET", "/app/ok", "Connection: close\r\n", ""), 200).closes(),
        Case::new(post("/app/ok", "Content-Length: 2\r\n", "hi"), 200),
        // Ours, as configured.
        Case::get("/fixed", 203).with(&[("content-type", "text/plain")]),
        Case::get("/empty", 204),
        Case::get("/moved/a?b=c", 307).with(&[("location", "https://new.test/moved/a?b=c")]),
        Case::new(request("OPTIONS", "*", "", ""), 204),
        // Refusals, the connection kept.
        Case::get("/nowhere", 404).reason("no_route"),
        Case::get("/app/../x", 400).reason("bad_target"),
        Case::new(request("PUT", "/get-only", "", ""), 405)
            .reason("method_not_allowed")
            .with(&[("allow", "GET, HEAD")]),
        Case::new("GET /app/ok HTTP/1.1\r\nHost: other\r\n{accept}\r\n", 421).reason("wrong_host"),
        Case::new(post("/nowhere", "Content-Length: 2\r\n", "hi"), 404).reason("no_route"),
        // Refusals after which nobody knows where the next request begins.
        Case::new("GET / HTTP/1.1\nHost: test\n\n", 400).reason("malformed_head").not_understood(),
        Case::new(post("/app/ok", "Content-Length: +2\r\n", "hi"), 400).reason("bad_framing").not_understood(),
        Case::new("GET / HTTP/1.1\r\n{accept}\r\n", 400).reason("bad_host").not_understood(),
        Case::new("GET / HTTP/1.1\r\nHost: a,b\r\n{accept}\r\n", 400).reason("bad_host").closes(),
        Case::new(request("GET", "/\u{e9}", "", ""), 400).reason("bad_target").not_understood(),
        Case::new(post("/app/ok", "Transfer-Encoding: chunked\r\n", "x\r\n"), 400).reason("bad_body").closes(),
        Case::new("CONNECT test:443 HTTP/1.1\r\nHost: test\r\n{accept}\r\n", 405)
            .reason("method_not_allowed")
            .not_understood()
            .with(&[("allow", "")]),
        Case::new("GET / HTTP/1.1\r\nHost: test\r\n{accept}", 408).reason("header_timeout").not_understood(),
        Case::new(post("/app/ok", "Content-Length: 3\r\n", "hi"), 408).reason("body_timeout").closes(),
        Case::new(post("/app/ok", "Content-Length: 1025\r\n", ""), 413).reason("body_too_large").closes(),
        Case::new(
            post("/app/ok", "Transfer-Encoding: chunked\r\n", &format!("401\r\n{}\r\n0\r\n\r\n", "x".repeat(1025))),
            413,
        )
        .reason("body_too_large")
        .closes(),
        Case::get(&format!("/{}", "a".repeat(1100)), 414).reason("request_line_too_long").not_understood(),
        Case::new(post("/app/ok", "Expect: tea\r\nContent-Length: 2\r\n", "hi"), 417)
            .reason("expectation_failed")
            .not_understood(),
        Case::new(request("GET", "/app/ok", &format!("X: {}\r\n", "a".repeat(2100)), ""), 431)
            .reason("head_too_large")
            .not_understood(),
        Case::new("GET / HTTP/2.0\r\nHost: test\r\n{accept}\r\n", 505).reason("version_not_supported").not_understood(),
        // What goes wrong behind us.
        Case::get("/app/hangup", 502).reason("upstream_closed"),
        // The body was received whole: where the next request begins is known.
        Case::new(post("/app/hangup", "Content-Length: 2\r\n", "hi"), 502).reason("upstream_closed"),
        Case::get("/app/garbage", 502).reason("upstream_invalid"),
        Case::get("/app/accel", 502).reason("accel_redirect"),
        Case::get("/dead", 503).reason("upstream_unreachable").with(&[("retry-after", "1")]),
        Case::get("/full", 503).reason("queue_full").with(&[("retry-after", "1")]),
        Case::get("/busy", 503).reason("queue_timeout").with(&[("retry-after", "1")]),
        Case::get("/unknown", 503).reason("no_endpoint").with(&[("retry-after", "1")]),
        Case::get("/slow", 504).reason("upstream_timeout"),
    ]
}

fn origin() -> Origin {
    Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            let kept = match request.target.as_str() {
                "/app/ok" => connection.answer(200, "fine"),
                "/app/none" => connection.write("HTTP/1.1 204 No Content\r\n\r\n"),
                "/app/unmodified" => connection.write("HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n"),
                "/app/missing" => connection.answer(404, "gone"),
                "/app/failed" => connection.answer(500, "oops"),
                "/app/unavailable" => connection.answer(503, "later"),
                "/app/garbage" => {
                    connection.write("garbage\r\n\r\n");
                    return;
                }
                "/app/accel" => {
                    connection.write("HTTP/1.1 200 OK\r\nX-Accel-Redirect: /x\r\nContent-Length: 0\r\n\r\n")
                }
                "/slow" => {
                    connection.peer_closed();
                    return;
                }
                "/app/hangup" => return,
                other => panic!("nobody asked for {other}"),
            };
            if !kept {
                return;
            }
        }
    })
}

const PAGE: &str = "<h1>Not here</h1>";

/// The gateway with everything around it.
struct Stage {
    gateway: Gateway,
    _origins: [Origin; 2],
    _dns: DnsServer,
    _pages: tempfile::TempDir,
}

fn stage() -> Stage {
    let pages = tempfile::tempdir().unwrap();
    std::fs::write(pages.path().join("421.html"), PAGE).unwrap();
    let (origin, dns) = (origin(), DnsServer::start());
    let stuck = Origin::start(|connection| {
        connection.read_request();
        connection.hang();
    });
    let gateway = Gateway::with(GATEWAY)
        .set("origin", origin.address())
        .set("stuck", stuck.address())
        .set("dns", &dns.address())
        .set("pages", &pages.path().display())
        .start();
    // The first probe has the one worker for a moment; after the first request it will never be free again.
    eventually("the worker is well", || {
        let passed = [("upstream", "full"), ("result", "pass")];
        (gateway.metrics().value("propylon_upstream_health_checks_total", &passed) > Some(0.0)).then_some(())
    });
    gateway.get("/full").expect(504);
    gateway.counts("propylon_requests_in_flight", &[], 0.0);
    Stage { gateway, _origins: [origin, stuck], _dns: dns, _pages: pages }
}

/// The sum of a counter; 0 where it has no sample yet.
fn count(metrics: &Metrics, name: &str, labels: &[(&str, &str)]) -> f64 {
    metrics.value(name, labels).unwrap_or_default()
}

/// The one line of the request with this id.
fn line_of(gateway: &Gateway, id: &str) -> Value {
    let mut lines = eventually("the log line", || {
        let lines: Vec<_> = gateway.access_log_now().into_iter().filter(|line| line["request_id"] == id).collect();
        (!lines.is_empty()).then_some(lines)
    });
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines.remove(0)
}

/// Waits until the request is counted, and asserts that it was counted once and in the right place.
fn assert_counted(gateway: &Gateway, before: &Metrics, case: &Case) {
    let requests = "propylon_requests_total";
    let all = count(before, requests, &[]);
    eventually("it is counted", || {
        let now = gateway.metrics();
        // It is in flight until all is said of it.
        (count(&now, requests, &[]) > all && count(&now, "propylon_requests_in_flight", &[]) == 0.0).then_some(())
    });
    let now = gateway.metrics();
    let grown = |name: &str, labels: &[(&str, &str)]| count(&now, name, labels) - count(before, name, labels);
    let class = format!("{}xx", case.status / 100);
    assert_eq!(grown(requests, &[]), 1.0);
    assert_eq!(grown(requests, &[("code", &class)]), 1.0);
    let refused = if case.reason.is_some() { 1.0 } else { 0.0 };
    assert_eq!(grown("propylon_rejections_total", &[]), refused);
    if let Some(reason) = case.reason {
        assert_eq!(grown("propylon_rejections_total", &[("reason", reason)]), 1.0, "{reason}");
    }
}

/// What every refusal says, and how it says it to a browser and to a program.
fn assert_explained(told: &Response, reason: &str, status: u16, html: bool) {
    assert_eq!(told.field("cache-control"), Some("no-store"), "{told}");
    let id = told.field("x-request-id").unwrap();
    if status == 421 {
        assert_eq!((told.text(), told.field("content-type")), (PAGE, Some("text/html; charset=utf-8")));
    } else if html {
        assert_eq!(told.field("content-type"), Some("text/html; charset=utf-8"), "{told}");
        for part in [reason, id, &format!("<h1>{status} ")] {
            assert!(told.text().contains(part), "{part}: {told}");
        }
    } else {
        assert_eq!(told.field("content-type"), Some("application/problem+json"), "{told}");
        let problem = told.json();
        assert_eq!((&problem["reason"], &problem["status"]), (&reason.into(), &status.into()), "{told}");
        assert_eq!(problem["request_id"], id, "{told}");
        assert!(
            problem["title"].is_string() && problem["detail"].is_string() && problem["type"] == "about:blank",
            "{told}"
        );
    }
}

fn assert_kept_or_closed(client: &mut Client, told: &Response, keeps: bool) {
    if keeps {
        assert_eq!(told.field("connection"), None, "{told}");
        assert_eq!(client.get("/get-only").expect(200).text(), "hello");
    } else {
        assert_eq!(told.field("connection"), Some("close"), "{told}");
        client.closed();
    }
}

#[test]
fn every_kind_of_answer_is_told_logged_and_counted_alike() {
    let stage = stage();
    let gateway = &stage.gateway;
    // One by the stage itself.
    let mut sent = gateway.access_log(1).len();
    for case in cases() {
        for accept in ["", "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\n"] {
            let bytes = case.bytes.replace("{accept}", accept);
            let shown: String = bytes.chars().take(100).collect();
            println!("{} {:?}: {shown:?}", case.status, case.reason);
            let before = gateway.metrics();
            let mut client = gateway.connect();
            client.set_timeout(Duration::from_secs(5));
            client.send(&bytes);
            let told = client.response().expect(case.status);
            sent += 1;

            let id = told.field("x-request-id").expect("a request id");
            let line = line_of(gateway, id);
            assert_eq!((&line["status"], line["reason"].as_str()), (&case.status.into(), case.reason), "{line:#}");
            assert_eq!(line["bytes_out"], told.body.len(), "{line:#}");
            assert!(told.fields.has("date"), "{told}");
            if !matches!(case.status, 204 | 304) {
                assert_eq!(told.field("content-length"), Some(&*told.body.len().to_string()), "{told}");
            }
            for (name, value) in case.fields {
                assert_eq!(told.field(name), Some(*value), "{told}");
            }
            if !case.fields.iter().any(|(name, _)| *name == "retry-after") {
                assert_eq!(told.field("retry-after"), None, "{told}");
            }
            match case.reason {
                Some(reason) => assert_explained(&told, reason, case.status, case.understood && !accept.is_empty()),
                None => assert_eq!(told.field("cache-control"), None, "{told}"),
            }
            assert_counted(gateway, &before, &case);
            assert_kept_or_closed(&mut client, &told, case.keeps);
            sent += usize::from(case.keeps);
        }
    }
    assert_eq!(gateway.access_log(sent).len(), sent);
}

#[test]
fn head_is_told_what_get_is_told_without_the_body() {
    let stage = stage();
    for case in cases().into_iter().filter(|case| case.bytes.starts_with("GET ") && case.understood) {
        let get = case.bytes.replace("{accept}", "");
        let mut client = stage.gateway.connect();
        client.send(&get);
        let whole = client.response().expect(case.status);
        let mut client = stage.gateway.connect();
        client.send(get.replacen("GET", "HEAD", 1));
        let head = client.response_to("HEAD").expect(case.status);
        for name in ["content-length", "content-type", "cache-control", "retry-after", "location", "connection"] {
            assert_eq!(head.field(name), whole.field(name), "{name}: {get}");
        }
        assert_kept_or_closed(&mut client, &head, case.keeps);
        let line = line_of(&stage.gateway, head.field("x-request-id").unwrap());
        assert_eq!((&line["status"], &line["bytes_out"]), (&case.status.into(), &0.into()), "{line:#}");
    }
}

#[test]
fn html_is_for_those_who_ask_for_it() {
    let stage = stage();
    let mut client = stage.gateway.connect();
    for (accept, html) in [
        ("text/html", true),
        ("TEXT/HTML;level=1", true),
        ("application/json, application/xhtml+xml", true),
        ("*/*", false),
        ("text/*", false),
        ("application/json", false),
        ("text/html;q=0", false),
        ("text/html ; q=0.0", false),
        ("x-text/html", false),
    ] {
        let told = client.request("GET", "/nowhere", &[("Accept", accept)], "").expect(404);
        assert_eq!(told.field("content-type").unwrap().starts_with("text/html"), html, "{accept}");
    }
}
