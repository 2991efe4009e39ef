//! A connection to the app as Pingora's HTTP/1.1 client sees it: a byte stream that goes back to our pool by itself.
//!
//! # How it comes back
//! When an exchange ended so that its connection may be kept, Pingora (pingora-core 0.9.1) asks the stream whether it
//! is idle before it pools it: `connectors/mod.rs`, `release_stream` and `test_reusable_stream`, a read into a buffer
//! of one byte that is polled once. No other read has so small a buffer: heads are read into at least 4096 free bytes
//! (`v1/client.rs`, `read_response`), bodies into 64 KiB less an unfinished chunk head of at most 8 KiB
//! (`v1/body.rs`, `prepare_buf_for_io` and `reserve_buf_for_io`). We answer "closed": Pingora drops the stream
//! instead of pooling it, and `drop` gives the socket to [`Pool`]. Before it asks, Pingora has made sure that the
//! response was read to its end, with nothing behind it, and that neither side said close (`respect_keepalive`,
//! `reuse`); its engine, that the request was sent to its end (pingora-proxy `proxy_h1.rs`, `proxy_handle_upstream`),
//! of which [`UpstreamStream::expect_body`] makes sure here too. Where the exchange ended and the connection is not to be
//! kept, it is closed when the server has hung up (`hang_on`); where the exchange broke, at once.
//!
//! # How it is read
//! What the server sends is judged before Pingora sees it, see [`Judge`]. An upgrade that the server has agreed to is not for
//! Pingora: it is told of an error, and the connection goes to [`Upgrade`]. No more is read than the session says: [`ReadAhead`].
//!
//! # How it is written
//! No write waits and none fails, so that Pingora always gets to read: see [`Flow`].

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;

use crate::upstream::endpoint::Lease;
use crate::upstream::flow::Flow;
use crate::upstream::judge::{Expected, Judge, Malformed, Switched, Verdict};
use crate::upstream::pool::Pool;
use crate::upstream::read_ahead::ReadAhead;
use crate::upstream::socket::{Secured, Sight, Socket};
use crate::upstream::upgrade::{Upgrade, Upgraded};

/// What is read at once of a head that came in pieces.
const PIECE: usize = 4 * 1024;
/// The most that is held back so that head and body go out together.
const HELD: usize = 16 * 1024;

/// One connection for one exchange.
#[derive(Debug)]
pub struct UpstreamStream {
    /// None only while it is being dropped.
    socket: Option<Socket>,
    /// How it was connected.
    tls: Option<Arc<Secured>>,
    pool: Arc<Pool>,
    generation: u32,
    reused: bool,
    /// Bytes that Pingora wrote and the kernel has not got yet.
    held: BytesMut,
    /// Whether what is written waits in `held` for what follows.
    holding: bool,
    /// Whether the request's head was written: it ends where Pingora first flushes (`v1/client.rs`,
    /// `write_request_header`).
    head_written: bool,
    /// Bytes of the request's body that are still to be written.
    owed: u64,
    /// Where the one who gives the body sees how far it got.
    flow: Option<Arc<Flow>>,
    /// Where the one who takes the response says how far it is read ahead.
    ahead: Option<Arc<ReadAhead>>,
    state: State,
    /// What follows the response; none before [`UpstreamStream::expect`].
    judge: Option<Judge>,
    /// Of a head that is not whole.
    kept: BytesMut,
    /// Judged, and not asked for yet.
    judged: BytesMut,
    /// Where an upgrade goes.
    upgrade: Option<Arc<Upgrade>>,
    switched: Option<Box<Switched>>,
    /// The slot that the app's worker occupies until it has hung up, and how long that is waited for.
    slot: Option<(Lease, Duration)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    InUse,
    /// The exchange is over, and the connection is not to be kept.
    Ended,
    /// Pingora asked whether we are idle, and has done nothing since.
    Asked,
    /// The server takes no more: what is written from now on goes nowhere, and its answer is still waited for.
    Unheard,
    /// The end of the stream or an error was met, or we were told to end it. It stays so.
    Over,
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
            held: BytesMut::new(),
            holding: false,
            head_written: false,
            owed: 0,
            flow: None,
            ahead: None,
            state: State::InUse,
            judge: None,
            kept: BytesMut::new(),
            judged: BytesMut::new(),
            upgrade: None,
            switched: None,
            slot: None,
        }
    }

    /// Whether an earlier request was sent over this connection. Pingora itself takes all of ours for new ones.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Keeps a slot taken until the connection is pooled or closed. A server that is to close it is waited for, `patience` at most: a
    /// worker may have work to do behind its answer, and whatever was sent to it meanwhile would wait in its backlog.
    pub fn occupy(&mut self, slot: Lease, patience: Duration) {
        self.slot = Some((slot, patience));
    }

    /// Says what response is expected; it is judged by that. An upgrade that the server agrees to goes to `upgrade`.
    pub fn expect(&mut self, head_only: bool, upgrade: Option<Arc<Upgrade>>) {
        self.judge = Some(Judge::new(Expected { head_only, upgrade: upgrade.is_some() }));
        self.upgrade = upgrade;
    }

    /// Says, before anything is written, that the whole body of the request lies ready and has `length` bytes as it
    /// goes over the wire. The head is then held back until the body, or as much of it as 16 KiB hold, can go out
    /// with it in one system call; and the connection is not kept unless that many bytes were written. Not for a body
    /// that is still on its way: the app would wait for the head as long as the client takes. Without this call
    /// everything is sent as it is written.
    ///
    /// A wrong length costs no more than the second system call: Pingora flushes once more at the end of each request
    /// (`v1/client.rs`, `finish_body`), and that flush sends whatever is held. Only a body shorter than its own
    /// Content-Length is not flushed: then the app has answered without it.
    pub fn expect_body(&mut self, length: u64) {
        self.owed = length;
        self.holding = length > 0;
    }

    /// Where the one who gives the body sees how far it got, and ends it.
    pub fn flow(&mut self) -> Arc<Flow> {
        self.flow.get_or_insert_default().clone()
    }

    /// Has `ahead` say how far is read.
    pub fn obey(&mut self, ahead: Arc<ReadAhead>) {
        self.ahead = Some(ahead);
    }

    /// Whoever goes on using the stream was not the pool that asked.
    fn use_on(&mut self) {
        if self.state == State::Asked {
            self.state = State::InUse;
        }
    }

    /// Whether `len` more bytes are to wait.
    fn holds(&self, len: usize) -> bool {
        self.holding && self.held.len() + len <= HELD
    }

    fn hold(&mut self, bytes: &[u8]) {
        if self.held.capacity() == 0 {
            let body = usize::try_from(self.owed).unwrap_or(HELD);
            self.held.reserve(bytes.len().saturating_add(body).min(HELD));
        }
        self.held.extend_from_slice(bytes);
        self.record_written(bytes.len());
    }

    fn record_written(&mut self, len: usize) {
        if self.head_written {
            self.owed = self.owed.saturating_sub(len as u64);
            self.holding &= self.owed > 0;
        }
    }

    /// Sends what is held and then `bytes`, of which it returns how much was taken. Ready with 0 only when `bytes` is
    /// empty.
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(socket) = self.socket.as_mut() else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        while !self.held.is_empty() {
            let both = [IoSlice::new(&self.held), IoSlice::new(bytes)];
            let sent = ready!(Pin::new(&mut *socket).poll_write_vectored(cx, &both))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_held = sent.min(self.held.len());
            self.held.advance(of_held);
            if sent > of_held {
                return Poll::Ready(Ok(sent - of_held));
            }
        }
        if bytes.is_empty() {
            // TLS keeps what it has encrypted and the socket has not taken.
            return Pin::new(socket).poll_flush(cx).map_ok(|()| 0);
        }
        Pin::new(socket).poll_write(cx, bytes)
    }

    /// How much of `bytes` was taken. A write never waits: what the socket does not take is kept, and sent by whoever reads. Nor does
    /// it fail: an app that takes no more may have answered all the same.
    fn taken(&mut self, sent: &Poll<io::Result<usize>>, bytes: &[u8]) -> usize {
        match sent {
            Poll::Ready(Ok(sent)) => {
                // Whatever was kept went out before it.
                self.flow.iter().for_each(|flow| flow.catch_up());
                return *sent;
            }
            Poll::Ready(Err(_)) => self.stop_sending(),
            Poll::Pending => {
                self.held.extend_from_slice(bytes);
                self.flow.iter().for_each(|flow| flow.fall_behind());
            }
        }
        bytes.len()
    }

    /// Whether something that was written is still to be sent.
    fn has_pending(&self) -> bool {
        !self.held.is_empty() || self.socket.as_ref().is_some_and(Socket::has_pending)
    }

    fn stop_sending(&mut self) {
        self.state = State::Unheard;
        self.held.clear();
        self.flow.iter().for_each(|flow| flow.catch_up());
    }

    /// Goes on sending what a full socket left over; whoever reads must not wait for an answer to what was never sent.
    fn send_rest(&mut self, cx: &mut Context<'_>) {
        if self.holding || !self.has_pending() {
            return;
        }
        let before = self.held.len();
        let sent = self.poll_send(cx, &[]);
        let moved = before - self.held.len();
        if matches!(sent, Poll::Ready(Err(_))) {
            return self.stop_sending();
        }
        let Some(flow) = &self.flow else { return };
        flow.record_moved(moved);
        if sent.is_ready() {
            flow.catch_up();
        }
    }

    /// Sends nothing more where the request was given up. The server hears that nothing more comes, and may still answer.
    fn heed(&mut self, cx: &mut Context<'_>) {
        if self.state == State::InUse && self.flow.as_ref().is_some_and(|flow| flow.poll_given_up(cx)) {
            self.socket.iter_mut().for_each(Socket::half_close);
            self.stop_sending();
        }
    }
}

impl UpstreamStream {
    /// Reads no more than the session says.
    fn poll_judged(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = match &self.ahead {
            Some(ahead) => ready!(ahead.poll_room(cx, buf.remaining())),
            None => buf.remaining(),
        };
        let before = buf.filled().len();
        let read = if room < buf.remaining() {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
            let read = self.poll_response(cx, &mut part);
            let count = part.filled().len();
            buf.advance(count);
            read
        } else {
            self.poll_response(cx, buf)
        };
        if let Some(ahead) = &self.ahead {
            ahead.record_read(buf.filled().len() - before);
        }
        read
    }

    /// Reads what belongs to the response. Usually a head comes whole: it is judged where it lies.
    fn poll_response(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { socket: Some(socket), judge, kept, judged, .. } = self else { return Poll::Ready(Ok(())) };
        let Some(judge) = judge else { return Pin::new(socket).poll_read(cx, buf) };
        while judged.is_empty() {
            let before = buf.filled().len();
            let verdict = if kept.is_empty() {
                let read = ready!(Pin::new(&mut *socket).poll_read(cx, buf));
                if let Err(error) = read {
                    // Before a response begins, TLS that ends without a word is a connection that was closed while idle.
                    let is_end = error.kind() == io::ErrorKind::UnexpectedEof && !judge.has_begun();
                    return Poll::Ready(if is_end { Ok(()) } else { Err(error) });
                }
                let arrived = buf.filled().get(before..).unwrap_or_default();
                if arrived.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                let verdict = judge.judge(arrived).map_err(malformed)?;
                if let Verdict::Pass(passed) = verdict {
                    if let Some(rest) = arrived.get(passed..).filter(|rest| !rest.is_empty()) {
                        kept.extend_from_slice(rest);
                        buf.set_filled(before + passed);
                    }
                    return Poll::Ready(Ok(()));
                }
                kept.extend_from_slice(arrived);
                buf.set_filled(before);
                verdict
            } else if judge.is_done() {
                // What stands behind the response is nobody's.
                return Poll::Ready(Ok(()));
            } else {
                if ready!(poll_append(socket, cx, kept))? == 0 {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                judge.judge(kept).map_err(malformed)?
            };
            match verdict {
                Verdict::Wait => {}
                Verdict::Pass(passed) => *judged = kept.split_to(passed),
                Verdict::Switched(head, switched) => {
                    kept.advance(head);
                    self.switched = Some(switched);
                    self.upgrade.iter().for_each(|upgrade| upgrade.note());
                    return Poll::Ready(Err(io::Error::other("the connection was upgraded")));
                }
            }
        }
        let given = judged.len().min(buf.remaining());
        buf.put_slice(&judged.split_to(given));
        Poll::Ready(Ok(()))
    }

    /// Whether the response came to its end, and nothing stands behind it.
    fn is_clean(&self) -> bool {
        self.kept.is_empty() && self.judged.is_empty() && self.judge.as_ref().is_none_or(Judge::is_clean)
    }
}

/// Reads more of what has begun.
fn poll_append(socket: &mut Socket, cx: &mut Context<'_>, to: &mut BytesMut) -> Poll<io::Result<usize>> {
    let mut piece = [0; PIECE];
    let mut read = ReadBuf::new(&mut piece);
    ready!(Pin::new(socket).poll_read(cx, &mut read))?;
    to.extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}

fn malformed(malformed: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, malformed.0)
}

impl AsyncRead for UpstreamStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Pingora's question, see the head of this file; answered with "closed".
        if buf.capacity() == 1 {
            this.state = match this.state {
                State::InUse => State::Asked,
                State::Unheard => State::Ended,
                other => other,
            };
            return Poll::Ready(Ok(()));
        }
        this.use_on();
        this.heed(cx);
        this.send_rest(cx);
        let before = buf.filled().len();
        let result = ready!(this.poll_judged(cx, buf));
        if result.is_err() || buf.filled().len() == before {
            this.state = State::Over;
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.use_on();
        this.heed(cx);
        if this.state == State::Unheard {
            this.record_written(bytes.len());
            return Poll::Ready(Ok(bytes.len()));
        }
        if this.holds(bytes.len()) {
            this.hold(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        this.holding = false;
        let sent = this.poll_send(cx, bytes);
        let taken = this.taken(&sent, bytes);
        this.record_written(taken);
        Poll::Ready(Ok(taken))
    }

    /// The flush at the end of the head is the one that is not obeyed while a body is expected. It cannot leave
    /// anybody waiting: the body lies ready, and what follows it is another flush.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.head_written {
            this.head_written = true;
            if this.holding {
                return Poll::Ready(Ok(()));
            }
        }
        this.holding = false;
        let sent = this.poll_send(cx, &[]);
        this.taken(&sent, &[]);
        Poll::Ready(Ok(()))
    }

    /// Pingora calls this when an exchange is over whose connection is not to be kept, and drops it next (`v1/client.rs`, `reuse`).
    /// Closing is left to that. What is held is not sent any more: the exchange would hang on an app that reads no more.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.state != State::Over {
            this.state = State::Ended;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for UpstreamStream {
    fn drop(&mut self) {
        let has_pending = self.has_pending();
        let Some(socket) = self.socket.take() else { return };
        if let (Some(switched), Some(upgrade)) = (self.switched.take(), &self.upgrade) {
            let received = std::mem::take(&mut self.kept);
            return upgrade.fill(Upgraded { socket, received, fields: switched.fields });
        }
        match self.state {
            State::Asked if self.owed == 0 && !has_pending && self.is_clean() => {
                self.pool.put(socket, self.tls.take(), self.generation);
            }
            State::Asked | State::Ended => hang_on(socket, self.slot.take()),
            // The answer came before the request was sent to its end.
            State::InUse | State::Unheard if self.flow.as_ref().is_some_and(|flow| flow.is_given_up()) => {
                hang_on(socket, self.slot.take());
            }
            State::InUse | State::Unheard | State::Over => {}
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

impl VirtualSocket for UpstreamStream {
    /// Ours were set when the connection was made.
    fn set_socket_option(&self, _option: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
