//! Only real upgrades are passed on, and only a real agreement opens a tunnel: whatever is not one in every way stays HTTP, and
//! not a byte goes unjudged.

// Counters are whole numbers, and small ones.
#![allow(clippy::float_cmp)]

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::websocket::*;
use crate::harness::*;
use crate::in_flight::nothing_in_flight;

const TOML: &str = r#"
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
[[routes]]
path = "/closed/*"
respond = { status = 403 }
"#;

fn gateway(origin: &Origin) -> Gateway {
    Gateway::with(TOML).set("origin", origin.address()).start()
}

/// Agrees to each upgrade that arrives, then sends back what comes; answers anything else.
fn obliging() -> Origin {
    Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            if request.fields.has("upgrade") {
                connection.write(agreement());
                while let Some(byte) = connection.read_raw(1) {
                    connection.write(byte);
                }
                return;
            }
            connection.answer(200, if request.method == "HEAD" { "" } else { "ordinary" });
        }
    })
}

/// How many connections had requests; the gateway looks at its start whether there is somebody.
fn used(origin: &Origin) -> usize {
    origin.requests().iter().map(|request| request.connection).collect::<BTreeSet<_>>().len()
}

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn an_upgrade_that_is_not_one_in_every_way_is_an_ordinary_request() {
    let origin = obliging();
    let gateway = gateway(&origin);
    let whole = format!(
        "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{KEY}\r\n"
    );
    let change = |from: &str, to: &str| {
        assert!(whole.contains(from));
        whole.replace(from, to)
    };
    let cases = [
        change("GET", "HEAD"),
        change("GET", "POST"),
        change("HTTP/1.1\r\n", "HTTP/1.0\r\n"),
        change("HTTP/1.1\r\n", "HTTP/1.0\r\nConnection: keep-alive\r\n"),
        change("Upgrade: websocket\r\n", ""),
        change("Upgrade: websocket\r\n", "Upgrade: websocket\r\nUpgrade: websocket\r\n"),
        change("Upgrade: websocket\r\n", "Upgrade: h2c\r\nUpgrade: websocket\r\n"),
        change("Upgrade: websocket", "Upgrade: websocket, h2c"),
        change("Upgrade: websocket", "Upgrade: h2c, websocket"),
        change("Upgrade: websocket", "Upgrade: h2c"),
        change("Upgrade: websocket", "Upgrade: websocket/13"),
        change("Upgrade: websocket", "Upgrade: websockets"),
        change("Connection: Upgrade\r\n", ""),
        change("Connection: Upgrade", "Connection: keep-alive"),
        change("Connection: Upgrade", "Connection: Upgraded"),
        change("Version: 13", "Version: 8"),
        change("Version: 13", "Version: 13, 8"),
        change("Sec-WebSocket-Version: 13\r\n", ""),
        change("Sec-WebSocket-Version: 13\r\n", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 8\r\n"),
        change(KEY, ""),
        change(KEY, &KEY.repeat(2)),
        change("dGhlIHNhbXBsZSBub25jZQ==", ""),
        change("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ"),
        change("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZSE="),
        change("dGhlIHNhbXBsZSBub25jZQ==", "dGhl HNhbXBsZSBub25jZQ=="),
        // Named by Connection, a field goes no further: the app would be asked for half an upgrade.
        change("Connection: Upgrade", "Connection: Upgrade, Sec-WebSocket-Key"),
        change("Connection: Upgrade", "Connection: Sec-WebSocket-Version, Upgrade"),
        change("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\n12345"),
        change("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n"),
    ];
    for (index, bytes) in cases.iter().enumerate() {
        let mut client = gateway.connect();
        client.send(bytes);
        let response = client.response_to(bytes.split(' ').next().unwrap()).expect(200);
        let seen = origin.requests().pop().unwrap();
        assert_eq!((seen.field("upgrade"), seen.field("connection")), (None, None), "{bytes}");
        assert!(!response.fields.has("upgrade"), "{bytes}");
        if response.field("connection") != Some("close") {
            client.get("/next").expect(200);
            assert_eq!(origin.requests().len(), 2 * (index + 1) - usize::from(index > 2), "{bytes}");
        }
        nothing_in_flight(&gateway);
    }
    assert_eq!(used(&origin), 1, "they were requests as any other");

    for bytes in [
        whole.clone(),
        change("Upgrade: websocket", "uPGRADE: \t WebSocket "),
        change("Connection: Upgrade", "Connection: keep-alive, ,upgrade"),
        change("Connection: Upgrade", "Connection: x-a\r\nX-A: gone\r\nConnection: UPGRADE"),
        change("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let mut client = gateway.connect();
        client.send(&bytes);
        client.response_head().expect(101);
        client.send("raw");
        assert_eq!(client.read_raw(3), b"raw");
        let seen = origin.requests().pop().unwrap();
        assert_eq!((seen.field("upgrade"), seen.field("connection")), (Some("websocket"), Some("Upgrade")), "{bytes}");
        assert_eq!(seen.field("x-a"), None);
        client.half_close();
        client.closed();
    }
    nothing_in_flight(&gateway);
}

#[test]
fn what_is_sent_ahead_waits_for_the_agreement() {
    let (arrived, agree) = (Gate::new(), Gate::new());
    let origin = Origin::start({
        let (arrived, agree) = (arrived.clone(), agree.clone());
        move |connection| {
            if connection.read_request().is_none() {
                return;
            }
            arrived.open();
            agree.wait();
            // Nothing has come yet; now it may.
            assert!(connection.has_nothing_ahead());
            connection.write(agreement());
            assert_eq!(connection.read_raw(10).unwrap(), masked(0x80 | TEXT, b"soon"));
            assert_eq!(connection.read_raw(11).unwrap(), masked(0x80 | TEXT, b"later"));
            connection.write(unmasked(TEXT, b"both"));
            connection.peer_closed();
        }
    });
    let gateway = gateway(&origin);
    let mut client = gateway.connect();
    let head = format!("GET / HTTP/1.1\r\nHost: test\r\n{}\r\n", handshake());
    client.send([head.as_bytes(), &masked(0x80 | TEXT, b"soon")].concat());
    arrived.wait();
    client.send(masked(0x80 | TEXT, b"later"));
    // Bytes that were passed on too early would arrive in this time.
    scripted_delay(Duration::from_millis(100));
    agree.open();
    client.response_head().expect(101);
    assert_eq!(client.read_raw(6), unmasked(TEXT, b"both"));
    client.half_close();
    client.closed();
    let line = gateway.access_log(1).swap_remove(0);
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&21.into(), &6.into()), "of the bodies, not of heads: {line}");
}

#[test]
fn behind_an_upgrade_that_the_app_refuses_requests_are_judged_as_ever() {
    for status in [200, 426, 403, 302, 500] {
        let origin = Origin::start(move |connection| {
            while let Some(request) = connection.read_request() {
                connection.answer(if request.target == "/chat" { status } else { 200 }, request.target);
            }
        });
        let gateway = gateway(&origin);
        let ask = format!("GET /chat HTTP/1.1\r\nHost: test\r\n{}\r\n", handshake());
        let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n");

        let mut client = gateway.connect();
        client.send([ask.clone(), get("/closed/admin"), get("/open"), ask.clone(), get("/open")].concat());
        client.response().expect(status);
        client.response().expect(403);
        assert_eq!(client.response().expect(200).text(), "/open");
        client.response().expect(status);
        client.response().expect(200);
        assert_eq!(client.get("/again").expect(200).text(), "/again");

        nothing_in_flight(&gateway);

        // Frames are no request.
        let mut client = gateway.connect();
        client.send([ask.as_bytes(), &masked(0x80 | TEXT, b"GET /closed/admin HTTP/1.1"), b"\r\n\r\n"].concat());
        client.response().expect(status);
        client.response().expect(400);
        client.closed();

        let targets: Vec<_> = origin.requests().into_iter().map(|request| request.target).collect();
        assert_eq!(targets, ["/chat", "/open", "/chat", "/open", "/again", "/chat"]);
        assert_eq!(used(&origin), 1, "the app's connection stays good");
        nothing_in_flight(&gateway);
    }
}

#[test]
fn an_agreement_that_is_not_one_is_502_and_opens_nothing() {
    let head = "HTTP/1.1 101 Switching Protocols\r\n";
    let whole = format!("{head}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    let with = |fields: &str| format!("{head}{fields}\r\n\r\n");
    let answers = [
        with("Upgrade: h2c\r\nConnection: Upgrade"),
        with("Upgrade: websocket, h2c\r\nConnection: Upgrade"),
        with("Upgrade: websocket\r\nUpgrade: websocket\r\nConnection: Upgrade"),
        with("Upgrade: h2c\r\nUpgrade: websocket\r\nConnection: Upgrade"),
        with("Upgrade: websocket"),
        with("Connection: Upgrade"),
        with("Upgrade: websocket\r\nConnection: keep-alive"),
        with("Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 5"),
        with("Upgrade: websocket\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked"),
        with("Upgrade: websocket\r\nConnection: Upgrade\r\nX: a\0b"),
        with("Upgrade: websocket\r\nConnection: Upgrade\r\n folded"),
        with("Upgrade : websocket\r\nConnection: Upgrade"),
        whole.replace("HTTP/1.1", "HTTP/1.0"),
        whole.replace("\r\n", "\n"),
    ];
    let (count, next) = (answers.len(), whole.clone());
    let origin = Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            let number: usize = request.target[1..].parse().unwrap();
            if let Some(answer) = answers.get(number) {
                // A frame behind it, as of an app that goes on.
                connection.write([answer.as_bytes(), &unmasked(TEXT, b"secret")].concat());
                assert_eq!(connection.read_rest(), b"", "{answer:?}");
                return;
            }
            connection.write(&next);
            assert_eq!(connection.read_rest(), b"");
        }
    });
    let gateway = gateway(&origin);
    for number in 0..=count {
        // The last is a good one that nobody has asked for.
        let fields = if number < count { handshake() } else { String::new() };
        let mut client = gateway.connect();
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: test\r\n{fields}\r\n"));
        let response = client.response().expect(502);
        assert!(!response.text().contains("secret"));
        let line = gateway.access_log(number + 1).pop().unwrap();
        assert_eq!((&line["status"], &line["reason"]), (&502.into(), &"upstream_invalid".into()), "{line}");
        nothing_in_flight(&gateway);
    }
    let errors = gateway.metrics().value("propylon_upstream_errors_total", &[("kind", "invalid_response")]);
    assert_eq!(errors, Some(f64::from(u32::try_from(count + 1).unwrap())));
    assert_eq!(used(&origin), count + 1);
}

#[test]
fn an_agreement_may_come_in_pieces_and_with_frames_behind_it() {
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    let whole = [agreement().as_bytes(), &unmasked(TEXT, b"hello"), &unmasked(CLOSE, b"")].concat();
    for (before, size) in [("", 1), ("", 20), (interim, 7), (interim, usize::MAX), ("", usize::MAX)] {
        let bytes = [before.as_bytes(), &whole].concat();
        let origin = Origin::start(move |connection| {
            if connection.read_request().is_none() {
                return;
            }
            for piece in bytes.chunks(size) {
                connection.write(piece);
                if size < 20 {
                    connection.delay(Duration::from_millis(1));
                }
            }
            connection.peer_closed();
        });
        let gateway = gateway(&origin);
        let (mut websocket, response) = WebSocket::open_with(gateway.connect(), "/", &[]);
        assert_eq!(response.interim, [0_u16; 0], "they are the gateway's alone");
        websocket.expect(TEXT, "hello");
        websocket.expect(CLOSE, "");
        websocket.client.half_close();
        websocket.client.closed();
        nothing_in_flight(&gateway);
    }
}

#[test]
fn what_is_the_gateways_own_business_is_so_in_an_agreement_too() {
    let origin = Origin::start(|connection| {
        let Some(request) = connection.read_request() else { return };
        let more = if request.target == "/chat" {
            "Content-Length: 0\r\nKeep-Alive: timeout=5\r\nConnection: x-own\r\nX-Own: of this hop\r\nX-Kept: yes\r\n"
        } else {
            "X-Accel-Redirect: /internal\r\n"
        };
        connection.write(agreement().replace("\r\n\r\n", &format!("\r\n{more}\r\n")));
        connection.read_rest();
    });
    let gateway = gateway(&origin);
    let (websocket, response) = WebSocket::open_with(gateway.connect(), "/chat", &[]);
    let names = response.fields.names();
    let strange = ["content-length", "keep-alive", "x-own"];
    assert!(!names.iter().any(|name| strange.contains(&name.to_ascii_lowercase().as_str())), "{response}");
    assert_eq!(response.field("x-kept"), Some("yes"));
    drop(websocket);
    // What asks for an answer out of a file is not obeyed, whatever the status.
    gateway.connect().request("GET", "/", &HANDSHAKE, "").expect(502);
    let line = gateway.access_log(2).pop().unwrap();
    assert_eq!(line["reason"], "accel_redirect", "{line}");
}
