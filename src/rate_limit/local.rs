//! The buckets of this process: all there are without `[redis]`; with it, what Redis said of them last.

use std::time::{Duration, Instant};

use super::bucket::{Bucket, Decision, Fill};
use super::key::Key;
use super::recent::Recent;

/// Buckets on a clock that starts with the process. They outlive every configuration; one that is not among the last
/// hundred thousand used may be forgotten, and is full then.
#[derive(Debug)]
pub struct Buckets {
    began: Instant,
    recent: Recent<Fill>,
}

/// One bucket a request is measured by.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Which rule of the route it is.
    pub rule: usize,
    pub key: Key,
    pub bucket: Bucket,
    /// Whether the request needs its tokens, or is only watched.
    pub must_agree: bool,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { began: Instant::now(), recent: Recent::default() }
    }
}

impl Buckets {
    /// Microseconds since the process started.
    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// What a bucket says, without taking anything.
    pub fn look(&self, ask: &Ask, now: u64) -> Decision {
        self.recent.update(&ask.key, |known| {
            let fill = known.filter(|fill| fill.full_at >= now);
            (ask.bucket.look(fill.unwrap_or_default(), now), fill)
        })
    }

    /// Takes the tokens of a request: of all buckets, or of none if one that must agree has too few. Of those that would have given
    /// theirs then, what is there is said.
    pub fn take(&self, asks: &[Ask], now: u64) -> Vec<Decision> {
        if let [ask] = asks {
            return vec![self.take_one(ask, now)];
        }
        let mut decisions: Vec<Decision> = asks.iter().map(|ask| self.look(ask, now)).collect();
        let refuses = |ask: &Ask, decision: &Decision| ask.must_agree && !decision.is_allowed();
        if asks.iter().zip(&decisions).any(|(ask, decision)| refuses(ask, decision)) {
            self.show(asks, &mut decisions, now);
            return decisions;
        }
        for (number, ask) in asks.iter().enumerate() {
            let decision = self.take_one(ask, now);
            if let Some(known) = decisions.get_mut(number) {
                *known = decision;
            }
            if refuses(ask, &decision) {
                // Somebody was faster since. What was taken goes back.
                for (taken, decision) in asks.iter().zip(&decisions).take(number) {
                    if decision.is_allowed() {
                        self.give_back(taken, now);
                    }
                }
                self.show(asks, &mut decisions, now);
                break;
            }
        }
        decisions
    }

    /// Has the decisions that would have taken something say what is there, as nothing is taken.
    fn show(&self, asks: &[Ask], decisions: &mut [Decision], now: u64) {
        for (ask, decision) in asks.iter().zip(decisions).filter(|(_, decision)| decision.is_allowed()) {
            *decision = self.look(&Ask { bucket: Bucket { cost: 0, ..ask.bucket }, ..*ask }, now);
        }
    }

    fn take_one(&self, ask: &Ask, now: u64) -> Decision {
        self.recent.update(&ask.key, |known| {
            let (decision, fill) = ask.bucket.take(known.unwrap_or_default(), now);
            (decision, Some(fill))
        })
    }

    /// Gives back what [`Buckets::take`] took of one bucket.
    pub fn give_back(&self, ask: &Ask, now: u64) {
        self.recent.update(&ask.key, |known| {
            ((), known.map(|fill| ask.bucket.give_back(fill, now)).filter(|fill| fill.full_at >= now))
        });
    }

    /// Knows nothing of a bucket any more.
    pub fn forget(&self, key: &Key) {
        self.recent.update(key, |_| ((), None));
    }

    /// Remembers what Redis said of a bucket when it was asked at `asked`. It decided then or later, so the bucket is never taken
    /// for emptier than it is.
    pub fn remember(&self, key: &Key, full_in: Duration, asked: u64) {
        let full_at = asked + u64::try_from(full_in.as_micros()).unwrap_or(0);
        let fill = Fill { full_at, ticks: 0 };
        self.recent.update(key, |_| ((), Some(fill).filter(|_| !full_in.is_zero())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Rate;

    fn ask(number: u8, burst: u32, must_agree: bool) -> Ask {
        let rate = Rate { count: 1, period: Duration::from_secs(1), burst, cost: 1 };
        Ask { rule: 0, key: Key([number; 16]), bucket: Bucket::new(&rate), must_agree }
    }

    #[test]
    fn one_that_refuses_takes_nothing_of_the_others() {
        let buckets = Buckets::default();
        let (wide, narrow) = (ask(1, 5, true), ask(2, 1, true));
        assert!(buckets.take(&[wide, narrow], 0).iter().all(Decision::is_allowed));
        let refused = buckets.take(&[wide, narrow], 0);
        assert!(refused[0].is_allowed() && !refused[1].is_allowed());
        assert_eq!((refused[0].remaining, refused[1].remaining), (4, 0));
    }

    #[test]
    fn one_that_only_watches_refuses_nobody() {
        let buckets = Buckets::default();
        let (counted, watching) = (ask(1, 5, true), ask(2, 1, false));
        buckets.take(&[counted, watching], 0);
        let second = buckets.take(&[counted, watching], 0);
        assert!(second[0].is_allowed() && !second[1].is_allowed());
        assert_eq!(second[0].remaining, 3);
    }

    #[test]
    fn many_threads_get_as_many_as_there_are() {
        let buckets = Buckets::default();
        let asks = [ask(1, 500, true), ask(2, 1000, true)];
        let allowed: usize = std::thread::scope(|scope| {
            let each = || (0..200).filter(|_| buckets.take(&asks, 0).iter().all(Decision::is_allowed)).count();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(each)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(allowed, 500);
        assert_eq!(buckets.look(&asks[1], 0).remaining, 499);
    }

    /// Two that need both of two buckets, of which one is nearly empty and the other is emptied and filled again meanwhile.
    #[test]
    fn whoever_is_refused_is_refused_whatever_comes_back_meanwhile() {
        let buckets = Buckets::default();
        let both = [ask(1, 1, true), ask(2, 1, true)];
        let turned = [both[1], both[0]];
        for _ in 0..300 {
            both.iter().for_each(|ask| buckets.forget(&ask.key));
            let allowed: usize = std::thread::scope(|scope| {
                let take = |asks: [Ask; 2]| usize::from(buckets.take(&asks, 0).iter().all(Decision::is_allowed));
                let threads: Vec<_> = [both, turned, both, turned].map(|asks| scope.spawn(move || take(asks))).into();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            assert!(allowed <= 1, "{allowed} by one token each");
        }
    }

    #[test]
    fn what_redis_said_is_known() {
        let buckets = Buckets::default();
        let ask = ask(1, 2, true);
        buckets.remember(&ask.key, Duration::from_secs(2), 0);
        assert_eq!(buckets.look(&ask, 0).wait, Duration::from_secs(1));
        buckets.remember(&ask.key, Duration::ZERO, 0);
        assert_eq!(buckets.look(&ask, 0).remaining, 1);
    }
}
