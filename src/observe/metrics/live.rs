//! The handles that are in use, by name.
//!
//! Whoever records holds its handle by `Arc`; here it is only known weakly. A reload that keeps a name finds the handle again,
//! with its counts. A handle that the last configuration and the last request let go of is gone from the next scrape.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

#[derive(Debug)]
pub(super) struct Live<K, T> {
    handles: Mutex<BTreeMap<K, Weak<T>>>,
}

impl<K, T> Default for Live<K, T> {
    fn default() -> Self {
        Self { handles: Mutex::new(BTreeMap::new()) }
    }
}

impl<K: Ord, T> Live<K, T> {
    /// The handle under `key`, made now if nobody holds one.
    pub(super) fn get(&self, key: K, make: impl FnOnce(&K) -> T) -> Arc<T> {
        let mut handles = self.handles.lock();
        if let Some(handle) = handles.get(&key).and_then(Weak::upgrade) {
            return handle;
        }
        let handle = Arc::new(make(&key));
        handles.insert(key, Arc::downgrade(&handle));
        handle
    }

    /// Every handle somebody holds, in the order of the keys; forgets the others.
    pub(super) fn all(&self) -> Vec<Arc<T>> {
        let mut all = Vec::new();
        self.handles.lock().retain(|_, handle| match handle.upgrade() {
            Some(handle) => {
                all.push(handle);
                true
            }
            None => false,
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_lives_as_long_as_its_holders() {
        let live: Live<&str, String> = Live::default();
        let first = live.get("a", |key| format!("{key}1"));
        assert!(Arc::ptr_eq(&first, &live.get("a", |key| format!("{key}2"))));
        let _other = live.get("b", |key| format!("{key}1"));
        assert_eq!(live.all().len(), 2);
        drop(first);
        assert_eq!(live.all().len(), 1);
        assert_eq!(*live.get("a", |key| format!("{key}2")), "a2");
    }
}
