//! What is counted for each upstream as a whole; its endpoints have their own in `endpoint.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::histogram::{Histogram, Reading};
use super::label::Retry;
use super::page::Page;
use super::shards::{Shards, increment};
use super::table;

/// The counters of one upstream. A handle is resolved when a configuration is loaded and kept in it.
#[derive(Debug)]
pub struct UpstreamMetrics {
    name: Box<str>,
    shards: Shards<UpstreamShard>,
}

#[derive(Debug, Default)]
struct UpstreamShard {
    connect: Histogram,
    retries: [AtomicU64; Retry::COUNT],
    budget_exhausted: AtomicU64,
    resolve_failures: AtomicU64,
}

impl UpstreamMetrics {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), shards: Shards::default() }
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
}

pub(super) fn write(upstreams: &[Arc<UpstreamMetrics>], page: &mut Page) {
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
