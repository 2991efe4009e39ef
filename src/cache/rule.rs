//! `[[cache.rules]]`, ready to be asked: which rule a request meets, and under which key its answer is kept.

use std::sync::Arc;

use crate::config::model::{Cache, CacheRule, KeyQuery};
use crate::observe::metrics::{CacheMetrics, Metrics};
use crate::route::host::AllowedHosts;
use crate::route::pattern::Pattern;

/// All rules, in the order of the file.
#[derive(Debug, Default)]
pub struct Rules(Vec<Arc<Rule>>);

/// One rule.
#[derive(Debug)]
pub struct Rule {
    pub config: CacheRule,
    /// Bytes of a body that is kept.
    pub max_body: u64,
    pub metrics: Arc<CacheMetrics>,
    hosts: AllowedHosts,
    path: Pattern,
    /// How the query counts, as it stands in keys: answers kept under other settings are others.
    query_mode: Vec<u8>,
}

/// What of a request tells its answer from others: that of the app as the app sees it.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub https: bool,
    /// In lower case, without port.
    pub host: &'a str,
    /// None, or one that is not that of the scheme.
    pub port: Option<u16>,
    /// As the client sent them.
    pub path: &'a [u8],
    pub query: Option<&'a [u8]>,
}

impl Rules {
    #[must_use]
    pub fn build(config: Option<&Cache>, metrics: &Arc<Metrics>) -> Self {
        let Some(cache) = config else { return Self::default() };
        Self(cache.rules.iter().map(|rule| Arc::new(Rule::new(rule, cache, metrics))).collect())
    }

    /// The rule for a host (in lower case, without port) and a decoded path.
    #[must_use]
    pub fn find(&self, host: Option<&str>, path: &[u8]) -> Option<&Arc<Rule>> {
        self.0.iter().find(|rule| rule.hosts.allows(host) && rule.path.matches(path))
    }

    /// Every rule.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.0.iter()
    }
}

impl Rule {
    fn new(config: &CacheRule, cache: &Cache, metrics: &Arc<Metrics>) -> Self {
        let mut query_mode = Vec::new();
        match &config.key_query {
            KeyQuery::All => query_mode.push(b'a'),
            KeyQuery::None => query_mode.push(b'n'),
            KeyQuery::Only(names) => {
                query_mode.push(b'o');
                query_mode.extend_from_slice(names.join("&").as_bytes());
                query_mode.push(b'\n');
            }
        }
        Self {
            config: config.clone(),
            max_body: super::most_of_one(cache),
            metrics: metrics.cache(&config.name),
            hosts: AllowedHosts::new(&config.hosts),
            path: Pattern::new(&config.path),
            query_mode,
        }
    }

    /// The key of what this rule keeps for `target`: `https`, host, path and what counts of the query, a line each. No part can
    /// hold a line feed.
    #[must_use]
    pub fn key(&self, target: &Target<'_>) -> Vec<u8> {
        let query = target.query.unwrap_or_default();
        let mut key =
            Vec::with_capacity(target.host.len() + target.path.len() + query.len() + self.query_mode.len() + 20);
        key.extend_from_slice(if target.https { b"https\n" } else { b"http\n" });
        key.extend_from_slice(target.host.as_bytes());
        if let Some(port) = target.port {
            key.push(b':');
            key.extend_from_slice(itoa::Buffer::new().format(port).as_bytes());
        }
        key.push(b'\n');
        key.extend_from_slice(target.path);
        key.push(b'\n');
        key.extend_from_slice(&self.query_mode);
        match &self.config.key_query {
            KeyQuery::All => {
                // `/a?` is another resource than `/a` (RFC 3986 section 6.2.3).
                if target.query.is_some() {
                    key.push(b'?');
                    key.extend_from_slice(query);
                }
            }
            KeyQuery::None => {}
            KeyQuery::Only(names) => {
                let name = |pair: &[u8]| pair.split(|byte| *byte == b'=').next().unwrap_or_default().to_owned();
                for pair in query.split(|byte| *byte == b'&') {
                    if names.iter().any(|known| known.as_bytes() == name(pair)) {
                        key.push(b'&');
                        key.extend_from_slice(pair);
                    }
                }
            }
        }
        key
    }

    /// Whether all cookies of a `Cookie` field are ones that have no influence.
    #[must_use]
    pub fn ignores_cookies(&self, field: &[u8]) -> bool {
        let pairs = field.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty());
        pairs.into_iter().all(|pair| {
            let name = pair.iter().position(|byte| *byte == b'=').and_then(|at| pair.get(..at));
            // What has no name could be anybody's.
            name.is_some_and(|name| self.config.ignore_cookies.iter().any(|known| known.matches(name.trim_ascii())))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;
    use crate::config::model::{CookiePattern, PathPattern};

    /// A rule for everything, as it is when nothing is said.
    pub fn rule(edit: impl FnOnce(&mut CacheRule)) -> Rule {
        let mut config = CacheRule {
            name: "rule".into(),
            hosts: Vec::new(),
            path: PathPattern::Prefix("/".into()),
            ttl: None,
            overrides: false,
            stale_while_revalidate: std::time::Duration::ZERO,
            stale_if_error: std::time::Duration::ZERO,
            key_query: KeyQuery::All,
            key_headers: Vec::new(),
            ignore_cookies: Vec::new(),
            ignore_client_directives: false,
            collapse_timeout: std::time::Duration::from_secs(5),
        };
        edit(&mut config);
        let cache = Cache { memory: 1 << 20, max_body: 1 << 20, disk: None, shared: false, rules: Vec::new() };
        Rule::new(&config, &cache, &Metrics::new("test", &[]))
    }

    fn key(rule: &Rule, path: &str, query: Option<&str>) -> String {
        let target =
            Target { https: true, host: "a.b", port: None, path: path.as_bytes(), query: query.map(str::as_bytes) };
        String::from_utf8(rule.key(&target)).unwrap()
    }

    #[test]
    fn a_key_has_what_the_rule_says_of_the_query() {
        let all = rule(|_| ());
        assert_eq!(key(&all, "/p", Some("x=1&y")), "https\na.b\n/p\na?x=1&y");
        assert_ne!(key(&all, "/p", Some("")), key(&all, "/p", None));
        let none = rule(|rule| rule.key_query = KeyQuery::None);
        assert_eq!(key(&none, "/p", Some("x=1")), key(&none, "/p", None));
        assert_ne!(key(&none, "/p", None), key(&all, "/p", None));
        let only = rule(|rule| rule.key_query = KeyQuery::Only(vec!["page".into(), "q".into()]));
        assert_eq!(key(&only, "/p", Some("utm=z&page=2&q&pages=9")), "https\na.b\n/p\nopage&q\n&page=2&q");
        assert_eq!(key(&only, "/p", Some("utm=z")), key(&only, "/p", None));
    }

    #[test]
    fn only_cookies_that_are_named_have_no_influence() {
        let rule = rule(|rule| rule.ignore_cookies = vec![CookiePattern("_ga*".into()), CookiePattern("seen".into())]);
        for harmless in ["_ga=1", "_ga_X=1; seen=2", "", "; ;", " seen = 3 ;"] {
            assert!(rule.ignores_cookies(harmless.as_bytes()), "{harmless}");
        }
        for other in ["session=1", "_ga=1; session=2", "session", "_ga", "=1", "_ga=\"a; session=2\"", "_GA=1"] {
            assert!(!rule.ignores_cookies(other.as_bytes()), "{other}");
        }
    }
}
