//! The thread that writes files and takes them away.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat};

use super::format::{self, FIXED, Fixed, Record};
use super::{Name, Shared, purge_log, read_file};
use crate::cache::entry::{Body, Entry};
use crate::cache::purge::{Found, How};
use crate::cache::rule::Rule;
use crate::observe::metrics::{CacheMetrics, CacheTier, DiskWrite};

/// Answers that wait to be written, and bytes of their bodies.
const JOBS_MOST: usize = 4096;
pub(super) const WAITING_MOST: u64 = 32 << 20;
/// Between two looks whether another process has let go of the directory.
const LOCK_EVERY: Duration = Duration::from_millis(500);
/// How long purges are remembered over a restart, at least, and how many bytes of them.
const FORGET_EVERY: Duration = Duration::from_secs(600);
const LOG_MOST: u64 = 1 << 20;
/// Between two lines about a disk that fails.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) enum Job {
    Keep {
        entry: Arc<Entry>,
        tag: u32,
        held: Arc<CacheMetrics>,
    },
    /// There is something to take away.
    Wake,
}

/// Starts the thread; it ends when the sender is dropped.
pub(super) fn start(shared: Arc<Shared>, rules: Vec<Arc<Rule>>) -> io::Result<SyncSender<Job>> {
    let (sender, jobs) = sync_channel(JOBS_MOST);
    let rules = rules.into_iter().map(|rule| (super::tag(&rule.config.name), rule.metrics.clone())).collect();
    let keeper = Keeper { shared, jobs, rules, numbers: 0, complained: None };
    std::thread::Builder::new().name("cache-disk".to_owned()).spawn(move || keeper.run())?;
    Ok(sender)
}

struct Keeper {
    shared: Arc<Shared>,
    jobs: Receiver<Job>,
    /// Those whose files are counted.
    rules: HashMap<u32, Arc<CacheMetrics>>,
    numbers: u64,
    complained: Option<Instant>,
}

/// Nobody wants anything written any more.
struct Over;

impl Keeper {
    fn run(mut self) {
        let Ok(_lock) = self.take_over() else { return };
        match self.load() {
            Ok(Ok(())) => {}
            Ok(Err(Over)) => return,
            Err(error) => self.complain("read", &error),
        }
        self.shared.loaded.store(true, Relaxed);
        self.shared.metrics.set_loaded();
        let mut forgot = Instant::now();
        loop {
            match self.jobs.recv_timeout(FORGET_EVERY) {
                Ok(job) => self.do_one(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // Not with each purge: it looks at every file.
            if forgot.elapsed() > FORGET_EVERY || purge_log::length(&self.shared.folder) > LOG_MOST {
                self.forget_purges(false);
                forgot = Instant::now();
            }
        }
    }

    /// Waits until the directory is ours, and reads what was purged.
    fn take_over(&mut self) -> Result<File, Over> {
        let mut told = false;
        loop {
            match self.lock() {
                Ok(lock) => return Ok(lock),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::info!(folder = %self.shared.folder.display(), "another process has the disk cache; it is used when that one leaves");
                    }
                }
                Err(error) => self.complain("opened", &error),
            }
            let until = Instant::now() + LOCK_EVERY;
            loop {
                match self.jobs.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(Job::Keep { entry, .. }) => self.skip(&entry),
                    Ok(Job::Wake) => {}
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return Err(Over),
                }
            }
        }
    }

    fn lock(&self) -> io::Result<File> {
        let folder = &self.shared.folder;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder)?;
        check_owner(folder)?;
        builder.create(folder.join("aside"))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(folder.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let remembered = purge_log::read(folder)?;
        let before = self.shared.purges.latest();
        let mut times = Vec::with_capacity(remembered.len());
        for (time, what) in remembered {
            times.push(time);
            self.shared.purges.add(what, How::Hard);
        }
        // Their numbers are those of their places, unless something was purged meanwhile: then all that is here is older than all.
        if before == 0 && self.shared.purges.latest() == times.len() as u64 {
            let _ = self.shared.purged_before.set(times);
        }
        self.shared.ours.store(true, Relaxed);
        Ok(lock)
    }

    /// Finds out what there is. What is foreign goes, and what was being written when a process ended.
    fn load(&mut self) -> io::Result<Result<(), Over>> {
        let folder = self.shared.folder.clone();
        let began = Instant::now();
        let mut files = 0_usize;
        for left in fs::read_dir(folder.join("aside"))?.flatten() {
            if let Err(error) = fs::remove_file(left.path()) {
                self.complain("tidied", &error);
            }
        }
        for number in 0..=255_u8 {
            let place = folder.join(format!("{number:02x}"));
            let listed = match fs::read_dir(&place) {
                Ok(listed) => listed,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    self.complain("read", &error);
                    continue;
                }
            };
            for file in listed.flatten() {
                files += usize::from(self.find(&file));
            }
            if self.do_waiting().is_err() {
                return Ok(Err(Over));
            }
        }
        // What was purged before this process had the directory is not in its log.
        let purged_before = self.shared.purged_before.get().is_none();
        self.forget_purges(purged_before);
        tracing::info!(files, milliseconds = began.elapsed().as_millis(), "the disk cache is known");
        Ok(Ok(()))
    }

    /// Takes a file into the index; whether it is one.
    fn find(&mut self, file: &fs::DirEntry) -> bool {
        let name = file.file_name();
        let Some((name, tag)) = name.to_str().and_then(Name::parse) else {
            tracing::warn!(file = %file.path().display(), "a file in the disk cache is not one of it, and removed");
            self.shared.metrics.record_torn();
            let _ = fs::remove_file(file.path());
            return false;
        };
        // One that is gone meanwhile is none, and one that was written is known better.
        let Ok(metadata) = file.metadata() else { return false };
        match self.shared.index.tag(&name) {
            None => self.insert(name, tag, metadata.len()),
            Some(known) if known != tag => drop(fs::remove_file(file.path())),
            Some(_) => {}
        }
        true
    }

    fn insert(&self, name: Name, tag: u32, bytes: u64) {
        let held = self.rules.get(&tag).map(|metrics| metrics.hold(CacheTier::Disk, bytes));
        self.shared.index.insert(name, tag, bytes, held);
        self.take_away();
    }

    /// Does what waits.
    fn do_waiting(&mut self) -> Result<(), Over> {
        loop {
            match self.jobs.try_recv() {
                Ok(job) => self.do_one(job),
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(Over),
            }
        }
    }

    fn do_one(&mut self, job: Job) {
        // Before what is new has the same name.
        self.take_away();
        if let Job::Keep { entry, tag, held } = job {
            self.rules.entry(tag).or_insert(held);
            let written = self.keep(&entry, tag);
            self.shared.unqueue(&Name::of(&entry.primary), entry.bytes_here() as u64);
            match written {
                Ok(true) => self.shared.metrics.record_write(DiskWrite::Written),
                Ok(false) => {}
                Err(error) => {
                    self.shared.metrics.record_write(DiskWrite::Failed);
                    self.complain("written", &error);
                }
            }
        }
        self.take_away();
    }

    fn skip(&self, entry: &Entry) {
        self.shared.unqueue(&Name::of(&entry.primary), entry.bytes_here() as u64);
        self.shared.metrics.record_write(DiskWrite::Skipped);
    }

    /// Writes an answer, and what it depends on; false where it was purged meanwhile.
    fn keep(&mut self, entry: &Entry, tag: u32) -> io::Result<bool> {
        let body = match &entry.body {
            Body::Here(body) => body.clone(),
            // It was found to be true still: the file is written anew, with what is said of it now.
            Body::There(file) => file.read_all()?,
        };
        if self.shared.purges.find(entry) == Found::Gone {
            return Ok(false);
        }
        let primary = Name::of(&entry.primary);
        let record = format::record_of(entry);
        let name = if entry.varies.is_empty() {
            primary
        } else {
            let number = self.number(primary, entry, tag)?;
            Name::of_variant(&entry.primary, number, &entry.variant)
        };
        self.write(name, tag, &record, &body)?;
        // A purge that came between the look and the write did not find it.
        if self.shared.purges.find(entry) == Found::Gone {
            self.shared.doom(name, tag);
            return Ok(false);
        }
        Ok(true)
    }

    /// The number in the keys of answers that depend on these fields: the one that is there, or a new one.
    fn number(&mut self, primary: Name, entry: &Entry, tag: u32) -> io::Result<u64> {
        let known = self.shared.index.tag(&primary).unwrap_or(tag);
        if let Ok(Some((Record::Varies { names, number, primary: of }, ..))) =
            read_file(&self.shared.path(&primary, known), 0, &self.shared.bodies)
            && names == entry.varies
            && of == entry.primary
        {
            return Ok(number);
        }
        self.numbers += 1;
        let number = self.shared.boot.wrapping_add(self.numbers.rotate_right(16));
        let record = Record::Varies { primary: entry.primary.clone(), names: entry.varies.clone(), number };
        self.write(primary, tag, &record, &Bytes::new())?;
        Ok(number)
    }

    /// Writes aside, and renames: a name leads to a whole file or to none.
    fn write(&mut self, name: Name, tag: u32, record: &Record, body: &Bytes) -> io::Result<()> {
        self.numbers += 1;
        let aside = self.shared.folder.join("aside").join(self.numbers.to_string());
        let path = self.shared.path(&name, tag);
        let front = format::front(record, body, self.shared.boot);
        let written = write_file(&aside, &front, body).and_then(|()| move_to(&aside, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&aside);
            return Err(error);
        }
        if let Some(other) = self.shared.index.tag(&name).filter(|other| *other != tag) {
            let _ = fs::remove_file(self.shared.path(&name, other));
        }
        self.insert(name, tag, (front.len() + body.len()) as u64);
        Ok(())
    }

    /// Takes away what the index has no room for, and what is doomed.
    fn take_away(&self) {
        let doomed = std::mem::take(&mut *self.shared.doomed.lock());
        for (name, tag) in doomed.into_iter().chain(self.shared.index.evicted()) {
            let _ = fs::remove_file(self.shared.path(&name, tag));
        }
    }

    /// Takes away what was purged by prefix or tag, so that it need not be remembered any more. `are_others`: there are purges that the
    /// log does not have.
    fn forget_purges(&mut self, are_others: bool) {
        let length = purge_log::length(&self.shared.folder);
        if length == 0 && !are_others {
            return;
        }
        for (name, tag) in self.shared.index.names() {
            let gone = match read_head(&self.shared.path(&name, tag)) {
                Ok(Some((Record::Entry(mut head, _), boot))) => {
                    head.asked_after = self.shared.asked_after(boot, head.asked_after);
                    // What is stale by a purge would be fresh again.
                    self.shared.purges.find(&Entry::new(*head, Body::Here(Bytes::new()))) != Found::Kept
                }
                Ok(_) => false,
                Err(_) => true,
            };
            if gone {
                self.shared.doom(name, tag);
            }
        }
        self.take_away();
        if length == 0 {
            return;
        }
        let forgotten = {
            let _writing = self.shared.log.lock();
            purge_log::forget(&self.shared.folder, length)
        };
        if let Err(error) = forgotten {
            self.complain("written", &error);
        }
    }

    fn complain(&mut self, what: &str, error: &io::Error) {
        if self.complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            tracing::error!(folder = %self.shared.folder.display(), %error, "the disk cache cannot be {what}");
        }
    }
}

/// Only this user may have made the folder, and may write to it: what is in it is given to clients.
fn check_owner(folder: &Path) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let stat = fstat(rustix::fs::open(folder, flags, Mode::empty())?)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
        return Err(io::Error::other("it is somebody else's, or others may write to it"));
    }
    Ok(())
}

fn write_file(path: &Path, front: &[u8], body: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(front)?;
    file.write_all(body)
}

fn move_to(aside: &Path, path: &Path) -> io::Result<()> {
    match fs::rename(aside, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let place = path.parent().ok_or(error)?;
            DirBuilder::new().recursive(true).mode(0o700).create(place)?;
            fs::rename(aside, path)
        }
        done => done,
    }
}

/// What a file is, and who wrote it; none where that cannot be told.
fn read_head(path: &Path) -> io::Result<Option<(Record, u64)>> {
    let mut file = File::open(path)?;
    let mut fixed_bytes = [0; FIXED];
    file.read_exact(&mut fixed_bytes)?;
    let length = file.metadata()?.len();
    let Some(fixed) = Fixed::read(&fixed_bytes).filter(|fixed| fixed.whole() == Some(length)) else {
        return Ok(None);
    };
    let mut middle = vec![0; fixed.middle()];
    file.read_exact(&mut middle)?;
    Ok(format::read_middle(&fixed_bytes, &fixed, &middle).map(|(record, _)| (record, fixed.boot)))
}
