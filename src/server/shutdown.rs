//! Leaving: readiness fails, the load balancer has time to see it, the listeners close, and what is under way ends.

use std::time::Duration;

use crate::server::reload::Reloader;
use crate::server::signals::{Event, Signals};

/// How long the access log may take to write what is left.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// Returns when nothing is under way any more, at `shutdown_timeout` at the latest. A second signal to leave ends it at once.
pub async fn leave(reloader: &Reloader, signals: &mut Signals) {
    let snapshot = reloader.snapshot();
    let shared = reloader.shared();
    let server = &snapshot.config.server;
    shared.begin_drain();
    let drain = async {
        tokio::time::sleep(server.shutdown_delay).await;
        reloader.close_listeners().await;
        shared.close_idle();
        tokio::time::timeout(server.shutdown_timeout, shared.quiet()).await
    };
    tokio::select! {
        drained = drain => {
            if drained.is_err() {
                tracing::warn!(cut = shared.conversations(), "shutdown_timeout is over, connections are cut");
            }
        }
        () = told_again(signals) => {
            tracing::warn!(cut = shared.conversations(), "told to leave again, connections are cut");
        }
    }
    reloader.close_all().await;
    let log = tokio::task::spawn_blocking({
        let shared = shared.clone();
        move || shared.access_log.flush(FLUSH_MAX)
    });
    if !log.await.unwrap_or(false) {
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
