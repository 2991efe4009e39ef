//! What is counted for each rate limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::histogram::{Histogram, Reading};
use super::label::{LimitDecision, RedisError};
use super::page::Page;
use super::shards::{Shards, increment};
use super::table;

/// The counters of the limits of one name.
#[derive(Debug)]
pub struct LimitMetrics {
    name: Box<str>,
    shards: Shards<LimitShard>,
}

#[derive(Debug, Default)]
struct LimitShard {
    decisions: [AtomicU64; LimitDecision::COUNT],
    known_empty: AtomicU64,
    redis_errors: [AtomicU64; RedisError::COUNT],
    /// Of ten times the durations: see [`Reading::tenth`].
    redis: Histogram,
}

impl LimitMetrics {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), shards: Shards::default() }
    }

    /// Counts what became of a request.
    pub fn record(&self, decision: LimitDecision) {
        increment(&self.shards.here().decisions, decision as usize);
    }

    /// Counts a request whose bucket was known to be empty, so that Redis was not asked.
    pub fn record_known_empty(&self) {
        self.shards.here().known_empty.fetch_add(1, Relaxed);
    }

    /// Counts a request that was decided without Redis though there is one, and why it was.
    pub fn record_redis_error(&self, error: RedisError) {
        increment(&self.shards.here().redis_errors, error as usize);
    }

    /// The name in the `limit` label.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many requests it has decided so.
    #[must_use]
    pub fn count(&self, decision: LimitDecision) -> u64 {
        self.shards.count(|shard| shard.decisions.get(decision as usize))
    }

    /// Takes note of how long an answer of Redis took, or a request waited for one that did not come.
    pub fn record_redis(&self, time: Duration) {
        self.shards.here().redis.observe(time.saturating_mul(10));
    }
}

pub(super) fn write(limits: &[Arc<LimitMetrics>], page: &mut Page) {
    page.family(&table::RATE_LIMIT_DECISIONS, |samples| {
        for limit in limits {
            for decision in LimitDecision::ALL {
                let count = limit.shards.count(|shard| shard.decisions.get(*decision as usize));
                samples.count(&[&limit.name, decision.text()], count);
            }
        }
    });
    page.family(&table::RATE_LIMIT_KNOWN_EMPTY, |samples| {
        for limit in limits {
            samples.count(&[&limit.name], limit.shards.count(|shard| Some(&shard.known_empty)));
        }
    });
    page.family(&table::RATE_LIMIT_REDIS_ERRORS, |samples| {
        for limit in limits {
            for error in RedisError::ALL {
                let count = limit.shards.count(|shard| shard.redis_errors.get(*error as usize));
                samples.count(&[&limit.name, error.text()], count);
            }
        }
    });
    page.family(&table::RATE_LIMIT_REDIS, |samples| {
        for limit in limits {
            samples.histogram(&[&limit.name], &Reading::of(limit.shards.iter().map(|shard| &shard.redis)).tenth());
        }
    });
}
