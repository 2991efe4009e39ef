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
//! | where it is | [`memory`], [`disk`], [`shared`] |
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
pub mod shared;
pub mod tap;
pub mod vary;

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;

use crate::config::model;
use crate::headers::Headers;
use crate::observe::metrics::{CacheTier, DiskMetrics, Metrics, NotStored, SharedMetrics};
use crate::redis::Redis;
use collapse::Fetches;
use disk::Disk;
use entry::{Body, Entry, Head};
use freshness::{Millis, millis};
use memory::{Key, Look, Memory};
use purge::{Found, How, Purges, What};
use rule::{Rule, Rules};
use shared::{Followed, Outbox, Question, Says, Tier, Version};
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
    shared: ArcSwapOption<Tier>,
    /// What other gateways are still to be told, whichever way.
    outbox: Arc<Outbox>,
    followed: Mutex<Option<Followed>>,
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
            shared: ArcSwapOption::empty(),
            outbox: Arc::default(),
            followed: Mutex::default(),
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

    /// Shares what is kept through this Redis, or no more.
    pub fn share(self: &Arc<Self>, redis: Option<&Arc<Redis>>, metrics: &Metrics) {
        let there = self.shared.load_full();
        match redis {
            Some(redis) if there.is_some_and(|tier| tier.is_in(redis)) => {}
            Some(redis) => {
                let shown: Arc<SharedMetrics> = Arc::default();
                metrics.show_shared(Some(shown.clone()));
                self.shared.store(Some(Arc::new(Tier::start(
                    redis.clone(),
                    Arc::downgrade(self),
                    self.outbox.clone(),
                    shown,
                ))));
            }
            None => {
                metrics.show_shared(None);
                self.shared.store(None);
            }
        }
    }

    /// The tier that several gateways share, if they do.
    #[must_use]
    pub fn shared(&self) -> Option<Arc<Tier>> {
        self.shared.load_full()
    }

    /// Looks for the answer to a request with these fields, and under which key it is where that is not the primary.
    #[must_use]
    pub fn look(&self, rule: &Rule, primary: &[u8], request: &Headers) -> (Look, Option<Key>) {
        let Some(memory) = self.memory.get() else { return (Look::Nothing, None) };
        let (look, key) = memory.look(primary, &rule.config.key_headers, request);
        if let Look::Entry(entry) = &look
            && self.purges.find(entry) == Found::Gone
        {
            memory.remove(key.as_deref().unwrap_or(primary));
            return (Look::Nothing, key);
        }
        (look, key)
    }

    /// Looks for it on disk. What memory has room for is there from now on.
    pub async fn look_on_disk(&self, rule: &Arc<Rule>, primary: &[u8], request: &Headers) -> Option<Arc<Entry>> {
        let disk = self.disk.load_full()?;
        let entry = disk.look(rule, primary, request, self.here.load(Relaxed)).await?;
        if self.purges.find(&entry) == Found::Gone {
            disk.remove(&rule.config.name, primary);
            return None;
        }
        if let Body::There(_) = entry.body {
            return Some(Arc::new(entry));
        }
        Some(self.keep_here(rule, entry, request))
    }

    /// Looks for it in Redis, or for the right to fetch it for all gateways. What memory has room for is there from now on.
    pub async fn look_in_redis(
        &self,
        rule: &Rule,
        question: &Question<'_>,
        than: &Version,
    ) -> shared::Look<Arc<Entry>> {
        let Some(tier) = self.shared.load_full() else { return shared::Look::Nothing };
        // A purge on the way has to find what is about to come here.
        let under_way = self.begin_fetch(question.primary);
        tier.look(question, than).await.and_then(|entry, version| {
            entry.checked.store(under_way.after, Relaxed);
            if self.purges.find(&entry) == Found::Gone {
                return shared::Look::Nothing;
            }
            shared::Look::Entry(self.keep_here(rule, entry, question.request), version)
        })
    }

    /// Whether what was found a while ago, or another has fetched, is purged by now. Where it is not found any more, that is not known.
    #[must_use]
    pub fn is_purged(&self, entry: &Entry) -> bool {
        self.purges.find(entry) == Found::Gone
    }

    /// Takes into memory what was in another tier, if it has room for it.
    fn keep_here(&self, rule: &Rule, mut entry: Entry, request: &Headers) -> Arc<Entry> {
        entry.held = Some(rule.metrics.hold(CacheTier::Memory, entry.weight() as u64));
        let entry = Arc::new(entry);
        let is_small = entry.body.len() as u64 <= self.here.load(Relaxed);
        if let Some(memory) = self.memory.get().filter(|_| is_small) {
            memory.keep(entry.clone(), request);
        }
        entry
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
    pub fn keep(&self, rule: &Rule, head: Head, body: Body, request: &Headers) -> Result<Arc<Entry>, NotStored> {
        let mut entry = Entry::new(head, body);
        if self.purges.find(&entry) == Found::Gone {
            return Err(NotStored::Purged);
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
        if let Some(tier) = &*self.shared.load() {
            // Before it is gone here: what is in Redis is not looked for from now on.
            let _ = tier.tell(&[What::Key(primary.into())], How::Hard);
        }
        if self.drop_key(primary, disk.as_deref().map(|disk| (disk, &*rule.config.name))) {
            self.purges.add(What::Key(primary.into()), How::Hard);
        }
    }

    /// Drops what is under a key in memory and on disk, there by this rule; whether a mark has to tell what is on its way. There is not
    /// room for many marks.
    fn drop_key(&self, primary: &[u8], disk: Option<(&Disk, &str)>) -> bool {
        // Whatever is not under way now is there already, or begins after this.
        let is_fetched = self.is_fetched(primary);
        if let Some(memory) = self.memory.get() {
            memory.remove(primary);
        }
        let on_disk = disk.filter(|(disk, _)| disk.knows(primary));
        on_disk.iter().for_each(|(disk, rule)| disk.remove(rule, primary));
        is_fetched || on_disk.is_some()
    }

    fn is_fetched(&self, primary: &[u8]) -> bool {
        self.under_way.get(self.place(primary)).is_some_and(|count| count.load(Relaxed) > 0)
    }

    /// Purges; how many answers in memory that met, and what to wait for until other gateways know. It takes a time in proportion to all that are there: not for a thread that
    /// serves requests.
    pub fn purge(&self, purged: &[What], how: How) -> (usize, Option<Told>) {
        // Before it is gone here: what is in Redis is not looked for from now on.
        let told = self.shared.load_full().map(|tier| Told { number: tier.tell(purged, how), tier });
        for what in purged {
            self.purges.add(what.clone(), how);
        }
        if let Some(disk) = &*self.disk.load() {
            disk.remember(purged);
            if how == How::Hard {
                purged.iter().filter_map(What::key).for_each(|key| disk.remove("", key));
            }
        }
        let Some(memory) = self.memory.get() else { return (0, told) };
        let met = Cell::new(0);
        memory.retain(|entry| {
            let found = self.purges.find(entry);
            met.set(met.get() + usize::from(found != Found::Kept));
            found != Found::Gone
        });
        (met.get(), told)
    }

    /// How far the purges of other gateways are done here: in this process, or by those before it that had this directory.
    async fn followed(&self) -> Option<Followed> {
        if let Some(followed) = *self.followed.lock() {
            return Some(followed);
        }
        let disk = self.disk.load_full()?;
        tokio::task::spawn_blocking(move || disk.followed()).await.ok().flatten()
    }

    async fn note_followed(&self, followed: Followed) {
        *self.followed.lock() = Some(followed);
        if let Some(disk) = self.disk.load_full() {
            let _ = tokio::task::spawn_blocking(move || disk.set_followed(followed)).await;
        }
    }

    /// Purges what others have purged.
    async fn purge_from_afar(self: Arc<Self>, purged: Vec<Says>) {
        let purge = move || {
            let disk = self.disk.load_full();
            let mut remembered = Vec::new();
            for says in purged {
                match says {
                    Says::Purged(What::Key(key), How::Hard) => {
                        if self.drop_key(&key, disk.as_deref().map(|disk| (disk, ""))) {
                            self.purges.add(What::Key(key.clone()), How::Hard);
                            // What the index does not know yet cannot be taken away yet.
                            remembered.extend(disk.as_ref().filter(|disk| !disk.is_loaded()).map(|_| What::Key(key)));
                        }
                    }
                    Says::Purged(what, how) => {
                        self.purges.add(what.clone(), how);
                        remembered.push(what);
                    }
                    Says::Hash(hash) => {
                        disk.as_ref().map(|disk| disk.forget_hash(hash));
                        self.purges.add_hash(hash, How::Hard);
                    }
                    Says::After(_) | Says::Since(_) => {}
                }
            }
            if let Some(disk) = disk {
                disk.remember(&remembered);
            }
        };
        if tokio::task::spawn_blocking(purge).await.is_err() {
            tracing::error!("a purge of another gateway was not done");
        }
    }

    /// Bytes in memory, keys that lead to no answer among them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.memory.get().map_or(0, Memory::bytes)
    }
}

/// A purge that other gateways are told of.
#[derive(Debug)]
pub struct Told {
    tier: Arc<Tier>,
    number: u64,
}

impl Told {
    /// Waits until they can know; whether that was in time.
    pub async fn wait(&self, patience: Duration) -> bool {
        self.tier.told(self.number, patience).await
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
