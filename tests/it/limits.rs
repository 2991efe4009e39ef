//! How much one client may take: the size of a body, and the number of connections.

use crate::harness::{Broken, Client, Framing, Gateway, Origin, eventually};

const BODIES: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    [server.client]
    max_body = "10KiB"
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [upstreams.app]
    endpoints = ["{origin}"]
    [[routes]]
    path = "/large/*"
    max_body = "1MiB"
    upstream = "app"
    [[routes]]
    path = "/fixed"
    respond = { body = "hello" }
    [[routes]]
    upstream = "app"
"#;

#[test]
fn a_body_announced_too_large_is_refused_before_the_origin_sees_anything() {
    let origin = Origin::echo_head();
    let gateway = Gateway::with(BODIES).set("origin", origin.address()).start();
    let body = vec![b'x'; 1024 * 1024 + 1];
    for (target, fits) in [("/", 10 * 1024), ("/large/", 1024 * 1024), ("/fixed", 10 * 1024)] {
        gateway.connect().request("POST", target, &[], &body[..fits]).expect(200);
        let mut client = gateway.connect();
        let told = client.request("POST", target, &[], &body[..=fits]).expect(413);
        assert_eq!(told.json()["reason"], "body_too_large", "{target}");
        assert_eq!(told.field("connection"), Some("close"), "{target}");
        client.closed();
        // Its head alone is enough to refuse it.
        let mut client = gateway.connect();
        client.send(format!("POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", fits + 1));
        client.response().expect(413);
    }
    assert_eq!(origin.requests().len(), 2);
    gateway.counts("propylon_rejections_total", &[("reason", "body_too_large")], 6.0);
}

#[test]
fn a_client_that_goes_on_sending_can_read_the_refusal() {
    let origin = Origin::echo_head();
    let gateway = Gateway::with(BODIES).set("origin", origin.address()).start();
    let block = vec![b'x'; 64 * 1024];
    for _ in 0..3 {
        let mut client = gateway.connect();
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 6291456\r\n\r\n");
        for _ in 0..96 {
            client.send(&block);
        }
        client.response().expect(413);
        client.closed();
    }
    assert!(origin.requests().is_empty());
}

#[test]
fn a_chunked_body_is_counted_as_it_comes() {
    let origin = Origin::echo_head();
    let gateway = Gateway::with(BODIES).set("origin", origin.address()).start();
    let chunk = |length: usize| format!("{length:x}\r\n{}\r\n", "x".repeat(length));
    let head = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";

    let mut client = gateway.connect();
    client.send(format!("{head}{}{}0\r\n\r\n", chunk(10 * 1024 - 1), chunk(1)));
    client.response().expect(200);
    assert_eq!(
        (origin.requests()[0].framing, origin.requests()[0].body.len()),
        (Framing::Length(10 * 1024), 10 * 1024)
    );

    for body in
        [chunk(10 * 1024 + 1), chunk(1).repeat(10 * 1024 + 1), chunk(10 * 1024) + &chunk(1), chunk(4 * 1024 * 1024)]
    {
        let mut client = gateway.connect();
        client.send(format!("{head}{body}0\r\n\r\n"));
        let told = client.response().expect(413);
        assert_eq!(told.json()["reason"], "body_too_large");
        assert_eq!(told.field("connection"), Some("close"));
        client.closed();
        gateway.get("/").expect(200);
    }
    // None of them reached the app as a whole request.
    assert_eq!(origin.requests().iter().filter(|request| request.method == "POST").count(), 1);
}

#[test]
fn a_client_beyond_max_connections_waits_until_another_leaves() {
    let gateway = Gateway::start(
        r#"
        [server]
        listen = ["127.0.0.1:0"]
        max_connections = 2
        [admin]
        listen = ["127.0.0.1:0"]
        [log]
        access = "{dir}/access.log"
        [[routes]]
        respond = { body = "hello" }
        "#,
    );
    let mut first = gateway.connect();
    let mut second = gateway.connect();
    first.get("/").expect(200);
    second.get("/").expect(200);
    let mut third = gateway.connect();
    let mut fourth = gateway.connect();
    third.send_request("GET", "/", &[], "");
    fourth.send_request("GET", "/", &[], "");
    for _ in 0..20 {
        first.get("/").expect(200);
        second.get("/").expect(200);
    }
    third.assert_silent();
    fourth.assert_silent();
    assert_eq!(gateway.metrics().value("propylon_connections", &[]), Some(2.0));
    drop(first);
    third.response().expect(200);
    fourth.assert_silent();
    second.reset();
    fourth.response().expect(200);
    drop((third, fourth));
    eventually("all connections are gone", || {
        (gateway.metrics().value("propylon_connections", &[]) == Some(0.0)).then_some(())
    });
    gateway.get("/").expect(200);
}

#[test]
fn max_connections_is_for_all_listeners_together() {
    let gateway = Gateway::start(
        r#"
        [server]
        listen = ["127.0.0.1:0", "[::1]:0", "unix:{dir}/gateway.sock"]
        max_connections = 1
        [admin]
        listen = ["127.0.0.1:0"]
        [log]
        access = "{dir}/access.log"
        [[routes]]
        respond = { body = "hello" }
        "#,
    );
    let mut first = gateway.connect();
    first.get("/").expect(200);
    let mut clients: Vec<_> = gateway.addrs()[1..].iter().map(Client::connect).collect();
    clients.iter_mut().for_each(|client| client.send_request("GET", "/", &[], ""));
    for _ in 0..20 {
        first.get("/").expect(200);
    }
    clients.iter_mut().for_each(Client::assert_silent);
    assert_eq!(gateway.metrics().value("propylon_connections", &[]), Some(1.0));
    drop(first);
    // One after the other: each has to leave before the next is served.
    let mut answered = Vec::new();
    while let Some(mut client) = clients.pop() {
        client.set_timeout(std::time::Duration::from_millis(50));
        match client.try_response() {
            Ok(response) => answered.push(response.status),
            Err(Broken::TimedOut) => clients.insert(0, client),
            Err(broken) => panic!("{broken:?}"),
        }
    }
    assert_eq!(answered, [200, 200]);
}

const PER_IP: &str = r#"
    [server]
    listen = ["127.0.0.1:0", "unix:{dir}/gateway.sock"]
    max_connections_per_ip = 2
    trusted_proxies = [{trusted}]
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [[routes]]
    respond = { body = "hello" }
"#;

#[test]
fn an_address_with_too_many_connections_is_closed_at_once() {
    let gateway = Gateway::with(PER_IP).set("trusted", "").start();
    let mut first = gateway.connect();
    let mut second = gateway.connect();
    first.get("/").expect(200);
    second.get("/").expect(200);
    let closed = gateway.connect().try_response();
    assert!(matches!(closed, Err(Broken::Closed | Broken::Reset)), "{closed:?}");
    assert_eq!(gateway.metrics().value("propylon_connections_refused_total", &[]), Some(1.0));
    assert_eq!(gateway.metrics().value("propylon_connections", &[]), Some(2.0));
    // A Unix socket's peers have no address.
    let unix = gateway.addrs().iter().find(|address| address.to_string().starts_with("unix:")).unwrap();
    let mut others: Vec<_> = (0..4).map(|_| crate::harness::Client::connect(unix)).collect();
    others.iter_mut().for_each(|client| drop(client.get("/").expect(200)));
    drop(first);
    eventually("there is room again", || {
        let mut client = gateway.connect();
        let _ = client.try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        client.try_response().ok()
    })
    .expect(200);
    second.get("/").expect(200);
}

#[test]
fn a_trusted_proxy_may_bring_many_connections() {
    let gateway = Gateway::with(PER_IP).set("trusted", "\"127.0.0.1\"").start();
    let mut clients: Vec<_> = (0..5).map(|_| gateway.connect()).collect();
    clients.iter_mut().for_each(|client| drop(client.get("/").expect(200)));
}
