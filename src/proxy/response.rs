//! The app's answer: whether it may be passed on, and the fields that are ours.

use std::time::Duration;

use http::{HeaderName, StatusCode, header};
use pingora_error::{Error, ErrorType, Result};

use crate::header::request_id::X_REQUEST_ID;
use crate::header::stream::{is_event_stream, is_stream};
use crate::message::ResponseHead;
use crate::proxy::cache::{self, Way};
use crate::proxy::context::Active;
use crate::proxy::cors;
use crate::proxy::limit;
use crate::proxy::rejection::{Reason, Rejection};
use crate::proxy::security;
use crate::proxy::timing;

/// How long an app may have nothing to tell within an event stream, unless its route says otherwise.
const EVENT_PAUSE: Duration = Duration::from_hours(1);
const X_ACCEL_REDIRECT: HeaderName = HeaderName::from_static("x-accel-redirect");

/// Takes note of the head and refuses what cannot be done for the app.
///
/// # Errors
/// The app asks for an internal redirect: without one its answer would be empty.
pub fn judge(response: &mut ResponseHead, active: &mut Active) -> Result<()> {
    active.attempt.begun = true;
    if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(());
    }
    let attempt = &mut active.attempt;
    attempt.status = Some(response.status.as_u16());
    if let (Some(connected), Some(lease)) = (attempt.connected, &active.lease) {
        let time = connected.elapsed();
        attempt.first_byte_time = Some(time);
        lease.endpoint().metrics.record_first_byte(time);
        if let Some(upstream) = &active.upstream {
            upstream.record_success(lease.endpoint());
        }
    }
    if response.headers.contains(X_ACCEL_REDIRECT) {
        active.rejection = Some(Rejection::from(Reason::AccelRedirect));
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "X-Accel-Redirect");
    }
    let is_stream = is_stream(&response.headers);
    if active.visit.is_some() {
        cache::judge(response, active, is_stream);
    }
    if is_stream {
        active.exchange.control.spool_response(false);
        if may_have_no_end(response) {
            active.exchange.control.end_with_client();
        }
    }
    if is_event_stream(&response.headers) && route_read_timeout(active).is_none() {
        active.exchange.control.await_events(EVENT_PAUSE);
    }
    // The rest of the family is for a proxy, not for its clients.
    response.headers.retain(|name, _| !name.as_str().starts_with("x-accel-"));
    Ok(())
}

/// Whether it is a stream, and one of events or of a length that it does not say.
pub fn may_have_no_end(response: &ResponseHead) -> bool {
    let has_body = !matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let headers = &response.headers;
    has_body && is_stream(headers) && (is_event_stream(headers) || !headers.contains(header::CONTENT_LENGTH))
}

/// The route's own word on pauses within a response.
fn route_read_timeout(active: &Active) -> Option<Duration> {
    let (route, _) = active.route.and_then(|index| active.exchange.snapshot.route(index))?;
    route.read_timeout
}

/// Adds what every answer carries, and what the route asks for.
pub fn edit(response: &mut ResponseHead, active: &Active) {
    if !response.headers.contains(X_REQUEST_ID) {
        response.headers.append(X_REQUEST_ID, active.request_id.clone());
    }
    if let Some(visit) = active.visit.as_deref().filter(|visit| visit.way != Way::Unsafe) {
        cache::add_status(response, visit, None);
    }
    edit_for_route(response, active, response.status == StatusCode::NOT_MODIFIED);
}

/// Security fields, and the route's own additions and removals, on the app's answers and on ours. `is_short`: it lacks fields that the
/// app's answer had.
pub fn edit_for_route(response: &mut ResponseHead, active: &Active, is_short: bool) {
    let snapshot = &active.exchange.snapshot;
    let route = active.route.and_then(|index| snapshot.route(index)).map(|(route, _)| route);
    let security = route.map_or(&snapshot.config.security, |route| &route.security);
    let says_hsts = response.headers.contains(header::STRICT_TRANSPORT_SECURITY);
    let app_says_hsts = snapshot.app_says_hsts(active.route, says_hsts);
    // Whoever is told a shorter time forgets the longer one of the app (RFC 6797 section 8.1).
    let https =
        active.https && (says_hsts || !app_says_hsts || security.hsts.as_ref().is_some_and(|hsts| hsts.overrides));
    security::add(response, security, active.https, https, active.nonce.as_ref(), is_short);
    let Some(route) = route else { return };
    if let Some(cors) = &route.cors {
        cors::add(response, cors, active.origin.as_ref());
    }
    limit::add_fields(response, active);
    if route.server_timing {
        timing::add(response, active);
    }
    for name in &route.response_headers.remove {
        response.headers.remove(name);
    }
    for (name, value) in &route.response_headers.set {
        response.headers.insert(name.clone(), value.clone());
    }
}
