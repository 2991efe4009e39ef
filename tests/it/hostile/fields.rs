//! Field lines: a name that is a token, a colon right behind it, a value without control bytes, one line each. And the names
//! that only a gateway may use.

use super::case::{Case, EXPECTATION, HEAD, get, latin1, passed, post, refused};

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = lines().into_iter().map(broken).collect();
    cases.extend(claims());
    cases.extend(values());
    cases.extend(expectations());
    cases
}

type Row = (&'static str, &'static str, &'static str);

fn broken((name, clause, line): Row) -> Case {
    refused(name, clause, HEAD, latin1(&format!("GET /CASE HTTP/1.1\r\nHost: test\r\n{line}\r\n\r\n")))
}

fn lines() -> Vec<Row> {
    let colon = "RFC 9112 5.1";
    let fold = "RFC 9112 5.2";
    let name = "RFC 9110 5.1";
    let value = "RFC 9110 5.5";
    vec![
        ("field-space-before-colon", colon, "X-A : b"),
        ("field-tab-before-colon", colon, "X-A\t: b"),
        ("field-without-colon", colon, "X-A"),
        ("field-with-equals-sign", colon, "X-A=b"),
        ("field-of-a-space", colon, " "),
        ("field-without-name", name, ": b"),
        ("field-first-indented", "RFC 9112 2.2", " X-A: b"),
        ("field-folded", fold, "X-A: b\r\n c"),
        ("field-folded-by-tab", fold, "X-A: b\r\n\tc"),
        ("field-folded-before-value", fold, "X-A:\r\n b"),
        ("field-folded-empty", fold, "X-A: b\r\n "),
        ("field-folded-into-a-field", fold, "X-A: b\r\n Content-Length: 5"),
        ("field-name-with-space", name, "X A: b"),
        ("field-name-with-nul", name, "X-A\0: b"),
        ("field-name-with-control-byte", name, "X-\x01A: b"),
        ("field-name-with-carriage-return", name, "X-\rA: b"),
        ("field-name-with-delete", name, "X-A\x7f: b"),
        ("field-name-outside-ascii", name, "X-\u{c4}: b"),
        ("field-name-in-quotes", name, "\"X-A\": b"),
        ("field-name-with-parentheses", name, "X(A): b"),
        ("field-name-with-slash", name, "X/A: b"),
        ("field-name-with-brackets", name, "X[A]: b"),
        ("field-name-with-at-sign", name, "X@A: b"),
        ("field-name-with-comma", name, "X,A: b"),
        ("field-value-with-nul", value, "X-A: b\0c"),
        ("field-value-of-nul", value, "X-A: \0"),
        ("field-value-with-control-byte", value, "X-A: b\x01c"),
        ("field-value-with-backspace", value, "X-A: b\x08c"),
        ("field-value-with-vertical-tab", value, "X-A: b\x0bc"),
        ("field-value-with-form-feed", value, "X-A: b\x0cc"),
        ("field-value-with-escape", value, "X-A: \x1b[2J"),
        ("field-value-with-delete", value, "X-A: b\x7fc"),
        ("field-value-with-carriage-return", value, "X-A: b\rc"),
        ("field-value-with-field-after-carriage-return", value, "X-A: b\rX-Forwarded-For: 6.6.6.6"),
        ("field-value-with-head-after-carriage-return", value, "X-A: b\r\rGET /smuggled HTTP/1.1"),
        ("field-value-with-line-feed", "RFC 9112 2.2", "X-A: b\nX-B: c"),
        ("field-value-with-head-after-line-feed", "RFC 9112 2.2", "X-A: b\n\nGET /smuggled HTTP/1.1"),
        ("field-two-types", "RFC 9110 8.3", "Content-Type: application/json\r\nContent-Type: text/plain"),
        ("field-two-credentials", "RFC 9110 11.6.2", "Authorization: Basic YTpi\r\nauthorization: Basic Yzpk"),
        ("field-value-with-mark-of-unix-lines", "RFC 9112 2.2", "X-A: b\n"),
    ]
}

/// What servers and frameworks behind believe from whoever sends it.
fn claims() -> Vec<Case> {
    let head = "GET /CASE HTTP/1.1\r\nHost: test\r\n";
    let hygiene = "RFC 3875 4.1.18";
    let claim = "RFC 7239 8.1";
    let dropped = |name, clause, fields: &str| passed(name, clause, format!("{head}{fields}\r\n\r\n"), get("/CASE"));
    vec![
        dropped("claim-script-name", hygiene, "SCRIPT_NAME: /CASE"),
        dropped("claim-path-info", hygiene, "PATH_INFO: /smuggled\r\nREQUEST_URI: /smuggled\r\nRAW_URI: /smuggled"),
        dropped("claim-user", hygiene, "REMOTE_USER: admin\r\nREMOTE_ADDR: 6.6.6.6\r\nAUTH_TYPE: Basic"),
        dropped("claim-length-with-underscore", hygiene, "Content_Length: 5\r\nTransfer_Encoding: chunked"),
        dropped("claim-type-with-underscore", hygiene, "Content_Type: a/b\r\nHTTP_HOST: other.test"),
        dropped("claim-client-with-underscore", hygiene, "X_Forwarded_For: 6.6.6.6\r\nX-Real_IP: 6.6.6.6"),
        dropped("claim-client-with-dots", hygiene, "X.Forwarded.For: 6.6.6.6\r\nX!Real!IP: 6.6.6.6"),
        dropped("claim-names-of-odd-tokens", "RFC 9110 5.1", "$A: b\r\n|: b\r\n~`^: b\r\n': b\r\n*+#%&: b"),
        dropped("claim-client", claim, "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nX-Real-IP: 6.6.6.6"),
        dropped("claim-forwarded", claim, "Forwarded: for=6.6.6.6;proto=https;host=other.test;by=_x"),
        dropped("claim-scheme", claim, "X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: on\r\nFront-End-Https: on"),
        dropped("claim-scheme-as-a-list", claim, "X-Forwarded-Proto: https, http\r\nX-Forwarded-Protocol: ssl"),
        dropped("claim-prefix", claim, "X-Forwarded-Prefix: /smuggled\r\nX-Forwarded-Path: /smuggled"),
        dropped(
            "claim-path",
            claim,
            "X-Original-URL: /closed/x\r\nX-Rewrite-URL: /closed/x\r\nX-Original-URI: /closed/x",
        ),
        dropped("claim-file", claim, "X-Accel-Redirect: /etc\r\nX-Sendfile: /etc\r\nX-Sendfile-Type: X-Accel-Redirect"),
        dropped("claim-root-of-daphne", hygiene, "Daphne-Root-Path: /CASE\r\nX-Script-Name: /CASE"),
        dropped(
            "claim-client-certificate",
            claim,
            "X-Client-Cert: x\r\nX-Client-Verify: SUCCESS\r\nSSL-Client-Verify: SUCCESS\r\nX-SSL-Cert: x\r\nX-ARR-ClientCert: x",
        ),
        dropped("claim-proxy", hygiene, "Proxy: http://other.test:3128"),
        dropped(
            "claim-client-of-networks",
            claim,
            "CF-Connecting-IP: 6.6.6.6\r\nTrue-Client-IP: 6.6.6.6\r\nClient-IP: 6.6.6.6",
        ),
    ]
}

fn values() -> Vec<Case> {
    let head = "GET /CASE HTTP/1.1\r\nHost: test\r\n";
    let with = |name, clause, fields: &str, seen| passed(name, clause, format!("{head}{fields}\r\n\r\n"), seen);
    vec![
        with("value-in-white-space", "RFC 9112 5", "X-A: \t b \t ", get("/CASE").field("x-a", "b")),
        with("value-without-white-space", "RFC 9112 5", "X-A:b", get("/CASE").field("x-a", "b")),
        with("value-empty", "RFC 9110 5.5", "X-A:\r\nX-B: ", get("/CASE").field("x-a", "").field("x-b", "")),
        with(
            "value-of-several-cookies",
            "RFC 6265 5.4",
            "Cookie: a=b\r\nCookie: c=d",
            get("/CASE").field("cookie", "a=b; c=d"),
        ),
        with("value-of-colons", "RFC 9112 5", "X-A: : b:c", get("/CASE").field("x-a", ": b:c")),
        with(
            "value-in-several-lines",
            "RFC 9110 5.3",
            "X-A: b\r\nx-a: c\r\nX-A: d",
            get("/CASE").field("x-a", "b, c, d"),
        ),
        with(
            "value-like-a-request",
            "RFC 9110 5.5",
            "X-A: GET /x HTTP/1.1",
            get("/CASE").field("x-a", "GET /x HTTP/1.1"),
        ),
        with(
            "value-with-encoded-line-break",
            "RFC 9110 5.5",
            "X-A: b%0d%0aX: c",
            get("/CASE").field("x-a", "b%0d%0aX: c"),
        ),
        with("value-with-markup", "RFC 9110 5.5", "X-A: <\"'\\>", get("/CASE").field("x-a", "<\"'\\>")),
        passed(
            "value-outside-ascii",
            "RFC 9110 5.5",
            latin1(&format!("{head}X-Obs: b\u{e9}\u{80}\u{ff}\r\n\r\n")),
            get("/CASE").field("x-obs", "b\u{e9}\u{80}\u{ff}"),
        ),
    ]
}

fn expectations() -> Vec<Case> {
    let clause = "RFC 9110 10.1.1";
    let post_head = "POST /CASE HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n";
    let other =
        |name, value: &str| refused(name, clause, EXPECTATION, format!("{post_head}Expect: {value}\r\n\r\nhello"));
    vec![
        other("expect-other", "the-unexpected"),
        other("expect-empty", ""),
        other("expect-101", "101-switching"),
        other("expect-with-parameter", "100-continue;q=1"),
        other("expect-list", "100-continue, x"),
        other("expect-two-words", "y 100-continue"),
        other("expect-second-line", "100-continue\r\nExpect: x"),
        refused(
            "expect-space-before-colon",
            "RFC 9112 5.1",
            HEAD,
            format!("{post_head}Expect : 100-continue\r\n\r\nhello"),
        ),
        passed(
            "expect-continue",
            clause,
            format!("{post_head}Expect: 100-Continue\r\n\r\nhello"),
            post("/CASE", "hello"),
        ),
        passed(
            "expect-continue-without-body",
            clause,
            "GET /CASE HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\n\r\n",
            get("/CASE"),
        ),
    ]
}
