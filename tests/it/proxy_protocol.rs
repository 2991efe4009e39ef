//! The PROXY protocol: a proxy in front that passes on bytes says first whose they are, and is believed where it is trusted.

// Counters are whole numbers, and small ones.
#![allow(clippy::float_cmp)]

use std::io::Write;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::tls::{Authority, TlsClient};
use crate::harness::{Address, Client, Gateway, Origin, Process, Signal, eventually};

const GATEWAY: &str = r#"
    [server]
    listen = [{ address = "127.0.0.1:0", proxy_protocol = true }]
    listen_tls = [{ address = "127.0.0.2:0", proxy_protocol = true }]
    trusted_proxies = ["{trusted}"]
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
    [upstreams.app]
    endpoints = ["{origin}"]
    [[routes]]
    upstream = "app"
"#;

struct Stage {
    gateway: Gateway,
    origin: Origin,
}

fn start(trusted: &str, per_ip: usize, header_timeout: &str) -> Stage {
    let origin = Origin::echo_head();
    let gateway = Gateway::with(GATEWAY)
        .set("origin", origin.address())
        .set("trusted", trusted)
        .set("per_ip", &per_ip)
        .set("header", header_timeout)
        .certificate("a", &Authority::shared().issue(&["a.test"]));
    Stage { gateway: gateway.start(), origin }
}

impl Stage {
    fn refused(&self, reason: &str) -> f64 {
        self.gateway.metrics().value("propylon_connections_refused_total", &[("reason", reason)]).unwrap()
    }

    /// A connection on which `bytes` were sent.
    fn sent(&self, bytes: impl AsRef<[u8]>) -> Client {
        let mut client = self.gateway.connect();
        client.send(bytes);
        client
    }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";

fn line(address: &str) -> Vec<u8> {
    let kind = if address.contains(':') { "TCP6" } else { "TCP4" };
    let ours = if address.contains(':') { "::1" } else { "127.0.0.1" };
    format!("PROXY {kind} {address} {ours} 40000 443\r\n").into_bytes()
}

/// Version 2 for this IPv4 address, with an extension behind it.
fn binary(command: u8, address: [u8; 4]) -> Vec<u8> {
    let addresses = [&address[..], &[127, 0, 0, 1, 0x9c, 0x40, 1, 187], &[4, 0, 3, 1, 2, 3]].concat();
    let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[0x20 | command, 0x11][..], &length, &addresses].concat()
}

/// The value of a field in the head that the app was sent.
fn told(head: &str, name: &str) -> Option<String> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|field| field.0.eq_ignore_ascii_case(name))
        .map(|f| f.1.to_owned())
}

#[test]
fn the_client_is_whom_a_trusted_proxy_speaks_for() {
    let stage = start("127.0.0.1", 0, "10s");
    let local = [b"\r\n\r\n\0\r\nQUIT\n", &[0x20, 0, 0, 0][..]].concat();
    for (header, client) in [
        (line("192.0.2.7"), "192.0.2.7"),
        (line("2001:db8::7"), "2001:db8::7"),
        (line("::ffff:192.0.2.8"), "192.0.2.8"),
        (binary(1, [192, 0, 2, 9]), "192.0.2.9"),
        // The proxy speaks for itself.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (binary(0, [192, 0, 2, 9]), "127.0.0.1"),
        (local, "127.0.0.1"),
    ] {
        // In one piece with the request, before it, and byte by byte.
        let mut together = stage.sent([&header, REQUEST].concat());
        let mut apart = stage.sent(&header);
        apart.send(REQUEST);
        let mut dripping = stage.gateway.connect();
        assert!(dripping.drip(header.chunks(1), Duration::from_micros(300)));
        dripping.send(REQUEST);
        for connection in [&mut together, &mut apart, &mut dripping] {
            let head = connection.response().expect(200);
            assert_eq!(told(head.text(), "x-forwarded-for").as_deref(), Some(client));
            assert_eq!(told(head.text(), "x-real-ip").as_deref(), Some(client));
            // It holds for the connection.
            assert_eq!(told(connection.get("/").expect(200).text(), "x-forwarded-for").as_deref(), Some(client));
        }
        // Then TLS behind it, in one piece with its first message and on its own.
        let Address::Tcp(address) = stage.gateway.tls_addr() else { unreachable!("TCP") };
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&header).unwrap();
        let stream = TlsClient::new(Authority::shared(), "a.test").agree(stream).unwrap();
        let head = Client::over(stream).request("GET", "/", &[("Host", "a.test")], "").expect(200);
        assert_eq!(told(head.text(), "x-forwarded-for").as_deref(), Some(client));
        assert_eq!(told(head.text(), "x-forwarded-proto").as_deref(), Some("https"));
    }
    let log = stage.gateway.access_log(7 * 7);
    let count = |client: &str| log.iter().filter(|line| line["client"] == client).count();
    assert_eq!((count("192.0.2.7"), count("2001:db8::7"), count("127.0.0.1")), (7, 7, 21));
    assert_eq!(stage.refused("proxy_protocol"), 0.0);
}

#[test]
fn tls_may_begin_in_the_same_packet() {
    let stage = start("127.0.0.1", 0, "10s");
    let name = rustls::pki_types::ServerName::try_from("a.test").unwrap();
    let config = TlsClient::new(Authority::shared(), "a.test").config;
    for header in [line("192.0.2.7"), binary(1, [192, 0, 2, 7])] {
        let mut connection = rustls::ClientConnection::new(config.clone(), name.clone()).unwrap();
        let mut bytes = header;
        connection.write_tls(&mut bytes).unwrap();
        let Address::Tcp(address) = stage.gateway.tls_addr() else { unreachable!("TCP") };
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&bytes).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).unwrap();
        }
    }
}

#[test]
fn what_a_client_claims_behind_the_header_is_not_believed() {
    let stage = start("127.0.0.1", 0, "10s");
    let mut client = stage.sent(line("192.0.2.7"));
    let head = client.request("GET", "/", &[("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-Proto", "https")], "");
    assert_eq!(told(head.text(), "x-forwarded-for").as_deref(), Some("192.0.2.7"));
    assert_eq!(told(head.text(), "x-forwarded-proto").as_deref(), Some("http"));
    // The header is one; a second is no request.
    let mut twice = stage.sent([line("192.0.2.7"), line("192.0.2.8"), REQUEST.to_vec()].concat());
    twice.response().expect(400);
    twice.closed();
}

#[test]
fn a_trusted_proxy_that_says_nothing_or_nonsense_is_closed_on() {
    let stage = start("127.0.0.1", 0, "600ms");
    let mut version_3 = binary(1, [192, 0, 2, 9]);
    version_3[12] = 0x31;
    let mut long = binary(1, [192, 0, 2, 9]);
    long[14..16].copy_from_slice(&[0xff, 0xff]);
    let cases: [Vec<u8>; 9] = [
        REQUEST.to_vec(),
        b"\r\n\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 127.0.0.1 1\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 127.0.0.1 40000 443\n".to_vec(),
        [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat(),
        // Silence, and half a header.
        Vec::new(),
        b"PROXY TCP4 192.0.2".to_vec(),
        version_3,
        long,
    ];
    for (number, bytes) in (1_u8..).zip(cases) {
        let mut client = stage.gateway.connect();
        // The gateway may be faster.
        let _ = client.try_send(&bytes);
        let _ = client.try_send(if bytes.len() > 20 { REQUEST } else { b"" });
        client.closed();
        let expected = f64::from(number);
        eventually("it is counted", || (stage.refused("proxy_protocol") == expected).then_some(()));
    }
    // Whoever leaves in the middle is counted as well; on the TLS listener all this is the same.
    let mut tls = Client::connect(stage.gateway.tls_addr());
    tls.send(REQUEST);
    tls.closed();
    drop(stage.sent("PROXY"));
    eventually("they are counted", || (stage.refused("proxy_protocol") == 11.0).then_some(()));
    assert!(stage.origin.requests().is_empty() && stage.gateway.access_log_now().is_empty());
    let mut dripping = stage.gateway.connect();
    assert!(!dripping.drip(line("192.0.2.1").chunks(1), Duration::from_millis(40)), "it had no end");
}

#[test]
fn who_is_not_trusted_is_taken_for_a_client() {
    let stage = start("192.0.2.1", 0, "10s");
    for header in [line("192.0.2.7"), binary(1, [192, 0, 2, 9])] {
        let mut client = stage.sent([&header, REQUEST].concat());
        client.response().expect(400);
        client.closed();
    }
    let head = stage.sent(REQUEST).response().expect(200);
    assert_eq!(told(head.text(), "x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(stage.refused("proxy_protocol"), 0.0);
    stage
        .gateway
        .connect_tls(&TlsClient::new(Authority::shared(), "a.test"))
        .request("GET", "/", &[("Host", "a.test")], "")
        .expect(200);
}

#[test]
fn the_limit_is_that_of_the_address_that_is_announced() {
    let stage = start("127.0.0.1", 2, "10s");
    let served = |address: &str| {
        let mut client = stage.sent([&line(address), REQUEST].concat());
        client.response().expect(200);
        client
    };
    let _first = served("192.0.2.7");
    let second = served("192.0.2.7");
    for _ in 0..3 {
        stage.sent(line("192.0.2.7")).closed();
    }
    assert_eq!(stage.refused("per_ip_limit"), 3.0);
    // Others are not his affair, and the proxy itself has no limit.
    let _others = [served("192.0.2.8"), served("192.0.2.8"), served("2001:db8::7")];
    let _own: Vec<_> = (0..4)
        .map(|_| {
            let mut client = stage.sent([b"PROXY UNKNOWN\r\n", REQUEST].concat());
            client.response().expect(200);
            client
        })
        .collect();
    drop(second);
    eventually("there is room again", || {
        let mut client = stage.sent([&line("192.0.2.7"), REQUEST].concat());
        client.try_response().ok()
    });
}

/// HAProxy in front of `target`; where it listens, and the process.
fn haproxy(target: &Address, option: &str) -> (Address, Process, tempfile::TempDir) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("haproxy.cfg");
    let text = format!(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n\
         listen front\n bind fd@0\n server gateway {target} {option}\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f"]).arg(&config).stdin(Stdio::from(OwnedFd::from(listener)));
    (address, Process::spawn(command, false), dir)
}

#[test]
fn haproxy_is_understood() {
    let stage = start("127.0.0.1", 0, "10s");
    for option in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options unique-id,crc32c"] {
        let (plain, plain_process, _plain_dir) = haproxy(stage.gateway.addr(), option);
        let (secure, secure_process, _secure_dir) = haproxy(stage.gateway.tls_addr(), option);
        let mut client = Client::connect(&plain);
        for _ in 0..3 {
            let head = client.get("/").expect(200);
            assert_eq!(told(head.text(), "x-forwarded-for").as_deref(), Some("127.0.0.1"), "{option}");
        }
        // HAProxy has the same address; the port is this client's own.
        let port = client.local_addr().unwrap().port();
        let of_it = || stage.gateway.access_log_now().iter().filter(|line| line["client_port"] == port).count();
        eventually("its three lines", || (of_it() == 3).then_some(()));
        let mut client = Client::connect_tls(&secure, &TlsClient::new(Authority::shared(), "a.test"));
        let head = client.request("POST", "/", &[("Host", "a.test")], vec![b'x'; 300_000]).expect(200);
        assert_eq!(told(head.text(), "x-forwarded-proto").as_deref(), Some("https"), "{option}");
        for process in [&plain_process, &secure_process] {
            process.signal(Signal::TERM);
        }
    }
    assert_eq!(stage.refused("proxy_protocol"), 0.0);
}
