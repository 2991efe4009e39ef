//! What is counted of the answers that gateways share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::label::{SharedLook, SharedWrite};
use super::page::Page;
use super::shards::increment;
use super::table;

/// The counters of the cache in Redis.
#[derive(Debug, Default)]
pub struct SharedMetrics {
    looks: [AtomicU64; SharedLook::COUNT],
    writes: [AtomicU64; SharedWrite::COUNT],
    told: AtomicU64,
    heard: AtomicU64,
    is_current: AtomicBool,
}

impl SharedMetrics {
    /// Counts what came of a question.
    pub fn record_look(&self, look: SharedLook) {
        increment(&self.looks, look as usize);
    }

    /// Counts what became of an answer that was to be kept.
    pub fn record_write(&self, write: SharedWrite) {
        increment(&self.writes, write as usize);
    }

    /// Counts purges that others were told of.
    pub fn record_told(&self, count: u64) {
        self.told.fetch_add(count, Relaxed);
    }

    /// Counts purges that others have told of.
    pub fn record_heard(&self, count: u64) {
        self.heard.fetch_add(count, Relaxed);
    }

    /// Whether the purges of others are known.
    pub fn set_current(&self, is_current: bool) {
        self.is_current.store(is_current, Relaxed);
    }
}

pub(super) fn write(shared: Option<&SharedMetrics>, page: &mut Page) {
    let Some(shared) = shared else { return };
    page.family(&table::CACHE_SHARED_LOOKS, |samples| {
        for (result, count) in SharedLook::ALL.iter().zip(&shared.looks) {
            samples.count(&[result.text()], count.load(Relaxed));
        }
    });
    page.family(&table::CACHE_SHARED_WRITES, |samples| {
        for (result, count) in SharedWrite::ALL.iter().zip(&shared.writes) {
            samples.count(&[result.text()], count.load(Relaxed));
        }
    });
    page.family(&table::CACHE_SHARED_PURGES, |samples| {
        samples.count(&["sent"], shared.told.load(Relaxed));
        samples.count(&["received"], shared.heard.load(Relaxed));
    });
    page.single(&table::CACHE_SHARED_CURRENT, u8::from(shared.is_current.load(Relaxed)).into());
}
