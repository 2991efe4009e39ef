//! A directory: Flask on Gunicorn with gevent workers, limits that differ from path to path, and security fields on everything.

use super::*;

const HOST: &str = "directory.example.com";
const APP: &str = "https://app.directory.example.com";
const JSON: (&str, &str) = ("Content-Type", "application/json");

fn start(keepalive: &str) -> Example {
    Example::start_with(
        "directory",
        &[
            ("DIRECTORY_WORKERS", "2"),
            ("DIRECTORY_KEEPALIVE", keepalive),
            ("DIRECTORY_PASSWORD", "sesame"),
            ("LOAD_BALANCER", "127.0.0.1"),
        ],
    )
}

/// A browser behind the platform that ends TLS, with a page of the other origin.
struct Browser<'a> {
    client: Client,
    address: &'a str,
    cookie: String,
    token: String,
}

impl<'a> Browser<'a> {
    fn new(gateway: &Gateway, address: &'a str) -> Self {
        Self { client: gateway.connect(), address, cookie: String::new(), token: String::new() }
    }

    fn ask(&mut self, method: &str, target: &str, body: &str) -> Response {
        let mut fields = vec![
            ("Host", HOST),
            ("Origin", APP),
            ("X-Forwarded-For", self.address),
            ("X-Forwarded-Proto", "https"),
            ("X-CSRF-Token", &self.token),
        ];
        if !self.cookie.is_empty() {
            fields.push(("Cookie", &self.cookie));
        }
        if !body.is_empty() {
            fields.push(JSON);
        }
        let answer = self.client.request(method, target, &fields, body);
        if let Some(set) = answer.field("set-cookie") {
            set.split(';').next().unwrap().clone_into(&mut self.cookie);
        }
        answer
    }

    fn get(&mut self, target: &str) -> Response {
        self.ask("GET", target, "")
    }

    /// Asks until it is refused; how often it was not.
    #[track_caller]
    fn until_refused(&mut self, method: &str, target: &str, body: &str, right: u16) -> (usize, Response) {
        for passed in 0..100 {
            let answer = self.ask(method, target, body);
            if answer.status == 429 {
                return (passed, answer);
            }
            answer.expect(right);
        }
        panic!("nobody says stop to {method} {target}");
    }
}

/// What every answer has, whoever gives it.
#[track_caller]
fn assert_protected(answer: &Response) {
    assert_fields(
        answer,
        &[
            ("strict-transport-security", "max-age=31536000; includeSubDomains"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-embedder-policy", "require-corp"),
            ("permissions-policy", "geolocation=(self), camera=(), microphone=(), payment=()"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
        ],
    );
    assert!(answer.field("content-security-policy").unwrap().starts_with("default-src 'self'; "), "{answer}");
    assert!(!answer.fields.has("server"), "{answer}");
}

/// What lets the page read it, on the API alone.
#[track_caller]
fn assert_readable(answer: &Response) {
    assert_fields(answer, &[("access-control-allow-origin", APP), ("access-control-allow-credentials", "true")]);
}

#[test]
fn tokens_and_logins_are_limited_more_strictly_and_every_answer_carries_the_fields() {
    let (example, mut redis) = (start("5"), RedisServer::start());
    let gateway = gateway(&example, &redis).start();

    // A whole visit: a token, a wrong password, the right one, a new place.
    let mut visitor = Browser::new(&gateway, "192.0.2.1");
    let page = visitor.get("/").expect(200);
    assert!(page.text().contains("Old Library"), "{page}");
    let token = visitor.get("/api/auth/csrf").expect(200);
    let cookie = token.field("set-cookie").unwrap().to_ascii_lowercase();
    assert!(["httponly", "samesite=lax", "secure"].iter().all(|word| cookie.contains(word)), "{cookie}");
    visitor.token = token.json()["token"].as_str().unwrap().to_owned();
    let wrong = visitor.ask("POST", "/api/auth/login", r#"{"user": "ann", "password": "x"}"#).expect(401);
    visitor.ask("POST", "/api/auth/login", r#"{"user": "ann", "password": "sesame"}"#).expect(200);
    let added = visitor.ask("POST", "/api/places", r#"{"name": "New Cafe"}"#).expect(201);
    let preflight = visitor.client.request(
        "OPTIONS",
        "/api/places",
        &[
            ("Host", HOST),
            ("X-Forwarded-Proto", "https"),
            ("Origin", APP),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "content-type,x-csrf-token"),
        ],
        "",
    );
    for answer in [&token, &wrong, &added, &preflight.expect(204)] {
        assert_protected(answer);
        assert_readable(answer);
    }

    // Five tokens at once, five passwords at once; everything else goes on.
    let mut other = Browser::new(&gateway, "192.0.2.2");
    let (tokens, no_token) = other.until_refused("GET", "/api/auth/csrf", "", 200);
    let (logins, no_login) = other.until_refused("POST", "/api/auth/login", "{}", 403);
    assert!(tokens >= 5 && logins >= 5, "{tokens} tokens, {logins} logins");
    for (refused, limit) in [(&no_token, "csrf"), (&no_login, "auth")] {
        assert_eq!(refused.json()["reason"], "rate_limited");
        assert!(refused.field("ratelimit").unwrap().starts_with(&format!("\"{limit}\";r=0;")), "{refused}");
        let wait: u32 = refused.field("retry-after").unwrap().parse().unwrap();
        assert!((1..=6).contains(&wait), "{refused}");
        assert_readable(refused);
    }
    let place = other.get("/api/places?kind=deli").expect(200);
    assert!(place.field("ratelimit-policy").unwrap().contains("\"per-client\";q=100;"), "{place}");

    // Checks are not limited, the app's own numbers are not for everybody, and the gateway's own answers are no exception.
    let checks = [other.get("/healthz").expect(200), other.get("/readyz").expect(200)];
    assert!(checks.iter().all(|check| !check.fields.has("ratelimit")));
    let numbers = other.get("/metrics").expect(403);
    let missing = other.get("/nowhere").expect(404);
    let fields = [("Host", "evil.test"), ("X-Forwarded-Proto", "https")];
    let foreign = other.client.request("GET", "/", &fields, "").expect(421);
    for answer in [&page, &no_token, &no_login, &place, &checks[0], &checks[1], &numbers, &missing, &foreign] {
        assert_protected(answer);
    }
    gateway.admin_get("/readyz").expect(200);

    // While nobody can count passwords none is tried.
    redis.stop();
    let mut third = Browser::new(&gateway, "192.0.2.3");
    let closed = third.ask("POST", "/api/auth/login", "{}").expect(503);
    assert_eq!(closed.json()["reason"], "limits_unavailable");
    assert_protected(&closed);
    third.get("/api/places").expect(200);
}

#[test]
fn a_connection_that_gunicorn_has_closed_meanwhile_is_not_used_again() {
    let (example, redis) = (start("1"), RedisServer::start());
    let gateway = gateway(&example, &redis).start();
    let endpoint = || gateway.admin_get("/status").expect(200).json()["upstreams"][0]["endpoints"][0].clone();
    let is_learnt = || endpoint()["closes_idle_after_seconds"].is_number();
    for round in 1.. {
        let mut clients: Vec<Client> = (0..8).map(|_| gateway.connect()).collect();
        // A POST is never sent twice: a connection that is closing would be seen.
        for client in &mut clients {
            client.send_request("POST", "/api/auth/unknown", &[("Host", HOST), ("X-Forwarded-For", "192.0.2.9")], "{}");
        }
        for client in &mut clients {
            assert!(matches!(client.response().status, 404 | 429));
        }
        for client in &mut clients {
            client.send_request("GET", "/api/places", &[("Host", HOST)], "");
        }
        for client in &mut clients {
            client.response().expect(200);
        }
        // Gunicorn's second is over, and how long it was is learnt.
        eventually(&format!("round {round}: no connection is open"), || {
            (endpoint()["idle_connections"] == 0).then_some(())
        });
        if round >= 3 && is_learnt() {
            break;
        }
        assert!(round < 10, "{}", endpoint());
    }
    let metrics = gateway.metrics();
    assert_eq!(metrics.value("propylon_upstream_errors_total", &[]).unwrap_or(0.0), 0.0);
    assert!(metrics.value("propylon_upstream_connections_total", &[("reused", "true")]).unwrap() > 0.0);
}
