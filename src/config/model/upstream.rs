//! An upstream, with nothing left to parse: its endpoints, and how requests reach them.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::UpstreamTls;

/// A named group of endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub name: Arc<str>,
    pub preset: Option<Preset>,
    /// At least one.
    pub endpoints: Vec<EndpointConfig>,
    pub balance: Balance,
    /// How many requests one endpoint works on at once, where that is known.
    pub capacity: Option<u32>,
    pub queue: Queue,
    pub keepalive: Keepalive,
    pub connect_timeout: Duration,
    pub first_byte_timeout: Duration,
    pub read_timeout: Duration,
    pub retry: Retry,
    /// Whether a request body is received whole before a worker is taken.
    pub buffer_requests: bool,
    /// Whether a response is taken from the worker at the worker's speed.
    pub buffer_responses: bool,
    /// How long an endpoint that is healthy again takes to get its full share; 0: at once.
    pub slow_start: Duration,
    pub health: Health,
    pub ejection: Ejection,
    /// What happens to the exchange when the client leaves.
    pub client_abort: ClientAbort,
    /// None: plain HTTP.
    pub tls: Option<UpstreamTls>,
    /// Limits of the preset's server, less what we add; none: those of `[server.client]` alone.
    pub head_limits: Option<HeadLimits>,
}

/// Head limits of the server behind, checked once the route is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    pub request_line_max: usize,
    pub field_max: usize,
    pub headers_max: usize,
}

/// A kind of Python server, with what is known about it (`preset.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Preset {
    GunicornSync,
    GunicornGthread,
    GunicornGevent,
    GunicornUvicorn,
    GunicornAsgi,
    Uvicorn,
    Hypercorn,
    Daphne,
    Granian,
    Waitress,
    UwsgiHttp,
}

/// What becomes of an exchange whose client left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAbort {
    /// The worker ends its work, the response is discarded, and only then is the endpoint free (WSGI: the worker would
    /// not notice, and counting it free would be a lie).
    Finish,
    /// The connection is closed at once, so that the app sees `http.disconnect` (ASGI).
    Close,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    pub addr: EndpointAddr,
    /// At least 1.
    pub weight: u32,
    /// Used only while no other endpoint is healthy.
    pub backup: bool,
}

/// Where an endpoint listens, as written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointAddr {
    Ip(SocketAddr),
    /// Resolved at start and again when its TTL ends.
    Host {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
    /// A name in Linux' abstract namespace, without the leading `@`.
    Abstract(String),
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    LeastConn,
    RoundRobin,
    /// The less busy of two picked at random.
    P2c,
    /// Requests with the same key go to the same endpoint, as far as its load allows.
    Hash(HashKey),
}

impl Balance {
    /// As written in the file.
    #[must_use]
    pub fn name(&self) -> Cow<'static, str> {
        match self {
            Self::LeastConn => "least_conn".into(),
            Self::RoundRobin => "round_robin".into(),
            Self::P2c => "p2c".into(),
            Self::Hash(key) => format!("hash:{key}").into(),
        }
    }
}

/// What of a request decides where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    ClientIp,
    /// Lower case, without port.
    Host,
    /// Decoded, without query.
    Path,
    Header(HeaderName),
    /// The cookie of this name, case and all.
    Cookie(String),
}

/// Where requests wait while every endpoint works on as many as it can, or is being restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Requests that may wait; 0: none waits.
    pub max: usize,
    /// How long one may wait; more than nothing.
    pub timeout: Duration,
}

/// How long an idle connection may be reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keepalive {
    /// Every request has a connection of its own.
    Off,
    Fixed(Duration),
    /// `start`, until it is known when the server closes.
    Learned {
        start: Duration,
    },
}

/// When an endpoint is left out because of the requests that failed on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// Failures in a row; 0: none is ever ejected.
    pub consecutive_failures: u32,
    /// For how long the first time; more than nothing.
    pub time: Duration,
    /// Share of the endpoints that may be out at once, in percent; rounded down.
    pub max_ejected: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Other endpoints tried when a connection cannot be made.
    pub connect: u32,
    /// Further tries of GET, HEAD, OPTIONS and TRACE before any response byte.
    pub idempotent: u32,
    /// Share of requests that may be retried, in percent.
    pub budget: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// None: a connect probe.
    pub path: Option<String>,
    pub host: Option<String>,
    pub interval: Duration,
    pub timeout: Duration,
    pub rise: u32,
    pub fall: u32,
    pub expect: StatusRanges,
}

/// A set of status codes, as inclusive ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusRanges(pub Vec<(u16, u16)>);

impl StatusRanges {
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|&(low, high)| (low..=high).contains(&status))
    }
}
