//! The access log: one line for every request, written by a thread of its own.
//!
//! The worker that finished a request formats its line ([`format`]) into a buffer it keeps, and appends it to a bounded queue
//! ([`writer`]). A disk that is slow or full, or a reader of standard output that stopped reading, costs lines, which are
//! counted, and never time of a request.

mod escape;
pub mod format;
mod queue;
mod redact;
mod sink;
mod writer;

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

pub use format::{Entry, Format};
pub use redact::Redaction;
pub use sink::{Sink, Target};

use super::metrics::Metrics;
use queue::Queue;

/// Lines waiting to be written may take this many bytes; as many again are with the thread that writes.
const PENDING_MAX: usize = 4 * 1024 * 1024;
/// A worker's buffer that one monstrous line blew up is given back.
const LINE_KEPT: usize = 64 * 1024;

thread_local! {
    static LINE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The access log of the process. Shared by all workers; it outlives every configuration.
#[derive(Debug)]
pub struct AccessLog {
    queue: Arc<Queue>,
    /// [`OFF`], or the format plus one: what a request looks at.
    mode: AtomicU8,
    target: Mutex<Target>,
    metrics: Arc<Metrics>,
}

const OFF: u8 = 0;

impl AccessLog {
    /// Starts the thread that writes to `sink`, which [`Target::open`] gave. Lost lines are counted in `metrics`.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(sink: Sink, format: Format, metrics: Arc<Metrics>) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(PENDING_MAX));
        let target = sink.target().clone();
        writer::spawn(Arc::clone(&queue), sink, Arc::clone(&metrics))?;
        let mode = AtomicU8::new(mode(&target, format));
        Ok(Self { queue, mode, target: Mutex::new(target), metrics })
    }

    /// Whether lines are written at all; where not, the caller may spare itself the entry.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.mode.load(Relaxed) != OFF
    }

    /// Writes one line. Never waits for the disk: what does not fit is dropped and counted.
    pub fn log(&self, entry: &Entry<'_>) {
        let format = match self.mode.load(Relaxed) {
            OFF => return,
            mode if mode == Format::Combined as u8 + 1 => Format::Combined,
            _ => Format::Json,
        };
        let mut line = LINE.take();
        line.clear();
        format.write(entry, &mut line);
        if !self.queue.push(&line) {
            self.metrics.access_log_dropped.add(1);
        }
        if line.capacity() <= LINE_KEPT {
            LINE.set(line);
        }
    }

    /// Opens the file again under its path, as a log rotation asks for; lines logged so far go to the old file. Nothing happens
    /// for other targets.
    ///
    /// # Errors
    /// When the file cannot be opened; the old one stays in use.
    pub fn reopen(&self) -> io::Result<()> {
        let target = self.target.lock();
        if let Target::File(_) = *target {
            // Under the lock, so that a reload at the same time is not undone.
            self.queue.switch(target.open()?);
        }
        Ok(())
    }

    /// Goes over to another target and format. The sink was opened before, so this cannot fail: a reload opens it while it
    /// prepares. Lines logged so far go where they were meant to.
    pub fn retarget(&self, sink: Sink, format: Format) {
        let mut target = self.target.lock();
        *target = sink.target().clone();
        // The sink first: a line that is written from now on must not go to a target that was off.
        self.queue.switch(sink);
        self.mode.store(mode(&target, format), Relaxed);
    }

    /// Waits until everything logged so far is written, `limit` at most; false when that was not enough. Blocks its thread.
    #[must_use]
    pub fn flush(&self, limit: Duration) -> bool {
        self.queue.flush(limit)
    }
}

impl Drop for AccessLog {
    /// Lets the thread write what is left and end by itself. It is not waited for: [`AccessLog::flush`] does that.
    fn drop(&mut self) {
        self.queue.close();
    }
}

fn mode(target: &Target, format: Format) -> u8 {
    if *target == Target::Off { OFF } else { format as u8 + 1 }
}

#[cfg(test)]
mod tests;
