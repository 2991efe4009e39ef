//! How many requests of one key are under way.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::key::Key;

const PARTS: usize = 64;

/// Counts by key; there are never more entries than requests.
#[derive(Debug)]
pub struct InFlight {
    parts: Box<[Mutex<HashMap<Key, u32>>]>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self { parts: (0..PARTS).map(|_| Mutex::default()).collect() }
    }
}

impl InFlight {
    /// Counts a request until the permit is dropped. The second is whether there were `most` before; then it is not counted
    /// unless `anyway`.
    pub fn enter(self: &Arc<Self>, key: Key, most: u32, anyway: bool) -> (Option<Permit>, bool) {
        let mut part = self.part(&key).lock();
        let count = part.entry(key).or_insert(0);
        let is_full = *count >= most;
        if is_full && !anyway {
            return (None, true);
        }
        *count += 1;
        (Some(Permit { of: self.clone(), key }), is_full)
    }

    fn part(&self, key: &Key) -> &Mutex<HashMap<Key, u32>> {
        let [first, ..] = key.0;
        let index = usize::from(first) % PARTS;
        // There are PARTS of them.
        #[allow(clippy::indexing_slicing)]
        &self.parts[index]
    }
}

/// A request that is counted, until dropped.
#[derive(Debug)]
pub struct Permit {
    of: Arc<InFlight>,
    key: Key,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut part = self.of.part(&self.key).lock();
        if let Some(count) = part.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                part.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_and_no_more() {
        let in_flight = Arc::new(InFlight::default());
        let (key, other) = (Key([1; 16]), Key([65; 16]));
        let (first, _) = in_flight.enter(key, 1, false);
        assert!(first.is_some());
        assert!(matches!(in_flight.enter(key, 1, false), (None, true)));
        assert!(matches!(in_flight.enter(other, 1, false), (Some(_), false)));
        let (watched, full) = in_flight.enter(key, 1, true);
        assert!(watched.is_some() && full);
        drop(first);
        assert!(matches!(in_flight.enter(key, 1, false), (None, true)));
        drop(watched);
        assert!(matches!(in_flight.enter(key, 1, false), (Some(_), false)));
        assert!(in_flight.parts.iter().all(|part| part.lock().is_empty()));
    }
}
