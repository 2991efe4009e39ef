//! How long an idle connection may be reused: the pure part, which learns from what was seen when a server closes
//! idle connections. Connections, timers and tasks are left to `pool`.
//!
//! A server that times idle connections out closes each of them at the same age. One that restarts, or recycles a
//! worker, closes them at any age. So an age counts only when it was seen twice in a row, on connections that no
//! single event can have closed together, and no connection was in use at a greater age in between.

use std::time::Duration;

use tokio::time::Instant;

/// Nothing idle is kept for less: a server that closes within twice this time closes at once for our purposes.
pub const SHORTEST: Duration = Duration::from_millis(100);

/// Ages that differ by less are the same, however small: timers and schedulers are no better.
const JITTER: Duration = Duration::from_millis(20);

/// How long a known time is believed before one connection is put to the test again.
const RECHECK: Duration = Duration::from_mins(10);

/// No connection is watched for longer than this, nor for more than [`HORIZON_LIMITS`] times the limit.
const HORIZON: Duration = Duration::from_mins(10);
const HORIZON_LIMITS: u32 = 64;

/// How close the moment a closing was seen is to the closing itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// We were watching: the age is right. A connection that outlasted the watch counts as closed at its end.
    Witnessed,
    /// It was found closed some time after: the age is an upper bound.
    Found,
}

/// What is known of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learner {
    start: Duration,
    /// The age at which the server closes, or one that it is known to outlast.
    known: Option<Duration>,
    /// An age seen once that does not fit what is known.
    doubt: Option<Duration>,
    /// When the last observation that counted was made.
    observed: Option<Instant>,
    /// When `known` was last found right by a closing that was witnessed.
    confirmed: Option<Instant>,
}

impl Learner {
    /// One that knows nothing: idle connections are kept for `start`.
    #[must_use]
    pub fn new(start: Duration) -> Self {
        Self { start, known: None, doubt: None, observed: None, confirmed: None }
    }

    /// Changes what holds until something is known.
    pub fn set_start(&mut self, start: Duration) {
        self.start = start;
    }

    /// How long a connection may be idle and still be reused: half of the time after which the server closes. Zero:
    /// not at all.
    #[must_use]
    pub fn limit(&self) -> Duration {
        match self.known.map(|known| known / 2) {
            None => self.start,
            Some(half) if half < SHORTEST => Duration::ZERO,
            Some(half) => half,
        }
    }

    /// The age at which the server closes idle connections, once that is known.
    #[must_use]
    pub fn close_time(&self) -> Option<Duration> {
        self.known
    }

    /// Takes in that a connection which was idle from `since` on was seen to be closed at `seen`. True when the limit
    /// has changed.
    pub fn observe(&mut self, since: Instant, seen: Instant, closing: Closing) -> bool {
        if !self.is_independent(since) {
            return false;
        }
        self.observed = Some(seen);
        let age = seen.saturating_duration_since(since);
        let agreed = [self.known, self.doubt].into_iter().flatten().find(|earlier| agree(*earlier, age));
        let Some(earlier) = agreed else {
            self.doubt = Some(age);
            return false;
        };
        let before = self.limit();
        self.known = Some(earlier.min(age));
        self.doubt = None;
        // An upper bound may be far off: it is put to the test at once.
        self.confirmed = (closing == Closing::Witnessed).then_some(seen);
        self.limit() != before
    }

    /// Takes in that a connection was still good at this age.
    pub fn survived(&mut self, age: Duration) {
        if self.doubt.is_some_and(|doubt| doubt <= age) {
            self.doubt = None;
        }
    }

    /// The age that waits for a second observation. A connection still good at this age speaks against it.
    #[must_use]
    pub fn doubt(&self) -> Option<Duration> {
        self.doubt
    }

    /// Whether a connection that was idle from `since` on and has reached the limit should be watched until the
    /// server closes it, instead of being closed.
    #[must_use]
    pub fn wants_watch(&self, since: Instant, now: Instant) -> bool {
        let due = self.confirmed.is_none_or(|confirmed| now.saturating_duration_since(confirmed) >= RECHECK);
        self.is_independent(since) && (due || self.doubt.is_some())
    }

    /// For how long from the moment it became idle a connection is watched at most.
    #[must_use]
    pub fn horizon(&self) -> Duration {
        self.limit().max(SHORTEST).saturating_mul(HORIZON_LIMITS).min(HORIZON)
    }

    /// Connections that were idle at the same time may have been closed by one event: only the first of them says
    /// anything.
    fn is_independent(&self, since: Instant) -> bool {
        self.observed.is_none_or(|observed| observed <= since)
    }
}

/// Within a fifth of the longer one.
fn agree(a: Duration, b: Duration) -> bool {
    a.abs_diff(b) <= (a.max(b) / 5).max(JITTER)
}

#[cfg(test)]
mod tests;
