//! The part of a body that is on disk: what was written to the file, and a tail in memory that is not yet a block.
//!
//! A write waits for the disk when the system holds too many dirty pages, so it always runs on a thread of its own. A
//! read is first tried against the page cache, where the pages just written are, and goes to a thread only if it would
//! wait. Reads and writes of one body never overlap in the file: reading stays below `written`, writing begins there.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::BLOCK;
use super::body::{Full, Keep};
use super::depot::Depot;
use super::reserved_file::{ReservedFile, Short};

/// What was read is given back to the filesystem in steps of this many bytes.
const PUNCH_STEP: u64 = 1 << 20;

/// The least that is allocated for the tail, in bytes.
const FIRST_TAIL: usize = 4 << 10;

/// Bytes on disk and on their way there.
#[derive(Debug)]
pub(super) struct Disk {
    depot: Arc<Depot>,
    file: Arc<ReservedFile>,
    /// What is written at once, and read.
    block: usize,
    /// What follows the file. A write that was abandoned may still share it: it is copied then when it grows.
    tail: Arc<Vec<u8>>,
    /// What the tail costs of the memory budget.
    tail_cost: usize,
    /// Offset in the file where the tail begins.
    written: u64,
    /// Offset where reading goes on; if what is read is kept, it may be in the tail.
    read: u64,
    /// Offset below which the file is empty again.
    freed: u64,
    /// The filesystem can free a part of a file.
    punches: bool,
    /// Here across awaits, so that a call that is dropped leaves them to the next one.
    writing: Option<JoinHandle<io::Result<()>>>,
    reading: Option<Reading>,
}

/// A read on a thread.
#[derive(Debug)]
struct Reading {
    at: u64,
    task: JoinHandle<Read>,
}

/// What came of it: the piece, and if the file was to be freed up to some offset, whether it could be.
type Read = (io::Result<Bytes>, Option<(u64, bool)>);

impl Disk {
    /// An empty one. No file is made before it is written to.
    pub fn new(depot: Arc<Depot>, block: usize) -> Self {
        Self {
            file: Arc::new(ReservedFile::new(depot.clone())),
            depot,
            block,
            tail: Arc::default(),
            tail_cost: 0,
            written: 0,
            read: 0,
            freed: 0,
            punches: true,
            writing: None,
            reading: None,
        }
    }

    /// Whether there is a file.
    pub fn is_open(&self) -> bool {
        self.file.is_open()
    }

    /// Reserves what `more` bytes need beside what is here, and a little ahead.
    pub fn reserve(&self, more: u64) -> Result<(), Short> {
        self.file.raise(self.unfreed().saturating_add(more), BLOCK as u64)
    }

    /// Reserves what `more` bytes need beside what is here, and nothing ahead.
    pub fn reserve_exactly(&self, more: u64) -> Result<(), Short> {
        self.file.raise(self.unfreed().saturating_add(more), 1)
    }

    /// What the file has not given back, and what will be added to it.
    fn unfreed(&self) -> u64 {
        self.written - self.freed + self.tail.len() as u64
    }

    /// Adds `data` to the tail; false if it is to be written: there is enough for a block, or no memory. It was
    /// reserved.
    pub fn collect(&mut self, data: &[u8]) -> bool {
        let len = self.tail.len() + data.len();
        if len >= self.block || !self.charge_tail(len) {
            return false;
        }
        let tail = Arc::make_mut(&mut self.tail);
        tail.reserve_exact(self.tail_cost - tail.len());
        tail.extend_from_slice(data);
        true
    }

    fn charge_tail(&mut self, len: usize) -> bool {
        if len <= self.tail_cost {
            return true;
        }
        let size = len.next_power_of_two().clamp(FIRST_TAIL, self.block);
        let taken = self.depot.memory.take((size - self.tail_cost) as u64);
        if taken {
            self.tail_cost = size;
        }
        taken
    }

    /// Writes the tail and `data`. On an error the tail stays and `data` is not taken.
    ///
    /// Cancel safe: dropped, it has taken nothing. The write that runs then goes on behind what counts as written, and
    /// the next one waits for it.
    pub async fn write(&mut self, data: Bytes) -> Result<(), Full> {
        if let Some(abandoned) = &mut self.writing {
            let _ = abandoned.await;
            self.writing = None;
        }
        let added = (self.tail.len() + data.len()) as u64;
        let (file, tail, at) = (self.file.clone(), self.tail.clone(), self.written);
        let begun = self.depot.begin(move || file.write(&[&tail, &data], at)).await;
        let result = self.writing.insert(begun).await;
        self.writing = None;
        result.map_err(io::Error::from).flatten().map_err(Full::Io)?;
        self.written += added;
        self.tail = Arc::default();
        self.give_tail();
        Ok(())
    }

    /// The next up to [`BLOCK`] bytes; none: all was read. Cancel safe: a read that was begun is found again.
    pub async fn next(&mut self, keep: Keep) -> io::Result<Option<Bytes>> {
        if self.read >= self.written {
            return Ok(match keep {
                Keep::ForReplay => self.read_tail(),
                Keep::Once => self.take_tail(),
            });
        }
        let piece = self.read_file(keep).await?;
        self.read += piece.len() as u64;
        Ok(Some(piece))
    }

    async fn read_file(&mut self, keep: Keep) -> io::Result<Bytes> {
        let at = self.read;
        let len = usize::try_from(self.written - at).unwrap_or(self.block).min(self.block);
        let from = self.freed;
        let punch = (keep == Keep::Once && self.punches && at - from >= PUNCH_STEP).then(|| at - at % PUNCH_STEP);
        if self.reading.as_ref().is_none_or(|reading| reading.at != at) {
            self.reading = None;
            if punch.is_none()
                && let Some(piece) = self.file.read_cached(at, len)
            {
                return Ok(piece);
            }
            let file = self.file.clone();
            let read = move || (file.read(at, len), punch.map(|to| (to, file.punch(from, to))));
            let task = self.depot.begin(read).await;
            self.reading = Some(Reading { at, task });
        }
        let Some(reading) = &mut self.reading else { return Err(io::ErrorKind::NotFound.into()) };
        let read = (&mut reading.task).await;
        self.reading = None;
        let (piece, punched) = read?;
        match punched {
            Some((to, true)) => self.freed = to,
            Some((_, false)) => self.punches = false,
            None => {}
        }
        piece
    }

    fn read_tail(&mut self) -> Option<Bytes> {
        let start = usize::try_from(self.read - self.written).ok()?;
        let piece = self.tail.get(start..).filter(|piece| !piece.is_empty())?;
        self.read += piece.len() as u64;
        Some(Bytes::copy_from_slice(piece))
    }

    fn take_tail(&mut self) -> Option<Bytes> {
        let tail = std::mem::take(&mut self.tail);
        self.give_tail();
        let tail = Arc::try_unwrap(tail).unwrap_or_else(|shared| shared.to_vec());
        Some(Bytes::from(tail)).filter(|tail| !tail.is_empty())
    }

    fn give_tail(&mut self) {
        self.depot.memory.give(std::mem::take(&mut self.tail_cost) as u64);
    }

    /// Reads from the start again.
    pub fn rewind(&mut self) {
        self.read = 0;
    }

    /// Whether all that is here was read, for good.
    pub fn is_drained(&self) -> bool {
        self.read >= self.written && self.tail.is_empty()
    }

    /// Gives back what reading has set free, with nothing left the file too. `promised` bytes are to come.
    pub fn release(&mut self, promised: u64) {
        if self.is_drained() && self.is_open() {
            self.file = Arc::new(self.file.split(promised));
            // A write that was abandoned is in the way of writes to the old file only.
            self.writing = None;
            (self.written, self.read, self.freed) = (0, 0, 0);
        }
        self.lower(promised);
    }

    /// Gives back what is reserved beyond what is here and the `promised` bytes that are to come.
    pub fn lower(&self, promised: u64) {
        // What an abandoned write puts behind the end is still on what was reserved for it.
        if self.writing.is_none() {
            self.file.lower(self.unfreed().saturating_add(promised));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.give_tail();
    }
}
