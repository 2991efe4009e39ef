//! The app side: named groups of endpoints, which of them a request goes to, when it waits, and what is known of their health.
//!
//! Counts of requests in flight belong to an address, not to an upstream: two upstreams that name one address share them, and a
//! reload keeps them. So does the queue of an upstream, which belongs to its name. Health
//! checks are Pingora's: what meets them stands in `peer` and `checker`.

mod address;
mod chance;
mod checker;
mod ejection;
pub mod endpoint;
mod group;
pub mod health;
mod keepalive;
mod load;
pub mod peer;
mod pool;
mod queue;
mod reach;
mod registry;
pub mod resolve;
pub mod response_reader;
pub mod retry;
#[cfg(test)]
mod rig;
pub mod selection;
pub mod socket;
pub mod stream;

use std::fmt::Display;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

pub use group::{Target, Targets};
pub use queue::{Refused, Wanted};
pub use selection::rendezvous::key_number;

use crate::config::model::{self, EndpointAddr};
use crate::observe::metrics::UpstreamMetrics;
use crate::tls::client::ClientTls;
use crate::upstream::endpoint::{Address, Endpoint, Lease, Registry};
use crate::upstream::group::{Group, Rules};
use crate::upstream::resolve::Resolver;
use crate::upstream::retry::RetryBudget;
use crate::upstream::socket::Secured;

/// A named group of endpoints under one configuration. A reload makes a new one around the same endpoints and the same queue.
#[derive(Debug)]
pub struct Upstream {
    pub config: model::Upstream,
    pub metrics: Arc<UpstreamMetrics>,
    pub budget: RetryBudget,
    /// None: plain HTTP.
    pub tls: Option<Arc<ClientTls>>,
    group: Arc<Group>,
    registry: Arc<Registry>,
    refresh: Mutex<Option<JoinHandle<()>>>,
    checks: Mutex<Vec<(Arc<Endpoint>, JoinHandle<()>)>>,
}

impl Upstream {
    /// Resolves what has to be resolved, waiting a bounded time, and makes the upstream. Nothing runs yet, and nothing changes
    /// for requests of another configuration. `tls` is made of the configuration's.
    pub async fn build(
        config: model::Upstream,
        tls: Option<Arc<ClientTls>>,
        metrics: Arc<UpstreamMetrics>,
        registry: Arc<Registry>,
        resolver: &Resolver,
    ) -> Arc<Self> {
        let group = Group::new(Rules::new(&config), metrics.clone(), registry.queue(&config.name));
        let upstream = Arc::new(Self {
            budget: RetryBudget::new(config.retry.budget),
            config,
            metrics,
            tls,
            group,
            registry,
            refresh: Mutex::default(),
            checks: Mutex::default(),
        });
        let resolved = resolver.resolve_all(&upstream).await;
        upstream.set_addresses(&resolved.addresses);
        upstream
    }

    /// Puts the capacity into force, and starts health checks and, where names are to be resolved, the refresh of their
    /// addresses.
    pub fn start(self: &Arc<Self>, resolver: &Resolver) {
        if let Some(before) = self.group.queue.put_in_force(&self.group) {
            close_idle(&before.targets(), &self.targets());
        }
        self.metrics.set_queue_max(self.config.queue.max);
        self.apply_capacity();
        self.restart_checks();
        if self.config.endpoints.iter().any(|e| matches!(e.addr, EndpointAddr::Host { .. })) {
            let task = tokio::spawn(resolve::refresh(Arc::downgrade(self), resolver.clone()));
            *self.refresh.lock() = Some(task);
        }
    }

    /// Stops what runs for this upstream; requests that are on their way, or wait, end as they would.
    pub fn retire(&self) {
        self.refresh.lock().take().inspect(JoinHandle::abort);
        self.checks.lock().drain(..).for_each(|(_, task)| task.abort());
        if self.group.queue.take_out_of_force(&self.group) {
            close_idle(&self.targets(), &Targets::default());
        }
    }

    /// The endpoints of the moment.
    #[must_use]
    pub fn targets(&self) -> Arc<Targets> {
        self.group.targets()
    }

    /// Whether a request that failed on `tried` can go elsewhere at once.
    #[must_use]
    pub fn has_other(&self, tried: &[Arc<Endpoint>]) -> bool {
        self.targets().list.iter().any(|Target { endpoint, .. }| {
            let is_tried = tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint));
            !is_tried && endpoint.is_reachable() && !endpoint.is_drained()
        })
    }

    /// How `endpoint` is connected to. None: it is not one of this upstream's any more.
    #[must_use]
    pub fn way_to(&self, endpoint: &Arc<Endpoint>) -> Option<Option<Arc<Secured>>> {
        if self.tls.is_none() {
            return Some(None);
        }
        let targets = self.targets();
        let target = targets.list.iter().find(|target| Arc::ptr_eq(&target.endpoint, endpoint))?;
        // Without a name there is nothing to verify: the configuration has one.
        target.tls.clone().map(Some)
    }

    /// Requests that wait, those of other configurations of this upstream among them.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.group.queue.waiting()
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
                let endpoint = self.registry.endpoint(&self.group.queue, address, self.config.capacity);
                let tls = self
                    .tls
                    .as_ref()
                    .and_then(|tls| Some(Arc::new(Secured { name: tls.name(&config.addr)?, settings: tls.clone() })));
                list.push(Target { endpoint, weight: config.weight, backup: config.backup, tls });
            }
        }
        let before = self.targets();
        let changed = self.group.set_targets(list);
        if changed && self.group.queue.is_in_force(&self.group) {
            close_idle(&before, &self.targets());
            self.apply_capacity();
        }
        changed
    }

    fn apply_capacity(&self) {
        for Target { endpoint, .. } in &self.targets().list {
            endpoint.set_capacity(self.config.capacity);
            endpoint.pool.configure(self.config.keepalive, self.config.capacity);
        }
    }

    /// Checks the endpoints of the moment and no others.
    fn restart_checks(&self) {
        let targets = self.targets();
        let mut checks = self.checks.lock();
        checks.retain(|(endpoint, task)| {
            let stays = targets.list.iter().any(|target| Arc::ptr_eq(&target.endpoint, endpoint));
            if !stays {
                task.abort();
            }
            stays
        });
        for target in &targets.list {
            let endpoint = &target.endpoint;
            if checks.iter().any(|(checked, _)| Arc::ptr_eq(checked, endpoint)) {
                continue;
            }
            checks.push((endpoint.clone(), checker::spawn(target, &self.config)));
        }
    }

    /// Takes a slot on an endpoint at once, or waits for one in turn: behind those that came before, and those of high priority.
    /// A request that comes again after a try that failed keeps its place and its deadline. Dropping the future leaves the queue
    /// at once and loses no slot.
    ///
    /// # Errors
    /// There is no room to wait, the deadline passed, or there is no endpoint at all.
    pub async fn acquire(&self, wanted: &mut Wanted) -> Result<Lease, Refused> {
        self.group.acquire(wanted).await
    }

    /// No connection could be made to `endpoint`, and why. It is asked again by one request at a time, in steps; all others go
    /// elsewhere or wait. To be called before the lease is dropped, or the next request meets the same.
    pub fn record_connect_failure(&self, endpoint: &Arc<Endpoint>, error: &dyn Display) {
        self.group.record_connect_failure(endpoint, error);
    }

    /// A request failed on `endpoint` after it had a connection: reset, or no head in time. Never an app's own status, nor a
    /// client that left. To be called before the lease is dropped.
    pub fn record_failure(&self, endpoint: &Arc<Endpoint>) {
        self.group.record_failure(endpoint);
    }

    /// `endpoint` sent the head of a response. Costs one load as long as nothing has failed.
    pub fn record_success(&self, endpoint: &Endpoint) {
        endpoint.record_success(&self.config.ejection);
    }
}

/// Closes the idle connections of endpoints that are no longer named. Requests of an older configuration may still be on them.
fn close_idle(before: &Targets, now: &Targets) {
    let stays = |gone: &Target| now.list.iter().any(|target| Arc::ptr_eq(&target.endpoint, &gone.endpoint));
    before.list.iter().filter(|target| !stays(target)).for_each(|target| target.endpoint.pool.clear());
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.retire();
    }
}
