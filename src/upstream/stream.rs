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
//! of which [`UpstreamStream::expect_body`] makes sure here too. A stream that is dropped without that question
//! closes its connection.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

use crate::upstream::endpoint::Lease;
use crate::upstream::pool::Pool;
use crate::upstream::socket::{Sight, Socket};

/// The most that is held back so that head and body go out together.
const HELD: usize = 16 * 1024;

/// One connection for one exchange.
#[derive(Debug)]
pub struct UpstreamStream {
    /// None only while it is being dropped.
    socket: Option<Socket>,
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
    /// Who wants to know of that.
    owed_to: Option<watch::Sender<u64>>,
    state: State,
    /// How long a server may take nothing of what is written, and the time that runs while it does.
    patience: Option<Duration>,
    stalled: Option<Pin<Box<Sleep>>>,
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
    /// The server took nothing for too long: what is written from now on goes nowhere, and its answer is still waited for.
    Unheard,
    /// The end of the stream or an error was met, or we were told to end it. It stays so.
    Over,
}

impl UpstreamStream {
    pub(super) fn new(socket: Socket, pool: Arc<Pool>, generation: u32, reused: bool) -> Self {
        Self {
            socket: Some(socket),
            pool,
            generation,
            reused,
            held: BytesMut::new(),
            holding: false,
            head_written: false,
            owed: 0,
            owed_to: None,
            state: State::InUse,
            patience: None,
            stalled: None,
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

    /// Sends no more of the request to a server that took nothing for `patience`. It hears that nothing more comes, so that it does
    /// not wait for the rest for ever, and may still answer. Pingora's own limit would go on waiting for the answer (pingora-proxy
    /// `proxy_h1.rs`, `proxy_handle_upstream`).
    pub fn give_up_after(&mut self, patience: Duration) {
        self.patience = Some(patience);
    }

    /// Says, before anything is written, that the whole body of the request lies ready and has `length` bytes as it
    /// goes over the wire. The head is then held back until the body, or as much of it as 16 KiB hold, can go out
    /// with it in one system call; and the connection is not kept unless that many bytes were written. Not for a body
    /// that is still on its way: the app would wait for the head as long as the client takes. Without this call
    /// everything is sent as it is written.
    ///
    /// A wrong length costs no more than the second system call: Pingora flushes once more at the end of each request
    /// (`v1/client.rs`, `finish_body`), and that flush sends whatever is held. Only a body shorter than its own
    /// Content-Length is not flushed, which is an error of ours: the app then never hears of the request.
    pub fn expect_body(&mut self, length: u64) {
        self.owed = length;
        self.holding = length > 0;
    }

    /// Bytes of the expected body that are still to be taken; none when nothing more will be.
    pub fn watch_owed(&mut self) -> watch::Receiver<u64> {
        let (sender, receiver) = watch::channel(self.owed);
        self.owed_to = Some(sender);
        receiver
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
            self.tell_owed(self.owed);
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
        if bytes.is_empty() { Poll::Ready(Ok(0)) } else { Pin::new(socket).poll_write(cx, bytes) }
    }

    fn tell_owed(&self, owed: u64) {
        if let Some(sender) = &self.owed_to {
            sender.send_replace(owed);
        }
    }

    /// What came of a write of `len` bytes, or of giving it up.
    fn bounded(&mut self, cx: &mut Context<'_>, sent: Poll<io::Result<usize>>, len: usize) -> Poll<io::Result<usize>> {
        let Some(patience) = self.patience.filter(|_| sent.is_pending()) else {
            self.stalled = None;
            if matches!(sent, Poll::Ready(Err(_))) {
                // Pingora writes no more, and goes on reading the answer.
                self.tell_owed(0);
            }
            return sent;
        };
        ready!(self.stalled.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(cx));
        self.state = State::Unheard;
        self.held.clear();
        if let Some(socket) = &self.socket {
            socket.half_close();
        }
        Poll::Ready(Ok(len))
    }

    /// Goes on sending what a full socket left over; whoever reads must not wait for an answer to what was never sent.
    fn send_rest(&mut self, cx: &mut Context<'_>) {
        if self.holding || self.held.is_empty() {
            return;
        }
        if let Poll::Ready(Err(_)) = self.poll_send(cx, &[]) {
            // An app that will not take the rest may have answered all the same: the answer is still read.
            self.held.clear();
            self.state = State::Over;
        }
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Pingora's question, see the head of this file; answered with "closed".
        if buf.capacity() == 1 {
            if this.state == State::InUse {
                this.state = State::Asked;
            }
            return Poll::Ready(Ok(()));
        }
        this.use_on();
        this.send_rest(cx);
        let Some(socket) = this.socket.as_mut() else { return Poll::Ready(Ok(())) };
        let before = buf.filled().len();
        let result = ready!(Pin::new(socket).poll_read(cx, buf));
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
        let sent = ready!(this.bounded(cx, sent, bytes.len()))?;
        this.record_written(sent);
        Poll::Ready(Ok(sent))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.use_on();
        let len = bufs.iter().map(|buf| buf.len()).sum();
        if this.state == State::Unheard {
            this.record_written(len);
            return Poll::Ready(Ok(len));
        }
        if this.holds(len) {
            for buf in bufs {
                this.hold(buf);
            }
            return Poll::Ready(Ok(len));
        }
        this.holding = false;
        let sent = match this.socket.as_mut() {
            Some(socket) if this.held.is_empty() => Pin::new(socket).poll_write_vectored(cx, bufs),
            _ => {
                let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
                this.poll_send(cx, first)
            }
        };
        let sent = ready!(this.bounded(cx, sent, len))?;
        this.record_written(sent);
        Poll::Ready(Ok(sent))
    }

    fn is_write_vectored(&self) -> bool {
        true
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
        this.bounded(cx, sent, 0).map_ok(|_| ())
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
        let Some(socket) = self.socket.take() else { return };
        match self.state {
            State::Asked if self.owed == 0 && self.held.is_empty() => self.pool.put(socket, self.generation),
            State::Ended => hang_on(socket, self.slot.take()),
            _ => {}
        }
    }
}

/// Says that nothing more comes, and closes the connection, and frees the slot, when the server has hung up: one that waits for our
/// end before it does is not waited for in turn.
fn hang_on(socket: Socket, slot: Option<(Lease, Duration)>) {
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
