//! One request and its answer, as the session and the steps in `proxy` both see them.
//!
//! The connection makes it before `proxy` is called. What one side tells the other while the exchange runs are plain atomics: no
//! order between them matters.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Method, Version};
use parking_lot::Mutex;

use crate::config::model::ClientLimits;
use crate::edge::head::{Dropped, Head, HeadSize};
use crate::framing::BodyReader;
use crate::header::client_address::Peer;
use crate::header::request_hygiene::FieldKind;
use crate::message::RequestHead;
use crate::observe::metrics::ListenerMetrics;
use crate::proxy::rejection::{Reason, Rejection};
use crate::rate_limit::Permit;
use crate::state::Snapshot;
use crate::tls::identity::Identity;

/// What is true of every request on a connection.
#[derive(Debug, Clone)]
pub struct ConnectionFacts {
    pub peer: Peer,
    /// The client's port, for TCP.
    pub peer_port: Option<u16>,
    pub listener: Arc<ListenerFacts>,
    /// None on a plain connection.
    pub tls: Option<Box<TlsFacts>>,
}

/// What was agreed on with a client that speaks TLS.
#[derive(Debug, Clone)]
pub struct TlsFacts {
    /// The name it asked for, in lower case.
    pub asked: Option<Box<str>>,
    /// Whom it has shown to be.
    pub client: Option<Identity>,
}

/// What is true of every connection of a listener.
#[derive(Debug)]
pub struct ListenerFacts {
    /// As it was bound: `127.0.0.1:8080` or `unix:/run/propylon.sock`.
    pub label: String,
    /// None for a Unix socket.
    pub port: Option<u16>,
    pub metrics: Arc<ListenerMetrics>,
}

/// A request on its way.
#[derive(Debug)]
pub struct Exchange {
    pub facts: Arc<ConnectionFacts>,
    /// The configuration this request lives by from its first byte to its last.
    pub snapshot: Arc<Snapshot>,
    pub received: SystemTime,
    pub started: Instant,
    pub method: Method,
    pub version: Version,
    /// The request target as received.
    pub target: Bytes,
    pub host: Option<HeaderValue>,
    pub claims: Vec<(FieldKind, HeaderValue)>,
    pub dropped: Dropped,
    pub size: HeadSize,
    /// Whether a body was announced.
    pub has_body: bool,
    /// Whether the client asks for a WebSocket.
    pub upgrade: bool,
    /// Why the head was not accepted; everything else is a placeholder then.
    pub refusal: Option<Rejection>,
    pub control: Control,
    pub outcome: Outcome,
}

/// What `proxy` tells the session.
#[derive(Debug)]
pub struct Control {
    /// Bytes a request body may have; `u64::MAX` until the route is known.
    max_body: AtomicU64,
    first_byte_ms: AtomicU64,
    read_ms: AtomicU64,
    finish_without_client: AtomicBool,
    outlive_timeout: AtomicBool,
    spool_response: AtomicBool,
    close: AtomicBool,
    counted: AtomicBool,
    permits: Mutex<Vec<Permit>>,
}

impl Control {
    fn new() -> Self {
        Self {
            max_body: AtomicU64::new(u64::MAX),
            first_byte_ms: AtomicU64::new(u64::MAX),
            read_ms: AtomicU64::new(u64::MAX),
            finish_without_client: AtomicBool::new(false),
            outlive_timeout: AtomicBool::new(false),
            spool_response: AtomicBool::new(false),
            close: AtomicBool::new(false),
            counted: AtomicBool::new(false),
            permits: Mutex::default(),
        }
    }

    /// The same for a request that the gateway makes for itself: it has no limits, and is seen through.
    fn for_nobody(&self) -> Self {
        let control = Self::new();
        control.set_upstream_timeouts(self.upstream_patience(false), self.upstream_patience(true));
        control.finish_without_client();
        if self.outlives_timeout() {
            control.outlive_timeout();
        }
        control.spool_response(self.spools_response());
        control
    }

    /// The request counts as in flight by these until its answer is complete.
    pub fn count_by(&self, permits: Vec<Permit>) {
        if !permits.is_empty() {
            *self.permits.lock() = permits;
            self.counted.store(true, Relaxed);
        }
    }

    /// The answer is complete: whoever reads the end of it may ask again at once, so this comes before its last bytes do.
    pub fn uncount(&self) {
        if self.counted.load(Relaxed) {
            self.permits.lock().clear();
        }
    }

    pub fn set_max_body(&self, bytes: u64) {
        self.max_body.store(bytes, Relaxed);
    }

    #[must_use]
    pub fn max_body(&self) -> u64 {
        self.max_body.load(Relaxed)
    }

    /// How long the app may take for its first byte, and between two reads of its response.
    pub fn set_upstream_timeouts(&self, first_byte: Duration, read: Duration) {
        self.first_byte_ms.store(millis(first_byte), Relaxed);
        self.read_ms.store(millis(read), Relaxed);
    }

    /// The response is one in which the app may have nothing to tell for `pause`.
    pub fn await_events(&self, pause: Duration) {
        self.read_ms.fetch_max(millis(pause), Relaxed);
    }

    /// How long to wait for the app, from now.
    #[must_use]
    pub fn upstream_patience(&self, response_begun: bool) -> Duration {
        let source = if response_begun { &self.read_ms } else { &self.first_byte_ms };
        Duration::from_millis(source.load(Relaxed))
    }

    /// The exchange with the app goes on when the client has left; its output is discarded.
    pub fn finish_without_client(&self) {
        self.finish_without_client.store(true, Relaxed);
    }

    #[must_use]
    pub fn finishes_without_client(&self) -> bool {
        self.finish_without_client.load(Relaxed)
    }

    /// The exchange goes on when the app's time is up and the client was answered: the app is still at it, and its slot taken.
    pub fn outlive_timeout(&self) {
        self.outlive_timeout.store(true, Relaxed);
    }

    /// Neither of the two after all: the answer may have no end.
    pub fn end_with_client(&self) {
        self.finish_without_client.store(false, Relaxed);
        self.outlive_timeout.store(false, Relaxed);
    }

    #[must_use]
    pub fn outlives_timeout(&self) -> bool {
        self.outlive_timeout.load(Relaxed)
    }

    /// Whether the response is taken off the app as fast as it comes, or no faster than the client takes it.
    pub fn spool_response(&self, spool: bool) {
        self.spool_response.store(spool, Relaxed);
    }

    #[must_use]
    pub fn spools_response(&self) -> bool {
        self.spool_response.load(Relaxed)
    }

    /// The connection is closed after this answer.
    pub fn close_connection(&self) {
        self.close.store(true, Relaxed);
    }

    #[must_use]
    pub fn closes_connection(&self) -> bool {
        self.close.load(Relaxed)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const NO_FAULT: usize = usize::MAX;

/// What the session tells `proxy`.
#[derive(Debug)]
pub struct Outcome {
    body_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    body_touched: AtomicBool,
    client_gone: AtomicBool,
    answered: AtomicU16,
    fault: AtomicUsize,
}

impl Outcome {
    fn new() -> Self {
        Self {
            body_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            body_touched: AtomicBool::new(false),
            client_gone: AtomicBool::new(false),
            answered: AtomicU16::new(0),
            fault: AtomicUsize::new(NO_FAULT),
        }
    }

    /// Body bytes received from the client.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes.load(Relaxed)
    }

    pub(super) fn count_body(&self, bytes: usize) {
        self.body_touched.store(true, Relaxed);
        self.body_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Bytes of the response's body, as far as the client took them.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Relaxed)
    }

    pub(super) fn count_sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Bytes that were counted and not taken after all.
    pub(super) fn uncount_sent(&self, bytes: u64) {
        // Chunk framing is among them: never below nothing.
        let _ = self.sent_bytes.fetch_update(Relaxed, Relaxed, |sent| Some(sent.saturating_sub(bytes)));
    }

    /// Whether body bytes were taken from the client.
    #[must_use]
    pub fn body_touched(&self) -> bool {
        self.body_touched.load(Relaxed)
    }

    /// Whether the client left before it had its answer.
    #[must_use]
    pub fn client_gone(&self) -> bool {
        self.client_gone.load(Relaxed)
    }

    /// The status that was sent; none while nothing was, whatever the app has said.
    #[must_use]
    pub fn answered(&self) -> Option<u16> {
        Some(self.answered.load(Relaxed)).filter(|status| *status > 0)
    }

    pub(super) fn mark_answered(&self, status: u16) {
        self.answered.store(status, Relaxed);
    }

    pub(super) fn mark_client_gone(&self) {
        self.client_gone.store(true, Relaxed);
    }

    /// Why the session gave up, if it did.
    #[must_use]
    pub fn fault(&self) -> Option<Reason> {
        Reason::from_index(self.fault.load(Relaxed))
    }

    pub(super) fn set_fault(&self, reason: Reason) {
        let _ = self.fault.compare_exchange(NO_FAULT, reason.index(), Relaxed, Relaxed);
    }
}

impl Exchange {
    /// The exchange of a head that was understood, with the request and the body that go to the session.
    #[must_use]
    pub fn accepted(
        facts: Arc<ConnectionFacts>,
        snapshot: Arc<Snapshot>,
        started: Instant,
        head: Head,
    ) -> (Self, Accepted) {
        let exchange = Self {
            facts,
            snapshot,
            received: SystemTime::now(),
            started,
            method: head.request.method.clone(),
            version: head.request.version,
            target: head.target,
            host: head.host,
            claims: head.claims,
            dropped: head.dropped,
            size: head.size,
            has_body: !head.body.is_done(),
            upgrade: head.upgrade,
            refusal: None,
            control: Control::new(),
            outcome: Outcome::new(),
        };
        let accepted = Accepted {
            request: head.request,
            body: head.body,
            keep_alive: head.keep_alive,
            expects_continue: head.expects_continue,
        };
        (exchange, accepted)
    }

    /// The exchange of a head that was not: it is answered, logged and counted like any other.
    #[must_use]
    pub fn refused(facts: Arc<ConnectionFacts>, snapshot: Arc<Snapshot>, started: Instant, refusal: Rejection) -> Self {
        Self {
            facts,
            snapshot,
            received: SystemTime::now(),
            started,
            method: Method::default(),
            version: Version::HTTP_11,
            target: Bytes::new(),
            host: None,
            claims: Vec::new(),
            dropped: Dropped::default(),
            size: HeadSize::default(),
            has_body: false,
            upgrade: false,
            refusal: Some(refusal),
            control: Control::new(),
            outcome: Outcome::new(),
        }
    }

    /// A GET of the same that the gateway makes for itself.
    #[must_use]
    pub fn for_nobody(&self) -> Self {
        Self {
            facts: self.facts.clone(),
            snapshot: self.snapshot.clone(),
            received: SystemTime::now(),
            started: Instant::now(),
            method: Method::GET,
            version: self.version,
            target: self.target.clone(),
            host: self.host.clone(),
            claims: Vec::new(),
            dropped: Dropped::default(),
            size: self.size,
            has_body: false,
            upgrade: false,
            refusal: None,
            control: self.control.for_nobody(),
            outcome: Outcome::new(),
        }
    }

    /// What this client may take.
    #[must_use]
    pub fn client(&self) -> &ClientLimits {
        &self.snapshot.config.client
    }

    /// The address of the direct peer, if it has one.
    #[must_use]
    pub fn peer_ip(&self) -> Option<IpAddr> {
        match self.facts.peer {
            Peer::Ip(ip) => Some(ip),
            Peer::Unix => None,
        }
    }
}

/// What the session takes over from a head.
#[derive(Debug)]
pub struct Accepted {
    pub request: RequestHead,
    pub body: BodyReader,
    pub keep_alive: bool,
    pub expects_continue: bool,
}

impl Accepted {
    /// Of a request that the gateway makes for itself.
    #[must_use]
    pub fn for_nobody(request: RequestHead) -> Self {
        Self { request, body: BodyReader::Done, keep_alive: false, expects_continue: false }
    }

    /// Of a head that was none.
    #[must_use]
    pub fn nothing() -> Self {
        Self { request: placeholder(), body: BodyReader::Done, keep_alive: false, expects_continue: false }
    }
}

/// Stands where a request would, for a head that was none.
fn placeholder() -> RequestHead {
    RequestHead::new(Method::GET, Bytes::from_static(b"/"), Version::HTTP_11, 0)
}
