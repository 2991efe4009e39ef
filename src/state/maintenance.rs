//! Whether work is being done behind, so that everybody is answered 503.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::observe::metrics::Metrics;

/// On where a file says so, or somebody at the control socket. Outlives every configuration.
#[derive(Debug)]
pub struct Maintenance {
    file: AtomicBool,
    command: AtomicBool,
    metrics: Arc<Metrics>,
}

impl Maintenance {
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { file: AtomicBool::new(false), command: AtomicBool::new(false), metrics }
    }

    /// One of the two suffices.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.file.load(Relaxed) || self.command.load(Relaxed)
    }

    /// Who says so: `file`, `command`.
    #[must_use]
    pub fn said_by(&self) -> Vec<&'static str> {
        let said = [("file", &self.file), ("command", &self.command)];
        said.into_iter().filter(|(_, on)| on.load(Relaxed)).map(|(name, _)| name).collect()
    }

    /// Whether the file is there.
    pub fn set_by_file(&self, on: bool) {
        self.set(&self.file, on);
    }

    /// What was said at the control socket.
    pub fn set_by_command(&self, on: bool) {
        self.set(&self.command, on);
    }

    fn set(&self, switch: &AtomicBool, on: bool) {
        let before = self.is_on();
        switch.store(on, Relaxed);
        if self.is_on() != before {
            tracing::info!("maintenance {}", if self.is_on() { "begins" } else { "is over" });
        }
        self.metrics.show_maintenance(self.is_on());
    }
}
