//! Patterns and the table of routes: each matches as its definition says, and the route found is the one the rules name.

use std::cmp::Reverse;

use http::Method;
use propylon::config;
use propylon::config::model::{HostPattern, PathPattern, Route};
use propylon::route::host::Host;
use propylon::route::pattern::Pattern;
use propylon::route::table::{Found, Table};
use propylon::route::target::decode_path;

const ROUTES_MAX: usize = 10;

/// Takes a request `host path method`, then lines of the same with several hosts and methods between commas, each a route.
/// `-` is any host, none leaves the methods out.
pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.split('\n');
    let mut request = lines.next().unwrap_or_default().split(' ');
    let host = request.next().and_then(|host| Host::parse(host.as_bytes()).ok()).map(|host| host.name.into_owned());
    let path = request.next().and_then(|path| decode_path(path.as_bytes()).ok()).unwrap_or(b"/a/b".as_slice().into());
    let method = request.next().and_then(|method| method.parse().ok()).unwrap_or(Method::GET);
    let routes: Vec<Route> = lines.take(ROUTES_MAX).filter_map(route).collect();
    for route in &routes {
        check_pattern(&route.path, &path);
    }
    let table = Table::build(&routes);
    check_found(&routes, table.find(host.as_deref(), &path, &method), host.as_deref(), &path, &method);
    check_found(&routes, table.find(None, &path, &method), None, &path, &method);
}

/// `text` as a TOML string that nothing is put into.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '$' => quoted.push_str("$$"),
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// A route as the configuration reads it, if it does.
fn route(line: &str) -> Option<Route> {
    let mut words = line.splitn(3, ' ');
    let (hosts, path) = (words.next()?, words.next()?);
    // Would be read from a file.
    if path.starts_with("file:") || hosts.starts_with("file:") {
        return None;
    }
    let list = |text: &str| text.split(',').take(3).map(quoted).collect::<Vec<_>>().join(", ");
    let mut text = format!("[[routes]]\nrespond = {{}}\npath = {}\n", quoted(path));
    if hosts != "-" {
        text.push_str(&format!("host = [{}]\n", list(hosts)));
    }
    if let Some(methods) = words.next() {
        text.push_str(&format!("methods = [{}]\n", list(methods)));
    }
    let (mut config, _) = config::parse(&text, None).ok()?;
    let route = config.routes.pop()?;
    assert_eq!(route.path.to_string(), path, "a pattern is not what was written");
    Some(route)
}

/// It matches what its definition says, and there is a request that it matches.
fn check_pattern(pattern: &PathPattern, path: &[u8]) {
    let compiled = Pattern::new(pattern);
    assert_eq!(compiled.matches(path), matches(pattern, path), "{pattern} {}", path.escape_ascii());
    if matches!(pattern, PathPattern::Regex(_)) {
        return;
    }
    let filled = pattern.to_string().replace('*', "x");
    let encoded = filled.bytes().fold(String::new(), |text, byte| match byte {
        b'/' => text + "/",
        byte => format!("{text}%{byte:02X}"),
    });
    let asked = decode_path(encoded.as_bytes()).unwrap_or_else(|error| panic!("{pattern} matches nothing: {error}"));
    assert!(compiled.matches(&asked), "{pattern} does not match {encoded}");
}

fn matches(pattern: &PathPattern, path: &[u8]) -> bool {
    match pattern {
        PathPattern::Exact(text) => text.as_bytes() == path,
        PathPattern::Prefix(text) => path.len() >= text.len() && &path[..text.len()] == text.as_bytes(),
        PathPattern::Glob(text) => match text.strip_suffix("/*") {
            // Everything below: some beginning that ends before a slash fits the rest of the glob.
            Some(above) => (0..path.len()).any(|at| path[at] == b'/' && glob(above.as_bytes(), &path[..at])),
            None => glob(text.as_bytes(), path),
        },
        PathPattern::Regex(regex) => regex.is_match(path),
    }
}

/// One row of possibilities for each byte of the glob: which beginnings of `text` fit so far.
fn glob(glob: &[u8], text: &[u8]) -> bool {
    let mut fits = vec![false; text.len() + 1];
    fits[0] = true;
    for byte in glob {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            next[at] = if *byte == b'*' {
                fits[at] || at > 0 && next[at - 1] && text[at - 1] != b'/'
            } else {
                at > 0 && fits[at - 1] && text[at - 1] == *byte
            };
        }
        fits = next;
    }
    fits[text.len()]
}

/// Smaller is better; none if it is for other hosts.
fn host_rank(pattern: Option<&HostPattern>, host: Option<&str>) -> Option<(u8, Reverse<usize>)> {
    match (pattern, host?) {
        (None, _) => Some((2, Reverse(0))),
        (Some(HostPattern::Exact(name)), host) => (name == host).then_some((0, Reverse(0))),
        (Some(HostPattern::Suffix(domain)), host) => {
            host.ends_with(&format!(".{domain}")).then_some((1, Reverse(domain.len())))
        }
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
fn check_found(routes: &[Route], found: Found<'_>, host: Option<&str>, path: &[u8], method: &Method) {
    let hosts = |route: &Route| -> Vec<Option<HostPattern>> {
        if route.hosts.is_empty() { vec![None] } else { route.hosts.iter().cloned().map(Some).collect() }
    };
    let places = routes
        .iter()
        .enumerate()
        .flat_map(|(index, route)| hosts(route).into_iter().map(move |pattern| (index, pattern, route)));
    let places: Vec<_> = places.collect();
    let ranked = places.iter().filter_map(|(index, pattern, route)| {
        // A request without a host is for the routes of any host.
        let rank =
            if host.is_none() && pattern.is_none() { Some((2, Reverse(0))) } else { host_rank(pattern.as_ref(), host) };
        Some((rank.filter(|_| matches(&route.path, path))?, path_rank(&route.path), *index, pattern, &route.path))
    });
    let Some((.., best_host, best_path)) = ranked.min_by_key(|(host, path, index, ..)| (*host, *path, *index)) else {
        return assert_eq!(found, Found::NotFound);
    };
    let resource = places.iter().filter(|(_, pattern, route)| pattern == best_host && route.path == *best_path);
    let resource: Vec<_> = resource.map(|(index, _, route)| (*index, &route.methods)).collect();
    let naming = |method: &Method| resource.iter().find(|(_, methods)| methods.contains(method));
    let head = if method == Method::HEAD { naming(&Method::GET) } else { None };
    let any = || resource.iter().find(|(_, methods)| methods.is_empty());
    if let Some((index, _)) = naming(method).or(head).or_else(any) {
        return assert_eq!(found, Found::Route(*index));
    }
    let Found::MethodNotAllowed(allow) = found else { panic!("{found:?} for {method}") };
    let allowed: Vec<&str> = allow.to_str().expect("a list of methods").split(", ").collect();
    let named: Vec<&str> = resource.iter().flat_map(|(_, methods)| methods.iter().map(Method::as_str)).collect();
    assert!(
        allowed.iter().all(|name| named.contains(name) || (*name == "HEAD" && named.contains(&"GET"))),
        "{allow:?}"
    );
    assert!(named.iter().all(|name| allowed.contains(name)), "{allow:?} instead of {named:?}");
}
