//! Upstreams against each other, against routes and against our own listeners.

use std::collections::HashMap;

use super::super::error::Report;
use super::super::model::{Action, EndpointAddr, ListenAddr, Route};
use super::upstream::Built;

/// Reports addresses with two capacities, and warns of loops and of upstreams that no route names.
pub(super) fn check(upstreams: &[Built], routes: &[Route], listen: &[ListenAddr], report: &mut Report) {
    check_capacities(upstreams, report);
    for (index, upstream) in upstreams.iter().enumerate() {
        if !routes.iter().any(|route| matches!(route.action, Action::Upstream(used) if used == index)) {
            report.warn(&upstream.place, "no route uses this upstream");
        }
        for (endpoint, place) in upstream.value.endpoints.iter().zip(&upstream.endpoints) {
            if listen.iter().any(|listener| listener.is_reached_by(&endpoint.addr)) {
                report.warn(
                    place,
                    format!("{} is a listener of this gateway: requests would go round in a loop", endpoint.addr),
                );
            }
        }
    }
}

/// Requests in flight are counted by address, so that one address has one capacity whatever upstream names it.
fn check_capacities(upstreams: &[Built], report: &mut Report) {
    let mut first: HashMap<&EndpointAddr, &Built> = HashMap::new();
    for upstream in upstreams {
        for (endpoint, place) in upstream.value.endpoints.iter().zip(&upstream.endpoints) {
            let earlier = *first.entry(&endpoint.addr).or_insert(upstream);
            if earlier.value.capacity != upstream.value.capacity {
                let here = described(upstream.value.capacity);
                let there = described(earlier.value.capacity);
                let message = format!(
                    "{} has {here} here and {there} in {}; requests are counted by address, so expected the same in both",
                    endpoint.addr, earlier.place
                );
                report.problem(place, message);
            }
        }
    }
}

fn described(capacity: Option<u32>) -> String {
    capacity.map_or_else(|| "no capacity".to_owned(), |capacity| format!("capacity {capacity}"))
}
