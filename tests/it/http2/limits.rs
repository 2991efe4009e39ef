//! What one client may have at once over HTTP/2, and how slow it may be.

use super::{BOTH_WAYS, PLAIN, secured};
use crate::harness::http2_frames::{DATA, END_STREAM, Fate, Http2Frames, REFUSED_STREAM, frame, headers, request};
use crate::harness::tls::TlsClient;
use crate::harness::{Gate, Origin, eventually};

#[test]
fn the_hundred_and_first_stream_is_refused() {
    let go_on = Gate::new();
    let gate = go_on.clone();
    let origin = Origin::start(move |connection| {
        while connection.read_request().is_some() {
            gate.wait();
            connection.answer(200, "ok");
        }
    });
    let gateway = secured(PLAIN).set("app", origin.address()).start();
    let mut client = gateway.frames();
    for stream in 0..101 {
        client.send(headers(stream * 2 + 1, END_STREAM, &request("GET", "/", &[])));
    }
    assert_eq!(client.fate(201), Fate::Reset(REFUSED_STREAM));
    go_on.open();
    let mut answered = Vec::new();
    while answered.len() < 100 {
        let frame = client.expect_frame();
        if frame.ends() {
            answered.push(frame.stream);
        }
    }
    assert_eq!(client.get(203, "/").expect(200), b"ok");
    assert_eq!(origin.requests().len(), 101);
}

#[test]
fn connections_of_one_address_are_counted() {
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let toml = PLAIN.replace("[server]", "[server]\nmax_connections_per_ip = 2");
    let gateway = secured(&toml).set("app", origin.address()).start();
    let first = gateway.http2();
    let second = gateway.http2();
    first.get("/").expect(200);
    second.get("/").expect(200);
    let config = crate::harness::http2::offering_http2();
    let third = TlsClient { name: "localhost".to_owned(), config }.connect(gateway.addr());
    assert!(third.is_err(), "a third connection is let in");
    drop(first);
    eventually("there is room again", || {
        TlsClient { name: "localhost".to_owned(), config: crate::harness::http2::offering_http2() }
            .connect(gateway.addr())
            .ok()
    });
    second.get("/").expect(200);
}

#[test]
fn a_body_that_stops_coming_ends_its_request_alone() {
    let origin = Origin::start(|connection| {
        while connection.read_request().is_some() {
            connection.answer(200, "ok");
        }
    });
    let gateway = secured(BOTH_WAYS).set("limit", "body_idle_timeout = \"300ms\"").set("app", origin.address()).start();
    let mut client = gateway.frames();
    let mut stream = 1;
    for path in ["/", "/streamed"] {
        client.send(headers(stream, 0, &request("POST", path, &[("content-length", "10")])));
        client.send(frame(DATA, 0, stream, b"half"));
        let body = client.fate(stream).expect(408);
        assert!(String::from_utf8(body).unwrap().contains("body_timeout"));
        assert_eq!(client.get(stream + 2, "/").expect(200), b"ok");
        stream += 4;
    }
    let lines = gateway.access_log(4);
    assert_eq!(lines.iter().filter(|line| line["reason"] == "body_timeout").count(), 2);
    assert!(origin.requests().iter().all(|request| request.method == "GET"));
}

#[test]
fn a_client_of_http_1_1_is_served_at_the_same_address() {
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let gateway = secured(PLAIN).set("app", origin.address()).start();
    let tls = TlsClient::new(crate::harness::tls::Authority::shared(), "localhost");
    crate::harness::Client::connect_tls(gateway.addr(), &tls).get("/").expect(200);
    gateway.http2().get("/").expect(200);
    let protocols: Vec<_> = gateway.access_log(2).into_iter().map(|line| line["protocol"].clone()).collect();
    assert_eq!(protocols, ["HTTP/1.1", "HTTP/2"]);
    let mut both = Http2Frames::connect(gateway.addr());
    both.ping(*b"and this");
}
