//! `rate_limit` of routes, and `[redis]`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::error::Report;
use super::super::model::{KeyPart, Rate, RateLimit, Redis, RedisKind, Route};
use super::super::place::{At, Place};
use super::super::raw;
use super::super::schema::{Int, OneOrMany, refuse_repeats};
use super::super::value::{COUNT_MAX, LimitRate};
use super::super::walk::quoted;
use super::{given, tls};

/// Longest time a request may be told to wait for Redis.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the limits of a route and their names stand in the file.
pub(super) struct Written(Vec<(Place, Option<Place>)>);

impl Written {
    pub(super) fn of(route: &raw::Route) -> Self {
        let limits = route.rate_limit.iter().flat_map(|limits| &limits.value.items);
        let name = |limit: &raw::RateLimit| limit.name.as_ref().map(|name| name.place.clone());
        Self(limits.map(|limit| (limit.place.clone(), name(&limit.value))).collect())
    }
}

/// The limits of a route, in the order of the file; those without a name of their own have none yet.
pub(super) fn build(list: OneOrMany<raw::RateLimit>, has_redis: bool, report: &mut Report) -> Vec<RateLimit> {
    list.items.into_iter().map(|limit| build_one(limit, has_redis, report)).collect()
}

fn build_one(limit: At<raw::RateLimit>, has_redis: bool, report: &mut Report) -> RateLimit {
    let At { value: raw, place } = limit;
    if !raw.written.contains(&"rate") && !raw.written.contains(&"concurrency") {
        report.problem(&place, "expected `rate` or `concurrency`; found neither");
    }
    if !raw.written.contains(&"rate") {
        let of_rate =
            [("burst", raw.burst.as_ref().map(|at| &at.place)), ("cost", raw.cost.as_ref().map(|at| &at.place))];
        let of_rate = of_rate.into_iter().chain([("on_redis_down", raw.on_redis_down.as_ref().map(|at| &at.place))]);
        for (key, at) in of_rate.filter(|(key, _)| raw.written.contains(key)) {
            let at = at.unwrap_or(&place);
            report.problem(at, format!("`{key}` has no effect without `rate`; expected `rate` beside it"));
        }
    } else if let Some(at) = raw.on_redis_down.as_ref().filter(|at| at.place.offset.is_some() && !has_redis) {
        report.warn(&at.place, "has no effect without [redis]: limits are kept in this process");
    }
    if let Some(name) = &raw.name
        && (name.value.is_empty()
            || name.value.len() > 200
            || !name.value.bytes().all(|b| b == b' ' || b.is_ascii_graphic()))
    {
        let found = quoted(&name.value);
        report.problem(&name.place, format!("expected a name of 1 to 200 printable ASCII characters; found {found}"));
    }
    RateLimit {
        name: Arc::from(raw.name.map(|name| name.value).unwrap_or_default()),
        rate: raw.rate.map(|rate| build_rate(&rate, raw.burst.as_ref(), raw.cost.as_ref(), report)),
        concurrency: raw.concurrency.map(|concurrency| concurrency.value.0),
        key: build_key(raw.key, report),
        on_redis_down: raw.on_redis_down.map(|policy| policy.value).unwrap_or_default(),
        dry_run: raw.dry_run.is_some_and(|dry| dry.value),
    }
}

fn build_rate(
    written: &At<LimitRate>,
    burst: Option<&At<Int<1, COUNT_MAX>>>,
    cost: Option<&At<Int<1, COUNT_MAX>>>,
    report: &mut Report,
) -> Rate {
    let LimitRate { count, period } = written.value;
    let rate = Rate {
        count,
        period,
        burst: burst.map_or(count, |burst| burst.value.0),
        cost: cost.map_or(1, |cost| cost.value.0),
    };
    if let Some(cost) = cost.filter(|_| rate.cost > rate.burst) {
        let message = format!("no bucket of {} ever has {} tokens: nothing would pass", rate.burst, rate.cost);
        report.problem(&cost.place, message);
    }
    if rate.ticks() > Rate::TICKS_MAX {
        let place = burst.map_or(&written.place, |burst| &burst.place);
        let most = Rate::TICKS_MAX / rate.lowest_terms().1;
        let message = format!(
            "a bucket of {} cannot be counted exactly at {}; expected at most {most}, or a rate over a shorter time",
            rate.burst, written.value
        );
        report.problem(place, message);
    }
    rate
}

fn build_key(key: Option<At<OneOrMany<KeyPart>>>, report: &mut Report) -> Vec<KeyPart> {
    let Some(key) = key else { return vec![KeyPart::ClientIp] };
    refuse_repeats(report, &key.value.items, Clone::clone);
    if key.value.written == 0 {
        report.problem(&key.place, "expected at least one; found an empty list");
    }
    key.value.items.into_iter().map(|part| part.value).collect()
}

/// Names the limits that have no name, and reports those of one name that do not agree.
pub(super) fn name(routes: &mut [Route], written: &[Written], report: &mut Report) {
    let mut named: HashMap<Arc<str>, (RateLimit, &Place)> = HashMap::new();
    for (route, places) in routes.iter().zip(written) {
        let mut here: Vec<(&Arc<str>, &Place)> = Vec::new();
        for (limit, (place, _)) in route.rate_limits.iter().zip(&places.0).filter(|(_, (_, name))| name.is_some()) {
            if let Some((_, at)) = here.iter().find(|(name, _)| **name == limit.name) {
                report.problem(place, format!("is on this route already: {at} has the same name"));
                continue;
            }
            here.push((&limit.name, place));
            match named.get(&limit.name) {
                Some((first, at)) => check_agreement(first, at, limit, place, report),
                None => drop(named.insert(limit.name.clone(), (limit.clone(), place))),
            }
        }
    }
    for (route, places) in routes.iter_mut().zip(written) {
        let base: String = route.name.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '_' }).collect();
        let mut number = 1;
        for (limit, _) in route.rate_limits.iter_mut().zip(&places.0).filter(|(_, (_, name))| name.is_none()) {
            let mut name = if number == 1 { base.clone() } else { format!("{base} #{number}") };
            // Taken by a name of the operator's own, or by a route whose name differs in what is not ASCII.
            while named.contains_key(&*name) {
                number += 1;
                name = format!("{base} #{number}");
            }
            number += 1;
            limit.name = Arc::from(name);
            if let Some((place, _)) = places.0.first() {
                named.insert(limit.name.clone(), (limit.clone(), place));
            }
        }
    }
}

fn check_agreement(first: &RateLimit, at: &Place, limit: &RateLimit, place: &Place, report: &mut Report) {
    let bucket = |limit: &RateLimit| limit.rate.map(|rate| (rate.count, rate.period, rate.burst));
    let differs = [
        ("rate or burst", bucket(first) != bucket(limit)),
        ("concurrency", first.concurrency != limit.concurrency),
        ("key", first.key != limit.key),
    ];
    if let Some((what, _)) = differs.into_iter().find(|(_, differs)| *differs) {
        let name = quoted(&limit.name);
        report.problem(place, format!("shares the buckets of {at} by its name {name}, but has another {what}"));
    }
}

/// `[redis]`.
pub(super) fn redis(redis: At<raw::Redis>, base: &Path, report: &mut Report) -> Redis {
    let raw = redis.value;
    let mut url = given(raw.url.clone());
    match (&raw.password, &url.password) {
        (Some(at), Some(_)) => report.problem(&at.place, "`url` has a password already; expected one of the two"),
        (Some(at), None) => url.password = Some(at.value.clone()).filter(|secret| !secret.0.is_empty()),
        (None, None) if url.username.is_some() => {
            let place = raw.url.as_ref().map_or(&redis.place, |at| &at.place);
            report.problem(
                place,
                "a user needs a password, as in \"redis://user:password@host\"; expected it, or `password` beside it",
            );
        }
        _ => {}
    }
    if let Some(ca) = raw.ca.as_ref().filter(|_| !url.tls && raw.url.is_some()) {
        report.problem(&ca.place, "`ca` has no effect without TLS; expected a url that begins with \"rediss\"");
    }
    let is_sentinel = matches!(url.kind, RedisKind::Sentinel { .. });
    let user = raw.sentinel_username.as_ref().map(|at| &at.place);
    let password = raw.sentinel_password.as_ref().map(|at| &at.place);
    for place in [user, password].into_iter().flatten().filter(|_| !is_sentinel && raw.url.is_some()) {
        report.problem(place, "has no effect without Sentinels; expected a url that begins with \"redis+sentinel\"");
    }
    if let (Some(at), None) = (&raw.sentinel_username, &raw.sentinel_password) {
        report.problem(&at.place, "a user needs a password; expected `sentinel_password` beside it");
    }
    if let Some(timeout) = raw.timeout.as_ref().filter(|timeout| timeout.value.0 > LONGEST_TIMEOUT) {
        report.problem(&timeout.place, "requests wait for it; expected at most 5s");
    }
    if let (RedisKind::Cluster(nodes) | RedisKind::Sentinel { nodes, .. }, Some(at)) = (&url.kind, &raw.url)
        && nodes.iter().enumerate().any(|(index, node)| nodes.iter().take(index).any(|earlier| earlier == node))
    {
        report.problem(&at.place, "names a host twice");
    }
    Redis {
        url,
        timeout: raw.timeout.map_or(Duration::from_millis(20), |timeout| timeout.value.0),
        ca: raw.ca.map(|ca| tls::path(&ca.value, base)),
        sentinel_username: raw.sentinel_username.map(|user| user.value),
        sentinel_password: raw.sentinel_password.map(|password| password.value),
    }
}
