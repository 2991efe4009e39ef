//! The cache, with nothing left to parse.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::{HostPattern, PathPattern};

/// Answers that are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Bytes of all of them in memory.
    pub memory: u64,
    /// Bytes of one body.
    pub max_body: u64,
    /// None: nothing is kept on disk.
    pub disk: Option<CacheDisk>,
    /// Whether other gateways have it too, through Redis.
    pub shared: bool,
    /// In the order of the file; the first that matches counts.
    pub rules: Vec<CacheRule>,
}

/// Files for what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheDisk {
    pub path: PathBuf,
    /// Bytes of all of them.
    pub max: u64,
}

/// Which answers are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRule {
    pub name: Arc<str>,
    /// Empty: any host.
    pub hosts: Vec<HostPattern>,
    pub path: PathPattern,
    /// None: an answer says itself how long it may be given.
    pub ttl: Option<Ttl>,
    /// Whether `ttl` goes before what an answer says.
    pub overrides: bool,
    pub stale_while_revalidate: Duration,
    pub stale_if_error: Duration,
    pub key_query: KeyQuery,
    pub key_headers: Vec<HeaderName>,
    pub ignore_cookies: Vec<CookiePattern>,
    pub ignore_client_directives: bool,
    pub collapse_timeout: Duration,
}

/// How long an answer of which status may be given again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ttl {
    /// By status.
    pub times: BTreeMap<u16, Duration>,
    /// Whether it was written as one time for all.
    pub alone: bool,
}

impl Ttl {
    /// One time: for what is cacheable by default and seldom changes its status, and a little of what does (RFC 9110 section
    /// 15.1).
    #[must_use]
    pub fn alone(time: Duration) -> Self {
        const GONE: Duration = Duration::from_secs(10);
        let lasting = [200, 203, 301, 308].into_iter().map(|status| (status, time));
        let passing = [404, 410].into_iter().map(|status| (status, time.min(GONE)));
        Self { times: lasting.chain(passing).collect(), alone: true }
    }

    /// How long an answer with `status` may be given.
    #[must_use]
    pub fn of(&self, status: u16) -> Option<Duration> {
        self.times.get(&status).copied()
    }
}

/// The part of a query that tells one answer from another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum KeyQuery {
    #[default]
    All,
    None,
    /// These parameters, in the order in which the request has them.
    Only(Vec<String>),
}

/// Names of cookies; `*` stands for any characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookiePattern(pub String);

impl CookiePattern {
    /// Whether a cookie's name, which counts by case, is meant.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        let mut parts = self.0.as_bytes().split(|byte| *byte == b'*');
        let Some(mut rest) = parts.next().and_then(|head| name.strip_prefix(head)) else { return false };
        let mut parts: Vec<&[u8]> = parts.collect();
        let Some(tail) = parts.pop() else { return rest.is_empty() };
        for part in parts {
            let Some(at) = memchr::memmem::find(rest, part) else { return false };
            rest = rest.get(at + part.len()..).unwrap_or_default();
        }
        rest.ends_with(tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_cookies() {
        for (pattern, name, expected) in [
            ("_ga", "_ga", true),
            ("_ga", "_gat", false),
            ("_ga*", "_ga", true),
            ("_ga*", "_ga_X1", true),
            ("_ga*", "x_ga", false),
            ("*_id", "client_id", true),
            ("*_id", "client_ids", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "ac", false),
            ("a*b*b", "ab", false),
            ("a*a", "a", false),
            ("*", "anything", true),
            ("_GA", "_ga", false),
        ] {
            assert_eq!(CookiePattern(pattern.into()).matches(name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn one_time_means_lasting_answers_and_a_little_of_those_that_are_gone() {
        let ttl = Ttl::alone(Duration::from_secs(1800));
        assert_eq!(ttl.of(200), Some(Duration::from_secs(1800)));
        assert_eq!(ttl.of(404), Some(Duration::from_secs(10)));
        assert_eq!(ttl.of(302), None);
        assert_eq!(ttl.of(500), None);
        assert_eq!(Ttl::alone(Duration::from_secs(1)).of(410), Some(Duration::from_secs(1)));
    }
}
