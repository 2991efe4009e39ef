//! When an endpoint is left out because requests fail on it, and for how long. Pure.
//!
//! Failures are what the app's side did to a connection: none made, reset, no head in time. What the app answered, and what
//! the client did, are none.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::model;

/// How many times the configured time an ejection lasts at most.
const LONGEST: u32 = 10;
/// Doublings that pass [`LONGEST`].
const GRADE_MAX: u32 = 4;

/// What requests said of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ejection {
    /// Failures since the last success.
    failures: u32,
    /// Ejections that are not forgiven yet.
    grade: u32,
    out_until: Option<Instant>,
    /// Since when it has been back, or a grade was last forgiven.
    calm_since: Option<Instant>,
}

impl Ejection {
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.out_until.is_some()
    }

    /// When it comes back; none while it is in.
    #[must_use]
    pub fn out_until(&self) -> Option<Instant> {
        self.out_until
    }

    /// Whether a success would change anything.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.failures > 0 || self.grade > 0
    }

    /// Takes in a failure; whether it is one too many. Failures of requests that were on their way when it went out do not
    /// count.
    pub fn record_failure(&mut self, rules: &model::Ejection) -> bool {
        if self.is_out() {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        rules.consecutive_failures > 0 && self.failures >= rules.consecutive_failures
    }

    /// Takes in a success. For each `rules.time` in service one ejection is forgiven.
    pub fn record_success(&mut self, now: Instant, rules: &model::Ejection) {
        if self.is_out() {
            return;
        }
        self.failures = 0;
        while self.grade > 0 {
            let Some(forgiven) = self.calm_since.and_then(|since| since.checked_add(rules.time)) else { return };
            if forgiven > now {
                return;
            }
            self.grade -= 1;
            self.calm_since = Some(forgiven);
        }
    }

    /// Leaves it out, and says for how long: twice as long as the time before, [`LONGEST`] times the first at most.
    pub fn begin(&mut self, now: Instant, rules: &model::Ejection) -> Duration {
        let time = rules.time.saturating_mul((1 << self.grade).min(LONGEST));
        self.grade = (self.grade + 1).min(GRADE_MAX);
        self.failures = 0;
        self.calm_since = None;
        // A time no clock can hold is as good as now: it is not worth a panic.
        self.out_until = Some(now.checked_add(time).unwrap_or(now));
        time
    }

    /// Lets it in again if its time is over; whether that happened just now.
    pub fn end(&mut self, now: Instant) -> bool {
        if self.out_until.is_none_or(|until| until > now) {
            return false;
        }
        self.out_until = None;
        self.calm_since = Some(now);
        true
    }
}

/// Whether one more of `endpoints` may go out while `out` are. The last one never may.
#[must_use]
pub fn has_room(rules: &model::Ejection, endpoints: usize, out: usize) -> bool {
    let after = out + 1;
    after < endpoints && after * 100 <= usize::from(rules.max_ejected) * endpoints
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIME: Duration = Duration::from_secs(10);
    const RULES: model::Ejection = model::Ejection { consecutive_failures: 3, time: TIME, max_ejected: 50 };

    #[test]
    fn failures_in_a_row_are_one_too_many() {
        let now = Instant::now();
        let mut ejection = Ejection::default();
        assert!(!ejection.record_failure(&RULES) && !ejection.record_failure(&RULES));
        ejection.record_success(now, &RULES);
        assert!(!ejection.is_marked());
        assert!(!ejection.record_failure(&RULES) && !ejection.record_failure(&RULES));
        assert!(ejection.record_failure(&RULES));
        assert!(ejection.record_failure(&RULES), "as long as it could not be ejected");
        let off = model::Ejection { consecutive_failures: 0, ..RULES };
        assert!((0..100).all(|_| !Ejection::default().record_failure(&off)) && !ejection.record_failure(&off));
    }

    #[test]
    fn each_time_it_is_out_for_longer() {
        let mut now = Instant::now();
        let mut ejection = Ejection::default();
        for times in [1, 2, 4, 8, 10, 10, 10] {
            assert_eq!(ejection.begin(now, &RULES), TIME * times);
            assert!(!ejection.record_failure(&RULES), "stragglers");
            assert!(!ejection.end(now + TIME * times - Duration::from_millis(1)));
            now += TIME * times;
            assert!(ejection.end(now));
            assert!(!ejection.end(now) && !ejection.is_out());
        }
    }

    #[test]
    fn it_is_forgiven_step_by_step() {
        let mut now = Instant::now();
        let mut ejection = Ejection::default();
        for times in [1, 2, 4] {
            ejection.begin(now, &RULES);
            now += TIME * times;
            assert!(ejection.end(now));
        }
        ejection.record_success(now + TIME - Duration::from_millis(1), &RULES);
        let mut unforgiven = ejection;
        assert_eq!(unforgiven.begin(now, &RULES), TIME * 8);
        ejection.record_success(now + TIME * 5 / 2, &RULES);
        let mut forgiven = ejection;
        assert_eq!(forgiven.begin(now, &RULES), TIME * 2, "two of three are forgiven");
        ejection.record_success(now + TIME * 3, &RULES);
        assert!(!ejection.is_marked());
    }

    #[test]
    fn a_share_may_be_out_and_never_the_last() {
        let room =
            |percent, endpoints, out| has_room(&model::Ejection { max_ejected: percent, ..RULES }, endpoints, out);
        for (percent, endpoints, allowed) in [
            (50, 1, 0),
            (50, 2, 1),
            (50, 3, 1),
            (50, 4, 2),
            (33, 3, 0),
            (34, 3, 1),
            (100, 1, 0),
            (100, 4, 3),
            (0, 9, 0),
            (10, 9, 0),
            (10, 10, 1),
        ] {
            let out = (0..endpoints).take_while(|out| room(percent, endpoints, *out)).count();
            assert_eq!(out, allowed, "{percent} % of {endpoints}");
        }
        assert!(!room(100, 0, 0));
    }

    proptest! {
        #[test]
        fn nothing_is_out_for_ever(events in prop::collection::vec((0_u8..3, 0_u32..40), 0..200), failures in 0_u32..4) {
            let rules = model::Ejection { consecutive_failures: failures, ..RULES };
            let mut now = Instant::now();
            let mut ejection = Ejection::default();
            for (event, wait) in events {
                now += wait * Duration::from_secs(1);
                ejection.end(now);
                match event {
                    0 => ejection.record_success(now, &rules),
                    _ => if ejection.record_failure(&rules) { ejection.begin(now, &rules); }
                }
                prop_assert!(failures > 0 || !ejection.is_out());
                prop_assert!(ejection.out_until().is_none_or(|until| until > now && until <= now + TIME * LONGEST));
                let mut calm = ejection;
                calm.end(now + TIME * LONGEST);
                calm.record_success(now + TIME * (LONGEST + GRADE_MAX), &rules);
                prop_assert!(!calm.is_marked() && !calm.is_out());
            }
        }
    }
}
