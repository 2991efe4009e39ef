//! How many requests an upstream has in flight, and how many wait.

use super::super::error::Report;
use super::super::model::{EndpointConfig, Preset, Queue};
use super::super::place::Place;
use super::super::preset::Facts;
use super::super::raw;
use super::given;

/// Requests that wait for each that is worked on. Where one takes a second, this many have waited for as long as the
/// default timeout.
const WAITING: u32 = 10;
/// Requests that wait for the smallest pool.
const QUEUE_MIN: u32 = 100;
/// Requests that wait where none is held back, while the app restarts.
const QUEUE_WITHOUT_CAP: u32 = 1_000;
/// Requests that wait for the largest pool; what `queue.max` may be at most.
const QUEUE_MAX: u32 = 1_000_000;

/// `max_in_flight`, or `workers` times `threads`.
pub(super) fn build(raw: &raw::Upstream, facts: Option<&Facts>, report: &mut Report) -> Option<u32> {
    if let Some(direct) = &raw.max_in_flight {
        for (name, also) in [
            ("workers", raw.workers.as_ref().map(|at| &at.place)),
            ("threads", raw.threads.as_ref().map(|at| &at.place)),
        ] {
            if let Some(place) = also {
                report.problem(
                    place,
                    format!("`{name}` and `max_in_flight` both give the capacity; expected one of them"),
                );
            }
        }
        return Some(direct.value.0);
    }
    let Some(workers) = &raw.workers else {
        if let Some(threads) = raw.threads.as_ref().filter(|_| !raw.written.contains(&"workers")) {
            report.problem(&threads.place, "`threads` is a number for each worker; expected `workers` beside it");
        }
        return None;
    };
    if let (Some(threads), Some(Preset::GunicornSync)) = (&raw.threads, raw.preset.as_ref().map(|preset| preset.value))
        && threads.value.0 > 1
    {
        report.warn(
            &threads.place,
            "gunicorn runs gthread workers when it has more than one thread: the preset is \"gunicorn-gthread\" then",
        );
    }
    let threads =
        raw.threads.as_ref().map_or_else(|| facts.map_or(1, |facts| facts.threads), |threads| threads.value.0);
    Some(workers.value.0.saturating_mul(threads))
}

/// Says where a capacity is missing, or likely not that of the pool.
pub(super) fn warn(raw: &raw::Upstream, capacity: Option<u32>, place: &Place, report: &mut Report) {
    match (raw.preset.as_ref().map(|preset| preset.value), capacity) {
        (None, None) => report.warn(
            place,
            "neither `preset` nor a capacity (`workers` or `max_in_flight`) is given, so cautious defaults hold",
        ),
        (Some(preset), None) if preset.facts().is_synchronous => report.warn(
            place,
            format!(
                "no cap on requests in flight: what {} cannot work on yet waits there, where a restart loses it; \
                 set `workers` to this gateway's share of the pool",
                preset.name()
            ),
        ),
        (Some(Preset::GunicornGthread), Some(_)) if raw.workers.is_some() && raw.threads.is_none() => report.warn(
            raw.workers.as_ref().map_or(place, |workers| &workers.place),
            "`threads` is not given, so each worker gets one request at once; set it to gunicorn's `--threads`",
        ),
        _ => {}
    }
}

/// The queue, as large as its upstream needs where nothing is said.
pub(super) fn queue(raw: raw::Queue, capacity: Option<u32>, endpoints: &[EndpointConfig]) -> Queue {
    let max = raw.max.map_or_else(|| default_max(capacity, endpoints), |max| max.value.0);
    Queue { max: max as usize, timeout: given(raw.timeout).0 }
}

fn default_max(capacity: Option<u32>, endpoints: &[EndpointConfig]) -> u32 {
    let Some(capacity) = capacity else { return QUEUE_WITHOUT_CAP };
    let count = endpoints.iter().filter(|endpoint| !endpoint.backup).count();
    let pool = capacity.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
    pool.saturating_mul(WAITING).clamp(QUEUE_MIN, QUEUE_MAX)
}
