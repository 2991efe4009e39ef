//! TCP and Unix sockets, and TLS, behind one type, so that client, origin and servers need not tell them apart.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::eventually::DEADLINE;
use super::tls::TlsStream;

/// Where something listens. Displayed as a configuration writes it: `127.0.0.1:80`, `unix:/path`, `unix:@name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// A name in Linux' abstract namespace.
    Abstract(String),
}

impl Address {
    /// Any free port of the loopback address.
    pub fn any_port() -> Self {
        Self::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Reads an address as [`Address`] displays it, with or without `http://` before it.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let text = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or(text);
        match text.strip_prefix("unix:") {
            Some(path) => match path.strip_prefix('@') {
                Some(name) => Self::Abstract(name.to_owned()),
                None => Self::Unix(PathBuf::from(path)),
            },
            None => Self::Tcp(text.parse().unwrap_or_else(|_| panic!("no address: {text}"))),
        }
    }

    /// The port of a TCP address.
    #[track_caller]
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(address) => address.port(),
            other => panic!("{other} has no port"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

/// A connected socket, or TLS over one. Reads wait [`DEADLINE`] at most unless told otherwise; writes too.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(TlsStream),
}

impl Stream {
    pub fn connect(address: &Address) -> io::Result<Self> {
        let stream = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, DEADLINE)?;
                stream.set_nodelay(true)?;
                Self::Tcp(stream)
            }
            Address::Unix(path) => Self::Unix(UnixStream::connect(path)?),
            Address::Abstract(name) => Self::Unix(UnixStream::connect_addr(&UnixAddr::from_abstract_name(name)?)?),
        };
        stream.bounded()
    }

    fn bounded(self) -> io::Result<Self> {
        self.set_read_timeout(DEADLINE)?;
        self.with_socket(|socket| socket.set_write_timeout(Some(DEADLINE)))?;
        Ok(self)
    }

    fn with_socket<T>(&self, act: impl FnOnce(SockRef<'_>) -> T) -> T {
        match self {
            Self::Tcp(stream) => act(SockRef::from(stream)),
            Self::Unix(stream) => act(SockRef::from(stream)),
            Self::Tls(stream) => act(SockRef::from(&stream.socket())),
        }
    }

    pub fn set_read_timeout(&self, time: Duration) -> io::Result<()> {
        self.with_socket(|socket| socket.set_read_timeout(Some(time)))
    }

    pub fn set_write_timeout(&self, time: Duration) -> io::Result<()> {
        self.with_socket(|socket| socket.set_write_timeout(Some(time)))
    }

    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        self.with_socket(|socket| socket.set_nonblocking(on))
    }

    /// Shrinks the kernel's buffer for what arrives: a reader that does not read then stops its sender early.
    pub fn set_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        self.with_socket(|socket| socket.set_recv_buffer_size(bytes))
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
            Self::Tls(stream) => Self::Tls(stream.clone()),
        })
    }

    /// Where a TCP connection comes from, as its other side sees it.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            Self::Unix(_) => None,
            Self::Tls(stream) => stream.socket().local_addr().ok(),
        }
    }

    pub fn shutdown(&self, how: Shutdown) {
        // The other side may have been faster; then there is nothing left to shut.
        let _ = self.with_socket(|socket| socket.shutdown(how));
    }

    /// Breaks the connection: TCP sends RST at once, whoever else holds a clone; a Unix socket, which has no such thing,
    /// is shut.
    pub fn reset(&self) {
        match self {
            Self::Tcp(stream) => {
                let _ = rustix::net::connect_unspec(stream);
            }
            Self::Unix(_) => self.shutdown(Shutdown::Both),
            Self::Tls(stream) => {
                let _ = rustix::net::connect_unspec(stream.socket());
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Listens on a free port that stays ours when the listener refuses. Linux takes a port it chose by itself back as soon as a
/// socket is shut down, and the next program that asks for any would get it; one that was asked for stays.
fn keep_port(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = |address: SocketAddr| -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    let chosen = socket(address)?;
    let address = chosen.local_addr()?.as_socket().unwrap();
    let listener = socket(address)?;
    listener.listen(1024)?;
    Ok(listener.into())
}

impl Listener {
    /// Binds `address`; a socket file that is there already is replaced.
    pub fn bind(address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::Tcp(address) if address.port() == 0 => Self::Tcp(keep_port(*address)?),
            Address::Tcp(address) => Self::Tcp(TcpListener::bind(address)?),
            Address::Unix(path) => {
                let _ = std::fs::remove_file(path);
                Self::Unix(UnixListener::bind(path)?)
            }
            Address::Abstract(name) => Self::Unix(UnixListener::bind_addr(&UnixAddr::from_abstract_name(name)?)?),
        })
    }

    pub fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let stream = listener.accept()?.0;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Self::Unix(listener) => Stream::Unix(listener.accept()?.0),
        }
        .bounded()
    }

    /// The port it got, where `asked` left that open.
    pub fn address(&self, asked: &Address) -> Address {
        match self {
            Self::Tcp(listener) => Address::Tcp(listener.local_addr().unwrap()),
            Self::Unix(_) => asked.clone(),
        }
    }

    pub fn as_socket(&self) -> SockRef<'_> {
        match self {
            Self::Tcp(listener) => SockRef::from(listener),
            Self::Unix(listener) => SockRef::from(listener),
        }
    }

    /// Refuses from now on; a thread that waits in [`Listener::accept`] gets an error (as Linux does it).
    pub fn close(&self) {
        let _ = self.as_socket().shutdown(Shutdown::Both);
    }
}
