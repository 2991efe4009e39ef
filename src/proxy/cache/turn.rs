//! Who wants what another request is fetching waits for it; who comes first fetches for all.

use std::sync::Arc;
use std::time::Duration;

use http::header;
use tokio::time::Instant;

use super::elsewhere::{self, Asked};
use super::{Fetch, Visit, Way, refresh};
use crate::cache::collapse::{Fetched, Turn, Waiting};
use crate::cache::conditional;
use crate::cache::entry::Entry;
use crate::cache::freshness::Millis;
use crate::cache::memory::{Key, Look};
use crate::cache::policy::Use;
use crate::edge::session::Session;
use crate::observe::metrics::CacheResult;
use crate::proxy::context::Active;
use crate::proxy::rejection::{Reason, Rejection};
use crate::state::Shared;

/// A request waits for a free worker no longer where something stands in.
const STAND_IN: Duration = Duration::from_secs(1);

/// What a request is to do.
pub enum Next {
    /// Ask the app.
    Fetch,
    /// It is there.
    Answer(Arc<Entry>),
    Refuse(Rejection),
}

/// Waits for another's fetch, or prepares one of its own.
pub async fn turn(session: &mut Session, active: &mut Active) -> Next {
    let Some(visit) = active.visit.as_deref_mut() else { return Next::Fetch };
    if !matches!(visit.way, Way::ForAll | Way::AsIs) {
        return Next::Fetch;
    }
    let shared = active.exchange.snapshot.shared.clone();
    let until = Instant::now() + visit.rule.config.collapse_timeout;
    loop {
        let Some(fetch) = visit.fetch.as_deref_mut() else { return Next::Fetch };
        let usable = visit.entry.as_ref().map_or(Use::Nothing, |entry| fetch.asks.use_of(entry));
        match (usable, &visit.entry) {
            (Use::Fresh, Some(entry)) => {
                visit.result = CacheResult::Hit;
                if let Some(lead) = fetch.lead.take() {
                    lead.conclude(Fetched::Kept(entry.clone()));
                }
                return Next::Answer(entry.clone());
            }
            (Use::Stale { refresh }, Some(entry)) => {
                visit.result = CacheResult::Stale;
                let entry = entry.clone();
                if refresh {
                    refresh::begin(session.request(), active);
                } else {
                    // Somebody else may try, however long this client takes.
                    fetch.lead = None;
                }
                return Next::Answer(entry);
            }
            _ => {}
        }
        // Of those who want the same only one looks.
        let looks = !visit.patient || fetch.asks.authorized || fetch.asks.says.only_if_cached || fetch.lead.is_some();
        if looks && visit.entry.is_none() && !std::mem::replace(&mut fetch.looked_on_disk, true) {
            let found = shared.cache.look_on_disk(&visit.rule, &visit.primary, &fetch.asked).await;
            visit.entry = fetch.asks.usable(found);
            if visit.entry.is_some() {
                continue;
            }
        }
        // What is to be asked about each time is as good here as there.
        let may_be_better = visit.entry.as_ref().is_none_or(|entry| !entry.terms.no_cache);
        if looks && may_be_better && !std::mem::replace(&mut fetch.looked_in_redis, true) {
            match elsewhere::wait_for_client(session, visit, until, &shared).await {
                Ok(Asked::Found) => continue,
                Ok(Asked::Pass) => pass(visit, &shared),
                Ok(Asked::Fetch | Asked::Wait) => {}
                Err(reason) => return Next::Refuse(reason.into()),
            }
        }
        let Some(fetch) = visit.fetch.as_deref_mut() else { return Next::Fetch };
        if fetch.asks.says.only_if_cached {
            return Next::Refuse(Reason::NotCached.into());
        }
        // One that has the lead has looked since.
        if !visit.patient || fetch.asks.authorized || fetch.lead.is_some() {
            prepare(session, active);
            return Next::Fetch;
        }
        let key = fetch.at.clone().unwrap_or_else(|| Key::from(&*visit.primary));
        match shared.cache.fetches.turn(&key) {
            Turn::Lead(lead) => fetch.lead = Some(lead),
            Turn::Wait(waiting) => {
                let since = waiting.began();
                let waited = wait(waiting, session, fetch, until, &shared).await;
                if let Some(next) = after(waited, since, visit, &shared) {
                    return next;
                }
            }
        }
        let Some(fetch) = visit.fetch.as_deref_mut() else { return Next::Fetch };
        // What was there may be another by now.
        let (look, at) = shared.cache.look(&visit.rule, &visit.primary, &fetch.asked);
        if fetch.lead.as_ref().is_some_and(|lead| **lead.key() != *at.as_deref().unwrap_or(&visit.primary)) {
            fetch.lead = None;
        }
        fetch.at = at;
        match look {
            Look::Entry(entry) => visit.entry = fetch.asks.usable(Some(entry)),
            Look::Pass => visit.go_alone(),
            Look::Nothing => visit.entry = None,
        }
    }
}

/// Nobody waits for this fetch: another gateway has found that what comes of it is not to be kept.
fn pass(visit: &mut Visit, shared: &Shared) {
    let key = visit.lead_key();
    shared.cache.pass(&visit.rule, &visit.primary, key);
    if let Some(lead) = visit.fetch.as_deref_mut().and_then(|fetch| fetch.lead.take()) {
        lead.conclude(Fetched::NotKept);
    }
    visit.go_alone();
}

/// How a wait has ended.
enum Waited {
    Fetched(Fetched),
    Late,
    Refused(Reason),
}

/// What a request is to do after its wait for one that began at `since`; none where it is to look again.
fn after(waited: Waited, since: Millis, visit: &mut Visit, shared: &Shared) -> Option<Next> {
    let fetch = visit.fetch.as_deref_mut()?;
    let (result, entry) = match waited {
        Waited::Fetched(Fetched::Stale(entry)) => (CacheResult::Stale, entry),
        Waited::Fetched(Fetched::Purged) => return None,
        Waited::Fetched(Fetched::Kept(entry)) if shared.cache.is_purged(&entry) => return None,
        Waited::Fetched(Fetched::Kept(entry)) if fetch.is_given(&entry, since) => (CacheResult::Collapsed, entry),
        Waited::Fetched(Fetched::Kept(entry)) => {
            // The answer to others; ours may be there, or be fetched, under a key of its own. One that was purged softly is asked
            // about, by one for all.
            visit.patient = !entry.suits(&fetch.asked) || entry.stale_from().is_some();
            return None;
        }
        Waited::Fetched(Fetched::Failed) => {
            let kept = visit.entry.clone();
            (CacheResult::Stale, kept.filter(|entry| fetch.asks.may_stand_in(entry, &shared.cache))?)
        }
        Waited::Fetched(Fetched::NotKept) | Waited::Late => {
            visit.go_alone();
            return None;
        }
        Waited::Refused(reason) => return Some(Next::Refuse(reason.into())),
    };
    visit.result = result;
    Some(Next::Answer(entry))
}

async fn wait(mut waiting: Waiting, session: &mut Session, fetch: &Fetch, until: Instant, shared: &Shared) -> Waited {
    let takes = |stale: &Entry| fetch.takes_stale(stale) && !shared.cache.is_purged(stale);
    tokio::select! {
        biased;
        fetched = waiting.fetched(takes) => Waited::Fetched(fetched),
        () = session.departure() => Waited::Refused(Reason::ClientClosed),
        () = shared.waiting_refused() => Waited::Refused(Reason::Shutdown),
        () = tokio::time::sleep_until(until) => Waited::Late,
    }
}

/// Makes the request one that is for all: under conditions of the gateway's own, where something is kept to be asked about.
pub fn prepare(session: &mut Session, active: &mut Active) {
    let Some(visit) = active.visit.as_deref_mut() else { return };
    let Some(fetch) = visit.fetch.as_deref_mut() else { return };
    let shared = &active.exchange.snapshot.shared;
    fetch.under_way = Some(shared.cache.begin_fetch(&visit.primary));
    // It may have waited for its turn.
    visit.entry.take_if(|entry| shared.cache.is_purged(entry));
    if let (Some(kept), Some(wanted)) = (&visit.entry, &mut active.wanted)
        && fetch.asks.may_stand_in(kept, &shared.cache)
    {
        wanted.hurry(STAND_IN);
    }
    session.tap(fetch.tap.clone());
    let request = session.request_mut();
    // They have no influence, and the app is not to be tempted.
    if fetch.asked.contains(header::COOKIE) {
        request.headers.remove(header::COOKIE);
    }
    if visit.way == Way::AsIs {
        return;
    }
    for name in &conditional::CONDITIONS {
        request.headers.remove(name);
    }
    // What this client wanted is done; and what it wanted is not for all.
    for name in [header::CACHE_CONTROL, header::PRAGMA].into_iter().filter(|name| fetch.asked.contains(name)) {
        request.headers.remove(&name);
    }
    fetch.validates = false;
    if let Some(entry) = &visit.entry {
        for (name, value) in conditional::ask_whether_changed(&entry.headers) {
            fetch.validates = true;
            request.headers.insert(name, value);
        }
    }
}
