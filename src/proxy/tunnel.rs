//! An app has agreed to a WebSocket: from here on bytes are passed on both ways, and the slot stays taken for as long.

use std::time::Duration;

use http::StatusCode;
use pingora_error::Result;
use pingora_http::ResponseHeader;

use crate::edge::session::Session;
use crate::proxy::context::Active;
use crate::proxy::rejection::{Reason, Rejection};
use crate::proxy::response;
use crate::upstream::upgrade::Upgraded;

/// How long a WebSocket may be silent on both sides. Apps and browsers ping far more often; who does not is asked by the kernel
/// whether it is still there.
const IDLE: Duration = Duration::from_hours(1);

/// Passes on the app's agreement, and then bytes until one side or the process has had enough.
pub async fn run(session: &mut Session, active: &mut Active, upgraded: Upgraded) {
    match agreement(active, &upgraded) {
        Ok(head) => session.take_switch(Box::new(head)),
        Err(error) => {
            active.rejection.get_or_insert_with(|| Rejection::new(Reason::Internal, error.to_string()));
            return;
        }
    }
    let shared = active.exchange.snapshot.shared.clone();
    let _counted = shared.begin_tunnel();
    session.tunnel(upgraded, IDLE, shared.tunnels_closing()).await;
}

fn agreement(active: &mut Active, upgraded: &Upgraded) -> Result<ResponseHeader> {
    let mut head = ResponseHeader::build(StatusCode::SWITCHING_PROTOCOLS, Some(upgraded.fields.len() + 2))?;
    for (name, value) in &upgraded.fields {
        head.append_header(name.clone(), value.clone())?;
    }
    response::judge(&mut head, active)?;
    response::edit(&mut head, active)?;
    Ok(head)
}
