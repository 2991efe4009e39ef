//! A histogram of durations over fixed buckets: two additions an observation, no lock.
//!
//! The registry crate's own histogram takes five atomic operations, two of them on words all threads share. This one keeps
//! the count of each bucket and adds them up when it is read; the total count is their sum, so a scrape in the middle of an
//! observation is never inconsistent in itself.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds in seconds as they stand in `le`; those that OpenTelemetry's conventions for HTTP propose.
pub(super) const BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// The same in milliseconds, to compare without floating point; a test holds the two together.
const BOUNDS_MS: [u64; 14] = [5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10_000];

#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// By bucket, not cumulative; the last is everything beyond the last bound.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// In microseconds: in nanoseconds ten thousand slow requests at once would fill 64 bits within weeks.
    sum_micros: AtomicU64,
}

impl Histogram {
    pub(super) fn observe(&self, duration: Duration) {
        let bucket = BOUNDS_MS.partition_point(|bound| Duration::from_millis(*bound) < duration);
        super::shards::increment(&self.buckets, bucket);
        self.sum_micros.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }
}

/// What one or several histograms held when they were read.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Reading {
    buckets: [u64; BOUNDS.len() + 1],
    sum_micros: u64,
    is_tenth: bool,
}

impl Reading {
    /// The sum of several histograms.
    pub(super) fn of<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Self {
        let mut reading = Self::default();
        for histogram in histograms {
            for (sum, bucket) in reading.buckets.iter_mut().zip(&histogram.buckets) {
                *sum = sum.wrapping_add(bucket.load(Relaxed));
            }
            reading.sum_micros = reading.sum_micros.wrapping_add(histogram.sum_micros.load(Relaxed));
        }
        reading
    }

    /// The same of durations that were observed ten times as long as they are: for what takes microseconds, buckets of a tenth.
    pub(super) fn tenth(self) -> Self {
        Self { is_tenth: true, ..self }
    }

    fn scale(&self) -> f64 {
        if self.is_tenth { 10.0 } else { 1.0 }
    }

    /// Each bound with the number of observations up to it, without the one at infinity.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let scale = self.scale();
        BOUNDS.into_iter().map(move |bound| bound / scale).zip(self.buckets.iter().scan(0_u64, |sum, count| {
            *sum = sum.wrapping_add(*count);
            Some(*sum)
        }))
    }

    /// What came since `before`, which was read of the same.
    pub(super) fn since(&self, before: &Self) -> Self {
        let mut buckets = self.buckets;
        buckets.iter_mut().zip(before.buckets).for_each(|(count, before)| *count = count.saturating_sub(before));
        Self { buckets, sum_micros: self.sum_micros.saturating_sub(before.sum_micros), is_tenth: self.is_tenth }
    }

    /// The value in seconds that `share` of the observations did not exceed, as if those of a bucket lay evenly in it; the last bound
    /// where they are beyond. None without observations.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = share * super::page::float(count);
        let (mut low, mut below) = (0.0, 0);
        for (bound, cumulative) in self.cumulative() {
            if super::page::float(cumulative) >= rank {
                let inside = super::page::float(cumulative - below).max(1.0);
                return Some(low + (bound - low) * (rank - super::page::float(below)) / inside);
            }
            (low, below) = (bound, cumulative);
        }
        Some(low)
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, count| sum.wrapping_add(*count))
    }

    pub(super) fn sum_seconds(&self) -> f64 {
        super::page::float(self.sum_micros) / (1e6 * self.scale())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bounds_are_the_same_twice() {
        for (seconds, millis) in BOUNDS.iter().zip(BOUNDS_MS) {
            assert_eq!(Duration::from_secs_f64(*seconds), Duration::from_millis(millis));
        }
    }

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(5));
        histogram.observe(Duration::from_nanos(5_000_001));
        histogram.observe(Duration::MAX);
        let reading = Reading::of([&histogram].into_iter());
        assert_eq!(reading.cumulative().next(), Some((0.005, 1)));
        assert_eq!(reading.cumulative().nth(1), Some((0.01, 2)));
        assert_eq!(reading.cumulative().last(), Some((10.0, 2)));
        assert_eq!(reading.count(), 3);
    }

    #[test]
    fn quantiles_lie_where_the_observations_do() {
        let histogram = Histogram::default();
        let of = |share| Reading::of([&histogram].into_iter()).quantile(share);
        assert_eq!(of(0.5), None);
        (1..=100).for_each(|millis| histogram.observe(Duration::from_millis(millis)));
        for (share, expected) in [(0.5, 0.05), (0.9, 0.09), (0.05, 0.005), (1.0, 0.1)] {
            let found = of(share).unwrap();
            assert!((found - expected).abs() < 0.003, "{share}: {found}");
        }
        (0..1000).for_each(|_| histogram.observe(Duration::from_secs(99)));
        assert_eq!(of(0.5), Some(10.0));
    }

    proptest! {
        #[test]
        fn every_observation_is_in_the_buckets_at_and_above_it(micros in proptest::collection::vec(0_u64..20_000_000, 0..50)) {
            let (left, right) = (Histogram::default(), Histogram::default());
            for (index, one) in micros.iter().enumerate() {
                if index % 2 == 0 { &left } else { &right }.observe(Duration::from_micros(*one));
            }
            let reading = Reading::of([&left, &right].into_iter());
            for (bound, count) in reading.cumulative() {
                let bound = Duration::from_secs_f64(bound);
                let expected = micros.iter().filter(|one| Duration::from_micros(**one) <= bound).count();
                prop_assert_eq!(count, expected as u64);
            }
            prop_assert_eq!(reading.count(), micros.len() as u64);
            prop_assert_eq!(reading.sum_micros, micros.iter().sum::<u64>());
        }
    }
}
