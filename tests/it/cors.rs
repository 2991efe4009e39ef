//! Cross-origin resource sharing: what browsers ask beforehand, what pages may then read, also of errors, and nothing where the app
//! answers for itself. Last a real browser.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Address, Gateway, Origin, Response};

const CONFIG: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [upstreams.app]
    endpoints = ["{origin}"]
    [[routes]]
    upstream = "app"
    [[routes]]
    path = "/page"
    respond = { body = "<h1>page</h1>", content_type = "text/html" }
    [[routes]]
    path = "/allowed"
    methods = ["GET", "PUT"]
    upstream = "app"
    cors = { origins = ["https://app.test", "~http://localhost(:[0-9]+)?"], methods = ["GET", "PUT"], headers = ["X-Token", "Content-Type"], expose = ["X-Request-ID"], credentials = true, max_age = "1h" }
    [[routes]]
    path = "/allowed/*"
    upstream = "app"
    cors = { origins = ["https://app.test", "~http://localhost(:[0-9]+)?"] }
    [[routes]]
    path = "/allowed/limited"
    upstream = "app"
    rate_limit = { rate = "1/h", burst = 1, cost = 1, key = "route" }
    cors = { origins = ["~http://localhost(:[0-9]+)?"] }
    [[routes]]
    path = "/allowed/small"
    upstream = "app"
    max_body = "1KiB"
    cors = { origins = ["~http://localhost(:[0-9]+)?"] }
    [[routes]]
    path = "/any"
    upstream = "app"
    cors = { origins = ["*"], headers = ["*"] }
    [[routes]]
    path = "/read"
    upstream = "app"
    cors = { origins = ["https://app.test", "~.*"], methods = ["GET"], headers = ["Content-Type"] }
    [[routes]]
    path = "/mixed"
    upstream = "app"
    cors = { origins = ["https://app.test", "*"] }
    [[routes]]
    path = "/other"
    upstream = "app"
    cors = { origins = ["https://other.test"] }
    [[routes]]
    path = "/own"
    upstream = "app"
    cors = { origins = ["https://app.test"] }
    [[routes]]
    path = "/kept"
    upstream = "app"
    cors = { origins = ["https://app.test", "https://b.test"], credentials = true }
    [[cache.rules]]
    path = "/kept"
    ttl = "1h"
"#;

fn app() -> Origin {
    Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            let (status, fields) = match (&*request.method, &*request.target) {
                ("OPTIONS", _) => (200, "X-From: app\r\n"),
                (_, "/allowed/fails") => (500, ""),
                (_, "/own") => (200, "Access-Control-Allow-Origin: *\r\n"),
                _ => (200, "Vary: Accept\r\nX-Secret: 1\r\n"),
            };
            let body = if request.method == "HEAD" { "" } else { "the app" };
            connection.write(format!("HTTP/1.1 {status} Said\r\nContent-Length: 7\r\n{fields}\r\n{body}"));
        }
    })
}

fn start(origin: &Origin) -> Gateway {
    Gateway::with(CONFIG).set("origin", origin.address()).start()
}

fn preflight(gateway: &Gateway, target: &str, origin: &str, method: &str, headers: &str) -> Response {
    let mut fields = vec![("Origin", origin), ("Access-Control-Request-Method", method)];
    if !headers.is_empty() {
        fields.push(("Access-Control-Request-Headers", headers));
    }
    gateway.connect().request("OPTIONS", target, &fields, "")
}

/// All that an answer says of it.
fn said(response: &Response) -> Vec<(String, String)> {
    let names = ["allow-origin", "allow-methods", "allow-headers", "allow-credentials", "max-age", "expose-headers"];
    let of =
        |name: &str| response.field(&format!("access-control-{name}")).map(|value| (name.to_owned(), value.to_owned()));
    names.iter().filter_map(|name| of(name)).collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn what_browsers_ask_beforehand_is_answered_here() {
    let origin = app();
    let gateway = start(&origin);
    let answer = preflight(&gateway, "/allowed", "https://app.test", "PUT", "x-token, content-type").expect(204);
    let expected = [
        ("allow-origin", "https://app.test"),
        ("allow-methods", "GET, PUT"),
        ("allow-headers", "x-token, content-type"),
        ("allow-credentials", "true"),
        ("max-age", "3600"),
    ];
    assert_eq!(said(&answer), pairs(&expected));
    let vary = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
    assert_eq!(answer.fields.all("vary"), [vary]);
    assert!(answer.field("x-request-id").is_some() && answer.field("x-content-type-options") == Some("nosniff"));
    preflight(&gateway, "/allowed", "http://localhost:3000", "GET", "").expect(204);
    preflight(&gateway, "/allowed/x", "https://app.test", "POST", "").expect(204);
    // Whatever is asked for, where any field may be.
    let any = preflight(&gateway, "/any", "https://anybody.test", "GET", "X-One,x-two").expect(204);
    assert!(said(&any).starts_with(&pairs(&[("allow-origin", "*")])));
    assert_eq!(any.field("access-control-allow-headers"), Some("X-One, x-two"));
    for (target, origin, method, headers) in [
        ("/allowed", "https://evil.test", "GET", ""),
        ("/allowed", "http://localhost.evil.test", "GET", ""),
        ("/allowed", "https://app.test.evil.test", "GET", ""),
        ("/allowed", "null", "GET", ""),
        ("/allowed", "https://app.test", "GET", "X-Other"),
        ("/allowed/x", "https://app.test", "PUT", ""),
        ("/read", "https://app.test", "POST", "Content-Type"),
        ("/other", "https://app.test", "GET", ""),
    ] {
        let refused = preflight(&gateway, target, origin, method, headers).expect(403);
        assert_eq!(
            (said(&refused), refused.json()["reason"].as_str()),
            (vec![], Some("cors_refused")),
            "{target} {origin}"
        );
        assert!(refused.fields.all("vary").contains(&"Origin"));
    }
    assert_eq!(origin.requests().len(), 0, "the app has seen none of it");
    // What is no preflight request, or of a route without `cors`, is the app's.
    gateway.connect().request("OPTIONS", "/any", &[("Origin", "https://a.test")], "").expect(200);
    gateway.connect().request("OPTIONS", "/any", &[("Access-Control-Request-Method", "GET")], "").expect(200);
    assert_eq!(preflight(&gateway, "/none", "https://a.test", "GET", "").expect(200).field("x-from"), Some("app"));
    assert_eq!(preflight(&gateway, "/allowed", "https://app.test", "DELETE", "").status, 405, "no route has it");
    let log = gateway.access_log(14);
    assert_eq!((&log[0]["route"], &log[0]["status"]), (&json!("/allowed"), &json!(204)));
}

#[test]
fn pages_may_read_answers_and_errors_and_the_apps_own_word_stands() {
    let origin = app();
    let gateway = start(&origin);
    let ask = |target: &str, origin: &str| gateway.connect().request("GET", target, &[("Origin", origin)], "");
    let answer = ask("/allowed", "https://app.test").expect(200);
    let expected =
        [("allow-origin", "https://app.test"), ("allow-credentials", "true"), ("expose-headers", "x-request-id")];
    assert_eq!(said(&answer), pairs(&expected));
    assert_eq!(answer.fields.all("vary"), ["Accept", "Origin"]);
    // Whoever else asks gets the answer without a word; but it varies, for whoever keeps it.
    for response in [ask("/allowed", "https://evil.test"), gateway.connect().request("GET", "/allowed", &[], "")] {
        let response = response.expect(200);
        assert_eq!((said(&response), response.fields.all("vary")), (vec![], vec!["Accept", "Origin"]));
    }
    // Two origins are none.
    let two = [("Origin", "https://app.test"), ("Origin", "https://app.test")];
    assert_eq!(said(&gateway.connect().request("GET", "/allowed", &two, "")), vec![]);
    let any = ask("/any", "https://anybody.test").expect(200);
    assert_eq!((said(&any), any.fields.all("vary")), (pairs(&[("allow-origin", "*")]), vec!["Accept"]));
    let mixed = ask("/mixed", "https://app.test").expect(200);
    assert_eq!((said(&mixed), mixed.fields.all("vary")), (pairs(&[("allow-origin", "*")]), vec!["Accept"]));
    assert_eq!(said(&ask("/read", "null").expect(200)), vec![], "every page in a sandbox");
    // Errors, the app's and ours: without this they look like something else to whoever looks for them.
    for (target, status, method, body) in [
        ("/allowed/fails", 500, "GET", String::new()),
        ("/allowed/limited", 200, "GET", String::new()),
        ("/allowed/limited", 429, "GET", String::new()),
        ("/allowed/small", 413, "POST", "x".repeat(2000)),
    ] {
        let fields = [("Origin", "http://localhost:1234")];
        let response = gateway.connect().request(method, target, &fields, body).expect(status);
        assert_eq!(said(&response), pairs(&[("allow-origin", "http://localhost:1234")]), "{target}");
    }
    let own = ask("/own", "https://app.test").expect(200);
    assert_eq!((said(&own), own.field("vary")), (pairs(&[("allow-origin", "*")]), None));
    assert_eq!(own.fields.all("access-control-allow-origin").len(), 1);
}

#[test]
fn what_is_kept_is_for_each_origin_what_it_would_be_anew() {
    let origin = app();
    let gateway = start(&origin);
    let ask = |fields: &[(&str, &str)]| gateway.connect().request("GET", "/kept", fields, "").expect(200);
    for (origin, expected) in [
        ("https://app.test", vec![("allow-origin", "https://app.test"), ("allow-credentials", "true")]),
        ("https://b.test", vec![("allow-origin", "https://b.test"), ("allow-credentials", "true")]),
        ("https://evil.test", vec![]),
    ] {
        assert_eq!(said(&ask(&[("Origin", origin)])), pairs(&expected), "{origin}");
    }
    assert_eq!(said(&ask(&[])), vec![]);
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn chromium_sees_it_as_we_do() {
    let origin = app();
    let gateway = start(&origin);
    let Address::Tcp(address) = gateway.addr() else { panic!("a port") };
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    // One is taken already.
    gateway.get("/allowed/limited").expect(200);
    let checked = Command::new(repository.join(".venv/bin/python"))
        .arg("-B")
        .arg(repository.join("tests/browser/cors.py"))
        .arg(address.port().to_string())
        .stdin(Stdio::null())
        .output()
        .expect("the Python of .venv: run `make test` (scripts/setup.sh) first");
    let output = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success(), "{output}{}", String::from_utf8_lossy(&checked.stderr));
    let seen: Value = serde_json::from_str(&output).unwrap();
    let read = |status: u16, id: bool| json!({ "status": status, "id": id, "secret": false });
    let (app, blocked) = (|id| read(200, id), json!({ "error": "TypeError" }));
    for (name, expected) in [
        ("simple", app(true)),
        ("asked first", app(true)),
        ("method not named", blocked.clone()),
        ("field not named", blocked.clone()),
        ("with cookies", app(true)),
        ("an error of the app", read(500, false)),
        ("an error of the gateway", read(429, false)),
        ("too large", read(413, false)),
        ("any origin", app(false)),
        ("any origin with cookies", blocked.clone()),
        ("another origin", blocked.clone()),
        ("another origin, asked first", blocked.clone()),
        ("the app's own", app(false)),
        ("nobody", blocked.clone()),
    ] {
        let mut got = seen[name].clone();
        got.as_object_mut().unwrap().remove("text");
        assert_eq!(got, expected, "{name}");
    }
}
