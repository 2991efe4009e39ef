//! A connected socket towards the app: how it is made, and what the kernel says of it while it is idle. What is
//! spoken over it is left to `stream`, how long it is kept to `pool`.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use socket2::{Domain, SockAddr, SockRef, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::upstream::endpoint::Address;

/// A machine that vanished says nothing. After so long without a byte it is asked whether it is still there, and given up when it
/// does not answer: a slot may be waiting for it.
const SILENCE: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;

/// A connection to one address of the app. Reading and writing never wait in the kernel.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
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
/// As [`connect`].
pub async fn connect_within(address: &Address, limit: Duration) -> io::Result<Socket> {
    match tokio::time::timeout(limit, connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
    }
}

/// Connects. TCP waits for the other side's answer as long as the kernel does: the limit is the caller's. A Unix
/// socket never waits. Cancel safe: dropped half way, the socket is closed.
///
/// # Errors
/// What the operating system says; [`connect_failure`] sorts it.
pub async fn connect(address: &Address) -> io::Result<Socket> {
    match address {
        Address::Tcp(address) => connect_tcp(*address).await.map(Socket::Tcp),
        Address::Unix(path) => connect_unix(&SockAddr::unix(path)?).map(Socket::Unix),
        Address::Abstract(name) => connect_unix(&SockAddr::unix(format!("\0{name}"))?).map(Socket::Unix),
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
        socket.set_tcp_user_timeout(Some(SILENCE + PROBE_EVERY * PROBES))?;
    }
    Ok(stream)
}

fn connect_unix(address: &SockAddr) -> io::Result<UnixStream> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.connect(address)?;
    UnixStream::from_std(StdUnixStream::from(OwnedFd::from(socket)))
}

impl Socket {
    /// Asks the kernel: one system call. What is there stays there.
    #[must_use]
    pub fn peek(&self) -> Sight {
        match recv(self, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Sight::Closed,
            Ok(_) => Sight::Talking,
            Err(Errno::AGAIN | Errno::INTR) => Sight::Quiet,
            Err(_) => Sight::Closed,
        }
    }

    /// Asks the runtime, which asks the kernel only when it was told that something came; so it usually costs nothing
    /// and may be late by as much as the runtime is. Takes the byte it sees: what is talking is of no use any more.
    #[must_use]
    pub fn glance(&self) -> Sight {
        let mut byte = [0];
        let read = match self {
            Self::Tcp(stream) => stream.try_read(&mut byte),
            Self::Unix(stream) => stream.try_read(&mut byte),
        };
        match read {
            Ok(0) => Sight::Closed,
            Ok(_) => Sight::Talking,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sight::Quiet,
            Err(_) => Sight::Closed,
        }
    }

    /// Waits until the server closes it or says something.
    pub async fn news(&self) {
        loop {
            let ready = match self {
                Self::Tcp(stream) => stream.readable().await,
                Self::Unix(stream) => stream.readable().await,
            };
            // Readiness may be false; the glance then takes it back.
            if ready.is_err() || self.glance() != Sight::Quiet {
                return;
            }
        }
    }

    /// Tells the server that nothing more comes, and goes on listening.
    pub fn half_close(&self) {
        // It fails only for a connection that is gone already.
        let _ = shutdown(self, Shutdown::Write);
    }

    /// Tells the server at once that we are done, whoever still holds the socket.
    pub fn hang_up(&self) {
        // It fails only for a connection that is gone already.
        let _ = shutdown(self, Shutdown::Both);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
