//! Request bodies over HTTP/2: handed on as they come or received first, ended in every way there is, and answered early.

use super::{BOTH_WAYS, PLAIN, secured};
use crate::harness::http2_frames::{DATA, END_STREAM, NO_ERROR, PING, RST_STREAM, frame, headers, request, reset};
use crate::harness::{Framing, Gate, Origin, PythonServer, eventually};

const STREAMED: &str = r#"
    [server]
    listen = []
    listen_tls = ["127.0.0.1:0"]
    [upstreams.app]
    endpoints = ["{app}"]
    buffer_requests = false
    [[routes]]
    upstream = "app"
"#;

/// How a body of `hello` may end: with its last piece, with an empty one, with fields.
fn endings(stream: u32) -> [Vec<u8>; 4] {
    let hello = |ends| frame(DATA, ends, stream, b"hello");
    [
        hello(END_STREAM),
        [hello(0), frame(DATA, END_STREAM, stream, b"")].concat(),
        [hello(0), headers(stream, END_STREAM, &[("x-sum", "1")])].concat(),
        // Padding is no body.
        [frame(DATA, 8, stream, b"\x03hello\0\0\0"), frame(DATA, 8 | END_STREAM, stream, b"\x02\0\0")].concat(),
    ]
}

#[test]
fn every_end_of_a_body_leaves_the_connection_to_h11_usable() {
    let app = PythonServer::uvicorn("asgi:app").args("--http h11").unix().start();
    for toml in [STREAMED, PLAIN] {
        let gateway = secured(toml).set("app", app.address()).start();
        let mut client = gateway.frames();
        let mut stream = 1;
        for length in [None, Some("5")] {
            for ending in 0..4 {
                let more: Vec<_> = length.map(|length| ("content-length", length)).into_iter().collect();
                client.send(headers(stream, 0, &request("POST", "/echo", &more)));
                client.send(&endings(stream)[ending]);
                let echo = client.fate(stream).expect(200);
                assert!(String::from_utf8(echo).unwrap().contains("\"length\": 5"), "{ending}");
                client.get(stream + 2, "/healthz").expect(200);
                stream += 4;
            }
        }
        // The first made the connection.
        let lines = gateway.access_log(16);
        assert!(lines[1..].iter().all(|line| line["reused"] == true), "{lines:#?}");
    }
}

#[test]
fn every_end_of_a_body_is_one_end_on_the_wire() {
    // It reads strictly: what is behind an end would be no request.
    let origin =
        Origin::start(|connection| while connection.read_request().is_some() && connection.answer(200, "ok") {});
    let gateway = secured(STREAMED).set("app", origin.address()).start();
    let mut client = gateway.frames();
    for round in 0..8 {
        let stream = round * 2 + 1;
        client.send(headers(stream, 0, &request("POST", "/", &[])));
        client.send(&endings(stream)[usize::try_from(round).unwrap() % 4]);
        client.fate(stream).expect(200);
    }
    let seen = origin.requests();
    assert_eq!(seen.len(), 8);
    for request in &seen {
        assert_eq!((&request.body[..], &request.framing), (&b"hello"[..], &Framing::Chunked), "{request:?}");
        assert_eq!((request.connection, request.trailers.0.len()), (seen[0].connection, 0));
    }
}

#[test]
fn an_upload_is_handed_on_as_it_comes() {
    let origin = Origin::start(|connection| {
        let Some(mut request) = connection.read_head() else { return };
        connection.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n");
        connection.read_body(&mut request);
        connection.write(format!("{:x}\r\n{}\r\n0\r\n\r\n", request.body.len(), "x".repeat(request.body.len())));
    });
    let gateway = secured(STREAMED).set("app", origin.address()).start();
    let client = gateway.http2();
    let mut stream = client.start("POST", "/", &[], false);
    stream.send("half", false);
    // The app's answer to half a body is here before the other half was sent.
    assert_eq!(stream.head().status, 200);
    assert_eq!(stream.piece().unwrap(), "begun");
    stream.send("", false);
    stream.send("and half", true);
    assert_eq!(stream.piece().unwrap(), "x".repeat(12));
    assert_eq!(stream.piece(), None);
}

#[test]
fn a_client_that_waits_for_it_is_asked_for_its_body() {
    let origin = Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            assert_eq!(request.field("expect"), None);
            connection.answer(200, request.body);
        }
    });
    for toml in [STREAMED, PLAIN] {
        let gateway = secured(toml).set("app", origin.address()).start();
        let client = gateway.http2();
        let mut stream = client.start("POST", "/", &[("expect", "100-continue"), ("content-length", "4")], false);
        assert_eq!(stream.interim(), 100);
        stream.send("body", true);
        let answer = stream.answer().expect(200);
        assert_eq!((answer.text(), &answer.interim[..]), ("body", &[100][..]));
        // Nothing is asked for where there is none.
        let answer = client.request("GET", "/", &[("expect", "100-continue")], "").expect(200);
        assert!(answer.interim.is_empty());
    }
}

#[test]
fn an_answer_to_a_body_that_is_too_large_is_read_while_it_is_sent() {
    let origin =
        Origin::start(|connection| while connection.read_request().is_some() && connection.answer(200, "ok") {});
    let gateway = secured(BOTH_WAYS).set("limit", "max_body = \"100KB\"").set("app", origin.address()).start();
    let client = gateway.http2();
    for path in ["/", "/streamed"] {
        // Announced, and counted.
        for fields in [&[("content-length", "5000000")][..], &[]] {
            for accept in ["application/json", "text/html"] {
                let fields = [fields, &[("accept", accept)]].concat();
                let mut stream = client.start("POST", path, &fields, false);
                let mut refused = Ok(());
                for _ in 0..5_000_000 / 50_000 {
                    refused = stream.try_send(vec![b'x'; 50_000], false);
                    if refused.is_err() {
                        break;
                    }
                }
                assert!(refused.is_err(), "all of it was taken");
                let answer = stream.answer().expect(413);
                let html = answer.text().contains("<html");
                assert_eq!((html, html), (accept == "text/html", !answer.text().contains("body_too_large\"")));
                assert!(answer.field("x-request-id").is_some());
            }
        }
    }
    client.get("/").expect(200);
    assert_eq!(gateway.access_log(9).iter().filter(|line| line["reason"] == "body_too_large").count(), 8);
    assert!(origin.requests().iter().all(|request| request.method == "GET"));
}

#[test]
fn a_stream_that_was_answered_early_is_reset_without_an_error() {
    let origin = Origin::fixed("");
    let gateway = secured(BOTH_WAYS).set("limit", "max_body = \"100KB\"").set("app", origin.address()).start();
    let mut client = gateway.frames();
    client.send(headers(1, 0, &request("POST", "/", &[("content-length", "5000000")])));
    client.fate(1).expect(413);
    let end = client.skip_to(|frame| frame.kind == RST_STREAM);
    assert_eq!((end.stream, &end.payload[..]), (1, &NO_ERROR.to_be_bytes()[..]));
    // What was under way is taken and dropped, and paid for: five windows of the connection.
    for _ in 0..40 {
        client.send(frame(DATA, 0, 1, &[b'x'; 16_384]));
    }
    client.ping(*b"are you?");
}

/// curl 7.88 loses an answer that comes with a reset.
#[test]
fn a_client_may_end_an_upload_by_itself_that_was_answered_early() {
    let origin = Origin::fixed("");
    let gateway = secured(BOTH_WAYS).set("limit", "max_body = \"100KB\"").set("app", origin.address()).start();
    let mut client = gateway.frames();
    for (stream, fields) in [(1, &[("content-length", "5000000")][..]), (3, &[])] {
        client.send(headers(stream, 0, &request("POST", "/", fields)));
        for _ in 0..if fields.is_empty() { 7 } else { 1 } {
            client.send(frame(DATA, 0, stream, &[b'x'; 16_384]));
        }
        client.fate(stream).expect(413);
        let end = if fields.is_empty() { frame(DATA, END_STREAM, stream, b"") } else { reset(stream) };
        client.send([end, frame(PING, 0, 0, b"no reset")].concat());
        let next = client.skip_to(|frame| matches!(frame.kind, PING | RST_STREAM));
        assert_eq!(next.kind, PING, "{next:?}");
    }
}

#[test]
fn an_app_may_answer_while_the_upload_runs() {
    let answered = Gate::new();
    let gate = answered.clone();
    let origin = Origin::start(move |connection| {
        if connection.read_head().is_none() {
            return;
        }
        connection.answer(403, "enough");
        gate.wait();
    });
    let gateway = secured(STREAMED).set("app", origin.address()).start();
    let client = gateway.http2();
    let mut stream = client.start("POST", "/", &[("content-length", "5000000")], false);
    stream.send("begun", false);
    let answer = stream.answer().expect(403);
    assert_eq!(answer.text(), "enough");
    answered.open();
    assert!(!client.has_ended());
}

#[test]
fn a_client_that_gives_an_upload_up_is_gone_for_the_app() {
    let torn = Gate::new();
    let gate = torn.clone();
    let origin = Origin::start(move |connection| {
        let Some(mut request) = connection.read_head() else { return };
        assert!(!connection.read_body(&mut request), "the body looks whole");
        gate.open();
    });
    let gateway = secured(STREAMED).set("app", origin.address()).start();
    let client = gateway.http2();
    let mut stream = client.start("POST", "/", &[], false);
    stream.send("half", false);
    scripted(&origin);
    stream.reset();
    torn.wait();
    assert_eq!(gateway.access_log(1)[0]["reason"], "client_closed");
    assert!(!client.has_ended());
}

/// Waits until the app has been asked.
#[track_caller]
fn scripted(origin: &Origin) {
    crate::harness::eventually("the app is asked", || (origin.open_connections() > 0).then_some(()));
}

#[test]
fn bodies_that_nobody_reads_yet_hold_up_no_other() {
    let go_on = Gate::new();
    let gate = go_on.clone();
    let origin = Origin::start(move |connection| {
        while let Some(mut request) = connection.read_head() {
            if request.target == "/held" {
                gate.wait();
            }
            if !connection.read_body(&mut request) || !connection.answer(200, request.body.len().to_string()) {
                return;
            }
        }
    });
    let gateway = secured(STREAMED).set("app", origin.address()).start();
    let mut client = gateway.frames();
    // More than the connection has room for, and than the sockets to the app take.
    for stream in [1, 3, 5] {
        client.send(headers(stream, 0, &request("POST", "/held", &[])));
    }
    let mut sent = [0, 0, 0];
    let mut room = 60_000;
    for stream in (0..3).cycle().take(12) {
        if room >= 16_000 {
            client.send(frame(DATA, 0, u32::try_from(stream).unwrap() * 2 + 1, &[b'x'; 5_000]));
            sent[stream] += 5_000;
            room -= 5_000;
        }
    }
    client.send(headers(7, 0, &request("POST", "/small", &[])));
    client.send(frame(DATA, END_STREAM, 7, b"small"));
    assert_eq!(client.fate(7).expect(200), b"5");
    go_on.open();
    for stream in [1_u32, 3, 5] {
        client.send(frame(DATA, END_STREAM, stream, b""));
        let sum = client.fate(stream).expect(200);
        assert_eq!(String::from_utf8(sum).unwrap(), sent[usize::try_from(stream / 2).unwrap()].to_string());
    }
}

/// Two that wait for their turn must not take all the room that the one has whose turn it is.
#[test]
fn an_upload_goes_on_while_others_wait_for_a_worker() {
    let app = Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            if !connection.answer(200, request.body.len().to_string()) {
                return;
            }
        }
    });
    let one_at_a_time =
        STREAMED.replace("buffer_requests", "preset = \"uvicorn\"\n    max_in_flight = 1\n    buffer_requests");
    let gateway = secured(&one_at_a_time).set("app", app.address()).start();
    let mut client = gateway.frames();
    let full = 15;
    let piece = [b'x'; 16_000];
    let others_wait = |count| {
        eventually("the others wait", || {
            let metrics = gateway.metrics();
            let busy = metrics.value("propylon_upstream_in_flight", &[]) == Some(1.0);
            (busy && metrics.value("propylon_queue_depth", &[]) == Some(count)).then_some(())
        });
    };
    for (stream, waiting) in [(1, 0.0), (3, 1.0), (5, 2.0)] {
        client.send(headers(stream, 0, &request("POST", "/", &[])));
        others_wait(waiting);
    }
    for stream in [3, 5, 1] {
        for _ in 0..full {
            client.send(frame(DATA, 0, stream, &piece));
        }
    }
    for stream in [1, 3, 5] {
        client.send(frame(DATA, END_STREAM, stream, b""));
    }
    for stream in [1, 3, 5] {
        let sum = String::from_utf8(client.fate(stream).expect(200)).unwrap();
        assert_eq!(sum, (full * piece.len()).to_string());
    }
}
