//! What is counted for each listener: client connections, and how TLS began on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use super::label::{Handshake, Refusal};
use super::page::{Page, float};
use super::shards::{Shards, increment};
use super::table;

/// The counters of one listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    name: Box<str>,
    shards: Shards<ListenerShard>,
}

#[derive(Debug, Default)]
struct ListenerShard {
    active: AtomicI64,
    idle: AtomicI64,
    accepted: AtomicU64,
    refused: [AtomicU64; Refusal::COUNT],
    accept_errors: AtomicU64,
    handshakes: [AtomicU64; Handshake::COUNT],
}

impl ListenerShard {
    fn gauge(&self, active: bool) -> &AtomicI64 {
        if active { &self.active } else { &self.idle }
    }
}

impl ListenerMetrics {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), shards: Shards::default() }
    }

    /// Counts a connection and shows it as idle until the guard says otherwise; gone when the guard is dropped.
    #[must_use = "the connection counts as open for as long as the guard lives"]
    pub fn accept(self: &Arc<Self>) -> OpenConnection {
        let shard = self.shards.here();
        shard.accepted.fetch_add(1, Relaxed);
        shard.idle.fetch_add(1, Relaxed);
        OpenConnection { metrics: Arc::clone(self), active: false }
    }

    /// Counts a connection that [`ListenerMetrics::accept`] has counted and that was closed before it was served.
    pub fn record_closed(&self, reason: Refusal) {
        increment(&self.shards.here().refused, reason as usize);
    }

    /// Counts a TLS handshake.
    pub fn record_handshake(&self, how: Handshake) {
        increment(&self.shards.here().handshakes, how as usize);
    }

    /// Counts a failure of accept.
    pub fn record_accept_error(&self) {
        self.shards.here().accept_errors.fetch_add(1, Relaxed);
    }

    /// The name in the `listener` label.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Open connections on which a request is under way.
    #[must_use]
    pub fn active(&self) -> u64 {
        self.shards.gauge(|shard| shard.gauge(true)).unsigned_abs()
    }

    /// Open connections, active and idle.
    #[must_use]
    pub fn open(&self) -> u64 {
        let of = |active| self.shards.gauge(|shard| shard.gauge(active)).unsigned_abs();
        of(true).saturating_add(of(false))
    }
}

/// A client connection that is open.
#[derive(Debug)]
pub struct OpenConnection {
    metrics: Arc<ListenerMetrics>,
    active: bool,
}

impl OpenConnection {
    /// Says whether a request is under way on the connection.
    pub fn set_active(&mut self, active: bool) {
        if self.active != active {
            let shard = self.metrics.shards.here();
            shard.gauge(self.active).fetch_sub(1, Relaxed);
            shard.gauge(active).fetch_add(1, Relaxed);
            self.active = active;
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.metrics.shards.here().gauge(self.active).fetch_sub(1, Relaxed);
    }
}

pub(super) fn write(listeners: &[Arc<ListenerMetrics>], page: &mut Page) {
    page.family(&table::CONNECTIONS, |samples| {
        for one in listeners {
            for (active, state) in [(true, "active"), (false, "idle")] {
                let open = one.shards.gauge(|shard| shard.gauge(active));
                samples.value(&[&one.name, state], float(open.unsigned_abs()));
            }
        }
    });
    page.family(&table::CONNECTIONS_ACCEPTED, |samples| {
        for one in listeners {
            samples.count(&[&one.name], one.shards.count(|shard| Some(&shard.accepted)));
        }
    });
    page.family(&table::CONNECTIONS_REFUSED, |samples| {
        for one in listeners {
            for reason in Refusal::ALL {
                let count = one.shards.count(|shard| shard.refused.get(*reason as usize));
                samples.count(&[&one.name, reason.text()], count);
            }
        }
    });
    page.family(&table::ACCEPT_ERRORS, |samples| {
        for one in listeners {
            samples.count(&[&one.name], one.shards.count(|shard| Some(&shard.accept_errors)));
        }
    });
    page.family(&table::TLS_HANDSHAKES, |samples| {
        for one in listeners {
            let count = |how: Handshake| one.shards.count(|shard| shard.handshakes.get(how as usize));
            // A listener without TLS has none.
            if Handshake::ALL.iter().any(|how| count(*how) > 0) {
                for how in Handshake::ALL {
                    samples.count(&[&one.name, how.text()], count(*how));
                }
            }
        }
    });
}
