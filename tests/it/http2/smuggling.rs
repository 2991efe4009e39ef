//! A request that hides another: in its body, behind a length that is not true, in a field. The app sees one, or none.

use super::secured;
use crate::harness::http2_frames::{DATA, END_STREAM, Fate, HEADERS, frame, headers, request};
use crate::harness::{Connection, Origin, eventually};

/// Bodies are handed on as they come: what arrives is not known when the app is asked.
const STREAMED: &str = r#"
    [server]
    listen = []
    listen_tls = ["127.0.0.1:0"]
    [upstreams.app]
    endpoints = ["{app}"]
    buffer_requests = false
    retry = { connect = 0, idempotent = 0 }
    [[routes]]
    upstream = "app"
"#;

const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: test\r\n\r\n";

/// Reads strictly, and answers what is whole.
fn answer(connection: &mut Connection) {
    while connection.read_request().is_some() && connection.answer(200, "ok") {}
}

#[test]
fn a_body_is_a_body_whatever_it_looks_like() {
    let origin = Origin::start(answer);
    let gateway = secured(STREAMED).set("app", origin.address()).start();
    let mut client = gateway.frames();
    let bodies = [HIDDEN.to_owned(), format!("0\r\n\r\n{HIDDEN}"), format!("\r\n0\r\n\r\n{HIDDEN}")];
    let mut stream = 1;
    for body in &bodies {
        for length in [None, Some(body.len().to_string())] {
            let more: Vec<_> = length.iter().map(|length| ("content-length", &**length)).collect();
            client.send(headers(stream, 0, &request("POST", "/seen", &more)));
            client.send(frame(DATA, END_STREAM, stream, body.as_bytes()));
            client.fate(stream).expect(200);
            stream += 2;
        }
    }
    let seen = origin.requests();
    assert_eq!(seen.len(), 6);
    for (request, body) in seen.iter().zip(bodies.iter().flat_map(|body| [body, body])) {
        assert_eq!((&*request.target, &request.body), ("/seen", &body.clone().into_bytes()));
    }
    assert!(seen.iter().all(|request| request.connection == seen[0].connection));
}

#[test]
fn a_length_that_is_not_true_ends_the_connection_to_the_app() {
    let origin = Origin::start(answer);
    let gateway = secured(STREAMED).set("app", origin.address()).start();
    let mut client = gateway.frames();
    let long = format!("hello{HIDDEN}");
    for (stream, length, body) in [(1, "5", long.as_bytes()), (5, "60", HIDDEN.as_bytes()), (9, "0", HIDDEN.as_bytes())]
    {
        // In one piece: an app that is told of no body may else have answered before the body comes.
        let head = headers(stream, 0, &request("POST", "/seen", &[("content-length", length)]));
        client.send([head, frame(DATA, END_STREAM, stream, body)].concat());
        let fate = client.fate(stream);
        assert!(matches!(fate, Fate::Reset(_)), "{length}: {fate:?}");
        // It would find what was left on the connection.
        client.get(stream + 2, "/after").expect(200);
    }
    client.send(headers(13, 0, &request("POST", "/seen", &[("content-length", "0")])));
    client.fate(13).expect(200);
    client.send(frame(DATA, END_STREAM, 13, HIDDEN.as_bytes()));
    client.get(15, "/after").expect(200);
    let targets: Vec<_> = origin.requests().into_iter().map(|request| request.target).collect();
    assert!(targets.iter().all(|target| target == "/after" || target == "/seen"), "{targets:?}");
    assert!(origin.requests().iter().all(|request| request.target == "/after" || request.body.len() <= 5));
}

#[test]
fn framing_of_http_1_1_has_no_meaning() {
    let origin = Origin::start(answer);
    let gateway = secured(STREAMED).set("app", origin.address()).start();
    for (name, value) in [
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "chunked\r\n"),
        ("x-a", "b\r\ntransfer-encoding: chunked"),
        ("x-a", "b\r\n\r\nGET /hidden HTTP/1.1\r\nhost: test"),
        ("x-a: b\r\ntransfer-encoding", "chunked"),
        ("connection", "content-length"),
        ("content-length", "0\r\n\r\nGET /hidden HTTP/1.1"),
        (":authority\r\nx", "y"),
    ] {
        let mut client = gateway.frames();
        client.send(headers(1, 0, &request("POST", "/seen", &[(name, value)])));
        let _ = client.try_send(frame(DATA, END_STREAM, 1, format!("0\r\n\r\n{HIDDEN}").as_bytes()));
        let fate = client.fate(1);
        assert!(matches!(fate, Fate::Reset(1) | Fate::GoneAway(1 | 9)), "{name} {value}: {fate:?}");
    }
    for (name, value) in
        [(":path", "/seen HTTP/1.1\r\nx: y"), (":method", "GET /hidden HTTP/1.1\r\nx:"), (":authority", "a\r\nx: y")]
    {
        let mut client = gateway.frames();
        let mut fields = request("GET", "/seen", &[]);
        fields.iter_mut().find(|field| field.0 == name).unwrap().1 = value;
        client.send(headers(1, END_STREAM, &fields));
        let fate = client.fate(1);
        assert!(matches!(fate, Fate::Reset(1) | Fate::GoneAway(1 | 9)), "{name} {value}: {fate:?}");
    }
    assert_eq!(origin.requests().len(), 0);
}

#[test]
fn fields_behind_a_body_do_not_reach_the_app() {
    let origin = Origin::start(answer);
    let gateway = secured(STREAMED).set("app", origin.address()).start();
    let mut client = gateway.frames();
    client.send(headers(1, 0, &request("POST", "/seen", &[])));
    client.send(frame(DATA, 0, 1, b"hello"));
    let trailers = [("x-forwarded-for", "6.6.6.6"), ("content-length", "99"), ("host", "other")];
    client.send(headers(1, END_STREAM, &trailers));
    client.fate(1).expect(200);
    let request_seen = &origin.wait_for_requests(1)[0];
    assert_eq!((&request_seen.body[..], request_seen.trailers.0.len()), (&b"hello"[..], 0));

    // Fields that do not end the stream are none (RFC 9113 section 8.1).
    client.send(headers(3, 0, &request("POST", "/open", &[])));
    client.send(frame(HEADERS, 4, 3, &[]));
    assert!(matches!(client.fate(3), Fate::Reset(1)));
    eventually("what was begun at the app has ended", || (origin.open_connections() <= 1).then_some(()));
    client.get(5, "/after").expect(200);
    assert!(origin.requests().iter().all(|request| request.target != "/open"));
}
