//! What happened within the last minute: what somebody who looks wants to know, and counters since the start do not say.
//!
//! Every few seconds each handle's sums are noted ([`Minute::note`]); what they are now less what they were a minute ago is the answer.
//! Recording costs a request nothing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::histogram::Reading;
use super::label::StatusClass;

/// How often sums are to be noted.
pub const NOTE_EVERY: Duration = Duration::from_secs(5);
/// How far back they go.
const SPAN: Duration = Duration::from_secs(60);

/// Sums of a handle.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sums {
    /// By class of the status.
    pub(super) answers: [u64; StatusClass::COUNT],
    pub(super) durations: Reading,
}

/// Sums as they were, oldest first: none older than a minute but one.
#[derive(Debug, Default)]
pub(super) struct Minute {
    noted: Mutex<VecDeque<(Instant, Sums)>>,
}

/// What happened lately.
#[derive(Debug, Clone, PartialEq)]
pub struct Lately {
    /// How long that is: a minute, or since the handle is known.
    pub seconds: f64,
    answers: [u64; StatusClass::COUNT],
    durations: Reading,
}

impl Minute {
    pub(super) fn note(&self, now: Instant, sums: Sums) {
        let mut noted = self.noted.lock();
        let is_past = |at: Option<&(Instant, Sums)>| at.is_some_and(|(at, _)| now.duration_since(*at) >= SPAN);
        while is_past(noted.get(1)) {
            noted.pop_front();
        }
        noted.push_back((now, sums));
    }

    /// None before anything was noted.
    pub(super) fn lately(&self, now: Instant, sums: &Sums) -> Option<Lately> {
        let noted = self.noted.lock();
        let past = noted.iter().rev().find(|(at, _)| now.duration_since(*at) >= SPAN);
        let (at, before) = past.or_else(|| noted.front())?;
        let mut answers = sums.answers;
        answers.iter_mut().zip(before.answers).for_each(|(count, before)| *count = count.saturating_sub(before));
        let seconds = now.duration_since(*at).as_secs_f64();
        Some(Lately { seconds, answers, durations: sums.durations.since(&before.durations) })
    }
}

impl Lately {
    /// Requests.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.answers.iter().sum()
    }

    /// Requests a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.per_second(self.count())
    }

    /// Those answered with a status of this class, a second.
    #[must_use]
    pub fn rate_of(&self, class: StatusClass) -> f64 {
        self.per_second(self.answers.get(class as usize).copied().unwrap_or(0))
    }

    /// The duration in seconds that this share of the requests did not exceed, as well as buckets can tell; none without requests. 10 s may
    /// be any longer time.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        self.durations.quantile(share)
    }

    fn per_second(&self, count: u64) -> f64 {
        if self.seconds > 0.0 { super::page::float(count) / self.seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::histogram::Histogram;
    use super::*;

    fn sums(histogram: &Histogram, ok: u64) -> Sums {
        Sums { answers: [0, ok, 0, 0, 0], durations: Reading::of([histogram].into_iter()) }
    }

    #[test]
    #[allow(clippy::float_cmp)]
    fn what_is_older_than_a_minute_does_not_count() {
        let (minute, histogram, start) = (Minute::default(), Histogram::default(), Instant::now());
        assert_eq!(minute.lately(start, &sums(&histogram, 0)), None);
        minute.note(start, sums(&histogram, 0));
        // A hundred slow ones in the first minute, and none after.
        (0..100).for_each(|_| histogram.observe(Duration::from_secs(2)));
        for step in 1..=30 {
            minute.note(start + NOTE_EVERY * step, sums(&histogram, 100));
        }
        assert!(minute.noted.lock().len() <= 14);
        let lately = minute.lately(start + NOTE_EVERY * 30, &sums(&histogram, 100)).unwrap();
        assert_eq!((lately.seconds, lately.rate(), lately.quantile(0.5)), (60.0, 0.0, None));

        (0..60).for_each(|_| histogram.observe(Duration::from_millis(30)));
        let lately = minute.lately(start + NOTE_EVERY * 31, &sums(&histogram, 160)).unwrap();
        assert_eq!((lately.seconds, lately.rate_of(StatusClass::Successful)), (60.0, 1.0));
        assert!((0.025..=0.05).contains(&lately.quantile(0.99).unwrap()));
    }

    #[test]
    #[allow(clippy::float_cmp)]
    fn what_is_new_counts_from_its_beginning() {
        let (minute, histogram, start) = (Minute::default(), Histogram::default(), Instant::now());
        minute.note(start, sums(&histogram, 0));
        (0..20).for_each(|_| histogram.observe(Duration::from_secs(60)));
        let lately = minute.lately(start + Duration::from_secs(10), &sums(&histogram, 20)).unwrap();
        assert_eq!((lately.seconds, lately.rate(), lately.quantile(0.5)), (10.0, 2.0, Some(10.0)));
    }
}
