//! Answers that are kept and given again (RFC 9111, as a shared cache).
//!
//! | what | file |
//! |---|---|
//! | which rule a request meets, and its key | [`rule`] |
//! | `Cache-Control` | [`directives`] |
//! | ages and lifetimes | [`freshness`] |
//! | what is kept, and who may have it | [`policy`] |
//! | `Vary` | [`vary`] |
//! | conditions and ranges of a request | [`conditional`], [`range`] |
//! | one answer | [`entry`] |
//! | where it is | [`memory`], [`disk`] |
//! | one fetch for all who want it | [`collapse`] |
//! | the copy that is made of a body as it passes | [`tap`] |
//! | what is gone before its time | [`purge`] |
//!
//! Nothing here knows of sessions or connections: the steps of a request are in `proxy::cache`.

pub mod collapse;
pub mod conditional;
pub mod directives;
pub mod disk;
pub mod entry;
pub mod freshness;
pub mod memory;
pub mod policy;
pub mod purge;
pub mod range;
pub mod rule;
pub mod tap;
pub mod vary;

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{SHA256, digest};
use http::HeaderMap;

use crate::config::model;
use crate::observe::metrics::{CacheTier, DiskMetrics, Metrics, NotStored};
use collapse::Fetches;
use disk::Disk;
use entry::{Body, Entry, Head};
use freshness::{Millis, millis};
use memory::{Key, Look, Memory};
use purge::{Found, How, Purges, What};
use rule::{Rule, Rules};
use tap::Budget;

/// How long it is remembered that answers under a key are not to be kept, so that those who want them do not wait for each other.
const PASS: Duration = Duration::from_secs(10);
/// Of the memory, bodies that are being copied may have so much beside it.
const COPIES: u64 = 8;
/// And never less, in bytes.
const COPIES_LEAST: u64 = 1 << 20;
/// Counters of fetches under way; keys share them.
const UNDER_WAY: usize = 1024;

/// What outlives every configuration: an answer that is kept is found under the next.
#[derive(Debug)]
pub struct Cache {
    memory: OnceLock<Memory>,
    pub fetches: Arc<Fetches>,
    purges: Arc<Purges>,
    disk: ArcSwapOption<Disk>,
    pub budget: Arc<Budget>,
    /// Bytes of a body that memory can keep.
    here: AtomicU64,
    under_way: Arc<[AtomicU32]>,
    hasher: RandomState,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            memory: OnceLock::new(),
            fetches: Arc::default(),
            purges: Arc::default(),
            disk: ArcSwapOption::empty(),
            budget: Arc::default(),
            here: AtomicU64::new(0),
            under_way: (0..UNDER_WAY).map(|_| AtomicU32::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }
}

/// An answer that is being fetched, until dropped.
#[derive(Debug)]
pub struct Fetching {
    under_way: Arc<[AtomicU32]>,
    at: usize,
    /// The last purge before it began.
    pub after: u64,
}

impl Drop for Fetching {
    fn drop(&mut self) {
        if let Some(count) = self.under_way.get(self.at) {
            count.fetch_sub(1, Relaxed);
        }
    }
}

/// Bytes of a body that memory can keep.
fn most_in_memory(config: &model::Cache) -> u64 {
    config.max_body.min(config.memory / memory::PART_OF_ONE)
}

/// Bytes of a body that can be kept.
#[must_use]
pub fn most_of_one(config: &model::Cache) -> u64 {
    if config.disk.is_some() { config.max_body } else { most_in_memory(config) }
}

impl Cache {
    /// Has as much room as the configuration that is in force says, and the directory that it names.
    pub fn configure(&self, config: Option<&model::Cache>, rules: &Rules, metrics: &Metrics) {
        let bytes = config.map_or(0, |cache| cache.memory);
        if bytes > 0 {
            self.memory.get_or_init(|| Memory::new(bytes));
        }
        if let Some(memory) = self.memory.get() {
            memory.resize(bytes);
        }
        self.here.store(config.map_or(0, most_in_memory), Relaxed);
        let largest = config.map_or(0, most_of_one);
        self.budget.set_limit((bytes / COPIES).max(COPIES_LEAST).max(largest.saturating_mul(2)));
        let disk = config.and_then(|cache| cache.disk.as_ref());
        match (disk, self.disk.load_full()) {
            (Some(wanted), Some(there)) if there.is_at(&wanted.path) => there.resize(wanted.max),
            (Some(wanted), _) => {
                let shown: Arc<DiskMetrics> = Arc::default();
                metrics.show_disk(Some(shown.clone()));
                match Disk::open(wanted, rules.iter().cloned().collect(), self.purges.clone(), shown) {
                    Ok(opened) => self.disk.store(Some(Arc::new(opened))),
                    Err(error) => tracing::error!(%error, "the disk cache cannot be used"),
                }
            }
            (None, _) => {
                metrics.show_disk(None);
                self.disk.store(None);
            }
        }
    }

    /// Looks for the answer to a request with these fields, and under which key it is where that is not the primary.
    #[must_use]
    pub fn look(&self, rule: &Rule, primary: &[u8], request: &HeaderMap) -> (Look, Option<Key>) {
        let Some(memory) = self.memory.get() else { return (Look::Nothing, None) };
        let (look, key) = memory.look(primary, &rule.config.key_headers, request);
        if let Look::Entry(entry) = &look {
            match self.purges.find(entry) {
                Found::Kept => {}
                Found::Stale(from) => entry.make_stale(from),
                Found::Gone => {
                    memory.remove(key.as_deref().unwrap_or(primary));
                    return (Look::Nothing, key);
                }
            }
        }
        (look, key)
    }

    /// Looks for it on disk. What memory has room for is there from now on.
    pub async fn look_on_disk(&self, rule: &Arc<Rule>, primary: &[u8], request: &HeaderMap) -> Option<Arc<Entry>> {
        let disk = self.disk.load_full()?;
        let mut entry = disk.look(rule, primary, request, self.here.load(Relaxed)).await?;
        match self.purges.find(&entry) {
            Found::Kept => {}
            Found::Stale(from) => entry.make_stale(from),
            Found::Gone => {
                disk.remove(&rule.config.name, primary);
                return None;
            }
        }
        if let Body::There(_) = entry.body {
            return Some(Arc::new(entry));
        }
        entry.held = Some(rule.metrics.hold(CacheTier::Memory, entry.weight() as u64));
        let entry = Arc::new(entry);
        if let Some(memory) = self.memory.get() {
            memory.keep(entry.clone(), request);
        }
        Some(entry)
    }

    /// An answer under `primary` is asked for from now on, until the guard is dropped.
    #[must_use]
    pub fn begin_fetch(&self, primary: &[u8]) -> Fetching {
        let at = self.place(primary);
        if let Some(count) = self.under_way.get(at) {
            count.fetch_add(1, Relaxed);
        }
        Fetching { under_way: self.under_way.clone(), at, after: self.purges.latest() }
    }

    fn place(&self, primary: &[u8]) -> usize {
        usize::try_from(self.hasher.hash_one(primary) % UNDER_WAY as u64).unwrap_or_default()
    }

    /// Keeps an answer to `request`.
    ///
    /// # Errors
    /// It was purged while it was fetched.
    pub fn keep(&self, rule: &Rule, head: Head, body: Body, request: &HeaderMap) -> Result<Arc<Entry>, NotStored> {
        let mut entry = Entry::new(head, body);
        match self.purges.find(&entry) {
            Found::Kept => {}
            Found::Stale(from) => entry.make_stale(from),
            Found::Gone => return Err(NotStored::Purged),
        }
        entry.held = Some(rule.metrics.hold(CacheTier::Memory, entry.weight() as u64));
        let entry = Arc::new(entry);
        let is_small = entry.body.len() as u64 <= self.here.load(Relaxed);
        match (self.memory.get(), &entry.body) {
            (Some(memory), Body::Here(_)) if is_small => memory.keep(entry.clone(), request),
            // What is there is older.
            (Some(memory), _) => drop(memory.remove(&entry.primary)),
            (None, _) => {}
        }
        if let Some(disk) = &*self.disk.load() {
            disk.keep(rule, &entry);
        }
        rule.metrics.record_stored();
        Ok(entry)
    }

    /// Remembers for a while that what is fetched under `key` is not to be kept; what was there goes, unless it is fresh.
    pub fn pass(&self, rule: &Rule, primary: &[u8], key: Key) {
        let passes = self.memory.get().is_some_and(|memory| memory.pass(key, millis(SystemTime::now() + PASS)));
        if let Some(disk) = self.disk.load().as_ref().filter(|disk| passes && disk.knows(primary)) {
            disk.remove(&rule.config.name, primary);
        }
    }

    /// What was asked for under `primary` until now is not given any more (RFC 9111 section 4.4).
    pub fn invalidate(&self, rule: &Rule, primary: &[u8]) {
        let disk = self.disk.load();
        let on_disk = disk.as_ref().filter(|disk| disk.knows(primary));
        if let Some(memory) = self.memory.get() {
            memory.remove(primary);
        }
        let is_fetched = self.under_way.get(self.place(primary)).is_some_and(|count| count.load(Relaxed) > 0);
        // What was in memory is not found again. What is on its way there has to be told by a mark; there is not room for many.
        if is_fetched || on_disk.is_some() {
            self.purges.add(What::Key(primary.into()), How::Hard);
        }
        on_disk.into_iter().for_each(|disk| disk.remove(&rule.config.name, primary));
    }

    /// Purges; how many answers in memory that met. It takes a time in proportion to all that are there: not for a thread that
    /// serves requests.
    pub fn purge(&self, purged: &[What], how: How) -> usize {
        for what in purged {
            self.purges.add(what.clone(), how);
        }
        if let Some(disk) = &*self.disk.load() {
            disk.remember(purged);
            if how == How::Hard {
                purged.iter().filter_map(What::key).for_each(|key| disk.remove("", key));
            }
        }
        let Some(memory) = self.memory.get() else { return 0 };
        let met = Cell::new(0);
        memory.retain(|entry| {
            let found = self.purges.find(entry);
            if let Found::Stale(from) = found {
                entry.make_stale(from);
            }
            met.set(met.get() + usize::from(found != Found::Kept));
            found != Found::Gone
        });
        met.get()
    }

    /// Bytes in memory, keys that lead to no answer among them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.memory.get().map_or(0, Memory::bytes)
    }
}

/// The first half of the SHA-256 of `text`: what stands for keys and tags where they would be long.
fn half_sha256(text: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    half.iter_mut().zip(digest(&SHA256, text).as_ref()).for_each(|(place, byte)| *place = *byte);
    half
}

/// The moment.
#[must_use]
pub fn now() -> Millis {
    millis(SystemTime::now())
}
