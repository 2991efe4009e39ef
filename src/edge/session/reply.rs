//! The response on its way to the client: framed, written as far as the client takes it, the rest kept in the backlog.
//!
//! What has come from the app is sent on at once. Where the client is slower than the app, the backlog takes the difference, so
//! that the app is free as soon as it has answered: in memory, then in a file, and where neither is allowed the app waits.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, Version};
use pingora_error::{ErrorType, Result};
use tokio::time::Instant;

use crate::cache::tap::Passed;
use crate::config::model::{ClientLimits, MIN_RATE_GRACE};
use crate::edge::alarm::{NEVER, deadline_in};
use crate::edge::exchange::Exchange;
use crate::edge::response_writer::{Framing, Persistence, write_head};
use crate::edge::session::wait::{AHEAD_READ, Event};
use crate::edge::session::wire::{Http1, Wire};
use crate::edge::session::{DRAIN_MAX, Session};
use crate::edge::transport::poll_once;
use crate::framing::put_chunk_size;
use crate::message::ResponseHead;
use crate::proxy::rejection::Reason;
use crate::spool::{Full, Keep, Spooled};

/// Body chunks up to this size are copied beside the head, so that a small answer is one plain write.
const COPY_MAX: usize = 4 * 1024;

/// What a head has in bytes, about.
const HEAD_ROOM: usize = 768;

/// What is read of an app at once: few system calls, and of a share of memory a part.
const READ_LEAST: usize = 4 * 1024;
const READ_MOST: usize = 128 * 1024;
const READ_PART: usize = 4;

/// How often the task of an HTTP/2 connection gets to send before the backlog takes the rest: enough for all that is read ahead.
const TURNS: usize = 8;

impl Session {
    /// How much of the response is to be read at once, in bytes.
    #[must_use]
    pub fn read_at_once(&self) -> usize {
        (self.wire.memory_share() / READ_PART).clamp(READ_LEAST, READ_MOST)
    }

    /// Takes the head of the answer in; it is written with what follows.
    ///
    /// # Errors
    /// The app's head cannot be passed on.
    pub fn take_header(&mut self, mut response: Box<ResponseHead>) -> Result<()> {
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            // No request of ours asks for it, and nothing that could be answered follows.
            return self.fail(Reason::UpstreamInvalid, ErrorType::InvalidHTTPHeader, "101 that nobody asked for");
        }
        if response.status.is_informational() {
            // Expect was answered by us, and early hints are not passed on. The answer is still waited for.
            return Ok(());
        }
        self.record_heard();
        if self.discarding && !self.exchange.control.finishes_without_client() {
            return self.fail(Reason::ClientClosed, ErrorType::ReadTimedout, "nobody waits for the answer");
        }
        match self.tap.as_ref().map_or(Passed::All, |tap| tap.passed()) {
            Passed::All => {}
            Passed::NotModified => (response.status, response.reason) = (StatusCode::NOT_MODIFIED, None),
            Passed::Nothing => return Ok(()),
        }
        let Some(framing) = Framing::of(&response, &self.method, self.version) else {
            return self.fail(
                Reason::UpstreamInvalid,
                ErrorType::InvalidHTTPHeader,
                "invalid Content-Length in response",
            );
        };
        // A client that still waits for 100 may send its body or not: what follows would have two readings.
        self.keep_alive &= framing != Framing::UntilClose
            && !self.expects_continue
            && !self.leaves_large_body()
            && !self.exchange.control.closes_connection()
            && !self.exchange.client().keepalive_timeout.is_zero()
            && !self.exchange.snapshot.shared.is_draining();
        let persistence = match (self.keep_alive, self.version) {
            (false, _) => Persistence::Close,
            (true, Version::HTTP_10) => Persistence::KeepSaid,
            (true, _) => Persistence::Keep,
        };
        self.framing = framing;
        if matches!(framing, Framing::None | Framing::Length(0)) {
            self.exchange.control.uncount();
        }
        match &mut self.wire {
            Wire::Http1(Http1 { connection, .. }) => {
                // A small body goes out with the head.
                let small = usize::try_from(framing.length()).ok().filter(|length| *length <= COPY_MAX);
                self.out.reserve(HEAD_ROOM + small.unwrap_or_default());
                write_head(&mut self.out, &response, framing, persistence);
                if framing == Framing::UntilClose {
                    // Where the close is the end of the body, a clean one would make a torn body look whole, whoever drops the
                    // connection.
                    connection.transport.reset_on_close(true);
                }
                self.response = Some(response);
            }
            Wire::Http2(stream) => {
                self.response = Some(Box::new(ResponseHead::new(response.status, 0)));
                stream.take_head(*response);
            }
            Wire::Nobody => self.response = Some(response),
        }
        Ok(())
    }

    /// Takes in the head by which the app agrees to a WebSocket; what follows is [`Session::tunnel`]'s.
    pub fn take_switch(&mut self, response: Box<ResponseHead>) {
        write_head(&mut self.out, &response, Framing::None, Persistence::Upgrade);
        self.framing = Framing::None;
        self.keep_alive = false;
        self.response = Some(response);
    }

    /// The app said something: its time begins anew, for what it says and for what it takes.
    fn record_heard(&mut self) {
        self.app_wait = None;
    }

    /// Whether all the time is over in which the app may send what nobody is given: as long as it may pause otherwise. One that
    /// always has more to say would keep its worker for ever.
    fn is_unwanted_for_long(&mut self) -> bool {
        if self.tap.as_ref().is_some_and(|tap| tap.records()) {
            self.unwanted_since = None;
            return false;
        }
        self.unwanted_since.get_or_insert_with(Instant::now).elapsed() > self.exchange.control.upstream_patience(true)
    }

    /// Whether nobody wanted the body, and more of it is to come than is read to keep the connection.
    fn leaves_large_body(&self) -> bool {
        self.wire.announced().is_some_and(|left| left > DRAIN_MAX) && !self.exchange.outcome.body_touched()
    }

    /// Takes a piece of the body in and sends it on.
    ///
    /// # Errors
    /// The app sends more than it announced; the client is gone, and the app goes on for too long.
    pub async fn take_body(&mut self, data: Bytes) -> Result<()> {
        self.record_heard();
        self.tap.iter().for_each(|tap| tap.push(&data));
        let is_withheld = self.tap.as_ref().is_some_and(|tap| tap.passed() == Passed::Nothing);
        if (self.discarding || is_withheld) && self.is_unwanted_for_long() {
            let reason = if self.discarding { Reason::ClientClosed } else { Reason::UpstreamTimeout };
            return self.fail(reason, ErrorType::ReadTimedout, "nobody is given the rest of the answer");
        }
        if data.is_empty() || self.framing == Framing::None {
            return Ok(());
        }
        match &mut self.framing {
            Framing::Length(left) => match left.checked_sub(data.len() as u64) {
                Some(rest) => {
                    *left = rest;
                    if rest == 0 {
                        self.exchange.control.uncount();
                    }
                }
                None => {
                    return self.fail(
                        Reason::UpstreamInvalid,
                        ErrorType::InvalidHTTPHeader,
                        "more body than Content-Length",
                    );
                }
            },
            Framing::Chunked => put_chunk_size(&mut self.out, data.len()),
            Framing::UntilClose | Framing::None => {}
        }
        if !self.discarding {
            self.exchange.outcome.count_sent(data.len());
        }
        if data.len() <= COPY_MAX && self.is_drained() {
            self.out.extend_from_slice(&data);
        } else {
            self.flush(data).await?;
        }
        if self.framing == Framing::Chunked {
            self.out.extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    /// The response is whole.
    ///
    /// # Errors
    /// It is not: the app announced more.
    pub fn take_end(&mut self) -> Result<()> {
        if self.ended || self.response.is_none() {
            return Ok(());
        }
        match self.framing {
            Framing::Length(1..) => {
                return self.fail(Reason::UpstreamClosed, ErrorType::ConnectionClosed, "less body than Content-Length");
            }
            Framing::Chunked => self.out.extend_from_slice(b"0\r\n\r\n"),
            _ => {}
        }
        self.exchange.control.uncount();
        self.ended = true;
        self.tap.iter().for_each(|tap| tap.end());
        Ok(())
    }

    /// Sends what is pending, and `data` after it: to the client as far as it takes it, the rest to the backlog.
    ///
    /// # Errors
    /// The client is gone, and the exchange does not go on without it.
    pub async fn flush(&mut self, mut data: Bytes) -> Result<()> {
        if self.discarding {
            self.out.clear();
            return Ok(());
        }
        if self.out.is_empty() && data.is_empty() && !self.wire.owes(self.ended) {
            return Ok(());
        }
        if self.is_drained() && self.write_promptly(&mut data).await.is_err() {
            return self.client_left();
        }
        self.mark_answered();
        while !(self.discarding || self.out.is_empty() && data.is_empty()) {
            if !self.keep_back(&mut data).await {
                self.make_room(&mut data).await?;
            }
        }
        Ok(())
    }

    /// Writes what the client takes. In HTTP/2 the connection's task has its turns in between: what the library has taken for it
    /// is all that can be given until then. A few turns, or a client that makes room byte by byte would hold up the app.
    async fn write_promptly(&mut self, data: &mut Bytes) -> io::Result<()> {
        for _ in 0..TURNS {
            let before = self.out.len() + data.len();
            self.write_now(data).await?;
            let left = self.out.len() + data.len();
            if left == 0 || left == before || matches!(self.wire, Wire::Http1(_)) {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Writes without waiting.
    async fn write_now(&mut self, data: &mut Bytes) -> io::Result<()> {
        let Self { wire, out, patience, ended, .. } = self;
        while !(out.is_empty() && data.is_empty()) || wire.owes(*ended) {
            match poll_once(poll_fn(|cx| wire.poll_send(cx, out, data, *ended))).await {
                Poll::Pending => return Ok(()),
                Poll::Ready(written) => patience.progress(written?),
            }
        }
        out.clear();
        Ok(())
    }

    /// Puts what is pending into the backlog; false when there is no room for all of it, or none is to be kept back.
    async fn keep_back(&mut self, data: &mut Bytes) -> bool {
        if !self.exchange.control.spools_response() {
            return false;
        }
        let backlog = self.backlog.get_or_insert_with(|| Box::new(Backlog::of(&self.exchange, &self.wire)));
        // What is refused stays where it is, in its order.
        let mut kept = Ok(());
        if !self.out.is_empty() {
            // A copy: whoever is not waited for to the end must not have lost it.
            kept = backlog.spooled.push(Bytes::copy_from_slice(&self.out)).await;
            if kept.is_ok() {
                self.out.clear();
            }
        }
        if kept.is_ok() && !data.is_empty() {
            kept = backlog.spooled.push(data.clone()).await;
            if kept.is_ok() {
                data.clear();
            }
        }
        if let Err(Full::Io(error)) = &kept
            && !std::mem::replace(&mut backlog.lamented, true)
        {
            tracing::error!(%error, "the spool cannot take a response: the app waits for the client");
        }
        kept.is_ok()
    }

    /// Waits until the client took something: the app's turn to be held up.
    async fn make_room(&mut self, data: &mut Bytes) -> Result<()> {
        if self.is_drained() {
            let piece = if self.out.is_empty() { std::mem::take(data) } else { self.out.split().freeze() };
            self.backlog.get_or_insert_with(|| Box::new(Backlog::of(&self.exchange, &self.wire))).piece = piece;
        }
        self.write_backlog().await
    }

    /// Waits for one write of the backlog.
    async fn write_backlog(&mut self) -> Result<()> {
        let far = deadline_in(NEVER);
        loop {
            match self.event(far, AHEAD_READ, false).await {
                Event::Took => return Ok(()),
                // The next request, ahead of its time.
                Event::Sent | Event::Late => {}
                Event::Left => return self.client_left(),
                Event::Stalled => return self.client_stalled(),
                Event::Lost => return self.backlog_lost(),
            }
        }
    }

    /// Writes all that the client has not taken yet; the app has nothing to do with it any more.
    ///
    /// # Errors
    /// The client left or takes nothing; the answer is torn.
    pub async fn drain(&mut self) -> Result<()> {
        if !self.is_sent() {
            // Few come this way, so they alone make room for it.
            Box::pin(self.write_all()).await?;
        }
        self.backlog = None;
        Ok(())
    }

    async fn write_all(&mut self) -> Result<()> {
        while !self.is_sent() {
            self.write_backlog().await?;
        }
        Ok(())
    }

    /// Whether the client was given all that was written.
    fn is_drained(&self) -> bool {
        self.backlog.as_ref().is_none_or(|backlog| backlog.is_empty())
    }

    /// Whether the socket was, too; who cannot be written to is owed nothing.
    fn is_sent(&self) -> bool {
        self.discarding || (self.is_drained() && !self.wire.has_pending() && !self.wire.owes(self.ended))
    }

    fn mark_answered(&self) {
        if let Some(response) = &self.response {
            self.exchange.outcome.mark_answered(response.status.as_u16());
        }
    }

    /// The client is gone. Ok when the exchange goes on without it.
    pub(super) fn client_left(&mut self) -> Result<()> {
        self.exchange.outcome.mark_client_gone();
        self.stop_writing();
        if self.exchange.control.finishes_without_client() && self.wire.is_received() {
            self.discarding = true;
            return Ok(());
        }
        self.fail(Reason::ClientClosed, ErrorType::ConnectionClosed, "the client left")
    }

    /// The client takes nothing. Ok when the exchange goes on without it.
    pub(super) fn client_stalled(&mut self) -> Result<()> {
        self.exchange.outcome.set_fault(Reason::WriteTimeout);
        self.client_left()
    }

    pub(super) fn backlog_lost(&mut self) -> Result<()> {
        self.exchange.outcome.set_fault(Reason::SpoolFailed);
        self.client_left()
    }

    /// What was not taken was not sent.
    fn stop_writing(&mut self) {
        if let Some(backlog) = self.backlog.take() {
            self.exchange.outcome.uncount_sent(backlog.unread());
        }
        self.out.clear();
    }
}

/// What a client is too slow to take.
#[derive(Debug)]
pub(super) struct Backlog {
    spooled: Spooled,
    /// Out of the spool, and next to be written.
    piece: Bytes,
    /// That the spool failed was logged.
    lamented: bool,
}

impl Backlog {
    fn of(exchange: &Exchange, wire: &Wire) -> Self {
        let spooled = Spooled::within(&exchange.snapshot.shared.depot, Keep::Once, wire.memory_share());
        Self { spooled, piece: Bytes::new(), lamented: false }
    }

    /// Fetches the next piece where none is at hand; whether there is one. Cancel safe.
    pub(super) async fn fill(&mut self) -> io::Result<bool> {
        if self.piece.is_empty()
            && let Some(piece) = self.spooled.next().await?
        {
            self.piece = piece;
        }
        Ok(!self.piece.is_empty())
    }

    /// Whether there is something at hand to be written.
    pub(super) fn has_piece(&self) -> bool {
        !self.piece.is_empty()
    }

    /// What is to be written next; whoever writes takes it off.
    pub(super) fn piece(&mut self) -> &mut Bytes {
        &mut self.piece
    }

    /// Whether nothing comes after the piece at hand.
    pub(super) fn is_last(&self) -> bool {
        self.spooled.unread() == 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.piece.is_empty() && self.spooled.unread() == 0
    }

    fn unread(&self) -> u64 {
        self.piece.len() as u64 + self.spooled.unread()
    }
}

/// How long `bytes` may have taken at the slowest rate allowed.
pub(super) fn slowest(bytes: u64, rate: u64) -> Duration {
    if rate == 0 {
        return Duration::from_secs(u64::from(u32::MAX));
    }
    MIN_RATE_GRACE.max(Duration::from_secs(bytes / rate))
}

/// The waits for a client that reads slowly: each bounded, and all together by a minimum rate. Time in which there was nothing
/// to send does not count.
#[derive(Debug)]
pub(super) struct WritePatience {
    idle: Duration,
    rate: u64,
    waited: Duration,
    written: u64,
    /// When the wait of the moment began; it may go on through several calls.
    since: Option<Instant>,
}

impl WritePatience {
    pub(super) fn new(limits: &ClientLimits) -> Self {
        Self {
            idle: limits.write_idle_timeout,
            rate: limits.write_min_rate,
            waited: Duration::ZERO,
            written: 0,
            since: None,
        }
    }

    /// When the client has had its time.
    pub(super) fn deadline(&mut self) -> Instant {
        let left = self.idle.min(slowest(self.written, self.rate).saturating_sub(self.waited));
        *self.since.get_or_insert_with(Instant::now) + left.min(NEVER)
    }

    pub(super) fn progress(&mut self, bytes: usize) {
        self.written += bytes as u64;
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
    }
}
