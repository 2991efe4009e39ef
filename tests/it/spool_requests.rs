//! Request bodies are received whole before the app hears of them: in memory, then in a file, within budgets, for replay.

// Counters are whole numbers, and small ones.
#![allow(clippy::float_cmp, clippy::cast_precision_loss)]

use std::time::Duration;

use tempfile::TempDir;

use crate::harness::{
    Client, Framing, Gate, Gateway, GatewayBuilder, Origin, PythonServer, eventually, rounds, scripted_delay,
};

/// One app; the names in braces are further keys.
const TOML: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    [server.client]
    {client}
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [spool]
    dir = "{spool_dir}"
    {spool}
    [upstreams.app]
    endpoints = ["{origin}"]
    health = { interval = "1h" }
    {upstream}
    [[routes]]
    upstream = "app"
    {routes}
"#;

/// A gateway in front of `origin` that spools to `dir`, with further keys by the names in [`TOML`].
pub fn spooling(origin: &impl ToString, dir: &TempDir, keys: &[(&str, &str)]) -> GatewayBuilder {
    let builder = Gateway::with(TOML).set("origin", origin).set("spool_dir", &dir.path().display());
    let none = ["client", "spool", "upstream", "routes"].map(|name| (name, ""));
    // The first value of a name counts.
    keys.iter().chain(&none).fold(builder, |builder, (name, value)| builder.set(name, *value))
}

pub fn spool_dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Bytes that are the same nowhere where a piece could be lost or come twice.
pub fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    // A prime: no block of a power of two falls on the same bytes again.
    let block: Vec<u8> = (0..65_521.min(length)).map(|_| next()).collect();
    block.iter().copied().cycle().take(length).collect()
}

/// `body` in the chunked coding, `size` bytes a chunk.
pub fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut coded = Vec::with_capacity(body.len() + body.len() / size * 8 + 64);
    for chunk in body.chunks(size) {
        coded.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        coded.extend_from_slice(chunk);
        coded.extend_from_slice(b"\r\n");
    }
    coded.extend_from_slice(b"0\r\n\r\n");
    coded
}

/// A whole request, its body counted or in chunks of this size.
pub fn request(method: &str, body: &[u8], chunk: Option<usize>) -> Vec<u8> {
    let head = |field: String| format!("{method} / HTTP/1.1\r\nHost: test\r\n{field}\r\n\r\n").into_bytes();
    match chunk {
        None => [head(format!("Content-Length: {}", body.len())), body.to_vec()].concat(),
        Some(size) => [head("Transfer-Encoding: chunked".to_owned()), chunked(body, size)].concat(),
    }
}

/// Answers every request with its own body.
pub fn echo() -> Origin {
    Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            connection.answer(200, request.body);
        }
    })
}

pub fn metric(gateway: &Gateway, name: &str, labels: &[(&str, &str)]) -> f64 {
    gateway.metrics().value(name, labels).unwrap_or_else(|| panic!("no metric {name} {labels:?}"))
}

/// Bytes in memory, bytes of disk and files that bodies hold.
pub fn held(gateway: &Gateway) -> [f64; 3] {
    let metrics = gateway.metrics();
    ["memory_bytes", "disk_bytes", "files"].map(|name| metrics.value(&format!("propylon_spool_{name}"), &[]).unwrap())
}

/// Waits until bodies hold nothing.
#[track_caller]
pub fn nothing_held(gateway: &Gateway) {
    eventually("the spool is empty", || (held(gateway) == [0.0; 3]).then_some(()));
}

fn entries(dir: &TempDir) -> usize {
    dir.path().read_dir().unwrap().count()
}

/// Connections to the app, without that of the health check at the start.
pub fn connections(origin: &Origin, gateway: &Gateway) -> usize {
    let checks = "propylon_upstream_health_checks_total";
    eventually("the health check", || (metric(gateway, checks, &[]) == 1.0 && origin.connections() > 0).then_some(()));
    origin.connections() - 1
}

/// Reads a refusal that ends its connection.
#[track_caller]
pub fn expect_refused(client: &mut Client, status: u16, reason: &str) {
    let told = client.response().expect(status);
    assert_eq!((&told.json()["reason"], told.interim.as_slice()), (&reason.into(), &[][..]));
    assert_eq!(told.field("connection"), Some("close"));
    assert_eq!(told.field("retry-after"), (status == 503).then_some("1"));
    client.closed();
}

#[test]
fn the_app_hears_of_a_body_when_it_is_whole() {
    let origin = Origin::start(|connection| {
        connection.read_request();
        connection.answer(200, "thanks");
    });
    let dir = spool_dir();
    let gateway = spooling(origin.address(), &dir, &[("upstream", r#"keepalive_timeout = "off""#)]).start();
    for (number, (length, chunk, is_file)) in [
        (1, None, false),
        (40_000, None, false),
        (40_000, Some(1), false),
        (40_000, Some(65_536), false),
        (200_000, None, true),
        (200_000, Some(7), true),
        (3_000_000, None, true),
        (3_000_000, Some(100_000), true),
    ]
    .into_iter()
    .enumerate()
    {
        let case = format!("{length} in {chunk:?}");
        let (body, before) = (pattern(length), gateway.metrics());
        let bytes = request("PUT", &body, chunk);
        let (most, last) = bytes.split_at(bytes.len() - 1);
        let mut client = gateway.connect();
        client.send(most);
        let written = "propylon_spool_disk_written_bytes_total";
        eventually(&case, || {
            let [memory, disk, files] = held(&gateway);
            let new = metric(&gateway, written, &[]) - before.value(written, &[]).unwrap();
            // What is announced goes to the file as a whole, what is not begins in memory; a last block waits there.
            let arrived = memory + disk >= length as f64 && (!is_file || new > length as f64 - 131_072.0);
            (arrived && files == f64::from(u8::from(is_file))).then_some(())
        });
        assert_eq!(entries(&dir), 0, "{case}: the file has no name");
        assert_eq!(connections(&origin, &gateway), number, "{case}");
        assert_eq!(metric(&gateway, "propylon_upstream_in_flight", &[]), 0.0, "{case}");
        client.assert_silent();

        client.send(last);
        assert_eq!(client.response().expect(200).text(), "thanks");
        let seen = origin.requests().pop().unwrap();
        assert_eq!((seen.framing, seen.fields.has("transfer-encoding")), (Framing::Length(length as u64), false));
        assert!(seen.body == body, "{case} arrived otherwise");
        nothing_held(&gateway);
        let on_disk = "propylon_spool_bodies_on_disk_total";
        let more = metric(&gateway, on_disk, &[]) - before.value(on_disk, &[]).unwrap();
        assert_eq!(more, f64::from(u8::from(is_file)), "{case}");
        assert_eq!(gateway.access_log(number + 1)[number]["bytes_in"], length);
    }
}

#[test]
fn a_chunked_body_of_nothing_is_a_length_of_nothing() {
    let (origin, dir) = (echo(), spool_dir());
    let gateway = spooling(origin.address(), &dir, &[]).start();
    let mut client = gateway.connect();
    for _ in 0..2 {
        client.send(request("POST", b"", Some(1)));
        assert!(client.response().expect(200).body.is_empty());
    }
    assert!(origin.requests().iter().all(|request| request.framing == Framing::Length(0)));
}

#[test]
fn a_body_too_large_is_refused_and_the_refusal_can_be_read() {
    let (origin, dir) = (echo(), spool_dir());
    let keys = [("client", r#"max_body = "300KiB""#), ("spool", r#"memory_per_body = "16KiB""#)];
    let gateway = spooling(origin.address(), &dir, &keys).start();
    let limit = 300 * 1024;
    // Said in the head: nothing of the body is waited for, and nobody is asked to send it.
    for expect in ["", "Expect: 100-continue\r\n"] {
        let mut client = gateway.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{expect}Content-Length: {}\r\n\r\n", limit + 1));
        expect_refused(&mut client, 413, "body_too_large");
    }
    // Counted as it comes, by a client that sends it all before it reads.
    for (length, chunk) in
        [(limit + 1, Some(1000)), (limit + 1, Some(limit + 1)), (6_000_000, Some(50_000)), (6_000_000, None)]
    {
        let mut client = gateway.connect();
        client.send(request("POST", &pattern(length), chunk));
        expect_refused(&mut client, 413, "body_too_large");
        nothing_held(&gateway);
    }
    assert_eq!(connections(&origin, &gateway), 0);
    for chunk in [None, Some(1000)] {
        let mut client = gateway.connect();
        client.send(request("POST", &pattern(limit), chunk));
        client.response().expect(200);
    }
    let lines = gateway.access_log(8);
    assert_eq!(lines.iter().filter(|line| line["status"] == 413 && line["reason"] == "body_too_large").count(), 6);
    assert_eq!(metric(&gateway, "propylon_rejections_total", &[("reason", "body_too_large")]), 6.0);
}

#[test]
fn who_asks_before_sending_is_told_to_go_on_by_us() {
    let (origin, dir) = (echo(), spool_dir());
    let gateway = spooling(origin.address(), &dir, &[]).start();
    for length in [1000, 200_000] {
        let body = pattern(length);
        let mut client = gateway.connect();
        client
            .send(format!("POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"));
        let before = origin.requests().len();
        let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
        assert_eq!(client.read_raw(go_on.len()), go_on);
        assert_eq!(origin.requests().len(), before);
        client.send(&body);
        let told = client.response().expect(200);
        assert!(told.body == body && told.interim.is_empty());
        client.get("/").expect(200);
    }
    assert!(origin.requests().iter().all(|seen| !seen.fields.has("expect")));
}

#[test]
fn a_client_that_leaves_within_its_body_touches_no_worker_and_leaves_nothing() {
    let (origin, dir) = (echo(), spool_dir());
    let gateway = spooling(origin.address(), &dir, &[]).start();
    let mut count = 0;
    for (length, chunk, in_file) in
        [(40_000, None, 0.0), (40_000, Some(100), 0.0), (2_000_000, None, 1.0), (2_000_000, Some(9999), 1.0)]
    {
        for rudely in [false, true] {
            let bytes = request("POST", &pattern(length), chunk);
            let mut client = gateway.connect();
            client.send(&bytes[..bytes.len() - 100]);
            eventually("the body is held", || {
                let [memory, disk, files] = held(&gateway);
                (memory + disk >= (length - 100) as f64 && files == in_file).then_some(())
            });
            if rudely {
                client.reset();
            } else {
                drop(client);
            }
            nothing_held(&gateway);
            count += 1;
            let lines = gateway.access_log(count);
            assert_eq!(lines.len(), count);
            assert_eq!(
                (&lines[count - 1]["status"], &lines[count - 1]["reason"]),
                (&499.into(), &"client_closed".into())
            );
        }
    }
    assert_eq!(connections(&origin, &gateway), 0);
    assert_eq!(metric(&gateway, "propylon_client_aborts_total", &[]), count as f64);
    gateway.counts("propylon_requests_in_flight", &[], 0.0);
}

#[test]
fn a_client_that_pauses_in_its_body_is_told_408_and_its_file_goes() {
    let (origin, dir) = (echo(), spool_dir());
    let gateway = spooling(origin.address(), &dir, &[("client", r#"body_idle_timeout = "300ms""#)]).start();
    for chunk in [None, Some(5000)] {
        let bytes = request("POST", &pattern(300_000), chunk);
        let mut client = gateway.connect();
        client.send(&bytes[..bytes.len() - 1]);
        expect_refused(&mut client, 408, "body_timeout");
        nothing_held(&gateway);
    }
    assert_eq!(metric(&gateway, "propylon_spool_bodies_on_disk_total", &[]), 2.0);
    assert_eq!(connections(&origin, &gateway), 0);
}

#[test]
fn a_client_below_the_minimum_rate_is_told_408() {
    let (origin, dir) = (echo(), spool_dir());
    let gateway = spooling(origin.address(), &dir, &[("client", r#"body_min_rate = "1KB/s""#)]).start();
    let body = pattern(30_000);
    let bytes = request("POST", &body, None);
    let head = bytes.len() - body.len();
    let (mut slow, mut fast) = (gateway.connect(), gateway.connect());
    slow.send(&bytes[..head]);
    // What it sends at once is worth 20 s.
    fast.send(&bytes[..head + 20_000]);
    // Both never pause for long.
    for at in 0..115 {
        slow.send(&body[at..=at]);
        fast.send(&body[20_000 + at..=20_000 + at]);
        scripted_delay(Duration::from_millis(95));
    }
    expect_refused(&mut slow, 408, "body_timeout");
    fast.assert_silent();
    assert_eq!(connections(&origin, &gateway), 0);
    fast.send(&body[20_115..]);
    assert!(fast.response().expect(200).body == body);
}

#[test]
fn a_retry_sends_the_same_bytes_again() {
    for (length, chunk) in [(10, None), (40_000, Some(999)), (2_000_000, None), (2_000_000, Some(9999))] {
        let dir = spool_dir();
        let broke = Gate::new();
        let origin = Origin::start(move |connection| {
            let Some(request) = connection.read_request() else { return };
            if broke.is_open() {
                connection.answer(200, request.body);
            }
            broke.open();
        });
        let gateway = spooling(origin.address(), &dir, &[]).start();
        let body = pattern(length);
        let mut client = gateway.connect();
        client.send(request("GET", &body, chunk));
        assert!(client.response().expect(200).body == body);
        let seen = origin.requests();
        assert_eq!(seen.len(), 2);
        assert!(seen[0].body == body && seen[1].body == body, "{length} in {chunk:?}");
        assert_eq!(seen[0].raw_head, seen[1].raw_head);
        assert_eq!(gateway.access_log(1)[0]["retries"], 1);
        nothing_held(&gateway);
    }
}

/// Says when a request's head, and when the first of its body has come; then answers with the body.
fn attentive(head: &Gate, part: &Gate) -> Origin {
    let (head, part) = (head.clone(), part.clone());
    Origin::start(move |connection| {
        while let Some(mut request) = connection.read_head() {
            head.open();
            if request.framing != Framing::None && !part.is_open() {
                assert!(!connection.peer_closed(), "the gateway left");
                part.open();
            }
            connection.read_body(&mut request);
            connection.answer(200, request.body);
        }
    })
}

#[test]
fn without_buffering_a_body_is_passed_on_as_it_comes() {
    for (upstream, route) in [("false", ""), ("true", "buffer_requests = false"), ("false", "buffer_requests = false")]
    {
        for chunk in [None, Some(50_000)] {
            let (dir, head, part) = (spool_dir(), Gate::new(), Gate::new());
            let origin = attentive(&head, &part);
            let upstream = format!("buffer_requests = {upstream}");
            let gateway = spooling(origin.address(), &dir, &[("upstream", &*upstream), ("routes", route)]).start();
            let body = pattern(200_000);
            let bytes = request("POST", &body, chunk);
            let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
            let mut client = gateway.connect();
            client.send(&bytes[..end]);
            head.wait();
            client.send(&bytes[end..end + 60_000]);
            part.wait();
            assert_eq!(metric(&gateway, "propylon_upstream_in_flight", &[]), 1.0);
            client.send(&bytes[end + 60_000..]);
            assert!(client.response().expect(200).body == body);
            let framing = if chunk.is_some() { Framing::Chunked } else { Framing::Length(200_000) };
            assert_eq!(origin.requests()[0].framing, framing);
            assert_eq!(metric(&gateway, "propylon_spool_bodies_on_disk_total", &[]), 0.0);
            client.get("/").expect(200);
        }
    }
}

#[test]
fn a_route_may_buffer_where_its_upstream_does_not() {
    let (origin, dir) = (echo(), spool_dir());
    let keys = [("upstream", "buffer_requests = false"), ("routes", "buffer_requests = true")];
    let gateway = spooling(origin.address(), &dir, &keys).start();
    let body = pattern(200_000);
    let bytes = request("POST", &body, None);
    let mut client = gateway.connect();
    client.send(&bytes[..100_000]);
    eventually("the body is held", || (held(&gateway)[2] == 1.0).then_some(()));
    assert_eq!(connections(&origin, &gateway), 0);
    client.send(&bytes[100_000..]);
    assert!(client.response().expect(200).body == body);
}

#[test]
fn slow_uploads_do_not_delay_anyone_else_at_a_single_gunicorn_worker() {
    let (server, dir) = (PythonServer::gunicorn("wsgi:app").start(), spool_dir());
    let upstream = "preset = \"gunicorn-sync\"\nworkers = 1\nqueue = { max = 200 }";
    let gateway = spooling(server.address(), &dir, &[("upstream", upstream)]).start();
    let uploads = 200;
    let body = pattern(70_000);
    let bytes = [b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 70000\r\n\r\n", &body[..]].concat();
    let mut clients: Vec<Client> = (0..uploads).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send(&bytes[..69_000]);
    }
    eventually("all uploads are under way", || (held(&gateway)[2] == f64::from(uploads)).then_some(()));
    assert_eq!(metric(&gateway, "propylon_requests_in_flight", &[]), f64::from(uploads));
    for _ in 0..rounds(5, 200) {
        gateway.get("/").expect(200);
    }
    for client in &mut clients {
        client.assert_silent();
        client.send(&bytes[69_000..]);
    }
    for mut client in clients {
        assert_eq!(client.response().expect(200).json()["length"], 70_000);
    }
    nothing_held(&gateway);
}

#[test]
fn requests_behind_a_body_are_served_in_turn() {
    let (origin, dir) = (echo(), spool_dir());
    let gateway = spooling(origin.address(), &dir, &[]).start();
    for length in [10, 40_000, 500_000] {
        let body = pattern(length);
        let one = request("POST", &body, None);
        let all = [&one[..], &request("POST", &body, Some(777)), &request("GET", b"", None), &one].concat();
        let mut client = gateway.connect();
        client.send(&all);
        for expected in [&body[..], &body, b"", &body] {
            assert!(client.response().expect(200).body == expected, "{length}");
        }
        nothing_held(&gateway);
    }
}
