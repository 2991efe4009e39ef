//! Which route a request takes, and what a route does: patterns and their precedence, methods, targets that are
//! refused, prefixes taken off, fixed answers, redirects, fields changed, limits of its own.

// Counts are small and whole.
#![allow(clippy::float_cmp, clippy::cast_precision_loss)]

use std::time::Duration;

use crate::harness::{Client, Gateway, GatewayBuilder, Origin, Request, Response};

/// What stands before the routes in every test here.
const BASE: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[admin]
listen = ["127.0.0.1:0"]
[log]
access = "{dir}/access.log"
[upstreams.app]
endpoints = ["{origin}"]
"#;

fn with_routes(origin: &Origin, routes: &str) -> GatewayBuilder {
    Gateway::with(&[BASE, routes].concat()).set("origin", origin.address())
}

/// A gateway whose routes never reach an app.
fn without_app(routes: &str) -> Gateway {
    let base = BASE.split("[upstreams.app]").next().unwrap();
    Gateway::start(&[base, routes].concat())
}

fn from_host(client: &mut Client, host: &str, target: &str) -> Response {
    client.request("GET", target, &[("Host", host)], "")
}

/// A request line as its bytes are, on a connection of its own.
fn with_target(gateway: &Gateway, target: &[u8]) -> Response {
    let mut client = gateway.connect();
    client.send([b"GET ", target, b" HTTP/1.1\r\nHost: test\r\n\r\n"].concat());
    client.response()
}

fn request_line(request: &Request) -> &str {
    let head = std::str::from_utf8(&request.raw_head).unwrap();
    head.split("\r\n").next().unwrap()
}

#[test]
fn an_exact_host_wins_over_a_wildcard_and_a_wildcard_over_any() {
    let gateway = without_app(
        r#"
        [[routes]]
        respond = { body = "any" }
        [[routes]]
        host = ["*.example.com"]
        respond = { body = "wildcard" }
        [[routes]]
        host = ["*.deep.example.com"]
        path = "/deep/*"
        respond = { body = "longer wildcard" }
        [[routes]]
        host = ["www.example.com", "Other.Example.NET", "[2001:DB8:0::1]", "10.1.2.3"]
        path = "/exact/*"
        respond = { body = "exact" }
        [[routes]]
        host = ["*.example.com"]
        path = "/only/wildcard"
        respond = { body = "wildcard path" }
        "#,
    );
    let mut client = gateway.connect();
    for (host, target, body) in [
        ("www.example.com", "/exact/x", "exact"),
        ("WWW.Example.COM", "/exact/x", "exact"),
        ("www.example.com.", "/exact/x", "exact"),
        ("www.example.com:8443", "/exact/x", "exact"),
        ("www.example.com.:8443", "/exact/x", "exact"),
        ("other.example.net", "/exact/x", "exact"),
        ("[2001:db8::1]", "/exact/x", "exact"),
        ("[2001:db8:0:0:0:0:0:1]:80", "/exact/x", "exact"),
        ("10.1.2.3:80", "/exact/x", "exact"),
        // A host whose paths do not fit leaves the request to the next.
        ("www.example.com", "/other", "wildcard"),
        ("www.example.com", "/only/wildcard", "wildcard path"),
        ("other.example.net", "/other", "any"),
        ("a.example.com", "/exact/x", "wildcard"),
        ("a.b.example.com", "/", "wildcard"),
        ("x.deep.example.com", "/deep/x", "longer wildcard"),
        ("x.y.deep.example.com", "/deep/x", "longer wildcard"),
        ("x.deep.example.com", "/", "wildcard"),
        // "*." is below the domain, never the domain itself nor one that merely ends like it.
        ("deep.example.com", "/deep/x", "wildcard"),
        ("example.com", "/", "any"),
        ("badexample.com", "/", "any"),
        ("www.example.com.evil.test", "/exact/x", "any"),
        ("10.1.2.30", "/exact/x", "any"),
    ] {
        let answer = from_host(&mut client, host, target).expect(200);
        assert_eq!(answer.text(), body, "{host} {target}");
    }
    // HTTP/1.0 needs no Host; such a request is for no host in particular.
    let mut old = gateway.connect();
    old.send("GET /exact/x HTTP/1.0\r\n\r\n");
    assert_eq!(old.response().expect(200).text(), "any");
}

#[test]
fn an_exact_path_wins_over_a_glob_over_the_longest_prefix_over_a_regular_expression() {
    let gateway = without_app(
        r#"
        [[routes]]
        path = "~^/"
        respond = { body = "first regular expression" }
        [[routes]]
        path = "~^/re/[0-9]+$"
        respond = { body = "second regular expression" }
        [[routes]]
        path = "/a/*"
        respond = { body = "prefix" }
        [[routes]]
        path = "/a/b/*"
        respond = { body = "longer prefix" }
        [[routes]]
        path = "/a/b/*.png"
        respond = { body = "glob" }
        [[routes]]
        path = "/a/b/thumb-*.png"
        respond = { body = "longer glob" }
        [[routes]]
        path = "/a/b/one.png"
        respond = { body = "exact" }
        [[routes]]
        path = "/users/*/photos/*"
        respond = { body = "glob with everything below" }
        "#,
    );
    let mut client = gateway.connect();
    for (target, body) in [
        ("/a/b/one.png", "exact"),
        ("/a/b/one.png?x=/a/b/two.png", "exact"),
        ("/a/b/two.png", "glob"),
        ("/a/b/.png", "glob"),
        ("/a/b/thumb-1.png", "longer glob"),
        ("/a/b/c/two.png", "longer prefix"),
        ("/a/b/one.PNG", "longer prefix"),
        ("/a/b/", "longer prefix"),
        ("/a/b", "prefix"),
        ("/a/", "prefix"),
        ("/a", "first regular expression"),
        ("/ab/", "first regular expression"),
        ("/A/", "first regular expression"),
        // As written: the one before takes everything, though the later one says more.
        ("/re/12", "first regular expression"),
        ("/users/7/photos/", "glob with everything below"),
        ("/users/7/photos/x/y", "glob with everything below"),
        ("/users/7/photos", "first regular expression"),
        ("/users/7/8/photos/x", "first regular expression"),
    ] {
        let answer = client.get(target).expect(200);
        assert_eq!(answer.text(), body, "{target}");
    }
}

#[test]
fn a_regular_expression_sees_the_decoded_path_and_is_anchored_only_where_it_says_so() {
    let gateway = without_app(
        r#"
        [[routes]]
        path = "~^/v[0-9]+/é$"
        respond = { body = "version" }
        [[routes]]
        path = "~\\.php"
        respond = { status = 410, body = "gone" }
        "#,
    );
    for (target, status) in [
        ("/v12/%C3%A9", 200),
        ("/v12/%C3%A9/", 404),
        ("/v%31//%c3%a9", 200),
        ("/v/%C3%A9", 404),
        ("/x/wp%2Ephp/y", 410),
        ("/x?file=.php", 404),
    ] {
        assert_eq!(with_target(&gateway, target.as_bytes()).status, status, "{target}");
    }
}

#[test]
fn routes_of_one_host_and_path_are_one_resource_and_allow_names_the_methods_of_all() {
    let origin = Origin::echo_head();
    let gateway = with_routes(
        &origin,
        r#"
        [[routes]]
        name = "read"
        path = "/thing"
        methods = ["GET"]
        respond = { body = "read" }
        [[routes]]
        name = "write"
        path = "/thing"
        methods = ["POST", "PUT"]
        upstream = "app"
        [[routes]]
        name = "all else"
        respond = { body = "else" }
        "#,
    )
    .start();
    let mut client = gateway.connect();
    assert_eq!(client.get("/thing").expect(200).text(), "read");
    client.request("POST", "/thing", &[], "x").expect(200);
    assert_eq!(origin.requests().len(), 1);
    // Whoever answers GET answers HEAD: the same fields, no body.
    let head = client.request("HEAD", "/thing", &[], "").expect(200);
    assert_eq!((head.field("content-length"), head.body.len()), (Some("4"), 0));
    for method in ["DELETE", "OPTIONS", "PATCH", "GETS", "PROPFIND"] {
        let answer = client.request(method, "/thing", &[], "").expect(405);
        assert_eq!(answer.field("allow"), Some("GET, HEAD, POST, PUT"), "{method}");
        assert_eq!(answer.json()["reason"], "method_not_allowed");
        assert!(answer.field("x-request-id").is_some());
    }
    // The resource is chosen by its path alone: a method it does not take is not left to a wider route.
    assert_eq!(client.request("DELETE", "/things", &[], "").expect(200).text(), "else");
    assert_eq!(origin.requests().len(), 1);
    let lines = gateway.access_log(9);
    assert_eq!((&lines[3]["method"], &lines[3]["status"]), (&"DELETE".into(), &405.into()));
    assert_eq!(lines[3]["reason"], "method_not_allowed");
    let refused = gateway.metrics().value("propylon_rejections_total", &[("reason", "method_not_allowed")]);
    assert_eq!(refused, Some(5.0));
}

#[test]
fn a_head_on_a_get_route_reaches_the_app_as_head() {
    let origin = Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            assert_eq!(request.method, "HEAD");
            connection.write("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n");
        }
    });
    let gateway = with_routes(
        &origin,
        r#"
        [[routes]]
        methods = ["GET"]
        upstream = "app"
        "#,
    )
    .start();
    let mut client = gateway.connect();
    for _ in 0..2 {
        let answer = client.request("HEAD", "/", &[], "").expect(200);
        assert_eq!((answer.field("content-length"), answer.body.len()), (Some("12345"), 0));
    }
}

#[test]
fn a_path_of_no_route_is_answered_404_and_says_so_to_programs_and_people() {
    let origin = Origin::echo_head();
    let gateway = with_routes(
        &origin,
        r#"
        [[routes]]
        host = ["here.test"]
        path = "/here"
        upstream = "app"
        "#,
    )
    .start();
    let mut client = gateway.connect();
    for (host, target) in [
        ("here.test", "/"),
        ("here.test", "/here/"),
        ("here.test", "/HERE"),
        ("here.test", "/here;v=1"),
        ("there.test", "/here"),
    ] {
        let answer = from_host(&mut client, host, target).expect(404);
        assert_eq!(answer.field("content-type"), Some("application/problem+json"));
        assert_eq!(answer.field("cache-control"), Some("no-store"));
        assert_eq!(answer.json()["reason"], "no_route");
        assert_eq!(answer.json()["request_id"], answer.field("x-request-id").unwrap());
    }
    let head = client.request("HEAD", "/nowhere", &[], "").expect(404);
    assert!(head.body.is_empty() && head.field("content-length") != Some("0"), "{head}");
    let browser = [("Accept", "text/html,*/*;q=0.8"), ("Host", "<script>")];
    let page = client.request("GET", "/x", &browser, "").expect(400);
    assert!(page.field("content-type").unwrap().starts_with("text/html"));
    assert!(!page.text().contains("<script>"), "{page}");
    from_host(&mut gateway.connect(), "here.test", "/here").expect(200);
    assert_eq!(origin.requests().len(), 1);
    let lines = gateway.access_log(8);
    assert_eq!((&lines[0]["reason"], &lines[0]["path"]), (&"no_route".into(), &"/".into()));
    assert!(lines[0].get("route").is_none_or(serde_json::Value::is_null), "{}", lines[0]);
    assert_eq!(gateway.metrics().value("propylon_rejections_total", &[("reason", "no_route")]), Some(6.0));
}

/// Routes match the path as the app decodes it; what the app gets is what the client sent, byte for byte.
#[test]
fn matching_decodes_the_path_and_the_app_gets_the_clients_bytes() {
    let origin = Origin::echo_head();
    let gateway = with_routes(
        &origin,
        r#"
        [[routes]]
        path = "/admin/*"
        upstream = "app"
        response_headers = { set = { X-Route = "admin" } }
        [[routes]]
        path = "/café/*"
        upstream = "app"
        response_headers = { set = { X-Route = "cafe" } }
        [[routes]]
        path = "/exact path"
        upstream = "app"
        response_headers = { set = { X-Route = "exact" } }
        [[routes]]
        upstream = "app"
        response_headers = { set = { X-Route = "rest" } }
        "#,
    )
    .start();
    let cases = [
        ("/admin/users", "admin"),
        ("//admin//users", "admin"),
        ("/%61dmin/users", "admin"),
        ("/%61%64%6D%69%6e%2fusers", "admin"),
        ("/%2Fadmin/users", "admin"),
        ("/admin%2F", "admin"),
        ("/admin/%2e%2eusers", "admin"),
        ("/admin/..users/...", "admin"),
        // Decoded once, not twice.
        ("/%2561dmin/users", "rest"),
        ("/x%252Fadmin/%252e%252e/", "rest"),
        ("/Admin/users", "rest"),
        ("/admin", "rest"),
        ("/admin;x=1/users", "rest"),
        ("/caf%C3%A9/", "cafe"),
        ("/caf%c3%A9//%20", "cafe"),
        // Latin-1, and bytes that are no UTF-8 at all.
        ("/caf%E9/", "rest"),
        ("/%ff%FE", "rest"),
        ("/exact%20path", "exact"),
        ("/exact%20path?", "exact"),
        ("/exact+path", "rest"),
        ("/%5Cwindows%5C", "rest"),
        ("/a%3Fb%23c", "rest"),
        ("/a|b{c}[d]^", "rest"),
        ("/~user/:a@b!$&'()*+,;=", "rest"),
        ("/?q=/../%00%zz\\|{}[]^&r=a+b%20c?&&", "rest"),
        ("/???", "rest"),
        ("///", "rest"),
        ("/x//", "rest"),
    ];
    for (target, route) in cases {
        let answer = with_target(&gateway, target.as_bytes());
        assert_eq!((answer.status, answer.field("x-route")), (200, Some(route)), "{target}");
        let seen = origin.requests().pop().unwrap();
        assert_eq!(request_line(&seen), format!("GET {target} HTTP/1.1"));
    }
    // Their order is not that of the requests: each came over a connection of its own.
    let lines = gateway.access_log(cases.len());
    let line = lines.iter().find(|line| line["path"] == "//admin//users").unwrap();
    assert_eq!(line["status"], 200);
}

/// RFC 3986 allows these nowhere; clients send them all the same, JSON in a query above all.
#[test]
fn quotes_angle_brackets_and_backticks_go_on_percent_encoded_and_nothing_else_changes() {
    let origin = Origin::echo_head();
    let routes = "[[routes]]\nupstream = \"app\"\n[[routes]]\npath = \"/<x>\"\nrespond = { body = \"matched\" }";
    let gateway = with_routes(&origin, routes).start();
    for (target, sent) in [
        ("/a\"b", "/a%22b"),
        ("/?q={\"a\":[1,2]}", "/?q={%22a%22:[1,2]}"),
        ("/<script>`?<b>`%3c%zz", "/%3Cscript%3E%60?%3Cb%3E%60%3c%zz"),
    ] {
        let answer = with_target(&gateway, target.as_bytes());
        assert_eq!(answer.status, 200, "{target}");
        assert_eq!(request_line(&origin.requests().pop().unwrap()), format!("GET {sent} HTTP/1.1"));
    }
    assert_eq!(with_target(&gateway, b"/<x>").text(), "matched");
    let lines = gateway.access_log(4);
    assert!(lines.iter().any(|line| line["query"] == "q={\"a\":[1,2]}"), "{lines:?}");
}

/// What some server behind reads in another way than another, or than a route pattern would, is not passed on at all.
#[test]
fn targets_of_two_meanings_are_refused_before_any_route_is_looked_at() {
    let origin = Origin::echo_head();
    let gateway =
        with_routes(&origin, "[[routes]]\nupstream = \"app\"\n[[routes]]\npath = \"/hi\"\nrespond = {}").start();
    let bad: &[&[u8]] = &[
        b"/.",
        b"/..",
        b"/a/.",
        b"/a/..",
        b"/a/./b",
        b"/a/../b",
        b"/../../etc/passwd",
        b"/a//../b",
        b"/%2e",
        b"/%2E%2e/",
        b"/a/.%2e/b",
        b"/a/%2e./b",
        b"/a%2f..%2fb",
        b"/a%2F%2e%2E/b",
        b"/public%2F..%2Fadmin",
        b"/%",
        b"/%2",
        b"/%zz",
        b"/a%2",
        b"/%u002e",
        b"/% 41",
        b"/%00",
        b"/a%00.png",
        b"/a%0d%0aSet-Cookie:x",
        b"/a%0A",
        b"/a#b",
        b"/#",
        b"/a?b#c",
        b"/a?#",
        b"/hi#x",
        b"/a\\b",
        b"/\\evil.test",
        b"/a\\..\\b",
        b"/a\tb",
        b"/a\x00b",
        b"/a\x01b",
        b"/a\x1fb",
        b"/a\x7fb",
        b"/a?\x01",
        b"/a?x\x7f",
        b"/caf\xc3\xa9",
        b"/\xff",
        b"/?\xe9",
        b"a",
        b"*",
        b"?x",
        b"//\x0b",
        b"example.com:443",
        b"ftp://test/",
        b"file:///etc/passwd",
        b"http:/a",
        b"http:a",
        b"https//test/",
        b"http://test/../a",
        b"http://test/a#b",
        b"http://test#/a",
    ];
    for target in bad {
        let shown = target.escape_ascii();
        let answer = with_target(&gateway, target);
        assert_eq!(answer.status, 400, "{shown}: {answer}");
        let reason = answer.json()["reason"].clone();
        // A space makes a fourth word of the request line, which is another fault.
        let expected = if target.contains(&b' ') { "malformed_head" } else { "bad_target" };
        assert_eq!(reason, expected, "{shown}");
    }
    assert_eq!(origin.requests().len(), 0);
    let lines = gateway.access_log(bad.len());
    assert!(lines.iter().all(|line| line["status"] == 400 && line.get("upstream").is_none()));
    let count = gateway.metrics().value("propylon_rejections_total", &[("reason", "bad_target")]);
    assert_eq!(count, Some((bad.len() - 1) as f64));
}

#[test]
fn connect_is_refused_and_options_asterisk_is_the_gateways_to_answer() {
    let origin = Origin::echo_head();
    let gateway = with_routes(&origin, "[[routes]]\nupstream = \"app\"").start();
    for target in ["test:443", "/", "http://test/"] {
        let answer = gateway.connect().request("CONNECT", target, &[], "");
        assert_eq!(answer.status, 405, "{target}");
    }
    gateway.connect().request("OPTIONS", "*", &[], "").expect(204);
    assert_eq!(origin.requests().len(), 0);
    gateway.connect().request("OPTIONS", "/", &[], "").expect(200);
    assert_eq!(origin.requests()[0].method, "OPTIONS");
}

#[test]
fn strip_prefix_takes_off_the_bytes_the_prefix_came_from_and_tells_the_app() {
    let origin = Origin::echo_head();
    let gateway = with_routes(
        &origin,
        r#"
        [[routes]]
        path = "/api/*"
        upstream = "app"
        strip_prefix = "/api"
        [[routes]]
        path = "/api"
        upstream = "app"
        strip_prefix = "/api"
        [[routes]]
        path = "/deep/er/*"
        upstream = "app"
        strip_prefix = "/deep/er"
        [[routes]]
        upstream = "app"
        "#,
    )
    .start();
    let mut client = gateway.connect();
    for (target, seen, prefix) in [
        ("/api/users", "/users", Some("/api")),
        ("/api/users?next=/api/x&y=%2Fapi", "/users?next=/api/x&y=%2Fapi", Some("/api")),
        ("/api", "/", Some("/api")),
        ("/api?x=1", "/?x=1", Some("/api")),
        ("/api?", "/?", Some("/api")),
        ("/api/", "/", Some("/api")),
        ("/api/?", "/?", Some("/api")),
        // The same bytes as came, whatever way the prefix itself was written.
        ("/%61p%69/x%2Fy/", "/x%2Fy/", Some("/api")),
        ("//api//x", "//x", Some("/api")),
        ("/%2Fapi/x", "/x", Some("/api")),
        ("/api//evil.test/x", "//evil.test/x", Some("/api")),
        ("/api/api/x", "/api/x", Some("/api")),
        ("/deep%2fer/x", "/x", Some("/deep/er")),
        ("/deep//er/x", "/x", Some("/deep/er")),
        ("/apis/x", "/apis/x", None),
        ("/API/x", "/API/x", None),
        ("/x/api/y", "/x/api/y", None),
    ] {
        client.request("GET", target, &[("X-Forwarded-Prefix", "/forged")], "").expect(200);
        let request = origin.requests().pop().unwrap();
        assert_eq!(request.target, seen, "{target}");
        assert_eq!(request.field("x-forwarded-prefix"), prefix, "{target}");
    }
    // The slash behind the prefix is part of an encoded byte: nothing that could be sent would mean the same.
    let before = origin.requests().len();
    for target in ["/api%2Fusers", "/%61pi%2f", "/deep/er%2Fx"] {
        let answer = client.get(target).expect(400);
        assert_eq!(answer.json()["reason"], "bad_target", "{target}");
    }
    assert_eq!(origin.requests().len(), before);
    // The log tells the path as the client knows it.
    assert_eq!(gateway.access_log(1)[0]["path"], "/api/users");
}

#[test]
fn a_fixed_answer_is_what_the_route_says() {
    let gateway = without_app(
        r#"
        [[routes]]
        name = "teapot"
        path = "/tea"
        respond = { status = 418, body = "{\"short\": true}", content_type = "application/json" }
        response_headers = { set = { X-Kind = "pot" } }
        [[routes]]
        name = "empty"
        path = "/empty"
        respond = { status = 204 }
        [[routes]]
        name = "plain"
        path = "/plain"
        respond = {}
        "#,
    );
    let mut client = gateway.connect();
    let tea = client.get("/tea").expect(418);
    assert_eq!(tea.json()["short"], true);
    assert_eq!(tea.field("content-type"), Some("application/json"));
    assert_eq!(tea.field("x-kind"), Some("pot"));
    assert!(tea.field("x-request-id").is_some() && tea.field("date").is_some());
    let empty = client.get("/empty").expect(204);
    assert_eq!((empty.body.len(), empty.field("content-length")), (0, None));
    let plain = client.get("/plain").expect(200);
    assert_eq!((plain.body.len(), plain.field("content-length")), (0, Some("0")));
    // A body nobody asked for is read past, and the next request is understood.
    client.request("POST", "/tea", &[], "x".repeat(100_000)).expect(418);
    let head = client.request("HEAD", "/tea", &[], "").expect(418);
    assert_eq!((head.body.len(), head.field("content-length")), (0, Some("15")));
    client.get("/plain").expect(200);
    // Nor is a client told to send one: the answer is known already.
    let mut waiting = gateway.connect();
    waiting.send("POST /tea HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert!(waiting.response().expect(418).interim.is_empty());
    let lines = gateway.access_log(7);
    assert_eq!((&lines[0]["route"], &lines[0]["status"]), (&"teapot".into(), &418.into()));
    let counted = gateway.metrics().value("propylon_requests_total", &[("route", "teapot"), ("code", "4xx")]);
    assert_eq!(counted, Some(4.0));
}

#[test]
fn a_redirect_fills_in_host_path_and_query_as_they_came() {
    let gateway = without_app(
        r#"
        [[routes]]
        path = "/old/*"
        redirect = { to = "https://new.example.com{path}{query}", status = 301 }
        [[routes]]
        path = "/secure/*"
        redirect = { to = "https://{host}{path}{query}" }
        [[routes]]
        path = "/port/*"
        redirect = { to = "https://{host}:8443{path}" }
        [[routes]]
        path = "/fixed"
        redirect = { to = "/new/", status = 302 }
        [[routes]]
        path = "~^/(flask|django)$"
        redirect = { to = "{path}/{query}", status = 307 }
        "#,
    );
    let mut client = gateway.connect();
    for (target, status, location) in [
        ("/old/x", 301, "https://new.example.com/old/x"),
        ("/old/%C3%A9//y?a=b%20c&d", 301, "https://new.example.com/old/%C3%A9//y?a=b%20c&d"),
        ("/old/x?a=\"b<", 301, "https://new.example.com/old/x?a=%22b%3C"),
        ("/old/x?", 301, "https://new.example.com/old/x?"),
        ("//old/x", 301, "https://new.example.com//old/x"),
        ("/secure/x?y", 308, "https://www.example.com/secure/x?y"),
        ("/port/x?y", 308, "https://www.example.com:8443/port/x"),
        ("/fixed?x", 302, "/new/"),
        ("/flask?x=1", 307, "/flask/?x=1"),
        ("/fl%61sk", 307, "/fl%61sk/"),
    ] {
        let answer = from_host(&mut client, "WWW.example.com.:80", target).expect(status);
        assert_eq!(answer.field("location"), Some(location), "{target}");
        assert_eq!((answer.field("content-length"), answer.body.len()), (Some("0"), 0));
    }
    let answer = from_host(&mut client, "[2001:DB8::1]:80", "/secure/x").expect(308);
    assert_eq!(answer.field("location"), Some("https://[2001:db8::1]/secure/x"));
    let head = client.request("HEAD", "/fixed", &[], "").expect(302);
    assert_eq!(head.field("location"), Some("/new/"));
}

/// Whatever a client writes into its path or Host, it must not choose where others are sent.
#[test]
fn no_redirect_can_be_made_to_lead_elsewhere() {
    let gateway = without_app(
        r#"
        [[routes]]
        path = "/host/*"
        redirect = { to = "https://{host}{path}" }
        [[routes]]
        redirect = { to = "{path}{query}" }
        "#,
    );
    for (target, location) in [
        ("//evil.test/x", "/evil.test/x"),
        ("///evil.test", "/evil.test"),
        ("////evil.test/%2e%2e/", ""),
        ("//evil.test/..", ""),
        ("/\\evil.test", ""),
        ("/%5Cevil.test", "/%5Cevil.test"),
        ("/%2Fevil.test", "/%2Fevil.test"),
        ("/%2F%2Fevil.test", "/%2F%2Fevil.test"),
        ("/%09/evil.test", "/%09/evil.test"),
        ("/\t/evil.test", ""),
        ("/%0d%0aLocation:%20https://evil.test", ""),
        ("/@evil.test", "/@evil.test"),
        ("/https://evil.test", "/https://evil.test"),
        ("/?//evil.test", "/?//evil.test"),
        ("//?//evil.test", "/?//evil.test"),
        ("http://test//evil.test", "/evil.test"),
    ] {
        let answer = with_target(&gateway, target.as_bytes());
        if location.is_empty() {
            assert_eq!((answer.status, answer.field("location")), (400, None), "{target}");
        } else {
            assert_eq!((answer.status, answer.field("location")), (308, Some(location)), "{target}");
        }
    }
    // Without a host "https://" and the path would make one of the path's first segment.
    let mut old = gateway.connect();
    old.send("GET /host/evil.test HTTP/1.0\r\n\r\n");
    let answer = old.response().expect(400);
    assert_eq!((answer.field("location"), &answer.json()["reason"]), (None, &"bad_host".into()));
}

#[test]
fn a_redirect_that_could_lead_anywhere_is_no_configuration() {
    for to in [
        "//new.test{path}",
        "https://{path}",
        "https:{path}",
        "{query}",
        "/{path}",
        "https://{query}",
        "javascript:alert(1)",
    ] {
        let toml = format!("[server]\nlisten = [\"127.0.0.1:0\"]\n[[routes]]\nredirect = {{ to = \"{to}\" }}");
        let finished = Gateway::expect_refused(&toml);
        assert_eq!(finished.code, 2, "{to}: {}", finished.stderr);
        assert!(finished.stderr.contains("routes[0].redirect.to"), "{}", finished.stderr);
    }
}

#[test]
fn fields_are_set_and_removed_on_the_way_to_the_app_and_back() {
    let origin = Origin::start(|connection| {
        while connection.read_request().is_some() {
            connection.write(
                "HTTP/1.1 200 OK\r\nServer: gunicorn\r\nX-Powered-By: a\r\nX-Powered-By: b\r\n\
                 Cache-Control: private\r\n\
                 Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Request-ID: of-the-app\r\nContent-Length: 2\r\n\r\nok",
            );
        }
    });
    let gateway = with_routes(
        &origin,
        r#"
        [[routes]]
        path = "/edited/*"
        upstream = "app"
        request_headers = { set = { X-Env = "prod", Accept-Encoding = "identity" }, remove = ["X-Debug", "cookie"] }
        response_headers = { set = { Cache-Control = "no-store", X-New = "1" }, remove = ["server", "X-Powered-By"] }
        [[routes]]
        path = "/plain"
        upstream = "app"
        security_headers = "off"
        [[routes]]
        path = "/ours"
        redirect = { to = "/" }
        response_headers = { set = { X-New = "2" } }
        "#,
    )
    .start();
    let mut client = gateway.connect();
    let sent = [
        ("X-Debug", "1"),
        ("x-debug", "2"),
        ("Cookie", "a=1"),
        ("X-ENV", "test"),
        ("X-Env", "dev"),
        ("Accept-Encoding", "gzip"),
        ("X-Kept", "yes"),
    ];
    let answer = client.request("GET", "/edited/x", &sent, "").expect(200);
    let seen = origin.requests().pop().unwrap();
    assert_eq!(seen.field("x-env"), Some("prod"));
    assert_eq!(seen.field("accept-encoding"), Some("identity"));
    assert_eq!(seen.field("x-kept"), Some("yes"));
    assert!(!seen.fields.has("x-debug") && !seen.fields.has("cookie"), "{:?}", seen.fields);
    assert_eq!(answer.field("cache-control"), Some("no-store"));
    assert_eq!(answer.field("x-new"), Some("1"));
    assert_eq!(answer.fields.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(answer.field("x-request-id"), Some("of-the-app"));
    assert!(!answer.fields.has("server") && !answer.fields.has("x-powered-by"), "{answer}");
    // The other route leaves all of it alone.
    let answer = client.request("GET", "/plain", &sent, "").expect(200);
    let seen = origin.requests().pop().unwrap();
    assert_eq!(seen.fields.all("x-debug"), ["1", "2"]);
    assert_eq!(seen.fields.all("x-env"), ["test", "dev"]);
    assert_eq!(answer.fields.all("x-powered-by"), ["a", "b"]);
    assert_eq!(answer.field("server"), Some("gunicorn"));
    // What the gateway answers by itself on a route carries the route's fields.
    assert_eq!(client.get("/ours").expect(308).field("x-new"), Some("2"));
    let (origin_address, gateway) = (origin.address().clone(), gateway);
    drop(origin);
    let answer = gateway.get("/edited/x").expect(503);
    assert_eq!(answer.field("x-new"), Some("1"), "with nobody at {origin_address}");
    assert_eq!(answer.field("cache-control"), Some("no-store"));
}

#[test]
fn a_route_has_a_body_limit_of_its_own() {
    let origin = Origin::echo_head();
    let gateway = with_routes(
        &origin,
        r#"
        [server.client]
        max_body = "1KiB"
        [[routes]]
        path = "/upload/*"
        upstream = "app"
        max_body = "10KiB"
        [[routes]]
        path = "/tiny/*"
        upstream = "app"
        max_body = "0B"
        [[routes]]
        upstream = "app"
        "#,
    )
    .start();
    for (target, length, status) in [
        ("/", 1024, 200),
        ("/", 1025, 413),
        ("/upload/x", 10 * 1024, 200),
        ("/upload/x", 10 * 1024 + 1, 413),
        ("/tiny/x", 0, 200),
        ("/tiny/x", 1, 413),
    ] {
        let before = origin.requests().len();
        let answer = gateway.connect().request("POST", target, &[], "x".repeat(length));
        assert_eq!(answer.status, status, "{target} {length}");
        let reached = origin.requests().len() - before;
        assert_eq!(reached, usize::from(status == 200), "{target} {length}");
    }
    // A length nobody announced is counted as it comes.
    let mut client = gateway.connect();
    let chunked = [("Transfer-Encoding", "chunked")];
    client.send_request("POST", "/upload/x", &chunked, "1000\r\n".to_owned() + &"x".repeat(4096) + "\r\n0\r\n\r\n");
    client.response().expect(200);
    let too_long = ["1000\r\n", &"x".repeat(4096), "\r\n"].concat().repeat(3);
    client.send_request("POST", "/upload/x", &chunked, too_long + "0\r\n\r\n");
    let answer = client.response().expect(413);
    assert_eq!(answer.json()["reason"], "body_too_large");
    client.closed();
}

#[test]
fn a_route_has_timeouts_of_its_own() {
    let origin = Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            match request.target.as_str() {
                "/quick/stops" => {
                    connection.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
                    connection.hang();
                }
                "/patient" => {
                    connection.delay(Duration::from_millis(600));
                    connection.answer(200, "late");
                }
                _ => connection.hang(),
            }
        }
    });
    let gateway = with_routes(
        &origin,
        r#"
        [[routes]]
        name = "quick"
        path = "/quick/*"
        upstream = "app"
        timeouts = { first_byte = "200ms", read = "250ms" }
        [[routes]]
        upstream = "app"
        "#,
    )
    .start();
    // POST, so that no second attempt doubles the time.
    let answer = gateway.connect().request("POST", "/quick/hangs", &[], "x").expect(504);
    assert_eq!(answer.json()["reason"], "upstream_timeout");
    let mut client = gateway.connect();
    client.send_request("POST", "/quick/stops", &[], "x");
    assert_eq!(client.try_response().unwrap_err().truncated().body, b"half");
    assert_eq!(gateway.connect().request("POST", "/patient", &[], "x").expect(200).text(), "late");
    let lines = gateway.access_log(3);
    assert_eq!((&lines[0]["route"], &lines[0]["status"]), (&"quick".into(), &504.into()));
    assert_eq!(lines[1]["reason"], "upstream_timeout");
}
