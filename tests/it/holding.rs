//! An app that restarts is waited for: its requests are held, and each is done once.

use std::collections::HashSet;
use std::fs;
use std::os::unix::net::UnixStream as Filler;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, kill_process};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::harness::*;
use crate::in_flight::nothing_in_flight;

/// One app; `{keys}` are further keys of its upstream.
const ONE_APP: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[admin]
listen = ["127.0.0.1:0"]
[log]
access = "{dir}/access.log"
[upstreams.app]
endpoints = ["{app}"]
{keys}
[[routes]]
upstream = "app"
"#;

fn one_app(app: &Address, keys: &str) -> Gateway {
    Gateway::with(ONE_APP).set("app", app).set("keys", keys).start()
}

/// Two sync workers, and requests that wait longer than a restart takes on a busy machine.
const TWO_WORKERS: &str = "preset = \"gunicorn-sync\"\nworkers = 2\nqueue = { timeout = \"30s\" }";

/// An address where nobody listens.
fn nobody() -> Origin {
    let mut origin = Origin::fixed("");
    origin.stop();
    origin
}

#[test]
fn an_endpoint_that_can_be_connected_to_again_is_not_asked_over_old_connections_alone() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start_unix(move |connection| {
        while let Some(request) = connection.read_request() {
            if request.target == "/held" {
                held.wait();
            }
            connection.answer(200, "here");
        }
    });
    let gateway = one_app(
        origin.address(),
        "health = { interval = \"1h\" }\nqueue = { timeout = \"10s\" }\nkeepalive_timeout = \"1m\"",
    );
    crate::queue::checked(&gateway, 1);
    gateway.get("/").expect(200);
    eventually("its connection is idle", || {
        (gateway.metrics().value("propylon_endpoint_idle_connections", &[]) == Some(1.0)).then_some(())
    });
    let Address::Unix(path) = origin.address() else { panic!("a Unix socket") };
    let away = path.with_extension("away");
    fs::rename(path, &away).unwrap();
    // One has the connection that was idle; the other finds no way in, and waits.
    let mut holder = gateway.connect();
    holder.send_request("GET", "/held", &[], "");
    origin.wait_for_requests(2);
    let mut waiting = gateway.connect();
    waiting.send_request("GET", "/", &[], "");
    let is_reachable = || gateway.admin_get("/status").json()["upstreams"][0]["endpoints"][0]["reachable"] == true;
    eventually("it is found unreachable", || (!is_reachable()).then_some(()));
    gate.open();
    holder.response().expect(200);
    fs::rename(&away, path).unwrap();
    waiting.response().expect(200);
    assert!(is_reachable());
}

/// Answers with how many bytes of a body came.
fn counting(address: &Address) -> Origin {
    Origin::start_at(address, |connection| {
        while let Some(request) = connection.read_request() {
            connection.answer(200, request.body.len().to_string());
        }
    })
}

#[track_caller]
fn waiting(gateway: &Gateway, count: f64) {
    eventually(&format!("{count} requests wait"), || {
        (gateway.metrics().value("propylon_queue_depth", &[]) == Some(count)).then_some(())
    });
}

/// A directory and a file in it for the side effects of an app.
fn record_file() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("effects");
    fs::write(&path, "").unwrap();
    (dir, path)
}

/// How often the app did what this line names.
fn done(record: &PathBuf, what: &str) -> usize {
    fs::read_to_string(record).unwrap().lines().filter(|line| *line == what).count()
}

/// What the clients got while the app restarted.
#[derive(Default)]
struct Answers {
    gets: AtomicUsize,
    posts: AtomicUsize,
    /// POSTs that were sent to a worker that did not get to them.
    cut: AtomicUsize,
    /// The workers that answered since the last restart.
    workers: Mutex<HashSet<i64>>,
}

impl Answers {
    fn count(&self) -> usize {
        self.gets.load(Ordering::SeqCst) + self.posts.load(Ordering::SeqCst)
    }

    fn note_worker(&self, answer: &Response) {
        self.workers.lock().unwrap().insert(answer.json()["pid"].as_i64().unwrap());
    }

    /// One client, until it is told to stop.
    fn collect(&self, gateway: &Gateway, stop: &AtomicBool) {
        let mut client = gateway.connect();
        client.set_timeout(Duration::from_mins(1));
        while !stop.load(Ordering::SeqCst) {
            self.note_worker(&client.request("GET", "/record", &[], "").expect(200));
            self.gets.fetch_add(1, Ordering::SeqCst);
            let answer = client.request("POST", "/record", &[], "a body");
            let counter = if answer.status == 502 {
                assert_eq!(answer.json()["reason"], "upstream_closed");
                &self.cut
            } else {
                answer.expect(200);
                &self.posts
            };
            counter.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Stops and starts the server under load, as `systemctl restart` does.
fn restarts_do_not_show(server: PythonBuilder) {
    let (_dir, record) = record_file();
    let mut server = server.args("--workers 2").env("RECORD_FILE", &record.display()).start();
    let gateway = one_app(server.address(), TWO_WORKERS);
    let (answers, stop) = (Answers::default(), AtomicBool::new(false));
    let (restarts, clients) = (rounds(2, 12), 6);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(|| answers.collect(&gateway, &stop))).collect();
        // A client that fails must not leave the others running for ever.
        let alive = || assert!(clients.iter().all(|client| !client.is_finished()), "a client failed");
        let fifty_more = || {
            let until = answers.count() + 50;
            // Both workers are up by then: Gunicorn loses the signal for one that is only starting.
            eventually("fifty more answers", || {
                alive();
                (answers.count() >= until && answers.workers.lock().unwrap().len() >= 2).then_some(())
            });
        };
        let restarted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..restarts {
                fifty_more();
                server.stop();
                // All of them but one, which may be asking whether the app is back.
                eventually("the clients wait", || {
                    alive();
                    (gateway.metrics().value("propylon_queue_depth", &[]) >= Some(5.0)).then_some(())
                });
                answers.workers.lock().unwrap().clear();
                server.start_again();
            }
            fifty_more();
        }));
        stop.store(true, Ordering::SeqCst);
        if let Err(panic) = restarted {
            std::panic::resume_unwind(panic);
        }
    });
    nothing_in_flight(&gateway);

    let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
    let (gets, posts, cut) = (count(&answers.gets), count(&answers.posts), count(&answers.cut));
    // A POST that was in the app's backlog when the last worker closed it is not sent again: nobody can know whether it was done.
    // There are as many as there are slots, at most.
    let recorded = done(&record, "POST /record");
    assert!((posts..=posts + cut).contains(&recorded), "{posts} answered, {cut} cut, {recorded} done");
    assert!(cut <= restarts * 2, "{cut} of {posts} were cut");
    assert!(done(&record, "GET /record") >= gets);

    let lines = gateway.access_log(gets + posts + cut);
    assert_eq!(lines.iter().filter(|line| line["status"] == 200).count(), gets + posts);
    let held = lines.iter().filter(|line| line["t_queue"].as_f64() > Some(0.05)).count();
    assert!(held >= restarts * 5, "{held} were held");
    assert_eq!(gateway.metrics().value("propylon_queue_drops_total", &[]), Some(0.0));
    gateway.wait_for_log("endpoint is unreachable, requests wait");
    gateway.wait_for_log("endpoint is reachable again");
}

#[test]
fn gunicorn_restarts_on_a_port_and_no_request_is_lost() {
    restarts_do_not_show(PythonServer::gunicorn("wsgi:app"));
}

#[test]
fn gunicorn_restarts_on_a_unix_socket_and_no_request_is_lost() {
    restarts_do_not_show(PythonServer::gunicorn("wsgi:app").unix());
}

#[test]
fn a_request_is_held_with_its_whole_body() {
    for unix in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let gone = nobody();
        let address = if unix { Address::Unix(dir.path().join("app.sock")) } else { gone.address().clone() };
        let gateway = one_app(&address, "max_in_flight = 1");
        // Held in memory, and in a file.
        let mut clients: Vec<Client> = Vec::new();
        for (length, waiting) in [(1_000_000, 1.0), (100, 1.0), (0, 2.0)] {
            let mut client = gateway.connect();
            client.send_request("POST", "/", &[], vec![b'x'; length]);
            clients.push(client);
            eventually("it waits for the app", || {
                // One of them may be asking whether it is back.
                (gateway.metrics().value("propylon_queue_depth", &[]) >= Some(waiting)).then_some(())
            });
        }
        let origin = counting(&address);
        for (client, length) in clients.iter_mut().zip(["1000000", "100", "0"]) {
            assert_eq!(client.response_to("POST").expect(200).text(), length);
        }
        assert_eq!(origin.requests().len(), 3);
        for line in gateway.access_log(3) {
            assert!(line["t_queue"].as_f64() > Some(0.0), "{line}");
            assert_eq!((&line["retries"], &line["reason"]), (&0.into(), &serde_json::Value::Null), "{line}");
        }
        nothing_in_flight(&gateway);
    }
}

/// Connections that wait in the backlog of a Unix socket until it takes no more.
fn fill_backlog(address: &Address) -> Vec<Filler> {
    let Address::Unix(path) = address else { panic!("{address} is no Unix socket") };
    let address = SockAddr::unix(path).unwrap();
    let mut fillers = Vec::new();
    loop {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).unwrap();
        match socket.connect(&address) {
            Ok(()) => fillers.push(Filler::from(std::os::fd::OwnedFd::from(socket))),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                return fillers;
            }
        }
    }
}

#[test]
fn a_full_backlog_is_waited_out() {
    let (_dir, record) = record_file();
    let server = PythonServer::gunicorn("wsgi:app")
        .unix()
        .args("--workers 1 --backlog 1")
        .env("RECORD_FILE", &record.display())
        .start();
    let gateway = one_app(server.address(), TWO_WORKERS);
    let pid = gateway.get("/").expect(200).json()["pid"].as_i64().unwrap();
    let worker = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(worker, Signal::STOP).unwrap();
    let fillers = fill_backlog(server.address());

    let mut clients = ["GET", "POST", "POST"].map(|method| {
        let mut client = gateway.connect();
        client.send_request(method, "/record", &[], if method == "POST" { "a body" } else { "" });
        (client, method)
    });
    eventually("it was tried again and again", || {
        let errors = gateway.metrics().value("propylon_upstream_errors_total", &[("kind", "connect_other")]);
        (errors >= Some(4.0)).then_some(())
    });
    kill_process(worker, Signal::CONT).unwrap();
    drop(fillers);
    for (client, method) in &mut clients {
        client.response_to(method).expect(200);
    }
    assert_eq!((done(&record, "GET /record"), done(&record, "POST /record")), (1, 2));
    for line in &gateway.access_log(4)[1..] {
        assert!(line["t_queue"].as_f64() > Some(0.0) && line["reason"].is_null(), "{line}");
    }
    nothing_in_flight(&gateway);
}

#[test]
fn an_app_that_never_comes_back_is_503_for_all_when_their_time_is_over() {
    let gone = nobody();
    let gateway = one_app(gone.address(), "queue = { timeout = \"300ms\" }");
    let count = 40;
    let answered = Mutex::new(0);
    thread::scope(|scope| {
        for number in 0..count {
            let (gateway, answered) = (&gateway, &answered);
            scope.spawn(move || {
                let (method, body) = if number % 2 == 0 { ("GET", "") } else { ("POST", "body") };
                let answer = gateway.connect().request(method, "/", &[], body).expect(503);
                assert_eq!(answer.field("Retry-After"), Some("1"));
                assert_eq!(answer.json()["reason"], "upstream_unreachable");
                *answered.lock().unwrap() += 1;
            });
        }
    });
    assert_eq!(*answered.lock().unwrap(), count);
    for line in gateway.access_log(count) {
        assert_eq!((&line["status"], &line["retries"]), (&503.into(), &0.into()), "{line}");
        assert!(line["t_queue"].as_f64() > Some(0.1), "{line}");
        // Side by side; one after the other it would be 12 s for the last.
        assert!((0.3..6.0).contains(&line["duration"].as_f64().unwrap()), "{line}");
    }
    let late = gateway.metrics().value("propylon_queue_drops_total", &[("reason", "late")]);
    assert!(late > Some(0.0) && late <= Some(40.0), "{late:?}");
    nothing_in_flight(&gateway);
    waiting(&gateway, 0.0);
}

#[test]
fn a_client_that_leaves_while_it_waits_is_forgotten_at_once() {
    let gone = nobody();
    // Nobody's time will be over.
    let gateway = one_app(gone.address(), "queue = { timeout = \"10m\" }");
    let send = |target: &str, body: &str| {
        let mut client = gateway.connect();
        client.send_request("POST", target, &[], body);
        client
    };
    let (closing, resetting, mut staying) = (send("/closes", "1"), send("/resets", "22"), send("/stays", "333"));
    waiting(&gateway, 3.0);
    drop(closing);
    resetting.reset();
    waiting(&gateway, 1.0);
    for line in gateway.access_log(2) {
        assert_eq!((&line["status"], &line["reason"]), (&499.into(), &"client_closed".into()), "{line}");
        assert!(line["t_queue"].as_f64() > Some(0.0), "{line}");
    }
    // The app never hears of them.
    let origin = counting(gone.address());
    assert_eq!(staying.response_to("POST").expect(200).text(), "3");
    let targets: Vec<String> = origin.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/stays"]);
    nothing_in_flight(&gateway);
}

#[test]
fn those_who_wait_are_served_in_the_order_they_came() {
    let gone = nobody();
    let gateway = one_app(gone.address(), "max_in_flight = 1");
    let mut clients: Vec<Client> = Vec::new();
    for number in 0..6_u8 {
        let mut client = gateway.connect();
        client.send_request("GET", &format!("/{number}"), &[], "");
        clients.push(client);
        waiting(&gateway, f64::from(number + 1));
    }
    let origin = counting(gone.address());
    for client in &mut clients {
        client.response().expect(200);
    }
    let targets: Vec<String> = origin.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/0", "/1", "/2", "/3", "/4", "/5"]);
}
