//! How a client's connection begins: a trusted proxy says whom it speaks for, the limits of one address are kept, TLS is agreed on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls::HandshakeKind;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::config::model::{ClientCerts, ListenAddr, Listener, Protocol};
use crate::edge::connection::{self, Connection, Gateway};
use crate::edge::exchange::{ConnectionFacts, ListenerFacts, TlsFacts};
use crate::edge::http2;
use crate::edge::proxy_protocol::{self, Announced};
use crate::edge::transport::Transport;
use crate::header::client_address::Peer;
use crate::net::Plain;
use crate::observe::metrics::{Handshake, OpenConnection, Refusal};
use crate::state::connections::Place;
use crate::state::{Conversation, Snapshot};
use crate::tls::identity::Identity;
use crate::tls::peer::{Peer as _, Server};
use crate::tls::server::ServerTls;
use crate::tls::stream::TlsStream;

/// What is read at once of a PROXY protocol header, and of what follows it.
const HEADER_READ: usize = 512;

/// A connection that was accepted.
pub struct Arrival {
    pub socket: Plain,
    /// The peer's address, for TCP.
    pub peer: Option<SocketAddr>,
    pub place: Place,
    pub listener: Arc<ListenerFacts>,
    pub way: Arc<Way>,
    pub open: OpenConnection,
    pub conversation: Conversation,
}

/// How connections begin on a listener under one configuration.
#[derive(Debug)]
pub struct Way {
    generation: u64,
    listener: Listener,
    /// None where no listener speaks TLS.
    tls: Option<Arc<ServerTls>>,
}

impl Way {
    /// How they begin now on the listener at `name`, an address as the configuration has it. One that is gone from the
    /// configuration goes on as `last`: who waits to be accepted came before that.
    pub fn now(last: &mut Option<Arc<Self>>, name: &ListenAddr, gateway: &Gateway) -> Option<Arc<Self>> {
        let snapshot = gateway.current.load();
        let known = last.as_ref().is_some_and(|way| way.generation == snapshot.generation);
        if let Some(listener) = snapshot.listener(name).filter(|_| !known) {
            let (generation, listener, tls) = (snapshot.generation, listener.clone(), snapshot.tls.clone());
            *last = Some(Arc::new(Self { generation, listener, tls }));
        }
        last.clone()
    }
}

/// What was learnt of a client before its first request.
struct Begun {
    transport: Transport,
    /// Read already, and not used.
    received: BytesMut,
    tls: Option<Box<TlsFacts>>,
}

/// Serves a connection from its first byte to its last.
pub async fn serve(arrival: Arrival, mut gateway: Gateway) {
    let Arrival { mut socket, peer, place, listener, way, open, conversation } = arrival;
    let snapshot = gateway.snapshot();
    let mut received = BytesMut::new();
    let patience = snapshot.config.client.header_timeout;
    let mut peer = peer.map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port()));
    if way.listener.proxy_protocol && is_trusted(peer, &snapshot) {
        match timeout(patience, unless_leaving(announced(&mut socket, &mut received), &mut gateway)).await {
            Ok(Ok(Announced::Peer)) => {}
            Ok(Ok(Announced::Client(client))) => peer = Some(client),
            Ok(Err(_)) | Err(_) => {
                tracing::debug!(listener = listener.label, ?peer, "no PROXY protocol header that could be understood");
                return listener.metrics.record_closed(Refusal::ProxyProtocol);
            }
        }
    }
    // A trusted proxy brings the clients of many.
    let limit = if is_trusted(peer, &snapshot) { 0 } else { snapshot.config.server.max_connections_per_ip };
    let ip = peer.map(|peer| peer.ip());
    let Some(permit) = gateway.shared.connections.enter(place, ip, limit) else {
        tracing::debug!(listener = listener.label, ?ip, "too many connections from one address");
        return listener.metrics.record_closed(Refusal::PerIpLimit);
    };
    let begun = match &way.listener.protocol {
        Protocol::Http => Some(Begun { transport: Transport::Plain(socket), received, tls: None }),
        Protocol::Https { client_certs } => {
            // Boxed: it is over when the connection is served.
            Box::pin(secure(socket, received, client_certs.as_ref(), patience, &listener, &way, &mut gateway)).await
        }
    };
    let Some(Begun { transport, received, tls }) = begun else { return };
    drop((snapshot, way));
    let facts = ConnectionFacts {
        peer: ip.map_or(Peer::Unix, Peer::Ip),
        peer_port: peer.map(|peer| peer.port()),
        listener,
        tls,
    };
    let facts = Arc::new(facts);
    match transport {
        Transport::Tls(stream) if stream.peer().agreed().alpn_protocol() == Some(b"h2") => {
            Box::pin(http2::serve(stream, facts, gateway, open, conversation)).await;
        }
        transport => {
            let mut connection = Box::new(Connection::new(transport));
            connection.buf = received;
            connection::serve(connection, facts, gateway, open, conversation).await;
        }
    }
    drop(permit);
}

fn is_trusted(peer: Option<SocketAddr>, snapshot: &Snapshot) -> bool {
    let peer = peer.map_or(Peer::Unix, |peer| Peer::Ip(peer.ip()));
    peer.is_trusted(&snapshot.config.server.trusted_proxies)
}

/// A process that is leaving waits for nobody's beginnings but a little.
async fn unless_leaving<T>(beginning: impl Future<Output = io::Result<T>>, gateway: &mut Gateway) -> io::Result<T> {
    tokio::select! {
        biased;
        begun = beginning => begun,
        () = gateway.out_of_patience() => Err(io::Error::other("the gateway is leaving")),
    }
}

/// Reads the header of the PROXY protocol; what was read behind it stays in `received`.
async fn announced(socket: &mut Plain, received: &mut BytesMut) -> io::Result<Announced> {
    loop {
        received.reserve(HEADER_READ);
        if socket.read_buf(received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match proxy_protocol::read(received) {
            Ok(Some(announced)) => return Ok(announced),
            Ok(None) => {}
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.0)),
        }
    }
}

async fn secure(
    socket: Plain,
    received: BytesMut,
    client_certs: Option<&ClientCerts>,
    patience: Duration,
    listener: &ListenerFacts,
    way: &Way,
    gateway: &mut Gateway,
) -> Option<Begun> {
    let tls = way.tls.as_ref()?;
    let server = Server::new(tls.settings(client_certs)?).ok()?;
    let mut stream = Box::new(TlsStream::new(socket, server, received));
    match timeout(patience, unless_leaving(stream.handshake(), gateway)).await {
        Ok(Ok(())) => {
            let agreed = stream.peer().agreed();
            let resumed = agreed.handshake_kind() == Some(HandshakeKind::Resumed);
            let chain = agreed.peer_certificates().unwrap_or_default();
            if resumed && !tls.trusts(client_certs, chain) {
                listener.metrics.record_handshake(Handshake::Failed);
                tracing::debug!(listener = listener.label, "a resumed session's certificate is not good any more");
                return None;
            }
            listener.metrics.record_handshake(if resumed { Handshake::Resumed } else { Handshake::Full });
            let client = chain.first().and_then(Identity::of);
            let tls = TlsFacts { asked: stream.peer().asked().map(Into::into), client };
            Some(Begun { transport: Transport::Tls(stream), received: BytesMut::new(), tls: Some(Box::new(tls)) })
        }
        Ok(Err(error)) => {
            listener.metrics.record_handshake(Handshake::Failed);
            tracing::debug!(listener = listener.label, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            listener.metrics.record_handshake(Handshake::Late);
            None
        }
    }
}
