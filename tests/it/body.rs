//! Request bodies: they arrive as they were sent, with one framing, or not at all.

// Counters are whole numbers, and small ones.
#![allow(clippy::float_cmp, clippy::cast_precision_loss)]

use std::time::Duration;

use crate::harness::{Client, Framing, Gate, Gateway, Origin, PythonServer, eventually};

const GATEWAY: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [upstreams.app]
    endpoints = ["{origin}"]
    [upstreams.dead]
    endpoints = ["unix:{dir}/nobody.sock"]
    queue = { timeout = "200ms" }
    [[routes]]
    path = "/dead/*"
    upstream = "dead"
    [[routes]]
    path = "/dead/streamed/*"
    upstream = "dead"
    buffer_requests = false
    [[routes]]
    path = "/small/*"
    max_body = "10B"
    upstream = "app"
    [[routes]]
    path = "/app/*"
    max_body = "32MiB"
    upstream = "app"
    [[routes]]
    path = "/streamed/*"
    upstream = "app"
    buffer_requests = false
"#;
/// The body waits for its end before the app hears of it, or goes through as it comes.
const BOTH: [&str; 2] = ["/app/", "/streamed/"];

/// Answers every request with its own body.
fn echo_body() -> Origin {
    Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            connection.answer(200, request.body);
        }
    })
}

/// Bytes without a pattern, CR, LF and NUL among them.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

/// `body` in the chunked coding, `size` bytes a chunk.
fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut coded = Vec::new();
    for chunk in body.chunks(size) {
        coded.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        coded.extend_from_slice(chunk);
        coded.extend_from_slice(b"\r\n");
    }
    coded.extend_from_slice(b"0\r\n\r\n");
    coded
}

#[test]
fn a_counted_body_arrives_intact() {
    let origin = echo_body();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    for target in BOTH {
        for length in [0, 1, 64 * 1024, 1024 * 1024] {
            let body = noise(length);
            let head = format!("POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
            client.send([head.as_bytes(), &body].concat());
            assert!(client.response().expect(200).body == body, "{length} came back otherwise");
            let request = origin.requests().pop().unwrap();
            assert_eq!(
                (request.framing, request.field("content-length")),
                (Framing::Length(length as u64), Some(&*length.to_string()))
            );
            assert!(request.body == body, "{length} arrived otherwise");
        }
    }
    let lines = gateway.access_log(8);
    assert_eq!((&lines[3]["bytes_in"], &lines[7]["bytes_in"]), (&(1024 * 1024).into(), &(1024 * 1024).into()));
}

#[test]
fn a_chunked_body_arrives_intact_in_one_valid_framing() {
    let origin = echo_body();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    for target in BOTH {
        for (length, size) in [
            (0, 1),
            (1, 1),
            (100, 1),
            (64 * 1024, 7),
            (64 * 1024, 64 * 1024),
            (1024 * 1024, 4093),
            (1024 * 1024, 1024 * 1024),
        ] {
            let body = noise(length);
            let head = format!("POST {target} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
            client.send([head.as_bytes(), &chunked(&body, size)].concat());
            assert!(client.response().expect(200).body == body, "{length} in {size} came back otherwise");
            let request = origin.requests().pop().unwrap();
            // What is whole has a length, and the origin's harness takes no request with two framings.
            let framing = if target == "/streamed/" { Framing::Chunked } else { Framing::Length(length as u64) };
            assert_eq!(request.framing, framing, "{target} {length} in {size}");
            assert!(request.body == body, "{length} in {size} arrived otherwise");
        }
    }
}

#[test]
fn a_body_may_be_split_anywhere() {
    let origin = echo_body();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    let body = noise(40);
    let requests = BOTH.map(|target| {
        let head = format!("POST {target} HTTP/1.1\r\nHost: test\r\n");
        [
            [head.as_bytes(), b"Transfer-Encoding: chunked\r\n\r\n", &chunked(&body, 17)].concat(),
            [head.as_bytes(), b"Content-Length: 40\r\n\r\n", &body].concat(),
        ]
    });
    for request in requests.as_flattened() {
        for byte in request {
            client.send([*byte]);
        }
        assert_eq!(client.response().expect(200).body, body);
        for at in [1, 30, request.len() - 45, request.len() - 20, request.len() - 1] {
            let (start, end) = request.split_at(at);
            client.send(start);
            client.send(end);
            assert_eq!(client.response().expect(200).body, body, "split at {at}");
        }
    }
}

#[test]
fn a_broken_chunk_ends_the_request_and_poisons_nothing() {
    let origin = echo_body();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let bad = [
        "5 \r\nhello\r\n0\r\n\r\n",
        "5;\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-1\r\n\r\n",
        "\r\n",
        "g\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "0\r\nbad trailer\r\n\r\n",
        "0\r\n folded: x\r\n\r\n",
        "0\r\nx: \x01\r\n\r\n",
        "0\r\nx: y\n\r\n",
    ];
    for (rest, target) in bad.into_iter().flat_map(|rest| BOTH.map(|target| (rest, target))) {
        // What is broken may come at once, or when the first chunk is at the origin already.
        for whole in [true, false] {
            let mut client = gateway.connect();
            let start =
                format!("POST {target} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
            if whole {
                client.send(format!("{start}{rest}GET /app/smuggled HTTP/1.1\r\nHost: test\r\n\r\n"));
            } else {
                client.send(start);
                client.send(rest);
            }
            let told = client.response().expect(400);
            assert_eq!(told.json()["reason"], "bad_body", "{rest:?}");
            assert_eq!(told.field("connection"), Some("close"), "{rest:?}");
            client.closed();
            let after = gateway.connect().request("POST", "/app/", &[], "after");
            assert_eq!(after.expect(200).text(), "after", "{rest:?}");
        }
    }
    let requests = origin.requests();
    assert_eq!(requests.len(), bad.len() * 4);
    assert!(requests.iter().all(|request| request.body == b"after"));
    gateway.counts("propylon_rejections_total", &[("reason", "bad_body")], bad.len() as f64 * 4.0);
}

#[test]
fn an_answer_that_comes_before_the_body_is_passed_on() {
    let answered = Gate::new();
    let origin = Origin::start({
        let answered = answered.clone();
        move |connection| {
            let Some(mut request) = connection.read_head() else { return };
            if request.method == "POST" {
                connection.answer(403, "no");
                answered.wait();
            } else {
                connection.read_body(&mut request);
                connection.answer(200, "fine");
            }
        }
    });
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    client.send("POST /streamed/ HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\nabc");
    assert_eq!(client.response().expect(403).text(), "no");
    answered.open();
    client.send(noise(100_000 - 3));
    assert_eq!(gateway.get("/app/").expect(200).text(), "fine");
    assert_eq!(gateway.access_log(2).len(), 2);
}

#[test]
fn the_answer_of_an_app_that_does_not_read_the_body_is_passed_on() {
    // More than the sockets on the way to the app hold. It answers and hangs up on the rest, as a worker does whose code never
    // looks at the body.
    const LENGTH: usize = 16 * 1024 * 1024;
    let origin = Origin::start(|connection| {
        if connection.read_head().is_some() {
            connection.answer(403, "no");
        }
    });
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    client.send_request("POST", "/app/", &[], vec![b'x'; LENGTH]);
    let told = client.response().expect(403);
    // The client has sent all of it: its connection is good for more.
    assert_eq!((told.text(), told.field("connection")), ("no", None));
    client.get("/app/").expect(403);
    let line = &gateway.access_log(2)[0];
    assert_eq!((&line["status"], &line["bytes_in"], line.get("reason")), (&403.into(), &LENGTH.into(), None), "{line}");
    eventually("the slots are free", || {
        (gateway.metrics().value("propylon_upstream_in_flight", &[]) == Some(0.0)).then_some(())
    });
}

#[test]
fn an_answer_is_not_late_because_the_body_is_not_read() {
    // More than the sockets on the way to the app hold, and pieces that together take longer than one may.
    let origin = Origin::start(|connection| {
        if connection.read_head().is_some() {
            connection.write("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n");
            for _ in 0..8 {
                connection.delay(Duration::from_millis(250));
                connection.write("x");
            }
        }
    });
    let patient =
        GATEWAY.replace("endpoints = [\"{origin}\"]", "endpoints = [\"{origin}\"]\nread_timeout = \"1500ms\"");
    let gateway = Gateway::with(&patient).set("origin", origin.address()).start();
    for path in BOTH {
        let told = gateway.connect().request("POST", path, &[], vec![b'x'; 8 << 20]).expect(200);
        assert_eq!(told.text(), "xxxxxxxx");
    }
}

#[test]
fn a_body_that_is_cut_by_its_answer_is_not_given_an_end() {
    let (seen, whole) = std::sync::mpsc::channel();
    let seen = std::sync::Mutex::new(seen);
    let origin = Origin::start(move |connection| {
        while let Some(mut request) = connection.read_head() {
            connection.answer(202, "accepted");
            let _ = seen.lock().unwrap().send(connection.read_body(&mut request));
        }
    });
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    for framing in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
        let mut client = gateway.connect();
        client.send(format!("POST /streamed/ HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n3\r\nabc\r\n"));
        client.response().expect(202);
        assert!(!whole.recv_timeout(Duration::from_secs(10)).unwrap(), "{framing}");
    }
}

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// An app that answers while it reads fills the pipe back before the pipe there is empty: whoever only writes is stuck with it.
#[test]
fn an_app_may_answer_while_it_reads() {
    let app = PythonServer::uvicorn("asgi:app").start();
    let gateway = Gateway::with(GATEWAY).set("origin", app.address()).start();
    let body = noise(8 << 20);
    for path in BOTH {
        let mut client = gateway.connect();
        for _ in 0..2 {
            let told = client.request("POST", &format!("{path}duplex"), &[], &body).expect(200);
            assert_eq!(told.body.len(), 2 * body.len());
        }
    }
}

fn expecting(gateway: &Gateway, target: &str, fields: &str) -> Client {
    let mut client = gateway.connect();
    client.send(format!("POST {target} HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\n{fields}\r\n\r\n"));
    client
}

#[test]
fn a_client_that_asks_first_is_told_to_go_on() {
    let origin = echo_body();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    for target in BOTH {
        for (fields, body) in
            [("Content-Length: 5", "hello"), ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n")]
        {
            let mut client = expecting(&gateway, target, fields);
            assert_eq!(client.read_raw(CONTINUE.len()), CONTINUE);
            client.send(body);
            let told = client.response().expect(200);
            assert_eq!((told.text(), told.interim.as_slice()), ("hello", &[][..]));
            client.get("/app/").expect(200);
        }
    }
    // Without a body there is nothing to go on with.
    let mut client = expecting(&gateway, "/app/", "Content-Length: 0");
    assert!(client.response().expect(200).interim.is_empty());
    // Who does not wait is served as well, whether or not it is told.
    let mut client = expecting(&gateway, "/app/", "Content-Length: 5\r\n\r\nhello\r\n\r\n".trim_end());
    assert_eq!(client.response().expect(200).text(), "hello");
    // HTTP/1.0 has no such thing (RFC 9110 section 10.1.1).
    let mut client = gateway.connect();
    client.send("POST /app/ HTTP/1.0\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello");
    let told = client.response().expect(200);
    assert_eq!((told.text(), told.interim.as_slice()), ("hello", &[][..]));
    assert!(origin.requests().iter().all(|request| !request.fields.has("expect")));
}

#[test]
fn a_client_that_asks_first_is_refused_without_being_told_to_go_on() {
    let origin = echo_body();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    for (target, fields, status, reason) in [
        ("/none", "Content-Length: 5", 404, "no_route"),
        ("/small/", "Content-Length: 11", 413, "body_too_large"),
        ("/app/../", "Content-Length: 5", 400, "bad_target"),
        // A body that is streamed is not asked for before there is an app to read it.
        ("/dead/streamed/", "Content-Length: 5", 503, "upstream_unreachable"),
        ("/app/", "Content-Length: 5\r\nContent-Length: 5", 400, "bad_framing"),
        ("/app/", "Content-Length: 5\r\nExpect: tea", 417, "expectation_failed"),
    ] {
        let mut client = expecting(&gateway, target, fields);
        let told = client.response().expect(status);
        assert_eq!((&told.json()["reason"], told.interim.as_slice()), (&reason.into(), &[][..]), "{target} {fields}");
        // It may send its body now or not: what follows has two readings.
        assert_eq!(told.field("connection"), Some("close"), "{target} {fields}");
        client.closed();
    }
    let mut client = gateway.connect();
    client.send("POST /app/ HTTP/1.1\r\nHost: test\r\nExpect: tea\r\nContent-Length: 5\r\n\r\n");
    let told = client.response().expect(417);
    assert_eq!(told.json()["reason"], "expectation_failed");
    client.closed();
    assert!(origin.requests().is_empty());
}

#[test]
fn a_body_that_is_received_whole_is_asked_for_whatever_the_app_does() {
    let origin = echo_body();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let mut client = expecting(&gateway, "/dead/", "Content-Length: 5");
    assert_eq!(client.read_raw(CONTINUE.len()), CONTINUE);
    // Nobody looks for an app before the body is here.
    assert_eq!(gateway.metrics().value("propylon_upstream_errors_total", &[("upstream", "dead")]), Some(0.0));
    client.send("hello");
    let told = client.response().expect(503);
    assert_eq!(told.json()["reason"], "upstream_unreachable");
    assert_eq!(told.field("connection"), None, "it is known where the next request begins");
    client.get("/app/").expect(200);
}
