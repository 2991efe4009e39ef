//! Asks an endpoint at intervals whether it is well. The HTTP probe is that of pingora-load-balancing; its connect probe loads the
//! system's certificates for each endpoint and panics where there are none (pingora-load-balancing 0.9.1 `health_check.rs`,
//! `TcpHealthCheck::default`), so that one is ours, behind the same trait.
//!
//! A probe takes a slot like a request, ahead of all that wait: without one it would wait in the backlog of a pool whose workers
//! are all busy, and call it ill.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use http::Extensions;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_load_balancing::Backend;
use pingora_load_balancing::health_check::{HealthCheck, HttpHealthCheck};
use tokio::task::JoinHandle;

use crate::config::model;
use crate::observe::metrics::CheckResult;
use crate::upstream::endpoint::{Address, Endpoint};
use crate::upstream::group::Target;
use crate::upstream::health::Transition;
use crate::upstream::peer::probe_peer;
use crate::upstream::socket::{self, Secured, connect_within};

type Probe = Arc<dyn HealthCheck + Send + Sync>;

/// What one probe said.
enum Verdict {
    Pass,
    Fail(String),
    /// Nothing was learnt: the endpoint was too busy to answer, which is load and not illness, or we had no means to ask.
    Busy,
}

/// Checks the target's endpoint until the task is aborted or the endpoint is gone.
pub(super) fn spawn(target: &Target, config: &model::Upstream) -> JoinHandle<()> {
    let endpoint = &target.endpoint;
    let peer = probe_peer(&endpoint.address, target.tls.clone());
    let probe: Probe = match &config.health.path {
        None => Arc::new(ConnectProbe(endpoint.address.clone(), target.tls.clone(), config.health.timeout)),
        Some(path) => http_probe(&peer, config, path),
    };
    let backend = Backend { addr: peer._address.clone(), weight: 1, ext: Extensions::new() };
    let (upstream, health, patience) = (config.name.clone(), config.health.clone(), patience(config));
    let checker = Checker { upstream, health, patience, probe, backend, late: None };
    // One whose health is known is asked again in turn; one nobody knows is asked at once.
    let delay = if endpoint.is_known() { jittered(checker.health.interval) } else { Duration::ZERO };
    tokio::spawn(checker.run(Arc::downgrade(endpoint), delay))
}

struct Checker {
    upstream: Arc<str>,
    health: model::Health,
    /// For a probe in all, whatever is thought of it before.
    patience: Duration,
    probe: Probe,
    backend: Backend,
    /// A probe whose time is up, and which the endpoint still works on.
    late: Option<JoinHandle<Result<()>>>,
}

impl Checker {
    async fn run(mut self, endpoint: Weak<Endpoint>, mut delay: Duration) {
        loop {
            tokio::time::sleep(delay).await;
            let Some(endpoint) = endpoint.upgrade() else { return };
            let verdict = self.check(&endpoint).await;
            self.record(&endpoint, verdict);
            endpoint.settle();
            delay = jittered(self.health.interval);
        }
    }

    async fn check(&mut self, endpoint: &Arc<Endpoint>) -> Verdict {
        if self.late.as_ref().is_some_and(|probe| !probe.is_finished()) {
            return self.unanswered(endpoint);
        }
        self.late = None;
        let Some(slot) = endpoint.acquire_probe(self.health.timeout).await else { return Verdict::Busy };
        endpoint.pool.make_room(endpoint.in_flight());
        let (probe, backend, patience) = (self.probe.clone(), self.backend.clone(), self.patience);
        // It keeps its slot as long as the endpoint works on it, whatever is thought of that by then. An answer may have no end.
        let mut probing = tokio::spawn(async move {
            let result = tokio::time::timeout(patience, probe.check(&backend)).await;
            drop(slot);
            result.unwrap_or_else(|_| Error::e_explain(ErrorType::ReadTimedout, "no whole answer"))
        });
        match tokio::time::timeout(self.health.timeout, &mut probing).await {
            Ok(Ok(Ok(()))) => Verdict::Pass,
            // We are out of file descriptors: that says nothing about the endpoint.
            Ok(Ok(Err(error))) if is_shortage(&error) => Verdict::Busy,
            Ok(Ok(Err(error))) => match error.etype() {
                ErrorType::ReadTimedout | ErrorType::WriteTimedout | ErrorType::ConnectTimedout => {
                    self.unanswered(endpoint)
                }
                _ => Verdict::Fail(error.to_string()),
            },
            // Pingora's panic is no news of the endpoint.
            Ok(Err(_)) => Verdict::Busy,
            Err(_) => {
                self.late = Some(probing);
                self.unanswered(endpoint)
            }
        }
    }

    fn unanswered(&self, endpoint: &Endpoint) -> Verdict {
        // Every slot is taken, and not by this probe alone.
        if endpoint.is_full() && endpoint.in_flight() > 1 {
            Verdict::Busy
        } else {
            Verdict::Fail(format!("no answer within {:?}", self.health.timeout))
        }
    }

    fn record(&self, endpoint: &Endpoint, verdict: Verdict) {
        let (result, error) = match verdict {
            Verdict::Pass => (CheckResult::Pass, String::new()),
            Verdict::Fail(error) => (CheckResult::Fail, error),
            Verdict::Busy => return endpoint.metrics.record_check(CheckResult::Ignored),
        };
        endpoint.metrics.record_check(result);
        let passed = matches!(result, CheckResult::Pass);
        if passed {
            endpoint.record_connected();
        }
        let upstream = &*self.upstream;
        match endpoint.record_check(passed, self.health.rise, self.health.fall) {
            Some(Transition::Up) => {
                tracing::info!(upstream, endpoint = endpoint.label, "endpoint is healthy again");
            }
            Some(Transition::Down) => {
                tracing::warn!(upstream, endpoint = endpoint.label, error, "endpoint is unhealthy");
            }
            None if !passed => tracing::debug!(upstream, endpoint = endpoint.label, error, "health check failed"),
            None => {}
        }
    }
}

/// Whether the operating system refused us the means (EMFILE, ENFILE), somewhere down the chain of causes.
fn is_shortage(error: &Error) -> bool {
    let Some(cause) = error.cause.as_deref() else { return false };
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        return socket::is_shortage(error);
    }
    cause.downcast_ref::<Box<Error>>().is_some_and(|error| is_shortage(error))
}

/// Passes when a connection can be made, which is closed at once: even a sync worker that accepts it loses no time.
struct ConnectProbe(Address, Option<Arc<Secured>>, Duration);

#[async_trait]
impl HealthCheck for ConnectProbe {
    async fn check(&self, _target: &Backend) -> Result<()> {
        connect_within(&self.0, self.1.as_deref(), self.2).await.map(drop).map_err(|error| {
            let timed_out = error.kind() == io::ErrorKind::TimedOut;
            let kind = if timed_out { ErrorType::ConnectTimedout } else { ErrorType::ConnectError };
            Error::because(kind, "connect probe", error)
        })
    }

    // Counted by `Health`.
    fn health_threshold(&self, _success: bool) -> usize {
        1
    }
}

/// Where slots are counted, one is free when the app is done with what it was sent.
fn patience(config: &model::Upstream) -> Duration {
    let timeout = config.health.timeout;
    config.capacity.map_or(timeout, |_| timeout.max(config.first_byte_timeout))
}

/// Host and scheme are those of a real request: Django answers 400 to a foreign Host, and 301 to plain HTTP.
fn http_probe(peer: &HttpPeer, config: &model::Upstream, path: &str) -> Probe {
    let health = &config.health;
    let host = health.host.clone().unwrap_or_else(|| "localhost".to_owned());
    let connector = Connector::new_custom(Some(ConnectorOptions::new(1)), ());
    let mut probe = HttpHealthCheck::new_custom("localhost", false, connector);
    probe.peer_template = peer.clone();
    probe.peer_template.options.connection_timeout = Some(health.timeout);
    probe.peer_template.options.read_timeout = Some(patience(config));
    let request = pingora_http::RequestHeader::build("GET", path.as_bytes(), None).and_then(|mut request| {
        request.insert_header("Host", host)?;
        request.insert_header("User-Agent", concat!("propylon/", env!("CARGO_PKG_VERSION")))?;
        request.insert_header("X-Forwarded-Proto", "https")?;
        request.insert_header("Connection", "close")?;
        Ok(request)
    });
    if let Ok(request) = request {
        probe.req = request;
    }
    let expect = health.expect.clone();
    probe.validator = Some(Box::new(move |response| {
        let status = response.status.as_u16();
        if expect.contains(status) {
            Ok(())
        } else {
            Error::e_explain(ErrorType::HTTPStatus(status), "unexpected status")
        }
    }));
    Arc::new(probe)
}

/// The interval, give or take a tenth, so that probes of many endpoints do not fall together.
fn jittered(interval: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 200;
    interval.mul_f64(0.9 + f64::from(u32::try_from(random).unwrap_or(100)) / 1000.0)
}
