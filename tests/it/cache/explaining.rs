//! `propylon explain` says what the gateway then does.

use crate::cli::Place;

const TOML: &str = r#"
[server]
allowed_hosts = ["example.com"]
[upstreams.app]
endpoints = ["127.0.0.1:1"]
[[routes]]
name = "api"
path = "/api/*"
methods = ["GET", "POST"]
upstream = "app"
[[routes]]
path = "/nonce"
upstream = "app"
security_headers = "nonce"
[security_headers.nonce]
csp = { policy = "script-src 'nonce-{nonce}'", nonce = true }
[[routes]]
path = "/fixed"
respond = { status = 204 }
[[cache.rules]]
name = "pages"
path = "/api/pages/*"
ttl = "30m"
stale_if_error = "1h"
key = { query = ["page"], headers = ["Accept-Language"] }
ignore_cookies = ["_ga*"]
[[cache.rules]]
path = "/api/*"
[[cache.rules]]
path = "/nonce"
ttl = "1h"
"#;

#[track_caller]
fn explained(arguments: &[&str], expected: &str) {
    let done = Place::new(&[("gateway.toml", TOML)]).run(&[&["explain"], arguments].concat());
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(done.stdout.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn the_route_the_rule_and_the_key() {
    explained(
        &[
            "https://example.com/api/pages/a?utm=1&page=2",
            "--header",
            "Cookie: _ga=1",
            "--response-header",
            "Vary: Accept",
        ],
        "
        request     GET https://example.com/api/pages/a?utm=1&page=2
        route       api, to upstream app
        rule        pages
        key         https://example.com/api/pages/a?page=2, of page alone, for each accept-language
        cache       asked first; what is not there is fetched once for all who want it
        answer      200 OK would be kept, fresh for 1800 s, and for 3600 s where the app fails
        varies      by accept, accept-language
        ttl         200: 30m, 203: 30m, 301: 30m, 308: 30m, 404: 10s, 410: 10s; where the answer says no lifetime
        ",
    );
}

#[test]
fn why_not() {
    let begin = "
        request     GET http://example.com/api/x
        route       api, to upstream app
        rule        /api/*
        key         http://example.com/api/x
    ";
    let url = "http://example.com/api/x";
    let asked = "cache       asked first; what is not there is fetched once for all who want it";
    let ttl = "ttl         none of the rule: only what an answer says counts";
    explained(
        &[url, "--header", "Cookie: session=1"],
        &format!("{begin}\ncache       past it: it has a cookie that is not one of ignore_cookies"),
    );
    for (field, why) in [
        ("Set-Cookie: a=b", "it sets a cookie"),
        ("Cache-Control: private", "it says Cache-Control: private"),
        ("Vary: Cookie", "it varies by Cookie or Authorization"),
        ("Content-Type: text/event-stream", "it is sent as it is made"),
        (
            "X-Other: 1",
            "neither it nor the rule says for how long, or it is over at once and has no ETag or Last-Modified",
        ),
    ] {
        let answer = format!("answer      200 OK would not be kept: {why}");
        explained(&[url, "--response-header", field], &format!("{begin}\n{asked}\n{answer}\n{ttl}"));
    }
}

#[test]
fn a_page_with_a_nonce() {
    let lines = "
        request     GET https://example.com/nonce
        route       /nonce, to upstream app
        rule        /nonce
        key         https://example.com/nonce
        cache       asked first; what is not there is fetched once for all who want it
        answer      200 OK would not be kept: it has a nonce, which is one request's alone
        ttl         200: 1h, 203: 1h, 301: 1h, 308: 1h, 404: 10s, 410: 10s; where the answer says no lifetime
    ";
    explained(&["https://example.com/nonce", "--response-header", "Content-Type: text/html"], lines);
}

#[test]
fn who_is_not_everybody_goes_past() {
    for (url, more, key, why) in [
        ("https://EXAMPLE.com/api/x", None, "https://example.com/api/x", "its host is not written in the usual way"),
        (
            "https://example.com:443/api/x",
            None,
            "https://example.com/api/x",
            "its host is not written in the usual way",
        ),
        (
            "https://example.com/api/x",
            Some("--client-certificate"),
            "https://example.com/api/x",
            "its client has shown who it is",
        ),
    ] {
        let arguments: Vec<&str> = [url].into_iter().chain(more).collect();
        let lines = format!(
            "request     GET {url}
            route       api, to upstream app
            rule        /api/*
            key         {key}
            cache       past it: {why}"
        );
        explained(&arguments, &lines);
    }
}

#[test]
fn where_there_is_nothing_to_keep() {
    explained(
        &["https://example.com/fixed"],
        "request     GET https://example.com/fixed\nroute       /fixed, answered 204 by the gateway",
    );
    explained(&["https://example.com/"], "request     GET https://example.com/\nanswer      404, no route is for it");
    explained(
        &["https://other.com/"],
        "request     GET https://other.com/\nanswer      421, the host is not in server.allowed_hosts",
    );
    explained(
        &["https://example.com/api/x", "--method", "DELETE"],
        "request     DELETE https://example.com/api/x\nanswer      405, the methods there are: GET, HEAD, POST",
    );
    explained(
        &["https://example.com/api/x", "--method", "POST"],
        "request     POST https://example.com/api/x
        route       api, to upstream app
        rule        /api/*
        key         https://example.com/api/x
        cache       past it; what is kept under the key goes when the app has agreed (2xx, 3xx)",
    );
}
