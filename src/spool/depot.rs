//! What all bodies of the process share: two budgets, the directory of the files, and the counts.
//!
//! A budget is one word that is only ever raised by compare-and-exchange below its limit, so it is not passed by a byte
//! whatever runs at once. It does not know who holds what: each holder gives back exactly what it took.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Reads and writes that run on the disk at once. Most are copies from and to the page cache, so a few threads keep up with
/// many processors.
const JOBS: usize = 8;

/// `[spool]` of the configuration. All amounts are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// What all bodies together may hold in memory.
    pub memory: u64,
    /// What one body may hold in memory before it goes to a file. One [`BLOCK`](super::BLOCK) that collects what is to
    /// be written comes on top, out of `memory`.
    pub memory_per_body: u64,
    /// Where the files are made. A change applies to files made from then on.
    pub dir: PathBuf,
    /// What all files together may hold.
    pub disk: u64,
    /// What the file of one body may hold.
    pub disk_per_body: u64,
}

/// What is held now. Memory and disk are what is reserved, at least what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes of the memory budget.
    pub memory: u64,
    /// Bytes of the disk budget.
    pub disk: u64,
    /// Open files.
    pub files: u64,
}

/// What happened since the start. Every field only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Files made: bodies that went to disk, each as often as it did.
    pub bodies_on_disk: u64,
    /// Bytes written to files.
    pub disk_bytes: u64,
    /// Bodies that found the disk budget of the process used up; one that waits and asks again counts once.
    pub refused_budget: u64,
    /// Bodies that passed `disk_per_body`; one that waits and asks again counts once.
    pub refused_body: u64,
    /// Reads, writes and files that failed.
    pub io_errors: u64,
}

/// The budgets, the directory and the counts. One for the process; it outlives reloads.
#[derive(Debug)]
pub struct Depot {
    pub(super) memory: Budget,
    pub(super) disk: Budget,
    pub(super) counts: Counts,
    dir: Mutex<Arc<Path>>,
    jobs: Arc<Semaphore>,
    threads: DiskThreads,
    #[cfg(test)]
    pub(super) faults: super::fault_tests::Faults,
}

/// Threads that wait for the disk, as many as there are jobs; large files are closed by them too. One that hangs holds these and no others: the runtime's blocking pool
/// has other work, and would begin a new thread for each job that finds none idle.
#[derive(Debug)]
struct DiskThreads(Option<Runtime>);

impl DiskThreads {
    fn new() -> Self {
        // It has nothing that could fail: no driver, and no thread before there is a job.
        let runtime = Builder::new_current_thread().thread_name("spool").max_blocking_threads(JOBS).build();
        Self(runtime.ok())
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        match &self.0 {
            Some(runtime) => runtime.spawn_blocking(job),
            None => tokio::task::spawn_blocking(job),
        }
    }
}

impl Drop for DiskThreads {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

/// An amount that is shared, in bytes.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicU64,
    limit: AtomicU64,
    per_body: AtomicU64,
}

/// What is counted where it happens.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub files: AtomicU64,
    pub bodies_on_disk: AtomicU64,
    pub disk_bytes: AtomicU64,
    pub refused_budget: AtomicU64,
    pub refused_body: AtomicU64,
    pub io_errors: AtomicU64,
}

impl Depot {
    /// Begins with nothing held. Touches no file: [`check_dir`](super::check_dir) does.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            memory: Budget::new(limits.memory, limits.memory_per_body),
            disk: Budget::new(limits.disk, limits.disk_per_body),
            counts: Counts::default(),
            dir: Mutex::new(limits.dir.into()),
            jobs: Arc::new(Semaphore::new(JOBS)),
            threads: DiskThreads::new(),
            #[cfg(test)]
            faults: super::fault_tests::Faults::default(),
        })
    }

    /// Replaces the limits. What is held stays, even above a smaller limit; what is asked for from then on obeys.
    pub fn set_limits(&self, limits: Limits) {
        self.memory.limit.store(limits.memory, Relaxed);
        self.memory.per_body.store(limits.memory_per_body, Relaxed);
        self.disk.limit.store(limits.disk, Relaxed);
        self.disk.per_body.store(limits.disk_per_body, Relaxed);
        *self.dir.lock() = limits.dir.into();
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            memory: self.memory.limit.load(Relaxed),
            memory_per_body: self.memory.per_body(),
            dir: self.dir().to_path_buf(),
            disk: self.disk.limit.load(Relaxed),
            disk_per_body: self.disk.per_body(),
        }
    }

    /// What is held now, for a gauge: the three are not read at one instant.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            memory: self.memory.used.load(Relaxed),
            disk: self.disk.used.load(Relaxed),
            files: self.counts.files.load(Relaxed),
        }
    }

    /// What happened since the start, for counters.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            bodies_on_disk: self.counts.bodies_on_disk.load(Relaxed),
            disk_bytes: self.counts.disk_bytes.load(Relaxed),
            refused_budget: self.counts.refused_budget.load(Relaxed),
            refused_body: self.counts.refused_body.load(Relaxed),
            io_errors: self.counts.io_errors.load(Relaxed),
        }
    }

    /// Whether anything may go to files.
    pub(super) fn has_disk(&self) -> bool {
        self.disk.limit.load(Relaxed) > 0
    }

    /// Where files are made now.
    pub(super) fn dir(&self) -> Arc<Path> {
        self.dir.lock().clone()
    }

    /// Has a thread do what waits for the disk. Waits itself until one is free, so that a job whose body is gone by then is not
    /// begun. Cancel safe; once begun, it goes on.
    pub(super) async fn begin<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        // The semaphore is never closed.
        let permit = self.jobs.clone().acquire_owned().await.ok();
        self.threads.run(move || {
            let done = job();
            drop(permit);
            done
        })
    }

    /// Has a thread do it when one is free, whatever becomes of the caller.
    pub(super) fn dispose(&self, job: impl FnOnce() + Send + 'static) {
        drop(self.threads.run(job));
    }
}

impl Budget {
    fn new(limit: u64, per_body: u64) -> Self {
        Self { used: AtomicU64::new(0), limit: AtomicU64::new(limit), per_body: AtomicU64::new(per_body) }
    }

    /// What one body may hold.
    pub fn per_body(&self) -> u64 {
        self.per_body.load(Relaxed)
    }

    /// Takes `bytes`, all or none; whether they were there.
    #[must_use]
    pub fn take(&self, bytes: u64) -> bool {
        let limit = self.limit.load(Relaxed);
        let raised = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit);
        bytes == 0 || self.used.fetch_update(Relaxed, Relaxed, raised).is_ok()
    }

    /// Gives back what was taken.
    pub fn give(&self, bytes: u64) {
        if bytes > 0 {
            self.used.fetch_sub(bytes, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_taken_to_the_byte() {
        let budget = Budget::new(10, 10);
        assert!(budget.take(4) && budget.take(0) && !budget.take(7) && budget.take(6) && !budget.take(1));
        assert!(budget.take(0) && !budget.take(u64::MAX));
        budget.limit.store(5, Relaxed);
        budget.give(5);
        assert!(!budget.take(1));
        budget.give(1);
        assert!(budget.take(1) && !budget.take(1));
    }

    #[test]
    fn threads_take_it_all_and_no_more() {
        let budget = Budget::new(100_001, 0);
        let taken = || std::iter::repeat_with(|| budget.take(3)).take_while(|taken| *taken).count();
        let sum: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(taken)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((sum, budget.used.into_inner()), (33_333, 99_999));
    }
}
