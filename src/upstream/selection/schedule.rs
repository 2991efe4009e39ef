//! Weighted round robin, as an order made beforehand.

use super::{Candidate, best_class};

/// Longest schedule: beyond it weights are only approximated.
const LONGEST: u32 = 4096;

/// The order of weighted round robin, spread evenly (2:1 is A B A, not A A B).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Schedule(Vec<usize>);

impl Schedule {
    /// The schedule for endpoints of these weights.
    #[must_use]
    pub fn new(weights: impl Iterator<Item = u32>) -> Self {
        let weights = reduced(weights.collect());
        let total: i64 = weights.iter().map(|w| i64::from(*w)).sum();
        let mut current = vec![0_i64; weights.len()];
        let mut order = Vec::new();
        for _ in 0..total {
            current.iter_mut().zip(&weights).for_each(|(c, w)| *c += i64::from(*w));
            // The first of the greatest, so that equal weights go in the order written.
            let next = current.iter().enumerate().max_by_key(|(index, c)| (**c, std::cmp::Reverse(*index)));
            let Some((index, _)) = next else { break };
            if let Some(c) = current.get_mut(index) {
                *c -= total;
            }
            order.push(index);
        }
        Self(order)
    }

    /// The endpoint at place `turn`, or the next one in order that is in question.
    #[must_use]
    pub fn next(&self, turn: usize, at: &impl Fn(usize) -> Option<Candidate>) -> Option<(usize, Candidate)> {
        let places = || {
            let (before, after) = self.0.split_at_checked(turn % self.0.len().max(1)).unwrap_or_default();
            after.iter().chain(before).copied()
        };
        // Nearly always the first place is well, free and untried.
        if let Some((index, first)) = places().next().and_then(|index| Some((index, at(index)?)))
            && first.is_sound()
        {
            return Some((index, first));
        }
        let best = best_class(at)?;
        let fits = |index| at(index).filter(|c| c.fits(best)).map(|c| (index, c));
        // Looked for among the few endpoints before all the places are gone through.
        let least = super::all(at).filter(|(_, c)| c.fits(best)).map(|(_, c)| c.drawback).min()?;
        let in_turn = places().filter_map(fits).find(|(_, c)| c.drawback <= least);
        in_turn.or_else(|| super::all(at).find(|(_, c)| c.fits(best)))
    }

    #[cfg(test)]
    pub(super) fn order(&self) -> &[usize] {
        &self.0
    }
}

/// Weights divided by their greatest common divisor, and scaled down if their sum is too long a schedule.
fn reduced(mut weights: Vec<u32>) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    weights.iter_mut().for_each(|w| *w = (*w / divisor).max(1));
    let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    if total > u64::from(LONGEST) {
        let scale = total.div_ceil(u64::from(LONGEST));
        weights.iter_mut().for_each(|w| *w = u32::try_from(u64::from(*w) / scale).unwrap_or(1).max(1));
    }
    weights
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::super::Drawback;
    use super::super::tests::{candidate, list_of};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn round_robin_is_smooth() {
        assert_eq!(Schedule::new([2, 1].into_iter()).order(), [0, 1, 0]);
        assert_eq!(Schedule::new([5, 1, 1].into_iter()).order(), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(Schedule::new([10, 10].into_iter()).order(), [0, 1]);
        assert!(Schedule::new([u32::MAX, 1, 7].into_iter()).order().len() <= LONGEST as usize + 3);
        assert!(Schedule::new(std::iter::empty()).next(3, &list_of(&[])).is_none());
    }

    #[test]
    fn whoever_starts_slowly_is_passed_over_but_not_alone() {
        let slow = Candidate { drawback: Drawback::Reluctant, ..candidate(0) };
        let schedule = Schedule::new([1, 1].into_iter());
        for turn in 0..4 {
            assert_eq!(schedule.next(turn, &list_of(&[slow, candidate(9)])).unwrap().0, 1);
            assert_eq!(schedule.next(turn, &list_of(&[slow, slow])).unwrap().0, turn % 2);
            let full = Candidate { free: false, ..candidate(9) };
            assert_eq!(schedule.next(turn, &list_of(&[slow, full])).unwrap().0, 0);
        }
    }

    proptest! {
        #[test]
        fn round_robin_gives_each_its_share(weights in prop::collection::vec(1_u32..9, 1..6)) {
            let schedule = Schedule::new(weights.iter().copied());
            let list: Vec<_> = weights.iter().map(|w| Candidate { weight: *w, ..candidate(0) }).collect();
            let mut counts = vec![0_u32; list.len()];
            for turn in 0..schedule.order().len() {
                counts[schedule.next(turn, &list_of(&list)).unwrap().0] += 1;
            }
            let divisor = weights.iter().copied().fold(0, gcd);
            prop_assert_eq!(counts, weights.iter().map(|w| w / divisor).collect::<Vec<_>>());
        }
    }
}
