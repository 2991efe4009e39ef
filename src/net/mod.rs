//! Sockets as both sides of the gateway use them.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Room that is enough for a read.
const ROOM_LEAST: usize = 16 * 1024;

/// An IPv4 address as text, without the formatting machinery: it is written for every request, and several times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Text {
    text: [u8; 15],
    length: usize,
}

impl Ipv4Text {
    #[must_use]
    pub fn of(ip: Ipv4Addr) -> Self {
        let mut written = Self { text: [0; 15], length: 0 };
        for (place, octet) in ip.octets().into_iter().enumerate() {
            if place > 0 {
                written.push(b'.');
            }
            itoa::Buffer::new().format(octet).bytes().for_each(|digit| written.push(digit));
        }
        written
    }

    fn push(&mut self, byte: u8) {
        if let Some(to) = self.text.get_mut(self.length) {
            *to = byte;
            self.length += 1;
        }
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.text.get(..self.length).unwrap_or_default()
    }
}

/// A connected socket: TCP or Unix.
#[derive(Debug)]
pub enum Plain {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Plain {
    /// Waits until there is something to read, or the end.
    ///
    /// # Errors
    /// What the runtime reports.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    /// Appends what has come to `buf`, at most `at_once` bytes; 0 at the end of the stream. Room is made only when there is
    /// something to read: who just waits holds no buffer. And only where little is left of what was made before: what is read in
    /// small pieces, and waits somewhere, would keep a buffer alive for each of them.
    ///
    /// # Errors
    /// What the socket reports.
    pub fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        at_once: usize,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_read_ready(cx))?;
        if buf.capacity() - buf.len() < at_once.min(ROOM_LEAST) {
            buf.reserve(at_once);
        }
        let mut limited = (&mut *buf).limit(at_once);
        pin!(self.read_buf(&mut limited)).poll(cx)
    }

    /// As [`Plain::poll_read_ready`].
    ///
    /// # Errors
    /// What the runtime reports.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }

    /// Whether the connection is broken, or closed both ways: the kernel says so whether or not anybody reads. One system call.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        let mut asked = [PollFd::new(self, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let gone = PollFlags::ERR | PollFlags::HUP;
        poll(&mut asked, Some(&now)).is_ok() && asked.iter().any(|asked| asked.revents().intersects(gone))
    }

    /// Reads what is there, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` where nothing is, and what the socket reports.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buf),
            Self::Unix(stream) => stream.try_read(buf),
        }
    }
}

impl AsFd for Plain {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Plain {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Plain {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
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

    /// Neither keeps anything back.
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_address_is_written_as_it_is(bits: u32) {
            let ip = Ipv4Addr::from_bits(bits);
            prop_assert_eq!(Ipv4Text::of(ip).as_bytes().to_vec(), ip.to_string().into_bytes());
        }
    }
}
