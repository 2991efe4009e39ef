//! The samples of the endpoints on the page.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{EndpointMetrics, EndpointShard};
use crate::observe::metrics::histogram::{Histogram, Reading};
use crate::observe::metrics::label::{CheckResult, StatusClass, UpstreamError};
use crate::observe::metrics::page::{Page, float};
use crate::observe::metrics::table::{self, Family};

pub(in crate::observe::metrics) fn write(endpoints: &[Arc<EndpointMetrics>], page: &mut Page) {
    write_counters(endpoints, page);
    write_gauges(endpoints, page);
    write_state(endpoints, page);
    let mut histogram = |family: &'static Family, pick: fn(&EndpointShard) -> &Histogram| {
        page.family(family, |samples| {
            for one in endpoints {
                samples.histogram(&[&one.upstream, &one.endpoint], &Reading::of(one.shards.iter().map(pick)));
            }
        });
    };
    histogram(&table::UPSTREAM_FIRST_BYTE, |shard| &shard.first_byte);
    histogram(&table::UPSTREAM_DURATION, |shard| &shard.duration);
}

fn write_counters(endpoints: &[Arc<EndpointMetrics>], page: &mut Page) {
    page.family(&table::UPSTREAM_REQUESTS, |samples| {
        for one in endpoints {
            for class in StatusClass::ALL {
                let count = one.shards.count(|shard| shard.requests.get(*class as usize));
                samples.count(&one.labels(class.text()), count);
            }
        }
    });
    page.family(&table::UPSTREAM_ERRORS, |samples| {
        for one in endpoints {
            for kind in UpstreamError::ALL {
                let count = one.shards.count(|shard| shard.errors.get(*kind as usize));
                samples.count(&one.labels(kind.text()), count);
            }
        }
    });
    page.family(&table::UPSTREAM_HEALTH_CHECKS, |samples| {
        for one in endpoints {
            for (result, count) in CheckResult::ALL.iter().zip(&one.checks) {
                samples.count(&one.labels(result.text()), count.load(Relaxed));
            }
        }
    });
    page.family(&table::UPSTREAM_CONNECTIONS, |samples| {
        for one in endpoints {
            samples.count(&one.labels("false"), one.shards.count(|shard| Some(&shard.connections_new)));
            samples.count(&one.labels("true"), one.shards.count(|shard| Some(&shard.connections_reused)));
        }
    });
    page.family(&table::UPSTREAM_REUSE_FAILURES, |samples| {
        for one in endpoints {
            let count = one.shards.count(|shard| Some(&shard.reuse_failures));
            samples.count(&[&one.upstream, &one.endpoint], count);
        }
    });
}

fn write_gauges(endpoints: &[Arc<EndpointMetrics>], page: &mut Page) {
    page.family(&table::UPSTREAM_IN_FLIGHT, |samples| {
        for one in endpoints {
            samples.value(&[&one.upstream, &one.endpoint], float(one.in_flight()));
        }
    });
    page.family(&table::UPSTREAM_CAPACITY, |samples| {
        for one in endpoints {
            let capacity = one.capacity.load(Relaxed);
            if capacity > 0 {
                samples.value(&[&one.upstream, &one.endpoint], float(capacity));
            }
        }
    });
}

/// Whether and why an endpoint gets no requests, and what is kept open to it.
fn write_state(endpoints: &[Arc<EndpointMetrics>], page: &mut Page) {
    let mut flag = |family: &'static Family, pick: fn(&EndpointMetrics) -> &AtomicBool| {
        page.family(family, |samples| {
            for one in endpoints {
                samples.value(&[&one.upstream, &one.endpoint], u8::from(pick(one).load(Relaxed)).into());
            }
        });
    };
    flag(&table::UPSTREAM_HEALTHY, |one| &one.healthy);
    flag(&table::ENDPOINT_EJECTED, |one| &one.ejected);
    flag(&table::ENDPOINT_DRAINED, |one| &one.drained);
    flag(&table::ENDPOINT_UNREACHABLE, |one| &one.unreachable);
    let mut number = |family: &'static Family, pick: fn(&EndpointMetrics) -> f64| {
        page.family(family, |samples| {
            for one in endpoints {
                samples.value(&[&one.upstream, &one.endpoint], pick(one));
            }
        });
    };
    number(&table::ENDPOINT_EJECTIONS, |one| float(one.ejections.load(Relaxed)));
    number(&table::ENDPOINT_OVERDUE, |one| float(one.overdue.load(Relaxed)));
    number(&table::ENDPOINT_IDLE_CONNECTIONS, |one| float(one.idle_connections.load(Relaxed)));
    number(&table::ENDPOINT_KEEPALIVE, |one| float(one.keepalive_micros.load(Relaxed)) / 1e6);
}
