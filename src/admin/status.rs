//! `/status`: what is going on, as JSON, for a person or a script that wants one look.

use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use crate::config::model::{self, Preset};
use crate::observe::metrics::{CacheResult, CacheTier};
use crate::state::Snapshot;
use crate::upstream::{Target, Upstream};

/// The document.
pub fn status(snapshot: &Snapshot) -> Value {
    let shared = &snapshot.shared;
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started": shared.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        "uptime_seconds": shared.started.elapsed().unwrap_or_default().as_secs(),
        "draining": shared.is_draining(),
        "maintenance": { "on": shared.maintenance.is_on(), "by": shared.maintenance.said_by() },
        "config": {
            "file": snapshot.config.source,
            "generation": snapshot.generation,
            "last_reload_success": shared.metrics.last_reload_succeeded(),
        },
        "connections": shared.connections.open(),
        "redis": snapshot.redis.as_ref().map(|redis| json!({
            "url": redis.config().url.to_string(),
            "up": redis.is_up(),
            "error": redis.trouble(),
        })),
        "cache": snapshot.config.cache.as_ref().map(|config| cache(snapshot, config)),
        "upstreams": snapshot.upstreams.iter().map(|upstream| describe(upstream)).collect::<Vec<_>>(),
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
    (ratio * 1000.0).round() / 1000.0
}

fn describe(upstream: &Upstream) -> Value {
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
        "endpoints": upstream.targets().list.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn endpoint(target: &Target) -> Value {
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
        "in_flight": endpoint.in_flight(),
        "idle_connections": endpoint.pool.idle(),
        "closes_idle_after_seconds": endpoint.pool.close_time().map(|time| time.as_secs_f64()),
        "weight": target.weight,
        "backup": target.backup,
    })
}
