//! The app's answer: whether it may be passed on, and the fields that are ours.

use http::HeaderName;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;

use crate::header::request_id::X_REQUEST_ID;
use crate::proxy::context::Active;
use crate::proxy::rejection::{Reason, Rejection};

const X_ACCEL_REDIRECT: HeaderName = HeaderName::from_static("x-accel-redirect");

/// Takes note of the head and refuses what cannot be done for the app.
///
/// # Errors
/// The app asks for an internal redirect: without one its answer would be empty.
pub fn judge(response: &mut ResponseHeader, active: &mut Active) -> Result<()> {
    active.attempt.begun = true;
    if response.status.is_informational() {
        return Ok(());
    }
    let attempt = &mut active.attempt;
    attempt.status = Some(response.status.as_u16());
    if let (Some(connected), Some(lease)) = (attempt.connected, &active.lease) {
        let time = connected.elapsed();
        attempt.first_byte_time = Some(time);
        lease.endpoint().metrics.record_first_byte(time);
    }
    if response.headers.contains_key(X_ACCEL_REDIRECT) {
        active.rejection = Some(Rejection::from(Reason::AccelRedirect));
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "X-Accel-Redirect");
    }
    // The rest of the family is for a proxy, not for its clients.
    let instructions: Vec<HeaderName> =
        response.headers.keys().filter(|name| name.as_str().starts_with("x-accel-")).cloned().collect();
    for name in instructions {
        response.remove_header(&name);
    }
    Ok(())
}

/// Adds what every answer carries, and what the route asks for.
///
/// # Errors
/// None that a valid configuration can cause.
pub fn edit(response: &mut ResponseHeader, active: &Active) -> Result<()> {
    if !response.headers.contains_key(X_REQUEST_ID) {
        response.insert_header(X_REQUEST_ID, active.request_id.clone())?;
    }
    edit_for_route(response, active)
}

/// The route's own additions and removals, on the app's answers and on ours.
///
/// # Errors
/// None that a valid configuration can cause.
pub fn edit_for_route(response: &mut ResponseHeader, active: &Active) -> Result<()> {
    let Some((route, _)) = active.route.and_then(|index| active.exchange.snapshot.route(index)) else { return Ok(()) };
    for name in &route.response_headers.remove {
        response.remove_header(name);
    }
    for (name, value) in &route.response_headers.set {
        response.insert_header(name.clone(), value.clone())?;
    }
    Ok(())
}
