//! Requests that end before they end: an app that is given whole requests sees none of them, one whose bodies are handed on
//! as they come never takes the beginning for the whole (RFC 9112 section 8).

use super::case::{BODY, Case, cut_off, passed, post, refused, torn};

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = whole_alone().into_iter().map(|(name, raw)| cut_off(name, "RFC 9112 8", raw)).collect();
    cases.extend(streamed());
    cases
}

fn whole_alone() -> Vec<(&'static str, &'static str)> {
    vec![
        ("cut-in-method", "GE"),
        ("cut-in-target", "GET /CASE"),
        ("cut-before-version", "GET /CASE "),
        ("cut-after-line", "GET /CASE HTTP/1.1\r\n"),
        ("cut-in-field-name", "GET /CASE HTTP/1.1\r\nHo"),
        ("cut-in-field-value", "GET /CASE HTTP/1.1\r\nHost: te"),
        ("cut-before-end-of-head", "GET /CASE HTTP/1.1\r\nHost: test\r\n"),
        ("cut-in-end-of-head", "GET /CASE HTTP/1.1\r\nHost: test\r\n\r"),
        ("cut-before-body", "POST /CASE HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n"),
        ("cut-in-body", "POST /CASE HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhell"),
        ("cut-in-body-of-get", "GET /CASE HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhell"),
        ("cut-in-body-of-http-1-0", "POST /CASE HTTP/1.0\r\nHost: test\r\nContent-Length: 5\r\n\r\nhell"),
        (
            "cut-in-body-with-a-request",
            "POST /CASE HTTP/1.1\r\nHost: test\r\nContent-Length: 500\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n",
        ),
        (
            "cut-before-expected-body",
            "POST /CASE HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        ),
        ("cut-before-chunks", "POST /CASE HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("cut-in-chunk-size", "POST /CASE HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5"),
        ("cut-in-chunk", "POST /CASE HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhell"),
        ("cut-in-chunk-end", "POST /CASE HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r"),
        ("cut-after-chunk", "POST /CASE HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        (
            "cut-after-last-chunk",
            "POST /CASE HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        ),
        (
            "cut-in-end-of-chunks",
            "POST /CASE HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r",
        ),
        (
            "cut-in-trailer",
            "POST /CASE HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-A: b\r\n",
        ),
    ]
}

fn streamed() -> Vec<Case> {
    let length = |body: &str| format!("POST /streamed/CASE HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n{body}");
    let chunks =
        |body: &str| format!("POST /streamed/CASE HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let cut = |name, raw| torn(name, "RFC 9112 8", raw);
    let broken = |name, clause, body: &str| refused(name, clause, BODY, chunks(body));
    let hello = post("/streamed/CASE", "hello");
    let extras = "2;a=\"b\"\r\nhe\r\n003;c\r\nllo\r\n0;d\r\nX-A: b\r\nContent-Length: 6\r\n\r\n";
    vec![
        cut("streamed-before-body", length("")),
        cut("streamed-in-body", length("hell")),
        cut("streamed-before-chunks", chunks("")),
        cut("streamed-in-chunk", chunks("5\r\nhell")),
        cut("streamed-after-chunk", chunks("5\r\nhello\r\n")),
        cut("streamed-after-last-chunk", chunks("5\r\nhello\r\n0\r\n")),
        cut("streamed-in-trailer", chunks("5\r\nhello\r\n0\r\nX-A: b\r\n")),
        broken("streamed-bad-size", "RFC 9112 7.1", "5\r\nhello\r\nx\r\n"),
        broken("streamed-bad-extension", "RFC 9112 7.1.1", "5\r\nhello\r\n5;\r\nhello\r\n0\r\n\r\n"),
        broken("streamed-bad-end-of-chunk", "RFC 9112 7.1", "5\r\nhello!\r\n0\r\n\r\n"),
        broken("streamed-line-feed", "RFC 9112 7.1", "5\r\nhello\r\n5\nhello\r\n0\r\n\r\n"),
        broken("streamed-bad-trailer", "RFC 9112 7.1.2", "5\r\nhello\r\n0\r\nX-A\r\n\r\n"),
        broken("streamed-line-feed-at-end", "RFC 9112 7.1.2", "5\r\nhello\r\n0\r\n\n"),
        passed("streamed-whole", "RFC 9112 6.3", length("hello"), hello.clone()),
        passed("streamed-with-extensions-and-trailers", "RFC 9112 7.1.1", chunks(extras), hello.chunked()),
    ]
}
