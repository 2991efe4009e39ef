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

/// Warns of regular expressions that no request comes to: a prefix that has it goes before them.
pub(super) fn warn_of_hidden(routes: &[Route], places: &[Option<Place>], report: &mut Report) {
    let takes_all = |route: &&Route| {
        route.methods.is_empty() && matches!(&route.path, PathPattern::Prefix(prefix) if prefix == "/")
    };
    let catching: Vec<&Route> = routes.iter().filter(takes_all).collect();
    for (route, place) in routes.iter().zip(places) {
        let (PathPattern::Regex(_), Some(place)) = (&route.path, place) else { continue };
        let hides = |other: &&&Route| {
            if route.hosts.is_empty() {
                other.hosts.is_empty()
            } else {
                route.hosts.iter().all(|host| other.hosts.contains(host))
            }
        };
        if let Some(other) = catching.iter().find(hides) {
            report.warn(
                place,
                format!(
                    "no request comes here: a prefix goes before regular expressions, and {} takes all; expected a prefix, a glob or an \
                     exact path",
                    quoted(&other.path.to_string())
                ),
            );
        }
    }
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
