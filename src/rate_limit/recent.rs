//! A map of what was used lately, of bounded size: what has not been used for longest is forgotten.
//!
//! Kept in many parts, each with a lock of its own and two generations. What is used moves into the young one; when that is full
//! the old one is forgotten and the young one becomes old. That costs no list to keep in order, and forgets nothing that was
//! among the last [`EACH`] used of its part.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::RandomState;

use parking_lot::Mutex;

use super::key::Key;

const PARTS: usize = 64;
/// Entries of one generation.
const EACH: usize = 2048;
/// Entries altogether, at most.
#[cfg(test)]
const MOST: usize = PARTS * EACH * 2;

/// Values by key.
#[derive(Debug)]
pub struct Recent<V> {
    parts: Box<[Mutex<Part<V>>]>,
}

#[derive(Debug)]
struct Part<V> {
    young: HashMap<Key, V, RandomState>,
    old: HashMap<Key, V, RandomState>,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        let part = || Mutex::new(Part { young: HashMap::new(), old: HashMap::new() });
        Self { parts: (0..PARTS).map(|_| part()).collect() }
    }
}

impl<V: Copy> Recent<V> {
    /// Lets `change` see what is under `key` and say what is there afterwards; none: nothing.
    pub fn update<T>(&self, key: &Key, change: impl FnOnce(Option<V>) -> (T, Option<V>)) -> T {
        let [first, ..] = key.0;
        let Some(part) = self.parts.get(usize::from(first) % PARTS) else { return change(None).0 };
        let mut part = part.lock();
        let Part { young, old } = &mut *part;
        let is_full = young.len() >= EACH;
        // Hashed once where it is there, which is the usual case.
        match young.entry(*key) {
            Entry::Occupied(mut there) => {
                let (result, value) = change(Some(*there.get()));
                match value {
                    Some(value) => *there.get_mut() = value,
                    None => drop(there.remove()),
                }
                result
            }
            Entry::Vacant(place) => {
                let (result, value) = change(old.remove(key));
                match value {
                    Some(value) if is_full => {
                        *old = std::mem::take(young);
                        young.insert(*key, value);
                    }
                    Some(value) => drop(place.insert(value)),
                    None => {}
                }
                result
            }
        }
    }

    /// Entries there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock()).map(|part| part.young.len() + part.old.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Key {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        Key(bytes)
    }

    fn put(recent: &Recent<u64>, number: u64) {
        recent.update(&key(number), |_| ((), Some(number)));
    }

    fn get(recent: &Recent<u64>, number: u64) -> Option<u64> {
        recent.update(&key(number), |known| (known, known))
    }

    #[test]
    fn what_is_used_stays_and_the_oldest_goes() {
        let recent = Recent::default();
        put(&recent, 0);
        put(&recent, 64);
        for number in 2..10_000 {
            put(&recent, number * 64);
            assert_eq!(get(&recent, 64), Some(64));
        }
        assert_eq!(get(&recent, 0), None);
        assert!(recent.len() <= 2 * EACH);
    }

    #[test]
    fn it_never_grows_beyond_its_bound() {
        let recent = Recent::default();
        (0..2 * MOST as u64).for_each(|number| put(&recent, number));
        assert!(recent.len() <= MOST, "{}", recent.len());
        assert!(recent.len() >= MOST / 2, "{}", recent.len());
    }

    #[test]
    fn what_is_taken_away_is_gone() {
        let recent = Recent::default();
        put(&recent, 1);
        recent.update(&key(1), |known| (assert_eq!(known, Some(1)), None));
        assert_eq!(get(&recent, 1), None);
        assert_eq!(recent.len(), 0);
    }
}
