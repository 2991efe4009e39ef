//! Waiting: for a condition, for another thread, for a time that a test's script names.
//!
//! The only place of the tests that sleeps.

use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that should happen at once; far above what a loaded machine needs.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Calls `probe` until it gives a value, and returns that.
///
/// # Panics
/// After [`DEADLINE`], naming `what` did not happen.
#[track_caller]
pub fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    eventually_within(DEADLINE, what, probe)
}

/// [`eventually()`] with a deadline of its own.
#[track_caller]
pub fn eventually_within<T>(deadline: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < end, "did not happen within {deadline:?}: {what}");
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Lets the time pass that a script names (a client that drips, a server that is slow). Not for waiting for something:
/// that is [`eventually()`].
pub fn scripted_delay(time: Duration) {
    thread::sleep(time);
}

/// How often a test repeats itself: `short` with `make test`, `long` with `make soak` (`PROPYLON_SOAK` is set).
pub fn rounds(short: usize, long: usize) -> usize {
    if std::env::var_os("PROPYLON_SOAK").is_some() { long } else { short }
}

/// A gate between threads: whoever waits goes on once it is open. Clones are the same gate. Makes an order certain
/// where a delay would only make it likely.
#[derive(Clone, Default)]
pub struct Gate {
    state: Arc<(Mutex<bool>, Condvar)>,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens it for good.
    pub fn open(&self) {
        *self.state.0.lock().unwrap() = true;
        self.state.1.notify_all();
    }

    pub fn is_open(&self) -> bool {
        *self.state.0.lock().unwrap()
    }

    /// Blocks until it is open.
    ///
    /// # Panics
    /// After [`DEADLINE`].
    #[track_caller]
    pub fn wait(&self) {
        assert!(self.wait_at_most(DEADLINE), "the gate was not opened within {DEADLINE:?}");
    }

    /// Blocks until it is open or `time` has passed, and says which: true for open.
    pub fn wait_at_most(&self, time: Duration) -> bool {
        let open = self.state.0.lock().unwrap();
        *self.state.1.wait_timeout_while(open, time, |open| !*open).unwrap().0
    }
}
