//! `[cache]`.

use std::path::PathBuf;
use std::sync::Arc;

use super::super::error::Report;
use super::super::model::{Cache, CacheDisk, CacheRule, PathPattern};
use super::super::place::{At, Place};
use super::super::raw;
use super::super::schema::refuse_repeats;
use super::given;
use super::names::{self, Names, host_and_path};

/// Least memory that is worth a cache, in bytes.
const LEAST: u64 = 1 << 20;

/// The cache; none without a rule.
pub(super) fn build(raw: raw::Cache, has_redis: bool, report: &mut Report) -> Option<Cache> {
    if let Some(memory) = raw.memory.as_ref().filter(|memory| memory.value.0 < LEAST) {
        report.problem(&memory.place, "expected at least 1MiB");
    }
    let shared = raw.shared.as_ref().is_some_and(|shared| shared.value);
    if let Some(at) = raw.shared.as_ref().filter(|_| shared && !has_redis) {
        report.problem(&at.place, "answers are shared through Redis; expected [redis], which says where it is");
    }
    let rules = given(raw.rules);
    let mut built = Vec::new();
    let mut names = Vec::new();
    let mut seen: Vec<(CacheRule, Place)> = Vec::new();
    for rule in rules {
        names.push(rule.value.name.as_ref().map(|name| name.place.clone()));
        let has_path = rule.value.path.is_some();
        let place = rule.place.clone();
        let rule = build_rule(rule, report);
        if has_path {
            let same = |(earlier, _): &&(CacheRule, Place)| {
                earlier.path.to_string() == rule.path.to_string()
                    && (earlier.hosts.is_empty() || earlier.hosts == rule.hosts)
            };
            if let Some((_, at)) = seen.iter().find(same) {
                report.problem(
                    &place,
                    format!("is never asked: {at} is for the same host and path, and stands before it"),
                );
            }
            seen.push((rule.clone(), place));
        }
        built.push(rule);
    }
    name(&mut built, &names, report);
    let disk = raw.disk.map(|disk| build_disk(disk.value, report));
    if built.is_empty() {
        return None;
    }
    Some(Cache { memory: given(raw.memory).0, max_body: given(raw.max_body).0, disk, shared, rules: built })
}

fn build_disk(raw: raw::CacheDisk, report: &mut Report) -> CacheDisk {
    if let Some(max) = raw.max.as_ref().filter(|max| max.value.0 < LEAST) {
        report.problem(&max.place, "expected at least 1MiB");
    }
    CacheDisk { path: raw.path.map_or_else(PathBuf::new, |path| path.value.0), max: given(raw.max).0 }
}

fn build_rule(rule: At<raw::CacheRule>, report: &mut Report) -> CacheRule {
    let raw = rule.value;
    names::check(raw.name.as_ref(), report);
    let overrides = raw.r#override.as_ref().is_some_and(|it| it.value);
    if let Some(at) = raw.r#override.as_ref().filter(|_| overrides && !raw.written.contains(&"ttl")) {
        report.problem(&at.place, "`override` puts `ttl` above what an answer says; expected `ttl` beside it");
    }
    let hosts = given(raw.host);
    refuse_repeats(report, &hosts, Clone::clone);
    let key = given(raw.key);
    let headers = given(key.headers);
    refuse_repeats(report, &headers, Clone::clone);
    for header in &headers {
        if ["cookie", "authorization"].contains(&header.value.0.as_str()) {
            let message = "an answer that depends on it is one user's and is not kept";
            report.problem(&header.place, message);
        }
    }
    CacheRule {
        name: Arc::from(raw.name.map(|name| name.value).unwrap_or_default()),
        hosts: hosts.into_iter().map(|host| host.value).collect(),
        path: raw.path.map_or_else(|| PathPattern::Prefix("/".into()), |path| path.value),
        ttl: raw.ttl.map(|ttl| ttl.value),
        overrides,
        stale_while_revalidate: given(raw.stale_while_revalidate),
        stale_if_error: given(raw.stale_if_error),
        key_query: given(key.query),
        key_headers: headers.into_iter().map(|header| header.value.0).collect(),
        ignore_cookies: given(raw.ignore_cookies).into_iter().map(|cookie| cookie.value).collect(),
        ignore_client_directives: raw.ignore_client_directives.is_some_and(|it| it.value),
        collapse_timeout: given(raw.collapse_timeout),
    }
}

/// Names the rules that have no name, and reports names given twice.
fn name(rules: &mut [CacheRule], written: &[Option<Place>], report: &mut Report) {
    let places = rules.iter().zip(written).filter_map(|(rule, place)| Some((&rule.name, place.as_ref()?)));
    let mut names = Names::written(places, report);
    for (index, (rule, _)) in rules.iter_mut().zip(written).enumerate().filter(|(_, (_, place))| place.is_none()) {
        rule.name = names.make(host_and_path(&rule.hosts, &rule.path), "cache.rules", index);
    }
}
