//! `/status`: what is going on, as JSON, for a person or a script that wants one look.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::config::model::{self, Preset};
use crate::observe::metrics::{CacheResult, CacheTier, Lately, LimitDecision, StatusClass};
use crate::state::Snapshot;
use crate::upstream::{Target, Upstream};

/// The document. It reads files of `/proc`, and adds up counters of every core: not for a thread that serves requests.
pub fn status(snapshot: &Snapshot) -> Value {
    let shared = &snapshot.shared;
    let metrics = &shared.metrics;
    let now = Instant::now();
    let process = metrics.process();
    let routes = snapshot.route_metrics.iter().chain([&metrics.no_route]);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started": seconds(shared.started),
        "uptime_seconds": shared.started.elapsed().unwrap_or_default().as_secs(),
        "draining": shared.is_draining(),
        "maintenance": { "on": shared.maintenance.is_on(), "by": shared.maintenance.said_by() },
        "config": {
            "file": snapshot.config.source,
            "generation": snapshot.generation,
            "last_reload_success": metrics.last_reload_succeeded(),
            "last_read": seconds(metrics.last_read()),
        },
        "process": {
            "resident_bytes": process.resident_bytes,
            "open_fds": process.open_fds,
            "max_fds": process.max_fds,
            "panics": metrics.panics.get(),
        },
        "access_log_dropped": metrics.access_log_dropped.get(),
        "connections": shared.connections.open(),
        "listeners": metrics.listeners().iter().map(|listener| json!({
            "listener": listener.name(),
            "connections": listener.open(),
            "active": listener.active(),
        })).collect::<Vec<_>>(),
        "certificates": metrics.tls.certificates().iter().map(|certificate| json!({
            "file": certificate.file,
            "names": certificate.names,
            "expires": seconds(certificate.not_after),
        })).collect::<Vec<_>>(),
        "refusals": counts(metrics.rejections()),
        "routes": routes.map(|route| json!({
            "name": route.name(),
            "in_flight": route.in_flight(),
            "last_minute": lately(route.lately(now).as_ref()),
        })).collect::<Vec<_>>(),
        "limits": limits(snapshot),
        "spool": spool(snapshot),
        "redis": snapshot.redis.as_ref().map(|redis| json!({
            "url": redis.config().url.to_string(),
            "up": redis.is_up(),
            "error": redis.trouble(),
        })),
        "cache": snapshot.config.cache.as_ref().map(|config| cache(snapshot, config)),
        "upstreams": snapshot.upstreams.iter().map(|upstream| describe(upstream, now)).collect::<Vec<_>>(),
    })
}

/// Since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Rates a second, and times in seconds that the half, 95 and 99 of a hundred requests did not exceed, as well as the buckets of the
/// metrics tell.
fn lately(lately: Option<&Lately>) -> Value {
    let Some(lately) = lately else { return Value::Null };
    let quantile = |share| lately.quantile(share).map(three_digits);
    json!({
        "seconds": three_digits(lately.seconds),
        "requests": lately.count(),
        "rate": three_digits(lately.rate()),
        "rate_4xx": three_digits(lately.rate_of(StatusClass::ClientError)),
        "rate_5xx": three_digits(lately.rate_of(StatusClass::ServerError)),
        "p50": quantile(0.5),
        "p95": quantile(0.95),
        "p99": quantile(0.99),
    })
}

/// Of the limits that are configured: others may still be counted for requests that end.
fn limits(snapshot: &Snapshot) -> Value {
    let is_there = |name: &str| {
        let mut limits = snapshot.config.routes.iter().flat_map(|route| &route.rate_limits);
        limits.any(|limit| *limit.name == *name)
    };
    let limits = snapshot.shared.metrics.limits().into_iter().filter(|limit| is_there(limit.name())).map(|limit| {
        let decisions = LimitDecision::ALL.iter().map(|decision| (decision.text(), limit.count(*decision)));
        json!({ "name": limit.name(), "decisions": counts(decisions) })
    });
    limits.collect()
}

fn counts(counts: impl IntoIterator<Item = (&'static str, u64)>) -> Value {
    Value::Object(counts.into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect())
}

fn spool(snapshot: &Snapshot) -> Value {
    let depot = &snapshot.shared.depot;
    let (usage, limits) = (depot.usage(), depot.limits());
    json!({
        "memory_bytes": usage.memory,
        "memory_limit": limits.memory,
        "disk_bytes": usage.disk,
        "disk_limit": limits.disk,
        "files": usage.files,
    })
}

fn cache(snapshot: &Snapshot, config: &model::Cache) -> Value {
    let rules = snapshot.cache_rules.iter().map(|rule| {
        let count = |result| rule.metrics.count(result);
        let given: u64 = [CacheResult::Hit, CacheResult::Stale, CacheResult::Revalidated, CacheResult::Collapsed]
            .into_iter()
            .map(count)
            .sum();
        let looked = given + count(CacheResult::Miss);
        let (entries, bytes) = rule.metrics.held(CacheTier::Memory);
        let (files, disk_bytes) = rule.metrics.held(CacheTier::Disk);
        json!({
            "name": &*rule.config.name,
            "requests": looked + count(CacheResult::Bypass),
            "hit_rate": (looked > 0).then(|| ratio(given, looked)),
            "bypasses": count(CacheResult::Bypass),
            "entries": entries,
            "bytes": bytes,
            "disk_entries": files,
            "disk_bytes": disk_bytes,
        })
    });
    json!({
        "memory_bytes": snapshot.shared.cache.bytes(),
        "memory_limit": config.memory,
        "shared": snapshot.cache_redis.as_ref().map(|redis| json!({
            "up": redis.is_up(),
            "error": redis.trouble(),
            "current": snapshot.shared.cache.shared().is_some_and(|tier| tier.is_current()),
        })),
        "disk_limit": config.disk.as_ref().map(|disk| disk.max),
        "rules": rules.collect::<Vec<_>>(),
    })
}

/// With three digits.
fn ratio(part: u64, whole: u64) -> f64 {
    #[allow(clippy::cast_precision_loss)] // It is shown with three digits.
    let ratio = part as f64 / whole as f64;
    three_digits(ratio)
}

fn three_digits(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn describe(upstream: &Upstream, now: Instant) -> Value {
    let config = &upstream.config;
    json!({
        "name": &*config.name,
        "preset": config.preset.map(Preset::name),
        "balance": config.balance.name(),
        "capacity_per_endpoint": config.capacity,
        "queue": {
            "waiting": upstream.waiting(),
            "max": config.queue.max,
            "timeout_seconds": config.queue.timeout.as_secs_f64(),
        },
        "endpoints": upstream.targets().list.iter().map(|target| endpoint(target, now)).collect::<Vec<_>>(),
    })
}

fn endpoint(target: &Target, now: Instant) -> Value {
    let endpoint = &target.endpoint;
    let health = match (endpoint.is_known(), endpoint.is_healthy()) {
        (false, _) => "unknown",
        (true, true) => "healthy",
        (true, false) => "unhealthy",
    };
    json!({
        "endpoint": endpoint.label,
        "health": health,
        "reachable": endpoint.is_reachable(),
        "ejected": endpoint.is_ejected(),
        "drained": endpoint.is_drained(),
        "ejections": endpoint.metrics.ejections(),
        "in_flight": endpoint.in_flight(),
        "idle_connections": endpoint.pool.idle(),
        "closes_idle_after_seconds": endpoint.pool.close_time().map(|time| time.as_secs_f64()),
        "weight": target.weight,
        "backup": target.backup,
        "last_minute": lately(endpoint.metrics.lately(now).as_ref()),
    })
}
