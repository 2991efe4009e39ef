//! Listening sockets that come and go at run time, and the loop that accepts on each.

use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::model::ListenAddr;
use crate::edge::connection::Gateway;
use crate::edge::exchange::ListenerFacts;
use crate::edge::opening::{self, Arrival, Way};
use crate::net::Plain;
use crate::observe::metrics::{ListenerMetrics, Metrics};
use crate::state::connections::Place;

/// The kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 65_535;
/// What the kernel takes of a response beyond what it has sent, in bytes. Left to itself it takes megabytes: whether a client
/// reads would not show for minutes, and they would be on nobody's budget.
const UNSENT_MAX: u32 = 128 * 1024;
/// After an accept that failed for want of something (file descriptors above all).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Clients in the backlog that are still accepted when the listener closes.
const LAST_CLIENTS_MAX: usize = 8192;
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
    // What is accepted inherits it.
    socket.set_tcp_notsent_lowat(UNSENT_MAX)?;
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
    // What a process of the same number left when it was killed: in a container every process has the same.
    let _ = fs::remove_dir_all(&directory);
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

/// Removes a socket file that a dead process left; one that somebody listens on is in use, and any other file is not ours.
fn free_socket_path(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(file) if !file.file_type().is_socket() => return Err(io::Error::other("there is a file that is no socket")),
        Ok(_) => {}
    }
    // Connecting does not wait: the backlog of a process that hangs may be full.
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match socket.connect(&SockAddr::unix(path)?) {
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
    /// Dropped, it tells the task to stop.
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
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

    /// Serves what was bound, and stops what `wanted` no longer names; returns when that has given its address back. Open
    /// connections live on.
    pub async fn apply<F>(
        &mut self,
        wanted: &[ListenAddr],
        bound: Vec<(ListenAddr, Bound)>,
        serve: impl Fn(ListenAddr, Bound, oneshot::Receiver<()>) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let gone: Vec<_> = self.running.extract_if(|address, _| !wanted.contains(address)).collect();
        for (name, bound) in bound {
            let address = bound.address.clone();
            let (stop, stopped) = oneshot::channel();
            let task = tokio::spawn(serve(name.clone(), bound, stopped));
            self.running.insert(name, Running { address, stop, task });
        }
        for (_, running) in &gone {
            tracing::info!(address = %running.address, "stopped listening");
        }
        end(gone.into_iter().map(|(_, running)| running)).await;
    }

    /// The addresses listened on, in order: as configured, and as bound.
    #[must_use]
    pub fn addresses(&self) -> Vec<(ListenAddr, ListenAddr)> {
        let mut addresses: Vec<_> =
            self.running.iter().map(|(name, running)| (name.clone(), running.address.clone())).collect();
        addresses.sort_by(|(_, one), (_, other)| one.cmp(other));
        addresses
    }

    /// Stops accepting everywhere; returns when those who had come by then are let in.
    pub async fn close(&mut self) {
        end(self.running.drain().map(|(_, running)| running)).await;
    }
}

/// Tells all to stop, then waits for each.
async fn end(running: impl Iterator<Item = Running>) {
    let tasks: Vec<_> = running
        .map(|running| {
            drop(running.stop);
            running.task
        })
        .collect();
    for task in tasks {
        let _ = task.await;
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

/// Accepts clients until `stop`, and then those who had come by that time: closing on them would reset their connections. `name` is
/// the address as the configuration has it.
pub async fn accept_loop(name: ListenAddr, bound: Bound, gateway: Gateway, mut stop: oneshot::Receiver<()>) {
    let listener = facts(&bound.address, &gateway.shared.metrics);
    let mut way = None;
    Way::now(&mut way, &name, &gateway);
    let mut logged: Option<Instant> = None;
    let mut early = None;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut stop => break,
            accepted = next(&bound, &gateway, &mut early) => accepted,
        };
        match accepted {
            Ok((client, place)) => admit(client, place, &listener, Way::now(&mut way, &name, &gateway), &gateway),
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
    // Bounded, for those who come as fast as they are accepted.
    let rest = std::iter::from_fn(|| bound.accept_waiting().ok()).take(LAST_CLIENTS_MAX);
    for client in early.into_iter().chain(rest) {
        let place = gateway.shared.connections.extra_place();
        admit(client, place, &listener, Way::now(&mut way, &name, &gateway), &gateway);
    }
}

/// The next client with a place for it; until there is one it waits in the backlog. Where several listeners saw the last place
/// free, those who did not get it keep the client they accepted in `early`, which outlives this future.
async fn next(bound: &Bound, gateway: &Gateway, early: &mut Option<Client>) -> io::Result<(Client, Place)> {
    let connections = &gateway.shared.connections;
    let limit = || gateway.snapshot().config.server.max_connections;
    if early.is_none() {
        connections.room(limit).await;
        *early = Some(bound.accept().await?);
    }
    let place = connections.place(limit).await;
    match early.take() {
        Some(client) => Ok((client, place)),
        None => Err(io::ErrorKind::NotConnected.into()),
    }
}

/// A connection, with the peer's address for TCP.
type Client = (Plain, Option<SocketAddr>);

impl Bound {
    /// The next connection, with the peer's address for TCP. Cancel safe.
    ///
    /// # Errors
    /// What the socket reports; worth another try after a pause.
    pub async fn accept(&self) -> io::Result<Client> {
        match &self.socket {
            Listening::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // A connection that is gone already shows when it is read.
                let _ = stream.set_nodelay(true);
                Ok((Plain::Tcp(stream), Some(peer)))
            }
            Listening::Unix { listener, .. } => Ok((Plain::Unix(listener.accept().await?.0), None)),
        }
    }

    /// A connection that waits in the backlog, also one the runtime has not noticed yet.
    fn accept_waiting(&self) -> io::Result<Client> {
        match &self.socket {
            Listening::Tcp(listener) => {
                let (socket, peer) = SockRef::from(listener).accept()?;
                socket.set_nonblocking(true)?;
                let _ = socket.set_tcp_nodelay(true);
                Ok((Plain::Tcp(TcpStream::from_std(socket.into())?), peer.as_socket()))
            }
            Listening::Unix { listener, .. } => {
                let (socket, _) = SockRef::from(listener).accept()?;
                socket.set_nonblocking(true)?;
                Ok((Plain::Unix(UnixStream::from_std(socket.into())?), None))
            }
        }
    }
}

fn admit(
    (socket, peer): Client,
    place: Place,
    listener: &Arc<ListenerFacts>,
    way: Option<Arc<Way>>,
    gateway: &Gateway,
) {
    let Some(way) = way else { return };
    let open = ListenerMetrics::accept(&listener.metrics);
    // Counted before its task runs: a process that is leaving owes an answer to everyone it has let in.
    let conversation = gateway.shared.begin_conversation();
    let arrival = Arrival { socket, peer, place, listener: listener.clone(), way, open, conversation };
    tokio::spawn(opening::serve(arrival, gateway.clone()));
}
