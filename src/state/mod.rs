//! What a request lives by: one immutable [`Snapshot`] of everything that comes from the configuration, and [`Shared`], what
//! outlives every configuration.

pub mod connections;
mod maintenance;
mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::SystemTime;

use futures_util::future::join_all;

pub use shared::{Conversation, Shared, Tunnel};

use crate::access::Access;
use crate::access::addresses::Addresses;
use crate::cache::{self, rule::Rules};
use crate::config::model::{Config, ListenAddr, Listener, Protocol, Route};
use crate::header::trace::Share;
use crate::observe::access_log::Redaction;
use crate::observe::metrics::{RedisUser, RouteMetrics};
use crate::observe::traces::{self, Traces};
use crate::rate_limit::Limits;
use crate::redis::{self, Redis};
use crate::route::host::AllowedHosts;
use crate::route::table::Table;
use crate::tls::client::ClientTls;
use crate::tls::server::ServerTls;
use crate::tls::watch::Watched;
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
    /// As in [`Config::routes`]; none where a route has no limits.
    limits: Vec<Option<Arc<Limits>>>,
    /// As in [`Config::routes`]; none where everybody may come.
    access: Vec<Option<Arc<Access>>>,
    /// Who is served in spite of maintenance.
    pub maintenance_allow: Addresses,
    /// What the access log does not hold.
    pub redaction: Redaction,
    /// Where traces are sent.
    pub traces: Option<Arc<Traces>>,
    /// How many traces are recorded.
    pub sample: Share,
    /// Which answers are kept.
    pub cache_rules: Rules,
    /// What gateways share limits through.
    pub redis: Option<Arc<Redis>>,
    /// The same Redis by another connection: what gateways share answers through.
    pub cache_redis: Option<Arc<Redis>>,
    /// None where no listener speaks TLS.
    pub tls: Option<Arc<ServerTls>>,
    /// Which routes' apps have said `Strict-Transport-Security` themselves; the last is whether any has.
    says_hsts: Box<[AtomicBool]>,
    /// What is made of files that other programs may change.
    pub watched: Vec<Watched>,
    resolver: Resolver,
}

impl Snapshot {
    /// Makes everything that can be made without being seen. `previous` hands on what is known about names.
    ///
    /// # Errors
    /// The name servers' configuration, a certificate or a key cannot be used.
    pub async fn prepare(config: Config, shared: &Arc<Shared>, previous: Option<&Self>) -> Result<Arc<Self>, String> {
        let config = Arc::new(config);
        let (tls, client_tls, watched) = read_files(&config, shared, previous).await?;
        let asked = config.clone();
        let checked = tokio::task::spawn_blocking(move || cache::disk::check(asked.cache.as_ref())).await;
        checked.map_err(|error| error.to_string())??;
        let (redis, cache_redis) = connect_redis(&config, previous).await?;
        let traces = traces(&config, shared, previous)?;
        let resolver = Resolver::new(&config.server.resolvers, previous.map(|p| &p.resolver))?;
        // Side by side: a name server that is silent is waited for once, however many names are asked for.
        let upstreams = join_all(config.upstreams.iter().zip(client_tls).map(|(upstream, tls)| {
            let metrics = shared.metrics.upstream(&upstream.name);
            Upstream::build(upstream.clone(), tls, metrics, shared.registry.clone(), &resolver)
        }))
        .await;
        Ok(Arc::new(Self {
            generation: previous.map_or(1, |p| p.generation + 1),
            shared: shared.clone(),
            table: Table::build(&config.routes),
            allowed_hosts: AllowedHosts::new(&config.server.allowed_hosts),
            route_metrics: config.routes.iter().map(|route| shared.metrics.route(&route.name)).collect(),
            limits: config.routes.iter().map(|route| Limits::build(&route.rate_limits, &shared.metrics)).collect(),
            access: config
                .routes
                .iter()
                .map(|route| route.access.as_ref().map(|it| Arc::new(Access::build(it))))
                .collect(),
            maintenance_allow: Addresses::build(&config.maintenance.allow),
            redaction: redaction(&config),
            traces,
            sample: Share::of_millionths(config.tracing.sample),
            cache_rules: Rules::build(config.cache.as_ref(), &shared.metrics),
            says_hsts: (0..=config.routes.len()).map(|_| AtomicBool::new(false)).collect(),
            redis,
            cache_redis,
            upstreams,
            tls,
            watched,
            resolver,
            config,
        }))
    }

    /// The listener at an address, as the configuration has it.
    #[must_use]
    pub fn listener(&self, name: &ListenAddr) -> Option<&Listener> {
        self.config.server.listen.iter().find(|listener| listener.address == *name)
    }

    /// Whether TLS is spoken there.
    #[must_use]
    pub fn speaks_tls(&self, name: &ListenAddr) -> bool {
        self.listener(name).is_some_and(|listener| listener.protocol != Protocol::Http)
    }

    /// Starts what runs beside requests: health checks and name refreshes. Its certificates are in use from now on.
    pub fn start(&self) {
        match &self.tls {
            Some(tls) => tls.show(),
            None => self.shared.metrics.tls.show(Vec::new()),
        }
        self.shared.metrics.show_redis(self.connections_to_redis().map(|redis| redis.metrics()).collect());
        self.shared.cache.configure(self.config.cache.as_ref(), &self.cache_rules, &self.shared.metrics);
        self.shared.cache.share(self.cache_redis.as_ref(), &self.shared.metrics);
        self.upstreams.iter().for_each(|upstream| upstream.start(&self.resolver));
    }

    /// Stops them again, but for what `next` goes on with; requests that still hold this snapshot end as they would.
    pub fn retire(&self, next: &Self) {
        let goes_on = |redis: &&Arc<Redis>| next.connections_to_redis().any(|next| Arc::ptr_eq(next, redis));
        self.connections_to_redis().filter(|redis| !goes_on(redis)).for_each(|redis| redis.stop());
        self.upstreams.iter().for_each(|upstream| upstream.retire());
    }

    /// Whether the app of a route, or without one of any, is known to say `Strict-Transport-Security` itself; `now`: it does so now.
    #[must_use]
    pub fn app_says_hsts(&self, route: Option<usize>, now: bool) -> bool {
        let any = self.says_hsts.len() - 1;
        let Some(said) = self.says_hsts.get(route.unwrap_or(any)) else { return false };
        if now && !said.load(Relaxed) {
            said.store(true, Relaxed);
            self.says_hsts.get(any).into_iter().for_each(|any| any.store(true, Relaxed));
        }
        said.load(Relaxed)
    }

    /// Leaves Redis: nobody is served any more.
    pub fn leave_redis(&self) {
        self.connections_to_redis().for_each(|redis| redis.stop());
    }

    fn connections_to_redis(&self) -> impl Iterator<Item = &Arc<Redis>> {
        self.redis.iter().chain(&self.cache_redis)
    }

    /// The limits of the route at an index the table gave.
    #[must_use]
    pub fn limits(&self, index: usize) -> Option<&Arc<Limits>> {
        self.limits.get(index)?.as_ref()
    }

    /// Who may come to the route at an index the table gave.
    #[must_use]
    pub fn access(&self, index: usize) -> Option<&Arc<Access>> {
        self.access.get(index)?.as_ref()
    }

    /// The route at an index the table gave.
    #[must_use]
    pub fn route(&self, index: usize) -> Option<(&Route, &Arc<RouteMetrics>)> {
        self.config.routes.get(index).zip(self.route_metrics.get(index))
    }
}

/// The way to the collector: the one that is there already, if nothing about it is new.
fn traces(config: &Config, shared: &Shared, previous: Option<&Snapshot>) -> Result<Option<Arc<Traces>>, String> {
    let Some(collector) = &config.tracing.collector else { return Ok(None) };
    let settings = traces::Settings {
        url: collector.url.clone(),
        headers: collector.headers.iter().map(|(name, value)| (name.to_string(), value.0.clone())).collect(),
        service_name: collector.service_name.clone(),
    };
    let there = previous.and_then(|previous| previous.traces.as_ref());
    if let Some(there) = there.filter(|there| *there.settings() == settings) {
        return Ok(Some(there.clone()));
    }
    Traces::start(settings, &shared.metrics).map(Some).map_err(|error| format!("tracing.otlp: {error}"))
}

fn redaction(config: &Config) -> Redaction {
    let redact = &config.log.redact;
    Redaction::new(redact.query.iter().map(String::as_str), &redact.fields)
}

type Connections = (Option<Arc<Redis>>, Option<Arc<Redis>>);

/// Connections to the Redis of the configuration, for limits and for the cache: those that are there already, if nothing about
/// them is new.
async fn connect_redis(config: &Config, previous: Option<&Snapshot>) -> Result<Connections, String> {
    let Some(wanted) = config.redis.clone() else { return Ok((None, None)) };
    let reading = wanted.clone();
    let read = tokio::task::spawn_blocking(move || redis::authorities(&reading)).await;
    let authorities = read.map_err(|error| error.to_string())??;
    let connect = async |there: Option<&Arc<Redis>>, user| match there {
        Some(there) if there.is_of(&wanted, authorities.as_ref()) => there.clone(),
        _ => Redis::start(wanted.clone(), authorities.clone(), user).await,
    };
    let limits = connect(previous.and_then(|previous| previous.redis.as_ref()), RedisUser::Limits);
    if !config.cache.as_ref().is_some_and(|cache| cache.shared) {
        return Ok((Some(limits.await), None));
    }
    let cache = connect(previous.and_then(|previous| previous.cache_redis.as_ref()), RedisUser::Cache);
    let (limits, cache) = futures_util::join!(limits, cache);
    Ok((Some(limits), Some(cache)))
}

type FromFiles = (Option<Arc<ServerTls>>, Vec<Option<Arc<ClientTls>>>, Vec<Watched>);

/// Reads certificates and keys, aside: disks may be slow.
async fn read_files(
    config: &Arc<Config>,
    shared: &Arc<Shared>,
    previous: Option<&Snapshot>,
) -> Result<FromFiles, String> {
    let (config, shared) = (config.clone(), shared.clone());
    let previous = previous.and_then(|previous| previous.tls.clone());
    let read = tokio::task::spawn_blocking(move || {
        let mut watched = Vec::new();
        let began = SystemTime::now();
        let tls = ServerTls::load(&config, &shared.tickets, &shared.metrics, previous.as_deref())?;
        watched.extend(tls.iter().map(|tls| Watched::new(tls.clone(), began)));
        let mut client_tls = Vec::new();
        for upstream in &config.upstreams {
            let loaded = upstream.tls.as_ref().map(ClientTls::load).transpose();
            let loaded = loaded.map_err(|error| format!("upstreams.{}.tls: {error}", upstream.name))?;
            watched.extend(loaded.iter().map(|tls| Watched::new(tls.clone(), began)));
            client_tls.push(loaded);
        }
        Ok((tls, client_tls, watched))
    });
    read.await.map_err(|error| error.to_string())?
}
