//! An education platform: FastAPI on two Gunicorns with Uvicorn's workers, which are replaced, while the gateway is reloaded.

use super::*;
use crate::harness::Signal;
use crate::harness::example::configuration;

const HOST: &str = "courses.example.com";
const HERE: (&str, &str) = ("Host", HOST);

fn secure(example: &Example, redis: &RedisServer) -> Gateway {
    secure_gateway(example, redis, HOST).env("SHUTDOWN_DELAY", "0s").start()
}

#[test]
fn a_reload_and_workers_that_are_replaced_are_noticed_by_nobody() {
    // Four clients ask a hundred times a second at most, as one address may.
    let example = Example::start_with(
        "courses",
        &[
            ("COURSES_WORKERS", "2"),
            ("COURSES_MAX_REQUESTS", "40"),
            ("REPORT_SECONDS", "0.04"),
            ("QUEUE_TIMEOUT", "1m"),
        ],
    );
    let redis = RedisServer::start();
    let gateway = secure(&example, &redis);
    let booted = || example.log().iter().filter(|line| line.contains("Booting worker")).count();
    let (before, toml) = (booted(), configuration("courses"));

    let (asked, ()) = under_load(
        4,
        || connect_tls(&gateway, HOST),
        |client, number| {
            // Each a pupil of the same school.
            let cookie = format!("session={number}");
            client.request("GET", "/api/courses/2/report", &[HERE, ("Cookie", &cookie)], "").expect(200);
        },
        |_| {
            for generation in 2..=6 {
                let changed = format!("balance = \"least_conn\"\nconnect_timeout = \"{generation}s\"");
                gateway.rewrite_config(&toml.replace("balance = \"least_conn\"", &changed));
                gateway.signal(Signal::HUP);
                eventually("the new configuration is in force", || {
                    let generations = gateway.metrics().value("propylon_config_generation", &[]);
                    (generations == Some(f64::from(generation))).then_some(())
                });
            }
            eventually_within(PATIENCE, "workers were replaced", || (booted() >= before + 4).then_some(()));
        },
    );
    assert_answered(&gateway, asked);
}

#[test]
fn reports_beyond_what_the_replicas_take_wait() {
    let example = Example::start_with(
        "courses",
        &[("COURSES_WORKERS", "1"), ("COURSES_IN_FLIGHT", "4"), ("REPORT_SECONDS", "0.3")],
    );
    let redis = RedisServer::start();
    let gateway = secure(&example, &redis);
    let mut clients: Vec<Client> = (0..40).map(|_| connect_tls(&gateway, HOST)).collect();
    for client in &mut clients {
        client.send_request("GET", "/api/courses/1/report", &[HERE], "");
    }
    for client in &mut clients {
        assert_eq!(client.response().expect(200).json()["course"], "Algebra");
    }
    let metrics = gateway.metrics();
    let of = |name, labels: &[(&str, &str)]| metrics.value(name, labels);
    assert_eq!(of("propylon_upstream_capacity", &[]), Some(8.0));
    assert!(of("propylon_queue_wait_seconds_count", &[]).unwrap() >= 1.0);
    assert_eq!(of("propylon_queue_drops_total", &[]).unwrap_or(0.0), 0.0);
    // The one with fewer in flight is next: neither has much more than half.
    for name in metrics.label_values("endpoint") {
        let answered = of("propylon_upstream_requests_total", &[("endpoint", name), ("code", "2xx")]).unwrap();
        assert!((12.0..=28.0).contains(&answered), "{name}: {answered}");
    }
    let status = gateway.admin_get("/status").expect(200).json();
    assert_eq!(status["upstreams"][0]["balance"], "least_conn");
}

#[test]
fn uploads_have_their_limits_and_files_are_kept_for_an_hour() {
    let example = Example::start_with("courses", &[("COURSES_WORKERS", "1")]);
    let redis = RedisServer::start();
    let gateway = secure(&example, &redis);
    let mut client = connect_tls(&gateway, HOST);

    // More than elsewhere, and yet not everything.
    let part = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"essay.txt\"\r\n\r\n";
    let body = format!("{part}{}\r\n--x--\r\n", "x".repeat(2_000_000));
    let form = ("Content-Type", "multipart/form-data; boundary=x");
    let pupil = ("Cookie", "session=1");
    let handed_in = client.request("POST", "/api/courses/4/submissions", &[HERE, form, pupil], &body).expect(201);
    assert_eq!((&handed_in.json()["name"], &handed_in.json()["length"]), (&"essay.txt".into(), &2_000_000.into()));
    for (target, length) in [("/api/courses/4/submissions", "20971521"), ("/api/courses", "1048577")] {
        let mut client = connect_tls(&gateway, HOST);
        client.send_request("POST", target, &[HERE, form, ("Content-Length", length)], "");
        assert_eq!(client.response().expect(413).json()["reason"], "body_too_large", "{target}");
    }

    let first = client.request("GET", "/static/courses.css", &[HERE], "").expect(200);
    let again = client.request("GET", "/static/courses.css", &[HERE], "").expect(200);
    assert_kept(&again, 3600);
    assert_eq!(again.text(), first.text());
    for answer in [&first, &again, &handed_in] {
        assert_fields(answer, &[("strict-transport-security", "max-age=31536000"), ("x-frame-options", "DENY")]);
    }
    assert_fields(&again, &[("cache-control", "public, max-age=3600")]);

    let plain = gateway.connect().request("GET", "/api/courses", &[HERE], "").expect(308);
    assert_eq!(plain.field("location"), Some("https://courses.example.com/api/courses"));
    client.request("GET", "/metrics", &[HERE], "").expect(403);
    client.request("GET", "/health", &[HERE], "").expect(200);
    gateway.admin_get("/readyz").expect(200);
}
