//! Balancing by a key, and by chance: the same key goes to the same endpoint, unless that has far more to do than the others.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::*;
use crate::in_flight::nothing_in_flight;
use crate::queue::checked;

/// Endpoints as `{endpoints}` says, balanced as `{balance}` says; who connects is believed about its client.
const ONE_GROUP: &str = r#"
[server]
listen = ["127.0.0.1:0"]
trusted_proxies = ["127.0.0.1"]
[admin]
listen = ["127.0.0.1:0"]
control = "unix:{dir}/control.sock"
[log]
access = "{dir}/access.log"
[upstreams.app]
endpoints = [{endpoints}]
balance = "{balance}"
health = { interval = "1h" }
{keys}
[[routes]]
upstream = "app"
"#;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// So many keys that no endpoint is without one.
const KEYS: usize = 120;

/// Four apps that answer with their names; `/hold` only once the gate is open.
fn apps(gate: &Gate) -> [Origin; 4] {
    NAMES.map(|name| {
        let gate = gate.clone();
        Origin::start(move |connection| {
            while let Some(request) = connection.read_request() {
                if request.target == "/hold" {
                    gate.wait();
                }
                connection.answer(200, name);
            }
        })
    })
}

fn list(origins: &[&Origin]) -> String {
    let endpoints: Vec<String> = origins.iter().map(|origin| format!("\"{}\"", origin.address())).collect();
    endpoints.join(", ")
}

fn group(origins: &[Origin], balance: &str, keys: &str) -> Gateway {
    let gateway = Gateway::with(&ONE_GROUP.replace("{endpoints}", &list(&origins.iter().collect::<Vec<_>>())))
        .set("balance", balance)
        .set("keys", keys)
        .start();
    // The first health check is in flight as well.
    checked(&gateway, origins.len());
    gateway
}

/// One request, as a key makes it.
type Ask = fn(&mut Client, usize) -> Response;

/// Who answers each key, while nothing else is under way: one request more is reason enough to go elsewhere.
fn homes(gateway: &Gateway, ask: Ask) -> BTreeMap<usize, String> {
    nothing_in_flight(gateway);
    let mut client = gateway.connect();
    (0..KEYS).map(|key| (key, ask(&mut client, key).expect(200).text().to_owned())).collect()
}

fn by_user(client: &mut Client, key: usize) -> Response {
    client.request("GET", "/", &[("X-User", &format!("user {key}"))], "")
}

#[test]
fn the_same_key_goes_to_the_same_endpoint() {
    let keys: [(&str, Ask, Ask); 5] = [
        ("hash:header:x-user", by_user, |client, key| {
            client.request("POST", "/elsewhere", &[("x-user", &format!("user {key}")), ("Cookie", "x=1")], "body")
        }),
        (
            "hash:cookie:sid",
            |client, key| client.request("GET", "/", &[("Cookie", &format!("sid={key}"))], ""),
            |client, key| {
                client.request("GET", "/", &[("Cookie", &format!("a=1; SID=2; xsid=3; sid={key}; sid=other"))], "")
            },
        ),
        (
            "hash:client_ip",
            |client, key| client.request("GET", "/", &[("X-Forwarded-For", &format!("10.0.0.{key}"))], ""),
            |client, key| client.request("GET", "/", &[("X-Forwarded-For", &format!("::ffff:10.0.0.{key}"))], ""),
        ),
        (
            "hash:path",
            |client, key| client.get(&format!("/page/{key}?a=1")),
            |client, key| client.get(&format!("/p%61ge/{key}?b=2")),
        ),
        (
            "hash:host",
            |client, key| client.request("GET", "/", &[("Host", &format!("shop{key}.example.com"))], ""),
            |client, key| client.request("GET", "/other", &[("Host", &format!("SHOP{key}.example.com:8080"))], ""),
        ),
    ];
    let origins = apps(&Gate::new());
    for (balance, ask, ask_again) in keys {
        let gateway = group(&origins, balance, "");
        let first = homes(&gateway, ask);
        assert_eq!(first, homes(&gateway, ask_again), "{balance}");
        let used: BTreeSet<&String> = first.values().collect();
        assert_eq!(used.len(), 4, "{balance}: {first:?}");
        for name in NAMES {
            let share = first.values().filter(|home| *home == name).count();
            assert!((10..=60).contains(&share), "{balance}: {share} of {KEYS} are {name}'s");
        }
        // Another gateway is of the same opinion.
        assert_eq!(first, homes(&group(&origins, balance, ""), ask), "{balance}");
    }
}

#[test]
fn a_request_without_the_key_goes_to_the_least_busy() {
    let origins = apps(&Gate::new());
    for balance in ["hash:header:x-user", "hash:cookie:sid"] {
        let gateway = group(&origins, balance, "");
        let mut client = gateway.connect();
        let answers: String = (0..8).map(|_| client.get("/").expect(200).text().to_owned()).collect();
        assert_eq!(answers, "abcdabcd", "{balance}");
    }
}

#[test]
fn only_the_keys_of_an_endpoint_that_a_reload_removes_move() {
    let origins = apps(&Gate::new());
    let [a, b, c, d] = &origins;
    let gateway = group(&origins, "hash:header:x-user", "");
    let before = homes(&gateway, by_user);
    let reload = |endpoints: &[&Origin]| {
        gateway.rewrite_config(&ONE_GROUP.replace("{endpoints}", &list(endpoints)));
        gateway.reload();
        checked(&gateway, endpoints.len());
        homes(&gateway, by_user)
    };
    // In another order, which does not matter.
    let without = reload(&[d, c, a]);
    for (key, home) in &before {
        match home.as_str() {
            "b" => assert_ne!(without[key], "b"),
            _ => assert_eq!(without[key], *home, "key {key}"),
        }
    }
    // Those that moved did not all move to one.
    let moved: BTreeSet<&String> =
        before.iter().filter(|(_, home)| *home == "b").map(|(key, _)| &without[key]).collect();
    assert!(moved.len() > 1, "{moved:?}");
    assert_eq!(reload(&[a, b, c, d]), before);
}

#[test]
fn only_the_keys_of_an_endpoint_that_is_gone_move() {
    let mut origins = apps(&Gate::new());
    let gateway = group(&origins, "hash:header:x-user", "");
    let before = homes(&gateway, by_user);
    origins[2].stop();
    let without = homes(&gateway, by_user);
    for (key, home) in &before {
        assert!(without[key] == *home || home == "c", "key {key}: {home}, then {}", without[key]);
    }
    assert!(without.values().all(|home| home != "c"));
}

/// Sends `count` requests for one user that are held, and waits for each until an app has it. Their clients, and how many each app
/// got.
fn hold(gateway: &Gateway, origins: &[Origin], count: usize) -> (Vec<Client>, Vec<usize>) {
    let held = |origin: &Origin| origin.requests().iter().filter(|request| request.target == "/hold").count();
    nothing_in_flight(gateway);
    let mut clients = Vec::new();
    for number in 1..=count {
        let mut client = gateway.connect();
        client.send_request("GET", "/hold", &[("X-User", "user 7")], "");
        clients.push(client);
        eventually("an app has the request", || (origins.iter().map(held).sum::<usize>() == number).then_some(()));
    }
    (clients, origins.iter().map(held).collect())
}

fn release(gate: &Gate, clients: &mut [Client]) {
    gate.open();
    clients.iter_mut().for_each(|client| drop(client.response().expect(200)));
}

#[test]
fn a_hot_key_does_not_bury_its_endpoint() {
    let gate = Gate::new();
    let origins = apps(&gate);
    let gateway = group(&origins, "hash:header:x-user", "");
    let home = homes(&gateway, by_user)[&7].clone();
    let (mut clients, counts) = hold(&gateway, &origins, 60);
    // A quarter more than its part of 60 and no more, for each; and the one it belongs to has as many as any.
    let most = *counts.iter().max().unwrap();
    assert!(most <= 19 && counts.iter().all(|count| *count >= 1), "{counts:?}");
    let at_home = counts[NAMES.iter().position(|name| *name == home).unwrap()];
    assert_eq!(at_home, most, "{counts:?}, {home}");
    release(&gate, &mut clients);
    nothing_in_flight(&gateway);
    assert_eq!(homes(&gateway, by_user)[&7], home, "it goes home when the others are gone");
}

#[test]
fn a_few_requests_at_once_stay_where_their_key_belongs() {
    let gate = Gate::new();
    let origins = apps(&gate);
    let gateway = group(&origins, "hash:header:x-user", "");
    let (mut clients, mut counts) = hold(&gateway, &origins, 8);
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 0, 8]);
    release(&gate, &mut clients);
}

#[test]
fn a_hot_key_spills_over_where_its_endpoint_is_full_and_waits_where_all_are() {
    let gate = Gate::new();
    let origins = apps(&gate);
    let gateway = group(&origins, "hash:header:x-user", "max_in_flight = 2");
    let (mut clients, counts) = hold(&gateway, &origins, 8);
    assert_eq!(counts, [2; 4]);
    let mut waiting = gateway.connect();
    waiting.send_request("GET", "/", &[("X-User", "user 7")], "");
    eventually("it waits", || (gateway.metrics().value("propylon_queue_depth", &[]) == Some(1.0)).then_some(()));
    release(&gate, &mut clients);
    waiting.response().expect(200);
}

#[test]
fn by_chance_the_less_busy_of_two_is_asked() {
    let gate = Gate::new();
    let origins = apps(&gate);
    // Of two endpoints both are always looked at.
    let gateway = group(&origins[..2], "p2c", "");
    let (mut clients, counts) = hold(&gateway, &origins[..2], 20);
    assert_eq!(counts, [10, 10]);
    release(&gate, &mut clients);

    let gate = Gate::new();
    let origins = apps(&gate);
    let gateway = group(&origins, "p2c", "");
    let (mut clients, counts) = hold(&gateway, &origins, 40);
    assert!(counts.iter().all(|count| (6..=14).contains(count)), "{counts:?}");
    release(&gate, &mut clients);
    nothing_in_flight(&gateway);
    // Where nothing is in flight it is chance alone.
    let mut client = gateway.connect();
    (0..200).for_each(|_| drop(client.get("/").expect(200)));
    for origin in &origins {
        let asked = origin.requests().iter().filter(|request| request.target == "/").count();
        assert!((20..=90).contains(&asked), "{asked} of 200");
    }
}

#[test]
fn in_turn_keys_do_not_matter() {
    let origins = apps(&Gate::new());
    let gateway = group(&origins, "round_robin", "");
    let mut client = gateway.connect();
    (0..40).for_each(|_| drop(by_user(&mut client, 7).expect(200)));
    for origin in &origins {
        assert_eq!(origin.requests().len(), 10);
    }
}
