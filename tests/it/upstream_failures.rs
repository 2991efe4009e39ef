//! What clients see of an app that fails: never a torn answer that looks whole, never more than was announced.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::harness::*;
use crate::in_flight::nothing_in_flight;

/// One app; `{keys}` are further keys of its upstream.
const ONE_APP: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[admin]
listen = ["127.0.0.1:0"]
[server.client]
body_idle_timeout = "300ms"
[log]
access = "{dir}/access.log"
[upstreams.app]
endpoints = ["{origin}"]
{keys}
[[routes]]
upstream = "app"
[[routes]]
path = "/patient/*"
upstream = "app"
timeouts = { first_byte = "10s", read = "10s" }
"#;

fn one_app(origin: &Origin, keys: &str) -> Gateway {
    Gateway::with(ONE_APP).set("origin", origin.address()).set("keys", keys).start()
}

/// Writes these bytes to every request, and closes.
fn says(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Origin {
    Origin::start(move |connection| {
        if connection.read_request().is_some() {
            connection.write(bytes.as_ref());
            connection.close();
        }
    })
}

fn errors(gateway: &Gateway, kind: &str) -> Option<f64> {
    gateway.metrics().value("propylon_upstream_errors_total", &[("kind", kind)])
}

/// The log line of the first request, which must give this reason and status.
#[track_caller]
fn logged(gateway: &Gateway, status: u16, reason: &str) -> Value {
    let line = gateway.access_log(1).swap_remove(0);
    assert_eq!((&line["status"], &line["reason"]), (&status.into(), &reason.into()), "{line}");
    line
}

#[test]
fn what_is_no_http_is_an_invalid_answer() {
    let long = format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n", "x".repeat(3 << 20));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(1000));
    for garbage in [
        "220 smtp.example.com ESMTP ready\r\n\r\n",
        "\0\0\0\x0c\x04\0\0\0\0\0\0\0\0\0\0\r\n\r\n",
        "HTTP/1.1 twohundred OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        &long,
        &many,
    ] {
        let shown: String = garbage.chars().take(70).collect();
        let origin = says(garbage.to_owned());
        let gateway = one_app(&origin, "");
        let mut client = gateway.connect();
        client.send_request("GET", "/", &[], "");
        let response = client.try_response();
        assert!(matches!(&response, Ok(response) if response.status == 502), "{shown:?}: {response:?}");
        assert_eq!(logged(&gateway, 502, "upstream_invalid")["retries"], 0, "{shown:?}");
        assert_eq!(errors(&gateway, "invalid_response"), Some(1.0), "{shown:?}");
        assert_eq!(origin.requests().len(), 1, "{shown:?}");
        let log = gateway.wait_for_log("request failed");
        assert!(!log.contains("smtp.example.com"), "the app's bytes are not for the log: {log}");
        nothing_in_flight(&gateway);
    }
}

#[test]
fn the_clients_connection_outlives_the_apps_failure() {
    let origin = Origin::start(|connection| {
        while let Some(mut request) = connection.read_head() {
            if request.target == "/bad" {
                connection.write("nonsense\r\n\r\n");
                return;
            }
            connection.read_body(&mut request);
            connection.answer(200, "fine");
        }
    });
    let gateway = one_app(&origin, "");
    let mut client = gateway.connect();
    client.get("/").expect(200);
    client.get("/bad").expect(502);
    client.get("/").expect(200);
    // The body had been received whole, so the next request begins where it should.
    let response = client.request("POST", "/bad", &[], "body").expect(502);
    assert_eq!(response.field("Connection"), None);
    client.get("/").expect(200);

    // Of a body that was passed on as it came, the rest may be missing: then the connection ends, and the client is told.
    let gateway = one_app(&origin, "buffer_requests = false");
    let mut client = gateway.connect();
    client.send("POST /bad HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234");
    assert_eq!(client.response_to("POST").expect(502).field("Connection"), Some("close"));
    client.closed();
}

#[test]
fn an_app_that_closes_without_an_answer_is_502() {
    for (fault, kind) in [(Connection::close as fn(&mut Connection), "closed_early"), (Connection::reset, "reset")] {
        let origin = Origin::start(move |connection| {
            if connection.read_request().is_some() {
                fault(connection);
            }
        });
        let gateway = one_app(&origin, "retry = { idempotent = 0 }");
        gateway.get("/").expect(502);
        let line = logged(&gateway, 502, "upstream_closed");
        assert!(line["upstream_status"].is_null(), "{line}");
        assert_eq!(errors(&gateway, kind), Some(1.0));
        nothing_in_flight(&gateway);
    }
}

#[test]
fn an_app_that_hangs_is_504() {
    let origin = Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            if request.target == "/patient/" {
                connection.delay(Duration::from_millis(600));
                connection.answer(200, "late");
            } else {
                connection.hang();
            }
        }
    });
    let gateway = one_app(&origin, "first_byte_timeout = \"200ms\"");
    gateway.get("/").expect(504);
    logged(&gateway, 504, "upstream_timeout");
    gateway.connect().request("POST", "/", &[], "body").expect(504);
    assert_eq!(errors(&gateway, "timeout"), Some(2.0));
    assert_eq!(origin.requests().len(), 2);
    nothing_in_flight(&gateway);
    // A route may have more patience than its upstream.
    assert_eq!(gateway.get("/patient/").expect(200).text(), "late");
    assert_eq!(gateway.connect().request("POST", "/patient/", &[], "body").expect(200).text(), "late");
}

#[test]
fn an_app_that_neither_reads_nor_answers_is_504() {
    let origin = Origin::start(|connection| {
        if connection.read_head().is_some() {
            connection.hang();
        }
    });
    let keys = "first_byte_timeout = \"200ms\"\nread_timeout = \"200ms\"";
    // More than the sockets in between hold. The gateway takes it all, and is stuck with it.
    let gateway = one_app(&origin, keys);
    gateway.connect().request("POST", "/", &[], vec![b'x'; 10_000_000]).expect(504);
    logged(&gateway, 504, "upstream_timeout");
    nothing_in_flight(&gateway);

    let gateway = one_app(&origin, &format!("buffer_requests = false\n{keys}"));
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n");
    // The gateway stops taking it, and need not.
    let mut left = 10_000_000;
    while left > 0 && client.try_send([b'x'; 10_000]).is_ok() {
        left -= 10_000;
        if gateway.access_log_now().len() == 1 {
            break;
        }
    }
    client.response_to("POST").expect(504);
    logged(&gateway, 504, "upstream_timeout");
    nothing_in_flight(&gateway);
}

/// Bodies of more pieces than the socket holds: some are still on their way to the app when the last one leaves the spool.
#[test]
fn an_app_that_takes_a_large_body_late_and_hangs_is_504() {
    for keys in ["", "max_in_flight = 1"] {
        let (answered, is_answered) = channel();
        let is_answered = Mutex::new(is_answered);
        let origin = Origin::start_unix(move |connection| {
            if let Some(mut request) = connection.read_head() {
                connection.delay(Duration::from_millis(50));
                connection.read_body(&mut request);
                // What the app works on keeps its slot.
                is_answered.lock().unwrap().recv_timeout(Duration::from_secs(10)).expect("the client has its answer");
            }
        });
        let gateway = one_app(&origin, &format!("first_byte_timeout = \"1s\"\n{keys}"));
        let lengths = [200_000, 300_000, 400_000, 500_000, 650_000];
        for length in &lengths {
            gateway.connect().request("POST", "/", &[], vec![b'x'; *length]).expect(504);
            answered.send(()).unwrap();
        }
        assert!(gateway.access_log(lengths.len()).iter().all(|line| line["reason"] == "upstream_timeout"));
        let bodies: Vec<usize> = origin.requests().iter().map(|request| request.body.len()).collect();
        assert_eq!(bodies, lengths);
        nothing_in_flight(&gateway);
    }
}

#[test]
fn a_client_that_leaves_while_its_large_body_is_handed_on_is_noticed() {
    let arrived = Gate::new();
    let seen = arrived.clone();
    let origin = Origin::start(move |connection| {
        if connection.read_head().is_some() {
            seen.open();
            connection.hang();
        }
    });
    let gateway = one_app(&origin, "client_abort = \"close\"");
    let mut client = gateway.connect();
    client.send_request("POST", "/", &[], vec![b'x'; 10_000_000]);
    arrived.wait();
    drop(client);
    logged(&gateway, 499, "client_closed");
    nothing_in_flight(&gateway);
}

#[test]
fn an_app_may_answer_before_it_has_read_the_body() {
    let origin = Origin::start(|connection| {
        while let Some(mut request) = connection.read_head() {
            connection.answer(413, "too much");
            connection.read_body(&mut request);
        }
    });
    let gateway = one_app(&origin, "buffer_requests = false");
    let mut client = gateway.connect();
    for _ in 0..3 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234");
        assert_eq!(client.response_to("POST").expect(413).text(), "too much");
        // The app is not kept waiting for what the client has not sent yet.
        nothing_in_flight(&gateway);
        client.send("56789");
    }
    assert!(origin.requests().is_empty());

    // More than the sockets in between hold, so that much of it is still with the gateway when the app has answered.
    let origin = Origin::start(|connection| {
        while let Some(mut request) = connection.read_head() {
            connection.answer(413, "too much");
            connection.read_body(&mut request);
        }
    });
    let gateway = one_app(&origin, "");
    let mut client = gateway.connect();
    let body = "0123456789".repeat(800_000);
    for _ in 0..3 {
        assert_eq!(client.request("POST", "/", &[], &body).expect(413).text(), "too much");
    }
    nothing_in_flight(&gateway);
    assert!(origin.requests().is_empty());
}

#[test]
fn an_app_that_answers_and_closes_before_it_has_read_the_body_is_heard() {
    let origin = Origin::start(|connection| {
        if connection.read_head().is_some() {
            connection.answer(413, "too much");
            connection.half_close();
            connection.peer_closed();
        }
    });
    let gateway = one_app(&origin, "buffer_requests = false");
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234");
    assert_eq!(client.response_to("POST").expect(413).text(), "too much");
    client.send("56789");
    nothing_in_flight(&gateway);
    assert_eq!(gateway.access_log(1)[0]["status"], 413);

    // And where the gateway has it all, more than the sockets in between hold.
    let gateway = one_app(&origin, "");
    let mut client = gateway.connect();
    for _ in 0..3 {
        let body = vec![b'x'; 8_000_000];
        assert_eq!(client.request("POST", "/", &[], body).expect(413).text(), "too much");
    }
    nothing_in_flight(&gateway);
    assert_eq!(gateway.access_log(3)[2]["status"], 413);
}

#[test]
fn an_app_that_stalls_within_its_answer_breaks_it() {
    let origin = Origin::start(|connection| {
        if connection.read_request().is_some() {
            connection.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234");
            connection.hang();
        }
    });
    let gateway = one_app(&origin, "read_timeout = \"300ms\"");
    let mut client = gateway.connect();
    client.send_request("GET", "/", &[], "");
    let torn = client.try_response().unwrap_err().truncated();
    assert_eq!((torn.status, torn.body.as_slice()), (200, b"01234".as_slice()));
    let line = logged(&gateway, 200, "upstream_timeout");
    assert_eq!((&line["upstream_status"], &line["bytes_out"]), (&200.into(), &5.into()), "{line}");
    assert_eq!(errors(&gateway, "timeout"), Some(1.0));
    nothing_in_flight(&gateway);
}

/// How an app breaks off: `after` the head arrived at the client, or at once with it.
fn torn(
    answer: &'static str,
    fault: fn(&mut Connection),
    request: &str,
    after: bool,
) -> (Result<Response, Broken>, Value) {
    let gate = Gate::new();
    let seen = gate.clone();
    let origin = Origin::start(move |connection| {
        if connection.read_request().is_some() {
            connection.write(answer);
            if after {
                seen.wait();
            }
            fault(connection);
        }
    });
    let gateway = one_app(&origin, "");
    let mut client = gateway.connect();
    client.send(request);
    if after {
        // The start of the answer is on its way to the client when the app fails.
        eventually("the app's answer has begun", || {
            let metrics = gateway.metrics();
            (metrics.value("propylon_upstream_first_byte_seconds_count", &[]) == Some(1.0)).then_some(())
        });
        gate.open();
    }
    let response = client.try_response();
    nothing_in_flight(&gateway);
    let line = gateway.access_log(1).swap_remove(0);
    (response, line)
}

const NEW: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OLD: &str = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";

#[test]
fn an_answer_broken_off_within_its_length_never_looks_whole() {
    for fault in [Connection::close, Connection::reset] {
        for request in [NEW, OLD] {
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234";
            let (response, line) = torn(answer, fault, request, true);
            let response = response.unwrap_err().truncated();
            assert_eq!((response.field("Content-Length"), response.body.as_slice()), (Some("10"), b"01234".as_slice()));
            assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"upstream_closed".into()), "{line}");
        }
    }
}

#[test]
fn an_answer_broken_off_within_its_chunks_never_looks_whole() {
    for answer in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n01234",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n0\r\n",
    ] {
        for fault in [Connection::close, Connection::reset] {
            let (response, line) = torn(answer, fault, NEW, true);
            assert_eq!(response.unwrap_err().truncated().body, b"01234", "{answer:?}");
            assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"upstream_closed".into()), "{line}");
            // For this client the close is the end of the body, so it must not be a clean one.
            let (response, line) = torn(answer, fault, OLD, true);
            assert!(matches!(response, Err(Broken::Truncated(_) | Broken::Reset)), "{answer:?}: {response:?}");
            assert_eq!(line["reason"], "upstream_closed", "{line}");
        }
    }
}

#[test]
fn chunks_that_are_none_never_look_whole() {
    for answer in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n0123456789\r\n0\r\n\r\n",
    ] {
        for request in [NEW, OLD] {
            let (response, line) = torn(answer, Connection::close, request, false);
            match response {
                Err(Broken::Truncated(_) | Broken::Reset) => assert_eq!(line["status"], 200, "{line}"),
                Ok(response) => drop(response.expect(502)),
                Err(broken) => panic!("{answer:?}: {broken:?}"),
            }
            assert!(!line["reason"].is_null(), "{line}");
        }
    }
}

#[test]
fn an_answer_that_breaks_off_at_once_is_shown_as_far_as_it_came() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n",
    ] {
        for _ in 0..rounds(5, 50) {
            let (response, line) = torn(answer, Connection::close, NEW, false);
            assert_eq!(response.unwrap_err().truncated().status, 200, "{answer:?}");
            assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"upstream_closed".into()), "{line}");
        }
    }
}

#[test]
fn an_answer_whose_end_is_the_close_reaches_every_client_whole() {
    for answer in ["HTTP/1.0 200 OK\r\n\r\nold", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nold"] {
        let (response, line) = torn(answer, Connection::close, NEW, false);
        let response = response.unwrap();
        assert_eq!(
            (response.version.as_str(), response.framing, response.text()),
            ("HTTP/1.1", Framing::Chunked, "old")
        );
        assert!(line["reason"].is_null(), "{line}");
        let (response, line) = torn(answer, Connection::close, OLD, false);
        assert_eq!(response.unwrap().text(), "old");
        assert!(line["reason"].is_null(), "{line}");
    }
}

#[test]
fn the_client_gets_what_was_announced_and_no_more() {
    for (method, answer, body) in [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", "abc"),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
            "abc",
        ),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nmore", "abc"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\nbody", ""),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nbody", ""),
        ("GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", ""),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nbody", ""),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", ""),
    ] {
        let origin = Origin::start(move |connection| {
            while connection.read_request().is_some() {
                connection.write(answer);
            }
        });
        let gateway = one_app(&origin, "keepalive_timeout = \"30s\"");
        let mut client = gateway.connect();
        for count in 1..=3 {
            client.send_request(method, "/", &[], "");
            let response = client.response_to(method);
            assert_eq!(response.body, body.as_bytes(), "{answer:?}");
            // What is left over on a connection could be taken for the next answer.
            let connections: std::collections::BTreeSet<usize> =
                origin.requests().iter().map(|request| request.connection).collect();
            assert_eq!(connections.len(), count, "{answer:?}");
        }
        client.half_close();
        client.closed();
        nothing_in_flight(&gateway);
    }
}

#[test]
fn a_length_said_twice_is_said_once() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n01234",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n01234",
    ] {
        let origin = says(answer);
        let gateway = one_app(&origin, "");
        let mut client = gateway.connect();
        for _ in 0..2 {
            // The client of the harness takes no answer with two.
            assert_eq!(client.get("/").expect(200).text(), "01234", "{answer:?}");
        }
    }
}

#[test]
fn interim_responses_come_before_the_answer_and_are_not_it() {
    let origin = says(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    );
    let gateway = one_app(&origin, "");
    let response = gateway.get("/").expect(200);
    assert_eq!((response.text(), response.field("Link")), ("ok", None));
    assert_eq!(gateway.connect().request("POST", "/", &[], "body").expect(200).text(), "ok");
    let line = &gateway.access_log(2)[0];
    assert_eq!((&line["status"], &line["upstream_status"]), (&200.into(), &200.into()), "{line}");
}

#[test]
fn an_internal_redirect_is_refused_and_other_instructions_end_here() {
    let origin = Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            if request.target == "/file" {
                connection.write("HTTP/1.1 200 OK\r\nX-Accel-Redirect: /protected/a.pdf\r\nContent-Length: 0\r\n\r\n");
            } else {
                connection.write(
                    "HTTP/1.1 200 OK\r\nX-Accel-Buffering: no\r\nx-accel-expires: 3\r\nX-Accel-Limit-Rate: 1\r\nX-App: 1\r\nContent-Length: 2\r\n\r\nok",
                );
            }
        }
    });
    let gateway = one_app(&origin, "");
    let response = gateway.get("/file").expect(502);
    assert!(!response.fields.has("X-Accel-Redirect") && !response.text().contains("protected"));
    let line = logged(&gateway, 502, "accel_redirect");
    assert_eq!(line["upstream_status"], 200);
    gateway.wait_for_log("accel_redirect");
    assert_eq!(origin.requests().len(), 1);
    nothing_in_flight(&gateway);

    let response = gateway.get("/").expect(200);
    assert_eq!((response.text(), response.field("X-App")), ("ok", Some("1")));
    assert!(response.fields.names().iter().all(|name| !name.to_ascii_lowercase().starts_with("x-accel")), "{response}");
}

#[test]
fn an_apps_own_error_is_passed_on() {
    let origin = says("HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nbusy");
    let gateway = one_app(&origin, "");
    let response = gateway.get("/").expect(503);
    assert_eq!((response.reason.as_str(), response.field("Retry-After"), response.text()), ("Busy", Some("7"), "busy"));
    let line = &gateway.access_log(1)[0];
    assert!(line["reason"].is_null(), "{line}");
    assert_eq!(origin.requests().len(), 1);
    assert_eq!(gateway.metrics().value("propylon_upstream_errors_total", &[]), Some(0.0));
}

#[test]
fn connections_are_reused_and_closed_when_they_were_idle_too_long() {
    let closed = Arc::new(AtomicBool::new(false));
    let seen = closed.clone();
    let origin = Origin::start(move |connection| {
        let mut served = 0;
        while connection.read_request().is_some() {
            connection.answer(200, "ok");
            served += 1;
        }
        // It was the gateway that closed, and not the script that lost its patience.
        if served > 0 && connection.peer_closed() {
            seen.store(true, Ordering::SeqCst);
        }
    });
    let gateway = one_app(&origin, "keepalive_timeout = \"400ms\"");
    let mut client = gateway.connect();
    for _ in 0..20 {
        client.get("/").expect(200);
    }
    let requests = origin.requests();
    let first = requests[0].connection;
    // A busy machine may let one grow old; most follow on one connection.
    assert!(requests.iter().filter(|request| request.connection == first).count() > 1);
    assert!(requests.iter().all(|request| request.field("Connection").is_none()));
    assert_eq!(gateway.access_log(20)[1]["reused"], true);
    eventually("the idle connection is closed", || closed.load(Ordering::SeqCst).then_some(()));
    client.get("/").expect(200);
    assert_ne!(origin.wait_for_requests(21)[20].connection, first);
}

#[test]
fn an_app_that_says_close_is_not_asked_again_on_that_connection() {
    for answer in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let origin = Origin::fixed(answer);
        let gateway = one_app(&origin, "keepalive_timeout = \"30s\"");
        let mut client = gateway.connect();
        for _ in 0..3 {
            client.get("/").expect(200);
        }
        let connections: std::collections::BTreeSet<usize> =
            origin.requests().iter().map(|request| request.connection).collect();
        assert_eq!(connections.len(), 3, "{answer:?}");
    }
}

#[test]
fn keepalive_off_means_one_connection_for_each_request_and_says_so() {
    for start in [Origin::start, Origin::start_unix, Origin::start_abstract] {
        // The app would keep them all.
        let origin = start(Box::new(|connection: &mut Connection| {
            while connection.read_request().is_some() {
                connection.answer(200, "ok");
            }
            connection.peer_closed();
        }) as Box<dyn Fn(&mut Connection) + Send + Sync>);
        let gateway = one_app(&origin, "keepalive_timeout = \"off\"");
        let mut client = gateway.connect();
        for _ in 0..5 {
            client.get("/").expect(200);
        }
        let requests = origin.requests();
        let connections: std::collections::BTreeSet<usize> =
            requests.iter().map(|request| request.connection).collect();
        assert_eq!(connections.len(), 5);
        assert!(requests.iter().all(|request| request.field("Connection") == Some("close")));
        eventually("all connections are closed", || (origin.open_connections() == 0).then_some(()));
        assert_eq!(gateway.metrics().value("propylon_upstream_connections_total", &[("reused", "true")]), Some(0.0));
    }
}

#[test]
fn an_abstract_socket_keeps_its_connections_like_any_other() {
    let origin = Origin::start_abstract(|connection| {
        while connection.read_request().is_some() {
            connection.answer(200, "ok");
        }
    });
    let gateway = one_app(&origin, "keepalive_timeout = \"1h\"");
    let mut client = gateway.connect();
    for _ in 0..5 {
        client.get("/").expect(200);
    }
    let requests = origin.requests();
    assert!(requests.iter().all(|request| request.connection == requests[0].connection));
    assert_eq!(gateway.access_log(5)[4]["reused"], true);
    gateway.stop();
    eventually("all connections are closed", || (origin.open_connections() == 0).then_some(()));
}
