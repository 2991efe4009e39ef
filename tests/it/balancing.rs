//! Which endpoint a request goes to: by exact requests in flight, in turn, by weight, and to a backup last.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::harness::*;
use crate::queue::checked;

/// Two endpoints, or whatever `{endpoints}` says, balanced as `{balance}` says.
const ONE_GROUP: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[admin]
listen = ["127.0.0.1:0"]
[log]
access = "{dir}/access.log"
[upstreams.app]
endpoints = [{endpoints}]
balance = "{balance}"
health = { interval = "1h" }
[[routes]]
upstream = "app"
"#;

/// Answers with its name; `/hold` only once the gate is open.
fn named(name: &'static str, gate: &Gate) -> Origin {
    Origin::start(script(name, gate))
}

fn script(name: &'static str, gate: &Gate) -> impl Fn(&mut Connection) + Send + Sync + 'static {
    let gate = gate.clone();
    move |connection| {
        while let Some(request) = connection.read_request() {
            if request.target.ends_with("/hold") {
                gate.wait();
            }
            connection.answer(200, name);
        }
    }
}

fn group(balance: &str, endpoints: &[String]) -> Gateway {
    let gateway = start(balance, endpoints);
    // The first health check is in flight as well.
    checked(&gateway, endpoints.len());
    gateway
}

fn start(balance: &str, endpoints: &[String]) -> Gateway {
    Gateway::with(ONE_GROUP).set("balance", balance).set("endpoints", &endpoints.join(", ")).start()
}

fn plain(origin: &Origin) -> String {
    format!("\"{}\"", origin.address())
}

fn with(origin: &Origin, keys: &str) -> String {
    format!("{{ address = \"{}\", {keys} }}", origin.address())
}

/// Sends a request that is held, on a connection of its own, and waits until an app has it.
fn hold(gateway: &Gateway, target: &str, origins: &[&Origin]) -> Client {
    let count = || origins.iter().map(|origin| origin.requests().len()).sum::<usize>();
    let before = count();
    let mut client = gateway.connect();
    client.send_request("GET", target, &[], "");
    eventually("an app has the request", || (count() > before).then_some(()));
    client
}

/// Who answers `count` requests that follow one another on one connection: each is over before the next is read.
fn answers(gateway: &Gateway, target: &str, count: usize) -> String {
    let mut client = gateway.connect();
    (0..count).map(|_| client.get(target).expect(200).text().to_owned()).collect()
}

#[test]
fn the_next_request_goes_to_the_emptier_endpoint() {
    let gate = Gate::new();
    let (a, b) = (named("a", &gate), named("b", &gate));
    let gateway = group("least_conn", &[plain(&a), plain(&b)]);

    let mut first = hold(&gateway, "/hold", &[&a, &b]);
    let emptier = if a.requests().is_empty() { "a" } else { "b" };
    assert_eq!(answers(&gateway, "/", 6), emptier.repeat(6));

    // Another one held goes there as well; then both have one, and equals take turns.
    let mut second = hold(&gateway, "/hold", &[&a, &b]);
    let both = answers(&gateway, "/", 6);
    assert!(both == "ababab" || both == "bababa", "{both}");
    let in_flight = |origin: &Origin| {
        let endpoint = origin.address().to_string();
        gateway.metrics().value("propylon_upstream_in_flight", &[("endpoint", &endpoint)])
    };
    assert_eq!((in_flight(&a), in_flight(&b)), (Some(1.0), Some(1.0)));

    gate.open();
    first.response().expect(200);
    second.response().expect(200);
}

#[test]
fn equals_take_turns_also_when_nothing_is_in_flight() {
    let gate = Gate::new();
    let origins = [named("a", &gate), named("b", &gate), named("c", &gate)];
    let gateway = group("least_conn", &origins.each_ref().map(plain));
    assert_eq!(answers(&gateway, "/", 9), "abcabcabc");
}

#[test]
fn weights_share_out_the_requests_in_flight() {
    let gate = Gate::new();
    let (heavy, light) = (named("heavy", &gate), named("light", &gate));
    let gateway = group("least_conn", &[with(&heavy, "weight = 2"), plain(&light)]);

    let mut held: Vec<Client> = (0..6).map(|_| hold(&gateway, "/hold", &[&heavy, &light])).collect();
    assert_eq!((heavy.requests().len(), light.requests().len()), (4, 2));

    gate.open();
    held.iter_mut().for_each(|client| drop(client.response().expect(200)));
}

#[test]
fn round_robin_gives_each_its_share_in_an_even_order() {
    let gate = Gate::new();
    let (a, b) = (named("a", &gate), named("b", &gate));
    let gateway = group("round_robin", &[with(&a, "weight = 3"), plain(&b)]);
    assert_eq!(answers(&gateway, "/", 12), "aabaaabaaaba");
}

#[test]
fn round_robin_does_not_look_at_what_is_in_flight() {
    let gate = Gate::new();
    let (a, b) = (named("a", &gate), named("b", &gate));
    let gateway = group("round_robin", &[plain(&a), plain(&b)]);
    let mut held: Vec<Client> = (0..4).map(|_| hold(&gateway, "/hold", &[&a, &b])).collect();
    assert_eq!((a.requests().len(), b.requests().len()), (2, 2));
    assert_eq!(answers(&gateway, "/", 4), "abab");
    gate.open();
    held.iter_mut().for_each(|client| drop(client.response().expect(200)));
}

#[test]
fn every_request_takes_exactly_one_turn_however_many_come_at_once() {
    let gate = Gate::new();
    let (a, b) = (named("a", &gate), named("b", &gate));
    let gateway = group("round_robin", &[plain(&a), plain(&b)]);
    let each = rounds(50, 2000);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| answers(&gateway, "/", each));
        }
    });
    assert_eq!((a.requests().len(), b.requests().len()), (4 * each, 4 * each));
}

#[test]
fn concurrent_requests_are_spread_by_exact_counts() {
    // Nothing is answered before all have arrived: any count that was read and not taken would show as a skew.
    let gate = Gate::new();
    let origins = [named("a", &gate), named("b", &gate), named("c", &gate)];
    let gateway = group("least_conn", &origins.each_ref().map(plain));
    thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| gateway.get("/hold").expect(200));
        }
        eventually("all requests have arrived", || {
            (origins.iter().map(|origin| origin.requests().len()).sum::<usize>() == 30).then_some(())
        });
        gate.open();
    });
    assert_eq!(origins.each_ref().map(|origin| origin.requests().len()), [10, 10, 10]);
}

#[test]
fn a_backup_is_used_only_while_no_other_is_healthy() {
    let gate = Gate::new();
    let (mut primary, backup) = (named("primary ", &gate), named("backup ", &gate));
    let gateway = Gateway::with(
        r#"
        [server]
        listen = ["127.0.0.1:0"]
        [admin]
        listen = ["127.0.0.1:0"]
        [log]
        access = "{dir}/access.log"
        [upstreams.app]
        endpoints = ["{primary}", { address = "{backup}", backup = true }]
        health = { interval = "200ms", timeout = "200ms", rise = 1, fall = 1 }
        [[routes]]
        upstream = "app"
        "#,
    )
    .set("primary", primary.address())
    .set("backup", backup.address())
    .start();

    // However busy the primary is, the backup is left alone.
    let mut held: Vec<Client> = (0..3).map(|_| hold(&gateway, "/hold", &[&primary, &backup])).collect();
    assert_eq!(answers(&gateway, "/", 3), "primary ".repeat(3));
    gate.open();
    held.iter_mut().for_each(|client| drop(client.response().expect(200)));
    assert_eq!(backup.requests().len(), 0);

    let endpoint = primary.address().to_string();
    let healthy = |value: f64| {
        eventually("the primary's health changes", || {
            let now = gateway.metrics().value("propylon_upstream_healthy", &[("endpoint", &endpoint)]);
            (now == Some(value)).then_some(())
        });
    };
    primary.stop();
    healthy(0.0);
    let before = gateway.access_log(6).len();
    assert_eq!(answers(&gateway, "/", 3), "backup ".repeat(3));
    // It was chosen, not fallen back to.
    assert!(
        gateway.access_log(before + 3)[before..].iter().all(|line| line["retries"].is_null() || line["retries"] == 0)
    );

    let _primary = Origin::start_at(primary.address(), script("primary ", &gate));
    healthy(1.0);
    assert_eq!(answers(&gateway, "/", 3), "primary ".repeat(3));
}

/// Two groups: `left` has the shared address alone, `right` has it and another one.
const TWO_GROUPS: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[admin]
listen = ["127.0.0.1:0"]
[log]
access = "{dir}/access.log"
[upstreams.left]
endpoints = ["{shared}"]
health = { interval = "1h" }
[upstreams.right]
endpoints = ["{shared_again}", "{other}"]
health = { interval = "1h" }
[[routes]]
path = "/left/*"
upstream = "left"
[[routes]]
path = "/right/*"
upstream = "right"
"#;

#[test]
fn two_groups_that_name_one_address_share_its_count() {
    let gate = Gate::new();
    let (shared, other) = (named("shared ", &gate), named("other ", &gate));
    let gateway = Gateway::with(TWO_GROUPS)
        .set("shared", shared.address())
        .set("shared_again", shared.address())
        .set("other", other.address())
        .start();
    checked(&gateway, 3);

    assert_eq!(answers(&gateway, "/right/", 4), "shared other shared other ");
    let mut held = hold(&gateway, "/left/hold", &[&shared]);
    assert_eq!(answers(&gateway, "/right/", 4), "other ".repeat(4));
    gate.open();
    held.response().expect(200);
}

#[test]
fn a_unix_socket_reached_through_a_symbolic_link_is_the_same_address() {
    let gate = Gate::new();
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real"), dir.path().join("link"));
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let shared = Origin::start_at(&Address::Unix(real.join("app.sock")), script("shared ", &gate));
    let other = named("other ", &gate);
    let gateway = Gateway::with(TWO_GROUPS)
        .set("shared", shared.address())
        .set("shared_again", &Address::Unix(link.join("app.sock")))
        .set("other", other.address())
        .start();
    checked(&gateway, 3);

    assert_eq!(answers(&gateway, "/right/", 4), "shared other shared other ");
    let mut held = hold(&gateway, "/left/hold", &[&shared]);
    assert_eq!(answers(&gateway, "/right/", 4), "other ".repeat(4));
    gate.open();
    held.response().expect(200);
}

#[test]
fn an_address_that_two_paths_lead_to_is_one_endpoint_of_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let origin = Origin::start_at(&Address::Unix(dir.path().join("app.sock")), move |connection| {
        while connection.read_request().is_some() {
            counted.fetch_add(1, Ordering::SeqCst);
            connection.reset();
        }
    });
    let again = Address::Unix(link.join("app.sock"));
    let gateway = start("least_conn", &[plain(&origin), format!("\"{again}\"")]);
    gateway.connect().request("POST", "/", &[], "1").expect(502);
    assert_eq!(count.load(Ordering::SeqCst), 1);
    let endpoints = gateway.metrics();
    let endpoints = endpoints.label_values("endpoint");
    assert_eq!(endpoints.len(), 1, "{endpoints:?}");
}
