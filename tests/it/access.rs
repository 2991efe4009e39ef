//! Who may come to a route: by address, however the request claims to come from another, and with a password.

// Counts are whole numbers.
#![allow(clippy::float_cmp)]

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::harness::http2::Http2;
use crate::harness::tls::{Authority, TlsClient};
use crate::harness::{Client, Gateway, Origin, Response, Signal, eventually};

/// Of `open sesame`, by Debian's htpasswd -nbB -C 4.
const ANN: &str = "ann:$2y$04$tB94WBZR9LJxLK6R8IMTpuRzSqO8Nemkd3XuZW6wLEONk/e45zh0.";
const ANN_SESAME: &str = "Basic YW5uOm9wZW4gc2VzYW1l";
const ANN_WRONG: &str = "Basic YW5uOndyb25n";
const BOB_SESAME: &str = "Basic Ym9iOm9wZW4gc2VzYW1l";

const CONFIG: &str = r#"
    [server]
    listen = ["127.0.0.1:0", "unix:{dir}/gateway.sock"]
    listen_tls = ["127.0.0.2:0"]
    trusted_proxies = ["127.0.0.0/8"]
    threads = 1
    [[tls.certificates]]
    cert = "gateway.pem"
    key = "gateway.key"
    [admin]
    listen = ["127.0.0.1:0"]
    control = "unix:{dir}/control.sock"
    [log]
    access = "{dir}/access.log"
    format = "{format}"
    [upstreams.app]
    endpoints = ["{origin}"]
    [[routes]]
    upstream = "app"
    [[routes]]
    path = "/office"
    upstream = "app"
    max_body = "1KiB"
    rate_limit = { rate = "1/h", key = "route" }
    cors = { origins = ["https://a.test"] }
    access = { allow = ["192.0.2.0/24", "2001:db8::/32", "127.0.0.0/8"], deny = ["192.0.2.7", "2001:db8:1::/48"] }
    [[routes]]
    path = "/world"
    upstream = "app"
    access = { deny = ["192.0.2.0/24", "unix"] }
    [[routes]]
    path = "/near"
    upstream = "app"
    access = { allow = ["unix"] }
    [[routes]]
    path = "/listed"
    upstream = "app"
    access = { file = "networks" }
    [[routes]]
    path = "/staff/*"
    upstream = "app"
    access = { basic_auth = "file:users" }
    cors = { origins = ["https://a.test"] }
    [[routes]]
    path = "/staff/hidden"
    upstream = "app"
    access = { basic_auth = "file:users" }
    request_headers = { remove = ["Authorization"] }
    [[routes]]
    path = "/slow"
    respond = { body = "slow" }
    access = { basic_auth = "file:slow" }
    [[cache.rules]]
    path = "/staff/kept"
    ttl = "1h"
"#;

fn app() -> Origin {
    Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            let said = request.field("authorization").unwrap_or("nothing").to_owned();
            let length = said.len();
            connection.write(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nCache-Control: public, max-age=60\r\n\r\n{said}"
            ));
        }
    })
}

fn start_with(origin: &Origin, format: &str) -> Gateway {
    // Cost 13, so that it can be told whether anything waits for it.
    let slow = format!("cat:{}", bcrypt_of_cost_13());
    Gateway::with(CONFIG)
        .set("origin", origin.address())
        .set("format", format)
        .file("networks", "deny 192.0.2.0/24\n")
        .file("users", &format!("# staff\n{ANN}\nbob:{}\n", argon2()))
        .file("slow", &slow)
        .certificate("gateway", &Authority::shared().issue(&["localhost"]))
        .start()
}

fn start(origin: &Origin) -> Gateway {
    start_with(origin, "json")
}

/// Of `open sesame`, by the reference implementation: argon2 somesalt16bytes -id -t 1 -k 64 -p 1 -e.
fn argon2() -> &'static str {
    "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQxNmJ5dGVz$k+8MvGS0axbFyGuf+tihVumQQtxV/MkimdOBpTIqnmY"
}

/// The same salt and hash under another cost are of no password that is known, but take as long to check.
fn bcrypt_of_cost_13() -> String {
    ANN.trim_start_matches("ann:").replace("$04$", "$13$")
}

fn from(gateway: &Gateway, target: &str, client: &str) -> Response {
    gateway.connect().request("GET", target, &[("X-Forwarded-For", client)], "")
}

fn with(gateway: &Gateway, target: &str, authorization: &str) -> Response {
    gateway.connect().request("GET", target, &[("Authorization", authorization)], "")
}

#[test]
fn addresses_that_may_come_and_those_that_may_not() {
    let origin = app();
    let gateway = start(&origin);
    for (target, client, expected) in [
        ("/world", "198.51.100.1", 200),
        ("/world", "192.0.2.9", 403),
        ("/world", "::ffff:192.0.2.9", 403),
        ("/world", "2001:db8::1", 200),
        ("/office", "192.0.3.1", 403),
        ("/office", "192.0.2.7", 403),
        ("/office", "2001:db8:1::9", 403),
        ("/office", "2001:db9::1", 403),
        // None of those that were refused has taken the one token.
        ("/office", "192.0.2.8", 200),
        ("/office", "192.0.2.8", 429),
        ("/near", "192.0.2.8", 403),
        // What the client says itself stands left of what the proxy in front has seen.
        ("/world", "198.51.100.1, 192.0.2.9", 403),
        ("/world", "192.0.2.9, 198.51.100.1", 200),
        ("/world", "192.0.2.9, 127.0.0.9", 403),
    ] {
        let answer = from(&gateway, target, client).expect(expected);
        if expected == 403 {
            assert_eq!(answer.json()["reason"], "access_denied", "{client}");
        }
    }
    let unix = crate::harness::Address::Unix(gateway.dir().join("gateway.sock"));
    Client::connect(&unix).get("/near").expect(200);
    Client::connect(&unix).get("/world").expect(403);
    // Nobody believes what is no trusted peer.
    Client::connect(&unix).request("GET", "/near", &[("X-Forwarded-For", "192.0.2.8")], "").expect(200);
    gateway.counts("propylon_rejections_total", &[("reason", "access_denied")], 9.0 + 1.0);
}

#[test]
fn who_may_not_come_is_told_so_before_a_body_is_read_and_beforehand() {
    let origin = app();
    let gateway = start(&origin);
    let mut client = gateway.connect();
    let head = "POST /office HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\nContent-Length: 900\r\n";
    client.send(format!("{head}Expect: 100-continue\r\n\r\n"));
    client.response().expect(403);
    let asked = |from: &str| {
        let fields =
            [("Origin", "https://a.test"), ("Access-Control-Request-Method", "GET"), ("X-Forwarded-For", from)];
        gateway.connect().request("OPTIONS", "/office", &fields, "")
    };
    let refused = asked("9.9.9.9").expect(403);
    assert_eq!(refused.json()["reason"], "access_denied");
    asked("192.0.2.8").expect(204);
    assert_eq!(origin.requests().len(), 0);
}

#[test]
fn a_file_of_networks_is_read_again() {
    let origin = app();
    let gateway = start(&origin);
    from(&gateway, "/listed", "192.0.2.1").expect(403);
    from(&gateway, "/listed", "203.0.113.1").expect(200);
    let file = gateway.dir().join("networks");
    let many = (0..65_536).map(|host| format!("deny 203.0.{}.{}/32\n", host / 256, host % 256));
    fs::write(&file, many.collect::<String>()).unwrap();
    gateway.signal(Signal::HUP);
    gateway.wait_for_log("configuration reloaded");
    from(&gateway, "/listed", "192.0.2.1").expect(200);
    for client in ["203.0.0.0", "203.0.113.1", "203.0.255.255"] {
        from(&gateway, "/listed", client).expect(403);
    }
    from(&gateway, "/listed", "203.1.0.0").expect(200);

    fs::write(&file, "allow 203.0.113.0/24\ndeny nobody\n").unwrap();
    let refused = gateway.try_reload();
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    let place = "networks, line 2: expected a network such as \"10.0.0.0/8\"";
    assert!(refused.stderr.contains(place), "{}", refused.stderr);
    from(&gateway, "/listed", "203.0.113.1").expect(403);

    fs::write(&file, "allow 203.0.113.0/24\n").unwrap();
    gateway.reload();
    from(&gateway, "/listed", "203.0.113.1").expect(200);
    from(&gateway, "/listed", "203.0.114.1").expect(403);
}

#[test]
fn a_password_is_asked_for() {
    let origin = app();
    let gateway = start(&origin);
    let mut client = gateway.connect();
    let fields = [("Origin", "https://a.test")];
    let refused = client.request("GET", "/staff/a", &fields, "").expect(401);
    assert_eq!(refused.field("www-authenticate"), Some("Basic realm=\"restricted\", charset=\"UTF-8\""));
    assert_eq!(refused.field("access-control-allow-origin"), Some("https://a.test"));
    assert_eq!(refused.json()["reason"], "unauthorized");
    for wrong in [ANN_WRONG, "Basic Og==", "Basic ?", "Bearer YW5uOm9wZW4gc2VzYW1l", "Basic Y2F0Om9wZW4gc2VzYW1l"] {
        client.request("GET", "/staff/a", &[("Authorization", wrong)], "").expect(401);
    }
    for right in [ANN_SESAME, BOB_SESAME, ANN_SESAME, ANN_SESAME, BOB_SESAME] {
        let answer = client.request("GET", "/staff/a", &[("Authorization", right)], "").expect(200);
        assert_eq!(answer.text(), right, "the app is told");
    }
    assert_eq!(with(&gateway, "/staff/hidden", ANN_SESAME).expect(200).text(), "nothing");
    let metrics = gateway.metrics();
    let checks = |result| metrics.value("propylon_password_checks_total", &[("result", result)]);
    // Neither a field that cannot be read nor what was right before is checked.
    assert_eq!((checks("right"), checks("wrong")), (Some(2.0), Some(3.0)));

    let lines = gateway.access_log(12);
    let users: Vec<_> = lines.iter().map(|line| line["user"].as_str().unwrap_or("-")).collect();
    let expected = ["-", "-", "-", "-", "-", "-", "ann", "bob", "ann", "ann", "bob", "ann"];
    assert_eq!(users, expected);
    let log = fs::read_to_string(gateway.dir().join("access.log")).unwrap() + &gateway.log().join("\n");
    assert!(!log.contains("sesame") && !log.contains("YW5u") && !log.contains("$2y$"));
}

#[test]
fn the_combined_format_names_the_user() {
    let origin = app();
    let gateway = start_with(&origin, "combined");
    with(&gateway, "/staff/a", ANN_SESAME).expect(200);
    with(&gateway, "/staff/a", "Basic x").expect(401);
    let lines = eventually("two lines", || {
        let log = fs::read_to_string(gateway.dir().join("access.log")).ok()?;
        Some(log).filter(|log| log.lines().count() == 2)
    });
    assert!(lines.contains("127.0.0.1 - ann [") && lines.contains("127.0.0.1 - - ["), "{lines}");
}

#[test]
fn over_http2_and_tls_the_same() {
    let origin = app();
    let gateway = start(&origin);
    let tls = TlsClient::new(Authority::shared(), "localhost");
    Client::connect_tls(gateway.tls_addr(), &tls).get("/staff/a").expect(401);
    let client = Http2::connect(gateway.tls_addr());
    let answer = client.request("GET", "/staff/a", &[], "").expect(401);
    assert!(answer.field("www-authenticate").is_some());
    client.request("GET", "/staff/a", &[("authorization", ANN_WRONG)], "").expect(401);
    client.request("GET", "/staff/a", &[("authorization", ANN_SESAME)], "").expect(200);
    client.request("GET", "/world", &[("x-forwarded-for", "192.0.2.1")], "").expect(403);
}

#[test]
fn what_is_kept_is_for_nobody_without_a_password() {
    let origin = app();
    let gateway = start(&origin);
    let first = with(&gateway, "/staff/kept", ANN_SESAME).expect(200);
    let again = with(&gateway, "/staff/kept", BOB_SESAME).expect(200);
    assert_eq!((first.text(), again.text()), (ANN_SESAME, ANN_SESAME), "the app says it is for all");
    gateway.get("/staff/kept").expect(401);
    with(&gateway, "/staff/kept", ANN_WRONG).expect(401);
    let lines = gateway.access_log(4);
    let of: Vec<_> = lines.iter().map(|line| line["cache"].as_str().unwrap_or("-")).collect();
    assert_eq!(of, ["miss", "hit", "-", "-"]);
}

#[test]
fn ten_wrong_passwords_and_no_more() {
    let origin = app();
    let gateway = start(&origin);
    let ask = |client: &str, authorization: &str| {
        let fields = [("Authorization", authorization), ("X-Forwarded-For", client)];
        gateway.connect().request("GET", "/staff/a", &fields, "")
    };
    ask("192.0.2.1", ANN_SESAME).expect(200);
    // All at once are not more than one after another.
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let ask = &ask;
        let threads: Vec<_> =
            (0..30).map(|number| scope.spawn(move || ask("192.0.2.1", &wrong(number)).status)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let of = |status: u16| statuses.iter().filter(|found| **found == status).count();
    assert_eq!((of(401), of(429)), (10, 20), "{statuses:?}");
    let limited = ask("192.0.2.1", BOB_SESAME).expect(429);
    assert_eq!(limited.json()["reason"], "login_limited");
    let seconds: u32 = limited.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=6).contains(&seconds), "{seconds}");
    // Who was let in before is not locked out by his neighbours, and nobody else is.
    ask("192.0.2.1", ANN_SESAME).expect(200);
    ask("192.0.2.2", BOB_SESAME).expect(200);
    ask("192.0.2.2", ANN_WRONG).expect(401);
    // A reload forgets nothing.
    gateway.reload();
    ask("192.0.2.1", ANN_WRONG).expect(429);
    ask("192.0.2.1", ANN_SESAME).expect(200);
}

/// One of many, some of them of names that are not known.
fn wrong(number: usize) -> String {
    let name = if number.is_multiple_of(3) { "nobody" } else { "ann" };
    format!("Basic {}", STANDARD.encode(format!("{name}:wrong {number}")))
}

#[test]
fn of_many_requests_with_the_same_password_one_is_checked() {
    let origin = app();
    let gateway = start(&origin);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let gateway = &gateway;
        let threads: Vec<_> =
            (0..30).map(|_| scope.spawn(move || with(gateway, "/staff/a", BOB_SESAME).status)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(statuses, [200; 30]);
    let checked = gateway.metrics().value("propylon_password_checks_total", &[("result", "right")]);
    assert_eq!(checked, Some(1.0));
}

#[test]
fn who_has_another_password_now_comes_with_that_alone() {
    let origin = app();
    let gateway = start(&origin);
    with(&gateway, "/staff/a", ANN_SESAME).expect(200);
    let line = hash_password(&["ann"], "new password\n");
    assert!(line.starts_with("ann:$argon2id$v=19$m=19456,t=2,p=1$"), "{line}");
    fs::write(gateway.dir().join("users"), line).unwrap();
    gateway.reload();
    with(&gateway, "/staff/a", ANN_SESAME).expect(401);
    with(&gateway, "/staff/a", "Basic YW5uOm5ldyBwYXNzd29yZA==").expect(200);
    with(&gateway, "/staff/a", BOB_SESAME).expect(401);
}

fn hash_password(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_propylon"));
    command.arg("hash-password").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may have ended before it has read any.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_hash_without_a_name_and_what_is_none() {
    assert!(hash_password(&[], "x").starts_with("$argon2id$"));
    for (arguments, input) in [(&["a:b"][..], "x"), (&[""], "x"), (&[], ""), (&[], "\n")] {
        assert_eq!(hash_password(arguments, input), "", "{arguments:?} {input:?}");
    }
}

#[test]
fn nobody_waits_for_a_password_that_is_checked() {
    let origin = app();
    let gateway = start(&origin);
    let mut logins: Vec<Client> = (0..3).map(|_| gateway.connect()).collect();
    for login in &mut logins {
        login.send_request("GET", "/slow", &[("Authorization", "Basic Y2F0OngK")], "");
    }
    // The one worker answers the operator, and a client, meanwhile.
    eventually("three that are checked", || {
        (gateway.metrics().value("propylon_requests_in_flight", &[("route", "/slow")]) == Some(3.0)).then_some(())
    });
    gateway.get("/").expect(200);
    assert!(gateway.metrics().value("propylon_requests_in_flight", &[("route", "/slow")]) >= Some(1.0));
    for login in &mut logins {
        login.response().expect(401);
    }
    gateway.access_log(4);
    let first = gateway.access_log_now().remove(0);
    assert_eq!(first["path"], "/", "{first}");
}
