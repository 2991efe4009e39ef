//! The process' own files: how many descriptors it may have open, and the file with its number.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors beside those of clients and endpoints: listeners, logs, the runtime's own.
const OTHER_FILES: u64 = 256;

/// Raises the limit of open files to what is allowed, and says so if that is too little for `connections` clients, each of
/// which may need a connection to an endpoint.
pub fn raise_limit(connections: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files cannot be raised");
        }
    }
    let needed = 2 * connections as u64 + OTHER_FILES;
    if let Some(allowed) = getrlimit(Resource::Nofile).current
        && allowed < needed
    {
        tracing::warn!(
            allowed,
            needed,
            "too few open files allowed for max_connections; raise the hard limit (LimitNOFILE, ulimit -Hn)"
        );
    }
}

/// A file with the process' number, until dropped.
#[derive(Debug)]
pub struct PidFile(PathBuf);

impl PidFile {
    /// Writes it, replacing what a dead process left.
    ///
    /// # Errors
    /// One sentence that names the path.
    pub fn write(path: &Path) -> Result<Self, String> {
        fs::write(path, format!("{}\n", std::process::id()))
            .map_err(|error| format!("cannot write pid_file {}: {error}", path.display()))?;
        Ok(Self(path.to_path_buf()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
