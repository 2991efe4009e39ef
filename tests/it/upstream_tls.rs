//! TLS to the app: whom the gateway speaks to, what it shows, and that nothing else is different.

// Counters are whole numbers, and small ones.
#![allow(clippy::float_cmp, clippy::cast_precision_loss)]

use std::sync::Arc;
use std::time::Duration;

use rcgen::date_time_ymd;
use rustls::ServerConfig;

use crate::harness::tls::{Authority, Issued, Key, server_config};
use crate::harness::{Broken, Connection, Gate, Gateway, GatewayBuilder, Origin, eventually, rounds};

const GATEWAY: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    [admin]
    listen = ["127.0.0.1:0"]
    control = "unix:{dir}/control.sock"
    [log]
    access = "{dir}/access.log"
    [upstreams.app]
    endpoints = ["{origin}"]
    # One, at the start.
    health = { interval = "1h" }
    queue = { timeout = "300ms" }
    keepalive_timeout = "60s"
    {keys}
    [[routes]]
    upstream = "app"
    [[routes]]
    path = "/streamed/*"
    upstream = "app"
    buffer_requests = false
    buffer_responses = false
"#;
/// How most tests here are connected.
const TRUSTING: &str = "tls = { ca = \"ca.pem\" }";

fn builder(origin: &Origin, keys: &str) -> GatewayBuilder {
    let gateway = Gateway::with(GATEWAY).file("ca.pem", Authority::shared().pem());
    gateway.set("origin", origin.address()).set("keys", keys)
}

fn start(origin: &Origin, keys: &str) -> Gateway {
    builder(origin, keys).start()
}

fn config(names: &[&str]) -> Arc<ServerConfig> {
    server_config(&Authority::shared().issue(names), None)
}

/// Answers each request with its body.
fn echo(connection: &mut Connection) {
    while let Some(request) = connection.read_request() {
        connection.answer(200, request.body);
    }
}

fn secure(names: &[&str]) -> Origin {
    Origin::start_tls(config(names), echo)
}

#[test]
fn an_endpoint_is_known_by_its_address_or_by_the_name_that_is_asked_for() {
    let tell = |connection: &mut Connection| {
        while connection.read_request().is_some() {
            let asked = connection.tls().asked().unwrap_or_default();
            connection.answer(200, asked);
        }
    };
    let by_address = Origin::start_tls(config(&["127.0.0.1"]), tell);
    assert_eq!(start(&by_address, TRUSTING).get("/").expect(200).text(), "");
    let by_name = Origin::start_tls(config(&["app.test"]), tell);
    let keys = "tls = { ca = \"ca.pem\", sni = \"app.test\" }";
    assert_eq!(start(&by_name, keys).get("/").expect(200).text(), "app.test");
    let wild = Origin::start_tls(config(&["*.app.test"]), tell);
    let keys = "tls = { ca = \"ca.pem\", sni = \"one.app.test\" }";
    assert_eq!(start(&wild, keys).get("/").expect(200).text(), "one.app.test");
    let local = Origin::start_tls(config(&["localhost"]), tell);
    let toml = GATEWAY.replace("{origin}", &format!("localhost:{}", local.address().port()));
    let gateway = Gateway::with(&toml).file("ca.pem", Authority::shared().pem()).set("keys", TRUSTING).start();
    assert_eq!(gateway.get("/").expect(200).text(), "localhost");
}

#[test]
fn an_endpoint_that_is_not_who_it_should_be_is_told_nothing() {
    let issue = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        Authority::shared().issue_with(&["app.test"], Key::Ecdsa, |params| change(params))
    };
    let cases: [(&str, Issued); 4] = [
        ("certificate not valid for name", Authority::shared().issue(&["other.test", "127.0.0.1"])),
        ("UnknownIssuer", Authority::new().issue(&["app.test"])),
        ("expired", issue(&|params| params.not_after = date_time_ymd(2020, 1, 1))),
        ("not valid yet", issue(&|params| params.not_before = date_time_ymd(2999, 1, 1))),
    ];
    let keys = "tls = { ca = \"ca.pem\", sni = \"app.test\" }";
    for (why, issued) in cases {
        let origin = Origin::start_tls(server_config(&issued, None), echo);
        let gateway = builder(&origin, keys).start();
        let answer = gateway.connect().request("POST", "/", &[], "secret");
        assert!([502, 503].contains(&answer.status), "{why}: {answer}");
        assert!(!answer.text().contains("secret"));
        let line = gateway.wait_for_log("request failed");
        assert!(line.contains("detail=") && line.contains(why), "{why}: {line}");
        // It broke off, with an alert: not a byte of the request was sent.
        let refused = eventually("the origin was told", || Some(origin.refused()).filter(|all| !all.is_empty()));
        assert!(refused.iter().all(|error| error.contains("received fatal alert")), "{refused:?}");
        assert!(origin.requests().is_empty());
        let errors = gateway.metrics().value("propylon_upstream_errors_total", &[("kind", "connect_other")]);
        assert!(errors.is_some_and(|count| count > 0.0), "{errors:?}");
    }
    // A server that speaks no TLS is told nothing either: the script sees no request.
    let plain = Origin::start(|connection| {
        connection.write("HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let gateway = start(&plain, TRUSTING);
    gateway.connect().request("POST", "/", &[], "secret").expect(503);
    assert!(plain.requests().is_empty());
    // Nor is one that speaks TLS asked without.
    let origin = secure(&["127.0.0.1"]);
    let answer = start(&origin, "").get("/");
    assert_eq!((answer.status, origin.requests().len()), (502, 0));
    assert!(origin.refused().contains(&"plain text".to_owned()));
}

#[test]
fn without_verification_anybody_is_spoken_to_and_it_is_warned_of() {
    let foreign = server_config(&Authority::new().issue(&["other.test"]), None);
    let origin = Origin::start_tls(foreign, echo);
    let gateway = start(&origin, "tls = { verify = false }");
    assert_eq!(gateway.connect().request("POST", "/", &[], "hi").expect(200).text(), "hi");
    assert!(
        gateway.log().iter().any(|line| line.contains(" WARN ") && line.contains("not checked")),
        "{:?}",
        gateway.log()
    );
}

#[test]
fn a_server_that_demands_a_certificate_is_shown_ours() {
    let authority = Authority::new();
    let demanding = server_config(&Authority::shared().issue(&["127.0.0.1"]), Some(&authority));
    let origin = Origin::start_tls(demanding, echo);
    let keys = "tls = { ca = \"ca.pem\", cert = \"us.pem\", key = \"us.key\" }";
    let known = builder(&origin, keys).certificate("us", &authority.issue(&["gateway"])).start();
    known.get("/").expect(200);
    let unknown = start(&origin, TRUSTING);
    unknown.get("/").expect(502);
    unknown.wait_for_log("received fatal alert: CertificateRequired");
    let stranger = builder(&origin, keys).certificate("us", &Authority::new().issue(&["gateway"])).start();
    stranger.get("/").expect(502);
    assert_eq!(origin.requests().len(), 1);
    // A new one is taken over without a word from anybody.
    let renewed = authority.issue(&["gateway"]).write(stranger.dir(), "us");
    assert!(renewed.cert.exists());
    stranger.wait_for_log("certificates have changed on disk, and are in use");
    stranger.get("/").expect(200);
}

#[test]
fn connections_are_kept_and_new_ones_resumed() {
    let kinds = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = kinds.clone();
    let origin = Origin::start_tls(config(&["127.0.0.1"]), move |connection| {
        seen.lock().unwrap().push(connection.tls().is_resumed());
        while let Some(request) = connection.read_request() {
            connection.answer(200, request.body);
            if request.target == "/last" {
                return connection.close_notify();
            }
        }
    });
    let gateway = start(&origin, TRUSTING);
    let count = rounds(50, 5000);
    let mut client = gateway.connect();
    for number in 0..count {
        assert_eq!(client.request("POST", "/", &[], number.to_string()).expect(200).text(), number.to_string());
    }
    // The other was a probe.
    assert_eq!(origin.connections(), 2);
    let reused = gateway.metrics().value("propylon_upstream_connections_total", &[("reused", "true")]);
    assert_eq!(reused, Some(count as f64 - 1.0));
    client.get("/last").expect(200);
    client.get("/").expect(200);
    assert_eq!(*kinds.lock().unwrap(), [false, false, true]);
}

#[test]
fn what_tls_says_to_itself_does_not_spoil_an_idle_connection() {
    let [idle, said] = [Gate::new(), Gate::new()];
    let gates = [idle.clone(), said.clone()];
    let origin = Origin::start_tls(config(&["127.0.0.1"]), move |connection| {
        while let Some(request) = connection.read_request() {
            connection.answer(200, request.body);
            if request.target == "/update" {
                gates[0].wait();
                connection.tls().update_keys();
                connection.tls().send_pending();
                gates[1].open();
            }
        }
    });
    let gateway = start(&origin, TRUSTING);
    gateway.get("/update").expect(200);
    eventually("it is idle", || {
        (gateway.metrics().value("propylon_endpoint_idle_connections", &[]) == Some(1.0)).then_some(())
    });
    idle.open();
    said.wait();
    // Our keys have to change too, before what we send next.
    let body = vec![b'x'; 200_000];
    assert_eq!(gateway.connect().request("POST", "/", &[], &body).expect(200).body, body);
    // Requests on one, and a probe.
    assert_eq!(origin.connections(), 2);
}

#[test]
fn an_idle_connection_that_talks_or_ends_is_not_used() {
    for talks in [true, false] {
        let [idle, said] = [Gate::new(), Gate::new()];
        let gates = [idle.clone(), said.clone()];
        let origin = Origin::start_tls(config(&["127.0.0.1"]), move |connection| {
            while let Some(request) = connection.read_request() {
                connection.answer(200, "good");
                if request.target == "/first" {
                    gates[0].wait();
                    if talks {
                        connection.answer(200, "poisoned");
                    } else {
                        connection.close_notify();
                    }
                    gates[1].open();
                }
            }
        });
        let gateway = start(&origin, TRUSTING);
        let mut client = gateway.connect();
        client.get("/first").expect(200);
        idle.open();
        said.wait();
        for _ in 0..3 {
            assert_eq!(client.request("POST", "/", &[], "1").expect(200).text(), "good");
        }
        let used: Vec<_> = origin.requests().iter().map(|request| request.connection).collect();
        assert!(used[1] != used[0] && used[1..].iter().all(|number| *number == used[1]), "{used:?}");
    }
}

#[test]
fn large_bodies_go_both_ways_however_slowly_the_app_reads() {
    let go = Gate::new();
    let waits = go.clone();
    let origin = Origin::start_tls(config(&["127.0.0.1"]), move |connection| {
        while let Some(mut request) = connection.read_head() {
            if request.target == "/slow" {
                waits.wait();
            }
            connection.read_body(&mut request);
            connection.answer(200, request.body);
        }
    });
    let gateway = start(&origin, TRUSTING);
    for target in ["/", "/streamed/"] {
        let mut client = gateway.connect();
        for length in [1, 16_384, 65_536, 1_000_000, 6_000_000] {
            let body: Vec<u8> = (0..length).map(|n| u8::try_from((n ^ (n >> 8)) & 0xff).unwrap()).collect();
            assert!(client.request("POST", target, &[], &body).expect(200).body == body, "{length}");
        }
    }
    for length in [300_000, 3_000_000, 5_000_001] {
        let body = vec![b'y'; length];
        let mut client = gateway.connect();
        client.send_request("POST", "/slow", &[], &body);
        eventually("all that the socket takes was sent", || {
            (gateway.metrics().value("propylon_upstream_in_flight", &[]) == Some(1.0)).then_some(())
        });
        go.open();
        assert!(client.response().expect(200).body == body, "{length}");
    }
}

#[test]
fn an_answer_that_ends_with_its_connection_is_whole_only_if_the_server_says_so() {
    // RFC 9112 section 9.8.
    let origin = Origin::start_tls(config(&["127.0.0.1"]), |connection| {
        if let Some(request) = connection.read_request() {
            let (head, polite) = match &*request.target {
                "/until-close" => ("Connection: close\r\n\r\nhello", true),
                "/cut" => ("Connection: close\r\n\r\nhello", false),
                "/counted" => ("Connection: close\r\nContent-Length: 5\r\n\r\nhello", false),
                "/chunked" => ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false),
                "/empty" => ("Connection: close\r\nContent-Length: 0\r\n\r\n", true),
                other => panic!("{other}"),
            };
            connection.write(format!("HTTP/1.1 200 OK\r\n{head}"));
            if polite {
                connection.close_notify();
            }
            connection.close();
        }
    });
    let gateway = start(&origin, TRUSTING);
    for target in ["/until-close", "/counted", "/chunked"] {
        assert_eq!(gateway.get(target).expect(200).text(), "hello", "{target}");
    }
    assert_eq!(gateway.get("/empty").expect(200).text(), "");
    let mut client = gateway.connect();
    client.send_request("GET", "/cut", &[], "");
    match client.try_response() {
        Err(Broken::Truncated(answer)) => assert_eq!(answer.status, 200),
        Ok(answer) => assert_eq!(answer.status, 502, "{answer}"),
        Err(Broken::Reset | Broken::Closed) => {}
        Err(broken) => panic!("{broken:?}"),
    }
    let line = gateway.access_log(5).into_iter().find(|line| line["path"] == "/cut").unwrap();
    assert!(!line["reason"].is_null(), "{line}");
}

#[test]
fn health_checks_go_over_tls_and_by_the_same_certificate() {
    for path in ["", "path = \"/healthz\", "] {
        let origin = secure(&["127.0.0.1"]);
        let health = format!("health = {{ {path}interval = \"1s\", timeout = \"1s\", fall = 1, rise = 1 }}");
        let toml = GATEWAY.replace("health = { interval = \"1h\" }", &health);
        let checking = |origin: &Origin| {
            let gateway = Gateway::with(&toml).file("ca.pem", Authority::shared().pem()).set("keys", TRUSTING);
            gateway.set("origin", origin.address()).start()
        };
        let gateway = checking(&origin);
        let checks = |result: &str| {
            let count = gateway.metrics().value("propylon_upstream_health_checks_total", &[("result", result)]);
            count.unwrap_or_default()
        };
        eventually("it is checked", || (checks("pass") >= 2.0).then_some(()));
        gateway.get("/").expect(200);
        assert_eq!(checks("fail"), 0.0);
        assert_eq!(
            origin.requests().iter().filter(|request| request.target == "/healthz").count() > 0,
            !path.is_empty()
        );
        // The probe has agreed to its end: no server complains of it.
        assert_eq!(origin.refused(), Vec::<String>::new(), "{path}");

        let foreign = Origin::start_tls(server_config(&Authority::new().issue(&["127.0.0.1"]), None), echo);
        let gateway = checking(&foreign);
        let line = gateway.wait_for_log("endpoint is unhealthy");
        assert!(line.contains("UnknownIssuer"), "{line}");
        gateway.get("/").expect(503);
    }
}

#[test]
fn a_reload_goes_over_to_tls_and_back() {
    let origin = Origin::start_either(config(&["127.0.0.1"]), |connection| {
        let secure = connection.is_tls();
        while connection.read_request().is_some() {
            connection.answer(200, if secure { "secure" } else { "plain" });
        }
    });
    let gateway = start(&origin, "");
    let mut client = gateway.connect();
    for (keys, expected) in
        [("", "plain"), (TRUSTING, "secure"), ("", "plain"), ("tls = false", "plain"), (TRUSTING, "secure")]
    {
        gateway.rewrite_config(&GATEWAY.replace("{keys}", keys));
        gateway.reload();
        for _ in 0..2 {
            assert_eq!(client.get("/").expect(200).text(), expected, "{keys}");
        }
    }
    assert_eq!(origin.refused(), Vec::<String>::new());
    // An authority that is gone takes its connections with it.
    gateway.rewrite_config(&GATEWAY.replace("{keys}", "tls = { ca = \"other.pem\" }"));
    Authority::new().write(gateway.dir(), "other.pem");
    gateway.reload();
    client.get("/").expect(503);
}

#[test]
fn how_long_a_server_keeps_idle_connections_is_learnt_over_tls_too() {
    // With and without a word at the end, as some have none.
    for polite in [true, false] {
        let origin = Origin::start_tls(config(&["127.0.0.1"]), move |connection| {
            if connection.read_request().is_some() {
                connection.answer(200, "");
                connection.delay(Duration::from_millis(600));
                if polite {
                    connection.close_notify();
                }
            }
        });
        let toml = GATEWAY.replace("keepalive_timeout = \"60s\"", "");
        let gateway = Gateway::with(&toml).file("ca.pem", Authority::shared().pem()).set("keys", TRUSTING);
        let gateway = gateway.set("origin", origin.address()).start();
        let learnt = || gateway.metrics().value("propylon_endpoint_keepalive_seconds", &[]).unwrap();
        assert_eq!(learnt(), 1.0);
        eventually("half of 600 ms", || {
            eventually("it hangs up", || (origin.open_connections() == 0).then_some(()));
            gateway.get("/").expect(200);
            (learnt() < 0.4).then_some(())
        });
        assert!(learnt() >= 0.29);
    }
}
