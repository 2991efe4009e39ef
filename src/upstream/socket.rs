//! A connected socket towards the app: how it is made, and what the kernel says of it while it is idle. What is
//! spoken over it is left to `stream`, how long it is kept to `pool`.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::BytesMut;
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use rustls::pki_types::ServerName;
use socket2::{Domain, SockAddr, SockRef, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::net::Plain;
use crate::tls::client::ClientTls;
use crate::tls::peer::Client;
use crate::tls::stream::TlsStream;
use crate::upstream::endpoint::Address;

/// A machine that vanished says nothing. After so long without a byte it is asked whether it is still there, and given up when it
/// does not answer: a slot may be waiting for it.
const SILENCE: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;
/// Bytes that are read of a TLS connection from which nothing is expected.
const AT_A_GLANCE: usize = 4 * 1024;

/// A connection to one address of the app. Reading and writing never wait in the kernel.
#[derive(Debug)]
pub enum Socket {
    Plain(Plain),
    Tls(Box<TlsStream<Client>>),
}

/// How an endpoint is spoken to over TLS.
#[derive(Debug)]
pub struct Secured {
    pub settings: Arc<ClientTls>,
    /// What its certificate must be for.
    pub name: ServerName<'static>,
}

impl PartialEq for Secured {
    /// Whether a connection that one has made is good for the other.
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.settings.is_alike(&other.settings)
    }
}

/// What there is to see on a connection from which nothing is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Nothing has come: it can be used.
    Quiet,
    /// Bytes that belong to no request. They would be taken for the next answer.
    Talking,
    /// The server closed it, or it broke.
    Closed,
}

/// Why a connection could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens there, or the other side turned us away at once.
    Refused,
    /// The kernel gave up waiting for an answer.
    Timeout,
    /// A Unix socket whose backlog is full: unlike TCP it says so instead of waiting.
    BacklogFull,
    /// There is no such socket file.
    NoSocketFile,
    /// The socket file, or a directory above it, may not be used by us.
    Permission,
    /// We are out of file descriptors, memory or ports: it says nothing of the other side.
    Shortage,
    Other,
}

/// Connects within `limit`, or fails with `TimedOut`. Cancel safe.
///
/// # Errors
/// As [`connect`] and [`secure`].
pub async fn connect_within(address: &Address, tls: Option<&Secured>, limit: Duration) -> io::Result<Socket> {
    let connected = async {
        let socket = connect(address).await?;
        match tls {
            None => Ok(Socket::Plain(socket)),
            Some(tls) => secure(socket, tls).await,
        }
    };
    match tokio::time::timeout(limit, connected).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
    }
}

/// Begins TLS on a connection that was just made.
///
/// # Errors
/// The two cannot agree, or the certificate is not good: `InvalidData` with rustls' words.
pub async fn secure(socket: Plain, tls: &Secured) -> io::Result<Socket> {
    let client = Client::new(tls.settings.settings(), tls.name.clone()).map_err(io::Error::other)?;
    let mut stream = Box::new(TlsStream::new(socket, client, BytesMut::new()));
    stream.handshake().await.map_err(|error| io::Error::new(error.kind(), format!("TLS: {error}")))?;
    Ok(Socket::Tls(stream))
}

/// Connects. TCP waits for the other side's answer as long as the kernel does: the limit is the caller's. A Unix
/// socket never waits. Cancel safe: dropped half way, the socket is closed.
///
/// # Errors
/// What the operating system says; [`connect_failure`] sorts it.
pub async fn connect(address: &Address) -> io::Result<Plain> {
    match address {
        Address::Tcp(address) => connect_tcp(*address).await.map(Plain::Tcp),
        Address::Unix(path) => connect_unix(&SockAddr::unix(path)?).map(Plain::Unix),
        Address::Abstract(name) => connect_unix(&SockAddr::unix(format!("\0{name}"))?).map(Plain::Unix),
    }
}

/// Sorts what [`connect`] failed with.
#[must_use]
pub fn connect_failure(error: &io::Error) -> Failure {
    match error.kind() {
        // A reset instead of an answer (net.ipv4.tcp_abort_on_overflow) is a refusal: no byte was sent.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Failure::Refused,
        io::ErrorKind::TimedOut => Failure::Timeout,
        io::ErrorKind::WouldBlock => Failure::BacklogFull,
        io::ErrorKind::NotFound => Failure::NoSocketFile,
        io::ErrorKind::PermissionDenied => Failure::Permission,
        _ if is_shortage(error) => Failure::Shortage,
        _ => Failure::Other,
    }
}

/// Whether the operating system refused us the means: file descriptors, memory, ports of our own.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    const SHORTAGES: [Errno; 5] = [Errno::NFILE, Errno::MFILE, Errno::NOMEM, Errno::NOBUFS, Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| SHORTAGES.iter().any(|shortage| shortage.raw_os_error() == code))
}

async fn connect_tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // To a port of our own machine from which outgoing connections are numbered too, the kernel may pick that very
    // port for our end when nobody listens, and join the socket to itself. Left open, or closed in the usual way, it
    // would keep the port from the app that is just starting.
    if stream.local_addr()? == address {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    if !address.ip().is_loopback() {
        let socket = SockRef::from(&stream);
        let probes = TcpKeepalive::new().with_time(SILENCE).with_interval(PROBE_EVERY).with_retries(PROBES);
        socket.set_tcp_keepalive(&probes)?;
    }
    Ok(stream)
}

fn connect_unix(address: &SockAddr) -> io::Result<UnixStream> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.connect(address)?;
    UnixStream::from_std(StdUnixStream::from(OwnedFd::from(socket)))
}

impl Socket {
    fn plain(&self) -> &Plain {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.socket(),
        }
    }

    /// Appends what has come to `buf`, at most `at_once` bytes; 0 at the end of the stream.
    ///
    /// # Errors
    /// What the socket reports, and `UnexpectedEof` where TLS was cut off without a word (RFC 9112 section 9.8).
    pub fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        at_once: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_read_into(cx, buf, at_once),
            Self::Tls(stream) => match ready!(stream.poll_read_into(cx, buf, at_once))? {
                0 if !stream.is_closed() => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                read => Poll::Ready(Ok(read)),
            },
        }
    }

    /// Whether something that was written is still to be sent: encrypted bytes that the kernel has not taken.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.has_pending(),
        }
    }

    /// Asks the kernel: one system call. What is there stays there, but for what TLS has to say to itself.
    #[must_use]
    pub fn peek(&mut self) -> Sight {
        match recv(self.plain(), &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Sight::Closed,
            Ok(_) => match self {
                Self::Plain(_) => Sight::Talking,
                // A ticket, perhaps; then nothing is left of it.
                Self::Tls(_) => match self.glance() {
                    Sight::Quiet if self.has_more() => Sight::Talking,
                    sight => sight,
                },
            },
            Err(Errno::AGAIN | Errno::INTR) => Sight::Quiet,
            Err(_) => Sight::Closed,
        }
    }

    /// Whether there is something that was not understood yet.
    fn has_more(&self) -> bool {
        let is_partial = matches!(self, Self::Tls(stream) if stream.has_partial());
        is_partial || recv(self.plain(), &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT).is_ok()
    }

    /// Asks the runtime, which asks the kernel only when it was told that something came; so it usually costs nothing
    /// and may be late by as much as the runtime is. Takes the byte it sees: what is talking is of no use any more.
    #[must_use]
    pub fn glance(&mut self) -> Sight {
        let read = match self {
            Self::Plain(socket) => socket.try_read(&mut [0]),
            Self::Tls(stream) => {
                let mut context = Context::from_waker(Waker::noop());
                match stream.poll_read_into(&mut context, &mut BytesMut::new(), AT_A_GLANCE) {
                    Poll::Ready(read) => read,
                    Poll::Pending => return Sight::Quiet,
                }
            }
        };
        match read {
            Ok(0) => Sight::Closed,
            Ok(_) => Sight::Talking,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sight::Quiet,
            Err(_) => Sight::Closed,
        }
    }

    /// Waits until the server closes it or says something.
    pub async fn news(&mut self) {
        loop {
            let ready = self.plain().readable().await;
            // Readiness may be false; the glance then takes it back.
            if ready.is_err() || self.glance() != Sight::Quiet {
                return;
            }
        }
    }

    /// What ends the connection, whoever has it then.
    ///
    /// # Errors
    /// There is no file descriptor left for it.
    pub fn leash(&self) -> io::Result<Leash> {
        self.plain().as_fd().try_clone_to_owned().map(Leash)
    }

    /// Tells the server that nothing more comes, and goes on listening.
    pub fn half_close(&mut self) {
        if let Self::Tls(stream) = self {
            stream.farewell();
        }
        // It fails only for a connection that is gone already.
        let _ = shutdown(self.plain(), Shutdown::Write);
    }
}

/// Dropped, it tells the server at once that we are done with a connection.
#[derive(Debug)]
pub struct Leash(OwnedFd);

impl Drop for Leash {
    fn drop(&mut self) {
        // It fails only for a connection that is gone already.
        let _ = shutdown(&self.0, Shutdown::Both);
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => stream.poll_send(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
