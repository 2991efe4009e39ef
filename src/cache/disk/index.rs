//! Which files there are, and which of them goes when there are too many bytes.

use std::sync::Arc;

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use super::Name;
use crate::observe::metrics::CacheHeld;

const SHARDS: usize = 4;
/// Bytes a file has, about.
const USUAL: u64 = 16 * 1024;
/// A file takes whole blocks of the filesystem.
const GRAIN: u64 = 4096;

/// What is known of a file.
#[derive(Debug, Clone)]
struct Filed {
    tag: u32,
    bytes: u64,
    _held: Option<Arc<CacheHeld>>,
}

#[derive(Debug, Clone)]
struct Weigh;

impl Weighter<Name, Filed> for Weigh {
    fn weight(&self, _: &Name, filed: &Filed) -> u64 {
        filed.bytes.next_multiple_of(GRAIN)
    }
}

/// Takes note of what goes.
#[derive(Debug, Clone)]
struct Evicted(Arc<Mutex<Vec<(Name, u32)>>>);

impl Lifecycle<Name, Filed> for Evicted {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), name: Name, filed: Filed) {
        self.0.lock().push((name, filed.tag));
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Index {
    files: Cache<Name, Filed, Weigh, DefaultHashBuilder, Evicted>,
    evicted: Arc<Mutex<Vec<(Name, u32)>>>,
}

impl Index {
    pub fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes / USUAL).unwrap_or(usize::MAX).clamp(32 * SHARDS, 1 << 22);
        let options =
            OptionsBuilder::new().shards(SHARDS).estimated_items_capacity(items).weight_capacity(bytes).build();
        let options = options.unwrap_or_else(|_| unreachable!("both capacities are given"));
        let evicted: Arc<Mutex<Vec<_>>> = Arc::default();
        let lifecycle = Evicted(evicted.clone());
        Self { files: Cache::with_options(options, Weigh, DefaultHashBuilder::default(), lifecycle), evicted }
    }

    pub fn resize(&self, bytes: u64) {
        self.files.set_capacity(bytes);
    }

    /// The rule that a file was kept by, if there is one of this name.
    pub fn tag(&self, name: &Name) -> Option<u32> {
        self.files.get(name).map(|filed| filed.tag)
    }

    /// A file is there. What has to go for it is in [`Index::evicted`], if there is no room at all it itself.
    pub fn insert(&self, name: Name, tag: u32, bytes: u64, held: Option<CacheHeld>) {
        self.files.insert(name, Filed { tag, bytes, _held: held.map(Arc::new) });
    }

    /// Forgets a file; the rule it was kept by.
    pub fn remove(&self, name: &Name) -> Option<u32> {
        self.files.remove(name).map(|(_, filed)| filed.tag)
    }

    /// What has gone since this was last asked, and is still on disk. The crate says so too of what was replaced: that is there again.
    pub fn evicted(&self) -> Vec<(Name, u32)> {
        let mut evicted = std::mem::take(&mut *self.evicted.lock());
        evicted.retain(|(name, tag)| self.tag(name) != Some(*tag));
        evicted
    }

    /// All names, with their rules.
    pub fn names(&self) -> Vec<(Name, u32)> {
        self.files.iter().map(|(name, filed)| (name, filed.tag)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_anew_has_not_gone() {
        let index = Index::new(1 << 20);
        let name = Name::of(b"a");
        index.insert(name, 1, 10, None);
        index.insert(name, 1, 20, None);
        assert_eq!(index.evicted(), []);
        index.insert(name, 2, 20, None);
        assert_eq!(index.evicted(), [(name, 1)], "that was another file");
        assert_eq!(index.tag(&name), Some(2));
    }
}
