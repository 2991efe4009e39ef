//! What a client can send without end, or not end: its connection is given up, and no other feels it (RFC 9113 section 10.5).

use std::time::{Duration, Instant};

use super::{PLAIN, secured};
use crate::harness::http2_frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FRAME_SIZE_ERROR, Fate, HEADERS, Http2Frames,
    INITIAL_WINDOW_SIZE, NO_ERROR, PING, PREFACE, PRIORITY, PROTOCOL_ERROR, SETTINGS, block, frame, frame_head,
    headers, request, reset, settings, window_update,
};
use crate::harness::{Gateway, Origin, eventually, scripted_delay};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Sends `frames` again and again, until the gateway has had enough; its word for it.
fn flood(client: &mut Http2Frames, times: usize, frames: &[u8]) -> u32 {
    let many = frames.repeat((8192 / frames.len()).max(1));
    for _ in 0..times * frames.len() / many.len() {
        if client.try_send(&many).is_err() {
            break;
        }
    }
    client.gone_away()
}

struct Scene {
    gateway: Gateway,
    origin: Origin,
}

fn scene() -> Scene {
    let origin = Origin::fixed(OK);
    let gateway = secured(PLAIN).set("app", origin.address()).start();
    Scene { gateway, origin }
}

#[test]
fn frames_that_ask_for_nothing_end_the_connection() {
    let scene = scene();
    let other = scene.gateway.http2();
    other.get("/").expect(200);
    let floods: &[(&str, Vec<u8>)] = &[
        ("PING", frame(PING, 0, 0, b"ping ping"[..8].as_ref())),
        ("PONG", frame(PING, ACK, 0, b"ping ping"[..8].as_ref())),
        ("SETTINGS", settings(&[])),
        ("SETTINGS with a value", settings(&[(INITIAL_WINDOW_SIZE, 1000)])),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 16])),
        ("WINDOW_UPDATE", window_update(0, 1)),
        ("WINDOW_UPDATE of a stream", window_update(1, 1)),
        ("RST_STREAM of one that is over", reset(1)),
        ("frames nobody knows", frame(99, 0, 0, b"?")),
        ("empty frames nobody knows", frame(99, 0, 1, b"")),
    ];
    for (number, (what, frames)) in floods.iter().enumerate() {
        let mut client = scene.gateway.frames();
        client.get(1, "/").expect(200);
        assert_eq!(flood(&mut client, 20_000, frames), ENHANCE_YOUR_CALM, "{what}");
        client.closed();
        drop(client);
        assert_eq!(scene.gateway.floods(), number + 1, "{what}");
        other.get("/").expect(200);
    }
}

#[test]
fn empty_and_tiny_pieces_of_a_body_end_the_connection() {
    let scene = scene();
    for (number, piece) in
        [frame(DATA, 0, 1, b""), frame(DATA, 0, 1, b"x"), frame(DATA, 8, 1, &[9; 10])].iter().enumerate()
    {
        let mut client = scene.gateway.frames();
        client.send(headers(1, 0, &request("POST", "/", &[])));
        assert_eq!(flood(&mut client, 20_000, piece), ENHANCE_YOUR_CALM, "{number}");
        client.closed();
        drop(client);
        eventually("it is counted", || (scene.gateway.floods() > number).then_some(()));
    }
    assert_eq!(scene.origin.requests().len(), 0);
}

#[test]
fn a_rapid_reset_asks_the_app_for_little() {
    let scene = scene();
    let mut client = scene.gateway.frames();
    let mut burst = Vec::new();
    for stream in 0..5000_u32 {
        burst.extend(headers(stream * 2 + 1, END_STREAM, &request("GET", "/", &[])));
        burst.extend(reset(stream * 2 + 1));
    }
    let _ = client.try_send(&burst);
    assert_eq!(client.gone_away(), ENHANCE_YOUR_CALM);
    client.closed();
    drop(client);
    eventually("it is counted", || (scene.gateway.floods() > 0).then_some(()));
    let asked = scene.origin.requests().len();
    assert!(asked <= 200, "the app was asked {asked} times");
    scene.gateway.http2().get("/").expect(200);
}

#[test]
fn a_slower_rapid_reset_has_no_more_requests_under_way_than_others() {
    let origin = Origin::start(|connection| {
        while connection.read_request().is_some() {
            connection.hang();
        }
    });
    let gateway = secured(PLAIN).set("app", origin.address()).start();
    let mut client = gateway.frames();
    let mut cut = false;
    for round in 0..200_u32 {
        let streams = || (0..50).map(|number| (round * 50 + number) * 2 + 1);
        let begun: Vec<u8> =
            streams().flat_map(|stream| headers(stream, END_STREAM, &request("GET", "/", &[]))).collect();
        if client.try_send(&begun).is_err() {
            cut = true;
            break;
        }
        // The app has been asked by then.
        scripted_delay(Duration::from_millis(2));
        if client.try_send(streams().flat_map(reset).collect::<Vec<_>>()).is_err() || client.is_closed() {
            cut = true;
            break;
        }
    }
    assert!(cut || client.is_closed(), "ten thousand resets were borne");
    drop(client);
    eventually("it is counted", || (gateway.floods() > 0).then_some(()));
    eventually("nothing is left at the app", || {
        (gateway.metrics().value("propylon_upstream_in_flight", &[]) == Some(0.0)).then_some(())
    });
}

/// The frames of a stream that has to be reset.
type Provoke = fn(u32) -> Vec<u8>;

#[test]
fn a_client_that_makes_the_gateway_reset_streams_is_cut() {
    let scene = scene();
    let provocations: &[(&str, Provoke)] = &[
        ("a window that overflows", |stream| {
            let begun = headers(stream, 0, &request("POST", "/", &[]));
            [begun, window_update(stream, 0x7fff_ffff)].concat()
        }),
        ("more than Content-Length", |stream| {
            let begun = headers(stream, 0, &request("POST", "/", &[("content-length", "1")]));
            [begun, frame(DATA, 0, stream, b"hello")].concat()
        }),
        ("a stream that depends on itself", |stream| {
            let begun = headers(stream, 0, &request("POST", "/", &[]));
            let [a, b, c, d] = stream.to_be_bytes();
            [begun, frame(PRIORITY, 0, stream, &[a, b, c, d, 1])].concat()
        }),
        ("what is malformed", |stream| headers(stream, END_STREAM, &[(":method", "GET"), ("connection", "close")])),
    ];
    for (number, (what, provoke)) in provocations.iter().enumerate() {
        let mut client = scene.gateway.frames();
        for stream in 0..5000 {
            if client.try_send(provoke(stream * 2 + 1)).is_err() {
                break;
            }
        }
        assert_eq!(client.gone_away(), ENHANCE_YOUR_CALM, "{what}");
        client.closed();
        drop(client);
        eventually("it is counted", || (scene.gateway.floods() > number).then_some(()));
    }
    assert_eq!(scene.origin.requests().len(), 0);
    scene.gateway.http2().get("/").expect(200);
}

#[test]
fn a_block_of_fields_ends_or_its_connection_does() {
    let origin = Origin::fixed(OK);
    let toml = PLAIN.replace("[upstreams.app]", "[server.client]\nheader_timeout = \"300ms\"\n[upstreams.app]");
    let gateway = secured(&toml).set("app", origin.address()).start();

    let mut many = gateway.frames();
    many.send(frame(HEADERS, END_STREAM, 1, &block(&request("GET", "/", &[]))));
    assert_eq!(flood(&mut many, 20_000, &frame(CONTINUATION, 0, 1, b"")), ENHANCE_YOUR_CALM);
    drop(many);
    eventually("it is counted", || (gateway.floods() > 0).then_some(()));

    let mut large = gateway.frames();
    large.send(frame(HEADERS, END_STREAM, 1, &block(&request("GET", "/", &[]))));
    let fields = block(&[("x-large", "y".repeat(10_000))]);
    assert_eq!(flood(&mut large, 1000, &frame(CONTINUATION, 0, 1, &fields)), ENHANCE_YOUR_CALM);
    drop(large);

    // One that never ends, though something comes of it.
    let mut silent = gateway.frames();
    let begun = Instant::now();
    silent.send(frame(HEADERS, END_STREAM, 1, &block(&request("GET", "/", &[]))));
    silent.send(frame(CONTINUATION, 0, 1, b""));
    assert_eq!(silent.gone_away(), ENHANCE_YOUR_CALM);
    assert!(begun.elapsed() >= Duration::from_millis(250));
    silent.closed();
    eventually("all are counted", || (gateway.floods() > 2).then_some(()));
    assert_eq!(origin.requests().len(), 0);
}

#[test]
fn a_field_that_is_said_ten_thousand_times_is_not_kept_as_often() {
    let scene = scene();
    let mut client = scene.gateway.frames();
    // Taken into the table, with incremental indexing (RFC 7541 section 6.2.1), then named again in a byte each.
    let mut bomb = block(&request("GET", "/", &[]));
    bomb.push(0x40);
    bomb.extend(&block(&[("x-bomb", "b".repeat(3000))])[1..]);
    bomb.extend([0xbe; 10_000]);
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb));
    assert_eq!(client.fate(1), Fate::GoneAway(ENHANCE_YOUR_CALM));
    drop(client);
    eventually("it is counted", || (scene.gateway.floods() > 0).then_some(()));
    assert_eq!(scene.origin.requests().len(), 0);
}

#[test]
fn what_is_no_frame_ends_the_connection() {
    let scene = scene();
    for (what, bytes, code) in [
        ("a frame above the limit", frame_head(16_385, DATA, 0, 1).to_vec(), FRAME_SIZE_ERROR),
        ("the largest frame", frame_head(0xff_ffff, 99, 0, 1).to_vec(), FRAME_SIZE_ERROR),
        // FRAME_SIZE_ERROR would be right for this and for half a setting (RFC 9113 sections 6.5 and 6.7).
        ("a short PING", frame(PING, 0, 0, b"short"), PROTOCOL_ERROR),
        ("a PING of a stream", frame(PING, 0, 1, b"pingping"), PROTOCOL_ERROR),
        ("SETTINGS of a stream", frame(SETTINGS, 0, 1, &[]), PROTOCOL_ERROR),
        ("half a setting", frame(SETTINGS, 0, 0, &[0, 1, 2]), PROTOCOL_ERROR),
        ("no increment", window_update(0, 0), PROTOCOL_ERROR),
        ("DATA of no stream", frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
        ("DATA of a stream to come", frame(DATA, 0, 9, b"x"), PROTOCOL_ERROR),
        ("a stream of ours", headers(2, END_STREAM, &request("GET", "/", &[])), PROTOCOL_ERROR),
        ("a push", frame(5, END_HEADERS, 1, &[0, 0, 0, 2]), PROTOCOL_ERROR),
        // COMPRESSION_ERROR would be right (section 4.3).
        ("fields of no table", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0xff, 0x7f]), PROTOCOL_ERROR),
        (
            "another frame amid fields",
            [frame(HEADERS, 0, 1, &[]), frame(PING, 0, 0, b"pingping")].concat(),
            PROTOCOL_ERROR,
        ),
    ] {
        let mut client = scene.gateway.frames();
        client.send(bytes);
        assert_eq!(client.gone_away(), code, "{what}");
        client.closed();
    }
    assert_eq!(scene.origin.requests().len(), 0);
}

#[test]
fn who_says_nothing_more_is_let_go() {
    let origin = Origin::fixed(OK);
    let toml = PLAIN.replace(
        "[upstreams.app]",
        "[server.client]\nheader_timeout = \"300ms\"\nkeepalive_timeout = \"600ms\"\n[upstreams.app]",
    );
    let gateway = secured(&toml).set("app", origin.address()).start();
    let begun = Instant::now();
    let mut silent = Http2Frames::connect_silent(gateway.addr());
    let mut half = Http2Frames::connect_silent(gateway.addr());
    half.send(&PREFACE[..10]);
    let mut wrong = Http2Frames::connect_silent(gateway.addr());
    wrong.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut greeted = gateway.frames();
    let mut torn = gateway.frames();
    torn.send(&headers(1, END_STREAM, &request("GET", "/", &[]))[..20]);
    wrong.closed();
    silent.closed();
    half.closed();
    assert!(begun.elapsed() >= Duration::from_millis(250));
    assert_eq!(greeted.gone_away(), NO_ERROR);
    assert_eq!(torn.gone_away(), NO_ERROR);
    greeted.closed();
    torn.closed();
    assert_eq!(origin.requests().len(), 0);
}

#[test]
fn honest_clients_are_not_taken_for_a_flood() {
    let origin = Origin::start(|connection| {
        let block = vec![b'x'; 1 << 20];
        while let Some(request) = connection.read_request() {
            if request.target == "/small" {
                connection.answer(200, "ok");
                continue;
            }
            connection.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 50 << 20));
            for _ in 0..50 {
                connection.write(&block);
            }
        }
    });
    let gateway = secured(PLAIN).set("app", origin.address()).start();
    // Fifty megabytes through a window of sixteen kilobytes, which is opened for each frame, twice.
    let mut client = Http2Frames::connect_with(gateway.addr(), &[(INITIAL_WINDOW_SIZE, 16_384)]);
    client.send(headers(1, END_STREAM, &request("GET", "/large", &[])));
    assert_eq!(client.fate(1).expect(200).len(), 50 << 20);
    // A proxy's way: many small answers, each paid for at once on the connection and on the stream, with a PING between.
    for number in 1..3000_u32 {
        let stream = number * 2 + 1;
        client.send(headers(stream, END_STREAM, &request("GET", "/small", &[])));
        client.fate(stream).expect(200);
    }
    client.ping(*b"well met");
    assert!(gateway.floods() == 0);
}
