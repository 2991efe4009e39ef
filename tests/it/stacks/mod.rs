//! The stacks that people run: each an example with its real servers and its own `gateway.toml`, and what that stack needs most.

// Counts are small and whole.
#![allow(clippy::float_cmp, clippy::cast_precision_loss)]

mod courses;
mod directory;
mod predictions;
mod products;
mod screener;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::tls::{Authority, TlsClient};
use crate::harness::{Client, Example, Gateway, GatewayBuilder, RedisServer, Response, eventually, eventually_within};

/// What Python takes to start again and again on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// The gateway of an example, which shares what it counts through this Redis.
fn gateway(example: &Example, redis: &RedisServer) -> GatewayBuilder {
    // A busy machine is no reason to go on without Redis.
    example.gateway().env("REDIS_URL", &redis.url()).env("REDIS_TIMEOUT", "2s")
}

/// [`gateway()`] with a certificate where the configuration looks for it.
fn secure_gateway(example: &Example, redis: &RedisServer, host: &str) -> GatewayBuilder {
    let issued = Authority::shared().issue(&[host, "localhost"]);
    let gateway = gateway(example, redis).env("TLS_DIR", ".");
    gateway.file("fullchain.pem", &issued.cert).file("privkey.pem", &issued.key)
}

/// A connection with TLS to this host.
fn connect_tls(gateway: &Gateway, host: &str) -> Client {
    gateway.connect_tls(&TlsClient::new(Authority::shared(), host))
}

/// Clients that ask without a pause, each on a connection of its own, while `meanwhile` runs. `ask` is given the connection and the
/// number of the request, and says whether its answer was right. How many there were.
fn under_load<T>(
    clients: usize,
    connect: impl Fn() -> Client + Sync,
    ask: impl Fn(&mut Client, usize) + Sync,
    meanwhile: impl FnOnce(&AtomicUsize) -> T,
) -> (usize, T) {
    let (asked, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let result = thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                // Where this one fails the others need not go on.
                let _over = RaiseOnDrop(&over);
                let mut client = connect();
                client.set_timeout(PATIENCE);
                while !over.load(Ordering::Relaxed) {
                    ask(&mut client, asked.fetch_add(1, Ordering::Relaxed));
                }
            });
        }
        let _over = RaiseOnDrop(&over);
        meanwhile(&asked)
    });
    (asked.into_inner(), result)
}

struct RaiseOnDrop<'a>(&'a AtomicBool);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asserts that the gateway has answered so many requests, and each of them well.
#[track_caller]
fn assert_answered(gateway: &Gateway, count: usize) {
    // A request is counted a moment after its client has the answer.
    let answered = eventually("every request is counted", || {
        let metrics = gateway.metrics();
        let all = metrics.value("propylon_requests_total", &[]);
        (all >= Some(count as f64)).then(|| (all, metrics.value("propylon_requests_total", &[("code", "2xx")])))
    });
    assert_eq!(answered, (Some(count as f64), Some(count as f64)));
}

/// Asserts that an answer came out of the cache, where it is kept for `lifetime` seconds in all.
#[track_caller]
fn assert_kept(answer: &Response, lifetime: u64) {
    let status = answer.field("cache-status").unwrap_or_default();
    let left = status.strip_prefix("propylon; hit; ttl=").and_then(|rest| rest.split(';').next()?.parse::<u64>().ok());
    let left = left.unwrap_or_else(|| panic!("not out of the cache: {answer}"));
    let age: u64 = answer.field("age").expect("Age").parse().unwrap();
    // Both are cut to whole seconds; the age is also that of an answer on its way here.
    assert!(left <= lifetime && left + age + 1 >= lifetime, "{left} s left after {age} s: {answer}");
}

/// Asserts that a response has these fields.
#[track_caller]
fn assert_fields(answer: &Response, fields: &[(&str, &str)]) {
    for (name, value) in fields {
        assert_eq!(answer.field(name), Some(*value), "{name}: {answer}");
    }
}
