//! When an endpoint counts as healthy: `rise` and `fall` results in a row. Pure.

/// What is known of an endpoint. It starts unknown, which is usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    state: State,
    /// Results in a row that speak against the state.
    against: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Unknown,
    Healthy,
    Unhealthy,
}

/// A change worth a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    Up,
    Down,
}

impl Health {
    #[must_use]
    pub fn is_healthy(self) -> bool {
        self.state != State::Unhealthy
    }

    #[must_use]
    pub fn is_known(self) -> bool {
        self.state != State::Unknown
    }

    /// Takes in one result. The first pass makes an unknown endpoint healthy at once; a first failure counts like any.
    pub fn record(&mut self, passed: bool, rise: u32, fall: u32) -> Option<Transition> {
        let (supports, needed) = match self.state {
            State::Unknown if passed => {
                *self = Self { state: State::Healthy, against: 0 };
                return None;
            }
            State::Unknown | State::Healthy => (passed, fall),
            State::Unhealthy => (!passed, rise),
        };
        if supports {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < needed {
            return None;
        }
        let (state, transition) =
            if passed { (State::Healthy, Transition::Up) } else { (State::Unhealthy, Transition::Down) };
        *self = Self { state, against: 0 };
        Some(transition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_takes_fall_failures_in_a_row_and_rise_passes() {
        let mut health = Health::default();
        let mut step = |passed| health.record(passed, 2, 3);
        assert_eq!([step(true), step(false), step(false), step(true), step(false), step(false)], [None; 6]);
        assert_eq!(step(false), Some(Transition::Down));
        assert_eq!([step(true), step(false), step(true)], [None; 3]);
        assert_eq!(step(true), Some(Transition::Up));
    }

    #[test]
    fn an_endpoint_nobody_has_seen_up_is_down_after_fall_failures() {
        let mut health = Health::default();
        assert!(health.is_healthy() && !health.is_known());
        assert_eq!(health.record(false, 2, 2), None);
        assert!(health.is_healthy());
        assert_eq!(health.record(false, 2, 2), Some(Transition::Down));
        assert!(!health.is_healthy() && health.is_known());
    }

    proptest! {
        #[test]
        fn transitions_alternate_and_agree_with_the_state(results in prop::collection::vec(any::<bool>(), 0..200), rise in 1_u32..5, fall in 1_u32..5) {
            let mut health = Health::default();
            let mut up = true;
            for passed in results {
                match health.record(passed, rise, fall) {
                    Some(Transition::Up) => { prop_assert!(!up && passed); up = true; }
                    Some(Transition::Down) => { prop_assert!(up && !passed); up = false; }
                    None => {}
                }
                prop_assert_eq!(health.is_healthy(), up);
            }
        }
    }
}
