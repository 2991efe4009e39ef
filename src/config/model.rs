//! The configuration with nothing left to parse: every string became a type, every name an index, every default a
//! value.
//!
//! `validate` is the only producer. What needs a restart stands in [`RestartOnly`]; everything else takes effect with a
//! reload. `upstream.rs` holds what belongs to an upstream, `tls.rs` what belongs to TLS. No Pingora, no sockets, no clock.

mod access;
mod cache;
mod cors;
mod limit;
mod security;
mod tls;
mod upstream;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;

pub use access::{Access, Maintenance, Networks, PasswordHash, Users};
pub use cache::{Cache, CacheDisk, CacheRule, CookiePattern, KeyQuery, Ttl};
pub use cors::{Cors, OriginPattern};
pub use limit::{KeyPart, OnRedisDown, Rate, RateLimit, Redis, RedisKind, RedisNode, RedisUrl, Secret};
pub use security::{Csp, Hsts, SecurityField, SecurityHeaders};
pub use tls::{CertificateFiles, ClientCerts, Tls, TlsVersion, UpstreamTls};
pub use upstream::{
    Balance, ClientAbort, Ejection, EndpointAddr, EndpointConfig, HashKey, HeadLimits, Health, Keepalive, Preset,
    Queue, Retry, StatusRanges, Upstream,
};

/// A whole, valid configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from; none with `run --to`.
    pub source: Option<PathBuf>,
    pub restart: RestartOnly,
    pub server: Server,
    pub client: ClientLimits,
    pub admin: Admin,
    pub tls: Tls,
    pub log: Log,
    pub tracing: Tracing,
    pub spool: Spool,
    /// None: limits are kept in this process.
    pub redis: Option<Redis>,
    pub maintenance: Maintenance,
    /// None: no answer is kept.
    pub cache: Option<Cache>,
    /// Sorted by name; [`Action::Upstream`] holds an index into it.
    pub upstreams: Vec<Upstream>,
    /// In the order of the file.
    pub routes: Vec<Route>,
    /// The set of security fields of answers without a route.
    pub security: SecurityHeaders,
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
    /// Plain ones and those with TLS; at least one.
    pub listen: Vec<Listener>,
    /// Whether plain requests are sent to HTTPS.
    pub https_redirect: bool,
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

impl Server {
    /// Where clients are listened to.
    #[must_use]
    pub fn addresses(&self) -> Vec<ListenAddr> {
        self.listen.iter().map(|listener| listener.address.clone()).collect()
    }

    /// The port of the first TCP listener that speaks TLS.
    #[must_use]
    pub fn tls_port(&self) -> Option<u16> {
        self.listen.iter().find_map(|listener| match (&listener.protocol, &listener.address) {
            (Protocol::Https { .. }, ListenAddr::Tcp(address)) => Some(address.port()),
            _ => None,
        })
    }
}

/// A listener for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub address: ListenAddr,
    /// Whether trusted peers say first whom they speak for.
    pub proxy_protocol: bool,
    pub protocol: Protocol,
}

/// What is spoken on a listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Protocol {
    Http,
    Https {
        /// Whether clients are asked for a certificate.
        client_certs: Option<ClientCerts>,
    },
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
    pub redact: Redact,
}

/// What the access log is not to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Redact {
    /// Names of query parameters, in any case; `*` is all.
    pub query: Vec<String>,
    /// Names of members of a line.
    pub fields: Vec<String>,
}

/// Which trace a request belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracing {
    pub start: bool,
    /// How many are recorded, in millionths.
    pub sample: u32,
    /// None: they are not sent.
    pub collector: Option<Collector>,
}

/// Where traces are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// Whole.
    pub url: String,
    pub headers: Vec<(HeaderName, Secret)>,
    pub service_name: String,
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

/// Where bodies wait, and how much of them may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    /// Bytes of all bodies together that are held in memory.
    pub memory: u64,
    /// Bytes of one body that are held in memory; at most `memory`.
    pub memory_per_body: u64,
    /// Absolute; whether it is there and can be written to is not known here.
    pub dir: PathBuf,
    /// Bytes of all files together; 0: no files.
    pub disk: u64,
    /// Bytes of one body that are written to a file; at most `disk`.
    pub disk_per_body: u64,
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
    pub priority: Priority,
    pub max_body: u64,
    pub rate_limits: Vec<RateLimit>,
    /// Instead of the upstream's.
    pub buffer_requests: Option<bool>,
    /// Instead of the upstream's.
    pub buffer_responses: Option<bool>,
    /// Instead of the upstream's [`Queue::timeout`].
    pub queue_timeout: Option<Duration>,
    pub first_byte_timeout: Option<Duration>,
    pub read_timeout: Option<Duration>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub security: SecurityHeaders,
    /// None: the app's own affair.
    pub cors: Option<Cors>,
    /// None: everybody may come.
    pub access: Option<Access>,
    /// Whether clients are told where the time went.
    pub server_timing: bool,
}

/// Who goes first where requests wait for an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    #[default]
    Normal,
    /// Ahead of every normal one.
    High,
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
