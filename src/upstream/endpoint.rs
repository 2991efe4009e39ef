//! One address of the app: how many requests are on it, whether it is healthy, and the guard that counts a request out.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::config::model::EndpointAddr;
use crate::observe::metrics::{EndpointInFlight, EndpointMetrics, Metrics};
use crate::upstream::health::{Health, Transition};

/// Where to connect, with nothing left to resolve.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    Tcp(SocketAddr),
    /// Canonical as far as its directories exist: `/var/run/a.sock` and `/run/a.sock` are one address.
    Unix(PathBuf),
    /// Linux' abstract namespace, without the leading `@`.
    Abstract(String),
}

impl Address {
    /// The address that is written out in the configuration; none for a name.
    #[must_use]
    pub fn literal(address: &EndpointAddr) -> Option<Self> {
        match address {
            EndpointAddr::Ip(address) => Some(Self::Tcp(*address)),
            EndpointAddr::Unix(path) => Some(Self::Unix(canonical(path))),
            EndpointAddr::Abstract(name) => Some(Self::Abstract(name.clone())),
            EndpointAddr::Host { .. } => None,
        }
    }
}

/// The directory is resolved and the file name kept: a restarting app may not have made its socket yet.
fn canonical(path: &Path) -> PathBuf {
    match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(directory)), Some(name)) => directory.join(name),
        _ => path.to_path_buf(),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

/// Requests in flight to one address, whatever group they came through.
#[derive(Debug, Default)]
struct Load {
    in_flight: AtomicU32,
}

/// An address within a group. It outlives reloads: the registry finds it again by group and address.
#[derive(Debug)]
pub struct Endpoint {
    pub address: Address,
    pub label: String,
    pub metrics: Arc<EndpointMetrics>,
    load: Arc<Load>,
    health: Mutex<Health>,
}

impl Endpoint {
    /// Requests in flight to this address.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.load.in_flight.load(Relaxed)
    }

    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.health.lock().is_healthy()
    }

    /// Whether a check has said anything yet.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.health.lock().is_known()
    }

    /// Takes in the result of a check.
    pub fn record_check(&self, passed: bool, rise: u32, fall: u32) -> Option<Transition> {
        let transition = self.health.lock().record(passed, rise, fall);
        self.metrics.set_healthy(self.is_healthy());
        transition
    }

    /// Counts a request in, if nobody else did since `observed` was read; with none, in any case.
    #[must_use]
    pub fn lease(self: &Arc<Self>, observed: Option<u32>) -> Option<Lease> {
        match observed {
            Some(count) => {
                self.load.in_flight.compare_exchange(count, count + 1, Relaxed, Relaxed).ok()?;
            }
            None => {
                self.load.in_flight.fetch_add(1, Relaxed);
            }
        }
        Some(Lease { _counted: self.metrics.enter(), endpoint: self.clone() })
    }
}

/// One request on an endpoint, until dropped.
#[derive(Debug)]
pub struct Lease {
    endpoint: Arc<Endpoint>,
    _counted: EndpointInFlight,
}

impl Lease {
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.load.in_flight.fetch_sub(1, Relaxed);
    }
}

/// A group's name and an address in it.
type GroupAddress = (Arc<str>, Address);

/// Finds the endpoints that exist, so that a reload goes on counting where it was.
#[derive(Debug)]
pub struct Registry {
    metrics: Arc<Metrics>,
    loads: Mutex<HashMap<Address, Weak<Load>>>,
    endpoints: Mutex<HashMap<GroupAddress, Weak<Endpoint>>>,
}

impl Registry {
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, loads: Mutex::default(), endpoints: Mutex::default() }
    }

    /// The endpoint at `address` in the group `upstream`: the one that exists, or a new one whose health is unknown.
    pub fn endpoint(&self, upstream: &Arc<str>, address: &Address, capacity: Option<u32>) -> Arc<Endpoint> {
        let mut endpoints = self.endpoints.lock();
        endpoints.retain(|_, endpoint| endpoint.strong_count() > 0);
        let key = (upstream.clone(), address.clone());
        let endpoint = endpoints.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let label = address.to_string();
            let endpoint = Arc::new(Endpoint {
                address: address.clone(),
                metrics: self.metrics.endpoint(upstream, &label),
                label,
                load: self.load(address),
                health: Mutex::default(),
            });
            endpoint.metrics.set_healthy(true);
            endpoints.insert(key, Arc::downgrade(&endpoint));
            endpoint
        });
        endpoint.metrics.set_capacity(capacity);
        endpoint
    }

    fn load(&self, address: &Address) -> Arc<Load> {
        let mut loads = self.loads.lock();
        loads.retain(|_, load| load.strong_count() > 0);
        loads.get(address).and_then(Weak::upgrade).unwrap_or_else(|| {
            let load = Arc::new(Load::default());
            loads.insert(address.clone(), Arc::downgrade(&load));
            load
        })
    }
}
