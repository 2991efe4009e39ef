//! The route's limits: before the body is read, and before anything else is done for the request.

use std::sync::Arc;

use http::HeaderName;

use crate::message::{RequestHead, ResponseHead};
use crate::proxy::context::Active;
use crate::proxy::rejection::{Reason, Rejection};
use crate::rate_limit::key::Asker;
use crate::rate_limit::verdict::{Cause, Verdict};
use crate::rate_limit::{Limits, Step};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Decides what can be decided at once; what cannot is left for [`settle`].
///
/// # Errors
/// The request is refused.
pub fn begin(
    request: &RequestHead,
    active: &mut Active,
    limits: Option<&Arc<Limits>>,
    host: Option<&str>,
) -> Result<(), Rejection> {
    let Some(limits) = limits else { return Ok(()) };
    let route = active.counted.as_ref().map_or("", |counted| counted.name());
    let asker = Asker { client: active.client, host, route, headers: &request.headers };
    let snapshot = &active.exchange.snapshot;
    match limits.begin(&snapshot.shared.limiter, snapshot.redis.as_deref(), &asker) {
        Step::Decided(verdict) => conclude(active, verdict),
        Step::Ask(question) => {
            active.question = Some(Box::new(question));
            Ok(())
        }
    }
}

/// Asks Redis, where it must be asked.
///
/// # Errors
/// The request is refused.
pub async fn settle(active: &mut Active) -> Result<(), Rejection> {
    let Some(question) = active.question.take() else { return Ok(()) };
    let snapshot = active.exchange.snapshot.clone();
    let Some(redis) = &snapshot.redis else { return Ok(()) };
    let verdict = Box::pin(question.settle(&snapshot.shared.limiter, redis)).await;
    conclude(active, verdict)
}

fn conclude(active: &mut Active, mut verdict: Verdict) -> Result<(), Rejection> {
    active.exchange.control.count_by(std::mem::take(&mut verdict.permits));
    let rejection = verdict.refusal.as_ref().map(|refusal| {
        let reason = match refusal.cause {
            Cause::Rate => Reason::RateLimited,
            Cause::Concurrency => Reason::ConcurrencyLimited,
            Cause::Unavailable => Reason::LimitsUnavailable,
        };
        Rejection::new(reason, refusal.limits.join(", ")).retry_after(refusal.retry_after)
    });
    active.limited = Some(Box::new(verdict));
    rejection.map_or(Ok(()), Err)
}

/// Says on an answer how much is left. What an app says of limits of its own stays.
pub fn add_fields(response: &mut ResponseHead, active: &Active) {
    let Some((state, policy)) = active.limited.as_ref().and_then(|verdict| verdict.fields.as_ref()) else { return };
    if response.headers.contains(RATE_LIMIT) || response.headers.contains(RATE_LIMIT_POLICY) {
        return;
    }
    response.headers.append(RATE_LIMIT, state.clone());
    response.headers.append(RATE_LIMIT_POLICY, policy.clone());
}
