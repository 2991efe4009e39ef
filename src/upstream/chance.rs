//! Cheap random numbers for spreading load. Nobody gains by foreseeing them; they are not for secrets.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};

thread_local! {
    static STATE: Cell<u64> = Cell::new(RandomState::new().build_hasher().finish());
}

/// The golden ratio as a fraction of 2^64: an odd step that visits every number once.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// A random number. Every thread has a sequence of its own.
#[must_use]
pub fn next() -> u64 {
    // A thread that is ending has no sequence any more; what it chooses is as good as any.
    let step = STATE.try_with(|state| {
        state.set(state.get().wrapping_add(STEP));
        state.get()
    });
    mix(step.unwrap_or(STEP))
}

/// Spreads a number over all 64 bits: numbers that differ in one bit have nothing in common afterwards (the finaliser of
/// `SplitMix64`). Two numbers never become one.
#[must_use]
pub const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

/// Brings a random number below `bound`, as evenly as 64 bits allow; 0 where `bound` is.
#[must_use]
pub fn below(random: u64, bound: usize) -> usize {
    let scaled = (u128::from(random) * bound as u128) >> 64;
    usize::try_from(scaled).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_do_not_repeat_and_threads_do_not_agree() {
        let mine: Vec<_> = (0..100).map(|_| next()).collect();
        let theirs = std::thread::spawn(|| (0..100).map(|_| next()).collect::<Vec<_>>()).join().unwrap();
        let mut all = [mine, theirs].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 200);
    }

    #[test]
    fn every_place_gets_its_share() {
        let mut counts = [0_u32; 5];
        (0..5000).for_each(|_| counts[below(next(), 5)] += 1);
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn it_stays_below(random: u64, bound in 1_usize..1_000_000) {
            prop_assert!(below(random, bound) < bound);
            prop_assert_eq!(below(random, 0), 0);
        }
    }
}
