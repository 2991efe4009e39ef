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

    /// Whether it is in question whatever the others are, and nothing speaks against it.
    fn is_sound(&self) -> bool {
        self.fits((Condition::Well, false)) && self.drawback == Drawback::None
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

/// Among so many or fewer all are looked at: that costs less than to be clever.
const FEW: usize = 8;

/// One that nothing can beat: idle, of the `heaviest` weight of all `count`, with nothing against it. It is looked for in a few
/// places at random, so that the choice among very many costs no more than among few, as long as one in some is idle. None: look at
/// all.
#[must_use]
pub fn idle(
    at: &impl Fn(usize) -> Option<Candidate>,
    count: usize,
    heaviest: u32,
    random: u64,
) -> Option<(usize, Candidate)> {
    let glances = if count > FEW { FEW as u64 } else { 0 };
    (0..glances).find_map(|glance| {
        let index = chance::below(chance::mix(random ^ glance), count);
        let is_unbeaten =
            |c: &Candidate| c.in_flight == 0 && c.weight == heaviest && c.share == FULL_SHARE && c.is_sound();
        Some(index).zip(at(index).filter(is_unbeaten))
    })
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

/// The better of two that `random` names of all `count`, with its index. The candidates are read twice, and may change in between.
#[must_use]
pub fn two_choices(at: &impl Fn(usize) -> Option<Candidate>, count: usize, random: u64) -> Option<(usize, Candidate)> {
    let better = |one: (usize, Candidate), other: (usize, Candidate)| if other.1.before(&one.1) { other } else { one };
    // Any one, and any of the others, each as likely.
    let pair = |random: u64, count: usize| {
        let one = chance::below(random, count);
        (one, (one + 1 + chance::below(chance::mix(random), count.saturating_sub(1))) % count.max(1))
    };
    // Nearly always any two are in question, and the others need no look.
    let (one, other) = pair(random, count);
    let sound = |index| Some(index).zip(at(index).filter(Candidate::is_sound));
    if let (Some(one), Some(other)) = (sound(one), sound(other)) {
        return Some(better(one, other));
    }
    let best = best_class(at)?;
    let fit = || all(at).filter(|(_, candidate)| candidate.fits(best));
    let least = fit().map(|(_, candidate)| candidate.drawback).min()?;
    let equals = || fit().filter(|(_, candidate)| candidate.drawback == least);
    // With another number: the first is one of those that name somebody who is not in question.
    let (one, other) = pair(chance::mix(!random), equals().count());
    let (one, other) = (equals().nth(one), equals().nth(other));
    match (one, other) {
        (Some(one), Some(other)) => Some(better(one, other)),
        (one, other) => one.or(other).or_else(|| fit().next()),
    }
}

#[cfg(test)]
mod tests;
