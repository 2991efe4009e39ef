//! Whether connections to an endpoint can be made, and when it is asked again if not. Pure.
//!
//! An app that restarts refuses connections for a moment. One request at a time finds out whether it is back, after steps
//! that grow; all others wait or go elsewhere.

use std::time::Duration;

use tokio::time::Instant;

/// The first wait after a connection failed.
pub const STEP_MIN: Duration = Duration::from_millis(25);
/// The longest wait; also how long a trial keeps others away that has not ended yet.
pub const STEP_MAX: Duration = Duration::from_millis(250);

/// What the last connections said. It starts with nothing known, which is reachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    down: Option<Down>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Down {
    step: Duration,
    /// Nobody tries before.
    next: Instant,
    /// Somebody tries now.
    on_trial: bool,
}

impl Reach {
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.down.is_none()
    }

    /// When the next trial is due; none while reachable.
    #[must_use]
    pub fn next_trial(&self) -> Option<Instant> {
        self.down.map(|down| down.next)
    }

    /// Whether a request may go there.
    #[must_use]
    pub fn may_try(&self, now: Instant) -> bool {
        self.down.is_none_or(|down| down.next <= now)
    }

    /// A request goes there. While unreachable it is the trial of this step; a trial that says nothing for [`STEP_MAX`],
    /// because its client left or the connection hangs, is followed by another.
    pub fn begin_try(&mut self, now: Instant) {
        if let Some(down) = &mut self.down {
            down.on_trial = true;
            down.next = now + STEP_MAX;
        }
    }

    /// A connection could not be made; whether that is news. Those that were on their way when the first one failed say
    /// nothing new: only a trial makes the step longer.
    pub fn record_failure(&mut self, now: Instant) -> bool {
        match &mut self.down {
            None => {
                self.down = Some(Down { step: STEP_MIN, next: now + STEP_MIN, on_trial: false });
                return true;
            }
            Some(down) if down.on_trial => {
                let step = (down.step * 2).min(STEP_MAX);
                *down = Down { step, next: now + step, on_trial: false };
            }
            Some(_) => {}
        }
        false
    }

    /// A connection was made; whether that is news.
    pub fn record_connected(&mut self) -> bool {
        self.down.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn steps_grow_with_each_trial_that_fails() {
        let mut now = Instant::now();
        let mut reach = Reach::default();
        assert!(reach.may_try(now) && reach.is_up());
        assert!(reach.record_failure(now));
        for step in [25, 50, 100, 200, 250, 250] {
            assert!(!reach.may_try(now + (step - 1) * MS), "{step}");
            now += step * MS;
            assert!(reach.may_try(now), "{step}");
            reach.begin_try(now);
            assert!(!reach.may_try(now), "one at a time");
            now += 3 * MS;
            assert!(!reach.record_failure(now));
        }
        assert!(reach.record_connected());
        assert!(!reach.record_connected());
        assert!(reach.may_try(now));
        assert!(reach.record_failure(now));
        assert!(reach.may_try(now + 25 * MS), "back to the shortest step");
    }

    #[test]
    fn failures_of_the_same_moment_count_as_one() {
        let now = Instant::now();
        let mut reach = Reach::default();
        let news: Vec<_> = (0..16).map(|_| reach.record_failure(now)).collect();
        assert_eq!(news.iter().filter(|news| **news).count(), 1);
        assert!(reach.may_try(now + STEP_MIN));
    }

    #[test]
    fn a_trial_that_never_ends_is_followed_by_another() {
        let now = Instant::now();
        let mut reach = Reach::default();
        reach.record_failure(now);
        let begun = now + STEP_MIN;
        reach.begin_try(begun);
        assert!(!reach.may_try(begun + STEP_MAX - MS));
        assert!(reach.may_try(begun + STEP_MAX));
    }

    proptest! {
        #[test]
        fn whoever_waits_is_let_in_within_the_longest_step(events in prop::collection::vec((0_u8..3, 0_u32..400), 0..100)) {
            let mut now = Instant::now();
            let mut reach = Reach::default();
            for (event, wait) in events {
                now += wait * MS;
                match event {
                    0 => drop(reach.record_failure(now)),
                    1 => drop(reach.record_connected()),
                    _ if reach.may_try(now) => reach.begin_try(now),
                    _ => {}
                }
                prop_assert_eq!(reach.is_up(), reach.next_trial().is_none());
                prop_assert!(reach.may_try(now + STEP_MAX));
                prop_assert!(reach.next_trial().is_none_or(|next| reach.may_try(next) && !reach.may_try(next - MS)));
            }
        }
    }
}
