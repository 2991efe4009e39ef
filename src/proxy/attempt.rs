//! One try at an endpoint, and whether there is another (RFC 9110 section 9.2.2).
//!
//! A connection that could not be made cost the app nothing: any method is tried elsewhere at once, and then waits in the queue
//! for an endpoint to come back. An exchange that failed before a byte of the response is tried once more only if its method is
//! safe to repeat. Nothing else is: an app may have done what a POST asks for, and closed before it said so.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use http::Method;

use crate::edge::session::Session;
use crate::observe::metrics::{EndpointOverdue, Retry, UpstreamError};
use crate::proxy::context::{Active, Attempt};
use crate::proxy::exchange::Failed;
use crate::proxy::rejection::{Reason, Rejection};
use crate::spool::Keep;
use crate::upstream::endpoint::{Endpoint, Lease};
use crate::upstream::socket::{self, Failure};
use crate::upstream::stream::Broken;
use crate::upstream::{Refused, Wanted};

/// Waits for a slot and a connection on it. The client is watched meanwhile: whoever leaves gives up the place at once.
///
/// # Errors
/// There is none in time, or the client left.
pub async fn begin(session: &mut Session, active: &mut Active) -> Result<(), Rejection> {
    session.rewind();
    let shared = active.exchange.snapshot.shared.clone();
    loop {
        active.connection = None;
        active.lease = None;
        tokio::select! {
            biased;
            taken = slot(active) => taken?,
            () = session.departure() => return Err(Reason::ClientClosed.into()),
            () = shared.waiting_refused() => return Err(Reason::Shutdown.into()),
        }
        let connected = tokio::select! {
            biased;
            connected = connect(active) => connected,
            () = session.departure() => return Err(Reason::ClientClosed.into()),
        };
        if connected {
            active.visit.iter_mut().for_each(|visit| visit.asks_now());
            return Ok(());
        }
    }
}

/// Takes a slot, in turn.
async fn slot(active: &mut Active) -> Result<(), Rejection> {
    let (Some(upstream), Some(wanted)) = (&active.upstream, &mut active.wanted) else {
        return Err(Rejection::new(Reason::Internal, "no upstream was chosen"));
    };
    match upstream.acquire(wanted).await {
        Ok(lease) => {
            active.lease = Some(lease);
            Ok(())
        }
        Err(refused) => Err(refusal(refused, active)),
    }
}

fn refusal(refused: Refused, active: &mut Active) -> Rejection {
    match (refused, active.unreachable.take()) {
        (Refused::NoEndpoint, _) => Reason::NoEndpoint.into(),
        // The app is not there; or it was not, and nobody may wait.
        (Refused::Full { .. } | Refused::Late { unreachable: true }, Some(why)) => {
            Rejection::new(Reason::UpstreamUnreachable, why)
        }
        (Refused::Full { unreachable: true } | Refused::Late { unreachable: true }, None) => {
            Rejection::new(Reason::UpstreamUnreachable, "no endpoint could be connected to, or all are drained")
        }
        (Refused::Late { unreachable: false }, _) => {
            let waited = active.wanted.as_ref().map(Wanted::queued).unwrap_or_default();
            Rejection::new(Reason::QueueTimeout, format!("no endpoint was free for {waited:.1?}"))
        }
        (Refused::Full { unreachable: false }, None) => Reason::QueueFull.into(),
    }
}

/// Takes an idle connection to the endpoint, or makes one; whether there is one.
async fn connect(active: &mut Active) -> bool {
    let (Some(upstream), Some(lease)) = (&active.upstream, &active.lease) else { return false };
    let endpoint = lease.endpoint().clone();
    let started = Instant::now();
    let mut attempt = Attempt::default();
    let connected = match upstream.way_to(&endpoint) {
        None => Err(io::Error::other("its name has another address by now")),
        Some(tls) => {
            // Whoever is to find out whether an endpoint can be connected to has to connect.
            let pooled = if endpoint.is_reachable() { endpoint.pool.take(tls.as_ref()) } else { None };
            if let Some(stream) = pooled {
                Ok(stream)
            } else {
                endpoint.pool.make_room(endpoint.in_flight());
                let limit = upstream.config.connect_timeout;
                // Boxed, so that who waits in the queue makes no room for it.
                let connected = Box::pin(socket::connect_within(&endpoint.address, tls.as_deref(), limit)).await;
                attempt.connect_time = Some(started.elapsed());
                connected.map(|socket| endpoint.pool.wrap(socket, tls))
            }
        }
    };
    active.endpoint = Some(endpoint.clone());
    let is_connected = connected.is_ok();
    match connected {
        Ok(mut stream) => {
            let reused = stream.is_reused();
            attempt.connected = Some(Instant::now());
            attempt.reused = Some(reused);
            endpoint.metrics.record_connection(reused);
            if let Some(time) = attempt.connect_time {
                upstream.metrics.record_connect(time);
                endpoint.record_connected();
            }
            if upstream.config.capacity.is_some() {
                stream.occupy(lease.clone(), active.exchange.control.upstream_patience(true));
            }
            active.connection = Some(stream);
        }
        Err(error) => after_failed_connect(active, &endpoint, &error),
    }
    active.attempt = attempt;
    is_connected
}

/// No connection: another endpoint at once, if there is one and the count allows it; else the request waits for one to come back.
fn after_failed_connect(active: &mut Active, endpoint: &Arc<Endpoint>, error: &io::Error) {
    let (Some(upstream), Some(wanted)) = (&active.upstream, &mut active.wanted) else { return };
    active.unreachable = Some(format!("{}: {error}", endpoint.label));
    let failure = socket::connect_failure(error);
    endpoint.metrics.record_error(match failure {
        Failure::Refused | Failure::NoSocketFile => UpstreamError::ConnectRefused,
        Failure::Timeout => UpstreamError::ConnectTimeout,
        Failure::BacklogFull | Failure::Permission | Failure::Shortage | Failure::Other => UpstreamError::ConnectOther,
    });
    if failure == Failure::Shortage {
        endpoint.record_shortage(error);
        return wanted.rest();
    }
    upstream.record_connect_failure(endpoint, error);
    wanted.record_tried(endpoint);
    // Where there is no other, the queue holds the request until its endpoint is to be asked again.
    if !upstream.has_other(wanted.tried()) {
        return;
    }
    if active.connect_retries < upstream.config.retry.connect {
        active.connect_retries += 1;
        upstream.metrics.record_retry(Retry::Connect);
    } else {
        wanted.rest();
    }
}

/// The exchange broke: once more, if that cannot do anything twice. `begun`: the client has seen some of the answer.
pub fn failed(active: &mut Active, failed: &Failed, begun: bool) {
    let (Some(upstream), Some(lease)) = (active.upstream.clone(), &active.lease) else { return };
    let outcome = &active.exchange.outcome;
    let Some(kind) = exchange_failure(failed, outcome.fault()) else { return };
    let endpoint = lease.endpoint();
    endpoint.metrics.record_error(kind);
    let rejection = Rejection::new(reason_for(kind), format!("{}: {}", endpoint.label, words(failed)));
    active.rejection.get_or_insert(rejection);
    let is_late = kind == UpstreamError::Timeout;
    let broke = matches!(kind, UpstreamError::Reset | UpstreamError::ClosedEarly) && !is_within_head(failed);
    if active.attempt.begun || begun {
        return;
    }
    if broke && active.attempt.reused == Some(true) {
        endpoint.metrics.record_reuse_failure();
    }
    // That an idle connection was closed under a request is nobody's fault.
    if is_late || (broke && active.attempt.reused != Some(true)) {
        upstream.record_failure(endpoint);
    }
    if let Some(wanted) = &mut active.wanted {
        wanted.record_tried(endpoint);
    }
    let is_whole = !active.exchange.has_body || active.buffers_request;
    let repeatable = is_safe(&active.exchange.method) && is_whole && !outcome.client_gone();
    if !broke || !repeatable || active.idempotent_retries >= upstream.config.retry.idempotent {
        return;
    }
    if upstream.budget.withdraw() {
        active.idempotent_retries += 1;
        active.repeat = true;
        active.rejection = None;
        upstream.metrics.record_retry(Retry::Idempotent);
    } else {
        upstream.metrics.record_retry_budget_exhausted();
    }
}

/// The app's time is up, and it goes on: its slot stays taken for as long as what is returned.
pub fn outlived(active: &mut Active) -> Option<(Lease, EndpointOverdue)> {
    let (upstream, lease) = (active.upstream.as_ref()?, active.lease.take()?);
    let endpoint = lease.endpoint();
    endpoint.metrics.record_error(UpstreamError::Timeout);
    let detail = format!("{}: no answer in time, its slot stays taken until it ends", endpoint.label);
    active.rejection = Some(Rejection::new(Reason::UpstreamTimeout, detail));
    if !active.attempt.begun {
        upstream.record_failure(endpoint);
    }
    let overdue = endpoint.metrics.enter_overdue();
    Some((lease, overdue))
}

/// There is to be another exchange.
pub fn begin_again(active: &mut Active) {
    if let Some(wanted) = &mut active.wanted {
        wanted.begin_again();
    }
}

/// Whether the exchange is to be tried once more.
pub fn is_repeated(active: &mut Active) -> bool {
    let is_repeated = std::mem::take(&mut active.repeat) && !active.exchange.outcome.client_gone();
    if is_repeated {
        begin_again(active);
    }
    is_repeated
}

/// Notes why there is no answer from the app: what the session saw comes first, then what the attempts did.
pub fn explain(active: &mut Active, failed: &Failed) {
    let outcome = &active.exchange.outcome;
    let rejection = match outcome.fault() {
        _ if active.repeat => return,
        fault if outcome.client_gone() => {
            fault.filter(|fault| fault.is_of_the_transfer()).unwrap_or(Reason::ClientClosed).into()
        }
        _ if active.rejection.is_some() => return,
        fault => Rejection::new(fault.unwrap_or(Reason::Internal), words(failed)),
    };
    active.rejection = Some(rejection);
}

/// Whether the connection ended within the head of a response.
fn is_within_head(failed: &Failed) -> bool {
    match failed {
        Failed::Upstream(Broken::WithinHead) => true,
        Failed::Upstream(Broken::Io(error)) => error.kind() == io::ErrorKind::UnexpectedEof,
        Failed::Upstream(_) | Failed::Here(_) => false,
    }
}

/// Whether a request's body may have to be sent again.
pub fn keep(method: &Method) -> Keep {
    if is_safe(method) { Keep::ForReplay } else { Keep::Once }
}

/// Methods that are repeated: the safe ones (RFC 9110 section 9.2.1). PUT and DELETE are idempotent by the book and not in
/// every app.
fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

/// What went wrong at the app's side; none when it was the client's or ours.
fn exchange_failure(failed: &Failed, fault: Option<Reason>) -> Option<UpstreamError> {
    match (fault, failed) {
        (Some(Reason::UpstreamTimeout), _) => Some(UpstreamError::Timeout),
        (Some(Reason::UpstreamInvalid), _) => Some(UpstreamError::InvalidResponse),
        (Some(Reason::UpstreamClosed), _) => Some(UpstreamError::ClosedEarly),
        (Some(_), _) | (None, Failed::Here(_)) => None,
        (None, Failed::Upstream(broken)) => Some(match broken {
            Broken::Closed | Broken::WithinBody => UpstreamError::ClosedEarly,
            Broken::Malformed(_) => UpstreamError::InvalidResponse,
            // TLS that is none, or an alert.
            Broken::Io(error) if error.kind() == io::ErrorKind::InvalidData => UpstreamError::InvalidResponse,
            Broken::WithinHead | Broken::Io(_) => UpstreamError::Reset,
        }),
    }
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

/// What happened in a few words. Bytes the app sent are not repeated.
fn words(failed: &Failed) -> String {
    match failed {
        Failed::Upstream(broken) => broken.to_string(),
        Failed::Here(error) => error
            .context
            .as_ref()
            .map_or_else(|| error.etype().as_str().to_owned(), |context| context.as_str().to_owned()),
    }
}
