//! The first tier: in memory, by S3-FIFO, within so many bytes.
//!
//! The crate decides what goes. What is here says what a key leads to: an answer; or the request fields that answers under this
//! key depend on, with the answers under keys of their own; or that answers of late were not to be kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::HeaderName;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::entry::Entry;
use super::freshness::Millis;
use super::policy::Freshness;
use super::vary;
use crate::headers::Headers;

/// What an entry is kept under.
pub type Key = Arc<[u8]>;

/// Each has a lock of its own, and a share of the bytes.
const SHARDS: usize = 16;
/// Of the bytes, one answer may have so much: half a shard.
pub const PART_OF_ONE: u64 = 2 * SHARDS as u64;
/// Bytes an answer has, about: for how many room is made at once, and how many that went are remembered.
const USUAL: u64 = 8 * 1024;
/// What a key costs that leads to no answer, in bytes.
const MARK: usize = 256;

/// What is found under a key.
#[derive(Debug, Clone)]
enum Slot {
    Entry(Arc<Entry>),
    Varies(Arc<Varies>),
    /// Until then.
    Pass(Millis),
}

/// The request fields that answers depend on.
#[derive(Debug)]
struct Varies {
    names: Box<[HeaderName]>,
    /// In the keys of the answers: those under an earlier one of these are not found again.
    number: u64,
}

/// What a look brought.
#[derive(Debug)]
pub enum Look {
    Entry(Arc<Entry>),
    /// Answers of late were not to be kept.
    Pass,
    Nothing,
}

/// See the module.
#[derive(Debug)]
pub struct Memory {
    slots: Cache<Key, Slot, Weigh, DefaultHashBuilder, DefaultLifecycle<Key, Slot>>,
    numbers: AtomicU64,
}

#[derive(Debug, Clone)]
struct Weigh;

impl Weighter<Key, Slot> for Weigh {
    fn weight(&self, key: &Key, slot: &Slot) -> u64 {
        let bytes = match slot {
            Slot::Entry(entry) => entry.weight() + key.len(),
            Slot::Varies(varies) => MARK + key.len() + varies.names.len() * 40,
            Slot::Pass(_) => MARK + key.len(),
        };
        bytes as u64
    }
}

impl Memory {
    /// Room for `bytes`.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes / USUAL).unwrap_or(usize::MAX).max(32 * SHARDS);
        let options =
            OptionsBuilder::new().shards(SHARDS).estimated_items_capacity(items).weight_capacity(bytes).build();
        let options = options.unwrap_or_else(|_| unreachable!("both capacities are given"));
        let slots = Cache::with_options(options, Weigh, DefaultHashBuilder::default(), DefaultLifecycle::default());
        Self { slots, numbers: AtomicU64::new(0) }
    }

    /// Has room for `bytes` from now on.
    pub fn resize(&self, bytes: u64) {
        if self.slots.capacity() != bytes.next_multiple_of(self.slots.num_shards() as u64) {
            self.slots.set_capacity(bytes);
        }
    }

    /// Looks for the answer to a request with these fields; and under which key it is, or would be.
    #[must_use]
    pub fn look(&self, primary: &[u8], always: &[HeaderName], request: &Headers) -> (Look, Option<Key>) {
        match self.slots.get(primary) {
            // Kept under another configuration, by which it was for everybody.
            Some(Slot::Entry(_)) if !always.is_empty() => (Look::Nothing, None),
            Some(Slot::Entry(entry)) => (Look::Entry(entry), None),
            Some(Slot::Pass(until)) => (Look::of_pass(until), None),
            Some(Slot::Varies(varies)) if always.iter().all(|name| varies.names.contains(name)) => {
                let key = varies.key(primary, request);
                let look = match self.slots.get(&*key) {
                    Some(Slot::Entry(entry)) => Look::Entry(entry),
                    Some(Slot::Pass(until)) => Look::of_pass(until),
                    Some(Slot::Varies(_)) | None => Look::Nothing,
                };
                (look, Some(key))
            }
            Some(Slot::Varies(_)) | None => (Look::Nothing, None),
        }
    }

    /// Keeps an answer; `request` is what it was an answer to.
    pub fn keep(&self, entry: Arc<Entry>, request: &Headers) {
        let primary: Key = Arc::from(&*entry.primary);
        if entry.varies.is_empty() {
            return self.slots.insert(primary, Slot::Entry(entry));
        }
        let varies = match self.slots.get(&*primary) {
            Some(Slot::Varies(varies)) if varies.names == entry.varies => varies,
            _ => {
                let number = self.numbers.fetch_add(1, Relaxed);
                let varies = Arc::new(Varies { names: entry.varies.clone(), number });
                self.slots.insert(primary.clone(), Slot::Varies(varies.clone()));
                varies
            }
        };
        self.slots.insert(varies.key(&primary, request), Slot::Entry(entry));
    }

    /// Remembers that an answer under `key` was not to be kept, if so; what is there and fresh stays.
    pub fn pass(&self, key: Key, until: Millis) -> bool {
        let now = super::now();
        let stays = match self.slots.get(&*key) {
            Some(Slot::Entry(entry)) => matches!(entry.freshness(now), Freshness::Fresh(_)),
            Some(Slot::Varies(_)) => true,
            Some(Slot::Pass(_)) | None => false,
        };
        if !stays {
            self.slots.insert(key, Slot::Pass(until));
        }
        !stays
    }

    /// Drops what is under `key`; whether there was something.
    pub fn remove(&self, key: &[u8]) -> bool {
        self.slots.remove(key).is_some()
    }

    /// Whether there is something.
    #[must_use]
    pub fn has(&self, key: &[u8]) -> bool {
        self.slots.contains_key(key)
    }

    /// Drops the answers that `is_kept` says are not; takes a time in proportion to their number.
    pub fn retain(&self, is_kept: impl Fn(&Entry) -> bool) {
        self.slots.retain(|_, slot| match slot {
            Slot::Entry(entry) => is_kept(entry),
            Slot::Varies(_) | Slot::Pass(_) => true,
        });
    }

    /// Bytes that are kept.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.slots.weight()
    }
}

impl Look {
    fn of_pass(until: Millis) -> Self {
        if super::freshness::millis(std::time::SystemTime::now()) < until { Self::Pass } else { Self::Nothing }
    }
}

impl Varies {
    fn key(&self, primary: &[u8], request: &Headers) -> Key {
        let mut key = Vec::with_capacity(primary.len() + 64);
        key.extend_from_slice(primary);
        // No primary key has as many line feeds.
        key.extend_from_slice(b"\n\n");
        key.extend_from_slice(itoa::Buffer::new().format(self.number).as_bytes());
        vary::write(&self.names, request, &mut key);
        Key::from(key)
    }
}
