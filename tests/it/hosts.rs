//! Which hosts are served: `allowed_hosts` and 421, Host values that are none and 400, and the host of an absolute-form
//! target, which counts instead of the field.

// Counts are small and whole.
#![allow(clippy::float_cmp, clippy::cast_precision_loss)]

use crate::harness::{Broken, Client, Gateway, Origin, Response};

const ANY_HOST: &str = r#"
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
"#;

const SOME_HOSTS: &str = r#"
[server]
listen = ["127.0.0.1:0"]
allowed_hosts = ["example.com", "*.example.org", "127.0.0.1", "[2001:DB8::1]"]
[admin]
listen = ["127.0.0.1:0"]
[log]
access = "{dir}/access.log"
[upstreams.app]
endpoints = ["{origin}"]
[[routes]]
upstream = "app"
[[routes]]
path = "/fixed"
respond = { body = "fixed" }
"#;

/// Each on a connection of its own: some of these end theirs.
fn ask(gateway: &Gateway, head: impl AsRef<[u8]>) -> Response {
    let mut client = gateway.connect();
    client.send(head);
    client.response()
}

fn with_host(gateway: &Gateway, host: &[u8]) -> Response {
    ask(gateway, [b"GET / HTTP/1.1\r\nHost:", host, b"\r\n\r\n"].concat())
}

#[test]
fn only_the_hosts_of_the_list_are_served() {
    let origin = Origin::echo_head();
    let gateway = Gateway::with(SOME_HOSTS).set("origin", origin.address()).start();
    for host in [
        "example.com",
        "EXAMPLE.com",
        "example.com.",
        "example.com:80",
        "example.com:65535",
        "example.com.:443",
        "a.example.org",
        "A.b.C.Example.Org:8080",
        "127.0.0.1",
        "127.0.0.1:8000",
        "[2001:db8::1]",
        "[2001:db8:0:0::1]:443",
    ] {
        let answer = ask(&gateway, format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(answer.status, 200, "{host}");
        // As the client wrote it: the app builds its links from it.
        let seen = origin.requests().pop().unwrap();
        assert_eq!(seen.field("host"), Some(host));
        assert_eq!(seen.field("x-forwarded-host"), Some(host));
    }
    let served = origin.requests().len();
    let refused = [
        "evil.test",
        "www.example.com",
        "example.org",
        "badexample.org",
        "example.com.evil.test",
        "example.com-evil.test",
        "evil.test:80",
        "example",
        "com",
        "localhost",
        "127.0.0.2",
        "[::1]",
        "[2001:db8::2]",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "127.1",
    ];
    for host in refused {
        for target in ["/", "/fixed", "/no/../where", "*"] {
            let answer = ask(&gateway, format!("OPTIONS {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            assert_eq!(answer.status, 421, "{host} {target}");
            assert_eq!(answer.json()["reason"], "wrong_host");
        }
    }
    // Not even a host that is allowed elsewhere in the request, nor none at all.
    ask(&gateway, "GET / HTTP/1.1\r\nHost: evil.test\r\nX-Forwarded-Host: example.com\r\n\r\n").expect(421);
    ask(&gateway, "GET /fixed HTTP/1.0\r\n\r\n").expect(421);
    assert_eq!(origin.requests().len(), served);
    gateway.counts("propylon_rejections_total", &[("reason", "wrong_host")], (refused.len() * 4 + 2) as f64);
    let line = gateway.access_log(served + 1)[served].clone();
    assert_eq!(
        (&line["status"], &line["reason"], &line["host"]),
        (&421.into(), &"wrong_host".into(), &"evil.test".into())
    );
}

/// The request was whole and understood: 421 is about this host alone (RFC 9110 section 15.5.20).
#[test]
fn a_wrong_host_does_not_cost_the_connection() {
    let origin = Origin::echo_head();
    let gateway = Gateway::with(SOME_HOSTS).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    for _ in 0..2 {
        client.request("POST", "/", &[("Host", "evil.test")], "body").expect(421);
        client.request("POST", "/", &[("Host", "example.com")], "body").expect(200);
    }
    assert_eq!(origin.requests().len(), 2);
}

#[test]
fn a_host_value_that_is_no_host_is_answered_400() {
    let origin = Origin::echo_head();
    let long_label = [b" ", b"a".repeat(64).as_slice(), b".test"].concat();
    let long_name = [b" ".as_slice(), &b"a.".repeat(127), b"test"].concat();
    let bad: &[&[u8]] = &[
        b"",
        b" ",
        b" .",
        b" :80",
        b" ..",
        b" .example.com",
        b" a..b",
        b" example.com..",
        b" example.com:",
        b" example.com:0",
        b" example.com:65536",
        b" example.com:99999999999999999999",
        b" example.com:80:80",
        b" example.com:+80",
        b" example.com:-1",
        b" example.com: 80",
        b" example.com:http",
        b" example.com:80, evil.test",
        b" example.com, evil.test",
        b" example.com,",
        b" example.com evil.test",
        b" example.com\tevil.test",
        b" example.com/",
        b" example.com/../x",
        b" example.com?x",
        b" example.com#x",
        b" example.com@evil.test",
        b" user:pass@example.com",
        b" user@example.com:80",
        b" http://example.com",
        b" //example.com",
        b" example.com\\evil.test",
        b" example%2ecom",
        b" example.com%00",
        b" ex*mple.com",
        b" *.example.org",
        b" *",
        b" \"example.com\"",
        b" <script>",
        b" example.com;x",
        b" example.com'",
        b" ${jndi}",
        b" ::1",
        b" [::1",
        b" ::1]",
        b" []",
        b" [",
        b" []:80",
        b" [::1]x",
        b" [::1]:",
        b" [::1]:0",
        b" [::1].evil.test",
        b" [::1%25lo]",
        b" [fe80::1%lo]",
        b" [127.0.0.1]",
        b" [v1.x]",
        b" [example.com]",
        b" ex\xc3\xa4mple.com",
        b" \xff",
        &long_label,
        &long_name,
    ];
    for toml in [ANY_HOST, SOME_HOSTS] {
        let gateway = Gateway::with(toml).set("origin", origin.address()).start();
        for host in bad {
            let answer = with_host(&gateway, host);
            let shown = host.escape_ascii();
            assert_eq!(answer.status, 400, "{shown}");
            assert_eq!(answer.json()["reason"], "bad_host", "{shown}");
            assert_eq!(answer.field("connection"), Some("close"), "{shown}");
        }
        gateway.counts("propylon_rejections_total", &[("reason", "bad_host")], bad.len() as f64);
    }
    assert_eq!(origin.requests().len(), 0);
}

#[test]
fn a_request_has_one_host_field() {
    let origin = Origin::echo_head();
    let gateway = Gateway::with(ANY_HOST).set("origin", origin.address()).start();
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nHost: test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nhost: evil.test\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: test\r\nHost: evil.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nHost:\r\n\r\n",
        "GET http://test/ HTTP/1.1\r\n\r\n",
        "GET http://test/ HTTP/1.1\r\nHost: test\r\nHost: test\r\n\r\n",
    ] {
        let mut client = gateway.connect();
        client.send([head, "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"].concat());
        assert_eq!(client.response().expect(400).json()["reason"], "bad_host", "{head}");
        // Where there are two meanings, what comes behind is not read at all.
        assert!(matches!(client.try_response(), Err(Broken::Closed | Broken::Reset)), "{head}");
    }
    // Names that merely look like Host are dropped, as all such names are.
    ask(&gateway, "GET / HTTP/1.1\r\nHost: test\r\nHost_: evil.test\r\n\r\n").expect(200);
    for head in ["GET / HTTP/1.1\r\nHost : test\r\n\r\n", "GET / HTTP/1.1\r\n Host: test\r\n\r\n"] {
        assert_eq!(ask(&gateway, head).expect(400).json()["reason"], "malformed_head");
    }
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn the_host_of_an_absolute_form_target_takes_the_fields_place() {
    let origin = Origin::echo_head();
    let toml = [
        SOME_HOSTS,
        r#"
        [[routes]]
        host = ["example.com"]
        path = "/who"
        respond = { body = "example.com" }
        [[routes]]
        path = "/who"
        respond = { body = "another" }
        "#,
    ]
    .concat();
    let gateway = Gateway::with(&toml).set("origin", origin.address()).start();
    let mut client = gateway.connect();
    let mut get = |target: &str, host: &str| client_get(&mut client, target, host);
    for (target, host, path) in [
        ("http://example.com/a//b?c=http://evil.test/", "evil.test", "/a//b?c=http://evil.test/"),
        ("HTTP://Example.Com:8080/", "example.com", "/"),
        ("http://example.com", "example.com", "/"),
        ("https://a.example.org/%61", "example.com", "/%61"),
        ("http://[2001:db8::1]:80/", "evil.test", "/"),
        ("http://example.com//evil.test/", "evil.test", "//evil.test/"),
    ] {
        assert_eq!(get(target, host).status, 200, "{target}");
        let seen = origin.requests().pop().unwrap();
        let authority = target.split("://").nth(1).unwrap().split('/').next().unwrap();
        assert_eq!(seen.target, path);
        assert_eq!(seen.field("host"), Some(authority), "{target}");
        assert_eq!(seen.field("x-forwarded-host"), Some(authority), "{target}");
        assert_eq!(seen.field("x-forwarded-proto"), Some("http"), "{target}");
    }
    assert_eq!(get("http://example.com/who", "a.example.org").text(), "example.com");
    assert_eq!(get("http://a.example.org/who", "example.com").text(), "another");
    assert_eq!(get("http://evil.test/who", "example.com").status, 421);
    let served = origin.requests().len();
    for target in [
        "http:///who",
        "http://",
        "http://:80/",
        "http://user@example.com/",
        "http://user:pw@example.com/",
        "http://example.com:/",
        "http://example.com:0/",
        "http://example.com,evil.test/",
        "http://example.com%00/",
        "http://example.com\\@evil.test/",
        "http://[::1/",
        "http://ex\u{e4}mple.com/",
        "http:/example.com/",
        "http://example.com?x",
    ] {
        let answer = ask(&gateway, format!("GET {target} HTTP/1.1\r\nHost: example.com\r\n\r\n"));
        assert_eq!(answer.status, 400, "{target}");
    }
    assert_eq!(origin.requests().len(), served);
}

fn client_get(client: &mut Client, target: &str, host: &str) -> Response {
    client.request("GET", target, &[("Host", host)], "")
}
