//! Host names of endpoints: asked of the name servers configured, followed as they change, kept when nobody answers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::harness::*;
use crate::in_flight::nothing_in_flight;
use crate::queue::checked;

/// One group with a name for its endpoint.
const ONE_NAME: &str = r#"
[server]
listen = ["127.0.0.1:0"]
resolvers = ["{dns}"]
threads = 1
[admin]
listen = ["127.0.0.1:0"]
[log]
access = "{dir}/access.log"
[upstreams.app]
endpoints = ["app.test:{port}"]
health = { interval = "1h" }
[upstreams.literal]
endpoints = ["{literal}"]
health = { interval = "1h" }
[[routes]]
upstream = "app"
[[routes]]
path = "/literal"
upstream = "literal"
"#;

/// A gateway whose name server answers what `dns` says, before an app that listens at `port`.
fn one_name(dns: &DnsServer, port: u16, literal: &Origin) -> Gateway {
    Gateway::with(ONE_NAME).set("dns", &dns.address()).set("port", &port).set("literal", literal.address()).start()
}

fn named(address: &Address, name: &'static str, gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::start_at(address, move |connection| {
        while let Some(request) = connection.read_request() {
            if request.target == "/hold" {
                gate.wait();
            }
            connection.answer(200, name);
        }
    })
}

/// The same port at another loopback address.
fn at(host: &str, port: u16) -> Address {
    Address::parse(&format!("{host}:{port}"))
}

/// Two apps on one port of two addresses.
fn two(gate: &Gate) -> (Origin, Origin, u16) {
    let a = named(&at("127.0.0.2", 0), "a", gate);
    let port = a.address().port();
    let b = named(&at("127.0.0.3", port), "b", gate);
    (a, b, port)
}

fn failures(gateway: &Gateway) -> Option<f64> {
    gateway.metrics().value("propylon_upstream_resolve_failures_total", &[])
}

/// Who answers `count` requests.
fn answers(gateway: &Gateway, count: usize) -> String {
    let mut client = gateway.connect();
    (0..count).map(|_| client.get("/").expect(200).text().to_owned()).collect()
}

#[test]
fn a_name_is_resolved_before_the_first_request() {
    let dns = DnsServer::start();
    dns.set("app.test", 60, &["127.0.0.1"]);
    let origin = named(&Address::any_port(), "app", &Gate::new());
    let gateway = one_name(&dns, origin.address().port(), &origin);
    assert_eq!(gateway.get("/").expect(200).text(), "app");
    assert_eq!(gateway.access_log(1)[0]["endpoint"], origin.address().to_string());
    assert_eq!(failures(&gateway), Some(0.0));
}

#[test]
fn every_address_of_a_name_is_an_endpoint() {
    let dns = DnsServer::start();
    dns.set("app.test", 60, &["127.0.0.2", "127.0.0.3", "127.0.0.2"]);
    let (a, b, port) = two(&Gate::new());
    let gateway = one_name(&dns, port, &a);
    checked(&gateway, 3);
    let both = answers(&gateway, 6);
    assert!(both == "ababab" || both == "bababa", "{both}");
    assert_eq!((a.requests().len(), b.requests().len()), (3, 3));
}

#[test]
fn an_ipv6_address_will_do() {
    let dns = DnsServer::start();
    dns.set("app.test", 60, &["::1"]);
    let origin = named(&Address::parse("[::1]:0"), "six", &Gate::new());
    let gateway = one_name(&dns, origin.address().port(), &origin);
    assert_eq!(gateway.get("/").expect(200).text(), "six");
}

/// Sets its flag when it goes.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn addresses_come_and_go_with_their_ttl_and_no_request_is_lost() {
    let dns = DnsServer::start();
    dns.set("app.test", 1, &["127.0.0.2"]);
    let gate = Gate::new();
    let (a, b, port) = two(&gate);
    let gateway = one_name(&dns, port, &a);
    let mut held = gateway.connect();
    held.send_request("GET", "/hold", &[], "");
    a.wait_for_requests(1);

    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut client = gateway.connect();
            while !stop.load(Ordering::SeqCst) {
                client.get("/").expect(200);
            }
        });
        // However this ends, the other thread does as well.
        let _ends = Ends(&stop);
        dns.set("app.test", 1, &["127.0.0.2", "127.0.0.3"]);
        b.wait_for_requests(3);
        dns.set("app.test", 1, &["127.0.0.3"]);
        gateway.wait_for_log(&format!("addresses=127.0.0.3:{port}"));
        assert!(!asking.is_finished(), "a request failed");
    });
    assert_eq!(answers(&gateway, 5), "bbbbb");
    // A request that is on its way ends where it is.
    gate.open();
    assert_eq!(held.response().expect(200).text(), "a");
    assert_eq!(failures(&gateway), Some(0.0));
    eventually("nothing is in flight", || {
        (gateway.metrics().value("propylon_requests_in_flight", &[]) == Some(0.0)).then_some(())
    });
}

#[test]
fn a_failure_keeps_the_last_good_addresses() {
    let dns = DnsServer::start();
    dns.set("app.test", 1, &["127.0.0.2", "127.0.0.3"]);
    let (a, _b, port) = two(&Gate::new());
    let gateway = one_name(&dns, port, &a);
    checked(&gateway, 3);
    assert_eq!(answers(&gateway, 2).len(), 2);
    for fault in [DnsServer::fail as fn(&DnsServer, &str), DnsServer::remove, |dns, name| dns.set(name, 1, &[])] {
        let before = failures(&gateway);
        fault(&dns, "app.test");
        eventually("a lookup has failed", || (failures(&gateway) > before).then_some(()));
        let both = answers(&gateway, 4);
        assert!(both == "abab" || both == "baba", "{both}");
    }
    gateway.wait_for_log("name could not be resolved");
    dns.set("app.test", 1, &["127.0.0.3"]);
    eventually("the new address is used", || (answers(&gateway, 3) == "bbb").then_some(()));
    nothing_in_flight(&gateway);
}

#[test]
fn a_name_unknown_at_start_is_503_until_it_is_known() {
    let dns = DnsServer::start();
    dns.fail("app.test");
    let origin = named(&Address::any_port(), "app", &Gate::new());
    let gateway = one_name(&dns, origin.address().port(), &origin);
    let response = gateway.connect().request("POST", "/", &[], "body").expect(503);
    assert_eq!(response.field("Retry-After"), Some("1"));
    let line = &gateway.access_log(1)[0];
    assert_eq!(line["reason"], "no_endpoint", "{line}");
    gateway.get("/literal").expect(200);

    dns.set("app.test", 60, &["127.0.0.1"]);
    eventually("the name is known", || (gateway.get("/").status == 200).then_some(()));
    nothing_in_flight(&gateway);
}

#[test]
fn a_silent_name_server_holds_nobody_up() {
    let dns = DnsServer::start();
    dns.silence("app.test");
    let origin = named(&Address::any_port(), "app", &Gate::new());
    // It starts, if late, and has one thread to do everything with.
    let gateway = one_name(&dns, origin.address().port(), &origin);
    let asked = || dns.queries("app.test");
    let before = eventually("a lookup is under way", || {
        let now = asked();
        (now > 0 && failures(&gateway) >= Some(1.0)).then_some(now)
    });
    let next = eventually("another lookup is under way", || (asked() > before).then(asked));
    // Were the thread kept by the lookup, each of these would see it end.
    let mut client = gateway.connect();
    for _ in 0..200 {
        client.get("/literal").expect(200);
    }
    let after = asked();
    assert!(after - next <= 20, "{after} questions, {next} before 200 requests");
    gateway.get("/").expect(503);
}

#[test]
fn a_reload_takes_over_what_is_known_while_the_name_server_is_down() {
    let dns = DnsServer::start();
    dns.set("app.test", 60, &["127.0.0.1"]);
    let origin = named(&Address::any_port(), "app", &Gate::new());
    let toml = ONE_NAME.replace("[log]", "control = \"unix:{dir}/control.sock\"\n[log]");
    let gateway = Gateway::with(&toml)
        .set("dns", &dns.address())
        .set("port", &origin.address().port())
        .set("literal", origin.address())
        .start();
    assert_eq!(answers(&gateway, 1), "app");
    dns.fail("app.test");
    gateway.rewrite_config(&toml.replace("[upstreams.app]", "[upstreams.app]\nkeepalive_timeout = \"off\""));
    gateway.reload();
    assert_eq!(answers(&gateway, 2), "appapp");
    assert!(failures(&gateway) >= Some(1.0));
}
