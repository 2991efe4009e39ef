//! An address as Pingora connects to it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora_error::{Error, ErrorType, Result};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpStream, UnixStream};

use crate::config::model;
use crate::upstream::endpoint::Address;

/// The shortest idle time there is: Pingora's timer cannot count none (pingora-timeout 0.9.1 `timer.rs`, `round_to`).
const AT_ONCE: Duration = Duration::from_millis(1);

/// The peer that requests to `address` are sent by.
///
/// # Errors
/// A Unix path that no socket address can hold (108 bytes).
pub fn template(address: &Address, config: &model::Upstream) -> Result<HttpPeer> {
    let mut peer = match address {
        Address::Tcp(address) => HttpPeer::new(*address, false, String::new()),
        Address::Unix(path) => HttpPeer::new_uds(&path.to_string_lossy(), false, String::new())?,
        Address::Abstract(name) => {
            // Pingora panics on a name without a path (connectors/l4.rs, `as_pathname`): the address is only a label here.
            let mut peer = HttpPeer::new_uds("/", false, String::new())?;
            peer.options.custom_l4 = Some(Arc::new(AbstractConnect(name.clone())));
            peer
        }
    };
    peer.options.connection_timeout = Some(config.connect_timeout);
    peer.options.total_connection_timeout = Some(config.connect_timeout);
    // A worker that does not read the body we send it; waiting for its answer is the session's, which knows the route.
    peer.options.write_timeout = Some(config.first_byte_timeout);
    peer.options.idle_timeout = Some(config.keepalive_timeout.unwrap_or(AT_ONCE));
    // The head was sanitised when it was read, before our own fields were added.
    peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
    Ok(peer)
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

/// Connects and closes.
///
/// # Errors
/// What the operating system says.
pub async fn connect(address: &Address) -> io::Result<()> {
    match address {
        Address::Tcp(address) => TcpStream::connect(address).await.map(drop),
        Address::Unix(path) => UnixStream::connect(path).await.map(drop),
        Address::Abstract(name) => connect_abstract(name).map(drop),
    }
}

/// Makes the connection of this request its own: no other request ever finds it in the pool, and it does not stay there.
pub fn forbid_reuse(peer: &mut HttpPeer) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    peer.group_key = NEXT.fetch_add(1, Relaxed);
    peer.options.idle_timeout = Some(AT_ONCE);
}

/// Whether connections to this address are ever reused. Pingora compares the peer name of a pooled Unix connection as a path
/// (protocols/mod.rs, `ConnFdReusable`), which an abstract one has not; connecting costs next to nothing there.
#[must_use]
pub fn is_reusable(address: &Address, config: &model::Upstream) -> bool {
    config.keepalive_timeout.is_some() && !matches!(address, Address::Abstract(_))
}

/// Connects to a name in the abstract namespace.
#[derive(Debug)]
struct AbstractConnect(String);

#[async_trait]
impl Connect for AbstractConnect {
    async fn connect(&self, _address: &PingoraAddr) -> Result<Stream> {
        connect_abstract(&self.0).map(Stream::from).map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
                _ => ErrorType::ConnectError,
            };
            Error::because(kind, "connecting to an abstract Unix socket", error)
        })
    }
}

/// Never waits: a Unix socket takes a connection at once, or its backlog is full.
fn connect_abstract(name: &str) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(format!("\0{name}"))?)?;
    UnixStream::from_std(StdUnixStream::from(OwnedFd::from(socket)))
}

/// Why a connection could not be made, as the metric names it.
#[must_use]
pub fn connect_failure(error: &Error) -> crate::observe::metrics::UpstreamError {
    use crate::observe::metrics::UpstreamError;
    match error.etype() {
        ErrorType::ConnectRefused => UpstreamError::ConnectRefused,
        ErrorType::ConnectTimedout => UpstreamError::ConnectTimeout,
        _ => UpstreamError::ConnectOther,
    }
}
