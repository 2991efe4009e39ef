//! When the app has answered, or has not: what is kept, and what is given.

use std::sync::Arc;

use http::header::{AGE, RANGE};

use super::claim::Claim;
use super::turn::prepare;
use super::{Visit, hit};
use crate::cache::entry::{Entry, Head, kept_fields, updated_fields};
use crate::cache::freshness::X_ACCEL_EXPIRES;
use crate::cache::policy::{self, Answer};
use crate::cache::{conditional, freshness, now, vary};
use crate::edge::session::Session;
use crate::headers::Headers;
use crate::observe::metrics::CacheResult;
use crate::proxy::attempt;
use crate::proxy::context::Active;
use crate::proxy::rejection::Reason;
use crate::state::Shared;

/// Whether the app has to be asked again, without a condition: its 304 speaks of something else.
pub fn asks_again(session: &mut Session, active: &mut Active) -> bool {
    let Some(visit) = active.visit.as_deref_mut() else { return false };
    let Some(fetch) = visit.fetch.as_deref_mut() else { return false };
    let speaks_of_another = |(said, entry): (&Headers, &Arc<Entry>)| !conditional::is_of(said, &entry.headers);
    if !fetch.said.as_ref().zip(visit.entry.as_ref()).is_some_and(speaks_of_another) {
        return false;
    }
    visit.entry = None;
    fetch.said = None;
    fetch.withheld = None;
    fetch.tap.reset();
    prepare(session, active);
    attempt::begin_again(active);
    true
}

/// Keeps what was fetched, or answers with what was kept. What is left to be answered is in [`Active::rejection`].
pub async fn conclude(session: &mut Session, active: &mut Active) {
    let exchange = active.exchange.clone();
    let Some(visit) = active.visit.as_deref_mut() else { return };
    let Some(fetch) = visit.fetch.as_deref_mut() else { return };
    fetch.tap.give_up();
    if let Some(why) = fetch.tap.not_stored() {
        visit.not_stored = Some(why);
    }
    if fetch.said.is_none() {
        // Nothing came of it: somebody else may try, however long this client takes for what it is told.
        fetch.lead = None;
        fetch.lease = None;
    }
    let Some(kept) = visit.entry.clone() else { return };
    if let Some(said) = fetch.said.take() {
        visit.result = CacheResult::Revalidated;
        let entry = update(visit, &exchange.snapshot.shared, &kept, &said);
        return hit::answer(session, active, &entry).await;
    }
    let may_stand_in = fetch.asks.may_stand_in(&kept, &exchange.snapshot.shared.cache);
    let is_ours = active.rejection.as_ref().is_some_and(|rejection| {
        matches!(rejection.reason.status(), 502..=504) && rejection.reason != Reason::Shutdown
    });
    if !session.has_begun() && (fetch.withheld.is_some() || (may_stand_in && is_ours)) {
        if let Some(rejection) = active.rejection.take() {
            tracing::debug!(reason = rejection.reason.word(), detail = &*rejection.detail, "a kept answer stands in");
        }
        visit.result = CacheResult::Stale;
        hit::answer(session, active, &kept).await;
    }
}

/// Takes over what a 304, or the answer to a HEAD, says (RFC 9111 section 4.3.4): what was kept, as the app has confirmed it.
pub(super) fn update(visit: &mut Visit, shared: &Arc<Shared>, kept: &Arc<Entry>, said: &Headers) -> Arc<Entry> {
    let Some(fetch) = visit.fetch.as_deref_mut() else { return kept.clone() };
    let fetched = freshness::Fetched { asked: fetch.asked_at, came: now() };
    let headers = updated_fields(&kept.headers, &kept_fields(said, fetched.came));
    let (authorized, nonce) = (fetch.asks.authorized, fetch.asks.nonce);
    // These two are of the 304 itself, and not kept.
    let mut says = headers.clone();
    for name in [AGE, X_ACCEL_EXPIRES] {
        said.get(&name).into_iter().for_each(|value| says.insert(name.clone(), value.clone()));
    }
    let ranged = fetch.asked.contains(RANGE);
    let answer = Answer { status: kept.status, headers: &says, fetched, is_stream: false, authorized, ranged, nonce };
    let judged = policy::judge(&visit.rule, &answer);
    let (terms, varies) = match &judged {
        Ok((terms, varies)) => (*terms, varies.clone().into_boxed_slice()),
        Err(_) => (kept.terms, kept.varies.clone()),
    };
    let mut variant = Vec::new();
    vary::write(&varies, &fetch.asked, &mut variant);
    let head = Head {
        primary: kept.primary.clone(),
        status: kept.status,
        headers,
        terms,
        varies,
        variant: variant.into(),
        asked_after: fetch.under_way.as_ref().map_or(0, |under_way| under_way.after),
    };
    let Some(claim) = Claim::of(visit, shared) else { return kept.clone() };
    let result = match judged {
        Ok(_) => claim.keep(head.clone(), kept.body.clone()),
        Err(why) => Err(claim.refuse(why, kept.status)),
    };
    result.unwrap_or_else(|why| {
        visit.not_stored = Some(why);
        Arc::new(Entry::new(head, kept.body.clone()))
    })
}
