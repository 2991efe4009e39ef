//! The end of a request, however it ended: one log line, one count.

use std::time::Duration;

use http::{HeaderValue, header};
use pingora_proxy::Session;

use crate::observe::access_log::Entry;
use crate::observe::metrics::Method;
use crate::proxy::context::{Active, Context};
use crate::proxy::rejection::Reason;
use crate::route::target::split_query;

/// Gives back what the request held, counts it and logs it.
pub fn finish(session: &Session, ctx: &mut Context) {
    let Ok(active) = ctx.active() else { return };
    let lease = active.lease.take();
    let duration = active.exchange.started.elapsed();
    let status = status(session, active);
    if active.exchange.outcome.client_gone() && active.rejection.is_none() {
        active.rejection = Some(Reason::ClientClosed.into());
    }
    count(session, active, status, duration);
    if let (Some(endpoint), Some(upstream_status), Some(connected)) =
        (active.tried.last(), active.attempt.status, active.attempt.connected)
    {
        endpoint.metrics.record(upstream_status, connected.elapsed());
    }
    drop(lease);
    report(session, active, status);
    write_line(session, active, status, duration);
    active.counted = None;
}

/// What was sent; 499 when the client left before it had anything.
fn status(session: &Session, active: &Active) -> u16 {
    match session.response_written() {
        _ if active.exchange.outcome.client_unanswered() => Reason::ClientClosed.status(),
        Some(response) => response.status.as_u16(),
        None if active.exchange.outcome.client_gone() => Reason::ClientClosed.status(),
        None => active
            .answered
            .or(active.rejection.as_ref().map(|r| r.reason.status()))
            .unwrap_or(Reason::ClientClosed.status()),
    }
}

fn count(session: &Session, active: &Active, status: u16, duration: Duration) {
    let metrics = &active.exchange.snapshot.shared.metrics;
    let outcome = &active.exchange.outcome;
    let method = match active.exchange.refusal {
        None => Method::of(session.req_header().method.as_str().as_bytes()),
        Some(_) => Method::Other,
    };
    let route = active.counted.as_deref().unwrap_or(&metrics.no_route);
    route.record(method, status, duration, outcome.body_bytes(), outcome.sent_bytes());
    if outcome.client_gone() {
        route.record_client_abort();
    }
    if let Some(rejection) = &active.rejection {
        metrics.record_rejection(rejection.reason.index());
    }
}

/// The error log hears of what somebody who runs the app should mend; the rest is in the access log.
fn report(session: &Session, active: &Active, status: u16) {
    let Some(rejection) = &active.rejection else { return };
    let request_id = active.request_id.to_str().unwrap_or_default();
    let route = active.counted.as_ref().map_or("none", |counted| counted.name());
    let (reason, detail) = (rejection.reason.word(), &*rejection.detail);
    if rejection.reason == Reason::Internal {
        tracing::error!(request_id, route, status, reason, detail, "request failed");
    } else if rejection.reason.is_ours_to_mend() {
        tracing::warn!(
            request_id,
            route,
            status,
            reason,
            detail,
            sent = session.response_written().is_some(),
            "request failed"
        );
    } else {
        tracing::debug!(request_id, route, status, reason, detail, "request refused");
    }
}

fn write_line(session: &Session, active: &Active, status: u16, duration: Duration) {
    let exchange = &active.exchange;
    let log = &exchange.snapshot.shared.access_log;
    if !log.is_on() {
        return;
    }
    let request = session.req_header();
    let field = |name| request.headers.get(name).map(HeaderValue::as_bytes);
    let (path, query) = split_query(&exchange.target);
    let refused = exchange.refusal.is_some();
    let own_client = active.client == exchange.facts.peer.ip();
    let attempt = &active.attempt;
    log.log(&Entry {
        time: exchange.received,
        request_id: active.request_id.as_bytes(),
        client: active.client,
        client_port: exchange.facts.peer_port.filter(|_| own_client),
        method: if refused { b"" } else { request.method.as_str().as_bytes() },
        host: exchange.host.as_ref().map(HeaderValue::as_bytes).unwrap_or_default(),
        path,
        query,
        protocol: match (refused, request.version) {
            (true, _) => "",
            (false, http::Version::HTTP_10) => "HTTP/1.0",
            (false, _) => "HTTP/1.1",
        },
        status,
        route: active.counted.as_ref().map(|counted| counted.name()),
        upstream: active.upstream.as_ref().map(|upstream| &*upstream.config.name),
        endpoint: active.tried.last().map(|endpoint| &*endpoint.label),
        upstream_status: attempt.status,
        reason: active.rejection.as_ref().map(|rejection| rejection.reason.word()),
        bytes_in: exchange.outcome.body_bytes(),
        bytes_out: exchange.outcome.sent_bytes(),
        duration,
        t_connect: attempt.connect_time,
        t_first_byte: attempt.first_byte_time,
        retries: active.connect_retries + active.idempotent_retries,
        reused: attempt.reused,
        user_agent: field(header::USER_AGENT),
        referer: field(header::REFERER),
        listener: Some(&exchange.facts.listener.label),
    });
}
