//! What is counted for each endpoint of an upstream: the app side of the gateway.
//!
//! The exact count that selection works with is kept by the endpoint itself; the gauge here only shows it.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::histogram::{Histogram, Reading};
use super::label::{CheckResult, StatusClass, UpstreamError};
use super::page::{Page, float};
use super::shards::{Shards, increment};
use super::table::{self, Family};

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
}

impl EndpointMetrics {
    /// Starts out healthy: what nobody checks is in use.
    pub(super) fn new(upstream: &str, endpoint: &str) -> Self {
        Self {
            upstream: upstream.into(),
            endpoint: endpoint.into(),
            shards: Shards::default(),
            healthy: AtomicBool::new(true),
            capacity: AtomicU64::new(0),
            checks: Default::default(),
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

    /// Counts an attempt that brought no response or half of one.
    pub fn record_error(&self, kind: UpstreamError) {
        increment(&self.shards.here().errors, kind as usize);
    }

    /// Counts a health check.
    pub fn record_check(&self, result: CheckResult) {
        increment(&self.checks, result as usize);
    }

    /// Says whether the endpoint is given requests.
    pub fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Relaxed);
    }

    /// Says how many requests the endpoint may work on at once; none or 0 is unlimited.
    pub fn set_capacity(&self, capacity: Option<u32>) {
        self.capacity.store(capacity.unwrap_or(0).into(), Relaxed);
    }

    /// Requests between [`EndpointMetrics::enter`] and the end of their guard.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.shards.gauge(|shard| &shard.in_flight).unsigned_abs()
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

pub(super) fn write(endpoints: &[Arc<EndpointMetrics>], page: &mut Page) {
    write_counters(endpoints, page);
    write_gauges(endpoints, page);
    let mut histogram = |family: &'static Family, pick: fn(&EndpointShard) -> &Histogram| {
        page.family(family, |samples| {
            for one in endpoints {
                samples.histogram(&[&one.upstream, &one.endpoint], &Reading::of(one.shards.iter().map(pick)));
            }
        });
    };
    histogram(&table::UPSTREAM_FIRST_BYTE, |shard| &shard.first_byte);
    histogram(&table::UPSTREAM_DURATION, |shard| &shard.duration);
}

fn write_counters(endpoints: &[Arc<EndpointMetrics>], page: &mut Page) {
    page.family(&table::UPSTREAM_REQUESTS, |samples| {
        for one in endpoints {
            for class in StatusClass::ALL {
                let count = one.shards.count(|shard| shard.requests.get(*class as usize));
                samples.count(&one.labels(class.text()), count);
            }
        }
    });
    page.family(&table::UPSTREAM_ERRORS, |samples| {
        for one in endpoints {
            for kind in UpstreamError::ALL {
                let count = one.shards.count(|shard| shard.errors.get(*kind as usize));
                samples.count(&one.labels(kind.text()), count);
            }
        }
    });
    page.family(&table::UPSTREAM_HEALTH_CHECKS, |samples| {
        for one in endpoints {
            for (result, count) in CheckResult::ALL.iter().zip(&one.checks) {
                samples.count(&one.labels(result.text()), count.load(Relaxed));
            }
        }
    });
    page.family(&table::UPSTREAM_CONNECTIONS, |samples| {
        for one in endpoints {
            samples.count(&one.labels("false"), one.shards.count(|shard| Some(&shard.connections_new)));
            samples.count(&one.labels("true"), one.shards.count(|shard| Some(&shard.connections_reused)));
        }
    });
}

fn write_gauges(endpoints: &[Arc<EndpointMetrics>], page: &mut Page) {
    page.family(&table::UPSTREAM_IN_FLIGHT, |samples| {
        for one in endpoints {
            samples.value(&[&one.upstream, &one.endpoint], float(one.in_flight()));
        }
    });
    page.family(&table::UPSTREAM_CAPACITY, |samples| {
        for one in endpoints {
            let capacity = one.capacity.load(Relaxed);
            if capacity > 0 {
                samples.value(&[&one.upstream, &one.endpoint], float(capacity));
            }
        }
    });
    page.family(&table::UPSTREAM_HEALTHY, |samples| {
        for one in endpoints {
            let healthy = u8::from(one.healthy.load(Relaxed));
            samples.value(&[&one.upstream, &one.endpoint], healthy.into());
        }
    });
}
