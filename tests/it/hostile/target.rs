//! The target: one of four forms, bytes that a URL may hold, and a path that means the same to the gateway's routes and to
//! the app.

use super::case::{Case, HOST, METHOD, TARGET, answered, get, latin1, passed, refused};

/// A route of the gateway that no request may get around.
pub const CLOSED: &str = "/closed/*";
/// A prefix that a route takes off.
pub const STRIPPED: &str = "/pre";

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = unreadable().into_iter().map(broken).collect();
    cases.extend(ambiguous_paths().into_iter().map(judged));
    cases.extend(closed_paths().into_iter().map(kept_out));
    cases.extend(unchanged_paths().into_iter().map(unchanged));
    cases.extend(others());
    cases
}

type Row = (&'static str, &'static str, &'static str);

fn request(target: &str) -> Vec<u8> {
    latin1(&format!("GET {target} HTTP/1.1\r\nHost: test\r\nX-Case: CASE\r\n\r\n"))
}

fn broken((name, clause, target): Row) -> Case {
    refused(name, clause, TARGET, request(target))
}

fn judged((name, clause, target): Row) -> Case {
    answered(name, clause, TARGET, request(target))
}

fn kept_out((name, target): (&'static str, &'static str)) -> Case {
    answered(name, "RFC 3986 6.2.2", (403, None), request(target))
}

fn unchanged((name, clause, target): Row) -> Case {
    passed(name, clause, request(target), get(target).field("x-case", "CASE"))
}

/// No target at all, to any reader of the head.
fn unreadable() -> Vec<Row> {
    vec![
        ("target-nul", "RFC 9112 3.2", "/CASE\0x"),
        ("target-control-byte", "RFC 9112 3.2", "/CASE\x01x"),
        ("target-tab", "RFC 9112 3.2", "/CASE\tx"),
        ("target-vertical-tab", "RFC 9112 3.2", "/CASE\x0bx"),
        ("target-carriage-return", "RFC 9112 2.2", "/CASE\rx"),
        ("target-escape", "RFC 9112 3.2", "/CASE\x1b[0m"),
        ("target-delete", "RFC 9112 3.2", "/CASE\x7f"),
        ("target-utf-8", "RFC 3986 2", "/CASE/\u{c3}\u{a9}"),
        ("target-latin-1", "RFC 3986 2", "/CASE/\u{e9}"),
        ("target-byte-ff-in-query", "RFC 3986 3.4", "/CASE?\u{ff}"),
        ("target-non-breaking-space", "RFC 3986 2", "/CASE\u{a0}x"),
        ("target-fragment", "RFC 9112 3.2", "/CASE#x"),
        ("target-fragment-before-query", "RFC 9112 3.2", "/CASE#x?y=1"),
        ("target-fragment-after-query", "RFC 9112 3.2", "/CASE?y=1#x"),
        ("target-fragment-empty", "RFC 9112 3.2", "/CASE#"),
        ("target-star-for-get", "RFC 9112 3.2.4", "*"),
        ("target-star-and-more", "RFC 9112 3.2.4", "*/CASE"),
        ("target-without-slash", "RFC 9112 3.2.1", "CASE/x"),
        ("target-query-alone", "RFC 9112 3.2.1", "?CASE"),
        ("target-dots-without-slash", "RFC 9112 3.2.1", "../CASE"),
        ("target-backslashes", "RFC 9112 3.2.1", "\\\\test\\CASE"),
        ("target-encoded-slash-first", "RFC 9112 3.2.1", "%2FCASE"),
        ("target-authority-form", "RFC 9112 3.2.3", "test:80"),
        ("target-of-ftp", "RFC 9110 4.2", "ftp://test/CASE"),
        ("target-of-file", "RFC 9110 4.2", "file:///etc/CASE"),
        ("target-of-websocket", "RFC 9110 4.2", "ws://test/CASE"),
        ("target-of-gopher", "RFC 9110 4.2", "gopher://test:6379/_CASE"),
        ("target-url-with-one-slash", "RFC 3986 3", "http:/test/CASE"),
        ("target-url-without-slashes", "RFC 3986 3", "http:test/CASE"),
        ("target-url-with-backslashes", "RFC 3986 3", "http:\\\\test\\CASE"),
        ("target-url-with-query-for-a-path", "RFC 9112 3.2.2", "http://test?CASE"),
        ("target-url-with-fragment", "RFC 9112 3.2.2", "http://test/CASE#x"),
        ("target-url-in-brackets", "RFC 3986 C", "<http://test/CASE>"),
    ]
}

/// Readable, but not the same to every reader.
fn ambiguous_paths() -> Vec<Row> {
    let dots = "RFC 3986 5.2.4";
    let encoded = "RFC 3986 6.2.2.2";
    let percent = "RFC 3986 2.1";
    vec![
        ("path-parent", dots, "/CASE/../closed/x"),
        ("path-parent-at-end", dots, "/CASE/.."),
        ("path-parent-at-root", dots, "/../CASE"),
        ("path-parent-before-query", dots, "/CASE/..?x"),
        ("path-parent-after-two-slashes", dots, "/CASE//../x"),
        ("path-same", dots, "/CASE/./x"),
        ("path-same-at-end", dots, "/CASE/."),
        ("path-parent-encoded", encoded, "/CASE/%2e%2e/closed/x"),
        ("path-parent-encoded-in-capitals", encoded, "/CASE/%2E%2E/closed/x"),
        ("path-parent-half-encoded", encoded, "/CASE/.%2e/x"),
        ("path-parent-other-half-encoded", encoded, "/CASE/%2E./x"),
        ("path-parent-with-encoded-slashes", encoded, "/CASE%2f..%2fclosed%2fx"),
        ("path-parent-before-encoded-slash", encoded, "/CASE/..%2Fx"),
        ("path-same-encoded", encoded, "/CASE/%2e/x"),
        ("path-parent-in-url", dots, "http://test/CASE/../x"),
        ("path-parent-in-url-without-path", dots, "http://test/../CASE"),
        ("path-nul-encoded", "RFC 3986 7.3", "/CASE%00.txt"),
        ("path-line-break-encoded", "RFC 3986 7.3", "/CASE%0d%0aX-A:%20b"),
        ("path-line-feed-encoded", "RFC 3986 7.3", "/CASE%0Ax"),
        ("path-carriage-return-encoded", "RFC 3986 7.3", "/CASE%0dx"),
        ("path-percent-alone", percent, "/CASE%"),
        ("path-percent-with-one-digit", percent, "/CASE%4"),
        ("path-percent-without-digits", percent, "/CASE%zz"),
        ("path-percent-with-sign", percent, "/CASE%+41"),
        ("path-percent-of-windows", percent, "/CASE%u002e%u002e/x"),
        ("path-percent-twice", percent, "/CASE%%32e"),
        ("path-backslash", "RFC 3986 3.3", "/CASE\\..\\x"),
        ("path-stripped-by-encoded-slash", encoded, "/pre%2FCASE"),
    ]
}

/// Every way to write a path that a route closes.
fn closed_paths() -> Vec<(&'static str, &'static str)> {
    vec![
        ("closed-plain", "/closed/CASE"),
        ("closed-letter-encoded", "/%63losed/CASE"),
        ("closed-all-encoded", "/%63%6c%6F%73%65%64/CASE"),
        ("closed-slash-encoded", "/closed%2FCASE"),
        ("closed-two-slashes-in-front", "//closed/CASE"),
        ("closed-slash-encoded-in-front", "/%2fclosed/CASE"),
        ("closed-three-slashes-behind", "/closed///CASE"),
        ("closed-in-url", "http://test/closed/CASE"),
        ("closed-in-url-with-two-slashes", "http://test//closed/CASE"),
        ("closed-with-url-in-query", "/closed/CASE?http://test/open"),
    ]
}

/// Strange, with one reading: the app gets the client's bytes.
fn unchanged_paths() -> Vec<Row> {
    vec![
        ("path-double-encoded", "RFC 3986 2.4", "/CASE/%252e%252e/x"),
        ("path-double-encoded-closed", "RFC 3986 2.4", "/closed%252FCASE"),
        ("path-encoded-slash", "RFC 3986 2.2", "/CASE%2Fx"),
        ("path-encoded-backslash", "RFC 3986 2.2", "/CASE%5C..%5Cx"),
        ("path-encoded-question-mark", "RFC 3986 2.2", "/CASE%3Fx%23y"),
        ("path-encoded-letter", "RFC 3986 2.3", "/CASE%41"),
        ("path-encoded-utf-8", "RFC 3986 2.5", "/CASE/%C3%A9"),
        ("path-encoded-no-utf-8", "RFC 3986 2.5", "/CASE/%ff"),
        ("path-dots-in-overlong-utf-8", "RFC 3629 3", "/CASE/%c0%ae%c0%ae/x"),
        ("path-dots-with-parameter", "RFC 3986 3.3", "/CASE/..;/x"),
        ("path-three-dots", "RFC 3986 3.3", "/CASE/.../x"),
        ("path-two-slashes", "RFC 3986 3.3", "/CASE//x"),
        ("path-parameters", "RFC 3986 3.3", "/CASE;p=1/x;q"),
        ("path-second-question-mark", "RFC 3986 3.4", "/CASE?a?b"),
        ("path-bad-percent-in-query", "RFC 3986 3.4", "/CASE?x=%zz&y=%"),
        ("path-dots-in-query", "RFC 3986 3.4", "/CASE?/../x"),
        ("path-url-in-query", "RFC 3986 3.4", "/CASE?u=http://other.test/"),
        ("path-line-break-in-query", "RFC 3986 3.4", "/CASE?x=%0d%0aX-A:%20b"),
    ]
}

fn others() -> Vec<Case> {
    let absolute = "RFC 9112 3.2.2";
    vec![
        refused("target-connect", "RFC 9110 9.3.6", METHOD, "CONNECT test:443 HTTP/1.1\r\nHost: test:443\r\n\r\n"),
        refused("target-connect-of-a-path", "RFC 9110 9.3.6", METHOD, "CONNECT /CASE HTTP/1.1\r\nHost: test\r\n\r\n"),
        refused("target-star-for-post", "RFC 9112 3.2.4", TARGET, "POST * HTTP/1.1\r\nHost: test\r\n\r\n"),
        answered("target-star-for-options", "RFC 9112 3.2.4", (204, None), "OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n"),
        passed(
            "path-host-in-front",
            "RFC 9112 3.2.1",
            "GET //other.test/CASE HTTP/1.1\r\nHost: test\r\n\r\n",
            get("//other.test/CASE"),
        ),
        passed(
            "path-markup",
            "RFC 3986 2",
            "GET /CASE/\"<x>`?\"<y>` HTTP/1.1\r\nHost: test\r\n\r\n",
            get("/CASE/%22%3Cx%3E%60?%22%3Cy%3E%60"),
        ),
        passed(
            "target-url",
            absolute,
            "GET http://other.test/CASE?x=1 HTTP/1.1\r\nHost: test\r\n\r\n",
            get("/CASE?x=1").host("other.test"),
        ),
        passed(
            "target-url-in-capitals-with-port",
            absolute,
            "GET HTTP://Other.Test:81/CASE HTTP/1.1\r\nHost: test\r\n\r\n",
            get("/CASE").host("Other.Test:81"),
        ),
        passed(
            "target-url-of-https",
            absolute,
            "GET https://other.test/CASE HTTP/1.1\r\nHost: test\r\n\r\n",
            get("/CASE").host("other.test"),
        ),
        passed(
            "target-url-without-path",
            absolute,
            "GET http://other.test HTTP/1.1\r\nHost: test\r\nX-Case: CASE\r\n\r\n",
            get("/").host("other.test").field("x-case", "CASE"),
        ),
        passed(
            "target-url-of-a-url",
            absolute,
            "GET http://other.test/http://third.test/CASE HTTP/1.1\r\nHost: test\r\n\r\n",
            get("/http://third.test/CASE").host("other.test"),
        ),
        refused("target-url-with-user", absolute, HOST, "GET http://u@test/CASE HTTP/1.1\r\nHost: test\r\n\r\n"),
        refused("target-url-with-password", absolute, HOST, "GET http://u:p@test/CASE HTTP/1.1\r\nHost: test\r\n\r\n"),
        refused("target-url-without-host", absolute, HOST, "GET http:///CASE HTTP/1.1\r\nHost: test\r\n\r\n"),
        refused("target-url-with-port-alone", absolute, HOST, "GET http://:80/CASE HTTP/1.1\r\nHost: test\r\n\r\n"),
        refused("target-url-with-two-hosts", absolute, HOST, "GET http://a,b/CASE HTTP/1.1\r\nHost: test\r\n\r\n"),
        refused(
            "target-url-with-backslash-in-host",
            absolute,
            HOST,
            "GET http://test\\@other.test/CASE HTTP/1.1\r\nHost: test\r\n\r\n",
        ),
        refused(
            "target-url-with-encoded-host",
            absolute,
            HOST,
            "GET http://te%73t/CASE HTTP/1.1\r\nHost: test\r\n\r\n",
        ),
        refused("target-url-without-host-field", "RFC 9112 3.2", HOST, "GET http://test/CASE HTTP/1.1\r\n\r\n"),
        refused(
            "target-url-with-invalid-host-field",
            "RFC 9112 3.2",
            HOST,
            "GET http://test/CASE HTTP/1.1\r\nHost: a,b\r\n\r\n",
        ),
        refused(
            "target-url-with-empty-host-field",
            "RFC 9112 3.2",
            HOST,
            "GET http://test/CASE HTTP/1.1\r\nHost:\r\n\r\n",
        ),
        refused(
            "target-url-with-two-host-fields",
            "RFC 9112 3.2",
            HOST,
            "GET http://test/CASE HTTP/1.1\r\nHost: test\r\nHost: test\r\n\r\n",
        ),
    ]
}
