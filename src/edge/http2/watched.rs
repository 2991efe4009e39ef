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
const GATHERED_MAX: usize = 48 * 1024;

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

/// What was seen. Whoever has the lock has it for a moment.
#[derive(Debug)]
pub struct Watch(Mutex<Seen>);

#[derive(Debug)]
struct Seen {
    counter: Counter,
    /// Up to when time was credited.
    credited: Instant,
    /// Since when a block of fields is open.
    fields_since: Option<Instant>,
    /// Since when the socket takes nothing.
    stalled_since: Option<Instant>,
    /// All was said, and the client is waited for to close.
    lingers: bool,
}

impl Watch {
    /// Whether the client has sent more than its share of frames that only cost.
    pub fn flood(&self) -> Option<Trouble> {
        self.0.lock().counter.is_flooded().then_some(Trouble::Flood)
    }

    /// A request was answered to the end.
    pub fn answered(&self) {
        self.0.lock().counter.answered();
    }

    /// Whether nothing more is sent or used: the connection ends by itself, soon.
    pub fn lingers(&self) -> bool {
        self.0.lock().lingers
    }

    /// When a wait for the client is over, if there is one: for the end of a block of fields, or to take something.
    pub fn deadline(&self, fields: Duration, write: Duration) -> Option<Instant> {
        let seen = self.0.lock();
        let (fields, write) =
            (seen.fields_since.map(|since| since + fields), seen.stalled_since.map(|since| since + write));
        fields.into_iter().chain(write).min()
    }

    /// Which of the two is over.
    pub fn silence(&self, fields: Duration, write: Duration) -> Option<Trouble> {
        let now = Instant::now();
        let seen = self.0.lock();
        let over = |since: Option<Instant>, patience| since.is_some_and(|since| now >= since + patience);
        if over(seen.fields_since, fields) {
            Some(Trouble::LateFields)
        } else {
            over(seen.stalled_since, write).then_some(Trouble::Stalled)
        }
    }

    fn received(&self, bytes: &[u8]) {
        let mut seen = self.0.lock();
        seen.counter.received(bytes);
        if seen.counter.is_flooded() {
            let now = Instant::now();
            let passed = now - seen.credited;
            seen.credited = now;
            seen.counter.passed(passed);
        }
        if !seen.counter.is_within_fields() {
            seen.fields_since = None;
        } else if seen.fields_since.is_none() {
            seen.fields_since = Some(Instant::now());
        }
    }

    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        let mut seen = self.0.lock();
        match written {
            Poll::Ready(Ok(count)) => {
                seen.counter.sent(*count);
                seen.stalled_since = None;
            }
            Poll::Pending if seen.stalled_since.is_none() => seen.stalled_since = Some(Instant::now()),
            Poll::Pending | Poll::Ready(Err(_)) => {}
        }
    }
}

/// The stream the library reads and writes.
#[derive(Debug)]
pub struct Watched {
    stream: Box<TlsStream<Server>>,
    watch: Arc<Watch>,
    /// Written by the library, and not sent yet.
    gathered: BytesMut,
    lingering: Option<Lingering>,
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
    #[must_use]
    pub fn new(stream: Box<TlsStream<Server>>) -> Self {
        let seen = Seen {
            counter: Counter::default(),
            credited: Instant::now(),
            fields_since: None,
            stalled_since: None,
            lingers: false,
        };
        Self { stream, watch: Arc::new(Watch(Mutex::new(seen))), gathered: BytesMut::new(), lingering: None }
    }

    /// What is seen of it.
    #[must_use]
    pub fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.watch.flood().is_some() {
            // The connection is about to be cut; its task looks next.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut *this.stream).poll_read(cx, buf);
        this.watch.received(buf.filled().get(before..).unwrap_or_default());
        read
    }
}

impl Watched {
    /// Sends what was gathered.
    fn poll_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let written = self.stream.poll_write_both(cx, &self.gathered, &[]);
            self.watch.wrote(&written);
            self.gathered.advance(ready!(written)?);
        }
        if self.gathered.capacity() > 0 {
            self.gathered = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

/// Frames are gathered until the library has no more for now: each by itself would be a system call, and a record of its own.
impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.gathered.len() >= GATHERED_MAX {
            ready!(this.poll_gathered(cx))?;
        }
        let length = bufs.iter().map(|part| part.len()).sum();
        this.gathered.reserve(length);
        bufs.iter().for_each(|part| this.gathered.extend_from_slice(part));
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_gathered(cx))?;
        let flushed = Pin::new(&mut *this.stream).poll_flush(cx);
        this.watch.wrote(&if flushed.is_pending() { Poll::Pending } else { Poll::Ready(Ok(0)) });
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            ready!(this.poll_gathered(cx))?;
            ready!(Pin::new(&mut *this.stream).poll_shutdown(cx))?;
            this.watch.0.lock().lingers = true;
        }
        this.lingering.get_or_insert_with(Lingering::new).poll(&mut this.stream, cx).map(Ok)
    }
}
