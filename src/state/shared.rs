//! What outlives a reload: counts, endpoints with their health, the access log, and whether the process is leaving.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use tokio::sync::{Notify, watch};

use crate::access::logins::Logins;
use crate::cache::Cache;
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Metrics;
use crate::rate_limit::Limiter;
use crate::rate_limit::tries::Tries;
use crate::spool::Depot;
use crate::state::connections::Connections;
use crate::state::maintenance::Maintenance;
use crate::tls::tickets::Tickets;
use crate::upstream::endpoint::Registry;

/// One for the whole process.
#[derive(Debug)]
pub struct Shared {
    pub started: SystemTime,
    pub metrics: Arc<Metrics>,
    pub access_log: AccessLog,
    pub registry: Arc<Registry>,
    pub depot: Arc<Depot>,
    pub connections: Arc<Connections>,
    /// The buckets of rate limits.
    pub limiter: Limiter,
    /// Passwords that were right.
    pub logins: Arc<Logins>,
    /// Those that were wrong.
    pub tries: Arc<Tries>,
    pub maintenance: Maintenance,
    /// Answers that are kept.
    pub cache: Arc<Cache>,
    /// Keys of TLS session tickets.
    pub tickets: Arc<Tickets>,
    draining: AtomicBool,
    drain: watch::Sender<bool>,
    refuse: watch::Sender<bool>,
    reload: watch::Sender<()>,
    close_tunnels: watch::Sender<bool>,
    tunnels: AtomicUsize,
    conversations: AtomicUsize,
    idle: Notify,
}

impl Shared {
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, access_log: AccessLog, depot: Arc<Depot>, logins: Logins) -> Arc<Self> {
        Arc::new(Self {
            started: SystemTime::now(),
            registry: Arc::new(Registry::new(metrics.clone())),
            maintenance: Maintenance::new(metrics.clone()),
            logins: Arc::new(logins),
            tries: Arc::default(),
            metrics,
            access_log,
            depot,
            connections: Arc::default(),
            limiter: Limiter::default(),
            cache: Arc::default(),
            tickets: Arc::default(),
            draining: AtomicBool::new(false),
            drain: watch::Sender::new(false),
            refuse: watch::Sender::new(false),
            reload: watch::Sender::new(()),
            close_tunnels: watch::Sender::new(false),
            tunnels: AtomicUsize::new(0),
            conversations: AtomicUsize::new(0),
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

    /// Counts a connection that has left HTTP behind, until the guard is dropped.
    #[must_use]
    pub fn begin_tunnel(self: &Arc<Self>) -> Tunnel {
        self.tunnels.fetch_add(1, Ordering::Relaxed);
        Tunnel(self.clone())
    }

    /// Connections that have left HTTP behind.
    #[must_use]
    pub fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::Relaxed)
    }

    /// Has them closed, now and from now on.
    pub fn close_tunnels(&self) {
        self.close_tunnels.send_replace(true);
    }

    /// Returns when they are to close.
    pub async fn tunnels_closing(&self) {
        let _ = self.close_tunnels.subscribe().wait_for(|close| *close).await;
    }

    /// Another configuration is in force.
    pub fn announce_reload(&self) {
        self.reload.send_replace(());
    }

    /// Changes with each configuration that comes into force.
    #[must_use]
    pub fn reload_watch(&self) -> watch::Receiver<()> {
        self.reload.subscribe()
    }

    /// Refuses the requests that wait in a queue, now and from now on.
    pub fn refuse_waiting(&self) {
        self.refuse.send_replace(true);
    }

    /// Returns when requests that wait are to be refused.
    pub async fn waiting_refused(&self) {
        let _ = self.refuse.subscribe().wait_for(|refused| *refused).await;
    }

    /// Counts a connection on which a client has an answer to expect, or may ask for one, until the guard is dropped.
    #[must_use]
    pub fn begin_conversation(self: &Arc<Self>) -> Conversation {
        self.conversations.fetch_add(1, Ordering::Relaxed);
        Conversation(self.clone())
    }

    /// Connections that are counted, idle ones among them until [`Shared::close_idle`].
    #[must_use]
    pub fn conversations(&self) -> usize {
        self.conversations.load(Ordering::Relaxed)
    }

    /// Waits until none is left.
    pub async fn quiet(&self) {
        loop {
            let notified = self.idle.notified();
            if self.conversations() == 0 {
                return;
            }
            notified.await;
        }
    }
}

/// A tunnel that is counted, until dropped.
#[derive(Debug)]
pub struct Tunnel(Arc<Shared>);

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that is counted, until dropped.
#[derive(Debug)]
pub struct Conversation(Arc<Shared>);

impl Drop for Conversation {
    fn drop(&mut self) {
        if self.0.conversations.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}
