//! What an operator asks the process: metrics, health and status on the admin listener, reload and drain on the control socket.
//!
//! The admin listener only reads. Whatever changes something is on the control socket, which only its owner can open.

mod answer;
mod drain;
pub mod http;
mod maintenance;
mod purge;
mod status;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::admin::answer::Answer;
use crate::admin::http::Request;
use crate::observe::metrics::{CONTENT_TYPE, SpoolReading};
use crate::spool::Depot;
use crate::state::Snapshot;

/// What a reload came to: what it did, or every reason why it did nothing.
pub type Reloaded = Result<String, String>;

/// Reloads the configuration; handed in by `server`.
pub type Reload = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Reloaded> + Send>> + Send + Sync>;

/// What answers on an admin or control socket.
#[derive(Clone)]
pub enum Desk {
    /// Reading only.
    Admin(Arc<ArcSwap<Snapshot>>),
    Control(Reload, Arc<ArcSwap<Snapshot>>),
}

impl Desk {
    async fn answer(&self, request: Request) -> Answer {
        match self {
            Self::Admin(current) => read(&current.load_full(), &request).await,
            Self::Control(reload, current) => control(reload, &current.load_full(), &request).await,
        }
    }
}

async fn read(snapshot: &Arc<Snapshot>, request: &Request) -> Answer {
    if request.method != "GET" && request.method != "HEAD" {
        return Answer::text(405, "only GET and HEAD\n").with_allow("GET, HEAD");
    }
    match request.path.as_str() {
        "/metrics" => metrics(snapshot.clone()).await,
        "/healthz" => Answer::text(200, "ok\n"),
        "/readyz" => readiness(snapshot),
        "/status" => describe(snapshot.clone()).await,
        "/" => Answer::text(200, "/metrics\n/healthz\n/readyz\n/status\n"),
        _ => Answer::text(404, "/metrics, /healthz, /readyz and /status are here\n"),
    }
}

/// Off the worker threads: a page of a thousand endpoints takes milliseconds.
async fn metrics(snapshot: Arc<Snapshot>) -> Answer {
    let render = move || {
        record_idle(&snapshot);
        snapshot.shared.metrics.render(&spooled(&snapshot.shared.depot))
    };
    match tokio::task::spawn_blocking(render).await {
        Ok(page) => Answer::new(200, CONTENT_TYPE, page),
        Err(_) => Answer::text(500, "the metrics could not be written\n"),
    }
}

/// Off the worker threads, as the metrics.
async fn describe(snapshot: Arc<Snapshot>) -> Answer {
    match tokio::task::spawn_blocking(move || format!("{:#}\n", status::status(&snapshot))).await {
        Ok(document) => Answer::new(200, "application/json", document),
        Err(_) => Answer::text(500, "the status could not be written\n"),
    }
}

/// What only somebody who looks needs to know is not kept up to date on the way of a request.
fn record_idle(snapshot: &Snapshot) {
    for upstream in &snapshot.upstreams {
        for target in &upstream.targets().list {
            let (pool, metrics) = (&target.endpoint.pool, &target.endpoint.metrics);
            metrics.set_idle_connections(pool.idle() as u64);
            metrics.set_keepalive_limit(Some(pool.limit()));
        }
    }
}

/// The spool as the page shows it.
fn spooled(depot: &Depot) -> SpoolReading {
    let (usage, totals, limits) = (depot.usage(), depot.totals(), depot.limits());
    SpoolReading {
        memory_bytes: usage.memory,
        memory_limit: limits.memory,
        disk_bytes: usage.disk,
        disk_limit: limits.disk,
        files: usage.files,
        bodies_on_disk_total: totals.bodies_on_disk,
        disk_written_bytes_total: totals.disk_bytes,
        refused_budget_total: totals.refused_budget,
        refused_body_total: totals.refused_body,
        io_errors_total: totals.io_errors,
    }
}

/// Ready: serving, not leaving, and every upstream of `ready_requires` has an endpoint that a check has found healthy.
fn readiness(snapshot: &Snapshot) -> Answer {
    if snapshot.shared.is_draining() {
        return Answer::text(503, "draining\n");
    }
    let required = snapshot.config.admin.ready_requires.iter().filter_map(|index| snapshot.upstreams.get(*index));
    let missing: Vec<_> = required
        .filter(|upstream| !upstream.targets().list.iter().any(|t| t.endpoint.is_known() && t.endpoint.is_healthy()))
        .map(|upstream| format!("no healthy endpoint in {}\n", upstream.config.name))
        .collect();
    if missing.is_empty() { Answer::text(200, "ready\n") } else { Answer::text(503, missing.concat()) }
}

async fn control(reload: &Reload, snapshot: &Snapshot, request: &Request) -> Answer {
    match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/reload") => match reload().await {
            Ok(report) => Answer::text(200, report),
            Err(problems) => Answer::text(422, problems),
        },
        ("POST", "/drain") => drain::drain(snapshot, &request.query).await,
        ("POST", "/undrain") => drain::undrain(snapshot, &request.query),
        ("POST", "/purge") => purge::purge(snapshot, &request.query).await,
        ("POST", "/maintenance") => maintenance::maintenance(snapshot, &request.query),
        (_, "/reload" | "/drain" | "/undrain" | "/purge" | "/maintenance") => {
            Answer::text(405, "only POST\n").with_allow("POST")
        }
        _ => Answer::text(404, "POST /reload, /drain, /undrain, /purge and /maintenance are here\n"),
    }
}

/// The control socket: a file that only its owner may open, from the moment it exists.
///
/// # Errors
/// Another process listens there, or the directory is not writable.
pub fn bind_control(path: &Path) -> Result<crate::edge::listener::Bound, String> {
    crate::edge::listener::bind_private(path)
}
