//! The app side: named groups of endpoints, which of them a request goes to, and what is known of their health.
//!
//! Counts of requests in flight belong to an address, not to a group: two groups that name one address share them, and a
//! reload keeps them. Everything that talks to Pingora's connector stands in `peer` and `checker`.

mod checker;
pub mod endpoint;
pub mod health;
pub mod peer;
pub mod resolve;
pub mod retry;
pub mod selection;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora_core::upstreams::peer::HttpPeer;
use tokio::task::JoinHandle;

use crate::config::model::{self, Balance, EndpointAddr};
use crate::observe::metrics::UpstreamMetrics;
use crate::upstream::endpoint::{Address, Endpoint, Lease, Registry};
use crate::upstream::resolve::Resolver;
use crate::upstream::retry::RetryBudget;
use crate::upstream::selection::{Candidate, Schedule, Seen};

/// How often a count is fought over before it is taken without comparing.
const SELECT_TRIES: usize = 16;

/// A named group of endpoints under one configuration. A reload makes a new one around the same endpoints.
#[derive(Debug)]
pub struct Upstream {
    pub config: model::Upstream,
    pub metrics: Arc<UpstreamMetrics>,
    pub budget: RetryBudget,
    targets: ArcSwap<Targets>,
    cursor: AtomicUsize,
    registry: Arc<Registry>,
    refresh: Mutex<Option<JoinHandle<()>>>,
    checks: Mutex<Vec<(Arc<Endpoint>, JoinHandle<()>)>>,
}

/// The endpoints of the moment.
#[derive(Debug, Default)]
pub struct Targets {
    pub list: Vec<Target>,
    schedule: Schedule,
}

/// An endpoint's place in a group.
#[derive(Debug)]
pub struct Target {
    pub endpoint: Arc<Endpoint>,
    pub weight: u32,
    pub backup: bool,
    /// What Pingora connects by; cloned for each request.
    pub peer: HttpPeer,
}

impl Upstream {
    /// Resolves what has to be resolved, waiting a bounded time, and makes the group. Nothing runs yet.
    pub async fn build(
        config: model::Upstream,
        metrics: Arc<UpstreamMetrics>,
        registry: Arc<Registry>,
        resolver: &Resolver,
    ) -> Arc<Self> {
        let upstream = Arc::new(Self {
            budget: RetryBudget::new(config.retry.budget),
            config,
            metrics,
            targets: ArcSwap::default(),
            cursor: AtomicUsize::new(0),
            registry,
            refresh: Mutex::default(),
            checks: Mutex::default(),
        });
        let resolved = resolver.resolve_all(&upstream).await;
        upstream.set_addresses(&resolved.addresses);
        upstream
    }

    /// Starts health checks and, where names are to be resolved, the refresh of their addresses.
    pub fn start(self: &Arc<Self>, resolver: &Resolver) {
        self.restart_checks();
        if self.config.endpoints.iter().any(|e| matches!(e.addr, EndpointAddr::Host { .. })) {
            let task = tokio::spawn(resolve::refresh(Arc::downgrade(self), resolver.clone()));
            *self.refresh.lock() = Some(task);
        }
    }

    /// Stops what runs for this group; requests that are on their way end as they would.
    pub fn retire(&self) {
        self.refresh.lock().take().inspect(JoinHandle::abort);
        self.checks.lock().drain(..).for_each(|(_, task)| task.abort());
    }

    /// The endpoints of the moment.
    #[must_use]
    pub fn targets(&self) -> Arc<Targets> {
        self.targets.load_full()
    }

    /// Replaces the addresses behind each configured endpoint; whether that changed anything. An address that stays keeps
    /// its counts and its health.
    fn set_addresses(&self, addresses: &[Vec<Address>]) -> bool {
        let mut list: Vec<Target> = Vec::new();
        for (config, addresses) in self.config.endpoints.iter().zip(addresses) {
            for address in addresses {
                if list.iter().any(|target| target.endpoint.address == *address) {
                    continue;
                }
                let endpoint = self.registry.endpoint(&self.config.name, address, self.config.capacity);
                match peer::template(address, &self.config) {
                    Ok(peer) => list.push(Target { endpoint, weight: config.weight, backup: config.backup, peer }),
                    Err(error) => {
                        tracing::error!(upstream = %self.config.name, endpoint = %address, %error, "unusable address");
                    }
                }
            }
        }
        let current = self.targets.load();
        let same = |(old, new): (&Target, &Target)| Arc::ptr_eq(&old.endpoint, &new.endpoint);
        if current.list.len() == list.len() && current.list.iter().zip(&list).all(same) {
            return false;
        }
        let schedule = Schedule::new(list.iter().map(|target| target.weight));
        self.targets.store(Arc::new(Targets { list, schedule }));
        true
    }

    /// Checks the endpoints of the moment and no others.
    fn restart_checks(&self) {
        let targets = self.targets.load();
        let mut checks = self.checks.lock();
        checks.retain(|(endpoint, task)| {
            let stays = targets.list.iter().any(|target| Arc::ptr_eq(&target.endpoint, endpoint));
            if !stays {
                task.abort();
            }
            stays
        });
        for target in &targets.list {
            if !checks.iter().any(|(endpoint, _)| Arc::ptr_eq(&target.endpoint, endpoint)) {
                checks.push((target.endpoint.clone(), checker::spawn(&target.endpoint, &target.peer, &self.config)));
            }
        }
    }

    /// Chooses an endpoint that is not among `unreachable`, one of `tried` only where no other is as good, and counts the
    /// request on it. None when there is none left.
    #[must_use]
    pub fn acquire(&self, tried: &[Arc<Endpoint>], unreachable: &[Arc<Endpoint>]) -> Option<(Lease, HttpPeer)> {
        let targets = self.targets.load();
        // Whose turn it is does not depend on counts.
        let by_count = self.config.balance == Balance::LeastConn;
        for attempt in 0..SELECT_TRIES {
            let (index, candidate) = self.choose(&targets, tried, unreachable)?;
            let target = targets.list.get(index)?;
            let observed = (by_count && attempt + 1 < SELECT_TRIES).then_some(candidate.in_flight);
            if let Some(lease) = target.endpoint.lease(observed) {
                return Some((lease, target.peer.clone()));
            }
        }
        None
    }

    fn choose(
        &self,
        targets: &Targets,
        tried: &[Arc<Endpoint>],
        unreachable: &[Arc<Endpoint>],
    ) -> Option<(usize, Candidate)> {
        let among = |list: &[Arc<Endpoint>], one: &Arc<Endpoint>| list.iter().any(|e| Arc::ptr_eq(e, one));
        let candidate = |target: &Target| Candidate {
            in_flight: target.endpoint.in_flight(),
            weight: target.weight,
            backup: target.backup,
            healthy: target.endpoint.is_healthy(),
            seen: match &target.endpoint {
                endpoint if among(unreachable, endpoint) => Seen::Unreachable,
                endpoint if among(tried, endpoint) => Seen::Tried,
                _ => Seen::Never,
            },
        };
        let turn = self.cursor.fetch_add(1, Relaxed);
        match self.config.balance {
            Balance::LeastConn => selection::least_conn(targets.list.iter().map(candidate), turn),
            Balance::RoundRobin => targets.schedule.next(turn, |index| targets.list.get(index).map(candidate)),
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.retire();
    }
}
