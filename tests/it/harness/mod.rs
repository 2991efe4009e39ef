//! What the integration tests drive the program with: the real binary, and everything around it that a test scripts.
//!
//! A test reads as a story: the whole TOML, what the origin does, what the client must see, what the origin must have seen.
//! Everything listens on ports and sockets of its own, and takes itself down when it is dropped. Nothing here retries a
//! request or sleeps to let something happen: [`eventually()`] polls with a deadline, [`Gate`] makes an order certain.
//!
//! - [`Gateway`]: the program, started with a configuration, watched and checked at its end
//! - [`Client`]: a raw HTTP/1.1 client that reads strictly
//! - [`http2::Http2`]: a client of HTTP/2 that keeps to the rules; [`http2_frames::Http2Frames`]: one that sends frames as they are
//! - [`Origin`]: an upstream that does exactly what a closure says; [`PythonServer`]: a real one; [`Example`]: one of
//!   `examples/` as a whole
//! - [`RedisServer`]: a private `redis-server`
//! - [`tls`]: certificates, and connections with TLS for all of these
//! - [`DnsServer`]: a name server whose answers change at run time

// Each test uses some of it, and no build uses all of it at every moment.
#![allow(dead_code, unused_imports)]
// A harness says that a test failed by panicking, and shows logs on stderr.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

mod client;
mod dns;
mod eventually;
pub mod example;
mod gateway;
mod grammar;
pub mod http2;
pub mod http2_frames;
mod message;
mod metrics;
mod origin;
mod process;
mod python;
mod redis;
mod socket;
pub mod tls;
pub mod websocket;
mod wire;

pub use client::Client;
pub use dns::DnsServer;
pub use eventually::{Gate, eventually, eventually_within, rounds, scripted_delay};
pub use example::Example;
pub use gateway::{Finished, Gateway, GatewayBuilder};
pub use grammar::Framing;
pub use message::{Broken, Fields, Request, Response};
pub use metrics::Metrics;
pub use origin::{Connection, Origin};
pub use process::Process;
pub use python::{PythonBuilder, PythonServer};
pub use redis::RedisServer;
pub use rustix::process::Signal;
pub use socket::Address;
