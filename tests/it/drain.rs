//! `propylon drain` and `undrain`, and endpoints that a reload takes out: no new request, and nothing is cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::harness::*;
use crate::in_flight::{in_flight_is, nothing_in_flight};

/// One group; `{endpoints}` and further `{keys}` of it.
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
keepalive_timeout = "1h"
health = { interval = "1h" }
{keys}
[[routes]]
upstream = "app"
"#;

fn listed(endpoints: &[&Address]) -> String {
    endpoints.iter().map(|address| format!("\"{address}\"")).collect::<Vec<_>>().join(", ")
}

fn group(endpoints: &[&Address], keys: &str) -> Gateway {
    Gateway::with(ONE_GROUP).set("endpoints", &listed(endpoints)).set("keys", keys).start()
}

/// `propylon drain` or `undrain`, with further flags.
fn tell(gateway: &Gateway, what: &str, upstream: &str, endpoint: &str, flags: &[&str]) -> Finished {
    let config = gateway.config_path().to_str().unwrap();
    gateway.command(&[&[what, upstream, endpoint, "--config", config], flags].concat())
}

#[track_caller]
fn drain(gateway: &Gateway, endpoint: &Address, flags: &[&str]) -> String {
    let finished = tell(gateway, "drain", "app", &endpoint.to_string(), flags);
    assert_eq!((finished.code, &*finished.stderr), (0, ""), "{finished:?}");
    finished.stdout
}

#[track_caller]
fn undrain(gateway: &Gateway, endpoint: &Address) -> String {
    let finished = tell(gateway, "undrain", "app", &endpoint.to_string(), &[]);
    assert_eq!((finished.code, &*finished.stderr), (0, ""), "{finished:?}");
    finished.stdout
}

/// Answers at once; what is under `/hold` once the gate is open.
fn app(gate: &Gate) -> impl Fn(&mut Connection) + Send + Sync + 'static {
    let gate = gate.clone();
    move |connection| {
        while let Some(request) = connection.read_request() {
            if request.target.starts_with("/hold") {
                gate.wait();
            }
            connection.answer(200, request.target);
        }
    }
}

fn drained(gateway: &Gateway, endpoint: &Address) -> Option<f64> {
    gateway.metrics().value("propylon_endpoint_drained", &[("endpoint", &endpoint.to_string())])
}

#[track_caller]
fn all_closed(origin: &Origin) {
    eventually("all its connections are closed", || (origin.open_connections() == 0).then_some(()));
}

#[test]
fn a_drained_endpoint_gets_no_new_request_and_ends_those_it_has() {
    let gate = Gate::new();
    let (a, b) = (Origin::start(app(&gate)), Origin::start(app(&gate)));
    let gateway = group(&[a.address(), b.address()], "balance = \"round_robin\"");
    // One idle connection to each, and one request that stays.
    let mut clients = [gateway.connect(), gateway.connect()];
    for client in &mut clients {
        client.send_request("GET", "/hold", &[], "");
    }
    eventually("both are at work", || (a.requests().len() == 1 && b.requests().len() == 1).then_some(()));
    for _ in 0..4 {
        gateway.get("/").expect(200);
    }
    assert_eq!((a.requests().len(), b.requests().len()), (3, 3));

    let said = drain(&gateway, a.address(), &[]);
    assert_eq!(said, format!("{} of app is drained, 1 request in flight", a.address()));
    assert_eq!((drained(&gateway, a.address()), drained(&gateway, b.address())), (Some(1.0), Some(0.0)));
    gateway.wait_for_log("endpoint is drained");
    eventually("the idle connection is closed", || (a.open_connections() == 1).then_some(()));
    for _ in 0..10 {
        gateway.connect().request("POST", "/", &[], "body").expect(200);
    }
    assert_eq!((a.requests().len(), b.requests().len()), (3, 13));
    // It says so twice if it is told twice.
    assert_eq!(drain(&gateway, a.address(), &[]), said);

    gate.open();
    for client in &mut clients {
        assert_eq!(client.response().expect(200).text(), "/hold");
    }
    // The connection that was in use is not kept either.
    all_closed(&a);
    nothing_in_flight(&gateway);

    let said = undrain(&gateway, a.address());
    assert_eq!(said, format!("{} of app takes requests, 0 requests in flight", a.address()));
    assert_eq!(drained(&gateway, a.address()), Some(0.0));
    eventually("it gets requests again", || {
        gateway.get("/").expect(200);
        (a.requests().len() > 3).then_some(())
    });
    assert!(gateway.access_log_now().iter().all(|line| line["status"] == 200));
}

#[test]
fn wait_returns_when_nothing_is_in_flight() {
    let gate = Gate::new();
    let (a, b) = (Origin::start(app(&gate)), Origin::start(app(&gate)));
    let gateway = group(&[a.address(), b.address()], "balance = \"round_robin\"");
    let mut client = gateway.connect();
    client.send_request("GET", "/hold", &[], "");
    eventually("it is at work", || (a.requests().len() + b.requests().len() == 1).then_some(()));
    let busy = if a.requests().is_empty() { &b } else { &a };
    thread::scope(|scope| {
        let waiting = scope.spawn(|| drain(&gateway, busy.address(), &["--wait", "60"]));
        eventually("it is drained", || (drained(&gateway, busy.address()) == Some(1.0)).then_some(()));
        assert!(!waiting.is_finished());
        gate.open();
        client.response().expect(200);
        let said = waiting.join().unwrap();
        assert_eq!(said, format!("{} of app is drained, 0 requests in flight", busy.address()));
    });
}

#[test]
fn wait_gives_up_after_its_time_and_says_what_is_left() {
    let gate = Gate::new();
    let origin = Origin::start(app(&gate));
    let gateway = group(&[origin.address()], "");
    let mut client = gateway.connect();
    client.send_request("GET", "/hold", &[], "");
    origin.wait_for_requests(1);
    for wait in ["0", "1"] {
        let finished = tell(&gateway, "drain", "app", &origin.address().to_string(), &["--wait", wait]);
        assert_eq!(finished.code, 1, "{finished:?}");
        assert!(finished.stderr.contains("is drained, 1 request in flight"), "{finished:?}");
    }
    // Whoever wants it back ends the wait.
    let endpoint = origin.address().to_string();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| tell(&gateway, "drain", "app", &endpoint, &["--wait", "60"]));
        eventually("undrain ends the wait", || {
            undrain(&gateway, origin.address());
            waiting.is_finished().then_some(())
        });
        let finished = waiting.join().unwrap();
        assert_eq!(finished.code, 1, "{finished:?}");
        assert!(finished.stderr.contains("takes requests"), "{finished:?}");
    });
    gate.open();
    client.response().expect(200);
}

#[test]
fn a_name_that_is_not_there_is_answered_with_those_that_are() {
    let dir = tempfile::tempdir().unwrap();
    let socket = Address::Unix(dir.path().join("app.sock"));
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let gateway = group(&[origin.address(), &socket], "");
    let endpoint = origin.address().to_string();
    for what in ["drain", "undrain"] {
        let finished = tell(&gateway, what, "ap", &endpoint, &[]);
        assert_eq!(finished.code, 2, "{finished:?}");
        assert!(finished.stderr.contains("no upstream is called \"ap\""), "{finished:?}");
        assert!(finished.stderr.contains("there are: app"), "{finished:?}");

        for wrong in ["127.0.0.1:1", "unix:/nowhere.sock", "[::1]:1", "a b&c=%\u{e4}"] {
            let finished = tell(&gateway, what, "app", wrong, &[]);
            assert_eq!(finished.code, 2, "{finished:?}");
            assert!(finished.stderr.contains(&format!("no endpoint of app is called \"{wrong}\"")), "{finished:?}");
            assert!(finished.stderr.contains(&format!("there are: {endpoint}, {socket}")), "{finished:?}");
        }
    }
    for (arguments, says) in [
        (&["drain"][..], "<UPSTREAM>"),
        (&["drain", "app"], "<ENDPOINT>"),
        (&["drain", "app", &endpoint, "--wait", "soon"], "soon"),
        (&["undrain", "app", &endpoint, "--wait", "1"], "--wait"),
    ] {
        let finished = gateway.command(arguments);
        assert_eq!(finished.code, 2, "{finished:?}");
        assert!(finished.stderr.contains(says), "{finished:?}");
    }
    // Nothing of all that drained anything.
    assert_eq!((drained(&gateway, origin.address()), drained(&gateway, &socket)), (Some(0.0), Some(0.0)));
    // A Unix socket is named as the status names it.
    assert!(drain(&gateway, &socket, &[]).contains("is drained"));
    assert_eq!(drained(&gateway, &socket), Some(1.0));
}

#[test]
fn only_the_control_socket_drains() {
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let gateway = group(&[origin.address()], "");
    let target = format!("/drain?upstream=app&endpoint={}", origin.address());
    let control = Address::Unix(gateway.dir().join("control.sock"));
    Client::connect(&control).request("GET", &target, &[], "").expect(405);
    assert!(Client::connect(gateway.admin()).request("POST", &target, &[], "").status >= 400);
    assert_eq!(drained(&gateway, origin.address()), Some(0.0));
    for (query, says) in [
        ("", "missing parameter: upstream"),
        ("upstream=app", "missing parameter: endpoint"),
        ("upstream=app&upstream=app", "upstream is there twice"),
        ("upstrem=app", "did you mean"),
        ("upstream=%f", "percent-encoded"),
        ("upstream=app&endpoint=x&wait=-1", "wait: expected seconds"),
    ] {
        let answer = Client::connect(&control).request("POST", &format!("/drain?{query}"), &[], "").expect(400);
        assert!(answer.text().contains(says), "{query}: {answer}");
    }
    Client::connect(&control).request("POST", &target, &[], "").expect(200);
    assert_eq!(drained(&gateway, origin.address()), Some(1.0));
}

#[test]
fn while_all_are_drained_requests_wait() {
    let gate = Gate::new();
    gate.open();
    let (a, b) = (Origin::start(app(&gate)), Origin::start(app(&gate)));
    let gateway = group(&[a.address(), b.address()], "queue = { timeout = \"1m\" }");
    assert!(!drain(&gateway, a.address(), &[]).contains("no endpoint"));
    assert!(drain(&gateway, b.address(), &[]).ends_with("no endpoint of app is left: its requests wait"));
    let mut clients: Vec<Client> = (0..4).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send_request("POST", "/", &[], "body");
    }
    let depth = |gateway: &Gateway| gateway.metrics().value("propylon_queue_depth", &[]);
    eventually("all wait", || (depth(&gateway) == Some(4.0)).then_some(()));
    clients.iter_mut().for_each(Client::assert_silent);
    assert_eq!((a.requests().len(), b.requests().len()), (0, 0));

    undrain(&gateway, b.address());
    for client in &mut clients {
        client.response_to("POST").expect(200);
    }
    assert_eq!((a.requests().len(), b.requests().len()), (0, 4));
    assert_eq!(depth(&gateway), Some(0.0));
    assert!(gateway.access_log(4).iter().all(|line| line["t_queue"].as_f64() > Some(0.0)));
}

#[test]
fn requests_that_nobody_will_take_are_503_in_time() {
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let gateway = group(&[origin.address()], "queue = { timeout = \"200ms\" }");
    drain(&gateway, origin.address(), &[]);
    let answer = gateway.get("/").expect(503);
    assert_eq!(answer.field("Retry-After"), Some("1"));
    assert_eq!(gateway.access_log(1)[0]["reason"], "upstream_unreachable");
    assert_eq!(origin.requests().len(), 0);
}

#[test]
fn a_drain_outlives_reloads_as_long_as_the_endpoint_is_named() {
    let gate = Gate::new();
    gate.open();
    let (a, b) = (Origin::start(app(&gate)), Origin::start(app(&gate)));
    let gateway = group(&[a.address(), b.address()], "balance = \"round_robin\"");
    let reload = |endpoints: &[&Address]| {
        gateway.rewrite_config(&ONE_GROUP.replace("{endpoints}", &listed(endpoints)));
        gateway.reload();
    };
    drain(&gateway, a.address(), &[]);
    for endpoints in [&[a.address(), b.address()][..], &[b.address(), a.address()]] {
        reload(endpoints);
        for _ in 0..4 {
            gateway.get("/").expect(200);
        }
        assert_eq!((drained(&gateway, a.address()), a.requests().len()), (Some(1.0), 0));
    }
    // Whoever takes it out of the file and puts it back wants it.
    reload(&[b.address()]);
    gateway.get("/").expect(200);
    eventually("nothing holds the old configuration", || {
        reload(&[a.address(), b.address()]);
        let is_back = drained(&gateway, a.address()) == Some(0.0);
        if !is_back {
            reload(&[b.address()]);
        }
        is_back.then_some(())
    });
    eventually("it gets requests again", || {
        gateway.get("/").expect(200);
        (!a.requests().is_empty()).then_some(())
    });
}

#[test]
fn an_endpoint_that_a_reload_removes_ends_its_requests_and_closes_the_rest() {
    let gate = Gate::new();
    let (a, b) = (Origin::start(app(&gate)), Origin::start(app(&gate)));
    let gateway = group(&[a.address()], "");
    let mut held = gateway.connect();
    held.send_request("POST", "/hold", &[], "body");
    a.wait_for_requests(1);
    let mut client = gateway.connect();
    client.get("/").expect(200);
    eventually("one is at work and one is idle", || (a.open_connections() == 2).then_some(()));

    gateway.rewrite_config(&ONE_GROUP.replace("{endpoints}", &listed(&[b.address()])));
    gateway.reload();
    eventually("the idle connection is closed", || (a.open_connections() == 1).then_some(()));
    client.get("/").expect(200);
    assert_eq!((a.requests().len(), b.requests().len()), (2, 1));
    // The one that is left is well; its connection goes with it.
    gate.open();
    assert_eq!(held.response_to("POST").expect(200).text(), "/hold");
    all_closed(&a);
    nothing_in_flight(&gateway);
}

/// Under load, again and again: not a single answer is lost, and what is drained stays untouched.
#[test]
fn draining_back_and_forth_under_load_loses_nothing() {
    let gate = Gate::new();
    gate.open();
    let (a, b) = (Origin::start(app(&gate)), Origin::start(app(&gate)));
    let gateway = group(&[a.address(), b.address()], "max_in_flight = 2\nqueue = { timeout = \"1m\" }");
    let (left, clients) = (Arc::new(AtomicUsize::new(0)), 6);
    thread::scope(|scope| {
        for _ in 0..clients {
            let left = left.clone();
            let mut client = gateway.connect();
            scope.spawn(move || {
                for _ in 0..rounds(200, 5000) {
                    client.request("POST", "/", &[], "body").expect(200);
                }
                left.fetch_add(1, Ordering::SeqCst);
            });
        }
        while left.load(Ordering::SeqCst) < clients {
            for origin in [&a, &b] {
                drain(&gateway, origin.address(), &["--wait", "10"]);
                let before = origin.requests().len();
                all_closed(origin);
                in_flight_of_is_zero(&gateway, origin.address());
                assert_eq!(origin.requests().len(), before, "a drained endpoint got a request");
                undrain(&gateway, origin.address());
            }
        }
    });
    assert_eq!(a.requests().len() + b.requests().len(), clients * rounds(200, 5000));
    in_flight_is(&gateway, 0.0);
}

fn in_flight_of_is_zero(gateway: &Gateway, endpoint: &Address) {
    let value = gateway.metrics().value("propylon_upstream_in_flight", &[("endpoint", &endpoint.to_string())]);
    assert_eq!(value, Some(0.0));
}
