//! Host names of endpoints, resolved at start and again when the TTL of the answer ends.
//!
//! An answer that fails keeps the addresses of the last good one. Lookups run on their own task: no request waits for one.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use parking_lot::Mutex;

use crate::config::model::EndpointAddr;
use crate::upstream::Upstream;
use crate::upstream::endpoint::Address;

/// An answer is asked for again no sooner and no later than this.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(300);
/// After a lookup that failed.
const RETRY: Duration = Duration::from_secs(2);
/// The longest wait for one lookup; a start or a reload waits that long for a name server that is silent.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);

/// Asks the name servers of one configuration. Clones share the client and the last good answers.
#[derive(Debug, Clone)]
pub struct Resolver {
    client: Arc<TokioResolver>,
    known: Arc<Mutex<HashMap<String, Vec<IpAddr>>>>,
}

/// The addresses of a group's endpoints, in the order of the configuration.
#[derive(Debug)]
pub struct Resolved {
    pub addresses: Vec<Vec<Address>>,
    /// When to ask again.
    pub refresh_in: Duration,
}

impl Resolver {
    /// A client of `servers`, or of the system's name servers where there are none. `previous` hands on its answers.
    ///
    /// # Errors
    /// The system's configuration cannot be read.
    pub fn new(servers: &[SocketAddr], previous: Option<&Self>) -> Result<Self, String> {
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().map_err(|error| error.to_string())?
        } else {
            let config = ResolverConfig::from_parts(None, vec![], servers.iter().map(name_server).collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = Duration::from_secs(1);
        options.attempts = 2;
        // Addresses are kept here, and asked for when their time is over: a second cache would only make them older.
        options.cache_size = 0;
        let client = Arc::new(builder.build().map_err(|error| error.to_string())?);
        Ok(Self { client, known: previous.map(|p| p.known.clone()).unwrap_or_default() })
    }

    /// The addresses of every endpoint of a group. A name without an answer has its last addresses, or none.
    pub async fn resolve_all(&self, upstream: &Upstream) -> Resolved {
        let endpoints = upstream.config.endpoints.iter();
        let answers = join_all(endpoints.map(|endpoint| self.addresses(upstream, &endpoint.addr))).await;
        let refresh_in = answers.iter().map(|(_, valid)| *valid).min().unwrap_or(TTL_MAX);
        Resolved { addresses: answers.into_iter().map(|(addresses, _)| addresses).collect(), refresh_in }
    }

    /// The addresses of one endpoint, and for how long they are good.
    async fn addresses(&self, upstream: &Upstream, endpoint: &EndpointAddr) -> (Vec<Address>, Duration) {
        if let EndpointAddr::Host { host, port } = endpoint {
            let (ips, valid) = self.resolve(upstream, host).await;
            return (ips.into_iter().map(|ip| Address::Tcp(SocketAddr::new(ip, *port))).collect(), valid);
        }
        (Address::literal(endpoint).into_iter().collect(), TTL_MAX)
    }

    /// Addresses in a stable order, and for how long they are good.
    async fn resolve(&self, upstream: &Upstream, host: &str) -> (Vec<IpAddr>, Duration) {
        let lookup = tokio::time::timeout(LOOKUP_TIMEOUT, self.client.lookup_ip(host)).await;
        let error = match lookup {
            Ok(Ok(answer)) => {
                let mut ips: Vec<IpAddr> = answer.iter().collect();
                ips.sort_unstable();
                ips.dedup();
                let valid = answer.valid_until().saturating_duration_since(Instant::now());
                if !ips.is_empty() {
                    self.known.lock().insert(host.to_owned(), ips.clone());
                    return (ips, valid.clamp(TTL_MIN, TTL_MAX));
                }
                "no address in the answer".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {LOOKUP_TIMEOUT:?}"),
        };
        let last = self.known.lock().get(host).cloned().unwrap_or_default();
        upstream.metrics.record_resolve_failure();
        tracing::warn!(upstream = %upstream.config.name, host, error, kept = last.len(), "name could not be resolved");
        (last, RETRY)
    }
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

/// Keeps the addresses of a group current until the group is gone.
pub(super) async fn refresh(upstream: Weak<Upstream>, resolver: Resolver) {
    loop {
        let Some(group) = upstream.upgrade() else { return };
        let resolved = resolver.resolve_all(&group).await;
        if group.set_addresses(&resolved.addresses) {
            let addresses: Vec<_> = resolved.addresses.iter().flatten().map(ToString::to_string).collect();
            tracing::info!(upstream = %group.config.name, addresses = addresses.join(" "), "addresses changed");
            group.restart_checks();
        }
        drop(group);
        tokio::time::sleep(resolved.refresh_in).await;
    }
}
