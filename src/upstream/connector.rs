//! Hands a connection that we made, or took from our pool, to Pingora's engine.
//!
//! The engine connects when the hook `upstream_peer` has returned. It looks into its own pool, which stays empty (see `stream`), and
//! then has the peer's own way of connecting called, if it has one (pingora-core 0.9.1 `connectors/l4.rs`, `connect`). Ours connects
//! to nothing: it takes the stream out of the peer, as a virtual socket.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::VirtualSocketStream;
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora_error::{Error, ErrorType, Result};

use crate::upstream::stream::UpstreamStream;

/// What all peers have in common. The address is never connected to.
static TEMPLATE: LazyLock<HttpPeer> = LazyLock::new(|| {
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let mut peer = HttpPeer::new(nowhere, false, String::new());
    // The head was sanitised when it was read, before our own fields were added.
    peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
    peer
});

/// The peer whose connection is `stream`. No time bounds it here: looking after the app's is the session's.
#[must_use]
pub fn hand_over(stream: UpstreamStream) -> Box<HttpPeer> {
    let mut peer = Box::new(TEMPLATE.clone());
    peer.options.custom_l4 = Some(Arc::new(HandedOver(Mutex::new(Some(stream)))));
    peer
}

/// A connection on its way into the engine.
#[derive(Debug)]
struct HandedOver(Mutex<Option<UpstreamStream>>);

#[async_trait]
impl Connect for HandedOver {
    async fn connect(&self, _address: &PingoraAddr) -> Result<Stream> {
        let stream = self.0.lock().take();
        let stream =
            stream.ok_or_else(|| Error::explain(ErrorType::InternalError, "a connection is handed over once"))?;
        Ok(VirtualSocketStream::new(Box::new(stream)).into())
    }
}

#[cfg(test)]
mod tests;
