//! A new configuration while requests run: none is lost, none sees half of one, and a file that is wrong changes nothing.

// Counts are whole numbers.
#![allow(clippy::float_cmp)]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::harness::{Address, Client, Gate, Gateway, Origin, Signal, eventually, rounds};

/// Both sides of a request carry the name of the configuration, so that a request that saw two would show.
const CONFIG_A: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    [admin]
    listen = ["127.0.0.1:0"]
    control = "unix:{dir}/control.sock"
    [log]
    access = "{dir}/access.log"
    [upstreams.app]
    endpoints = ["{origin}"]
    first_byte_timeout = "20s"
    [[routes]]
    name = "a"
    upstream = "app"
    request_headers.set = { X-Config = "a" }
    response_headers.set = { X-Served-By = "a" }
    "#;

const CONFIG_B: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    [admin]
    listen = ["127.0.0.1:0"]
    control = "unix:{dir}/control.sock"
    [log]
    access = "{dir}/access.log"
    [upstreams.app]
    endpoints = ["{origin}"]
    first_byte_timeout = "30s"
    connect_timeout = "3s"
    keepalive_timeout = "500ms"
    [upstreams.unused]
    endpoints = ["{origin}"]
    [[routes]]
    path = "/unused/*"
    upstream = "unused"
    [[routes]]
    name = "b"
    path = "/app/*"
    upstream = "app"
    request_headers.set = { X-Config = "b" }
    response_headers.set = { X-Served-By = "b" }
    [routes.timeouts]
    read = "15s"
    "#;

/// A gateway that answers by itself and has a control socket; the word says which configuration answered.
fn answering(word: &str, more: &str) -> String {
    format!(
        r#"
        [server]
        listen = ["127.0.0.1:0"]
        [admin]
        listen = ["127.0.0.1:0"]
        control = "unix:{{dir}}/control.sock"
        [log]
        access = "{{dir}}/access.log"
        [[routes]]
        respond = {{ body = "{word}" }}
        {more}
        "#
    )
}

#[test]
fn fifty_reloads_under_load_lose_no_request() {
    let origin = Origin::echo_head();
    let gateway = Gateway::with(CONFIG_A).set("origin", origin.address()).start();
    let over = AtomicBool::new(false);
    let served = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let whole = |response: &crate::harness::Response| {
        let by = response.field("x-served-by").expect("a configuration").to_owned();
        assert!(
            response.text().to_ascii_lowercase().contains(&format!("x-config: {by}\r\n")),
            "one request, two configurations: {response}"
        );
        served[usize::from(by == "b")].fetch_add(1, Ordering::Relaxed);
    };
    let reloads = rounds(50, 1000);

    thread::scope(|scope| {
        for method in ["GET", "POST"] {
            for _ in 0..2 {
                scope.spawn(|| {
                    // One connection for all of it: a reload closes none.
                    let mut client = gateway.connect();
                    while !over.load(Ordering::Relaxed) {
                        whole(&client.request(method, "/app/kept", &[], "").expect(200));
                    }
                });
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        whole(&gateway.connect().request(method, "/app/fresh", &[], "body").expect(200));
                    }
                });
            }
        }
        for round in 1..=reloads {
            gateway.rewrite_config(if round % 2 == 1 { CONFIG_B } else { CONFIG_A });
            if round % 5 == 0 {
                gateway.signal(Signal::HUP);
            } else {
                gateway.reload();
            }
            let generation = f64::from(u32::try_from(round).unwrap() + 1);
            eventually("the new configuration is in force", || {
                (gateway.metrics().value("propylon_config_generation", &[]) == Some(generation)).then_some(())
            });
        }
        over.store(true, Ordering::Relaxed);
    });

    for count in &served {
        assert!(count.load(Ordering::Relaxed) > 0, "both configurations served: {served:?}");
    }
    let metrics = gateway.metrics();
    let applied = metrics.value("propylon_config_reloads_total", &[("result", "applied")]);
    assert_eq!(applied, Some(f64::from(u32::try_from(reloads).unwrap())));
    assert_eq!(metrics.value("propylon_requests_total", &[("code", "5xx")]).unwrap_or_default(), 0.0);
    let all = served.iter().map(|count| count.load(Ordering::Relaxed)).sum();
    let logged = gateway.access_log(all);
    assert_eq!(logged.len(), all);
    assert_eq!(origin.requests().len(), all, "no request was sent twice");
}

#[test]
fn a_request_in_flight_keeps_the_configuration_it_began_with() {
    let gate = Gate::new();
    let origin = Origin::start({
        let gate = gate.clone();
        move |connection| {
            while connection.read_request().is_some() {
                gate.wait();
                connection.answer(200, "from the app");
            }
        }
    });
    let gateway = Gateway::with(CONFIG_A).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    client.send_request("GET", "/", &[], "");
    origin.wait_for_requests(1);

    gateway.rewrite_config(&answering("from the gateway", ""));
    gateway.reload();

    assert_eq!(gateway.get("/").expect(200).text(), "from the gateway");
    client.assert_silent();
    gateway.access_log(1);
    gate.open();
    let response = client.response().expect(200);
    assert_eq!((response.text(), response.field("x-served-by")), ("from the app", Some("a")));
    let line = gateway.access_log(2).remove(0);
    assert_eq!((line["route"].as_str(), line["upstream"].as_str()), (Some("a"), Some("app")));
    // The connection lives on, with the new configuration.
    assert_eq!(client.get("/").expect(200).text(), "from the gateway");
}

#[test]
fn counts_in_flight_survive_a_reload_and_reach_zero() {
    let gate = Gate::new();
    let origin = Origin::start({
        let gate = gate.clone();
        move |connection| {
            while connection.read_request().is_some() {
                gate.wait();
                connection.answer(200, "");
            }
        }
    });
    let gateway = Gateway::with(CONFIG_A).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    client.send_request("GET", "/app/x", &[], "");
    origin.wait_for_requests(1);
    gateway.rewrite_config(CONFIG_B);
    gateway.reload();
    let in_flight = |upstream| gateway.metrics().value("propylon_upstream_in_flight", &[("upstream", upstream)]);
    assert_eq!(in_flight("app"), Some(1.0));
    assert_eq!(in_flight("unused"), Some(0.0));
    gate.open();
    client.response().expect(200);
    eventually("no request is in flight", || (in_flight("app") == Some(0.0)).then_some(()));
    // What a reload removes is gone from the page once its last request has ended.
    eventually("the old route is gone", || (!gateway.metrics().label_values("route").contains("a")).then_some(()));
}

#[test]
fn a_wrong_file_changes_nothing_and_says_everything_that_is_wrong() {
    let gateway = Gateway::with(&answering("first", "")).allow_error("configuration refused").start();
    let state = || {
        let metrics = gateway.metrics();
        let value = |name: &str, labels: &[(&str, &str)]| metrics.value(name, labels).unwrap();
        [
            value("propylon_config_generation", &[]),
            value("propylon_config_last_reload_success", &[]),
            value("propylon_config_reloads_total", &[("result", "applied")]),
            value("propylon_config_reloads_total", &[("result", "refused")]),
        ]
    };
    assert_eq!(state(), [1.0, 1.0, 0.0, 0.0]);

    gateway.rewrite_config(&answering("second", "upstream = \"nobody\"\n[server.client]\nheader_timeuot = \"1s\""));
    let refused = gateway.command(&["reload", "--control", "control.sock"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (2, ""));
    assert!(
        refused.stderr.contains("header_timeuot") && refused.stderr.contains("header_timeout"),
        "{}",
        refused.stderr
    );
    assert!(refused.stderr.contains("routes[0]"), "{}", refused.stderr);
    assert!(refused.stderr.ends_with("problems"), "{}", refused.stderr);
    assert_eq!(gateway.get("/").expect(200).text(), "first");
    assert_eq!(state(), [1.0, 0.0, 0.0, 1.0]);
    assert!(gateway.wait_for_log("header_timeuot").contains("ERROR"));
    gateway.wait_for_log("nobody");

    // A signal finds the same, and a file that is gone is wrong too.
    std::fs::remove_file(gateway.config_path()).unwrap();
    gateway.signal(Signal::HUP);
    gateway.wait_for_log("cannot be read");
    eventually("the second refusal is counted", || (state() == [1.0, 0.0, 0.0, 2.0]).then_some(()));
    assert_eq!(gateway.get("/").expect(200).text(), "first");

    gateway.rewrite_config(&answering("third", ""));
    assert_eq!(gateway.reload().code, 0);
    assert_eq!(gateway.get("/").expect(200).text(), "third");
    assert_eq!(state(), [2.0, 1.0, 1.0, 2.0]);
}

/// The address that a listener added by a reload got, of those whose line holds `text`.
fn logged_address(gateway: &Gateway, text: &str) -> Address {
    let line = gateway.wait_for_log(&format!("listening address={text}"));
    Address::parse(line.rsplit_once("address=").unwrap().1)
}

fn listening(on: &str) -> String {
    answering("here", "")
        .replace("listen = [\"127.0.0.1:0\"]\n        [admin]", &format!("listen = [{on}]\n        [admin]"))
}

#[test]
fn listeners_come_and_go() {
    let gateway = Gateway::start(&listening("\"127.0.0.1:0\""));
    let mut from_the_start = gateway.connect();
    from_the_start.get("/").expect(200);

    gateway.rewrite_config(&listening(r#""127.0.0.1:0", "127.0.0.2:0", "unix:{dir}/second.sock""#));
    let report = gateway.reload().stdout;
    assert!(report.contains("listeners added: 127.0.0.2:0, unix:"), "{report}");
    let second = logged_address(&gateway, "127.0.0.2");
    let socket = Address::Unix(gateway.dir().join("second.sock"));
    let mut kept = Client::connect(&second);
    assert_eq!(kept.get("/").expect(200).text(), "here");
    let mut kept_unix = Client::connect(&socket);
    assert_eq!(kept_unix.get("/").expect(200).text(), "here");
    // The first one is the same socket as before.
    gateway.get("/").expect(200);

    gateway.rewrite_config(&listening("\"127.0.0.1:0\""));
    gateway.reload();
    assert!(Client::try_connect(&second).is_err(), "the listener is closed once the reload is done");
    assert!(!gateway.dir().join("second.sock").exists());
    for client in [&mut kept, &mut kept_unix, &mut from_the_start] {
        let response = client.get("/").expect(200);
        assert_eq!((response.text(), response.field("connection")), ("here", None));
    }
}

#[test]
fn a_listener_that_was_removed_can_be_added_at_once_again() {
    let two = listening(r#""127.0.0.1:0", "unix:{dir}/second.sock""#);
    let gateway = Gateway::start(&two);
    let socket = Address::Unix(gateway.dir().join("second.sock"));
    for _ in 0..rounds(10, 300) {
        gateway.rewrite_config(&listening("\"127.0.0.1:0\""));
        gateway.reload();
        gateway.rewrite_config(&two);
        gateway.reload();
        Client::connect(&socket).get("/").expect(200);
    }
}

#[test]
fn clients_in_the_backlog_of_a_removed_listener_are_answered() {
    let full = |config: String| config.replace("[server]\n", "[server]\nmax_connections = 1\n");
    let gateway = Gateway::start(&full(listening(r#""127.0.0.1:0", "unix:{dir}/second.sock""#)));
    let mut only = gateway.connect();
    only.get("/").expect(200);
    // There is no room for these, so nobody has accepted them.
    let socket = Address::Unix(gateway.dir().join("second.sock"));
    let mut waiting: Vec<_> = (0..20).map(|_| Client::connect(&socket)).collect();
    for client in &mut waiting {
        client.send_request("GET", "/", &[], "");
    }
    only.get("/").expect(200);
    waiting.iter_mut().for_each(Client::assert_silent);

    gateway.rewrite_config(&full(listening("\"127.0.0.1:0\"")));
    gateway.reload();
    for client in &mut waiting {
        assert_eq!(client.response().expect(200).text(), "here");
    }
    only.get("/").expect(200);
}

#[test]
fn the_admin_listener_moves() {
    let gateway = Gateway::start(&answering("here", ""));
    let moved = answering("here", "").replace(
        "listen = [\"127.0.0.1:0\"]\n        control",
        "listen = [\"unix:{dir}/admin.sock\"]\n        control",
    );
    gateway.rewrite_config(&moved);
    gateway.reload();
    let socket = Address::Unix(gateway.dir().join("admin.sock"));
    assert_eq!(Client::connect(&socket).get("/readyz").expect(200).text(), "ready\n");
    assert!(Client::try_connect(gateway.admin()).is_err());
    let health = gateway.command(&["health"]);
    assert_eq!((health.code, health.stdout.as_str()), (0, "ready"));
}

#[test]
fn an_address_that_is_taken_refuses_the_whole_reload() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let gateway =
        Gateway::with(&answering("first", "")).set("taken", &address).allow_error("configuration refused").start();
    let both =
        listening(r#""127.0.0.3:0", "{taken}", "unix:{dir}/new.sock""#).replace("body = \"here\"", "body = \"second\"");
    gateway.rewrite_config(&both);

    let refused = gateway.try_reload();
    assert_eq!(refused.code, 2);
    assert!(
        refused.stderr.contains(&format!("cannot listen on {address}: the address is in use")),
        "{}",
        refused.stderr
    );
    assert_eq!(gateway.get("/").expect(200).text(), "first");
    assert!(!gateway.dir().join("new.sock").exists(), "what could be bound was given back");
    assert_eq!(gateway.metrics().value("propylon_config_generation", &[]), Some(1.0));

    drop(taken);
    gateway.reload();
    assert_eq!(Client::connect(&Address::Tcp(address)).get("/").expect(200).text(), "second");
    assert!(Client::try_connect(gateway.addr()).is_err(), "127.0.0.1:0 was not asked for any more");
}

#[test]
fn what_is_known_of_health_survives() {
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let mut dead = Origin::never_accepting();
    dead.stop();
    let config = |interval: &str| {
        format!(
            r#"
            [server]
            listen = ["127.0.0.1:0"]
            [admin]
            listen = ["127.0.0.1:0"]
            control = "unix:{{dir}}/control.sock"
            [upstreams.app]
            endpoints = ["{}", "{}"]
            balance = "round_robin"
            [upstreams.app.health]
            interval = "{interval}"
            timeout = "50ms"
            fall = 1
            [[routes]]
            upstream = "app"
            "#,
            origin.address(),
            dead.address()
        )
    };
    let gateway = Gateway::start(&config("50ms"));
    let dead = dead.address().to_string();
    let of_dead = |name: &str| gateway.metrics().value(name, &[("endpoint", &dead)]);
    eventually("the dead endpoint is found out", || (of_dead("propylon_upstream_healthy") == Some(0.0)).then_some(()));

    // With this interval nobody finds out again within the test.
    gateway.rewrite_config(&config("1h"));
    gateway.reload();
    assert_eq!(of_dead("propylon_upstream_healthy"), Some(0.0));
    let errors = of_dead("propylon_upstream_errors_total");
    for _ in 0..10 {
        gateway.get("/").expect(200);
    }
    assert_eq!(of_dead("propylon_upstream_errors_total"), errors, "no request went to the dead endpoint");
}

#[test]
fn keys_that_need_a_restart_are_named_and_keep_their_value() {
    let with = |threads: &str, pid_file: &str, control: &str| {
        answering("here", "")
            .replace("[server]\n", &format!("[server]\nthreads = {threads}\npid_file = \"{{dir}}/{pid_file}\"\n"))
            .replace("control.sock", control)
    };
    let gateway = Gateway::start(&with("2", "first.pid", "control.sock"));
    gateway.rewrite_config(&with("3", "second.pid", "second.sock"));

    let report = gateway.command(&["reload", "--control", "control.sock"]);
    assert_eq!(report.code, 0, "{}", report.stderr);
    for key in ["server.threads", "server.pid_file", "admin.control"] {
        assert!(
            report.stdout.contains(&format!("warning: {key} takes effect with a restart only")),
            "{}",
            report.stdout
        );
        assert!(gateway.wait_for_log(&format!("key={key}")).contains("WARN"));
    }
    let exists = |name: &str| gateway.dir().join(name).exists();
    assert!(exists("first.pid") && exists("control.sock"));
    assert!(!exists("second.pid") && !exists("second.sock"));
    // It is still the old socket that answers, and the next reload says so again.
    let again = gateway.command(&["reload", "--control", "control.sock"]);
    assert!(again.stdout.contains("admin.control takes effect"), "{}", again.stdout);
}

#[test]
fn the_access_log_goes_where_the_new_configuration_says() {
    let with = |access: &str, format: &str| {
        answering("here", "")
            .replace("access = \"{dir}/access.log\"", &format!("access = \"{access}\"\nformat = \"{format}\""))
    };
    let gateway = Gateway::with(&with("{dir}/first.log", "json")).allow_error("configuration refused").start();
    let lines = |name: &str| -> Vec<String> {
        let text = std::fs::read_to_string(gateway.dir().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    let mut client = gateway.connect();
    client.get("/one").expect(200);
    eventually("a line in the first file", || lines("first.log").first().cloned());

    gateway.rewrite_config(&with("{dir}/second.log", "combined"));
    gateway.reload();
    client.get("/two").expect(200);
    let second = eventually("a line in the second file", || lines("second.log").first().cloned());
    assert!(second.contains("\"GET /two HTTP/1.1\" 200 4 \"-\" \"-\""), "{second}");

    // The same file in another form.
    gateway.rewrite_config(&with("{dir}/second.log", "json"));
    gateway.reload();
    client.get("/three").expect(200);
    let third = eventually("a further line", || lines("second.log").get(1).cloned());
    assert!(third.starts_with('{') && third.contains("\"path\":\"/three\""), "{third}");

    gateway.rewrite_config(&with("{dir}/missing/x.log", "json"));
    let refused = gateway.try_reload();
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("log.access") && refused.stderr.contains("missing/x.log"), "{}", refused.stderr);

    gateway.rewrite_config(&with("off", "json"));
    gateway.reload();
    client.get("/four").expect(200);

    gateway.rewrite_config(&with("{dir}/first.log", "json"));
    gateway.reload();
    client.get("/five").expect(200);
    let first = eventually("a further line in the first file", || Some(lines("first.log")).filter(|l| l.len() >= 2));
    assert!(first[0].contains("/one") && first[1].contains("/five"), "{first:?}");
    assert_eq!((first.len(), lines("second.log").len()), (2, 2), "nothing is logged while the log is off");
}

#[test]
fn the_level_of_the_log_follows() {
    let with =
        |level: &str| answering("here", "path = \"/here\"").replace("[log]", &format!("[log]\nlevel = \"{level}\""));
    let gateway = Gateway::start(&with("info"));
    let refusals = || gateway.log().iter().filter(|line| line.contains("request refused")).count();
    gateway.get("/quiet").expect(404);
    gateway.access_log(1);
    assert_eq!(refusals(), 0);

    gateway.rewrite_config(&with("debug"));
    gateway.reload();
    gateway.get("/loud").expect(404);
    let line = gateway.wait_for_log("request refused");
    assert!(line.contains("DEBUG") && line.contains("reason=no_route"), "{line}");

    gateway.rewrite_config(&with("error"));
    gateway.reload();
    gateway.get("/quiet").expect(404);
    gateway.access_log(3);
    assert_eq!(refusals(), 1);
}

#[test]
fn without_a_file_there_is_nothing_to_reload() {
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let gateway =
        Gateway::with_flags(&["--to", "{origin}", "--listen", "127.0.0.1:0"]).set("origin", origin.address()).start();
    gateway.signal(Signal::HUP);
    let line = gateway.wait_for_log("there is no configuration file to reload");
    assert!(line.contains("WARN"), "{line}");
    assert_eq!(gateway.get("/").expect(200).text(), "ok");
    let metrics = gateway.metrics();
    assert_eq!(metrics.value("propylon_config_last_reload_success", &[]), Some(1.0));
    assert_eq!(metrics.value("propylon_config_reloads_total", &[("result", "unchanged")]), Some(1.0));
}

#[test]
fn reloads_at_the_same_time_follow_one_another() {
    let gateway = Gateway::start(&answering("first", ""));
    gateway.rewrite_config(&answering("second", ""));
    let count = rounds(8, 40);
    thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(|| gateway.reload());
        }
    });
    let generation = gateway.metrics().value("propylon_config_generation", &[]);
    assert_eq!(generation, Some(f64::from(u32::try_from(count).unwrap() + 1)));
    let applied = || -> Vec<_> {
        gateway.log().into_iter().filter_map(|line| Some(line.split_once("generation=")?.1.to_owned())).collect()
    };
    eventually("each has its log line", || (applied().len() == count).then_some(()));
    let in_order: Vec<_> = (2..=count + 1).map(|generation| generation.to_string()).collect();
    assert_eq!(applied(), in_order);
}

#[test]
fn a_gateway_that_is_leaving_reloads_nothing() {
    let gate = Gate::new();
    let origin = Origin::start({
        let gate = gate.clone();
        move |connection| {
            connection.read_request();
            gate.wait();
            connection.answer(200, "done");
        }
    });
    let gateway = Gateway::with(CONFIG_A).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    client.send_request("GET", "/", &[], "");
    origin.wait_for_requests(1);
    gateway.signal(Signal::TERM);
    eventually("the listener is closed", || Client::try_connect(gateway.addr()).err());

    gateway.rewrite_config(&listening(r#""127.0.0.1:0", "unix:{dir}/second.sock""#));
    gateway.signal(Signal::HUP);
    gateway.wait_for_log("nothing is reloaded");
    let refused = gateway.try_reload();
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("shutting down"), "{}", refused.stderr);
    assert!(!gateway.dir().join("second.sock").exists());

    gate.open();
    assert_eq!(client.response().expect(200).text(), "done");
    gateway.wait_for_exit();
}

#[test]
fn a_reload_without_a_gateway_or_a_control_socket_explains_itself() {
    let gateway = Gateway::start(&answering("here", "").replace("control = \"unix:{dir}/control.sock\"", ""));
    let none = gateway.try_reload();
    assert_eq!(none.code, 2);
    assert!(none.stderr.contains("no control socket: set admin.control"), "{}", none.stderr);
    let nobody = gateway.command(&["reload", "--control", "nobody.sock"]);
    assert_eq!(nobody.code, 1);
    assert!(nobody.stderr.contains("cannot reach the gateway at nobody.sock"), "{}", nobody.stderr);
}

#[test]
fn the_control_socket_reloads_on_post_alone() {
    let gateway = Gateway::start(&answering("here", ""));
    let control = Address::Unix(gateway.dir().join("control.sock"));
    let ask = |method: &str, path: &str| Client::connect(&control).request(method, path, &[], "");
    assert_eq!(ask("GET", "/reload").expect(405).field("allow"), Some("POST"));
    ask("POST", "/").expect(404);
    ask("POST", "/metrics").expect(404);
    assert_eq!(gateway.metrics().value("propylon_config_generation", &[]), Some(1.0));
    ask("POST", "/reload?x=1").expect(200);
    assert_eq!(gateway.metrics().value("propylon_config_generation", &[]), Some(2.0));
    // The admin listener only reads.
    Client::connect(gateway.admin()).request("POST", "/reload", &[], "").expect(405);
    assert_eq!(gateway.metrics().value("propylon_config_generation", &[]), Some(2.0));
}

#[test]
fn a_limit_that_is_raised_lets_those_in_who_wait() {
    let with =
        |limit: u32| answering("here", "").replace("[server]\n", &format!("[server]\nmax_connections = {limit}\n"));
    let gateway = Gateway::start(&with(1));
    let mut first = gateway.connect();
    first.get("/").expect(200);
    let mut second = gateway.connect();
    second.send_request("GET", "/", &[], "");
    first.get("/").expect(200);
    second.assert_silent();
    gateway.rewrite_config(&with(2));
    gateway.reload();
    second.response().expect(200);
    first.get("/").expect(200);
}

#[test]
fn sockets_of_a_refused_reload_are_closed() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = Gateway::with(&answering("first", ""))
        .set("taken", &taken.local_addr().unwrap())
        .allow_error("configuration refused")
        .start();
    let open = || std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count();
    let refuse = || {
        gateway.rewrite_config(&listening(r#""127.0.0.1:0", "127.0.0.2:0", "unix:{dir}/new.sock", "{taken}""#));
        assert_eq!(gateway.try_reload().code, 2);
    };
    refuse();
    let before = eventually("connections are closed", || Some(open()));
    for _ in 0..rounds(10, 200) {
        refuse();
    }
    eventually("no descriptor is left behind", || (open() <= before).then_some(()));
    let socket = gateway.dir().join("new.sock");
    assert!(UnixStream::connect(socket).is_err());
    let own: SocketAddr = gateway.addr().to_string().parse().unwrap();
    TcpStream::connect(own).unwrap();
}
