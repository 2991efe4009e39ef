//! The queue: an app never has more than it can work on, and who waits is served in order, or told so in time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::harness::*;
use crate::in_flight::nothing_in_flight;

/// One app; `{keys}` are further keys of its upstream, `{server}` of the server.
const ONE_APP: &str = r#"
[server]
listen = ["127.0.0.1:0"]
{server}
[admin]
listen = ["127.0.0.1:0"]
control = "unix:{dir}/control.sock"
[log]
access = "{dir}/access.log"
[upstreams.app]
endpoints = ["{origin}"]
{keys}
[[routes]]
path = "/first/*"
upstream = "app"
priority = "high"
[[routes]]
path = "/brief/*"
upstream = "app"
timeouts = { queue = "100ms" }
[[routes]]
upstream = "app"
"#;

pub fn builder(origin: &Address, keys: &str) -> GatewayBuilder {
    Gateway::with(ONE_APP).set("origin", origin).set("keys", keys)
}

/// A gateway whose first health check is over: that takes a slot as well.
pub fn one_app(origin: &Origin, keys: &str) -> Gateway {
    let gateway = builder(origin.address(), keys).set("server", "").start();
    checked(&gateway, 1);
    gateway
}

/// Waits until `count` endpoints were asked how they are.
pub fn checked(gateway: &Gateway, count: usize) {
    eventually("the first checks", || {
        (sample(gateway, "propylon_upstream_health_checks_total", &[("result", "pass")]) >= Some(number(count)))
            .then_some(())
    });
}

/// Puts other keys into force.
pub fn reconfigure(gateway: &Gateway, keys: &str) {
    gateway.rewrite_config(&ONE_APP.replace("{keys}", keys));
    gateway.reload();
}

/// Answers with the target; whatever is under `/hold` once the gate is open.
fn holding(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            if request.target.starts_with("/hold") {
                gate.wait();
            }
            connection.answer(200, request.target);
        }
    })
}

/// A gateway whose app has one slot, and the client whose request has it.
fn occupied(gate: &Gate, keys: &str) -> (Origin, Gateway, Client) {
    let origin = holding(gate);
    let gateway = one_app(&origin, &format!("max_in_flight = 1\n{keys}"));
    let holder = hold(&gateway, &origin);
    (origin, gateway, holder)
}

fn hold(gateway: &Gateway, origin: &Origin) -> Client {
    let holder = send(gateway, "GET", "/hold");
    origin.wait_for_requests(1);
    holder
}

pub fn send(gateway: &Gateway, method: &str, target: &str) -> Client {
    let mut client = gateway.connect();
    client.send_request(method, target, &[], if method == "POST" { "body" } else { "" });
    client
}

/// A request that has lined up, as the last of `depth`, when this returns.
pub fn queue(gateway: &Gateway, target: &str, depth: usize) -> Client {
    let client = send(gateway, "GET", target);
    depth_is(gateway, depth);
    client
}

/// A count as metrics have it.
pub fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

pub fn sample(gateway: &Gateway, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    gateway.metrics().value(name, labels)
}

#[track_caller]
pub fn depth_is(gateway: &Gateway, depth: usize) {
    eventually(&format!("{depth} requests wait"), || {
        (sample(gateway, "propylon_queue_depth", &[]) == Some(number(depth))).then_some(())
    });
}

fn drops(gateway: &Gateway, reason: &str) -> Option<f64> {
    sample(gateway, "propylon_queue_drops_total", &[("reason", reason)])
}

/// What the app was asked for, in order.
pub fn targets(origin: &Origin) -> Vec<String> {
    origin.requests().into_iter().map(|request| request.target).collect()
}

/// The log line of the request for `path`.
pub fn line_of(gateway: &Gateway, path: &str) -> Value {
    eventually(&format!("a log line of {path}"), || {
        gateway.access_log_now().into_iter().find(|line| line["path"] == path)
    })
}

#[test]
fn who_waits_is_served_in_order_also_across_a_reload() {
    let gate = Gate::new();
    let (origin, gateway, holder) = occupied(&gate, "");
    let paths: Vec<String> = (1..=20).map(|number| format!("/{number}")).collect();
    let mut clients = vec![holder];
    for (number, path) in paths.iter().enumerate() {
        if number == 10 {
            reconfigure(&gateway, "max_in_flight = 1\nqueue = { max = 500 }");
        }
        clients.push(queue(&gateway, path, number + 1));
    }
    assert_eq!(origin.requests().len(), 1);
    gate.open();
    clients.iter_mut().for_each(|client| drop(client.response().expect(200)));
    assert_eq!(targets(&origin)[1..], paths);

    // Each of them waited, and those behind waited for longer than those ahead of them.
    let waited: Vec<f64> = paths.iter().map(|path| line_of(&gateway, path)["t_queue"].as_f64().unwrap()).collect();
    assert!(waited.iter().all(|time| *time > 0.0), "{waited:?}");
    assert_eq!(line_of(&gateway, "/hold")["t_queue"], 0.0);
    assert_eq!(sample(&gateway, "propylon_queue_wait_seconds_count", &[]), Some(20.0));
    let sum = sample(&gateway, "propylon_queue_wait_seconds_sum", &[]).unwrap();
    assert!((sum - waited.iter().sum::<f64>()).abs() < 0.1, "{sum} {waited:?}");
    depth_is(&gateway, 0);
}

#[test]
fn a_route_of_high_priority_goes_first() {
    let gate = Gate::new();
    let (origin, gateway, holder) = occupied(&gate, "");
    let mut clients = vec![holder];
    for (number, path) in ["/a", "/first/c", "/b", "/first/d"].iter().enumerate() {
        clients.push(queue(&gateway, path, number + 1));
    }
    gate.open();
    clients.iter_mut().for_each(|client| drop(client.response().expect(200)));
    assert_eq!(targets(&origin)[1..], ["/first/c", "/first/d", "/a", "/b"]);
}

#[test]
fn a_health_check_goes_ahead_of_all_that_wait() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            match request.target.as_str() {
                "/hold" => held.wait(),
                "/waits" => connection.delay(Duration::from_millis(50)),
                _ => {}
            }
            connection.answer(200, "");
        }
    });
    let gateway = one_app(
        &origin,
        "max_in_flight = 1\nhealth = { path = \"/healthz\", interval = \"200ms\", timeout = \"200ms\" }",
    );
    let mut clients = vec![send(&gateway, "GET", "/hold")];
    eventually("the app has it", || targets(&origin).contains(&"/hold".to_owned()).then_some(()));
    clients.extend((0..30).map(|_| send(&gateway, "GET", "/waits")));
    depth_is(&gateway, 30);
    gate.open();
    clients.iter_mut().for_each(|client| drop(client.response().expect(200)));
    // From the first to the last of them the app had no free moment, and was asked how it is all the same.
    let asked = targets(&origin);
    let first = asked.iter().position(|target| target == "/waits").unwrap();
    let last = asked.iter().rposition(|target| target == "/waits").unwrap();
    let checks = asked[first..last].iter().filter(|target| *target == "/healthz").count();
    assert!(checks >= 2, "{asked:?}");
}

#[test]
fn a_client_that_leaves_while_it_waits_is_forgotten_at_once() {
    let gate = Gate::new();
    let (origin, gateway, mut holder) = occupied(&gate, "");
    let mut before = queue(&gateway, "/before", 1);
    let polite = queue(&gateway, "/polite", 2);
    let rude = send(&gateway, "POST", "/rude");
    depth_is(&gateway, 3);
    let mut behind = queue(&gateway, "/behind", 4);
    drop(polite);
    depth_is(&gateway, 3);
    rude.reset();
    depth_is(&gateway, 2);
    assert_eq!(drops(&gateway, "client_left"), Some(2.0));
    for path in ["/polite", "/rude"] {
        let line = line_of(&gateway, path);
        assert_eq!((&line["status"], &line["reason"]), (&499.into(), &"client_closed".into()), "{line}");
        assert!(line["t_queue"].as_f64().unwrap() > 0.0, "{line}");
        assert!(line["endpoint"].is_null() && line["upstream_status"].is_null(), "{line}");
    }
    // All that before the app has done anything.
    assert_eq!(origin.requests().len(), 1);
    gate.open();
    for client in [&mut holder, &mut before, &mut behind] {
        client.response().expect(200);
    }
    assert_eq!(targets(&origin), ["/hold", "/before", "/behind"]);
    assert_eq!(sample(&gateway, "propylon_client_aborts_total", &[]), Some(2.0));
    nothing_in_flight(&gateway);
}

#[test]
fn one_more_than_may_wait_is_refused_at_once() {
    let gate = Gate::new();
    let (origin, gateway, holder) = occupied(&gate, "queue = { max = 2 }");
    let mut clients = [holder, queue(&gateway, "/1", 1), queue(&gateway, "/2", 2)];
    let mut refused = gateway.connect();
    let response = refused.request("POST", "/refused", &[], "body").expect(503);
    assert_eq!(response.field("Retry-After"), Some("1"));
    assert_eq!(response.json()["reason"], "queue_full");
    // High priority is an order, not room.
    gateway.get("/first/refused").expect(503);
    let line = line_of(&gateway, "/refused");
    assert_eq!((&line["reason"], &line["t_queue"]), (&"queue_full".into(), &0.0.into()), "{line}");
    assert_eq!(drops(&gateway, "full"), Some(2.0));
    let metrics = gateway.metrics();
    assert_eq!(metrics.value("propylon_queue_max", &[]), Some(2.0));
    assert_eq!(metrics.value("propylon_queue_depth", &[]), Some(2.0));
    assert_eq!(metrics.value("propylon_rejections_total", &[("reason", "queue_full")]), Some(2.0));
    gate.open();
    clients.iter_mut().for_each(|client| drop(client.response().expect(200)));
    assert_eq!(targets(&origin), ["/hold", "/1", "/2"]);
    // The connection was not the app's to lose.
    refused.get("/again").expect(200);
}

#[test]
fn with_no_room_at_all_nobody_waits() {
    let gate = Gate::new();
    let (_origin, gateway, mut holder) = occupied(&gate, "queue = { max = 0 }");
    let response = gateway.get("/refused").expect(503);
    assert_eq!((response.field("Retry-After"), &response.json()["reason"]), (Some("1"), &"queue_full".into()));
    gate.open();
    holder.response().expect(200);
    nothing_in_flight(&gateway);
    gateway.get("/").expect(200);
}

#[test]
fn who_waits_for_too_long_is_told_so() {
    let gate = Gate::new();
    let (origin, gateway, mut holder) = occupied(&gate, "queue = { timeout = \"150ms\" }");
    let response = gateway.connect().request("POST", "/late", &[], "body").expect(503);
    assert_eq!((response.field("Retry-After"), &response.json()["reason"]), (Some("1"), &"queue_timeout".into()));
    let line = line_of(&gateway, "/late");
    assert!(line["t_queue"].as_f64().unwrap() >= 0.15, "{line}");
    assert_eq!(line["reason"], "queue_timeout");
    assert_eq!(drops(&gateway, "late"), Some(1.0));
    assert_eq!(sample(&gateway, "propylon_queue_wait_seconds_count", &[]), Some(0.0));
    depth_is(&gateway, 0);
    gate.open();
    holder.response().expect(200);
    assert_eq!(targets(&origin), ["/hold"]);
}

#[test]
fn a_route_may_have_less_patience_than_its_upstream() {
    let gate = Gate::new();
    let (origin, gateway, mut holder) = occupied(&gate, "queue = { timeout = \"1h\" }");
    let mut patient = queue(&gateway, "/patient", 1);
    assert_eq!(gateway.get("/brief/late").expect(503).json()["reason"], "queue_timeout");
    depth_is(&gateway, 1);
    patient.assert_silent();
    gate.open();
    holder.response().expect(200);
    patient.response().expect(200);
    assert_eq!(targets(&origin), ["/hold", "/patient"]);
}

#[test]
fn the_app_is_told_when_a_request_came_and_not_when_it_was_let_in() {
    fn now() -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
    }
    let gate = Gate::new();
    let (origin, gateway, _holder) = occupied(&gate, "");
    let before = now();
    let mut client = queue(&gateway, "/", 1);
    let lined_up = now();
    // Longer than any rounding.
    scripted_delay(Duration::from_millis(20));
    gate.open();
    client.response().expect(200);
    let request = &origin.requests()[1];
    let start: f64 = request.field("X-Request-Start").unwrap().strip_prefix("t=").unwrap().parse().unwrap();
    assert!((before - 0.002..=lined_up).contains(&start), "{before} {start} {lined_up}");
}

#[test]
fn who_waits_when_the_gateway_leaves_is_served_within_the_grace() {
    let gate = Gate::new();
    let (origin, gateway, holder) = occupied(&gate, "");
    let mut clients = [holder, queue(&gateway, "/1", 1), queue(&gateway, "/2", 2)];
    gateway.signal(Signal::TERM);
    eventually("new connections are refused", || Client::try_connect(gateway.addr()).err());
    clients.iter_mut().for_each(Client::assert_silent);
    gate.open();
    clients.iter_mut().for_each(|client| drop(client.response().expect(200)));
    assert_eq!(targets(&origin), ["/hold", "/1", "/2"]);
    gateway.wait_for_exit();
}

#[test]
fn who_waits_when_the_grace_is_over_is_told_to_go_elsewhere() {
    let gate = Gate::new();
    let origin = holding(&gate);
    let gateway = builder(origin.address(), "max_in_flight = 1").set("server", "shutdown_timeout = \"300ms\"").start();
    checked(&gateway, 1);
    let mut holder = hold(&gateway, &origin);
    let mut clients = [queue(&gateway, "/1", 1), queue(&gateway, "/2", 2)];
    gateway.signal(Signal::TERM);
    for client in &mut clients {
        let response = client.response().expect(503);
        assert_eq!((response.field("Retry-After"), &response.json()["reason"]), (Some("1"), &"shutdown".into()));
        client.closed();
    }
    // The one the app is at is cut, and never looks answered.
    assert!(holder.try_response().is_err());
    gate.open();
    let lines = gateway.access_log(3);
    let waited = lines.iter().filter(|line| line["path"] != "/hold");
    for line in waited {
        assert_eq!((&line["status"], &line["reason"]), (&503.into(), &"shutdown".into()), "{line}");
        assert!(line["t_queue"].as_f64().unwrap() > 0.0, "{line}");
    }
    gateway.wait_for_exit();
    assert_eq!(targets(&origin), ["/hold"]);
}
