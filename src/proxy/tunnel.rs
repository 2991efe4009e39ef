//! An app has agreed to a WebSocket: from here on bytes are passed on both ways, and the slot stays taken for as long.

use std::time::Duration;

use crate::edge::session::Session;
use crate::proxy::context::Active;
use crate::upstream::stream::Upgraded;

/// How long a WebSocket may be silent on both sides. Apps and browsers ping far more often; who does not is asked by the kernel
/// whether it is still there.
const IDLE: Duration = Duration::from_hours(1);

/// Passes bytes on until one side or the process has had enough. The client was told of the app's agreement.
pub async fn run(session: &mut Session, active: &Active, upgraded: Upgraded) {
    let shared = active.exchange.snapshot.shared.clone();
    let _counted = shared.begin_tunnel();
    session.tunnel(upgraded, IDLE, shared.tunnels_closing()).await;
}
