//! Certificates that other programs renew are taken over without being told.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::state::{Shared, Snapshot};
use crate::tls::watch::{Look, Watched};

/// How often the files are looked at. A change must look the same twice.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks at the files of the configuration in force until it is aborted.
pub async fn certificates(current: Arc<ArcSwap<Snapshot>>, shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let snapshot = current.load_full();
        if snapshot.watched.is_empty() {
            shared.metrics.tls.show_refused(false);
            continue;
        }
        let looked = snapshot.clone();
        let looks = tokio::task::spawn_blocking(move || looked.watched.iter().map(Watched::look).collect::<Vec<_>>());
        for look in looks.await.unwrap_or_default() {
            match look {
                Look::Unchanged => continue,
                Look::ReadAgain => {}
                Look::Renewed => tracing::info!("certificates have changed on disk, and are in use"),
                Look::Failed(problems) => {
                    for problem in problems.lines() {
                        tracing::error!(
                            problem,
                            "certificates have changed on disk and cannot be used, the old ones stay"
                        );
                    }
                }
            }
            // Those in use by now: some may be new, and there may have been a reload.
            current.load().tls.iter().for_each(|tls| tls.show());
        }
        shared.metrics.tls.show_refused(snapshot.watched.iter().any(Watched::is_refused));
    }
}
