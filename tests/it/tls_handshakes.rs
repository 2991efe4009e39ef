//! Handshakes that do not come to an end, and what is said where TLS should be: nobody else is held up by them.

// Counters are whole numbers, and small ones.
#![allow(clippy::float_cmp)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::harness::tls::{Authority, TlsClient};
use crate::harness::{Client, Gateway, GatewayBuilder, Signal, eventually, rounds};

const GATEWAY: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    listen_tls = ["127.0.0.2:0"]
    max_connections = {max}
    max_connections_per_ip = {per_ip}
    [server.client]
    header_timeout = "{header}"
    [[tls.certificates]]
    cert = "a.pem"
    key = "a.key"
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [[routes]]
    respond = { body = "hello" }
"#;

fn builder(header_timeout: &str) -> GatewayBuilder {
    let gateway = Gateway::with(GATEWAY).certificate("a", &Authority::shared().issue(&["a.test"]));
    gateway.set("header", header_timeout)
}

fn start(header_timeout: &str) -> Gateway {
    builder(header_timeout).set("max", "1000").set("per_ip", "0").start()
}

fn tls() -> TlsClient {
    TlsClient::new(Authority::shared(), "a.test")
}

/// A client's first message, and who goes on with it.
fn hello() -> (Vec<u8>, ClientConnection) {
    let mut connection = ClientConnection::new(tls().config, ServerName::try_from("a.test").unwrap()).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    (bytes, connection)
}

/// Full, resumed, failed, and those that took too long.
fn handshakes(gateway: &Gateway) -> [f64; 4] {
    let metrics = gateway.metrics();
    let count = |result| metrics.value("propylon_tls_handshakes_total", &[("result", result)]).unwrap_or_default();
    ["full", "resumed", "failed", "timeout"].map(count)
}

#[track_caller]
fn wait_for(gateway: &Gateway, expected: [f64; 4]) {
    eventually(&format!("handshakes {expected:?}"), || (handshakes(gateway) == expected).then_some(()));
}

#[test]
fn a_handshake_has_as_long_as_a_head() {
    let gateway = start("700ms");
    // One says nothing, one stops in the middle, one never stops.
    let mut silent = Client::connect(gateway.tls_addr());
    let (bytes, _) = hello();
    let mut half = Client::connect(gateway.tls_addr());
    half.send(&bytes[..bytes.len() / 2]);
    let mut dripping = Client::connect(gateway.tls_addr());
    let whole = dripping.drip(bytes.chunks(1), Duration::from_millis(20));
    assert!(!whole, "it could say everything");
    silent.closed();
    half.closed();
    wait_for(&gateway, [0.0, 0.0, 0.0, 3.0]);
    // The time of the first request begins anew.
    gateway.connect_tls(&tls()).get("/").expect(200);
    assert_eq!(gateway.access_log(1).len(), 1);
}

#[test]
fn what_is_not_tls_is_closed_on_and_counted() {
    let gateway = start("10s");
    let request = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let garbage: Vec<u8> = (0..2000_u32).map(|n| u8::try_from(n * 7919 % 251).unwrap()).collect();
    let overflow = [&[22, 3, 1, 0xff, 0xff][..], &vec![1; 20_000]].concat();
    // A ClientHello of 16 MiB is announced.
    let endless = [&[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &vec![1; 0x3ffc]].concat();
    // Not the first message of a client.
    let finished = [22, 3, 1, 0, 8, 20, 0, 0, 4, 1, 2, 3, 4];
    let application_data = [23, 3, 3, 0, 4, 1, 2, 3, 4];
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let cases: [&[u8]; 7] = [request, &garbage, &overflow, &endless, &finished, &application_data, http2];
    for (number, bytes) in (1_u8..).zip(cases) {
        let mut client = Client::connect(gateway.tls_addr());
        let _ = client.try_send(bytes);
        // An alert at most, then the end: and no answer in plain text.
        match client.read_rest() {
            Ok(said) => assert!(said.is_empty() || (said.len() == 7 && said[0] == 21), "case {number}: {said:?}"),
            Err(error) => panic!("case {number}: {error:?}"),
        }
        wait_for(&gateway, [0.0, 0.0, f64::from(number), 0.0]);
    }
    // The client leaves in the middle.
    let (bytes, _) = hello();
    let mut client = Client::connect(gateway.tls_addr());
    client.send(&bytes[..40]);
    client.half_close();
    client.closed();
    wait_for(&gateway, [0.0, 0.0, 8.0, 0.0]);
    assert!(gateway.access_log_now().is_empty());
    assert_eq!(gateway.metrics().value("propylon_connections", &[]), Some(0.0));
}

#[test]
fn tls_where_plain_http_is_spoken_is_a_bad_request() {
    let gateway = start("10s");
    let (bytes, _) = hello();
    let mut client = gateway.connect();
    client.send(bytes);
    client.response().expect(400);
    client.closed();
}

#[test]
fn a_first_message_in_many_pieces_is_one() {
    let gateway = start("10s");
    for (content, at_once) in [(1, 1), (1, 4096), (7, 3), (100, 4096), (16_000, 1)] {
        let (bytes, mut connection) = hello();
        // Records of `content` bytes each, sent in writes of `at_once`.
        let records: Vec<u8> = bytes[5..]
            .chunks(content)
            .flat_map(|piece| [&[22, 3, 1][..], &u16::try_from(piece.len()).unwrap().to_be_bytes(), piece].concat())
            .collect();
        let crate::harness::Address::Tcp(address) = gateway.tls_addr() else { unreachable!("TCP") };
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        for piece in records.chunks(at_once) {
            stream.write_all(piece).unwrap();
        }
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).unwrap();
        }
        let mut stream = rustls::StreamOwned::new(connection, stream);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        // Its end is said: what was read is whole.
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{answer}");
    }
}

#[test]
fn many_who_do_not_go_on_hold_nobody_up() {
    let gateway = start("60s");
    let (bytes, _) = hello();
    let count = rounds(200, 900);
    let mut waiting = Vec::new();
    for number in 0..count {
        let mut client = Client::connect(gateway.tls_addr());
        // Some said nothing, some a half, some all that they can say alone.
        client.send(&bytes[..[0, bytes.len() / 2, bytes.len()][number % 3]]);
        waiting.push(client);
    }
    let all = f64::from(u32::try_from(count).unwrap());
    eventually("they are accepted", || {
        (gateway.metrics().value("propylon_connections", &[]) == Some(all)).then_some(())
    });
    for _ in 0..10 {
        gateway.connect_tls(&tls()).get("/").expect(200);
    }
    gateway.get("/").expect(200);
    drop(waiting);
    wait_for(&gateway, [10.0, 0.0, all, 0.0]);
    eventually("nobody is left", || (gateway.metrics().value("propylon_connections", &[]) == Some(0.0)).then_some(()));
}

#[test]
fn a_process_that_leaves_does_not_wait_for_handshakes() {
    let gateway = builder("60s").set("max", "1000").set("per_ip", "0").stop_bound(Duration::from_secs(8)).start();
    let (bytes, _) = hello();
    let mut silent = Client::connect(gateway.tls_addr());
    let mut half = Client::connect(gateway.tls_addr());
    half.send(&bytes[..40]);
    let mut idle = gateway.connect_tls(&tls());
    idle.get("/").expect(200);
    let two = || gateway.metrics().value("propylon_connections", &[]) == Some(3.0);
    eventually("all are accepted", || two().then_some(()));
    gateway.signal(Signal::TERM);
    silent.closed();
    half.closed();
    assert!(idle.read_rest().unwrap().is_empty());
    gateway.wait_for_exit();
}

#[test]
fn who_comes_while_all_places_are_taken_waits_for_his_handshake() {
    let gateway = builder("10s").set("max", "2").set("per_ip", "0").start();
    let mut first = gateway.connect_tls(&tls());
    first.get("/").expect(200);
    // A handshake takes a place as a connection does.
    let half = Client::connect(gateway.tls_addr());
    let listener = gateway.tls_addr().to_string();
    let open = || gateway.metrics().value("propylon_connections", &[("listener", &listener)]);
    eventually("both are accepted", || (open() == Some(2.0)).then_some(()));
    let (bytes, mut connection) = hello();
    let crate::harness::Address::Tcp(address) = gateway.tls_addr() else { unreachable!("TCP") };
    let mut third = TcpStream::connect(address).unwrap();
    third.write_all(&bytes).unwrap();
    first.get("/").expect(200);
    third.set_nonblocking(true).unwrap();
    assert_eq!(third.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    third.set_nonblocking(false).unwrap();
    assert_eq!(open(), Some(2.0));
    drop(half);
    while connection.is_handshaking() {
        connection.complete_io(&mut third).unwrap();
    }
}

#[test]
fn connections_of_one_address_are_counted_before_tls() {
    let gateway = builder("10s").set("max", "100").set("per_ip", "2").start();
    let mut first = gateway.connect_tls(&tls());
    first.get("/").expect(200);
    let half = Client::connect(gateway.tls_addr());
    let listener = gateway.tls_addr().to_string();
    let open = || gateway.metrics().value("propylon_connections", &[("listener", &listener)]);
    eventually("both are accepted", || (open() == Some(2.0)).then_some(()));
    Client::connect(gateway.tls_addr()).closed();
    assert!(tls().connect(gateway.tls_addr()).is_err());
    let labels = [("listener", &*listener), ("reason", "per_ip_limit")];
    assert_eq!(gateway.metrics().value("propylon_connections_refused_total", &labels), Some(2.0));
    assert_eq!(handshakes(&gateway), [1.0, 0.0, 0.0, 0.0]);
    drop(half);
    eventually("there is room again", || tls().connect(gateway.tls_addr()).ok());
}
