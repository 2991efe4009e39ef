//! Which endpoint gets the next request. Pure: counts and health are handed in.

/// What selection looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub in_flight: u32,
    pub weight: u32,
    pub backup: bool,
    pub healthy: bool,
    pub seen: Seen,
}

/// What a request knows of an endpoint from its tries before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Seen {
    #[default]
    Never,
    /// It was there already, and another place may do better.
    Tried,
    /// No connection could be made.
    Unreachable,
}

impl Candidate {
    /// Lower is better; none for one that is out of the question. When nothing is healthy the least bad one is tried:
    /// checks can be wrong, and a refused request is certain to fail. One that was tried comes after its equals, and before
    /// an unhealthy one.
    fn tier(self) -> Option<u8> {
        let standing = match (self.healthy, self.backup) {
            (true, false) => 0,
            (true, true) => 2,
            (false, false) => 4,
            (false, true) => 6,
        };
        match self.seen {
            Seen::Never => Some(standing),
            Seen::Tried => Some(standing + 1),
            Seen::Unreachable => None,
        }
    }

    /// Whether it would carry less than `other` with one request more, in proportion to the weights.
    fn lighter_than(self, other: Self) -> bool {
        let load = |c: Self, weight: u32| (u64::from(c.in_flight) + 1) * u64::from(weight);
        load(self, other.weight) < load(other, self.weight)
    }
}

/// The candidate with the fewest requests in flight for its weight, with its index; among equals, `turn` says which. The
/// counts are read twice, and may change in between.
#[must_use]
pub fn least_conn(candidates: impl Iterator<Item = Candidate> + Clone, turn: usize) -> Option<(usize, Candidate)> {
    let mut best: Option<(u8, usize, Candidate)> = None;
    let mut equals = 0_usize;
    for (index, candidate) in candidates.clone().enumerate() {
        let Some(tier) = candidate.tier() else { continue };
        match best {
            Some((best_tier, _, leader))
                if tier > best_tier || (tier == best_tier && leader.lighter_than(candidate)) => {}
            Some((best_tier, _, leader)) if tier == best_tier && !candidate.lighter_than(leader) => equals += 1,
            _ => {
                best = Some((tier, index, candidate));
                equals = 1;
            }
        }
    }
    let (best_tier, index, leader) = best?;
    let is_equal = |c: &Candidate| c.tier() == Some(best_tier) && !leader.lighter_than(*c);
    candidates.enumerate().filter(|(_, c)| is_equal(c)).nth(turn % equals).or(Some((index, leader)))
}

/// Longest schedule: beyond it weights are only approximated.
const SCHEDULE_MAX: u32 = 4096;

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

    /// The endpoint at place `turn`, or the next one in order within the best tier there is.
    #[must_use]
    pub fn next(&self, turn: usize, candidate: impl Fn(usize) -> Option<Candidate>) -> Option<(usize, Candidate)> {
        let places = || {
            let (before, after) = self.0.split_at_checked(turn % self.0.len().max(1)).unwrap_or_default();
            after.iter().chain(before).copied()
        };
        let ranked = |index: usize| candidate(index).and_then(|c| Some((c.tier()?, index, c)));
        // Nearly always the first place is healthy and untried.
        let best = match places().next().and_then(ranked) {
            Some(first @ (0, ..)) => Some(first),
            _ => places().filter_map(ranked).min_by_key(|(tier, ..)| *tier),
        };
        best.map(|(_, index, candidate)| (index, candidate))
    }
}

/// Weights divided by their greatest common divisor, and scaled down if their sum is too long a schedule.
fn reduced(mut weights: Vec<u32>) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    weights.iter_mut().for_each(|w| *w = (*w / divisor).max(1));
    let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    if total > u64::from(SCHEDULE_MAX) {
        let scale = total.div_ceil(u64::from(SCHEDULE_MAX));
        weights.iter_mut().for_each(|w| *w = u32::try_from(u64::from(*w) / scale).unwrap_or(1).max(1));
    }
    weights
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(in_flight: u32) -> Candidate {
        Candidate { in_flight, weight: 1, backup: false, healthy: true, seen: Seen::Never }
    }

    #[test]
    fn the_least_loaded_wins_and_equals_take_turns() {
        let list = [candidate(2), candidate(1), candidate(1)];
        let chosen: Vec<_> = (0..4).map(|turn| least_conn(list.iter().copied(), turn).unwrap().0).collect();
        assert_eq!(chosen, [1, 2, 1, 2]);
    }

    #[test]
    fn counts_that_change_meanwhile_leave_somebody_to_choose() {
        let reads = std::cell::Cell::new(0);
        let count = |_| {
            reads.set(reads.get() + 1);
            candidate(reads.get())
        };
        assert!(least_conn([0, 1].iter().map(count), 0).is_some());
    }

    #[test]
    fn load_is_weighed() {
        let list = [Candidate { weight: 1, ..candidate(1) }, Candidate { weight: 4, ..candidate(4) }];
        assert_eq!(least_conn(list.iter().copied(), 0).unwrap().0, 1);
    }

    #[test]
    fn backups_and_the_unhealthy_come_last_but_come() {
        let backup = Candidate { backup: true, ..candidate(0) };
        let down = Candidate { healthy: false, ..candidate(0) };
        let tried = Candidate { seen: Seen::Tried, ..candidate(0) };
        let unreachable = Candidate { seen: Seen::Unreachable, ..candidate(0) };
        for (list, expected) in [
            (vec![backup, candidate(9)], Some(1)),
            (vec![down, backup], Some(1)),
            (vec![down, Candidate { healthy: false, ..backup }], Some(0)),
            (vec![tried, candidate(9)], Some(1)),
            (vec![backup, tried], Some(1)),
            (vec![down, tried], Some(1)),
            (vec![unreachable, down], Some(1)),
            (vec![unreachable, tried, down], Some(1)),
            (vec![unreachable, unreachable], None),
            (vec![], None),
        ] {
            assert_eq!(least_conn(list.iter().copied(), 7).map(|c| c.0), expected, "{list:?}");
            let schedule = Schedule::new(list.iter().map(|c| c.weight));
            assert_eq!(schedule.next(7, |i| list.get(i).copied()).map(|c| c.0), expected, "{list:?}");
        }
    }

    #[test]
    fn round_robin_is_smooth() {
        assert_eq!(Schedule::new([2, 1].into_iter()).0, [0, 1, 0]);
        assert_eq!(Schedule::new([5, 1, 1].into_iter()).0, [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(Schedule::new([10, 10].into_iter()).0, [0, 1]);
        assert!(Schedule::new([u32::MAX, 1, 7].into_iter()).0.len() <= SCHEDULE_MAX as usize + 3);
    }

    proptest! {
        #[test]
        fn nobody_lighter_is_passed_over(list in prop::collection::vec((0_u32..20, 1_u32..5, any::<[bool; 2]>(), 0_usize..3), 0..12), turn in any::<usize>()) {
            let list: Vec<_> = list.into_iter().map(|(in_flight, weight, [backup, healthy], seen)| Candidate { in_flight, weight, backup, healthy, seen: [Seen::Never, Seen::Tried, Seen::Unreachable][seen] }).collect();
            match least_conn(list.iter().copied(), turn) {
                None => prop_assert!(list.iter().all(|c| c.seen == Seen::Unreachable)),
                Some((index, chosen)) => {
                    prop_assert_eq!(chosen, list[index]);
                    prop_assert!(chosen.seen != Seen::Unreachable);
                    for other in list.iter().filter(|c| c.seen != Seen::Unreachable) {
                        prop_assert!(chosen.tier() <= other.tier());
                        if chosen.tier() == other.tier() {
                            prop_assert!(!other.lighter_than(chosen));
                        }
                    }
                }
            }
        }

        #[test]
        fn round_robin_gives_each_its_share(weights in prop::collection::vec(1_u32..9, 1..6)) {
            let schedule = Schedule::new(weights.iter().copied());
            let list: Vec<_> = weights.iter().map(|w| Candidate { weight: *w, ..candidate(0) }).collect();
            let rounds = schedule.0.len();
            let mut counts = vec![0_u32; list.len()];
            for turn in 0..rounds {
                counts[schedule.next(turn, |i| list.get(i).copied()).unwrap().0] += 1;
            }
            let divisor = weights.iter().copied().fold(0, gcd);
            prop_assert_eq!(counts, weights.iter().map(|w| w / divisor).collect::<Vec<_>>());
        }
    }
}
