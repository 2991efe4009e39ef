//! Endpoints on which requests fail are left out for a while: what counts as a failure, for how long, and how many may be out.

use std::sync::{Arc, Mutex};

use crate::harness::*;
use crate::in_flight::nothing_in_flight;
use crate::queue::number;

/// A group that is asked in turn. `{ejection}` is the inside of the table, `{keys}` are further keys.
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
ejection = { {ejection} }
health = { interval = "1h" }
{keys}
[[routes]]
upstream = "app"
"#;

const IN_TURN: &str = "balance = \"round_robin\"\nretry = { idempotent = 0 }";

fn group(origins: &[&Origin], ejection: &str, keys: &str) -> Gateway {
    let endpoints: Vec<String> = origins.iter().map(|origin| format!("\"{}\"", origin.address())).collect();
    Gateway::with(ONE_GROUP).set("endpoints", &endpoints.join(", ")).set("ejection", ejection).set("keys", keys).start()
}

/// How an app behaves at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    Resets,
    Closes,
    Hangs,
    Answers500,
}

type Moods = Arc<Mutex<Mood>>;

fn moody(mood: Mood) -> (Origin, Moods) {
    let moods = Arc::new(Mutex::new(mood));
    let now = moods.clone();
    let origin = Origin::start(move |connection| {
        while connection.read_request().is_some() {
            let mood = *now.lock().unwrap();
            match mood {
                Mood::Well => _ = connection.answer(200, "moody"),
                Mood::Answers500 => _ = connection.answer(500, "moody"),
                Mood::Resets => return connection.reset(),
                Mood::Closes => return,
                Mood::Hangs => return connection.hang(),
            }
        }
    });
    (origin, moods)
}

fn set(moods: &Moods, mood: Mood) {
    *moods.lock().unwrap() = mood;
}

fn well() -> Origin {
    Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell")
}

/// The status codes of `count` POSTs, one after the other.
fn posts(gateway: &Gateway, count: usize) -> Vec<u16> {
    let mut client = gateway.connect();
    (0..count).map(|_| client.request("POST", "/", &[], "1").status).collect()
}

fn sum(gateway: &Gateway, name: &str) -> Option<f64> {
    gateway.metrics().value(name, &[])
}

fn ejected(gateway: &Gateway, origin: &Origin) -> bool {
    let endpoint = origin.address().to_string();
    gateway.metrics().value("propylon_endpoint_ejected", &[("endpoint", &endpoint)]) == Some(1.0)
}

fn ejections(gateway: &Gateway) -> Option<f64> {
    sum(gateway, "propylon_endpoint_ejections_total")
}

/// What /status says of each endpoint.
fn ejected_by_status(gateway: &Gateway) -> Vec<bool> {
    let status = gateway.admin_get("/status").json();
    let endpoints = status["upstreams"][0]["endpoints"].as_array().unwrap();
    endpoints.iter().map(|endpoint| endpoint["ejected"].as_bool().unwrap()).collect()
}

/// How long endpoints were left out for, as the log says.
fn times(gateway: &Gateway) -> Vec<String> {
    let lines = gateway.log().into_iter().filter(|line| line.contains("endpoint is ejected"));
    lines.map(|line| line.split_once("time=").unwrap().1.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn failures_in_a_row_leave_an_endpoint_out() {
    for (mood, status, keys) in [
        (Mood::Resets, 502, ""),
        (Mood::Closes, 502, ""),
        (Mood::Hangs, 504, "first_byte_timeout = \"200ms\""),
        (Mood::Hangs, 504, "first_byte_timeout = \"200ms\"\nmax_in_flight = 10"),
    ] {
        let ((sick, moods), healthy) = (moody(mood), well());
        let gateway =
            group(&[&sick, &healthy], "consecutive_failures = 3, time = \"1h\"", &format!("{IN_TURN}\n{keys}"));
        assert_eq!(posts(&gateway, 4), [status, 200, status, 200], "{mood:?}");
        assert_eq!((ejected(&gateway, &sick), ejections(&gateway)), (false, Some(0.0)), "{mood:?}: two are not three");
        assert_eq!(posts(&gateway, 2), [status, 200], "{mood:?}");
        assert!(ejected(&gateway, &sick) && !ejected(&gateway, &healthy), "{mood:?}");
        assert_eq!(ejections(&gateway), Some(1.0));
        assert_eq!(ejected_by_status(&gateway), [true, false]);
        gateway.wait_for_log("endpoint is ejected");

        set(&moods, Mood::Well);
        assert_eq!(posts(&gateway, 10), [200; 10]);
        assert_eq!(sick.requests().len(), 3);
    }
}

#[test]
fn an_endpoint_that_cannot_be_connected_to_is_left_out_without_a_failed_request() {
    let (mut gone, healthy) = (well(), well());
    let gateway = group(&[&gone, &healthy], "consecutive_failures = 3, time = \"300ms\"", IN_TURN);
    assert_eq!(posts(&gateway, 2), [200, 200]);
    gone.stop();
    eventually("it is left out", || {
        assert_eq!(posts(&gateway, 2), [200, 200]);
        ejected(&gateway, &gone).then_some(())
    });
    let back = Origin::start_at(gone.address(), |connection| {
        while connection.read_request().is_some() {
            connection.answer(200, "back");
        }
    });
    eventually("it is asked again", || {
        assert_eq!(posts(&gateway, 2), [200, 200]);
        (!back.requests().is_empty()).then_some(())
    });
    assert!(!ejected(&gateway, &back));
}

#[test]
fn a_success_in_between_starts_the_count_again() {
    let ((sick, moods), healthy) = (moody(Mood::Well), well());
    let gateway = group(&[&sick, &healthy], "consecutive_failures = 3, time = \"1h\"", IN_TURN);
    for _ in 0..4 {
        set(&moods, Mood::Resets);
        posts(&gateway, 4);
        // Its own 500 is an answer as good as any.
        set(&moods, Mood::Answers500);
        posts(&gateway, 2);
    }
    assert_eq!(sum(&gateway, "propylon_upstream_errors_total"), Some(8.0));
    assert_eq!(ejections(&gateway), Some(0.0));
}

#[test]
fn what_an_app_answers_is_no_failure() {
    let ((sick, _moods), healthy) = (moody(Mood::Answers500), well());
    let gateway = group(&[&sick, &healthy], "consecutive_failures = 1, time = \"1h\"", IN_TURN);
    assert_eq!(posts(&gateway, 20).iter().filter(|status| **status == 500).count(), 10);
    assert_eq!(ejections(&gateway), Some(0.0));
}

#[test]
fn a_client_that_leaves_is_no_failure_of_the_app() {
    for abort in ["close", "finish"] {
        let gate = Gate::new();
        let held = gate.clone();
        let slow = Origin::start(move |connection| {
            while connection.read_request().is_some() {
                held.wait();
                connection.answer(200, "slow");
            }
        });
        let healthy = well();
        let keys = format!("{IN_TURN}\nclient_abort = \"{abort}\"\nbuffer_requests = false");
        let gateway = group(&[&slow, &healthy], "consecutive_failures = 1, time = \"1h\"", &keys);
        for count in 1..=3 {
            let mut client = gateway.connect();
            client.send_request("POST", "/", &[], "whole");
            slow.wait_for_requests(count);
            client.reset();
            gateway.get("/").expect(200);
        }
        // One that leaves within its body as well.
        let (noticed, busy) = if abort == "close" { (6, 1.0) } else { (3, 4.0) };
        gateway.access_log(noticed);
        let mut client = gateway.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234");
        eventually("the app has it", || (sum(&gateway, "propylon_upstream_in_flight") == Some(busy)).then_some(()));
        client.reset();
        gateway.access_log(noticed + 1);
        gate.open();
        gateway.access_log(7);
        nothing_in_flight(&gateway);
        assert_eq!(ejections(&gateway), Some(0.0), "{abort}");
    }
}

#[test]
fn it_comes_back_after_its_time_which_doubles() {
    let ((sick, moods), healthy) = (moody(Mood::Resets), well());
    let gateway = group(&[&sick, &healthy], "consecutive_failures = 2, time = \"250ms\"", IN_TURN);
    for _ in 0..3 {
        eventually("it is left out", || {
            posts(&gateway, 2);
            ejected(&gateway, &sick).then_some(())
        });
        eventually("it is let in again", || {
            let before = sick.requests().len();
            let statuses = posts(&gateway, 1);
            if !ejected(&gateway, &sick) {
                return Some(());
            }
            assert_eq!((statuses, sick.requests().len()), (vec![200], before), "nothing goes there meanwhile");
            None
        });
    }
    assert_eq!(times(&gateway), ["250ms", "500ms", "1s"]);
    assert_eq!(ejections(&gateway), Some(3.0));
    gateway.wait_for_log("endpoint is no longer ejected");

    set(&moods, Mood::Well);
    let before = sick.requests().len();
    assert_eq!(posts(&gateway, 10), [200; 10]);
    assert_eq!(sick.requests().len(), before + 5, "it has its full share again");
    assert_eq!(ejected_by_status(&gateway), [false, false]);
}

#[test]
fn no_more_than_a_share_is_left_out_and_never_the_last() {
    for (percent, sick, expected) in [(50, 3, 2), (49, 3, 1), (100, 3, 3), (100, 4, 3), (0, 3, 0)] {
        let sick: Vec<Origin> = (0..sick).map(|_| moody(Mood::Resets).0).collect();
        let healthy: Vec<Origin> = (sick.len()..4).map(|_| well()).collect();
        let all: Vec<&Origin> = sick.iter().chain(&healthy).collect();
        let ejection = format!("consecutive_failures = 1, time = \"1h\", max_ejected = \"{percent}%\"");
        let gateway = group(&all, &ejection, IN_TURN);
        posts(&gateway, 24);
        let out = ejected_by_status(&gateway);
        assert_eq!(out.iter().filter(|out| **out).count(), expected, "{percent} % of {out:?}");
        assert_eq!(ejections(&gateway), Some(number(expected)));
        assert_eq!(sum(&gateway, "propylon_endpoint_ejected"), Some(number(expected)));
        if let [healthy] = healthy.as_slice() {
            assert!(!ejected(&gateway, healthy));
        }
    }
}

#[test]
fn a_single_endpoint_is_never_left_out_and_none_where_that_is_turned_off() {
    let (sick, moods) = moody(Mood::Resets);
    let gateway = group(&[&sick], "consecutive_failures = 1, time = \"1h\", max_ejected = \"100%\"", IN_TURN);
    assert_eq!(posts(&gateway, 6), [502; 6]);
    set(&moods, Mood::Well);
    assert_eq!(posts(&gateway, 2), [200; 2]);
    assert_eq!(ejections(&gateway), Some(0.0));

    set(&moods, Mood::Resets);
    let healthy = well();
    let gateway = group(&[&sick, &healthy], "consecutive_failures = 0", IN_TURN);
    assert_eq!(posts(&gateway, 20).iter().filter(|status| **status == 502).count(), 10);
    assert_eq!(ejections(&gateway), Some(0.0));
}

#[test]
fn nobody_is_left_out_while_all_others_are_drained() {
    let ((sick, moods), healthy) = (moody(Mood::Resets), well());
    let gateway = group(&[&sick, &healthy], "consecutive_failures = 1, time = \"1h\"", IN_TURN);
    let endpoint = healthy.address().to_string();
    let drained = gateway.command(&["drain", "app", &endpoint, "--config", "gateway.toml"]);
    assert_eq!(drained.code, 0, "{}", drained.stderr);
    assert_eq!(posts(&gateway, 4), [502; 4]);
    assert_eq!(ejections(&gateway), Some(0.0));
    set(&moods, Mood::Well);
    assert_eq!(posts(&gateway, 4), [200; 4]);
}

#[test]
fn one_that_is_left_out_is_better_than_none() {
    let ((sick, moods), mut healthy) = (moody(Mood::Resets), well());
    let gateway = group(&[&sick, &healthy], "consecutive_failures = 1, time = \"1h\"", IN_TURN);
    posts(&gateway, 2);
    assert!(ejected(&gateway, &sick));
    set(&moods, Mood::Well);
    healthy.stop();
    assert_eq!(gateway.connect().request("POST", "/", &[], "1").expect(200).text(), "moody");
}

#[test]
fn with_a_slow_start_it_begins_with_few() {
    let ((sick, moods), healthy) = (moody(Mood::Resets), well());
    let keys = format!("{IN_TURN}\nslow_start = \"1h\"");
    let gateway = group(&[&sick, &healthy], "consecutive_failures = 1, time = \"100ms\"", &keys);
    posts(&gateway, 2);
    assert!(ejected(&gateway, &sick));
    set(&moods, Mood::Well);
    eventually("it is let in again", || {
        posts(&gateway, 1);
        (!ejected(&gateway, &sick)).then_some(())
    });
    // A tenth of its turns.
    let before = sick.requests().len();
    assert_eq!(posts(&gateway, 400), [200; 400]);
    let asked = sick.requests().len() - before;
    assert!((1..=60).contains(&asked), "{asked} of 200 turns");
}

#[test]
fn with_a_slow_start_it_is_given_little_at_once() {
    let gate = Gate::new();
    let held = gate.clone();
    let ((sick, moods), healthy) = (
        moody(Mood::Resets),
        Origin::start(move |connection| {
            while let Some(request) = connection.read_request() {
                if request.method == "GET" {
                    held.wait();
                }
                connection.answer(200, "well");
            }
        }),
    );
    let gateway = group(&[&sick, &healthy], "consecutive_failures = 1, time = \"100ms\"", "slow_start = \"1h\"");
    posts(&gateway, 2);
    assert!(ejected(&gateway, &sick));
    set(&moods, Mood::Well);
    eventually("it is let in again", || {
        posts(&gateway, 1);
        (!ejected(&gateway, &sick)).then_some(())
    });
    let (old, before) = (healthy.requests().len(), sick.requests().len());
    let get = || {
        let mut client = gateway.connect();
        client.send_request("GET", "/", &[], "");
        client
    };
    // One request is for it what ten are for the other.
    let mut clients = Vec::new();
    for number in 1..=9 {
        clients.push(get());
        healthy.wait_for_requests(old + number);
    }
    assert_eq!(sick.requests().len(), before);
    clients.extend([get(), get()]);
    eventually("it has one", || (sick.requests().len() > before).then_some(()));
    gate.open();
    clients.iter_mut().for_each(|client| drop(client.response().expect(200)));
}
