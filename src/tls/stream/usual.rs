//! The same connection for those who read and write by tokio's traits.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{READ_MAX, TlsStream};
use crate::tls::peer::Peer;

impl<P: Peer + Unpin> AsyncRead for TlsStream<P> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.plain.is_empty() {
            let mut plain = std::mem::take(&mut this.plain);
            let read = this.poll_read_into(cx, &mut plain, READ_MAX);
            this.plain = plain;
            if ready!(read)? == 0 && !this.closed {
                // Nobody said that this is the end: it may have been cut off (RFC 9112 section 9.8).
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        let length = this.plain.len().min(buf.remaining());
        buf.put_slice(&this.plain.split_to(length));
        if this.plain.is_empty() {
            this.plain = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<P: Peer + Unpin> AsyncWrite for TlsStream<P> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_both(cx, buf, &[])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut parts = bufs.iter().filter(|part| !part.is_empty());
        let first = parts.next().map(|part| &**part).unwrap_or_default();
        let second = parts.next().map(|part| &**part).unwrap_or_default();
        self.get_mut().poll_write_both(cx, first, second)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.queue_close();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}
