//! Heads that are read, and heads that are refused.

use super::*;
use proptest::prelude::*;

const LIMITS: HeadLimits = HeadLimits { request_line_max: 100, header_max: 400, field_max: 120, headers_max: 8 };

/// Feeds `input` in pieces; the head and what was left over.
fn read_in(input: &[u8], piece: usize) -> Result<Option<(Head, Vec<u8>)>, Rejection> {
    let mut reader = HeadReader::default();
    let mut buf = BytesMut::new();
    for piece in input.chunks(piece.max(1)) {
        buf.extend_from_slice(piece);
        if let Some(head) = reader.read(&mut buf, &LIMITS)? {
            let mut left = buf.to_vec();
            let consumed = head_length(input);
            left.truncate(input.len() - consumed);
            return Ok(Some((head, left)));
        }
    }
    Ok(None)
}

fn head_length(input: &[u8]) -> usize {
    input.windows(4).position(|w| w == b"\r\n\r\n").map_or(input.len(), |at| at + 4)
}

fn read(input: &str) -> Head {
    read_in(input.as_bytes(), usize::MAX).unwrap().unwrap().0
}

/// The reason it is refused with, however it arrives.
fn refused(input: &[u8]) -> Reason {
    let whole = read_in(input, usize::MAX);
    let drip = read_in(input, 1);
    let reason = |result: Result<Option<(Head, Vec<u8>)>, Rejection>| match result {
        Err(rejection) => rejection.reason,
        Ok(head) => panic!("accepted {:?}: {head:?}", input.escape_ascii().to_string()),
    };
    let (whole, drip) = (reason(whole), reason(drip));
    assert_eq!(whole, drip, "{:?}", input.escape_ascii().to_string());
    whole
}

fn names(head: &Head) -> Vec<&str> {
    let mut names: Vec<_> = head.request.headers.names().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn an_ordinary_request() {
    let head = read("GET /a?b=c HTTP/1.1\r\nHost: h:1\r\nX-A: 1 \r\nAccept:*/*\r\n\r\n");
    assert_eq!(head.request.method, Method::GET);
    assert_eq!(head.request.target, &b"/a?b=c"[..]);
    assert_eq!(head.host.unwrap(), "h:1");
    assert_eq!(head.request.headers.get("x-a").unwrap(), "1");
    assert_eq!(head.body, BodyReader::Done);
    assert!(head.keep_alive && !head.expects_continue);
    assert_eq!(head.size, HeadSize { request_line: 19, longest_field: 10, fields: 3 });
}

#[test]
fn the_rest_of_the_buffer_is_the_next_request() {
    let (_, left) = read_in(b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET /2", usize::MAX).unwrap().unwrap();
    assert_eq!(left, b"GET /2");
}

#[test]
fn one_empty_line_before_is_overlooked_and_two_are_not() {
    read("\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(refused(b"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"), Reason::MalformedHead);
}

#[test]
fn persistence_by_version_and_field() {
    for (text, keep) in [
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: Close\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, close\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nHost: h\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
        ("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", false),
    ] {
        assert_eq!(read(text).keep_alive, keep, "{text}");
    }
}

#[test]
fn bodies_are_framed_one_way() {
    let body = |fields: &str| read(&format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n")).body;
    assert_eq!(body(""), BodyReader::Done);
    assert_eq!(body("Content-Length: 0\r\n"), BodyReader::Done);
    assert_eq!(body("Content-Length: 007\r\n"), BodyReader::Length(7));
    assert_eq!(body("Transfer-Encoding: Chunked\r\n"), BodyReader::chunked());
}

#[test]
fn ambiguous_framing_is_refused() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 5 5",
        "Content-Length: 0x5",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding:",
    ] {
        let text = format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
        assert_eq!(refused(text.as_bytes()), Reason::BadFraming, "{fields}");
    }
    assert_eq!(refused(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Reason::BadFraming);
}

#[test]
fn what_is_no_head_is_refused() {
    for text in [
        "GET / HTTP/1.1\nHost: h\n\n",
        "GET / HTTP/1.1\r\nHost: h\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n\n",
        "GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: h\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET\t/\tHTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /\r\nHost: h\r\n\r\n",
        "GET / http/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.x\r\nHost: h\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : h\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n\tfolded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nnothing\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n: empty\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nA B: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX[]: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX_\u{e9}: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\x7fb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\x01\r\n\r\n",
    ] {
        assert_eq!(refused(text.as_bytes()), Reason::MalformedHead, "{text:?}");
    }
    for text in
        ["GET / HTTP/2.0\r\nHost: h\r\n\r\n", "GET / HTTP/1.2\r\nHost: h\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        assert_eq!(refused(text.as_bytes()), Reason::VersionNotSupported, "{text:?}");
    }
}

#[test]
fn hosts_are_there_once() {
    for text in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: a,b\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost:\r\n\r\n",
        "GET http://a/ HTTP/1.0\r\nHost: a/b\r\n\r\n",
    ] {
        assert_eq!(refused(text.as_bytes()), Reason::BadHost, "{text:?}");
    }
    assert_eq!(read("GET / HTTP/1.0\r\n\r\n").host, None);
    assert_eq!(read("GET http://a/ HTTP/1.0\r\n\r\n").host, Some(HeaderValue::from_static("a")));
}

#[test]
fn targets_take_the_form_their_method_asks_for() {
    let head = read("GET http://other:8/p?q HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(head.request.target, &b"/p?q"[..]);
    assert_eq!(head.host.unwrap(), "other:8");
    assert_eq!(head.request.headers.get("host").unwrap(), "other:8");
    assert_eq!(read("GET HTTPS://other HTTP/1.1\r\nHost: h\r\n\r\n").request.target, &b"/"[..]);
    assert_eq!(read("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").request.target, &b"*"[..]);
    let head = read("GET /<\"`>?<\"`>{}|^[] HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(head.request.target, &b"/%3C%22%60%3E?%3C%22%60%3E{}|^[]"[..]);
    assert_eq!((&head.target[..], head.size.request_line), (b"/<\"`>?<\"`>{}|^[]".as_slice(), 45));
    for text in [
        "GET *",
        "GET a/b",
        "GET ?x",
        "GET ftp://h/",
        "GET http://h?x",
        "GET /a#b",
        "GET /?#",
        "GET http://h/#",
        "GET /a\x01b",
        "GET /a\0b",
        "GET /\u{e9}",
        "GET /\x7f",
    ] {
        let text = format!("{text} HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(refused(text.as_bytes()), Reason::BadTarget, "{text:?}");
    }
    for target in ["h:443", "/", "*"] {
        let text = format!("CONNECT {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(refused(text.as_bytes()), Reason::MethodNotAllowed, "{text:?}");
    }
}

#[test]
fn fields_that_must_not_reach_the_app_do_not() {
    let head = read(
        "GET / HTTP/1.1\r\nHost: h\r\nX_Forwarded_For: 6\r\nX.Real.IP: 6\r\nX-Real-IP: 6\r\nX-Forwarded-For: 6\r\nTE: trailers\r\nX-A: 1\r\n\r\n",
    );
    assert_eq!(names(&head), ["host", "x-a"]);
    assert_eq!(head.dropped, Dropped { name: 2, spoofable: 1 });
    assert_eq!(head.claims.len(), 1);
}

#[test]
fn connection_takes_its_fields_along_and_no_framing() {
    let head = read(
        "POST / HTTP/1.1\r\nHost: h\r\nConnection: x-a, Host, content-length\r\nX-A: 1\r\nX-B: 2\r\nContent-Length: 3\r\n\r\n",
    );
    assert_eq!(names(&head), ["content-length", "host", "x-b"]);
}

#[test]
fn one_empty_line_before_a_head_is_overlooked_however_it_arrives() {
    let text = b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n";
    for piece in [1, 2, 3, usize::MAX] {
        assert_eq!(read_in(text, piece).unwrap().unwrap().0.request.method, Method::GET, "{piece}");
    }
    assert_eq!(refused(b"\r\n\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"), Reason::MalformedHead);
}

#[test]
fn only_one_expectation_is_known() {
    let head = read("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n");
    assert!(head.expects_continue && !head.request.headers.contains("expect"));
    assert!(!read("GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n").expects_continue);
    assert_eq!(refused(b"GET / HTTP/1.1\r\nHost: h\r\nExpect: tea\r\n\r\n"), Reason::ExpectationFailed);
}

#[test]
fn each_limit_has_its_own_answer() {
    let line = format!("GET /{} HTTP/1.1\r\n", "a".repeat(100));
    assert_eq!(refused(line.as_bytes()), Reason::RequestLineTooLong);
    assert_eq!(refused("G".repeat(500).as_bytes()), Reason::RequestLineTooLong);
    let field = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "a".repeat(130));
    assert_eq!(refused(field.as_bytes()), Reason::HeadTooLarge);
    let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: a\r\n".repeat(8));
    assert_eq!(refused(many.as_bytes()), Reason::HeadTooLarge);
    let large = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", format!("X: {}\r\n", "a".repeat(100)).repeat(4));
    assert_eq!(refused(large.as_bytes()), Reason::HeadTooLarge);
    let exact = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: a\r\n".repeat(7));
    assert_eq!(read(&exact).size.fields, 8);
}

proptest! {
    #[test]
    fn no_input_panics(input in prop::collection::vec(any::<u8>(), 0..500), piece in 1_usize..50) {
        let _ = read_in(&input, piece);
    }

    #[test]
    fn how_it_arrives_does_not_matter(
        method in "[A-Z]{1,8}",
        target in "/[ -~]{0,20}",
        fields in prop::collection::vec(("[A-Za-z_-]{1,12}", "[ -~\t]{0,20}"), 0..6),
        piece in 1_usize..30,
    ) {
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n");
        for (name, value) in &fields {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let outcome = |piece| read_in(text.as_bytes(), piece).map(|head| head.map(|(head, left)| {
            (head.request.headers.clone(), head.body, head.keep_alive, head.size, left)
        }));
        prop_assert_eq!(outcome(usize::MAX), outcome(piece));
    }
}
