//! What is sent a second time, and what never is: side effects happen once.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::process::{Pid, kill_process};

use crate::harness::*;
use crate::in_flight::{in_flight_is, nothing_in_flight};

/// One group; `{endpoints}` and further `{keys}` of it.
const ONE_GROUP: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[admin]
listen = ["127.0.0.1:0"]
[log]
access = "{dir}/access.log"
[upstreams.app]
endpoints = [{endpoints}]
{keys}
[[routes]]
upstream = "app"
"#;

/// An app that is not there is waited for no longer than this.
const BRIEFLY: &str = "queue = { timeout = \"200ms\" }";

fn group(endpoints: &[&Address], keys: &str) -> Gateway {
    let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    Gateway::with(ONE_GROUP).set("endpoints", &endpoints.join(", ")).set("keys", keys).start()
}

/// An address that refuses.
fn refusing() -> Origin {
    let mut origin = Origin::fixed("");
    origin.stop();
    origin
}

fn ok() -> Origin {
    Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

/// Does `fault` with its first `times` requests and answers the others.
fn failing(times: usize, fault: impl Fn(&mut Connection) + Send + Sync + 'static) -> Origin {
    let count = AtomicUsize::new(0);
    Origin::start(move |connection| {
        while connection.read_request().is_some() {
            if count.fetch_add(1, Ordering::SeqCst) < times {
                return fault(connection);
            }
            connection.answer(200, "ok");
        }
    })
}

fn retries(gateway: &Gateway, kind: &str) -> Option<f64> {
    gateway.metrics().value("propylon_upstream_retries_total", &[("kind", kind)])
}

fn errors(gateway: &Gateway, kind: &str) -> Option<f64> {
    gateway.metrics().value("propylon_upstream_errors_total", &[("kind", kind)])
}

#[test]
fn a_refused_connection_is_tried_elsewhere_with_the_whole_body() {
    let (gone, live) = (refusing(), ok());
    let gateway = group(&[gone.address(), live.address()], "balance = \"round_robin\"");
    let body = "0123456789".repeat(50_000);
    let mut client = gateway.connect();
    for method in ["POST", "PUT", "DELETE", "PATCH", "GET"] {
        client.request(method, "/", &[], &body).expect(200);
    }
    let mut chunked = gateway.connect();
    chunked.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n");
    chunked.send("5\r\n56789\r\n0\r\n\r\n");
    chunked.response().expect(200);

    let requests = live.requests();
    assert_eq!(requests.len(), 6);
    assert!(requests[..5].iter().all(|request| request.body == body.as_bytes()));
    assert_eq!(requests[5].body, b"0123456789");
    // Once it is known to be gone it is asked now and then only.
    assert!(retries(&gateway, "connect") >= Some(1.0));
    assert_eq!(errors(&gateway, "connect_refused"), retries(&gateway, "connect"));
    // It went well, so there is nothing to say against it.
    for line in gateway.access_log(6) {
        assert_eq!(line["endpoint"], live.address().to_string());
        assert!(line["reason"].is_null(), "{line}");
    }
    assert_eq!(gateway.access_log(6)[0]["retries"], 1);
    assert_eq!(gateway.metrics().value("propylon_rejections_total", &[]), Some(0.0));
    nothing_in_flight(&gateway);
}

#[test]
fn when_all_refuse_the_answer_is_503_with_a_time_to_come_back() {
    let (a, b) = (refusing(), refusing());
    let gateway = group(&[a.address(), b.address()], BRIEFLY);
    let response = gateway.connect().request("POST", "/", &[], "body").expect(503);
    assert_eq!(response.field("Retry-After"), Some("1"));
    let line = &gateway.access_log(1)[0];
    // To look again whether they are back is no retry.
    assert_eq!((&line["reason"], &line["retries"]), (&"upstream_unreachable".into(), &1.into()), "{line}");
    assert!(line["t_queue"].as_f64() > Some(0.05) && line["duration"].as_f64() >= Some(0.2), "{line}");
    assert_eq!(retries(&gateway, "connect"), Some(1.0));
    assert!(errors(&gateway, "connect_refused") > Some(2.0));
    nothing_in_flight(&gateway);
}

#[test]
fn a_missing_socket_file_is_an_app_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Address::Unix(dir.path().join("app.sock"));
    let gateway = group(&[&missing], "queue = { timeout = \"1s\" }");
    let response = gateway.get("/").expect(503);
    assert_eq!(response.field("Retry-After"), Some("1"));
    let line = &gateway.access_log(1)[0];
    assert_eq!((&line["reason"], &line["retries"]), (&"upstream_unreachable".into(), &0.into()), "{line}");
    // There was nowhere else to go.
    assert!(errors(&gateway, "connect_refused") > Some(1.0));
    assert_eq!(retries(&gateway, "connect"), Some(0.0));
    // Once the app has made its socket it is served, without a reload.
    let origin = Origin::start_at(&missing, |connection| {
        while connection.read_request().is_some() {
            connection.answer(200, "here");
        }
    });
    assert_eq!(gateway.get("/").expect(200).text(), "here");
    drop(origin);

    let live = ok();
    let gateway = group(&[&missing, live.address()], "balance = \"round_robin\"");
    gateway.connect().request("POST", "/", &[], "body").expect(200);
    assert_eq!(live.requests()[0].body, b"body");
}

#[test]
fn an_abstract_socket_nobody_listens_on_is_an_app_that_is_not_there() {
    let missing = Address::Abstract(format!("propylon-nobody-{}", std::process::id()));
    let live = ok();
    group(&[&missing], BRIEFLY).get("/").expect(503);
    let gateway = group(&[&missing, live.address()], "balance = \"round_robin\"");
    gateway.connect().request("POST", "/", &[], "body").expect(200);
    assert_eq!(errors(&gateway, "connect_refused"), Some(1.0));
}

#[test]
fn a_connect_timeout_is_tried_elsewhere() {
    let (silent, live) = (Origin::unreachable(), ok());
    let gateway = group(&[silent.address(), live.address()], "balance = \"round_robin\"\nconnect_timeout = \"150ms\"");
    gateway.connect().request("POST", "/", &[], "body").expect(200);
    assert_eq!(live.requests()[0].body, b"body");
    assert_eq!((errors(&gateway, "connect_timeout"), retries(&gateway, "connect")), (Some(1.0), Some(1.0)));

    let gateway = group(&[silent.address()], &format!("connect_timeout = \"150ms\"\n{BRIEFLY}"));
    gateway.get("/").expect(503);
    assert_eq!(gateway.access_log(1)[0]["reason"], "upstream_unreachable");
    nothing_in_flight(&gateway);
}

#[test]
fn as_many_other_endpoints_are_tried_as_the_key_allows() {
    let gone = [refusing(), refusing(), refusing()];
    let live = ok();
    let mut endpoints: Vec<&Address> = gone.iter().map(Origin::address).collect();
    endpoints.push(live.address());
    let keys = |connect| format!("balance = \"round_robin\"\nretry = {{ connect = {connect} }}");
    for (connect, rests) in [(0, 3), (2, 1), (3, 0)] {
        let gateway = group(&endpoints, &keys(connect));
        gateway.get("/").expect(200);
        let line = &gateway.access_log(1)[0];
        assert_eq!(line["retries"], connect, "{line}");
        assert_eq!(retries(&gateway, "connect"), Some(f64::from(connect)));
        // Those beyond are tried after a moment's rest each.
        let queued = line["t_queue"].as_f64().unwrap();
        assert!(queued >= 0.025 * f64::from(rests) && (queued > 0.0) == (rests > 0), "{line}");
    }
}

#[test]
fn a_safe_request_is_sent_once_more_when_a_fresh_connection_breaks() {
    for method in ["GET", "HEAD", "OPTIONS"] {
        for fault in [Connection::close, Connection::reset] {
            let origin = failing(1, fault);
            let gateway = group(&[origin.address()], "");
            gateway.connect().request(method, "/", &[], "").expect(200);
            assert_eq!(origin.requests().len(), 2, "{method}");
            assert_eq!(retries(&gateway, "idempotent"), Some(1.0));
            let line = &gateway.access_log(1)[0];
            assert_eq!((&line["retries"], &line["status"]), (&1.into(), &200.into()), "{line}");
            assert!(line["reason"].is_null(), "{line}");
            nothing_in_flight(&gateway);
        }
    }
}

/// Answers the first request of each connection, and does `fault` with the second: an app that closes an idle connection
/// at the worst moment.
fn tired(fault: fn(&mut Connection)) -> Origin {
    Origin::start(move |connection| {
        if connection.read_request().is_some() {
            connection.answer(200, "ok");
            if connection.read_request().is_some() {
                fault(connection);
            }
        }
    })
}

#[test]
fn a_safe_request_is_sent_once_more_when_a_reused_connection_breaks() {
    for fault in [Connection::close, Connection::reset] {
        let origin = tired(fault);
        let gateway = group(&[origin.address()], "keepalive_timeout = \"30s\"");
        let mut client = gateway.connect();
        client.get("/1").expect(200);
        client.get("/2").expect(200);
        let targets: Vec<String> = origin.requests().into_iter().map(|request| request.target).collect();
        assert_eq!(targets, ["/1", "/2", "/2"]);
        let line = &gateway.access_log(2)[1];
        assert_eq!((&line["retries"], &line["reused"]), (&1.into(), &false.into()), "{line}");
    }
}

#[test]
fn any_other_request_is_never_sent_twice() {
    for method in ["POST", "PUT", "DELETE", "PATCH", "LOCK"] {
        for (fault, kind) in [(Connection::close as fn(&mut Connection), "closed_early"), (Connection::reset, "reset")]
        {
            for (body, sent) in [("", 1), ("one", 1)] {
                let (origin, other) = (failing(1, fault), ok());
                let gateway = group(&[origin.address(), other.address()], "balance = \"round_robin\"");
                let response = gateway.connect().request(method, "/", &[], body).expect(502);
                assert_eq!(response.field("Retry-After"), None, "nobody knows whether it was done");
                assert_eq!((origin.requests().len(), other.requests().len()), (sent, 0), "{method} {body:?}");
                let line = &gateway.access_log(1)[0];
                assert_eq!((&line["reason"], &line["retries"]), (&"upstream_closed".into(), &0.into()), "{line}");
                assert_eq!(errors(&gateway, kind), Some(1.0));
            }
            let origin = tired(fault);
            let gateway = group(&[origin.address()], "keepalive_timeout = \"30s\"");
            let mut client = gateway.connect();
            client.get("/").expect(200);
            client.request(method, "/", &[], "one").expect(502);
            assert_eq!(origin.requests().len(), 2, "{method}");
            assert_eq!(gateway.access_log(2)[1]["reused"], true);
        }
    }
}

#[test]
fn a_get_is_repeated_with_the_whole_of_its_body() {
    let large = "0123456789".repeat(100_000);
    for fault in [Connection::close, Connection::reset] {
        for body in ["a body", &large] {
            let origin = failing(1, fault);
            // The large one comes from a file both times.
            let gateway = Gateway::with(&format!("spool = {{ memory_per_body = \"16KiB\" }}\n{ONE_GROUP}"))
                .set("endpoints", &format!("\"{}\"", origin.address()))
                .set("keys", "")
                .start();
            gateway.connect().request("GET", "/", &[], body).expect(200);
            let mut client = gateway.connect();
            client.send("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
            client.response().expect(200);
            let bodies: Vec<Vec<u8>> = origin.requests().into_iter().map(|request| request.body).collect();
            assert_eq!(bodies, [body.as_bytes(), body.as_bytes(), b"abc"]);
            assert_eq!(retries(&gateway, "idempotent"), Some(1.0));
            assert_eq!(gateway.access_log(2)[0]["retries"], 1);
        }
    }
}

#[test]
fn a_get_whose_body_was_not_kept_is_not_repeated() {
    let origin = failing(1, Connection::close);
    let gateway = group(&[origin.address()], "buffer_requests = false");
    gateway.connect().request("GET", "/", &[], "a body").expect(502);
    assert_eq!(origin.requests().len(), 1);
    assert_eq!(retries(&gateway, "idempotent"), Some(0.0));
    // Without a body there is nothing that would be missing.
    let origin = failing(1, Connection::close);
    group(&[origin.address()], "buffer_requests = false").get("/").expect(200);
    assert_eq!(origin.requests().len(), 2);
}

#[test]
fn nothing_is_repeated_after_the_first_byte_of_a_response() {
    for begun in [
        "H",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
    ] {
        let origin = failing(1, move |connection| {
            connection.write(begun);
            connection.close();
        });
        let gateway = group(&[origin.address()], "");
        gateway.get("/").expect(502);
        assert_eq!(origin.requests().len(), 1, "{begun:?}");
        assert_eq!(gateway.access_log(1)[0]["reason"], "upstream_closed");
        nothing_in_flight(&gateway);
    }
    let origin = failing(1, |connection| {
        connection.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        connection.close();
    });
    let gateway = group(&[origin.address()], "");
    let mut client = gateway.connect();
    client.send_request("GET", "/", &[], "");
    client.try_response().unwrap_err().truncated();
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn a_timeout_is_not_repeated() {
    // The app may be at work on it still: twice the work would be the cure for nothing.
    let origin = failing(1, Connection::hang_here);
    let gateway = group(&[origin.address()], "first_byte_timeout = \"200ms\"");
    gateway.get("/").expect(504);
    assert_eq!(origin.requests().len(), 1);
}

/// A method of the right shape for a fault.
trait HangHere {
    fn hang_here(&mut self);
}

impl HangHere for Connection {
    fn hang_here(&mut self) {
        self.hang();
    }
}

#[test]
fn repeating_can_be_turned_off_and_up() {
    let origin = failing(1, Connection::close);
    let gateway = group(&[origin.address()], "retry = { idempotent = 0 }");
    gateway.get("/").expect(502);
    assert_eq!(origin.requests().len(), 1);

    // The default is once: an app that fails twice is not asked a third time.
    let origin = failing(2, Connection::close);
    group(&[origin.address()], "").get("/").expect(502);
    assert_eq!(origin.requests().len(), 2);
    let origin = failing(3, Connection::close);
    group(&[origin.address()], "retry = { idempotent = 3 }").get("/").expect(200);
    assert_eq!(origin.requests().len(), 4);
}

#[test]
fn retries_end_when_the_budget_is_spent() {
    let origin = failing(usize::MAX, Connection::close);
    let gateway = group(&[origin.address()], "retry = { budget = \"1%\" }");
    let exhausted = || gateway.metrics().value("propylon_upstream_retry_budget_exhausted_total", &[]);
    let mut client = gateway.connect();
    // Ten are saved up, and each request adds a hundredth.
    for _ in 0..10 {
        client.get("/").expect(502);
    }
    assert_eq!((origin.requests().len(), exhausted()), (20, Some(0.0)));
    for _ in 0..5 {
        client.get("/").expect(502);
    }
    assert_eq!((origin.requests().len(), exhausted()), (25, Some(5.0)));
    assert_eq!(retries(&gateway, "idempotent"), Some(10.0));
}

#[test]
fn a_budget_of_nothing_allows_no_retry_but_other_endpoints_are_tried() {
    let origin = failing(1, Connection::close);
    let gateway = group(&[origin.address()], "retry = { budget = \"0%\" }");
    gateway.get("/").expect(502);
    assert_eq!(origin.requests().len(), 1);
    let (gone, live) = (refusing(), ok());
    let gateway = group(&[gone.address(), live.address()], "balance = \"round_robin\"\nretry = { budget = \"0%\" }");
    gateway.connect().request("POST", "/", &[], "1").expect(200);
}

#[test]
fn a_retry_takes_the_place_of_its_first_try() {
    let gate = Gate::new();
    let count = Arc::new(AtomicUsize::new(0));
    let script = || {
        let (gate, count) = (gate.clone(), count.clone());
        move |connection: &mut Connection| {
            while connection.read_request().is_some() {
                if count.fetch_add(1, Ordering::SeqCst) == 0 {
                    return connection.close();
                }
                gate.wait();
                connection.answer(200, "second");
            }
        }
    };
    let (a, b) = (Origin::start(script()), Origin::start(script()));
    let gateway = group(&[a.address(), b.address()], "");
    let mut client = gateway.connect();
    client.send_request("GET", "/", &[], "");
    eventually("both have seen the request", || (a.requests().len() + b.requests().len() == 2).then_some(()));
    assert_eq!((a.requests().len(), b.requests().len()), (1, 1), "another endpoint is as good");
    in_flight_is(&gateway, 1.0);
    gate.open();
    client.response().expect(200);
    nothing_in_flight(&gateway);
}

#[test]
fn a_retry_stays_on_a_healthy_endpoint_rather_than_go_to_one_that_is_down() {
    // Both answer probes as they are: one is well, one is ill.
    let script = |status: u16, faults: usize| {
        let count = AtomicUsize::new(0);
        move |connection: &mut Connection| {
            while let Some(request) = connection.read_request() {
                if request.target == "/healthz" {
                    connection.answer(status, "");
                } else if count.fetch_add(1, Ordering::SeqCst) < faults {
                    return connection.close();
                } else {
                    connection.answer(200, "well");
                }
            }
        }
    };
    let (well, ill) = (Origin::start(script(200, 1)), Origin::start(script(500, 0)));
    let keys = "health = { path = \"/healthz\", interval = \"300ms\", timeout = \"300ms\", fall = 1 }";
    let gateway = group(&[well.address(), ill.address()], keys);
    let endpoint = ill.address().to_string();
    eventually("one is down", || {
        let healthy = gateway.metrics().value("propylon_upstream_healthy", &[("endpoint", &endpoint)]);
        (healthy == Some(0.0)).then_some(())
    });
    gateway.get("/").expect(200);
    let real = |origin: &Origin| origin.requests().iter().filter(|request| request.target == "/").count();
    assert_eq!((real(&well), real(&ill)), (2, 0));
}

/// A directory and a file in it for the side effects of an app.
fn record_file() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("effects");
    fs::write(&path, "").unwrap();
    (dir, path)
}

#[test]
fn a_gunicorn_worker_killed_at_a_post_did_it_once() {
    let (_dir, record) = record_file();
    let server = PythonServer::gunicorn("wsgi:app").args("--workers 2").env("RECORD_FILE", &record.display()).start();
    let gateway = group(&[server.address()], "preset = \"gunicorn-sync\"\nworkers = 2");
    let response = gateway.connect().request("POST", "/die", &[], "a body").expect(502);
    assert_eq!(response.field("Retry-After"), None);
    assert_eq!(fs::read_to_string(&record).unwrap(), "POST /die\n");
    assert_eq!(gateway.access_log(1)[0]["reason"], "upstream_closed");
    // The other worker, and the next one, go on.
    for _ in 0..4 {
        gateway.get("/").expect(200);
    }
    assert_eq!(fs::read_to_string(&record).unwrap(), "POST /die\n");
    nothing_in_flight(&gateway);
}

#[test]
fn a_gunicorn_worker_killed_at_a_get_is_made_up_for_by_another() {
    let (_dir, record) = record_file();
    let server = PythonServer::gunicorn("wsgi:app").env("RECORD_FILE", &record.display()).start();
    let gateway = group(&[server.address()], "preset = \"gunicorn-sync\"\nworkers = 1");
    let first = gateway.get("/").expect(200).json()["pid"].as_i64().unwrap();
    let mut client = gateway.connect();
    client.send_request("GET", "/slow?seconds=2", &[], "");
    eventually("the worker has the request", || (!fs::read(&record).unwrap().is_empty()).then_some(()));
    kill_process(Pid::from_raw(i32::try_from(first).unwrap()).unwrap(), Signal::KILL).unwrap();

    let second = client.response().expect(200).json()["pid"].as_i64().unwrap();
    assert_ne!(first, second);
    assert_eq!(gateway.access_log(2)[1]["retries"], 1);
    nothing_in_flight(&gateway);
}

/// Requests one after the other and side by side, while workers come and go: every one is answered.
fn none_fails(gateway: &Gateway) {
    let count = rounds(300, 20_000);
    let mut client = gateway.connect();
    let mut pids = std::collections::HashSet::new();
    eventually("workers were replaced", || {
        for _ in 0..count / 2 {
            pids.insert(client.get("/").expect(200).json()["pid"].as_i64());
        }
        (pids.len() > 2).then_some(())
    });
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = gateway.connect();
                for _ in 0..count / 8 {
                    client.get("/").expect(200);
                }
            });
        }
    });
    let reused = gateway.metrics().value("propylon_upstream_connections_total", &[("reused", "true")]);
    assert!(reused > Some(0.0), "connections were reused");
    nothing_in_flight(gateway);
}

#[test]
fn recycled_gthread_workers_do_not_show() {
    let server = PythonServer::gunicorn("wsgi:app")
        .args("-k gthread --workers 2 --threads 4 --keep-alive 2")
        .args(&format!("--max-requests {}", rounds(25, 250)))
        .start();
    let gateway = group(&[server.address()], "preset = \"gunicorn-gthread\"\nworkers = 2\nthreads = 4");
    none_fails(&gateway);
}

#[test]
fn recycled_uvicorn_workers_do_not_show() {
    // Its supervisor takes half a second to notice that a worker is gone.
    // A Unix socket, because with `--fd` Uvicorn leaves Nagle's algorithm on: 40 ms for each answer.
    let server = PythonServer::uvicorn("asgi:app")
        .unix()
        .args("--workers 2 --no-access-log")
        .args(&format!("--limit-max-requests {}", rounds(40, 1000)))
        .start();
    let gateway = group(&[server.address()], "preset = \"uvicorn\"\nworkers = 2");
    none_fails(&gateway);
}
