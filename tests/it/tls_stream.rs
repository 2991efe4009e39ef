//! Requests and answers over TLS: whole in both directions, at the client's speed, and their ends told from being cut off.

// Counters are whole numbers, and small ones.
#![allow(clippy::float_cmp, clippy::cast_precision_loss)]

use std::io::Write;
use std::time::Duration;

use rustls::version::{TLS12, TLS13};

use crate::harness::tls::{Authority, TlsClient};
use crate::harness::{Broken, Client, Gate, Gateway, Origin, eventually, rounds, scripted_delay};

const GATEWAY: &str = r#"
    [server]
    listen = []
    listen_tls = ["127.0.0.2:0"]
    [server.client]
    write_idle_timeout = "{patience}"
    keepalive_timeout = "{keepalive}"
    [[tls.certificates]]
    cert = "a.pem"
    key = "a.key"
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [upstreams.app]
    endpoints = ["{origin}"]
    [[routes]]
    upstream = "app"
    [[routes]]
    path = "/streamed/*"
    upstream = "app"
    buffer_responses = false
"#;

fn start_with(origin: &Origin, patience: &str, keepalive: &str) -> Gateway {
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address());
    let gateway = gateway.set("patience", patience).set("keepalive", keepalive);
    gateway.certificate("a", &Authority::shared().issue(&["test"])).start()
}

fn start(origin: &Origin) -> Gateway {
    start_with(origin, "30s", "60s")
}

fn tls() -> TlsClient {
    TlsClient::new(Authority::shared(), "test")
}

/// One client for each version.
fn clients() -> [TlsClient; 2] {
    [&TLS13, &TLS12].map(|version| TlsClient::with(Authority::shared(), "test", &[version], None))
}

/// Answers with the body it was sent.
fn echo() -> Origin {
    Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            connection.answer(200, request.body);
        }
    })
}

/// Bytes of which no two places look alike.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| u8::try_from((n ^ (n >> 8) ^ (n >> 16)) & 0xff).unwrap()).collect()
}

/// More than the sockets to a client and the records in between hold.
const LARGE: usize = 6 * 1024 * 1024;

#[test]
fn bodies_of_every_size_come_and_go_whole() {
    let origin = echo();
    let gateway = start(&origin);
    for tls in clients() {
        let mut client = gateway.connect_tls(&tls);
        // Around the sizes of records, of what is read and of what is written at once.
        let edges = [1 << 14, 1 << 15, 1 << 16, 3 << 14].into_iter().flat_map(|n| [n - 1, n, n + 1]);
        for length in [0, 1, 2, 300, 16_300, 100_000, 1_000_000, LARGE].into_iter().chain(edges) {
            let body = pattern(length);
            let answer = client.request("POST", "/", &[], &body).expect(200);
            assert!(answer.body == body, "{length} bytes, by length");
            client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
            for piece in body.chunks(33_333) {
                client.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
            }
            client.send("0\r\n\r\n");
            assert!(client.response().expect(200).body == body, "{length} bytes, chunked");
        }
    }
    assert_eq!(gateway.metrics().value("propylon_connections_total", &[]), Some(2.0));
}

#[test]
fn a_client_may_send_and_take_as_slowly_as_it_likes() {
    let body = pattern(LARGE);
    let large = body.clone();
    let origin = Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            let answer = if request.target == "/large" { large.clone() } else { request.body };
            connection.answer(200, answer);
        }
    });
    let gateway = start(&origin);
    for tls in clients() {
        let mut reader = gateway.connect_tls(&tls);
        reader.set_receive_buffer(64 * 1024);
        reader.send_request("GET", "/large", &[], "");
        // The app is free long before the client has its answer.
        eventually("the app is free, its client is not served", || {
            let metrics = gateway.metrics();
            let both = ["requests", "upstream"].map(|of| metrics.value(&format!("propylon_{of}_in_flight"), &[]));
            (both == [Some(1.0), Some(0.0)] && !origin.requests().is_empty()).then_some(())
        });
        // Meanwhile another sends byte by byte, and costs the app nothing until it is done.
        let mut writer = gateway.connect_tls(&tls);
        let before = origin.requests().len();
        assert!(writer.drip(
            "POST /slow HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\n12345678".as_bytes().chunks(3),
            Duration::from_millis(2)
        ));
        assert_eq!(origin.requests().len(), before);
        writer.send("9");
        assert_eq!(writer.response().expect(200).body, b"123456789");
        let answer = reader.response().expect(200);
        assert!(answer.body == body, "the body came otherwise");
        assert!(reader.get("/large").expect(200).body == body);
    }
}

#[test]
fn a_client_that_takes_little_at_a_time_is_not_taken_for_one_that_takes_nothing() {
    let body = pattern(LARGE);
    let large = body.clone();
    let origin = Origin::start(move |connection| {
        while connection.read_request().is_some() {
            connection.answer(200, &large);
        }
    });
    let gateway = start_with(&origin, "1500ms", "60s");
    let mut client = gateway.connect_tls(&tls());
    client.set_receive_buffer(256 * 1024);
    client.send_request("GET", "/", &[], "");
    client.response_head().expect(200);
    let mut taken = Vec::new();
    // Longer than the limit all together, and never nearly as long at a time.
    for _ in 0..10 {
        scripted_delay(Duration::from_millis(200));
        taken.extend(client.read_raw(500_000));
    }
    taken.extend(client.read_raw(LARGE - taken.len()));
    assert!(taken == body, "the body came otherwise");
    client.get("/").expect(200);
    assert!(gateway.access_log(2).iter().all(|line| line["reason"].is_null()));
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    let origin = Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            connection.answer(200, vec![b'x'; if request.target.ends_with("large") { LARGE } else { 1 }]);
        }
    });
    let gateway = start_with(&origin, "400ms", "60s");
    for target in ["/large", "/streamed/large"] {
        let mut client = gateway.connect_tls(&tls());
        client.set_receive_buffer(16 * 1024);
        client.send_request("GET", target, &[], "");
        let line =
            eventually("it is cut off", || gateway.access_log_now().into_iter().find(|line| line["path"] == target));
        assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"write_timeout".into()), "{line}");
        // What it reads now is a part, and not to be taken for the whole.
        assert!(matches!(client.try_response(), Err(Broken::Truncated(_) | Broken::Reset)));
    }
    gateway.connect_tls(&tls()).get("/small").expect(200);
}

#[test]
fn requests_are_pipelined_and_connections_kept() {
    let origin = echo();
    let gateway = start(&origin);
    for tls in clients() {
        let mut client = gateway.connect_tls(&tls);
        let mut pipeline = Vec::new();
        for number in 0..100 {
            pipeline
                .extend(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\n{number:03}").into_bytes());
        }
        // In records that end anywhere.
        for piece in pipeline.chunks(777) {
            client.send(piece);
        }
        for number in 0..100 {
            assert_eq!(client.response().expect(200).text(), format!("{number:03}"));
        }
        let expecting = [("Expect", "100-continue"), ("Content-Length", "5")];
        client.send_request("POST", "/", &expecting, "");
        client.set_timeout(Duration::from_secs(10));
        assert_eq!(client.read_raw(25), b"HTTP/1.1 100 Continue\r\n\r\n");
        client.send("hello");
        assert_eq!(client.response().expect(200).text(), "hello");
        client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        assert_eq!(client.response().expect(200).field("connection"), Some("close"));
        // The end is said (RFC 8446 section 6.1): without that reading it is an error.
        assert_eq!(client.read_rest().unwrap(), b"");
    }
}

#[test]
fn an_answer_without_a_length_ends_with_a_word_and_a_torn_one_without() {
    let torn = Gate::new();
    let tear = torn.clone();
    let origin = Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            connection.write(match &*request.target {
                "/counted" | "/torn-counted" => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
                "/chunked" | "/torn-chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
                _ => "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
            });
            if request.target.starts_with("/torn") {
                // The client was sent the first half.
                tear.wait();
                return connection.reset();
            }
            connection.write(if request.target == "/chunked" { "5\r\nhello\r\n0\r\n\r\n" } else { "hello" });
            if request.target == "/until-close" {
                return;
            }
        }
    });
    let gateway = start(&origin);
    let ask = |tls: &TlsClient, target: &str| {
        let mut client = gateway.connect_tls(tls);
        client.send(format!("GET {target} HTTP/1.0\r\nHost: test\r\n\r\n"));
        client
    };
    for tls in clients() {
        // HTTP/1.0 knows no chunks: the end of the connection is that of the body.
        for target in ["/counted", "/chunked", "/until-close"] {
            let mut client = ask(&tls, target);
            assert_eq!(client.response().expect(200).text(), "hellohello", "{target}");
            assert_eq!(client.read_rest().unwrap(), b"", "{target}");
        }
    }
    let mut cut: Vec<_> =
        ["/torn-counted", "/torn-chunked", "/torn-until-close"].map(|target| (target, ask(&tls(), target))).into();
    for target in ["/torn-counted", "/torn-chunked", "/torn-until-close"] {
        let mut client = gateway.connect_tls(&tls());
        client.send_request("GET", target, &[], "");
        cut.push((target, client));
    }
    eventually("all are being answered", || (origin.requests().len() == 12).then_some(()));
    torn.open();
    for (target, client) in &mut cut {
        match client.try_response() {
            // The head may have waited for more of the body.
            Ok(answer) => assert_eq!(answer.status, 502, "{target}: {answer}"),
            Err(Broken::Truncated(_) | Broken::Reset | Broken::Closed) => {}
            Err(broken) => panic!("{target}: {broken:?}"),
        }
    }
    gateway.connect_tls(&tls()).get("/counted").expect(200);
}

#[test]
fn a_connection_that_is_idle_for_too_long_is_closed_with_a_word() {
    let origin = echo();
    let gateway = start_with(&origin, "30s", "200ms");
    for tls in clients() {
        let mut client = gateway.connect_tls(&tls);
        client.get("/").expect(200);
        assert_eq!(client.read_rest().unwrap(), b"");
    }
}

#[test]
fn a_client_may_leave_at_any_moment() {
    let hanging = Gate::new();
    let hangs = hanging.clone();
    let origin = Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            match &*request.target {
                "/hang" => {
                    hangs.open();
                    connection.peer_closed();
                    return;
                }
                "/half" => {
                    connection.write("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhello");
                    connection.peer_closed();
                    return;
                }
                _ => drop(connection.answer(200, "fine")),
            }
        }
    });
    let gateway = start(&origin);
    for politely in [true, false] {
        for tls in clients() {
            let leave = |client: Client| {
                if politely {
                    client.tls().close_notify();
                    drop(client);
                } else {
                    client.reset();
                }
            };
            let mut client = gateway.connect_tls(&tls);
            client.send("GET / HTTP/1.1\r\nHo");
            leave(client);
            let mut client = gateway.connect_tls(&tls);
            client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nabc");
            leave(client);
            let mut client = gateway.connect_tls(&tls);
            client.send_request("GET", "/hang", &[], "");
            hanging.wait();
            leave(client);
            let mut client = gateway.connect_tls(&tls);
            client.send_request("GET", "/half", &[], "");
            client.response_head().expect(200);
            assert_eq!(client.read_raw(5), b"hello");
            leave(client);
            let mut client = gateway.connect_tls(&tls);
            client.get("/").expect(200);
            leave(client);
            for gauge in ["propylon_requests_in_flight", "propylon_upstream_in_flight", "propylon_connections"] {
                eventually(gauge, || (gateway.metrics().value(gauge, &[]) == Some(0.0)).then_some(()));
            }
        }
    }
    gateway.connect_tls(&tls()).get("/").expect(200);
}

#[test]
fn who_says_that_nothing_more_comes_gets_what_is_there() {
    let origin = echo();
    let gateway = start(&origin);
    for tls in clients() {
        // As over a plain connection: a whole request that needs no app is answered.
        let mut client = gateway.connect_tls(&tls);
        client.send_request("GET", "*", &[], "");
        client.tls().close_notify();
        client.response().expect(400);
        assert_eq!(client.read_rest().unwrap(), b"");
    }
}

#[test]
fn events_reach_the_client_one_by_one() {
    let (next, sent) = (Gate::new(), Gate::new());
    let gates = [next.clone(), sent.clone()];
    let origin = Origin::start(move |connection| {
        connection.read_request();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        connection.write(format!("{head}9\r\ndata: 1\n\n\r\n"));
        gates[0].wait();
        connection.write("9\r\ndata: 2\n\n\r\n");
        gates[1].wait();
        connection.write("0\r\n\r\n");
    });
    let gateway = start(&origin);
    let mut client = gateway.connect_tls(&tls());
    client.send_request("GET", "/", &[], "");
    client.response_head().expect(200);
    // The second is sent when the client has the first.
    assert_eq!(client.read_raw(14), b"9\r\ndata: 1\n\n\r\n");
    next.open();
    assert_eq!(client.read_raw(14), b"9\r\ndata: 2\n\n\r\n");
    sent.open();
    assert_eq!(client.read_raw(5), b"0\r\n\r\n");
}

#[test]
fn keys_change_in_the_middle_of_everything() {
    let origin = echo();
    let gateway = start(&origin);
    let mut client = gateway.connect_tls(&TlsClient::with(Authority::shared(), "test", &[&TLS13], None));
    let body = pattern(300_000);
    for _ in 0..rounds(5, 200) {
        // The gateway's own change with its next answer.
        client.tls().update_keys();
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 300000\r\n\r\n");
        for piece in body.chunks(70_000) {
            client.tls().update_keys();
            client.send(piece);
        }
        assert!(client.response().expect(200).body == body);
        // Between two requests.
        client.tls().update_keys();
        client.get("/").expect(200);
    }
}

#[test]
fn an_app_that_goes_on_without_its_client_has_its_time_and_no_more() {
    let forever = Gate::new();
    let gate = forever.clone();
    let origin = Origin::start(move |connection| {
        while connection.read_request().is_some() {
            // More than the sockets take, and less than it announces.
            connection.write("HTTP/1.1 200 OK\r\nContent-Length: 90000000\r\n\r\n");
            connection.write(vec![b'x'; 20_000_000]);
            gate.wait();
        }
    });
    let alone = "    endpoints = [\"{origin}\"]\n    client_abort = \"finish\"\n    read_timeout = \"1s\"";
    let gateway = Gateway::with(&GATEWAY.replace("    endpoints = [\"{origin}\"]", alone));
    let gateway = gateway.set("origin", origin.address()).set("patience", "300ms").set("keepalive", "60s");
    let gateway = gateway.certificate("a", &Authority::shared().issue(&["test"])).start();
    let mut client = tls().connect(gateway.addr()).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    // It reads nothing, and the app says nothing more.
    let line = &gateway.access_log(1)[0];
    assert_eq!(line["upstream_status"], 200, "{line}");
    forever.open();
}
