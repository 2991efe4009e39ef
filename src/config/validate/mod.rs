//! From what was written to what it means: raw sections in, a [`Config`] or a report out.
//!
//! Each part reports whatever it finds and goes on with a stand-in, so that one run finds everything. A missing value
//! here either has no default or has been reported before; either way the result is only handed out when the report is
//! clean.

mod access;
mod cache;
mod capacity;
mod cors;
mod error_pages;
mod headers;
mod limit;
mod listeners;
mod names;
mod route;
mod route_clashes;
mod security;
mod server;
mod spool;
mod tls;
mod upstream;
mod upstream_clashes;

use std::path::Path;

use super::error::Report;
use super::model::Config;
use super::place::At;
use super::raw::Gateway;

/// Builds the configuration out of `raw`. Relative files are looked for in `base`.
///
/// The result is only meaningful while `report` is clean.
#[must_use]
pub fn build(raw: Gateway, source: Option<&Path>, base: &Path, report: &mut Report) -> Config {
    let mut raw_server = given(raw.server);
    let raw_admin = given(raw.admin);
    let raw_tls = given(raw.tls);
    listeners::check(&raw_server, &raw_admin, report);
    listeners::check_needs(&raw_server, &raw_tls, report);
    let upstreams = upstream::build_all(given(raw.upstreams), raw_server.client.as_ref(), base, report);
    let server = server::build(&mut raw_server, base, report);
    let client = given(raw_server.client);
    let spool = spool::build(given(raw.spool), report);
    let sets = security::build(given(raw.security_headers), report);
    let has_redis = raw.redis.is_some();
    let max_body = client.max_body.as_ref();
    let common = route::Common { base, has_redis, max_body, spool: &spool, security: &sets };
    let mut routes = route::build_all(given(raw.routes), &upstreams, &common, &server.allowed_hosts, report);
    let mut security = sets.basic();
    security::keep_longest(&mut routes, &mut security);
    let redis = raw.redis.map(|redis| limit::redis(redis, base, report));
    let client = server::build_client(client, report);
    upstream_clashes::check(&upstreams, &routes, &server.addresses(), report);
    Config {
        source: source.map(Path::to_path_buf),
        restart: server::build_restart_only(raw_server.threads, raw_server.pid_file, raw_admin.control),
        admin: server::build_admin(raw_admin.listen.as_ref(), raw_admin.ready_requires, &upstreams, report),
        tls: tls::build(raw_tls, base, report),
        log: server::build_log(given(raw.log), report),
        tracing: server::build_tracing(given(raw.tracing), report),
        spool: spool.value,
        redis,
        maintenance: access::maintenance(given(raw.maintenance), base, report),
        cache: cache::build(given(raw.cache), has_redis, report),
        security,
        error_pages: error_pages::read_all(given(raw.error_pages), base, report),
        upstreams: upstreams.into_iter().map(|upstream| upstream.value).collect(),
        routes,
        server,
        client,
    }
}

/// The value without its place; a stand-in where it was refused.
fn given<T: Default>(field: Option<At<T>>) -> T {
    field.map(|at| at.value).unwrap_or_default()
}
