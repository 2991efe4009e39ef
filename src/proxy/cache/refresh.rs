//! A fetch that no client waits for: what is kept was given once more, and a new one is wanted (RFC 5861 section 3).

use std::sync::Arc;

use http::Method;
use tokio::time::Instant;

use super::elsewhere::{self, Asked};
use super::turn::prepare;
use crate::cache::collapse::{Fetched, Turn};
use crate::cache::memory::Look;
use crate::cache::policy::Use;
use crate::edge::exchange::Accepted;
use crate::edge::session::Session;
use crate::header::trace::TRACEPARENT;
use crate::message::RequestHead;
use crate::proxy::context::Active;
use crate::proxy::fetch;

/// Begins it, unless one is under way. What the client's request has of a place in the queue goes with it.
pub fn begin(request: &RequestHead, active: &mut Active) {
    let Some(visit) = active.visit.as_deref_mut() else { return };
    let shared = &active.exchange.snapshot.shared;
    let own_lead = visit.fetch.as_deref_mut().and_then(|fetch| fetch.lead.take());
    let lead = own_lead.or_else(|| match shared.cache.fetches.turn(&visit.lead_key()) {
        Turn::Lead(lead) => Some(lead),
        Turn::Wait(_) => None,
    });
    let Some(lead) = lead else { return };
    let Some(mut own) = visit.for_refresh() else { return };
    if let Some(fetch) = own.fetch.as_deref_mut() {
        // Another refresh may have ended since this request looked.
        match shared.cache.look(&own.rule, &own.primary, &fetch.asked).0 {
            Look::Entry(there) if fetch.asks.use_of(&there) == Use::Fresh => {
                return lead.conclude(Fetched::Kept(there));
            }
            Look::Pass => return lead.conclude(Fetched::NotKept),
            Look::Entry(_) | Look::Nothing => {
                // What is on disk alone, or was, others would wait for.
                own.entry.iter().for_each(|entry| lead.offer(entry.clone()));
                fetch.lead = Some(lead);
            }
        }
    }
    let exchange = Arc::new(active.exchange.for_nobody());
    let mut refresh = Box::new(Active::for_nobody(exchange.clone(), active));
    refresh.visit = Some(Box::new(own));
    let mut request = request.clone();
    request.method = Method::GET;
    if let Some(steps) = &active.steps {
        // Nobody tells of a step of its own: the app's hang on that of the request it was begun for.
        request.headers.insert(TRACEPARENT, active.trace.at(steps.server).field());
    }
    let session = Box::new(Session::for_nobody(exchange, Accepted::for_nobody(request)));
    tokio::spawn(async move {
        let (mut session, mut active) = (session, refresh);
        if !is_needed(&mut active).await {
            return;
        }
        prepare(&mut session, &mut active);
        fetch(&mut session, &mut active).await;
        if let Some(rejection) = &active.rejection {
            let (reason, detail) = (rejection.reason.word(), &*rejection.detail);
            tracing::debug!(reason, detail, "a kept answer could not be refreshed");
        }
    });
}

/// Whether the app has to be asked: no other gateway has done it, nor is doing it.
async fn is_needed(active: &mut Active) -> bool {
    let shared = active.exchange.snapshot.shared.clone();
    let Some(visit) = active.visit.as_deref_mut() else { return true };
    // While another gateway does it the lead is held, so that no other request of this one asks.
    let until = Instant::now() + visit.rule.config.collapse_timeout;
    match elsewhere::wait(visit, until, &shared).await {
        Asked::Fetch | Asked::Pass => true,
        Asked::Wait => false,
        Asked::Found => {
            let lead = visit.fetch.as_deref_mut().and_then(|fetch| fetch.lead.take());
            if let Some((lead, entry)) = lead.zip(visit.entry.clone()) {
                lead.conclude(Fetched::Kept(entry));
            }
            false
        }
    }
}
