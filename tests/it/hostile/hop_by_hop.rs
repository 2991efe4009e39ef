//! Fields of one connection, which end at the gateway: what Connection lists, and upgrades to what is no WebSocket.
//!
//! A well-formed WebSocket upgrade is no case of this corpus.

use super::case::{Case, get, passed, post};

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = ended_here().into_iter().map(without_a_trace).collect();
    cases.extend(listed());
    cases.extend(upgrades().into_iter().map(without_a_trace));
    cases.extend(odd_upgrades());
    cases
}

type Row = (&'static str, &'static str, &'static str);

/// The app sees a request without any of the fields.
fn without_a_trace((name, clause, fields): Row) -> Case {
    passed(name, clause, format!("GET /CASE HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n"), get("/CASE"))
}

fn ended_here() -> Vec<Row> {
    let hop = "RFC 9110 7.6.1";
    vec![
        ("hop-keep-alive", hop, "Connection: keep-alive\r\nKeep-Alive: timeout=600, max=1000"),
        ("hop-keep-alive-alone", hop, "Keep-Alive: timeout=600"),
        ("hop-proxy-connection", hop, "Proxy-Connection: keep-alive"),
        ("hop-te", "RFC 9110 10.1.4", "Connection: TE\r\nTE: trailers, deflate;q=0.5"),
        ("hop-te-alone", "RFC 9110 10.1.4", "TE: trailers"),
        ("hop-trailer", "RFC 9110 6.6.2", "Trailer: X-A, Content-Length"),
        ("hop-proxy-authorization", "RFC 9110 11.7.2", "Proxy-Authorization: Basic eDp5"),
        ("hop-proxy-authenticate", "RFC 9110 11.7.1", "Proxy-Authenticate: Basic"),
        ("hop-connection-of-nothing", hop, "Connection: ,, ,\r\nConnection:"),
        ("hop-connection-of-what-is-not-there", hop, "Connection: X-A, X-B"),
        ("hop-connection-of-no-token", hop, "Connection: \"x\", x y, (z)"),
    ]
}

/// What the client lists goes; what is the gateway's to say, and what frames and addresses the request, stays.
fn listed() -> Vec<Case> {
    let hop = "RFC 9110 7.6.1";
    let head = "GET /CASE HTTP/1.1\r\nHost: test\r\n";
    let with = |name, fields: &str, seen| passed(name, hop, format!("{head}{fields}\r\n\r\n"), seen);
    vec![
        with("listed-forwarding", "Connection: X-Forwarded-For, X-Forwarded-Proto, X-Real-IP", get("/CASE")),
        with("listed-forwarded-host", "Connection: X-Forwarded-Host, X-Forwarded-Port, Forwarded", get("/CASE")),
        with("listed-request-id", "Connection: X-Request-ID, X-Request-Start", get("/CASE")),
        with("listed-forwarding-with-claims", "Connection: X-Forwarded-For\r\nX-Forwarded-For: 6.6.6.6", get("/CASE")),
        with("listed-host", "Connection: Host", get("/CASE")),
        with("listed-host-with-close-in-a-value", "Connection: Host, x-close", get("/CASE")),
        with("listed-field", "Connection: X-A\r\nX-A: b\r\nX-B: c", get("/CASE").field("x-b", "c")),
        with("listed-field-before", "X-A: b\r\nConnection: x-a", get("/CASE")),
        with("listed-field-of-several-lines", "X-A: b\r\nConnection: X-A\r\nX-A: c", get("/CASE")),
        with("listed-in-several-lines", "Connection: X-A\r\nConnection: X-B\r\nX-A: b\r\nX-B: c", get("/CASE")),
        with(
            "listed-credentials",
            "Connection: Authorization, Cookie\r\nAuthorization: x\r\nCookie: a=b",
            get("/CASE"),
        ),
        with("listed-in-upper-case", "Connection: X-A\r\nx-a: b", get("/CASE")),
        with("listed-between-blanks", "Connection: \t ,X-A\t,, \r\nX-A: b", get("/CASE")),
        with("listed-with-parameter", "Connection: X-A;q=1\r\nX-A: b", get("/CASE").field("x-a", "b")),
        passed(
            "listed-length",
            hop,
            "POST /CASE HTTP/1.1\r\nHost: test\r\nConnection: Content-Length\r\nContent-Length: 5\r\n\r\nhello",
            post("/CASE", "hello"),
        ),
        passed(
            "listed-coding",
            hop,
            "POST /CASE HTTP/1.1\r\nHost: test\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\n\r\n",
            post("/CASE", "hello"),
        ),
    ]
}

fn upgrades() -> Vec<Row> {
    let upgrade = "RFC 9110 7.8";
    let h2c = "RFC 9113 3.1";
    let websocket = "RFC 6455 4.2.1";
    vec![
        ("upgrade-h2c", h2c, "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"),
        ("upgrade-h2c-without-settings", h2c, "Connection: Upgrade\r\nUpgrade: h2c"),
        ("upgrade-h2c-not-listed", h2c, "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"),
        ("upgrade-h2", h2c, "Connection: Upgrade\r\nUpgrade: h2"),
        ("upgrade-tls", "RFC 2817 3", "Connection: Upgrade\r\nUpgrade: TLS/1.0"),
        ("upgrade-http-2-0", upgrade, "Connection: Upgrade\r\nUpgrade: HTTP/2.0"),
        ("upgrade-unknown", upgrade, "Connection: Upgrade\r\nUpgrade: foo/1"),
        ("upgrade-empty", upgrade, "Connection: Upgrade\r\nUpgrade:"),
        ("upgrade-in-two-lines", upgrade, "Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: foo"),
        ("upgrade-listed-alone", upgrade, "Connection: Upgrade"),
        ("upgrade-websocket-not-listed", websocket, "Upgrade: websocket"),
        (
            "upgrade-websocket-without-key",
            websocket,
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13",
        ),
        (
            "upgrade-websocket-without-version",
            websocket,
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ),
        (
            "upgrade-websocket-of-old-version",
            websocket,
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 8",
        ),
        (
            "upgrade-websocket-with-short-key",
            websocket,
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: YQ==\r\nSec-WebSocket-Version: 13",
        ),
        (
            "upgrade-websocket-misspelt",
            websocket,
            "Connection: Upgrade\r\nUpgrade: websockets\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13",
        ),
    ]
}

fn odd_upgrades() -> Vec<Case> {
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    vec![
        passed(
            "upgrade-websocket-by-post",
            "RFC 6455 4.2.1",
            format!("POST /CASE HTTP/1.1\r\nHost: test\r\n{websocket}Content-Length: 5\r\n\r\nhello"),
            post("/CASE", "hello"),
        ),
        passed(
            "upgrade-websocket-in-http-1-0",
            "RFC 6455 4.2.1",
            format!("GET /CASE HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n{websocket}\r\n"),
            get("/CASE"),
        ),
        passed(
            "upgrade-h2c-with-body",
            "RFC 9110 7.8",
            "POST /CASE HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello",
            post("/CASE", "hello"),
        ),
        passed(
            "upgrade-h2c-in-chunks",
            "RFC 9110 7.8",
            "POST /CASE HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\n\r\n",
            post("/CASE", "hello"),
        ),
    ]
}
