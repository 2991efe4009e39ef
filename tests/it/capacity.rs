//! What an app can work on at once, and that it never has more: through retries, reloads, and answers that came too late.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::*;
use crate::in_flight::nothing_in_flight;
use crate::queue::{builder, depth_is, line_of, number, one_app, queue, reconfigure, sample, send, targets};

/// How many requests an app has at once, and the most it ever had.
#[derive(Default)]
struct Crowd {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Crowd {
    fn enter(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

#[test]
fn the_app_never_has_more_than_its_capacity_through_retries_and_a_reload() {
    const CAPACITY: usize = 3;
    const CLIENTS: usize = 50;
    let each = rounds(6, 200);
    let crowd = Arc::new(Crowd::default());
    let (all_wait, reloaded) = (Gate::new(), Gate::new());
    let (counted, first, second) = (crowd.clone(), all_wait.clone(), reloaded.clone());
    let (arrived, broken) = (AtomicUsize::new(0), Mutex::new(HashSet::new()));
    let origin = Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            counted.enter();
            first.wait();
            if arrived.fetch_add(1, Ordering::SeqCst) > CLIENTS * each / 2 {
                second.wait();
            }
            // One request in seven breaks the first time it is seen.
            let breaks = request.target.ends_with('7') && broken.lock().unwrap().insert(request.target);
            counted.leave();
            if breaks {
                return connection.reset();
            }
            connection.answer(200, "done");
        }
    });
    let keys = format!("max_in_flight = {CAPACITY}\nretry = {{ budget = \"100%\" }}");
    let gateway = one_app(&origin, &keys);
    let client = |number: usize| {
        let mut client = gateway.connect();
        (0..each).for_each(|turn| drop(client.get(&format!("/{turn}/{number}")).expect(200)));
    };
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let client = &client;
            scope.spawn(move || client(number));
        }
        depth_is(&gateway, CLIENTS - CAPACITY);
        origin.wait_for_requests(CAPACITY);
        all_wait.open();
        // Half way through, while the app has all it can take, another configuration comes, and more clients with it.
        origin.wait_for_requests(CLIENTS * each / 2 + 1 + CAPACITY);
        depth_is(&gateway, CLIENTS - CAPACITY);
        reconfigure(&gateway, &format!("{keys}\nqueue = {{ max = 1000 }}"));
        for number in CLIENTS..CLIENTS + 10 {
            let client = &client;
            scope.spawn(move || client(number));
        }
        depth_is(&gateway, CLIENTS + 10 - CAPACITY);
        reloaded.open();
    });
    assert_eq!(crowd.most(), CAPACITY);
    nothing_in_flight(&gateway);
    let retried = sample(&gateway, "propylon_upstream_retries_total", &[("kind", "idempotent")]);
    assert_eq!(retried, Some(number(6 * each)), "one client of ten, each of its requests once");
    assert_eq!(sample(&gateway, "propylon_queue_drops_total", &[]), Some(0.0));
}

#[test]
fn a_reload_that_makes_an_app_smaller_lets_it_come_down_first() {
    let (gate, crowd) = (Gate::new(), Arc::new(Crowd::default()));
    let (held, counted) = (gate.clone(), crowd.clone());
    let reduced = Arc::new(AtomicBool::new(false));
    let is_reduced = reduced.clone();
    let origin = Origin::start(move |connection| {
        while connection.read_request().is_some() {
            if is_reduced.load(Ordering::SeqCst) {
                counted.enter();
            }
            held.wait();
            counted.now.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| Some(now.saturating_sub(1))).unwrap();
            connection.answer(200, "");
        }
    });
    let gateway = one_app(&origin, "max_in_flight = 4");
    let mut clients: Vec<Client> = (0..4).map(|_| send(&gateway, "GET", "/")).collect();
    origin.wait_for_requests(4);
    clients.extend((1..=4).map(|depth| queue(&gateway, "/", depth)));
    reconfigure(&gateway, "max_in_flight = 1");
    reduced.store(true, Ordering::SeqCst);
    gate.open();
    clients.iter_mut().for_each(|client| drop(client.response().expect(200)));
    assert_eq!(crowd.most(), 1);
}

#[test]
fn after_a_504_the_slot_stays_taken_until_the_app_really_ends() {
    let (gate, whole) = (Gate::new(), Arc::new(AtomicBool::new(false)));
    let (held, written) = (gate.clone(), whole.clone());
    let origin = Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            if request.target == "/work" {
                held.wait();
                written.store(connection.answer(200, vec![b'x'; 3 << 20]), Ordering::SeqCst);
            } else {
                assert!(written.load(Ordering::SeqCst), "it was let in while the app was at work");
                connection.answer(200, "mine");
            }
        }
    });
    let gateway = one_app(&origin, "max_in_flight = 1\nfirst_byte_timeout = \"200ms\"");
    let mut client = gateway.connect();
    let response = client.request("POST", "/work", &[], "paid").expect(504);
    assert_eq!(response.json()["reason"], "upstream_timeout");
    let line = line_of(&gateway, "/work");
    assert_eq!((&line["status"], &line["reason"]), (&504.into(), &"upstream_timeout".into()), "{line}");
    assert_eq!(sample(&gateway, "propylon_endpoint_overdue", &[]), Some(1.0));
    assert_eq!(sample(&gateway, "propylon_upstream_in_flight", &[]), Some(1.0));

    // Its connection is as good as before. What comes next on it waits, however long.
    client.send_request("GET", "/next", &[], "");
    let mut other = gateway.connect();
    depth_is(&gateway, 1);
    other.send_request("GET", "/other", &[], "");
    depth_is(&gateway, 2);
    assert_eq!(origin.requests().len(), 1);
    gate.open();
    assert_eq!(client.response().expect(200).text(), "mine");
    assert_eq!(other.response().expect(200).text(), "mine");
    assert!(whole.load(Ordering::SeqCst), "the app could say all it had to say");
    assert_eq!(sample(&gateway, "propylon_endpoint_overdue", &[]), Some(0.0));
    nothing_in_flight(&gateway);
    assert_eq!(gateway.access_log(3).len(), 3);
}

#[test]
fn after_a_504_the_slot_is_free_once_the_app_is_gone() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            if request.target == "/work" {
                held.wait();
                return connection.reset();
            }
            connection.answer(200, "");
        }
    });
    let gateway = one_app(&origin, "max_in_flight = 1\nfirst_byte_timeout = \"200ms\"");
    gateway.get("/work").expect(504);
    let mut client = queue(&gateway, "/next", 1);
    gate.open();
    client.response().expect(200);
    // Nobody was there to be told, or to be tried again for.
    assert_eq!(targets(&origin), ["/work", "/next"]);
    nothing_in_flight(&gateway);
}

/// Two upstreams that name the same address.
const TWO_NAMES: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[admin]
listen = ["127.0.0.1:0"]
[log]
access = "{dir}/access.log"
[upstreams.left]
endpoints = ["{origin}"]
max_in_flight = 2
[upstreams.right]
endpoints = ["{origin}"]
max_in_flight = 2
[[routes]]
path = "/left/*"
upstream = "left"
[[routes]]
path = "/right/*"
upstream = "right"
"#;

#[test]
fn two_upstreams_that_name_one_address_share_its_capacity() {
    let (gate, crowd) = (Gate::new(), Arc::new(Crowd::default()));
    let (held, counted) = (gate.clone(), crowd.clone());
    let origin = Origin::start(move |connection| {
        while connection.read_request().is_some() {
            counted.enter();
            held.wait();
            counted.leave();
            connection.answer(200, "");
        }
    });
    let gateway = Gateway::with(TWO_NAMES).set("origin", origin.address()).start();
    let mut held = [send(&gateway, "GET", "/left/"), send(&gateway, "GET", "/right/")];
    origin.wait_for_requests(2);
    let mut clients: Vec<Client> =
        (0..20).map(|number| send(&gateway, "GET", ["/left/", "/right/"][number % 2])).collect();
    for upstream in ["left", "right"] {
        eventually("both wait", || {
            (sample(&gateway, "propylon_queue_depth", &[("upstream", upstream)]) == Some(10.0)).then_some(())
        });
    }
    gate.open();
    held.iter_mut().chain(&mut clients).for_each(|client| drop(client.response().expect(200)));
    assert_eq!(crowd.most(), 2);
    nothing_in_flight(&gateway);
}

#[test]
fn gunicorn_is_never_given_more_than_workers_and_threads() {
    // It could work on eight, and counts how many it does.
    const APP: &str = r#"
import threading, time

lock = threading.Lock()
now = most = 0

def app(environ, start_response):
    global now, most
    with lock:
        now += 1
        most = max(most, now)
    time.sleep(0.01)
    with lock:
        now -= 1
        body = str(most).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"#;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("crowd.py"), APP).unwrap();
    let app = PythonServer::gunicorn("crowd:app")
        .app_dir(dir.path().to_str().unwrap())
        .args("-k gthread --workers 1 --threads 8")
        .start();
    let gateway =
        builder(app.address(), "preset = \"gunicorn-gthread\"\nworkers = 1\nthreads = 2\nqueue = { max = 100 }")
            .set("server", "")
            .start();
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let mut client = gateway.connect();
                for _ in 0..rounds(5, 500) {
                    let most = client.request("POST", "/", &[], "body").expect(200);
                    assert!(matches!(most.text(), "1" | "2"), "{most}");
                }
            });
        }
    });
    assert_eq!(gateway.get("/").expect(200).text(), "2");
    assert!(sample(&gateway, "propylon_queue_wait_seconds_count", &[]) > Some(0.0));
}

#[test]
fn a_health_path_without_an_end_does_not_keep_the_slot() {
    let origin = Origin::start(|connection| {
        connection.read_request();
        connection.write("HTTP/1.1 200 OK\r\n\r\n");
        while connection.write("hello") {
            connection.delay(Duration::from_millis(10));
        }
    });
    let keys = "max_in_flight = 1\nfirst_byte_timeout = \"200ms\"\n\
                health = { path = \"/healthz\", interval = \"50ms\", timeout = \"50ms\" }";
    let _gateway = builder(origin.address(), keys).set("server", "").start();
    origin.wait_for_requests(3);
}

#[test]
fn a_probe_that_was_not_answered_in_time_keeps_its_slot_until_it_is() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            if request.target == "/healthz" {
                held.wait();
            }
            connection.answer(200, "");
        }
    });
    let keys = "max_in_flight = 1\nhealth = { path = \"/healthz\", interval = \"50ms\", timeout = \"50ms\" }";
    let gateway = builder(origin.address(), keys).set("server", "").start();
    eventually("a probe failed", || {
        (sample(&gateway, "propylon_upstream_health_checks_total", &[("result", "fail")]) >= Some(2.0)).then_some(())
    });
    let mut waiting = queue(&gateway, "/", 1);
    assert_eq!(targets(&origin), ["/healthz"], "one probe at a time, and nothing behind it");
    gate.open();
    waiting.response().expect(200);
}
