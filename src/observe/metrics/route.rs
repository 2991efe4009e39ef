//! What is counted for each route, on the client side of the gateway.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::histogram::{Histogram, Reading};
use super::label::{Method, StatusClass};
use super::minute::{Lately, Minute, Sums};
use super::page::{Page, Samples, float};
use super::shards::{Shards, increment};
use super::table;

/// The counters of one route. A handle is resolved when a configuration is loaded and kept in it.
#[derive(Debug)]
pub struct RouteMetrics {
    name: Box<str>,
    shards: Shards<RouteShard>,
    minute: Minute,
}

#[derive(Debug, Default)]
struct RouteShard {
    requests: [[AtomicU64; StatusClass::COUNT]; Method::COUNT],
    duration: Histogram,
    in_flight: AtomicI64,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    client_aborts: AtomicU64,
}

impl RouteMetrics {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), shards: Shards::default(), minute: Minute::default() }
    }

    /// The name in the `route` label.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts a request as in flight until the guard is dropped, on whichever thread.
    #[must_use = "the request counts as in flight for as long as the guard lives"]
    pub fn enter(self: &Arc<Self>) -> RequestInFlight {
        self.shards.here().in_flight.fetch_add(1, Relaxed);
        RequestInFlight { metrics: Arc::clone(self) }
    }

    /// Counts a finished request. `duration` runs from its first byte to the end of the response; the bytes are those of the
    /// bodies. A client that left before it got an answer has the status 499.
    pub fn record(&self, method: Method, status: u16, duration: Duration, request_bytes: u64, response_bytes: u64) {
        let shard = self.shards.here();
        if let Some(classes) = shard.requests.get(method as usize) {
            increment(classes, StatusClass::of(status) as usize);
        }
        shard.duration.observe(duration);
        shard.request_bytes.fetch_add(request_bytes, Relaxed);
        shard.response_bytes.fetch_add(response_bytes, Relaxed);
    }

    /// Counts a request whose client left before the response was whole; beside [`RouteMetrics::record`], not instead of it.
    pub fn record_client_abort(&self) {
        self.shards.here().client_aborts.fetch_add(1, Relaxed);
    }

    /// Requests between [`RouteMetrics::enter`] and the end of their guard.
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
            let of = |method: usize| self.shards.count(|shard| shard.requests.get(method)?.get(class));
            *count = (0..Method::COUNT).map(of).sum();
        }
        Sums { answers, durations: Reading::of(self.shards.iter().map(|shard| &shard.duration)) }
    }

    fn requests(&self, samples: &mut Samples) {
        for method in Method::ALL {
            let counts = StatusClass::ALL
                .iter()
                .map(|class| self.shards.count(|shard| shard.requests.get(*method as usize)?.get(*class as usize)));
            let counts: Vec<u64> = counts.collect();
            // Most routes see two or three methods. Of those every class is shown, so that the first 5xx is a step from 0.
            if counts.iter().any(|count| *count > 0) {
                for (class, count) in StatusClass::ALL.iter().zip(counts) {
                    samples.count(&[&self.name, method.text(), class.text()], count);
                }
            }
        }
    }
}

/// A request that is under way on a route. Gives the route's metrics, so that a request needs to keep nothing else.
#[derive(Debug)]
pub struct RequestInFlight {
    metrics: Arc<RouteMetrics>,
}

impl Deref for RequestInFlight {
    type Target = RouteMetrics;

    fn deref(&self) -> &RouteMetrics {
        &self.metrics
    }
}

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        self.metrics.shards.here().in_flight.fetch_sub(1, Relaxed);
    }
}

pub(super) fn write(routes: &[Arc<RouteMetrics>], page: &mut Page) {
    page.family(&table::REQUESTS, |samples| {
        for route in routes {
            route.requests(samples);
        }
    });
    page.family(&table::REQUEST_DURATION, |samples| {
        for route in routes {
            samples.histogram(&[&route.name], &Reading::of(route.shards.iter().map(|shard| &shard.duration)));
        }
    });
    page.family(&table::REQUESTS_IN_FLIGHT, |samples| {
        for route in routes {
            samples.value(&[&route.name], float(route.in_flight()));
        }
    });
    let mut counter = |family, pick: fn(&RouteShard) -> &AtomicU64| {
        page.family(family, |samples| {
            for route in routes {
                samples.count(&[&route.name], route.shards.count(|shard| Some(pick(shard))));
            }
        });
    };
    counter(&table::REQUEST_BYTES, |shard| &shard.request_bytes);
    counter(&table::RESPONSE_BYTES, |shard| &shard.response_bytes);
    counter(&table::CLIENT_ABORTS, |shard| &shard.client_aborts);
}
