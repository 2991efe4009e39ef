//! The file that says that work is being done behind.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::{JoinError, JoinHandle};

use crate::state::Snapshot;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a look may take: nobody who leaves or reloads waits for a directory that is far away.
const PATIENCE: Duration = Duration::from_secs(2);
const LATE: &str = "maintenance.file: its directory does not answer";

/// Whether the file is there.
type Look = JoinHandle<Result<bool, String>>;

/// Looks for the file of the configuration in force until it is aborted.
pub async fn watch(current: Arc<ArcSwap<Snapshot>>) {
    let mut trouble = None;
    // A directory that does not answer holds a thread; there is never more than one of them.
    let mut pending: Option<Look> = None;
    loop {
        let snapshot = current.load_full();
        let mut looking = pending.take().unwrap_or_else(|| begin(&snapshot));
        let failed = if let Ok(looked) = tokio::time::timeout(PATIENCE, &mut looking).await {
            conclude(&snapshot, looked).err()
        } else {
            pending = Some(looking);
            Some(LATE.to_owned())
        };
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
/// The system does not say whether the file is there, or not in time.
pub async fn look(snapshot: &Snapshot) -> Result<(), String> {
    let looked = tokio::time::timeout(PATIENCE, begin(snapshot)).await.map_err(|_| LATE.to_owned())?;
    conclude(snapshot, looked)
}

/// Aside: disks may be slow, and directories far away.
fn begin(snapshot: &Snapshot) -> Look {
    let file = snapshot.config.maintenance.file.clone();
    tokio::task::spawn_blocking(move || match file {
        Some(file) => file.try_exists().map_err(|error| format!("maintenance.file: {}: {error}", file.display())),
        None => Ok(false),
    })
}

fn conclude(snapshot: &Snapshot, looked: Result<Result<bool, String>, JoinError>) -> Result<(), String> {
    let is_there = looked.map_err(|error| error.to_string())??;
    snapshot.shared.maintenance.set_by_file(is_there);
    Ok(())
}
