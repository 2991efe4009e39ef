//! A reload does not touch a WebSocket; leaving lets it live for its grace, and then says goodbye as the protocol does.

use std::time::{Duration, Instant};

use crate::harness::tls::{Authority, TlsClient};
use crate::harness::websocket::*;
use crate::harness::*;
use crate::in_flight::nothing_in_flight;

const TOML: &str = r#"
[server]
listen = ["127.0.0.1:0"]
listen_tls = ["127.0.0.2:0"]
{server}
[[tls.certificates]]
cert = "shop.pem"
key = "shop.key"
[admin]
listen = ["127.0.0.1:0"]
control = "unix:{dir}/control.sock"
[log]
access = "{dir}/access.log"
[upstreams.app]
endpoints = ["{origin}"]
[[routes]]
path = "/chat"
upstream = "app"
"#;

struct Stack {
    gateway: Gateway,
    tls: TlsClient,
}

impl Stack {
    fn start(origin: &Origin, server: &str) -> Self {
        let authority = Authority::new();
        let gateway = Gateway::with(TOML).set("origin", origin.address()).set("server", server);
        let gateway = gateway.certificate("shop", &authority.issue(&["shop.test"])).start();
        Self { gateway, tls: TlsClient::new(&authority, "shop.test") }
    }

    /// One over each.
    fn open(&self) -> [WebSocket; 2] {
        let secure = Client::connect_tls(&self.gateway.addrs()[1], &self.tls);
        [WebSocket::open(self.gateway.connect(), "/chat"), WebSocket::open(secure, "/chat")]
    }
}

/// Sends back what comes, byte for byte but for the mask: frames of text up to 125 bytes, until there is a close frame.
fn echo(connection: &mut Connection) {
    while let Some(head) = connection.read_raw(2) {
        let length = usize::from(head[1] & 0x7F);
        let Some(body) = connection.read_raw(4 + length) else { return };
        let payload: Vec<u8> = body[4..].iter().zip(body[..4].iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        connection.write(unmasked(head[0] & 0x0F, &payload));
        if head[0] & 0x0F == CLOSE {
            return;
        }
    }
}

fn echoing() -> Origin {
    Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            if request.fields.has("upgrade") {
                connection.write(agreement());
                return echo(connection);
            }
            connection.answer(200, "here");
        }
    })
}

#[test]
fn a_reload_does_not_touch_it_whatever_is_gone_afterwards() {
    let (origin, other) = (echoing(), echoing());
    let stack = Stack::start(&origin, "");
    let gateway = &stack.gateway;
    let mut websockets = stack.open();
    let address = gateway.addr().clone();
    let moved = TOML.replace("{origin}", &other.address().to_string());
    let configurations = [
        TOML.replace("path = \"/chat\"", "path = \"/elsewhere\""),
        moved.clone(),
        moved.replace("[upstreams.app]", "[upstreams.new]").replace("upstream = \"app\"", "upstream = \"new\""),
        // Neither upstream nor listener nor certificate.
        "[server]\nlisten = [\"127.0.0.2:0\"]\n[admin]\nlisten = [\"127.0.0.1:0\"]\ncontrol = \"unix:{dir}/control.sock\"\n\
         [log]\naccess = \"{dir}/access.log\"\n[[routes]]\nrespond = { status = 204 }\n"
            .to_owned(),
    ];
    for (number, toml) in configurations.iter().enumerate() {
        websockets.iter_mut().for_each(|websocket| websocket.echo(&format!("before {number}")));
        gateway.rewrite_config(toml);
        gateway.reload();
        websockets.iter_mut().for_each(|websocket| websocket.echo(&format!("after {number}")));
    }
    eventually("the old listener is closed", || Client::try_connect(&address).err());
    websockets.iter_mut().for_each(|websocket| websocket.echo("still"));
    websockets.into_iter().for_each(|websocket| websocket.close(1000));
    let lines = gateway.access_log(2);
    assert!(lines.iter().all(|line| line["status"] == 101 && line["upstream"] == "app"), "{lines:?}");
    assert_eq!(other.requests().len(), 0);
}

#[test]
fn who_leaves_lets_it_live_for_the_grace_and_then_says_goodbye() {
    let origin = echoing();
    let stack = Stack::start(&origin, "shutdown_timeout = \"1s\"");
    let mut websockets = stack.open();
    websockets.iter_mut().for_each(|websocket| websocket.echo("before"));
    let address = stack.gateway.addr().clone();
    let started = Instant::now();
    stack.gateway.signal(Signal::TERM);
    eventually("new connections are refused", || Client::try_connect(&address).err());
    while started.elapsed() < Duration::from_millis(700) {
        websockets.iter_mut().for_each(|websocket| websocket.echo("in the grace"));
        scripted_delay(Duration::from_millis(20));
    }
    websockets.into_iter().for_each(|websocket| websocket.closed_with(1001, ""));
    let told = started.elapsed();
    assert!(told >= Duration::from_millis(950), "after {told:?}");
    // The app has seen the clients' own close frames, and the end.
    eventually("the app sees the end", || (origin.open_connections() == 0).then_some(()));
    let lines = stack.gateway.access_log(2);
    assert!(lines.iter().all(|line| line["status"] == 101), "{lines:?}");
    stack.gateway.wait_for_exit();
}

#[test]
fn an_app_sees_the_disconnect_when_the_process_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let record = dir.path().join("record");
    let server = PythonServer::uvicorn("asgi:app").unix().env("RECORD_FILE", &record.display()).start();
    let toml = TOML.replace("{origin}", &server.address().to_string());
    let authority = Authority::new();
    let gateway = Gateway::with(&toml)
        .set("server", "shutdown_timeout = \"100ms\"")
        .certificate("shop", &authority.issue(&["shop.test"]))
        .start();
    let websocket = WebSocket::open(gateway.connect(), "/chat");
    gateway.signal(Signal::TERM);
    websocket.closed_with(1001, "");
    gateway.wait_for_exit();
    let seen = eventually("the app sees it", || std::fs::read_to_string(&record).ok().filter(|text| !text.is_empty()));
    assert_eq!(seen, "disconnect 1001\n");
}

/// The close frame stands between two frames of the app, however long it takes over the one at hand.
#[test]
fn the_goodbye_stands_between_two_frames() {
    let (leaving, ended) = (Gate::new(), Gate::new());
    let origin = Origin::start({
        let (leaving, ended) = (leaving.clone(), ended.clone());
        move |connection| {
            if connection.read_request().is_none() {
                return;
            }
            let frame = unmasked(BINARY, &vec![b'x'; 300_000]);
            connection.write([agreement().as_bytes(), &frame[..100_001]].concat());
            leaving.wait();
            // By now the client is to be told.
            connection.delay(Duration::from_millis(400));
            // The end of the frame, and the begin of one more, that comes too late.
            connection.write([&frame[100_001..], &unmasked(TEXT, b"too late")].concat());
            let rest = connection.read_rest();
            assert_eq!(rest, masked(0x80 | CLOSE, &close_payload(1001, "")));
            ended.open();
        }
    });
    let stack = Stack::start(&origin, "shutdown_timeout = \"100ms\"");
    let mut websocket = WebSocket::open(stack.gateway.connect(), "/chat");
    stack.gateway.signal(Signal::TERM);
    leaving.open();
    websocket.expect(BINARY, vec![b'x'; 300_000]);
    websocket.closed_with(1001, "");
    ended.wait();
    stack.gateway.wait_for_exit();
}

/// Neither a client nor an app can hold the process that wants to leave.
#[test]
fn who_does_not_answer_the_goodbye_is_not_waited_for() {
    let origin = Origin::start(|connection| {
        let Some(request) = connection.read_request() else { return };
        connection.write(agreement());
        if request.field("x-app") == Some("floods") {
            while connection.write(unmasked(BINARY, &vec![b'x'; 60_000])) {}
        } else if request.field("x-app") == Some("half a frame") {
            connection.write(&unmasked(BINARY, &vec![b'x'; 60_000])[..100]);
        }
        connection.read_rest();
    });
    let stack = Stack::start(&origin, "shutdown_timeout = \"100ms\"");
    let kept: Vec<_> = ["is silent", "floods", "half a frame"]
        .iter()
        .map(|app| WebSocket::open_with(stack.gateway.connect(), "/chat", &[("X-App", app)]).0)
        .collect();
    let started = Instant::now();
    stack.gateway.signal(Signal::TERM);
    stack.gateway.wait_for_exit();
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    drop(kept);
}

#[test]
fn told_twice_to_leave_it_says_goodbye_at_once() {
    let origin = echoing();
    let stack = Stack::start(&origin, "shutdown_timeout = \"1h\"");
    let [mut plain, secure] = stack.open();
    stack.gateway.signal(Signal::TERM);
    stack.gateway.wait_for_log("shutting down");
    plain.echo("still here");
    stack.gateway.signal(Signal::TERM);
    plain.closed_with(1001, "");
    secure.closed_with(1001, "");
    stack.gateway.wait_for_exit();
}

/// The process waits for WebSockets as it does for requests, and no longer.
#[test]
fn the_process_ends_with_the_last_websocket() {
    let origin = echoing();
    let stack = Stack::start(&origin, "shutdown_timeout = \"1h\"");
    let [plain, mut secure] = stack.open();
    stack.gateway.signal(Signal::TERM);
    plain.close(1000);
    secure.echo("the last");
    secure.close(1000);
    stack.gateway.wait_for_exit();

    // Nor does it wait for one that ended before.
    let stack = Stack::start(&origin, "shutdown_timeout = \"1h\"");
    stack.open().into_iter().for_each(|websocket| websocket.close(1000));
    nothing_in_flight(&stack.gateway);
    let started = Instant::now();
    stack.gateway.stop();
    let took = started.elapsed();
    assert!(took < Duration::from_secs(2), "it took {took:?}");
}
