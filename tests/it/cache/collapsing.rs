//! One fetch for all who want the same at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{Said, app, builder, purge, site, status_of};
use crate::harness::{Client, Gate, Origin, eventually, rounds};

/// As many clients, each with a request under way.
fn herd(gateway: &crate::harness::Gateway, count: usize, fields: &[(&str, &str)]) -> Vec<Client> {
    (0..count)
        .map(|_| {
            let mut client = gateway.connect();
            client.send_request("GET", "/", fields, "");
            client
        })
        .collect()
}

fn in_flight(gateway: &crate::harness::Gateway) -> f64 {
    gateway.metrics().value("propylon_requests_in_flight", &[("route", "app")]).unwrap()
}

#[track_caller]
fn wait_for_herd(gateway: &crate::harness::Gateway, count: usize) {
    #[allow(clippy::cast_precision_loss, clippy::float_cmp)]
    eventually("all have asked", || (in_flight(gateway) == count as f64).then_some(()));
}

#[test]
fn a_thousand_clients_on_a_cold_key_are_one_request() {
    let count = rounds(1000, 1000);
    let gate = Gate::new();
    let opened = gate.clone();
    let site = site("ttl = \"1m\"\ncollapse_timeout = \"1m\"", move |_, count| {
        opened.wait();
        Said::ok("", format!("body {count}"))
    });
    let mut clients = herd(&site.gateway, count, &[]);
    wait_for_herd(&site.gateway, count);
    assert_eq!(site.origin.wait_for_requests(1).len(), 1);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response().expect(200).text(), "body 0");
    }
    assert_eq!(site.asked(), 1);
    #[allow(clippy::cast_precision_loss)]
    site.counts("collapsed", (count - 1) as f64);
}

#[test]
fn answers_that_are_not_kept_do_not_hold_up_those_who_wait() {
    // The app answers nobody until all are there: one after the other they would never be.
    const CLIENTS: usize = 20;
    let gate = Gate::new();
    let opened = gate.clone();
    let site = site(r#"ttl = "1m""#, move |_, count| {
        if count == 0 {
            opened.wait();
        }
        Said::ok("Set-Cookie: who=you", count.to_string())
    });
    let mut clients = herd(&site.gateway, CLIENTS, &[]);
    wait_for_herd(&site.gateway, CLIENTS);
    assert_eq!(site.origin.wait_for_requests(1).len(), 1);
    gate.open();
    let mut seen: Vec<String> =
        clients.iter_mut().map(|client| client.response().expect(200).text().to_owned()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), CLIENTS, "each has its own");
    assert_eq!(status_of(&site.get(&[])), "propylon; fwd=miss; detail=set_cookie");
}

#[test]
fn who_waits_too_long_asks_for_himself() {
    let gate = Gate::new();
    let opened = gate.clone();
    let site = site("ttl = \"1m\"\ncollapse_timeout = \"200ms\"", move |_, count| {
        if count == 0 {
            opened.wait();
        }
        Said::ok("", count.to_string())
    });
    let mut first = herd(&site.gateway, 1, &[]);
    site.origin.wait_for_requests(1);
    let began = Instant::now();
    assert_eq!(site.get(&[]).expect(200).text(), "1");
    assert!(began.elapsed() >= Duration::from_millis(200));
    gate.open();
    assert_eq!(first[0].response().expect(200).text(), "0");
}

#[test]
fn nobody_waits_where_none_is_to() {
    let gate = Gate::new();
    let opened = gate.clone();
    let site = site("ttl = \"1m\"\ncollapse_timeout = \"0s\"", move |_, count| {
        opened.wait();
        Said::ok("", count.to_string())
    });
    let mut clients = herd(&site.gateway, 5, &[]);
    site.origin.wait_for_requests(5);
    gate.open();
    clients.iter_mut().for_each(|client| drop(client.response().expect(200)));
}

#[test]
fn when_the_one_who_asks_fails_another_does() {
    let gate = Gate::new();
    let (opened, count) = (gate.clone(), AtomicUsize::new(0));
    let origin = Origin::start(move |connection| {
        while connection.read_request().is_some() {
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                opened.wait();
                return;
            }
            connection.write(Said::ok("", "good").bytes(false));
        }
    });
    let gateway = builder(&origin, r#"ttl = "1m""#).start();
    let mut clients = herd(&gateway, 10, &[]);
    wait_for_herd(&gateway, 10);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response().expect(200).text(), "good");
    }
    // The one that broke was repeated, as a GET may be.
    assert_eq!(origin.requests().len(), 2);
}

#[test]
fn a_client_that_leaves_does_not_take_the_answer_with_it() {
    let (gate, begun) = (Gate::new(), Gate::new());
    let (opened, has_begun) = (gate.clone(), begun.clone());
    let origin = Origin::start(move |connection| {
        while connection.read_request().is_some() {
            connection.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234");
            has_begun.open();
            opened.wait();
            connection.write("56789");
        }
    });
    let gateway = builder(&origin, r#"ttl = "1m""#).start();
    let client = herd(&gateway, 1, &[]);
    begun.wait();
    let mut waiting = herd(&gateway, 1, &[]);
    wait_for_herd(&gateway, 2);
    drop(client);
    gate.open();
    assert_eq!(waiting[0].response().expect(200).text(), "0123456789");
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn those_who_wait_for_another_language_get_their_own() {
    let gate = Gate::new();
    let opened = gate.clone();
    let site = site(r#"ttl = "1m""#, move |request, _| {
        opened.wait();
        Said::ok("Vary: Accept-Language", request.field("accept-language").unwrap())
    });
    let mut german = herd(&site.gateway, 5, &[("Accept-Language", "de")]);
    let mut english = herd(&site.gateway, 5, &[("Accept-Language", "en")]);
    wait_for_herd(&site.gateway, 10);
    assert_eq!(site.origin.wait_for_requests(1).len(), 1, "nobody knows yet that it depends on it");
    gate.open();
    german.iter_mut().for_each(|client| assert_eq!(client.response().expect(200).text(), "de"));
    english.iter_mut().for_each(|client| assert_eq!(client.response().expect(200).text(), "en"));
    assert_eq!(site.asked(), 2);
}

#[test]
fn what_is_purged_while_it_is_fetched_is_fetched_once_more_for_all_who_wait() {
    let (gates, count) = ([Gate::new(), Gate::new()], AtomicUsize::new(0));
    let held = gates.clone();
    let origin = Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            let number = if request.method == "GET" { count.fetch_add(1, Ordering::SeqCst) } else { 9 };
            held.get(number).into_iter().for_each(Gate::wait);
            connection.write(Said::ok("", number.to_string()).bytes(false));
        }
    });
    let gateway = builder(&origin, r#"ttl = "1m""#).start();
    let mut clients = herd(&gateway, 20, &[]);
    wait_for_herd(&gateway, 20);
    assert_eq!(origin.wait_for_requests(1).len(), 1);
    gateway.connect().request("POST", "/", &[], "").expect(200);
    gates[0].open();
    origin.wait_for_requests(3);
    gates[1].open();
    let mut given: Vec<String> =
        clients.iter_mut().map(|client| client.response().expect(200).text().to_owned()).collect();
    given.sort();
    // The one whose own request it was has what it asked for.
    assert_eq!((&*given[0], given[1..].iter().all(|body| body == "1")), ("0", true), "{given:?}");
    assert_eq!(origin.requests().len(), 3);
}

#[test]
fn what_is_purged_softly_while_it_is_fetched_is_fetched_once_more_for_all_who_wait() {
    let gates = [Gate::new(), Gate::new()];
    let held = gates.clone();
    let site = site(r#"ttl = "1m""#, move |_, count| {
        held.get(count).into_iter().for_each(Gate::wait);
        Said::ok("", count.to_string())
    });
    let mut clients = herd(&site.gateway, 20, &[]);
    wait_for_herd(&site.gateway, 20);
    site.origin.wait_for_requests(1);
    purge(&site.gateway, &["--soft", "http://test/"]);
    gates[0].open();
    site.origin.wait_for_requests(2);
    gates[1].open();
    let mut given: Vec<String> =
        clients.iter_mut().map(|client| client.response().expect(200).text().to_owned()).collect();
    given.sort();
    assert_eq!((&*given[0], given[1..].iter().all(|body| body == "1")), ("0", true), "{given:?}");
    assert_eq!(site.asked(), 2);
}

#[test]
fn what_is_purged_by_a_post_while_it_is_fetched_is_not_kept() {
    let gate = Gate::new();
    let opened = gate.clone();
    let origin = app(move |request, count| {
        if count == 0 {
            opened.wait();
        }
        Said::ok("", format!("{} {count}", request.method))
    });
    let gateway = builder(&origin, r#"ttl = "1m""#).start();
    let mut early = herd(&gateway, 1, &[]);
    origin.wait_for_requests(1);
    gateway.connect().request("POST", "/", &[], "").expect(200);
    gate.open();
    assert_eq!(early[0].response().expect(200).text(), "GET 0");
    assert_eq!(gateway.get("/").expect(200).text(), "GET 2", "what was asked for before the change");
    assert_eq!(gateway.get("/").expect(200).text(), "GET 2");
}
