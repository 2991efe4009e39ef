//! An address as Pingora's health check connects to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};

use crate::upstream::endpoint::Address;
use crate::upstream::socket::{Socket, connect};

/// The peer that health checks of `address` are sent by. Connecting is ours, whatever kind of address it is: Pingora has none for
/// the abstract namespace (`connectors/l4.rs` panics on it).
#[must_use]
pub fn probe_peer(address: &Address) -> HttpPeer {
    let mut peer = HttpPeer::new(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), false, String::new());
    peer.options.custom_l4 = Some(Arc::new(Probe(address.clone())));
    peer
}

/// What Pingora's connectors are made with. No endpoint is spoken to over TLS yet, and loading the system's certificates would
/// panic where there are none, as in an image that holds nothing but the program (`connectors/tls/rustls/mod.rs`,
/// `Connector::new`): an empty file stands in their place.
#[must_use]
pub fn connector_options(pool_size: usize) -> ConnectorOptions {
    ConnectorOptions { ca_file: Some(NO_CERTIFICATES.to_owned()), ..ConnectorOptions::new(pool_size) }
}

/// See [`connector_options`].
pub const NO_CERTIFICATES: &str = "/dev/null";

#[derive(Debug)]
struct Probe(Address);

#[async_trait]
impl Connect for Probe {
    async fn connect(&self, _address: &PingoraAddr) -> Result<Stream> {
        match connect(&self.0).await {
            Ok(Socket::Tcp(stream)) => Ok(stream.into()),
            Ok(Socket::Unix(stream)) => Ok(stream.into()),
            Err(error) => Err(Error::because(ErrorType::ConnectError, "connecting to the endpoint", error)),
        }
    }
}
