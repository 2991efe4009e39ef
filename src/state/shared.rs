//! What outlives a reload: counts, endpoints with their health, the access log, and whether the process is leaving.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Metrics;
use crate::state::connections::Connections;
use crate::upstream::endpoint::Registry;

/// One for the whole process.
#[derive(Debug)]
pub struct Shared {
    pub metrics: Arc<Metrics>,
    pub access_log: AccessLog,
    pub registry: Arc<Registry>,
    pub connections: Arc<Connections>,
    draining: AtomicBool,
    drain: watch::Sender<bool>,
    exchanges: AtomicUsize,
    idle: Notify,
}

impl Shared {
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, access_log: AccessLog) -> Arc<Self> {
        Arc::new(Self {
            registry: Arc::new(Registry::new(metrics.clone())),
            metrics,
            access_log,
            connections: Arc::default(),
            draining: AtomicBool::new(false),
            drain: watch::Sender::new(false),
            exchanges: AtomicUsize::new(0),
            idle: Notify::new(),
        })
    }

    /// Whether the process is leaving: readiness fails, and no connection is kept after its answer.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// From now on readiness fails and answers close their connections.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Closes idle connections, now and from now on.
    pub fn close_idle(&self) {
        self.drain.send_replace(true);
    }

    /// Turns true when idle connections are to close.
    #[must_use]
    pub fn drain_watch(&self) -> watch::Receiver<bool> {
        self.drain.subscribe()
    }

    /// Counts an exchange from the first byte of its head until the guard is dropped.
    #[must_use]
    pub fn begin_exchange(self: &Arc<Self>) -> ExchangeGuard {
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        ExchangeGuard(self.clone())
    }

    /// Exchanges under way.
    #[must_use]
    pub fn exchanges(&self) -> usize {
        self.exchanges.load(Ordering::Relaxed)
    }

    /// Waits until no exchange is under way.
    pub async fn quiet(&self) {
        loop {
            let notified = self.idle.notified();
            if self.exchanges() == 0 {
                return;
            }
            notified.await;
        }
    }
}

/// An exchange that is under way.
#[derive(Debug)]
pub struct ExchangeGuard(Arc<Shared>);

impl Drop for ExchangeGuard {
    fn drop(&mut self) {
        if self.0.exchanges.fetch_sub(1, Ordering::Relaxed) == 1 && self.0.is_draining() {
            self.0.idle.notify_waiters();
        }
    }
}
