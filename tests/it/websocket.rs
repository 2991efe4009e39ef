//! WebSockets end to end: a client, the gateway, a real Python server, over plain connections and TLS.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::tls::{Authority, TlsClient};
use crate::harness::websocket::*;
use crate::harness::*;
use crate::in_flight::nothing_in_flight;

const TOML: &str = r#"
[server]
listen = ["127.0.0.1:0"]
listen_tls = ["127.0.0.2:0"]
[[tls.certificates]]
cert = "shop.pem"
key = "shop.key"
[admin]
listen = ["127.0.0.1:0"]
[log]
access = "{dir}/access.log"
[upstreams.app]
preset = "{preset}"
endpoints = ["{app}"]
[[routes]]
upstream = "app"
"#;

/// A server with `asgi.py`, and the gateway in front.
struct Stack {
    gateway: Gateway,
    server: PythonServer,
    tls: TlsClient,
    record: PathBuf,
    /// What the app is told when a client closes with 4002.
    told: &'static str,
    /// What the client is told besides 4001.
    reason: &'static str,
    /// Last, as the server writes there.
    _dir: TempDir,
}

impl Stack {
    #[track_caller]
    fn start(preset: &str, server: PythonBuilder) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join("record");
        let server = server.unix().env("RECORD_FILE", &record.display()).start();
        let authority = Authority::new();
        let gateway = Gateway::with(TOML)
            .set("preset", preset)
            .set("app", server.address())
            .certificate("shop", &authority.issue(&["shop.test"]))
            .start();
        Self {
            gateway,
            server,
            tls: TlsClient::new(&authority, "shop.test"),
            record,
            told: "disconnect 4002",
            reason: "enough",
            _dir: dir,
        }
    }

    fn plain(&self) -> Client {
        self.gateway.connect()
    }

    fn secure(&self) -> Client {
        Client::connect_tls(&self.gateway.addrs()[1], &self.tls)
    }

    /// Everything this file asks of a server.
    fn check(&self) {
        Self::says_who_asks(self.plain(), "http");
        Self::says_who_asks(self.secure(), "https");
        for connect in [Self::plain, Self::secure] {
            passes_messages(WebSocket::open(connect(self), "/chat"));
            self.passes_closing_both_ways(|| connect(self));
            is_refused_by_the_app(connect(self));
        }
        nothing_in_flight(&self.gateway);
        assert!(!self.server.log().iter().any(|line| line.contains("Traceback")));
    }

    /// What the app is told of the handshake.
    #[track_caller]
    fn says_who_asks(client: Client, scheme: &str) {
        let port = if scheme == "https" { "443" } else { "80" };
        let fields = [
            ("Host", "shop.test"),
            ("Origin", "https://shop.test"),
            ("Sec-WebSocket-Protocol", "chat.v2, chat.v1"),
            ("X-Forwarded-For", "6.6.6.6"),
            ("X-Forwarded-Proto", "gopher"),
            ("X-Real-IP", "6.6.6.6"),
        ];
        let (mut websocket, response) = WebSocket::open_with(client, "/whoami?a=b%20c", &fields);
        assert_eq!(response.field("sec-websocket-protocol"), Some("chat.v2"));
        assert!(response.field("x-request-id").is_some(), "{response}");
        let (opcode, scope) = websocket.message();
        assert_eq!(opcode, TEXT);
        let scope: Value = serde_json::from_slice(&scope).unwrap();
        assert_eq!((&scope["path"], &scope["query_string"]), (&"/whoami".into(), &"a=b%20c".into()));
        for (name, value) in [
            ("host", "shop.test"),
            ("origin", "https://shop.test"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", scheme),
            ("x-forwarded-port", port),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", HANDSHAKE[3].1),
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
        ] {
            let named = scope["headers"].as_array().unwrap().iter().filter(|pair| pair[0] == name);
            let values: Vec<_> = named.map(|pair| pair[1].as_str().unwrap()).collect();
            assert_eq!(values, [value], "{name}: {scope}");
        }
        websocket.close(1000);
    }

    #[track_caller]
    fn passes_closing_both_ways(&self, connect: impl Fn() -> Client) {
        let mut websocket = WebSocket::open(connect(), "/");
        websocket.send(TEXT, "bye 4001 enough");
        websocket.closed_with(4001, self.reason);
        let before = self.codes().len();
        WebSocket::open(connect(), "/").close(4002);
        let codes = eventually("the app sees the end", || Some(self.codes()).filter(|codes| codes.len() > before));
        assert_eq!(codes.last().map(String::as_str), Some(self.told));
    }

    fn codes(&self) -> Vec<String> {
        fs::read_to_string(&self.record).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

#[track_caller]
fn passes_messages(mut websocket: WebSocket) {
    websocket.echo("h\u{e9}llo");
    websocket.send(BINARY, b"\0\xFF\r\n\r\n");
    websocket.expect(BINARY, b"\0\xFF\r\n\r\n");
    let large: Vec<u8> = (0..1_000_000_u32).map(|at| at.to_le_bytes()[usize::from(at % 7 == 0)]).collect();
    websocket.send(BINARY, &large);
    websocket.expect(BINARY, &large);
    // A ping between the fragments of a message is answered before it.
    websocket.client.send(masked(TEXT, b"in two "));
    websocket.send(PING, "still there?");
    websocket.client.send(masked(0x80 | CONTINUATION, b"pieces"));
    websocket.expect(PONG, "still there?");
    websocket.expect(TEXT, "in two pieces");
    // Frames in pieces, and many at once.
    for byte in masked(0x80 | TEXT, b"drip") {
        websocket.client.send([byte]);
    }
    websocket.expect(TEXT, "drip");
    let many: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    let frames = many.iter().flat_map(|text| masked(0x80 | TEXT, text.as_bytes()));
    websocket.client.send(frames.collect::<Vec<_>>());
    many.iter().for_each(|text| websocket.expect(TEXT, text));
    websocket.close(1000);
}

/// It is an answer as any other: the connection serves on.
#[track_caller]
fn is_refused_by_the_app(mut client: Client) {
    let refused = client.request("GET", "/refuse", &HANDSHAKE, "").expect(403);
    assert_eq!((refused.field("upgrade"), refused.field("connection")), (None, None), "{refused}");
    client.get("/healthz").expect(200);
}

/// RFC 7692 section 7.2.3: the message is "Hello", first as it is, then as zlib makes it.
#[track_caller]
fn passes_compressed_messages(client: Client) {
    let offer = [("Sec-WebSocket-Extensions", "permessage-deflate")];
    let (mut websocket, response) = WebSocket::open_with(client, "/", &offer);
    let agreed = response.field("sec-websocket-extensions").unwrap_or_default();
    assert!(agreed.starts_with("permessage-deflate"), "{response}");
    websocket.client.send(masked(0xC0 | TEXT, b"\x00\x05\x00\xFA\xFFHello\x00"));
    let frame = websocket.frame();
    assert!(frame.last && frame.compressed, "{frame:?}");
    assert_eq!(frame.payload, [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00]);
    websocket.close(1000);
}

#[test]
fn uvicorn_with_websockets() {
    let server = PythonServer::uvicorn("asgi:app").args("--ws websockets --forwarded-allow-ips *");
    let stack = Stack::start("uvicorn", server);
    stack.check();
    passes_compressed_messages(stack.plain());
    passes_compressed_messages(stack.secure());
}

#[test]
fn a_server_that_asks_whether_the_client_is_there_is_answered() {
    let stack = Stack::start("uvicorn", PythonServer::uvicorn("asgi:app").args("--ws-ping-interval 0.1"));
    let mut websocket = WebSocket::open(stack.secure(), "/");
    for _ in 0..2 {
        let ping = websocket.frame();
        assert_eq!(ping.opcode, PING);
        websocket.send(PONG, ping.payload);
    }
    websocket.close(1000);
}

#[test]
fn uvicorn_with_wsproto() {
    let server = PythonServer::uvicorn("asgi:app").args("--ws wsproto --http h11 --forwarded-allow-ips *");
    let stack = Stack::start("uvicorn", server);
    stack.check();
    passes_compressed_messages(stack.plain());
}

#[test]
fn hypercorn() {
    let mut stack = Stack::start("hypercorn", PythonServer::hypercorn("hypercorn_app:app"));
    // It tells its apps no other code.
    stack.told = "disconnect 1006";
    stack.check();
    passes_compressed_messages(stack.plain());
}

#[test]
fn daphne() {
    let mut stack = Stack::start("daphne", PythonServer::daphne("asgi:app").args("--proxy-headers"));
    // It sends none.
    stack.reason = "";
    stack.check();
}

#[test]
fn gunicorn_asgi() {
    Stack::start("gunicorn-asgi", PythonServer::gunicorn("asgi:app").args("-k asgi")).check();
}

#[test]
fn gunicorn_with_uvicorns_worker() {
    let server = PythonServer::gunicorn("asgi:app").args("-k uvicorn_worker.UvicornWorker");
    Stack::start("gunicorn-uvicorn", server).check();
}

#[test]
fn granian() {
    Stack::start("granian", PythonServer::granian("asgi:app").args("--interface asgi")).check();
}

/// Pingora 0.9.1 loses some of its own (its issue 946).
#[test]
fn of_many_upgrades_in_a_row_none_is_lost() {
    const SIDE_BY_SIDE: usize = 8;
    let each = rounds(300, 30_000).div_ceil(SIDE_BY_SIDE);
    let server = PythonServer::uvicorn("asgi:app").args("--log-level warning");
    let stack = Stack::start("uvicorn", server);
    thread::scope(|scope| {
        for number in 0..SIDE_BY_SIDE {
            let stack = &stack;
            scope.spawn(move || {
                for round in 0..each {
                    let client = if number == 0 && round < 50 { stack.secure() } else { stack.plain() };
                    let mut websocket = WebSocket::open(client, "/");
                    websocket.echo(&format!("{number}: {round}"));
                    websocket.close(1000);
                }
            });
        }
    });
    nothing_in_flight(&stack.gateway);
    let lines = stack.gateway.access_log(each * SIDE_BY_SIDE);
    let statuses: BTreeSet<_> = lines.iter().map(|line| line["status"].as_u64()).collect();
    assert_eq!((lines.len(), statuses), (each * SIDE_BY_SIDE, BTreeSet::from([Some(101)])));
}
