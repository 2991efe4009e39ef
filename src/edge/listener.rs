//! Listening sockets that come and go at run time, and the loop that accepts on each.

use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;

use crate::config::model::ListenAddr;
use crate::edge::connection::{Connection, Engine, serve};
use crate::edge::exchange::{ConnectionFacts, ListenerFacts};
use crate::edge::transport::{Transport, poll_once};
use crate::header::client_address::Peer;
use crate::observe::metrics::{ListenerMetrics, Metrics, Refusal};

/// The kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 65_535;
/// After an accept that failed for want of something (file descriptors above all).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often a failing accept is worth a log line.
const ACCEPT_LOG_EVERY: Duration = Duration::from_secs(10);

/// A socket that is bound and listens; nothing is accepted yet. Dropping it gives the address back.
#[derive(Debug)]
pub struct Bound {
    socket: Listening,
    /// As it was bound, a port 0 replaced by the real one.
    pub address: ListenAddr,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

/// A socket file that goes when its listener does.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Binds and listens.
///
/// # Errors
/// One sentence that names the address and, where there is one, the way out.
pub fn bind(address: &ListenAddr) -> Result<Bound, String> {
    let bound = match address {
        ListenAddr::Tcp(address) => bind_tcp(*address),
        ListenAddr::Unix(path) => bind_unix(path),
    };
    bound.map_err(|error| format!("cannot listen on {address}: {}", explain(&error)))
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the address is in use by another process".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "permission denied (ports below 1024 need CAP_NET_BIND_SERVICE; a socket file a writable directory)"
                .to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "no interface has this address".to_owned(),
        _ => error.to_string(),
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    let address = ListenAddr::Tcp(listener.local_addr()?);
    Ok(Bound { socket: Listening::Tcp(listener), address })
}

/// Anyone may connect, as with nginx: who may reach the socket is for its directory to say. A file that a dead process left
/// is replaced; one that somebody listens on is not.
fn bind_unix(path: &Path) -> io::Result<Bound> {
    free_socket_path(path)?;
    let listener = UnixListener::bind(path)?;
    let file = SocketFile { path: path.to_path_buf() };
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    Ok(Bound { socket: Listening::Unix { listener, _file: file }, address: ListenAddr::Unix(path.to_path_buf()) })
}

/// A Unix socket that only the owner of the process can connect to, from the moment it exists.
///
/// # Errors
/// As [`bind`].
pub fn bind_private(path: &Path) -> Result<Bound, String> {
    // The mode of a socket file follows the umask, which is the process': between bind and chmod anybody could connect.
    // So it is made under another name, in a directory of its own, and moved into place.
    let staged =
        stage(path).map_err(|error| format!("cannot listen on unix:{}: {}", path.display(), explain(&error)))?;
    Ok(Bound {
        socket: Listening::Unix { listener: staged, _file: SocketFile { path: path.to_path_buf() } },
        address: ListenAddr::Unix(path.to_path_buf()),
    })
}

fn stage(path: &Path) -> io::Result<UnixListener> {
    free_socket_path(path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = parent.join(format!(".propylon-{}", std::process::id()));
    fs::DirBuilder::new().mode(0o700).create(&directory)?;
    let socket = directory.join("s");
    let listener = UnixListener::bind(&socket).and_then(|listener| {
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
        fs::rename(&socket, path)?;
        Ok(listener)
    });
    let _ = fs::remove_dir_all(&directory);
    listener
}

/// Removes a socket file that a dead process left; one that somebody listens on is in use.
fn free_socket_path(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        return Ok(());
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// The listeners of the moment, by the address the configuration names.
#[derive(Debug, Default)]
pub struct Listeners {
    running: HashMap<ListenAddr, Running>,
}

#[derive(Debug)]
struct Running {
    address: ListenAddr,
    /// Dropped, it tells the accepting task to stop.
    _stop: oneshot::Sender<()>,
}

impl Listeners {
    /// Binds every address of `wanted` that is not listened on yet. Nothing is accepted before [`Listeners::apply`].
    ///
    /// # Errors
    /// Of each address that cannot be bound; those that could are given back.
    pub fn prepare(&self, wanted: &[ListenAddr]) -> Result<Vec<(ListenAddr, Bound)>, Vec<String>> {
        let new = wanted.iter().filter(|address| !self.running.contains_key(address));
        let (bound, failed): (Vec<_>, Vec<_>) =
            new.map(|address| bind(address).map(|bound| (address.clone(), bound))).partition(Result::is_ok);
        if failed.is_empty() {
            Ok(bound.into_iter().flatten().collect())
        } else {
            Err(failed.into_iter().filter_map(Result::err).collect())
        }
    }

    /// Serves what was bound, and stops what `wanted` no longer names. Open connections live on.
    pub fn apply<F>(
        &mut self,
        wanted: &[ListenAddr],
        bound: Vec<(ListenAddr, Bound)>,
        serve: impl Fn(Bound, oneshot::Receiver<()>) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        self.running.retain(|address, running| {
            let stays = wanted.contains(address);
            if !stays {
                tracing::info!(address = %running.address, "stopped listening");
            }
            stays
        });
        for (name, bound) in bound {
            let address = bound.address.clone();
            let (stop, stopped) = oneshot::channel();
            tokio::spawn(serve(bound, stopped));
            self.running.insert(name, Running { address, _stop: stop });
        }
    }

    /// The addresses listened on, in order.
    #[must_use]
    pub fn addresses(&self) -> Vec<ListenAddr> {
        let mut addresses: Vec<_> = self.running.values().map(|running| running.address.clone()).collect();
        addresses.sort();
        addresses
    }

    /// Stops accepting everywhere.
    pub fn close(&mut self) {
        self.running.clear();
    }
}

fn facts(address: &ListenAddr, metrics: &Metrics) -> Arc<ListenerFacts> {
    let label = address.to_string();
    let port = match address {
        ListenAddr::Tcp(address) => Some(address.port()),
        ListenAddr::Unix(_) => None,
    };
    Arc::new(ListenerFacts { metrics: metrics.listener(&label), label, port })
}

/// Accepts clients until `stop`, and then those who had come by that time: closing on them would reset their connections.
pub async fn accept_loop(bound: Bound, engine: Engine, mut stop: oneshot::Receiver<()>) {
    let listener = facts(&bound.address, &engine.shared.metrics);
    let mut logged: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut stop => break,
            accepted = next(&bound, &engine) => accepted,
        };
        match accepted {
            Ok((transport, peer)) => admit(transport, peer, &listener, &engine),
            Err(error) => {
                listener.metrics.record_accept_error();
                if logged.is_none_or(|at| at.elapsed() > ACCEPT_LOG_EVERY) {
                    tracing::error!(listener = listener.label, %error, "connections cannot be accepted");
                    logged = Some(Instant::now());
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    while let Poll::Ready(Ok((transport, peer))) = poll_once(tokio::task::unconstrained(bound.accept())).await {
        admit(transport, peer, &listener, &engine);
    }
}

/// The next client, once there is room for it; until then it waits in the backlog.
async fn next(bound: &Bound, engine: &Engine) -> io::Result<(Transport, Option<SocketAddr>)> {
    engine.shared.connections.room(|| engine.snapshot().config.server.max_connections).await;
    bound.accept().await
}

impl Bound {
    /// The next connection, with the peer's address for TCP. Cancel safe.
    ///
    /// # Errors
    /// What the socket reports; worth another try after a pause.
    pub async fn accept(&self) -> io::Result<(Transport, Option<SocketAddr>)> {
        match &self.socket {
            Listening::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // A connection that is gone already shows when it is read.
                let _ = stream.set_nodelay(true);
                Ok((Transport::Tcp(stream), Some(peer)))
            }
            Listening::Unix { listener, .. } => Ok((Transport::Unix(listener.accept().await?.0), None)),
        }
    }
}

fn admit(transport: Transport, peer: Option<SocketAddr>, listener: &Arc<ListenerFacts>, engine: &Engine) {
    let ip = peer.map(|peer| peer.ip().to_canonical());
    let limit = {
        let snapshot = engine.snapshot();
        let server = &snapshot.config.server;
        // A trusted proxy brings the clients of many.
        let trusted = ip.is_some_and(|ip| Peer::Ip(ip).is_trusted(&server.trusted_proxies));
        if trusted { 0 } else { server.max_connections_per_ip }
    };
    let Some(permit) = engine.shared.connections.enter(ip, limit) else {
        listener.metrics.record_refused(Refusal::PerIpLimit);
        tracing::debug!(listener = listener.label, ?ip, "too many connections from one address");
        return;
    };
    let facts = Arc::new(ConnectionFacts {
        peer: ip.map_or(Peer::Unix, Peer::Ip),
        peer_port: peer.map(|peer| peer.port()),
        listener: listener.clone(),
    });
    let open = ListenerMetrics::accept(&listener.metrics);
    let connection = Box::new(Connection { transport, buf: BytesMut::new() });
    let engine = engine.clone();
    tokio::spawn(async move {
        let _permit = permit;
        serve(connection, facts, engine, open).await;
    });
}
