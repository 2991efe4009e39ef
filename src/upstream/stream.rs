//! One exchange with the app over one connection: the HTTP/1.1 client (RFC 9112).
//!
//! # How it is written
//! No write waits and none fails: what the socket does not take is kept and sent by whoever reads, so that an app that answers
//! while it is sent a large body is heard. Nothing more is to be given until it has caught up. An app that takes no more may have
//! answered all the same.
//!
//! # How it is read
//! [`UpstreamStream::came`] waits for bytes, [`UpstreamStream::piece`] says what is in them, see [`ResponseReader`].
//!
//! # How it comes back
//! Dropped, it goes back to its pool where both sides have said all they had to, and neither said that it closes. Where the exchange
//! ended and the connection is not to be kept, it is closed when the server has hung up (`hang_on`); where the exchange broke, at
//! once.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH};
use tokio::io::AsyncWrite;
use tokio::runtime::Handle;

use crate::framing::put_chunk_size;
use crate::message::{RequestHead, put_field};
use crate::upstream::endpoint::Lease;
use crate::upstream::pool::Pool;
use crate::upstream::response_reader::{Expected, Malformed, Piece, ResponseReader};
use crate::upstream::socket::{Secured, Sight, Socket};

/// What is read at once of a head, with what stands behind it.
const HEAD_READ: usize = 16 * 1024;
/// What is read at once of a body that does not say its length.
const UNKNOWN_READ: usize = 32 * 1024;
/// Room that is kept for what is still to be sent.
const OUT_KEPT: usize = 4 * 1024;
/// Pieces of a body up to this size are copied beside what goes out before them.
const COPY_MAX: usize = 4 * 1024;

/// One connection for one exchange.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // Independent facts.
pub struct UpstreamStream {
    /// None only while it is being dropped.
    socket: Option<Socket>,
    /// How it was connected.
    tls: Option<Arc<Secured>>,
    pool: Arc<Pool>,
    generation: u32,
    reused: bool,
    /// Of the request, what the kernel has not got yet: this, then the piece.
    out: BytesMut,
    piece: Bytes,
    body: Body,
    /// The server takes no more: what is given from now on goes nowhere, and its answer is still waited for.
    unheard: bool,
    /// The end of the connection or an error was met.
    over: bool,
    /// The request says that it is the last one.
    closes: bool,
    response: ResponseReader,
    /// What has come and was not made anything of yet.
    input: BytesMut,
    /// The slot that the app's worker occupies until it has hung up, and how long that is waited for.
    slot: Option<(Lease, Duration)>,
}

/// What is still to be given of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Whole,
    /// So many bytes.
    Length(u64),
    Chunked,
}

/// What has become of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// The server took some of what was kept.
    Taken,
    /// There is something to make pieces of.
    Arrived,
}

/// Why there is no response, or no more of it.
#[derive(Debug)]
pub enum Broken {
    /// The server closed before it said anything.
    Closed,
    /// It closed within the head.
    WithinHead,
    /// It closed before the body was whole.
    WithinBody,
    /// It broke a rule.
    Malformed(&'static str),
    Io(io::Error),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => out.write_str("closed without an answer"),
            Self::WithinHead => out.write_str("closed within the head"),
            Self::WithinBody => out.write_str("closed before the body was whole"),
            Self::Malformed(why) => out.write_str(why),
            Self::Io(error) => error.fmt(out),
        }
    }
}

/// A connection that speaks another protocol from here on.
#[derive(Debug)]
pub struct Upgraded {
    pub socket: Socket,
    /// What came behind the head of the 101.
    pub received: BytesMut,
}

impl UpstreamStream {
    pub(super) fn new(
        socket: Socket,
        tls: Option<Arc<Secured>>,
        pool: Arc<Pool>,
        generation: u32,
        reused: bool,
    ) -> Self {
        Self {
            socket: Some(socket),
            tls,
            pool,
            generation,
            reused,
            out: BytesMut::new(),
            piece: Bytes::new(),
            body: Body::Whole,
            unheard: false,
            over: false,
            closes: false,
            response: ResponseReader::new(Expected::default()),
            input: BytesMut::new(),
            slot: None,
        }
    }

    /// Whether an earlier request was sent over this connection.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Keeps a slot taken until the connection is pooled or closed. A server that is to close it is waited for, `patience` at most: a
    /// worker may have work to do behind its answer, and whatever was sent to it meanwhile would wait in its backlog.
    pub fn occupy(&mut self, slot: Lease, patience: Duration) {
        self.slot = Some((slot, patience));
    }

    /// Begins with the head of the request; nothing is sent yet. A body that says no length is chunked.
    pub fn begin(&mut self, request: &RequestHead, has_body: bool, expected: Expected) {
        let length = request.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        self.body = match length {
            _ if !has_body => Body::Whole,
            Some(length) => Body::Length(length),
            None => Body::Chunked,
        };
        self.response = ResponseReader::new(expected);
        self.closes = request.headers.get(CONNECTION).is_some_and(|value| value == "close");
        put_head(&mut self.out, request, self.body == Body::Chunked);
    }

    /// The next piece of the body. Not while it is behind.
    pub fn give(&mut self, piece: Bytes) {
        match &mut self.body {
            Body::Length(left) => *left = left.saturating_sub(piece.len() as u64),
            Body::Chunked => put_chunk_size(&mut self.out, piece.len()),
            Body::Whole => {}
        }
        if self.body == Body::Length(0) {
            self.body = Body::Whole;
        }
        if self.unheard {
            self.out.clear();
        } else if self.body == Body::Chunked {
            self.out.put_slice(&piece);
            self.out.put_slice(b"\r\n");
        } else if piece.len() <= COPY_MAX {
            self.out.put_slice(&piece);
        } else {
            self.piece = piece;
        }
    }

    /// The body has come to its end.
    pub fn give_end(&mut self) {
        if self.body == Body::Chunked {
            self.body = Body::Whole;
            if !self.unheard {
                self.out.put_slice(b"0\r\n\r\n");
            }
        }
    }

    /// Whether something that was given is still to be sent.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.out.is_empty() || !self.piece.is_empty() || self.socket.as_ref().is_some_and(Socket::has_pending)
    }

    /// Sends what the socket takes, without waiting.
    pub async fn send(&mut self) {
        poll_fn(|cx| {
            self.send_now(cx);
            Poll::Ready(())
        })
        .await;
    }

    /// Waits until there is something of the response, and goes on sending meanwhile. At most `at_once` bytes are read. Cancel safe.
    ///
    /// # Errors
    /// The connection ended before the response did, or broke.
    pub async fn came(&mut self, at_once: usize) -> Result<Came, Broken> {
        poll_fn(|cx| self.poll_came(cx, at_once)).await
    }

    /// Goes on sending, and never ends: for who waits for something else.
    pub async fn go_on_sending(&mut self) {
        poll_fn(|cx| {
            self.send_now(cx);
            Poll::<()>::Pending
        })
        .await;
    }

    /// The next piece of what has come; none when more is needed.
    ///
    /// # Errors
    /// The response breaks the rules.
    pub fn piece(&mut self) -> Result<Option<Piece>, Broken> {
        self.response.next(&mut self.input).map_err(|Malformed(why)| {
            self.over = true;
            Broken::Malformed(why)
        })
    }

    /// Whether all of the response was made pieces of.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.response.is_done()
    }

    /// Nothing more will be given of a request that is not whole. The server hears it, or it would wait for the rest for ever, and may
    /// still answer.
    pub fn give_up(&mut self) {
        if self.body != Body::Whole || self.is_behind() {
            self.socket.iter_mut().for_each(Socket::half_close);
            self.stop_sending();
        }
    }

    /// What is left when the server has switched protocols.
    #[must_use]
    pub fn into_upgraded(mut self) -> Option<Upgraded> {
        let received = std::mem::take(&mut self.input);
        self.socket.take().map(|socket| Upgraded { socket, received })
    }

    fn stop_sending(&mut self) {
        self.unheard = true;
        self.out.clear();
        self.piece.clear();
    }

    /// How much was sent.
    fn send_now(&mut self, cx: &mut Context<'_>) -> usize {
        let before = self.out.len() + self.piece.len();
        if let Poll::Ready(Err(_)) = self.poll_send(cx) {
            self.stop_sending();
        }
        before - (self.out.len() + self.piece.len())
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket: Some(socket), out, piece, .. } = self else { return Poll::Ready(Ok(())) };
        let mut socket = Pin::new(socket);
        while !(out.is_empty() && piece.is_empty()) {
            let sent = match (out.is_empty(), piece.is_empty()) {
                // The system asks less of one piece than of a list of pieces.
                (_, true) => ready!(socket.as_mut().poll_write(cx, out))?,
                (true, _) => ready!(socket.as_mut().poll_write(cx, piece))?,
                _ => ready!(socket.as_mut().poll_write_vectored(cx, &[IoSlice::new(out), IoSlice::new(piece)]))?,
            };
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let from_out = sent.min(out.len());
            out.advance(from_out);
            piece.advance(sent - from_out);
        }
        if out.capacity() > OUT_KEPT {
            *out = BytesMut::new();
        } else {
            out.clear();
        }
        // TLS keeps what it has encrypted and the socket has not taken.
        socket.poll_flush(cx)
    }

    fn poll_came(&mut self, cx: &mut Context<'_>, at_once: usize) -> Poll<Result<Came, Broken>> {
        if self.is_behind() {
            let sent = self.send_now(cx);
            if sent > 0 || !self.is_behind() {
                return Poll::Ready(Ok(Came::Taken));
            }
        }
        let at_once = if self.response.awaits_head() { at_once.min(HEAD_READ) } else { at_once };
        // With one byte more than is to come, a whole body leaves the socket known to be empty.
        let wanted =
            self.response.announced().and_then(|left| usize::try_from(left).ok()).map(|left| left.saturating_add(1));
        let at_once = at_once.min(wanted.unwrap_or(UNKNOWN_READ));
        let Self { socket: Some(socket), input, .. } = self else { return Poll::Ready(Err(Broken::Closed)) };
        let Poll::Ready(read) = socket.poll_read_into(cx, input, at_once) else {
            // An app may have nothing to tell for an hour. Where what was read before still waits somewhere, the rest of the buffer
            // is for what follows.
            let room = input.capacity();
            if input.is_empty() && room > 0 && input.try_reclaim(room + 1) {
                *input = BytesMut::new();
            }
            return Poll::Pending;
        };
        match read {
            Ok(1..) => Poll::Ready(Ok(Came::Arrived)),
            Ok(0) => Poll::Ready(self.ended()),
            // Before a response begins, TLS that ends without a word is a connection that was closed while idle.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !self.has_begun() => {
                Poll::Ready(self.ended())
            }
            Err(error) => {
                self.over = true;
                Poll::Ready(Err(Broken::Io(error)))
            }
        }
    }

    /// Whether anything has come of a response.
    fn has_begun(&self) -> bool {
        self.response.has_begun() || !self.input.is_empty()
    }

    /// The connection has ended.
    fn ended(&mut self) -> Result<Came, Broken> {
        self.over = true;
        if self.response.end_with_connection() {
            Ok(Came::Arrived)
        } else if !self.response.awaits_head() {
            Err(Broken::WithinBody)
        } else if self.has_begun() {
            Err(Broken::WithinHead)
        } else {
            Err(Broken::Closed)
        }
    }

    /// Whether another request may be sent over the connection.
    fn is_reusable(&self) -> bool {
        self.response.is_reusable()
            && self.input.is_empty()
            && self.body == Body::Whole
            && !(self.closes || self.unheard || self.is_behind())
    }
}

/// The head of a request as it goes over the wire.
fn put_head(out: &mut BytesMut, request: &RequestHead, chunked: bool) {
    out.reserve(1024);
    out.put_slice(request.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(&request.target);
    out.put_slice(b" HTTP/1.1\r\n");
    for (name, value) in &request.headers {
        put_field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    if chunked {
        out.put_slice(b"Transfer-Encoding: chunked\r\n");
    }
    out.put_slice(b"\r\n");
}

impl Drop for UpstreamStream {
    fn drop(&mut self) {
        let is_reusable = self.is_reusable();
        let Some(socket) = self.socket.take() else { return };
        if self.over || !self.response.is_done() {
            return;
        }
        if is_reusable {
            self.pool.put(socket, self.tls.take(), self.generation);
        } else {
            hang_on(socket, self.slot.take());
        }
    }
}

/// Says that nothing more comes, and closes the connection, and frees the slot, when the server has hung up: one that waits for our
/// end before it does is not waited for in turn.
fn hang_on(mut socket: Socket, slot: Option<(Lease, Duration)>) {
    let (Some((slot, patience)), Ok(runtime)) = (slot, Handle::try_current()) else { return };
    if socket.peek() != Sight::Quiet {
        return;
    }
    socket.half_close();
    runtime.spawn(async move {
        let _ = tokio::time::timeout(patience, socket.news()).await;
        drop((socket, slot));
    });
}

#[cfg(test)]
mod tests;
