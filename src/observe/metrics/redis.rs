//! What is shown of the Redis that gateways share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::label::RedisUser;
use super::page::Page;
use super::table;

/// Whether Redis is asked, and how often that changed.
#[derive(Debug)]
pub struct RedisMetrics {
    user: RedisUser,
    is_up: AtomicBool,
    ups: AtomicU64,
    downs: AtomicU64,
}

impl RedisMetrics {
    /// Nothing was asked yet.
    #[must_use]
    pub fn new(user: RedisUser) -> Self {
        Self { user, is_up: AtomicBool::new(false), ups: AtomicU64::new(0), downs: AtomicU64::new(0) }
    }

    /// What the connection is for.
    #[must_use]
    pub fn user(&self) -> &'static str {
        self.user.text()
    }

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

pub(super) fn write(connections: &[Arc<RedisMetrics>], page: &mut Page) {
    if connections.is_empty() {
        return;
    }
    page.family(&table::REDIS_UP, |samples| {
        for redis in connections {
            samples.value(&[redis.user()], u8::from(redis.is_up.load(Relaxed)).into());
        }
    });
    page.family(&table::REDIS_STATE_CHANGES, |samples| {
        for redis in connections {
            samples.count(&[redis.user(), "up"], redis.ups.load(Relaxed));
            samples.count(&[redis.user(), "down"], redis.downs.load(Relaxed));
        }
    });
}
