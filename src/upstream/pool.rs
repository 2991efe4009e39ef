//! The idle connections to one endpoint: who may be used again, for how long, and how many there are. How long a
//! server keeps its side open is learnt by `keepalive` from what is seen here; the tasks that wait for a time or a
//! socket stand in [`idle`].
//!
//! No connection has a task of its own. What came back first is used first, so that reuse goes round the app's
//! processes instead of staying with the one that was used last; and what is oldest stands in front.

mod idle;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::config::model::Keepalive;
use crate::upstream::keepalive::{Closing, Learner};
use crate::upstream::socket::{Leash, Secured, Sight, Socket};
use crate::upstream::stream::UpstreamStream;

/// Idle connections at most where no capacity is known.
const MOST_IDLE: usize = 256;

/// The idle connections to one endpoint.
#[derive(Debug)]
pub struct Pool {
    inner: Mutex<Inner>,
    /// Connections made before the last [`clear`](Pool::clear) are of an older generation and are not kept.
    generation: AtomicU32,
    /// The age, in microseconds, at which a reused connection speaks against what was seen once; [`u64::MAX`] when
    /// nothing was. So that a reuse that says nothing new costs no lock.
    doubt: AtomicU64,
    /// Wakes the sweeper before its time.
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct Inner {
    policy: Policy,
    /// Connections at most, those in use included.
    capacity: Option<usize>,
    idle: VecDeque<Idle>,
    /// The connection past its limit that shows when the server closes; never used again. Its task ends with this.
    watched: Option<Watch>,
    /// Whether the sweeper runs.
    sweeping: bool,
}

#[derive(Debug)]
struct Idle {
    socket: Socket,
    since: Instant,
    tls: Option<Arc<Secured>>,
}

/// Dropped, it ends the connection that is watched, and its watch.
#[derive(Debug)]
struct Watch {
    _leash: Leash,
    _stop: oneshot::Sender<()>,
}

#[derive(Debug)]
enum Policy {
    Off,
    Fixed(Duration),
    Learned(Learner),
}

impl Pool {
    /// An empty pool. With a `capacity` it never holds more connections than that; where several upstreams name the address, each has
    /// a pool of its own.
    #[must_use]
    pub fn new(keepalive: Keepalive, capacity: Option<u32>) -> Arc<Self> {
        let inner =
            Inner { policy: Policy::Off, capacity: None, idle: VecDeque::new(), watched: None, sweeping: false };
        let pool = Self {
            inner: Mutex::new(inner),
            generation: AtomicU32::new(0),
            doubt: AtomicU64::new(u64::MAX),
            changed: Arc::default(),
        };
        pool.configure(keepalive, capacity);
        Arc::new(pool)
    }

    /// Puts what a reload changed into force, for the connections that are idle too. What was learnt stays as long as
    /// the time is to be learnt.
    pub fn configure(&self, keepalive: Keepalive, capacity: Option<u32>) {
        let mut dropped = Vec::new();
        let mut inner = self.inner.lock();
        match (keepalive, &mut inner.policy) {
            (Keepalive::Off, policy) => *policy = Policy::Off,
            (Keepalive::Fixed(limit), policy) => *policy = Policy::Fixed(limit),
            (Keepalive::Learned { start }, Policy::Learned(learner)) => learner.set_start(start),
            (Keepalive::Learned { start }, policy) => *policy = Policy::Learned(Learner::new(start)),
        }
        inner.capacity = capacity.map(|capacity| capacity as usize);
        if !matches!(inner.policy, Policy::Learned(_)) {
            inner.stop_watching();
            self.doubt.store(u64::MAX, Relaxed);
        }
        let kept = if inner.limit().is_zero() { 0 } else { inner.most_idle() };
        inner.trim(kept, &mut dropped);
        drop(inner);
        self.changed.notify_one();
    }

    /// The connection that has been idle longest and is still good; it was looked at with one system call just now: bytes that
    /// the runtime has not heard of yet would be read as the next answer. None when a fresh one has to be made. What was connected in
    /// another way than by `tls`, as before a reload, is closed.
    #[must_use]
    pub fn take(self: &Arc<Self>, tls: Option<&Arc<Secured>>) -> Option<UpstreamStream> {
        let mut now = None;
        loop {
            let (mut idle, limit) = {
                let mut inner = self.inner.lock();
                (inner.idle.pop_front()?, inner.limit())
            };
            if idle.tls.as_ref() != tls {
                continue;
            }
            // Read behind the lock: not earlier than any `since` in the pool.
            let now = *now.get_or_insert_with(Instant::now);
            let age = now.saturating_duration_since(idle.since);
            if age >= limit {
                self.expire(idle, now);
                continue;
            }
            match idle.socket.peek() {
                Sight::Quiet => {
                    self.record_survival(age);
                    return Some(UpstreamStream::new(idle.socket, idle.tls, self.clone(), self.generation(), true));
                }
                Sight::Closed => self.record(idle.since, now, Closing::Found),
                // Bytes behind an answer that had none: the next request must not get them.
                Sight::Talking => {}
            }
        }
    }

    /// Makes room for a fresh connection: closes the watched one, then idle ones, as far as they and `in_flight`
    /// requests, the one that needs the connection included, would pass the capacity. To be called before connecting.
    pub fn make_room(&self, in_flight: u32) {
        let mut dropped = Vec::new();
        let mut inner = self.inner.lock();
        let Some(capacity) = inner.capacity else { return };
        let room = capacity.saturating_sub(in_flight as usize);
        if inner.held() > room {
            inner.stop_watching();
        }
        inner.trim(room, &mut dropped);
    }

    /// A stream over a connection that was just made.
    #[must_use]
    pub fn wrap(self: &Arc<Self>, socket: Socket, tls: Option<Arc<Secured>>) -> UpstreamStream {
        UpstreamStream::new(socket, tls, self.clone(), self.generation(), false)
    }

    /// Closes all that is idle, and keeps nothing that is in use now: for an endpoint that is drained, replaced or
    /// gone. Connections made from now on are kept again.
    pub fn clear(&self) {
        self.generation.fetch_add(1, Relaxed);
        let mut dropped = Vec::new();
        let mut inner = self.inner.lock();
        inner.stop_watching();
        inner.trim(0, &mut dropped);
        drop(inner);
        self.changed.notify_one();
    }

    /// Idle connections that could be used again.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.inner.lock().idle.len()
    }

    /// After how long the server closes an idle connection, once that was learnt.
    #[must_use]
    pub fn close_time(&self) -> Option<Duration> {
        match &self.inner.lock().policy {
            Policy::Learned(learner) => learner.close_time(),
            Policy::Off | Policy::Fixed(_) => None,
        }
    }

    /// How long a connection may be idle and still be used again. Zero: none is kept.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.inner.lock().limit()
    }

    /// Takes back a connection whose exchange is over. Whatever the server sends from now on, closing included, waits
    /// in the socket and is seen by [`take`](Self::take), which asks the kernel; so a glance is enough here, which in
    /// the usual case is no system call.
    pub(super) fn put(self: &Arc<Self>, mut socket: Socket, tls: Option<Arc<Secured>>, generation: u32) {
        let sight = socket.glance();
        let now = Instant::now();
        if sight == Sight::Closed {
            self.record(now, now, Closing::Found);
        }
        // Outside a runtime nobody could sweep.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let idle = Idle { socket, since: now, tls };
        let mut inner = self.inner.lock();
        if sight != Sight::Quiet || generation != self.generation() || inner.held() >= inner.most_idle() {
            drop(inner);
            return;
        }
        if inner.limit().is_zero() {
            drop(inner);
            self.expire(idle, now);
            return;
        }
        inner.idle.push_back(idle);
        if !inner.sweeping {
            inner.sweeping = true;
            drop(inner);
            runtime.spawn(idle::sweep(Arc::downgrade(self), self.changed.clone()));
        }
    }

    fn generation(&self) -> u32 {
        self.generation.load(Relaxed)
    }

    fn record(&self, since: Instant, seen: Instant, closing: Closing) {
        let mut inner = self.inner.lock();
        let Policy::Learned(learner) = &mut inner.policy else { return };
        let changed = learner.observe(since, seen, closing);
        self.note_doubt(learner);
        let (closes_after, limit) = (learner.close_time(), learner.limit());
        drop(inner);
        if changed {
            tracing::debug!(?closes_after, ?limit, "keep-alive time of the server learnt");
            self.changed.notify_one();
        }
    }

    fn record_survival(&self, age: Duration) {
        if as_micros(age) < self.doubt.load(Relaxed) {
            return;
        }
        if let Policy::Learned(learner) = &mut self.inner.lock().policy {
            learner.survived(age);
            self.note_doubt(learner);
        }
    }

    fn note_doubt(&self, learner: &Learner) {
        self.doubt.store(learner.doubt().map_or(u64::MAX, as_micros), Relaxed);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.inner.get_mut().stop_watching();
        self.changed.notify_one();
    }
}

impl Inner {
    fn limit(&self) -> Duration {
        match &self.policy {
            Policy::Off => Duration::ZERO,
            Policy::Fixed(limit) => *limit,
            Policy::Learned(learner) => learner.limit(),
        }
    }

    fn most_idle(&self) -> usize {
        self.capacity.map_or(MOST_IDLE, |capacity| capacity.min(MOST_IDLE))
    }

    /// Connections that no request has.
    fn held(&self) -> usize {
        self.idle.len() + usize::from(self.watched.is_some())
    }

    /// Moves what is idle into `dropped`, the oldest first, until no more than `most` are left with the watched one.
    /// The caller declares `dropped` before it takes the lock, so that sockets are closed after it was given back.
    fn trim(&mut self, most: usize, dropped: &mut Vec<Idle>) {
        let most = most.saturating_sub(usize::from(self.watched.is_some()));
        let over = self.idle.len().saturating_sub(most);
        dropped.extend(self.idle.drain(..over));
    }

    fn stop_watching(&mut self) {
        self.watched = None;
    }
}

/// Rounded down for an age and for a doubt alike, so that one that is not less never looks less.
fn as_micros(age: Duration) -> u64 {
    u64::try_from(age.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
