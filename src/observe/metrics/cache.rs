//! What is counted for each rule of the cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

use super::label::{Bypass, CacheResult, CacheTier, DiskWrite, NotStored};
use super::page::{Page, float};
use super::shards::{Shards, increment};
use super::table;

/// The counters of one rule.
#[derive(Debug)]
pub struct CacheMetrics {
    name: Box<str>,
    shards: Shards<CacheShard>,
    tiers: [Tier; CacheTier::COUNT],
}

/// What a rule has in one tier.
#[derive(Debug, Default)]
struct Tier {
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
        Self { name: name.into(), shards: Shards::default(), tiers: Default::default() }
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

    /// Holds `bytes` in a tier, until the guard is dropped.
    #[must_use]
    pub fn hold(self: &Arc<Self>, tier: CacheTier, bytes: u64) -> CacheHeld {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        if let Some(tier) = self.tiers.get(tier as usize) {
            tier.entries.fetch_add(1, Relaxed);
            tier.bytes.fetch_add(bytes, Relaxed);
        }
        CacheHeld { metrics: self.clone(), tier, bytes }
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

    /// Answers in a tier, and their bytes.
    #[must_use]
    pub fn held(&self, tier: CacheTier) -> (u64, u64) {
        let of = |gauge: &AtomicI64| u64::try_from(gauge.load(Relaxed)).unwrap_or(0);
        self.tiers.get(tier as usize).map_or((0, 0), |tier| (of(&tier.entries), of(&tier.bytes)))
    }
}

/// An answer in a tier.
#[derive(Debug)]
pub struct CacheHeld {
    metrics: Arc<CacheMetrics>,
    tier: CacheTier,
    bytes: i64,
}

impl Drop for CacheHeld {
    fn drop(&mut self) {
        if let Some(tier) = self.metrics.tiers.get(self.tier as usize) {
            tier.entries.fetch_sub(1, Relaxed);
            tier.bytes.fetch_sub(self.bytes, Relaxed);
        }
    }
}

/// What is counted of the disk.
#[derive(Debug, Default)]
pub struct DiskMetrics {
    writes: [AtomicU64; DiskWrite::COUNT],
    torn: AtomicU64,
    loaded: AtomicBool,
}

impl DiskMetrics {
    /// Counts what became of an answer that was to be written.
    pub fn record_write(&self, write: DiskWrite) {
        increment(&self.writes, write as usize);
    }

    /// Counts a file that is not whole, not ours, or cannot be read.
    pub fn record_torn(&self) {
        self.torn.fetch_add(1, Relaxed);
    }

    /// What there is is known.
    pub fn set_loaded(&self) {
        self.loaded.store(true, Relaxed);
    }

    /// Whether it is.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Relaxed)
    }
}

pub(super) fn write_disk(disk: Option<&DiskMetrics>, page: &mut Page) {
    let Some(disk) = disk else { return };
    page.family(&table::CACHE_DISK_WRITES, |samples| {
        for (result, count) in DiskWrite::ALL.iter().zip(&disk.writes) {
            samples.count(&[result.text()], count.load(Relaxed));
        }
    });
    page.single(&table::CACHE_DISK_TORN, float(disk.torn.load(Relaxed)));
    page.single(&table::CACHE_DISK_LOADED, u8::from(disk.is_loaded()).into());
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
    let mut gauge = |family, pick: fn((u64, u64)) -> u64| {
        page.family(family, |samples| {
            for tier in CacheTier::ALL {
                for rule in rules {
                    samples.value(&[tier.text(), &rule.name], float(pick(rule.held(*tier))));
                }
            }
        });
    };
    gauge(&table::CACHE_ENTRIES, |(entries, _)| entries);
    gauge(&table::CACHE_BYTES, |(_, bytes)| bytes);
}
