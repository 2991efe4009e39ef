//! The head of an app's answer: what is done with it.

use http::{Method, StatusCode, header};
use pingora_http::ResponseHeader;

use super::{Visit, Way};
use crate::cache::collapse::Fetched;
use crate::cache::entry::{Head, kept_fields};
use crate::cache::memory::Key;
use crate::cache::policy::{self, Answer};
use crate::cache::rule::Target;
use crate::cache::tap::Passed;
use crate::cache::{Cache, conditional, freshness, now, vary};
use crate::edge::exchange::Exchange;
use crate::proxy::context::Active;
use crate::route::host::Host;
use crate::route::target::{decode_path, split_query};

/// Judges the head of the app's answer, and says what is done with it. `is_stream`: it is sent as it is made.
pub fn judge(response: &mut ResponseHeader, active: &mut Active, is_stream: bool) {
    let exchange = active.exchange.clone();
    let Some(visit) = active.visit.as_deref_mut() else { return };
    let cache = &exchange.snapshot.shared.cache;
    if visit.way == Way::Unsafe {
        if response.status.is_success() || response.status.is_redirection() {
            cache.invalidate(&visit.primary);
            for name in [header::LOCATION, header::CONTENT_LOCATION] {
                if let Some(place) = response.headers.get(&name) {
                    invalidate_place(&exchange, &visit.primary, place.as_bytes());
                }
            }
        }
        return;
    }
    let Some(fetch) = visit.fetch.as_deref_mut() else { return };
    fetch.tap.reset();
    if response.status == StatusCode::NOT_MODIFIED && fetch.validates {
        fetch.withheld = Some(response.status);
        fetch.said = Some(response.headers.clone());
        return fetch.tap.pass(Passed::Nothing);
    }
    if policy::is_error(response.status) && visit.entry.as_ref().is_some_and(|entry| fetch.asks.may_stand_in(entry)) {
        fetch.withheld = Some(response.status);
        return fetch.tap.pass(Passed::Nothing);
    }
    // There is no body to keep.
    if exchange.method != Method::GET {
        return;
    }
    let fetched = freshness::Fetched { asked: fetch.asked_at, came: now() };
    let (status, authorized) = (response.status, fetch.asks.authorized);
    let answer = Answer { status, headers: &response.headers, fetched, is_stream, authorized };
    match policy::judge(&visit.rule, &answer) {
        Ok((terms, varies)) => {
            let mut variant = Vec::new();
            vary::write(&varies, &fetch.asked, &mut variant);
            fetch.head = Some(Head {
                primary: visit.primary.as_slice().into(),
                status,
                headers: kept_fields(&response.headers, fetched.came),
                terms,
                varies: varies.into(),
                variant: variant.into(),
                asked_after: fetch.under_way.as_ref().map_or(0, |under_way| under_way.after),
            });
            let length = response.headers.get(header::CONTENT_LENGTH);
            let expected = length.and_then(|length| length.to_str().ok()?.parse().ok());
            let most = usize::try_from(visit.rule.max_body).unwrap_or(usize::MAX);
            fetch.tap.record(expected, most, &cache.budget);
            // It is of use without this client.
            exchange.control.finish_without_client();
            if visit.way == Way::ForAll && conditional::is_not_modified(&fetch.asked, status, &response.headers) {
                fetch.tap.pass(Passed::NotModified);
                keep_not_modified(response);
            }
        }
        Err(why) => {
            visit.not_stored = Some(why);
            visit.rule.metrics.record_not_stored(why);
            not_to_be_kept(visit, cache, status);
        }
    }
}

/// What an answer points at on its own site is not true any more either (RFC 9111 section 4.4). `base`: the key of what was asked for.
/// A reference that is neither a whole URL nor a path from the root is left alone.
fn invalidate_place(exchange: &Exchange, base: &[u8], place: &[u8]) {
    let mut lines = base.split(|byte| *byte == b'\n');
    let (Some(scheme), Some(authority)) = (lines.next(), lines.next()) else { return };
    let origin = [scheme, b"://", authority].concat();
    let target = match place.strip_prefix(&*origin) {
        Some(rest) => rest,
        None if place.starts_with(b"//") => return,
        None => place,
    };
    let target = target.split(|byte| *byte == b'#').next().unwrap_or_default();
    let (path, query) = split_query(target);
    let Ok(decoded) = decode_path(path) else { return };
    let Ok(host) = Host::parse(authority) else { return };
    let snapshot = &exchange.snapshot;
    if let Some(rule) = snapshot.cache_rules.find(Some(&host.name), &decoded).filter(|_| path.starts_with(b"/")) {
        let target = Target { https: scheme == b"https", host: &host.name, port: host.port, path, query };
        snapshot.shared.cache.invalidate(&rule.key(&target));
    }
}

/// Of the head the fields that a 304 has; those that frame the body stay for the engine.
fn keep_not_modified(response: &mut ResponseHeader) {
    let mut kept = conditional::not_modified(&response.headers);
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        if let Some(value) = response.headers.get(&name) {
            kept.insert(name, value.clone());
        }
    }
    let names: Vec<_> = response.headers.keys().filter(|name| !kept.contains_key(*name)).cloned().collect();
    for name in names {
        response.remove_header(&name);
    }
}

/// Tells those who wait, and remembers it for those who come. What one user's request brought says nothing of others'.
pub(super) fn not_to_be_kept(visit: &mut Visit, cache: &Cache, status: StatusCode) {
    let Some(fetch) = visit.fetch.as_deref_mut() else { return };
    let is_for_all = visit.way == Way::ForAll && !fetch.asks.authorized;
    if is_for_all && !status.is_server_error() {
        cache.pass(fetch.at.clone().unwrap_or_else(|| Key::from(&*visit.primary)));
    }
    if let Some(lead) = fetch.lead.take() {
        lead.conclude(Fetched::NotKept);
    }
}
