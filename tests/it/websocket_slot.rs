//! A WebSocket holds its slot for as long as it lives and not a moment longer, however it ends; and what one side does not take,
//! the other cannot send.

// Counters are whole numbers, and small ones.
#![allow(clippy::float_cmp)]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::websocket::*;
use crate::harness::*;
use crate::in_flight::{in_flight_is, nothing_in_flight};

const ONE_SLOT: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[admin]
listen = ["127.0.0.1:0"]
[log]
access = "{dir}/access.log"
[upstreams.app]
endpoints = ["{app}"]
max_in_flight = 1
queue = { max = 0 }
[[routes]]
upstream = "app"
"#;

fn one_slot(app: &Address) -> Gateway {
    Gateway::with(ONE_SLOT).set("app", app).start()
}

/// How a client ends.
type End = fn(WebSocket);

/// Agrees, and ends each WebSocket as its first message says.
fn ending() -> Origin {
    Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            if !request.fields.has("upgrade") {
                connection.answer(200, "free");
                continue;
            }
            connection.write(agreement());
            // Five characters in a masked frame.
            let Some(frame) = connection.read_raw(11) else { return };
            connection.write(&frame);
            let told = |text: &str| frame == masked(0x80 | TEXT, text.as_bytes());
            if told("reset") {
                return connection.reset();
            } else if told("close") {
                return connection.close();
            } else if told("bye__") {
                connection.write(unmasked(CLOSE, &close_payload(1000, "")));
                connection.half_close();
            }
            connection.read_rest();
            return;
        }
    })
}

/// Waits until the slot is free, in the books and for the next one.
#[track_caller]
fn is_free(gateway: &Gateway) {
    nothing_in_flight(gateway);
    gateway.get("/").expect(200);
}

#[test]
fn the_slot_is_held_until_one_side_ends_it_in_any_way() {
    let origin = ending();
    let gateway = one_slot(origin.address());
    let ends: [(&str, End); 7] = [
        ("bye__", |websocket| websocket.closed_with(1000, "")),
        ("close", |mut websocket| websocket.client.closed()),
        ("reset", |mut websocket| websocket.client.closed()),
        ("stay_", |mut websocket| {
            websocket.send(CLOSE, close_payload(1000, ""));
            drop(websocket);
        }),
        ("stay_", drop),
        ("stay_", |mut websocket| {
            websocket.client.half_close();
            websocket.client.closed();
        }),
        ("stay_", |websocket| websocket.client.reset()),
    ];
    let mut asked = 0;
    for (number, (told, end)) in ends.into_iter().enumerate() {
        let mut websocket = WebSocket::open(gateway.connect(), "/chat?a=b");
        websocket.send(TEXT, told);
        assert_eq!(websocket.client.read_raw(11), masked(0x80 | TEXT, told.as_bytes()));
        if told == "stay_" {
            in_flight_is(&gateway, 1.0);
            gateway.get("/").expect(503);
            let other = gateway.connect().request("GET", "/", &HANDSHAKE, "");
            assert_eq!(other.status, 503, "another one has no place either");
        }
        end(websocket);
        is_free(&gateway);
        asked += if told == "stay_" { 4 } else { 2 };
        let lines = gateway.access_log(asked);
        let upgraded: Vec<_> = lines.iter().filter(|line| line["status"] == 101).collect();
        assert_eq!((lines.len(), upgraded.len()), (asked, number + 1), "one line each: {lines:?}");
        let line = upgraded[number];
        let closing = |told: &str| if told == "bye__" { 4 } else { 0 };
        let least = 11 + closing(told);
        assert!(line["bytes_in"].as_u64().is_some_and(|bytes| bytes == 11 || bytes > least), "{line}");
        assert_eq!(line["bytes_out"], least, "{line}");
        assert!(line["duration"].as_f64().unwrap() > 0.0, "{line}");
        assert_eq!((&line["path"], &line["upstream_status"]), (&"/chat".into(), &101.into()), "{line}");
        let metrics = gateway.metrics();
        let count = Some(f64::from(u32::try_from(number + 1).unwrap()));
        assert_eq!(metrics.value("propylon_requests_total", &[("code", "1xx")]), count);
        assert_eq!(metrics.value("propylon_rejections_total", &[("reason", "internal")]).unwrap_or(0.0), 0.0);
    }
}

#[test]
fn the_slot_is_free_when_the_app_is_killed() {
    let mut server = PythonServer::uvicorn("asgi:app").unix().start();
    let gateway = one_slot(server.address());
    let mut websocket = WebSocket::open(gateway.connect(), "/");
    websocket.echo("hello");
    in_flight_is(&gateway, 1.0);
    let started = Instant::now();
    server.kill();
    // The client is told, and cannot hold the slot by doing nothing about it.
    websocket.client.closed();
    nothing_in_flight(&gateway);
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    server.start_again();
    eventually("the app is asked again", || (gateway.get("/healthz").status == 200).then_some(()));
    nothing_in_flight(&gateway);
    WebSocket::open(gateway.connect(), "/").close(1000);
    is_free(&gateway);
}

/// Kilobytes of memory that the process has now.
fn resident(gateway: &Gateway) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What it has once everything was used that a first request makes room for.
fn settled_memory(gateway: &Gateway) -> u64 {
    for _ in 0..20 {
        gateway.get("/warm");
    }
    resident(gateway)
}

/// Waits until a number no longer changes.
#[track_caller]
fn settled(what: &str, number: impl Fn() -> usize) -> usize {
    let mut last = None;
    eventually(what, || {
        let now = number();
        scripted_delay(Duration::from_millis(200));
        (now > 0 && last.replace(now) == Some(now)).then_some(now)
    })
}

/// Answers requests until one is to be a WebSocket; false if there is none.
fn reads_an_upgrade(connection: &mut Connection) -> bool {
    while let Some(request) = connection.read_request() {
        if request.fields.has("upgrade") {
            return true;
        }
        connection.answer(200, vec![b'x'; 100_000]);
    }
    false
}

/// More than all sockets in between hold.
const MUCH: usize = 64 << 20;
/// What they may hold, and the gateway with them.
const HELD: usize = 24 << 20;
const GROWTH_KB: u64 = 4 * 1024;

#[test]
fn a_client_that_does_not_read_holds_the_app_back() {
    let written = Arc::new(AtomicUsize::new(0));
    let origin = Origin::start({
        let written = Arc::clone(&written);
        move |connection| {
            if !reads_an_upgrade(connection) {
                return;
            }
            connection.write(agreement());
            let block = vec![b'x'; 64 * 1024];
            connection.write([&[0x82, 127][..], &(MUCH as u64).to_be_bytes()].concat());
            for _ in 0..MUCH / block.len() {
                if !connection.write(&block) {
                    return;
                }
                written.fetch_add(block.len(), Ordering::Relaxed);
            }
            connection.read_rest();
        }
    });
    let gateway = one_slot(origin.address());
    let client = gateway.connect();
    client.set_receive_buffer(64 * 1024);
    let before = settled_memory(&gateway);
    let mut websocket = WebSocket::open(client, "/");
    let held = settled("the app is held back", || written.load(Ordering::Relaxed));
    assert!(held < HELD, "the app could write {held} bytes");
    let grown = resident(&gateway).saturating_sub(before);
    assert!(grown < GROWTH_KB, "grown by {grown} KB");
    // All of it comes when it is read.
    let frame = websocket.frame();
    assert_eq!((frame.payload.len(), frame.payload.iter().all(|byte| *byte == b'x')), (MUCH, true));
    // Nobody waits for one that leaves while it is held back.
    drop(websocket);
    nothing_in_flight(&gateway);
}

#[test]
fn an_app_that_does_not_read_holds_the_client_back() {
    let go_on = Gate::new();
    let received = Arc::new(AtomicUsize::new(0));
    let origin = Origin::start({
        let (go_on, received) = (go_on.clone(), Arc::clone(&received));
        move |connection| {
            if !reads_an_upgrade(connection) {
                return;
            }
            connection.write(agreement());
            go_on.wait();
            while connection.read_raw(64 * 1024).is_some() {
                received.fetch_add(64 * 1024, Ordering::Relaxed);
            }
        }
    });
    let gateway = one_slot(origin.address());
    let before = settled_memory(&gateway);
    let mut websocket = WebSocket::open(gateway.connect(), "/");
    let sent = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let block = vec![b'x'; 64 * 1024];
            for _ in 0..MUCH / block.len() {
                websocket.client.send(&block);
                sent.fetch_add(block.len(), Ordering::Relaxed);
            }
            websocket.client.half_close();
        });
        let held = settled("the client is held back", || sent.load(Ordering::Relaxed));
        let grown = resident(&gateway).saturating_sub(before);
        go_on.open();
        assert!(held < HELD, "the client could send {held} bytes");
        assert!(grown < GROWTH_KB, "grown by {grown} KB");
    });
    eventually("all of it arrives", || (received.load(Ordering::Relaxed) == MUCH).then_some(()));
    nothing_in_flight(&gateway);
    let lines = gateway.access_log(21);
    assert_eq!(lines[20]["bytes_in"], MUCH);
}

#[test]
fn the_slot_is_free_when_a_client_leaves_whose_app_does_not_read() {
    let go_on = Gate::new();
    let origin = Origin::start({
        let go_on = go_on.clone();
        move |connection| {
            if reads_an_upgrade(connection) {
                connection.write(agreement());
                go_on.wait();
            }
        }
    });
    let gateway = one_slot(origin.address());
    let mut websocket = WebSocket::open(gateway.connect(), "/");
    websocket.client.fill(&vec![b'x'; 64 * 1024], Duration::from_millis(500));
    in_flight_is(&gateway, 1.0);
    websocket.client.reset();
    nothing_in_flight(&gateway);
    go_on.open();
}

/// What an app has said before it left is the client's, however late that reads, and whatever it says meanwhile.
#[test]
fn the_last_words_of_an_app_arrive() {
    const LENGTH: usize = 60_000;
    let origin = Origin::start(move |connection| {
        if connection.read_request().is_none() {
            return;
        }
        connection.write([agreement().as_bytes(), &unmasked(BINARY, &vec![b'x'; LENGTH])].concat());
        connection.write(unmasked(CLOSE, &close_payload(1011, "")));
        // So that nothing of it is lost to what the client says: it is with the gateway by then.
        connection.delay(Duration::from_millis(100));
    });
    let gateway = one_slot(origin.address());
    let client = gateway.connect();
    client.set_receive_buffer(16 * 1024);
    let mut websocket = WebSocket::open(client, "/");
    eventually("the app has left", || (origin.open_connections() == 0).then_some(()));
    for _ in 0..20 {
        let _ = websocket.client.try_send(masked(0x80 | PING, b"?"));
        scripted_delay(Duration::from_millis(5));
    }
    websocket.expect(BINARY, vec![b'x'; LENGTH]);
    websocket.expect(CLOSE, close_payload(1011, ""));
    drop(websocket);
    nothing_in_flight(&gateway);
}

/// RFC 6455 leaves it to TCP to find out that somebody is gone; the kernel must have been told to look.
#[test]
fn a_client_that_vanished_is_looked_for() {
    let origin = ending();
    let gateway = one_slot(origin.address());
    let websocket = WebSocket::open(gateway.connect(), "/");
    let address = websocket.client.local_addr().unwrap();
    // The second column is the local end, the third the remote one; the sixth says which timer runs, 2 for keep-alive.
    let (local, remote) = (hex(gateway.addr().port()), hex(address.port()));
    eventually("the kernel's timer for keep-alive runs", || {
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut rows = rows.filter(|row| row[1].ends_with(&local) && row[2].ends_with(&remote));
        let timer = rows.next()?[5].split(':').map(str::to_owned).collect::<Vec<_>>();
        let left = u64::from_str_radix(&timer[1], 16).unwrap();
        (timer[0] == "02" && (1..=6000).contains(&left)).then_some(())
    });
}

fn hex(port: u16) -> String {
    format!(":{port:04X}")
}
