//! `[upstreams.*]`: endpoints, capacity, and what the preset fills in.

use std::sync::Arc;
use std::time::Duration;

use super::super::error::Report;
use super::super::model::{
    Balance, ClientAbort, EndpointConfig, HeadLimits, Health, Preset, Retry, StatusRanges, Upstream,
};
use super::super::place::{At, Place};
use super::super::preset::Facts;
use super::super::raw;
use super::super::schema::{NonEmpty, Table, refuse_repeats};
use super::super::value::{Keepalive, duration_text};
use super::super::walk::quoted;
use super::given;

/// How long an idle connection is reused where nothing is known of the server: under the shortest limit in use, 2 s.
const CAUTIOUS_KEEPALIVE: Duration = Duration::from_secs(1);

/// An upstream and where its parts stand.
pub(super) struct Built {
    pub value: Upstream,
    pub place: Place,
    /// Of each endpoint's address.
    pub endpoints: Vec<Place>,
}

/// Every upstream, in the order of the names.
pub(super) fn build_all(
    table: Table<raw::Upstream>,
    client: Option<&At<raw::Client>>,
    report: &mut Report,
) -> Vec<Built> {
    table.0.into_iter().map(|(name, upstream)| build(name, upstream, client, report)).collect()
}

fn build(name: At<String>, raw: At<raw::Upstream>, client: Option<&At<raw::Client>>, report: &mut Report) -> Built {
    check_name(&name, report);
    let (place, raw) = (raw.place, raw.value);
    let preset = raw.preset.as_ref().map(|preset| preset.value);
    let facts = preset.map(Preset::facts);
    let capacity = capacity(&raw, facts.as_ref(), report);
    if preset.is_none() && capacity.is_none() && !raw.written.contains(&"preset") {
        report.warn(
            &place,
            "neither `preset` nor a capacity (`workers` or `max_in_flight`) is given, so cautious defaults hold",
        );
    }
    let (endpoints, endpoint_places) = endpoints(raw.endpoints, report);
    let value = Upstream {
        name: Arc::from(name.value),
        preset,
        endpoints,
        balance: raw.balance.map_or(Balance::LeastConn, |balance| balance.value),
        capacity,
        keepalive_timeout: keepalive(raw.keepalive_timeout, preset, report),
        connect_timeout: given(raw.connect_timeout).0,
        first_byte_timeout: given(raw.first_byte_timeout).0,
        read_timeout: given(raw.read_timeout).0,
        retry: retry(given(raw.retry), report),
        health: health(given(raw.health), report),
        client_abort: raw
            .client_abort
            .map_or_else(|| facts.map_or(ClientAbort::Close, |facts| facts.client_abort), |abort| abort.value),
        head_limits: facts.and_then(|facts| head_limits(&facts, client)),
    };
    Built { value, place, endpoints: endpoint_places }
}

/// Names go into metric labels, logs and the command line.
fn check_name(name: &At<String>, report: &mut Report) {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.value.is_empty() || name.value.len() > 64 || !name.value.chars().all(fits) {
        let message =
            format!("expected a name of 1 to 64 letters, digits, `_`, `-` and `.`; found {}", quoted(&name.value));
        report.problem(&name.place, message);
    }
}

/// `max_in_flight`, or `workers` times `threads`.
fn capacity(raw: &raw::Upstream, facts: Option<&Facts>, report: &mut Report) -> Option<u32> {
    if let Some(direct) = &raw.max_in_flight {
        for (name, also) in [
            ("workers", raw.workers.as_ref().map(|at| &at.place)),
            ("threads", raw.threads.as_ref().map(|at| &at.place)),
        ] {
            if let Some(place) = also {
                report.problem(
                    place,
                    format!("`{name}` and `max_in_flight` both give the capacity; expected one of them"),
                );
            }
        }
        warn_not_enforced(&direct.place, report);
        return Some(direct.value.0);
    }
    let Some(workers) = &raw.workers else {
        if let Some(threads) = raw.threads.as_ref().filter(|_| !raw.written.contains(&"workers")) {
            report.problem(&threads.place, "`threads` is a number for each worker; expected `workers` beside it");
        }
        return None;
    };
    if let (Some(threads), Some(Preset::GunicornSync)) = (&raw.threads, raw.preset.as_ref().map(|preset| preset.value))
        && threads.value.0 > 1
    {
        report.warn(
            &threads.place,
            "gunicorn runs gthread workers when it has more than one thread: the preset is \"gunicorn-gthread\" then",
        );
    }
    warn_not_enforced(&workers.place, report);
    let threads =
        raw.threads.as_ref().map_or_else(|| facts.map_or(1, |facts| facts.threads), |threads| threads.value.0);
    Some(workers.value.0.saturating_mul(threads))
}

fn warn_not_enforced(place: &Place, report: &mut Report) {
    report.warn(
        place,
        "the cap is not enforced yet: the capacity is used to judge health probes, requests are not held back by it",
    );
}

fn endpoints(list: Option<At<NonEmpty<raw::Endpoint>>>, report: &mut Report) -> (Vec<EndpointConfig>, Vec<Place>) {
    let Some(list) = list else { return (Vec::new(), Vec::new()) };
    let mut addresses = Vec::new();
    let mut endpoints = Vec::new();
    for At { value, .. } in list.value.0 {
        let (weight, backup) = (value.weight.map_or(1, |weight| weight.value.0), given(value.backup));
        if let Some(address) = value.address {
            endpoints.push(EndpointConfig { addr: address.value.clone(), weight, backup });
            addresses.push(address);
        }
    }
    refuse_repeats(report, &addresses, Clone::clone);
    if !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.backup) {
        report.problem(&list.place, "every endpoint is a backup; expected at least one that is not");
    }
    (endpoints, addresses.into_iter().map(|address| address.place).collect())
}

fn keepalive(written: Option<At<Keepalive>>, preset: Option<Preset>, report: &mut Report) -> Option<Duration> {
    let facts = preset.map(|preset| (preset.name(), preset.facts()));
    let written = written?;
    match (written.value, facts) {
        (Keepalive::Off, _) => None,
        (Keepalive::Auto, None) => Some(CAUTIOUS_KEEPALIVE),
        (Keepalive::Auto, Some((_, facts))) => facts.keepalive,
        (Keepalive::After(after), None) => Some(after),
        (Keepalive::After(after), Some((name, facts))) => {
            if facts.keepalive.is_none() {
                report.warn(
                    &written.place,
                    format!("{name} closes every connection after its response, so none is ever reused"),
                );
            } else if after >= facts.closes_idle_after {
                let limit = duration_text(facts.closes_idle_after);
                let risk = "unless told otherwise: requests may meet a closing one";
                report.warn(&written.place, format!("{name} closes idle connections after {limit} {risk}"));
            }
            Some(after)
        }
    }
}

fn retry(raw: raw::Retry, report: &mut Report) -> Retry {
    if let (Some(budget), connect, idempotent) = (&raw.budget, &raw.connect, &raw.idempotent)
        && budget.value.0 == 0
        && (connect.as_ref().is_some_and(|at| at.value.0 > 0) || idempotent.as_ref().is_some_and(|at| at.value.0 > 0))
    {
        report.warn(
            &budget.place,
            "with a budget of 0% no request that broke is sent again; failed connects still go to another endpoint",
        );
    }
    Retry { connect: given(raw.connect).0, idempotent: given(raw.idempotent).0, budget: given(raw.budget).0 }
}

fn health(raw: raw::Health, report: &mut Report) -> Health {
    if let (Some(timeout), Some(interval)) = (&raw.timeout, &raw.interval)
        && timeout.value.0 > interval.value.0
    {
        // Blame what was written: either may be a default.
        let place = if timeout.is_written() { &timeout.place } else { &interval.place };
        let (timeout, interval) = (duration_text(timeout.value.0), duration_text(interval.value.0));
        report.problem(place, format!("expected a `timeout` within the `interval`; found {timeout} and {interval}"));
    }
    if !raw.written.contains(&"path") {
        let unused = [
            ("host", raw.host.as_ref().map(|at| &at.place)),
            ("expect", raw.expect.as_ref().filter(|at| at.is_written()).map(|at| &at.place)),
        ];
        for (name, place) in unused {
            if let Some(place) = place {
                report.problem(
                    place,
                    format!("`{name}` has no effect on a probe that only connects; expected `path` beside it"),
                );
            }
        }
    }
    Health {
        path: raw.path.map(|path| path.value.0),
        host: raw.host.map(|host| host.value.0),
        interval: given(raw.interval).0,
        timeout: given(raw.timeout).0,
        rise: given(raw.rise).0,
        fall: given(raw.fall).0,
        expect: raw.expect.map_or_else(|| StatusRanges(Vec::new()), |expect| expect.value),
    }
}

/// The server's limits where it has any; what it does not limit is limited by `[server.client]`.
fn head_limits(facts: &Facts, client: Option<&At<raw::Client>>) -> Option<HeadLimits> {
    if facts.request_line_max.is_none() && facts.field_max.is_none() && facts.headers_max.is_none() {
        return None;
    }
    let client = &client?.value;
    let request_line_max = client.request_line_max.as_ref()?.value.0;
    let field_max = client.field_max.as_ref()?.value.0;
    let headers_max = client.headers_max.as_ref()?.value.0 as usize;
    Some(HeadLimits {
        request_line_max: facts.request_line_max.map_or(request_line_max, |max| max.min(request_line_max)),
        field_max: facts.field_max.map_or(field_max, |max| max.min(field_max)),
        headers_max: facts.headers_max.map_or(headers_max, |max| max.min(headers_max)),
    })
}
