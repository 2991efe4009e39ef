//! Requests in flight are counted exactly: whatever happens to a request, its slot comes back.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::*;

/// One app; `{keys}` are further keys of its upstream.
const ONE_APP: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[admin]
listen = ["127.0.0.1:0"]
control = "unix:{dir}/control.sock"
[log]
access = "{dir}/access.log"
[upstreams.app]
endpoints = ["{origin}"]
{keys}
[[routes]]
upstream = "app"
"#;

fn one_app(origin: &Origin, keys: &str) -> Gateway {
    Gateway::with(ONE_APP).set("origin", origin.address()).set("keys", keys).start()
}

/// Waits until neither a route nor an endpoint has a request in flight.
#[track_caller]
pub fn nothing_in_flight(gateway: &Gateway) {
    in_flight_is(gateway, 0.0);
}

/// Waits until routes and endpoints have this many requests in flight.
#[track_caller]
pub fn in_flight_is(gateway: &Gateway, count: f64) {
    eventually(&format!("{count} requests in flight"), || {
        let metrics = gateway.metrics();
        let value = |name| metrics.value(name, &[]);
        let both = (value("propylon_requests_in_flight"), value("propylon_upstream_in_flight"));
        (both == (Some(count), Some(count))).then_some(())
    });
}

#[test]
fn requests_are_counted_while_they_last() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |connection| {
        while connection.read_request().is_some() {
            held.wait();
            connection.answer(200, "done");
        }
    });
    let gateway = one_app(&origin, "");
    let mut clients: Vec<Client> = (0..3)
        .map(|_| {
            let mut client = gateway.connect();
            client.send_request("GET", "/", &[], "");
            client
        })
        .collect();
    origin.wait_for_requests(3);
    in_flight_is(&gateway, 3.0);
    gate.open();
    for client in &mut clients {
        client.response().expect(200);
    }
    // The connections stay: it is the end of the request that counts.
    nothing_in_flight(&gateway);
}

/// An app that takes everything a request has, and then waits for its connection to close. The flag says that it did.
fn watching(prefix: &'static str) -> (Origin, Arc<AtomicBool>, Gate) {
    let closed = Arc::new(AtomicBool::new(false));
    let arrived = Gate::new();
    let (seen, gate) = (closed.clone(), arrived.clone());
    let origin = Origin::start(move |connection| {
        if let Some(mut request) = connection.read_head() {
            gate.open();
            if !connection.read_body(&mut request) {
                seen.store(true, Ordering::SeqCst);
                return;
            }
            connection.write(prefix);
            seen.store(connection.peer_closed(), Ordering::SeqCst);
        }
    });
    (origin, closed, arrived)
}

/// A client sends `request` and leaves, rudely or not, once the app has it: the slot is free and the app's connection is
/// closed, promptly. `prefix` is what the app sends before; the client reads its head first. A body is streamed, so that the app
/// hears of the request before it is whole.
fn client_leaves(request: &str, prefix: &'static str, rudely: bool, status: u16) {
    let (origin, closed, arrived) = watching(prefix);
    let gateway = one_app(&origin, "client_abort = \"close\"\nbuffer_requests = false");
    let mut client = gateway.connect();
    client.send(request);
    arrived.wait();
    in_flight_is(&gateway, 1.0);
    if !prefix.is_empty() {
        client.response_head();
    }
    if rudely {
        client.reset();
    } else {
        drop(client);
    }
    eventually("the app sees its connection close", || closed.load(Ordering::SeqCst).then_some(()));
    nothing_in_flight(&gateway);
    let line = &gateway.access_log(1)[0];
    assert_eq!((&line["status"], &line["reason"]), (&status.into(), &"client_closed".into()), "{line}");
    assert_eq!(gateway.metrics().value("propylon_client_aborts_total", &[]), Some(1.0));
}

/// A client sends `request`, which lacks a part of its body, and leaves: no app ever hears of it, and nothing is kept.
fn client_leaves_unheard(request: &str, rudely: bool, abort: &str) {
    let (origin, _, arrived) = watching("");
    let gateway = one_app(&origin, &format!("client_abort = \"{abort}\""));
    let mut client = gateway.connect();
    client.send(request);
    let count = |name| move |gateway: &Gateway| gateway.metrics().value(name, &[]);
    let (requests, slots) = (count("propylon_requests_in_flight"), count("propylon_upstream_in_flight"));
    eventually("the request is under way", || (requests(&gateway) == Some(1.0)).then_some(()));
    assert_eq!(slots(&gateway), Some(0.0));
    if rudely {
        client.reset();
    } else {
        drop(client);
    }
    nothing_in_flight(&gateway);
    let line = &gateway.access_log(1)[0];
    assert_eq!((&line["status"], &line["reason"]), (&499.into(), &"client_closed".into()), "{line}");
    assert_eq!(line.get("endpoint"), None, "{line}");
    assert_eq!(gateway.metrics().value("propylon_client_aborts_total", &[]), Some(1.0));
    assert!(!arrived.is_open() && origin.requests().is_empty());
}

#[test]
fn a_client_that_leaves_before_its_body_is_whole_takes_no_slot() {
    for (rudely, abort) in [(true, "close"), (false, "close"), (true, "finish")] {
        client_leaves_unheard("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n", rudely, abort);
        client_leaves_unheard("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234", rudely, abort);
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n";
        client_leaves_unheard(chunked, rudely, abort);
    }
}

#[test]
fn a_client_that_leaves_before_its_body_frees_the_slot() {
    for rudely in [true, false] {
        client_leaves("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n", "", rudely, 499);
    }
}

#[test]
fn a_client_that_leaves_within_its_body_frees_the_slot() {
    for rudely in [true, false] {
        client_leaves("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234", "", rudely, 499);
        client_leaves(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n",
            "",
            rudely,
            499,
        );
    }
}

#[test]
fn a_client_that_leaves_while_it_waits_frees_the_slot() {
    for rudely in [true, false] {
        client_leaves("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "", rudely, 499);
        client_leaves("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", "", rudely, 499);
    }
}

#[test]
fn a_client_that_leaves_within_its_response_frees_the_slot() {
    for rudely in [true, false] {
        let begun = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234";
        client_leaves("GET / HTTP/1.1\r\nHost: a\r\n\r\n", begun, rudely, 200);
    }
}

#[test]
fn a_client_that_stops_reading_and_leaves_frees_the_slot() {
    let origin = Origin::start(|connection| {
        if connection.read_request().is_some() {
            connection.write("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
            while connection.write([b'x'; 10_000]) {}
        }
    });
    let gateway = one_app(&origin, "");
    let mut client = gateway.connect();
    client.set_receive_buffer(4096);
    client.send_request("GET", "/", &[], "");
    client.response_head();
    in_flight_is(&gateway, 1.0);
    client.reset();
    nothing_in_flight(&gateway);
    eventually("the app's connection is closed", || (origin.open_connections() == 0).then_some(()));
}

#[test]
fn a_client_that_leaves_while_connecting_frees_the_slot() {
    let origin = Origin::unreachable();
    let gateway = one_app(&origin, "connect_timeout = \"300ms\"");
    let mut client = gateway.connect();
    client.send_request("GET", "/", &[], "");
    in_flight_is(&gateway, 1.0);
    client.reset();
    nothing_in_flight(&gateway);
    gateway.access_log(1);
}

#[test]
fn with_finish_the_app_ends_its_work_and_counts_as_busy_until_then() {
    let gate = Gate::new();
    let whole = Arc::new(AtomicBool::new(false));
    let (held, written) = (gate.clone(), whole.clone());
    let origin = Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            if request.target == "/work" {
                held.wait();
                let body = vec![b'x'; 3 << 20];
                written.store(connection.answer(200, body), Ordering::SeqCst);
            } else {
                connection.answer(200, "");
            }
        }
    });
    let gateway = one_app(&origin, "client_abort = \"finish\"");
    let mut client = gateway.connect();
    client.send_request("POST", "/work", &[], "paid");
    origin.wait_for_requests(1);
    client.reset();

    // The gateway has every chance to notice, and the app is still busy for it.
    let mut other = gateway.connect();
    for _ in 0..50 {
        other.get("/").expect(200);
        let busy = gateway.metrics().value("propylon_upstream_in_flight", &[]);
        assert!(busy >= Some(1.0), "{busy:?}");
    }
    in_flight_is(&gateway, 1.0);
    assert_eq!(origin.open_connections() - usize::from(!whole.load(Ordering::SeqCst)), 1);

    gate.open();
    eventually("the app has written its whole answer", || whole.load(Ordering::SeqCst).then_some(()));
    nothing_in_flight(&gateway);
    let lines = gateway.access_log(51);
    let line = lines.iter().find(|line| line["path"] == "/work").unwrap();
    assert_eq!((&line["status"], &line["reason"]), (&499.into(), &"client_closed".into()), "{line}");
    assert_eq!((&line["upstream_status"], &line["bytes_out"]), (&200.into(), &0.into()), "{line}");
    let metrics = gateway.metrics();
    assert_eq!(metrics.value("propylon_client_aborts_total", &[]), Some(1.0));
    assert_eq!(metrics.value("propylon_upstream_requests_total", &[("code", "2xx")]), Some(51.0));
}

#[test]
fn with_finish_a_client_that_leaves_within_the_response_does_not_stop_the_app() {
    let whole = Arc::new(AtomicBool::new(false));
    let gate = Gate::new();
    let (written, held) = (whole.clone(), gate.clone());
    let origin = Origin::start(move |connection| {
        if connection.read_request().is_some() {
            connection.write("HTTP/1.1 200 OK\r\nContent-Length: 3000005\r\n\r\n01234");
            held.wait();
            written.store(connection.write(vec![b'x'; 3_000_000]), Ordering::SeqCst);
        }
    });
    let gateway = one_app(&origin, "client_abort = \"finish\"");
    let mut client = gateway.connect();
    client.send_request("GET", "/", &[], "");
    client.response_head();
    client.reset();
    gate.open();
    eventually("the app has written its whole answer", || whole.load(Ordering::SeqCst).then_some(()));
    nothing_in_flight(&gateway);
    let line = &gateway.access_log(1)[0];
    assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"client_closed".into()), "{line}");
}

#[test]
fn with_finish_the_apps_time_is_bounded_all_the_same() {
    let origin = Origin::start(|connection| {
        if connection.read_request().is_some() {
            connection.hang();
        }
    });
    let gateway = one_app(&origin, "client_abort = \"finish\"\nfirst_byte_timeout = \"300ms\"");
    let mut client = gateway.connect();
    client.send_request("GET", "/", &[], "");
    origin.wait_for_requests(1);
    client.reset();
    nothing_in_flight(&gateway);
    assert_eq!(gateway.access_log(1)[0]["status"], 499);
}

#[test]
fn with_finish_a_body_that_never_became_whole_is_not_waited_for() {
    let (origin, closed, arrived) = watching("");
    let gateway = one_app(&origin, "client_abort = \"finish\"\nbuffer_requests = false");
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234");
    arrived.wait();
    client.reset();
    eventually("the app sees its connection close", || closed.load(Ordering::SeqCst).then_some(()));
    nothing_in_flight(&gateway);
    assert_eq!(gateway.access_log(1)[0]["status"], 499);
}

#[test]
fn however_an_app_fails_its_slot_comes_back() {
    let origin = Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            match request.target.as_str() {
                "/reset" => connection.reset(),
                "/hang" => connection.hang(),
                "/garbage" => _ = connection.write("220 smtp.example.com ESMTP\r\n\r\n"),
                "/close" => connection.close(),
                "/half" => {
                    connection.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234");
                    connection.close();
                }
                "/stall" => {
                    connection.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234");
                    connection.hang();
                }
                _ => _ = connection.answer(200, "fine"),
            }
        }
    });
    let mut refusing = Origin::fixed("");
    refusing.stop();
    let gateway = Gateway::with(
        r#"
        [server]
        listen = ["127.0.0.1:0"]
        [admin]
        listen = ["127.0.0.1:0"]
        [log]
        access = "{dir}/access.log"
        [upstreams.app]
        endpoints = ["{origin}"]
        first_byte_timeout = "300ms"
        read_timeout = "300ms"
        retry = { budget = "100%" }
        [upstreams.refusing]
        endpoints = ["{refusing}"]
        queue = { timeout = "300ms" }
        [[routes]]
        upstream = "app"
        [[routes]]
        path = "/refused"
        upstream = "refusing"
        "#,
    )
    .set("origin", origin.address())
    .set("refusing", refusing.address())
    .start();

    for method in ["GET", "POST"] {
        for (target, status) in
            [("/refused", 503), ("/reset", 502), ("/hang", 504), ("/garbage", 502), ("/close", 502), ("/", 200)]
        {
            let response = gateway.connect().request(method, target, &[], if method == "POST" { "body" } else { "" });
            assert_eq!(response.status, status, "{method} {target}: {response}");
            nothing_in_flight(&gateway);
        }
        for target in ["/half", "/stall"] {
            let mut client = gateway.connect();
            client.send_request(method, target, &[], "");
            assert_eq!(client.try_response().unwrap_err().truncated().body, b"01234");
            nothing_in_flight(&gateway);
        }
    }
    gateway.get("/").expect(200);
}

#[test]
fn a_reload_goes_on_counting_where_it_was() {
    let gate = Gate::new();
    let script = |name: &'static str| {
        let gate = gate.clone();
        move |connection: &mut Connection| {
            while let Some(request) = connection.read_request() {
                if request.target == "/hold" {
                    gate.wait();
                }
                connection.answer(200, name);
                // Until it hangs up it would count as busy.
                if request.field("connection") == Some("close") {
                    return;
                }
            }
        }
    };
    let (a, b) = (Origin::start(script("a")), Origin::start(script("b")));
    let toml = |keys: &str| {
        format!(
            r#"
            [server]
            listen = ["127.0.0.1:0"]
            [admin]
            listen = ["127.0.0.1:0"]
            control = "unix:{{dir}}/control.sock"
            [log]
            access = "{{dir}}/access.log"
            [upstreams.app]
            endpoints = ["{{a}}", "{{b}}"]
            {keys}
            [[routes]]
            upstream = "app"
            "#
        )
    };
    let gateway = Gateway::with(&toml("")).set("a", a.address()).set("b", b.address()).start();
    let mut held = gateway.connect();
    held.send_request("GET", "/hold", &[], "");
    let busy = eventually("an app has the request", || {
        [("a", &a), ("b", &b)].iter().find(|(_, origin)| !origin.requests().is_empty()).map(|(name, _)| *name)
    });

    gateway.rewrite_config(&toml("keepalive_timeout = \"off\""));
    gateway.reload();

    let mut client = gateway.connect();
    for _ in 0..4 {
        // The other app was told to close, and is free when it has.
        in_flight_is(&gateway, 1.0);
        let response = client.get("/").expect(200);
        assert_ne!(response.text(), busy, "the held request is still counted on its endpoint");
    }
    gate.open();
    assert_eq!(held.response().expect(200).text(), busy);
    nothing_in_flight(&gateway);
}

#[test]
fn an_app_that_was_told_to_close_counts_as_busy_until_it_does() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |connection| {
        if let Some(request) = connection.read_request() {
            assert_eq!(request.field("connection"), Some("close"));
            connection.answer(200, "done");
            // What a worker does behind its answer.
            held.wait();
        }
    });
    let gateway = one_app(&origin, "keepalive_timeout = \"off\"\nmax_in_flight = 1");
    let mut client = gateway.connect();
    client.get("/").expect(200);
    let mut second = gateway.connect();
    second.send_request("GET", "/", &[], "");
    eventually("the second waits", || {
        (gateway.metrics().value("propylon_queue_depth", &[]) == Some(1.0)).then_some(())
    });
    assert_eq!(gateway.metrics().value("propylon_upstream_in_flight", &[]), Some(1.0));
    assert_eq!(origin.requests().len(), 1);
    gate.open();
    second.response().expect(200);
    nothing_in_flight(&gateway);
}

#[test]
fn an_app_that_does_not_close_is_not_waited_for_longer_than_it_may_be_silent() {
    let origin = Origin::start(|connection| {
        if connection.read_request().is_some() {
            connection.answer(200, "done");
            connection.hang();
        }
    });
    let gateway = one_app(&origin, "keepalive_timeout = \"off\"\nmax_in_flight = 1\nread_timeout = \"200ms\"");
    let mut client = gateway.connect();
    for _ in 0..3 {
        client.get("/").expect(200);
    }
    nothing_in_flight(&gateway);
}

#[test]
fn an_endpoint_that_a_reload_takes_away_and_back_keeps_its_count() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |connection| {
        while connection.read_request().is_some() {
            held.wait();
            connection.answer(200, "kept");
        }
    });
    let other = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother");
    let gateway = one_app(&origin, "");
    let mut client = gateway.connect();
    client.send_request("GET", "/", &[], "");
    origin.wait_for_requests(1);

    gateway.rewrite_config(&ONE_APP.replace("{origin}", &other.address().to_string()));
    gateway.reload();
    assert_eq!(gateway.get("/").expect(200).text(), "other");
    gateway.rewrite_config(ONE_APP);
    gateway.reload();
    in_flight_is(&gateway, 1.0);

    gate.open();
    assert_eq!(client.response().expect(200).text(), "kept");
    nothing_in_flight(&gateway);
}

/// A small generator of its own (xorshift): the tests of one run differ, and a failure names its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// What the app does with one request, as its query says.
fn misbehave(connection: &mut Connection, number: u64) {
    match number {
        0 => connection.close(),
        1 => connection.reset(),
        2 => _ = connection.write("nonsense\r\n\r\n"),
        3 => connection.delay(Duration::from_millis(400)),
        4 => {
            connection.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
            connection.close();
        }
        5 => {
            connection.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
            connection.reset();
        }
        6 => {
            connection.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nstall");
            connection.delay(Duration::from_millis(400));
        }
        7 => _ = connection.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n"),
        8 => _ = connection.write("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"),
        9 => _ = connection.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n"),
        10 => _ = connection.answer(200, vec![b'x'; 300_000]),
        _ => _ = connection.answer(200, "fine"),
    }
}

fn one_random_exchange(gateway: &Gateway, dice: &mut Dice) {
    let target = format!("/?{}", dice.roll(13));
    let mut client = gateway.connect();
    client.set_timeout(Duration::from_secs(5));
    let (method, body) =
        [("GET", ""), ("POST", "a body"), ("HEAD", ""), ("PUT", "")][usize::try_from(dice.roll(4)).unwrap()];
    let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    let sent = head.clone() + body;
    match dice.roll(6) {
        0 => {
            let cut = usize::try_from(dice.roll(sent.len() as u64)).unwrap();
            client.send(&sent[..cut]);
            client.reset();
        }
        1 => {
            client.send(sent);
            client.reset();
        }
        2 => {
            client.send(sent);
            scripted_delay(Duration::from_millis(dice.roll(20)));
            client.reset();
        }
        3 => {
            client.send(&head);
            drop(client);
        }
        _ => {
            client.send(sent);
            if method == "HEAD" {
                client.response_to("HEAD");
            } else {
                // Whole, or visibly broken; silence would be a request that was forgotten.
                let response = client.try_response();
                assert!(!matches!(response, Err(Broken::TimedOut | Broken::Malformed(_))), "{target}: {response:?}");
            }
        }
    }
}

#[test]
fn whatever_apps_and_clients_do_nothing_stays_in_flight() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    let origin = Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            count.fetch_add(1, Ordering::SeqCst);
            let number = request.target.strip_prefix("/?").and_then(|n| n.parse().ok());
            misbehave(connection, number.unwrap_or(99));
            if matches!(number, Some(0..=7)) {
                return;
            }
        }
    });
    for abort in ["close", "finish"] {
        let keys = format!(
            "client_abort = \"{abort}\"\nfirst_byte_timeout = \"200ms\"\nread_timeout = \"200ms\"\nretry = {{ budget = \"100%\" }}"
        );
        let gateway = one_app(&origin, &keys);
        let seed = u64::from(std::process::id()) * 7919 + 1;
        println!("seed {seed}");
        let failed = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (gateway, failed) = (&gateway, &failed);
                scope.spawn(move || {
                    let mut dice = Dice(seed + thread);
                    for round in 0..rounds(30, 1000) {
                        let run = std::panic::AssertUnwindSafe(|| one_random_exchange(gateway, &mut dice));
                        if std::panic::catch_unwind(run).is_err() {
                            failed.lock().unwrap().push((thread, round));
                        }
                    }
                });
            }
        });
        assert!(failed.lock().unwrap().is_empty(), "seed {seed}: {failed:?}");
        nothing_in_flight(&gateway);
        assert_eq!(gateway.get("/").expect(200).text(), "fine");
        nothing_in_flight(&gateway);
        assert_eq!(gateway.metrics().value("propylon_panics_total", &[]), Some(0.0));
    }
    assert!(served.load(Ordering::SeqCst) > 0);
}
