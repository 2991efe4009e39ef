//! `[[routes]]`: one action each, and nothing beside it that the action cannot use.

use std::path::Path;
use std::sync::Arc;

use http::HeaderValue;

use super::super::error::Report;
use super::super::model::{Action, HostPattern, PathPattern, RedirectTemplate, Route};
use super::super::place::{At, Place};
use super::super::raw;
use super::super::schema::refuse_repeats;
use super::super::value::{Size, path_is_inside};
use super::super::walk::quoted;
use super::headers::{self, Way};
use super::security::Sets;
use super::server::find_upstream;
use super::upstream::Built;
use super::{access, given, limit, route_clashes, spool};

const ACTIONS: [&str; 3] = ["upstream", "respond", "redirect"];

/// What routes share, and are measured against.
pub(super) struct Common<'a> {
    /// `server.client.max_body`; none where it was refused.
    pub max_body: Option<&'a At<Size>>,
    pub spool: &'a spool::Built,
    pub has_redis: bool,
    /// Where relative files are looked for.
    pub base: &'a Path,
    pub security: &'a Sets,
}

/// Every route, in the order of the file.
pub(super) fn build_all(
    list: Vec<At<raw::Route>>,
    upstreams: &[Built],
    common: &Common<'_>,
    allowed_hosts: &[HostPattern],
    report: &mut Report,
) -> Vec<Route> {
    if list.is_empty() && report.is_clean() {
        report.warn(&Place::root(), "there are no routes, so every request is answered 404");
    }
    let mut places = Vec::new();
    let mut names = Vec::new();
    let mut limits = Vec::new();
    let mut routes = Vec::new();
    for route in list {
        warn_of_hosts_not_allowed(route.value.host.as_ref(), allowed_hosts, report);
        limits.push(limit::Written::of(&route.value));
        names.push(route.value.name.as_ref().map(|name| name.place.clone()));
        // A pattern that was refused has no stand-in that could not clash with another route.
        let has_path = route.value.path.is_some();
        let built = build(route.value, &route.place, upstreams, common, report);
        places.push(has_path.then_some(route.place));
        routes.push(built);
    }
    route_clashes::check(&routes, &places, report);
    route_clashes::warn_of_hidden(&routes, &places, report);
    route_clashes::name(&mut routes, &names, report);
    limit::name(&mut routes, &limits, report);
    routes
}

fn build(raw: raw::Route, place: &Place, upstreams: &[Built], common: &Common<'_>, report: &mut Report) -> Route {
    check_actions(&raw, place, report);
    check_forwarding_only(&raw, report);
    check_strip_prefix(&raw, report);
    let max_body = max_body(&raw, upstreams, common, report);
    super::names::check(raw.name.as_ref(), report);
    let (hosts, methods) = (given(raw.host), given(raw.methods));
    refuse_repeats(report, &hosts, Clone::clone);
    refuse_repeats(report, &methods, Clone::clone);
    let timeouts = given(raw.timeouts);
    let limits = limit::build(given(raw.rate_limit), common.has_redis, report);
    Route {
        name: Arc::from(raw.name.map(|name| name.value).unwrap_or_default()),
        hosts: hosts.into_iter().map(|host| host.value).collect(),
        path: raw.path.map_or_else(|| PathPattern::Prefix("/".into()), |path| path.value),
        methods: methods.into_iter().map(|method| method.value).collect(),
        action: action(raw.upstream, raw.respond, raw.redirect, upstreams, report),
        strip_prefix: raw.strip_prefix.map(|prefix| prefix.value.0),
        priority: raw.priority.map(|priority| priority.value).unwrap_or_default(),
        max_body,
        rate_limits: limits,
        buffer_requests: raw.buffer_requests.map(|buffer| buffer.value),
        buffer_responses: raw.buffer_responses.map(|buffer| buffer.value),
        queue_timeout: timeouts.queue.map(|timeout| timeout.value.0),
        first_byte_timeout: timeouts.first_byte.map(|timeout| timeout.value.0),
        read_timeout: timeouts.read.map(|timeout| timeout.value.0),
        request_headers: headers::build(given(raw.request_headers), Way::Request, report),
        response_headers: headers::build(given(raw.response_headers), Way::Response, report),
        security: common.security.of(raw.security_headers.as_ref(), report),
        cors: raw.cors.map(|cors| super::cors::build(cors, report)),
        server_timing: raw.server_timing.is_some_and(|timing| timing.value),
        access: raw.access.map(|access| access::build(access, common.base, report)),
    }
}

/// Exactly one of the three.
fn check_actions(raw: &raw::Route, place: &Place, report: &mut Report) {
    let written: Vec<&str> = ACTIONS.into_iter().filter(|action| raw.written.contains(action)).collect();
    match written.as_slice() {
        [_] => {}
        [] => report.problem(place, "expected one of `upstream`, `respond`, `redirect`; found none"),
        several => {
            let list: Vec<String> = several.iter().map(|name| format!("`{name}`")).collect();
            report.problem(
                place,
                format!("expected only one of `upstream`, `respond`, `redirect`; found {}", list.join(" and ")),
            );
        }
    }
}

/// Keys that only mean something to a request that is forwarded.
fn check_forwarding_only(raw: &raw::Route, report: &mut Report) {
    let Some(action) = ["respond", "redirect"].into_iter().find(|action| raw.written.contains(action)) else { return };
    if raw.written.contains(&"upstream") {
        return;
    }
    let written = |at: Option<&Place>| at.filter(|place| place.offset.is_some()).cloned();
    let keys = [
        ("strip_prefix", written(raw.strip_prefix.as_ref().map(|at| &at.place))),
        ("priority", written(raw.priority.as_ref().map(|at| &at.place))),
        ("buffer_requests", written(raw.buffer_requests.as_ref().map(|at| &at.place))),
        ("buffer_responses", written(raw.buffer_responses.as_ref().map(|at| &at.place))),
        ("timeouts", written(raw.timeouts.as_ref().map(|at| &at.place))),
        ("request_headers", written(raw.request_headers.as_ref().map(|at| &at.place))),
    ];
    for (name, place) in keys {
        if let Some(place) = place {
            report.problem(&place, format!("`{name}` has no effect with `{action}`; expected `upstream` beside it"));
        }
    }
}

/// Its own limit or that of all, which must fit the spool where its requests are buffered.
fn max_body(raw: &raw::Route, upstreams: &[Built], common: &Common<'_>, report: &mut Report) -> u64 {
    let refused = |key: &str, is_read: bool| raw.written.contains(&key) && !is_read;
    if refused("max_body", raw.max_body.is_some()) || refused("buffer_requests", raw.buffer_requests.is_some()) {
        return 0;
    }
    let Some(max_body) = raw.max_body.as_ref().or(common.max_body) else { return 0 };
    let upstream =
        raw.upstream.as_ref().and_then(|name| upstreams.iter().find(|built| *built.value.name == *name.value));
    let own = raw.buffer_requests.as_ref().map(|buffer| buffer.value);
    if upstream.is_some_and(|upstream| own.unwrap_or(upstream.value.buffer_requests)) {
        common.spool.check_body(max_body, report);
    }
    max_body.value.0
}

fn check_strip_prefix(raw: &raw::Route, report: &mut Report) {
    let (Some(strip), Some(path)) = (&raw.strip_prefix, &raw.path) else { return };
    let prefix = &strip.value.0;
    if !path_is_inside(&path.value, prefix) {
        let hint = match path.value {
            PathPattern::Regex(_) => {
                format!("; a regular expression would have to begin with \"^{prefix}/\" and have no \"|\"")
            }
            _ => String::new(),
        };
        report.problem(
            &strip.place,
            format!(
                "expected a prefix of every path the route is for, {}; found {}{hint}",
                quoted(&path.value.to_string()),
                quoted(prefix)
            ),
        );
    }
}

fn action(
    upstream: Option<At<String>>,
    respond: Option<At<raw::Respond>>,
    redirect: Option<At<raw::Redirect>>,
    upstreams: &[Built],
    report: &mut Report,
) -> Action {
    let forwarded = upstream.map(|name| Action::Upstream(find_upstream(&name, upstreams, report).unwrap_or_default()));
    let answered = respond.map(|respond| build_respond(respond, report));
    let redirected = redirect.map(|redirect| Action::Redirect {
        status: redirect.value.status.map_or(308, |status| status.value.0),
        to: redirect.value.to.map_or_else(|| RedirectTemplate(Vec::new()), |to| to.value),
    });
    forwarded.or(answered).or(redirected).unwrap_or(Action::Upstream(0))
}

fn build_respond(respond: At<raw::Respond>, report: &mut Report) -> Action {
    let status = respond.value.status.map_or(200, |status| status.value.0);
    let body = given(respond.value.body);
    // RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5: these end with the head.
    if matches!(status, 204 | 205 | 304) && !body.is_empty() {
        report.problem(&respond.place, format!("a response with status {status} has no body"));
    }
    let content_type =
        respond.value.content_type.map_or_else(|| HeaderValue::from_static("text/plain"), |value| value.value.0);
    Action::Respond { status: u16::try_from(status).unwrap_or(200), body, content_type }
}

fn warn_of_hosts_not_allowed(hosts: Option<&At<Vec<At<HostPattern>>>>, allowed: &[HostPattern], report: &mut Report) {
    for host in hosts.into_iter().flat_map(|hosts| &hosts.value) {
        let reachable = allowed.iter().any(|allowed| allowed.covers(&host.value) || host.value.covers(allowed));
        if !allowed.is_empty() && !reachable {
            report.warn(
                &host.place,
                format!("{} is not in server.allowed_hosts, so requests for it are answered 421", host.value),
            );
        }
    }
}
