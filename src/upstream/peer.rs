//! An address as Pingora's health check connects to it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::Plain;
use crate::tls::peer::Client;
use crate::tls::stream::TlsStream;
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
            Ok(Socket::Plain(Plain::Tcp(stream))) => Ok(stream.into()),
            Ok(Socket::Plain(Plain::Unix(stream))) => Ok(stream.into()),
            Ok(Socket::Tls(stream)) => Ok(VirtualSocketStream::new(Box::new(Secure(stream))).into()),
            Err(error) => Err(Error::because(ErrorType::ConnectError, "connecting to the endpoint", error)),
        }
    }
}

/// A TLS connection as Pingora's health check uses it.
#[derive(Debug)]
struct Secure(Box<TlsStream<Client>>);

impl AsyncRead for Secure {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secure {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}

impl VirtualSocket for Secure {
    fn set_socket_option(&self, _option: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}
