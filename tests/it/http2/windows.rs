//! Flow control: clients that make little room, or read slowly, get what is theirs, and hold neither the app nor each other.

use std::time::{Duration, Instant};

use super::{PLAIN, secured};
use crate::harness::http2_frames::{
    DATA, END_STREAM, HEADERS, Http2Frames, INITIAL_WINDOW_SIZE, INTERNAL_ERROR, RST_STREAM, SETTINGS, headers,
    request, settings, window_update,
};
use crate::harness::{Gateway, Origin, PythonServer, eventually, scripted_delay};

const LARGE: usize = 4 << 20;

fn large() -> Origin {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
    let whole = [head.as_bytes(), &vec![b'x'; LARGE]].concat();
    Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            if !(if request.target == "/small" { connection.answer(200, "ok") } else { connection.write(&whole) }) {
                return;
            }
        }
    })
}

#[test]
fn a_client_with_a_small_window_gets_all_of_it() {
    let app = PythonServer::uvicorn("asgi:app").unix().start();
    let gateway = secured(PLAIN).set("app", app.address()).start();
    for (window, bytes) in [(1, 100), (100, 10_000), (16_384, 1_000_000)] {
        let mut client = Http2Frames::connect_with(gateway.addr(), &[(INITIAL_WINDOW_SIZE, window)]);
        client.send(headers(1, END_STREAM, &request("GET", &format!("/big?bytes={bytes}"), &[])));
        assert_eq!(client.fate(1).expect(200).len(), bytes);
    }
}

#[test]
fn a_window_may_be_closed_and_opened_again() {
    let origin = large();
    let gateway = secured(PLAIN).set("app", origin.address()).start();
    let mut client = Http2Frames::connect_with(gateway.addr(), &[(INITIAL_WINDOW_SIZE, 0)]);
    client.send(headers(1, END_STREAM, &request("GET", "/", &[])));
    let head = client.skip_to(|frame| frame.kind == HEADERS);
    assert_eq!((head.status(), head.ends()), (200, false));
    client.ping(*b"no data!");
    // The change of a setting counts for streams that are open (RFC 9113 section 6.9.2), below nothing too.
    client.send(settings(&[(INITIAL_WINDOW_SIZE, 1000)]));
    let data = client.skip_to(|frame| frame.kind == DATA);
    assert_eq!(data.payload.len(), 1000);
    client.send(settings(&[(INITIAL_WINDOW_SIZE, 0)]));
    client.skip_to(|frame| frame.kind == SETTINGS);
    client.send(window_update(1, 1500));
    let data = client.skip_to(|frame| frame.kind == DATA);
    assert_eq!(data.payload.len(), 500);
}

const ONE_WORKER: &str = r#"
    [server]
    listen = []
    listen_tls = ["127.0.0.1:0"]
    [server.client]
    {client}
    [upstreams.app]
    endpoints = ["{app}"]
    max_in_flight = {workers}
    [[routes]]
    upstream = "app"
"#;

fn metric(gateway: &Gateway, name: &str) -> Option<f64> {
    gateway.metrics().value(name, &[])
}

#[test]
fn a_slow_reader_does_not_hold_a_worker() {
    let origin = large();
    let gateway = secured(ONE_WORKER).set("client", "").set("workers", "1").set("app", origin.address()).start();
    let mut slow = gateway.frames();
    slow.send(headers(1, END_STREAM, &request("GET", "/", &[])));
    slow.skip_to(|frame| frame.kind == DATA);
    eventually("the app is free", || (metric(&gateway, "propylon_upstream_in_flight") == Some(0.0)).then_some(()));
    gateway.http2().get("/small").expect(200);
    // It reads on, and gets the rest.
    slow.send([window_update(0, 1 << 30), window_update(1, 1 << 30)].concat());
    let mut rest = 0;
    while rest < LARGE - 65_535 {
        rest += slow.skip_to(|frame| frame.kind == DATA).payload.len();
    }
}

#[test]
fn a_stream_whose_window_stays_closed_is_reset_alone() {
    let origin = large();
    let gateway = secured(ONE_WORKER).set("client", "write_idle_timeout = \"300ms\"").set("workers", "2");
    let gateway = gateway.set("app", origin.address()).start();
    let mut client = Http2Frames::connect_with(gateway.addr(), &[(INITIAL_WINDOW_SIZE, 1000)]);
    client.send(headers(1, END_STREAM, &request("GET", "/", &[])));
    client.skip_to(|frame| frame.kind == DATA);
    let end = client.skip_to(|frame| frame.stream == 1);
    assert_eq!((end.kind, &end.payload[..]), (RST_STREAM, &INTERNAL_ERROR.to_be_bytes()[..]));
    assert_eq!(client.get(3, "/small").expect(200), b"ok");
    let lines = gateway.access_log(2);
    let line = lines.iter().find(|line| line["path"] == "/").unwrap();
    assert_eq!((&line["reason"], &line["bytes_out"]), (&"write_timeout".into(), &1000.into()));
}

#[test]
fn a_stream_that_is_taken_too_slowly_is_reset_alone() {
    let origin = large();
    let gateway = secured(ONE_WORKER).set("client", "write_min_rate = \"10MB/s\"").set("workers", "2");
    let gateway = gateway.set("app", origin.address()).start();
    let mut client = Http2Frames::connect_with(gateway.addr(), &[(INITIAL_WINDOW_SIZE, 1000)]);
    client.send(headers(1, END_STREAM, &request("GET", "/", &[])));
    let begun = Instant::now();
    // Something each time, so that it is never idle; after ten seconds it is too little.
    while client.skip_to(|frame| frame.stream == 1).kind != RST_STREAM {
        scripted_delay(Duration::from_millis(200));
        client.send(window_update(1, 10));
    }
    assert!(begun.elapsed() >= Duration::from_secs(9));
    assert_eq!(client.get(3, "/small").expect(200), b"ok");
}

#[test]
fn a_client_that_does_not_read_at_all_is_cut() {
    let origin = large();
    let gateway = secured(ONE_WORKER)
        .set("client", "write_idle_timeout = \"300ms\"")
        .set("workers", "4")
        .set("app", origin.address())
        .start();
    let mut client = Http2Frames::connect_with(gateway.addr(), &[(INITIAL_WINDOW_SIZE, 1 << 30)]);
    client.send(window_update(0, 1 << 30));
    for stream in [1, 3, 5, 7] {
        client.send(headers(stream, END_STREAM, &request("GET", "/", &[])));
    }
    eventually("its connection is closed", || {
        (gateway.metrics().value("propylon_connections", &[("listener", &gateway.addr().to_string())]) == Some(0.0))
            .then_some(())
    });
    let lines = gateway.access_log(4);
    assert!(
        lines.iter().all(|line| line["reason"] == "write_timeout" || line["reason"] == "client_closed"),
        "{lines:#?}"
    );
}
