//! Diagnostics to standard error: one line an event, at a level that can change while the process runs.
//!
//! ```text
//! 2026-11-21T10:00:00.123Z  WARN propylon::upstream: endpoint is unhealthy upstream=shop endpoint=127.0.0.1:8001
//! ```
//!
//! Pingora and other crates write to `log`; the subscriber brings that in. Pingora calls every bad client an error, in lines
//! that know neither route nor request. Ours do, so Pingora's are shown from the level `debug` on.

mod line;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Registry, fmt, reload};

use super::metrics::Metrics;

/// The beginning of the targets of all of Pingora's crates.
const PINGORA: &str = "pingora";
/// The client crate: it has a line for every try to reach a node of a cluster.
const REDIS: &str = "redis";

/// The target of the lines that report a panic.
const PANIC: &str = "propylon::panic";

/// Changes the level of the diagnostics.
#[derive(Debug, Clone)]
pub struct Logging {
    filter: reload::Handle<Targets, Registry>,
}

/// Begins to write diagnostics to standard error, from `level` up.
///
/// # Errors
/// When something else receives the diagnostics of this process already.
pub fn init(level: Level) -> Result<Logging, TryInitError> {
    // What comes by way of `log` is capped once and for all by the level at this moment. At `info` at least, or Pingora's
    // errors would be out of reach when the level is lowered later. At `debug` at most: its lines at `trace` panic at what an
    // app may send (pingora-core 0.9.1 `v1/client.rs:816`).
    let (filter, handle) = reload::Layer::new(targets(level.max(Level::INFO).min(Level::DEBUG)));
    let lines = fmt::layer()
        .event_format(line::Lines)
        .with_writer(std::io::stderr)
        // It would report a failed write with eprintln!, which panics when standard error is gone.
        .log_internal_errors(false);
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    let logging = Logging { filter: handle };
    logging.set_level(level);
    Ok(logging)
}

impl Logging {
    /// Shows events from `level` up. Lines of Pingora and others that write to `log` stay bounded by the level at [`init`], or by
    /// `info` where that was stricter.
    pub fn set_level(&self, level: Level) {
        // An error means that the subscriber is gone: then there is nothing to filter.
        let _ = self.filter.reload(targets(level));
    }
}

fn targets(level: Level) -> Targets {
    let theirs = if level >= Level::DEBUG { LevelFilter::from_level(level) } else { LevelFilter::OFF };
    // What they have to say is said by us, once and with what it means.
    Targets::new().with_default(level).with_target(PINGORA, theirs).with_target(REDIS, theirs)
}

/// Logs every panic at error, with its place, and counts it. Replaces the hook before, which wrote several lines.
pub fn install_panic_hook(metrics: Arc<Metrics>) {
    panic::set_hook(Box::new(move |panic| {
        metrics.panics.add(1);
        report(panic);
    }));
}

fn report(panic: &PanicHookInfo<'_>) {
    let cause = panic.payload_as_str().unwrap_or("not a text");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(target: PANIC, cause, location, thread, %backtrace, "panicked");
    } else {
        tracing::error!(target: PANIC, cause, location, thread, "panicked");
    }
}

#[cfg(test)]
mod tests;
