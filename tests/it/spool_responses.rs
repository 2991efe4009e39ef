//! Responses are taken from the app at its own speed; what a client is too slow for waits in the spool, and nothing else does.

// Counters are whole numbers, and small ones.
#![allow(clippy::float_cmp, clippy::cast_precision_loss)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::{
    Broken, Client, Connection, Framing, Gate, Gateway, Origin, PythonServer, Response, Signal, eventually, rounds,
};
use crate::spool_requests::{chunked, held, metric, nothing_held, pattern, spool_dir, spooling};

/// More than the gateway's socket holds for a client that reads nothing.
const LARGE: usize = 5 * 1024 * 1024;
/// More than all sockets between the app and such a client hold.
pub const ENDLESS: usize = 40 * 1024 * 1024;

/// A connection whose client takes nothing by itself.
fn lazy(gateway: &Gateway) -> Client {
    let client = gateway.connect();
    client.set_receive_buffer(256 * 1024);
    client
}

/// The next response, which must be whole and have this body.
#[track_caller]
pub fn expect_body(client: &mut Client, body: &[u8]) -> Response {
    match client.try_response() {
        Ok(told) => {
            assert_eq!((told.status, told.body.len()), (200, body.len()));
            assert!(told.body == body, "the body came otherwise");
            told
        }
        Err(Broken::Truncated(told)) => panic!("{} of {} bytes came", told.body.len(), body.len()),
        Err(broken) => panic!("no response: {broken:?}"),
    }
}

pub fn waits_to_read(gateway: &Gateway, target: &str) -> Client {
    let mut client = lazy(gateway);
    client.send_request("GET", target, &[], "");
    client
}

/// Waits until the app is free and this many clients still have an answer to take.
#[track_caller]
fn only_clients_remain(gateway: &Gateway, count: f64) {
    eventually("the app is free, its clients are not served", || {
        let metrics = gateway.metrics();
        let both = ["requests", "upstream"].map(|of| metrics.value(&format!("propylon_{of}_in_flight"), &[]));
        (both == [Some(count), Some(0.0)]).then_some(())
    });
}

/// `body` as a whole response in this framing.
fn response(framing: &str, body: &[u8]) -> Vec<u8> {
    match framing {
        "/counted" => [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat(),
        "/chunked" => [&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..], &chunked(body, 30_001)].concat(),
        _ => [&b"HTTP/1.0 200 OK\r\n\r\n"[..], body].concat(),
    }
}

/// Answers with a large body in the framing that the path names, and with "small" otherwise.
pub fn large(body: &[u8]) -> Origin {
    let body = body.to_vec();
    Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            if matches!(&*request.target, "/counted" | "/chunked" | "/until-close") {
                connection.write(response(&request.target, &body));
                if request.target == "/until-close" {
                    return;
                }
            } else {
                connection.answer(200, "small");
            }
        }
    })
}

const ONE_WORKER: (&str, &str) = ("upstream", "max_in_flight = 1");

#[test]
fn a_client_that_does_not_read_holds_no_worker_and_gets_everything_later() {
    let (body, dir) = (pattern(LARGE), spool_dir());
    let origin = large(&body);
    let gateway = spooling(origin.address(), &dir, &[ONE_WORKER]).start();
    let mut lines = 0;
    for framing in ["/counted", "/chunked", "/until-close"] {
        let mut slow = waits_to_read(&gateway, framing);
        only_clients_remain(&gateway, 1.0);
        assert!(held(&gateway)[1] > 0.0, "{framing}: the rest is in a file");
        assert_eq!(dir.path().read_dir().unwrap().count(), 0, "the file has no name");
        for _ in 0..3 {
            assert_eq!(gateway.get("/").expect(200).text(), "small");
        }
        lines += 3;
        assert_eq!(gateway.access_log(lines).len(), lines, "the slow one is not done");
        let told = expect_body(&mut slow, &body);
        let expected = if framing == "/counted" { Framing::Length(LARGE as u64) } else { Framing::Chunked };
        assert_eq!(told.framing, expected, "{framing}");
        nothing_held(&gateway);
        lines += 1;
        gateway.access_log(lines);
        let line = &gateway.access_log_now()[lines - 1];
        assert_eq!((&line["bytes_out"], &line["status"], line.get("reason")), (&LARGE.into(), &200.into(), None));
        // The connection goes on, with answers that need the spool as well.
        assert_eq!(slow.get("/").expect(200).text(), "small");
        slow.send_request("GET", framing, &[], "");
        expect_body(&mut slow, &body);
        lines += 2;
        gateway.access_log(lines);
    }
}

#[test]
fn a_client_of_http_1_0_gets_everything_before_the_close() {
    let (body, dir) = (pattern(LARGE), spool_dir());
    let origin = large(&body);
    let gateway = spooling(origin.address(), &dir, &[ONE_WORKER]).start();
    for framing in ["/counted", "/chunked", "/until-close"] {
        let mut slow = lazy(&gateway);
        slow.send(format!("GET {framing} HTTP/1.0\r\nHost: test\r\n\r\n"));
        only_clients_remain(&gateway, 1.0);
        gateway.get("/").expect(200);
        let told = expect_body(&mut slow, &body);
        assert_eq!(told.framing == Framing::UntilClose, framing != "/counted");
        slow.closed();
        nothing_held(&gateway);
    }
}

#[test]
fn slow_readers_do_not_delay_anyone_else_at_a_single_gunicorn_worker() {
    let (server, dir) = (PythonServer::gunicorn("wsgi:app").start(), spool_dir());
    let upstream = "preset = \"gunicorn-sync\"\nworkers = 1";
    let gateway = spooling(server.address(), &dir, &[("upstream", upstream)]).start();
    let count = rounds(8, 40);
    let readers: Vec<Client> = (0..count).map(|_| waits_to_read(&gateway, &format!("/big?bytes={LARGE}"))).collect();
    only_clients_remain(&gateway, count as f64);
    for _ in 0..rounds(5, 200) {
        gateway.get("/").expect(200);
    }
    only_clients_remain(&gateway, count as f64);
    for mut reader in readers {
        expect_body(&mut reader, &vec![b'x'; LARGE]);
    }
    nothing_held(&gateway);
}

#[test]
fn a_small_answer_does_not_need_the_spool() {
    let (body, dir) = (pattern(16 * 1024), spool_dir());
    let origin = large(&body);
    let gateway = spooling(origin.address(), &dir, &[]).start();
    for (number, framing) in ["/counted", "/chunked", "/until-close"].into_iter().enumerate() {
        let mut client = gateway.connect();
        client.send_request("GET", framing, &[], "");
        // It is done with before its client reads.
        gateway.access_log(number + 1);
        assert_eq!(held(&gateway), [0.0; 3]);
        expect_body(&mut client, &body);
    }
    assert_eq!(metric(&gateway, "propylon_spool_bodies_on_disk_total", &[]), 0.0);
}

#[test]
fn what_has_come_is_sent_on_at_once() {
    for (head, pieces, end) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n", ["first", "nexts", "third"], ""),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            ["5\r\nfirst\r\n", "5\r\nnexts\r\n", "5\r\nthird\r\n"],
            "0\r\n\r\n",
        ),
        ("HTTP/1.0 200 OK\r\n\r\n", ["first", "nexts", "third"], ""),
    ] {
        let (dir, got) = (spool_dir(), [(); 3].map(|()| Gate::new()));
        let confirmed = got.clone();
        let origin = Origin::start(move |connection| {
            if connection.read_request().is_none() {
                return;
            }
            connection.write(head);
            for (piece, got) in pieces.iter().zip(&confirmed) {
                connection.write(piece);
                got.wait();
            }
            connection.write(end);
        });
        let gateway = spooling(origin.address(), &dir, &[]).start();
        let mut client = gateway.connect();
        client.send_request("GET", "/", &[], "");
        let told = client.response_head();
        assert_eq!(told.status, 200);
        for (text, got) in ["first", "nexts", "third"].into_iter().zip(&got) {
            let expected = if told.framing == Framing::Chunked { format!("5\r\n{text}\r\n") } else { text.to_owned() };
            assert_eq!(String::from_utf8_lossy(&client.read_raw(expected.len())), expected);
            got.open();
        }
        assert_eq!(held(&gateway), [0.0; 3]);
    }
}

#[test]
fn what_waited_is_sent_on_while_the_app_thinks() {
    let (body, dir, got) = (pattern(LARGE), spool_dir(), Gate::new());
    let (start, confirmed) = (response("/counted", &body), got.clone());
    let origin = Origin::start(move |connection| {
        if connection.read_request().is_some() {
            // All but the last ten bytes.
            connection.write(&start[..start.len() - 10]);
            confirmed.wait();
            connection.write(&start[start.len() - 10..]);
        }
    });
    let gateway = spooling(origin.address(), &dir, &[]).start();
    let mut client = waits_to_read(&gateway, "/");
    eventually("there is a backlog", || (held(&gateway)[1] > 0.0).then_some(()));
    client.response_head().expect(200);
    assert!(client.read_raw(LARGE - 10) == body[..LARGE - 10]);
    got.open();
    assert!(client.read_raw(10) == body[LARGE - 10..]);
    nothing_held(&gateway);
}

/// Answers /N with the N-th head and an endless body, and counts in `finished` the answers it could write whole.
pub fn endless(heads: Vec<String>, finished: &Arc<AtomicUsize>) -> Origin {
    let (body, finished) = (pattern(ENDLESS), finished.clone());
    Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            let Some(fields) = request.target[1..].parse().ok().and_then(|number: usize| heads.get(number)) else {
                connection.answer(200, "small");
                continue;
            };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {ENDLESS}\r\n{fields}\r\n\r\n");
            if !(connection.write(head) && connection.write(&body)) {
                return;
            }
            finished.fetch_add(1, Ordering::SeqCst);
        }
    })
}

/// Asks for what must not be spooled, then for what must, and sees that the app could end only the latter.
#[track_caller]
fn assert_streamed(gateway: &Gateway, finished: &AtomicUsize, streams: &[&str], spooled: &str) -> Vec<Client> {
    let clients: Vec<Client> = streams.iter().map(|target| waits_to_read(gateway, target)).collect();
    let other = waits_to_read(gateway, spooled);
    eventually("the app is done with what is spooled", || (finished.load(Ordering::SeqCst) == 1).then_some(()));
    eventually("its slot is free", || {
        (metric(gateway, "propylon_upstream_in_flight", &[]) == streams.len() as f64).then_some(())
    });
    assert_eq!(metric(gateway, "propylon_requests_in_flight", &[]), streams.len() as f64 + 1.0);
    assert_eq!(metric(gateway, "propylon_spool_bodies_on_disk_total", &[]), 1.0);
    other.reset();
    nothing_held(gateway);
    assert_eq!(finished.load(Ordering::SeqCst), 1);
    clients
}

#[test]
fn a_stream_feels_its_client() {
    let heads = [
        "X-Accel-Buffering: yes",
        "X-Accel-Buffering: no",
        "Content-Type: text/event-stream",
        "Content-Type: Text/Event-Stream; charset=utf-8",
        "Content-Type: application/grpc+proto",
        "Content-Type: multipart/x-mixed-replace; boundary=frame",
        "Content-Type: application/x-ndjson",
    ];
    let (dir, finished) = (spool_dir(), Arc::default());
    let origin = endless(heads.map(str::to_owned).to_vec(), &finished);
    let gateway =
        spooling(origin.address(), &dir, &[("spool", "disk = \"100MiB\"\ndisk_per_body = \"100MiB\"")]).start();
    let streams = ["/1", "/2", "/3", "/4", "/5", "/6"];
    let mut clients = assert_streamed(&gateway, &finished, &streams, "/0");
    for (client, head) in clients.iter_mut().zip(&heads[1..]) {
        let told = client.response_head();
        assert_eq!(told.status, 200);
        // That one was for us.
        assert!(!told.fields.has("x-accel-buffering"), "{told}");
        if let Some(kind) = head.strip_prefix("Content-Type: ") {
            assert_eq!(told.field("content-type"), Some(kind));
        }
    }
    // Who reads gets it all.
    assert!(clients.remove(0).read_raw(ENDLESS) == pattern(ENDLESS));
    eventually("the app is done with that one", || (finished.load(Ordering::SeqCst) == 2).then_some(()));
}

#[test]
fn without_buffering_an_answer_feels_its_client() {
    for (upstream, route) in
        [("", "buffer_responses = false"), ("buffer_responses = false", "buffer_responses = false")]
    {
        let (dir, finished) = (spool_dir(), Arc::default());
        let origin = endless(vec![String::from("X-Any: a"), String::from("X-Any: b")], &finished);
        let routes = format!("path = \"/1\"\n{route}\n[[routes]]\nupstream = \"app\"\nbuffer_responses = true");
        let gateway = spooling(origin.address(), &dir, &[("upstream", upstream), ("routes", &*routes)]).start();
        let mut clients = assert_streamed(&gateway, &finished, &["/1"], "/0");
        expect_body(&mut clients[0], &pattern(ENDLESS));
    }
    let (dir, finished) = (spool_dir(), Arc::default());
    let origin = endless(vec![String::from("X-Any: a"), String::from("X-Any: b")], &finished);
    let routes = "path = \"/0\"\nbuffer_responses = true\n[[routes]]\nupstream = \"app\"";
    let keys = [("upstream", "buffer_responses = false"), ("routes", routes)];
    let gateway = spooling(origin.address(), &dir, &keys).start();
    assert_streamed(&gateway, &finished, &["/1"], "/0");
}

/// Sends a part of a large answer in this framing, and closes.
fn failing(framing: &'static str, sent: &[u8]) -> Origin {
    let sent = sent.to_vec();
    Origin::start(move |connection: &mut Connection| {
        if connection.read_request().is_some() {
            match framing {
                "/counted" => connection.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {ENDLESS}\r\n\r\n")),
                _ => connection.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            };
            match framing {
                "/counted" => connection.write(&sent),
                _ => connection.write(chunked(&sent, 30_001).strip_suffix(b"0\r\n\r\n").unwrap()),
            };
        }
    })
}

#[test]
fn an_answer_that_broke_in_the_app_breaks_at_the_client() {
    let body = pattern(2 * LARGE);
    for (framing, version) in [("/counted", "1.1"), ("/chunked", "1.1"), ("/counted", "1.0"), ("/chunked", "1.0")] {
        let (origin, dir) = (failing(framing, &body), spool_dir());
        let gateway = spooling(origin.address(), &dir, &[]).start();
        let mut client = lazy(&gateway);
        client.send(format!("GET / HTTP/{version}\r\nHost: test\r\n\r\n"));
        // No request has reached the app yet, or it has ended: only then is something kept.
        eventually("what has come is kept", || (held(&gateway)[1] > 0.0).then_some(()));
        only_clients_remain(&gateway, 1.0);
        let told: Response = match client.try_response() {
            Err(broken @ Broken::Truncated(_)) => broken.truncated(),
            other => panic!("{framing} {version}: not broken off: {:?}", other.map(|told| told.body.len())),
        };
        assert_eq!(told.framing == Framing::UntilClose, framing == "/chunked" && version == "1.0");
        // What had come is the client's; a reset may take the last of it back.
        let whole = told.framing == Framing::UntilClose || told.body.len() == body.len();
        assert!(whole && body.starts_with(&told.body), "{framing} {version}: {} bytes", told.body.len());
        let line = &gateway.access_log(1)[0];
        assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"upstream_closed".into()), "{line}");
        let warning = gateway.wait_for_log("request failed");
        assert!(warning.contains("upstream_closed") && warning.contains("WARN"), "{warning}");
        nothing_held(&gateway);
    }
}

#[test]
fn a_client_that_leaves_before_it_has_everything_leaves_nothing() {
    let (body, dir) = (pattern(LARGE), spool_dir());
    let origin = large(&body);
    for upstream in ["client_abort = \"close\"", "client_abort = \"finish\""] {
        let gateway = spooling(origin.address(), &dir, &[("upstream", upstream)]).start();
        let mut count = 0;
        for framing in ["/counted", "/chunked", "/until-close"] {
            for (rudely, reads) in [(false, false), (true, false), (true, true)] {
                let mut client = waits_to_read(&gateway, framing);
                only_clients_remain(&gateway, 1.0);
                if reads {
                    client.response_head().expect(200);
                    client.read_raw(1_000_000);
                }
                if rudely {
                    client.reset();
                } else {
                    drop(client);
                }
                nothing_held(&gateway);
                count += 1;
                let lines = gateway.access_log(count);
                assert_eq!(lines.len(), count);
                let line = &lines[count - 1];
                assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"client_closed".into()), "{line}");
                assert!(line["bytes_out"].as_u64().unwrap() < LARGE as u64, "{line}");
            }
        }
        assert_eq!(metric(&gateway, "propylon_client_aborts_total", &[]), count as f64);
        gateway.counts("propylon_requests_in_flight", &[], 0.0);
        gateway.get("/").expect(200);
        assert_eq!(gateway.access_log(count + 1).len(), count + 1);
    }
}

#[test]
fn a_client_that_takes_nothing_for_too_long_is_cut_though_the_app_is_free() {
    let (body, dir) = (pattern(LARGE), spool_dir());
    let origin = large(&body);
    let gateway = spooling(origin.address(), &dir, &[("client", "write_idle_timeout = \"400ms\"")]).start();
    for (number, framing) in ["/counted", "/chunked", "/until-close"].into_iter().enumerate() {
        let mut client = waits_to_read(&gateway, framing);
        let line = &gateway.access_log(number + 1)[number];
        assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"write_timeout".into()), "{line}");
        assert!(line["bytes_out"].as_u64().unwrap() < LARGE as u64, "{line}");
        nothing_held(&gateway);
        assert!(body.starts_with(&client.try_response().unwrap_err().truncated().body));
    }
}

#[test]
fn a_shutdown_waits_until_a_slow_client_has_everything() {
    let (body, dir) = (pattern(LARGE), spool_dir());
    let origin = large(&body);
    let gateway = spooling(origin.address(), &dir, &[]).start();
    let mut clients = ["/counted", "/chunked", "/until-close"].map(|framing| waits_to_read(&gateway, framing));
    only_clients_remain(&gateway, 3.0);
    gateway.signal(Signal::TERM);
    eventually("new connections are refused", || Client::try_connect(gateway.addr()).err());
    for client in &mut clients {
        expect_body(client, &body);
        client.closed();
    }
    assert_eq!(gateway.access_log(3).len(), 3);
    gateway.wait_for_exit();
}

#[test]
fn an_answer_without_a_body_has_nothing_to_spool() {
    let dir = spool_dir();
    let origin = Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            connection.write(match &*request.target {
                "/204" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
                "/304" => format!("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: {LARGE}\r\n\r\n"),
                _ => format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"),
            });
        }
    });
    let gateway = spooling(origin.address(), &dir, &[]).start();
    let mut client = gateway.connect();
    for (method, target, status) in [("HEAD", "/", 200), ("GET", "/204", 204), ("GET", "/304", 304), ("HEAD", "/", 200)]
    {
        client.request(method, target, &[], "").expect(status);
    }
    assert_eq!(held(&gateway), [0.0; 3]);
    assert_eq!(metric(&gateway, "propylon_spool_bodies_on_disk_total", &[]), 0.0);
}

#[test]
fn requests_sent_ahead_are_answered_in_turn_by_a_client_that_reads_late() {
    let (body, dir) = (pattern(LARGE), spool_dir());
    let origin = large(&body);
    let gateway = spooling(origin.address(), &dir, &[ONE_WORKER]).start();
    let mut client = lazy(&gateway);
    for target in ["/counted", "/chunked", "/", "/counted"] {
        client.send_request("GET", target, &[], "");
    }
    only_clients_remain(&gateway, 1.0);
    // One answer at a time is kept for a connection.
    assert_eq!(origin.requests().len(), 1);
    gateway.get("/").expect(200);
    for expected in [&body[..], &body, b"small", &body] {
        expect_body(&mut client, expected);
    }
    nothing_held(&gateway);
}
