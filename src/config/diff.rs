//! What a reload changes: which keys only a restart would change, and a summary for the log.

use std::collections::BTreeMap;
use std::fmt;

use super::model::{Config, ListenAddr};

/// Key paths that differ and that only a restart changes; the running process keeps its old values.
#[must_use]
pub fn restart_only_changes(old: &Config, new: &Config) -> Vec<&'static str> {
    let (old, new) = (&old.restart, &new.restart);
    let changes = [
        ("server.threads", old.threads != new.threads),
        ("server.pid_file", old.pid_file != new.pid_file),
        ("admin.control", old.control != new.control),
    ];
    changes.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

/// What a reload does, for one line of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Of `server.listen` and `admin.listen` together.
    pub listeners_added: Vec<String>,
    pub listeners_removed: Vec<String>,
    pub upstreams_added: Vec<String>,
    pub upstreams_removed: Vec<String>,
    /// Of the same name, with anything else about them.
    pub upstreams_changed: Vec<String>,
    /// Of the same address, with anything else about them.
    pub listeners_changed: Vec<String>,
    /// Whether anything in `[tls]` differs. What its files hold is not known here.
    pub tls_changed: bool,
    /// Whether anything in `[spool]` differs.
    pub spool_changed: bool,
    /// Whether anything in `[redis]` differs.
    pub redis_changed: bool,
    /// Limits that are new, or have another rate or key than before: their buckets begin full.
    pub rate_limits_changed: Vec<String>,
    pub routes_before: usize,
    pub routes_now: usize,
}

/// Compares what runs with what is about to.
#[must_use]
pub fn summary(old: &Config, new: &Config) -> Summary {
    let (before, now) = (listeners(old), listeners(new));
    let missing_in =
        |from: &[String], other: &[String]| from.iter().filter(|item| !other.contains(item)).cloned().collect();
    let names = |config: &Config| -> Vec<String> {
        config.upstreams.iter().map(|upstream| upstream.name.to_string()).collect()
    };
    let (names_before, names_now) = (names(old), names(new));
    let changed = new
        .upstreams
        .iter()
        .filter(|upstream| old.upstreams.iter().any(|earlier| earlier.name == upstream.name && earlier != *upstream));
    Summary {
        listeners_added: missing_in(&now, &before),
        listeners_removed: missing_in(&before, &now),
        upstreams_added: missing_in(&names_now, &names_before),
        upstreams_removed: missing_in(&names_before, &names_now),
        upstreams_changed: changed.map(|upstream| upstream.name.to_string()).collect(),
        listeners_changed: listeners_changed(old, new),
        tls_changed: old.tls != new.tls,
        spool_changed: old.spool != new.spool,
        redis_changed: old.redis != new.redis,
        rate_limits_changed: rate_limits_changed(old, new),
        routes_before: old.routes.len(),
        routes_now: new.routes.len(),
    }
}

fn listeners(config: &Config) -> Vec<String> {
    config.server.addresses().iter().chain(&config.admin.listen).map(ListenAddr::to_string).collect()
}

fn rate_limits_changed(old: &Config, new: &Config) -> Vec<String> {
    let of = |config: &Config| -> BTreeMap<String, _> {
        let limits = config.routes.iter().flat_map(|route| &route.rate_limits);
        limits
            .map(|limit| {
                (limit.name.to_string(), (limit.rate.map(|rate| (rate.count, rate.period)), limit.key.clone()))
            })
            .collect()
    };
    let before = of(old);
    of(new).into_iter().filter(|(name, limit)| before.get(name) != Some(limit)).map(|(name, _)| name).collect()
}

fn listeners_changed(old: &Config, new: &Config) -> Vec<String> {
    let earlier = |address| old.server.listen.iter().find(|listener| listener.address == address);
    let changed = new
        .server
        .listen
        .iter()
        .filter(|listener| earlier(listener.address.clone()).is_some_and(|earlier| earlier != *listener));
    changed.map(|listener| listener.address.to_string()).collect()
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [
            ("listeners added", &self.listeners_added),
            ("listeners removed", &self.listeners_removed),
            ("listeners changed", &self.listeners_changed),
            ("upstreams added", &self.upstreams_added),
            ("upstreams removed", &self.upstreams_removed),
            ("upstreams changed", &self.upstreams_changed),
            ("rate limits changed", &self.rate_limits_changed),
        ];
        for (what, items) in lists {
            if !items.is_empty() {
                write!(out, "{what}: {}; ", items.join(", "))?;
            }
        }
        if self.tls_changed {
            out.write_str("tls changed; ")?;
        }
        if self.spool_changed {
            out.write_str("spool changed; ")?;
        }
        if self.redis_changed {
            out.write_str("redis changed; ")?;
        }
        if self.routes_before == self.routes_now {
            write!(out, "routes: {}", self.routes_now)
        } else {
            write!(out, "routes: {}, before {}", self.routes_now, self.routes_before)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn config(text: &str) -> Config {
        parse(text, None).unwrap().0
    }

    const OLD: &str = "
        server.threads = 2
        server.listen = ['127.0.0.1:80']
        routes = [{ upstream = 'a' }]
        upstreams.a.endpoints = ['127.0.0.1:1']
        upstreams.b.endpoints = ['127.0.0.1:2']
    ";
    const NEW: &str = "
        server.threads = 3
        server.listen = ['127.0.0.1:80', '127.0.0.1:81']
        admin.control = 'unix:/run/c'
        routes = [{ upstream = 'a' }, { path = '/x', respond.body = 'x' }]
        upstreams.a.endpoints = ['127.0.0.1:1', '127.0.0.1:3']
        upstreams.c.endpoints = ['127.0.0.1:2']
        spool.disk = '4GiB'
        redis.url = 'redis://r'
    ";

    #[test]
    fn what_changed_is_named() {
        let (old, new) = (config(OLD), config(NEW));
        assert_eq!(restart_only_changes(&old, &new), ["server.threads", "admin.control"]);
        assert_eq!(
            summary(&old, &new).to_string(),
            "listeners added: 127.0.0.1:81; upstreams added: c; upstreams removed: b; upstreams changed: a; \
             spool changed; redis changed; routes: 2, before 1"
        );
    }

    #[test]
    fn whatever_changes_about_an_upstream_is_a_change() {
        let base = "upstreams.a = { endpoints = ['a:1', 'a:2'], workers = 2";
        let old = config(&format!("{base} }}"));
        for key in [
            "queue.max = 7",
            "queue.timeout = '1s'",
            "keepalive_timeout = '1s'",
            "balance = 'p2c'",
            "balance = 'hash:path'",
            "buffer_requests = false",
            "buffer_responses = false",
            "slow_start = '1s'",
            "ejection.time = '1s'",
            "ejection.max_ejected = '20%'",
            "ejection.consecutive_failures = 0",
        ] {
            let new = config(&format!("{base}, {key} }}"));
            assert_eq!(summary(&old, &new).upstreams_changed, ["a"], "{key}");
        }
        let defaults = "queue.max = 100, balance = 'least_conn', slow_start = '0s', ejection.max_ejected = '50%'";
        assert_eq!(summary(&old, &config(&format!("{base}, {defaults} }}"))).upstreams_changed, [""; 0]);
    }

    #[test]
    fn a_limit_whose_buckets_begin_anew_is_named() {
        let with = |limits: &str| config(&format!("routes = [{{ respond.body = '', rate_limit = [{limits}] }}]"));
        let old = with("{ name = 'a', rate = '1/s' }, { name = 'b', rate = '2/s' }");
        let new = with(
            "{ name = 'a', rate = '1/s', dry_run = true }, { name = 'b', rate = '3/s' }, { name = 'c', rate = '2/s' }",
        );
        assert_eq!(summary(&old, &new).rate_limits_changed, ["b", "c"]);
    }

    #[test]
    fn the_same_file_changes_nothing() {
        assert_eq!(restart_only_changes(&config(NEW), &config(NEW)), Vec::<&str>::new());
        assert_eq!(summary(&config(NEW), &config(NEW)).to_string(), "routes: 2");
    }
}
