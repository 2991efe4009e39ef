//! `[upstreams.*]`: endpoints, times, and what the preset fills in.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::error::Report;
use super::super::model::{
    Balance, ClientAbort, Ejection, EndpointConfig, HeadLimits, Health, Keepalive, Preset, Retry, StatusRanges,
    Upstream,
};
use super::super::place::{At, Place};
use super::super::preset::Facts;
use super::super::raw;
use super::super::schema::{NonEmpty, Table, refuse_repeats};
use super::super::value::{Keepalive as WrittenKeepalive, duration_text};
use super::super::walk::quoted;
use super::{capacity, given, tls};

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
    base: &Path,
    report: &mut Report,
) -> Vec<Built> {
    table.0.into_iter().map(|(name, upstream)| build(name, upstream, client, base, report)).collect()
}

fn build(
    name: At<String>,
    raw: At<raw::Upstream>,
    client: Option<&At<raw::Client>>,
    base: &Path,
    report: &mut Report,
) -> Built {
    check_name(&name, report);
    let (place, raw) = (raw.place, raw.value);
    let preset = raw.preset.as_ref().map(|preset| preset.value);
    let facts = preset.map(Preset::facts);
    let capacity = capacity::build(&raw, facts.as_ref(), report);
    capacity::warn(&raw, capacity, &place, report);
    warn_of_held_workers(&raw, preset, report);
    let (endpoints, endpoint_places) = endpoints(raw.endpoints, report);
    let value = Upstream {
        name: Arc::from(name.value),
        preset,
        queue: capacity::queue(given(raw.queue), capacity, &endpoints),
        tls: tls::upstream(raw.tls, &endpoints, base, report),
        endpoints,
        balance: raw.balance.map_or(Balance::LeastConn, |balance| balance.value),
        capacity,
        keepalive: keepalive(raw.keepalive_timeout, preset, report),
        connect_timeout: given(raw.connect_timeout).0,
        first_byte_timeout: given(raw.first_byte_timeout).0,
        read_timeout: given(raw.read_timeout).0,
        retry: retry(given(raw.retry), report),
        buffer_requests: given(raw.buffer_requests),
        buffer_responses: given(raw.buffer_responses),
        slow_start: given(raw.slow_start),
        health: health(given(raw.health), report),
        ejection: ejection(given(raw.ejection), report),
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

/// An app that reads uploads as they come is one that waits for them well. These do not.
fn warn_of_held_workers(raw: &raw::Upstream, preset: Option<Preset>, report: &mut Report) {
    let Some(preset) = preset.filter(|preset| preset.facts().is_held_by_slow_clients) else { return };
    let switches =
        [(&raw.buffer_requests, "sends a request slowly"), (&raw.buffer_responses, "reads a response slowly")];
    for (buffer, deed) in switches {
        if let Some(buffer) = buffer.as_ref().filter(|buffer| !buffer.value) {
            report.warn(
                &buffer.place,
                format!(
                    "a client that {deed} holds a worker of {} meanwhile; routes that need it can set it alone",
                    preset.name()
                ),
            );
        }
    }
}

fn keepalive(written: Option<At<WrittenKeepalive>>, preset: Option<Preset>, report: &mut Report) -> Keepalive {
    let facts = preset.map(|preset| (preset.name(), preset.facts()));
    let Some(written) = written else { return Keepalive::Off };
    match (written.value, facts) {
        (WrittenKeepalive::Off, _) => Keepalive::Off,
        (WrittenKeepalive::Auto, None) => Keepalive::Learned { start: CAUTIOUS_KEEPALIVE },
        (WrittenKeepalive::Auto, Some((_, facts))) => {
            facts.keepalive.map_or(Keepalive::Off, |start| Keepalive::Learned { start })
        }
        (WrittenKeepalive::After(after), None) => Keepalive::Fixed(after),
        (WrittenKeepalive::After(after), Some((name, facts))) => {
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
            Keepalive::Fixed(after)
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

fn ejection(raw: raw::Ejection, report: &mut Report) -> Ejection {
    if let (Some(failures), Some(share)) = (&raw.consecutive_failures, &raw.max_ejected)
        && share.value.0 == 0
        && failures.value.0 > 0
    {
        report.warn(&share.place, "with 0% no endpoint is ever left out; `consecutive_failures = 0` says so as well");
    }
    Ejection {
        consecutive_failures: given(raw.consecutive_failures).0,
        time: given(raw.time).0,
        max_ejected: given(raw.max_ejected).0,
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
