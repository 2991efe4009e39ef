//! The byte stream of one client: a socket, plain or with TLS over it.
//!
//! An idle stream is waited on by readiness alone, so a parked connection holds no buffer.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::net::Plain;
use crate::tls::peer::Server;
use crate::tls::stream::TlsStream;

/// What is read at once of a head.
const SCRATCH_SIZE: usize = 16 * 1024;

thread_local! {
    /// Where heads are read to before it is known how long they are.
    static SCRATCH: RefCell<Option<Box<[u8; SCRATCH_SIZE]>>> = const { RefCell::new(None) };
}

/// A connected client.
#[derive(Debug)]
pub enum Transport {
    Plain(Plain),
    Tls(Box<TlsStream<Server>>),
}

impl Transport {
    /// Appends what has come to `buf`, at most `at_once` bytes; 0 at the end of the stream. Room is made only when there is
    /// something to read: a client that just waits holds no buffer.
    ///
    /// # Errors
    /// What the socket reports.
    pub fn poll_arrived(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        at_once: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_read_into(cx, buf, at_once),
            Self::Tls(stream) => stream.poll_read_into(cx, buf, at_once),
        }
    }

    /// Appends what has come to `buf`, which grows by no more than that; 0 at the end of the stream. For bytes that may stay as long
    /// as a request does, and of which nobody knows how many will come.
    ///
    /// # Errors
    /// What the socket reports.
    pub fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => return stream.poll_read_into(cx, buf, SCRATCH_SIZE),
        };
        SCRATCH.with_borrow_mut(|scratch| {
            let mut read = ReadBuf::new(scratch.get_or_insert_with(|| Box::new([0; SCRATCH_SIZE])).as_mut_slice());
            ready!(Pin::new(socket).poll_read(cx, &mut read))?;
            buf.extend_from_slice(read.filled());
            Poll::Ready(Ok(read.filled().len()))
        })
    }

    /// Writes what the socket takes of `first` and then of `second`.
    ///
    /// # Errors
    /// What the socket reports.
    pub fn poll_write_both(&mut self, cx: &mut Context<'_>, first: &[u8], second: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            // The system asks less of one piece than of a list of pieces.
            Self::Plain(socket) if second.is_empty() => Pin::new(socket).poll_write(cx, first),
            Self::Plain(socket) => {
                Pin::new(socket).poll_write_vectored(cx, &[IoSlice::new(first), IoSlice::new(second)])
            }
            Self::Tls(stream) => stream.poll_write_both(cx, first, second),
        }
    }

    /// Whether something that was written is still to be sent: encrypted bytes that the socket has not taken.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.pending() > 0
    }

    /// How many those are.
    #[must_use]
    pub fn pending(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Tls(stream) => stream.pending(),
        }
    }

    /// Sends what is pending.
    ///
    /// # Errors
    /// What the socket reports.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => stream.poll_send(cx),
        }
    }

    /// Appends what is there to `buf`; 0 at the end of the stream. Cancel safe.
    ///
    /// # Errors
    /// What the socket reports.
    pub async fn read_into(&mut self, buf: &mut BytesMut, at_once: usize) -> io::Result<usize> {
        poll_fn(|cx| self.poll_arrived(cx, buf, at_once)).await
    }

    /// Says that nothing more will be written, so that the client sees the end while its own bytes are still read.
    pub async fn finish_writing(&mut self) {
        let _ = match self {
            Self::Plain(socket) => socket.shutdown().await,
            Self::Tls(stream) => stream.finish_writing().await,
        };
    }

    /// Before a connection is dropped whose last answer is whole: what says so in TLS, without waiting.
    pub fn farewell(&mut self) {
        if let Self::Tls(stream) = self {
            stream.farewell();
        }
    }

    /// Has the kernel ask a client that says nothing whether it is still there, and give up one that for `limit` confirms nothing of
    /// what it is sent, or makes no room for it.
    pub fn keep_alive(&self, probes: &TcpKeepalive, limit: Duration) {
        // A Unix socket has nobody to ask.
        let _ = self.with_socket(|socket| socket.set_tcp_keepalive(probes));
        let _ = self.with_socket(|socket| socket.set_tcp_user_timeout(Some(limit)));
    }

    /// Whether the client is gone, though nobody reads what it has sent.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_broken(),
            Self::Tls(stream) => stream.socket().is_broken(),
        }
    }

    fn with_socket<T>(&self, act: impl FnOnce(SockRef<'_>) -> T) -> T {
        match self {
            Self::Plain(socket) => act(SockRef::from(socket)),
            Self::Tls(stream) => act(SockRef::from(stream.socket())),
        }
    }

    /// Makes the close that follows a reset, or a clean one again: the only way to show a broken transfer whose end the close itself
    /// would be. A Unix socket has no resets.
    pub fn reset_on_close(&self, reset: bool) {
        let linger = reset.then_some(Duration::ZERO);
        let _ = self.with_socket(|socket| socket.set_linger(linger));
    }
}

/// Polls once, without ever waiting.
pub async fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}
