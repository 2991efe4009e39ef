//! Requests that are malformed (RFC 9113 section 8), or mean two things: refused before the app is asked, each alone where its
//! connection can go on.

use super::{PLAIN, secured};
use crate::harness::http2_frames::{DATA, END_STREAM, Fate, Http2Frames, frame, headers};
use crate::harness::{Address, Client, Gateway, Origin};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What a client is to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// The app's answer; the app was asked for this target.
    Passes(&'static str),
    /// Ours.
    Status(u16),
    /// The stream is reset.
    Reset,
    /// The connection ends: what was received cannot be told from what follows it.
    GoneAway,
}
use Seen::{GoneAway, Passes, Reset, Status};

type Field = (Vec<u8>, Vec<u8>);

/// A head, and a body where there is one.
struct Case {
    what: &'static str,
    fields: Vec<Field>,
    body: Option<&'static [u8]>,
    seen: Seen,
}

fn field(name: &str, value: &str) -> Field {
    (name.as_bytes().to_vec(), value.as_bytes().to_vec())
}

/// A plain request; each of `changes` takes the place of the field of that name, or comes after all others.
fn head(changes: &[(&str, Option<&str>)]) -> Vec<Field> {
    let plain = [(":method", "GET"), (":scheme", "https"), (":authority", "test"), (":path", "/x")];
    let mut fields: Vec<Field> = Vec::new();
    for (name, value) in plain {
        match changes.iter().find(|change| change.0 == name) {
            Some((_, Some(other))) => fields.push(field(name, other)),
            Some((_, None)) => {}
            None => fields.push(field(name, value)),
        }
    }
    let others = changes.iter().filter(|change| !plain.iter().any(|(name, _)| *name == change.0));
    fields.extend(others.map(|(name, value)| field(name, value.unwrap())));
    fields
}

fn case(what: &'static str, changes: &[(&str, Option<&str>)], seen: Seen) -> Case {
    Case { what, fields: head(changes), body: None, seen }
}

/// A POST with a body and these fields more.
fn post(what: &'static str, more: &[(&str, &str)], body: &'static [u8], seen: Seen) -> Case {
    let more: Vec<_> = more.iter().map(|(name, value)| (*name, Some(*value))).collect();
    let fields = head(&[&[(":method", Some("POST"))], &more[..]].concat());
    Case { what, fields, body: Some(body), seen }
}

fn judge(cases: &[Case]) {
    let origin = Origin::fixed(OK);
    let gateway = secured(PLAIN).set("app", origin.address()).start();
    let mut wrong = Vec::new();
    for case in cases {
        let before = origin.requests().len();
        let mut client = gateway.frames();
        let got = match offer(&mut client, case) {
            Fate::Answered { status: 200, .. } => {
                let target = origin.wait_for_requests(before + 1)[before].target.clone();
                Passes(target.leak())
            }
            Fate::Answered { status, .. } => Status(status),
            Fate::Reset(_) => Reset,
            Fate::GoneAway(_) | Fate::Closed => GoneAway,
        };
        if got != case.seen {
            wrong.push(format!("{}: {got:?} instead of {:?}", case.what, case.seen));
        }
        if !matches!(got, GoneAway) {
            let after = client.get(3, "/after");
            if !matches!(after, Fate::Answered { status: 200, .. }) {
                wrong.push(format!("{}: {after:?} afterwards", case.what));
            }
        }
        let reached = origin.requests()[before..].iter().filter(|request| request.target != "/after").count();
        if reached != usize::from(matches!(case.seen, Passes(_))) {
            wrong.push(format!("{}: {reached} requests reached the app", case.what));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn offer(client: &mut Http2Frames, case: &Case) -> Fate {
    let ends = if case.body.is_some() { 0 } else { END_STREAM };
    let mut bytes = headers(1, ends, &case.fields);
    if let Some(body) = case.body {
        bytes.extend(frame(DATA, END_STREAM, 1, body));
    }
    client.send(bytes);
    client.fate(1)
}

#[test]
fn the_host_is_said_once() {
    judge(&[
        case("the same", &[("host", Some("test"))], Passes("/x")),
        case("the same in capitals", &[("host", Some("TEST"))], Passes("/x")),
        case("Host alone", &[(":authority", None), ("host", Some("test"))], Passes("/x")),
        case("another", &[("host", Some("other"))], Status(400)),
        case("with a port", &[("host", Some("test:443"))], Status(400)),
        case("none", &[(":authority", None)], Status(400)),
        case("an empty Host alone", &[(":authority", None), ("host", Some(""))], Status(400)),
        case("an empty Host", &[("host", Some(""))], Status(400)),
        case("two", &[("host", Some("test")), ("host", Some("test"))], Status(400)),
        case("two alone", &[(":authority", None), ("host", Some("test")), ("host", Some("test"))], Status(400)),
        case("userinfo", &[(":authority", Some("me@test"))], Status(400)),
        case("a path", &[(":authority", Some("test/x"))], Reset),
        case("a comma", &[(":authority", Some("test,other"))], Status(400)),
        case("a space", &[(":authority", Some("te st"))], Reset),
        case("empty", &[(":authority", Some(""))], Reset),
        case("no port", &[(":authority", Some("test:99999"))], Status(400)),
        case("a Host with a path", &[(":authority", None), ("host", Some("test/x"))], Status(400)),
        case("a Host with a comma", &[(":authority", None), ("host", Some("a,b"))], Status(400)),
        case("a Host with userinfo", &[(":authority", None), ("host", Some("me@test"))], Status(400)),
        case("a name that is none", &[(":authority", Some("te_st\"<>"))], Reset),
        case("twice", &[(":authority ", Some("test"))], GoneAway),
    ]);
}

#[test]
fn the_target_is_a_path() {
    judge(&[
        case("http", &[(":scheme", Some("http"))], Passes("/x")),
        case("another scheme", &[(":scheme", Some("ftp"))], Status(400)),
        case("a scheme that is none", &[(":scheme", Some("ht tp"))], Reset),
        case("an empty scheme", &[(":scheme", Some(""))], Status(400)),
        case("no scheme", &[(":scheme", None)], Reset),
        case("no path", &[(":path", None)], Reset),
        case("no path and no host", &[(":path", None), (":authority", None), ("host", Some("test"))], Status(400)),
        case("an empty path", &[(":path", Some(""))], Reset),
        case("an asterisk", &[(":path", Some("*"))], Status(400)),
        case("an asterisk of OPTIONS", &[(":method", Some("OPTIONS")), (":path", Some("*"))], Status(204)),
        case("no slash", &[(":path", Some("x"))], Reset),
        case("a query alone", &[(":path", Some("?x"))], Status(400)),
        case("a URL", &[(":path", Some("https://test/x"))], Reset),
        case("two slashes", &[(":path", Some("//other/x"))], Passes("//other/x")),
        case("a space", &[(":path", Some("/a b"))], Reset),
        case("a tab", &[(":path", Some("/a\tb"))], Reset),
        case("a line", &[(":path", Some("/a\r\nX: y"))], Reset),
        case("NUL", &[(":path", Some("/a\0b"))], Reset),
        case("DEL", &[(":path", Some("/a\x7fb"))], Reset),
        case("encoded NUL", &[(":path", Some("/a%00b"))], Status(400)),
        case("half an escape", &[(":path", Some("/a%4"))], Status(400)),
        case("a dot segment", &[(":path", Some("/a/../b"))], Status(400)),
        case("an encoded dot segment", &[(":path", Some("/a/%2e%2E/b"))], Status(400)),
        case("a byte outside ASCII", &[(":path", Some("/\u{e9}"))], Status(400)),
        // The library drops it before it can be seen; what is left is what is routed and what the app gets.
        case("a fragment", &[(":path", Some("/a#b"))], Passes("/a")),
        case("a fragment alone", &[(":path", Some("#x"))], Passes("/")),
        case("quotes", &[(":path", Some("/a\"b"))], Passes("/a%22b")),
        case("braces", &[(":path", Some("/{a}|b"))], Passes("/{a}|b")),
    ]);
}

#[test]
fn methods_and_pseudo_fields_are_as_they_must_be() {
    judge(&[
        case("no method", &[(":method", None)], Reset),
        case("an empty method", &[(":method", Some(""))], GoneAway),
        case("a method with a space", &[(":method", Some("GET /y HTTP/1.1"))], GoneAway),
        case("a method with a line", &[(":method", Some("GET\r\n"))], GoneAway),
        case("an unknown method", &[(":method", Some("BREW"))], Passes("/x")),
        case(
            "CONNECT",
            &[(":method", Some("CONNECT")), (":scheme", None), (":path", None), (":authority", Some("test:80"))],
            Status(405),
        ),
        case("CONNECT with a path", &[(":method", Some("CONNECT"))], Reset),
        case("a WebSocket", &[(":method", Some("CONNECT")), (":protocol", Some("websocket"))], Reset),
        case("a protocol alone", &[(":protocol", Some("websocket"))], Reset),
        case("an unknown pseudo field", &[(":unknown", Some("1"))], GoneAway),
        case("one of responses", &[(":status", Some("200"))], Reset),
        case("two paths", &[("x-one", Some("1")), (":path ", Some("/y"))], GoneAway),
        Case {
            what: "a pseudo field after others",
            fields: [head(&[(":path", None)]), vec![field("x-one", "1"), field(":path", "/x")]].concat(),
            body: None,
            seen: Reset,
        },
        Case {
            what: "a pseudo field twice",
            fields: [head(&[]), vec![field(":path", "/y")]].concat(),
            body: None,
            seen: Reset,
        },
    ]);
}

#[test]
fn fields_are_as_they_must_be() {
    judge(&[
        case("capitals", &[("X-One", Some("1"))], GoneAway),
        case("a space in a name", &[("x one", Some("1"))], GoneAway),
        case("a colon in a name", &[("x:one", Some("1"))], GoneAway),
        case("a line in a name", &[("x\r\none", Some("1"))], GoneAway),
        case("an empty name", &[("", Some("1"))], GoneAway),
        case("a quote in a name", &[("x\"one", Some("1"))], Status(400)),
        case("an underscore in a name", &[("x_one", Some("1"))], Passes("/x")),
        case("a line in a value", &[("x-one", Some("1\r\nx-two: 2"))], GoneAway),
        case("CR in a value", &[("x-one", Some("1\r2"))], GoneAway),
        case("LF in a value", &[("x-one", Some("1\n2"))], GoneAway),
        case("NUL in a value", &[("x-one", Some("1\x002"))], GoneAway),
        case("a space before a value", &[("x-one", Some(" 1"))], Status(400)),
        case("a space after a value", &[("x-one", Some("1 "))], Status(400)),
        case("a tab before a value", &[("x-one", Some("\t1"))], Status(400)),
        case("a space before a cookie", &[("cookie", Some(" a=1")), ("cookie", Some("b=2"))], Status(400)),
        case("a space after a cookie", &[("cookie", Some("a=1")), ("cookie", Some("b=2 "))], Status(400)),
        case("an empty value", &[("x-one", Some(""))], Passes("/x")),
        case("connection", &[("connection", Some("close"))], Reset),
        case("connection with a name", &[("connection", Some("x-one"))], Reset),
        case("keep-alive", &[("keep-alive", Some("timeout=5"))], Reset),
        case("proxy-connection", &[("proxy-connection", Some("keep-alive"))], Reset),
        case("upgrade", &[("upgrade", Some("websocket"))], Reset),
        case("transfer-encoding", &[("transfer-encoding", Some("chunked"))], Reset),
        case("identity", &[("transfer-encoding", Some("identity"))], Reset),
        case("te", &[("te", Some("gzip"))], Reset),
        case("te: trailers", &[("te", Some("trailers"))], Passes("/x")),
    ]);
}

#[test]
fn a_length_is_said_once_and_is_true() {
    judge(&[
        post("none", &[], b"hello", Passes("/x")),
        post("right", &[("content-length", "5")], b"hello", Passes("/x")),
        post("twice", &[("content-length", "5"), ("content-length", "5")], b"hello", Status(400)),
        post("two", &[("content-length", "5"), ("content-length", "6")], b"hello", Reset),
        post("a list", &[("content-length", "5, 5")], b"hello", Reset),
        post("a sign", &[("content-length", "+5")], b"hello", Reset),
        post("hexadecimal", &[("content-length", "0x5")], b"hello", Reset),
        post("too large", &[("content-length", "99999999999999999999999")], b"hello", Reset),
        post("empty, and a body", &[("content-length", "")], b"hello", Reset),
        post("empty, and none", &[("content-length", "")], b"", Status(400)),
        post("too much", &[("content-length", "4")], b"hello", Reset),
        post("too little", &[("content-length", "6")], b"hello", Reset),
        post("nothing", &[("content-length", "5")], b"", Reset),
        post("none announced, none sent", &[("content-length", "0")], b"", Passes("/x")),
        case("a length and an end", &[("content-length", Some("5"))], Reset),
        case("no length and an end", &[("content-length", Some("0"))], Passes("/x")),
        post("and transfer-encoding", &[("content-length", "5"), ("transfer-encoding", "chunked")], b"hello", Reset),
    ]);
}

#[test]
fn what_only_a_gateway_may_say_is_not_passed_on() {
    let origin = Origin::fixed(OK);
    let gateway = secured(PLAIN).set("app", origin.address()).start();
    let mut client = gateway.frames();
    let claimed = [
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-ssl",
        "forwarded",
        "x-real-ip",
        "x-client-cert-subject",
        "x-client-cert-fingerprint",
        "x-request-id",
        "proxy-authorization",
        "proxy",
        "x_forwarded_for",
        "trailer",
        "http2-settings",
    ];
    let fields = head(&claimed.map(|name| (name, Some("6.6.6.6"))));
    client.send(headers(1, END_STREAM, &fields));
    client.fate(1).expect(200);
    let seen = String::from_utf8(origin.requests()[0].raw_head.clone()).unwrap();
    assert!(!seen.contains("6.6.6.6"), "{seen}");
    assert_eq!(origin.requests()[0].field("X-Forwarded-For"), Some("127.0.0.1"));
}

const LIMITED: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    listen_tls = ["127.0.0.2:0"]
    [server.client]
    request_line_max = "200B"
    field_max = "300B"
    header_max = "1000B"
    headers_max = 10
    [upstreams.app]
    endpoints = ["{app}"]
    [[routes]]
    upstream = "app"
"#;

/// What becomes of a GET for `target` with these fields, over HTTP/1.1 and over HTTP/2.
fn both(gateway: &Gateway, target: &str, more: &[(String, String)]) -> [u16; 2] {
    let [plain, tls]: &[Address; 2] = gateway.addrs().try_into().unwrap();
    let lines = more.iter().fold(String::new(), |text, (name, value)| text + &format!("{name}: {value}\r\n"));
    let mut client = Client::connect(plain);
    client.send(format!("GET {target} HTTP/1.1\r\nhost: test\r\n{lines}\r\n"));
    let mut frames = Http2Frames::connect(tls);
    let changes: Vec<_> = more.iter().map(|(name, value)| (&**name, Some(&**value))).collect();
    frames.send(headers(1, END_STREAM, &head(&[&[(":path", Some(target))], &changes[..]].concat())));
    let Fate::Answered { status, .. } = frames.fate(1) else { panic!("no answer over HTTP/2") };
    [client.response().status, status]
}

#[test]
fn a_head_may_be_as_large_as_in_http_1_1() {
    let origin = Origin::fixed(OK);
    let gateway = secured(LIMITED).set("app", origin.address()).start();
    let line = |length: usize| "/".to_owned() + &"a".repeat(length - "GET / HTTP/1.1".len());
    assert_eq!(both(&gateway, &line(200), &[]), [200, 200]);
    assert_eq!(both(&gateway, &line(201), &[]), [414, 414]);

    let one = |name: &str, length: usize| (name.to_owned(), "b".repeat(length - name.len() - ": ".len()));
    assert_eq!(both(&gateway, "/", &[one("x-long", 300)]), [200, 200]);
    assert_eq!(both(&gateway, "/", &[one("x-long", 301)]), [431, 431]);

    // With Host.
    let many = |count: usize| (1..count).map(|number| (format!("x-{number}"), "1".to_owned())).collect::<Vec<_>>();
    assert_eq!(both(&gateway, "/", &many(10)), [200, 200]);
    assert_eq!(both(&gateway, "/", &many(11)), [431, 431]);

    // "GET / HTTP/1.1", "host: test", three fields of 300, one of the rest, and an empty line.
    let rest = 1000 - 16 - 12 - 3 * 302 - 2 - 2;
    let heavy = |rest: usize| vec![one("x-a", 300), one("x-b", 300), one("x-c", 300), one("x-d", rest)];
    assert_eq!(both(&gateway, "/", &heavy(rest)), [200, 200]);
    assert_eq!(both(&gateway, "/", &heavy(rest + 1)), [431, 431]);
}

#[test]
fn the_crumbs_of_a_cookie_are_one_field_and_one_length() {
    let origin = Origin::fixed(OK);
    let gateway = secured(LIMITED).set("app", origin.address()).start();
    let tls = &gateway.addrs()[1];
    let crumbs = |count: usize, length: usize| {
        let crumb = "c".repeat(length);
        let mut client = Http2Frames::connect(tls);
        let changes = vec![("cookie", Some(&*crumb)); count];
        client.send(headers(1, END_STREAM, &head(&changes)));
        match client.fate(1) {
            Fate::Answered { status, .. } => status,
            other => panic!("{other:?}"),
        }
    };
    // More crumbs than there may be fields.
    assert_eq!(crumbs(20, 5), 200);
    assert_eq!(origin.requests()[0].field("cookie"), Some(&*vec!["ccccc"; 20].join("; ")));
    // "cookie: " and two crumbs with "; " between them.
    assert_eq!(crumbs(2, 145), 200);
    assert_eq!(crumbs(2, 146), 431);
}

#[test]
fn a_head_that_no_limit_allows_is_refused_by_the_library() {
    let origin = Origin::fixed(OK);
    let gateway = secured(LIMITED).set("app", origin.address()).start();
    let mut client = Http2Frames::connect(&gateway.addrs()[1]);
    let long = "b".repeat(5000);
    client.send(headers(1, END_STREAM, &head(&[("x-long", Some(&long))])));
    client.fate(1).expect(431);
    client.send(headers(3, END_STREAM, &head(&[])));
    client.fate(3).expect(200);
    assert_eq!(origin.requests().len(), 1);
}
