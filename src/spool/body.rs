//! One body: bytes go in at one end and come out at the other, wherever they are in between.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use super::depot::Depot;
use super::disk::Disk;
use super::memory::Memory;
use super::reserved_file::Short;
use super::{BLOCK, LEAST_BLOCK};

/// What becomes of bytes that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// They stay, and [`Spooled::rewind`] goes back to them.
    ForReplay,
    /// They go, and what they cost goes back to the budget.
    Once,
}

/// Why no more of a body is taken.
#[derive(Debug)]
pub enum Full {
    /// The disk budget of the process is used up.
    Budget,
    /// The body passes what one may have on disk.
    Body,
    /// The file cannot be made or written: the disk is full, or worse.
    Io(io::Error),
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Budget => f.write_str("the disk budget of all bodies is used up"),
            Self::Body => f.write_str("the body is larger than one may be on disk"),
            Self::Io(error) => write!(f, "the spool file failed: {error}"),
        }
    }
}

impl std::error::Error for Full {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Budget | Self::Body => None,
        }
    }
}

/// A body: a FIFO of bytes. Dropped, it gives everything back; a large file is closed by a thread of the depot, and its
/// budget is free when it is.
///
/// What it costs: in memory up to `memory_per_body`, then on disk, and then one [`BLOCK`](super::BLOCK) of memory that
/// collects what is to be written (none if the budget has none: then every piece is written). A piece that was read,
/// one that is being written and one that a dropped [`next`](Self::next) had asked for are not counted.
///
/// With [`Keep::Once`], the file gives back what was read in steps of 1 MiB where the filesystem can punch holes (ext4,
/// XFS, Btrfs, tmpfs), so disk use is what is unread and less than 2 MiB more; elsewhere it is what was written since
/// the file was last read to its end. Read to the end, the file is gone and memory is used again.
#[derive(Debug)]
pub struct Spooled {
    depot: Arc<Depot>,
    memory: Memory,
    /// There from the first byte that memory did not take, until all is read if it is read once.
    disk: Option<Box<Disk>>,
    pushed: u64,
    read: u64,
    /// Of what was announced, what was not pushed.
    promised: u64,
    /// What is written to the file at once, and read.
    block: usize,
    keep: Keep,
    refused_budget: bool,
    refused_body: bool,
}

impl Spooled {
    /// An empty body. Allocates nothing.
    #[must_use]
    pub fn new(depot: &Arc<Depot>, keep: Keep) -> Self {
        Self {
            depot: depot.clone(),
            memory: Memory::default(),
            disk: None,
            pushed: 0,
            read: 0,
            promised: 0,
            block: BLOCK,
            keep,
            refused_budget: false,
            refused_body: false,
        }
    }

    /// An empty body that costs about `memory` bytes at most, and goes to its file early if that is little: half of it before it does,
    /// half for what is to be written. Where nothing goes to files, it is as any other.
    #[must_use]
    pub fn within(depot: &Arc<Depot>, keep: Keep, memory: usize) -> Self {
        let mut body = Self::new(depot, keep);
        if depot.has_disk() {
            let half = memory / 2;
            body.memory = Memory::of_at_most(half as u64);
            body.block = half.clamp(LEAST_BLOCK, BLOCK);
        }
        body
    }

    /// Says that the body will have `len` bytes in all, and reserves them: in memory if one body may have so much there
    /// and there is so much, else all that is to come on disk. Up to `len` bytes are then refused only if the disk
    /// fails. No file is made, and the disk is not asked for space.
    ///
    /// # Errors
    /// [`Full::Budget`] or [`Full::Body`]; nothing is reserved.
    pub fn announce(&mut self, len: u64) -> Result<(), Full> {
        let promised = len.saturating_sub(self.pushed);
        if self.disk.is_none() && self.memory.promise(&self.depot.memory, promised) {
            self.promised = promised;
            return Ok(());
        }
        self.reserve(promised, len, Disk::reserve_exactly)?;
        self.promised = promised;
        Ok(())
    }

    /// Takes all of `data`, or none of it. Empty data is taken at once.
    ///
    /// Waits for the disk if data goes to the file. Cancel safe for the body: dropped, the call has taken nothing. The
    /// data is lost with it and with an error; whoever wants to try again pushes a clone, which costs no copy.
    ///
    /// # Errors
    /// See [`Full`]. What was taken can be read on, and once something was read a further push may succeed.
    ///
    /// # Panics
    /// Outside of a tokio runtime, if data goes to the file.
    pub async fn push(&mut self, data: Bytes) -> Result<(), Full> {
        match self.try_push(data) {
            Ok(()) => Ok(()),
            Err(data) => Box::pin(self.push_to_disk(data)).await,
        }
    }

    async fn push_to_disk(&mut self, data: Bytes) -> Result<(), Full> {
        let len = data.len() as u64;
        let promised = self.promised.saturating_sub(len);
        let (before, all) = (self.promised, self.pushed.saturating_add(len));
        let disk = self.reserve(len.saturating_add(promised), all, Disk::reserve)?;
        if !disk.collect(&data) {
            disk.write(data).await.inspect_err(|_| disk.lower(before))?;
        }
        self.count_in(len);
        Ok(())
    }

    /// Takes all of `data` if there is place for it in memory, without waiting.
    ///
    /// # Errors
    /// `data`, of which nothing was taken: it has to be written, or refused. [`push`](Self::push) says which.
    pub fn try_push(&mut self, data: Bytes) -> Result<(), Bytes> {
        if data.is_empty() {
            return Ok(());
        }
        let len = data.len() as u64;
        match &mut self.disk {
            None => self.memory.push(&self.depot.memory, data)?,
            Some(disk) => {
                let promised = self.promised.saturating_sub(len);
                if disk.reserve(len.saturating_add(promised)).is_err() || !disk.collect(&data) {
                    return Err(data);
                }
            }
        }
        self.count_in(len);
        Ok(())
    }

    fn count_in(&mut self, len: u64) {
        self.pushed += len;
        self.promised = self.promised.saturating_sub(len);
    }

    /// Reserves `bytes` more on disk, where the body goes from now on; refused, it stays where it is. `len` is what the
    /// body would have in all.
    fn reserve(
        &mut self,
        bytes: u64,
        len: u64,
        reserve: fn(&Disk, u64) -> Result<(), Short>,
    ) -> Result<&mut Disk, Full> {
        let reserved = if let Some(disk) = &self.disk {
            reserve(disk, bytes)
        } else {
            let disk = self.new_disk();
            reserve(&disk, bytes).map(|()| self.disk = Some(disk))
        };
        if let Err(short) = reserved {
            return Err(self.refuse(short, len));
        }
        // What was announced does not come to memory any more.
        self.memory.unpromise(&self.depot.memory);
        let disk = self.disk.take().unwrap_or_else(|| self.new_disk());
        Ok(self.disk.insert(disk))
    }

    fn new_disk(&self) -> Box<Disk> {
        Box::new(Disk::new(self.depot.clone(), self.block))
    }

    /// What is said of a refusal, and counted once.
    fn refuse(&mut self, short: Short, len: u64) -> Full {
        // With room in memory there would have been no question of the disk: the body is not too large.
        let fits = len <= self.depot.memory.per_body();
        let (full, counted, count) = match short {
            Short::Body if !fits => (Full::Body, &mut self.refused_body, &self.depot.counts.refused_body),
            _ => (Full::Budget, &mut self.refused_budget, &self.depot.counts.refused_budget),
        };
        if !std::mem::replace(counted, true) {
            count.fetch_add(1, Relaxed);
        }
        full
    }

    /// The next bytes, at most [`BLOCK`](super::BLOCK); none: all that was pushed was read, and more may be pushed.
    ///
    /// Cancel safe: a dropped call loses nothing.
    ///
    /// # Errors
    /// The file cannot be read. Nothing is lost, the call can be repeated.
    ///
    /// # Panics
    /// Outside of a tokio runtime, if the file has to be read.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let piece = match self.next_in_memory() {
            Some(piece) => Some(piece),
            // Boxed, as below, so that a body in memory makes no room for it.
            None if self.disk.is_some() => Box::pin(self.next_on_disk()).await?,
            None => None,
        };
        self.read += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Ok(piece)
    }

    fn next_in_memory(&mut self) -> Option<Bytes> {
        match self.keep {
            Keep::ForReplay => self.memory.read(),
            Keep::Once => {
                let promised = if self.disk.is_none() { self.promised } else { 0 };
                self.memory.take(&self.depot.memory, promised)
            }
        }
    }

    async fn next_on_disk(&mut self) -> io::Result<Option<Bytes>> {
        let Some(disk) = &mut self.disk else { return Ok(None) };
        let piece = disk.next(self.keep).await?;
        if self.keep == Keep::Once {
            disk.release(self.promised);
            if self.promised == 0 && disk.is_drained() {
                self.disk = None;
            }
        }
        Ok(piece)
    }

    /// Reads from the start again. Without effect on a body that is read once.
    pub fn rewind(&mut self) {
        if self.keep == Keep::ForReplay {
            self.read = 0;
            self.memory.rewind();
            if let Some(disk) = &mut self.disk {
                disk.rewind();
            }
        }
    }

    /// Bytes pushed in all.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.pushed
    }

    /// Whether nothing was ever pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pushed == 0
    }

    /// Bytes pushed and not read (since the last [`rewind`](Self::rewind)).
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.pushed - self.read
    }

    /// Whether the body has a file now.
    #[must_use]
    pub fn is_on_disk(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.is_open())
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        self.memory.clear(&self.depot.memory);
    }
}
