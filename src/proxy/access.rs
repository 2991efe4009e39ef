//! Who may come to a route, and when nobody may: before limits, and before anything else is done for the request.

use std::sync::Arc;

use http::HeaderValue;

use crate::access::Access;
use crate::access::credentials::Credentials;
use crate::access::logins::{Busy, Gate, Turn};
use crate::message::RequestHead;
use crate::proxy::context::Active;
use crate::proxy::rejection::{Reason, Rejection};
use crate::route::target::is_acme_challenge;

/// What a request without the right password is told (RFC 7617 section 2).
pub const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"restricted\", charset=\"UTF-8\"");

/// A password that is to be checked beside the workers.
#[derive(Debug)]
pub struct Login {
    gate: Arc<Gate>,
    credentials: Credentials,
}

/// Lets the client come to a path, or not.
///
/// # Errors
/// The address may not, or nobody may.
pub fn admit(active: &Active, access: Option<&Arc<Access>>, path: &[u8]) -> Result<(), Rejection> {
    if access.is_some_and(|access| !access.admits(active.client)) {
        return Err(Reason::AccessDenied.into());
    }
    let snapshot = &active.exchange.snapshot;
    // Certificates are renewed meanwhile.
    let is_maintained = snapshot.shared.maintenance.is_on() && !is_acme_challenge(path);
    if is_maintained && !snapshot.maintenance_allow.contains(active.client) {
        let seconds = snapshot.config.maintenance.retry_after.as_secs();
        return Err(Rejection::from(Reason::Maintenance).retry_after(u32::try_from(seconds).unwrap_or(u32::MAX)));
    }
    Ok(())
}

/// Looks at the password, where one is asked for; one that is not known is left for [`settle`].
///
/// # Errors
/// There is none.
pub fn begin(request: &RequestHead, active: &mut Active, access: Option<&Arc<Access>>) -> Result<(), Rejection> {
    let Some(gate) = access.and_then(|access| access.gate.as_ref()) else { return Ok(()) };
    let Some(credentials) = Credentials::of(&request.headers) else { return Err(Reason::Unauthorized.into()) };
    if active.exchange.snapshot.shared.logins.remembers(gate, &credentials) {
        active.user = Some(credentials.name.into());
        return Ok(());
    }
    active.login = Some(Box::new(Login { gate: gate.clone(), credentials }));
    Ok(())
}

/// Has the password checked, where it must be.
///
/// # Errors
/// It is wrong, too many were, or there is no room to check it.
pub async fn settle(active: &mut Active) -> Result<(), Rejection> {
    let Some(login) = active.login.take() else { return Ok(()) };
    let Login { gate, credentials } = *login;
    let shared = active.exchange.snapshot.shared.clone();
    let name = credentials.name.clone();
    let logins = shared.logins.clone();
    let wrong = || Rejection::new(Reason::Unauthorized, "the name or the password is wrong");
    let checking = match logins.turn(&gate, &credentials).await {
        Ok(Turn::Known(true)) => {
            active.user = Some(name.into());
            return Ok(());
        }
        Ok(Turn::Known(false)) => return Err(wrong()),
        Ok(Turn::Check(checking)) => checking,
        Err(Busy) => return Err(Reason::LoginBusy.into()),
    };
    let tried = shared.tries.begin(active.client);
    let tried = tried.map_err(|seconds| Rejection::from(Reason::LoginLimited).retry_after(seconds))?;
    let concluded = move |is_right| {
        shared.metrics.record_password_check(is_right);
        if !is_right {
            tried.fail();
        }
    };
    match Box::pin(logins.check(gate, credentials, checking, concluded)).await {
        Ok(true) => active.user = Some(name.into()),
        Ok(false) => return Err(wrong()),
        Err(Busy) => return Err(Reason::LoginBusy.into()),
    }
    Ok(())
}
