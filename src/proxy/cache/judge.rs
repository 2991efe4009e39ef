//! The head of an app's answer: what is done with it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Method, StatusCode, header};

use super::claim::Claim;
use super::conclude::update;
use super::{Visit, Way};
use crate::cache::entry::{Body, Head, kept_fields};
use crate::cache::policy::{self, Answer};
use crate::cache::rule::{Rule, Target};
use crate::cache::tap::{Budget, Passed, Tap};
use crate::cache::{conditional, freshness, now, vary};
use crate::edge::exchange::Exchange;
use crate::message::ResponseHead;
use crate::observe::metrics::NotStored;
use crate::proxy::context::Active;
use crate::route::host::Host;
use crate::route::target::{decode_path, split_query};

/// How long an answer that does not say its length may take, at least.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// Judges the head of the app's answer, and says what is done with it. `is_stream`: it is sent as it is made.
pub fn judge(response: &mut ResponseHead, active: &mut Active, is_stream: bool) {
    let exchange = active.exchange.clone();
    let Some(visit) = active.visit.as_deref_mut() else { return };
    let cache = &exchange.snapshot.shared.cache;
    if visit.way == Way::Unsafe {
        if response.status.is_success() || response.status.is_redirection() {
            cache.invalidate(&visit.rule, &visit.primary);
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
    let may_stand_in = |entry: &Arc<_>| fetch.asks.may_stand_in(entry, cache);
    if policy::is_error(response.status) && visit.entry.as_ref().is_some_and(may_stand_in) {
        fetch.withheld = Some(response.status);
        return fetch.tap.pass(Passed::Nothing);
    }
    // There is no body to keep.
    if exchange.method != Method::GET {
        return freshen(response, visit, &exchange);
    }
    let fetched = freshness::Fetched { asked: fetch.asked_at, came: now() };
    let (status, authorized, nonce) = (response.status, fetch.asks.authorized, fetch.asks.nonce);
    let ranged = fetch.asked.contains(header::RANGE);
    let answer = Answer { status, headers: &response.headers, fetched, is_stream, authorized, ranged, nonce };
    let (terms, varies) = match policy::judge(&visit.rule, &answer) {
        Ok(judged) => judged,
        Err(why) => {
            visit.not_stored = Some(why);
            if let Some(claim) = Claim::of(visit, &exchange.snapshot.shared) {
                claim.refuse(why, status);
            }
            return;
        }
    };
    let mut variant = Vec::new();
    vary::write(&varies, &fetch.asked, &mut variant);
    let head = Head {
        primary: visit.primary.as_slice().into(),
        status,
        headers: kept_fields(&response.headers, fetched.came),
        terms,
        varies: varies.into(),
        variant: variant.into(),
        asked_after: fetch.under_way.as_ref().map_or(0, |under_way| under_way.after),
    };
    if visit.way == Way::ForAll && conditional::is_not_modified(&fetch.asked, status, &response.headers) {
        fetch.tap.pass(Passed::NotModified);
    }
    let tap = fetch.tap.clone();
    let Some(claim) = Claim::of(visit, &exchange.snapshot.shared) else { return };
    record(response, &tap, head, claim, &visit.rule, &cache.budget);
    if tap.records() && response.headers.contains(header::CONTENT_LENGTH) {
        // It is of use without this client. One that does not say its end might have none.
        exchange.control.finish_without_client();
    }
    if tap.passed() == Passed::NotModified {
        keep_not_modified(response);
    }
}

/// A HEAD says something of what GET has left (RFC 9111 section 4.3.5).
fn freshen(response: &ResponseHead, visit: &mut Visit, exchange: &Exchange) {
    let shared = &exchange.snapshot.shared;
    let Some(kept) =
        visit.entry.clone().filter(|kept| response.status == StatusCode::OK && kept.status == response.status)
    else {
        return;
    };
    match conditional::confirms(&response.headers, &kept.headers) {
        Some(true) => drop(update(visit, shared, &kept, &response.headers)),
        Some(false) => shared.cache.invalidate(&visit.rule, &visit.primary),
        None => {}
    }
}

/// Has the body copied as it passes, and kept before its end does: whoever has the whole answer finds it kept.
fn record(response: &ResponseHead, tap: &Tap, head: Head, claim: Claim, rule: &Rule, budget: &Arc<Budget>) {
    let length = response.headers.get(header::CONTENT_LENGTH);
    let expected = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let most = usize::try_from(rule.max_body).unwrap_or(usize::MAX);
    let done = move |body: Result<Bytes, NotStored>| match body {
        Ok(body) => claim.keep(head, Body::Here(body)).err(),
        Err(why) => Some(claim.refuse(why, head.status)),
    };
    // As long as others would wait for it.
    let patience = rule.config.collapse_timeout.max(LEAST_PATIENCE);
    tap.record(expected, most, patience, budget, Box::new(done));
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
        snapshot.shared.cache.invalidate(rule, &rule.key(&target));
    }
}

/// Of the head the fields that a 304 has; those that frame the body stay.
fn keep_not_modified(response: &mut ResponseHead) {
    let frames = |name: &HeaderName| [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name);
    response.headers.retain(|name, _| conditional::is_of_not_modified(name) || frames(name));
}
