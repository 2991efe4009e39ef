//! What happens to a request, top to bottom.
//!
//! | step | file |
//! |---|---|
//! | judged, and its route found | `accept` |
//! | let come to it, or not | `access` |
//! | measured by the limits of its route | `limit` |
//! | answered from the cache, or waiting for what another fetches | `cache` |
//! | made what the app is to see | `forward` |
//! | its body received whole | `edge::session` |
//! | an endpoint chosen, waited for, connected to | `attempt` |
//! | exchanged with the app for an answer | `exchange` |
//! | the app's answer judged and edited | `response`, with `security`, `cors`, `timing` |
//! | or an answer of our own written | `respond`, `rejection` |
//! | a WebSocket's bytes passed on, both ways | `tunnel`, `edge::session` |
//! | logged, counted, and told a collector | `finish` |
//!
//! What one step leaves for the next is in `context`.

mod accept;
mod access;
mod attempt;
mod cache;
mod context;
mod cors;
mod exchange;
mod finish;
mod forward;
mod limit;
pub mod rejection;
mod respond;
mod response;
mod security;
mod timing;
mod tunnel;

use crate::edge::session::{Returned, Session};
use crate::proxy::accept::Next;
use crate::proxy::context::Active;
use crate::proxy::rejection::{Reason, Rejection};

/// Serves one request; the connection comes back when it can be used again, or is to be closed with care. Whoever drops the
/// future drops the client, and frees what the request held.
pub async fn serve(mut session: Box<Session>) -> Option<Returned> {
    let mut active = Box::new(Active::begin(session.exchange().clone(), &session.request().headers));
    let mut next = accept::accept(session.request_mut(), &mut active);
    // Whatever else may be wrong with it, it is counted.
    if let Err(rejection) = limit::settle(&mut active).await {
        next = Err(rejection);
    }
    if next.is_ok()
        && let Err(rejection) = access::settle(&mut active).await
    {
        next = Err(rejection);
    }
    if next.is_err() {
        // It is none that the cache has given anything, or could have.
        active.visit = None;
    }
    match next {
        Ok(Next::Kept(entry)) => cache::answer(&mut session, &mut active, &entry).await,
        Ok(Next::Answer(answer)) => respond::answer(&mut session, &mut active, answer).await,
        Err(rejection) => respond::reject(&mut session, &mut active, rejection).await,
        // The part that is long and large is in a box of its own: most of a connection's life is spent outside of it.
        Ok(Next::Proxy) => Box::pin(proxy(&mut session, &mut active)).await,
    }
    // The app is free by now. The client may take its time, within its limits.
    let _ = session.drain().await;
    finish::finish(&mut active, Some(session.request()));
    session.release().await
}

/// Gets an answer from the app, or from the cache, or says why there is none.
async fn proxy(session: &mut Session, active: &mut Active) {
    let next = if active.visit.is_some() { Box::pin(cache::turn(session, active)).await } else { cache::Next::Fetch };
    match next {
        cache::Next::Fetch => fetch(session, active).await,
        cache::Next::Answer(entry) => {
            active.wanted = None;
            cache::answer(session, active, &entry).await;
        }
        cache::Next::Refuse(rejection) => {
            active.wanted = None;
            active.rejection = Some(rejection);
        }
    }
    if let Some(rejection) = active.rejection.take() {
        if rejection.reason == Reason::ClientClosed || session.has_begun() || active.exchange.outcome.client_gone() {
            active.rejection = Some(rejection);
        } else {
            respond::reject(session, active, rejection).await;
        }
    }
}

/// Gets an answer from the app; why there is none is in the request's state.
async fn fetch(session: &mut Session, active: &mut Active) {
    if let Some(upstream) = &active.upstream {
        upstream.budget.deposit(upstream.config.retry.budget);
    }
    let mut ready = receive(session, active).await;
    if ready.is_err() {
        // It never came to the queue.
        active.wanted = None;
    }
    while ready.is_ok() {
        ready = attempt::begin(session, active).await;
        if ready.is_ok() {
            if let Some(upgraded) = exchange::run(session, active).await {
                tunnel::run(session, active, upgraded).await;
                break;
            }
            if !attempt::is_repeated(active) && !cache::asks_again(session, active) {
                break;
            }
        }
    }
    session.drop_body();
    active.release();
    if let Err(rejection) = ready {
        active.rejection = Some(rejection);
    }
    if active.visit.is_some() {
        Box::pin(cache::conclude(session, active)).await;
    }
}

/// The request body is here before a worker is asked for, unless it is to be streamed.
async fn receive(session: &mut Session, active: &mut Active) -> Result<(), Rejection> {
    // A client that is to be asked for a body that is streamed is asked when there is a worker to read it.
    if !active.exchange.has_body || !active.buffers_request {
        return Ok(());
    }
    let received = Box::pin(session.receive(attempt::keep(&active.exchange.method))).await;
    active.receive_time = Some(active.exchange.started.elapsed());
    received
}
