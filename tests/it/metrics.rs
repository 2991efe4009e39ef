//! What is counted, under which names, and who may ask: the admin listener, which only reads.

// Counts are whole numbers.
#![allow(clippy::float_cmp)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::harness::tls::{Authority, TlsClient};
use crate::harness::{Broken, Client, Gateway, Origin, eventually, rounds};

const CONFIG: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    listen_tls = ["127.0.0.2:0"]
    max_connections_per_ip = 20
    [[tls.certificates]]
    cert = "gateway.pem"
    key = "gateway.key"
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [redis]
    url = "{redis}"
    [upstreams.app]
    endpoints = ["{origin}"]
    workers = 4
    [upstreams.app.health]
    interval = "50ms"
    timeout = "50ms"
    [[routes]]
    name = "app"
    path = "/app/*"
    upstream = "app"
    [[routes]]
    path = "/fixed"
    methods = ["GET"]
    respond = { body = "fixed" }
    rate_limit = { rate = "1000/s" }
    [cache]
    disk = { path = "{dir}" }
    shared = true
    [[cache.rules]]
    path = "/kept/*"
    "#;

fn app() -> Origin {
    Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            match request.target.as_str() {
                "/app/close" => return,
                "/app/hang" => return connection.hang(),
                "/app/missing" => connection.answer(404, "nothing"),
                _ => connection.answer(200, "answer"),
            };
        }
    })
}

fn start(origin: &Origin) -> Gateway {
    let issued = Authority::shared().issue(&["localhost"]);
    // Nobody listens there: what is counted then is counted all the same.
    let redis = "unix:///nowhere/redis.sock";
    Gateway::with(CONFIG).set("origin", origin.address()).set("redis", redis).certificate("gateway", &issued).start()
}

/// Of each metric in docs/metrics.md: kind and labels.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let row = |row: &str| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let labels = cells[3].split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty());
        (cells[1].trim_matches('`').to_owned(), (cells[2].to_owned(), labels.collect()))
    };
    rows.map(row).collect()
}

/// Of each metric on the page: kind and labels, those of histograms without `le`.
fn exposed(page: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut exposed = BTreeMap::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        exposed.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
    }
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let family = family.filter(|family| exposed.contains_key(*family)).unwrap_or(name);
        let labels = line.split_once('{').map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
        let names = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
        let known = exposed.get_mut(family).unwrap_or_else(|| panic!("no TYPE for {line}"));
        known.1.extend(names.filter(|label| label != "le"));
    }
    exposed
}

fn page(gateway: &Gateway) -> String {
    gateway.admin_get("/metrics").expect(200).text().to_owned()
}

/// Names and labels of all samples, without their values.
fn series(page: &str) -> BTreeSet<String> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

#[test]
fn after_some_traffic_every_documented_metric_is_there() {
    let origin = app();
    let gateway = start(&origin);
    let mut client = gateway.connect();
    client.get("/app/x").expect(200);
    client.get("/app/missing").expect(404);
    client.get("/fixed").expect(200);
    client.get("/missing").expect(404);
    Client::connect_tls(&gateway.addrs()[1], &TlsClient::new(Authority::shared(), "localhost"))
        .get("/fixed")
        .expect(200);
    // Tried once more, as it is a GET.
    client.get("/app/close").expect(502);
    eventually("a health check", || {
        gateway.metrics().value("propylon_upstream_health_checks_total", &[("result", "pass")])
    });
    let page = page(&gateway);
    let (documented, exposed) = (documented(), exposed(&page));
    let names = |map: &BTreeMap<String, (String, BTreeSet<String>)>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&exposed), names(&documented));
    for (name, expected) in &documented {
        assert_eq!(&exposed[name], expected, "{name}");
    }
    let response = gateway.admin_get("/metrics");
    assert_eq!(response.field("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(response.field("cache-control"), Some("no-store"));
}

#[test]
fn what_is_counted_is_what_happened() {
    let origin = app();
    let gateway = start(&origin);
    let mut client = gateway.connect();
    for _ in 0..3 {
        client.get("/app/x").expect(200);
    }
    client.request("POST", "/app/missing", &[], "12345").expect(404);
    client.request("DELETE", "/fixed", &[], "").expect(405);
    client.get("/nowhere").expect(404);
    let mut leaving = gateway.connect();
    leaving.send_request("POST", "/app/hang", &[], "");
    origin.wait_for_requests(5);
    assert_eq!(gateway.metrics().value("propylon_requests_in_flight", &[("route", "app")]), Some(1.0));
    assert_eq!(gateway.metrics().value("propylon_upstream_in_flight", &[("upstream", "app")]), Some(1.0));
    leaving.reset();
    gateway.access_log(7);
    let in_flight = || gateway.metrics().value("propylon_requests_in_flight", &[]);
    eventually("no request is in flight", || (in_flight() == Some(0.0)).then_some(()));

    let metrics = gateway.metrics();
    let value = |name: &str, labels: &[(&str, &str)]| metrics.value(name, labels).unwrap_or(-1.0);
    let requests = |labels: &[(&str, &str)]| value("propylon_requests_total", labels);
    assert_eq!(requests(&[("route", "app"), ("method", "GET"), ("code", "2xx")]), 3.0);
    assert_eq!(requests(&[("route", "app"), ("method", "POST"), ("code", "4xx")]), 2.0);
    assert_eq!(requests(&[("route", "none"), ("code", "4xx")]), 2.0);
    assert_eq!(requests(&[]), 7.0);
    assert_eq!(value("propylon_request_duration_seconds_count", &[("route", "app")]), 5.0);
    assert_eq!(value("propylon_request_duration_seconds_bucket", &[("route", "app"), ("le", "+Inf")]), 5.0);
    assert_eq!(value("propylon_request_bytes_total", &[("route", "app")]), 5.0);
    assert_eq!(value("propylon_response_bytes_total", &[("route", "app")]), 3.0 * 6.0 + 7.0);
    assert_eq!(value("propylon_client_aborts_total", &[("route", "app")]), 1.0);
    assert_eq!(value("propylon_upstream_in_flight", &[]), 0.0);
    assert_eq!(value("propylon_upstream_capacity", &[("upstream", "app")]), 4.0);
    assert_eq!(value("propylon_upstream_requests_total", &[("code", "2xx")]), 3.0);
    assert_eq!(value("propylon_upstream_requests_total", &[("code", "4xx")]), 1.0);
    assert_eq!(value("propylon_rejections_total", &[("reason", "no_route")]), 1.0);
    assert_eq!(value("propylon_rejections_total", &[("reason", "method_not_allowed")]), 1.0);
    assert_eq!(value("propylon_rejections_total", &[("reason", "client_closed")]), 1.0);
    assert_eq!(value("propylon_rejections_total", &[]), 3.0);
    assert_eq!(value("propylon_connections_total", &[]), 2.0);
    assert_eq!(value("propylon_panics_total", &[]), 0.0);
    assert_eq!(value("propylon_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    assert!(value("process_open_fds", &[]) > 5.0 && value("process_start_time_seconds", &[]) > 1.6e9);
}

#[test]
fn connections_are_idle_until_a_request_begins() {
    let origin = app();
    let gateway = start(&origin);
    let listener = gateway.addr().to_string();
    let wait_for = |active: f64, idle: f64| {
        eventually(&format!("{active} active and {idle} idle connections"), || {
            let metrics = gateway.metrics();
            let state =
                |state| metrics.value("propylon_connections", &[("listener", &listener), ("state", state)]).unwrap();
            ((state("active"), state("idle")) == (active, idle)).then_some(())
        });
    };
    let silent = gateway.connect();
    wait_for(0.0, 1.0);
    let mut kept = gateway.connect();
    kept.get("/fixed").expect(200);
    wait_for(0.0, 2.0);
    kept.send_request("GET", "/app/hang", &[], "");
    wait_for(1.0, 1.0);
    let mut head = gateway.connect();
    head.send("GET / HT");
    wait_for(2.0, 1.0);
    drop((silent, kept, head));
    wait_for(0.0, 0.0);
    let mut many: Vec<_> = (0..21).map(|_| gateway.connect()).collect();
    many.last_mut().unwrap().closed();
    let refused = gateway.metrics().value("propylon_connections_refused_total", &[("reason", "per_ip_limit")]);
    assert_eq!(refused, Some(1.0));
}

#[test]
fn nothing_a_client_sends_becomes_a_label() {
    let origin = app();
    let gateway = start(&origin);
    let sweep = |round: usize| {
        let mut client = gateway.connect();
        let mut ask = |method: &str, target: &str, host: &str| {
            let fields = [("Host", host), ("User-Agent", host), ("X-Forwarded-For", "203.0.113.9"), ("X_Under", "1")];
            if client.request(method, target, &fields, "").fields.has("connection") {
                client = gateway.connect();
            }
        };
        ask(&format!("M{round}"), &format!("/app/{round}"), "test");
        ask("GET", &format!("/{round}?x={round}"), &format!("h{round}.example"));
        ask("get", &format!("/fixed/{round}%22%7d"), &format!("h{round}.example:{}", round % 60_000 + 1));
        ask("GET", &format!("/app/{round}/\"}}%0a"), &format!("[::{:x}]", round % 60_000));
        ask("POST", "/fixed", &format!("bad host {round}"));
        let mut raw = gateway.connect();
        raw.send(format!("X{round}\" /{round} HTTP/1.1\r\n\r\n"));
        let _ = raw.try_response();
    };
    sweep(0);
    gateway.access_log(6);
    let before = series(&page(&gateway));
    let sweeps = rounds(100, 2000);
    for round in 1..=sweeps {
        sweep(round);
    }
    let after = series(&page(&gateway));
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:?}");
}

#[test]
fn readiness_waits_for_what_is_required_and_follows_it() {
    let gate = crate::harness::Gate::new();
    let app = {
        let gate = gate.clone();
        move |connection: &mut crate::harness::Connection| {
            connection.read_request();
            gate.wait();
            connection.answer(200, "");
        }
    };
    let mut origin = Origin::start(app.clone());
    let config = r#"
        [server]
        listen = ["127.0.0.1:0"]
        [admin]
        listen = ["127.0.0.1:0"]
        ready_requires = ["app"]
        [upstreams.app]
        endpoints = ["{origin}"]
        [upstreams.app.health]
        path = "/healthz"
        interval = "5s"
        timeout = "5s"
        [upstreams.optional]
        endpoints = ["unix:{dir}/nobody.sock"]
        [[routes]]
        path = "/optional"
        upstream = "optional"
        [[routes]]
        upstream = "app"
        "#;
    let gateway = Gateway::with(config).set("origin", origin.address()).start();
    // The first check is on its way and nothing is known: traffic may flow, but nobody is told to send any.
    let readiness = gateway.admin_get("/readyz").expect(503);
    assert_eq!(readiness.text(), "no healthy endpoint in app\n");
    gateway.admin_get("/healthz").expect(200);
    gate.open();
    let ready = |status| {
        eventually("readiness changes", || Some(gateway.admin_get("/readyz")).filter(|answer| answer.status == status))
    };
    assert_eq!(ready(200).text(), "ready\n");

    gateway.rewrite_config(&config.replace("\"5s\"", "\"50ms\"").replace("path = \"/healthz\"", "fall = 1\nrise = 1"));
    gateway.signal(crate::harness::Signal::HUP);
    gateway.wait_for_log("configuration reloaded");
    origin.stop();
    assert_eq!(ready(503).text(), "no healthy endpoint in app\n");
    let _origin = Origin::start_at(origin.address(), app);
    ready(200);
}

#[test]
fn the_admin_listener_only_reads_and_refuses_the_rest() {
    let origin = app();
    let gateway = start(&origin);
    let ask = |method: &str, target: &str| Client::connect(gateway.admin()).request(method, target, &[], "");
    for path in ["/metrics", "/healthz", "/readyz", "/"] {
        ask("GET", path).expect(200);
        ask("GET", &format!("{path}?x=1")).expect(200);
        let head = ask("HEAD", path).expect(200);
        assert!(head.body.is_empty() && head.field("content-length") != Some("0"), "{head}");
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "GETS", "PURGE"] {
            assert_eq!(ask(method, path).expect(405).field("allow"), Some("GET, HEAD"));
        }
    }
    for path in ["/metrics/", "/METRICS", "/reload", "/fixed", "/app/x", "/..", "/metrics%00", "//metrics"] {
        let answer = ask("GET", path);
        assert!(matches!(answer.status, 400 | 404), "{path}: {answer}");
    }
    assert_eq!(gateway.metrics().value("propylon_config_generation", &[]), Some(1.0));
}

#[test]
fn hostile_heads_do_not_trouble_the_admin_listener() {
    let origin = app();
    let gateway = start(&origin);
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(1000));
    let hostile: [&[u8]; 9] = [
        b"NONSENSE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /metrics HTTP/1.1\nHost: a\n\n",
        long.as_bytes(),
        many.as_bytes(),
    ];
    for bytes in hostile {
        let mut client = Client::connect(gateway.admin());
        let _ = client.try_send(bytes);
        client.half_close();
        match client.try_response() {
            Ok(response) => assert!((400..=505).contains(&response.status), "{response}"),
            Err(Broken::Closed | Broken::Reset) => {}
            Err(other) => panic!("{other:?}"),
        }
        gateway.admin_get("/healthz").expect(200);
    }
    // One answer a connection: what follows is not read as a request.
    let mut client = Client::connect(gateway.admin());
    client.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().expect(200).field("connection"), Some("close"));
    client.closed();
}

#[test]
fn operators_are_answered_while_clients_wait() {
    let gateway = Gateway::start(
        r#"
        [server]
        listen = ["127.0.0.1:0"]
        max_connections = 3
        [admin]
        listen = ["127.0.0.1:0"]
        [[routes]]
        respond = { body = "here" }
        "#,
    );
    let mut clients: Vec<_> = (0..3).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.get("/").expect(200);
    }
    let mut waiting = gateway.connect();
    waiting.send_request("GET", "/", &[], "");
    let open = gateway.metrics().value("propylon_connections", &[]);
    assert_eq!(open, Some(3.0));
    gateway.admin_get("/readyz").expect(200);
    waiting.assert_silent();
    drop(clients);
    waiting.response().expect(200);
}

#[test]
fn clients_never_reach_what_is_for_operators() {
    let origin = app();
    let gateway = start(&origin);
    for path in ["/metrics", "/healthz", "/readyz", "/reload", "/status"] {
        let mut client = gateway.connect();
        for host in ["test", &gateway.admin().to_string(), "localhost"] {
            let answer = client.request("GET", path, &[("Host", host)], "").expect(404);
            assert_eq!(answer.json()["reason"], "no_route");
        }
        client.request("POST", path, &[], "").expect(404);
        client.send(format!("GET http://{}{path} HTTP/1.1\r\nHost: {0}\r\n\r\n", gateway.admin()));
        assert!(!client.response().text().contains("propylon_"));
    }
}
