//! One address of an upstream: what is known of it, whether it may be given requests, and the guard that counts a request out.
//!
//! What changes seldom (health, reach, ejection, drain) stands behind a lock; one byte of flags beside it says whether there is
//! anything to look up. In the usual case there is not, and an endpoint is judged by loads alone.

use std::cell::OnceCell;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

pub use crate::upstream::address::Address;
pub use crate::upstream::registry::Registry;

use crate::config::model;
use crate::observe::metrics::{EndpointInFlight, EndpointMetrics};
use crate::upstream::ejection::Ejection;
use crate::upstream::health::{Health, Transition};
use crate::upstream::load::Load;
use crate::upstream::pool::Pool;
use crate::upstream::queue::Queue;
use crate::upstream::reach::Reach;
use crate::upstream::selection::rendezvous;
use crate::upstream::selection::{Condition, FULL_SHARE};

const UNHEALTHY: u8 = 1;
const UNREACHABLE: u8 = 2;
const EJECTED: u8 = 4;
const DRAINED: u8 = 8;
/// It came back and starts slowly.
const FRESH: u8 = 16;
/// It has failures, or ejections, to be forgiven. That alone is no reason to avoid it.
const MARKED: u8 = 32;

/// What every request meets is logged so seldom.
const LAMENT_EVERY: Duration = Duration::from_secs(1);

/// The part of its weight an endpoint starts with, in thousandths.
const FIRST_SHARE: u16 = 100;

/// An address within an upstream. It outlives reloads: the registry finds it again by upstream and address.
#[derive(Debug)]
pub struct Endpoint {
    pub address: Address,
    pub label: String,
    pub metrics: Arc<EndpointMetrics>,
    /// Its idle connections.
    pub pool: Arc<Pool>,
    /// What rendezvous hashing knows it by.
    pub(super) id: u64,
    load: Arc<Load>,
    queue: Arc<Queue>,
    flags: AtomicU8,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    health: Health,
    reach: Reach,
    ejection: Ejection,
    drained: bool,
    /// When it came back, as long as it starts slowly.
    back_since: Option<Instant>,
    /// When it was last said that we have no means to connect.
    lamented: Option<Instant>,
}

impl State {
    fn flags(&self) -> u8 {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        flag(!self.health.is_healthy(), UNHEALTHY)
            | flag(!self.reach.is_up(), UNREACHABLE)
            | flag(self.ejection.is_out(), EJECTED)
            | flag(self.drained, DRAINED)
            | flag(self.back_since.is_some(), FRESH)
            | flag(self.ejection.is_marked(), MARKED)
    }
}

/// The time of one decision, read when it is first needed: nearly always it is not.
#[derive(Debug, Default)]
pub(super) struct Clock(OnceCell<Instant>);

impl Clock {
    pub(super) fn now(&self) -> Instant {
        *self.0.get_or_init(Instant::now)
    }
}

impl Endpoint {
    /// `is_late`: it came while its upstream was in service already, and starts slowly.
    pub(super) fn new(
        address: Address,
        metrics: Arc<EndpointMetrics>,
        load: Arc<Load>,
        queue: Arc<Queue>,
        is_late: bool,
    ) -> Self {
        let label = address.to_string();
        let state = State { back_since: is_late.then(Instant::now), ..State::default() };
        load.join(&queue);
        metrics.begin();
        Self {
            id: rendezvous::id(&label),
            flags: AtomicU8::new(state.flags()),
            state: Mutex::new(state),
            address,
            label,
            metrics,
            // As the configuration says once it is in force.
            pool: Pool::new(model::Keepalive::Off, None),
            load,
            queue,
        }
    }

    /// Requests in flight to this address, those of other upstreams and health checks among them.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.load.in_flight()
    }

    /// Slots of the address that health checks have.
    pub(super) fn probing(&self) -> u32 {
        self.load.probing()
    }

    /// Whether every slot of the address is taken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.load.is_full()
    }

    #[must_use]
    pub fn is_healthy(&self) -> bool {
        !self.is(UNHEALTHY)
    }

    /// Whether a check has said anything yet.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.state.lock().health.is_known()
    }

    /// Whether the last connection could be made.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        !self.is(UNREACHABLE)
    }

    /// Whether it is left out because requests failed on it.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.is(EJECTED)
    }

    /// Whether it gets no new requests because somebody said so.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.is(DRAINED)
    }

    fn is(&self, flag: u8) -> bool {
        self.flags.load(SeqCst) & flag != 0
    }

    /// Changes what is known, and offers the queue what follows from it if that is a matter for those who wait.
    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let result = change(&mut state);
        let after = state.flags();
        let before = self.flags.swap(after, SeqCst);
        drop(state);
        if (before ^ after) & !(MARKED | FRESH) != 0 {
            self.queue.offer();
        }
        result
    }

    /// Puts a capacity into force: requests in flight to the address at most, none for any number. All upstreams that name the
    /// address have the same.
    pub fn set_capacity(&self, capacity: Option<u32>) {
        self.metrics.set_capacity(capacity);
        self.load.set_capacity(capacity);
    }

    /// Gives it no new requests; those in flight end as they would, idle connections are closed, and it is still checked.
    /// Whether that is news.
    pub fn drain(&self) -> bool {
        let is_news = self.change(|state| !std::mem::replace(&mut state.drained, true));
        self.metrics.set_drained(true);
        self.pool.clear();
        if is_news {
            tracing::info!(upstream = %self.queue.name, endpoint = self.label, "endpoint is drained");
        }
        is_news
    }

    /// Gives it requests again, slowly at first. Whether that is news.
    pub fn undrain(&self) -> bool {
        let is_news = self.change(|state| {
            if state.drained {
                state.back_since = Some(Instant::now());
            }
            std::mem::take(&mut state.drained)
        });
        self.metrics.set_drained(false);
        if is_news {
            tracing::info!(upstream = %self.queue.name, endpoint = self.label, "endpoint is no longer drained");
        }
        is_news
    }

    /// Takes in the result of a check.
    pub fn record_check(&self, passed: bool, rise: u32, fall: u32) -> Option<Transition> {
        let transition = self.change(|state| {
            let transition = state.health.record(passed, rise, fall);
            if transition == Some(Transition::Up) {
                state.back_since = Some(Instant::now());
            }
            transition
        });
        self.metrics.set_healthy(self.is_healthy());
        transition
    }

    /// A connection was made; not for one that is used again. Whoever waits is let in if none could be made before.
    pub fn record_connected(&self) {
        if self.is_reachable() {
            return;
        }
        let is_news = self.change(|state| state.reach.record_connected());
        self.metrics.set_unreachable(!self.is_reachable());
        if is_news {
            tracing::info!(upstream = %self.queue.name, endpoint = self.label, "endpoint is reachable again");
        }
    }

    /// No connection could be made; whether that is one failure too many for `rules`.
    pub(super) fn record_connect_failure(&self, rules: &model::Ejection, error: &dyn Display) -> bool {
        let (is_news, is_due) =
            self.change(|state| (state.reach.record_failure(Instant::now()), state.ejection.record_failure(rules)));
        self.metrics.set_unreachable(!self.is_reachable());
        if is_news {
            tracing::warn!(
                upstream = %self.queue.name, endpoint = self.label, %error, "endpoint is unreachable, requests wait"
            );
        } else {
            // A trial that failed changes when the next one is due.
            self.queue.offer();
        }
        is_due
    }

    /// We had no means to connect, which says nothing about it.
    pub fn record_shortage(&self, error: &dyn Display) {
        let now = Instant::now();
        let lamented = &mut self.state.lock().lamented;
        if lamented.is_none_or(|at| now - at > LAMENT_EVERY) {
            *lamented = Some(now);
            tracing::error!(upstream = %self.queue.name, endpoint = self.label, %error, "no connection to the app can be made");
        }
    }

    /// A request failed after it had a connection; whether that is one failure too many for `rules`.
    pub(super) fn record_failure(&self, rules: &model::Ejection) -> bool {
        self.change(|state| state.ejection.record_failure(rules))
    }

    /// A request was answered.
    pub(super) fn record_success(&self, rules: &model::Ejection) {
        if self.is(MARKED) {
            self.change(|state| state.ejection.record_success(Instant::now(), rules));
        }
    }

    /// Leaves it out for a while.
    pub(super) fn eject(&self, rules: &model::Ejection) {
        let time = self.change(|state| state.ejection.begin(Instant::now(), rules));
        self.metrics.record_ejection();
        self.metrics.set_ejected(true);
        tracing::warn!(upstream = %self.queue.name, endpoint = self.label, ?time, "endpoint is ejected");
    }

    /// Ends an ejection whose time is over, also when no request comes by to notice.
    pub(super) fn settle(&self) {
        if self.is(EJECTED) && self.end_ejection(Instant::now()) {
            self.queue.offer();
        }
    }

    /// Without offering anything: the caller is about to choose, or does it.
    fn end_ejection(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        if !state.ejection.end(now) {
            return false;
        }
        state.back_since = Some(now);
        self.flags.store(state.flags(), SeqCst);
        drop(state);
        self.metrics.set_ejected(false);
        tracing::info!(upstream = %self.queue.name, endpoint = self.label, "endpoint is no longer ejected");
        true
    }

    /// How it is, how much of its weight counts, and whether it can take one request more.
    pub(super) fn standing(&self, slow_start: Duration, clock: &Clock) -> (Condition, u16, bool) {
        let flags = self.flags.load(SeqCst) & !MARKED;
        let is_free = self.load.is_free();
        if flags == 0 {
            return (Condition::Well, FULL_SHARE, is_free);
        }
        let now = clock.now();
        if flags & EJECTED != 0 {
            self.end_ejection(now);
        }
        let mut state = self.state.lock();
        let share = state.back_since.map_or(FULL_SHARE, |since| share_after(now - since, slow_start));
        if share == FULL_SHARE && state.back_since.take().is_some() {
            self.flags.store(state.flags(), SeqCst);
        }
        let condition = if state.drained || !(state.reach.is_up() || is_free && state.reach.may_try(now)) {
            // One that cannot take its trial is out, or it would keep others from being used.
            Condition::Out
        } else if state.ejection.is_out() {
            Condition::Ejected
        } else if state.health.is_healthy() {
            Condition::Well
        } else {
            Condition::Unhealthy
        };
        (condition, share, is_free)
    }

    /// When time alone will change how it is; none if it will not.
    pub(super) fn next_change(&self, clock: &Clock) -> Option<Instant> {
        if !self.is(UNREACHABLE | EJECTED) || self.is_drained() {
            return None;
        }
        let now = clock.now();
        let state = self.state.lock();
        // What is due already was taken into account: there something else is waited for.
        let times = [state.reach.next_trial(), state.ejection.out_until()];
        times.into_iter().flatten().filter(|time| *time > now).min()
    }

    /// Takes a slot for a request, if nobody else did since `observed` was read; with none, if there is one. While the endpoint
    /// is unreachable the request is its trial, and there is one at a time.
    pub(super) fn take(self: &Arc<Self>, observed: Option<u32>, clock: &Clock) -> Option<Lease> {
        let is_taken = if self.is_reachable() {
            self.load.take(observed)
        } else {
            let mut state = self.state.lock();
            let is_taken = state.reach.may_try(clock.now()) && self.load.take(observed);
            if is_taken {
                state.reach.begin_try(clock.now());
            }
            is_taken
        };
        is_taken.then(|| self.lease(false))
    }

    /// A slot for a health check, ahead of every queue, whatever is known of the endpoint; none if there was none within
    /// `patience`. Dropping the future leaves nothing behind.
    pub async fn acquire_probe(self: &Arc<Self>, patience: Duration) -> Option<Lease> {
        // Between the slot and its guard nothing is awaited.
        self.load.take_for_check(patience).await.then(|| self.lease(true))
    }

    fn lease(self: &Arc<Self>, is_check: bool) -> Lease {
        Lease(Arc::new(Slot { counted: Some(self.metrics.enter()), endpoint: self.clone(), is_check }))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.load.part(&self.queue);
    }
}

/// The part of its weight that counts `elapsed` after it came back: from a tenth to all, evenly.
fn share_after(elapsed: Duration, slow_start: Duration) -> u16 {
    if elapsed >= slow_start {
        return FULL_SHARE;
    }
    let grown = elapsed.as_micros() * u128::from(FULL_SHARE - FIRST_SHARE) / slow_start.as_micros().max(1);
    u16::try_from(grown).map_or(FULL_SHARE, |grown| (FIRST_SHARE + grown).min(FULL_SHARE))
}

/// One request on an endpoint, until it and every clone of it are dropped. Then its slot goes to who waits for it: what the
/// request learnt of the endpoint is to be recorded before.
#[derive(Debug, Clone)]
#[must_use = "the slot is given back when it is dropped"]
pub struct Lease(Arc<Slot>);

#[derive(Debug)]
struct Slot {
    endpoint: Arc<Endpoint>,
    counted: Option<EndpointInFlight>,
    is_check: bool,
}

impl Lease {
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0.endpoint
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // The gauge first, or it would show one more than there ever are.
        drop(self.counted.take());
        if self.endpoint.is_drained() {
            // A request that had its slot before, and connected after.
            self.endpoint.pool.clear();
        }
        if self.is_check {
            self.endpoint.load.end_check();
        }
        self.endpoint.load.give_back(&self.endpoint.queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_from_a_tenth_to_all() {
        let share = |millis| share_after(Duration::from_millis(millis), Duration::from_secs(10));
        assert_eq!([share(0), share(5000), share(9999), share(10_000), share(u64::MAX)], [100, 550, 999, 1000, 1000]);
        assert_eq!(share_after(Duration::ZERO, Duration::ZERO), FULL_SHARE);
        assert_eq!(share_after(Duration::from_nanos(1), Duration::from_nanos(2)), FIRST_SHARE);
    }
}
