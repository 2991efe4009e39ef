//! Rate limits, and the Redis that gateways share them through, with nothing left to parse.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

/// How much of one route's work one client may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// The rule's name; rules of one name share their buckets.
    pub name: Arc<str>,
    /// None: only `concurrency` limits.
    pub rate: Option<Rate>,
    /// Requests of one key that may be in flight at once.
    pub concurrency: Option<u32>,
    /// What a bucket is kept for; at least one part.
    pub key: Vec<KeyPart>,
    pub on_redis_down: OnRedisDown,
    /// Count and log what would be refused, and let it pass.
    pub dry_run: bool,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that come in each `period`; at least 1.
    pub count: u32,
    /// Whole seconds.
    pub period: Duration,
    /// Tokens a full bucket has; at least 1.
    pub burst: u32,
    /// Tokens one request takes; at least 1, at most `burst`.
    pub cost: u32,
}

impl Rate {
    /// What [`Rate::ticks`] may be at most: sums of two stay exact in the 53 bits of a number in Lua.
    pub const TICKS_MAX: u64 = 1 << 52;

    /// The rate in lowest terms: so many tokens come in so many microseconds.
    #[must_use]
    pub fn lowest_terms(&self) -> (u64, u64) {
        let (count, micros) = (u64::from(self.count), self.period.as_secs() * 1_000_000);
        let (mut a, mut b) = (micros, count);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        (count / a.max(1), micros / a.max(1))
    }

    /// How long a bucket takes to fill, in microseconds divided by the first number of [`Rate::lowest_terms`].
    #[must_use]
    pub fn ticks(&self) -> u64 {
        u64::from(self.burst).saturating_mul(self.lowest_terms().1)
    }
}

/// As in the file: `100/60s`.
impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}s", self.count, self.period.as_secs())
    }
}

/// One thing by which clients are told apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyPart {
    /// After `trusted_proxies` was applied; of IPv6 the /64.
    ClientIp,
    Host,
    Route,
    Header(HeaderName),
    Cookie(String),
}

/// What a limit does while Redis does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnRedisDown {
    /// Go on with the buckets of this process.
    #[default]
    Local,
    /// Let everything pass.
    Allow,
    /// Refuse everything.
    Deny,
}

/// `[redis]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    pub url: RedisUrl,
    /// How long a request waits for an answer.
    pub timeout: Duration,
    /// PEM: the authorities that sign its certificate; none: those this system trusts.
    pub ca: Option<PathBuf>,
    pub sentinel_username: Option<String>,
    pub sentinel_password: Option<Secret>,
}

/// Which Redis, and who we are to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisUrl {
    pub kind: RedisKind,
    pub tls: bool,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub database: i64,
}

/// How the Redis is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisKind {
    Single(RedisNode),
    Unix(PathBuf),
    /// Sentinels that know the master under this name.
    Sentinel {
        nodes: Vec<RedisNode>,
        service: String,
    },
    Cluster(Vec<RedisNode>),
}

impl Default for RedisKind {
    fn default() -> Self {
        Self::Single(RedisNode::default())
    }
}

/// Where one Redis listens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisNode {
    /// A name or an address, without brackets.
    pub host: String,
    pub port: u16,
}

impl fmt::Display for RedisNode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(out, "[{}]:{}", self.host, self.port)
        } else {
            write!(out, "{}:{}", self.host, self.port)
        }
    }
}

/// Without what must not be seen.
impl fmt::Display for RedisUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |nodes: &[RedisNode]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let scheme = if self.tls { "rediss" } else { "redis" };
        match &self.kind {
            RedisKind::Single(node) => write!(out, "{scheme}://{node}"),
            RedisKind::Unix(path) => write!(out, "unix://{}", path.display()),
            RedisKind::Sentinel { nodes, service } => write!(out, "{scheme}+sentinel://{}/{service}", list(nodes)),
            RedisKind::Cluster(nodes) => write!(out, "{scheme}+cluster://{}", list(nodes)),
        }
    }
}

/// A text that no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret")
    }
}
