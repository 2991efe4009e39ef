//! The token bucket: pure arithmetic in whole numbers, time is an argument.
//!
//! A bucket is known by one moment: when it will be full again. Before that moment tokens are missing, as many as come in until
//! then; a bucket that is not there is full. That is all there is to keep, and it is worth nothing once it has passed.
//!
//! With a rate of `tokens` in `micros` (lowest terms), a **tick** is the `1/tokens`th part of a microsecond: a token is worth `micros`
//! ticks, and every microsecond brings `tokens` of them. Nothing is ever rounded, so no request is counted half.
//! `token_bucket.lua` does the same in Redis; `tests/it/rate_limit_model.rs` holds the two side by side.

use std::time::Duration;

use crate::config::model::Rate;

/// A rate, ready to be counted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Ticks a microsecond brings.
    pub tokens: u64,
    /// Ticks a token is worth.
    pub micros: u64,
    /// Tokens a full bucket has.
    pub burst: u64,
    /// Tokens a request takes.
    pub cost: u64,
}

/// What is kept of a bucket that is not full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fill {
    /// When it is full: microseconds on the clock that counts, whichever that is.
    pub full_at: u64,
    /// Ticks beyond that; fewer than one microsecond brings.
    pub ticks: u64,
}

/// What a bucket says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// How long until the request could have its tokens; zero: it may have them now.
    pub wait: Duration,
    /// Whole tokens left, after this request.
    pub remaining: u64,
    /// How long until the bucket is full.
    pub full_in: Duration,
}

impl Decision {
    /// Whether the tokens are there.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.wait.is_zero()
    }
}

impl Bucket {
    /// Of a rate whose [`Rate::ticks`] are at most [`Rate::TICKS_MAX`].
    #[must_use]
    pub fn new(rate: &Rate) -> Self {
        let (tokens, micros) = rate.lowest_terms();
        Self { tokens, micros, burst: rate.burst.into(), cost: rate.cost.into() }
    }

    /// What the bucket says at `now`, and how it is after the tokens were taken; as it was where they are not there.
    #[must_use]
    pub fn take(&self, fill: Fill, now: u64) -> (Decision, Fill) {
        let (size, price) = (self.burst * self.micros, self.cost * self.micros);
        let missing = self.missing(fill, now);
        let after = missing + price;
        if after <= size {
            return (self.decision(0, after), self.fill(after, now));
        }
        (self.decision((after - size).div_ceil(self.tokens), missing), self.fill(missing, now))
    }

    /// As [`Bucket::take`], without taking anything.
    #[must_use]
    pub fn look(&self, fill: Fill, now: u64) -> Decision {
        self.take(fill, now).0
    }

    /// The bucket with the tokens of one request back in it.
    #[must_use]
    pub fn give_back(&self, fill: Fill, now: u64) -> Fill {
        self.fill(self.missing(fill, now).saturating_sub(self.cost * self.micros), now)
    }

    /// Ticks missing at `now`; all of them at most, wherever `fill` comes from.
    fn missing(&self, fill: Fill, now: u64) -> u64 {
        let size = self.burst * self.micros;
        match fill.full_at.checked_sub(now) {
            None => 0,
            Some(ahead) => ahead.saturating_mul(self.tokens).saturating_add(fill.ticks).min(size),
        }
    }

    fn fill(&self, missing: u64, now: u64) -> Fill {
        Fill { full_at: now + missing / self.tokens, ticks: missing % self.tokens }
    }

    fn decision(&self, wait: u64, missing: u64) -> Decision {
        Decision {
            wait: Duration::from_micros(wait),
            remaining: (self.burst * self.micros - missing) / self.micros,
            full_in: Duration::from_micros(missing.div_ceil(self.tokens)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket(count: u32, seconds: u64, burst: u32, cost: u32) -> Bucket {
        Bucket::new(&Rate { count, period: Duration::from_secs(seconds), burst, cost })
    }

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_burst_then_one_by_one() {
        let bucket = bucket(100, 60, 3, 1);
        let (mut fill, now) = (Fill::default(), 7 * SECOND);
        for left in [2, 1, 0] {
            let decision;
            (decision, fill) = bucket.take(fill, now);
            assert!(decision.is_allowed());
            assert_eq!(decision.remaining, left);
        }
        let (refused, same) = bucket.take(fill, now);
        assert_eq!(refused.wait, Duration::from_millis(600));
        assert_eq!(refused.full_in, Duration::from_millis(1800));
        assert_eq!(same, fill);
        assert!(!bucket.look(fill, now + 599_999).is_allowed());
        assert!(bucket.look(fill, now + 600_000).is_allowed());
    }

    #[test]
    fn thirds_of_a_microsecond_are_not_lost() {
        // 3 in 1 s: a token comes every 333,333 1/3 microseconds.
        let bucket = bucket(3, 1, 1, 1);
        let (mut fill, mut now, mut allowed) = (Fill::default(), 0, 0);
        while now < 100 * SECOND {
            let (decision, after) = bucket.take(fill, now);
            allowed += u64::from(decision.is_allowed());
            (fill, now) = (after, now + u64::try_from(decision.wait.as_micros()).unwrap().max(1));
        }
        // Each is waited for to the next whole microsecond, so that three take 1 s and 2 microseconds.
        assert_eq!(allowed, 300);
    }

    #[test]
    fn dear_requests_wait_for_all_their_tokens() {
        let bucket = bucket(10, 1, 10, 4);
        let (_, fill) = bucket.take(Fill::default(), 0);
        let (_, fill) = bucket.take(fill, 0);
        let (decision, fill) = bucket.take(fill, 0);
        assert_eq!((decision.wait, decision.remaining), (Duration::from_millis(200), 2));
        assert!(bucket.look(bucket.give_back(fill, 0), 0).is_allowed());
    }

    #[test]
    fn what_stands_there_is_not_believed_beyond_the_size() {
        let bucket = bucket(1, 1, 5, 1);
        for fill in [Fill { full_at: u64::MAX, ticks: u64::MAX }, Fill { full_at: 60 * SECOND, ticks: 9 }] {
            let decision = bucket.look(fill, 0);
            assert_eq!((decision.wait, decision.remaining), (Duration::from_secs(1), 0));
        }
    }

    proptest! {
        /// Whatever is asked when: never more than the burst and what came in since, and never a token less than that at any
        /// moment at which one is refused.
        #[test]
        fn burst_and_rate_exactly(
            count in 1_u32..500, seconds in 1_u64..100, burst in 1_u32..50, cost in 1_u32..4, steps in prop::collection::vec(0_u64..3_000_000, 1..200),
        ) {
            let cost = cost.min(burst);
            let bucket = bucket(count, seconds, burst, cost);
            let (mut fill, mut now, mut taken) = (Fill::default(), 0_u64, 0_u64);
            // What has come in since the bucket was last full, in ticks.
            let mut level = bucket.burst * bucket.micros;
            for step in steps {
                now += step;
                level = (level + step * bucket.tokens).min(bucket.burst * bucket.micros);
                let (decision, after) = bucket.take(fill, now);
                fill = after;
                prop_assert_eq!(decision.is_allowed(), level >= bucket.cost * bucket.micros);
                if decision.is_allowed() {
                    level -= bucket.cost * bucket.micros;
                    taken += bucket.cost;
                } else {
                    let missing = bucket.cost * bucket.micros - level;
                    prop_assert_eq!(decision.wait, Duration::from_micros(missing.div_ceil(bucket.tokens)));
                }
                prop_assert_eq!(decision.remaining, level / bucket.micros);
                let most = u64::from(burst) + (now * bucket.tokens) / bucket.micros;
                prop_assert!(taken <= most);
            }
        }

        #[test]
        fn no_overflow_at_the_limits(full_at in any::<u64>(), ticks in any::<u64>(), now in 0_u64..1 << 52, burst in 1_u32..1_000_000) {
            let rate = Rate { count: 1_000_000_000, period: Duration::from_secs(31 * 86_400), burst, cost: burst };
            prop_assume!(rate.ticks() <= Rate::TICKS_MAX);
            let bucket = Bucket::new(&rate);
            let (_, fill) = bucket.take(Fill { full_at, ticks }, now);
            let _ = bucket.give_back(fill, now);
        }
    }
}
