//! The HTTP/1.1 session that Pingora proxies for: our reading of the body, our writing of the response.
//!
//! It implements Pingora's custom session trait (pingora-core `protocols/http/custom/server.rs`; hidden from its docs, hence
//! the exact version pin and the ADR). The connection is given back to its driver in [`Session::finish`]; whoever drops the
//! session before has closed the connection.

mod engine;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, StatusCode, Version, header};
use parking_lot::Mutex;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::Instant;

use crate::config::model::{ClientLimits, MIN_RATE_GRACE};
use crate::edge::alarm::NEVER;
use crate::edge::body::{BodyReader, Step};
use crate::edge::connection::Connection;
use crate::edge::exchange::{Accepted, Exchange};
use crate::edge::response_writer::{Framing, Persistence, put_chunk_size, write_head};
use crate::edge::transport::Patience;
use crate::proxy::rejection::Reason;

/// Pipelined bytes taken from the socket while a response is on its way; more waits in the kernel.
const PIPELINED_MAX: usize = 16 * 1024;
/// Body chunks up to this size are copied beside the head, so that a small answer is one plain write.
const COPY_MAX: usize = 4 * 1024;
/// What is read at once of a body.
const BODY_READ: usize = 32 * 1024;
/// Of a body that the app did not want: read on so far to keep the connection, and so long.
const DRAIN_MAX: u64 = 256 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Where a session leaves the connection for its driver.
#[derive(Debug, Default)]
pub struct GiveBack(Mutex<Option<Returned>>);

/// A connection whose response was written whole.
#[derive(Debug)]
pub enum Returned {
    /// The next request may be read.
    Reuse(Box<Connection>),
    /// To be closed, once the client had its chance to read: there may be bytes of its that nobody read, and closing on
    /// them would reset the connection under the response (RFC 9112 section 9.6).
    Linger(Box<Connection>),
}

impl GiveBack {
    /// What came back; none when the session closed the connection.
    #[must_use]
    pub fn take(&self) -> Option<Returned> {
        self.0.lock().take()
    }
}

/// One request of an HTTP/1.x client.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // Independent facts, each read in one place.
pub struct Session {
    /// None once given back.
    connection: Option<Box<Connection>>,
    give_back: Arc<GiveBack>,
    exchange: Arc<Exchange>,
    request: RequestHeader,
    method: Method,
    version: Version,
    body: BodyReader,
    /// Since when the client's body, and the app, are waited for. They outlive the single wait: Pingora begins a new one at every
    /// turn of its loop.
    body_wait: Option<Instant>,
    app_wait: Option<Instant>,
    /// How long the body was waited for before.
    body_waited: Duration,
    expects_continue: bool,
    keep_alive: bool,
    response: Option<Box<ResponseHeader>>,
    framing: Framing,
    /// The response was written to its end, into `out` at least.
    ended: bool,
    /// What is to be written next.
    out: BytesMut,
    patience: WritePatience,
    /// The client left, and the exchange goes on without it.
    discarding: bool,
}

impl Session {
    /// The session of an accepted request.
    #[must_use]
    pub fn new(
        connection: Box<Connection>,
        give_back: Arc<GiveBack>,
        exchange: Arc<Exchange>,
        accepted: Accepted,
    ) -> Self {
        let Accepted { request, body, keep_alive, expects_continue } = accepted;
        Self {
            connection: Some(connection),
            give_back,
            patience: WritePatience::new(exchange.client()),
            exchange,
            method: request.method.clone(),
            version: request.version,
            request,
            body,
            body_wait: None,
            app_wait: None,
            body_waited: Duration::ZERO,
            expects_continue,
            keep_alive,
            response: None,
            framing: Framing::None,
            ended: false,
            out: BytesMut::new(),
            discarding: false,
        }
    }

    fn fail<T>(&self, reason: Reason, kind: ErrorType, context: &'static str) -> Result<T> {
        self.exchange.outcome.set_fault(reason);
        Error::e_explain(kind, context)
    }

    /// The next piece of the body. Cancel safe.
    async fn next_body(&mut self) -> Result<Option<Bytes>> {
        self.write_continue().await?;
        loop {
            let Some(connection) = self.connection.as_mut() else {
                return self.fail(Reason::Internal, ErrorType::InternalError, "body read after the end of the session");
            };
            match self.body.step(&mut connection.buf) {
                Ok(Step::Data(data)) => {
                    self.exchange.outcome.count_body(data.len());
                    if self.exchange.outcome.body_bytes() > self.exchange.control.max_body() {
                        return self.fail(Reason::BodyTooLarge, ErrorType::ReadError, "request body too large");
                    }
                    return Ok(Some(data));
                }
                Ok(Step::End) => return Ok(None),
                Ok(Step::NeedMore) => self.read_more_body().await?,
                Err(malformed) => return self.fail(Reason::BadBody, ErrorType::ReadError, malformed.0),
            }
        }
    }

    async fn read_more_body(&mut self) -> Result<()> {
        let Some(connection) = self.connection.as_mut() else { return Ok(()) };
        let client = self.exchange.client();
        let received = self.exchange.outcome.body_bytes();
        let since = *self.body_wait.get_or_insert_with(Instant::now);
        // Only the time in which the client is waited for counts: an app that reads slowly is not its fault.
        let slowest = slowest(received, client.body_min_rate).saturating_sub(self.body_waited);
        connection.buf.reserve(BODY_READ);
        match connection.read(since + client.body_idle_timeout.min(slowest)).await {
            Some(Ok(1..)) => {
                self.body_waited += since.elapsed();
                self.body_wait = None;
                Ok(())
            }
            Some(_) => {
                self.exchange.outcome.mark_client_gone();
                self.fail(Reason::ClientClosed, ErrorType::ConnectionClosed, "client left while sending its body")
            }
            None => self.fail(Reason::BodyTimeout, ErrorType::ReadTimedout, "request body too slow"),
        }
    }

    /// Tells a client that waits for it to send its body; the checks are done by then.
    async fn write_continue(&mut self) -> Result<()> {
        if self.expects_continue && self.response.is_none() {
            self.expects_continue = false;
            self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            return self.flush(&[]).await;
        }
        Ok(())
    }

    /// Waits for what ends an exchange from outside: the client leaves, or the app's time is up. Cancel safe.
    async fn idle(&mut self) -> Result<Option<Bytes>> {
        let patience = self.exchange.control.upstream_patience(self.response.is_some());
        let deadline = *self.app_wait.get_or_insert_with(Instant::now) + patience.min(NEVER);
        loop {
            let Some(connection) = self.connection.as_mut() else { return pending().await };
            let Connection { transport, buf, alarm } = &mut **connection;
            let watched = !self.discarding && buf.len() < PIPELINED_MAX;
            let client_moves = async {
                if !watched {
                    pending::<()>().await;
                }
                // Readiness first: no buffer is needed for a client that just waits.
                transport.readable().await?;
                transport.read_into(buf).await
            };
            match alarm.before(deadline, client_moves).await {
                // The next request, ahead of its time.
                Some(Ok(1..)) => {}
                Some(_) => self.client_left()?,
                None => return self.fail(Reason::UpstreamTimeout, ErrorType::ReadTimedout, "the app took too long"),
            }
        }
    }

    /// The client is gone. Ok when the exchange goes on without it.
    fn client_left(&mut self) -> Result<()> {
        self.exchange.outcome.mark_client_gone();
        if self.exchange.control.finishes_without_client() && self.body.is_done() {
            self.discarding = true;
            self.out.clear();
            return Ok(());
        }
        self.fail(Reason::ClientClosed, ErrorType::ConnectionClosed, "the client left")
    }

    fn take_header(&mut self, mut response: Box<ResponseHeader>) -> Result<()> {
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            // No request of ours asks for it, and nothing that could be answered follows.
            return self.fail(Reason::UpstreamInvalid, ErrorType::InvalidHTTPHeader, "101 that nobody asked for");
        }
        if response.status.is_informational() {
            // Expect was answered by us; early hints are for HTTP/2 clients. The answer is still waited for.
            return Ok(());
        }
        self.app_wait = None;
        say_length_once(&mut response);
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
        write_head(&mut self.out, &response, framing, persistence);
        self.framing = framing;
        self.response = Some(response);
        Ok(())
    }

    /// Whether nobody wanted the body, and more of it is to come than is read to keep the connection.
    fn leaves_large_body(&self) -> bool {
        matches!(self.body, BodyReader::Length(left) if left > DRAIN_MAX) && !self.exchange.outcome.body_touched()
    }

    async fn take_body(&mut self, data: &[u8]) -> Result<()> {
        self.app_wait = None;
        if data.is_empty() || self.framing == Framing::None {
            return Ok(());
        }
        match &mut self.framing {
            Framing::Length(left) => match left.checked_sub(data.len() as u64) {
                Some(rest) => *left = rest,
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
        if data.len() <= COPY_MAX {
            self.out.extend_from_slice(data);
        } else {
            self.flush(data).await?;
        }
        if self.framing == Framing::Chunked {
            self.out.extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    fn take_end(&mut self) -> Result<()> {
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
        self.ended = true;
        Ok(())
    }

    /// Writes what is pending, and `data` after it.
    async fn flush(&mut self, data: &[u8]) -> Result<()> {
        if self.discarding {
            self.out.clear();
            return Ok(());
        }
        if self.out.is_empty() && data.is_empty() {
            return Ok(());
        }
        let Some(connection) = self.connection.as_mut() else { return Ok(()) };
        let written = connection.transport.write_both(&self.out, data, &mut self.patience).await;
        self.out.clear();
        if written.is_err() {
            if self.framing == Framing::UntilClose {
                // However the exchange goes on, this body must not end like a whole one.
                connection.transport.reset_on_close();
            }
            return self.client_left();
        }
        if let Some(response) = &self.response {
            self.exchange.outcome.mark_answered(response.status.as_u16());
        }
        Ok(())
    }

    /// Hands the connection back, if the response reached its end.
    async fn release(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if self.discarding || !self.ended || self.exchange.outcome.client_gone() {
            return;
        }
        let whole = self.body.is_done() || (self.keep_alive && self.drain(&mut connection).await);
        let returned = if self.keep_alive && whole {
            Returned::Reuse(connection)
        } else if whole && connection.buf.is_empty() && self.exchange.refusal.is_none() {
            return;
        } else {
            Returned::Linger(connection)
        };
        *self.give_back.0.lock() = Some(returned);
    }

    /// Reads the rest of a body that nobody wants, if it is small.
    async fn drain(&mut self, connection: &mut Connection) -> bool {
        let body = &mut self.body;
        let read = async {
            let mut drained = 0_u64;
            while drained <= DRAIN_MAX {
                match body.step(&mut connection.buf) {
                    Ok(Step::Data(data)) => drained += data.len() as u64,
                    Ok(Step::End) => return true,
                    Ok(Step::NeedMore) => {
                        connection.buf.reserve(BODY_READ);
                        if !matches!(connection.transport.read_into(&mut connection.buf).await, Ok(1..)) {
                            return false;
                        }
                    }
                    Err(_) => return false,
                }
            }
            false
        };
        tokio::time::timeout(DRAIN_TIME, read).await.unwrap_or(false)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Where the close is the end of the body, a clean close would make a torn body look whole.
        if let Some(connection) = self.connection.as_ref()
            && self.framing == Framing::UntilClose
            && !self.ended
        {
            connection.transport.reset_on_close();
        }
    }
}

/// An app may repeat its Content-Length; Pingora has checked that it says the same each time (RFC 9110 section 8.6).
fn say_length_once(response: &mut ResponseHeader) {
    let mut all = response.headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = all.next().map(HeaderValue::as_bytes) else { return };
    if all.next().is_none() && !first.contains(&b',') {
        return;
    }
    let once = first.split(|b| *b == b',').next().unwrap_or_default().trim_ascii();
    if let Ok(once) = HeaderValue::from_bytes(once) {
        // Cannot fail for a name and a value that are valid already.
        let _ = response.insert_header(header::CONTENT_LENGTH, once);
    }
}

/// How long `bytes` may have taken at the slowest rate allowed.
fn slowest(bytes: u64, rate: u64) -> Duration {
    if rate == 0 {
        return Duration::from_secs(u64::from(u32::MAX));
    }
    MIN_RATE_GRACE.max(Duration::from_secs(bytes / rate))
}

/// The waits for a client that reads slowly: each bounded, and all together by a minimum rate. Time in which the app had
/// nothing to send does not count.
#[derive(Debug)]
struct WritePatience {
    idle: Duration,
    rate: u64,
    waited: Duration,
    written: u64,
}

impl WritePatience {
    fn new(limits: &ClientLimits) -> Self {
        Self { idle: limits.write_idle_timeout, rate: limits.write_min_rate, waited: Duration::ZERO, written: 0 }
    }
}

impl Patience for WritePatience {
    fn wait(&self) -> Duration {
        self.idle.min(slowest(self.written, self.rate).saturating_sub(self.waited))
    }

    fn waited(&mut self, time: Duration) {
        self.waited += time;
    }

    fn progress(&mut self, bytes: usize) {
        self.written += bytes as u64;
    }
}
