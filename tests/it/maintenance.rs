//! Maintenance: everybody is answered 503 with a page, but for those who look whether all is well; nothing under way is harmed.

// Counts are whole numbers.
#![allow(clippy::float_cmp)]

use std::fs;

use crate::harness::{Gate, Gateway, Origin, Response, eventually};

const CONFIG: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    trusted_proxies = ["127.0.0.0/8"]
    [admin]
    listen = ["127.0.0.1:0"]
    control = "unix:{dir}/control.sock"
    [log]
    access = "{dir}/access.log"
    [maintenance]
    file = "{dir}/maintenance"
    retry_after = "2m"
    page = "page.html"
    allow = ["192.0.2.0/24"]
    [upstreams.app]
    endpoints = ["{origin}"]
    [[routes]]
    upstream = "app"
    cors = { origins = ["https://a.test"] }
    rate_limit = { rate = "1000/s" }
    [[routes]]
    path = "/secret"
    upstream = "app"
    access = { deny = ["0.0.0.0/0"] }
    [[routes]]
    host = ["named.test"]
    path = "/here"
    respond = { body = "here" }
"#;

fn app() -> Origin {
    Origin::start(|connection| {
        while connection.read_request().is_some() {
            connection.answer(200, "app");
        }
    })
}

fn start(origin: &Origin) -> Gateway {
    Gateway::with(CONFIG).set("origin", origin.address()).file("page.html", "<h1>Back soon</h1>").start()
}

fn told(gateway: &Gateway, what: &str) -> String {
    let config = gateway.config_path().to_str().unwrap();
    let finished = gateway.command(&["maintenance", what, "--config", config]);
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    finished.stdout
}

fn ask(gateway: &Gateway, client: &str) -> Response {
    let fields = [("X-Forwarded-For", client), ("Origin", "https://a.test")];
    gateway.connect().request("GET", "/", &fields, "")
}

#[test]
fn by_command() {
    let origin = app();
    let gateway = start(&origin);
    assert_eq!(told(&gateway, "status"), "maintenance is off");
    ask(&gateway, "198.51.100.1").expect(200);
    assert_eq!(told(&gateway, "on"), "maintenance is on");
    let refused = ask(&gateway, "198.51.100.1").expect(503);
    assert_eq!(refused.text(), "<h1>Back soon</h1>");
    for (name, value) in [
        ("retry-after", "120"),
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("access-control-allow-origin", "https://a.test"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(refused.field(name), Some(value), "{name}");
    }
    // Who looks whether all is well comes through; whoever may not come may not come.
    ask(&gateway, "192.0.2.9").expect(200);
    gateway.get("/secret").expect(403);
    gateway.connect().request("GET", "/here", &[("Host", "named.test")], "").expect(503);
    gateway.get("/.well-known/acme-challenge/token").expect(200);
    // A load balancer goes on sending clients here: they are to see the page.
    gateway.admin_get("/readyz").expect(200);
    let status = gateway.admin_get("/status").json();
    assert_eq!(status["maintenance"], serde_json::json!({ "on": true, "by": ["command"] }));
    assert_eq!(gateway.metrics().value("propylon_maintenance", &[]), Some(1.0));
    assert_eq!(gateway.access_log(6)[1]["reason"], "maintenance");
    assert_eq!(gateway.metrics().value("propylon_rejections_total", &[("reason", "maintenance")]), Some(2.0));

    // A reload leaves it as it is.
    gateway.reload();
    ask(&gateway, "198.51.100.1").expect(503);
    assert_eq!(told(&gateway, "off"), "maintenance is off");
    ask(&gateway, "198.51.100.1").expect(200);
    assert_eq!(gateway.metrics().value("propylon_maintenance", &[]), Some(0.0));
    let log = gateway.log().join("\n");
    assert!(log.contains("maintenance begins") && log.contains("maintenance is over"), "{log}");
    // Said once, not with every request.
    assert!(!log.contains("request failed"), "{log}");
}

#[test]
fn by_a_file() {
    let origin = app();
    let gateway = start(&origin);
    let file = gateway.dir().join("maintenance");
    ask(&gateway, "198.51.100.1").expect(200);
    fs::write(&file, "").unwrap();
    eventually("maintenance", || (ask(&gateway, "198.51.100.1").status == 503).then_some(()));
    let on = format!("maintenance is on while {} is there", file.display());
    assert_eq!(told(&gateway, "off"), on);
    assert_eq!(told(&gateway, "status"), on);
    assert_eq!(told(&gateway, "on"), format!("maintenance is on, by command and while {} is there", file.display()));
    fs::remove_file(&file).unwrap();
    eventually("the file's end is seen", || (told(&gateway, "status") == "maintenance is on").then_some(()));
    ask(&gateway, "198.51.100.1").expect(503);
    told(&gateway, "off");
    ask(&gateway, "198.51.100.1").expect(200);
}

#[test]
fn a_gateway_that_starts_in_the_midst_of_it_serves_nobody_first() {
    let origin = app();
    let gateway =
        Gateway::with(CONFIG).set("origin", origin.address()).file("page.html", "soon").file("maintenance", "").start();
    ask(&gateway, "198.51.100.1").expect(503);
    ask(&gateway, "192.0.2.1").expect(200);
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn what_is_under_way_is_finished() {
    let gate = Gate::new();
    let opened = gate.clone();
    let origin = Origin::start(move |connection| {
        while connection.read_request().is_some() {
            opened.wait();
            connection.answer(200, "whole");
        }
    });
    let gateway = start(&origin);
    let mut client = gateway.connect();
    client.send_request("GET", "/", &[], "");
    eventually("the app has it", || (origin.requests().len() == 1).then_some(()));
    told(&gateway, "on");
    ask(&gateway, "198.51.100.1").expect(503);
    gate.open();
    assert_eq!(client.response().expect(200).text(), "whole");
    // The connection is kept, and the next request on it is told.
    client.get("/").expect(503);
}

#[test]
fn what_the_control_socket_does_not_understand() {
    let origin = app();
    let gateway = start(&origin);
    let control = crate::harness::Address::Unix(gateway.dir().join("control.sock"));
    let ask = |target: &str| crate::harness::Client::connect(&control).request("POST", target, &[], "");
    ask("/maintenance?on=yes").expect(400);
    ask("/maintenance?off=true").expect(400);
    crate::harness::Client::connect(&control).get("/maintenance").expect(405);
    assert_eq!(ask("/maintenance").expect(200).text(), "maintenance is off\n");
}
