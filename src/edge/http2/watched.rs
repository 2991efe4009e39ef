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

/// What is gathered of small parts before it is encrypted, in bytes.
const GATHERED_MAX: usize = 16 * 1024;

/// Parts below this are gathered; a larger one is a record by itself, without a copy.
const PART_SMALL: usize = 4 * 1024;

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
    /// When it last took something.
    sent_at: Instant,
}

impl Watch {
    /// Looks at `stream`, on which nothing was said yet.
    #[must_use]
    pub fn new(stream: Box<TlsStream<Server>>) -> Arc<Self> {
        let seen = Seen {
            counter: Counter::default(),
            credited: Instant::now(),
            fields_since: None,
            stalled_since: None,
            sent_at: Instant::now(),
        };
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

    /// When the client last took something.
    pub fn sent_at(&self) -> Instant {
        self.0.lock().seen.sent_at
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
                (self.stalled_since, self.sent_at) = (None, Instant::now());
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
    /// Takes a part of a frame: gathers or encrypts it.
    fn poll_take(&mut self, cx: &mut Context<'_>, part: &[u8]) -> Poll<io::Result<usize>> {
        let is_small = part.len() < PART_SMALL;
        if !is_small || self.gathered.len() + part.len() > GATHERED_MAX {
            ready!(self.poll_sealed(cx))?;
        }
        if !is_small {
            return self.poll_seal(cx, part);
        }
        self.gathered.extend_from_slice(part);
        Poll::Ready(Ok(part.len()))
    }

    /// Encrypts `part`, or some of it.
    fn poll_seal(&mut self, cx: &mut Context<'_>, part: &[u8]) -> Poll<io::Result<usize>> {
        let sealed = self.stream.poll_write_later(cx, part);
        self.seen.wrote(&sealed);
        sealed
    }

    /// Encrypts what was gathered.
    fn poll_sealed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let mut gathered = std::mem::take(&mut self.gathered);
            let sealed = self.poll_seal(cx, &gathered);
            if let Poll::Ready(Ok(taken)) = &sealed {
                gathered.advance(*taken);
            }
            if !gathered.is_empty() {
                self.gathered = gathered;
            }
            ready!(sealed)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Encrypts what was gathered, and sends all there is.
    fn poll_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sealed(cx))?;
        if !self.stream.has_pending() {
            return Poll::Ready(Ok(()));
        }
        let before = self.stream.pending();
        let sent = self.stream.poll_send(cx);
        if self.stream.pending() < before {
            self.seen.stalled_since = None;
        }
        self.seen.wrote(&if sent.is_pending() { Poll::Pending } else { Poll::Ready(Ok(0)) });
        sent
    }
}

/// What the library reads and writes.
#[derive(Debug)]
pub struct Link(pub Arc<Watch>);

impl AsyncRead for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut watched = self.0.0.lock();
        if watched.seen.counter.is_flooded() {
            // The connection is about to be cut; its task looks next. If it was forgiven by then, it reads on.
            cx.waker().wake_by_ref();
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
        let mut taken = 0;
        for part in bufs {
            match watched.poll_take(cx, part) {
                Poll::Pending if taken > 0 => break,
                part_taken => taken += ready!(part_taken)?,
            }
        }
        Poll::Ready(Ok(taken))
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
