//! The first line: three words with one space between them, a version of ours, and nothing that is not HTTP.

use super::case::{Case, HEAD, VERSION, cut_off, get, last, latin1, passed, refused};

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = lines().into_iter().map(broken).collect();
    cases.extend(versions().into_iter().map(unsupported));
    cases.extend(line_ends());
    cases.extend(other_protocols());
    cases.extend(readable());
    cases
}

type Row = (&'static str, &'static str, &'static str);

/// Each with the fields of a good request behind.
fn broken((name, clause, line): Row) -> Case {
    refused(name, clause, HEAD, latin1(&format!("{line}\r\nHost: test\r\nX-Case: CASE\r\n\r\n")))
}

fn unsupported((name, clause, line): Row) -> Case {
    refused(name, clause, VERSION, format!("{line}\r\nHost: test\r\nX-Case: CASE\r\n\r\n"))
}

fn lines() -> Vec<Row> {
    vec![
        ("line-two-spaces-before-target", "RFC 9112 3", "GET  /CASE HTTP/1.1"),
        ("line-two-spaces-before-version", "RFC 9112 3", "GET /CASE  HTTP/1.1"),
        ("line-space-in-front", "RFC 9112 3", " GET /CASE HTTP/1.1"),
        ("line-space-at-end", "RFC 9112 3", "GET /CASE HTTP/1.1 "),
        ("line-tabs-for-spaces", "RFC 9112 3", "GET\t/CASE\tHTTP/1.1"),
        ("line-vertical-tabs-for-spaces", "RFC 9112 3", "GET\x0b/CASE\x0bHTTP/1.1"),
        ("line-tab-at-end", "RFC 9112 3", "GET /CASE HTTP/1.1\t"),
        ("line-four-words", "RFC 9112 3", "GET /CASE x HTTP/1.1"),
        ("line-space-in-target", "RFC 9112 3.2", "GET /CASE?a b HTTP/1.1"),
        ("line-two-versions", "RFC 9112 3", "GET /CASE HTTP/1.1 HTTP/1.1"),
        ("line-no-method", "RFC 9112 3.1", " /CASE HTTP/1.1"),
        ("line-no-target", "RFC 9112 3.2", "GET HTTP/1.1"),
        ("line-method-with-parenthesis", "RFC 9110 9.1", "G(T /CASE HTTP/1.1"),
        ("line-method-with-colon", "RFC 9110 9.1", "GET: /CASE HTTP/1.1"),
        ("line-method-with-slash", "RFC 9110 9.1", "GET/ /CASE HTTP/1.1"),
        ("line-method-with-control-byte", "RFC 9110 9.1", "G\x01T /CASE HTTP/1.1"),
        ("line-method-with-nul", "RFC 9110 9.1", "GET\0 /CASE HTTP/1.1"),
        ("line-method-outside-ascii", "RFC 9110 9.1", "G\u{c9}T /CASE HTTP/1.1"),
        ("line-method-in-quotes", "RFC 9110 9.1", "\"GET\" /CASE HTTP/1.1"),
        ("line-method-in-lower-case", "RFC 9110 9.1", "get /CASE HTTP/1.1"),
        ("line-method-in-mixed-case", "RFC 9110 9.1", "Delete /CASE HTTP/1.1"),
        ("line-method-of-33-bytes", "RFC 9112 3", "GETGETGETGETGETGETGETGETGETGETGET /CASE HTTP/1.1"),
        ("line-http-0-9", "RFC 9112 2.3", "GET /CASE"),
        ("line-version-in-lower-case", "RFC 9112 2.3", "GET /CASE http/1.1"),
        ("line-version-in-mixed-case", "RFC 9112 2.3", "GET /CASE Http/1.1"),
        ("line-version-with-three-numbers", "RFC 9112 2.3", "GET /CASE HTTP/1.1.1"),
        ("line-version-without-dot", "RFC 9112 2.3", "GET /CASE HTTP/11"),
        ("line-version-with-comma", "RFC 9112 2.3", "GET /CASE HTTP/1,1"),
        ("line-version-without-minor", "RFC 9112 2.3", "GET /CASE HTTP/1."),
        ("line-version-of-two-digits", "RFC 9112 2.3", "GET /CASE HTTP/1.10"),
        ("line-version-with-leading-zero", "RFC 9112 2.3", "GET /CASE HTTP/01.1"),
        ("line-version-with-sign", "RFC 9112 2.3", "GET /CASE HTTP/+1.1"),
        ("line-version-with-space", "RFC 9112 2.3", "GET /CASE HTTP/ 1.1"),
        ("line-version-with-nul", "RFC 9112 2.3", "GET /CASE HTTP/1.1\0"),
        ("line-version-of-https", "RFC 9112 2.3", "GET /CASE HTTPS/1.1"),
        ("line-version-of-other-digits", "RFC 9112 2.3", "GET /CASE HTTP/1.\u{b9}"),
        ("line-version-alone", "RFC 9112 3", "HTTP/1.1 200 OK"),
    ]
}

fn versions() -> Vec<Row> {
    vec![
        ("version-2-0", "RFC 9110 15.6.6", "GET /CASE HTTP/2.0"),
        ("version-1-2", "RFC 9110 15.6.6", "GET /CASE HTTP/1.2"),
        ("version-1-9", "RFC 9110 15.6.6", "GET /CASE HTTP/1.9"),
        ("version-0-9", "RFC 9110 15.6.6", "GET /CASE HTTP/0.9"),
        ("version-3-0", "RFC 9110 15.6.6", "GET /CASE HTTP/3.0"),
        ("version-0-0", "RFC 9110 15.6.6", "GET /CASE HTTP/0.0"),
    ]
}

/// CRLF and nothing else ends a line; RFC 9112 section 2.2 lets a recipient take a bare LF, and servers disagree on it.
fn line_ends() -> Vec<Case> {
    let clause = "RFC 9112 2.2";
    let bad = |name, raw: &str| refused(name, clause, HEAD, raw);
    vec![
        bad("ends-lf-alone", "GET /CASE HTTP/1.1\nHost: test\n\n"),
        bad("ends-lf-after-line", "GET /CASE HTTP/1.1\nHost: test\r\n\r\n"),
        bad("ends-lf-after-field", "GET /CASE HTTP/1.1\r\nHost: test\n\r\n"),
        bad("ends-lf-after-head", "GET /CASE HTTP/1.1\r\nHost: test\r\n\n"),
        bad("ends-lf-before-smuggled-field", "GET /CASE HTTP/1.1\r\nHost: test\r\nX-A: 1\nContent-Length: 44\r\n\r\n"),
        bad("ends-cr-after-line", "GET /CASE HTTP/1.1\rHost: test\r\n\r\n"),
        bad("ends-cr-cr-lf-after-line", "GET /CASE HTTP/1.1\r\r\nHost: test\r\n\r\n"),
        bad("ends-cr-cr-lf-after-field", "GET /CASE HTTP/1.1\r\nHost: test\r\nX-A: b\r\r\n\r\n"),
        bad("ends-cr-cr-lf-after-head", "GET /CASE HTTP/1.1\r\nHost: test\r\n\r\r\n\r\n"),
        bad("ends-two-empty-lines-in-front", "\r\n\r\nGET /CASE HTTP/1.1\r\nHost: test\r\n\r\n"),
        bad("ends-lf-in-front", "\nGET /CASE HTTP/1.1\r\nHost: test\r\n\r\n"),
        bad("ends-cr-in-front", "\rGET /CASE HTTP/1.1\r\nHost: test\r\n\r\n"),
        bad("ends-nul-in-front", "\0GET /CASE HTTP/1.1\r\nHost: test\r\n\r\n"),
        bad("ends-byte-order-mark-in-front", "\u{feff}GET /CASE HTTP/1.1\r\nHost: test\r\n\r\n"),
        cut_off("ends-cr-alone", clause, "GET /CASE HTTP/1.1\rHost: test\r\r"),
        passed("ends-one-empty-line-in-front", clause, "\r\nGET /CASE HTTP/1.1\r\nHost: test\r\n\r\n", get("/CASE")),
    ]
}

fn other_protocols() -> Vec<Case> {
    let clause = "RFC 9112 3";
    vec![
        refused("other-http-2-preface", "RFC 9113 3.4", VERSION, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        refused("other-tls-hello", clause, HEAD, latin1("\x16\x03\x01\x00\u{a5}\x01\x00\x00\u{a1}\x03\x03\r\n\r\n")),
        refused(
            "other-proxy-protocol-1",
            clause,
            HEAD,
            "PROXY TCP4 6.6.6.6 127.0.0.1 1 80\r\nGET /CASE HTTP/1.1\r\nHost: test\r\n\r\n",
        ),
        refused(
            "other-proxy-protocol-2",
            clause,
            HEAD,
            latin1(
                "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x06\x06\x06\x06\x7f\0\0\x01\0\x01\0\x50GET /CASE HTTP/1.1\r\n\r\n",
            ),
        ),
        refused("other-ssh", clause, HEAD, "SSH-2.0-CASE\r\n\r\n"),
        refused("other-smtp", clause, HEAD, "EHLO CASE\r\n\r\n"),
        refused("other-redis", clause, HEAD, "*1\r\n$4\r\nPING\r\n\r\n"),
        refused("other-rtsp", "RFC 9112 2.3", HEAD, "OPTIONS /CASE RTSP/1.0\r\nHost: test\r\n\r\n"),
        refused("other-icap", "RFC 9112 2.3", HEAD, "REQMOD /CASE ICAP/1.0\r\nHost: test\r\n\r\n"),
    ]
}

fn readable() -> Vec<Case> {
    vec![
        last("line-http-1-0", "RFC 9110 2.5", "GET /CASE HTTP/1.0\r\nHost: test\r\n\r\n", get("/CASE")),
        last("line-http-1-0-without-host", "RFC 9112 3.2", "GET /CASE HTTP/1.0\r\n\r\n", get("/CASE").host("")),
        passed(
            "line-http-1-0-that-asks-to-be-kept",
            "RFC 9112 9.3",
            "GET /CASE HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n",
            get("/CASE"),
        ),
        passed(
            "line-method-few-know",
            "RFC 9110 9.1",
            "PROPFIND /CASE HTTP/1.1\r\nHost: test\r\n\r\n",
            get("/CASE").method("PROPFIND"),
        ),
    ]
}
