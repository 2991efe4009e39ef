//! Limits within one gateway: whom they are counted for, what is answered, and what they leave alone.

use crate::harness::http2::Http2;
use crate::harness::tls::Authority;
use crate::harness::websocket::{self, WebSocket};
use crate::harness::{Gate, Gateway, GatewayBuilder, Origin, Response, eventually, rounds};

/// One route with `{limit}` before an app; nothing comes back to a bucket while a test runs.
const GATEWAY: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    trusted_proxies = ["127.0.0.1"]
    [admin]
    listen = ["127.0.0.1:0"]
    control = "unix:{dir}/control.sock"
    [log]
    access = "{dir}/access.log"
    [upstreams.app]
    endpoints = ["{origin}"]
    [[routes]]
    name = "app"
    upstream = "app"
    rate_limit = {limit}
"#;

fn gateway(origin: &Origin, limit: &str) -> GatewayBuilder {
    Gateway::with(GATEWAY).set("origin", origin.address()).set("limit", limit)
}

/// The statuses of GETs with these fields, one after the other.
fn statuses(gateway: &Gateway, requests: &[&[(&str, &str)]]) -> Vec<u16> {
    requests.iter().map(|fields| get(gateway, fields).status).collect()
}

#[track_caller]
fn get(gateway: &Gateway, fields: &[(&str, &str)]) -> Response {
    gateway.connect().request("GET", "/", fields, "")
}

fn from(address: &str) -> [(&str, &str); 1] {
    [("X-Forwarded-For", address)]
}

#[test]
fn a_bucket_that_is_empty_refuses_and_says_until_when() {
    let origin = Origin::echo_head();
    let gateway = gateway(&origin, r#"{ rate = "2/h", burst = 3 }"#).start();
    for left in [2, 1, 0] {
        let answer = gateway.get("/").expect(200);
        let told = answer.field("ratelimit").unwrap();
        assert!(told.starts_with(&format!("\"app\";r={left};t=")), "{told}");
        assert_eq!(answer.field("ratelimit-policy"), Some("\"app\";q=3;w=5400"));
    }
    let refused = gateway.get("/").expect(429);
    let seconds: u32 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((1700..=1800).contains(&seconds), "{seconds}");
    assert!(refused.field("ratelimit").unwrap().starts_with("\"app\";r=0;t=5"));
    assert_eq!(refused.field("ratelimit-policy"), Some("\"app\";q=3;w=5400"));
    assert_eq!(refused.field("content-type"), Some("application/problem+json"));
    assert_eq!(refused.field("cache-control"), Some("no-store"));
    let problem = refused.json();
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!(problem["violated-policies"], serde_json::json!(["app"]));
    assert_eq!((&problem["status"], &problem["reason"]), (&429.into(), &"rate_limited".into()));

    let page = get(&gateway, &[("Accept", "text/html")]).expect(429);
    assert!(page.text().contains("429 Too Many Requests") && page.field("retry-after").is_some());
    assert_eq!(origin.requests().len(), 3);

    let lines = gateway.access_log(5);
    assert_eq!((&lines[3]["reason"], &lines[3]["limit"]), (&"rate_limited".into(), &"app".into()));
    assert!(lines[2].get("limit").is_none() && lines[3].get("dry_run").is_none());
    let metrics = gateway.metrics();
    let decided = |decision| {
        metrics.value("propylon_rate_limit_decisions_total", &[("limit", "app"), ("decision", decision)]).unwrap()
    };
    assert_eq!((decided("allowed"), decided("refused"), decided("dry_run_refused")), (3.0, 2.0, 0.0));
    assert_eq!(metrics.value("propylon_rejections_total", &[("reason", "rate_limited")]), Some(2.0));
    assert_eq!(metrics.value("propylon_redis_up", &[]), None);
}

#[test]
fn a_bucket_fills_again() {
    let origin = Origin::echo_head();
    let gateway = gateway(&origin, r#"{ rate = "20/s", burst = 1 }"#).start();
    gateway.get("/").expect(200);
    eventually("a token has come in", || (gateway.get("/").status == 200).then_some(()));
}

#[test]
fn each_address_has_its_own_and_of_ipv6_each_network() {
    let origin = Origin::echo_head();
    let gateway = gateway(&origin, r#"{ rate = "1/h" }"#).start();
    for (first, same, other) in [
        ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", "2001:db8:0:1::1"),
    ] {
        assert_eq!(statuses(&gateway, &[&from(first), &from(same), &from(other)]), [200, 429, 200], "{first}");
    }
    // What a client claims beyond what a trusted proxy has said of it counts for nothing.
    assert_eq!(statuses(&gateway, &[&from("198.51.100.7, 192.0.2.1")]), [429]);
}

#[test]
fn fields_cookies_hosts_and_combinations() {
    let origin = Origin::echo_head();
    let limit = |key: &str| gateway(&origin, &format!(r#"{{ rate = "1/h", key = {key} }}"#)).start();

    let by_field = limit(r#""header:X-Api-Key""#);
    let key = |value| [("X-Api-Key", value)];
    assert_eq!(statuses(&by_field, &[&key("a"), &key("b"), &key("a")]), [200, 200, 429]);
    // Without one the address stands for it, and an empty one is none.
    assert_eq!(statuses(&by_field, &[&[], &key(""), &from("192.0.2.1"), &key("c")]), [200, 429, 200, 200]);

    let by_cookie = limit(r#""cookie:sid""#);
    let cookie = |value| [("Cookie", value)];
    assert_eq!(statuses(&by_cookie, &[&cookie("sid=1"), &cookie("a=b; sid=1"), &cookie("sid=2")]), [200, 429, 200]);

    let by_host = limit(r#""host""#);
    let ask = |host: &str| {
        let mut client = by_host.connect();
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        client.response().status
    };
    assert_eq!([ask("a.example"), ask("A.example:80"), ask("b.example")], [200, 429, 200]);

    let by_route = limit(r#""route""#);
    assert_eq!(statuses(&by_route, &[&from("192.0.2.1"), &from("192.0.2.2")]), [200, 429]);

    let both = limit(r#"["client_ip", "header:X-Api-Key"]"#);
    let ask = |address, key| get(&both, &[("X-Forwarded-For", address), ("X-Api-Key", key)]).status;
    assert_eq!(
        [ask("192.0.2.1", "a"), ask("192.0.2.1", "b"), ask("192.0.2.2", "a"), ask("192.0.2.1", "a")],
        [200, 200, 200, 429]
    );
}

#[test]
fn a_request_that_one_limit_refuses_takes_nothing_of_the_others() {
    let origin = Origin::echo_head();
    let limits = r#"[{ name = "all", rate = "5/h", key = "route" }, { name = "each", rate = "2/h" }]"#;
    let gateway = gateway(&origin, limits).start();
    let first = get(&gateway, &from("192.0.2.1")).expect(200);
    let told = first.field("ratelimit").unwrap();
    assert!(told.starts_with("\"all\";r=4;t=") && told.contains(", \"each\";r=1;t="), "{told}");
    assert_eq!(first.field("ratelimit-policy"), Some("\"all\";q=5;w=3600, \"each\";q=2;w=3600"));
    get(&gateway, &from("192.0.2.1")).expect(200);
    for _ in 0..9 {
        let refused = get(&gateway, &from("192.0.2.1")).expect(429);
        assert_eq!(refused.json()["violated-policies"], serde_json::json!(["each"]));
    }
    assert_eq!(statuses(&gateway, &[&from("192.0.2.2"), &from("192.0.2.2"), &from("192.0.2.3")]), [200; 3]);
    let refused = get(&gateway, &from("192.0.2.4")).expect(429);
    assert_eq!(refused.json()["violated-policies"], serde_json::json!(["all"]));
}

#[test]
fn limits_of_one_name_share_their_buckets() {
    let limit = r#"rate_limit = { name = "per-client", rate = "2/h" }"#;
    let gateway = Gateway::start(&format!(
        r#"
        [server]
        listen = ["127.0.0.1:0"]
        [admin]
        listen = ["127.0.0.1:0"]
        [[routes]]
        path = "/a"
        respond = {{ body = "a" }}
        {limit}
        [[routes]]
        path = "/b"
        redirect = {{ to = "https://example.com/" }}
        {limit}
        [[routes]]
        path = "/c"
        respond = {{ body = "c" }}
        rate_limit = {{ rate = "2/h" }}
        "#
    ));
    let ask = |path| gateway.get(path).status;
    assert_eq!(
        [ask("/a"), ask("/b"), ask("/a"), ask("/b"), ask("/c"), ask("/c"), ask("/c")],
        [200, 308, 429, 429, 200, 200, 429]
    );
    assert!(gateway.metrics().label_values("limit").is_superset(&["per-client", "/c"].into()));
}

#[test]
fn dear_requests_take_more() {
    let origin = Origin::echo_head();
    let gateway = gateway(&origin, r#"{ rate = "10/h", cost = 4 }"#).start();
    let first = gateway.get("/").expect(200);
    assert!(first.field("ratelimit").unwrap().starts_with("\"app\";r=1;t="));
    assert_eq!(first.field("ratelimit-policy"), Some("\"app\";q=2;w=3600"));
    assert_eq!(statuses(&gateway, &[&[], &[]]), [200, 429]);
}

#[test]
fn a_dry_run_refuses_nobody_and_tells_the_operator() {
    let origin = Origin::echo_head();
    let limits =
        r#"[{ name = "planned", rate = "1/h", dry_run = true }, { name = "busy", concurrency = 1, dry_run = true }]"#;
    let gateway = gateway(&origin, limits).start();
    for _ in 0..3 {
        let answer = gateway.get("/").expect(200);
        assert!(answer.field("ratelimit").is_none() && answer.field("ratelimit-policy").is_none());
    }
    let lines = gateway.access_log(3);
    assert_eq!((&lines[2]["limit"], &lines[2]["dry_run"]), (&"planned".into(), &true.into()));
    assert!(lines[0].get("limit").is_none() && lines[2].get("reason").is_none());
    let metrics = gateway.metrics();
    let decided = |decision| {
        metrics.value("propylon_rate_limit_decisions_total", &[("limit", "planned"), ("decision", decision)]).unwrap()
    };
    assert_eq!((decided("allowed"), decided("refused"), decided("dry_run_refused")), (1.0, 0.0, 2.0));
}

#[test]
fn so_many_requests_of_a_client_at_once() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |connection| {
        while connection.read_request().is_some() {
            held.wait();
            connection.answer(200, "done");
        }
    });
    let gateway = gateway(&origin, "{ concurrency = 2 }").start();
    let mut busy: Vec<_> = (0..2).map(|_| gateway.connect()).collect();
    busy.iter_mut().for_each(|client| client.send_request("GET", "/", &from("192.0.2.1"), ""));
    origin.wait_for_requests(2);
    let refused = get(&gateway, &from("192.0.2.1")).expect(429);
    assert_eq!((refused.field("retry-after"), &refused.json()["reason"]), (Some("1"), &"concurrency_limited".into()));
    let mut other = gateway.connect();
    other.send_request("GET", "/", &from("192.0.2.2"), "");
    origin.wait_for_requests(3);
    gate.open();
    busy.iter_mut().for_each(|client| drop(client.response().expect(200)));
    other.response().expect(200);
    get(&gateway, &from("192.0.2.1")).expect(200);
    let metrics = gateway.metrics();
    let refused = [("limit", "app"), ("decision", "concurrency_refused")];
    assert_eq!(metrics.value("propylon_rate_limit_decisions_total", &refused), Some(1.0));
}

#[test]
fn whoever_has_read_an_answer_may_ask_again_at_once() {
    let origin = Origin::echo_head();
    let chunked = Origin::fixed("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n");
    let toml = r#"
        [server]
        listen = ["127.0.0.1:0"]
        [admin]
        listen = ["127.0.0.1:0"]
        [upstreams.app]
        endpoints = ["{origin}"]
        [upstreams.chunked]
        endpoints = ["{chunked}"]
        [[routes]]
        upstream = "app"
        rate_limit = { concurrency = 1 }
        [[routes]]
        path = "/chunked"
        upstream = "chunked"
        rate_limit = { concurrency = 1 }
        [[routes]]
        path = "/here"
        respond = { body = "here" }
        rate_limit = { concurrency = 1 }
        [[routes]]
        path = "/empty"
        respond = { status = 204 }
        rate_limit = { concurrency = 1 }
    "#;
    let gateway = Gateway::with(toml).set("origin", origin.address()).set("chunked", chunked.address()).start();
    for number in 0..rounds(150, 3000) {
        for (target, status) in [("/", 200), ("/chunked", 200), ("/here", 200), ("/empty", 204)] {
            assert_eq!(gateway.get(target).status, status, "{target}, {number}");
        }
    }
}

#[test]
fn a_place_comes_back_from_clients_that_leave_and_is_kept_by_those_who_stay() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            if request.field("upgrade").is_some() {
                connection.write(websocket::agreement());
                connection.read_rest();
                return;
            }
            if request.target == "/wait" {
                held.wait();
            }
            connection.answer(200, "done");
        }
    });
    let gateway = gateway(&origin, "{ concurrency = 1 }").start();
    for _ in 0..5 {
        let mut client = gateway.connect();
        let seen = origin.requests().len();
        client.send_request("GET", "/wait", &[], "");
        origin.wait_for_requests(seen + 1);
        assert_eq!(gateway.get("/").status, 429);
        client.reset();
        eventually("the place of a client that left is free", || (gateway.get("/").status == 200).then_some(()));
    }
    gate.open();
    // A WebSocket is under way until it is closed.
    let socket = WebSocket::open(gateway.connect(), "/");
    assert_eq!(gateway.get("/").status, 429);
    drop(socket);
    eventually("the place of a WebSocket that is closed is free", || (gateway.get("/").status == 200).then_some(()));
}

#[test]
fn what_an_app_says_of_its_own_limits_stays() {
    let origin = Origin::fixed(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-RateLimit-Remaining: 7\r\nRateLimit: \"own\";r=7\r\nRetry-After: 9\r\n\r\n",
    );
    let gateway = gateway(&origin, r#"{ rate = "1/h" }"#).start();
    let answer = gateway.get("/").expect(200);
    assert_eq!(answer.fields.all("ratelimit"), ["\"own\";r=7"]);
    assert_eq!(answer.fields.all("ratelimit-policy"), [""; 0]);
    assert_eq!((answer.field("x-ratelimit-remaining"), answer.field("retry-after")), (Some("7"), Some("9")));
    let refused = gateway.get("/").expect(429);
    assert!(refused.field("x-ratelimit-remaining").is_none() && refused.field("ratelimit").is_some());
}

#[test]
fn nothing_of_a_body_is_asked_for() {
    let origin = Origin::echo_head();
    let gateway = gateway(&origin, r#"{ rate = "1/h" }"#).start();
    gateway.connect().request("POST", "/", &[], "body").expect(200);
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    client.response().expect(429);
    // One too large is told first that it is one too many.
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 99999999999\r\n\r\n");
    client.response().expect(429);
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn streams_of_http2_are_counted_alike() {
    let toml = r#"
        [server]
        listen = []
        listen_tls = ["127.0.0.1:0"]
        [admin]
        listen = ["127.0.0.1:0"]
        [[tls.certificates]]
        cert = "{dir}/gateway.pem"
        key = "{dir}/gateway.key"
        [[routes]]
        respond = { body = "here" }
        rate_limit = { rate = "2/h" }
    "#;
    let gateway = Gateway::with(toml).certificate("gateway", &Authority::shared().issue(&["localhost"])).start();
    let client = Http2::connect(gateway.tls_addr());
    let statuses: Vec<u16> = (0..3).map(|_| client.get("/").status).collect();
    assert_eq!(statuses, [200, 200, 429]);
}

#[test]
fn a_reload_keeps_the_buckets_of_limits_that_stay_as_they_are() {
    let origin = Origin::echo_head();
    let limits = |kept: &str, other: &str| {
        format!(
            r#"[{{ name = "kept", rate = "2/h", dry_run = {kept} }}, {{ name = "other", rate = "{other}", dry_run = true }}]"#
        )
    };
    let gateway = gateway(&origin, "{limits}").set("limits", &limits("false", "9/h")).start();
    assert_eq!(statuses(&gateway, &[&[]]), [200]);
    gateway.rewrite_config(&GATEWAY.replace("{limit}", &limits("false", "5/h")));
    let said = gateway.reload();
    assert!(said.stdout.contains("rate limits changed: other"), "{}", said.stdout);
    assert_eq!(statuses(&gateway, &[&[], &[]]), [200, 429]);
    gateway.rewrite_config(&GATEWAY.replace("{limit}", &limits("true", "5/h")));
    gateway.reload();
    get(&gateway, &[]).expect(200);
    let metrics = gateway.metrics();
    let watched = [("limit", "kept"), ("decision", "dry_run_refused")];
    assert_eq!(metrics.value("propylon_rate_limit_decisions_total", &watched), Some(1.0));
    // What it was counted by before is gone: it begins full.
    gateway.rewrite_config(&GATEWAY.replace("{limit}", r#"{ name = "kept", rate = "3/h" }"#));
    gateway.reload();
    assert_eq!(statuses(&gateway, &[&[], &[], &[], &[]]), [200, 200, 200, 429]);
}
