//! Whole attacks: a second request inside the first, for a reader that ends the first elsewhere. Where the first has one
//! reading the second is its body; where it has two, nothing of either goes on. And requests that really follow one another.

use super::case::Answer::{App, Own};
use super::case::{
    BODY, Case, EXPECTATION, FRAMING, HEAD, HOST, Seen, TARGET, Then, Told, get, last, passed, post, refused, several,
};

/// What is hidden; an app that sees its path has been fooled.
const HIDDEN: &str = "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";

pub fn cases() -> Vec<Case> {
    let mut cases = two_readings();
    cases.extend(one_reading());
    cases.extend(chunk_ends());
    cases.extend(pipelines());
    cases
}

fn request(line: &str, fields: &str, body: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n{body}")
}

/// Where one reader takes the length and the other the chunks.
fn two_readings() -> Vec<Case> {
    let clause = "RFC 9112 11.2";
    let hidden = HIDDEN.len();
    let by_chunks = format!("0\r\n\r\n{HIDDEN}");
    let by_length = format!("{hidden:x}\r\n{HIDDEN}\r\n0\r\n\r\n");
    let whole = by_chunks.len();
    let attack =
        |name, told: Told, fields: &str, body: &str| refused(name, clause, told, request("POST /CASE", fields, body));
    vec![
        attack("smuggle-cl-te", FRAMING, &format!("Content-Length: {whole}\r\nTransfer-Encoding: chunked"), &by_chunks),
        attack("smuggle-te-cl", FRAMING, "Transfer-Encoding: chunked\r\nContent-Length: 4", &by_length),
        attack(
            "smuggle-te-te-unknown",
            FRAMING,
            &format!("Content-Length: {whole}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x"),
            &by_chunks,
        ),
        attack(
            "smuggle-te-te-identity-first",
            FRAMING,
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
            &by_chunks,
        ),
        attack(
            "smuggle-te-te-prefix",
            FRAMING,
            &format!("Content-Length: {whole}\r\nTransfer-Encoding: xchunked"),
            &by_chunks,
        ),
        attack(
            "smuggle-te-te-space",
            HEAD,
            &format!("Content-Length: {whole}\r\nTransfer-Encoding : chunked"),
            &by_chunks,
        ),
        attack(
            "smuggle-te-te-vertical-tab",
            HEAD,
            &format!("Content-Length: {whole}\r\nTransfer-Encoding: \x0bchunked"),
            &by_chunks,
        ),
        attack(
            "smuggle-te-te-folded",
            FRAMING,
            &format!("Content-Length: {whole}\r\nTransfer-Encoding:\r\n chunked"),
            &by_chunks,
        ),
        attack(
            "smuggle-te-te-line-feed",
            HEAD,
            &format!("Content-Length: {whole}\r\nX-A: b\nTransfer-Encoding: chunked"),
            &by_chunks,
        ),
        attack(
            "smuggle-te-te-carriage-return",
            HEAD,
            &format!("Content-Length: {whole}\r\nX-A: b\rTransfer-Encoding: chunked"),
            &by_chunks,
        ),
        attack(
            "smuggle-te-te-quoted",
            FRAMING,
            &format!("Content-Length: {whole}\r\nTransfer-Encoding: \"chunked\""),
            &by_chunks,
        ),
        attack("smuggle-cl-cl", FRAMING, &format!("Content-Length: 0\r\nContent-Length: {hidden}"), HIDDEN),
        attack("smuggle-cl-cl-list", FRAMING, &format!("Content-Length: 0, {hidden}"), HIDDEN),
        attack("smuggle-cl-space", HEAD, &format!("Content-Length : {hidden}"), HIDDEN),
        attack("smuggle-cl-plus", FRAMING, &format!("Content-Length: +{hidden}"), HIDDEN),
        attack("smuggle-cl-folded", FRAMING, &format!("Content-Length:\r\n {hidden}"), HIDDEN),
        attack(
            "smuggle-cl-expect",
            EXPECTATION,
            &format!("Content-Length: {hidden}\r\nExpect: y 100-continue"),
            HIDDEN,
        ),
        attack("smuggle-host", HOST, &format!("Host: other.test\r\nContent-Length: {hidden}"), HIDDEN),
        refused(
            "smuggle-te-in-http-1-0",
            "RFC 9112 6.1",
            FRAMING,
            format!("POST /CASE HTTP/1.0\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{by_chunks}"),
        ),
        attack(
            "smuggle-chunk-size-overflow",
            BODY,
            "Transfer-Encoding: chunked",
            &format!("10000000000000000\r\n\r\n{HIDDEN}"),
        ),
    ]
}

/// The bytes of a request as the body of another: the length says so, and no app may start to read in the middle of it.
fn one_reading() -> Vec<Case> {
    let clause = "RFC 9112 6.3";
    let hidden = HIDDEN.len();
    let counted = |name, line: &str, fields: &str, seen: Seen| {
        let fields = format!("{fields}Content-Length: {hidden}");
        passed(name, clause, request(line, &fields, HIDDEN), seen.body(HIDDEN))
    };
    let chunked = |name, line: &str, seen: Seen| {
        let body = format!("{hidden:x}\r\n{HIDDEN}\r\n0\r\n\r\n");
        passed(name, clause, request(line, "Transfer-Encoding: chunked", &body), seen.body(HIDDEN))
    };
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    vec![
        counted("smuggle-cl-0", "POST /CASE", "", get("/CASE").method("POST")),
        counted("smuggle-cl-0-get", "GET /CASE", "", get("/CASE")),
        counted("smuggle-cl-0-options", "OPTIONS /CASE", "", get("/CASE").method("OPTIONS")),
        counted("smuggle-cl-0-of-a-file", "GET /CASE/static.css", "", get("/CASE/static.css")),
        counted("smuggle-cl-0-listed", "GET /CASE", "Connection: Content-Length\r\n", get("/CASE")),
        counted("smuggle-cl-0-expected", "GET /CASE", "Expect: 100-continue\r\n", get("/CASE")),
        counted("smuggle-cl-0-upgraded", "GET /CASE", h2c, get("/CASE")),
        chunked("smuggle-te-0", "POST /CASE", get("/CASE").method("POST")),
        chunked("smuggle-te-0-get", "GET /CASE", get("/CASE")),
        chunked("smuggle-te-0-options", "OPTIONS /CASE", get("/CASE").method("OPTIONS")),
    ]
}

/// Where one reader ends a chunk's line at a byte that means nothing to the other.
fn chunk_ends() -> Vec<Case> {
    let clause = "RFC 9112 7.1";
    let attack =
        |name, body: &str| refused(name, clause, BODY, request("POST /CASE", "Transfer-Encoding: chunked", body));
    vec![
        attack("smuggle-chunk-line-feed-in-extension", &format!("2;\nxx\r\n30\r\n0\r\n\r\n{HIDDEN}\r\n0\r\n\r\n")),
        attack(
            "smuggle-chunk-carriage-return-in-extension",
            &format!("2;\rxx\r\n30\r\n0\r\n\r\n{HIDDEN}\r\n0\r\n\r\n"),
        ),
        attack("smuggle-chunk-extension-ends-with-line-feed", &format!("5;a\nhello\r\n0\r\n\r\n{HIDDEN}")),
        attack("smuggle-chunk-end-of-two-other-bytes", &format!("5\r\nhelloXX0\r\n\r\n{HIDDEN}")),
        attack("smuggle-chunk-end-of-line-feed", &format!("5\r\nhello\n0\r\n\r\n{HIDDEN}")),
        attack("smuggle-chunk-end-of-carriage-return", &format!("5\r\nhello\rX0\r\n\r\n{HIDDEN}")),
        attack("smuggle-chunk-end-missing", &format!("5\r\nhello0\r\n\r\n{HIDDEN}")),
        attack("smuggle-last-chunk-without-empty-line", &format!("0\r\n{HIDDEN}")),
        attack("smuggle-last-chunk-with-line-feeds", &format!("0\n\n{HIDDEN}")),
        attack("smuggle-trailer-with-line-feed", &format!("0\r\nX-A: b\n\r\n{HIDDEN}")),
        attack("smuggle-trailer-with-carriage-return", &format!("0\r\nX-A: b\r\r\n{HIDDEN}")),
    ]
}

/// Several requests one behind the other, each with the gateway's own fields.
fn pipelines() -> Vec<Case> {
    let clause = "RFC 9112 9.3.2";
    let app = |seen: Seen| App(Box::new(seen));
    let first = "GET /CASE HTTP/1.1\r\nHost: test\r\n\r\n";
    let second = "POST /CASE/2 HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 6.6.6.6\r\nContent-Length: 5\r\n\r\nhello";
    let chunked = "POST /CASE HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let two = |name, raw: String, first, second| several(name, clause, raw, &[app(first), app(second)], Then::Goes);
    let behind =
        |name, clause, raw: String, seen, told: Told| several(name, clause, raw, &[app(seen), Own(told)], Then::Closes);
    vec![
        two("pipeline", format!("{first}{second}"), get("/CASE"), post("/CASE/2", "hello")),
        two("pipeline-after-body", format!("{second}{first}"), post("/CASE/2", "hello"), get("/CASE")),
        two("pipeline-after-chunks", format!("{chunked}{second}"), post("/CASE", "hello"), post("/CASE/2", "hello")),
        two("pipeline-after-empty-line", format!("{second}\r\n{first}"), post("/CASE/2", "hello"), get("/CASE")),
        two(
            "pipeline-after-body-of-no-bytes",
            format!("POST /CASE HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n{second}"),
            post("/CASE", ""),
            post("/CASE/2", "hello"),
        ),
        behind(
            "pipeline-with-a-broken-second",
            clause,
            format!("{first}GET /CASE/2 HTTP/1.1\nHost: test\n\n"),
            get("/CASE"),
            HEAD,
        ),
        behind(
            "pipeline-with-an-ambiguous-second",
            clause,
            format!(
                "{first}POST /CASE/2 HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            ),
            get("/CASE"),
            FRAMING,
        ),
        behind(
            "pipeline-after-a-body-too-long",
            "RFC 9112 6.3",
            format!("{second}xxx\r\n\r\n"),
            post("/CASE/2", "hello"),
            HEAD,
        ),
        behind(
            "pipeline-after-a-body-with-a-byte-more",
            "RFC 9112 6.3",
            format!("{second}\0{first}"),
            post("/CASE/2", "hello"),
            HEAD,
        ),
        behind(
            "pipeline-after-two-empty-lines",
            "RFC 9112 2.2",
            format!("{second}\r\n\r\n{first}"),
            post("/CASE/2", "hello"),
            HEAD,
        ),
        several(
            "pipeline-after-a-bad-target",
            clause,
            format!("GET /CASE/../x HTTP/1.1\r\nHost: test\r\n\r\n{second}"),
            &[Own(TARGET), app(post("/CASE/2", "hello"))],
            Then::Goes,
        ),
        last("pipeline-after-close", "RFC 9112 9.6", request("GET /CASE", "Connection: close", HIDDEN), get("/CASE")),
        last(
            "pipeline-after-close-in-a-list",
            "RFC 9112 9.6",
            request("GET /CASE", "Connection: keep-alive, x, Close", HIDDEN),
            get("/CASE"),
        ),
        last(
            "pipeline-after-http-1-0",
            "RFC 9112 9.3",
            format!("GET /CASE HTTP/1.0\r\nHost: test\r\n\r\n{HIDDEN}"),
            get("/CASE"),
        ),
        last(
            "pipeline-after-http-1-0-with-length",
            "RFC 9112 9.3",
            format!("POST /CASE HTTP/1.0\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello{HIDDEN}"),
            post("/CASE", "hello"),
        ),
    ]
}
