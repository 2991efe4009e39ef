//! The precedence rules told twice: in cases, and as a slow reference the table must agree with.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::config::model::{Action, HeaderEdits, SecurityHeaders};
use crate::route::pattern::Pattern;

fn route(hosts: &[HostPattern], path: PathPattern, methods: &[&str]) -> Route {
    Route {
        name: Arc::from("r"),
        hosts: hosts.to_vec(),
        path,
        methods: methods.iter().map(|method| method.parse().unwrap()).collect(),
        action: Action::Upstream(0),
        strip_prefix: None,
        priority: crate::config::model::Priority::Normal,
        max_body: 0,
        rate_limits: Vec::new(),
        buffer_requests: None,
        buffer_responses: None,
        queue_timeout: None,
        first_byte_timeout: None,
        read_timeout: None,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        security: SecurityHeaders::default(),
        cors: None,
        access: None,
        server_timing: false,
    }
}

/// Reads a pattern as the file writes it.
fn path(text: &str) -> PathPattern {
    if let Some(regex) = text.strip_prefix('~') {
        return PathPattern::Regex(Regex::new(regex).unwrap());
    }
    match text.strip_suffix('*').filter(|above| above.ends_with('/')) {
        Some(above) if !above.contains('*') => PathPattern::Prefix(above.into()),
        _ if text.contains('*') => PathPattern::Glob(text.into()),
        _ => PathPattern::Exact(text.into()),
    }
}

fn host(text: &str) -> HostPattern {
    match text.strip_prefix("*.") {
        Some(domain) => HostPattern::Suffix(domain.into()),
        None => HostPattern::Exact(text.into()),
    }
}

/// A table of `host path methods`, `-` for any host, `+` between hosts, methods behind the path.
fn routes(lines: &[&str]) -> Vec<Route> {
    let parse = |line: &&str| {
        let mut words = line.split(' ');
        let hosts = match words.next().unwrap() {
            "-" => vec![],
            hosts => hosts.split('+').map(host).collect(),
        };
        let path = path(words.next().unwrap());
        route(&hosts, path, &words.collect::<Vec<_>>())
    };
    lines.iter().map(parse).collect()
}

fn find<'t>(table: &'t Table, host: &str, path: &str) -> Found<'t> {
    table.find(Some(host), path.as_bytes(), &Method::GET)
}

#[test]
fn paths_by_kind() {
    let table = Table::build(&routes(&[
        "- ~^/a",
        "- /*",
        "- /a/*",
        "- /a/b/*",
        "- /a/*.css",
        "- /a/b*.css",
        "- /a/bb.css",
        "- ~.",
    ]));
    for (path, index) in [
        ("/a/bb.css", 6),
        ("/a/bc.css", 5),
        ("/a/c.css", 4),
        ("/a/b/c.css", 3),
        ("/a/b", 2),
        ("/a/", 2),
        ("/a", 1),
        ("/x", 1),
    ] {
        assert_eq!(find(&table, "h", path), Found::Route(index), "{path}");
    }
    let table = Table::build(&routes(&["- ~^/v1", "- ~^/v", "- /v/*"]));
    assert_eq!(find(&table, "h", "/v1"), Found::Route(0));
    assert_eq!(find(&table, "h", "/v2"), Found::Route(1));
    assert_eq!(find(&table, "h", "/v/1"), Found::Route(2));
    assert_eq!(find(&table, "h", "/w"), Found::NotFound);
}

#[test]
fn hosts_by_kind() {
    let table = Table::build(&routes(&["- /*", "*.b.c /*", "*.c /*", "a.b.c /only", "x.c+y.c /*"]));
    for (host, path, index) in [
        ("a.b.c", "/only", 3),
        ("a.b.c", "/other", 1),
        ("z.a.b.c", "/only", 1),
        ("b.c", "/", 2),
        ("c", "/", 0),
        ("y.c", "/", 4),
        ("bb.cc", "/", 0),
    ] {
        assert_eq!(find(&table, host, path), Found::Route(index), "{host}{path}");
    }
    assert_eq!(table.find(None, b"/only", &Method::GET), Found::Route(0));
    let table = Table::build(&routes(&["2001:DB8:0::1 /*"]));
    assert_eq!(find(&table, "[2001:db8::1]", "/"), Found::Route(0));
}

#[test]
fn methods_of_one_resource() {
    let table = Table::build(&routes(&[
        "- /a GET",
        "- /a POST PUT",
        "- /*",
        "- /b POST",
        "- /c GET",
        "- /c HEAD",
        "- /d GET",
        "- /d",
    ]));
    let ask = |path: &str, method: Method| table.find(None, path.as_bytes(), &method);
    assert_eq!(ask("/a", Method::GET), Found::Route(0));
    assert_eq!(ask("/a", Method::HEAD), Found::Route(0));
    assert_eq!(ask("/a", Method::PUT), Found::Route(1));
    let allow = HeaderValue::from_static("GET, HEAD, POST, PUT");
    assert_eq!(ask("/a", Method::DELETE), Found::MethodNotAllowed(&allow));
    // The method never leads to a worse path.
    let allow = HeaderValue::from_static("POST");
    assert_eq!(ask("/b", Method::GET), Found::MethodNotAllowed(&allow));
    assert_eq!(ask("/c", Method::HEAD), Found::Route(5));
    assert_eq!(ask("/d", Method::HEAD), Found::Route(6));
    assert_eq!(ask("/d", Method::POST), Found::Route(7));
    assert_eq!(Table::build(&[]).find(None, b"/", &Method::GET), Found::NotFound);
}

#[test]
fn ten_thousand_prefixes() {
    let lines: Vec<_> = (0..10_000).map(|n| format!("- /p{n}/*")).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let table = Table::build(&routes(&lines));
    // "/p0/" to "/p9999/": the work of a look-up, however many routes and slashes there are.
    assert_eq!(table.any.prefix_lengths, [7, 6, 5, 4]);
    assert_eq!(find(&table, "h", "/p9999/x"), Found::Route(9999));
    assert_eq!(find(&table, "h", &"/a".repeat(4000)), Found::NotFound);
}

/// The rank of a route for a host: smaller is better, none if it does not apply.
fn host_rank(pattern: Option<&HostPattern>, host: Option<&str>) -> Option<(u8, Reverse<usize>)> {
    match (pattern, host) {
        (None, _) => Some((2, Reverse(0))),
        (Some(HostPattern::Exact(name)), Some(host)) => (name == host).then_some((0, Reverse(0))),
        (Some(HostPattern::Suffix(domain)), Some(host)) => {
            host.ends_with(&format!(".{domain}")).then_some((1, Reverse(domain.len())))
        }
        _ => None,
    }
}

fn path_rank(path: &PathPattern) -> (u8, Reverse<usize>) {
    match path {
        PathPattern::Exact(_) => (0, Reverse(0)),
        PathPattern::Glob(text) => (1, Reverse(text.replace('*', "").len())),
        PathPattern::Prefix(text) => (2, Reverse(text.len())),
        PathPattern::Regex(_) => (3, Reverse(0)),
    }
}

/// The rules, one after the other, over all routes.
fn reference(routes: &[Route], host: Option<&str>, path: &[u8], method: &Method) -> Result<usize, Option<Vec<Method>>> {
    let mut all = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let hosts = route.hosts.iter().map(Some);
        for pattern in hosts.chain(route.hosts.is_empty().then_some(None)) {
            all.push((index, pattern, route));
        }
    }
    let candidates = all.iter().filter_map(|&(index, pattern, route)| {
        let rank = host_rank(pattern, host)?;
        let fits = Pattern::new(&route.path).matches(path);
        fits.then(|| ((rank, path_rank(&route.path), index), pattern, &route.path))
    });
    let (_, best_host, best_path) = candidates.min_by_key(|&(rank, ..)| rank).ok_or(None)?;
    let same: Vec<_> = all
        .iter()
        .filter(|(_, pattern, route)| *pattern == best_host && path_key(&route.path) == path_key(best_path))
        .collect();
    let naming = |method: &Method| same.iter().find(|(.., route)| route.methods.contains(method));
    let head = (method == Method::HEAD).then(|| naming(&Method::GET)).flatten();
    let rest = same.iter().find(|(.., route)| route.methods.is_empty());
    match naming(method).or(head).or(rest) {
        Some(&&(index, ..)) => Ok(index),
        None => Err(Some(same.iter().flat_map(|(.., route)| route.methods.clone()).collect())),
    }
}

fn some_route() -> impl Strategy<Value = Route> {
    let hosts = prop::sample::subsequence(vec!["a.b.c", "b.c", "*.b.c", "*.c", "d"], 0..3);
    let literal = "(/[ab*]{0,2}){1,3}".prop_map(|text| path(&text));
    let regex = prop::sample::select(vec!["~^/a", "~b$", "~.", "~^/b/"]).prop_map(path);
    let path = prop_oneof![5 => literal, 1 => regex];
    let methods = prop::sample::subsequence(vec!["GET", "HEAD", "POST"], 0..3);
    (hosts, path, methods).prop_map(|(hosts, path, methods)| {
        let hosts: Vec<_> = hosts.into_iter().map(host).collect();
        route(&hosts, path, &methods)
    })
}

proptest! {
    #[test]
    fn agrees_with_the_rules(
        routes in prop::collection::vec(some_route(), 0..14),
        host in prop::sample::select(vec![None, Some("a.b.c"), Some("b.c"), Some("x.b.c"), Some("x.c"), Some("d"), Some("e")]),
        path in "(/[ab]{0,2}){1,3}",
        method in prop::sample::select(vec![Method::GET, Method::HEAD, Method::POST, Method::OPTIONS]),
    ) {
        let table = Table::build(&routes);
        let expected = reference(&routes, host, path.as_bytes(), &method);
        match (table.find(host, path.as_bytes(), &method), expected) {
            (Found::Route(found), Ok(index)) => prop_assert_eq!(found, index),
            (Found::NotFound, Err(None)) => {}
            (Found::MethodNotAllowed(allow), Err(Some(mut union))) => {
                if union.contains(&Method::GET) {
                    union.push(Method::HEAD);
                }
                let mut allow: Vec<_> = allow.to_str().unwrap().split(", ").collect();
                let mut union: Vec<_> = union.iter().map(Method::as_str).collect();
                allow.sort_unstable();
                union.sort_unstable();
                union.dedup();
                prop_assert_eq!(allow, union);
            }
            (found, expected) => prop_assert!(false, "{:?} instead of {:?}", found, expected),
        }
    }
}
