//! Idle connections to the app: which are used again, for how long, and that no request meets one that is being closed.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::*;
use crate::queue::{checked, number};

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
endpoints = [{endpoints}]
{keys}
[[routes]]
upstream = "app"
"#;

fn one_app(origin: &Origin, keys: &str) -> Gateway {
    at(origin.address(), keys)
}

fn at(address: &Address, keys: &str) -> Gateway {
    Gateway::with(ONE_APP).set("endpoints", &format!("\"{address}\"")).set("keys", keys).start()
}

/// Puts other keys into force.
fn reconfigure(gateway: &Gateway, keys: &str) {
    gateway.rewrite_config(&ONE_APP.replace("{keys}", keys));
    gateway.reload();
}

/// Answers every request, whatever it is, and keeps its connections.
fn keeping() -> Origin {
    Origin::start(keep)
}

fn keep(connection: &mut Connection) {
    while connection.read_request().is_some() {
        connection.answer(200, "kept");
    }
}

/// Which of its connections an origin got requests on. A health check that only connects is none of them.
fn used(origin: &Origin) -> HashSet<usize> {
    origin.requests().iter().map(|request| request.connection).collect()
}

/// Sends `count` requests one after another, each on the client connection of the one before.
fn requests(gateway: &Gateway, count: usize) {
    let mut client = gateway.connect();
    (0..count).for_each(|_| drop(client.get("/").expect(200)));
}

/// Has `count` requests in flight at once, and then as many connections idle.
fn fill(gateway: &Gateway, count: usize) {
    let mut clients: Vec<Client> = (0..count).map(|_| gateway.connect()).collect();
    clients.iter_mut().for_each(|client| client.send_request("GET", "/together", &[], ""));
    clients.iter_mut().for_each(|client| drop(client.response().expect(200)));
}

/// An origin that answers `/together` only once `count` of them are there.
fn together(count: usize) -> Origin {
    let (arrived, all) = (AtomicUsize::new(0), Gate::new());
    Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            if request.target == "/together" {
                if arrived.fetch_add(1, Ordering::SeqCst) + 1 == count {
                    all.open();
                }
                all.wait();
            }
            connection.answer(200, "kept");
        }
    })
}

#[track_caller]
fn open_connections_become(origin: &Origin, count: usize) {
    eventually(&format!("{count} connections are open"), || (origin.open_connections() == count).then_some(()));
}

fn gauge(gateway: &Gateway, name: &str) -> Option<f64> {
    gateway.metrics().value(name, &[])
}

fn keepalive_seconds(gateway: &Gateway) -> Option<f64> {
    gauge(gateway, "propylon_endpoint_keepalive_seconds")
}

#[track_caller]
fn idle_connections_become(gateway: &Gateway, count: f64) {
    let idle = || gauge(gateway, "propylon_endpoint_idle_connections");
    eventually(&format!("{count} connections are idle"), || (idle() == Some(count)).then_some(()));
}

#[test]
fn a_connection_is_used_again_whatever_kind_of_address_it_leads_to() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("run")).unwrap();
    let roundabout = Address::Unix(dir.path().join("run/.././run//app.sock"));
    for origin in
        [keeping(), Origin::start_unix(keep), Origin::start_abstract(keep), Origin::start_at(&roundabout, keep)]
    {
        let gateway = one_app(&origin, "keepalive_timeout = \"60s\"");
        requests(&gateway, 10);
        assert_eq!(used(&origin).len(), 1, "{}", origin.address());
        let connections =
            |reused| gateway.metrics().value("propylon_upstream_connections_total", &[("reused", reused)]);
        assert_eq!((connections("false"), connections("true")), (Some(1.0), Some(9.0)));
        let lines = gateway.access_log(10);
        assert!(lines.iter().enumerate().all(|(n, line)| line["reused"] == (n > 0)), "{lines:?}");
    }
}

#[test]
fn an_answer_that_says_so_is_the_last_on_its_connection() {
    for head in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: foo, CLOSE\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n",
    ] {
        // The app says so, and then leaves its side open.
        let origin = Origin::fixed(format!("{head}ok"));
        let gateway = one_app(&origin, "keepalive_timeout = \"60s\"");
        requests(&gateway, 4);
        assert_eq!(used(&origin).len(), 4, "{head}");
        open_connections_become(&origin, 0);
    }
}

#[test]
fn a_server_that_closes_after_each_response_is_never_kept_nor_connected_to_ahead() {
    let origin = keeping();
    let gateway = one_app(&origin, "preset = \"gunicorn-sync\"\nworkers = 2");
    assert_eq!(keepalive_seconds(&gateway), Some(0.0));
    // The connect probe, if there was one, says nothing about requests.
    let before = eventually("the first check", || {
        gateway.metrics().value("propylon_upstream_health_checks_total", &[("result", "pass")]).filter(|n| *n > 0.0)?;
        Some(origin.connections())
    });
    requests(&gateway, 10);
    open_connections_become(&origin, 0);
    assert!(origin.connections() >= before + 10 && used(&origin).len() == 10);
    assert!(origin.requests().iter().all(|request| request.field("Connection") == Some("close")));
}

/// Waits until the gateway's sockets know that the origin has closed. On a busy machine the kernel takes its time from one end of a
/// connection to the other, and what is sent meanwhile nobody could have known to be in vain.
#[track_caller]
fn close_arrives(origin: &Origin) {
    let remote = format!("0100007F:{:04X}", origin.address().port());
    eventually("no socket to the origin is established", || {
        let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
        let mut theirs = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        // rem_address and st of proc_net_tcp(5); 01 is ESTABLISHED.
        (!theirs.any(|fields| fields[2] == remote && fields[3] == "01")).then_some(())
    });
}

#[test]
fn a_post_never_goes_over_a_connection_that_the_server_closed_while_idle() {
    let origin = Origin::start(|connection| {
        if connection.read_request().is_some() {
            connection.answer(200, "once");
        }
    });
    for keepalive in ["60s", "auto"] {
        let gateway = one_app(&origin, &format!("keepalive_timeout = \"{keepalive}\""));
        let mut client = gateway.connect();
        let before = origin.requests().len();
        let count = rounds(100, 500);
        for number in 0..count {
            client.request("POST", "/pay", &[], number.to_string()).expect(200);
            open_connections_become(&origin, 0);
            close_arrives(&origin);
        }
        let bodies = origin.requests().split_off(before);
        assert_eq!(bodies.len(), count);
        assert!(bodies.iter().enumerate().all(|(n, request)| request.body == n.to_string().as_bytes()));
    }
}

#[test]
fn an_app_that_lingers_behind_its_answer_is_sent_nothing_until_it_has_hung_up() {
    let lingering = Arc::new(AtomicBool::new(false));
    let is_lingering = lingering.clone();
    let origin = Origin::start(move |connection| {
        if connection.read_request().is_none() {
            return;
        }
        assert!(!is_lingering.load(Ordering::SeqCst), "it was sent a request while it was at work");
        is_lingering.store(true, Ordering::SeqCst);
        connection.write("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        // A worker that ends its work behind the answer.
        connection.delay(Duration::from_millis(300));
        is_lingering.store(false, Ordering::SeqCst);
    });
    let gateway = one_app(&origin, "max_in_flight = 1");
    checked(&gateway, 1);
    // The client is not kept waiting for that; who comes next is.
    let mut first = gateway.connect();
    first.get("/").expect(200);
    assert!(lingering.load(Ordering::SeqCst));
    assert_eq!(gauge(&gateway, "propylon_upstream_in_flight"), Some(1.0));
    requests(&gateway, 2);
    let lines = gateway.access_log(3);
    assert!(lines.iter().all(|line| line["status"] == 200));
    assert!(lines[1]["t_queue"].as_f64().unwrap() > 0.0, "{:?}", lines[1]);
    assert_eq!(lines[0]["t_queue"], 0.0);
}

#[test]
fn an_app_that_waits_for_our_end_before_it_hangs_up_is_not_waited_for() {
    let origin = Origin::start(|connection| {
        while connection.read_request().is_some() {
            connection.write("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let gateway = one_app(&origin, "max_in_flight = 1\nread_timeout = \"1h\"");
    requests(&gateway, 5);
    open_connections_become(&origin, 0);
    assert_eq!(used(&origin).len(), 5);
}

#[test]
fn bytes_behind_an_answer_do_not_reach_the_next_request() {
    const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let answers = [
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"),
    ];
    for (method, answer) in answers {
        for late in [false, true] {
            let (answered, sent) = (Gate::new(), Gate::new());
            let (go, done) = (answered.clone(), sent.clone());
            let origin = Origin::start(move |connection| {
                while let Some(request) = connection.read_request() {
                    if request.target == "/second" {
                        connection.answer(200, "mine");
                    } else if late {
                        connection.write(answer);
                        go.wait();
                        connection.write(EVIL);
                        done.open();
                    } else {
                        connection.write(format!("{answer}{EVIL}"));
                        done.open();
                    }
                }
            });
            let gateway = one_app(&origin, "keepalive_timeout = \"60s\"");
            let mut client = gateway.connect();
            client.send_request(method, "/", &[], "");
            client.response_to(method);
            if late {
                idle_connections_become(&gateway, 1.0);
            }
            answered.open();
            sent.wait();
            let second = gateway.get("/second").expect(200);
            assert_eq!(second.text(), "mine", "{method} {answer:?} late: {late}");
            assert_eq!(used(&origin).len(), 2, "a connection of its own");
        }
    }
}

#[test]
fn what_is_idle_for_too_long_is_closed_without_any_traffic() {
    let origin = together(3);
    let gateway = one_app(&origin, "keepalive_timeout = \"300ms\"");
    fill(&gateway, 3);
    assert_eq!(used(&origin).len(), 3);
    open_connections_become(&origin, 0);
    idle_connections_become(&gateway, 0.0);
}

#[test]
fn a_reload_that_changes_the_time_holds_for_what_is_idle() {
    let origin = together(2);
    let gateway = one_app(&origin, "keepalive_timeout = \"60s\"");
    fill(&gateway, 2);
    idle_connections_become(&gateway, 2.0);
    reconfigure(&gateway, "keepalive_timeout = \"30s\"");
    assert_eq!(keepalive_seconds(&gateway), Some(30.0));
    requests(&gateway, 2);
    assert_eq!(used(&origin).len(), 2, "they are still good");
    reconfigure(&gateway, "keepalive_timeout = \"100ms\"");
    open_connections_become(&origin, 0);

    reconfigure(&gateway, "keepalive_timeout = \"60s\"");
    requests(&gateway, 3);
    assert_eq!(used(&origin).len(), 3);
    reconfigure(&gateway, "keepalive_timeout = \"off\"");
    open_connections_become(&origin, 0);
    requests(&gateway, 3);
    assert_eq!(used(&origin).len(), 6);
}

#[test]
fn idle_connections_of_an_endpoint_that_a_reload_removes_are_closed() {
    let (stays, goes) = (keeping(), keeping());
    let both = format!("\"{}\", \"{}\"", stays.address(), goes.address());
    let gateway = Gateway::with(&ONE_APP.replace("{endpoints}", &both))
        .set("keys", "keepalive_timeout = \"60s\"\nbalance = \"round_robin\"")
        .start();
    let mut client = gateway.connect();
    (0..4).for_each(|_| drop(client.get("/").expect(200)));
    idle_connections_become(&gateway, 2.0);
    gateway.rewrite_config(&ONE_APP.replace("{endpoints}", &format!("\"{}\"", stays.address())));
    gateway.reload();
    open_connections_become(&goes, 0);
    (0..4).for_each(|_| drop(client.get("/").expect(200)));
    assert_eq!((stays.open_connections(), used(&stays).len()), (1, 1));
    gateway.stop();
    open_connections_become(&stays, 0);
}

/// An app that closes each connection a while after its answer, one request on each.
fn closing_after(idle: Duration) -> Origin {
    Origin::start(move |connection| {
        if connection.read_request().is_some() {
            connection.answer(200, "");
            connection.delay(idle);
        }
    })
}

#[test]
fn the_time_is_learnt_down_from_a_server_that_closes_early() {
    let origin = closing_after(Duration::from_millis(600));
    let gateway = one_app(&origin, "");
    assert_eq!(keepalive_seconds(&gateway), Some(1.0));
    for observed in 0..2 {
        gateway.connect().request("POST", "/", &[], "1").expect(200);
        open_connections_become(&origin, 0);
        assert_eq!(keepalive_seconds(&gateway), Some(1.0), "after {observed} observations");
    }
    // The next request finds the second one closed; half of what it saw is less than the start, if it was soon enough.
    let learnt = eventually("it is learnt", || {
        open_connections_become(&origin, 0);
        gateway.get("/").expect(200);
        keepalive_seconds(&gateway).filter(|learnt| *learnt < 0.95)
    });
    assert!(learnt >= 0.3, "{learnt}");
    let closes = &gateway.admin_get("/status").json()["upstreams"][0]["endpoints"][0]["closes_idle_after_seconds"];
    assert!((closes.as_f64().unwrap() / 2.0 - learnt).abs() < 0.001, "{closes}");
    // Whatever bound it was, watching makes it sharp.
    eventually("half of 600 ms", || {
        open_connections_become(&origin, 0);
        gateway.get("/").expect(200);
        let learnt = keepalive_seconds(&gateway).unwrap();
        assert!(learnt >= 0.29, "{learnt}");
        (learnt < 0.4).then_some(())
    });
    let sent = origin.requests().len();
    assert_eq!(gateway.access_log(sent).len(), sent, "each was sent once");
}

#[test]
fn the_time_is_learnt_up_from_a_server_that_keeps_for_longer() {
    let origin = closing_after(Duration::from_millis(2600));
    let gateway = one_app(&origin, "preset = \"gunicorn-gthread\"\nworkers = 1\nthreads = 4");
    for _ in 0..2 {
        assert_eq!(keepalive_seconds(&gateway), Some(1.0));
        gateway.get("/").expect(200);
        open_connections_become(&origin, 0);
    }
    eventually("half of 2.6 s", || (1.29..1.7).contains(&keepalive_seconds(&gateway).unwrap()).then_some(()));
    assert_eq!(origin.connections(), 2 + checks(&gateway));
}

/// Connections that were made to see whether one can be made.
fn checks(gateway: &Gateway) -> usize {
    let checks = gateway.metrics().value("propylon_upstream_health_checks_total", &[]).unwrap();
    (0..1000).find(|n| number(*n) >= checks).unwrap()
}

#[test]
fn the_watched_connection_counts_and_makes_room() {
    let origin = together(2);
    // Nothing is known of the server, so that one connection past its second of use is watched.
    let gateway = one_app(&origin, "max_in_flight = 2\nhealth = { interval = \"1h\" }");
    fill(&gateway, 2);
    idle_connections_become(&gateway, 0.0);
    open_connections_become(&origin, 1);

    // It goes on being watched beside one request, and gives way to the second.
    requests(&gateway, 3);
    open_connections_become(&origin, 2);
    fill(&gateway, 2);
    open_connections_become(&origin, 2);
}

#[test]
fn there_are_never_more_connections_than_the_capacity() {
    const CAPACITY: usize = 4;
    let open = Arc::new(AtomicUsize::new(0));
    let counted = open.clone();
    let origin = Origin::start(move |connection| {
        // A connection that the gateway has closed may be here for a moment longer; one that it keeps stays for a minute.
        let now = counted.fetch_add(1, Ordering::SeqCst) + 1;
        if now > CAPACITY {
            eventually_within(Duration::from_secs(5), "no more than the capacity", || {
                (counted.load(Ordering::SeqCst) <= CAPACITY).then_some(())
            });
        }
        let mut served = 0;
        while connection.read_request().is_some() {
            served += 1;
            // Some are ended in either way, so that new ones have to be made among old ones.
            if (connection.number() + served) % 7 == 0 {
                connection.write("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                break;
            }
            connection.answer(200, "");
        }
        counted.fetch_sub(1, Ordering::SeqCst);
    });
    let gateway = one_app(
        &origin,
        &format!("max_in_flight = {CAPACITY}\nkeepalive_timeout = \"60s\"\nhealth = {{ interval = \"1h\" }}"),
    );
    let each = rounds(100, 2000);
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| requests(&gateway, each));
        }
    });
    assert!(origin.connections() > CAPACITY);
    assert!(open.load(Ordering::SeqCst) <= CAPACITY);
}

/// Sends `count` requests from `clients` at once, GET and POST in turn, and asserts that none fails.
fn mixed(gateway: &Gateway, clients: usize, count: usize, gap: impl Fn(usize) -> Duration + Sync) {
    thread::scope(|scope| {
        for number in 0..clients {
            let gap = &gap;
            scope.spawn(move || {
                let mut client = gateway.connect();
                for turn in 0..count / clients {
                    let answer = if (number + turn) % 2 == 0 {
                        client.get("/")
                    } else {
                        client.request("POST", "/echo", &[], "some body")
                    };
                    let line = || gateway.access_log_now().into_iter().rfind(|line| line["status"] != 200);
                    assert_eq!(answer.status, 200, "client {number}, request {turn}: {answer}\n{:?}", line());
                    let gap = gap(number);
                    if !gap.is_zero() {
                        scripted_delay(gap);
                    }
                }
            });
        }
    });
}

const AT_ONCE: fn(usize) -> Duration = |_| Duration::ZERO;

#[test]
fn gthread_workers_that_close_and_recycle_fail_no_request() {
    let app = PythonServer::gunicorn("wsgi:app")
        .args("-k gthread -w 2 --threads 4 --keep-alive 2 --max-requests 50 --max-requests-jitter 10")
        .start();
    let gateway = at(app.address(), "preset = \"gunicorn-gthread\"\nworkers = 2\nthreads = 4");
    thread::scope(|scope| {
        scope.spawn(|| mixed(&gateway, 8, rounds(200, 20_000), AT_ONCE));
        // Around the second after which we stop, and the two after which it closes.
        scope.spawn(|| {
            let gap = |number| Duration::from_millis(1000 + 100 * number as u64);
            mixed(&gateway, 13, 13 * rounds(2, 40), gap);
        });
    });
    let recycled = app.log().iter().filter(|line| line.contains("Booting worker")).count();
    assert!(recycled > 2, "{recycled}");
}

#[test]
fn uvicorn_that_closes_early_is_learnt_and_fails_no_request() {
    let app = PythonServer::uvicorn("asgi:app").args("--timeout-keep-alive 1").unix().start();
    let gateway = at(app.address(), "preset = \"uvicorn\"\nworkers = 1");
    assert_eq!(keepalive_seconds(&gateway), Some(3.0));
    mixed(&gateway, 1, 4, |_| Duration::from_millis(1300));
    eventually("the time is learnt", || (0.45..0.7).contains(&keepalive_seconds(&gateway).unwrap()).then_some(()));
    mixed(&gateway, 8, rounds(200, 20_000), AT_ONCE);
}

#[test]
fn hypercorn_that_ends_a_connection_after_a_thousand_requests_fails_none() {
    let app = PythonServer::hypercorn("asgi:app").unix().start();
    let gateway = at(app.address(), "preset = \"hypercorn\"\nworkers = 1");
    mixed(&gateway, 1, rounds(1100, 5500), AT_ONCE);
    let connections = |reused| gateway.metrics().value("propylon_upstream_connections_total", &[("reused", reused)]);
    assert!(connections("false") >= Some(2.0) && connections("true") >= Some(1000.0));
    mixed(&gateway, 8, rounds(200, 20_000), AT_ONCE);
}

#[test]
fn sync_workers_fail_no_request() {
    let app = PythonServer::gunicorn("wsgi:app").args("-w 2 --max-requests 50").start();
    let gateway = at(app.address(), "preset = \"gunicorn-sync\"\nworkers = 2");
    mixed(&gateway, 8, rounds(200, 20_000), AT_ONCE);
    assert_eq!(gateway.metrics().value("propylon_upstream_connections_total", &[("reused", "true")]), Some(0.0));
}
