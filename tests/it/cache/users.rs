//! Two users of a real app with logins, behind a rule over everything: no byte of one reaches the other.

use std::collections::HashSet;
use std::thread;

use crate::harness::{Gateway, PythonBuilder, PythonServer, Response, rounds};

const GATEWAY: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [upstreams.app]
    preset = "gunicorn-gthread"
    endpoints = ["{app}"]
    [[routes]]
    upstream = "app"
    [[cache.rules]]
    name = "all"
    ttl = "{ttl}"
    stale_while_revalidate = "1m"
    stale_if_error = "1m"
    ignore_cookies = ["_ga*", "_gid"]
"#;

/// What a browser remembers of a site, and what it was shown.
struct Browser {
    user: &'static str,
    cookies: Vec<(String, String)>,
    secret: String,
}

impl Browser {
    fn new(user: &'static str, analytics: &str) -> Self {
        let cookies = vec![("_ga".to_owned(), analytics.to_owned()), ("_ga_X9".to_owned(), format!("GS1.{analytics}"))];
        Self { user, cookies, secret: String::new() }
    }

    fn send(&mut self, gateway: &Gateway, method: &str, target: &str, body: &str) -> Response {
        let pairs: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookie = pairs.join("; ");
        let mut fields = vec![("Cookie", &*cookie)];
        if !body.is_empty() {
            fields.push(("Content-Type", "application/x-www-form-urlencoded"));
        }
        let answer = gateway.connect().request(method, target, &fields, body).expect(200);
        for set in answer.fields.all("set-cookie") {
            let (name, value) = set.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.retain(|(known, _)| known != name);
            self.cookies.push((name.to_owned(), value.to_owned()));
        }
        answer
    }

    fn log_in(&mut self, gateway: &Gateway) {
        let answer = self.send(gateway, "POST", "/login", &format!("user={}", self.user));
        let welcome = format!("welcome {} ", self.user);
        self.secret = answer.text().replacen(&*welcome, "", 1);
    }
}

/// Every page again and again, by two users and by somebody without a login, side by side.
fn nobody_sees_another(app: &PythonServer, pages: &[&str], ttl: &str) {
    let gateway = Gateway::with(GATEWAY).set("app", app.address()).set("ttl", ttl).start();
    let mut alice = Browser::new("alice", "1.1");
    let mut bob = Browser::new("bob", "2.2");
    // Pages are there from somebody else before anybody logs in.
    let mut warm = Browser::new("nobody", "0.0");
    pages.iter().for_each(|page| drop(warm.send(&gateway, "GET", page, "")));
    alice.log_in(&gateway);
    bob.log_in(&gateway);
    assert_ne!(alice.secret, bob.secret);
    let secrets = [alice.secret.clone(), bob.secret.clone()];
    let look = |mut browser: Browser| {
        let (gateway, secrets) = (&gateway, &secrets);
        move || {
            let mut seen = HashSet::new();
            for round in 0..rounds(100, 1000) {
                let page = pages[round % pages.len()];
                let answer = browser.send(gateway, "GET", page, "");
                let all = [&answer.raw_head[..], &answer.body].concat();
                let all = String::from_utf8_lossy(&all);
                for other in secrets.iter().filter(|secret| **secret != browser.secret) {
                    assert!(!all.contains(&**other), "{} at {page} was shown another's page:\n{answer}", browser.user);
                }
                if ["/", "/careless"].contains(&page) {
                    let expected = format!("user {} {}", browser.user, browser.secret);
                    assert!(answer.text().contains(expected.trim_end()), "{} at {page}:\n{answer}", browser.user);
                }
                // A cookie for the session is only ever set anew by the app, never out of the cache.
                for set in answer.fields.all("set-cookie") {
                    assert!(!answer.fields.has("age"), "{answer}");
                    seen.insert(set.split(';').next().unwrap().to_owned());
                }
            }
            seen
        }
    };
    let sets: Vec<HashSet<String>> = thread::scope(|scope| {
        let all = [scope.spawn(look(alice)), scope.spawn(look(bob)), scope.spawn(look(Browser::new("nobody", "3.3")))];
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(sets[0].is_disjoint(&sets[1]) && sets[0].is_disjoint(&sets[2]) && sets[1].is_disjoint(&sets[2]));
    // And it did keep what is for everybody.
    let hits = gateway.metrics().value("propylon_cache_requests_total", &[("rule", "all"), ("result", "hit")]);
    assert!(hits.unwrap() > 0.0);
}

const FLASK: [&str; 3] = ["/", "/untouched", "/careless"];
const DJANGO: [&str; 4] = ["/", "/untouched", "/careless", "/form"];

fn flask() -> PythonBuilder {
    PythonServer::gunicorn("users_flask:app").args("-k gthread --threads 4")
}

fn django() -> PythonBuilder {
    PythonServer::gunicorn("users_django:app").args("-k gthread --threads 4")
}

#[test]
fn of_a_flask_app() {
    nobody_sees_another(&flask().start(), &FLASK, "1m");
}

#[test]
fn of_a_flask_app_with_a_microcache() {
    nobody_sees_another(&flask().start(), &FLASK, "1s");
}

#[test]
fn of_a_flask_app_with_a_cookie_of_another_name() {
    nobody_sees_another(&flask().env("SESSION_COOKIE", "__Host-sid").start(), &FLASK, "1m");
}

#[test]
fn of_a_flask_that_forgot_to_vary() {
    let old = concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/flask-2.3.1");
    let app = flask().env("PYTHONPATH", old).start();
    // It is that one: a cookie, and nothing said of it.
    let gateway = Gateway::with(GATEWAY).set("app", app.address()).set("ttl", "1m").start();
    let mut user = Browser::new("alice", "1.1");
    user.log_in(&gateway);
    let answer = user.send(&gateway, "GET", "/untouched", "");
    assert!(answer.fields.has("set-cookie") && !answer.fields.has("vary"), "{answer}");
    nobody_sees_another(&app, &FLASK, "1m");
}

#[test]
fn of_a_django_app() {
    nobody_sees_another(&django().start(), &DJANGO, "1m");
}

#[test]
fn of_a_django_app_with_a_microcache_and_a_cookie_of_another_name() {
    nobody_sees_another(&django().env("SESSION_COOKIE", "who").start(), &DJANGO, "1s");
}
