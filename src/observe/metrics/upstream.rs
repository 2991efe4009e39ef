//! What is counted for each upstream as a whole, its queue included; its endpoints have their own in `endpoint.rs`.
//!
//! The exact length that the queue is bounded by is kept by the queue itself; the gauge here only shows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::histogram::{Histogram, Reading};
use super::label::{QueueDrop, Retry};
use super::page::{Page, float};
use super::shards::{Shards, increment};
use super::table;

/// The counters of one upstream. A handle is resolved when a configuration is loaded and kept in it.
#[derive(Debug)]
pub struct UpstreamMetrics {
    name: Box<str>,
    shards: Shards<UpstreamShard>,
    queue_max: AtomicU64,
}

#[derive(Debug, Default)]
struct UpstreamShard {
    connect: Histogram,
    retries: [AtomicU64; Retry::COUNT],
    budget_exhausted: AtomicU64,
    resolve_failures: AtomicU64,
    queued: AtomicI64,
    queue_wait: Histogram,
    queue_drops: [AtomicU64; QueueDrop::COUNT],
}

impl UpstreamMetrics {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), shards: Shards::default(), queue_max: AtomicU64::new(0) }
    }

    /// The name in the `upstream` label.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Records how long a new connection took until it was ready, TLS included.
    pub fn record_connect(&self, duration: Duration) {
        self.shards.here().connect.observe(duration);
    }

    /// Counts an attempt beyond a request's first.
    pub fn record_retry(&self, kind: Retry) {
        increment(&self.shards.here().retries, kind as usize);
    }

    /// Counts a retry that the budget did not allow.
    pub fn record_retry_budget_exhausted(&self) {
        self.shards.here().budget_exhausted.fetch_add(1, Relaxed);
    }

    /// Counts a name lookup that failed.
    pub fn record_resolve_failure(&self) {
        self.shards.here().resolve_failures.fetch_add(1, Relaxed);
    }

    /// Counts a request as waiting for a slot, until [`UpstreamMetrics::queue_left`].
    pub fn queue_entered(&self) {
        self.shards.here().queued.fetch_add(1, Relaxed);
    }

    /// Ends what [`UpstreamMetrics::queue_entered`] began, on whichever thread; why it ended is recorded beside it.
    pub fn queue_left(&self) {
        self.shards.here().queued.fetch_sub(1, Relaxed);
    }

    /// Records how long a request waited that got a slot; one that found a slot at once did not wait.
    pub fn record_queue_wait(&self, duration: Duration) {
        self.shards.here().queue_wait.observe(duration);
    }

    /// Counts a request that needed to wait and got no slot.
    pub fn record_queue_drop(&self, reason: QueueDrop) {
        increment(&self.shards.here().queue_drops, reason as usize);
    }

    /// Says how many requests may wait at once.
    pub fn set_queue_max(&self, max: usize) {
        self.queue_max.store(u64::try_from(max).unwrap_or(u64::MAX), Relaxed);
    }

    /// Requests between [`UpstreamMetrics::queue_entered`] and [`UpstreamMetrics::queue_left`].
    #[must_use]
    pub fn queue_depth(&self) -> u64 {
        self.shards.gauge(|shard| &shard.queued).unsigned_abs()
    }
}

pub(super) fn write(upstreams: &[Arc<UpstreamMetrics>], page: &mut Page) {
    write_counts(upstreams, page);
    write_queue(upstreams, page);
}

fn write_counts(upstreams: &[Arc<UpstreamMetrics>], page: &mut Page) {
    page.family(&table::UPSTREAM_CONNECT, |samples| {
        for upstream in upstreams {
            samples.histogram(&[&upstream.name], &Reading::of(upstream.shards.iter().map(|shard| &shard.connect)));
        }
    });
    page.family(&table::UPSTREAM_RETRIES, |samples| {
        for upstream in upstreams {
            for kind in Retry::ALL {
                let count = upstream.shards.count(|shard| shard.retries.get(*kind as usize));
                samples.count(&[&upstream.name, kind.text()], count);
            }
        }
    });
    let mut counter = |family, pick: fn(&UpstreamShard) -> &AtomicU64| {
        page.family(family, |samples| {
            for upstream in upstreams {
                samples.count(&[&upstream.name], upstream.shards.count(|shard| Some(pick(shard))));
            }
        });
    };
    counter(&table::UPSTREAM_RETRY_BUDGET_EXHAUSTED, |shard| &shard.budget_exhausted);
    counter(&table::UPSTREAM_RESOLVE_FAILURES, |shard| &shard.resolve_failures);
}

fn write_queue(upstreams: &[Arc<UpstreamMetrics>], page: &mut Page) {
    page.family(&table::QUEUE_DEPTH, |samples| {
        for upstream in upstreams {
            samples.value(&[&upstream.name], float(upstream.queue_depth()));
        }
    });
    page.family(&table::QUEUE_MAX, |samples| {
        for upstream in upstreams {
            samples.value(&[&upstream.name], float(upstream.queue_max.load(Relaxed)));
        }
    });
    page.family(&table::QUEUE_WAIT, |samples| {
        for upstream in upstreams {
            samples.histogram(&[&upstream.name], &Reading::of(upstream.shards.iter().map(|shard| &shard.queue_wait)));
        }
    });
    page.family(&table::QUEUE_DROPS, |samples| {
        for upstream in upstreams {
            for reason in QueueDrop::ALL {
                let count = upstream.shards.count(|shard| shard.queue_drops.get(*reason as usize));
                samples.count(&[&upstream.name, reason.text()], count);
            }
        }
    });
}
