//! What is shown of the Redis that gateways share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::page::Page;
use super::table;

/// Whether Redis is asked, and how often that changed.
#[derive(Debug, Default)]
pub struct RedisMetrics {
    is_up: AtomicBool,
    ups: AtomicU64,
    downs: AtomicU64,
}

impl RedisMetrics {
    /// It answers.
    pub fn came_up(&self) {
        self.is_up.store(true, Relaxed);
        self.ups.fetch_add(1, Relaxed);
    }

    /// It is not asked any more.
    pub fn went_down(&self) {
        self.is_up.store(false, Relaxed);
        self.downs.fetch_add(1, Relaxed);
    }
}

pub(super) fn write(redis: Option<&RedisMetrics>, page: &mut Page) {
    let Some(redis) = redis else { return };
    page.single(&table::REDIS_UP, u8::from(redis.is_up.load(Relaxed)).into());
    page.family(&table::REDIS_STATE_CHANGES, |samples| {
        samples.count(&["up"], redis.ups.load(Relaxed));
        samples.count(&["down"], redis.downs.load(Relaxed));
    });
}
