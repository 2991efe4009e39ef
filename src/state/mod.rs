//! What a request lives by: one immutable [`Snapshot`] of everything that comes from the configuration, and [`Shared`], what
//! outlives every configuration.

pub mod connections;
mod shared;

use std::sync::Arc;

use futures_util::future::join_all;

pub use shared::{Conversation, Shared};

use crate::config::model::{Config, Route};
use crate::observe::metrics::RouteMetrics;
use crate::route::host::AllowedHosts;
use crate::route::table::Table;
use crate::upstream::Upstream;
use crate::upstream::resolve::Resolver;

/// One configuration, ready to serve. A request takes it once, when it begins.
#[derive(Debug)]
pub struct Snapshot {
    /// 1 for the configuration the process started with.
    pub generation: u64,
    pub config: Arc<Config>,
    pub shared: Arc<Shared>,
    pub table: Table,
    pub allowed_hosts: AllowedHosts,
    /// As in [`Config::routes`].
    pub route_metrics: Vec<Arc<RouteMetrics>>,
    /// As in [`Config::upstreams`].
    pub upstreams: Vec<Arc<Upstream>>,
    resolver: Resolver,
}

impl Snapshot {
    /// Makes everything that can be made without being seen. `previous` hands on what is known about names.
    ///
    /// # Errors
    /// The name servers' configuration cannot be read.
    pub async fn prepare(config: Config, shared: &Arc<Shared>, previous: Option<&Self>) -> Result<Arc<Self>, String> {
        let resolver = Resolver::new(&config.server.resolvers, previous.map(|p| &p.resolver))?;
        // Side by side: a name server that is silent is waited for once, however many names are asked for.
        let upstreams = join_all(config.upstreams.iter().map(|upstream| {
            let metrics = shared.metrics.upstream(&upstream.name);
            Upstream::build(upstream.clone(), metrics, shared.registry.clone(), &resolver)
        }))
        .await;
        Ok(Arc::new(Self {
            generation: previous.map_or(1, |p| p.generation + 1),
            shared: shared.clone(),
            table: Table::build(&config.routes),
            allowed_hosts: AllowedHosts::new(&config.server.allowed_hosts),
            route_metrics: config.routes.iter().map(|route| shared.metrics.route(&route.name)).collect(),
            upstreams,
            resolver,
            config: Arc::new(config),
        }))
    }

    /// Starts what runs beside requests: health checks and name refreshes.
    pub fn start(&self) {
        self.upstreams.iter().for_each(|upstream| upstream.start(&self.resolver));
    }

    /// Stops them again; requests that still hold this snapshot end as they would.
    pub fn retire(&self) {
        self.upstreams.iter().for_each(|upstream| upstream.retire());
    }

    /// The route at an index the table gave.
    #[must_use]
    pub fn route(&self, index: usize) -> Option<(&Route, &Arc<RouteMetrics>)> {
        self.config.routes.get(index).zip(self.route_metrics.get(index))
    }
}
