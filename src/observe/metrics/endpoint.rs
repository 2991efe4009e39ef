//! What is counted for each endpoint of an upstream: the app side of the gateway.
//!
//! The exact count that selection works with is kept by the endpoint itself; the gauge here only shows it.
//! What changes seldom is not kept once for each core. [`samples`] writes the page.

mod samples;

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::histogram::{Histogram, Reading};
use super::label::{CheckResult, StatusClass, UpstreamError};
use super::minute::{Lately, Minute, Sums};
use super::shards::{Shards, increment};

pub(super) use samples::write;

/// The counters of one endpoint in one upstream. A handle is resolved when a configuration is loaded and kept in it.
#[derive(Debug)]
pub struct EndpointMetrics {
    upstream: Box<str>,
    endpoint: Box<str>,
    shards: Shards<EndpointShard>,
    healthy: AtomicBool,
    /// Requests at once; 0 is unlimited.
    capacity: AtomicU64,
    checks: [AtomicU64; CheckResult::COUNT],
    ejected: AtomicBool,
    ejections: AtomicU64,
    drained: AtomicBool,
    unreachable: AtomicBool,
    overdue: AtomicU64,
    idle_connections: AtomicU64,
    keepalive_micros: AtomicU64,
    minute: Minute,
}

#[derive(Debug, Default)]
struct EndpointShard {
    requests: [AtomicU64; StatusClass::COUNT],
    errors: [AtomicU64; UpstreamError::COUNT],
    in_flight: AtomicI64,
    first_byte: Histogram,
    duration: Histogram,
    connections_new: AtomicU64,
    connections_reused: AtomicU64,
    reuse_failures: AtomicU64,
}

impl EndpointMetrics {
    /// Starts out healthy and with nothing against it: what nobody checks is in use.
    pub(super) fn new(upstream: &str, endpoint: &str) -> Self {
        Self {
            upstream: upstream.into(),
            endpoint: endpoint.into(),
            shards: Shards::default(),
            healthy: AtomicBool::new(true),
            capacity: AtomicU64::new(0),
            checks: Default::default(),
            ejected: AtomicBool::new(false),
            ejections: AtomicU64::new(0),
            drained: AtomicBool::new(false),
            unreachable: AtomicBool::new(false),
            overdue: AtomicU64::new(0),
            idle_connections: AtomicU64::new(0),
            keepalive_micros: AtomicU64::new(0),
            minute: Minute::default(),
        }
    }

    /// Counts a request as in flight until the guard is dropped, on whichever thread.
    #[must_use = "the request counts as in flight for as long as the guard lives"]
    pub fn enter(self: &Arc<Self>) -> EndpointInFlight {
        self.shards.here().in_flight.fetch_add(1, Relaxed);
        EndpointInFlight { metrics: Arc::clone(self) }
    }

    /// Counts a response. `duration` runs from the request sent to the end of the response.
    pub fn record(&self, status: u16, duration: Duration) {
        let shard = self.shards.here();
        increment(&shard.requests, StatusClass::of(status) as usize);
        shard.duration.observe(duration);
    }

    /// Records the time from the request sent to the first byte of the response.
    pub fn record_first_byte(&self, duration: Duration) {
        self.shards.here().first_byte.observe(duration);
    }

    /// Counts a connection that carries an attempt; `reused` when it was open already.
    pub fn record_connection(&self, reused: bool) {
        let shard = self.shards.here();
        if reused { &shard.connections_reused } else { &shard.connections_new }.fetch_add(1, Relaxed);
    }

    /// Counts an attempt that found out that the endpoint had closed the connection it was sent on.
    pub fn record_reuse_failure(&self) {
        self.shards.here().reuse_failures.fetch_add(1, Relaxed);
    }

    /// Counts an attempt that brought no response or half of one.
    pub fn record_error(&self, kind: UpstreamError) {
        increment(&self.shards.here().errors, kind as usize);
    }

    /// Counts a health check.
    pub fn record_check(&self, result: CheckResult) {
        increment(&self.checks, result as usize);
    }

    /// Says that an endpoint is there, of which nothing is known yet. The handle may be older: it lives as long as any request.
    pub fn begin(&self) {
        self.set_healthy(true);
        self.set_ejected(false);
        self.set_drained(false);
        self.set_unreachable(false);
        self.set_idle_connections(0);
    }

    /// Says whether the endpoint is given requests.
    pub fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Relaxed);
    }

    /// Says how many requests the endpoint may work on at once; none or 0 is unlimited.
    pub fn set_capacity(&self, capacity: Option<u32>) {
        self.capacity.store(capacity.unwrap_or(0).into(), Relaxed);
    }

    /// Says whether the endpoint is left out because its last attempts failed; beside [`EndpointMetrics::record_ejection`].
    pub fn set_ejected(&self, ejected: bool) {
        self.ejected.store(ejected, Relaxed);
    }

    /// Counts that the endpoint was left out because its last attempts failed.
    pub fn record_ejection(&self) {
        self.ejections.fetch_add(1, Relaxed);
    }

    /// Says whether an operator keeps new requests from the endpoint.
    pub fn set_drained(&self, drained: bool) {
        self.drained.store(drained, Relaxed);
    }

    /// Says whether connections to the endpoint fail, so that requests wait until they can be made again.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.unreachable.store(unreachable, Relaxed);
    }

    /// Counts a request as overdue until the guard is dropped: its client was answered, and the endpoint still works on it.
    /// It stays in flight beside that.
    #[must_use = "the request counts as overdue for as long as the guard lives"]
    pub fn enter_overdue(self: &Arc<Self>) -> EndpointOverdue {
        self.overdue.fetch_add(1, Relaxed);
        EndpointOverdue { metrics: Arc::clone(self) }
    }

    /// Says how many open connections no request uses. Whoever keeps them may say so just before the page is written.
    pub fn set_idle_connections(&self, idle: u64) {
        self.idle_connections.store(idle, Relaxed);
    }

    /// Says how long an idle connection is kept for reuse; none is the same as zero, not at all.
    pub fn set_keepalive_limit(&self, limit: Option<Duration>) {
        let micros = limit.unwrap_or_default().as_micros();
        self.keepalive_micros.store(u64::try_from(micros).unwrap_or(u64::MAX), Relaxed);
    }

    /// Requests between [`EndpointMetrics::enter`] and the end of their guard.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.shards.gauge(|shard| &shard.in_flight).unsigned_abs()
    }

    /// What happened within the last minute; none before it is known.
    #[must_use]
    pub fn lately(&self, now: Instant) -> Option<Lately> {
        self.minute.lately(now, &self.sums())
    }

    pub(super) fn note(&self, now: Instant) {
        self.minute.note(now, self.sums());
    }

    fn sums(&self) -> Sums {
        let mut answers = [0; StatusClass::COUNT];
        for (class, count) in answers.iter_mut().enumerate() {
            *count = self.shards.count(|shard| shard.requests.get(class));
        }
        Sums { answers, durations: Reading::of(self.shards.iter().map(|shard| &shard.duration)) }
    }

    /// Times it was left out because its last attempts failed.
    #[must_use]
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    fn labels<'a>(&'a self, last: &'a str) -> [&'a str; 3] {
        [&self.upstream, &self.endpoint, last]
    }
}

/// A request an endpoint is working on. Gives the endpoint's metrics.
#[derive(Debug)]
pub struct EndpointInFlight {
    metrics: Arc<EndpointMetrics>,
}

impl Deref for EndpointInFlight {
    type Target = EndpointMetrics;

    fn deref(&self) -> &EndpointMetrics {
        &self.metrics
    }
}

impl Drop for EndpointInFlight {
    fn drop(&mut self) {
        self.metrics.shards.here().in_flight.fetch_sub(1, Relaxed);
    }
}

/// A request whose client has its answer and which an endpoint still works on.
#[derive(Debug)]
pub struct EndpointOverdue {
    metrics: Arc<EndpointMetrics>,
}

impl Drop for EndpointOverdue {
    fn drop(&mut self) {
        self.metrics.overdue.fetch_sub(1, Relaxed);
    }
}
