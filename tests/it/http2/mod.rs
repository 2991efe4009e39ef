//! HTTP/2 from clients (RFC 9113), over TLS: what a request gets, what is refused, and what no client can take from others.

mod answers;
mod basics;
mod endings;
mod events;
mod floods;
mod limits;
mod memory;
mod smuggling;
mod strictness;
mod uploads;
mod windows;

use crate::harness::http2::Http2;
use crate::harness::http2_frames::Http2Frames;
use crate::harness::tls::Authority;
use crate::harness::{Gateway, GatewayBuilder};

/// What every gateway of these tests has beside its own TOML.
const AROUND: &str = r#"
    [[tls.certificates]]
    cert = "{dir}/gateway.pem"
    key = "{dir}/gateway.key"
    [admin]
    listen = ["127.0.0.1:0"]
    control = "unix:{dir}/control.sock"
    [log]
    access = "{dir}/access.log"
"#;

/// One app at `{app}`, and nothing else said.
const PLAIN: &str = r#"
    [server]
    listen = []
    listen_tls = ["127.0.0.1:0"]
    [upstreams.app]
    endpoints = ["{app}"]
    [[routes]]
    upstream = "app"
"#;

/// One app that is sent bodies whole, and under `/streamed` as they come; `{limit}` is for the client.
const BOTH_WAYS: &str = r#"
    [server]
    listen = []
    listen_tls = ["127.0.0.1:0"]
    [server.client]
    {limit}
    [upstreams.app]
    endpoints = ["{app}"]
    [upstreams.streamed]
    endpoints = ["{app}"]
    buffer_requests = false
    [[routes]]
    path = "/streamed"
    upstream = "streamed"
    [[routes]]
    upstream = "app"
"#;

/// A gateway with a certificate; `toml` has the rest, its listener of TLS first.
fn secured(toml: &str) -> GatewayBuilder {
    Gateway::with(&format!("{toml}{AROUND}")).certificate("gateway", &Authority::shared().issue(&["localhost"]))
}

impl Gateway {
    /// A new connection of a client that keeps to the rules.
    #[track_caller]
    fn http2(&self) -> Http2 {
        Http2::connect(self.addr())
    }

    /// A new connection of one that need not.
    #[track_caller]
    fn frames(&self) -> Http2Frames {
        Http2Frames::connect(self.addr())
    }

    /// How many connections were cut for what their clients sent.
    #[track_caller]
    fn floods(&self) -> usize {
        let count = self.metrics().value("propylon_connections_refused_total", &[("reason", "http2_flood")]);
        count.unwrap().to_string().parse().unwrap()
    }
}
