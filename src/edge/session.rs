//! One request of an HTTP/1.x client, from its head to the last byte of the answer.
//!
//! The connection's driver owns it. While an exchange with the app runs, Pingora holds it (see [`engine`]); before and after,
//! the steps in `proxy` use it directly: the request body is received, the queue is waited in, and what the client has not
//! taken of the response is written, all at the cost of this struct alone.
//!
//! `body` receives, `reply` writes, `wait` is what both wait by.

mod body;
pub mod engine;
mod reply;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::{Method, Version};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::Instant;

use crate::edge::body::{BodyReader, Step};
use crate::edge::connection::Connection;
use crate::edge::exchange::{Accepted, Exchange};
use crate::edge::response_writer::Framing;
use crate::edge::session::reply::{Backlog, WritePatience};
use crate::proxy::rejection::Reason;
use crate::spool::Spooled;
use crate::upstream::flow::Flow;

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

/// One request of an HTTP/1.x client.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // Independent facts, each read in one place.
pub struct Session {
    connection: Box<Connection>,
    exchange: Arc<Exchange>,
    request: RequestHeader,
    method: Method,
    version: Version,
    /// The body as it comes from the client.
    body: BodyReader,
    /// The body as it goes to the app, once it was received whole.
    spooled: Option<Box<Spooled>>,
    /// Whether the connection to the app could send what it was given of the body.
    flow: Option<Arc<Flow>>,
    /// It was given a piece, and had no turn since.
    gave: bool,
    /// Since when it could not send anything, and how much it had sent then.
    stalled: Option<(Instant, u64)>,
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
    /// The response came to its end, if only into the backlog.
    ended: bool,
    /// What is to be written next.
    out: BytesMut,
    /// What the client was too slow to take.
    backlog: Option<Box<Backlog>>,
    patience: WritePatience,
    /// The client cannot be written to any more, and the exchange goes on without it.
    discarding: bool,
    /// The app had its time.
    app_late: bool,
}

impl Session {
    /// The session of an accepted request.
    #[must_use]
    pub fn new(connection: Box<Connection>, exchange: Arc<Exchange>, accepted: Accepted) -> Self {
        let Accepted { request, body, keep_alive, expects_continue } = accepted;
        Self {
            connection,
            patience: WritePatience::new(exchange.client()),
            exchange,
            method: request.method.clone(),
            version: request.version,
            request,
            body,
            spooled: None,
            flow: None,
            gave: false,
            stalled: None,
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
            app_late: false,
        }
    }

    #[must_use]
    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    #[must_use]
    pub fn request(&self) -> &RequestHeader {
        &self.request
    }

    pub fn request_mut(&mut self) -> &mut RequestHeader {
        &mut self.request
    }

    /// Whether the answer has begun: there will be no other.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.response.is_some()
    }

    /// Whether nothing more is to be read of the request.
    #[must_use]
    pub fn is_received(&self) -> bool {
        self.body.is_done()
    }

    fn fail<T>(&self, reason: Reason, kind: ErrorType, context: &'static str) -> Result<T> {
        self.exchange.outcome.set_fault(reason);
        Error::e_explain(kind, context)
    }

    /// Gives the connection back to its driver, if the response reached its end and the next request can be told from what is
    /// left of this one. None: it is closed.
    pub async fn release(mut self: Box<Self>) -> Option<Returned> {
        let torn = !self.ended || self.backlog.as_ref().is_some_and(|backlog| !backlog.is_empty());
        if self.discarding || torn || self.exchange.outcome.client_gone() {
            return None;
        }
        if self.framing == Framing::UntilClose {
            self.connection.transport.reset_on_close(false);
        }
        let whole = self.body.is_done() || (self.keep_alive && Box::pin(self.discard_body()).await);
        if self.keep_alive && whole {
            Some(Returned::Reuse(self.connection))
        } else if whole && self.connection.buf.is_empty() && self.exchange.refusal.is_none() {
            self.connection.transport.farewell();
            None
        } else {
            Some(Returned::Linger(self.connection))
        }
    }

    /// Reads the rest of a body that nobody wants, if it is small.
    async fn discard_body(&mut self) -> bool {
        let Self { body, connection, .. } = self;
        let read = async {
            let mut discarded = 0_u64;
            while discarded <= DRAIN_MAX {
                match body.step(&mut connection.buf) {
                    Ok(Step::Data(data)) => discarded += data.len() as u64,
                    Ok(Step::End) => return true,
                    Ok(Step::NeedMore) => {
                        let Connection { transport, buf, .. } = &mut **connection;
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
}
