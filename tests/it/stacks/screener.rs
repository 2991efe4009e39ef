//! A stock screener: three Gunicorns with gevent workers, one of which goes.

use super::*;
use crate::harness::{Address, Metrics};

/// Each request comes by the load balancer, and from a client of its own unless it says otherwise.
fn ask(client: &mut Client, target: &str, from: usize) -> Response {
    let address = format!("10.{}.{}.{}", from >> 16 & 255, from >> 8 & 255, from & 255);
    client.request("GET", target, &[("Host", "screener.example.com"), ("X-Forwarded-For", &address)], "")
}

fn start(seconds: &str) -> Example {
    Example::start_with(
        "screener",
        &[("SCREENER_WORKERS", "1"), ("SCREEN_SECONDS", seconds), ("LOAD_BALANCER", "127.0.0.1")],
    )
}

/// How many of the three endpoints have this health, by /status.
fn endpoints(gateway: &Gateway, health: &str) -> usize {
    let status = gateway.admin_get("/status").expect(200).json();
    let endpoints = status["upstreams"][0]["endpoints"].as_array().unwrap().clone();
    endpoints.iter().filter(|endpoint| endpoint["health"] == health).count()
}

/// What each endpoint has answered.
fn answered(metrics: &Metrics) -> Vec<f64> {
    let names = metrics.label_values("endpoint");
    let of = |name: &&str| metrics.value("propylon_upstream_requests_total", &[("endpoint", *name)]).unwrap_or(0.0);
    names.iter().map(of).collect()
}

#[test]
fn an_instance_that_is_killed_is_noticed_by_nobody() {
    let (example, redis) = (start("2"), RedisServer::start());
    let gateway = gateway(&example, &redis).start();
    eventually("three instances are healthy", || (endpoints(&gateway, "healthy") == 3).then_some(()));
    // Each from another address, and for another answer: nothing of it comes out of the cache.
    let quote = |client: &mut Client, number: usize| {
        let answer = ask(client, &format!("/api/quotes/AKX?number={number}"), number).expect(200);
        assert_eq!(answer.json()["quote"]["symbol"], "AKX");
    };
    let mut client = gateway.connect();
    for number in 0..30 {
        quote(&mut client, 1_000_000 + number);
    }
    let answered = answered(&gateway.metrics());
    assert!(answered.len() == 3 && answered.iter().all(|count| *count >= 5.0), "{answered:?}");

    // Each works on two screens. Gunicorn sends the head of an answer before its body: one that is cut in between cannot be asked for
    // again, so none has begun.
    let mut waiting: Vec<Client> = (0..6).map(|_| gateway.connect()).collect();
    for (number, client) in waiting.iter_mut().enumerate() {
        let address = format!("192.0.2.{number}");
        let fields = [("Host", "screener.example.com"), ("X-Forwarded-For", &*address)];
        client.send_request("GET", &format!("/api/screen?max_pe={number}"), &fields, "");
    }
    eventually("six screens are worked on", || {
        (gateway.metrics().value("propylon_upstream_in_flight", &[]) == Some(6.0)).then_some(())
    });
    let addresses: Vec<Address> = gateway.metrics().label_values("endpoint").into_iter().map(Address::parse).collect();
    example.kill_server(1);
    eventually("an instance is gone", || {
        addresses.iter().any(|address| Client::try_connect(address).is_err()).then_some(())
    });
    let (asked, ()) = under_load(
        4,
        || gateway.connect(),
        quote,
        |asked| {
            eventually("one instance is unhealthy", || {
                ((endpoints(&gateway, "healthy"), endpoints(&gateway, "unhealthy")) == (2, 1)).then_some(())
            });
            let before = asked.load(Ordering::Relaxed);
            eventually("answers", || (asked.load(Ordering::Relaxed) >= before + 60).then_some(()));
        },
    );
    for client in &mut waiting {
        assert!(client.response().expect(200).json()["found"].is_array());
    }

    assert_answered(&gateway, 30 + 6 + asked);
    let metrics = gateway.metrics();
    assert_eq!(metrics.value("propylon_upstream_retries_total", &[("kind", "idempotent")]), Some(2.0));
    assert_eq!(metrics.value("propylon_upstream_healthy", &[("upstream", "screener")]), Some(2.0));
    // Connections are pooled: far fewer than requests.
    let opened = metrics.value("propylon_upstream_connections_total", &[("reused", "false")]).unwrap();
    assert!(opened < asked as f64 / 3.0, "{opened} connections for {asked} requests");
    gateway.admin_get("/readyz").expect(200);
}

#[test]
fn pages_are_kept_for_half_a_minute_the_api_for_a_minute_and_files_for_an_hour() {
    let (example, redis) = (start("0"), RedisServer::start());
    let gateway = gateway(&example, &redis).start();
    let mut client = gateway.connect();
    for (target, lifetime) in [("/", 30), ("/api/quotes/AKX", 60), ("/static/screener.css", 3600)] {
        let first = ask(&mut client, target, 1).expect(200);
        assert!(first.field("cache-status").unwrap().contains("fwd=miss"), "{first}");
        let again = ask(&mut client, target, 2).expect(200);
        assert_kept(&again, lifetime);
        assert_eq!(again.text(), first.text());
    }
    // Whoever is logged in is answered by the app; what analytics have left makes no difference.
    let with_cookie = |client: &mut Client, cookie: &str| {
        client.request("GET", "/", &[("Host", "screener.example.com"), ("Cookie", cookie)], "").expect(200)
    };
    let own = with_cookie(&mut client, "session=abc");
    assert!(own.field("cache-status").unwrap().contains("fwd=bypass"), "{own}");
    assert_kept(&with_cookie(&mut client, "_ga=GA1.2"), 30);
    for _ in 0..2 {
        let health = ask(&mut client, "/health", 1).expect(200);
        assert!(!health.field("cache-status").unwrap().contains("hit"), "{health}");
    }
    let metrics = ask(&mut client, "/metrics", 0x0909_0909).expect(200);
    assert!(metrics.text().contains("screener_requests_total "), "{metrics}");
    let fields = [("Host", "screener.example.com"), ("X-Forwarded-For", "192.0.2.1")];
    client.request("GET", "/metrics", &fields, "").expect(403);
}

#[test]
fn screens_beyond_what_the_instances_take_wait_and_a_client_that_wants_too_many_is_told() {
    let example = Example::start_with(
        "screener",
        &[
            ("SCREENER_WORKERS", "1"),
            ("SCREENER_IN_FLIGHT", "2"),
            ("LOAD_BALANCER", "127.0.0.1"),
            ("SCREEN_SECONDS", "0.3"),
        ],
    );
    let redis = RedisServer::start();
    let gateway = gateway(&example, &redis).start();
    // Four times what three instances work on at once.
    let mut clients: Vec<Client> = (0..24).map(|_| gateway.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let target = format!("/api/screen?max_pe={number}");
        let address = format!("10.1.0.{number}");
        client.send_request("GET", &target, &[("X-Forwarded-For", &address)], "");
    }
    for client in &mut clients {
        assert!(client.response().expect(200).json()["found"].is_array());
    }
    let metrics = gateway.metrics();
    assert_eq!(metrics.value("propylon_upstream_capacity", &[("upstream", "screener")]), Some(6.0));
    assert!(metrics.value("propylon_queue_wait_seconds_count", &[("upstream", "screener")]).unwrap() >= 1.0);
    assert_eq!(metrics.value("propylon_queue_drops_total", &[("upstream", "screener")]).unwrap_or(0.0), 0.0);

    // Ten at once, then one each two seconds; out of the cache or not.
    let mut client = gateway.connect();
    let mut passed = 0;
    let refused = loop {
        let answer = ask(&mut client, "/api/screen?max_pe=1", 0x0002_0000);
        if answer.status == 429 {
            break answer;
        }
        answer.expect(200);
        passed += 1;
        assert!(passed < 100, "nobody says stop");
    };
    assert!(passed >= 10, "{passed}");
    assert_eq!(refused.json()["reason"], "rate_limited");
    assert!((1..=2).contains(&refused.field("retry-after").unwrap().parse::<u32>().unwrap()), "{refused}");
    // Nobody else is.
    ask(&mut client, "/api/screen?max_pe=1", 0x0002_0001).expect(200);
}
