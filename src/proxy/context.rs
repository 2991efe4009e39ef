//! What one step of a request leaves for the next.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;

use crate::edge::exchange::Exchange;
use crate::header::client_address::{Claims, Origin, resolve};
use crate::header::request_hygiene::FieldKind;
use crate::header::request_id;
use crate::observe::metrics::{FieldDrop, RequestInFlight};
use crate::proxy::finish;
use crate::proxy::rejection::Rejection;
use crate::upstream::Upstream;
use crate::upstream::endpoint::{Endpoint, Lease};

/// Pingora makes it before it can be filled; see [`Context::begin`].
#[derive(Debug, Default)]
pub struct Context(Option<Box<Active>>);

/// A request that has begun.
#[derive(Debug)]
pub struct Active {
    pub exchange: Arc<Exchange>,
    pub request_id: HeaderValue,
    /// The client after `trusted_proxies` was applied; none for a Unix-socket peer that said nothing.
    pub client: Option<IpAddr>,
    /// Whether the client speaks https, to us or to a trusted proxy.
    pub https: bool,
    /// Index into the snapshot's routes.
    pub route: Option<usize>,
    /// The request in its route's metrics.
    pub counted: Option<RequestInFlight>,
    pub upstream: Option<Arc<Upstream>>,
    /// The slot this request holds; replaced, never added to, on another try.
    pub lease: Option<Lease>,
    /// Endpoints this request was sent to, the last one last.
    pub tried: Vec<Arc<Endpoint>>,
    /// Those among them that no connection could be made to.
    pub unreachable: Vec<Arc<Endpoint>>,
    pub attempt: Attempt,
    pub connect_retries: u32,
    pub idempotent_retries: u32,
    /// Why we answer, or would have if the client had waited.
    pub rejection: Option<Rejection>,
    /// It was logged and counted.
    pub finished: bool,
}

impl Drop for Active {
    /// A request that ends without Pingora's last hook, by a panic or with the process, is logged and counted here.
    fn drop(&mut self) {
        if !self.finished {
            finish::abandon(self);
        }
    }
}

/// What is known of the last attempt.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attempt {
    pub started: Option<Instant>,
    pub connected: Option<Instant>,
    pub connect_time: Option<Duration>,
    pub first_byte_time: Option<Duration>,
    pub reused: Option<bool>,
    /// A response came, if only an interim one.
    pub begun: bool,
    pub status: Option<u16>,
}

impl Context {
    /// Takes over what the connection knows of the request.
    ///
    /// # Errors
    /// There is nothing: the session is none of ours.
    pub fn begin(&mut self, request: &mut RequestHeader) -> Result<()> {
        // Taken whole: the extensions would be cloned with the request for each attempt.
        let exchange = std::mem::take(request.extensions_mut()).remove::<Arc<Exchange>>().ok_or_else(lost)?;
        let origin = origin(&exchange);
        let ids = claims(&exchange, FieldKind::RequestId);
        let (client, https) = (origin.client, origin.https);
        let request_id = request_id::decide(ids, origin.peer_trusted);
        let metrics = &exchange.snapshot.shared.metrics;
        (0..exchange.dropped.name).for_each(|_| metrics.record_field_dropped(FieldDrop::Name));
        (0..exchange.dropped.spoofable).for_each(|_| metrics.record_field_dropped(FieldDrop::Spoofable));
        self.0 = Some(Box::new(Active {
            exchange,
            request_id,
            client,
            https,
            route: None,
            counted: None,
            upstream: None,
            lease: None,
            tried: Vec::new(),
            unreachable: Vec::new(),
            attempt: Attempt::default(),
            connect_retries: 0,
            idempotent_retries: 0,
            rejection: None,
            finished: false,
        }));
        Ok(())
    }

    /// The request.
    ///
    /// # Errors
    /// [`Context::begin`] failed; Pingora ends the request then.
    pub fn active(&mut self) -> Result<&mut Active> {
        self.0.as_deref_mut().ok_or_else(lost)
    }
}

fn lost() -> Box<Error> {
    Error::explain(ErrorType::InternalError, "request without an exchange")
}

/// Where the request comes from, as far as its peer is believed.
pub fn origin(exchange: &Exchange) -> Origin<'_> {
    let trusted = &exchange.snapshot.config.server.trusted_proxies;
    let claims = Claims {
        x_forwarded_for: claims(exchange, FieldKind::ForwardedFor),
        forwarded: claims(exchange, FieldKind::Forwarded),
        x_forwarded_proto: claims(exchange, FieldKind::ForwardedProto),
        x_forwarded_host: claims(exchange, FieldKind::ForwardedHost),
        x_forwarded_port: claims(exchange, FieldKind::ForwardedPort),
    };
    resolve(exchange.facts.peer, false, trusted, claims)
}

fn claims(exchange: &Exchange, kind: FieldKind) -> impl DoubleEndedIterator<Item = &[u8]> {
    exchange.claims.iter().filter(move |(k, _)| *k == kind).map(|(_, value)| value.as_bytes())
}
