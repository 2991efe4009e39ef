//! The file that says that work is being done behind.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::state::Snapshot;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a look may take: nobody who leaves or reloads waits for a directory that is far away.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks for the file of the configuration in force until it is aborted.
pub async fn watch(current: Arc<ArcSwap<Snapshot>>) {
    let mut trouble = None;
    loop {
        let snapshot = current.load_full();
        let failed = look(&snapshot).await.err();
        if let Some(error) = failed.as_ref().filter(|_| failed != trouble) {
            tracing::error!(%error, "whether there is maintenance cannot be told, nothing is changed");
        }
        trouble = failed;
        drop(snapshot);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Looks once.
///
/// # Errors
/// The system does not say whether the file is there.
pub async fn look(snapshot: &Snapshot) -> Result<(), String> {
    let Some(file) = snapshot.config.maintenance.file.clone() else {
        snapshot.shared.maintenance.set_by_file(false);
        return Ok(());
    };
    // Aside: disks may be slow, and directories far away.
    let there = tokio::task::spawn_blocking(move || {
        file.try_exists().map_err(|error| format!("maintenance.file: {}: {error}", file.display()))
    });
    let late = |_| "maintenance.file: its directory does not answer".to_owned();
    let there = tokio::time::timeout(PATIENCE, there).await.map_err(late)?;
    let is_there = there.map_err(|error| error.to_string())??;
    snapshot.shared.maintenance.set_by_file(is_there);
    Ok(())
}
