//! One fetch for all who want the same at the same time (RFC 9111 section 4: collapsed requests).
//!
//! Who comes first fetches, and holds a [`Lead`]; the others wait for what becomes of it. Dropped without a word, a lead ends
//! too, and one of those who wait has the next.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::entry::Entry;
use super::freshness::Millis;
use super::memory::Key;

const SHARDS: usize = 64;

/// What became of a fetch.
#[derive(Debug, Clone)]
pub enum Fetched {
    /// An answer that is kept: for whoever it suits.
    Kept(Arc<Entry>),
    /// One that is not: each fetches its own.
    NotKept,
    /// None yet; but this is stale, and is given while one is fetched.
    Stale(Arc<Entry>),
    /// One that was purged meanwhile: one of those who wait is next.
    Purged,
    /// None.
    Failed,
}

/// Whose turn it is.
#[derive(Debug)]
pub enum Turn {
    Lead(Lead),
    Wait(Waiting),
}

/// All fetches that others may wait for.
#[derive(Debug)]
pub struct Fetches {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
}

type Shard = HashMap<Key, watch::Receiver<Told>>;

/// What those who wait are told.
#[derive(Debug)]
struct Told {
    began: Millis,
    stale: Option<Arc<Entry>>,
    fetched: Option<Fetched>,
}

impl Default for Fetches {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl Fetches {
    /// Leads the fetch for `key`, or waits for the one that is under way.
    #[must_use]
    pub fn turn(self: &Arc<Self>, key: &Key) -> Turn {
        let mut shard = self.shard(key).lock();
        match shard.entry(key.clone()) {
            Place::Occupied(there) => Turn::Wait(Waiting(there.get().clone())),
            Place::Vacant(place) => {
                let (sender, receiver) = watch::channel(Told { began: super::now(), stale: None, fetched: None });
                place.insert(receiver);
                Turn::Lead(Lead { fetches: self.clone(), key: key.clone(), sender })
            }
        }
    }

    fn shard(&self, key: &[u8]) -> &Mutex<Shard> {
        let at = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default();
        self.shards.get(at).or(self.shards.first()).unwrap_or_else(|| unreachable!("there are shards"))
    }
}

/// The right to fetch, and the duty to say what became of it.
#[derive(Debug)]
pub struct Lead {
    fetches: Arc<Fetches>,
    key: Key,
    sender: watch::Sender<Told>,
}

impl Lead {
    /// What is fetched.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Whether somebody waits for it.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        // One receiver is in the table.
        self.sender.receiver_count() > 1
    }

    /// Tells those who wait, and those who come, of what they may have meanwhile.
    pub fn offer(&self, stale: Arc<Entry>) {
        self.sender.send_modify(|told| told.stale = Some(stale));
    }

    /// Tells those who wait.
    pub fn conclude(self, fetched: Fetched) {
        self.leave();
        self.sender.send_modify(|told| told.fetched = Some(fetched));
    }

    /// Whoever comes now begins anew.
    fn leave(&self) {
        let mut shard = self.fetches.shard(&self.key).lock();
        if shard.get(&self.key).is_some_and(|there| there.same_channel(&self.sender.subscribe())) {
            shard.remove(&self.key);
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A wait for another's fetch.
#[derive(Debug)]
pub struct Waiting(watch::Receiver<Told>);

impl Waiting {
    /// When the one who fetches began.
    #[must_use]
    pub fn began(&self) -> Millis {
        self.0.borrow().began
    }

    /// Returns what became of it, or what is given meanwhile if `takes` it. Cancel safe.
    pub async fn fetched(&mut self, takes: impl Fn(&Entry) -> bool) -> Fetched {
        let is_enough = |told: &Told| told.fetched.is_some() || told.stale.as_ref().is_some_and(|stale| takes(stale));
        match self.0.wait_for(|told| is_enough(told)).await {
            Ok(told) => {
                let stale = || told.stale.clone().map(Fetched::Stale);
                told.fetched.clone().or_else(stale).unwrap_or(Fetched::Failed)
            }
            Err(_) => Fetched::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::from(text.as_bytes())
    }

    #[tokio::test]
    async fn one_leads_and_the_others_wait() {
        let fetches = Arc::new(Fetches::default());
        let Turn::Lead(lead) = fetches.turn(&key("a")) else { panic!("nobody was there") };
        assert!(!lead.is_awaited());
        let Turn::Wait(mut waiting) = fetches.turn(&key("a")) else { panic!("there is a fetch") };
        assert!(lead.is_awaited());
        assert!(matches!(fetches.turn(&key("b")), Turn::Lead(_)));
        lead.conclude(Fetched::NotKept);
        assert!(matches!(waiting.fetched(|_| false).await, Fetched::NotKept));
        assert!(matches!(fetches.turn(&key("a")), Turn::Lead(_)));
    }

    #[tokio::test]
    async fn a_lead_that_is_dropped_leaves_its_place_to_another() {
        let fetches = Arc::new(Fetches::default());
        let Turn::Lead(lead) = fetches.turn(&key("a")) else { panic!("nobody was there") };
        let Turn::Wait(mut waiting) = fetches.turn(&key("a")) else { panic!("there is a fetch") };
        drop(lead);
        assert!(matches!(waiting.fetched(|_| false).await, Fetched::Failed));
        let Turn::Lead(_second) = fetches.turn(&key("a")) else { panic!("its place is free") };
    }
}
