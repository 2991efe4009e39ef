//! How many requests are on an address, and that there are never more than it can work on.
//!
//! A count belongs to the address, whatever upstream a request comes through. A slot that comes free is offered to a health
//! check that waits for it, and then to the queue of each upstream in turn. Who finds no slot makes itself known before it
//! looks again, and who gives one back looks for waiters after it did: both sides in one total order (`SeqCst`), so that one of
//! them sees the other.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::upstream::queue::Queue;

/// The capacity of an address that takes any number.
const UNLIMITED: u32 = u32::MAX;

/// Requests in flight to one address, whatever upstream they came through.
#[derive(Debug)]
pub(super) struct Load {
    in_flight: AtomicU32,
    capacity: AtomicU32,
    /// Health checks that wait for a slot; while there are any, nobody else gets one.
    checks: AtomicU32,
    /// Health checks that have one.
    probing: AtomicU32,
    freed: Notify,
    /// Whose requests wait for this address.
    queues: Mutex<Vec<Weak<Queue>>>,
    /// There is more than one queue.
    is_shared: AtomicBool,
    /// Which of them is offered a slot first.
    turn: AtomicUsize,
}

impl Load {
    pub(super) fn new(capacity: Option<u32>) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            capacity: AtomicU32::new(capacity.unwrap_or(UNLIMITED)),
            checks: AtomicU32::new(0),
            probing: AtomicU32::new(0),
            freed: Notify::new(),
            queues: Mutex::default(),
            is_shared: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(SeqCst)
    }

    /// Whether every slot is taken.
    pub(super) fn is_full(&self) -> bool {
        self.in_flight() >= self.capacity.load(SeqCst)
    }

    /// Whether a request would get a slot.
    pub(super) fn is_free(&self) -> bool {
        self.checks.load(SeqCst) == 0 && !self.is_full()
    }

    /// Changes the capacity. Nobody is thrown out; who waits for a slot that is now there gets it.
    pub(super) fn set_capacity(&self, capacity: Option<u32>) {
        let capacity = capacity.unwrap_or(UNLIMITED);
        if self.capacity.swap(capacity, SeqCst) < capacity {
            self.freed.notify_waiters();
            self.offer_to_all();
        }
    }

    /// Takes a slot for a request, if nobody else did since `observed` was read; with none, if there is one.
    pub(super) fn take(&self, observed: Option<u32>) -> bool {
        if self.checks.load(SeqCst) > 0 {
            return false;
        }
        match observed {
            Some(count) => {
                count < self.capacity.load(SeqCst)
                    && self.in_flight.compare_exchange(count, count + 1, SeqCst, SeqCst).is_ok()
            }
            None => self.take_ahead(),
        }
    }

    /// Takes a slot, if there is one, whoever waits.
    fn take_ahead(&self) -> bool {
        let next = |count| (count < self.capacity.load(SeqCst)).then_some(count + 1);
        self.in_flight.fetch_update(SeqCst, SeqCst, next).is_ok()
    }

    /// Slots that health checks have.
    pub(super) fn probing(&self) -> u32 {
        self.probing.load(SeqCst)
    }

    /// Takes a slot for a health check, waiting for it no longer than `patience`; whether there was one. Dropping the future
    /// leaves nothing behind, except the slot if it is dropped after it is done.
    pub(super) async fn take_for_check(&self, patience: Duration) -> bool {
        let is_taken = self.take_ahead() || self.wait_for_check(patience).await;
        if is_taken {
            self.probing.fetch_add(1, SeqCst);
        }
        is_taken
    }

    /// Says that a health check ended, whose slot is given back next.
    pub(super) fn end_check(&self) {
        self.probing.fetch_sub(1, SeqCst);
    }

    async fn wait_for_check(&self, patience: Duration) -> bool {
        let _waiting = WaitingCheck::new(self);
        let freed = async {
            loop {
                let freed = self.freed.notified();
                tokio::pin!(freed);
                freed.as_mut().enable();
                if self.take_ahead() {
                    return;
                }
                freed.await;
            }
        };
        tokio::time::timeout(patience, freed).await.is_ok()
    }

    /// Gives a slot back and offers it to who waits, `queue` being the one of the upstream it was taken through.
    pub(super) fn give_back(&self, queue: &Arc<Queue>) {
        self.in_flight.fetch_sub(1, SeqCst);
        if self.checks.load(SeqCst) > 0 {
            self.freed.notify_waiters();
        }
        if self.is_shared.load(SeqCst) {
            self.offer_to_all();
        } else {
            queue.offer();
        }
    }

    /// Offers what is free to all queues, each time beginning with another one.
    fn offer_to_all(&self) {
        let queues: Vec<_> = self.queues.lock().iter().filter_map(Weak::upgrade).collect();
        let first = self.turn.fetch_add(1, Relaxed) % queues.len().max(1);
        let (front, back) = queues.split_at_checked(first).unwrap_or_default();
        back.iter().chain(front).for_each(Queue::offer);
    }

    /// From now on requests of `queue` wait for this address.
    pub(super) fn join(&self, queue: &Arc<Queue>) {
        let mut queues = self.queues.lock();
        queues.push(Arc::downgrade(queue));
        self.is_shared.store(queues.len() > 1, SeqCst);
    }

    /// The reverse of [`Load::join`].
    pub(super) fn part(&self, queue: &Arc<Queue>) {
        let mut queues = self.queues.lock();
        if let Some(index) = queues.iter().position(|one| std::ptr::eq(one.as_ptr(), Arc::as_ptr(queue))) {
            queues.swap_remove(index);
        }
        self.is_shared.store(queues.len() > 1, SeqCst);
    }
}

/// A health check that waits for a slot, until dropped.
struct WaitingCheck<'a>(&'a Load);

impl<'a> WaitingCheck<'a> {
    fn new(load: &'a Load) -> Self {
        load.checks.fetch_add(1, SeqCst);
        Self(load)
    }
}

impl Drop for WaitingCheck<'_> {
    fn drop(&mut self) {
        if self.0.checks.fetch_sub(1, SeqCst) == 1 {
            self.0.offer_to_all();
        }
    }
}
