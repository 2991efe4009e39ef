//! Which endpoint gets the next request. Pure: counts, standing and chance are handed in.
//!
//! All ways of balancing agree on who is in question: the free ones of the best class there is. A class is not left because its
//! endpoints are busy, only because none of them is any good: then requests wait.

pub mod rendezvous;
pub mod schedule;

use crate::upstream::chance;

/// A full share, in the unit of [`Candidate::share`].
pub const FULL_SHARE: u16 = 1000;

/// What selection looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// What rendezvous hashing knows the endpoint by.
    pub id: u64,
    pub in_flight: u32,
    /// Whether it can take one request more.
    pub free: bool,
    pub weight: u32,
    /// How much of its weight counts while it starts slowly, in thousandths; at least 1.
    pub share: u16,
    pub backup: bool,
    pub condition: Condition,
    pub drawback: Drawback,
}

/// What speaks against an endpoint for one request among its equals, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drawback {
    None,
    /// It starts slowly, and the dice are against it this time.
    Reluctant,
    /// The request was there already, and another place may do better.
    Tried,
}

/// How an endpoint is, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    Well,
    /// Checks fail. When nothing is better it is tried: checks can be wrong, and a refused request is certain to fail.
    Unhealthy,
    /// Left out because requests failed on it; better than nothing all the same.
    Ejected,
    /// Drained, or no connection can be made: out of the question for now.
    Out,
}

/// Where a candidate stands whatever it carries; lower is better. Backups come right after their equals.
type Class = (Condition, bool);

impl Candidate {
    fn class(&self) -> Option<Class> {
        (self.condition != Condition::Out).then_some((self.condition, self.backup))
    }

    /// Whether it is in question when `best` is the best class there is.
    fn fits(&self, best: Class) -> bool {
        self.free && self.class() == Some(best)
    }

    /// Whether it would carry less than `other` with one request more, in proportion to what counts of the weights.
    fn lighter_than(&self, other: &Self) -> bool {
        let load = |one: &Self, other: &Self| {
            (u128::from(one.in_flight) + 1) * u128::from(other.weight) * u128::from(other.share)
        };
        load(self, other) < load(other, self)
    }

    /// Whether it is to be chosen before `other`, both in question.
    fn before(&self, other: &Self) -> bool {
        match self.drawback.cmp(&other.drawback) {
            std::cmp::Ordering::Equal => self.lighter_than(other),
            order => order.is_lt(),
        }
    }
}

/// All candidates with their indices; `at` answers none past the last.
fn all(at: &impl Fn(usize) -> Option<Candidate>) -> impl Iterator<Item = (usize, Candidate)> {
    (0..).map_while(|index| Some((index, at(index)?)))
}

fn best_class(at: &impl Fn(usize) -> Option<Candidate>) -> Option<Class> {
    all(at).filter_map(|(_, candidate)| candidate.class()).min()
}

/// The candidate with the fewest requests in flight for its weight, with its index; among equals, `turn` says which. The
/// counts are read twice, and may change in between.
#[must_use]
pub fn least_conn(at: &impl Fn(usize) -> Option<Candidate>, turn: usize) -> Option<(usize, Candidate)> {
    let mut best: Option<Class> = None;
    let mut leader: Option<(usize, Candidate)> = None;
    let mut equals = 0_usize;
    for (index, candidate) in all(at) {
        let Some(class) = candidate.class() else { continue };
        if best.is_none_or(|best| class < best) {
            (best, leader) = (Some(class), None);
        }
        if !candidate.free || best != Some(class) {
            continue;
        }
        match &leader {
            Some((_, leader)) if leader.before(&candidate) => {}
            Some((_, leader)) if !candidate.before(leader) => equals += 1,
            _ => (leader, equals) = (Some((index, candidate)), 1),
        }
    }
    let (index, leader) = leader?;
    if equals == 1 {
        return Some((index, leader));
    }
    let is_equal = |c: &Candidate| c.fits((leader.condition, leader.backup)) && !leader.before(c);
    all(at).filter(|(_, c)| is_equal(c)).nth(turn % equals).or(Some((index, leader)))
}

/// The better of two that `random` names, with its index. The candidates are read twice, and may change in between.
#[must_use]
pub fn two_choices(at: &impl Fn(usize) -> Option<Candidate>, random: u64) -> Option<(usize, Candidate)> {
    let best = best_class(at)?;
    let fit = || all(at).filter(|(_, candidate)| candidate.fits(best));
    let least = fit().map(|(_, candidate)| candidate.drawback).min()?;
    let equals = || fit().filter(|(_, candidate)| candidate.drawback == least);
    let count = equals().count();
    let one = chance::below(random, count);
    // Any of the others, each as likely.
    let other = (one + 1 + chance::below(chance::mix(random), count.saturating_sub(1))) % count.max(1);
    let (one, other) = (equals().nth(one), equals().nth(other));
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.1.before(&one.1) { other } else { one }),
        (one, other) => one.or(other).or_else(|| fit().next()),
    }
}

#[cfg(test)]
mod tests;
