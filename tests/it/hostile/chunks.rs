//! The chunked coding: sizes, extensions, the line ends between them, and trailers that must not become fields.

use super::case::{BODY, Case, latin1, passed, post, refused};

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = broken_bodies().into_iter().map(broken).collect();
    cases.extend(whole_bodies().into_iter().map(whole));
    cases
}

type Row = (&'static str, &'static str, &'static str);

fn request(body: &str) -> Vec<u8> {
    latin1(&format!("POST /CASE HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{body}"))
}

fn broken((name, clause, body): Row) -> Case {
    refused(name, clause, BODY, request(body))
}

/// The body is `hello` in each.
fn whole((name, clause, body): Row) -> Case {
    passed(name, clause, request(body), post("/CASE", "hello"))
}

fn broken_bodies() -> Vec<Row> {
    let size = "RFC 9112 7.1";
    let extension = "RFC 9112 7.1.1";
    let trailer = "RFC 9112 7.1.2";
    vec![
        ("chunk-space-after-size", size, "5 \r\nhello\r\n0\r\n\r\n"),
        ("chunk-tab-after-size", size, "5\t\r\nhello\r\n0\r\n\r\n"),
        ("chunk-space-before-size", size, " 5\r\nhello\r\n0\r\n\r\n"),
        ("chunk-space-after-last-size", size, "5\r\nhello\r\n0 \r\n\r\n"),
        ("chunk-size-with-prefix", size, "0x5\r\nhello\r\n0\r\n\r\n"),
        ("chunk-size-with-plus", size, "+5\r\nhello\r\n0\r\n\r\n"),
        ("chunk-size-negative", size, "-1\r\nhello\r\n0\r\n\r\n"),
        ("chunk-size-with-underscore", size, "0_5\r\nhello\r\n0\r\n\r\n"),
        ("chunk-size-with-dot", size, "5.0\r\nhello\r\n0\r\n\r\n"),
        ("chunk-size-of-a-letter", size, "g\r\nhello\r\n0\r\n\r\n"),
        ("chunk-size-empty", size, "\r\nhello\r\n0\r\n\r\n"),
        ("chunk-size-in-quotes", size, "\"5\"\r\nhello\r\n0\r\n\r\n"),
        ("chunk-size-with-nul", size, "5\0\r\nhello\r\n0\r\n\r\n"),
        ("chunk-size-outside-ascii", size, "\u{b2}\r\nhello\r\n0\r\n\r\n"),
        ("chunk-size-of-16-digits", size, "ffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ("chunk-size-above-64-bits", size, "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("chunk-size-of-40-zeros", size, "0000000000000000000000000000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("chunk-size-in-two-lines", size, "5\r\n5\r\nhello\r\n0\r\n\r\n"),
        ("chunk-size-ends-with-lf", size, "5\nhello\r\n0\r\n\r\n"),
        ("chunk-size-ends-with-cr", size, "5\rhello\r\n0\r\n\r\n"),
        ("chunk-size-ends-with-cr-cr-lf", size, "5\r\r\nhello\r\n0\r\n\r\n"),
        ("chunk-last-size-ends-with-lf", size, "5\r\nhello\r\n0\n\r\n"),
        ("chunk-data-ends-with-lf", size, "5\r\nhello\n0\r\n\r\n"),
        ("chunk-data-ends-with-cr", size, "5\r\nhello\r0\r\n\r\n"),
        ("chunk-data-without-end", size, "5\r\nhello0\r\n\r\n"),
        ("chunk-data-too-long", size, "5\r\nhello!\r\n0\r\n\r\n"),
        ("chunk-data-too-short", size, "5\r\nhell\r\n0\r\n\r\n"),
        ("chunk-data-with-space-behind", size, "5\r\nhello \r\n0\r\n\r\n"),
        ("chunk-data-with-two-ends", size, "5\r\nhello\r\n\r\n0\r\n\r\n"),
        ("chunk-extension-missing", extension, "5;\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-missing-twice", extension, "5;;\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-missing-at-end", extension, "5;a=b;\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-missing-at-last-chunk", extension, "5\r\nhello\r\n0;\r\n\r\n"),
        ("chunk-extension-after-space", extension, "5 ;a=b\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-with-space-in-front", extension, "5; a=b\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-with-space", extension, "5;a b\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-with-spaces-around-equals", extension, "5;a = b\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-without-name", extension, "5;=b\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-without-value", extension, "5;a=\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-without-semicolon", extension, "5a=b\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-with-comma", extension, "5,a=b\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-with-invalid-name", extension, "5;a(b=c\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-with-invalid-value", extension, "5;a=b@c\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-with-open-quotes", extension, "5;a=\"b\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-with-more-after-quotes", extension, "5;a=\"b\"c\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-with-line-break-in-quotes", extension, "5;a=\"\r\nhello\r\n\"\r\n0\r\n\r\n"),
        ("chunk-extension-with-escape-at-end", extension, "5;a=\"b\\\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-with-nul", extension, "5;a=\0\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-with-nul-in-quotes", extension, "5;a=\"\0\"\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-with-control-byte", extension, "5;\x01\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-with-carriage-return", extension, "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-with-line-feed", extension, "5;a\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-outside-ascii", extension, "5;\u{e4}=b\r\nhello\r\n0\r\n\r\n"),
        ("chunk-trailer-without-colon", trailer, "5\r\nhello\r\n0\r\nX-A\r\n\r\n"),
        ("chunk-trailer-without-name", trailer, "5\r\nhello\r\n0\r\n: b\r\n\r\n"),
        ("chunk-trailer-with-space-before-colon", trailer, "5\r\nhello\r\n0\r\nX-A : b\r\n\r\n"),
        ("chunk-trailer-folded", trailer, "5\r\nhello\r\n0\r\nX-A: b\r\n c\r\n\r\n"),
        ("chunk-trailer-with-control-byte", trailer, "5\r\nhello\r\n0\r\nX-A: \x01\r\n\r\n"),
        ("chunk-trailer-with-carriage-return", trailer, "5\r\nhello\r\n0\r\nX-A: b\rc\r\n\r\n"),
        ("chunk-trailer-ends-with-lf", trailer, "5\r\nhello\r\n0\r\nX-A: b\n\r\n"),
        ("chunk-trailer-like-a-request", trailer, "5\r\nhello\r\n0\r\nGET http://test/smuggled HTTP/1.1\r\n\r\n"),
        ("chunk-end-with-lf", trailer, "5\r\nhello\r\n0\r\n\n"),
        ("chunk-end-with-cr-cr-lf", trailer, "5\r\nhello\r\n0\r\n\r\r\n"),
    ]
}

/// None of the extensions and trailers goes on: what the app gets is a length and the bytes.
fn whole_bodies() -> Vec<Row> {
    let size = "RFC 9112 7.1";
    let extension = "RFC 9112 7.1.1";
    let trailer = "RFC 9110 6.5.1";
    vec![
        ("chunk-size-with-zeros-in-front", size, "00000000005\r\nhello\r\n0\r\n\r\n"),
        ("chunk-last-size-of-zeros", size, "5\r\nhello\r\n000000\r\n\r\n"),
        ("chunk-of-one-byte-each", size, "1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n0\r\n\r\n"),
        ("chunk-extension-name", extension, "5;a\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-value", extension, "5;a=b;c=d\r\nhello\r\n0;e\r\n\r\n"),
        ("chunk-extension-in-quotes", extension, "5;a=\"b;c=\\\"d\\\" 0\"\r\nhello\r\n0\r\n\r\n"),
        ("chunk-extension-like-a-chunk", extension, "5;a=\"0 GET /smuggled HTTP/1.1\"\r\nhello\r\n0\r\n\r\n"),
        ("chunk-trailer", trailer, "5\r\nhello\r\n0\r\nX-A: b\r\nX-Case: CASE\r\n\r\n"),
        ("chunk-trailer-of-framing", trailer, "5\r\nhello\r\n0\r\nContent-Length: 50\r\nTransfer-Encoding: x\r\n\r\n"),
        ("chunk-trailer-of-host", trailer, "5\r\nhello\r\n0\r\nHost: other.test\r\n\r\n"),
        (
            "chunk-trailer-of-claims",
            trailer,
            "5\r\nhello\r\n0\r\nX-Forwarded-For: 6.6.6.6\r\nSCRIPT_NAME: /x\r\nAuthorization: x\r\n\r\n",
        ),
    ]
}
