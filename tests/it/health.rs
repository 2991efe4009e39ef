//! Health checks: what a probe asks, what counts as an answer, and what follows from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use crate::harness::*;

/// One group; `{endpoints}`, and `{health}` as the inside of its table.
const ONE_GROUP: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[admin]
listen = ["127.0.0.1:0"]
control = "unix:{dir}/control.sock"
[log]
access = "{dir}/access.log"
[upstreams.app]
endpoints = [{endpoints}]
{keys}
health = { {health} }
[[routes]]
upstream = "app"
"#;

fn group(endpoints: &[&Address], health: &str) -> Gateway {
    with_keys(endpoints, "", health)
}

fn with_keys(endpoints: &[&Address], keys: &str, health: &str) -> Gateway {
    let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    Gateway::with(ONE_GROUP).set("endpoints", &endpoints.join(", ")).set("keys", keys).set("health", health).start()
}

/// Answers probes on /healthz with the status of the moment, and everything else with its name.
fn patient(name: &'static str, status: &Arc<AtomicU16>) -> Origin {
    Origin::start(script(name, status))
}

fn script(name: &'static str, status: &Arc<AtomicU16>) -> impl Fn(&mut Connection) + Send + Sync + 'static {
    let status = status.clone();
    move |connection| {
        while let Some(request) = connection.read_request() {
            if request.target == "/healthz" {
                connection.answer(status.load(Ordering::SeqCst), "");
            } else {
                connection.answer(200, name);
            }
        }
    }
}

fn well() -> Arc<AtomicU16> {
    Arc::new(AtomicU16::new(200))
}

fn checks(gateway: &Gateway, result: &str) -> Option<f64> {
    gateway.metrics().value("propylon_upstream_health_checks_total", &[("result", result)])
}

fn wait_for_checks(gateway: &Gateway, result: &str, count: f64) {
    eventually(&format!("{count} checks: {result}"), || (checks(gateway, result) >= Some(count)).then_some(()));
}

fn health(gateway: &Gateway, address: &Address) -> Option<f64> {
    gateway.metrics().value("propylon_upstream_healthy", &[("endpoint", &address.to_string())])
}

fn wait_for_health(gateway: &Gateway, address: &Address, value: f64) {
    eventually(&format!("{address} has health {value}"), || (health(gateway, address) == Some(value)).then_some(()));
}

/// How many lines of the log hold `text`.
fn lines(gateway: &Gateway, text: &str) -> usize {
    gateway.log().iter().filter(|line| line.contains(text)).count()
}

/// Who answers `count` requests.
fn answers(gateway: &Gateway, count: usize) -> String {
    let mut client = gateway.connect();
    (0..count).map(|_| client.get("/").expect(200).text().to_owned()).collect()
}

#[test]
fn a_probe_asks_as_a_browser_behind_https_would() {
    let origin = patient("app", &well());
    let gateway = group(&[origin.address()], r#"path = "/healthz?deep=1", host = "shop.example.com", interval = "1h""#);
    let request = &origin.wait_for_requests(1)[0];
    assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/healthz?deep=1"));
    assert_eq!(request.field("Host"), Some("shop.example.com"));
    assert_eq!(request.field("X-Forwarded-Proto"), Some("https"));
    assert_eq!(request.field("Connection"), Some("close"));
    assert!(request.field("User-Agent").unwrap().starts_with("propylon/"));
    assert_eq!(request.framing, Framing::None);
    wait_for_checks(&gateway, "pass", 1.0);
    // A probe is no request of a client.
    assert_eq!(gateway.metrics().value("propylon_upstream_requests_total", &[]), Some(0.0));
    eventually("its connection is closed", || (origin.open_connections() == 0).then_some(()));
}

#[test]
fn it_takes_fall_failures_in_a_row_to_go_down_and_rise_passes_to_come_back() {
    // Were rise or fall one, there would be more changes than one each way.
    let results = [200, 500, 200, 500, 500, 200, 500, 500, 200, 200];
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let origin = Origin::start(move |connection| {
        if connection.read_request().is_some() {
            let number = count.fetch_add(1, Ordering::SeqCst);
            connection.answer(results.get(number).copied().unwrap_or(200), "");
        }
    });
    let gateway =
        group(&[origin.address()], r#"path = "/healthz", interval = "350ms", timeout = "350ms", rise = 2, fall = 2"#);
    eventually("four probes were answered", || (asked.load(Ordering::SeqCst) >= 4).then_some(()));
    wait_for_health(&gateway, origin.address(), 0.0);
    assert!(checks(&gateway, "fail") >= Some(3.0));
    wait_for_health(&gateway, origin.address(), 1.0);
    assert!(asked.load(Ordering::SeqCst) >= results.len());
    assert_eq!((lines(&gateway, "endpoint is unhealthy"), lines(&gateway, "endpoint is healthy again")), (1, 1));
}

#[test]
fn without_a_path_a_probe_connects() {
    let mut origin = Origin::echo_head();
    let gateway = group(&[origin.address()], r#"interval = "300ms", timeout = "300ms", rise = 1, fall = 1"#);
    wait_for_checks(&gateway, "pass", 2.0);
    assert_eq!(origin.requests().len(), 0);
    origin.stop();
    wait_for_health(&gateway, origin.address(), 0.0);
    assert_eq!(lines(&gateway, "endpoint is unhealthy"), 1);
    let _again = Origin::start_at(origin.address(), |_| {});
    wait_for_health(&gateway, origin.address(), 1.0);
    assert_eq!(lines(&gateway, "endpoint is healthy again"), 1);
}

#[test]
fn expect_says_which_statuses_are_well() {
    let status = Arc::new(AtomicU16::new(401));
    let origin = patient("app", &status);
    let keys =
        r#"path = "/healthz", interval = "300ms", timeout = "300ms", rise = 1, fall = 1, expect = "200-299,401""#;
    let gateway = group(&[origin.address()], keys);
    wait_for_checks(&gateway, "pass", 2.0);
    assert_eq!(checks(&gateway, "fail"), Some(0.0));
    for (now, health) in [(403, 0.0), (204, 1.0), (301, 0.0), (299, 1.0), (500, 0.0), (401, 1.0), (400, 0.0)] {
        status.store(now, Ordering::SeqCst);
        wait_for_health(&gateway, origin.address(), health);
    }
}

#[test]
fn a_probe_that_gets_no_answer_in_time_fails() {
    let origin = Origin::start(|connection| {
        if connection.read_request().is_some() {
            connection.hang();
        }
    });
    let gateway = group(&[origin.address()], r#"path = "/healthz", interval = "200ms", timeout = "100ms", fall = 2"#);
    wait_for_health(&gateway, origin.address(), 0.0);
    assert_eq!(checks(&gateway, "ignored"), Some(0.0));
    let unreachable = Origin::unreachable();
    let gateway = group(&[unreachable.address()], r#"interval = "200ms", timeout = "100ms", fall = 2"#);
    wait_for_health(&gateway, unreachable.address(), 0.0);
}

#[test]
fn an_app_that_closes_or_talks_nonsense_is_not_well() {
    for fault in ["", "nonsense\r\n\r\n"] {
        let origin = Origin::start(move |connection| {
            if connection.read_request().is_some() {
                connection.write(fault);
            }
        });
        let gateway =
            group(&[origin.address()], r#"path = "/healthz", interval = "300ms", timeout = "300ms", fall = 2"#);
        wait_for_health(&gateway, origin.address(), 0.0);
    }
}

#[test]
fn a_pool_that_is_busy_is_not_taken_for_dead() {
    // One worker: while it has a request, nobody answers probes.
    let worker = Arc::new(std::sync::Mutex::new(()));
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            let _busy = worker.lock().unwrap();
            if request.target == "/work" {
                held.wait();
            }
            connection.answer(200, "done");
        }
    });
    let gateway = with_keys(
        &[origin.address()],
        "max_in_flight = 1",
        r#"path = "/healthz", interval = "300ms", timeout = "250ms", rise = 1, fall = 1"#,
    );
    wait_for_checks(&gateway, "pass", 1.0);
    let mut client = gateway.connect();
    client.send_request("GET", "/work", &[], "");
    eventually("the worker has it", || origin.requests().iter().any(|r| r.target == "/work").then_some(()));
    let failed = checks(&gateway, "fail");
    wait_for_checks(&gateway, "ignored", 3.0);
    assert_eq!(health(&gateway, origin.address()), Some(1.0));
    assert_eq!((lines(&gateway, "endpoint is unhealthy"), checks(&gateway, "fail")), (0, failed));

    let passed = checks(&gateway, "pass").unwrap();
    gate.open();
    client.response().expect(200);
    wait_for_checks(&gateway, "pass", passed + 1.0);
}

#[test]
fn an_endpoint_that_is_down_gets_no_request_while_another_is_well() {
    let (a_status, b_status) = (well(), well());
    let (a, b) = (patient("a", &a_status), patient("b", &b_status));
    for balance in ["least_conn", "round_robin"] {
        a_status.store(500, Ordering::SeqCst);
        b_status.store(200, Ordering::SeqCst);
        let gateway = with_keys(
            &[a.address(), b.address()],
            &format!("balance = \"{balance}\""),
            r#"path = "/healthz", interval = "300ms", timeout = "300ms", rise = 1, fall = 1"#,
        );
        wait_for_health(&gateway, a.address(), 0.0);
        assert_eq!(answers(&gateway, 10), "b".repeat(10));

        // Checks can be wrong: when all are down, they are tried.
        b_status.store(500, Ordering::SeqCst);
        wait_for_health(&gateway, b.address(), 0.0);
        let both = answers(&gateway, 10);
        assert!(both.contains('a') && both.contains('b'), "{both}");

        a_status.store(200, Ordering::SeqCst);
        wait_for_health(&gateway, a.address(), 1.0);
        assert_eq!(answers(&gateway, 10), "a".repeat(10));
    }
}

#[test]
fn the_only_endpoint_is_tried_even_when_it_is_down() {
    let status = Arc::new(AtomicU16::new(500));
    let origin = patient("app", &status);
    let gateway = group(&[origin.address()], r#"path = "/healthz", interval = "300ms", timeout = "300ms", fall = 1"#);
    wait_for_health(&gateway, origin.address(), 0.0);
    assert_eq!(answers(&gateway, 3), "appappapp");
}

#[test]
fn health_survives_a_reload() {
    let (a, b) = (patient("a", &Arc::new(AtomicU16::new(500))), patient("b", &well()));
    let gateway =
        group(&[a.address(), b.address()], r#"path = "/healthz", interval = "300ms", timeout = "300ms", fall = 2"#);
    wait_for_health(&gateway, a.address(), 0.0);

    // No probe of the new configuration falls within this test: what it knows it was told.
    gateway.rewrite_config(&ONE_GROUP.replace("{health}", r#"path = "/healthz", interval = "1h""#));
    gateway.reload();
    assert_eq!(answers(&gateway, 10), "b".repeat(10));
    assert_eq!((health(&gateway, a.address()), health(&gateway, b.address())), (Some(0.0), Some(1.0)));
    assert_eq!(lines(&gateway, "endpoint is unhealthy"), 1);
}

#[test]
fn a_reload_stops_the_old_checks() {
    let origin = patient("app", &well());
    let gateway = group(&[origin.address()], r#"path = "/healthz", interval = "100ms", timeout = "100ms""#);
    wait_for_checks(&gateway, "pass", 2.0);
    gateway.rewrite_config(&ONE_GROUP.replace("{health}", r#"path = "/new", interval = "100ms", timeout = "100ms""#));
    gateway.reload();
    let new = |count: usize| {
        eventually("probes of the new kind", || {
            let requests = origin.requests();
            let new = requests.iter().filter(|request| request.target == "/new").count();
            (new >= count).then(|| requests.len() - new)
        })
    };
    let old = new(1);
    assert_eq!(new(5), old, "no probe of the old kind came after the first of the new");
}

#[test]
fn unix_sockets_are_served_and_probed() {
    for start in [Origin::start_unix, Origin::start_abstract] {
        let status = well();
        let mut origin = start(script("app", &status));
        for probe in ["", "path = \"/healthz\", "] {
            let keys = format!("{probe}interval = \"500ms\", timeout = \"500ms\", rise = 1, fall = 1");
            let gateway = group(&[origin.address()], &keys);
            wait_for_checks(&gateway, "pass", 2.0);
            assert_eq!(checks(&gateway, "fail"), Some(0.0));
            assert_eq!(answers(&gateway, 3), "appappapp");
            assert_eq!(gateway.connect().request("POST", "/", &[], "body").expect(200).text(), "app");
            assert_eq!(gateway.access_log(4)[0]["endpoint"], origin.address().to_string());
            if !probe.is_empty() {
                status.store(500, Ordering::SeqCst);
                wait_for_health(&gateway, origin.address(), 0.0);
                status.store(200, Ordering::SeqCst);
                wait_for_health(&gateway, origin.address(), 1.0);
            }
        }
        let health = r#"interval = "300ms", timeout = "300ms", rise = 1, fall = 1"#;
        let gateway = with_keys(&[origin.address()], r#"queue = { timeout = "1s" }"#, health);
        origin.stop();
        wait_for_health(&gateway, origin.address(), 0.0);
        gateway.get("/").expect(503);
    }
}
