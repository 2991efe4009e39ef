//! Rate limits: how much one client may ask of a route.
//!
//! | what | file |
//! |---|---|
//! | the arithmetic of a bucket | [`bucket`], and for Redis `token_bucket.lua` |
//! | whose bucket it is | [`key`] |
//! | the buckets of this process | [`local`], [`recent`] |
//! | those in Redis | [`shared`] |
//! | requests under way | [`in_flight`] |
//! | what the client is told | [`verdict`] |
//!
//! A request is decided in two steps. [`Limits::begin`] does what can be done at once: without `[redis]` that is everything, and with
//! it a bucket that Redis said is empty until later refuses without asking it again. [`Question::settle`] asks Redis, and lets
//! `on_redis_down` decide where it does not answer.

pub mod bucket;
mod in_flight;
pub mod key;
mod local;
mod recent;
pub mod shared;
pub mod verdict;

use std::sync::Arc;

use http::HeaderValue;

use crate::config::model::{KeyPart, OnRedisDown, RateLimit};
use crate::observe::metrics::{LimitDecision, LimitMetrics, Metrics, RedisError};
use crate::redis::Redis;
use bucket::{Bucket, Decision};
use in_flight::{InFlight, Permit};
use key::{Asker, Key};
use local::{Ask, Buckets};
use verdict::{Cause, Verdict};

/// What outlives every configuration: a limit that a reload leaves as it is keeps its buckets.
#[derive(Debug, Default)]
pub struct Limiter {
    buckets: Buckets,
    in_flight: Arc<InFlight>,
}

/// The limits of one route.
#[derive(Debug)]
pub struct Limits {
    rules: Box<[Rule]>,
    /// `RateLimit-Policy`; none without a rate that is enforced.
    policy: Option<HeaderValue>,
}

/// One limit.
#[derive(Debug)]
pub struct Rule {
    pub name: Arc<str>,
    bucket: Option<Bucket>,
    concurrency: Option<u32>,
    key: Vec<KeyPart>,
    /// What the text of its keys begins with.
    prefix: Vec<u8>,
    on_redis_down: OnRedisDown,
    dry_run: bool,
    metrics: Arc<LimitMetrics>,
}

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    Decided(Verdict),
    Ask(Question),
}

/// What a limit says of a request.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Bucket(Decision),
    /// Redis does not answer, and that is no reason to refuse.
    Free,
    /// Redis does not answer, and that is.
    Unavailable,
}

/// A request that is not decided without Redis.
#[derive(Debug)]
pub struct Question {
    limits: Arc<Limits>,
    /// What is known already, by rule.
    outcomes: Vec<Option<Outcome>>,
    /// What is to be asked, and of which rule it is.
    asks: Vec<Ask>,
    of: Vec<usize>,
    verdict: Verdict,
}

impl Limits {
    /// Those of a route; none where it has no limits.
    #[must_use]
    pub fn build(limits: &[RateLimit], metrics: &Metrics) -> Option<Arc<Self>> {
        if limits.is_empty() {
            return None;
        }
        let rule = |limit: &RateLimit| Rule {
            name: limit.name.clone(),
            bucket: limit.rate.as_ref().map(Bucket::new),
            concurrency: limit.concurrency,
            key: limit.key.clone(),
            prefix: key::prefix(limit),
            on_redis_down: limit.on_redis_down,
            dry_run: limit.dry_run,
            metrics: metrics.limit(&limit.name),
        };
        let rules: Box<[Rule]> = limits.iter().map(rule).collect();
        Some(Arc::new(Self { policy: verdict::policy(&rules), rules }))
    }

    /// Decides what can be decided at once.
    pub fn begin(self: &Arc<Self>, limiter: &Limiter, redis: Option<&Redis>, asker: &Asker<'_>) -> Step {
        let mut verdict = Verdict::default();
        let mut asks = Vec::with_capacity(self.rules.len());
        let mut of = Vec::with_capacity(self.rules.len());
        for (index, rule) in self.rules.iter().enumerate() {
            let key = key::key(&rule.prefix, &rule.key, asker);
            if !rule.enter(limiter, key, &mut verdict) {
                return Step::Decided(verdict);
            }
            if let Some(bucket) = rule.bucket {
                asks.push(Ask { key, bucket, must_agree: !rule.dry_run });
                of.push(index);
            }
        }
        let mut question = Question { limits: self.clone(), outcomes: vec![None; self.rules.len()], asks, of, verdict };
        match redis {
            None => question.ask_locally(limiter),
            Some(_) if question.asks.is_empty() => {}
            Some(redis) if !redis.is_up() => question.do_without(limiter, RedisError::Down),
            Some(_) => {
                question.leave_out_empty(limiter);
                if !question.asks.is_empty() {
                    return Step::Ask(question);
                }
            }
        }
        Step::Decided(question.conclude())
    }
}

impl Rule {
    /// Counts the request among those in flight. False: it is refused.
    fn enter(&self, limiter: &Limiter, key: Key, verdict: &mut Verdict) -> bool {
        let Some(most) = self.concurrency else { return true };
        let (permit, is_full) = limiter.in_flight.enter(key, most, self.dry_run);
        verdict.permits.extend(permit);
        match (is_full, self.dry_run) {
            (true, false) => {
                self.metrics.record(LimitDecision::ConcurrencyRefused);
                verdict.permits = Vec::new();
                verdict.refuse(self.name.clone(), Cause::Concurrency, 1);
                return false;
            }
            (true, true) => {
                self.metrics.record(LimitDecision::DryRunRefused);
                verdict.watched.get_or_insert_with(|| self.name.clone());
            }
            (false, _) if self.bucket.is_none() => self.metrics.record(LimitDecision::Allowed),
            (false, _) => {}
        }
        true
    }
}

impl Question {
    /// Asks Redis, for as long as a request may wait for it, and decides.
    pub async fn settle(mut self, limiter: &Limiter, redis: &Arc<Redis>) -> Verdict {
        let (asked, since) = (limiter.buckets.now(), std::time::Instant::now());
        let answers = shared::take(redis, &self.asks).await;
        let time = since.elapsed();
        let (mut unanswered, mut error) = (Vec::new(), RedisError::Down);
        for ((ask, index), answer) in self.asks.iter().zip(&self.of).zip(answers) {
            let Some(rule) = self.limits.rules.get(*index) else { continue };
            rule.metrics.record_redis(time);
            match answer {
                Ok(decision) => {
                    limiter.buckets.remember(&ask.key, decision.full_in, asked);
                    if let Some(outcome) = self.outcomes.get_mut(*index) {
                        *outcome = Some(Outcome::Bucket(decision));
                    }
                }
                Err(why) => {
                    tracing::debug!(limit = &*rule.name, error = %why, "a limit is decided without redis");
                    error = why.kind;
                    unanswered.push((*ask, *index));
                }
            }
        }
        if !unanswered.is_empty() {
            (self.asks, self.of) = unanswered.into_iter().unzip();
            self.do_without(limiter, error);
        }
        self.conclude()
    }

    /// Takes the tokens of what is still to be asked from the buckets of this process.
    fn ask_locally(&mut self, limiter: &Limiter) {
        let decisions = limiter.buckets.take(&self.asks, limiter.buckets.now());
        for (index, decision) in self.of.iter().zip(decisions) {
            if let Some(outcome) = self.outcomes.get_mut(*index) {
                *outcome = Some(Outcome::Bucket(decision));
            }
        }
    }

    /// Lets `on_redis_down` decide what is still to be asked.
    fn do_without(&mut self, limiter: &Limiter, error: RedisError) {
        let (mut local, mut of_local, mut is_denied) = (Vec::new(), Vec::new(), false);
        for (ask, index) in self.asks.iter().zip(&self.of) {
            let Some((rule, outcome)) = self.limits.rules.get(*index).zip(self.outcomes.get_mut(*index)) else {
                continue;
            };
            rule.metrics.record_redis_error(error);
            match rule.on_redis_down {
                OnRedisDown::Allow => *outcome = Some(Outcome::Free),
                OnRedisDown::Deny => {
                    *outcome = Some(Outcome::Unavailable);
                    is_denied |= !rule.dry_run;
                }
                OnRedisDown::Local => {
                    local.push(*ask);
                    of_local.push(*index);
                }
            }
        }
        if !is_denied {
            (self.asks, self.of) = (local, of_local);
            self.ask_locally(limiter);
        }
    }

    /// Takes out of the question the buckets that Redis has said are empty until later.
    fn leave_out_empty(&mut self, limiter: &Limiter) {
        let now = limiter.buckets.now();
        let mut is_refused = false;
        let mut left = (Vec::with_capacity(self.asks.len()), Vec::with_capacity(self.asks.len()));
        for (ask, index) in self.asks.iter().zip(&self.of) {
            let decision = limiter.buckets.look(ask, now);
            if decision.is_allowed() {
                left.0.push(*ask);
                left.1.push(*index);
            } else if let Some((rule, outcome)) = self.limits.rules.get(*index).zip(self.outcomes.get_mut(*index)) {
                rule.metrics.record_known_empty();
                *outcome = Some(Outcome::Bucket(decision));
                is_refused |= ask.must_agree;
            }
        }
        // What is refused anyway takes no tokens anywhere.
        (self.asks, self.of) = if is_refused { (Vec::new(), Vec::new()) } else { left };
    }

    /// Puts together what the limits have said.
    fn conclude(self) -> Verdict {
        let Self { limits, outcomes, mut verdict, .. } = self;
        for (rule, outcome) in limits.rules.iter().zip(&outcomes) {
            rule.judge(outcome.as_ref(), &mut verdict);
        }
        if verdict.refusal.is_none() {
            for (rule, outcome) in limits.rules.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_some()) {
                rule.count_passed(outcome.as_ref(), &mut verdict);
            }
        } else {
            verdict.permits = Vec::new();
        }
        verdict.fields = verdict::state(&limits.rules, &outcomes).zip(limits.policy.clone());
        verdict
    }
}

impl Rule {
    /// Refuses the request, if that is what this limit has said.
    fn judge(&self, outcome: Option<&Outcome>, verdict: &mut Verdict) {
        if self.dry_run {
            return;
        }
        match outcome {
            Some(Outcome::Bucket(decision)) if !decision.is_allowed() => {
                self.metrics.record(LimitDecision::Refused);
                verdict.refuse(self.name.clone(), Cause::Rate, verdict::seconds(decision.wait));
            }
            Some(Outcome::Unavailable) => {
                self.metrics.record(LimitDecision::Unavailable);
                verdict.refuse(self.name.clone(), Cause::Unavailable, 1);
            }
            _ => {}
        }
    }

    /// Counts a request that no limit refuses.
    fn count_passed(&self, outcome: Option<&Outcome>, verdict: &mut Verdict) {
        let would_refuse = match outcome {
            Some(Outcome::Bucket(decision)) => !decision.is_allowed(),
            Some(Outcome::Unavailable) => true,
            _ => false,
        };
        if would_refuse {
            self.metrics.record(LimitDecision::DryRunRefused);
            verdict.watched.get_or_insert_with(|| self.name.clone());
        } else {
            self.metrics.record(LimitDecision::Allowed);
        }
    }
}

/// Until the verdict is dropped the request counts as in flight.
type Permits = Vec<Permit>;
