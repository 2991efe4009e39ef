//! Football predictions: FastAPI on Uvicorn and Django on Gunicorn, behind two gateways with one Redis.

use std::time::Instant;

use super::*;

const HOST: &str = "predictions.example.com";
const HERE: (&str, &str) = ("Host", HOST);

fn start() -> Example {
    Example::start_with("predictions", &[("API_WORKERS", "2"), ("SITE_WORKERS", "1")])
}

#[test]
fn two_gateways_let_a_client_ask_a_hundred_times_a_minute() {
    let (example, redis) = (start(), RedisServer::start());
    let gateways = [0, 1].map(|_| secure_gateway(&example, &redis, HOST).start());
    let mut clients = [0, 1].map(|number| connect_tls(&gateways[number], HOST));

    let begin = Instant::now();
    let mut passed = 0;
    let refused = loop {
        // In turns to both gateways, and to both apps.
        let target = if passed % 10 == 9 { "/" } else { "/api/fixtures/1" };
        let answer = clients[passed % 2].request("GET", target, &[HERE], "");
        if answer.status == 429 {
            break answer;
        }
        passed += 1;
        assert_eq!(answer.expect(200).field("ratelimit-policy"), Some("\"per-client\";q=100;w=60"));
    };
    // A token is back after each 600 ms; what took so long is not the limit's fault.
    let back = usize::try_from(begin.elapsed().as_millis() / 600).unwrap();
    assert!((100..=100 + back).contains(&passed), "{passed} passed, {back} tokens were back");

    assert_eq!(refused.json()["reason"], "rate_limited");
    let wait: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert_eq!(wait, 1);
    assert_fields(&refused, &[("x-content-type-options", "nosniff"), ("cache-control", "no-store")]);
    // What monitors ask is not limited.
    for client in &mut clients {
        client.request("GET", "/health", &[HERE], "").expect(200);
    }
    let decided = |number: usize, decision: &str| {
        let labels = [("limit", "per-client"), ("decision", decision)];
        gateways[number].metrics().value("propylon_rate_limit_decisions_total", &labels).unwrap()
    };
    assert_eq!(decided(0, "allowed") + decided(1, "allowed"), passed as f64);
    for gateway in &gateways {
        assert_eq!(gateway.metrics().value("propylon_rate_limit_redis_errors_total", &[]), Some(0.0));
    }
}

#[test]
fn predictions_are_kept_for_half_an_hour_and_fixtures_for_an_hour() {
    let (example, redis) = (start(), RedisServer::start());
    let gateways = [0, 1].map(|_| secure_gateway(&example, &redis, HOST).start());
    for gateway in &gateways {
        eventually("what is kept is shared", || {
            let current = gateway.metrics().value("propylon_cache_shared_current", &[]);
            (current == Some(1.0)).then_some(())
        });
    }
    let mut clients = [0, 1].map(|number| connect_tls(&gateways[number], HOST));
    for (target, lifetime) in
        [("/api/predictions/7", 1800), ("/api/fixtures/7", 3600), ("/api/fixtures/upcoming?limit=3", 3600)]
    {
        let first = clients[0].request("GET", target, &[HERE], "").expect(200);
        assert!(first.field("cache-status").unwrap().contains("fwd=miss"), "{first}");
        // When it was made is in it.
        let again = clients[0].request("GET", target, &[HERE], "").expect(200);
        assert_kept(&again, lifetime);
        assert_eq!(again.text(), first.text());
        // The other gateway has it out of Redis, as soon as the first has put it there.
        let other = clients[1].request("GET", target, &[HERE], "").expect(200);
        assert_eq!(other.text(), first.text(), "{target} was asked for twice");
        assert_kept(&clients[1].request("GET", target, &[HERE], "").expect(200), lifetime);
    }
    for (gateway, asked) in gateways.iter().zip([3.0, 0.0]) {
        let labels = [("upstream", "api"), ("code", "2xx")];
        gateway.counts("propylon_upstream_requests_total", &labels, asked);
    }

    // One of two, two of four: a request is counted a moment after its client has the answer.
    eventually("the hit rates are shown", || {
        let rules = gateways[0].admin_get("/status").expect(200).json()["cache"]["rules"].clone();
        let rates = [("predictions", 0.5), ("fixtures", 0.5)];
        let shown = |(rule, (name, rate)): (usize, &(&str, f64))| {
            rules[rule]["name"] == *name && rules[rule]["hit_rate"] == *rate
        };
        rates.iter().enumerate().all(shown).then_some(())
    });
    // After a training run.
    let purged = gateways[0].command(&[
        "purge",
        "--config",
        "gateway.toml",
        "--prefix",
        "https://predictions.example.com/api/predictions/",
    ]);
    assert_eq!(purged.code, 0, "{}", purged.stderr);
    let renewed = clients[0].request("GET", "/api/predictions/7", &[HERE], "").expect(200);
    assert!(renewed.field("cache-status").unwrap().contains("fwd=miss"), "{renewed}");
}

#[test]
fn strangers_are_kept_out_and_browsers_are_told_what_they_may() {
    let (example, redis) = (start(), RedisServer::start());
    let gateway = secure_gateway(&example, &redis, HOST).start();
    let mut client = connect_tls(&gateway, HOST);

    // Both apps, each by its path; Django knows that it is HTTPS.
    let page = client.request("GET", "/", &[HERE], "").expect(200);
    assert!(page.text().contains("Follow a team to begin."), "{page}");
    let account = client.request("GET", "/account", &[HERE], "").expect(200);
    assert_eq!(account.text(), "https://predictions.example.com/account\n");
    let api = client.request("GET", "/api/predictions/12", &[HERE], "").expect(200);
    assert_eq!(api.json()["fixture"]["id"], 12);
    let feedback = client.request(
        "POST",
        "/api/feedback",
        &[HERE, ("Content-Type", "application/json")],
        r#"{"fixture": 12, "rating": 5}"#,
    );
    assert_eq!(feedback.expect(201).json()["rating"], 5);

    // Security fields on what either app answers, once each: Django's own stay.
    for answer in [&page, &api] {
        assert_fields(
            answer,
            &[
                ("strict-transport-security", "max-age=31536000"),
                ("x-content-type-options", "nosniff"),
                ("x-frame-options", "DENY"),
                ("cross-origin-opener-policy", "same-origin"),
            ],
        );
        assert!(answer.field("content-security-policy").unwrap().contains("frame-ancestors 'none'"), "{answer}");
        assert!(!answer.fields.has("server"), "{answer}");
    }
    assert_fields(&page, &[("referrer-policy", "same-origin")]);
    assert_fields(&api, &[("referrer-policy", "strict-origin-when-cross-origin")]);

    // Other origins.
    let mut preflight = |origin: &str, method: &str| {
        let fields = [
            HERE,
            ("Origin", origin),
            ("Access-Control-Request-Method", method),
            ("Access-Control-Request-Headers", "content-type"),
        ];
        client.request("OPTIONS", "/api/feedback", &fields, "")
    };
    let allowed = preflight("https://app.predictions.example.com", "POST").expect(204);
    assert_fields(&allowed, &[("access-control-allow-origin", "https://app.predictions.example.com")]);
    for (origin, method) in [
        ("https://app.predictions.example.com.evil.test", "POST"),
        ("http://app.predictions.example.com", "POST"),
        ("https://app.predictions.example.com", "DELETE"),
    ] {
        assert_eq!(preflight(origin, method).expect(403).json()["reason"], "cors_refused", "{origin} {method}");
    }
    let read = client.request("GET", "/api/predictions/12", &[HERE, ("Origin", "https://partner.example.org")], "");
    assert_fields(&read, &[("access-control-allow-origin", "https://partner.example.org")]);
    let read = client.request("GET", "/api/predictions/12", &[HERE, ("Origin", "https://evil.test")], "").expect(200);
    assert!(!read.fields.has("access-control-allow-origin"), "{read}");

    // Other hosts, other schemes, other people's numbers.
    let foreign = client.request("GET", "/", &[("Host", "evil.test")], "").expect(421);
    assert_eq!(foreign.json()["reason"], "wrong_host");
    let www = client.request("GET", "/x?y=1", &[("Host", "www.predictions.example.com")], "").expect(308);
    assert_eq!(www.field("location"), Some("https://predictions.example.com/x?y=1"));
    let plain = gateway.connect().request("GET", "/api/predictions/12?x=1", &[HERE], "").expect(308);
    assert_eq!(plain.field("location"), Some("https://predictions.example.com/api/predictions/12?x=1"));
    let metrics = client.request("GET", "/metrics", &[HERE], "").expect(403);
    assert_eq!(metrics.json()["reason"], "access_denied");
    let inside = secure_gateway(&example, &redis, HOST).env("METRICS_FROM", "127.0.0.0/8").start();
    let metrics = connect_tls(&inside, HOST).request("GET", "/metrics", &[HERE], "").expect(200);
    assert!(metrics.text().contains("predictions_responses_total counter"), "{metrics}");
    gateway.admin_get("/readyz").expect(200);
}
