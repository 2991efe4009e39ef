//! The configuration with nothing left to parse: every string became a type, every name an index, every default a
//! value.
//!
//! `validate` is the only producer. What needs a restart stands in [`RestartOnly`]; everything else takes effect with a
//! reload. No Pingora, no sockets, no clock.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;

/// A whole, valid configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from; none with `run --to`.
    pub source: Option<PathBuf>,
    pub restart: RestartOnly,
    pub server: Server,
    pub client: ClientLimits,
    pub admin: Admin,
    pub log: Log,
    /// Sorted by name; [`Action::Upstream`] holds an index into it.
    pub upstreams: Vec<Upstream>,
    /// In the order of the file.
    pub routes: Vec<Route>,
    /// Own bodies for our own answers, by status.
    pub error_pages: BTreeMap<u16, Arc<ErrorPage>>,
}

/// What cannot change while the process runs; a reload that changes it warns and keeps the old value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartOnly {
    /// Worker threads, at least 1 (0 in the file is one per core).
    pub threads: usize,
    pub pid_file: Option<PathBuf>,
    /// Path of the control socket.
    pub control: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct Server {
    pub listen: Vec<ListenAddr>,
    pub trusted_proxies: TrustedProxies,
    /// Empty: every host is served.
    pub allowed_hosts: Vec<HostPattern>,
    pub max_connections: usize,
    /// 0: no limit.
    pub max_connections_per_ip: usize,
    pub shutdown_delay: Duration,
    pub shutdown_timeout: Duration,
    /// Name servers to ask instead of the system's; empty: the system's.
    pub resolvers: Vec<SocketAddr>,
}

/// Whose forwarding fields are believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    pub nets: Vec<IpNet>,
    /// Peers of a Unix-socket listener.
    pub unix: bool,
}

/// Where a listener is bound.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListenAddr {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What one client may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientLimits {
    pub header_timeout: Duration,
    /// Bytes of the request line without its CRLF.
    pub request_line_max: usize,
    /// Bytes of the whole head.
    pub header_max: usize,
    /// Bytes of one field line without its CRLF.
    pub field_max: usize,
    pub headers_max: usize,
    pub body_idle_timeout: Duration,
    /// Bytes a second, after [`MIN_RATE_GRACE`].
    pub body_min_rate: u64,
    pub write_idle_timeout: Duration,
    /// Bytes a second, after [`MIN_RATE_GRACE`].
    pub write_min_rate: u64,
    pub keepalive_timeout: Duration,
    /// Bytes of a request body.
    pub max_body: u64,
}

/// How long a transfer may be slower than its minimum rate.
pub const MIN_RATE_GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    pub listen: Vec<ListenAddr>,
    /// Indices into [`Config::upstreams`].
    pub ready_requires: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub level: LogLevel,
    pub access: AccessTarget,
    pub format: AccessFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessTarget {
    Stdout,
    File(PathBuf),
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessFormat {
    Json,
    Combined,
}

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
    /// How long an idle connection may be reused; none: every request has a connection of its own.
    pub keepalive_timeout: Option<Duration>,
    pub connect_timeout: Duration,
    pub first_byte_timeout: Duration,
    pub read_timeout: Duration,
    pub retry: Retry,
    pub health: Health,
    /// What happens to the exchange when the client leaves.
    pub client_abort: ClientAbort,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    LeastConn,
    RoundRobin,
}

impl Balance {
    /// As written in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LeastConn => "least_conn",
            Self::RoundRobin => "round_robin",
        }
    }
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

#[derive(Debug, Clone)]
pub struct Route {
    /// A metric label; made from host and path where the file gives none.
    pub name: Arc<str>,
    /// Empty: any host.
    pub hosts: Vec<HostPattern>,
    pub path: PathPattern,
    /// Empty: any method.
    pub methods: Vec<Method>,
    pub action: Action,
    /// Starts with `/`, does not end with one.
    pub strip_prefix: Option<String>,
    pub max_body: u64,
    pub first_byte_timeout: Option<Duration>,
    pub read_timeout: Option<Duration>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
}

#[derive(Debug, Clone)]
pub enum Action {
    /// Index into [`Config::upstreams`].
    Upstream(usize),
    Respond {
        status: u16,
        body: String,
        content_type: HeaderValue,
    },
    /// `to` may hold `{path}`, `{query}` (with its `?`, or nothing), `{host}`.
    Redirect {
        status: u16,
        to: RedirectTemplate,
    },
}

/// The pieces of a redirect's target, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedirectTemplate(pub Vec<RedirectPiece>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectPiece {
    Text(String),
    Host,
    Path,
    Query,
}

/// Fields set (replacing) and removed.
#[derive(Debug, Clone, Default)]
pub struct HeaderEdits {
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub remove: Vec<HeaderName>,
}

/// A host as routes and `allowed_hosts` name it: lower case, no port, no trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(String),
    /// `*.example.com`, held as `example.com`: one label or more before it.
    Suffix(String),
}

/// The one pattern language for paths; `route/pattern.rs` matches it.
#[derive(Debug, Clone)]
pub enum PathPattern {
    /// `/a/b`
    Exact(String),
    /// `/a/*`, held as `/a/`: everything that starts with it. `/*` is held as `/`.
    Prefix(String),
    /// `/img/*.png`: `*` matches within its segment, never a `/`. A last segment that is `*` alone matches everything
    /// below.
    Glob(String),
    /// `~^/v[0-9]+/`
    Regex(regex::bytes::Regex),
}

/// The body of one of our own answers, read at load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorPage {
    pub content_type: HeaderValue,
    pub body: bytes::Bytes,
}
