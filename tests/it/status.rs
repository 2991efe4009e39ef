//! `/status`: one look at what is going on, for a person or a script.

use serde_json::{Value, json};

use crate::harness::tls::Authority;
use crate::harness::{Gate, Gateway, Origin, eventually};

#[test]
fn status_tells_what_is_going_on() {
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let gateway = Gateway::with(
        r#"
        [server]
        listen = ["127.0.0.1:0"]
        [admin]
        listen = ["127.0.0.1:0"]
        [upstreams.app]
        preset = "uvicorn"
        endpoints = [{ address = "{origin}", weight = 3 }]
        workers = 2
        health = { interval = "50ms", timeout = "50ms" }
        [[routes]]
        upstream = "app"
        "#,
    )
    .set("origin", origin.address())
    .start();
    let endpoint = eventually("a check has passed", || {
        let status = gateway.admin_get("/status").expect(200).json();
        let endpoint = status["upstreams"][0]["endpoints"][0].clone();
        // A check that is under way is in flight as well.
        (endpoint["health"] == "healthy" && endpoint["in_flight"] == 0).then_some(endpoint)
    });
    assert_eq!(
        (&endpoint["weight"], &endpoint["backup"], &endpoint["in_flight"]),
        (&json!(3), &json!(false), &json!(0))
    );
    assert_eq!(endpoint["endpoint"], origin.address().to_string());

    let status = gateway.admin_get("/status").json();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&status["config"]["generation"], &status["config"]["last_reload_success"]), (&json!(1), &json!(true)));
    assert_eq!(status["draining"], false);
    assert_eq!(
        (&status["upstreams"][0]["name"], &status["upstreams"][0]["preset"]),
        (&json!("app"), &json!("uvicorn"))
    );
}

const EVERYTHING: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    listen_tls = ["127.0.0.2:0"]
    [[tls.certificates]]
    cert = "gateway.pem"
    key = "gateway.key"
    [admin]
    listen = ["127.0.0.1:0"]
    [upstreams.app]
    endpoints = ["{origin}"]
    workers = 1
    queue = { max = 5 }
    [[routes]]
    name = "app"
    path = "/app/*"
    upstream = "app"
    rate_limit = { name = "ten", rate = "10/h" }
    [[routes]]
    name = "kept"
    path = "/kept"
    upstream = "app"
    [cache]
    [[cache.rules]]
    name = "kept"
    path = "/kept"
    ttl = "1h"
"#;

fn find<'v>(list: &'v Value, name: &str) -> &'v Value {
    list.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name} in {list}"))
}

/// Connections with a request, of all listeners.
fn active(status: &Value) -> u64 {
    status["listeners"].as_array().unwrap().iter().map(|it| it["active"].as_u64().unwrap()).sum()
}

#[test]
fn what_happened_within_the_last_minute_and_what_is_held() {
    let gate = Gate::new();
    let opened = gate.clone();
    let origin = Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            if request.target == "/app/slow" {
                opened.wait();
            }
            connection.answer(if request.target == "/app/fails" { 500 } else { 200 }, "answer");
        }
    });
    let issued = Authority::shared().issue(&["localhost", "example.com"]);
    let gateway = Gateway::with(EVERYTHING).set("origin", origin.address()).certificate("gateway", &issued).start();
    let mut client = gateway.connect();
    for _ in 0..6 {
        client.get("/app/x").expect(200);
    }
    (0..2).for_each(|_| drop(client.get("/app/fails").expect(500)));
    (0..3).for_each(|_| drop(client.get("/kept").expect(200)));
    client.get("/nowhere").expect(404);
    // Two more than the limit has, of which one waits for the other at the one worker.
    let mut slow: Vec<_> = (0..2).map(|_| gateway.connect()).collect();
    slow.iter_mut().for_each(|client| client.send_request("GET", "/app/slow", &[], ""));
    // What is over is counted a moment after its client has the answer.
    let status = eventually("one that waits, and all others counted", || {
        let status = gateway.admin_get("/status").expect(200).json();
        let counted = [
            (&status["upstreams"][0]["queue"]["waiting"], 1),
            (&find(&status["routes"], "app")["last_minute"]["requests"], 8),
            (&status["upstreams"][0]["endpoints"][0]["last_minute"]["requests"], 9),
            (&find(&status["cache"]["rules"], "kept")["requests"], 3),
            (&status["refusals"]["no_route"], 1),
        ];
        // They are not read in one moment.
        let is_all = counted.into_iter().all(|(found, expected)| *found == expected) && active(&status) == 2;
        is_all.then_some(status)
    });
    client.get("/app/x").expect(429);

    let app = find(&status["routes"], "app");
    assert_eq!(app["in_flight"], 2, "{app}");
    let minute = &app["last_minute"];
    let number = |name: &str| minute[name].as_f64().unwrap_or_else(|| panic!("no {name} in {minute}"));
    assert_eq!(minute["requests"], 8, "{minute}");
    assert!((number("rate_5xx") / number("rate") - 0.25).abs() < 0.01, "two of eight: {minute}");
    assert!(number("p50") <= number("p95") && number("p95") <= number("p99") && number("p99") <= 10.0, "{minute}");
    assert_eq!(find(&status["routes"], "none")["in_flight"], 0);

    let endpoint = &status["upstreams"][0]["endpoints"][0];
    assert_eq!((&endpoint["in_flight"], &endpoint["ejections"]), (&json!(1), &json!(0)), "{endpoint}");
    assert_eq!(endpoint["last_minute"]["requests"], 9, "eight and one that was not kept: {endpoint}");
    assert!(endpoint["last_minute"]["p99"].is_number());

    let rule = find(&status["cache"]["rules"], "kept");
    assert_eq!((&rule["requests"], &rule["hit_rate"], &rule["entries"]), (&json!(3), &json!(0.667), &json!(1)));
    assert_eq!(find(&status["limits"], "ten")["decisions"]["allowed"], 10);
    assert_eq!(status["refusals"], json!({ "no_route": 1 }));
    let certificate = &status["certificates"][0];
    assert_eq!(certificate["names"], json!(["localhost", "example.com"]), "{certificate}");
    assert!(certificate["expires"].as_u64().unwrap() > status["started"].as_u64().unwrap());
    assert_eq!(status["listeners"].as_array().unwrap().len(), 2);
    for path in ["/process/resident_bytes", "/process/open_fds", "/spool/memory_limit", "/config/last_read"] {
        assert!(status.pointer(path).unwrap().as_u64().unwrap() > 0, "{path}");
    }
    gate.open();
    slow.iter_mut().for_each(|client| drop(client.response().expect(200)));
    eventually("the refusal is counted", || {
        let status = gateway.admin_get("/status").json();
        let refused = find(&status["limits"], "ten")["decisions"]["refused"] == 1;
        (refused && status["refusals"]["rate_limited"] == 1).then_some(())
    });
}
