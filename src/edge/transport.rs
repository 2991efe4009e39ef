//! The byte stream of one client: TCP or Unix socket, with the waits that a deadline can end.
//!
//! An idle stream is waited on by readiness alone, so a parked connection holds no buffer.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

/// A connected client.
#[derive(Debug)]
pub enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Transport {
    /// Waits until there is something to read, or the peer closed.
    ///
    /// # Errors
    /// What the socket reports.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }

    /// Appends what is there to `buf`; 0 at the end of the stream. Cancel safe.
    ///
    /// # Errors
    /// What the socket reports.
    pub async fn read_into(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        self.read_buf(buf).await
    }

    /// Writes all of `first` and then of `second`, in one system call where the socket takes it. `progress` is told of each
    /// accepted count; it may refuse to wait on by returning an error. Not cancel safe.
    ///
    /// # Errors
    /// What the socket reports; `TimedOut` when `patience` ran out with nothing accepted.
    pub async fn write_both(
        &mut self,
        mut first: &[u8],
        mut second: &[u8],
        patience: &mut impl Patience,
    ) -> io::Result<()> {
        while !first.is_empty() || !second.is_empty() {
            let written = match poll_once(self.write_some(first, second)).await {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    let from = Instant::now();
                    let result = tokio::time::timeout(patience.wait(), self.write_some(first, second)).await;
                    patience.waited(from.elapsed());
                    result.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??
                }
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            patience.progress(written);
            let from_first = written.min(first.len());
            first = first.get(from_first..).unwrap_or_default();
            second = second.get(written - from_first..).unwrap_or_default();
        }
        Ok(())
    }

    fn write_some(&mut self, first: &[u8], second: &[u8]) -> impl Future<Output = io::Result<usize>> {
        std::future::poll_fn(move |cx| {
            let parts = [IoSlice::new(first), IoSlice::new(second)];
            Pin::new(&mut *self).poll_write_vectored(cx, &parts)
        })
    }

    /// Says that nothing more will be written, so that the client sees the end while its own bytes are still read.
    pub async fn finish_writing(&mut self) {
        let _ = self.shutdown().await;
    }

    /// Makes the close that follows a reset: the only way to show a broken transfer whose end the close itself would be.
    pub fn reset_on_close(&self) {
        let linger = Some(Duration::ZERO);
        let _ = match self {
            Self::Tcp(stream) => socket2::SockRef::from(stream).set_linger(linger),
            Self::Unix(stream) => socket2::SockRef::from(stream).set_linger(linger),
        };
    }
}

/// How long a writer waits for a reader that takes nothing.
pub trait Patience {
    /// The longest wait from now.
    fn wait(&self) -> Duration;
    /// A wait of this length is over.
    fn waited(&mut self, time: Duration);
    /// That many bytes were taken.
    fn progress(&mut self, bytes: usize);
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
