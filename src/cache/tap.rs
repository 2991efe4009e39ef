//! Between an app and its client, while an answer is fetched: takes a copy of the body, or keeps the answer from the client.
//!
//! `proxy` says what is to be done with a response when it sees the head; the session, which passes it on, does it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

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
    recorded: bool,
    not_stored: Option<NotStored>,
}

/// Told of a body once it is whole, or why it will not be; why it is not kept, if it is not.
pub type Done = Box<dyn FnOnce(Result<Bytes, NotStored>) -> Option<NotStored> + Send>;

/// The copy of a body.
struct Recording {
    body: BytesMut,
    /// What the head says.
    expected: Option<usize>,
    most: usize,
    /// One that does not say its length is over by then, or it may be one without an end.
    until: Option<Instant>,
    room: Room,
    done: Done,
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Recording")
            .field("bytes", &self.body.len())
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
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

    /// From now on the body is copied; of `expected` bytes, where the head says so, and never more than `most`. One that does not say
    /// its length has `patience`.
    pub fn record(&self, expected: Option<usize>, most: usize, patience: Duration, budget: &Arc<Budget>, done: Done) {
        let mut room = Room { budget: budget.clone(), bytes: 0 };
        let has_room = room.grow_to(expected.unwrap_or(0) as u64);
        let body = BytesMut::with_capacity(expected.filter(|_| has_room).unwrap_or(0));
        {
            let mut state = self.0.lock();
            let until = expected.is_none().then(|| Instant::now() + patience);
            state.recording = Some(Recording { body, expected, most, until, room, done });
            state.recorded = true;
        }
        if !has_room {
            self.finish(Some(NotStored::Busy));
        } else if expected == Some(0) {
            self.finish(None);
        }
    }

    /// A piece of the body passes.
    pub fn push(&self, data: &[u8]) {
        let pushed = match &mut self.0.lock().recording {
            Some(recording) => recording.push(data),
            None => return,
        };
        match pushed {
            Ok(true) => self.finish(None),
            Ok(false) => {}
            Err(why) => self.finish(Some(why)),
        }
    }

    /// The response is whole.
    pub fn end(&self) {
        self.finish(None);
    }

    /// Nothing more comes, whether it is whole or not.
    pub fn give_up(&self) {
        self.finish(Some(NotStored::Incomplete));
    }

    /// Whether a body is being copied or was, and nothing was wrong with it so far.
    #[must_use]
    pub fn records(&self) -> bool {
        let state = self.0.lock();
        state.recorded && state.not_stored.is_none()
    }

    /// Why what was recorded is not kept.
    #[must_use]
    pub fn not_stored(&self) -> Option<NotStored> {
        self.0.lock().not_stored
    }

    /// The end of the recording, if there is one: `why` it has none that is good.
    fn finish(&self, why: Option<NotStored>) {
        let Some(recording) = self.0.lock().recording.take() else { return };
        // Outside of the lock: it takes others.
        let not_stored = recording.finish(why);
        self.0.lock().not_stored = not_stored;
    }
}

impl Recording {
    /// Whether that was all.
    fn push(&mut self, data: &[u8]) -> Result<bool, NotStored> {
        let length = self.body.len() + data.len();
        if length > self.most {
            return Err(NotStored::TooLarge);
        }
        if self.until.is_some_and(|until| Instant::now() > until) {
            return Err(NotStored::EventStream);
        }
        // What the buffer will have grown to: it doubles.
        let capacity = self.body.capacity();
        let space = if length <= capacity { capacity } else { length.max(capacity * 2) };
        if !self.room.grow_to(space as u64) {
            return Err(NotStored::Busy);
        }
        self.body.extend_from_slice(data);
        Ok(self.expected == Some(length))
    }

    fn finish(self, why: Option<NotStored>) -> Option<NotStored> {
        let Self { body, expected, room, done, .. } = self;
        let why = why.or_else(|| expected.filter(|expected| *expected != body.len()).map(|_| NotStored::Incomplete));
        if let Some(why) = why {
            return done(Err(why));
        }
        // What is kept for long holds no room that it does not need.
        let wasteful = body.capacity() > body.len() + body.len() / 16 + 64;
        let body = if wasteful { Bytes::copy_from_slice(&body) } else { body.freeze() };
        drop(room);
        done(Ok(body))
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

    const LONG: Duration = Duration::from_secs(60);

    type Got = Arc<Mutex<Vec<Result<Bytes, NotStored>>>>;

    fn keeping(got: &Got) -> Done {
        let got = got.clone();
        Box::new(move |body| {
            let why = body.as_ref().err().copied();
            got.lock().push(body);
            why
        })
    }

    fn taken(got: &Got) -> Vec<Result<Bytes, NotStored>> {
        std::mem::take(&mut *got.lock())
    }

    #[test]
    fn a_body_is_whole_or_it_is_not() {
        let (tap, budget, got) = (Tap::default(), budget(100), Got::default());
        tap.record(Some(4), 100, LONG, &budget, keeping(&got));
        tap.push(b"ab");
        assert_eq!((budget.used.load(Relaxed), taken(&got)), (4, vec![]));
        tap.push(b"cd");
        assert_eq!(taken(&got), [Ok(Bytes::from_static(b"abcd"))], "before its end is passed on");
        assert_eq!(budget.used.load(Relaxed), 0);
        tap.end();
        tap.give_up();
        assert_eq!((taken(&got), tap.not_stored()), (vec![], None));
        tap.record(Some(4), 100, LONG, &budget, keeping(&got));
        tap.push(b"abc");
        tap.end();
        assert_eq!(taken(&got), [Err(NotStored::Incomplete)]);
        assert_eq!(tap.not_stored(), Some(NotStored::Incomplete));
        tap.reset();
        tap.record(None, 100, LONG, &budget, keeping(&got));
        tap.push(b"abc");
        assert!(tap.records());
        tap.give_up();
        assert_eq!(taken(&got), [Err(NotStored::Incomplete)], "its end did not come");
        tap.record(None, 100, LONG, &budget, keeping(&got));
        tap.push(b"abc");
        tap.end();
        assert_eq!(taken(&got), [Ok(Bytes::from_static(b"abc"))]);
        tap.record(Some(0), 100, LONG, &budget, keeping(&got));
        assert_eq!(taken(&got), [Ok(Bytes::new())]);
    }

    #[test]
    fn what_may_have_no_end_is_let_go_when_its_time_is_over() {
        let (tap, budget, got) = (Tap::default(), budget(100), Got::default());
        tap.record(None, 100, Duration::ZERO, &budget, keeping(&got));
        tap.push(b"a");
        assert_eq!(taken(&got), [Err(NotStored::EventStream)]);
        tap.record(Some(1), 100, Duration::ZERO, &budget, keeping(&got));
        tap.push(b"a");
        assert_eq!(taken(&got), [Ok(Bytes::from_static(b"a"))], "its end is known");
    }

    #[test]
    fn what_is_too_large_is_let_go_at_once() {
        let (tap, budget, got) = (Tap::default(), budget(100), Got::default());
        tap.record(None, 5, LONG, &budget, keeping(&got));
        tap.push(b"abc");
        assert!(tap.records());
        tap.push(b"def");
        assert_eq!(taken(&got), [Err(NotStored::TooLarge)]);
        assert!(!tap.records() && tap.not_stored() == Some(NotStored::TooLarge));
    }

    #[test]
    fn all_together_have_so_much_room() {
        let (one, two, budget, got) = (Tap::default(), Tap::default(), budget(100), Got::default());
        one.record(Some(60), 100, LONG, &budget, keeping(&got));
        two.record(Some(60), 100, LONG, &budget, keeping(&got));
        assert_eq!(taken(&got), [Err(NotStored::Busy)]);
        drop(one);
        assert_eq!(budget.used.load(Relaxed), 0);
        two.record(None, 1000, LONG, &budget, keeping(&got));
        two.push(&[0; 101]);
        assert_eq!(taken(&got), [Err(NotStored::Busy)]);
        assert_eq!(budget.used.load(Relaxed), 0);
    }
}
