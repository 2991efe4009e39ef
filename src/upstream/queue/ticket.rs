//! What a request brings to the queue, where that puts it, and what it hears if there is nothing for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Queue;
use crate::config::model::Priority;
use crate::upstream::endpoint::Endpoint;

/// What one request asks of an upstream. It lives as long as the request tries: it holds its place and its deadline.
#[derive(Debug)]
pub struct Wanted {
    pub priority: Priority,
    /// Where the upstream balances by a key: the key of this request. Without one it goes to the least busy endpoint.
    pub hash: Option<u64>,
    /// Endpoints it failed on. They come after their equals.
    pub(super) tried: Vec<Arc<Endpoint>>,
    ticket: Option<u64>,
    /// It had a slot before.
    is_admitted: bool,
    is_resting: bool,
    deadline: Option<Instant>,
    /// How long it waits at most, where that is not as long as its upstream says.
    patience: Option<Duration>,
    queued: Duration,
}

impl Wanted {
    /// The wish of a request that has not tried yet.
    #[must_use]
    pub fn new(priority: Priority, hash: Option<u64>) -> Self {
        Self {
            priority,
            hash,
            tried: Vec::new(),
            ticket: None,
            is_admitted: false,
            is_resting: false,
            deadline: None,
            patience: None,
            queued: Duration::ZERO,
        }
    }

    /// With a time of its own to wait at most, where there is one.
    #[must_use]
    pub fn with_patience(mut self, patience: Option<Duration>) -> Self {
        self.patience = patience;
        self
    }

    /// From now on it waits `patience` at most.
    pub fn hurry(&mut self, patience: Duration) {
        self.patience = Some(self.patience.map_or(patience, |there| there.min(patience)));
    }

    /// The request failed on `endpoint`, and goes elsewhere if there is another as good.
    pub fn record_tried(&mut self, endpoint: &Arc<Endpoint>) {
        if !self.tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint)) {
            self.tried.push(endpoint.clone());
        }
    }

    /// Endpoints the request failed on, each once, in order.
    #[must_use]
    pub fn tried(&self) -> &[Arc<Endpoint>] {
        &self.tried
    }

    /// It has tried other endpoints at once as often as it may: the next time it waits for a moment first, and keeps its place.
    pub fn rest(&mut self) {
        self.is_resting = true;
    }

    /// It was with an app meanwhile, which does not count as waiting: what it has not waited of its time begins now.
    pub fn begin_again(&mut self) {
        self.deadline = None;
    }

    /// How long it has waited, all times together.
    #[must_use]
    pub fn queued(&self) -> Duration {
        self.queued
    }

    /// When it waits no longer; none as long as it never had to wait.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Its number in the order of the requests.
    pub(in crate::upstream) fn ticket(&mut self, queue: &Queue) -> u64 {
        *self.ticket.get_or_insert_with(|| queue.next_ticket())
    }

    pub(in crate::upstream) fn is_admitted(&self) -> bool {
        self.is_admitted
    }

    pub(in crate::upstream) fn admit(&mut self) {
        self.is_admitted = true;
    }

    pub(in crate::upstream) fn is_resting(&self) -> bool {
        self.is_resting
    }

    pub(in crate::upstream) fn end_rest(&mut self) {
        self.is_resting = false;
    }

    /// The deadline, which is set when it first has to wait.
    pub(in crate::upstream) fn deadline_after(&mut self, timeout: Duration) -> Instant {
        let timeout = self.patience.unwrap_or(timeout).saturating_sub(self.queued);
        *self.deadline.get_or_insert_with(|| {
            let now = Instant::now();
            // A time no clock can hold is as long as anybody waits.
            now.checked_add(timeout).unwrap_or(now + Duration::from_hours(24))
        })
    }

    /// Counts the time until what is returned is dropped as waited, also when the request leaves meanwhile.
    pub(in crate::upstream) fn queueing(&mut self) -> Queueing<'_> {
        Queueing { wanted: self, since: Instant::now() }
    }
}

/// A request waits.
pub(in crate::upstream) struct Queueing<'a> {
    wanted: &'a mut Wanted,
    since: Instant,
}

impl Queueing<'_> {
    /// It waits no longer; for how long it did.
    pub(in crate::upstream) fn end(self) -> Duration {
        self.since.elapsed()
    }
}

impl Drop for Queueing<'_> {
    fn drop(&mut self) {
        self.wanted.queued += self.since.elapsed();
    }
}

/// Why a request got no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// As many wait as may.
    Full {
        /// No endpoint could be connected to, or all are drained, rather than all being busy.
        unreachable: bool,
    },
    /// Its deadline passed.
    Late {
        /// As above.
        unreachable: bool,
    },
    /// The upstream has no address at all.
    NoEndpoint,
}

/// Where a request stands: high priority first, and each by its ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

impl Place {
    pub(super) const LAST: Self = Self(u64::MAX);
    const NORMAL: u64 = 1 << 63;

    pub(super) fn new(priority: Priority, ticket: u64) -> Self {
        match priority {
            Priority::High => Self(ticket & !Self::NORMAL),
            Priority::Normal => Self(ticket | Self::NORMAL),
        }
    }

    pub(super) fn ticket(self) -> u64 {
        self.0 & !Self::NORMAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn high_goes_first_and_each_in_order() {
        let place = |(priority, ticket)| Place::new(priority, ticket);
        let order = [(Priority::High, 3), (Priority::High, 9), (Priority::Normal, 1), (Priority::Normal, 8)].map(place);
        assert!(order.is_sorted());
        assert_eq!(order.map(Place::ticket), [3, 9, 1, 8]);
        assert!(order.iter().all(|place| *place < Place::LAST));
    }
}
