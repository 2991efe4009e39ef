//! What became of a request, and what its client is told: `RateLimit` and `RateLimit-Policy` as in
//! draft-ietf-httpapi-ratelimit-headers-10.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::{Outcome, Permit, Rule};

/// What the limits of a route say of a request.
#[derive(Debug, Default)]
pub struct Verdict {
    /// None: it may pass.
    pub refusal: Option<Refusal>,
    /// A limit that would have refused it, if it were not for `dry_run`.
    pub watched: Option<Arc<str>>,
    /// `RateLimit` and `RateLimit-Policy`.
    pub fields: Option<(HeaderValue, HeaderValue)>,
    /// What counts the request among those in flight, until dropped.
    pub permits: Vec<Permit>,
}

/// Why a request is refused.
#[derive(Debug)]
pub struct Refusal {
    pub cause: Cause,
    /// Every limit that refuses it; at least one.
    pub limits: Vec<Arc<str>>,
    /// Whole seconds until it makes sense to try again; at least 1.
    pub retry_after: u32,
}

/// What kind of limit it met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Rate,
    Concurrency,
    /// Redis does not answer, and the limit says `deny`.
    Unavailable,
}

impl Verdict {
    /// Refuses, for one more reason. A rate is what the client is told of, where there are several reasons.
    pub(super) fn refuse(&mut self, limit: Arc<str>, cause: Cause, retry_after: u32) {
        let refusal = self.refusal.get_or_insert_with(|| Refusal { cause, limits: Vec::new(), retry_after });
        refusal.retry_after = refusal.retry_after.max(retry_after);
        if cause == Cause::Rate {
            refusal.cause = cause;
        }
        refusal.limits.push(limit);
    }
}

/// Whole seconds, rounded up.
pub(super) fn seconds(duration: Duration) -> u32 {
    let whole = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0));
    u32::try_from(whole).unwrap_or(u32::MAX)
}

/// `RateLimit-Policy`: what a full bucket lets pass, and in how many seconds it fills.
pub(super) fn policy(rules: &[Rule]) -> Option<HeaderValue> {
    let mut text = String::new();
    for (rule, bucket) in rules.iter().filter(|rule| !rule.dry_run).filter_map(|rule| Some((rule, rule.bucket?))) {
        let fills_in = (bucket.burst * bucket.micros).div_ceil(bucket.tokens);
        let quota = bucket.burst / bucket.cost;
        text.push_str(if text.is_empty() { "" } else { ", " });
        let _ = write!(text, "{};q={quota};w={}", rule.item, seconds(Duration::from_micros(fills_in)));
    }
    HeaderValue::from_str(&text).ok().filter(|value| !value.is_empty())
}

/// `RateLimit`: what is left, and in how many seconds all of it will be there again.
pub(super) fn state(rules: &[Rule], outcomes: &[Outcome]) -> Option<HeaderValue> {
    let mut text = String::with_capacity(64);
    for (rule, outcome) in rules.iter().zip(outcomes).filter(|(rule, _)| !rule.dry_run) {
        let (Outcome::Bucket(decision), Some(bucket)) = (outcome, rule.bucket) else { continue };
        text.push_str(if text.is_empty() { "" } else { ", " });
        text.push_str(&rule.item);
        let mut number = itoa::Buffer::new();
        text.push_str(";r=");
        text.push_str(number.format(decision.remaining / bucket.cost));
        text.push_str(";t=");
        text.push_str(number.format(seconds(decision.full_in)));
    }
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok().filter(|value| !value.is_empty())
}

/// A name as a String of RFC 9651 section 3.3.3, which names are fit for but for two characters.
pub(super) fn item(name: &str) -> Box<str> {
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{KeyPart, OnRedisDown, Rate, RateLimit};
    use crate::observe::metrics::Metrics;
    use crate::rate_limit::Limits;
    use crate::rate_limit::bucket::Decision;

    fn limit(name: &str, burst: u32, cost: u32, dry_run: bool) -> RateLimit {
        RateLimit {
            name: name.into(),
            rate: Some(Rate { count: 100, period: Duration::from_secs(60), burst, cost }),
            concurrency: None,
            key: vec![KeyPart::ClientIp],
            on_redis_down: OnRedisDown::Local,
            dry_run,
        }
    }

    #[test]
    fn the_fields() {
        let metrics = Metrics::new("0", &[]);
        let list = [limit("a \"b\\", 100, 1, false), limit("watched", 1, 1, true), limit("dear", 50, 5, false)];
        let limits = Limits::build(&list, &metrics).unwrap();
        assert_eq!(policy(&limits.rules).unwrap(), r#""a \"b\\";q=100;w=60, "dear";q=10;w=30"#);
        let bucket = |remaining, full_in| {
            let full_in = Duration::from_millis(full_in);
            Outcome::Bucket(Decision { wait: Duration::ZERO, remaining, full_in })
        };
        let outcomes = [bucket(99, 600), bucket(0, 600), bucket(9, 24_000)];
        assert_eq!(state(&limits.rules, &outcomes).unwrap(), r#""a \"b\\";r=99;t=1, "dear";r=1;t=24"#);
        assert_eq!(state(&limits.rules, &[Outcome::Unasked, Outcome::Busy, Outcome::Free]), None);
        assert!(Limits::build(&[], &metrics).is_none());
        assert_eq!(policy(&Limits::build(&list[1..2], &metrics).unwrap().rules), None);
    }

    #[test]
    fn the_longest_wait_counts() {
        let mut verdict = Verdict::default();
        verdict.refuse("a".into(), Cause::Unavailable, 1);
        verdict.refuse("b".into(), Cause::Rate, 7);
        verdict.refuse("c".into(), Cause::Rate, 3);
        let refusal = verdict.refusal.unwrap();
        assert_eq!((refusal.cause, refusal.retry_after, refusal.limits.len()), (Cause::Rate, 7, 3));
        assert_eq!(seconds(Duration::from_millis(1001)), 2);
        assert_eq!(seconds(Duration::from_secs(2)), 2);
        assert_eq!(seconds(Duration::MAX), u32::MAX);
    }
}
