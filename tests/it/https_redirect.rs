//! Plain HTTP that is sent on to HTTPS.

use std::net::TcpListener;

use serde_json::Value;

use crate::harness::tls::{Authority, TlsClient};
use crate::harness::{Address, Client, Gateway, Response};

const GATEWAY: &str = r#"
    [server]
    listen = ["127.0.0.1:0", "unix:{dir}/gateway.sock"]
    listen_tls = ["{tls}"]
    https_redirect = true
    trusted_proxies = ["unix"]
    allowed_hosts = [{hosts}]
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

fn start(tls: &str, hosts: &str) -> Gateway {
    let gateway = Gateway::with(GATEWAY).set("tls", tls).set("hosts", hosts);
    gateway.certificate("a", &Authority::shared().issue(&["shop.test"])).start()
}

/// A port that is free on an address of this file's own.
fn free_port() -> u16 {
    TcpListener::bind("127.0.43.1:0").unwrap().local_addr().unwrap().port()
}

/// Where the answer leads to.
#[track_caller]
fn location(answer: Response) -> String {
    let answer = answer.expect(308);
    assert!(answer.body.is_empty());
    answer.field("location").unwrap().to_owned()
}

#[test]
fn a_request_is_sent_to_its_own_address_over_https() {
    let gateway = start("127.0.0.2:0", "");
    let mut client = gateway.connect();
    for (host, target, expected) in [
        ("shop.test", "/", "https://shop.test/"),
        ("Shop.TEST.", "/a/b?x=1&y=%20", "https://shop.test/a/b?x=1&y=%20"),
        // The port was another's, that of a published container say.
        ("shop.test:8080", "/a", "https://shop.test/a"),
        ("[::1]:8080", "/a", "https://[::1]/a"),
        // It comes again as it was, and is judged then.
        ("shop.test", "//evil.test/x", "https://shop.test//evil.test/x"),
        ("shop.test", "/\\evil.test", "https://shop.test/\\evil.test"),
        ("shop.test", "/a/../b", "https://shop.test/a/../b"),
        ("shop.test", "http://shop.test", "https://shop.test/"),
        ("shop.test", "http://shop.test/a?b", "https://shop.test/a?b"),
    ] {
        assert_eq!(location(client.request("GET", target, &[("Host", host)], "")), expected);
    }
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH", "PROPFIND"] {
        client.send_request(method, "/x", &[("Host", "shop.test")], "");
        assert_eq!(location(client.response_to(method)), "https://shop.test/x", "{method}");
    }
    // Method and body are to come again (RFC 9110 section 15.4.9); the connection stays good.
    assert_eq!(location(client.request("POST", "/form", &[("Host", "shop.test")], "a=1")), "https://shop.test/form");
    assert_eq!(location(client.request("OPTIONS", "*", &[("Host", "shop.test")], "")), "https://shop.test");
    // Over TLS it is served.
    let mut secure = gateway.connect_tls(&TlsClient::new(Authority::shared(), "shop.test"));
    assert_eq!(secure.request("GET", "/", &[("Host", "shop.test")], "").expect(200).text(), "hello");
    let log: Vec<Value> = gateway.access_log(12);
    assert!(log.iter().any(|line| line["status"] == 308 && line["route"].is_null()), "{log:?}");
}

#[test]
fn the_port_of_the_tls_listener_is_named_where_the_client_sees_our_own() {
    let port = free_port();
    let gateway = start(&format!("127.0.43.1:{port}"), "");
    let ours = gateway.addr().port();
    let mut client = gateway.connect();
    let mut of = |host: &str| location(client.request("GET", "/a", &[("Host", host)], ""));
    assert_eq!(of(&format!("shop.test:{ours}")), format!("https://shop.test:{port}/a"));
    assert_eq!(of("shop.test"), "https://shop.test/a");
    assert_eq!(of("shop.test:8080"), "https://shop.test/a");
    // What follows is a path, whatever it looks like.
    let strange = client.request("GET", "//evil.test", &[("Host", &format!("shop.test:{ours}"))], "");
    assert_eq!(location(strange), format!("https://shop.test:{port}//evil.test"));
}

#[test]
fn what_is_no_target_or_no_host_leads_nowhere() {
    let gateway = start("127.0.0.2:0", "");
    for target in ["@evil.test/", ".evil.test/", ":8080/", "?x", "evil.test", "/a b", "/\u{e9}", "*", "https:/x"] {
        let mut client = gateway.connect();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: shop.test\r\n\r\n"));
        let answer = client.response().expect(400);
        assert!(!answer.fields.has("location"), "{target}: {answer}");
    }
    for host in
        ["shop.test@evil.test", "shop.test/evil", "evil.test\\", "a:b:c", "shop.test:99999", "", "a..b", "a b", "%65"]
    {
        let answer = gateway.connect().request("GET", "/", &[("Host", host)], "");
        assert!(answer.status == 400 && !answer.fields.has("location"), "{host}: {answer}");
    }
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.0\r\n\r\n");
    client.response().expect(400);
    client.closed();
    let mut client = gateway.connect();
    client.send("CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test\r\n\r\n");
    let answer = client.response();
    assert!(answer.status >= 400 && !answer.fields.has("location"), "{answer}");
}

#[test]
fn a_host_that_is_not_ours_is_refused_first() {
    let gateway = start("127.0.0.2:0", "\"shop.test\"");
    let mut client = gateway.connect();
    client.request("GET", "/", &[("Host", "evil.test")], "").expect(421);
    // In absolute form the target's host is the one that counts.
    client.request("GET", "http://evil.test/", &[("Host", "evil.test")], "").expect(421);
    assert_eq!(location(client.request("GET", "/", &[("Host", "shop.test")], "")), "https://shop.test/");
    let mut client = gateway.connect();
    client.send("GET http://evil.test/ HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    let answer = client.response();
    assert!(answer.status >= 400, "{answer}");
}

#[test]
fn challenges_of_authorities_are_answered_over_plain_http() {
    let gateway = start("127.0.0.2:0", "");
    let mut client = gateway.connect();
    let mut get = |target: &str| client.request("GET", target, &[("Host", "shop.test")], "");
    assert_eq!(get("/.well-known/acme-challenge/token").expect(200).text(), "hello");
    for target in [
        "/.well-known/acme-challenge",
        "/.well-known/",
        "/.well-known/acme-challengex/",
        "/x/.well-known/acme-challenge/a",
    ] {
        get(target).expect(308);
    }
}

#[test]
fn a_trusted_proxy_that_says_https_is_served() {
    let gateway = start("127.0.0.2:0", "");
    let unix = gateway.addrs().iter().find(|address| matches!(address, Address::Unix(_))).unwrap();
    let host = ("Host", "shop.test");
    let says = |client: &mut Client, field| client.request("GET", "/", &[host, field], "").status;
    let mut proxy = Client::connect(unix);
    assert_eq!(says(&mut proxy, ("X-Forwarded-Proto", "https")), 200);
    assert_eq!(says(&mut proxy, ("Forwarded", "for=192.0.2.1;proto=https")), 200);
    assert_eq!(says(&mut proxy, ("X-Forwarded-Proto", "http")), 308);
    assert_eq!(says(&mut proxy, ("X-Other", "x")), 308);
    // Anybody can say so.
    let mut stranger = gateway.connect();
    assert_eq!(says(&mut stranger, ("X-Forwarded-Proto", "https")), 308);
    assert_eq!(says(&mut stranger, ("Forwarded", "proto=https")), 308);
    assert_eq!(says(&mut stranger, ("X-Forwarded-Ssl", "on")), 308);
}
