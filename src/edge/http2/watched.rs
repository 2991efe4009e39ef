//! The byte stream below an HTTP/2 connection, looked at on its way: frames are counted, and waits for the client timed.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::edge::connection::{LINGER_SILENCE, LINGER_TIME};
use crate::edge::http2::flood::Counter;
use crate::tls::peer::Server;
use crate::tls::stream::TlsStream;

/// What is gathered before it is sent; a frame may go beyond it.
const GATHERED_MAX: usize = 64 * 1024;

/// A frame below this is no reason to expect many, in bytes.
const FRAME_SMALL: usize = 8 * 1024;

/// Why a connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Too many frames that only cost.
    Flood,
    /// A block of fields that does not end.
    LateFields,
    /// The client takes nothing of what there is for it.
    Stalled,
    /// Nothing was asked for a while.
    Idle,
}

/// The byte stream, in the hands of the library and of the connection's task, and what was seen of it.
#[derive(Debug)]
pub struct Watch(Mutex<Watched>);

#[derive(Debug)]
struct Watched {
    stream: Box<TlsStream<Server>>,
    /// Written by the library, and not sent yet.
    gathered: BytesMut,
    /// Flushing is the connection's task's.
    gathers: bool,
    seen: Seen,
    lingering: Option<Lingering>,
}

#[derive(Debug)]
struct Seen {
    counter: Counter,
    /// Up to when time was credited.
    credited: Instant,
    /// Since when a block of fields is open.
    fields_since: Option<Instant>,
    /// Since when the socket takes nothing.
    stalled_since: Option<Instant>,
}

impl Watch {
    /// Looks at `stream`, on which nothing was said yet.
    #[must_use]
    pub fn new(stream: Box<TlsStream<Server>>) -> Arc<Self> {
        let seen =
            Seen { counter: Counter::default(), credited: Instant::now(), fields_since: None, stalled_since: None };
        let watched = Watched { stream, gathered: BytesMut::new(), gathers: false, seen, lingering: None };
        Arc::new(Self(Mutex::new(watched)))
    }

    /// From now on nothing is sent before [`Watch::poll_send`] is called, or there is much of it. The library flushes after each
    /// frame with data (h2 0.4.20 `codec/framed_write.rs`, `flush`), and each would be a system call, and a record of its own.
    pub fn gather(&self) {
        self.0.lock().gathers = true;
    }

    /// Sends what was gathered.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_gathered(cx)
    }

    /// Whether the client has sent more than its share of frames that only cost.
    pub fn flood(&self) -> Option<Trouble> {
        self.0.lock().seen.counter.is_flooded().then_some(Trouble::Flood)
    }

    /// A request was answered to the end.
    pub fn answered(&self) {
        self.0.lock().seen.counter.answered();
    }

    /// Whether nothing more is sent or used: the connection ends by itself, soon.
    pub fn lingers(&self) -> bool {
        self.0.lock().lingering.is_some()
    }

    /// When a wait for the client is over, if there is one: for the end of a block of fields, or to take something.
    pub fn deadline(&self, fields: Duration, write: Duration) -> Option<Instant> {
        let seen = &self.0.lock().seen;
        let (fields, write) =
            (seen.fields_since.map(|since| since + fields), seen.stalled_since.map(|since| since + write));
        fields.into_iter().chain(write).min()
    }

    /// Which of the two is over.
    pub fn silence(&self, fields: Duration, write: Duration) -> Option<Trouble> {
        let now = Instant::now();
        let seen = &self.0.lock().seen;
        let over = |since: Option<Instant>, patience| since.is_some_and(|since| now >= since + patience);
        if over(seen.fields_since, fields) {
            Some(Trouble::LateFields)
        } else {
            over(seen.stalled_since, write).then_some(Trouble::Stalled)
        }
    }
}

impl Seen {
    fn received(&mut self, bytes: &[u8]) {
        self.counter.received(bytes);
        if self.counter.is_flooded() {
            let now = Instant::now();
            let passed = now - self.credited;
            self.credited = now;
            self.counter.passed(passed);
        }
        if !self.counter.is_within_fields() {
            self.fields_since = None;
        } else if self.fields_since.is_none() {
            self.fields_since = Some(Instant::now());
        }
    }

    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(Ok(count)) => {
                self.counter.sent(*count);
                self.stalled_since = None;
            }
            Poll::Pending if self.stalled_since.is_none() => self.stalled_since = Some(Instant::now()),
            Poll::Pending | Poll::Ready(Err(_)) => {}
        }
    }
}

/// Reading on for a while after the last word: closed on bytes that nobody read, such as window updates for what the client is still
/// reading, the connection would be reset under it.
#[derive(Debug)]
struct Lingering {
    end: Instant,
    silence: Pin<Box<Sleep>>,
}

impl Lingering {
    fn new() -> Self {
        Self { end: Instant::now() + LINGER_TIME, silence: Box::pin(sleep(LINGER_SILENCE)) }
    }

    fn poll(&mut self, stream: &mut TlsStream<Server>, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 1024];
        loop {
            if self.silence.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut read = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut read)) {
                Ok(()) if !read.filled().is_empty() => {
                    self.silence.as_mut().reset(self.end.min(Instant::now() + LINGER_SILENCE));
                }
                _ => return Poll::Ready(()),
            }
        }
    }
}

impl Watched {
    fn poll_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let written = self.stream.poll_write_both(cx, &self.gathered, &[]);
            self.seen.wrote(&written);
            self.gathered.advance(ready!(written)?);
        }
        if self.gathered.capacity() > 0 {
            self.gathered = BytesMut::new();
        }
        if self.stream.has_pending() {
            let flushed = self.stream.poll_send(cx);
            self.seen.wrote(&if flushed.is_pending() { Poll::Pending } else { Poll::Ready(Ok(0)) });
            return flushed;
        }
        Poll::Ready(Ok(()))
    }
}

/// What the library reads and writes.
#[derive(Debug)]
pub struct Link(pub Arc<Watch>);

impl AsyncRead for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut watched = self.0.0.lock();
        if watched.seen.counter.is_flooded() {
            // The connection is about to be cut; its task looks next.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut *watched.stream).poll_read(cx, buf);
        watched.seen.received(buf.filled().get(before..).unwrap_or_default());
        read
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut watched = self.0.0.lock();
        if watched.gathered.len() >= GATHERED_MAX {
            ready!(watched.poll_gathered(cx))?;
        }
        let length = bufs.iter().map(|part| part.len()).sum();
        if length > watched.gathered.capacity() - watched.gathered.len() {
            // With one frame of data there are more.
            let room = if length < FRAME_SMALL { length } else { GATHERED_MAX + length };
            watched.gathered.reserve(room);
        }
        bufs.iter().for_each(|part| watched.gathered.extend_from_slice(part));
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut watched = self.0.0.lock();
        if watched.gathers { Poll::Ready(Ok(())) } else { watched.poll_gathered(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let watched = &mut *self.0.0.lock();
        if watched.lingering.is_none() {
            ready!(watched.poll_gathered(cx))?;
            ready!(Pin::new(&mut *watched.stream).poll_shutdown(cx))?;
        }
        watched.lingering.get_or_insert_with(Lingering::new).poll(&mut watched.stream, cx).map(Ok)
    }
}
