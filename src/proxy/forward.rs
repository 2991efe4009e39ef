//! The request as the app is to see it: our fields in place of every claimed one, and the path without a stripped prefix.
//!
//! It is edited in place, once, before the first attempt: each attempt sends the same bytes. What must not pass was left out
//! when the head was read.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, BytesMut};
use http::{HeaderName, HeaderValue, header};

use crate::config::model::{ClientAbort, Keepalive, Route};
use crate::header::forwarding::{Authority, Forwarding, Listener};
use crate::header::request_id::X_REQUEST_ID;
use crate::header::trace::{TRACEPARENT, TRACESTATE};
use crate::message::RequestHead;
use crate::proxy::context::{Active, origin};
use crate::proxy::rejection::{Reason, Rejection};
use crate::proxy::security::{self, X_CSP_NONCE};
use crate::route::host::Host;
use crate::route::target::{split_query, strip_prefix_raw};
use crate::tls::identity::{X_CLIENT_CERT_SHA256, X_CLIENT_CERT_SUBJECT};
use crate::upstream::Upstream;

const X_REQUEST_START: HeaderName = HeaderName::from_static("x-request-start");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Makes `request` what goes to `upstream`, and tells the session how long to wait for it. `host` is the Host that counts,
/// with the port in it.
///
/// # Errors
/// The prefix to strip does not end where a byte of the client's path does.
pub fn prepare(
    request: &mut RequestHead,
    active: &mut Active,
    route: &Route,
    upstream: &Upstream,
    host: Option<(&HeaderValue, Option<u16>)>,
) -> Result<(), Rejection> {
    if let Some(prefix) = &route.strip_prefix {
        strip_prefix(request, prefix)?;
    }
    if host.is_none() {
        // An HTTP/1.0 client may leave it out, and what goes on is HTTP/1.1 (RFC 9112 section 3.2).
        set(request, header::HOST, HeaderValue::from_static(""));
    }
    set_forwarding(request, active, host);
    set_identity(request, active);
    set(request, X_REQUEST_ID, active.request_id.clone());
    set_trace(request, active);
    set(request, X_REQUEST_START, request_start(active.exchange.received));
    if route.security.has_nonce()
        && let Some(nonce) = security::nonce()
    {
        set(request, X_CSP_NONCE, nonce.clone());
        active.nonce = Some(nonce);
    }
    for name in &route.request_headers.remove {
        request.headers.remove(name);
    }
    for (name, value) in &route.request_headers.set {
        set(request, name.clone(), value.clone());
    }
    let config = &upstream.config;
    if active.exchange.upgrade {
        set(request, header::CONNECTION, HeaderValue::from_static("Upgrade"));
        set(request, header::UPGRADE, HeaderValue::from_static("websocket"));
    } else if config.keepalive == Keepalive::Off {
        set(request, header::CONNECTION, HeaderValue::from_static("close"));
    }
    let control = &active.exchange.control;
    control.set_upstream_timeouts(
        route.first_byte_timeout.unwrap_or(config.first_byte_timeout),
        route.read_timeout.unwrap_or(config.read_timeout),
    );
    if config.client_abort == ClientAbort::Finish {
        control.finish_without_client();
    }
    if config.capacity.is_some() {
        control.outlive_timeout();
    }
    control.spool_response(route.buffer_responses.unwrap_or(config.buffer_responses));
    active.buffers_request = route.buffer_requests.unwrap_or(config.buffer_requests);
    Ok(())
}

fn strip_prefix(request: &mut RequestHead, prefix: &str) -> Result<(), Rejection> {
    let (path, query) = split_query(&request.target);
    let bad = || Rejection::new(Reason::BadTarget, "the prefix to strip ends inside an encoded byte");
    let rest = strip_prefix_raw(path, prefix).ok_or_else(bad)?;
    let mut target = BytesMut::with_capacity(request.target.len() + 1);
    target.extend_from_slice(if rest.is_empty() { b"/" } else { rest });
    if let Some(query) = query {
        target.put_u8(b'?');
        target.extend_from_slice(query);
    }
    request.target = target.freeze();
    let prefix = HeaderValue::from_str(prefix).map_err(|_| bad())?;
    set(request, X_FORWARDED_PREFIX, prefix);
    Ok(())
}

/// One value each, whatever the client claimed.
fn set_forwarding(request: &mut RequestHead, active: &Active, host: Option<(&HeaderValue, Option<u16>)>) {
    let origin = origin(&active.exchange);
    // A trusted proxy's word on the host counts where it is a host, and one that is served: many pass on what the client said.
    let allowed = &active.exchange.snapshot.allowed_hosts;
    let forwarded = origin.forwarded_host.and_then(|value| {
        let host = Host::parse(value).ok().filter(|host| allowed.allows(Some(&host.name)))?;
        Some((HeaderValue::from_bytes(value).ok()?, host.port))
    });
    let authority = match &forwarded {
        Some((value, port)) => Some(Authority { value, port: *port }),
        None => host.map(|(value, port)| Authority { value, port }),
    };
    let facts = &active.exchange.facts;
    let listener = Listener { port: facts.listener.port, https: facts.tls.is_some() };
    for (name, value) in Forwarding::new(&origin, listener, authority).into_fields() {
        set(request, name, value);
    }
}

/// Whom the client has shown to be. What it says itself was left out when the head was read.
fn set_identity(request: &mut RequestHead, active: &Active) {
    let Some(client) = active.exchange.facts.tls.as_ref().and_then(|tls| tls.client.as_ref()) else { return };
    set(request, X_CLIENT_CERT_SUBJECT, client.subject.clone());
    set(request, X_CLIENT_CERT_SHA256, client.fingerprint.clone());
}

/// The step that the app's own follow: ours, where it is sent to a collector. Else what a client says goes on as it is, unless it wants
/// more recorded than it may.
fn set_trace(request: &mut RequestHead, active: &Active) {
    let trace = active.trace;
    if !trace.received {
        // It belongs to a trace that could not be read.
        request.headers.remove(TRACESTATE);
    }
    if let Some(steps) = &active.steps {
        set(request, TRACEPARENT, trace.at(steps.client).field());
    } else if trace.received || active.exchange.snapshot.config.tracing.start {
        set(request, TRACEPARENT, trace.field());
    } else {
        request.headers.remove(TRACEPARENT);
    }
}

/// When the first byte of the request came, in the form that monitoring of Python apps reads: `t=` and seconds since 1970. The time
/// to the app's own clock is what the request waited for, in our queue above all.
fn request_start(received: SystemTime) -> HeaderValue {
    let since = received.duration_since(UNIX_EPOCH).unwrap_or_default();
    // Ten digits of seconds last until 2286.
    let mut text = *b"t=0000000000.000";
    let mut rest = since.as_millis();
    for byte in text.iter_mut().rev().filter(|byte| **byte == b'0') {
        *byte = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("t=0"))
}

fn set(request: &mut RequestHead, name: HeaderName, value: HeaderValue) {
    request.headers.insert(name, value);
}
