//! What one step of a request leaves for the next.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;

use crate::edge::exchange::Exchange;
use crate::header::client_address::{Claims, Origin, resolve};
use crate::header::request_hygiene::FieldKind;
use crate::header::request_id;
use crate::header::trace::{TraceContext, new_span};
use crate::headers::Headers;
use crate::observe::metrics::{FieldDrop, RequestInFlight};
use crate::observe::traces::Steps;
use crate::proxy::access::Login;
use crate::proxy::cache::Visit;
use crate::proxy::finish;
use crate::proxy::rejection::Rejection;
use crate::rate_limit::Question;
use crate::rate_limit::verdict::Verdict;
use crate::upstream::endpoint::{Endpoint, Lease};
use crate::upstream::stream::UpstreamStream;
use crate::upstream::{Upstream, Wanted};

/// A request that has begun.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // Independent facts, each read in one place.
pub struct Active {
    pub exchange: Arc<Exchange>,
    pub request_id: HeaderValue,
    pub trace: TraceContext,
    /// Its steps, where they are sent to a collector.
    pub steps: Option<Box<Steps>>,
    /// The client after `trusted_proxies` was applied; none for a Unix-socket peer that said nothing.
    pub client: Option<IpAddr>,
    /// Whether the client has come over HTTPS, as far as is known.
    pub https: bool,
    /// Index into the snapshot's routes.
    pub route: Option<usize>,
    /// What the scripts of its page are known by, where its route has a policy with a nonce.
    pub nonce: Option<HeaderValue>,
    /// What the page that asks is told its origin is, where its route lets it read the answer.
    pub origin: Option<HeaderValue>,
    /// The request in its route's metrics.
    pub counted: Option<RequestInFlight>,
    /// What Redis is to be asked about the request.
    pub question: Option<Box<Question>>,
    /// What the limits of the route have said.
    pub limited: Option<Box<Verdict>>,
    /// The password that is to be checked.
    pub login: Option<Box<Login>>,
    /// Who has come with the right one.
    pub user: Option<Box<str>>,
    /// What it has to do with the cache, where a rule is for it.
    pub visit: Option<Box<Visit>>,
    pub upstream: Option<Arc<Upstream>>,
    /// Whether the body is received whole before an endpoint is asked for.
    pub buffers_request: bool,
    /// What this request asks of the queue.
    pub wanted: Option<Wanted>,
    /// The slot this request holds; replaced, never added to, on another try.
    pub lease: Option<Lease>,
    /// The connection for the next exchange.
    pub connection: Option<UpstreamStream>,
    /// The endpoint of the last attempt.
    pub endpoint: Option<Arc<Endpoint>>,
    /// Why the last connection could not be made.
    pub unreachable: Option<String>,
    /// How long the body took to arrive, where it was waited for.
    pub receive_time: Option<Duration>,
    pub attempt: Attempt,
    pub connect_retries: u32,
    pub idempotent_retries: u32,
    /// The exchange broke, and is to be tried once more.
    pub repeat: bool,
    /// Why we answer, or would have if the client had waited.
    pub rejection: Option<Rejection>,
    /// It was logged and counted.
    pub finished: bool,
}

impl Drop for Active {
    /// A request that ends before its driver is done, by a panic or with the process, is logged and counted here.
    fn drop(&mut self) {
        if !self.finished {
            finish::abandon(self);
        }
    }
}

/// What is known of the last attempt.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attempt {
    pub connected: Option<Instant>,
    pub connect_time: Option<Duration>,
    pub first_byte_time: Option<Duration>,
    pub reused: Option<bool>,
    /// A response came, if only an interim one.
    pub begun: bool,
    pub status: Option<u16>,
}

impl Active {
    /// Takes over what the connection knows of the request, and what the request says of its trace.
    #[must_use]
    pub fn begin(exchange: Arc<Exchange>, headers: &Headers) -> Self {
        let origin = origin(&exchange);
        let ids = claims(&exchange, FieldKind::RequestId);
        let (client, https) = (origin.client, origin.https);
        let request_id = request_id::decide(ids, origin.peer_trusted);
        let trace = TraceContext::of(headers, origin.peer_trusted, exchange.snapshot.sample);
        let metrics = &exchange.snapshot.shared.metrics;
        (0..exchange.dropped.name).for_each(|_| metrics.record_field_dropped(FieldDrop::Name));
        (0..exchange.dropped.spoofable).for_each(|_| metrics.record_field_dropped(FieldDrop::Spoofable));
        Self::new(exchange, (request_id, trace), client, https)
    }

    fn new(
        exchange: Arc<Exchange>,
        (request_id, trace): (HeaderValue, TraceContext),
        client: Option<IpAddr>,
        https: bool,
    ) -> Self {
        let steps = exchange.snapshot.traces.as_ref().filter(|_| trace.is_sampled()).map(|_| {
            let parent = trace.received.then_some(trace.span);
            Box::new(Steps { trace: trace.trace, parent, server: new_span(), client: new_span(), exchange: None })
        });
        Self {
            exchange,
            request_id,
            trace,
            steps,
            client,
            https,
            route: None,
            nonce: None,
            origin: None,
            counted: None,
            question: None,
            limited: None,
            login: None,
            user: None,
            visit: None,
            upstream: None,
            buffers_request: true,
            wanted: None,
            lease: None,
            connection: None,
            endpoint: None,
            unreachable: None,
            receive_time: None,
            attempt: Attempt::default(),
            connect_retries: 0,
            idempotent_retries: 0,
            repeat: false,
            rejection: None,
            finished: false,
        }
    }

    /// A request that the gateway makes for itself, in place of `of`: nobody is answered, and nothing logged.
    #[must_use]
    pub fn for_nobody(exchange: Arc<Exchange>, of: &mut Self) -> Self {
        let mut own = Self::new(exchange, (of.request_id.clone(), of.trace), of.client, of.https);
        own.route = of.route;
        own.nonce.clone_from(&of.nonce);
        own.upstream.clone_from(&of.upstream);
        own.wanted = of.wanted.take();
        own.finished = true;
        own
    }

    /// Gives the endpoint free, and counts what it did.
    pub fn release(&mut self) {
        if let Some(connected) = self.attempt.connected.take() {
            if let (Some(endpoint), Some(status)) = (&self.endpoint, self.attempt.status) {
                endpoint.metrics.record(status, connected.elapsed());
            }
            if let Some(steps) = &mut self.steps {
                let started = self.exchange.started;
                steps.exchange = Some((connected.duration_since(started), started.elapsed()));
            }
        }
        self.lease = None;
    }
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
    resolve(exchange.facts.peer, exchange.facts.tls.is_some(), trusted, claims)
}

fn claims(exchange: &Exchange, kind: FieldKind) -> impl DoubleEndedIterator<Item = &[u8]> {
    exchange.claims.iter().filter(move |(k, _)| *k == kind).map(|(_, value)| value.as_bytes())
}
