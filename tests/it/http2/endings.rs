//! How connections end: idle ones, those of a gateway that leaves or has another configuration, and what is under way on them.

use std::thread;
use std::time::{Duration, Instant};

use super::{PLAIN, secured};
use crate::harness::http2::Http2;
use crate::harness::http2_frames::{
    ACK, DATA, END_STREAM, Fate, GOAWAY, Http2Frames, INITIAL_WINDOW_SIZE, NO_ERROR, PING, REFUSED_STREAM, frame,
    headers, request, window_update,
};
use crate::harness::{Gate, Gateway, Origin, Signal, eventually, rounds, scripted_delay};

/// `PLAIN` with these lines for clients.
fn with_client(lines: &str) -> String {
    PLAIN.replace("[upstreams.app]", &format!("[server.client]\n{lines}\n[upstreams.app]"))
}

/// Answers all but `/held` at once; that one once the gate is open.
fn holding(release: &Gate) -> Origin {
    let gate = release.clone();
    Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            if request.target == "/held" {
                gate.wait();
            }
            if !connection.answer(200, request.target) {
                return;
            }
        }
    })
}

#[test]
fn a_connection_without_requests_is_told_and_closed() {
    let release = Gate::new();
    let origin = holding(&release);
    let gateway = secured(&with_client("keepalive_timeout = \"400ms\"")).set("app", origin.address()).start();
    let mut client = gateway.frames();
    client.get(1, "/").expect(200);
    let idle = Instant::now();
    // A PING asks for nothing.
    client.ping(*b"pingping");
    client.send(headers(3, END_STREAM, &request("GET", "/held", &[])));
    scripted_delay(Duration::from_millis(600));
    assert!(!client.is_closed(), "closed with a request under way");
    release.open();
    client.fate(3).expect(200);
    assert_eq!(client.gone_away(), NO_ERROR);
    client.closed();
    assert!(idle.elapsed() >= Duration::from_millis(900));
    assert!(gateway.floods() == 0);
}

#[test]
fn a_client_is_served_where_connections_are_not_kept() {
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let gateway = secured(&with_client("keepalive_timeout = \"0s\"")).set("app", origin.address()).start();
    for _ in 0..20 {
        let client = gateway.http2();
        assert_eq!(client.get("/").expect(200).text(), "ok");
        assert!(client.ended().is_ok());
    }
}

#[test]
fn a_gateway_that_leaves_finishes_what_is_under_way() {
    let release = Gate::new();
    let origin = holding(&release);
    let toml = PLAIN.replace("[[routes]]", "max_in_flight = 1\n[[routes]]");
    let gateway = secured(&toml).set("app", origin.address()).start();
    let mut client = gateway.frames();
    let idle = gateway.http2();
    // One at the app, one in the queue.
    client.send(headers(1, END_STREAM, &request("GET", "/held", &[])));
    origin.wait_for_requests(1);
    client.send(headers(3, END_STREAM, &request("GET", "/queued", &[])));
    client.ping(*b"both are");
    gateway.signal(Signal::TERM);
    let told = client.skip_to(|frame| frame.kind == GOAWAY);
    assert_eq!(&told.payload, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let ping = client.skip_to(|frame| frame.kind == PING);
    client.send(frame(PING, ACK, 0, &ping.payload));
    let last = client.skip_to(|frame| frame.kind == GOAWAY);
    assert_eq!(&last.payload, &[0, 0, 0, 3, 0, 0, 0, 0]);
    assert!(idle.ended().is_ok());
    // What comes after is not looked at.
    client.send(headers(5, END_STREAM, &request("GET", "/late", &[])));
    release.open();
    assert_eq!(client.fate(1).expect(200), b"/held");
    assert_eq!(client.fate(3).expect(200), b"/queued");
    client.closed();
    gateway.wait_for_exit();
    assert!(origin.requests().iter().all(|request| request.target != "/late"));
}

#[test]
fn a_client_that_does_not_go_does_not_keep_the_gateway() {
    let release = Gate::new();
    release.open();
    let origin = holding(&release);
    let gateway = secured(PLAIN).set("app", origin.address()).stop_bound(Duration::from_secs(5)).start();
    // One that never says a word, one that never answers the PING, and two that go on asking besides.
    let _silent = Http2Frames::connect_silent(gateway.addr());
    let mut deaf = gateway.frames();
    deaf.get(1, "/").expect(200);
    let asking = [Duration::ZERO, Duration::from_millis(20)].map(|pause| {
        let client = gateway.frames();
        thread::spawn(move || fates_of_one_that_stays(client, pause))
    });
    gateway.signal(Signal::TERM);
    gateway.wait_for_exit();
    for fates in asking.map(|asking| asking.join().unwrap()) {
        let ends = fates.iter().position(|fate| !matches!(fate, Fate::Answered { .. })).unwrap();
        assert!(
            fates[ends..]
                .iter()
                .all(|fate| matches!(fate, Fate::Reset(REFUSED_STREAM) | Fate::Closed | Fate::GoneAway(NO_ERROR))),
            "{:?}",
            &fates[ends..]
        );
    }
}

/// Asks again and again, whatever it is told, until the connection is closed.
fn fates_of_one_that_stays(mut client: Http2Frames, pause: Duration) -> Vec<Fate> {
    let mut fates = Vec::new();
    for stream in (1..).step_by(2) {
        if client.try_send(headers(stream, END_STREAM, &request("GET", "/", &[]))).is_err() {
            break;
        }
        fates.push(client.fate(stream));
        if matches!(fates.last(), Some(Fate::Closed | Fate::GoneAway(_))) {
            break;
        }
        scripted_delay(pause);
    }
    fates
}

#[test]
fn requests_go_on_over_reloads_without_a_failure() {
    let release = Gate::new();
    release.open();
    let origin = holding(&release);
    let gateway = secured(PLAIN).set("app", origin.address()).start();
    let address = gateway.addr().clone();
    let reloaded = Gate::new();
    let until = reloaded.clone();
    let asking = thread::spawn(move || {
        let (mut client, mut served, mut connections) = (Http2::connect(&address), 0, 1);
        while !until.is_open() || served <= 20 {
            match client.try_request("GET", "/", &[], "") {
                Ok(answer) => {
                    assert_eq!(answer.expect(200).text(), "/");
                    served += 1;
                }
                // It was told to go elsewhere before it asked.
                Err(error)
                    if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) || client.has_ended() =>
                {
                    client = Http2::connect(&address);
                    connections += 1;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        (served, connections)
    });
    for _ in 0..rounds(20, 200) {
        gateway.reload();
    }
    reloaded.open();
    let (served, connections) = asking.join().unwrap();
    assert!(connections > 3, "{served} requests on {connections} connections");
    let asked = gateway.access_log(served);
    assert!(asked.iter().all(|line| line["status"] == 200));
}

#[test]
fn a_reload_lets_a_request_end_and_its_slow_reader_read() {
    const LARGE: usize = 1 << 20;
    let origin = Origin::start(|connection| {
        while connection.read_request().is_some() {
            connection.answer(200, vec![b'x'; LARGE]);
        }
    });
    let gateway = secured(PLAIN).set("app", origin.address()).start();
    let mut client = Http2Frames::connect_with(gateway.addr(), &[(INITIAL_WINDOW_SIZE, 1 << 30)]);
    socket2::SockRef::from(&client.socket()).set_recv_buffer_size(16 * 1024).unwrap();
    client.send(window_update(0, 1 << 30));
    client.send(headers(1, END_STREAM, &request("GET", "/", &[])));
    client.skip_to(|frame| frame.kind == DATA);
    gateway.reload();
    eventually("the request is over for the gateway, or nearly", || {
        (gateway.metrics().value("propylon_upstream_in_flight", &[]) == Some(0.0)).then_some(())
    });
    let mut got = 0;
    let mut ended = false;
    while !ended {
        let frame = client.next_frame().unwrap_or_else(|| panic!("{got} of {LARGE} bytes came"));
        if frame.kind == DATA {
            got += frame.payload.len();
            // As those do that read: what comes of it must not reset the connection.
            let _ = client.try_send(window_update(0, 16_384));
            if got > LARGE - 200_000 {
                scripted_delay(Duration::from_millis(300));
            }
        }
        ended = frame.ends();
    }
}

#[test]
fn a_request_under_way_ends_over_a_reload() {
    let release = Gate::new();
    let origin = holding(&release);
    let gateway = secured(PLAIN).set("app", origin.address()).start();
    let client = gateway.http2();
    let held = client.start("GET", "/held", &[], true);
    origin.wait_for_requests(1);
    gateway.reload();
    let again = ask_elsewhere(&gateway);
    release.open();
    assert_eq!(held.answer().expect(200).text(), "/held");
    assert!(client.ended().is_ok());
    assert!(!again.has_ended());
}

fn ask_elsewhere(gateway: &Gateway) -> Http2 {
    let client = gateway.http2();
    client.get("/").expect(200);
    client
}
