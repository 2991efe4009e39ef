//! Security fields: on every answer, whoever gives it and whatever its status; set where the app has not, and never twice.

// Counts are small and whole.
#![allow(clippy::float_cmp, clippy::cast_precision_loss)]

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::http2::Http2;
use crate::harness::tls::{Authority, TlsClient};
use crate::harness::{Client, Gateway, Origin, Response, eventually};

const BASIC: [(&str, &str); 4] = [
    ("strict-transport-security", "max-age=300"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "SAMEORIGIN"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
];

/// An app that says the fields of a request's `X-Says` itself, a line each, between them `|`; and the status of `X-Status`.
fn app() -> Origin {
    Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            let says = request.field("x-says").unwrap_or_default();
            let fields = if says.is_empty() { String::new() } else { format!("{}\r\n", says.replace('|', "\r\n")) };
            let status = request.field("x-status").unwrap_or("200");
            let nonce = request.field("x-csp-nonce").unwrap_or("none");
            let body = if status == "304" { "" } else { nonce };
            let length = if status == "304" { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
            connection.write(format!("HTTP/1.1 {status} Said\r\n{length}{fields}\r\n{body}"));
        }
    })
}

fn gateway(origin: &Origin, more: &str) -> Gateway {
    let toml = format!(
        r#"
        [server]
        listen = ["127.0.0.1:0"]
        listen_tls = ["127.0.0.2:0"]
        allowed_hosts = ["localhost", "test"]
        [admin]
        listen = ["127.0.0.1:0"]
        control = "unix:{{dir}}/control.sock"
        [log]
        access = "{{dir}}/access.log"
        [[tls.certificates]]
        cert = "gateway.pem"
        key = "gateway.key"
        [upstreams.app]
        endpoints = ["{{origin}}"]
        retry = {{ connect = 0 }}
        {more}
        "#
    );
    let issued = Authority::shared().issue(&["localhost"]);
    Gateway::with(&toml).set("origin", origin.address()).certificate("gateway", &issued).start()
}

fn secure(gateway: &Gateway) -> Client {
    Client::connect_tls(&gateway.addrs()[1], &TlsClient::new(Authority::shared(), "localhost"))
}

#[track_caller]
fn has(response: &Response, fields: &[(&str, &str)], what: &str) {
    for (name, value) in fields {
        assert_eq!(response.fields.all(name), [*value], "{name} of {what}: {response}");
    }
}

/// Method, target, further fields, body, and the status that is expected.
type Kind<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>, &'a str, u16);

const EVERY_KIND: &str = r#"
    [upstreams.gone]
    endpoints = ["127.0.0.1:1"]
    queue = { max = 1, timeout = "100ms" }
    [[routes]]
    upstream = "app"
    [[routes]]
    path = "/get"
    methods = ["GET"]
    upstream = "app"
    [[routes]]
    path = "/small"
    upstream = "app"
    max_body = "1KiB"
    [[routes]]
    path = "/limited"
    upstream = "app"
    rate_limit = { rate = "1/h", burst = 1 }
    [[routes]]
    path = "/gone"
    upstream = "gone"
    [[routes]]
    path = "/here"
    respond = { status = 203, body = "here" }
    [[routes]]
    path = "/denied"
    upstream = "app"
    access = { deny = ["0.0.0.0/0"] }
    [[routes]]
    path = "/staff"
    upstream = "app"
    access = { basic_auth = "ann:$2y$04$tB94WBZR9LJxLK6R8IMTpuRzSqO8Nemkd3XuZW6wLEONk/e45zh0." }
    [[routes]]
    path = "/shared"
    upstream = "app"
    cors = { origins = ["https://a.test"] }
    [[routes]]
    path = "/moved"
    redirect = { to = "https://example.com{path}", status = 308 }
    [[routes]]
    host = ["localhost"]
    path = "/nowhere/*"
    respond = { status = 404, body = "own" }
    [cache]
    [[cache.rules]]
    path = "/kept"
    ttl = "1h"
"#;

fn preflight(origin: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![("Origin", origin), ("Access-Control-Request-Method", "GET")]
}

#[test]
fn every_kind_of_answer_has_them_and_the_request_id_one_line_and_one_count() {
    let origin = app();
    let gateway = gateway(&origin, EVERY_KIND);
    secure(&gateway).get("/limited").expect(200);
    secure(&gateway).get("/kept").expect(200);
    // Target, more fields, status: the app's and the gateway's own.
    let long = "x".repeat(9000);
    let kinds: Vec<Kind<'_>> = vec![
        ("GET", "/", vec![], "", 200),
        ("HEAD", "/", vec![], "", 200),
        ("POST", "/", vec![], "body", 200),
        ("GET", "/", vec![("X-Status", "201")], "", 201),
        ("GET", "/", vec![("X-Status", "301")], "", 301),
        ("GET", "/", vec![("X-Status", "304")], "", 304),
        ("GET", "/", vec![("X-Status", "400")], "", 400),
        ("GET", "/", vec![("X-Status", "404")], "", 404),
        ("GET", "/", vec![("X-Status", "418")], "", 418),
        ("GET", "/", vec![("X-Status", "500")], "", 500),
        ("GET", "/", vec![("X-Status", "503")], "", 503),
        ("GET", "/kept", vec![], "", 200),
        ("HEAD", "/kept", vec![], "", 200),
        ("GET", "/kept", vec![("Range", "bytes=0-1")], "", 206),
        ("GET", "/kept", vec![("Range", "bytes=90-")], "", 416),
        ("GET", "/unkept", vec![("Cache-Control", "only-if-cached")], "", 200),
        ("GET", "/here", vec![], "", 203),
        ("GET", "/moved", vec![], "", 308),
        ("GET", "/nowhere/x", vec![], "", 200),
        ("GET", "/a/../b", vec![], "", 400),
        ("POST", "/get", vec![], "", 405),
        ("POST", "/small", vec![], &long, 413),
        ("GET", "/", vec![("X-Large", &long)], "", 431),
        ("GET", "/limited", vec![], "", 429),
        ("GET", "/gone", vec![], "", 503),
        ("GET", "/", vec![("X-Says", "X-Accel-Redirect: /x")], "", 502),
        ("GET", "/", vec![("X-Says", "Transfer-Encoding: other")], "", 502),
        ("GET", "/", vec![("Expect", "nonsense")], "", 417),
        ("GET", "/denied", vec![], "", 403),
        ("GET", "/staff", vec![], "", 401),
        ("GET", "/staff", vec![("Authorization", "Basic YTpi")], "", 401),
        ("OPTIONS", "/shared", preflight("https://a.test"), "", 204),
        ("OPTIONS", "/shared", preflight("https://b.test"), "", 403),
        ("OPTIONS", "*", vec![], "", 204),
        ("OPTIONS", "/", vec![], "", 200),
        ("DELETE", "/", vec![], "", 200),
        ("TRACE", "/", vec![], "", 200),
    ];
    assert!(kinds.len() >= 37);
    let mut lines = 2;
    let mut ids = BTreeSet::new();
    for (method, target, fields, body, status) in &kinds {
        let response = secure(&gateway).request(method, target, fields, body).expect(*status);
        // What a 304 of the app lacks, the client has.
        let expected = if *status == 304 { &BASIC[..1] } else { &BASIC };
        has(&response, expected, &format!("{method} {target} {status}"));
        assert!(ids.insert(response.field("x-request-id").unwrap().to_owned()), "{response}");
        lines += 1;
    }
    // Over HTTP/2 the same, but for what its framing does not let a client say.
    let client = Http2::connect(&gateway.addrs()[1]);
    for (method, target, fields, body, status) in &kinds {
        if fields.iter().any(|(name, _)| *name == "X-Large") || *method == "TRACE" || *target == "*" {
            continue;
        }
        let lower: Vec<(String, &str)> = fields.iter().map(|(name, value)| (name.to_lowercase(), *value)).collect();
        let lower: Vec<(&str, &str)> = lower.iter().map(|(name, value)| (&**name, *value)).collect();
        let answer = client.request(method, target, &lower, body).expect(*status);
        for (name, value) in BASIC.iter().take(if *status == 304 { 1 } else { 4 }) {
            assert_eq!(answer.field(name), Some(*value), "{name} of {method} {target} {status} over HTTP/2");
        }
        assert!(ids.insert(answer.field("x-request-id").unwrap().to_owned()));
        lines += 1;
    }
    let maintained = gateway.command(&["maintenance", "on", "--config", gateway.config_path().to_str().unwrap()]);
    assert_eq!(maintained.code, 0, "{}", maintained.stderr);
    let response = secure(&gateway).get("/").expect(503);
    has(&response, &BASIC, "maintenance");
    ids.insert(response.field("x-request-id").unwrap().to_owned());
    let answer = client.request("GET", "/", &[], "").expect(503);
    assert!(BASIC.iter().all(|(name, value)| answer.field(name) == Some(*value)));
    ids.insert(answer.field("x-request-id").unwrap().to_owned());
    lines += 2;
    let logged: Vec<Value> = gateway.access_log(lines);
    assert_eq!(logged.len(), lines);
    let seen: BTreeSet<String> = logged.iter().map(|line| line["request_id"].as_str().unwrap().to_owned()).collect();
    assert!(ids.is_subset(&seen) && seen.len() == lines, "one line each");
    eventually("one count each", || {
        let total = gateway.metrics().value("propylon_requests_total", &[]).unwrap();
        (total == lines as f64).then_some(())
    });
}

#[test]
fn what_the_app_says_stays_and_is_not_doubled() {
    let origin = app();
    let gateway = gateway(&origin, "[[routes]]\nupstream = \"app\"");
    let ask = |says: &str| secure(&gateway).request("GET", "/", &[("X-Says", says)], "").expect(200);
    let response = ask(
        "X-Frame-Options: DENY|Referrer-Policy: no-referrer|X-Content-Type-Options: nosniff|Strict-Transport-Security: max-age=9",
    );
    has(
        &response,
        &[
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
            ("strict-transport-security", "max-age=9"),
        ],
        "the app's own",
    );
    let response = ask("Server: gunicorn|X-Powered-By: Flask");
    assert_eq!((response.field("server"), response.field("x-powered-by")), (None, None));
    // A policy of the app's that says who may frame it says more than X-Frame-Options.
    let response = ask("Content-Security-Policy: frame-ancestors https://partner.test");
    assert_eq!(response.field("x-frame-options"), None);
    let response = ask("Content-Security-Policy-Report-Only: frame-ancestors 'none'");
    assert_eq!(response.field("x-frame-options"), Some("SAMEORIGIN"));
    // The app has said HSTS itself above: an answer without it, and those of the gateway, do not shorten it.
    for response in [ask("X-A: 1"), ask("X-Status: 304")] {
        assert_eq!(response.field("strict-transport-security"), None, "{response}");
    }
    assert_eq!(secure(&gateway).get("/a/../b").expect(400).field("strict-transport-security"), None);
    let response = ask("Set-Cookie: a=b");
    assert_eq!(response.field("set-cookie"), Some("a=b"));
}

const SETS: &str = r#"
    [security_headers.own]
    hsts = { max_age = "8760h", ramp_from = "2020-01-01", include_subdomains = true }
    csp = { policy = "default-src 'self'", report_only = true }
    fields = { X-Frame-Options = "DENY", X-Own = "1" }
    override = ["X-Frame-Options"]
    remove = ["X-Secret"]
    [security_headers.frames]
    csp = { policy = "default-src 'self'" }
    override = ["Content-Security-Policy"]
    [security_headers.soon]
    hsts = { max_age = "8760h", ramp_from = "2999-01-01" }
    [security_headers.nonce]
    csp = { policy = "script-src 'nonce-{nonce}' 'strict-dynamic'; base-uri 'none'", nonce = true }
    [[routes]]
    upstream = "app"
    security_headers = "strict"
    [[routes]]
    path = "/own"
    upstream = "app"
    security_headers = "own"
    [[routes]]
    path = "/frames"
    upstream = "app"
    security_headers = "frames"
    [[routes]]
    path = "/soon"
    upstream = "app"
    security_headers = "soon"
    [[routes]]
    path = "/off"
    upstream = "app"
    security_headers = "off"
    [[routes]]
    path = "/nonce"
    upstream = "app"
    security_headers = "nonce"
    [[cache.rules]]
    ttl = "1h"
"#;

#[test]
fn sets_of_ones_own_and_the_strict_one() {
    let origin = app();
    let gateway = gateway(&origin, SETS);
    let says = [(
        "X-Says",
        "X-Frame-Options: SAMEORIGIN|X-Secret: 1|Server: x|Set-Cookie: a=b; HttpOnly|Set-Cookie: c=d; SameSite=None",
    )];
    let own = secure(&gateway).request("GET", "/own", &says, "").expect(200);
    has(
        &own,
        &[
            ("strict-transport-security", "max-age=31536000; includeSubDomains"),
            ("content-security-policy-report-only", "default-src 'self'"),
            ("x-frame-options", "DENY"),
            ("x-own", "1"),
            ("server", "x"),
        ],
        "own",
    );
    for absent in ["x-secret", "content-security-policy", "referrer-policy"] {
        assert_eq!(own.field(absent), None, "{absent}");
    }
    assert_eq!(own.fields.all("set-cookie"), ["a=b; HttpOnly", "c=d; SameSite=None"]);

    let strict = secure(&gateway).request("GET", "/", &says, "").expect(200);
    has(
        &strict,
        &[
            ("strict-transport-security", "max-age=31536000"),
            ("x-frame-options", "SAMEORIGIN"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-embedder-policy", "require-corp"),
            ("cross-origin-resource-policy", "same-origin"),
        ],
        "strict",
    );
    assert!(strict.field("content-security-policy").unwrap().contains("default-src 'none'"));
    assert!(strict.field("permissions-policy").unwrap().contains("camera=()"));
    assert_eq!(strict.field("server"), None);
    let hardened = ["a=b; HttpOnly; Secure; SameSite=Lax", "c=d; SameSite=None; Secure"];
    assert_eq!(strict.fields.all("set-cookie"), hardened);
    // Over plain HTTP a cookie that is Secure would be lost.
    let plain = gateway.connect().request("GET", "/", &says, "").expect(200);
    assert_eq!(plain.fields.all("set-cookie"), ["a=b; HttpOnly; SameSite=Lax", "c=d; SameSite=None"]);
    assert_eq!(plain.field("strict-transport-security"), None);

    // A policy of the app's that ours takes the place of protects nobody any more.
    let framed = [("X-Says", "Content-Security-Policy: frame-ancestors 'none'")];
    let framed = secure(&gateway).request("GET", "/frames", &framed, "").expect(200);
    has(&framed, &[("content-security-policy", "default-src 'self'"), ("x-frame-options", "SAMEORIGIN")], "frames");

    let soon = secure(&gateway).get("/soon").expect(200);
    has(&soon, &[("strict-transport-security", "max-age=300"), ("x-content-type-options", "nosniff")], "soon");
    let off = secure(&gateway).request("GET", "/off", &says, "").expect(200);
    has(&off, &[("x-frame-options", "SAMEORIGIN"), ("server", "x")], "off");
    assert_eq!((off.field("x-content-type-options"), off.field("strict-transport-security")), (None, None));
}

#[test]
fn a_nonce_is_one_requests_alone() {
    let origin = app();
    let gateway = gateway(&origin, SETS);
    let html = [("X-Says", "Content-Type: text/html"), ("X-CSP-Nonce", "guessed")];
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let response = secure(&gateway).request("GET", "/nonce", &html, "").expect(200);
        let nonce = response.text().to_owned();
        assert!(nonce.len() == 32 && nonce.bytes().all(|byte| byte.is_ascii_hexdigit()), "{nonce}");
        let policy = format!("script-src 'nonce-{nonce}' 'strict-dynamic'; base-uri 'none'");
        has(&response, &[("content-security-policy", &policy)], "nonce");
        assert!(seen.insert(nonce), "kept or guessed: {response}");
        assert!(response.field("cache-status").unwrap().contains("nonce"), "{response}");
    }
    // A 304 of what is kept says what that has said.
    let tagged = [(
        "X-Says",
        "ETag: \"1\"|X-Frame-Options: DENY|Content-Type: text/css|Access-Control-Allow-Origin: https://a.test",
    )];
    secure(&gateway).request("GET", "/tagged", &tagged, "").expect(200);
    let short = secure(&gateway).request("GET", "/tagged", &[("If-None-Match", "\"1\"")], "").expect(304);
    has(&short, &[("x-frame-options", "DENY"), ("access-control-allow-origin", "https://a.test")], "a 304");
    // And one of a page with a nonce leaves the policy alone that it came with.
    let short = secure(&gateway).request("GET", "/nonce?short", &[("X-Status", "304")], "").expect(304);
    assert_eq!(short.field("content-security-policy"), None);
    // What is no page has no use for it, and is kept.
    let style = [("X-Says", "Content-Type: text/css")];
    secure(&gateway).request("GET", "/nonce", &style, "").expect(200);
    let kept = secure(&gateway).request("GET", "/nonce", &style, "").expect(200);
    assert!(kept.field("cache-status").unwrap().contains("; hit"), "{kept}");
    // Elsewhere nobody says one, least of all a client.
    let other = secure(&gateway).request("GET", "/off", &[("X-CSP-Nonce", "guessed")], "").expect(200);
    assert_eq!(other.text(), "none");
    // An answer of the gateway's own has no script.
    let refused =
        secure(&gateway).request("GET", "/nonce?other", &[("X-Says", "X-Accel-Redirect: /x")], "").expect(502);
    assert!(refused.field("content-security-policy").unwrap().starts_with("script-src 'nonce-"), "{refused}");
}
