//! One try at an endpoint, and whether there is another (RFC 9110 section 9.2.2).
//!
//! A connection that could not be made cost the app nothing: any method is tried elsewhere at once. An exchange that failed
//! before a byte of the response is tried once more only if its method is safe to repeat and no body was sent. Nothing else
//! is: Pingora's own default would send a POST again on a reused connection.

use std::sync::Arc;
use std::time::Instant;

use http::Method;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::Session;

use crate::observe::metrics::{Retry, UpstreamError};
use crate::proxy::context::{Active, Attempt, Context};
use crate::proxy::rejection::{Reason, Rejection};
use crate::upstream::peer::{connect_failure, forbid_reuse, is_reusable};

/// Chooses an endpoint and counts the request on it.
///
/// # Errors
/// There is none to choose from.
pub fn choose(active: &mut Active) -> Result<Box<HttpPeer>> {
    active.lease = None;
    let Some(upstream) = active.upstream.clone() else {
        return Error::e_explain(ErrorType::InternalError, "no upstream was chosen");
    };
    if active.tried.is_empty() {
        upstream.budget.deposit(upstream.config.retry.budget);
    }
    let Some((lease, mut peer)) = upstream.acquire(&active.tried, &active.unreachable) else {
        active.rejection.get_or_insert(Reason::NoEndpoint.into());
        return Error::e_explain(ErrorType::ConnectNoRoute, "no endpoint");
    };
    if !is_reusable(&lease.endpoint().address, &upstream.config) {
        forbid_reuse(&mut peer);
    }
    if active.exchange.has_body {
        bound_stalled_body(&mut peer, active);
    }
    active.tried.push(lease.endpoint().clone());
    active.lease = Some(lease);
    active.rejection = None;
    active.attempt = Attempt { started: Some(Instant::now()), ..Attempt::default() };
    Ok(Box::new(peer))
}

/// Bounds an app that neither reads the body nor answers. The session looks after the app's time only once it has handed the
/// body on, and the app is not late while a client pauses within its body.
fn bound_stalled_body(peer: &mut HttpPeer, active: &Active) {
    let control = &active.exchange.control;
    let (first_byte, read) = (control.upstream_patience(false), control.upstream_patience(true));
    peer.options.write_timeout = Some(first_byte);
    peer.options.read_timeout = Some(first_byte.max(read) + active.exchange.client().body_idle_timeout);
}

/// The attempt has its connection.
pub fn connected(active: &mut Active, reused: bool) {
    let now = Instant::now();
    let attempt = &mut active.attempt;
    attempt.connected = Some(now);
    attempt.reused = Some(reused);
    if let Some(lease) = &active.lease {
        lease.endpoint().metrics.record_connection(reused);
    }
    if !reused && let (Some(started), Some(upstream)) = (attempt.started, &active.upstream) {
        let time = now - started;
        attempt.connect_time = Some(time);
        upstream.metrics.record_connect(time);
    }
}

/// No connection: another endpoint at once, if there is one and the count allows it.
pub fn after_failed_connect(ctx: &mut Context, mut error: Box<Error>) -> Box<Error> {
    error.set_retry(false);
    let Ok(active) = ctx.active() else { return error };
    let (Some(upstream), Some(lease)) = (&active.upstream, active.lease.take()) else { return error };
    let endpoint = lease.endpoint();
    endpoint.metrics.record_error(connect_failure(&error));
    tracing::debug!(upstream = %upstream.config.name, endpoint = endpoint.label, %error, "connect failed");
    active.rejection =
        Some(Rejection::new(Reason::UpstreamUnreachable, format!("{}: {}", endpoint.label, root_cause(&error))));
    active.unreachable.push(endpoint.clone());
    let is_left = |endpoint| !active.unreachable.iter().any(|e| Arc::ptr_eq(e, endpoint));
    let any_left = upstream.targets().list.iter().any(|target| is_left(&target.endpoint));
    if any_left && active.connect_retries < upstream.config.retry.connect {
        active.connect_retries += 1;
        upstream.metrics.record_retry(Retry::Connect);
        error.set_retry(true);
    }
    error
}

/// The exchange broke: once more, if that cannot do anything twice.
pub fn after_failed_exchange(session: &mut Session, ctx: &mut Context, mut error: Box<Error>) -> Box<Error> {
    error.set_retry(false);
    let Ok(active) = ctx.active() else { return error };
    let (Some(upstream), Some(lease)) = (active.upstream.clone(), active.lease.take()) else { return error };
    let outcome = &active.exchange.outcome;
    let kind = exchange_failure(&error, outcome.fault());
    if let Some(kind) = kind {
        lease.endpoint().metrics.record_error(kind);
        let rejection = Rejection::new(reason_for(kind), format!("{}: {}", lease.endpoint().label, root_cause(&error)));
        active.rejection.get_or_insert(rejection);
    }
    let broke_early = matches!(kind, Some(UpstreamError::Reset | UpstreamError::ClosedEarly))
        && !active.attempt.begun
        && !is_within_head(&error)
        && session.response_written().is_none();
    let repeatable = is_safe(&session.req_header().method) && !active.exchange.has_body && !outcome.client_gone();
    if broke_early && repeatable && active.idempotent_retries < upstream.config.retry.idempotent {
        if upstream.budget.withdraw() {
            active.idempotent_retries += 1;
            active.rejection = None;
            upstream.metrics.record_retry(Retry::Idempotent);
            error.set_retry(true);
        } else {
            upstream.metrics.record_retry_budget_exhausted();
        }
    }
    error
}

/// Whether the connection ended within the head of a response. Pingora says it in words only (pingora-core 0.9.1
/// `protocols/http/v1/client.rs`, `read_response`).
fn is_within_head(error: &Error) -> bool {
    let Some(context) = &error.context else { return false };
    context.as_str().rsplit_once("bytes already read: ").is_some_and(|(_, count)| count != "0")
}

/// Methods that are repeated: the safe ones (RFC 9110 section 9.2.1). PUT and DELETE are idempotent by the book and not in
/// every app.
fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

/// What went wrong at the app's side; none when it was the client's or ours.
fn exchange_failure(error: &Error, fault: Option<Reason>) -> Option<UpstreamError> {
    match fault {
        Some(Reason::UpstreamTimeout) => return Some(UpstreamError::Timeout),
        Some(Reason::UpstreamInvalid) => return Some(UpstreamError::InvalidResponse),
        Some(Reason::UpstreamClosed) => return Some(UpstreamError::ClosedEarly),
        Some(_) => return None,
        None => {}
    }
    if *error.esource() != ErrorSource::Upstream {
        return None;
    }
    Some(match error.etype() {
        ErrorType::ConnectionClosed => UpstreamError::ClosedEarly,
        ErrorType::ReadError | ErrorType::WriteError => UpstreamError::Reset,
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => UpstreamError::Timeout,
        _ => UpstreamError::InvalidResponse,
    })
}

fn reason_for(kind: UpstreamError) -> Reason {
    match kind {
        UpstreamError::ConnectRefused | UpstreamError::ConnectTimeout | UpstreamError::ConnectOther => {
            Reason::UpstreamUnreachable
        }
        UpstreamError::Reset | UpstreamError::ClosedEarly => Reason::UpstreamClosed,
        UpstreamError::Timeout => Reason::UpstreamTimeout,
        UpstreamError::InvalidResponse => Reason::UpstreamInvalid,
    }
}

/// The innermost cause in a few words: what the operating system said, where it said something. Bytes the app sent are not
/// repeated.
fn root_cause(error: &Error) -> String {
    match error.root_cause().source() {
        Some(cause) => cause.to_string(),
        None => error.root_etype().as_str().to_owned(),
    }
}
