//! What is counted for each rule of the cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use super::label::{Bypass, CacheResult, NotStored};
use super::page::{Page, float};
use super::shards::{Shards, increment};
use super::table;

/// The counters of one rule.
#[derive(Debug)]
pub struct CacheMetrics {
    name: Box<str>,
    shards: Shards<CacheShard>,
    entries: AtomicI64,
    bytes: AtomicI64,
}

#[derive(Debug, Default)]
struct CacheShard {
    results: [AtomicU64; CacheResult::COUNT],
    bypasses: [AtomicU64; Bypass::COUNT],
    stored: AtomicU64,
    not_stored: [AtomicU64; NotStored::COUNT],
}

impl CacheMetrics {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), shards: Shards::default(), entries: AtomicI64::new(0), bytes: AtomicI64::new(0) }
    }

    /// Counts what became of a request.
    pub fn record(&self, result: CacheResult) {
        increment(&self.shards.here().results, result as usize);
    }

    /// Counts a request that is not answered from the cache.
    pub fn record_bypass(&self, why: Bypass) {
        increment(&self.shards.here().bypasses, why as usize);
        self.record(CacheResult::Bypass);
    }

    /// Counts a response that is kept.
    pub fn record_stored(&self) {
        self.shards.here().stored.fetch_add(1, Relaxed);
    }

    /// Counts one that is not.
    pub fn record_not_stored(&self, why: NotStored) {
        increment(&self.shards.here().not_stored, why as usize);
    }

    /// Holds `bytes` in memory, until the guard is dropped.
    #[must_use]
    pub fn hold(self: &Arc<Self>, bytes: usize) -> CacheHeld {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.entries.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        CacheHeld { metrics: self.clone(), bytes }
    }

    /// The name of the rule.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many requests came to this.
    #[must_use]
    pub fn count(&self, result: CacheResult) -> u64 {
        self.shards.count(|shard| shard.results.get(result as usize))
    }

    /// Answers and their bytes in memory.
    #[must_use]
    pub fn held(&self) -> (u64, u64) {
        let of = |gauge: &AtomicI64| u64::try_from(gauge.load(Relaxed)).unwrap_or(0);
        (of(&self.entries), of(&self.bytes))
    }
}

/// An answer in memory.
#[derive(Debug)]
pub struct CacheHeld {
    metrics: Arc<CacheMetrics>,
    bytes: i64,
}

impl Drop for CacheHeld {
    fn drop(&mut self) {
        self.metrics.entries.fetch_sub(1, Relaxed);
        self.metrics.bytes.fetch_sub(self.bytes, Relaxed);
    }
}

pub(super) fn write(rules: &[Arc<CacheMetrics>], page: &mut Page) {
    page.family(&table::CACHE_REQUESTS, |samples| {
        for rule in rules {
            for result in CacheResult::ALL {
                samples.count(&[&rule.name, result.text()], rule.count(*result));
            }
        }
    });
    page.family(&table::CACHE_BYPASSES, |samples| {
        for rule in rules {
            for why in Bypass::ALL {
                let count = rule.shards.count(|shard| shard.bypasses.get(*why as usize));
                samples.count(&[&rule.name, why.text()], count);
            }
        }
    });
    page.family(&table::CACHE_STORED, |samples| {
        for rule in rules {
            samples.count(&[&rule.name], rule.shards.count(|shard| Some(&shard.stored)));
        }
    });
    page.family(&table::CACHE_NOT_STORED, |samples| {
        for rule in rules {
            for why in NotStored::ALL {
                let count = rule.shards.count(|shard| shard.not_stored.get(*why as usize));
                samples.count(&[&rule.name, why.text()], count);
            }
        }
    });
    page.family(&table::CACHE_ENTRIES, |samples| {
        for rule in rules {
            samples.value(&["memory", &rule.name], float(rule.held().0));
        }
    });
    page.family(&table::CACHE_BYTES, |samples| {
        for rule in rules {
            samples.value(&["memory", &rule.name], float(rule.held().1));
        }
    });
}
