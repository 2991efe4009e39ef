//! Between an app and its client, while an answer is fetched: takes a copy of the body, or keeps the answer from the client.
//!
//! The engine's hook says what is to be done with a response when it sees the head; the session, which passes it on, does it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use crate::observe::metrics::NotStored;

/// What the client gets of a response.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Passed {
    #[default]
    All,
    /// That it has it already: a 304.
    NotModified,
    /// Nothing: it is answered from what is kept.
    Nothing,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Tap(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    passed: Passed,
    recording: Option<Recording>,
}

/// The copy of a body.
#[derive(Debug)]
struct Recording {
    body: BytesMut,
    /// What the head says.
    expected: Option<usize>,
    most: usize,
    room: Room,
    ended: bool,
    gave_up: Option<NotStored>,
}

/// Bytes of bodies that are being copied, of all together.
#[derive(Debug, Default)]
pub struct Budget {
    used: AtomicU64,
    limit: AtomicU64,
}

impl Budget {
    pub fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Relaxed);
    }
}

/// A part of the budget.
#[derive(Debug)]
struct Room {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Room {
    fn grow_to(&mut self, bytes: u64) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let limit = self.budget.limit.load(Relaxed);
        let taken =
            self.budget.used.fetch_update(Relaxed, Relaxed, |used| used.checked_add(more).filter(|sum| *sum <= limit));
        self.bytes += if taken.is_ok() { more } else { 0 };
        taken.is_ok()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}

impl Tap {
    /// Another attempt begins.
    pub fn reset(&self) {
        *self.0.lock() = State::default();
    }

    /// Says what the client gets.
    pub fn pass(&self, passed: Passed) {
        self.0.lock().passed = passed;
    }

    #[must_use]
    pub fn passed(&self) -> Passed {
        self.0.lock().passed
    }

    /// From now on the body is copied; of `expected` bytes, where the head says so, and never more than `most`.
    pub fn record(&self, expected: Option<usize>, most: usize, budget: &Arc<Budget>) {
        let mut room = Room { budget: budget.clone(), bytes: 0 };
        let gave_up = (!room.grow_to(expected.unwrap_or(0) as u64)).then_some(NotStored::Busy);
        let body = BytesMut::with_capacity(expected.filter(|_| gave_up.is_none()).unwrap_or(0));
        self.0.lock().recording = Some(Recording { body, expected, most, room, ended: false, gave_up });
    }

    /// A piece of the body passes.
    pub fn push(&self, data: &[u8]) {
        if let Some(recording) = &mut self.0.lock().recording {
            recording.push(data);
        }
    }

    /// The response is whole.
    pub fn end(&self) {
        if let Some(recording) = &mut self.0.lock().recording {
            recording.ended = true;
        }
    }

    /// Whether a body is being copied still.
    #[must_use]
    pub fn records(&self) -> bool {
        self.0.lock().recording.as_ref().is_some_and(|recording| recording.gave_up.is_none())
    }

    /// The copy, if the response was recorded.
    ///
    /// # Errors
    /// There is none that is whole.
    pub fn take(&self) -> Option<Result<Bytes, NotStored>> {
        self.0.lock().recording.take().map(Recording::finish)
    }
}

impl Recording {
    fn push(&mut self, data: &[u8]) {
        if self.gave_up.is_some() {
            return;
        }
        let length = self.body.len() + data.len();
        // What the buffer will have grown to: it doubles.
        let space =
            if length <= self.body.capacity() { self.body.capacity() } else { length.max(self.body.capacity() * 2) };
        if length > self.most {
            self.give_up(NotStored::TooLarge);
        } else if !self.room.grow_to(space as u64) {
            self.give_up(NotStored::Busy);
        } else {
            self.body.extend_from_slice(data);
        }
    }

    fn give_up(&mut self, why: NotStored) {
        self.gave_up = Some(why);
        self.body = BytesMut::new();
    }

    fn finish(self) -> Result<Bytes, NotStored> {
        if let Some(why) = self.gave_up {
            return Err(why);
        }
        if !self.ended || self.expected.is_some_and(|expected| expected != self.body.len()) {
            return Err(NotStored::Incomplete);
        }
        // What is kept for long holds no room that it does not need.
        let wasteful = self.body.capacity() > self.body.len() + self.body.len() / 16 + 64;
        Ok(if wasteful { Bytes::copy_from_slice(&self.body) } else { self.body.freeze() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(bytes: u64) -> Arc<Budget> {
        let budget = Arc::new(Budget::default());
        budget.set_limit(bytes);
        budget
    }

    #[test]
    fn a_body_is_whole_or_it_is_not() {
        let (tap, budget) = (Tap::default(), budget(100));
        tap.record(Some(4), 100, &budget);
        tap.push(b"ab");
        tap.push(b"cd");
        assert_eq!(budget.used.load(Relaxed), 4);
        tap.end();
        assert_eq!(tap.take(), Some(Ok(Bytes::from_static(b"abcd"))));
        assert_eq!(tap.take(), None);
        assert_eq!(budget.used.load(Relaxed), 0);
        tap.record(Some(4), 100, &budget);
        tap.push(b"abc");
        tap.end();
        assert_eq!(tap.take(), Some(Err(NotStored::Incomplete)));
        tap.record(None, 100, &budget);
        tap.push(b"abc");
        assert_eq!(tap.take(), Some(Err(NotStored::Incomplete)), "its end did not come");
    }

    #[test]
    fn what_is_too_large_is_let_go_at_once() {
        let (tap, budget) = (Tap::default(), budget(100));
        tap.record(None, 5, &budget);
        tap.push(b"abc");
        assert!(tap.records());
        tap.push(b"def");
        assert!(!tap.records());
        tap.end();
        assert_eq!(tap.take(), Some(Err(NotStored::TooLarge)));
    }

    #[test]
    fn all_together_have_so_much_room() {
        let (one, two, budget) = (Tap::default(), Tap::default(), budget(100));
        one.record(Some(60), 100, &budget);
        two.record(Some(60), 100, &budget);
        assert!(one.records() && !two.records());
        two.end();
        assert_eq!(two.take(), Some(Err(NotStored::Busy)));
        drop(one);
        assert_eq!(budget.used.load(Relaxed), 0);
        two.record(None, 1000, &budget);
        two.push(&[0; 101]);
        assert_eq!(two.take(), Some(Err(NotStored::Busy)));
        assert_eq!(budget.used.load(Relaxed), 0);
    }
}
