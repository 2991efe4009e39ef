//! Counters that threads do not fight over.
//!
//! One handle is used by every worker thread at once. If they all added to the same word, its cache line would travel
//! between cores with each request. So a handle holds its counters several times over, a thread always uses the same
//! copy, and a scrape adds the copies up.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Copies beyond this many cost memory and bring nothing.
const MOST: usize = 16;

/// Copies of `T`, one for each core, at most 16.
#[derive(Debug)]
pub(super) struct Shards<T> {
    first: Aligned<T>,
    rest: Box<[Aligned<T>]>,
}

/// On cache lines of its own: processors fetch them in pairs of 64 bytes.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Aligned<T>(T);

impl<T: Default> Default for Shards<T> {
    fn default() -> Self {
        Self { first: Aligned::default(), rest: (1..count()).map(|_| Aligned::default()).collect() }
    }
}

impl<T> Shards<T> {
    /// The copy this thread adds to.
    pub(super) fn here(&self) -> &T {
        let slot = slot() % (self.rest.len() + 1);
        &self.rest.get(slot).unwrap_or(&self.first).0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.first).chain(&self.rest).map(|shard| &shard.0)
    }

    /// The counter that `pick` points at, added up over all copies.
    pub(super) fn count(&self, pick: impl Fn(&T) -> Option<&AtomicU64>) -> u64 {
        self.iter().filter_map(pick).fold(0, |sum, counter| sum.wrapping_add(counter.load(Relaxed)))
    }

    /// The gauge that `pick` points at. One copy alone may be negative, when a thread ends what another one began.
    pub(super) fn gauge(&self, pick: impl Fn(&T) -> &AtomicI64) -> i64 {
        self.iter().map(pick).fold(0_i64, |sum, gauge| sum.wrapping_add(gauge.load(Relaxed))).max(0)
    }
}

/// Adds one to the counter at `index`; an index out of range is a mistake that is caught in debug builds and costs nothing else.
pub(super) fn increment(counters: &[AtomicU64], index: usize) {
    debug_assert!(index < counters.len(), "no counter {index}");
    if let Some(counter) = counters.get(index) {
        counter.fetch_add(1, Relaxed);
    }
}

fn count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| std::thread::available_parallelism().map_or(4, usize::from).clamp(1, MOST))
}

/// A number of this thread's own, given out one after the other, so that worker threads get different copies.
fn slot() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SLOT: Cell<Option<usize>> = const { Cell::new(None) };
    }
    SLOT.with(|slot| {
        slot.get().unwrap_or_else(|| {
            let given = NEXT.fetch_add(1, Relaxed);
            slot.set(Some(given));
            given
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_between_threads() {
        let shards: Shards<(AtomicU64, AtomicI64)> = Shards::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        shards.here().0.fetch_add(1, Relaxed);
                        shards.here().1.fetch_add(1, Relaxed);
                    }
                });
            }
        });
        shards.here().1.fetch_sub(3000, Relaxed);
        assert_eq!(shards.count(|shard| Some(&shard.0)), 8000);
        assert_eq!(shards.gauge(|shard| &shard.1), 5000);
    }

    #[test]
    fn a_gauge_never_shows_less_than_nothing() {
        let shards: Shards<AtomicI64> = Shards::default();
        shards.here().fetch_sub(1, Relaxed);
        assert_eq!(shards.gauge(|shard| shard), 0);
    }
}
