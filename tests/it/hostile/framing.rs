//! The length of a body: one field says it, and says it in one way.

use super::case::{Case, FRAMING, HEAD, get, latin1, passed, post, refused};

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = ambiguous().into_iter().map(bad).collect();
    cases.extend(unreadable().into_iter().map(broken));
    cases.extend(old_versions());
    cases.extend(readable());
    cases
}

type Row = (&'static str, &'static str, &'static str);

/// What stands behind is a whole body by either reading, as far as there are two.
fn request(fields: &str) -> Vec<u8> {
    latin1(&format!("POST /CASE HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n0\r\n\r\n"))
}

fn bad((name, clause, fields): Row) -> Case {
    refused(name, clause, FRAMING, request(fields))
}

fn broken((name, clause, fields): Row) -> Case {
    refused(name, clause, HEAD, request(fields))
}

fn ambiguous() -> Vec<Row> {
    let length = "RFC 9110 8.6";
    let several = "RFC 9112 6.3";
    let coding = "RFC 9112 6.1";
    vec![
        ("both-length-first", coding, "Content-Length: 5\r\nTransfer-Encoding: chunked"),
        ("both-coding-first", coding, "Transfer-Encoding: chunked\r\nContent-Length: 5"),
        ("both-length-zero", coding, "Content-Length: 0\r\nTransfer-Encoding: chunked"),
        ("both-length-invalid", coding, "Content-Length: x\r\nTransfer-Encoding: chunked"),
        ("both-coding-unknown", coding, "Content-Length: 5\r\nTransfer-Encoding: x"),
        ("both-coding-identity", coding, "Content-Length: 5\r\nTransfer-Encoding: identity"),
        ("both-coding-empty", coding, "Content-Length: 5\r\nTransfer-Encoding:"),
        ("both-apart", coding, "Content-Length: 5\r\nX-A: b\r\ntRANSFER-eNCODING: cHUNKED"),
        ("length-list", several, "Content-Length: 5, 5"),
        ("length-list-of-two-values", several, "Content-Length: 5, 6"),
        ("length-list-with-empty-element", several, "Content-Length: 5,"),
        ("length-twice", several, "Content-Length: 5\r\nContent-Length: 5"),
        ("length-twice-differently", several, "Content-Length: 5\r\nContent-Length: 6"),
        ("length-twice-in-other-case", several, "Content-Length: 5\r\ncONTENT-lENGTH: 5"),
        ("length-twice-zero", several, "Content-Length: 0\r\nContent-Length: 0"),
        ("length-twice-apart", several, "Content-Length: 5\r\nX-A: b\r\nContent-Length: 44"),
        ("length-with-plus", length, "Content-Length: +5"),
        ("length-negative", length, "Content-Length: -1"),
        ("length-hexadecimal", length, "Content-Length: 0x5"),
        ("length-in-hexadecimal-digits", length, "Content-Length: a"),
        ("length-fraction", length, "Content-Length: 5.0"),
        ("length-exponent", length, "Content-Length: 5e0"),
        ("length-with-space", length, "Content-Length: 5 5"),
        ("length-with-word", length, "Content-Length: 5 bytes"),
        ("length-with-underscore", length, "Content-Length: 1_0"),
        ("length-with-semicolon", length, "Content-Length: 5;x=y"),
        ("length-in-quotes", length, "Content-Length: \"5\""),
        ("length-empty", length, "Content-Length:"),
        ("length-blank", length, "Content-Length: \t "),
        ("length-in-other-digits", length, "Content-Length: \u{b9}"),
        ("length-above-64-bits", length, "Content-Length: 18446744073709551616"),
        ("length-above-64-bits-by-five", length, "Content-Length: 18446744073709551621"),
        ("length-of-40-digits", length, "Content-Length: 1000000000000000000000000000000000000005"),
        ("coding-unknown", coding, "Transfer-Encoding: xchunked"),
        ("coding-chunked-and-more", coding, "Transfer-Encoding: chunkedx"),
        ("coding-identity", coding, "Transfer-Encoding: identity"),
        ("coding-gzip", coding, "Transfer-Encoding: gzip"),
        ("coding-gzip-then-chunked", coding, "Transfer-Encoding: gzip, chunked"),
        ("coding-chunked-then-gzip", coding, "Transfer-Encoding: chunked, gzip"),
        ("coding-chunked-then-identity", coding, "Transfer-Encoding: chunked, identity"),
        ("coding-chunked-twice", coding, "Transfer-Encoding: chunked, chunked"),
        ("coding-chunked-twice-in-two-lines", coding, "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ("coding-in-two-lines", coding, "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked"),
        ("coding-chunked-then-other-line", coding, "Transfer-Encoding: chunked\r\nTransfer-Encoding: x"),
        ("coding-list-with-empty-element", coding, "Transfer-Encoding: chunked,"),
        ("coding-list-with-empty-first-element", coding, "Transfer-Encoding: ,chunked"),
        ("coding-with-parameter", coding, "Transfer-Encoding: chunked;q=1"),
        ("coding-in-quotes", coding, "Transfer-Encoding: \"chunked\""),
        ("coding-in-apostrophes", coding, "Transfer-Encoding: 'chunked'"),
        ("coding-in-brackets", coding, "Transfer-Encoding: [chunked]"),
        ("coding-after-colon", coding, "Transfer-Encoding: : chunked"),
        ("coding-with-space", coding, "Transfer-Encoding: chun ked"),
        ("coding-two-words", coding, "Transfer-Encoding: x chunked"),
        ("coding-empty", coding, "Transfer-Encoding:"),
        ("coding-folded-before-value", coding, "Transfer-Encoding:\r\n chunked"),
        ("coding-with-byte-outside-ascii", coding, "Transfer-Encoding: \u{a0}chunked"),
        ("coding-cut-short", coding, "Transfer-Encoding: chunke"),
    ]
}

fn unreadable() -> Vec<Row> {
    let value = "RFC 9110 5.5";
    let colon = "RFC 9112 5.1";
    let fold = "RFC 9112 5.2";
    vec![
        ("coding-with-vertical-tab", value, "Transfer-Encoding: chunked\x0b"),
        ("coding-after-vertical-tab", value, "Transfer-Encoding: \x0bchunked"),
        ("coding-after-form-feed", value, "Transfer-Encoding: \x0cchunked"),
        ("coding-with-nul", value, "Transfer-Encoding: chunked\0"),
        ("coding-with-carriage-return", value, "Transfer-Encoding: chunked\rx"),
        ("coding-after-line-feed", "RFC 9112 2.2", "X-A: b\nTransfer-Encoding: chunked"),
        ("coding-name-with-space", colon, "Transfer-Encoding : chunked"),
        ("coding-name-with-tab", colon, "Transfer-Encoding\t: chunked"),
        ("coding-name-with-nul", colon, "Transfer-Encoding\0: chunked"),
        ("coding-name-indented", fold, "X-A: b\r\n Transfer-Encoding: chunked"),
        ("coding-folded", fold, "Transfer-Encoding: chunked\r\n , identity"),
        ("length-name-with-space", colon, "Content-Length : 5"),
        ("length-name-with-tab", colon, "Content-Length\t: 5"),
        ("length-name-indented", fold, "X-A: b\r\n Content-Length: 5"),
        ("length-folded", fold, "Content-Length: 5\r\n 5"),
        ("length-with-nul", value, "Content-Length: 5\0"),
        ("length-with-vertical-tab", value, "Content-Length: 5\x0b"),
        ("length-with-carriage-return", value, "Content-Length: 5\r6"),
        ("length-without-colon", colon, "Content-Length 5"),
    ]
}

fn old_versions() -> Vec<Case> {
    let old = |name, fields: &str| {
        let raw = format!("POST /CASE HTTP/1.0\r\nHost: test\r\n{fields}\r\n\r\n0\r\n\r\n");
        refused(name, "RFC 9112 6.1", FRAMING, raw)
    };
    vec![
        old("old-coding", "Transfer-Encoding: chunked"),
        old("old-coding-kept-alive", "Connection: keep-alive\r\nTransfer-Encoding: chunked"),
        old("old-both", "Content-Length: 5\r\nTransfer-Encoding: chunked"),
    ]
}

/// Odd, with one reading. What goes on is written anew: a length in digits alone, and no coding.
fn readable() -> Vec<Case> {
    let with = |name, clause, fields: &str, body: &str, seen| {
        let raw = format!("POST /CASE HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n{body}");
        passed(name, clause, raw, seen)
    };
    let chunks = "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    let hello = || post("/CASE", "hello");
    vec![
        with("coding-in-capitals", "RFC 9112 7", "Transfer-Encoding: CHUNKED", chunks, hello()),
        with("coding-after-tab", "RFC 9112 5.1", "Transfer-Encoding:\tchunked", chunks, hello()),
        with("coding-before-blanks", "RFC 9112 5.1", "Transfer-Encoding: chunked \t ", chunks, hello()),
        with("length-before-blanks", "RFC 9112 5.1", "Content-Length: 5 \t ", "hello", hello()),
        with(
            "length-with-zeros-in-front",
            "RFC 9110 8.6",
            "Content-Length: 0000000000000000000000005",
            "hello",
            hello(),
        ),
        with("length-of-zeros", "RFC 9110 8.6", "Content-Length: 000", "", post("/CASE", "")),
        with(
            "length-for-another-app",
            "RFC 9110 8.6",
            "Content-Length: 5\r\nX-Content-Length: 6",
            "hello",
            hello().field("x-content-length", "6"),
        ),
        with("length-none", "RFC 9112 6.3", "X-A: b", "", get("/CASE").method("POST").field("x-a", "b")),
        passed(
            "length-for-get",
            "RFC 9110 9.3.1",
            "GET /CASE HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello",
            hello().method("GET"),
        ),
        passed(
            "coding-for-get",
            "RFC 9110 9.3.1",
            format!("GET /CASE HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"),
            hello().method("GET"),
        ),
        passed(
            "length-for-delete",
            "RFC 9110 9.3.5",
            "DELETE /CASE HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello",
            hello().method("DELETE"),
        ),
        passed(
            "coding-with-underscore",
            "RFC 9112 6.1",
            "POST /CASE HTTP/1.1\r\nHost: test\r\nTransfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            post("/CASE", "0\r\n\r\n"),
        ),
    ]
}
