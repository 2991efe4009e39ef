//! Traces for a collector: what it gets of each request, and that nobody waits for it.

// Counts are whole numbers.
#![allow(clippy::float_cmp)]

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;

use crate::harness::{Gate, Gateway, Origin, eventually};

const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

const CONFIG: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    trusted_proxies = ["127.0.0.0/8"]
    [admin]
    listen = ["127.0.0.1:0"]
    control = "unix:{dir}/control.sock"
    [log]
    access = "off"
    redact = { fields = ["user_agent"] }
    [tracing]
    otlp = "http://{collector}"
    headers = { X-Api-Key = "the key" }
    service_name = "edge"
    [upstreams.app]
    endpoints = ["{origin}"]
    workers = 1
    retry = { idempotent = 0 }
    [[routes]]
    name = "shop"
    upstream = "app"
    [[routes]]
    path = "/limited"
    upstream = "app"
    rate_limit = { rate = "1/h", key = "route" }
    [[routes]]
    path = "/kept"
    upstream = "app"
    [[cache.rules]]
    path = "/kept"
    ttl = "1h"
"#;

fn collector() -> Origin {
    Origin::start(|connection| {
        while connection.read_request().is_some() {
            connection.write("HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n");
        }
    })
}

fn app() -> Origin {
    Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            match request.target.as_str() {
                "/close" => return,
                "/fails" => connection.answer(500, "fails"),
                _ => connection.answer(200, "answer"),
            };
        }
    })
}

fn start(origin: &Origin, collector: &Origin) -> Gateway {
    Gateway::with(CONFIG).set("origin", origin.address()).set("collector", collector.address()).start()
}

/// All spans that a collector has got so far.
fn spans(collector: &Origin) -> Vec<Span> {
    let requests = collector.requests();
    let mut spans = Vec::new();
    for request in &requests {
        assert_eq!((&*request.method, &*request.target), ("POST", "/v1/traces"));
        assert_eq!(request.field("x-api-key"), Some("the key"));
        let message = ExportTraceServiceRequest::decode(&*request.body).unwrap();
        for of_resource in message.resource_spans {
            let attributes = &of_resource.resource.as_ref().unwrap().attributes;
            let service = attributes.iter().find(|it| it.key == "service.name").and_then(|it| it.value.clone());
            assert_eq!(service.unwrap().value, Some(Value::StringValue("edge".into())));
            spans.extend(of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans));
        }
    }
    spans
}

fn wait_for(collector: &Origin, count: usize) -> Vec<Span> {
    eventually("the spans", || Some(spans(collector)).filter(|spans| spans.len() >= count))
}

fn said(span: &Span) -> BTreeMap<&str, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => panic!("{other:?}"),
    };
    let value = |it: &opentelemetry_proto::tonic::common::v1::KeyValue| {
        text(it.value.as_ref().unwrap().value.as_ref().unwrap())
    };
    span.attributes.iter().map(|it| (&*it.key, value(it))).collect()
}

fn find<'s>(spans: &'s [Span], name: &str, kind: SpanKind) -> &'s Span {
    let found = spans.iter().find(|span| span.name == name && span.kind == kind as i32);
    found.unwrap_or_else(|| panic!("no {name} in {:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>()))
}

#[test]
fn a_request_is_a_step_of_its_clients_trace_and_the_apps_step_is_one_of_ours() {
    let (origin, collector) = (app(), collector());
    let gateway = start(&origin, &collector);
    let fields = [("traceparent", GIVEN), ("User-Agent", "secret"), ("Host", "shop.test")];
    let answer = gateway.connect().request("POST", "/a?token=secret&b=1", &fields, "body").expect(200);
    let spans = wait_for(&collector, 2);
    let (server, client) = (find(&spans, "POST shop", SpanKind::Server), find(&spans, "POST", SpanKind::Client));
    assert_eq!(hex::encode(&server.trace_id), &GIVEN[3..35]);
    assert_eq!(hex::encode(&server.parent_span_id), &GIVEN[36..52]);
    assert_eq!((&client.trace_id, &client.parent_span_id), (&server.trace_id, &server.span_id));
    let told = origin.requests()[0].field("traceparent").unwrap().to_owned();
    assert_eq!(told, format!("00-{}-{}-01", &GIVEN[3..35], hex::encode(&client.span_id)));
    assert!(server.start_time_unix_nano <= client.start_time_unix_nano);
    assert!(client.start_time_unix_nano <= client.end_time_unix_nano);
    assert!(client.end_time_unix_nano <= server.end_time_unix_nano);
    let attributes = said(server);
    for (name, value) in [
        ("http.request.method", "POST"),
        ("url.path", "/a"),
        ("url.query", "token=***&b=1"),
        ("server.address", "shop.test"),
        ("http.response.status_code", "200"),
        ("network.protocol.version", "1.1"),
        ("client.address", "127.0.0.1"),
        ("user_agent.original", "***"),
        ("http.request.body.size", "4"),
        ("http.response.body.size", "6"),
        ("propylon.route", "shop"),
        ("propylon.request_id", answer.field("x-request-id").unwrap()),
    ] {
        assert_eq!(attributes.get(name).map(String::as_str), Some(value), "{name}");
    }
    let attributes = said(client);
    assert_eq!((&*attributes["propylon.upstream"], &*attributes["http.response.status_code"]), ("app", "200"));
    assert_eq!(attributes["server.address"], origin.address().to_string());
}

#[test]
fn what_is_refused_kept_or_fails_says_so() {
    let (origin, collector) = (app(), collector());
    let gateway = start(&origin, &collector);
    let mut client = gateway.connect();
    client.get("/fails").expect(500);
    client.get("/close").expect(502);
    (0..2).for_each(|_| drop(client.get("/kept").expect(200)));
    client.get("/limited").expect(200);
    client.get("/limited").expect(429);
    // Two steps each, of what came from the cache and what was refused one.
    let spans = wait_for(&collector, 10);
    assert_eq!(spans.len(), 10);
    let servers: Vec<_> = spans.iter().filter(|span| span.kind == SpanKind::Server as i32).collect();
    let of = |status: &str| -> &Span {
        let mut found = servers.iter().copied().filter(|span| said(span)["http.response.status_code"] == status);
        found.next().unwrap()
    };
    let is_error = |span: &Span| span.status.as_ref().is_some_and(|status| status.code == StatusCode::Error as i32);
    assert!(is_error(of("500")) && !said(of("500")).contains_key("propylon.reason"));
    let closed = of("502");
    assert_eq!((is_error(closed), &*said(closed)["propylon.reason"]), (true, "upstream_closed"));
    let limited = of("429");
    assert_eq!((is_error(limited), &*said(limited)["propylon.reason"]), (false, "rate_limited"));
    let kept: Vec<_> = servers.iter().filter_map(|span| said(span).get("propylon.cache").cloned()).collect();
    assert_eq!(kept, ["miss", "hit"]);
    // Each is a trace of its own, which begins here.
    let traces: std::collections::BTreeSet<_> = servers.iter().map(|span| span.trace_id.clone()).collect();
    assert!(traces.len() == 6 && servers.iter().all(|span| span.parent_span_id.is_empty()));
    assert_eq!(gateway.metrics().value("propylon_spans_total", &[("result", "sent")]), Some(10.0));
}

#[test]
fn the_time_in_the_queue_is_a_step() {
    let gate = Gate::new();
    let opened = gate.clone();
    let origin = Origin::start(move |connection| {
        while connection.read_request().is_some() {
            opened.wait();
            connection.answer(200, "answer");
        }
    });
    let collector = collector();
    let gateway = start(&origin, &collector);
    let mut clients: Vec<_> = (0..2).map(|_| gateway.connect()).collect();
    clients.iter_mut().for_each(|client| client.send_request("GET", "/", &[], ""));
    eventually("one waits", || {
        (gateway.metrics().value("propylon_queue_depth", &[("upstream", "app")]) == Some(1.0)).then_some(())
    });
    gate.open();
    clients.iter_mut().for_each(|client| drop(client.response().expect(200)));
    let spans = wait_for(&collector, 5);
    let queue = find(&spans, "queue", SpanKind::Internal);
    let server = spans.iter().find(|span| span.span_id == queue.parent_span_id).unwrap();
    let client = spans.iter().find(|span| span.parent_span_id == server.span_id && span.name == "GET").unwrap();
    assert!(queue.start_time_unix_nano < queue.end_time_unix_nano);
    // To the microseconds between them.
    assert!(queue.end_time_unix_nano <= client.start_time_unix_nano, "{queue:?} {client:?}");
}

#[test]
fn what_is_not_to_be_recorded_is_not_sent() {
    let (origin, collector) = (app(), collector());
    let gateway = start(&origin, &collector);
    let unsampled = GIVEN.replace("-01", "-00");
    gateway.connect().request("GET", "/", &[("traceparent", &unsampled)], "").expect(200);
    assert_eq!(origin.requests()[0].field("traceparent"), Some(&*unsampled), "it is not ours to change");
    gateway.connect().request("GET", "/", &[("traceparent", GIVEN)], "").expect(200);
    let spans = wait_for(&collector, 2);
    assert_eq!(spans.len(), 2);
}

#[test]
fn nobody_waits_for_a_collector_that_is_not_there_and_what_is_left_is_sent_at_the_end() {
    let origin = app();
    // Nobody listens there.
    let gateway = Gateway::with(CONFIG).set("origin", origin.address()).set("collector", "127.0.0.1:1").start();
    let mut client = gateway.connect();
    (0..20).for_each(|_| drop(client.get("/").expect(200)));
    let failed = || gateway.metrics().value("propylon_spans_total", &[("result", "failed")]).unwrap();
    eventually("spans that failed", || (failed() >= 40.0).then_some(()));
    gateway.wait_for_log("traces cannot be sent");
    let told = gateway.log().iter().filter(|line| line.contains("traces cannot be sent")).count();
    assert_eq!(told, 1);

    let collector = collector();
    let config = CONFIG.replace("{collector}", &collector.address().to_string());
    gateway.rewrite_config(&config);
    gateway.reload();
    gateway.get("/").expect(200);
    gateway.stop();
    assert_eq!(spans(&collector).len(), 2);
}
