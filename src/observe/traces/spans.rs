//! A finished request as spans, under the names of OpenTelemetry's semantic conventions for HTTP (1.41).

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::Steps;
use crate::observe::access_log::Entry;
use crate::observe::metrics::Method;

/// The gateway's own step; within it the time in the queue, where there was any, and the exchange with the app.
pub(super) fn of(entry: &Entry<'_>, steps: &Steps) -> Vec<SpanData> {
    let mut spans = vec![server(entry, steps)];
    spans.extend(queue(entry, steps));
    spans.extend(client(entry, steps));
    spans
}

fn server(entry: &Entry<'_>, steps: &Steps) -> SpanData {
    let name = format!("{} {}", known_method(entry).unwrap_or("HTTP"), entry.route.unwrap_or("none"));
    let times = (Duration::ZERO, entry.duration);
    let mut span = span(entry, steps, (steps.server, steps.parent), SpanKind::Server, name, times);
    span.parent_span_is_remote = steps.parent.is_some();
    span.attributes = attributes([
        ("http.request.method", Some(known_method(entry).unwrap_or("_OTHER").into())),
        ("error.type", (entry.status >= 500).then(|| error_type(entry))),
        ("server.address", text(entry.host)),
        ("url.path", text(entry.path)),
        ("url.query", entry.query.and_then(text)),
        ("network.protocol.version", text(entry.protocol.trim_start_matches("HTTP/").as_bytes())),
        ("http.response.status_code", Some(Value::I64(entry.status.into()))),
        ("client.address", entry.client.map(|client| client.to_string().into())),
        ("user_agent.original", entry.user_agent.and_then(text)),
        ("http.request.body.size", number(entry.bytes_in)),
        ("http.response.body.size", number(entry.bytes_out)),
        ("propylon.request_id", text(entry.request_id)),
        ("propylon.route", entry.route.map(|route| route.to_owned().into())),
        ("propylon.reason", entry.reason.map(Value::from)),
        ("propylon.cache", entry.cache.map(Value::from)),
        ("propylon.limit", entry.limit.map(|limit| limit.to_owned().into())),
    ]);
    if entry.status >= 500 {
        span.status = Status::error(entry.reason.unwrap_or_default());
    }
    span
}

fn queue(entry: &Entry<'_>, steps: &Steps) -> Option<SpanData> {
    let waited = entry.t_queue.filter(|waited| !waited.is_zero())?;
    // It ends where the connection is taken, or made.
    let ended = steps.exchange.map(|(began, _)| began.saturating_sub(entry.t_connect.unwrap_or_default()));
    let began = ended.map_or(entry.t_receive.unwrap_or_default(), |ended| ended.saturating_sub(waited));
    let ids = (random_id(), Some(steps.server));
    Some(span(entry, steps, ids, SpanKind::Internal, "queue".to_owned(), (began, began + waited)))
}

fn client(entry: &Entry<'_>, steps: &Steps) -> Option<SpanData> {
    let times = steps.exchange?;
    let name = known_method(entry).unwrap_or("HTTP").to_owned();
    let mut span = span(entry, steps, (steps.client, Some(steps.server)), SpanKind::Client, name, times);
    let is_error = entry.upstream_status.is_none_or(|status| status >= 400);
    span.attributes = attributes([
        ("http.request.method", Some(known_method(entry).unwrap_or("_OTHER").into())),
        ("error.type", is_error.then(|| error_type(entry))),
        ("server.address", entry.endpoint.map(|endpoint| endpoint.to_owned().into())),
        ("http.response.status_code", entry.upstream_status.map(|status| Value::I64(status.into()))),
        ("http.request.resend_count", (entry.retries > 0).then(|| Value::I64(entry.retries.into()))),
        ("propylon.upstream", entry.upstream.map(|upstream| upstream.to_owned().into())),
        ("propylon.reused", entry.reused.map(Value::Bool)),
    ]);
    if is_error {
        span.status = Status::error(entry.reason.unwrap_or_default());
    }
    Some(span)
}

fn span(
    entry: &Entry<'_>,
    steps: &Steps,
    (id, parent): ([u8; 8], Option<[u8; 8]>),
    kind: SpanKind,
    name: String,
    (began, ended): (Duration, Duration),
) -> SpanData {
    let at = |offset: Duration| entry.time.checked_add(offset).unwrap_or(SystemTime::UNIX_EPOCH);
    let (trace, id) = (TraceId::from_bytes(steps.trace), SpanId::from_bytes(id));
    SpanData {
        span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::default()),
        parent_span_id: parent.map_or(SpanId::INVALID, SpanId::from_bytes),
        parent_span_is_remote: false,
        span_kind: kind,
        name: name.into(),
        start_time: at(began),
        end_time: at(ended.max(began)),
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("propylon").build(),
    }
}

/// None of one that a client may have made up: names of steps are to be few.
fn known_method(entry: &Entry<'_>) -> Option<&'static str> {
    Some(Method::of(entry.method)).filter(|method| *method != Method::Other).map(Method::text)
}

fn error_type(entry: &Entry<'_>) -> Value {
    entry.reason.map_or_else(|| entry.status.to_string().into(), Value::from)
}

fn random_id() -> [u8; 8] {
    rand::random()
}

fn attributes<const N: usize>(list: [(&'static str, Option<Value>); N]) -> Vec<KeyValue> {
    list.into_iter().filter_map(|(name, value)| Some(KeyValue::new(name, value?))).collect()
}

/// None where there is none; what is no UTF-8 becomes U+FFFD.
fn text(bytes: &[u8]) -> Option<Value> {
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned().into())
}

fn number(number: u64) -> Option<Value> {
    i64::try_from(number).ok().map(Value::I64)
}
