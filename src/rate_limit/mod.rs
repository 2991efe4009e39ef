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
//! | passwords that were wrong | [`tries`] |
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
pub mod tries;
pub mod verdict;

use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;

use crate::config::model::{OnRedisDown, RateLimit};
use crate::observe::metrics::{LimitDecision, LimitMetrics, Metrics, RedisError};
use crate::redis::Redis;
use bucket::{Bucket, Decision};
use in_flight::InFlight;
pub use in_flight::Permit;
use key::{Asker, Hash, Part};
use local::{Ask, Buckets};
use verdict::{Cause, Verdict};

/// What outlives every configuration: a limit that a reload leaves as it is keeps its buckets, unless they move to Redis or from it.
#[derive(Debug, Default)]
pub struct Limiter {
    /// Of requests in flight, and of buckets where there is no Redis.
    hash: Hash,
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
    /// The name as the fields have it.
    item: Box<str>,
    bucket: Option<Bucket>,
    concurrency: Option<u32>,
    key: Vec<Part>,
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
    /// Nothing yet, and nothing where another limit has refused before.
    Unasked,
    Bucket(Decision),
    /// As many are in flight as may be.
    Busy,
    /// There is no bucket, or Redis does not answer and that is no reason to refuse.
    Free,
    /// Redis does not answer, and that is.
    Unavailable,
}

impl Outcome {
    fn refuses(self) -> bool {
        match self {
            Self::Bucket(decision) => !decision.is_allowed(),
            Self::Busy | Self::Unavailable => true,
            Self::Unasked | Self::Free => false,
        }
    }
}

/// A request that is not decided without Redis.
#[derive(Debug)]
pub struct Question {
    limits: Arc<Limits>,
    /// What is known already, by rule.
    outcomes: Vec<Outcome>,
    /// What is to be asked.
    asks: Vec<Ask>,
    permits: Vec<Permit>,
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
            item: verdict::item(&limit.name),
            bucket: limit.rate.as_ref().map(Bucket::new),
            concurrency: limit.concurrency,
            key: limit.key.iter().map(Part::new).collect(),
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
        let mut question = Question {
            limits: self.clone(),
            outcomes: vec![Outcome::Unasked; self.rules.len()],
            asks: Vec::with_capacity(self.rules.len()),
            permits: Vec::new(),
        };
        let hash = if redis.is_some() { &Hash::Shared } else { &limiter.hash };
        if !question.enter(limiter, asker, hash) {
            return Step::Decided(question.conclude());
        }
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

    fn rule(&self, index: usize) -> Option<&Rule> {
        self.rules.get(index)
    }
}

impl Question {
    /// Counts the request among those in flight, and notes whose buckets are to be asked. False: it is refused.
    fn enter(&mut self, limiter: &Limiter, asker: &Asker<'_>, hash: &Hash) -> bool {
        for (rule, (number, outcome)) in self.limits.rules.iter().zip(self.outcomes.iter_mut().enumerate()) {
            let text = key::text(&rule.prefix, &rule.key, asker);
            *outcome = rule.enter(limiter, &text, &mut self.permits);
            if outcome.refuses() && !rule.dry_run {
                return false;
            }
            if let (Some(bucket), Outcome::Unasked) = (rule.bucket, *outcome) {
                self.asks.push(Ask { rule: number, key: hash.of(&text), bucket, must_agree: !rule.dry_run });
            }
        }
        true
    }

    /// Asks Redis, for as long as a request may wait for it, and decides.
    pub async fn settle(mut self, limiter: &Limiter, redis: &Arc<Redis>) -> Verdict {
        let (asked, since) = (limiter.buckets.now(), Instant::now());
        let answers = shared::take(redis, &self.asks).await;
        let time = since.elapsed();
        let (mut answered, mut unanswered) = (Vec::new(), Vec::new());
        for (ask, answer) in std::mem::take(&mut self.asks).into_iter().zip(answers) {
            let Some(rule) = self.limits.rule(ask.rule) else { continue };
            rule.metrics.record_redis(time);
            match answer {
                Ok(decision) => {
                    limiter.buckets.remember(&ask.key, decision.full_in, asked);
                    self.set(ask.rule, Outcome::Bucket(decision));
                    answered.push((ask, decision));
                }
                Err(why) => {
                    tracing::debug!(limit = &*rule.name, error = %why, "a limit is decided without redis");
                    unanswered.push((ask, why.kind));
                }
            }
        }
        if let Some((_, error)) = unanswered.first() {
            let error = *error;
            self.asks = unanswered.into_iter().map(|(ask, _)| ask).collect();
            self.do_without(limiter, error);
        }
        if redis.is_cluster() && self.is_refused() {
            take_back(limiter, redis, &answered);
        }
        self.conclude()
    }

    fn set(&mut self, rule: usize, what: Outcome) {
        if let Some(outcome) = self.outcomes.get_mut(rule) {
            *outcome = what;
        }
    }

    /// Whether a limit that must agree does not.
    fn is_refused(&self) -> bool {
        let mut both = self.limits.rules.iter().zip(&self.outcomes);
        both.any(|(rule, outcome)| !rule.dry_run && outcome.refuses())
    }

    /// Takes the tokens of what is still to be asked from the buckets of this process.
    fn ask_locally(&mut self, limiter: &Limiter) {
        let decisions = limiter.buckets.take(&self.asks, limiter.buckets.now());
        for (ask, decision) in std::mem::take(&mut self.asks).into_iter().zip(decisions) {
            self.set(ask.rule, Outcome::Bucket(decision));
        }
    }

    /// Lets `on_redis_down` decide what is still to be asked.
    fn do_without(&mut self, limiter: &Limiter, error: RedisError) {
        let mut local = Vec::new();
        for ask in std::mem::take(&mut self.asks) {
            let Some(rule) = self.limits.rule(ask.rule) else { continue };
            rule.metrics.record_redis_error(error);
            match rule.on_redis_down {
                OnRedisDown::Allow => self.set(ask.rule, Outcome::Free),
                OnRedisDown::Deny => self.set(ask.rule, Outcome::Unavailable),
                OnRedisDown::Local => local.push(ask),
            }
        }
        // What is refused anyway takes no tokens anywhere.
        if !self.is_refused() {
            self.asks = local;
            self.ask_locally(limiter);
        }
    }

    /// Takes out of the question the buckets that Redis has said are empty until later.
    fn leave_out_empty(&mut self, limiter: &Limiter) {
        let now = limiter.buckets.now();
        let mut left = Vec::with_capacity(self.asks.len());
        for ask in std::mem::take(&mut self.asks) {
            let decision = limiter.buckets.look(&ask, now);
            if decision.is_allowed() {
                left.push(ask);
            } else if let Some(rule) = self.limits.rule(ask.rule) {
                rule.metrics.record_known_empty();
                self.set(ask.rule, Outcome::Bucket(decision));
            }
        }
        if !self.is_refused() {
            self.asks = left;
        }
    }

    /// Puts together what the limits have said.
    fn conclude(self) -> Verdict {
        let Self { limits, outcomes, permits, .. } = self;
        let mut verdict = Verdict::default();
        let both = || limits.rules.iter().zip(&outcomes);
        for (rule, outcome) in both().filter(|(rule, outcome)| !rule.dry_run && outcome.refuses()) {
            rule.refuse(*outcome, &mut verdict);
        }
        if verdict.refusal.is_none() {
            for (rule, outcome) in both() {
                rule.count_passed(*outcome, &mut verdict);
            }
            verdict.permits = permits;
        }
        verdict.fields = verdict::state(&limits.rules, &outcomes).zip(limits.policy.clone());
        verdict
    }
}

impl Rule {
    /// Counts the request among those in flight, if there is room.
    fn enter(&self, limiter: &Limiter, text: &[u8], permits: &mut Vec<Permit>) -> Outcome {
        if let Some(most) = self.concurrency {
            let (permit, is_full) = limiter.in_flight.enter(limiter.hash.of(text), most, self.dry_run);
            permits.extend(permit);
            if is_full {
                return Outcome::Busy;
            }
        }
        if self.bucket.is_some() { Outcome::Unasked } else { Outcome::Free }
    }

    fn refuse(&self, outcome: Outcome, verdict: &mut Verdict) {
        let (cause, counted, retry_after) = match outcome {
            Outcome::Bucket(decision) => (Cause::Rate, LimitDecision::Refused, verdict::seconds(decision.wait)),
            Outcome::Busy => (Cause::Concurrency, LimitDecision::ConcurrencyRefused, 1),
            _ => (Cause::Unavailable, LimitDecision::Unavailable, 1),
        };
        self.metrics.record(counted);
        verdict.refuse(self.name.clone(), cause, retry_after);
    }

    /// Counts a request that no limit refuses.
    fn count_passed(&self, outcome: Outcome, verdict: &mut Verdict) {
        if outcome.refuses() {
            self.metrics.record(LimitDecision::DryRunRefused);
            verdict.watched.get_or_insert_with(|| self.name.clone());
        } else {
            self.metrics.record(LimitDecision::Allowed);
        }
    }
}

/// Gives back what the nodes of a cluster have given, one without knowing of the other.
fn take_back(limiter: &Limiter, redis: &Arc<Redis>, answered: &[(Ask, Decision)]) {
    let taken = answered.iter().filter(|(_, decision)| decision.is_allowed()).map(|(ask, _)| *ask);
    let taken: Vec<Ask> = taken.collect();
    // How full they will be is not known: they are asked for again.
    taken.iter().for_each(|ask| limiter.buckets.forget(&ask.key));
    shared::give_back(redis, taken);
}
