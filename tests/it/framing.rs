//! One reading or none: what the length of a message, its lines and its target may look like, in both directions
//! (RFC 9112 sections 2, 3, 5 and 6).

// Counters are whole numbers, and small ones.
#![allow(clippy::float_cmp, clippy::cast_precision_loss)]

use std::collections::HashMap;

use crate::harness::{Broken, Client, Framing, Gateway, Origin};

const GATEWAY: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [upstreams.app]
    endpoints = ["{origin}"]
    [[routes]]
    upstream = "app"
"#;

/// Requests that some server reads in another way than its neighbour, with the reason they are refused for. After each
/// of them nobody knows where the next request begins.
fn ambiguous() -> Vec<(Vec<u8>, &'static str)> {
    let mut corpus: Vec<(Vec<u8>, &str)> = Vec::new();
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\nX: y\r\ncontent-length: 5",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 5 5",
        "Content-Length: 5.0",
        "Content-Length: 0x5",
        "Content-Length: 5;",
        "Content-Length: \"5\"",
        "Content-Length:",
        "Content-Length: 18446744073709551616",
        "Content-Length: 99999999999999999999999",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nContent-Length: 5",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding:",
        "Transfer-Encoding:\r\n chunked",
    ] {
        let head = format!("POST / HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n0\r\n\r\n");
        corpus.push((head.into_bytes(), "bad_framing"));
    }
    for head in [
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        corpus.push((head.into(), "bad_framing"));
    }
    for head in [
        "GET / HTTP/1.1\nHost: test\n\n",
        "GET / HTTP/1.1\r\nHost: test\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\n\n",
        "GET / HTTP/1.1\r\nHost: test\r\nX: a\rX-Smuggled: b\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: test\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: test\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: test\r\n\r\n",
        "GET\t/\tHTTP/1.1\r\nHost: test\r\n\r\n",
        "GET /\r\nHost: test\r\n\r\n",
        "GET / a HTTP/1.1\r\nHost: test\r\n\r\n",
        "GET / http/1.1\r\nHost: test\r\n\r\n",
        "GET / HTTP/1.1.1\r\nHost: test\r\n\r\n",
        "GET / HTTP/11\r\nHost: test\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: test\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length : 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: test\r\n Content-Length: 5\r\n\r\nhello",
        "GET / HTTP/1.1\r\n Host: test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nX: a\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nX: a\r\n\tfolded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nnothing\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\n: empty\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nA B: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nX\0: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nX: a\x7fb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nX: a\x01\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nX_\u{e9}: x\r\n\r\n",
    ] {
        corpus.push((head.into(), "malformed_head"));
    }
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nHost: test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nhost: other\r\n\r\n",
        "GET http://test/ HTTP/1.1\r\n\r\n",
        "GET http://user@test/ HTTP/1.1\r\nHost: test\r\n\r\n",
        "GET http:/// HTTP/1.1\r\nHost: test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a..b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n",
    ] {
        corpus.push((head.into(), "bad_host"));
    }
    for target in [
        "*",
        "a/b",
        "?x",
        "ftp://test/",
        "http://test?x",
        "/a\x01b",
        "/a\0b",
        "/\u{e9}",
        "/\x7f",
        "//\u{e9}",
        "/a#b",
        "/a?b#c",
        "/#?x=1",
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n");
        corpus.push((head.into_bytes(), "bad_target"));
    }
    corpus
}

#[test]
fn what_has_two_readings_is_refused_and_the_origin_sees_none_of_it() {
    let origin = Origin::echo_head();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let corpus = ambiguous();
    assert!(corpus.len() >= 60, "{}", corpus.len());
    let mut reasons = HashMap::new();
    let mut counts: HashMap<&str, f64> = HashMap::new();

    for (bytes, reason) in &corpus {
        let mut client = gateway.connect();
        client.send([bytes.as_slice(), b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"].concat());
        let told = client.response();
        let shown = bytes.escape_ascii();
        assert_eq!(told.status, 400, "{shown}: {told}");
        assert_eq!(told.json()["reason"], *reason, "{shown}");
        assert_eq!(told.field("connection"), Some("close"), "{shown}");
        client.closed();
        let id = told.field("x-request-id").unwrap().to_owned();
        reasons.insert(id, *reason);
        *counts.entry(reason).or_default() += 1.0;
    }

    let lines = gateway.access_log(corpus.len());
    assert_eq!(lines.len(), corpus.len());
    for line in lines {
        let reason = reasons.remove(line["request_id"].as_str().unwrap());
        assert_eq!(line["reason"].as_str(), reason, "{line}");
        assert_eq!(line["status"], 400);
    }
    let metrics = gateway.metrics();
    for (reason, count) in counts {
        assert_eq!(metrics.value("propylon_rejections_total", &[("reason", reason)]), Some(count), "{reason}");
    }
    assert_eq!(metrics.value("propylon_requests_total", &[("code", "4xx")]), Some(corpus.len() as f64));
    gateway.get("/").expect(200);
    assert_eq!(origin.requests().len(), 1, "{:#?}", origin.requests());
}

#[test]
fn a_target_no_app_may_see_is_refused_and_the_connection_kept() {
    let origin = Origin::echo_head();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    for target in [
        "/../x",
        "/a/../b",
        "/a/.",
        "/a/%2e%2e/b",
        "/a/.%2E/b",
        "/a%2f..%2fb",
        "/%00",
        "/a%0d%0ab",
        "/a\\b",
        "/%",
        "/%4",
        "/%zz",
        "http://test/../x",
    ] {
        let told = client.get(target).expect(400);
        assert_eq!(told.json()["reason"], "bad_target", "{target}");
        assert_eq!(told.field("connection"), None, "{target}");
    }
    client.get("/after").expect(200);
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn other_versions_of_http_are_refused_by_name() {
    let origin = Origin::echo_head();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    for head in [
        "GET / HTTP/2.0\r\nHost: test\r\n\r\n",
        "GET / HTTP/1.2\r\nHost: test\r\n\r\n",
        "GET / HTTP/0.9\r\nHost: test\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut client = gateway.connect();
        client.send(head);
        let told = client.response().expect(505);
        assert_eq!(told.json()["reason"], "version_not_supported", "{head:?}");
        assert_eq!(told.field("connection"), Some("close"));
        client.closed();
    }
    assert!(origin.requests().is_empty());
}

/// What the origin gets for these bytes of a client.
#[track_caller]
fn forwarded(gateway: &Gateway, origin: &Origin, bytes: &str) -> crate::harness::Request {
    let before = origin.requests().len();
    let mut client = gateway.connect();
    client.send(bytes);
    client.response().expect(200);
    let mut requests = origin.requests();
    assert_eq!(requests.len(), before + 1);
    requests.remove(before)
}

#[test]
fn what_has_one_reading_is_written_anew() {
    let origin = Origin::echo_head();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let sent = |bytes: &str| forwarded(&gateway, &origin, bytes);

    let absolute = sent("GET http://Other.test:81/p?q HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(absolute.target, "/p?q");
    assert_eq!(absolute.field("host"), Some("Other.test:81"));
    let root = sent("GET HTTP://test HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(root.target, "/");

    let old = sent("GET /old HTTP/1.0\r\nHost: test\r\n\r\n");
    assert_eq!((old.version.as_str(), old.field("host")), ("HTTP/1.1", Some("test")));

    let empty_line = sent("\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(empty_line.target, "/");

    let spaces = sent("GET / HTTP/1.1\r\nHost:test\r\nX-A: \t a  b \t \r\nX-Empty:\r\n\r\n");
    assert_eq!((spaces.field("x-a"), spaces.field("x-empty")), (Some("a  b"), Some("")));

    let underscores = sent("GET / HTTP/1.1\r\nHost: test\r\nX_A: 1\r\nX.B: 1\r\nSCRIPT_NAME: /admin\r\nX-C: 1\r\n\r\n");
    assert!(!underscores.fields.names().iter().any(|name| name.contains(['_', '.'])), "{underscores:?}");
    assert_eq!(underscores.field("x-c"), Some("1"));

    let raw = sent("GET //a%2Fb/%7e?x=%zz&y=\\ HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(raw.target, "//a%2Fb/%7e?x=%zz&y=\\");

    let hop = sent(
        "POST / HTTP/1.1\r\nHost: test\r\nConnection: X-Mine, Content-Length, Host\r\nX-Mine: 1\r\nTE: trailers\r\n\
         Keep-Alive: 5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nTrailer: X\r\nContent-Length: 2\r\n\r\nhi",
    );
    for name in
        ["connection", "x-mine", "te", "keep-alive", "proxy-connection", "upgrade", "trailer", "transfer-encoding"]
    {
        assert!(!hop.fields.has(name), "{name}: {hop:?}");
    }
    assert_eq!((hop.framing, hop.body.as_slice(), hop.field("host")), (Framing::Length(2), &b"hi"[..], Some("test")));

    let chunked = sent(
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: Chunked\r\n\r\n\
         3;a=b;c=\"d\"\r\nabc\r\n002\r\nde\r\n0;last\r\nX-Trailer: 1\r\nContent-Length: 9\r\n\r\n",
    );
    assert_eq!((chunked.framing, chunked.body.as_slice()), (Framing::Length(5), &b"abcde"[..]));
    assert_eq!(chunked.field("content-length"), Some("5"));
    assert!(chunked.trailers.0.is_empty() && !chunked.fields.has("transfer-encoding"));

    let nothing = sent("GET / HTTP/1.1\r\nHost: test\r\nContent-Length: 000\r\n\r\n");
    assert_eq!((nothing.framing, nothing.body.len()), (Framing::Length(0), 0));
    let get_with_body = sent("GET / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!((get_with_body.framing, get_with_body.body.as_slice()), (Framing::Length(2), &b"hi"[..]));
    let plain = sent("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(plain.framing, Framing::None);
    let empty_post = sent("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(empty_post.framing, Framing::Length(0));
}

#[test]
fn an_http_1_0_request_without_a_host_reaches_the_app_as_a_valid_http_1_1_request() {
    let origin = Origin::echo_head();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let request = forwarded(&gateway, &origin, "GET /p HTTP/1.0\r\n\r\n");
    assert!(request.version == "HTTP/1.0" || request.fields.has("host"), "{request:?}");
}

#[test]
fn an_origin_s_framing_is_made_the_client_s() {
    let origin = Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            let answer = match request.target.as_str() {
                "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                "/empty" => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                "/chunked" => {
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-T: 1\r\n\r\n"
                }
                "/close" => "HTTP/1.1 200 OK\r\n\r\nhello",
                "/close-said" => "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
                "/close-1.0" => "HTTP/1.0 200 OK\r\n\r\nhello",
                _ => "HTTP/1.1 204 No Content\r\n\r\n",
            };
            connection.write(answer);
            if request.target.starts_with("/close") {
                return;
            }
        }
    });
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();

    let mut client = gateway.connect();
    for (target, framing, body) in [
        ("/length", Framing::Length(5), "hello"),
        ("/empty", Framing::Length(0), ""),
        ("/chunked", Framing::Chunked, "hello"),
        ("/close", Framing::Chunked, "hello"),
        ("/close-said", Framing::Length(5), "hello"),
        ("/close-1.0", Framing::Chunked, "hello"),
    ] {
        let told = client.get(target).expect(200);
        assert_eq!((told.framing, told.text(), told.version.as_str()), (framing, body, "HTTP/1.1"), "{target}");
        assert_eq!(told.field("connection"), None, "{target}");
        assert!(told.trailers.0.is_empty());
    }
    client.get("/none").expect(204);

    for (target, framing, body) in [
        ("/length", Framing::Length(5), "hello"),
        ("/chunked", Framing::UntilClose, "hello"),
        ("/close", Framing::UntilClose, "hello"),
        ("/close-1.0", Framing::UntilClose, "hello"),
    ] {
        for keep in ["", "Connection: keep-alive\r\n"] {
            let mut client = gateway.connect();
            client.send(format!("GET {target} HTTP/1.0\r\nHost: test\r\n{keep}\r\n"));
            let told = client.response().expect(200);
            assert_eq!((told.framing, told.text()), (framing, body), "{target} {keep}");
            if keep.is_empty() || framing == Framing::UntilClose {
                assert_eq!(told.field("connection"), Some("close"), "{target} {keep}");
                client.closed();
            } else {
                assert_eq!(told.field("connection"), Some("keep-alive"), "{target} {keep}");
                client.get("/none").expect(204);
            }
        }
    }

    let mut client = gateway.connect();
    for (target, length) in [("/length", Some("5")), ("/chunked", None), ("/close", None)] {
        client.send_request("HEAD", target, &[], "");
        let told = client.response_to("HEAD").expect(200);
        assert_eq!(told.field("content-length"), length, "{target}");
    }
}

#[test]
fn a_body_that_broke_off_never_looks_whole() {
    let origin = Origin::start(|connection| {
        let Some(request) = connection.read_request() else { return };
        connection.write(match request.target.as_str() {
            "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
            _ => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        });
    });
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    for target in ["/length", "/chunked"] {
        for version in ["1.1", "1.0"] {
            let mut client: Client = gateway.connect();
            client.send(format!("GET {target} HTTP/{version}\r\nHost: test\r\n\r\n"));
            let broken = client.try_response();
            assert!(
                matches!(broken, Err(Broken::Truncated(_) | Broken::Reset | Broken::TruncatedHead(_))),
                "{target} {version}: {broken:?}"
            );
        }
    }
}
