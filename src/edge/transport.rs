//! The byte stream of one client: TCP or Unix socket, with the waits that a deadline can end.
//!
//! An idle stream is waited on by readiness alone, so a parked connection holds no buffer.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// What is read at once of a head.
const SCRATCH_SIZE: usize = 16 * 1024;

thread_local! {
    /// Where heads are read to before it is known how long they are.
    static SCRATCH: RefCell<Option<Box<[u8; SCRATCH_SIZE]>>> = const { RefCell::new(None) };
}

/// A connected client.
#[derive(Debug)]
pub enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
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
            Self::Tcp(stream) => ready!(stream.poll_read_ready(cx))?,
            Self::Unix(stream) => ready!(stream.poll_read_ready(cx))?,
        }
        buf.reserve(at_once);
        pin!(self.read_buf(buf)).poll(cx)
    }

    /// Appends what has come to `buf`, which grows by no more than that; 0 at the end of the stream. For bytes that may stay as long
    /// as a request does, and of which nobody knows how many will come.
    ///
    /// # Errors
    /// What the socket reports.
    pub fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut read = ReadBuf::new(scratch.get_or_insert_with(|| Box::new([0; SCRATCH_SIZE])).as_mut_slice());
            ready!(Pin::new(self).poll_read(cx, &mut read))?;
            buf.extend_from_slice(read.filled());
            Poll::Ready(Ok(read.filled().len()))
        })
    }

    /// Writes what the socket takes of `first` and then of `second`.
    ///
    /// # Errors
    /// What the socket reports.
    pub fn poll_write_both(&mut self, cx: &mut Context<'_>, first: &[u8], second: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write_vectored(cx, &[IoSlice::new(first), IoSlice::new(second)])
    }

    /// Appends what is there to `buf`; 0 at the end of the stream. Cancel safe.
    ///
    /// # Errors
    /// What the socket reports.
    pub async fn read_into(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        self.read_buf(buf).await
    }

    /// Says that nothing more will be written, so that the client sees the end while its own bytes are still read.
    pub async fn finish_writing(&mut self) {
        let _ = self.shutdown().await;
    }

    /// Makes the close that follows a reset, or a clean one again: the only way to show a broken transfer whose end the close itself
    /// would be. A Unix socket has no resets.
    pub fn reset_on_close(&self, reset: bool) {
        let linger = reset.then_some(Duration::ZERO);
        let _ = match self {
            Self::Tcp(stream) => socket2::SockRef::from(stream).set_linger(linger),
            Self::Unix(stream) => socket2::SockRef::from(stream).set_linger(linger),
        };
    }
}

/// Polls once, without ever waiting.
pub async fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
