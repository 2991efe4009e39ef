//! Routes against each other: none may stand for the same requests as another, and each has a name of its own.

use std::collections::HashMap;

use super::super::error::Report;
use super::super::model::{HostPattern, PathPattern, Route};
use super::super::place::Place;
use super::super::walk::quoted;
use super::names::{Names, host_and_path};

/// Reports routes with the same path, a host in common and a method in common. A route without a place is left out: its
/// path was refused.
pub(super) fn check(routes: &[Route], places: &[Option<Place>], report: &mut Report) {
    // Only routes with the same path can clash, so that thousands of routes are no work.
    let mut by_path: HashMap<String, Vec<(&Route, &Place)>> = HashMap::new();
    for (route, place) in routes.iter().zip(places) {
        let Some(place) = place else { continue };
        let same_path = by_path.entry(route.path.to_string()).or_default();
        if let Some((earlier, at)) =
            same_path.iter().find(|(earlier, _)| share_host(earlier, route) && share_method(earlier, route))
        {
            let message = format!(
                "is for the same requests as {at}: {}, path {}, {}",
                host(earlier, route),
                quoted(&route.path.to_string()),
                methods(earlier, route)
            );
            report.problem(place, message);
        }
        same_path.push((route, place));
    }
}

/// Warns of routes that requests go past: regular expressions behind a prefix, and the bare path of a prefix that only some may come to.
pub(super) fn warn_of_hidden(routes: &[Route], places: &[Option<Place>], report: &mut Report) {
    let prefixes: Vec<(&Route, &str)> = routes.iter().filter_map(|route| Some((route, prefix(route)?))).collect();
    for (route, place) in routes.iter().zip(places) {
        let Some(place) = place else { continue };
        match &route.path {
            PathPattern::Regex(_) => {
                let all = prefixes.iter().any(|(other, prefix)| *prefix == "/" && stands_for(other, route));
                let some = prefixes.iter().find(|(other, _)| route.access.is_some() && stands_for(other, route));
                if all {
                    let why = "no request comes here: a prefix goes before regular expressions, and \"/*\" takes all";
                    report.warn(place, format!("{why}; expected a prefix, a glob or an exact path"));
                } else if let Some((other, _)) = some {
                    let path = quoted(&other.path.to_string());
                    let why = format!(
                        "`access` is not asked for what {path} takes: a prefix goes before regular expressions"
                    );
                    report.warn(place, format!("{why}; expected a prefix, a glob or an exact path"));
                }
            }
            PathPattern::Prefix(own) if route.access.is_some() && own != "/" => {
                let bare = own.trim_end_matches('/');
                let is_exact = |other: &&Route| {
                    matches!(&other.path, PathPattern::Exact(path) if path == bare) && stands_for(other, route)
                };
                let falls_to = prefixes.iter().find(|(other, prefix)| {
                    bare.starts_with(*prefix) && stands_for(other, route) && other.access.is_none()
                });
                if let Some((other, _)) = falls_to.filter(|_| !routes.iter().any(|other| is_exact(&other))) {
                    report.warn(
                        place,
                        format!(
                            "{} itself goes to {}, without this `access`; expected a route for it as well",
                            quoted(bare),
                            quoted(&other.path.to_string())
                        ),
                    );
                }
            }
            _ => {}
        }
    }
}

fn prefix(route: &Route) -> Option<&str> {
    match &route.path {
        PathPattern::Prefix(prefix) => Some(prefix),
        _ => None,
    }
}

/// Whether `other` is for every host that `route` is for, in the same rank.
fn stands_for(other: &Route, route: &Route) -> bool {
    if route.hosts.is_empty() {
        return other.hosts.is_empty();
    }
    route.hosts.iter().all(|host| other.hosts.contains(host))
}

/// Routes for any host and routes for some are told apart by precedence, so they share none.
fn share_host(a: &Route, b: &Route) -> bool {
    (a.hosts.is_empty() && b.hosts.is_empty()) || shared_host(a, b).is_some()
}

fn shared_host<'a>(a: &'a Route, b: &Route) -> Option<&'a HostPattern> {
    a.hosts.iter().find(|host| b.hosts.contains(host))
}

fn share_method(a: &Route, b: &Route) -> bool {
    a.methods.is_empty() || b.methods.is_empty() || a.methods.iter().any(|method| b.methods.contains(method))
}

fn host(a: &Route, b: &Route) -> String {
    shared_host(a, b).map_or_else(|| "any host".to_owned(), ToString::to_string)
}

fn methods(a: &Route, b: &Route) -> String {
    match a.methods.iter().find(|method| b.methods.contains(method)) {
        Some(method) => format!("method {method}"),
        None if a.methods.is_empty() && b.methods.is_empty() => "any method".to_owned(),
        None => "where one has no `methods` and so is for all of them".to_owned(),
    }
}

/// Names the routes that have no name, and reports names given twice. `written` is the place of each name in the file.
pub(super) fn name(routes: &mut [Route], written: &[Option<Place>], report: &mut Report) {
    let places = routes.iter().zip(written).filter_map(|(route, place)| Some((&route.name, place.as_ref()?)));
    let mut names = Names::written(places, report);
    let mut shared: HashMap<String, usize> = HashMap::new();
    for (route, _) in unnamed(routes, written) {
        *shared.entry(host_and_path(&route.hosts, &route.path)).or_default() += 1;
    }
    for (index, (route, place)) in routes.iter_mut().zip(written).enumerate() {
        if place.is_some() {
            continue;
        }
        let mut name = host_and_path(&route.hosts, &route.path);
        if shared.get(&name).is_some_and(|count| *count > 1) && !route.methods.is_empty() {
            let methods: Vec<&str> = route.methods.iter().map(http::Method::as_str).collect();
            name = format!("{} {name}", methods.join(","));
        }
        route.name = names.make(name, "routes", index);
    }
}

fn unnamed<'a>(
    routes: &'a [Route],
    written: &'a [Option<Place>],
) -> impl Iterator<Item = (&'a Route, &'a Option<Place>)> {
    routes.iter().zip(written).filter(|(_, place)| place.is_none())
}
