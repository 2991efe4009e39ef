//! Where requests of an upstream wait for a slot: in the order they came, those of high priority first.
//!
//! There is one queue for each name of an upstream, and it outlives reloads: requests of the old configuration and of the new
//! one stand in one order, each with the configuration it came with. Whether a request can be placed depends on its
//! configuration alone, never on the request. So those of one configuration form a lane, and a lane whose first cannot be
//! placed is passed over as a whole: handing a slot over costs the same however many wait.
//!
//! A slot is handed over under the lock of the queue. No request waits on a task of its own, nor does one wake without having
//! been served, except at its own deadline. One timer for the whole queue looks again when time alone changes something.

mod ticket;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst, fence};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::Instant;

pub use ticket::{Refused, Wanted};

use crate::observe::metrics::QueueDrop;
use crate::upstream::endpoint::{Clock, Endpoint, Lease};
use crate::upstream::group::Group;
use ticket::Place;

/// The queue of an upstream.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) name: Arc<str>,
    /// Requests in all lanes. Changed under the lock only.
    waiting: AtomicUsize,
    next_ticket: AtomicU64,
    in_service: AtomicBool,
    /// The configuration in force; those before it only end what they began.
    in_force: Mutex<Weak<Group>>,
    /// Held while it is decided whether one more endpoint may be ejected.
    pub(super) ejecting: Mutex<()>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lanes: Vec<Lane>,
    alarm: Option<Alarm>,
}

/// The requests of one configuration.
#[derive(Debug)]
struct Lane {
    group: Arc<Group>,
    line: BTreeMap<Place, Arc<Waiter>>,
    /// Nothing can be had for it at the moment.
    is_stuck: bool,
}

/// The task that looks again at a time.
#[derive(Debug)]
struct Alarm {
    at: Instant,
    task: AbortHandle,
}

/// What decides where a request goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    pub(super) hash: Option<u64>,
    pub(super) tried: &'a [Arc<Endpoint>],
}

/// A request that waits.
#[derive(Debug)]
struct Waiter {
    hash: Option<u64>,
    tried: Box<[Arc<Endpoint>]>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Waiting(Option<Waker>),
    Served(Lease),
    Over,
}

impl Waiter {
    fn wish(&self) -> Wish<'_> {
        Wish { hash: self.hash, tried: &self.tried }
    }

    /// Hands it the slot; who is to be told.
    fn serve(&self, lease: Lease) -> Option<Waker> {
        match std::mem::replace(&mut *self.state.lock(), State::Served(lease)) {
            State::Waiting(waker) => waker,
            State::Served(_) | State::Over => None,
        }
    }

    /// The slot it was handed; where there is none yet, `waker` is told when there is.
    fn take(&self, waker: Option<&Waker>) -> Option<Lease> {
        let mut state = self.state.lock();
        match (&mut *state, waker) {
            (State::Waiting(Some(old)), Some(waker)) => old.clone_from(waker),
            (State::Waiting(old), Some(waker)) => *old = Some(waker.clone()),
            (State::Served(_), _) => {
                if let State::Served(lease) = std::mem::replace(&mut *state, State::Over) {
                    return Some(lease);
                }
            }
            _ => {}
        }
        None
    }
}

impl Queue {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            waiting: AtomicUsize::new(0),
            next_ticket: AtomicU64::new(0),
            in_service: AtomicBool::new(false),
            in_force: Mutex::default(),
            ejecting: Mutex::default(),
            inner: Mutex::default(),
        }
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// Whether requests have ever been let in: endpoints that come from now on come late.
    pub(super) fn is_in_service(&self) -> bool {
        self.in_service.load(Relaxed)
    }

    /// Puts a configuration in force; the one that was before, if it is another.
    pub(super) fn put_in_force(&self, group: &Arc<Group>) -> Option<Arc<Group>> {
        self.in_service.store(true, Relaxed);
        let before = std::mem::replace(&mut *self.in_force.lock(), Arc::downgrade(group));
        before.upgrade().filter(|before| !Arc::ptr_eq(before, group))
    }

    /// Whether a configuration is the one in force.
    pub(super) fn is_in_force(&self, group: &Arc<Group>) -> bool {
        std::ptr::eq(self.in_force.lock().as_ptr(), Arc::as_ptr(group))
    }

    /// Takes a configuration out of force; whether it was in it, which leaves none.
    pub(super) fn take_out_of_force(&self, group: &Arc<Group>) -> bool {
        let mut in_force = self.in_force.lock();
        let was = std::ptr::eq(in_force.as_ptr(), Arc::as_ptr(group));
        if was {
            *in_force = Weak::new();
        }
        was
    }

    /// A number that nobody had before.
    pub(super) fn next_ticket(&self) -> u64 {
        self.next_ticket.fetch_add(1, Relaxed)
    }

    /// Something changed: whoever can be placed now gets a slot. To be called after the change, and with no lock held.
    pub(super) fn offer(self: &Arc<Self>) {
        // Against the one in `enter`: either this side sees the waiter, or that side sees the change.
        fence(SeqCst);
        if self.waiting() == 0 {
            return;
        }
        // Woken without the lock, which the woken may want at once.
        while let Some(waker) = self.hand_over() {
            waker.wake();
        }
    }

    /// Places requests in their order until one is placed that is to be told, or none can be.
    fn hand_over(self: &Arc<Self>) -> Option<Waker> {
        let mut inner = self.inner.lock();
        let clock = Clock::default();
        inner.lanes.iter_mut().for_each(|lane| lane.is_stuck = false);
        while let Some(lane) = inner.first_lane() {
            let Some(first) = lane.line.first_entry() else { break };
            let Some(lease) = lane.group.take(first.get().wish(), first.key().ticket(), &clock) else {
                lane.is_stuck = true;
                continue;
            };
            let waiter = first.remove();
            self.waiting.fetch_sub(1, SeqCst);
            inner.drop_empty_lanes();
            if let Some(waker) = waiter.serve(lease) {
                return Some(waker);
            }
        }
        let times = inner.lanes.iter().filter_map(|lane| lane.group.next_change(&clock));
        match times.min() {
            Some(at) => self.set_alarm(&mut inner, at),
            None => inner.stop_alarm(),
        }
        None
    }

    fn set_alarm(self: &Arc<Self>, inner: &mut Inner, at: Instant) {
        if inner.alarm.as_ref().is_some_and(|alarm| alarm.at <= at) {
            return;
        }
        // Only a process that is leaving drops a slot outside the runtime.
        let Ok(runtime) = Handle::try_current() else { return };
        inner.stop_alarm();
        let queue = self.clone();
        let task = runtime.spawn(async move {
            tokio::time::sleep_until(at).await;
            // Unless another one was set while this one was already on its way.
            queue.inner.lock().alarm.take_if(|alarm| alarm.at == at);
            queue.offer();
        });
        inner.alarm = Some(Alarm { at, task: task.abort_handle() });
    }

    /// Lines a request up, unless as many wait as may, and serves whoever can be. One that was `admitted` before stands where its
    /// ticket says, which is ahead of all that came after it, and is not counted out unless nobody may wait at all.
    pub(super) fn enter<'a>(
        self: &Arc<Self>,
        group: &'a Arc<Group>,
        wanted: &mut Wanted,
        most: usize,
    ) -> Option<Stay<'a>> {
        let most = if wanted.is_admitted() && most > 0 { usize::MAX } else { most };
        if self.waiting() >= most {
            // Whoever ought to be gone by now goes.
            self.offer();
        }
        let waiter = Arc::new(Waiter {
            hash: wanted.hash,
            tried: wanted.tried.as_slice().into(),
            state: Mutex::new(State::Waiting(None)),
        });
        let mut inner = self.inner.lock();
        if self.waiting() >= most {
            return None;
        }
        let mut place = Place::new(wanted.priority, wanted.ticket(self));
        while inner.lanes.iter().any(|lane| lane.line.contains_key(&place)) {
            // A ticket of another queue.
            place = Place::new(wanted.priority, self.next_ticket());
        }
        if inner.lane(group).is_none() {
            inner.lanes.push(Lane { group: group.clone(), line: BTreeMap::new(), is_stuck: false });
        }
        inner.lane(group)?.line.insert(place, waiter.clone());
        self.waiting.fetch_add(1, SeqCst);
        drop(inner);
        self.offer();
        Some(Stay { group, place, waiter, is_counted: false, is_over: false })
    }

    /// Takes a request out that waits no longer; whether it still stood there. Otherwise it has been served.
    fn leave(&self, group: &Arc<Group>, place: Place) -> bool {
        let mut inner = self.inner.lock();
        let stood_there = inner.lane(group).and_then(|lane| lane.line.remove(&place)).is_some();
        inner.drop_empty_lanes();
        if stood_there {
            self.waiting.fetch_sub(1, SeqCst);
        }
        stood_there
    }
}

impl Inner {
    /// The lane whose first is the first of all that may still be placed.
    fn first_lane(&mut self) -> Option<&mut Lane> {
        let hopeful = self.lanes.iter_mut().filter(|lane| !lane.is_stuck);
        hopeful.min_by_key(|lane| lane.line.first_key_value().map_or(Place::LAST, |(place, _)| *place))
    }

    fn lane(&mut self, group: &Arc<Group>) -> Option<&mut Lane> {
        self.lanes.iter_mut().find(|lane| Arc::ptr_eq(&lane.group, group))
    }

    fn drop_empty_lanes(&mut self) {
        self.lanes.retain(|lane| !lane.line.is_empty());
        if self.lanes.is_empty() {
            self.stop_alarm();
        }
    }

    fn stop_alarm(&mut self) {
        if let Some(alarm) = self.alarm.take() {
            alarm.task.abort();
        }
    }
}

/// A request in the queue. Dropped, it leaves at once; a slot it was handed and did not take goes to the next.
#[derive(Debug)]
pub(super) struct Stay<'a> {
    group: &'a Arc<Group>,
    place: Place,
    waiter: Arc<Waiter>,
    /// The metrics know of it.
    is_counted: bool,
    is_over: bool,
}

impl Stay<'_> {
    /// The slot, where it was there at once. Otherwise the request counts as waiting from now on.
    pub(super) fn served(&mut self) -> Option<Lease> {
        let lease = self.waiter.take(None);
        self.is_over = lease.is_some();
        if lease.is_none() {
            self.is_counted = true;
            self.group.metrics.queue_entered();
        }
        lease
    }

    /// Waits for the slot.
    pub(super) fn poll_served(&mut self, context: &Context<'_>) -> Poll<Lease> {
        match self.waiter.take(Some(context.waker())) {
            Some(lease) => {
                self.is_over = true;
                Poll::Ready(lease)
            }
            None => Poll::Pending,
        }
    }

    /// Waits no longer. The slot, where it came this moment.
    pub(super) fn give_up(&mut self) -> Option<Lease> {
        self.is_over = true;
        if self.group.queue.leave(self.group, self.place) { None } else { self.waiter.take(None) }
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        if self.is_counted {
            self.group.metrics.queue_left();
        }
        if !self.is_over {
            self.group.metrics.record_queue_drop(QueueDrop::ClientLeft);
            drop(self.give_up());
        }
    }
}

#[cfg(test)]
mod tests;
