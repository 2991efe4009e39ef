//! Host: one field, one host, and nothing in it that one reader takes for the host and another for something else.

use super::case::{Case, HEAD, HOST, get, latin1, passed, refused};

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = values().into_iter().map(bad).collect();
    cases.extend(fields());
    cases.extend(good().into_iter().map(unchanged));
    cases
}

type Row = (&'static str, &'static str, &'static str);

fn bad((name, clause, value): Row) -> Case {
    refused(name, clause, HOST, latin1(&format!("GET /CASE HTTP/1.1\r\nHost:{value}\r\n\r\n")))
}

fn unchanged((name, clause, value): Row) -> Case {
    passed(name, clause, format!("GET /CASE HTTP/1.1\r\nHost: {value}\r\n\r\n"), get("/CASE").host(value))
}

fn values() -> Vec<Row> {
    let host = "RFC 9112 3.2";
    let uri = "RFC 3986 3.2.2";
    let port = "RFC 3986 3.2.3";
    vec![
        ("host-empty", host, ""),
        ("host-blank", host, " \t "),
        ("host-with-path", host, " test/x"),
        ("host-with-slash", host, " test/"),
        ("host-with-query", host, " test?x"),
        ("host-with-fragment", host, " test#x"),
        ("host-with-comma", host, " test,other.test"),
        ("host-list", host, " test, other.test"),
        ("host-with-user", "RFC 9110 4.2.4", " user@test"),
        ("host-with-password", "RFC 9110 4.2.4", " user:secret@test"),
        ("host-after-at-sign", "RFC 9110 4.2.4", " test@other.test"),
        ("host-with-space", uri, " test other.test"),
        ("host-with-tab", uri, " test\tother.test"),
        ("host-with-backslash", uri, " test\\other.test"),
        ("host-as-url", uri, " http://test"),
        ("host-after-slashes", uri, " //test"),
        ("host-percent-encoded", uri, " te%73t"),
        ("host-with-semicolon", uri, " test;x"),
        ("host-wildcard", uri, " *"),
        ("host-in-quotes", uri, " \"test\""),
        ("host-markup", uri, " <script>"),
        ("host-template", uri, " ${jndi:x}"),
        ("host-outside-ascii", uri, " t\u{e9}st"),
        ("host-empty-label", "RFC 1034 3.1", " a..b"),
        ("host-dot-alone", "RFC 1034 3.1", " ."),
        ("host-dot-in-front", "RFC 1034 3.1", " .test"),
        ("host-port-empty", port, " test:"),
        ("host-port-zero", port, " test:0"),
        ("host-port-too-large", port, " test:65536"),
        ("host-port-word", port, " test:http"),
        ("host-port-with-sign", port, " test:+80"),
        ("host-port-twice", port, " test:80:80"),
        ("host-port-alone", port, " :80"),
        ("host-port-with-at-sign", port, " test:80@other.test"),
        ("host-ipv6-without-brackets", uri, " ::1"),
        ("host-ipv6-half-open", uri, " [::1"),
        ("host-ipv6-with-zone", "RFC 6874 2", " [fe80::1%25lo]"),
        ("host-ipv6-and-more", uri, " [::1].other.test"),
        ("host-brackets-around-a-name", uri, " [test]"),
    ]
}

fn fields() -> Vec<Case> {
    let one = "RFC 9112 3.2";
    let line = "GET /CASE HTTP/1.1\r\n";
    let bad = |name, fields: &str| refused(name, one, HOST, format!("{line}{fields}\r\n\r\n"));
    let broken = |name, clause, fields: &str| refused(name, clause, HEAD, format!("{line}{fields}\r\n\r\n"));
    vec![
        bad("host-missing", "X-A: b"),
        bad("host-misspelt", "Host-: test"),
        bad("host-with-underscore-alone", "Host_: test"),
        bad("host-twice", "Host: test\r\nHost: test"),
        bad("host-twice-differently", "Host: test\r\nHost: other.test"),
        bad("host-twice-in-other-case", "Host: test\r\nhOST: other.test"),
        bad("host-twice-apart", "Host: test\r\nX-A: b\r\nHost: other.test"),
        bad("host-three-times", "Host: test\r\nHost: test\r\nHost: test"),
        bad("host-and-an-empty-one", "Host: test\r\nHost:"),
        bad("host-after-an-empty-one", "Host:\r\nHost: test"),
        broken("host-space-before-colon", "RFC 9112 5.1", "Host : test"),
        broken("host-second-with-space-before-colon", "RFC 9112 5.1", "Host: test\r\nHost : other.test"),
        broken("host-second-with-space-in-front", "RFC 9112 5.2", "Host: test\r\n Host: other.test"),
        broken("host-folded", "RFC 9112 5.2", "Host: test\r\n .other.test"),
        broken("host-with-nul", "RFC 9110 5.5", "Host: test\0other.test"),
        broken("host-with-carriage-return", "RFC 9110 5.5", "Host: test\rHost: other.test"),
        refused("host-twice-in-http-1-0", one, HOST, "GET /CASE HTTP/1.0\r\nHost: test\r\nHost: test\r\n\r\n"),
        passed(
            "host-claimed-by-other-names",
            "RFC 9110 7.2",
            format!(
                "{line}Host: test\r\nHost_: a.test\r\nX-Host: b.test\r\nX-Forwarded-Host: c.test\r\nX_Forwarded_Host: \
                 d.test\r\nX-Original-Host: e.test\r\nForwarded: host=f.test\r\nX-Forwarded-Server: g.test\r\n\r\n"
            ),
            get("/CASE").field("x-host", "b.test"),
        ),
    ]
}

fn good() -> Vec<Row> {
    let kept = "RFC 9110 7.2";
    vec![
        ("host-in-capitals", kept, "TeSt.Example"),
        ("host-with-port", kept, "test:8443"),
        ("host-with-dot-at-end", kept, "test.:443"),
        ("host-ipv4", kept, "127.0.0.1:80"),
        ("host-ipv6", kept, "[2001:db8::1]:80"),
        ("host-with-underscore", kept, "app_1.test"),
    ]
}
