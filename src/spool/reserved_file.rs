//! The file of one body together with the disk budget it stands on: the budget is free again when the file is, not
//! before.
//!
//! The body shares it with the jobs it has on the disk; the last of them closes the file. What blocks says so.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};

use super::depot::Depot;
use super::file;

/// To close a file frees its pages and blocks. Up to this size that is quicker than another thread is there to do it.
const CLOSE_HERE: u64 = 1 << 20;

/// Which limit of the disk was in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Short {
    Budget,
    Body,
}

/// Disk budget, and the file that stands on it once something was written.
#[derive(Debug)]
pub(super) struct ReservedFile {
    depot: Arc<Depot>,
    reserved: AtomicU64,
    file: OnceLock<File>,
    /// Reads from the page cache are told apart from reads that wait for the disk.
    tells_cached: AtomicBool,
}

/// A file to be closed, and what is free then.
struct Closing {
    depot: Arc<Depot>,
    reserved: u64,
    file: Option<File>,
}

impl ReservedFile {
    pub fn new(depot: Arc<Depot>) -> Self {
        Self { depot, reserved: AtomicU64::new(0), file: OnceLock::new(), tells_cached: AtomicBool::new(true) }
    }

    /// Whether there is a file.
    pub fn is_open(&self) -> bool {
        self.file.get().is_some()
    }

    /// Raises what is reserved to at least `bytes`, or leaves it as it is. Raised to a multiple of `step` where that is
    /// to be had, so that not every piece goes to the budget.
    pub fn raise(&self, bytes: u64, step: u64) -> Result<(), Short> {
        let have = self.reserved.load(Relaxed);
        if bytes <= have {
            return Ok(());
        }
        let per_body = self.depot.disk.per_body();
        if bytes > per_body {
            return Err(Short::Body);
        }
        let stepped = bytes.checked_next_multiple_of(step).unwrap_or(bytes).min(per_body);
        let taken = [stepped, bytes].into_iter().find(|to| self.depot.disk.take(to - have));
        taken.map(|to| self.reserved.store(to, Relaxed)).ok_or(Short::Budget)
    }

    /// Gives back what is reserved above `bytes`.
    pub fn lower(&self, bytes: u64) {
        let have = self.reserved.load(Relaxed);
        if bytes < have {
            self.reserved.store(bytes, Relaxed);
            self.depot.disk.give(have - bytes);
        }
    }

    /// Takes up to `bytes` of what is reserved over to another file, which is yet to be made.
    pub fn split(&self, bytes: u64) -> Self {
        let have = self.reserved.load(Relaxed);
        let moved = bytes.min(have);
        self.reserved.store(have - moved, Relaxed);
        let next = Self::new(self.depot.clone());
        next.reserved.store(moved, Relaxed);
        next
    }

    /// Writes `parts` one after the other from `at`, making the file if there is none; on an error the file ends at
    /// `at`. Blocks. Only one call at a time.
    pub fn write(&self, parts: &[&[u8]], at: u64) -> io::Result<()> {
        let written = self.write_parts(parts, at);
        if written.is_err()
            && let Some(file) = self.file.get()
        {
            let _ = file.set_len(at);
        }
        self.counted(written)
    }

    fn write_parts(&self, parts: &[&[u8]], mut at: u64) -> io::Result<()> {
        #[cfg(test)]
        self.depot.faults.write()?;
        let file = self.open()?;
        for part in parts {
            file.write_all_at(part, at)?;
            at += part.len() as u64;
            self.depot.counts.disk_bytes.fetch_add(part.len() as u64, Relaxed);
        }
        Ok(())
    }

    fn open(&self) -> io::Result<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = file::create(&self.depot.dir())?;
        self.depot.counts.files.fetch_add(1, Relaxed);
        self.depot.counts.bodies_on_disk.fetch_add(1, Relaxed);
        Ok(self.file.get_or_init(|| file))
    }

    /// Reads up to `len` bytes from `at` if the page cache has some of them; none: only the disk can tell. Does not
    /// block.
    pub fn read_cached(&self, at: u64, len: usize) -> Option<Bytes> {
        #[cfg(test)]
        self.depot.faults.cached()?;
        if !self.tells_cached.load(Relaxed) {
            return None;
        }
        let mut piece = vec![0; len];
        let read =
            rustix::io::preadv2(self.file.get()?, &mut [IoSliceMut::new(&mut piece)], at, ReadWriteFlags::NOWAIT);
        match read {
            Ok(0) | Err(Errno::AGAIN | Errno::INTR) => None,
            Ok(read) => {
                piece.truncate(read);
                Some(piece.into())
            }
            Err(_) => {
                self.tells_cached.store(false, Relaxed);
                None
            }
        }
    }

    /// Reads `len` bytes from `at`. Blocks.
    pub fn read(&self, at: u64, len: usize) -> io::Result<Bytes> {
        self.counted(self.read_piece(at, len))
    }

    fn read_piece(&self, at: u64, len: usize) -> io::Result<Bytes> {
        #[cfg(test)]
        self.depot.faults.read()?;
        let file = self.file.get().ok_or(io::ErrorKind::NotFound)?;
        let mut piece = vec![0; len];
        file.read_exact_at(&mut piece, at)?;
        Ok(piece.into())
    }

    /// Frees the blocks below offset `to`; false where the filesystem cannot. Blocks.
    pub fn punch(&self, from: u64, to: u64) -> bool {
        #[cfg(test)]
        if self.depot.faults.punch().is_err() {
            return false;
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.file.get().is_some_and(|file| rustix::fs::fallocate(file, flags, from, to - from).is_ok())
    }

    fn counted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|_| {
            self.depot.counts.io_errors.fetch_add(1, Relaxed);
        })
    }
}

impl Drop for ReservedFile {
    fn drop(&mut self) {
        let reserved = *self.reserved.get_mut();
        let closing = Closing { depot: self.depot.clone(), reserved, file: self.file.take() };
        if closing.file.is_some() && reserved > CLOSE_HERE {
            // If the threads are on their way out and drop the closure unrun, the file is closed all the same.
            self.depot.dispose(move || drop(closing));
        }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            self.depot.counts.files.fetch_sub(1, Relaxed);
        }
        self.depot.disk.give(self.reserved);
    }
}
