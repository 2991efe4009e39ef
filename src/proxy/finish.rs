//! The end of a request, however it ended: one log line, one count, and its spans.

use std::time::Duration;

use http::{HeaderValue, header};

use crate::message::RequestHead;
use crate::observe::access_log::Entry;
use crate::observe::metrics::{CacheResult, Method};
use crate::proxy::context::Active;
use crate::proxy::rejection::{Reason, Rejection};
use crate::route::target::split_query;
use crate::upstream::Wanted;

/// Gives back what the request held, counts it and logs it. The request is there unless the session is gone.
pub fn finish(active: &mut Active, request: Option<&RequestHead>) {
    active.finished = true;
    active.exchange.control.uncount();
    let duration = active.exchange.started.elapsed();
    if active.exchange.outcome.client_gone() && active.rejection.is_none() {
        let fault = active.exchange.outcome.fault().filter(|fault| fault.is_of_the_transfer());
        active.rejection = Some(fault.unwrap_or(Reason::ClientClosed).into());
    }
    let status = status(active);
    count(active, status, duration);
    active.release();
    report(active, status);
    write_line(active, request, status, duration);
    active.counted = None;
}

/// The end of a request whose task was dropped: it panicked, or the process leaves.
pub fn abandon(active: &mut Active) {
    let draining = active.exchange.snapshot.shared.is_draining() && !std::thread::panicking();
    let reason = if draining { Reason::Shutdown } else { Reason::Internal };
    active.rejection = Some(Rejection::new(reason, "the request was cut"));
    finish(active, None);
}

/// What was sent; where nothing was, 499 for a client that left, or what would have been.
fn status(active: &Active) -> u16 {
    let outcome = &active.exchange.outcome;
    match (outcome.answered(), &active.rejection) {
        (Some(status), _) => status,
        (None, _) if outcome.client_gone() => Reason::ClientClosed.status(),
        (None, Some(rejection)) => rejection.reason.status(),
        (None, None) => Reason::ClientClosed.status(),
    }
}

fn count(active: &Active, status: u16, duration: Duration) {
    let exchange = &active.exchange;
    let metrics = &exchange.snapshot.shared.metrics;
    let method = match exchange.refusal {
        None => Method::of(exchange.method.as_str().as_bytes()),
        Some(_) => Method::Other,
    };
    let route = active.counted.as_deref().unwrap_or(&metrics.no_route);
    route.record(method, status, duration, exchange.outcome.body_bytes(), exchange.outcome.sent_bytes());
    if exchange.outcome.client_gone() {
        route.record_client_abort();
    }
    if let Some(visit) = &active.visit {
        visit.count();
    }
    if let Some(rejection) = &active.rejection {
        metrics.record_rejection(rejection.reason.index());
    }
}

/// The error log hears of what somebody who runs the app should mend; the rest is in the access log.
fn report(active: &Active, status: u16) {
    let Some(rejection) = &active.rejection else { return };
    let request_id = active.request_id.to_str().unwrap_or_default();
    let route = active.counted.as_ref().map_or("none", |counted| counted.name());
    let (reason, detail) = (rejection.reason.word(), &*rejection.detail);
    if rejection.reason == Reason::Internal {
        tracing::error!(request_id, route, status, reason, detail, "request failed");
    } else if rejection.reason.is_ours_to_mend() {
        let sent = active.exchange.outcome.answered().is_some();
        tracing::warn!(request_id, route, status, reason, detail, sent, "request failed");
    } else {
        tracing::debug!(request_id, route, status, reason, detail, "request refused");
    }
}

fn write_line(active: &Active, request: Option<&RequestHead>, status: u16, duration: Duration) {
    let exchange = &active.exchange;
    let log = &exchange.snapshot.shared.access_log;
    let traced = exchange.snapshot.traces.as_ref().zip(active.steps.as_ref());
    if !log.is_on() && traced.is_none() {
        return;
    }
    let field = |name| request.and_then(|request| request.headers.get(name)).map(HeaderValue::as_bytes);
    let (path, query) = split_query(&exchange.target);
    let redaction = &exchange.snapshot.redaction;
    let query = query.map(|query| redaction.query(query));
    let referer = field(header::REFERER).map(|referer| redaction.url(referer));
    let trace_id = active.trace.id();
    let refused = exchange.refusal.is_some();
    let own_client = active.client == exchange.facts.peer.ip();
    let attempt = &active.attempt;
    let limit = active.limited.as_ref().and_then(|limited| {
        let refused = limited.refusal.as_ref().and_then(|refusal| refusal.limits.first()).map(|name| (&**name, false));
        refused.or_else(|| limited.watched.as_ref().map(|name| (&**name, true)))
    });
    let mut entry = Entry {
        time: exchange.received,
        request_id: active.request_id.as_bytes(),
        trace_id: if active.trace.received || exchange.snapshot.config.tracing.start { &trace_id } else { b"" },
        client: active.client,
        hides_client: false,
        user: active.user.as_deref(),
        client_port: exchange.facts.peer_port.filter(|_| own_client),
        method: if refused { b"" } else { exchange.method.as_str().as_bytes() },
        host: exchange.host.as_ref().map(HeaderValue::as_bytes).unwrap_or_default(),
        path,
        query: query.as_deref(),
        protocol: match (refused, exchange.version) {
            (_, http::Version::HTTP_2) => "HTTP/2",
            (true, _) => "",
            (false, http::Version::HTTP_10) => "HTTP/1.0",
            (false, _) => "HTTP/1.1",
        },
        status,
        route: active.counted.as_ref().map(|counted| counted.name()),
        upstream: active.upstream.as_ref().map(|upstream| &*upstream.config.name),
        endpoint: active.endpoint.as_ref().map(|endpoint| &*endpoint.label),
        upstream_status: attempt.status,
        reason: active.rejection.as_ref().map(|rejection| rejection.reason.word()),
        limit: limit.map(|(name, _)| name),
        limit_dry_run: limit.is_some_and(|(_, dry)| dry),
        cache: active.visit.as_ref().and_then(|visit| visit.outcome()).map(CacheResult::text),
        cache_detail: active.visit.as_ref().and_then(|visit| visit.detail()),
        bytes_in: exchange.outcome.body_bytes(),
        bytes_out: exchange.outcome.sent_bytes(),
        duration,
        t_receive: active.receive_time,
        t_queue: active.wanted.as_ref().map(Wanted::queued),
        t_connect: attempt.connect_time,
        t_first_byte: attempt.first_byte_time,
        retries: active.connect_retries + active.idempotent_retries,
        reused: attempt.reused,
        user_agent: field(header::USER_AGENT),
        referer: referer.as_deref(),
        listener: Some(&exchange.facts.listener.label),
    };
    redaction.hide(&mut entry);
    log.log(&entry);
    if let Some((traces, steps)) = traced {
        traces.record(&entry, steps);
    }
}
