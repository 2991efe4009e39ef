//! What one client can make the gateway hold.

use std::fs;

use super::secured;
use crate::harness::http2_frames::{DATA, END_STREAM, Http2Frames, INITIAL_WINDOW_SIZE, headers, request};
use crate::harness::{Gateway, Origin, eventually};

const TOML: &str = r#"
    [server]
    listen = []
    listen_tls = ["127.0.0.1:0"]
    [upstreams.app]
    endpoints = ["{app}"]
    max_in_flight = 4
    [[routes]]
    upstream = "app"
"#;

/// Memory of the process that is its own, in KiB.
fn resident(gateway: &Gateway) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_hundred_streams_that_take_a_byte_each_hold_little() {
    const LARGE: usize = 4 << 20;
    let origin =
        Origin::start(
            |connection| {
                while connection.read_request().is_some() && connection.answer(200, vec![b'x'; LARGE]) {}
            },
        );
    let gateway = secured(TOML).set("app", origin.address()).start();
    // What is made once, is.
    let warm = gateway.http2();
    let streams: Vec<_> = (0..8).map(|_| warm.start("GET", "/", &[], true)).collect();
    streams.into_iter().for_each(|stream| assert_eq!(stream.answer().expect(200).body.len(), LARGE));
    drop(warm);
    let before = resident(&gateway);
    let mut client = Http2Frames::connect_with(gateway.addr(), &[(INITIAL_WINDOW_SIZE, 1)]);
    // In one piece: those that fall behind while there are fewer have larger shares.
    let asked: Vec<_> = (0..100).map(|stream| headers(stream * 2 + 1, END_STREAM, &request("GET", "/", &[]))).collect();
    client.send(asked.concat());
    for _ in 0..100 {
        assert_eq!(client.skip_to(|frame| frame.kind == DATA).payload.len(), 1);
    }
    eventually("every worker is free", || {
        (gateway.metrics().value("propylon_upstream_in_flight", &[]) == Some(0.0)).then_some(())
    });
    // Without a share of their own, each would have 64 KiB of it.
    let spool = gateway.metrics().value("propylon_spool_memory_bytes", &[]).unwrap();
    assert!(spool <= 1_500_000.0, "{spool} bytes in the spool");
    // Most of it is what the allocator keeps for the threads that write files, and differs from run to run.
    let grown = resident(&gateway).saturating_sub(before);
    assert!(grown <= 32 * 1024, "grown by {grown} KiB");
}
