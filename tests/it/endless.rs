//! Answers that always have more to come, at apps whose work goes on without a client: once nobody is given them, their worker is
//! wanted back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::*;
use crate::in_flight::nothing_in_flight;

const TOML: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[admin]
listen = ["127.0.0.1:0"]
[log]
access = "{dir}/access.log"
[upstreams.app]
endpoints = ["{app}"]
preset = "gunicorn-sync"
workers = 1
read_timeout = "400ms"
[[routes]]
upstream = "app"
[[routes]]
path = "/impatient/*"
upstream = "app"
timeouts = { read = "200ms", first_byte = "200ms" }
[cache]
[[cache.rules]]
name = "kept"
path = "/kept"
ttl = "1s"
stale_while_revalidate = "1h"
[[cache.rules]]
name = "withheld"
path = "/withheld"
ttl = "100ms"
stale_if_error = "1h"
"#;

const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const TEXT: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Says something every few milliseconds, until nobody listens.
fn go_on(connection: &mut Connection) {
    while connection.write("5\r\nhello\r\n") {
        connection.delay(Duration::from_millis(10));
    }
}

/// One worker: `/free` is answered at once, everything else as `endless` does.
fn site(endless: impl Fn(&mut Connection, &Request) + Send + Sync + 'static) -> (Origin, Gateway) {
    let origin = Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            if request.target == "/free" {
                connection.answer(200, "free");
            } else {
                return endless(connection, &request);
            }
        }
    });
    let gateway = Gateway::with(TOML).set("app", origin.address()).start();
    (origin, gateway)
}

#[track_caller]
fn the_worker_is_free(gateway: &Gateway) {
    gateway.get("/free").expect(200);
    nothing_in_flight(gateway);
    gateway.counts("propylon_endpoint_overdue", &[], 0.0);
}

#[test]
fn an_event_stream_is_closed_when_its_client_leaves() {
    let (_origin, gateway) = site(|connection, _| {
        connection.write(EVENTS);
        go_on(connection);
    });
    for leave in [drop as fn(Client), Client::reset] {
        let mut client = gateway.connect();
        client.send_request("GET", "/events", &[], "");
        client.response_head().expect(200);
        leave(client);
        the_worker_is_free(&gateway);
    }
    assert!(
        gateway
            .access_log(4)
            .iter()
            .filter(|line| line["path"] == "/events")
            .all(|line| line["reason"] == "client_closed")
    );
}

#[test]
fn one_whose_client_left_before_it_began_is_too() {
    let begin = Gate::new();
    let gate = begin.clone();
    let (origin, gateway) = site(move |connection, _| {
        gate.wait();
        connection.write(EVENTS);
        go_on(connection);
    });
    let mut client = gateway.connect();
    client.send_request("GET", "/events", &[], "");
    origin.wait_for_requests(1);
    client.reset();
    begin.open();
    the_worker_is_free(&gateway);
}

#[test]
fn an_event_stream_that_pauses_for_too_long_is_closed() {
    let silent = Gate::new();
    let gate = silent.clone();
    let (_origin, gateway) = site(move |connection, _| {
        connection.write(EVENTS);
        gate.wait();
        go_on(connection);
    });
    let mut client = gateway.connect();
    client.send_request("GET", "/impatient/events", &[], "");
    client.response_head().expect(200);
    assert!(!client.read_rest().unwrap().ends_with(b"0\r\n\r\n"));
    nothing_in_flight(&gateway);
    silent.open();
    the_worker_is_free(&gateway);
}

#[test]
fn one_that_begins_after_the_504_is_closed() {
    let begin = Gate::new();
    let gate = begin.clone();
    let (_origin, gateway) = site(move |connection, _| {
        gate.wait();
        connection.write(EVENTS);
        go_on(connection);
    });
    gateway.get("/impatient/events").expect(504);
    assert_eq!(gateway.metrics().value("propylon_endpoint_overdue", &[]), Some(1.0));
    begin.open();
    the_worker_is_free(&gateway);
}

#[test]
fn what_is_no_stream_by_its_type_has_a_while_for_its_rest() {
    let (origin, gateway) = site(|connection, request| {
        connection.write(TEXT);
        if request.target.starts_with("/impatient") {
            connection.delay(Duration::from_millis(600));
        }
        go_on(connection);
    });
    // The client leaves.
    let mut client = gateway.connect();
    client.send_request("GET", "/log", &[], "");
    client.response_head().expect(200);
    client.reset();
    the_worker_is_free(&gateway);
    // Its time is up.
    let mut client = gateway.connect();
    client.send_request("GET", "/impatient/log", &[], "");
    client.response_head().expect(200);
    assert!(!client.read_rest().unwrap().ends_with(b"0\r\n\r\n"));
    the_worker_is_free(&gateway);
    eventually("the app's connections are closed", || (origin.open_connections() <= 1).then_some(()));
}

#[test]
fn a_rest_that_ends_in_time_is_waited_for() {
    let go = Gate::new();
    let gate = go.clone();
    let (_origin, gateway) = site(move |connection, _| {
        connection.write(TEXT);
        gate.wait();
        assert!(connection.write("5\r\nhello\r\n0\r\n\r\n"));
    });
    let mut client = gateway.connect();
    client.send_request("POST", "/work", &[], "paid");
    client.response_head().expect(200);
    client.reset();
    scripted_delay(Duration::from_millis(200));
    assert_eq!(gateway.metrics().value("propylon_upstream_in_flight", &[]), Some(1.0));
    go.open();
    the_worker_is_free(&gateway);
}

#[test]
fn a_kept_answer_that_has_become_a_stream_does_not_keep_the_worker() {
    let asked = AtomicBool::new(false);
    let (origin, gateway) = site(move |connection, _| {
        if !asked.swap(true, Ordering::SeqCst) {
            connection.answer(200, "kept");
            return;
        }
        connection.write(EVENTS);
        go_on(connection);
    });
    assert_eq!(gateway.get("/kept").expect(200).text(), "kept");
    scripted_delay(Duration::from_millis(1100));
    assert_eq!(gateway.get("/kept").expect(200).text(), "kept");
    origin.wait_for_requests(2);
    the_worker_is_free(&gateway);
}

#[test]
fn an_error_without_an_end_in_whose_place_a_kept_answer_is_given_does_not_either() {
    let asked = AtomicBool::new(false);
    let (_origin, gateway) = site(move |connection, _| {
        if !asked.swap(true, Ordering::SeqCst) {
            connection.answer(200, "kept");
            return;
        }
        connection.write(TEXT.replace("200 OK", "500 Broken"));
        go_on(connection);
    });
    assert_eq!(gateway.get("/withheld").expect(200).text(), "kept");
    scripted_delay(Duration::from_millis(150));
    assert_eq!(gateway.get("/withheld").expect(200).text(), "kept");
    the_worker_is_free(&gateway);
}
