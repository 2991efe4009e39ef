//! What a learner may conclude, from servers that close after a fixed time and from servers that close at random.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Connections that became idle one after another, each found closed at the given age.
fn observe_all(learner: &mut Learner, start: Instant, ages: &[u64]) -> Instant {
    let mut now = start;
    for age in ages {
        let seen = now + ms(*age);
        learner.observe(now, seen, Closing::Witnessed);
        now = seen;
    }
    now
}

fn learner() -> Learner {
    Learner::new(ms(1000))
}

#[test]
fn two_in_a_row_that_agree_make_the_time_known() {
    let mut learner = learner();
    let now = Instant::now();
    observe_all(&mut learner, now, &[5000]);
    assert_eq!((learner.limit(), learner.close_time()), (ms(1000), None));
    observe_all(&mut learner, now + ms(5000), &[5900]);
    assert_eq!((learner.limit(), learner.close_time()), (ms(2500), Some(ms(5000))));
}

#[test]
fn a_restart_does_not_make_a_time_known() {
    let mut learner = learner();
    let now = Instant::now();
    // Four connections that became idle within a second, closed by one event.
    for since in [0, 300, 600, 900] {
        learner.observe(now + ms(since), now + ms(5000), Closing::Found);
    }
    assert_eq!(learner.close_time(), None);
    // A known time is not shaken by one event either.
    let now = observe_all(&mut learner, now + ms(6000), &[8000, 8000, 100, 8000]);
    assert_eq!((learner.close_time(), learner.doubt()), (Some(ms(8000)), None));
    assert!(!learner.wants_watch(now, now));
}

#[test]
fn a_recycling_worker_under_load_does_not_make_a_time_known() {
    let mut learner = learner();
    let now = observe_all(&mut learner, Instant::now(), &[3]);
    assert_eq!(learner.doubt(), Some(ms(3)));
    learner.survived(ms(2));
    assert_eq!(learner.doubt(), Some(ms(3)));
    learner.survived(ms(4));
    assert_eq!(learner.doubt(), None);
    observe_all(&mut learner, now, &[3]);
    assert_eq!(learner.close_time(), None);
}

#[test]
fn a_server_that_closes_at_once_is_not_kept_until_it_changes() {
    let mut learner = learner();
    let now = observe_all(&mut learner, Instant::now(), &[0, 2]);
    assert_eq!((learner.close_time(), learner.limit()), (Some(ms(0)), ms(0)));
    assert!(!learner.wants_watch(now, now));
    let later = now + RECHECK;
    assert!(learner.wants_watch(later, later));
    assert!(learner.horizon() >= ms(6000));
    observe_all(&mut learner, later, &[5000, 5000]);
    assert_eq!(learner.limit(), ms(2500));
}

#[test]
fn a_watch_is_wanted_until_known_and_when_in_doubt() {
    let mut learner = learner();
    let now = Instant::now();
    assert!(learner.wants_watch(now, now));
    let now = observe_all(&mut learner, now, &[5000]);
    assert!(learner.wants_watch(now, now));
    assert!(!learner.wants_watch(now.checked_sub(ms(1)).unwrap(), now), "idle since before the last closing");
    let now = observe_all(&mut learner, now, &[5000]);
    assert!(!learner.wants_watch(now, now));
    let now = observe_all(&mut learner, now, &[700]);
    assert!(learner.wants_watch(now, now));
}

#[test]
fn a_watch_is_bounded() {
    assert_eq!(Learner::new(ms(1000)).horizon(), ms(64_000));
    assert_eq!(Learner::new(Duration::from_secs(30)).horizon(), HORIZON);
    assert_eq!(Learner::new(Duration::MAX).horizon(), HORIZON);
}

/// A pool that watches what has reached its limit, in front of a server that closes after `closes`.
fn use_for_long(learner: &mut Learner, closes: Duration, mut now: Instant) -> Instant {
    for _ in 0..60 {
        let since = now;
        let end = since + learner.limit();
        if closes <= learner.limit() {
            now = end;
            if learner.wants_watch(since, now) {
                learner.observe(since, now, Closing::Found);
            }
        } else if learner.wants_watch(since, end) {
            now = since + closes.min(learner.horizon());
            learner.observe(since, now, Closing::Witnessed);
        } else {
            now = end + ms(1);
        }
    }
    now
}

#[test]
fn an_upper_bound_is_put_to_the_test() {
    let mut learner = learner();
    let now = Instant::now();
    learner.observe(now, now + ms(900), Closing::Found);
    learner.observe(now + ms(900), now + ms(1800), Closing::Found);
    assert_eq!(learner.limit(), ms(450));
    let now = now + ms(1800);
    assert!(learner.wants_watch(now, now));
    let now = observe_all(&mut learner, now, &[500, 500]);
    assert_eq!(learner.limit(), ms(250));
    assert!(!learner.wants_watch(now, now));
}

proptest! {
    #[test]
    fn the_limit_ends_below_the_servers_time(start in 100_u64..60_000, closes in 0_u64..120_000) {
        let mut learner = Learner::new(ms(start));
        use_for_long(&mut learner, ms(closes), Instant::now());
        prop_assert!(learner.limit() <= ms(closes).mul_f64(0.5), "{learner:?}");
        if closes >= 400 {
            prop_assert!(learner.limit() >= SHORTEST, "{learner:?}");
        }
    }

    #[test]
    fn a_server_that_changes_is_followed(first in 500_u64..20_000, second in 500_u64..20_000) {
        let mut learner = learner();
        let now = use_for_long(&mut learner, ms(first), Instant::now());
        use_for_long(&mut learner, ms(second), now + RECHECK);
        prop_assert!(learner.limit() <= ms(second).mul_f64(0.5), "{learner:?}");
    }

    #[test]
    fn ages_that_never_agree_teach_nothing(first in 50_u64..1000, percents in vec(130_u64..300, 1..12), down: bool) {
        let mut age = first;
        let mut ages = vec![first];
        for percent in percents {
            age = age * percent / 100 + 21;
            ages.push(age);
        }
        if down {
            ages.reverse();
        }
        let mut learner = learner();
        observe_all(&mut learner, Instant::now(), &ages);
        prop_assert_eq!(learner.close_time(), None);
        prop_assert_eq!(learner.limit(), ms(1000));
    }

    #[test]
    fn nothing_seen_lengthens_the_limit_past_half_of_it(
        events in vec((0_u64..100_000, 0_u64..50_000, 0_u64..2000, any::<bool>()), 0..40),
    ) {
        let mut learner = learner();
        let mut now = Instant::now();
        let mut longest = 0;
        for (age, gap, survived, found) in events {
            now += ms(gap);
            longest = longest.max(age);
            learner.observe(now, now + ms(age), if found { Closing::Found } else { Closing::Witnessed });
            learner.survived(ms(survived));
            prop_assert!(learner.limit() <= ms((longest / 2).max(1000)));
            prop_assert!(learner.limit().is_zero() || learner.limit() >= SHORTEST);
        }
    }
}
