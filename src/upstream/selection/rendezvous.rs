//! Requests with the same key go to the same endpoint, as far as its load allows.
//!
//! Each endpoint draws a number for the key, and the highest one wins (rendezvous hashing): an endpoint that comes or goes
//! moves only the keys it wins or won. Nobody gets more than 1.25 times what is its part of all requests in flight (bounded
//! load), unless that is few: the next in rank takes the rest, always in the same order for a key.

use std::cmp::Reverse;

use super::{Candidate, all, best_class};
use crate::upstream::chance;

/// As many in flight are no load that would be worth sending a key elsewhere for: what one browser asks for at once, or the next
/// request that comes before the slot of the last is back.
const FEW: u32 = 8;

/// The number an endpoint is known by, made of the text of its address.
#[must_use]
pub fn id(label: &str) -> u64 {
    key_number(label.as_bytes())
}

/// A number for bytes that every process makes the same (FNV-1a).
#[must_use]
pub fn key_number(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
    chance::mix(bytes.iter().fold(0xCBF2_9CE4_8422_2325, step))
}

/// The first in rank for `key` that is in question and not over its bound, with its index; where all are over it, the first
/// in rank. The candidates are read twice, and may change in between.
#[must_use]
pub fn highest(at: &impl Fn(usize) -> Option<Candidate>, key: u64) -> Option<(usize, Candidate)> {
    let best = best_class(at)?;
    let (mut in_flight, mut weight) = (0_u128, 0_u128);
    for (_, candidate) in all(at).filter(|(_, candidate)| candidate.class() == Some(best)) {
        in_flight += u128::from(candidate.in_flight);
        weight += u128::from(candidate.weight);
    }
    // In whole numbers, with the request that is to be placed: more than ceil(1.25 * (in_flight + 1) * its part).
    let is_over = |c: &Candidate| {
        c.in_flight >= FEW && u128::from(c.in_flight) * 4 * weight >= 5 * (in_flight + 1) * u128::from(c.weight)
    };
    let rank = |c: &Candidate| (c.drawback, is_over(c), Reverse(Score(score(c, key))));
    all(at).filter(|(_, c)| c.fits(best)).min_by_key(|(_, c)| rank(c))
}

/// The number a candidate draws: one that wins in proportion to the weights.
fn score(candidate: &Candidate, key: u64) -> f64 {
    let drawn = chance::mix(key ^ candidate.id);
    let upper = u32::try_from(drawn >> 32).unwrap_or(u32::MAX);
    // Strictly between 0 and 1.
    let part = (f64::from(upper) + 0.5) / (f64::from(u32::MAX) + 1.0);
    f64::from(candidate.weight) / -part.ln()
}

/// A score in its order; it is never NaN.
#[derive(PartialEq)]
struct Score(f64);

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Condition;
    use super::super::tests::{candidate, list_of};
    use super::*;
    use proptest::prelude::*;

    fn endpoints(count: usize) -> Vec<Candidate> {
        (0..count).map(|n| Candidate { id: id(&format!("10.0.0.{n}:8000")), ..candidate(0) }).collect()
    }

    fn home(list: &[Candidate], key: u64) -> usize {
        highest(&list_of(list), key).unwrap().0
    }

    #[test]
    fn keys_are_spread_by_weight() {
        let mut list = endpoints(3);
        list[1].weight = 2;
        let mut counts = [0_u32; 3];
        (0..8000).for_each(|key| counts[home(&list, chance::mix(key))] += 1);
        assert!((1800..2200).contains(&counts[0]) && (3700..4300).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn only_the_keys_of_the_one_that_leaves_move() {
        let list = endpoints(5);
        let mut less = list.clone();
        less[2].condition = Condition::Out;
        for key in (0..2000).map(chance::mix) {
            let (before, after) = (home(&list, key), home(&less, key));
            assert!(before == after || before == 2 && after != 2);
        }
    }

    #[test]
    fn who_is_full_or_over_its_bound_is_skipped() {
        let mut list = endpoints(4);
        let key = 7;
        let first = home(&list, key);
        list[first].free = false;
        let second = home(&list, key);
        assert_ne!(first, second);
        list[first] = Candidate { free: true, in_flight: FEW - 1, ..list[first] };
        assert_eq!(home(&list, key), first, "that few are no load");
        list[first].in_flight = FEW;
        assert_eq!(home(&list, key), second, "8 of 8 in flight are over a bound of 3");
        list.iter_mut().for_each(|c| c.in_flight = FEW);
        assert_eq!(home(&list, key), first);
        list.iter_mut().for_each(|c| c.free = false);
        assert!(highest(&list_of(&list), key).is_none());
    }

    proptest! {
        #[test]
        fn no_load_passes_its_bound(keys in prop::collection::vec(0_u64..3, 1..300), weights in prop::collection::vec(1_u32..4, 1..8)) {
            let mut list = endpoints(weights.len());
            list.iter_mut().zip(&weights).for_each(|(c, w)| c.weight = *w);
            let total: u32 = weights.iter().sum();
            for (n, key) in keys.iter().enumerate() {
                let index = home(&list, *key);
                list[index].in_flight += 1;
                let part = 1.25 * f64::from(u32::try_from(n + 1).unwrap()) * f64::from(weights[index]) / f64::from(total);
                prop_assert!(f64::from(list[index].in_flight) <= part.ceil().max(FEW.into()));
            }
        }
    }
}
