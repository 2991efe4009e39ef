//! Requests over HTTP/2 to real servers, and what these make of them.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::{PLAIN, secured};
use crate::harness::http2_frames::{HEADERS, PRIORITY, frame, headers, request};
use crate::harness::{Origin, PythonServer, rounds};

fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// The fields that an app was given, as `/whoami` tells: names in lower case.
fn fields(told: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    if let Some(pairs) = told["headers"].as_array() {
        return pairs.iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect();
    }
    let environ = told["environ"].as_object().unwrap().iter();
    let named = environ.filter_map(|(name, value)| {
        let name = name.strip_prefix("HTTP_").or((name == "CONTENT_LENGTH").then_some(name))?;
        Some((name.replace('_', "-").to_lowercase(), text(value)))
    });
    named.collect()
}

fn serves(server: &PythonServer) {
    let gateway = secured(PLAIN).set("app", server.address()).start();
    let client = gateway.http2();

    let more =
        [("cookie", "a=1"), ("x-one", "1"), ("cookie", "b=2"), ("te", "trailers"), ("x-forwarded-proto", "gopher")];
    let told = client.request("POST", "/whoami?q=%20", &more, "body").expect(200);
    let seen = fields(&told.json());
    let value = |name: &str| {
        let found: Vec<_> = seen.iter().filter(|field| field.0 == name).map(|field| &*field.1).collect();
        assert!(found.len() <= 1, "{name}: {found:?}");
        found.first().copied()
    };
    assert_eq!(value("host"), Some("test"));
    assert_eq!(value("cookie"), Some("a=1; b=2"));
    assert_eq!(value("x-one"), Some("1"));
    assert_eq!(value("x-forwarded-proto"), Some("https"));
    assert_eq!(value("content-length"), Some("4"));
    assert!(value("x-request-id").is_some_and(|id| told.field("x-request-id") == Some(id)), "{seen:?}");
    for name in ["te", "transfer-encoding", "connection", "upgrade", "http2-settings"] {
        assert_eq!(value(name), None, "{name}");
    }
    assert!(seen.iter().all(|field| !field.0.starts_with(':')), "{seen:?}");
    assert!(told.field("date").is_some() && told.field("connection").is_none());
    assert!(told.field("transfer-encoding").is_none() && told.field("keep-alive").is_none());

    for length in [0, 1, 100, 16_383, 16_384, 16_385, 65_535, 65_536, 300_000, 3_000_000] {
        let body = pattern(length);
        for method in ["POST", "PUT"] {
            let echo = client.request(method, "/echo", &[], &body).expect(200).json();
            assert_eq!(echo, json!({ "length": length, "sha256": hex(&body) }), "{method} {length}");
        }
        let big = client.get(&format!("/big?bytes={length}")).expect(200);
        assert_eq!(big.body.len(), length);
    }
    let head = client.request("HEAD", "/healthz", &[], "").expect(200);
    assert!(head.body.is_empty());
    for status in [204, 304] {
        let answer = client.get(&format!("/status?code={status}")).expect(status);
        assert_eq!((answer.field("etag"), answer.body.len()), (Some("\"x\""), 0));
    }
    assert_eq!(client.get("/boom").status, 500);
    client.get("/healthz").expect(200);
    assert!(!client.has_ended());
}

#[test]
fn uvicorn_sees_a_request_of_http_1_1() {
    serves(&PythonServer::uvicorn("asgi:app").unix().start());
}

#[test]
fn gunicorn_sees_a_request_of_http_1_1() {
    serves(&PythonServer::gunicorn("wsgi:app").start());
}

#[test]
fn hypercorn_sees_a_request_of_http_1_1() {
    serves(&PythonServer::hypercorn("hypercorn_app:app").unix().start());
}

#[test]
fn what_has_no_body_ends_with_its_head() {
    let origin = Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            let status = request.target.trim_start_matches('/');
            let length = if request.method == "HEAD" || status == "304" { "Content-Length: 5\r\n" } else { "" };
            let length = if status == "empty" { "Content-Length: 0\r\n" } else { length };
            let status = if status == "empty" { "200" } else { status };
            connection.write(format!("HTTP/1.1 {status} X\r\n{length}ETag: \"1\"\r\n\r\n"));
        }
    });
    let gateway = secured(PLAIN).set("app", origin.address()).start();
    let mut client = gateway.frames();
    for (number, (method, path, status)) in
        [("HEAD", "/200", 200), ("GET", "/204", 204), ("GET", "/304", 304), ("GET", "/empty", 200)].iter().enumerate()
    {
        let stream = u32::try_from(number).unwrap() * 2 + 1;
        client.send(headers(stream, 1, &request(method, path, &[])));
        let head = client.skip_to(|frame| frame.stream == stream);
        assert_eq!((head.kind, head.status(), head.ends()), (HEADERS, *status, true), "{method} {path}");
    }
}

#[test]
fn each_request_is_logged_and_counted_once() {
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let gateway = secured(PLAIN).set("app", origin.address()).start();
    let client = gateway.http2();
    let ids: Vec<_> = (0..3).map(|_| client.get("/x?y=1").field("x-request-id").unwrap().to_owned()).collect();

    // A stream is logged by its own task, when its client has had its answer.
    let lines = gateway.access_log(3);
    assert_eq!(lines.len(), 3);
    for id in &ids {
        let line = lines.iter().find(|line| line["request_id"] == json!(id)).expect("a line for each request");
        assert_eq!((&line["protocol"], &line["path"], &line["status"]), (&json!("HTTP/2"), &json!("/x"), &json!(200)));
        assert_eq!((&line["host"], &line["request_id"], &line["bytes_out"]), (&json!("test"), &json!(id), &json!(2)));
    }
    assert_eq!(gateway.metrics().value("propylon_requests_total", &[]), Some(3.0));
}

#[test]
fn a_hundred_requests_at_once_on_one_connection() {
    let app = PythonServer::uvicorn("asgi:app").unix().start();
    let gateway = secured(PLAIN).set("app", app.address()).start();
    let client = gateway.http2();
    client.get("/healthz").expect(200);
    let streams: Vec<_> =
        (0..100).map(|number| client.start("GET", &format!("/big?bytes={}", 1000 * number), &[], true)).collect();
    for (number, stream) in streams.into_iter().enumerate() {
        assert_eq!(stream.answer().expect(200).body.len(), 1000 * number);
    }
    gateway.counts("propylon_requests_total", &[("code", "2xx")], 101.0);
}

#[test]
fn a_connection_serves_thousands_of_requests() {
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let gateway = secured(PLAIN).set("app", origin.address()).start();
    let client = gateway.http2();
    for _ in 0..rounds(2000, 50_000) {
        client.get("/").expect(200);
    }
    let requests = origin.requests();
    assert!(requests.iter().all(|request| request.connection == requests[0].connection));
}

#[test]
fn priorities_change_nothing() {
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let gateway = secured(PLAIN).set("app", origin.address()).start();
    let mut client = gateway.frames();
    client.send(frame(PRIORITY, 0, 5, &[0, 0, 0, 3, 200]));
    assert_eq!(client.get(1, "/").expect(200), b"ok");
    client.send(frame(PRIORITY, 0, 1, &[0x80, 0, 0, 0, 1]));
    let fields = request("GET", "/", &[("priority", "u=0, i")]);
    client.send(headers(3, 1, &fields));
    assert_eq!(client.fate(3).expect(200), b"ok");
}

#[test]
fn trailers_of_an_app_do_no_harm() {
    let origin = Origin::fixed(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
    );
    let gateway = secured(PLAIN).set("app", origin.address()).start();
    let client = gateway.http2();
    for _ in 0..3 {
        let answer = client.get("/").expect(200);
        assert_eq!((answer.text(), answer.field("transfer-encoding")), ("ok", None));
    }
    assert!(origin.requests().iter().all(|request| request.connection == origin.requests()[0].connection));
}

#[test]
fn early_hints_of_an_app_do_no_harm() {
    let origin = Origin::fixed(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\nConnection: X-Hop\r\nX-Hop: 1\r\nUpgrade: h2c\r\n\r\nok",
    );
    let gateway = secured(PLAIN).set("app", origin.address()).start();
    let answer = gateway.http2().get("/").expect(200);
    assert_eq!(answer.text(), "ok");
    for name in ["link", "keep-alive", "connection", "x-hop", "upgrade"] {
        assert_eq!(answer.field(name), None, "{name}");
    }
}

#[test]
fn a_response_that_breaks_resets_its_stream_alone() {
    let origin = Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            if request.target == "/whole" {
                connection.answer(200, "ok");
                continue;
            }
            let framing =
                if request.target == "/counted" { "Content-Length: 10" } else { "Transfer-Encoding: chunked" };
            connection.write(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n2\r\nok\r\n"));
            return connection.close();
        }
    });
    let gateway = secured(PLAIN).set("app", origin.address()).start();
    let client = gateway.http2();
    for target in ["/counted", "/chunked"] {
        let broken = client.try_request("GET", target, &[], "");
        let error = broken.expect_err("a body that broke looks whole");
        assert!(error.is_reset() && error.is_remote(), "{error:?}");
        client.get("/whole").expect(200);
    }
    let lines = gateway.access_log(4);
    assert_eq!(lines.iter().filter(|line| line["reason"] == "upstream_closed").count(), 2, "{lines:?}");
}
