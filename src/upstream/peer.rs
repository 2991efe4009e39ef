//! An address as Pingora's health check connects to it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};

use crate::upstream::endpoint::Address;
use crate::upstream::socket::{Secured, Socket, connect_within};

/// The peer that health checks of `address` are sent by. Connecting is ours, whatever kind of address it is: Pingora has none for
/// the abstract namespace (`connectors/l4.rs` panics on it). So is TLS.
#[must_use]
pub fn probe_peer(address: &Address, tls: Option<Arc<Secured>>) -> HttpPeer {
    let mut peer = HttpPeer::new(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), false, String::new());
    peer.options.custom_l4 = Some(Arc::new(Probe(address.clone(), tls)));
    peer
}

#[derive(Debug)]
struct Probe(Address, Option<Arc<Secured>>);

#[async_trait]
impl Connect for Probe {
    async fn connect(&self, _address: &PingoraAddr) -> Result<Stream> {
        // The health check bounds the time.
        match connect_within(&self.0, self.1.as_deref(), Duration::MAX).await {
            Ok(socket) => Ok(VirtualSocketStream::new(Box::new(socket)).into()),
            Err(error) => Err(Error::because(ErrorType::ConnectError, "connecting to the endpoint", error)),
        }
    }
}

impl VirtualSocket for Socket {
    /// Ours were set when the connection was made.
    fn set_socket_option(&self, _option: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}
