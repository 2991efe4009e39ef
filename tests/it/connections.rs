//! The life of a client's connection: kept and reused, pipelined, closed, and left at every moment a client can leave.

// Counters are whole numbers, and small ones.
#![allow(clippy::float_cmp, clippy::cast_precision_loss)]

use std::fs;

use crate::harness::{Broken, Client, Framing, Gate, Gateway, Origin, eventually, rounds};

const GATEWAY: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [upstreams.app]
    endpoints = ["{origin}"]
    [[routes]]
    path = "/app/*"
    upstream = "app"
    [[routes]]
    path = "/fixed"
    respond = { body = "hello" }
"#;

/// Answers every request with its target and body.
fn echo() -> Origin {
    Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            connection.answer(200, [request.target.as_bytes(), b" ", &request.body].concat());
        }
    })
}

/// Waits until nothing is under way and nobody connected.
#[track_caller]
fn quiet(gateway: &Gateway) {
    for gauge in ["propylon_requests_in_flight", "propylon_upstream_in_flight", "propylon_connections"] {
        eventually(gauge, || (gateway.metrics().value(gauge, &[]) == Some(0.0)).then_some(()));
    }
}

#[test]
fn a_connection_is_kept_for_many_requests() {
    let origin = echo();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    for number in 0..20 {
        let target = format!("/app/{number}");
        let told = client.request("POST", &target, &[], "x").expect(200);
        assert_eq!((told.text(), told.field("connection")), (&*format!("{target} x"), None));
    }
    let metrics = gateway.metrics();
    assert_eq!(metrics.value("propylon_connections_total", &[]), Some(1.0));
    assert_eq!(metrics.value("propylon_connections", &[("state", "idle")]), Some(1.0));
    assert_eq!(metrics.value("propylon_upstream_connections_total", &[("reused", "true")]), Some(19.0));
    drop(client);
    quiet(&gateway);
}

#[test]
fn connection_close_is_obeyed_and_said() {
    let origin = echo();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    for value in ["close", "Close", "keep-alive, close", "x-a ,close"] {
        for target in ["/app/", "/fixed"] {
            let mut client = gateway.connect();
            client.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\nConnection: {value}\r\n\r\nGET /app/no HTTP/1.1\r\nHost: test\r\n\r\n"));
            assert_eq!(client.response().expect(200).field("connection"), Some("close"), "{value} {target}");
            client.closed();
        }
    }
    assert!(origin.requests().iter().all(|request| request.target != "/app/no"));
}

#[test]
fn http_1_0_closes_unless_asked_to_keep() {
    let origin = echo();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    for target in ["/app/", "/fixed"] {
        let mut client = gateway.connect();
        client.send(format!("GET {target} HTTP/1.0\r\n\r\n"));
        assert_eq!(client.response().expect(200).field("connection"), Some("close"));
        client.closed();
        let mut client = gateway.connect();
        for _ in 0..3 {
            client.send(format!(
                "POST {target} HTTP/1.0\r\nHost: test\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nhi"
            ));
            assert_eq!(client.response().expect(200).field("connection"), Some("keep-alive"));
        }
        client.send(format!("GET {target} HTTP/1.0\r\n\r\n"));
        client.response().expect(200);
        client.closed();
    }
    assert_eq!(gateway.access_log(10)[0]["protocol"], "HTTP/1.0");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = echo();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    client.send(
        "GET /app/1 HTTP/1.1\r\nHost: test\r\n\r\n\
         POST /app/2 HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc\
         GET /none HTTP/1.1\r\nHost: test\r\n\r\n\
         POST /app/3 HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ndef\r\n0\r\nX-T: 1\r\n\r\n\
         GET /fixed HTTP/1.1\r\nHost: test\r\n\r\n\
         POST /none HTTP/1.1\r\nHost: test\r\nContent-Length: 34\r\n\r\nGET /app/no HTTP/1.1\r\nHost: test\r\n\
         HEAD /app/4 HTTP/1.1\r\nHost: test\r\n\r\n\
         GET /app/5 HTTP/1.1\r\nHost: test\r\n\r\n",
    );
    assert_eq!(client.response().expect(200).text(), "/app/1 ");
    assert_eq!(client.response().expect(200).text(), "/app/2 abc");
    client.response().expect(404);
    assert_eq!(client.response().expect(200).text(), "/app/3 def");
    assert_eq!(client.response().expect(200).text(), "hello");
    client.response().expect(404);
    client.response_to("HEAD").expect(200);
    assert_eq!(client.response().expect(200).text(), "/app/5 ");
    assert_eq!(gateway.access_log(8).len(), 8);

    // What nobody can read ends it, and what came before is answered.
    client.send("GET /app/6 HTTP/1.1\r\nHost: test\r\n\r\nGET /app/7 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\nGET /app/8 HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.response().expect(200).text(), "/app/6 ");
    client.response().expect(400);
    client.closed();
    let targets: Vec<_> = origin.requests().iter().map(|request| request.target.clone()).collect();
    assert_eq!(targets, ["/app/1", "/app/2", "/app/3", "/app/4", "/app/5", "/app/6"]);
}

#[test]
fn a_long_pipeline_is_answered_whole() {
    let origin = echo();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    // More than is taken from the socket ahead of its turn.
    let filler = "x".repeat(400);
    for number in 0..200 {
        client.send(format!("GET /app/{number} HTTP/1.1\r\nHost: test\r\nX-Filler: {filler}\r\n\r\n"));
    }
    for number in 0..200 {
        assert_eq!(client.response().expect(200).text(), format!("/app/{number} "));
    }
}

#[test]
fn an_empty_line_between_requests_is_overlooked() {
    let origin = echo();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    // Old clients send one after the body of a POST (RFC 9112 section 2.2); it may come before the next request does.
    client.send("POST /app/ HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi\r\n");
    client.response().expect(200);
    client.get("/app/").expect(200);
    for piece in ["\r", "\n", "GET /app/ HTTP/1.1\r\nHost: test\r\n\r\n"] {
        client.send(piece);
    }
    client.response().expect(200);
    client.send("\r\n");
    eventually("the line was noticed", || {
        (gateway.metrics().value("propylon_connections", &[("state", "active")]) == Some(1.0)).then_some(())
    });
    client.send_request("GET", "/app/", &[], "");
    client.response().expect(200);
    assert_eq!(gateway.access_log(4).len(), 4);
    client.send("\r\n");
    drop(client);
    quiet(&gateway);
    assert_eq!(gateway.access_log_now().len(), 4);
}

#[test]
fn a_small_body_nobody_wants_does_not_cost_the_connection() {
    let origin = echo();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    for (fields, body) in [
        ("Content-Length: 100000", "x".repeat(100_000)),
        ("Transfer-Encoding: chunked", format!("186a0\r\n{}\r\n0\r\n\r\n", "x".repeat(100_000))),
    ] {
        for (target, status) in [("/none", 404), ("/fixed", 200)] {
            client.send(format!("POST {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n{body}"));
            assert_eq!(client.response().expect(status).field("connection"), None);
            client.get("/app/").expect(200);
        }
    }
    // A large one does, and that is said.
    for (target, status) in [("/none", 404), ("/fixed", 200)] {
        let mut client = gateway.connect();
        client.send(format!(
            "POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: 4000000\r\n\r\n{}",
            "x".repeat(4_000_000)
        ));
        assert_eq!(client.response().expect(status).field("connection"), Some("close"), "{target}");
        client.closed();
    }
}

#[test]
fn head_gets_the_head_alone() {
    let origin = echo();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    for (target, status) in [("/app/x", 200), ("/fixed", 200), ("/none", 404), ("/../", 400)] {
        let whole = client.get(target).expect(status);
        client.send_request("HEAD", target, &[], "");
        let head = client.response_to("HEAD").expect(status);
        assert_eq!(head.field("content-length"), whole.field("content-length"), "{target}");
        assert_eq!(head.field("content-type"), whole.field("content-type"), "{target}");
        assert_eq!(whole.framing, Framing::Length(whole.body.len() as u64));
    }
    let lines = gateway.access_log(8);
    assert!(lines.iter().filter(|line| line["method"] == "HEAD").all(|line| line["bytes_out"] == 0), "{lines:?}");
}

/// Brings a client to where it leaves.
type Stage<'a> = dyn Fn(&mut Client) + 'a;

/// How a client leaves.
#[derive(Debug, Clone, Copy)]
enum Exit {
    Close,
    Reset,
    HalfClose,
}

#[test]
fn a_client_may_leave_at_any_moment() {
    for exit in [Exit::Close, Exit::Reset, Exit::HalfClose] {
        let hanging = Gate::new();
        let origin = Origin::start({
            let hanging = hanging.clone();
            move |connection| {
                while let Some(request) = connection.read_request() {
                    match request.target.as_str() {
                        "/app/hang" => {
                            hanging.open();
                            // Its client's leaving is passed on.
                            assert!(connection.peer_closed());
                            return;
                        }
                        "/app/half" => {
                            connection.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
                            assert!(connection.peer_closed());
                            return;
                        }
                        _ => connection.answer(200, "fine"),
                    };
                }
            }
        });
        let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
        let leave = |client: Client| match exit {
            Exit::Close => drop(client),
            Exit::Reset => client.reset(),
            Exit::HalfClose => {
                let mut client = client;
                client.half_close();
                // Whatever it is told, the end comes soon.
                let _ = client
                    .read_rest()
                    .map_err(|broken| assert!(matches!(broken, Broken::Reset), "{exit:?}: {broken:?}"));
            }
        };
        let stages: [(&str, &Stage<'_>); 9] = [
            ("before a byte", &|_| {}),
            ("in a head", &|client| client.send("GET /app/ HTTP/1.1\r\nHo")),
            ("in a refused head", &|client| client.send("GET /app/ HTTP/1.1\nHo")),
            ("in a body", &|client| client.send("POST /app/ HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nabc")),
            ("in a chunk", &|client| {
                client.send("POST /app/ HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc");
            }),
            ("in a body nobody wants", &|client| {
                client.send("POST /none HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nabc");
            }),
            ("while it waits", &|client| {
                client.send_request("GET", "/app/hang", &[], "");
                hanging.wait();
            }),
            ("in the answer", &|client| {
                client.send_request("GET", "/app/half", &[], "");
                client.response_head().expect(200);
                assert_eq!(client.read_raw(5), b"hello");
            }),
            ("between two requests", &|client| drop(client.get("/app/").expect(200))),
        ];
        for (stage, run) in stages {
            let mut client = gateway.connect();
            run(&mut client);
            leave(client);
            assert_eq!(gateway.get("/app/after").expect(200).text(), "fine", "{exit:?} {stage}");
            quiet(&gateway);
        }
        let lines = gateway.access_log(stages.len() + 6);
        for line in &lines {
            let reason = match (line["path"].as_str().unwrap_or_default(), line["method"].as_str()) {
                ("/app/", Some("POST")) | ("/app/hang" | "/app/half", _) => Some("client_closed"),
                ("/app/" | "/app/after", _) => None,
                // Refused in the moment in which it left: either may come first.
                _ => line["reason"].as_str(),
            };
            assert_eq!(line["reason"].as_str(), reason, "{exit:?}: {line:#}");
        }
        let answered = lines.iter().find(|line| line["path"] == "/app/half").unwrap();
        assert_eq!((&answered["status"], &answered["bytes_out"]), (&200.into(), &5.into()));
        let waited = lines.iter().find(|line| line["path"] == "/app/hang").unwrap();
        assert_eq!(waited["status"], 499);
    }
}

#[test]
fn a_whole_request_before_a_half_close_is_answered_by_what_needs_no_app() {
    let origin = echo();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    client.send_request("GET", "/fixed", &[], "");
    client.half_close();
    assert_eq!(client.response().expect(200).text(), "hello");
    client.closed();
    quiet(&gateway);
}

/// Kilobytes of memory that are the process' own.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn an_idle_connection_costs_little() {
    let count = rounds(200, 5000);
    let origin = echo();
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address()).start();
    let open = |count: usize| -> Vec<Client> {
        let mut clients: Vec<_> = (0..count).map(|_| gateway.connect()).collect();
        clients.iter_mut().for_each(|client| drop(client.get("/app/").expect(200)));
        clients
    };
    let warm = open(100);
    let before = resident(gateway.pid());
    let clients = open(count);
    eventually("all are idle", || {
        let idle = gateway.metrics().value("propylon_connections", &[("state", "idle")]);
        (idle == Some((count + warm.len()) as f64)).then_some(())
    });
    let each = (resident(gateway.pid()).saturating_sub(before) * 1024) / count as u64;
    println!("{count} idle connections cost {each} bytes each");
    if count >= 5000 {
        assert!(each <= 10 * 1024, "{each} bytes for each of {count} idle connections");
    }
    drop((clients, warm));
    eventually("all are gone", || (gateway.metrics().value("propylon_connections", &[]) == Some(0.0)).then_some(()));
}
