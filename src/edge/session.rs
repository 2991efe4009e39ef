//! One request of a client, from its head to the last byte of the answer.
//!
//! The connection's driver owns it, and the steps in `proxy` use it: the request body is received, the queue is waited in, the
//! app's answer is passed on, and what the client has not taken of it is written, all at the cost of this struct alone.
//!
//! `body` receives, `reply` writes, `wait` is what both wait by; `wire` is the client's end, HTTP/1.x or HTTP/2.

mod body;
mod reply;
mod tunnel;
mod wait;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::{Method, StatusCode, Version};
use pingora_error::{Error, ErrorType, Result};
use tokio::time::Instant;

use crate::cache::tap::Tap;
use crate::edge::alarm::Alarm;
use crate::edge::connection::Connection;
use crate::edge::exchange::{Accepted, Exchange};
use crate::edge::http2::stream::Stream;
use crate::edge::response_writer::Framing;
use crate::edge::session::reply::{Backlog, WritePatience};
use crate::edge::session::wire::{Http1, Wire};
use crate::framing::{BodyReader, Step};
use crate::message::{RequestHead, ResponseHead};
use crate::proxy::rejection::Reason;
use crate::spool::Spooled;

/// What is read at once of a body.
const BODY_READ: usize = 32 * 1024;
/// Of a body that the app did not want: read on so far to keep the connection, and so long.
const DRAIN_MAX: u64 = 256 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// A connection whose response was written whole.
#[derive(Debug)]
pub enum Returned {
    /// The next request may be read.
    Reuse(Box<Connection>),
    /// To be closed, once the client had its chance to read: there may be bytes of its that nobody read, and closing on
    /// them would reset the connection under the response (RFC 9112 section 9.6).
    Linger(Box<Connection>),
}

/// One request of a client.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // Independent facts, each read in one place.
pub struct Session {
    wire: Wire,
    /// The timer of the connection, for as long as the session has it.
    alarm: Alarm,
    exchange: Arc<Exchange>,
    request: RequestHead,
    method: Method,
    version: Version,
    /// The body as it goes to the app, once it was received whole.
    spooled: Option<Box<Spooled>>,
    /// Since when the client's body, and the app, are waited for. They outlive the single wait: an exchange begins a new one at every
    /// turn.
    body_wait: Option<Instant>,
    app_wait: Option<Instant>,
    /// How long the body was waited for before.
    body_waited: Duration,
    expects_continue: bool,
    keep_alive: bool,
    response: Option<Box<ResponseHead>>,
    framing: Framing,
    /// The response came to its end, if only into the backlog.
    ended: bool,
    /// What is to be written next.
    out: BytesMut,
    /// What the client was too slow to take.
    backlog: Option<Box<Backlog>>,
    patience: WritePatience,
    /// The client cannot be written to any more, and the exchange goes on without it.
    discarding: bool,
    /// Since when the app sends what nobody is given.
    unwanted_since: Option<Instant>,
    /// The app had its time.
    app_late: bool,
    /// Where the cache has a part in it.
    tap: Option<Arc<Tap>>,
}

impl Session {
    /// The session of a request that came over HTTP/1.x.
    #[must_use]
    pub fn new(mut connection: Box<Connection>, exchange: Arc<Exchange>, accepted: Accepted) -> Self {
        let alarm = std::mem::take(&mut connection.alarm);
        let body = accepted.body.clone();
        Self::over(Wire::Http1(Http1 { connection, body }), alarm, exchange, accepted)
    }

    /// The session of a request that came over HTTP/2.
    #[must_use]
    pub fn on_stream(stream: Stream, exchange: Arc<Exchange>, accepted: Accepted) -> Self {
        Self::over(Wire::Http2(Box::new(stream)), Alarm::default(), exchange, accepted)
    }

    /// The session of a request that the gateway makes for itself: nobody is answered.
    #[must_use]
    pub fn for_nobody(exchange: Arc<Exchange>, accepted: Accepted) -> Self {
        let discarding = true;
        Self { discarding, ..Self::over(Wire::Nobody, Alarm::default(), exchange, accepted) }
    }

    fn over(wire: Wire, alarm: Alarm, exchange: Arc<Exchange>, accepted: Accepted) -> Self {
        let Accepted { request, keep_alive, expects_continue, .. } = accepted;
        Self {
            wire,
            alarm,
            patience: WritePatience::new(exchange.client()),
            method: request.method.clone(),
            version: exchange.version,
            exchange,
            request,
            spooled: None,
            body_wait: None,
            app_wait: None,
            body_waited: Duration::ZERO,
            expects_continue,
            keep_alive,
            response: None,
            framing: Framing::None,
            ended: false,
            out: BytesMut::new(),
            backlog: None,
            discarding: false,
            unwanted_since: None,
            app_late: false,
            tap: None,
        }
    }

    #[must_use]
    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    #[must_use]
    pub fn request(&self) -> &RequestHead {
        &self.request
    }

    pub fn request_mut(&mut self) -> &mut RequestHead {
        &mut self.request
    }

    /// Has a say in what the client gets of the next response, and a copy of its body.
    pub fn tap(&mut self, tap: Arc<Tap>) {
        self.tap = Some(tap);
    }

    /// That is over.
    pub fn untap(&mut self) {
        self.tap = None;
    }

    /// Whether nobody takes what is written.
    #[must_use]
    pub fn is_for_nobody(&self) -> bool {
        self.discarding
    }

    /// The rest of the body cannot be had: the answer is cut.
    ///
    /// # Errors
    /// That it is.
    pub fn lose_body(&mut self) -> Result<()> {
        self.exchange.outcome.set_fault(Reason::SpoolFailed);
        self.fail(Reason::SpoolFailed, ErrorType::ReadError, "the body cannot be read")
    }

    /// Whether the app had its time.
    #[must_use]
    pub fn app_is_late(&self) -> bool {
        self.app_late
    }

    /// Whether the answer has begun: there will be no other.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.response.is_some()
    }

    /// Whether nothing more is to be read of the request.
    #[must_use]
    pub fn is_received(&self) -> bool {
        self.wire.is_received()
    }

    fn fail<T>(&self, reason: Reason, kind: ErrorType, context: &'static str) -> Result<T> {
        self.exchange.outcome.set_fault(reason);
        Error::e_explain(kind, context)
    }

    /// Gives the connection back to its driver, if the response reached its end and the next request can be told from what is
    /// left of this one. None: it is closed, or not the request's to give.
    pub async fn release(self: Box<Self>) -> Option<Returned> {
        let torn = !self.ended || self.backlog.as_ref().is_some_and(|backlog| !backlog.is_empty());
        let broken = self.discarding || torn || self.exchange.outcome.client_gone();
        // Whoever speaks WebSocket may be in the midst of a frame.
        let may_talk = self.response.as_ref().is_some_and(|it| it.status == StatusCode::SWITCHING_PROTOCOLS);
        let Self { wire, alarm, exchange, keep_alive, framing, .. } = *self;
        let Http1 { mut connection, mut body } = match wire {
            Wire::Http1(http1) => http1,
            Wire::Http2(mut stream) => {
                if !broken && !stream.is_received() {
                    let _ = Box::pin(tokio::time::timeout(DRAIN_TIME, stream.discard(DRAIN_MAX))).await;
                }
                stream.close(broken);
                return None;
            }
            Wire::Nobody => return None,
        };
        if broken {
            return None;
        }
        connection.alarm = alarm;
        if framing == Framing::UntilClose {
            connection.transport.reset_on_close(false);
        }
        let whole = body.is_done() || (keep_alive && Box::pin(discard(&mut connection, &mut body)).await);
        if keep_alive && whole {
            Some(Returned::Reuse(connection))
        } else if whole && connection.buf.is_empty() && exchange.refusal.is_none() && !may_talk {
            connection.transport.farewell();
            None
        } else {
            Some(Returned::Linger(connection))
        }
    }
}

/// Reads the rest of a body that nobody wants, if it is small.
async fn discard(connection: &mut Connection, body: &mut BodyReader) -> bool {
    let Connection { transport, buf, .. } = connection;
    let read = async {
        let mut discarded = 0_u64;
        while discarded <= DRAIN_MAX {
            match body.step(buf) {
                Ok(Step::Data(data)) => discarded += data.len() as u64,
                Ok(Step::End) => return true,
                Ok(Step::NeedMore) => {
                    if !matches!(transport.read_into(buf, BODY_READ).await, Ok(1..)) {
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
