//! Heads and bodies that are too large are refused while they arrive; what fits every server behind goes through whole.

use super::case::{BODY, BODY_TOO_LARGE, Case, HEAD_TOO_LARGE, LINE_TOO_LONG, Seen, get, passed, post, refused};

/// The gateway's limit for the cases.
pub const MAX_BODY: usize = 64 * 1024;

pub fn cases() -> Vec<Case> {
    let mut cases = lines();
    cases.extend(heads());
    cases.extend(bodies());
    cases.extend(fitting());
    cases
}

fn a(count: usize) -> String {
    "a".repeat(count)
}

fn lines() -> Vec<Case> {
    let clause = "RFC 9112 3";
    let line = |name, line: String| {
        refused(name, clause, LINE_TOO_LONG, format!("{line}\r\nHost: test\r\nX-Case: CASE\r\n\r\n"))
    };
    vec![
        line("line-of-9-kb", format!("GET /CASE{} HTTP/1.1", a(9_000))),
        line("line-of-100-kb", format!("GET /CASE{} HTTP/1.1", a(100_000))),
        line("line-with-query-of-100-kb", format!("GET /CASE?{} HTTP/1.1", a(100_000))),
        line("line-with-method-of-100-kb", format!("{} /CASE HTTP/1.1", a(100_000))),
        line("line-with-version-of-100-kb", format!("GET /CASE HTTP/{}", "1".repeat(100_000))),
        line("line-with-url-of-100-kb", format!("GET http://{}/CASE HTTP/1.1", a(100_000))),
        line("line-with-100-kb-of-slashes", format!("GET /CASE{} HTTP/1.1", "/".repeat(100_000))),
        line("line-with-100-kb-of-spaces", format!("GET{}/CASE HTTP/1.1", " ".repeat(100_000))),
        refused("line-without-end", clause, LINE_TOO_LONG, format!("GET /CASE{}", a(20_000))),
    ]
}

fn heads() -> Vec<Case> {
    let clause = "RFC 9110 5.4";
    let head = |name, fields: &str| {
        refused(name, clause, HEAD_TOO_LARGE, format!("GET /CASE HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n"))
    };
    let many = |count: usize, value: &str| {
        let lines: Vec<_> = (0..count).map(|number| format!("X-{number}: {value}")).collect();
        lines.join("\r\n")
    };
    vec![
        head("field-of-100-kb", &format!("X-A: {}", a(100_000))),
        head("field-name-of-100-kb", &format!("{}: b", a(100_000))),
        head("field-of-9-kb", &format!("X-A: {}", a(9_000))),
        head("field-cookie-of-9-kb", &format!("Cookie: a={}", a(9_000))),
        head("field-host-of-9-kb", &format!("X-Host: {}", a(9_000))),
        head("field-of-100-kb-of-blanks", &format!("X-A:{}b", " ".repeat(100_000))),
        head("field-connection-of-100-kb", &format!("Connection: {}", "x,".repeat(50_000))),
        head("field-length-of-100-kb", &format!("Content-Length: {}5", "0".repeat(100_000))),
        head("fields-101", &many(100, "")),
        head("fields-1000", &many(1_000, "")),
        head("fields-of-no-use-1000", &"X_A: b\r\n".repeat(1_000)),
        head("fields-of-20-kb-together", &many(20, &a(1_000))),
        refused(
            "field-without-end",
            clause,
            HEAD_TOO_LARGE,
            format!("GET /CASE HTTP/1.1\r\nHost: test\r\nX: {}", a(20_000)),
        ),
    ]
}

fn bodies() -> Vec<Case> {
    let chunked = |body: &str| format!("POST /CASE HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let counted = |length: &str, more: &str| {
        format!("POST /CASE HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n{more}\r\nhello")
    };
    let too_large = |name, raw| refused(name, "RFC 9110 15.5.14", BODY_TOO_LARGE, raw);
    let extension = "RFC 9112 7.1.1";
    vec![
        too_large("body-announced-one-byte-too-large", counted(&(MAX_BODY + 1).to_string(), "")),
        too_large("body-announced-of-64-bits", counted("18446744073709551615", "")),
        too_large("body-announced-of-63-bits", counted("9223372036854775807", "")),
        too_large("body-announced-and-expected", counted("99999999", "Expect: 100-continue\r\n")),
        too_large(
            "body-in-one-chunk-too-large",
            chunked(&format!("{:x}\r\n{}\r\n0\r\n\r\n", MAX_BODY + 1, a(MAX_BODY + 1))),
        ),
        too_large("body-in-chunks-too-large", chunked(&format!("1000\r\n{}\r\n", a(4_096)).repeat(17))),
        refused(
            "chunk-extension-of-300-bytes",
            extension,
            BODY,
            chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", a(300))),
        ),
        refused(
            "chunk-extension-of-100-kb",
            extension,
            BODY,
            chunked(&format!("5;a=\"{}\"\r\nhello\r\n0\r\n\r\n", a(100_000))),
        ),
        refused("chunk-extension-without-end", extension, BODY, chunked(&format!("5;{}", a(1_000)))),
        refused("chunk-extensions-of-20-kb", extension, BODY, chunked(&format!("1;{}\r\nx\r\n", a(200)).repeat(100))),
        refused("chunk-size-without-end", "RFC 9112 7.1", BODY, chunked(&"0".repeat(1_000))),
        refused("chunk-trailer-of-9-kb", "RFC 9112 7.1.2", BODY, chunked(&format!("0\r\nX-A: {}\r\n\r\n", a(9_000)))),
        refused(
            "chunk-trailers-1000",
            "RFC 9112 7.1.2",
            BODY,
            chunked(&format!("0\r\n{}\r\n", "X-A: bcdef\r\n".repeat(1_000))),
        ),
        refused("chunk-trailer-without-end", "RFC 9112 7.1.2", BODY, chunked(&format!("0\r\nX-A: {}", a(20_000)))),
    ]
}

fn fitting() -> Vec<Case> {
    let mut many = get("/CASE");
    let mut lines = String::new();
    for number in 0..80 {
        many = many.field(&format!("x-field-{number}"), "b");
        lines += &format!("X-Field-{number}: b\r\n");
    }
    let path = format!("/CASE{}", a(2_000));
    let sizes: Vec<_> = (1..=200).map(|count| format!("{count:x}\r\n{}\r\n", a(count))).collect();
    let chunked =
        format!("POST /CASE HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", sizes.concat());
    let largest = |fields: &str, body: &str| format!("POST /CASE HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n{body}");
    let seen: Seen = post("/CASE", a(MAX_BODY));
    vec![
        passed("line-of-2-kb", "RFC 9112 3", format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"), get(&path)),
        passed(
            "field-of-2-kb",
            "RFC 9110 5.4",
            format!("GET /CASE HTTP/1.1\r\nHost: test\r\nX-A: {}\r\n\r\n", a(2_000)),
            get("/CASE").field("x-a", &a(2_000)),
        ),
        passed("fields-80", "RFC 9110 5.4", format!("GET /CASE HTTP/1.1\r\nHost: test\r\n{lines}\r\n"), many),
        passed("body-in-200-chunks", "RFC 9112 7.1", chunked, post("/CASE", a(200 * 201 / 2))),
        passed(
            "body-as-large-as-allowed",
            "RFC 9110 15.5.14",
            largest(&format!("Content-Length: {MAX_BODY}"), &a(MAX_BODY)),
            seen.clone(),
        ),
        passed(
            "body-in-chunks-as-large-as-allowed",
            "RFC 9110 15.5.14",
            largest(
                "Transfer-Encoding: chunked",
                &format!("{}0\r\n\r\n", format!("4000\r\n{}\r\n", a(16_384)).repeat(4)),
            ),
            seen,
        ),
    ]
}
