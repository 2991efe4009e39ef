//! Responses without an end over HTTP/2: each event goes on at once, and an app is told when its client leaves.

use std::fs;
use std::sync::mpsc;

use super::{PLAIN, secured};
use crate::harness::http2_frames::{END_STREAM, headers, request, reset};
use crate::harness::{Gate, Origin, PythonServer, eventually};

#[test]
fn each_event_is_here_before_the_next_is_made() {
    let (taken, takes) = mpsc::channel::<()>();
    let takes = std::sync::Mutex::new(takes);
    let origin = Origin::start(move |connection| {
        if connection.read_request().is_none() {
            return;
        }
        connection.write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        let takes = takes.lock().unwrap();
        // The head is waited for, too.
        for number in 0..20 {
            takes.recv().unwrap();
            let event = format!("data: {number}\n\n");
            connection.write(format!("{:x}\r\n{event}\r\n", event.len()));
        }
        takes.recv().unwrap();
        connection.write("0\r\n\r\n");
    });
    let gateway = secured(PLAIN).set("app", origin.address()).start();
    let client = gateway.http2();
    let mut stream = client.start("GET", "/events", &[], true);
    assert_eq!(stream.head().expect(200).field("content-type"), Some("text/event-stream"));
    taken.send(()).unwrap();
    for number in 0..20 {
        assert_eq!(stream.piece().unwrap(), format!("data: {number}\n\n"));
        taken.send(()).unwrap();
    }
    assert_eq!(stream.piece(), None);
}

#[test]
fn an_asgi_app_is_told_that_its_client_left() {
    let dir = tempfile::tempdir().unwrap();
    let record = dir.path().join("record");
    let app = PythonServer::uvicorn("asgi:app").unix().env("RECORD_FILE", &record.display().to_string()).start();
    let gateway = secured(PLAIN).set("app", app.address()).start();
    let client = gateway.http2();
    let mut waiting = client.start("GET", "/until-disconnect", &[], true);
    let mut events = client.start("GET", "/events?count=1000&gap=0.05", &[], true);
    events.head().expect(200);
    waiting.reset();
    eventually("the app is told", || {
        fs::read_to_string(&record).ok().filter(|told| told.contains("/until-disconnect"))
    });
    // The other goes on.
    assert!(events.piece().is_some());
    events.reset();
    eventually("the app is free", || {
        (gateway.metrics().value("propylon_upstream_in_flight", &[]) == Some(0.0)).then_some(())
    });
    assert!(gateway.access_log(2).iter().all(|line| line["reason"] == "client_closed"));
    client.get("/healthz").expect(200);
}

#[test]
fn a_wsgi_app_finishes_without_its_client_also_when_the_gateway_leaves() {
    let go_on = Gate::new();
    let gate = go_on.clone();
    let origin = Origin::start(move |connection| {
        while connection.read_request().is_some() {
            gate.wait();
            connection.answer(200, "done");
        }
    });
    let toml = PLAIN.replace("[upstreams.app]", "[upstreams.app]\npreset = \"gunicorn-sync\"");
    let gateway = secured(&toml).set("app", origin.address()).start();
    let mut client = gateway.frames();
    client.send(headers(1, END_STREAM, &request("POST", "/pay", &[])));
    origin.wait_for_requests(1);
    client.send(reset(1));
    client.ping(*b"is reset");
    drop(client);
    gateway.signal(crate::harness::Signal::TERM);
    eventually("nobody is served any more", || gateway_refuses(&gateway));
    let log = gateway.dir().join("access.log");
    assert!(!fs::read_to_string(&log).unwrap().contains("/pay"), "it was given up");
    go_on.open();
    eventually("it is finished", || fs::read_to_string(&log).ok().filter(|log| log.contains("/pay")));
}

fn gateway_refuses(gateway: &crate::harness::Gateway) -> Option<()> {
    crate::harness::Client::try_connect(gateway.addr()).is_err().then_some(())
}
