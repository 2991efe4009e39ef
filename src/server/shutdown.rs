//! Leaving: readiness fails, the load balancer has time to see it, the listeners close, and what is under way ends.

use std::time::Duration;

use tokio::runtime::Runtime;

use crate::redis;
use crate::server::reload::Reloader;
use crate::server::signals::{Event, Signals};
use crate::state::{Shared, Snapshot};

/// How long tasks may take to be dropped; they do at their next pause.
const STOP_MAX: Duration = Duration::from_secs(1);
/// How long requests that waited for a slot may take to be refused, and how often it is looked whether they are.
const REFUSE_MAX: Duration = Duration::from_secs(1);
const REFUSE_STEP: Duration = Duration::from_millis(5);
/// How long WebSockets may take to close.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// How long the access log, and the collector of traces, may take for what is left.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// Returns when nothing is under way any more, at `shutdown_timeout` at the latest. A second signal to leave ends it at once.
pub async fn leave(reloader: &Reloader, signals: &mut Signals) {
    let shared = reloader.shared();
    shared.begin_drain();
    let snapshot = reloader.end().await;
    let server = &snapshot.config.server;
    let drain = async {
        tokio::time::sleep(server.shutdown_delay).await;
        reloader.close_listeners().await;
        shared.close_idle();
        tokio::time::timeout(server.shutdown_timeout, shared.quiet()).await
    };
    let cut = tokio::select! {
        drained = drain => drained.is_err().then_some("shutdown_timeout is over, connections are cut"),
        () = told_again(signals) => Some("told to leave again, connections are cut"),
    };
    if let Some(why) = cut {
        close_tunnels(shared).await;
        refuse_waiting(&snapshot, shared).await;
        tracing::warn!(cut = shared.conversations(), "{why}");
    }
    reloader.close_all().await;
    if let Some(traces) = &snapshot.traces {
        traces.flush(FLUSH_MAX).await;
    }
    snapshot.leave_redis();
    redis::quiet(STOP_MAX).await;
}

/// Answers the requests that still wait for a slot: no app has heard of them, so that they can be sent elsewhere.
async fn refuse_waiting(snapshot: &Snapshot, shared: &Shared) {
    let waiting: usize = snapshot.upstreams.iter().map(|upstream| upstream.waiting()).sum();
    let left = shared.conversations().saturating_sub(waiting);
    shared.refuse_waiting();
    let answered = async {
        // Once at least, for those that wait for an upstream the last reload removed.
        loop {
            tokio::time::sleep(REFUSE_STEP).await;
            if shared.conversations() <= left {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(REFUSE_MAX, answered).await;
}

/// Has WebSockets closed as their protocol says, so that clients connect elsewhere instead of finding out.
async fn close_tunnels(shared: &Shared) {
    shared.close_tunnels();
    let closed = async {
        while shared.tunnels() > 0 {
            tokio::time::sleep(REFUSE_STEP).await;
        }
    };
    let _ = tokio::time::timeout(CLOSE_MAX, closed).await;
}

/// Ends what is still under way with its runtime, and writes the last lines.
pub fn stop(runtime: Runtime, shared: &Shared) {
    runtime.shutdown_timeout(STOP_MAX);
    if !shared.access_log.flush(FLUSH_MAX) {
        tracing::warn!("the access log could not be written to its end");
    }
    tracing::info!("stopped");
}

async fn told_again(signals: &mut Signals) {
    loop {
        match signals.next().await {
            Event::Leave(_) => return,
            Event::Reload | Event::ReopenLogs => tracing::info!("shutting down, nothing is reloaded or reopened"),
        }
    }
}
