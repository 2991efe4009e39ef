//! When the app has answered, or has not: what is kept, and what is given.

use std::sync::Arc;

use http::HeaderMap;

use super::judge::not_to_be_kept;
use super::turn::prepare;
use super::{Visit, hit};
use crate::cache::collapse::Fetched;
use crate::cache::entry::{Entry, Head, kept_fields, updated_fields};
use crate::cache::policy::{self, Answer};
use crate::cache::{Cache, conditional, freshness, now, vary};
use crate::edge::session::Session;
use crate::observe::metrics::{CacheResult, NotStored};
use crate::proxy::attempt;
use crate::proxy::context::Active;
use crate::proxy::rejection::Reason;

/// Whether the app has to be asked again, without a condition: its 304 speaks of something else.
pub fn asks_again(session: &mut Session, active: &mut Active) -> bool {
    let Some(visit) = active.visit.as_deref_mut() else { return false };
    let Some(fetch) = visit.fetch.as_deref_mut() else { return false };
    let speaks_of_another = |(said, entry): (&HeaderMap, &Arc<Entry>)| !conditional::is_of(said, &entry.headers);
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
    let cache = &exchange.snapshot.shared.cache;
    let body = fetch.tap.take();
    let lead = fetch.lead.take();
    if let (Some(body), Some(head)) = (body, fetch.head.take()) {
        let status = head.status;
        match body.and_then(|body| cache.keep(&visit.rule, head, body, &fetch.asked)) {
            Ok(entry) => {
                if let Some(lead) = lead {
                    lead.conclude(Fetched::Kept(entry));
                }
            }
            Err(why) => {
                visit.not_stored = Some(why);
                visit.rule.metrics.record_not_stored(why);
                match why {
                    NotStored::TooLarge => {
                        fetch.lead = lead;
                        not_to_be_kept(visit, cache, status);
                    }
                    NotStored::Incomplete => drop(lead),
                    _ => lead.into_iter().for_each(|lead| lead.conclude(Fetched::NotKept)),
                }
            }
        }
        return;
    }
    let Some(kept) = visit.entry.clone() else { return };
    if let Some(said) = fetch.said.take() {
        visit.result = CacheResult::Revalidated;
        let updated = update(visit, cache, &kept, &said);
        if let (Some(lead), true) = (lead, updated.is_kept) {
            lead.conclude(Fetched::Kept(updated.entry.clone()));
        }
        return hit::answer(session, active, &updated.entry).await;
    }
    let may_stand_in = fetch.asks.may_stand_in(&kept);
    let is_ours = active.rejection.as_ref().is_some_and(|rejection| {
        matches!(rejection.reason.status(), 502..=504) && rejection.reason != Reason::Shutdown
    });
    if !session.has_begun() && may_stand_in && (fetch.withheld.is_some() || is_ours) {
        drop(lead);
        if let Some(rejection) = active.rejection.take() {
            tracing::debug!(reason = rejection.reason.word(), detail = &*rejection.detail, "a kept answer stands in");
        }
        visit.result = CacheResult::Stale;
        hit::answer(session, active, &kept).await;
    }
}

/// What was kept, as the app has confirmed it.
struct Updated {
    entry: Arc<Entry>,
    /// By what it says now, it may be kept on.
    is_kept: bool,
}

/// Takes over what a 304 says (RFC 9111 section 4.3.4).
fn update(visit: &mut Visit, cache: &Cache, kept: &Arc<Entry>, said: &HeaderMap) -> Updated {
    let Some(fetch) = visit.fetch.as_deref_mut() else { return Updated { entry: kept.clone(), is_kept: false } };
    let fetched = freshness::Fetched { asked: fetch.asked_at, came: now() };
    let headers = updated_fields(&kept.headers, &kept_fields(said, fetched.came));
    let answer =
        Answer { status: kept.status, headers: &headers, fetched, is_stream: false, authorized: fetch.asks.authorized };
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
    let result =
        judged.map(|_| ()).and_then(|()| cache.keep(&visit.rule, head.clone(), kept.body.clone(), &fetch.asked));
    match result {
        Ok(entry) => Updated { entry, is_kept: true },
        Err(why) => {
            visit.not_stored = Some(why);
            visit.rule.metrics.record_not_stored(why);
            not_to_be_kept(visit, cache, kept.status);
            Updated { entry: Arc::new(Entry::new(head, kept.body.clone())), is_kept: false }
        }
    }
}
