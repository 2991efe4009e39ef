//! Purges: by URL, by prefix, by tag; so that what was asked for before is not given after.
//!
//! A purge is a mark with a number. An entry knows the number of the last purge before it was asked for; when it is looked up and
//! there were others since, it is compared with their marks, once. So a purge costs no search, and an answer that is on its way
//! while it happens is caught as well.
//!
//! Marks are kept in two generations. When one is full the older is forgotten, and whatever is older than its last mark counts as
//! purged: too much may go, never too little.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use parking_lot::RwLock;

use super::entry::Entry;
use super::freshness::Millis;
use super::half_sha256 as hash;

/// Marks of a generation.
const GENERATION: usize = 65_536;
/// Of those, by prefix: each is compared with every entry.
const PREFIXES: usize = 512;

/// What is purged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The answers under one primary key.
    Key(Box<[u8]>),
    /// Those whose primary key begins so.
    Prefix(Box<[u8]>),
    /// Those with a tag.
    Tag(Box<[u8]>),
}

impl What {
    /// The primary key, where it is one.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        match self {
            Self::Key(key) => Some(key),
            Self::Prefix(_) | Self::Tag(_) => None,
        }
    }
}

/// Whether what is purged is gone, or stale: it may be given while a new one is fetched, or where none can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Hard,
    /// From this moment on.
    Soft(Millis),
}

/// What purges have to do with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Kept,
    /// It is marked as such.
    Stale,
    Gone,
}

/// What keys and tags are remembered by, so that long ones cost no more.
pub type Hash = [u8; 16];

/// All purges.
#[derive(Debug, Default)]
pub struct Purges {
    /// The number of the last.
    latest: AtomicU64,
    marks: RwLock<Marks>,
}

#[derive(Debug, Default)]
struct Marks {
    young: Generation,
    old: Generation,
    /// What was asked for after no later purge than this is gone.
    floor: u64,
}

#[derive(Debug, Default)]
struct Generation {
    keys: HashMap<Hash, Mark>,
    tags: HashMap<Hash, Mark>,
    prefixes: Vec<(Box<[u8]>, Mark)>,
    last: u64,
}

/// The last purges of one thing.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    hard: u64,
    soft: u64,
    soft_at: Millis,
}

impl Purges {
    /// The number of the last purge: what is asked for from now on is after it.
    #[must_use]
    pub fn latest(&self) -> u64 {
        self.latest.load(Relaxed)
    }

    /// Purges what was asked for until now.
    pub fn add(&self, what: What, how: How) {
        let mut marks = self.marks.write();
        let number = self.latest.load(Relaxed) + 1;
        marks.add(number, what, how);
        // After the mark is there: whoever reads the number finds it.
        self.latest.store(number, Relaxed);
    }

    /// The same of a key of which only the hash is known.
    pub fn add_hash(&self, key: Hash, how: How) {
        let mut marks = self.marks.write();
        let number = self.latest.load(Relaxed) + 1;
        let mark = marks.young.keys.entry(key).or_default();
        mark.add(number, how);
        marks.turn(number);
        self.latest.store(number, Relaxed);
    }

    /// The same with a number that somebody else has given; they grow.
    pub fn add_numbered(&self, number: u64, what: What, how: How) {
        let mut marks = self.marks.write();
        marks.add(number, what, how);
        self.latest.fetch_max(number, Relaxed);
    }

    /// It is not known any more what was purged before `number`: all that was asked for before is gone.
    pub fn forget_before(&self, number: u64) {
        let mut marks = self.marks.write();
        marks.floor = marks.floor.max(number);
        self.latest.fetch_max(number, Relaxed);
    }

    /// Compares an entry with the purges since it was asked for, and marks it where it is stale by them. One that is not gone is not
    /// compared with the same again.
    pub fn find(&self, entry: &Entry) -> Found {
        // Who sees the number sees the mark as well.
        let checked = entry.checked.load(Acquire);
        if checked == self.latest() {
            return Found::Kept;
        }
        let (key, tags) = (hash(&entry.primary), entry.tags.iter().map(|tag| hash(tag)).collect::<Vec<_>>());
        let marks = self.marks.read();
        let latest = self.latest.load(Relaxed);
        if checked < marks.floor {
            return Found::Gone;
        }
        let mut stale = None;
        let of = |generation| Generation::of(generation, &entry.primary, &key, &tags);
        for mark in [&marks.young, &marks.old].into_iter().flat_map(of) {
            if mark.hard > checked {
                return Found::Gone;
            }
            if mark.soft > checked {
                stale = Some(stale.map_or(mark.soft_at, |at: Millis| at.min(mark.soft_at)));
            }
        }
        stale.into_iter().for_each(|from| entry.make_stale(from));
        entry.checked.fetch_max(latest, Release);
        if stale.is_some() { Found::Stale } else { Found::Kept }
    }
}

impl Mark {
    fn add(&mut self, number: u64, how: How) {
        match how {
            How::Hard => self.hard = self.hard.max(number),
            How::Soft(at) => (self.soft, self.soft_at) = (self.soft.max(number), at),
        }
    }
}

impl Marks {
    fn add(&mut self, number: u64, what: What, how: How) {
        let young = &mut self.young;
        let mark = match what {
            What::Key(key) => young.keys.entry(hash(&key)).or_default(),
            What::Tag(tag) => young.tags.entry(hash(&tag)).or_default(),
            What::Prefix(prefix) => {
                let at = young.prefixes.iter().position(|(known, _)| *known == prefix);
                let at = at.unwrap_or_else(|| {
                    young.prefixes.push((prefix, Mark::default()));
                    young.prefixes.len() - 1
                });
                match young.prefixes.get_mut(at) {
                    Some((_, mark)) => mark,
                    None => return,
                }
            }
        };
        mark.add(number, how);
        self.turn(number);
    }

    /// Forgets the older generation when the younger is full.
    fn turn(&mut self, number: u64) {
        let young = &mut self.young;
        young.last = number;
        if young.keys.len() + young.tags.len() >= GENERATION || young.prefixes.len() >= PREFIXES {
            let full = std::mem::take(young);
            let forgotten = std::mem::replace(&mut self.old, full);
            self.floor = self.floor.max(forgotten.last);
        }
    }
}

impl Generation {
    /// The marks that an entry bears.
    fn of<'a>(&'a self, primary: &'a [u8], key: &Hash, tags: &'a [Hash]) -> impl Iterator<Item = &'a Mark> + use<'a> {
        let by_key = self.keys.get(key);
        let by_tag = tags.iter().filter_map(|tag| self.tags.get(tag));
        let by_prefix = self.prefixes.iter().filter(|(prefix, _)| primary.starts_with(prefix));
        by_key.into_iter().chain(by_tag).chain(by_prefix.map(|(_, mark)| mark))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::entry::{Body, Head};
    use crate::cache::policy::Terms;
    use crate::headers::Headers;
    use http::{HeaderValue, StatusCode};

    fn entry(purges: &Purges, key: &str, tags: &'static str) -> Entry {
        let mut headers = Headers::default();
        headers.insert(http::HeaderName::from_static("cache-tag"), HeaderValue::from_static(tags));
        let head = Head {
            primary: key.as_bytes().into(),
            status: StatusCode::OK,
            headers,
            terms: Terms {
                came: 0,
                initial_age: 0,
                fresh_until: 100,
                stale_while_revalidate: 0,
                stale_if_error: 0,
                may_be_stale: true,
                no_cache: false,
                for_authorized: false,
            },
            varies: Box::default(),
            variant: Box::default(),
            asked_after: purges.latest(),
        };
        Entry::new(head, Body::Here(bytes::Bytes::new()))
    }

    fn key(text: &str) -> Box<[u8]> {
        text.as_bytes().into()
    }

    #[test]
    fn what_was_asked_for_before_is_gone_and_what_came_after_is_not() {
        let purges = Purges::default();
        let (a, b) = (entry(&purges, "/a", "x,y"), entry(&purges, "/b", "y"));
        assert_eq!(purges.find(&a), Found::Kept);
        purges.add(What::Key(key("/a")), How::Hard);
        assert_eq!((purges.find(&a), purges.find(&b)), (Found::Gone, Found::Kept));
        let again = entry(&purges, "/a", "x,y");
        assert_eq!(purges.find(&again), Found::Kept);
        purges.add(What::Tag(key("y")), How::Soft(7));
        assert_eq!((purges.find(&again), purges.find(&b)), (Found::Stale, Found::Stale));
        // Whoever looks next has nothing to compare, and finds what the first has.
        assert_eq!((purges.find(&again), again.stale_from()), (Found::Kept, Some(7)));
        purges.add(What::Prefix(key("/")), How::Hard);
        assert_eq!((purges.find(&again), purges.find(&b)), (Found::Gone, Found::Gone));
        assert_eq!(purges.find(&entry(&purges, "/a", "x")), Found::Kept);
    }

    #[test]
    fn more_marks_than_are_kept_purge_more_and_never_less() {
        let purges = Purges::default();
        let (marked, other) = (entry(&purges, "/marked", ""), entry(&purges, "/other", ""));
        purges.add(What::Key(key("/marked")), How::Hard);
        let later = entry(&purges, "/later", "");
        for number in 0..GENERATION * 2 {
            purges.add(What::Key(key(&format!("/{number}"))), How::Hard);
        }
        assert_eq!(purges.find(&marked), Found::Gone);
        assert_eq!(purges.find(&other), Found::Gone, "it is not known any more that it was not meant");
        assert_eq!(purges.find(&later), Found::Gone);
        assert_eq!(purges.find(&entry(&purges, "/new", "")), Found::Kept);
    }
}
