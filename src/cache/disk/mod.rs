//! The second tier: files that outlive the process, within so many bytes.
//!
//! One file is one answer ([`format`](self::format)), named by a hash of its key. It is written aside and renamed, by a thread of its own
//! ([`keeper`]), and read by threads for what blocks: no request waits for the disk that does not want something from it. Nothing is
//! synchronised to the platter: what a crash of the machine tears is told by its sums, and dropped.
//!
//! The index holds what there is, and decides what goes. It is filled while the gateway serves already: until then a file is looked for
//! by its name.

mod body;
pub mod format;
mod index;
mod keeper;
mod purge_log;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::HeaderName;
use parking_lot::Mutex;

pub use body::FileBody;
use body::OpenBodies;
use format::{FIXED, Fixed, Record};
use index::Index;
use keeper::Job;

use super::entry::{Body, Entry};
use super::freshness::Millis;
use super::purge::Purges;
use super::rule::Rule;
use super::shared::Followed;
use super::{half_sha256, vary};
use crate::config::model;
use crate::headers::Headers;
use crate::observe::metrics::{DiskMetrics, DiskWrite};

/// Below the directory that the configuration names: nothing outside of it is touched.
const FOLDER: &str = "propylon-cache-1";
/// Says how far the purges of other gateways are done here.
const FOLLOWED: &str = "followed";
/// Answers that are over sooner are not worth a file.
const SHORT: Millis = 10_000;

/// The name of a file: the hash of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name([u8; 16]);

impl Name {
    fn of(key: &[u8]) -> Self {
        Self(half_sha256(key))
    }

    /// The key of an answer that depends on request fields.
    fn of_variant(primary: &[u8], number: u64, variant: &[u8]) -> Self {
        Self::of(&[primary, b"\n\n", &number.to_le_bytes(), variant].concat())
    }

    /// `3f/3f0a…`, and the rule it was kept by.
    fn path(&self, rule: u32) -> PathBuf {
        let hex = hex::encode(self.0);
        PathBuf::from(format!("{}/{hex}.{rule:08x}", hex.get(..2).unwrap_or("00")))
    }

    /// Reads what [`Name::path`] has written.
    fn parse(file: &str) -> Option<(Self, u32)> {
        let (hex, rule) = file.split_once('.')?;
        let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if hex.len() != 32 || rule.len() != 8 || !is_hex(hex) || !is_hex(rule) {
            return None;
        }
        let number = u128::from_str_radix(hex, 16).ok()?;
        Some((Self(number.to_be_bytes()), u32::from_str_radix(rule, 16).ok()?))
    }
}

/// How a rule stands in names of files.
#[must_use]
pub fn tag(rule: &str) -> u32 {
    crc32fast::hash(rule.as_bytes())
}

/// See the module.
#[derive(Debug)]
pub struct Disk {
    shared: Arc<Shared>,
    jobs: SyncSender<Job>,
}

/// What requests and the thread share.
#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    index: Index,
    purges: Arc<Purges>,
    /// This process, in files: later ones are larger.
    boot: u64,
    /// When the first purges of this process were, which others have done: [`purge_log`].
    purged_before: OnceLock<Vec<purge_log::Time>>,
    /// The index is filled.
    loaded: AtomicBool,
    /// Another process does not have it.
    ours: AtomicBool,
    /// How many answers under a name wait to be written.
    queued: Mutex<HashMap<Name, usize>>,
    /// Files that are to go.
    doomed: Mutex<Vec<(Name, u32)>>,
    /// Bytes of bodies that wait to be written.
    waiting: AtomicU64,
    /// The log of purges is being written.
    log: Mutex<()>,
    bodies: OpenBodies,
    metrics: Arc<DiskMetrics>,
}

/// Makes sure that files can be written in the directory. Blocks.
///
/// # Errors
/// One sentence that names the key and the way out.
pub fn check(config: Option<&model::Cache>) -> Result<(), String> {
    let Some(config) = config.and_then(|cache| cache.disk.as_ref()) else { return Ok(()) };
    crate::spool::check_dir(&config.path).map_err(|error| {
        format!(
            "cache.disk.path: no file can be made in {}: {error}; create it, let this user write to it, or name another directory",
            config.path.display()
        )
    })
}

impl Disk {
    /// Opens the directory, and begins to find out what is there.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn open(
        config: &model::CacheDisk,
        rules: Vec<Arc<Rule>>,
        purges: Arc<Purges>,
        metrics: Arc<DiskMetrics>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            folder: config.path.join(FOLDER),
            index: Index::new(config.max),
            purges,
            boot: crate::cache::now().rotate_left(20) ^ u64::from(std::process::id()),
            purged_before: OnceLock::new(),
            loaded: AtomicBool::new(false),
            ours: AtomicBool::new(false),
            queued: Mutex::default(),
            doomed: Mutex::default(),
            waiting: AtomicU64::new(0),
            log: Mutex::default(),
            bodies: OpenBodies::default(),
            metrics,
        });
        let jobs = keeper::start(shared.clone(), rules)?;
        Ok(Self { shared, jobs })
    }

    /// Whether it is of this directory.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        self.shared.folder == path.join(FOLDER)
    }

    /// Has room for so many bytes from now on.
    pub fn resize(&self, bytes: u64) {
        self.shared.index.resize(bytes);
        let _ = self.jobs.try_send(Job::Wake);
    }

    /// Looks for the answer to a request with these fields. `here`: bytes of a body that is read into memory; a larger one stays on
    /// disk, and is read as it is sent.
    pub async fn look(&self, rule: &Arc<Rule>, primary: &[u8], request: &Headers, here: u64) -> Option<Entry> {
        let name = Name::of(primary);
        if !self.shared.ours.load(Relaxed) || !self.shared.may_have(&name) {
            return None;
        }
        let (shared, rule, primary, request) =
            (self.shared.clone(), rule.clone(), Box::<[u8]>::from(primary), request.clone());
        let read = move || shared.look(&rule, &primary, &request, here);
        tokio::task::spawn_blocking(read).await.ok().flatten()
    }

    /// Has an answer written, if it is worth it and there is room in the queue. Where it is not, what is there goes: it is older.
    pub fn keep(&self, rule: &Rule, entry: &Arc<Entry>) {
        if !self.shared.ours.load(Relaxed) {
            return;
        }
        let terms = &entry.terms;
        let of_use =
            terms.fresh_until.saturating_sub(terms.came) + terms.stale_if_error.max(terms.stale_while_revalidate);
        if of_use < SHORT {
            return self.forget(rule, &entry.primary);
        }
        let name = Name::of(&entry.primary);
        let length = entry.bytes_here() as u64;
        if self.shared.waiting.fetch_add(length, Relaxed) + length > keeper::WAITING_MOST {
            self.shared.waiting.fetch_sub(length, Relaxed);
            self.shared.metrics.record_write(DiskWrite::Skipped);
            return self.forget(rule, &entry.primary);
        }
        *self.shared.queued.lock().entry(name).or_default() += 1;
        let job = Job::Keep { entry: entry.clone(), tag: tag(&rule.config.name), held: rule.metrics.clone() };
        if self.jobs.try_send(job).is_err() {
            self.shared.unqueue(&name, length);
            self.shared.metrics.record_write(DiskWrite::Skipped);
            self.forget(rule, &entry.primary);
        }
    }

    fn forget(&self, rule: &Rule, primary: &[u8]) {
        if self.shared.may_have(&Name::of(primary)) {
            self.remove(&rule.config.name, primary);
        }
    }

    /// Whether something under this key may be there, or come.
    #[must_use]
    pub fn knows(&self, primary: &[u8]) -> bool {
        let name = Name::of(primary);
        self.shared.knows(&name)
    }

    /// The same of a key of which only the hash is known: what is there goes.
    #[must_use]
    pub fn forget_hash(&self, hash: [u8; 16]) -> bool {
        let name = Name(hash);
        let is_known = self.shared.knows(&name);
        if is_known {
            self.shared.doom(name, 0);
            let _ = self.jobs.try_send(Job::Wake);
        }
        is_known
    }

    /// Whether all that is there is known.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.shared.loaded.load(Relaxed)
    }

    /// Drops what is under this key.
    pub fn remove(&self, rule: &str, primary: &[u8]) {
        self.shared.doom(Name::of(primary), tag(rule));
        let _ = self.jobs.try_send(Job::Wake);
    }

    /// How far the purges of other gateways are done here. Blocks.
    #[must_use]
    pub fn followed(&self) -> Option<Followed> {
        Followed::parse(&fs::read_to_string(self.shared.folder.join(FOLLOWED)).ok()?)
    }

    /// Remembers it over a restart. Blocks.
    pub fn set_followed(&self, followed: Followed) {
        if !self.shared.ours.load(Relaxed) {
            return;
        }
        let aside = self.shared.folder.join("followed.new");
        let written = fs::write(&aside, format!("{followed}\n"));
        if let Err(error) = written.and_then(|()| fs::rename(&aside, self.shared.folder.join(FOLLOWED))) {
            tracing::warn!(%error, "it is not remembered which purges of other gateways are done");
        }
    }

    /// Has purges remembered over a restart. Blocks.
    pub fn remember(&self, purged: &[super::purge::What]) {
        if purged.is_empty() || !self.shared.ours.load(Relaxed) {
            return;
        }
        let _writing = self.shared.log.lock();
        if let Err(error) =
            purge_log::append(&self.shared.folder, (self.shared.boot, self.shared.purges.latest()), purged)
        {
            tracing::error!(%error, "a purge is not remembered over a restart");
        }
        let _ = self.jobs.try_send(Job::Wake);
    }
}

impl Shared {
    fn may_have(&self, name: &Name) -> bool {
        !self.loaded.load(Relaxed) || self.index.tag(name).is_some()
    }

    /// Whether it may be there, or come: what comes is there before it is out of the queue.
    fn knows(&self, name: &Name) -> bool {
        self.queued.lock().contains_key(name) || self.may_have(name)
    }

    fn unqueue(&self, name: &Name, bytes: u64) {
        self.waiting.fetch_sub(bytes, Relaxed);
        let mut queued = self.queued.lock();
        if let Some(count) = queued.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                queued.remove(name);
            }
        }
    }

    fn path(&self, name: &Name, tag: u32) -> PathBuf {
        self.folder.join(name.path(tag))
    }

    /// Takes a file out of the index, and has it removed. `otherwise`: the rule it would be by, where that is not known yet.
    fn doom(&self, name: Name, otherwise: u32) {
        let known = self.index.remove(&name);
        let tag = known.or_else(|| (!self.loaded.load(Relaxed)).then_some(otherwise));
        if let Some(tag) = tag {
            self.doomed.lock().push((name, tag));
        }
    }

    fn look(&self, rule: &Rule, primary: &[u8], request: &Headers, here: u64) -> Option<Entry> {
        let name = Name::of(primary);
        let (record, body) = self.read(name, rule, here)?;
        let (record, body) = match record {
            Record::Varies { primary: of, names, number } => {
                if *of != *primary || !rule.config.key_headers.iter().all(|always| names.contains(always)) {
                    return None;
                }
                let variant = variant(&names, request);
                let name = Name::of_variant(primary, number, &variant);
                self.shared_read(name, rule, here)?
            }
            // Kept under another configuration, by which it was for everybody.
            Record::Entry(..) if !rule.config.key_headers.is_empty() => return None,
            Record::Entry(..) => (record, body),
        };
        let Record::Entry(head, stale_from) = record else { return None };
        if *head.primary != *primary || *head.variant != *variant(&head.varies, request) {
            return None;
        }
        let entry = Entry::new(*head, body);
        stale_from.into_iter().for_each(|from| entry.make_stale(from));
        Some(entry)
    }

    fn shared_read(&self, name: Name, rule: &Rule, here: u64) -> Option<(Record, Body)> {
        if self.may_have(&name) { self.read(name, rule, here) } else { None }
    }

    /// After which purge, as this process counts them, an answer was asked for that says this. What another process has counted
    /// is older than all purges of this one, but for those that it remembers.
    fn asked_after(&self, boot: u64, number: u64) -> u64 {
        if boot == self.boot {
            return number;
        }
        let remembered = self.purged_before.get().into_iter().flatten();
        remembered.take_while(|purged| **purged <= (boot, number)).count() as u64
    }

    /// Reads a file. One that is torn or of something else goes.
    fn read(&self, name: Name, rule: &Rule, here: u64) -> Option<(Record, Body)> {
        let tag = self.index.tag(&name).unwrap_or_else(|| tag(&rule.config.name));
        let path = self.path(&name, tag);
        match read_file(&path, here, &self.bodies) {
            Ok(Some((mut record, body, boot))) => {
                if let Record::Entry(head, _) = &mut record {
                    head.asked_after = self.asked_after(boot, head.asked_after);
                }
                Some((record, body))
            }
            Ok(None) => {
                tracing::warn!(file = %path.display(), "a file of the cache is torn or of something else, and dropped");
                self.metrics.record_torn();
                self.doom(name, tag);
                None
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // There may be one by now: what is not known must not be there.
                if let Some(known) = self.index.remove(&name) {
                    self.doomed.lock().push((name, known));
                }
                None
            }
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "a file of the cache cannot be read");
                self.metrics.record_torn();
                self.doom(name, tag);
                None
            }
        }
    }
}

fn variant(names: &[HeaderName], request: &Headers) -> Vec<u8> {
    let mut variant = Vec::new();
    vary::write(names, request, &mut variant);
    variant
}

/// The record, its body and who wrote it; none where the file is not whole.
fn read_file(path: &Path, here: u64, bodies: &OpenBodies) -> io::Result<Option<(Record, Body, u64)>> {
    let mut file = fs::File::open(path)?;
    let metadata = file.metadata()?;
    let length = metadata.len();
    let mut fixed_bytes = [0; FIXED];
    if length < FIXED as u64 {
        return Ok(None);
    }
    file.read_exact(&mut fixed_bytes)?;
    let Some(fixed) = Fixed::read(&fixed_bytes).filter(|fixed| fixed.whole() == Some(length)) else {
        return Ok(None);
    };
    let mut middle = vec![0; fixed.middle()];
    file.read_exact(&mut middle)?;
    let Some((record, sums)) = format::read_middle(&fixed_bytes, &fixed, &middle) else { return Ok(None) };
    let body = FileBody::new(file, (FIXED + fixed.middle()) as u64, fixed.body, sums);
    if fixed.body > here {
        // The rest is looked at as it is sent; this much says whether there is anything.
        if body.read_from(0).is_err() {
            return Ok(None);
        }
        return Ok(Some((record, Body::There(bodies.share(metadata.ino(), body)), fixed.boot)));
    }
    let mut whole = vec![0; usize::try_from(fixed.body).unwrap_or(usize::MAX)];
    body.file().read_exact_at(&mut whole, body.at())?;
    Ok(body.is_whole(&whole).then(|| (record, Body::Here(Bytes::from(whole)), fixed.boot)))
}
