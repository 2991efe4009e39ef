//! The page as a scraper sees it.

mod scraper;

use std::time::{Duration, Instant};

use super::*;
use scraper::{Labels, parse};

const REASONS: &[&str] = &["no_route", "body_too_large"];

/// The page while no body waits.
fn page(metrics: &Metrics) -> String {
    metrics.render(&SpoolReading::default())
}

fn value(metrics: &Metrics, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let wanted: Labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let mut found = parse(&page(metrics)).into_iter().filter(|(n, l, _)| n == name && *l == wanted);
    let value = found.next()?.2;
    assert!(found.next().is_none(), "{name}{labels:?} stands twice");
    Some(value)
}

#[test]
fn a_request_is_counted_by_route_method_and_class() {
    let metrics = Metrics::new("1.2.3", REASONS);
    let route = metrics.route("shop");
    let request = route.enter();
    assert_eq!(value(&metrics, "propylon_requests_in_flight", &[("route", "shop")]), Some(1.0));
    request.record(Method::Get, 200, Duration::from_millis(30), 10, 2000);
    request.record(Method::Get, 502, Duration::from_secs(20), 0, 5);
    request.record_client_abort();
    drop(request);

    let count = |method, code| {
        value(&metrics, "propylon_requests_total", &[("route", "shop"), ("method", method), ("code", code)])
    };
    assert_eq!(count("GET", "2xx"), Some(1.0));
    assert_eq!(count("GET", "5xx"), Some(1.0));
    assert_eq!(count("GET", "4xx"), Some(0.0), "the classes of a method that was seen begin at 0");
    assert_eq!(count("POST", "2xx"), None);
    let of_route = |name| value(&metrics, name, &[("route", "shop")]);
    assert_eq!(of_route("propylon_requests_in_flight"), Some(0.0));
    assert_eq!(of_route("propylon_request_bytes_total"), Some(10.0));
    assert_eq!(of_route("propylon_response_bytes_total"), Some(2005.0));
    assert_eq!(of_route("propylon_client_aborts_total"), Some(1.0));
    assert_eq!(of_route("propylon_request_duration_seconds_count"), Some(2.0));
    assert_eq!(of_route("propylon_request_duration_seconds_sum"), Some(20.03));
    let bucket = |le| value(&metrics, "propylon_request_duration_seconds_bucket", &[("route", "shop"), ("le", le)]);
    assert_eq!(
        (bucket("0.025"), bucket("0.05"), bucket("10"), bucket("+Inf")),
        (Some(0.0), Some(1.0), Some(1.0), Some(2.0))
    );
}

#[test]
fn counts_survive_a_reload_and_removed_names_disappear() {
    let metrics = Metrics::new("1.2.3", REASONS);
    let (kept, removed) = (metrics.route("kept"), metrics.route("removed"));
    let endpoint = metrics.endpoint("shop", "127.0.0.1:8001");
    kept.record(Method::Post, 201, Duration::ZERO, 0, 0);
    let again = metrics.route("kept");
    assert!(Arc::ptr_eq(&kept, &again));
    let still_running = removed.enter();
    drop((kept, removed, endpoint));

    let in_flight = |route| value(&metrics, "propylon_requests_in_flight", &[("route", route)]);
    assert_eq!(in_flight("removed"), Some(1.0), "a request still runs on it");
    drop(still_running);
    assert_eq!(in_flight("removed"), None);
    assert_eq!(in_flight("kept"), Some(0.0));
    assert_eq!(in_flight(NO_ROUTE), Some(0.0));
    assert!(!page(&metrics).contains("127.0.0.1:8001"));
}

#[test]
fn an_endpoint_shows_its_state() {
    let metrics = Metrics::new("1.2.3", REASONS);
    let endpoint = metrics.endpoint("shop", "unix:/run/a.sock");
    let labels = [("upstream", "shop"), ("endpoint", "unix:/run/a.sock")];
    let of = |name| value(&metrics, name, &labels);
    let with = |name, key, text| value(&metrics, name, &[labels[0], labels[1], (key, text)]);

    assert_eq!((of("propylon_upstream_healthy"), of("propylon_upstream_capacity")), (Some(1.0), None));
    let held = endpoint.enter();
    endpoint.set_capacity(Some(4));
    endpoint.set_healthy(false);
    endpoint.record_check(CheckResult::Ignored);
    endpoint.record_error(UpstreamError::ClosedEarly);
    endpoint.record_connection(true);
    endpoint.record_first_byte(Duration::from_millis(1));
    held.record(404, Duration::from_millis(2));
    assert_eq!((of("propylon_upstream_healthy"), of("propylon_upstream_capacity")), (Some(0.0), Some(4.0)));
    assert_eq!(of("propylon_upstream_in_flight"), Some(1.0));
    drop(held);
    assert_eq!((of("propylon_upstream_in_flight"), endpoint.in_flight()), (Some(0.0), 0));
    assert_eq!(with("propylon_upstream_requests_total", "code", "4xx"), Some(1.0));
    assert_eq!(with("propylon_upstream_errors_total", "kind", "closed_early"), Some(1.0));
    assert_eq!(with("propylon_upstream_errors_total", "kind", "reset"), Some(0.0));
    assert_eq!(with("propylon_upstream_health_checks_total", "result", "ignored"), Some(1.0));
    assert_eq!(with("propylon_upstream_connections_total", "reused", "true"), Some(1.0));
    assert_eq!(with("propylon_upstream_connections_total", "reused", "false"), Some(0.0));
    assert_eq!(of("propylon_upstream_first_byte_seconds_count"), Some(1.0));
    assert_eq!(of("propylon_upstream_duration_seconds_sum"), Some(0.002));
}

#[test]
fn an_endpoint_shows_why_it_gets_nothing() {
    let metrics = Metrics::new("1.2.3", REASONS);
    let endpoint = metrics.endpoint("shop", "10.0.0.1:8000");
    let of = |name| value(&metrics, name, &[("upstream", "shop"), ("endpoint", "10.0.0.1:8000")]);
    let flags = ["ejected", "drained", "unreachable"].map(|flag| format!("propylon_endpoint_{flag}"));
    let set = [EndpointMetrics::set_ejected, EndpointMetrics::set_drained, EndpointMetrics::set_unreachable];
    for raised in 0..flags.len() {
        set[raised](&endpoint, true);
        for (index, flag) in flags.iter().enumerate() {
            assert_eq!(of(flag), Some(if index == raised { 1.0 } else { 0.0 }), "{flag}");
        }
        set[raised](&endpoint, false);
        assert_eq!(of(&flags[raised]), Some(0.0));
    }
    assert_eq!(of("propylon_upstream_healthy"), Some(1.0), "checks have their own say");
    endpoint.record_ejection();
    endpoint.record_ejection();
    assert_eq!(of("propylon_endpoint_ejections_total"), Some(2.0));
}

#[test]
fn what_is_kept_open_to_an_endpoint_is_shown() {
    let metrics = Metrics::new("1.2.3", REASONS);
    let endpoint = metrics.endpoint("shop", "10.0.0.1:8000");
    let of = |name| value(&metrics, name, &[("upstream", "shop"), ("endpoint", "10.0.0.1:8000")]);
    let seconds = |limit| {
        endpoint.set_keepalive_limit(limit);
        of("propylon_endpoint_keepalive_seconds").unwrap()
    };
    assert!((seconds(Some(Duration::from_millis(2500))) - 2.5).abs() < 1e-9);
    assert_eq!((seconds(Some(Duration::ZERO)), seconds(None)), (0.0, 0.0));
    assert!(seconds(Some(Duration::MAX)) > 1e12, "more than can be held is not little");
    endpoint.set_idle_connections(3);
    assert_eq!(of("propylon_endpoint_idle_connections"), Some(3.0));
    endpoint.set_idle_connections(0);
    assert_eq!(of("propylon_endpoint_idle_connections"), Some(0.0));
}

#[test]
fn an_overdue_request_stays_in_flight_until_the_endpoint_ends_it() {
    let metrics = Metrics::new("1.2.3", REASONS);
    let endpoint = metrics.endpoint("shop", "10.0.0.1:8000");
    let of = |name| value(&metrics, name, &[("upstream", "shop"), ("endpoint", "10.0.0.1:8000")]);
    let held = endpoint.enter();
    let (one, two) = (endpoint.enter_overdue(), endpoint.enter_overdue());
    assert_eq!((of("propylon_endpoint_overdue"), of("propylon_upstream_in_flight")), (Some(2.0), Some(1.0)));
    drop(two);
    assert_eq!(of("propylon_endpoint_overdue"), Some(1.0));
    std::thread::spawn(move || drop((held, one))).join().unwrap();
    assert_eq!((of("propylon_endpoint_overdue"), of("propylon_upstream_in_flight")), (Some(0.0), Some(0.0)));
    // A reload may let go of an endpoint before it is done.
    let late = endpoint.enter_overdue();
    drop(endpoint);
    assert_eq!(of("propylon_endpoint_overdue"), Some(1.0));
    drop(late);
    assert_eq!(of("propylon_endpoint_overdue"), None);
}

#[test]
fn a_queue_shows_who_waits_and_who_gave_up() {
    let metrics = Metrics::new("1.2.3", REASONS);
    let upstream = metrics.upstream("shop");
    let of = |name| value(&metrics, name, &[("upstream", "shop")]);
    let drops = |reason| value(&metrics, "propylon_queue_drops_total", &[("upstream", "shop"), ("reason", reason)]);
    assert_eq!((of("propylon_queue_depth"), of("propylon_queue_wait_seconds_count")), (Some(0.0), Some(0.0)));
    assert_eq!((drops("client_left"), drops("late"), drops("full")), (Some(0.0), Some(0.0), Some(0.0)));

    upstream.set_queue_max(100);
    (0..3).for_each(|_| upstream.queue_entered());
    upstream.record_queue_drop(QueueDrop::Full);
    assert_eq!((of("propylon_queue_depth"), of("propylon_queue_max")), (Some(3.0), Some(100.0)));
    upstream.queue_left();
    upstream.record_queue_wait(Duration::from_millis(80));
    // Whichever thread finds out that it is over.
    std::thread::scope(|scope| {
        for reason in [QueueDrop::ClientLeft, QueueDrop::Late] {
            let upstream = &upstream;
            scope.spawn(move || {
                upstream.queue_left();
                upstream.record_queue_drop(reason);
            });
        }
    });
    assert_eq!((of("propylon_queue_depth"), upstream.queue_depth()), (Some(0.0), 0));
    assert_eq!((drops("client_left"), drops("late"), drops("full")), (Some(1.0), Some(1.0), Some(1.0)));
    assert_eq!(of("propylon_queue_wait_seconds_count"), Some(1.0));
    assert_eq!(of("propylon_queue_wait_seconds_sum"), Some(0.08));
    upstream.set_queue_max(usize::MAX);
    assert!(of("propylon_queue_max") > Some(1e9));
}

#[test]
fn the_spool_is_shown_as_it_was_read() {
    let metrics = Metrics::new("1.2.3", REASONS);
    let reading = SpoolReading {
        memory_bytes: 1,
        memory_limit: 2,
        disk_bytes: 3,
        disk_limit: 4,
        files: 5,
        bodies_on_disk_total: 6,
        disk_written_bytes_total: 7,
        refused_budget_total: 8,
        refused_body_total: 9,
        io_errors_total: 10,
    };
    let samples = parse(&metrics.render(&reading));
    let shown: Vec<_> = samples.iter().filter(|(name, ..)| name.starts_with("propylon_spool_")).collect();
    assert!(shown.iter().map(|(.., value)| *value).eq((1..=10).map(f64::from)), "{shown:?}");
    let limits = shown.iter().filter_map(|(_, labels, value)| Some((labels.get("limit")?.as_str(), *value)));
    assert_eq!(limits.collect::<Vec<_>>(), [("disk", 8.0), ("disk_per_body", 9.0)]);
}

#[test]
fn an_upstream_and_a_listener_are_counted() {
    let metrics = Metrics::new("1.2.3", REASONS);
    let upstream = metrics.upstream("shop");
    upstream.record_connect(Duration::from_millis(3));
    upstream.record_retry(Retry::Idempotent);
    upstream.record_retry_budget_exhausted();
    upstream.record_resolve_failure();
    let of = |name| value(&metrics, name, &[("upstream", "shop")]);
    assert_eq!(of("propylon_upstream_connect_seconds_count"), Some(1.0));
    assert_eq!(of("propylon_upstream_retry_budget_exhausted_total"), Some(1.0));
    assert_eq!(of("propylon_upstream_resolve_failures_total"), Some(1.0));
    let retries = [("upstream", "shop"), ("kind", "idempotent")];
    assert_eq!(value(&metrics, "propylon_upstream_retries_total", &retries), Some(1.0));

    let listener = metrics.listener("0.0.0.0:80");
    let (mut one, two) = (listener.accept(), listener.accept());
    one.set_active(true);
    one.set_active(true);
    drop(listener.accept());
    listener.record_closed(Refusal::PerIpLimit);
    listener.record_accept_error();
    let state = |state| value(&metrics, "propylon_connections", &[("listener", "0.0.0.0:80"), ("state", state)]);
    assert_eq!((state("active"), state("idle"), listener.open()), (Some(1.0), Some(1.0), 2));
    drop((one, two));
    assert_eq!((state("active"), state("idle"), listener.open()), (Some(0.0), Some(0.0), 0));
    let total = value(&metrics, "propylon_connections_total", &[("listener", "0.0.0.0:80")]);
    assert_eq!(total, Some(3.0));
    let refused = [("listener", "0.0.0.0:80"), ("reason", "per_ip_limit")];
    assert_eq!(value(&metrics, "propylon_connections_refused_total", &refused), Some(1.0));
}

#[test]
fn reloads_and_rejections_are_counted() {
    let metrics = Metrics::new("1.2.3", REASONS);
    let of = |name| value(&metrics, name, &[]);
    let reloads = |result| value(&metrics, "propylon_config_reloads_total", &[("result", result)]);
    let now = UNIX_EPOCH + Duration::from_millis(1_795_255_200_500);
    metrics.record_start(1, now);
    metrics.record_reload(Reload::Refused, 1, now + Duration::from_mins(1));
    assert_eq!(of("propylon_config_last_reload_success"), Some(0.0));
    assert_eq!(of("propylon_config_last_reload_success_timestamp_seconds"), Some(1_795_255_200.5));
    metrics.record_reload(Reload::Applied, 2, now + Duration::from_secs(90));
    assert_eq!(of("propylon_config_last_reload_success"), Some(1.0));
    assert_eq!(of("propylon_config_last_reload_success_timestamp_seconds"), Some(1_795_255_290.5));
    assert_eq!(of("propylon_config_generation"), Some(2.0));
    assert_eq!((reloads("applied"), reloads("refused"), reloads("unchanged")), (Some(1.0), Some(1.0), Some(0.0)));

    metrics.record_rejection(1);
    metrics.record_field_dropped(FieldDrop::Spoofable);
    let rejections = |reason| value(&metrics, "propylon_rejections_total", &[("reason", reason)]);
    assert_eq!((rejections("no_route"), rejections("body_too_large")), (Some(0.0), Some(1.0)));
    assert_eq!(value(&metrics, "propylon_fields_dropped_total", &[("reason", "spoofable")]), Some(1.0));
    assert_eq!(value(&metrics, "propylon_build_info", &[("version", "1.2.3")]), Some(1.0));
}

#[test]
fn hostile_names_stay_inside_their_quotes() {
    let name = "a\"} 1\npropylon_up 1\r\\n\\\"{x=\"ä\u{7f}";
    let metrics = Metrics::new(name, REASONS);
    let _handles = (metrics.route(name), metrics.upstream(name), metrics.endpoint(name, name), metrics.listener(name));
    metrics.route(name).record(Method::Other, 200, Duration::ZERO, 0, 0);
    let samples = parse(&page(&metrics));
    assert!(samples.iter().all(|(sample, ..)| sample != "propylon_up"));
    for label in ["route", "upstream", "endpoint", "listener", "version"] {
        assert!(samples.iter().any(|(_, labels, _)| labels.get(label).is_some_and(|text| text == name)), "{label}");
    }
}

#[test]
fn a_full_page_holds_every_metric_of_the_table_and_no_other() {
    let metrics = Metrics::new("1.2.3", REASONS);
    let handles = (metrics.route("r"), metrics.upstream("u"), metrics.endpoint("u", "e"), metrics.listener("l"));
    handles.0.record(Method::Get, 200, Duration::ZERO, 0, 0);
    handles.2.set_capacity(Some(1));
    handles.3.record_handshake(Handshake::Full);
    metrics.tls.show(vec![CertificateReading { file: "f".into(), names: Vec::new(), not_after: UNIX_EPOCH }]);
    let (_limit, _rule) = (metrics.limit("l"), metrics.cache("c"));
    metrics.show_redis(vec![Arc::new(RedisMetrics::new(RedisUser::Limits))]);
    metrics.show_shared(Some(Arc::default()));
    metrics.show_disk(Some(Arc::default()));
    let text = page(&metrics);
    let typed: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let expected: Vec<String> =
        table::ALL.iter().map(|family| format!("{} {}", family.name, family.kind.text())).collect();
    let mut sorted = expected.clone();
    sorted.sort();
    let mut typed_sorted = typed.clone();
    typed_sorted.sort_unstable();
    // The limit of descriptors may be absent.
    typed_sorted.retain(|line| !line.starts_with("process_max_fds"));
    sorted.retain(|line| !line.starts_with("process_max_fds"));
    assert_eq!(typed_sorted, sorted);
    for family in table::ALL {
        let sample = parse(&text).into_iter().find(|(name, ..)| name.starts_with(family.name));
        let Some((_, labels, _)) = sample else {
            continue;
        };
        for label in family.labels {
            assert!(labels.contains_key(*label), "{} lacks {label}", family.name);
        }
    }
}

#[test]
fn a_thousand_endpoints_are_rendered() {
    let metrics = Metrics::new("1.2.3", REASONS);
    let mut handles = Vec::new();
    for upstream in 0..50 {
        for endpoint in 0..20 {
            let handle = metrics.endpoint(&format!("upstream-{upstream}"), &format!("10.0.{upstream}.{endpoint}:8000"));
            handle.record(200, Duration::from_millis(endpoint));
            handles.push(handle);
        }
    }
    let begun = Instant::now();
    let text = page(&metrics);
    eprintln!("{} endpoints: {} bytes in {:?}", handles.len(), text.len(), begun.elapsed());
    let samples = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(samples > 50_000, "{samples}");
}

#[test]
fn what_takes_microseconds_has_finer_buckets() {
    let metrics = Metrics::new("1.2.3", REASONS);
    let limit = metrics.limit("l");
    limit.record_redis(Duration::from_micros(400));
    limit.record_redis(Duration::from_millis(20));
    let samples = parse(&page(&metrics));
    let bucket = |le: &str| {
        let found = samples.iter().find(|(name, labels, _)| {
            name == "propylon_rate_limit_redis_seconds_bucket" && labels.get("le").is_some_and(|bound| bound == le)
        });
        found.map(|(_, _, value)| *value)
    };
    assert_eq!(
        [bucket("0.0005"), bucket("0.01"), bucket("0.025"), bucket("+Inf")],
        [Some(1.0), Some(1.0), Some(2.0), Some(2.0)]
    );
    assert_eq!(value(&metrics, "propylon_rate_limit_redis_seconds_sum", &[("limit", "l")]), Some(0.0204));
}
