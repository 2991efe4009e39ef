//! How many requests may be sent a second time: a share of all of them, so that a failing app is not buried in retries.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Retries that may be saved up, in hundredths.
const RESERVE: u32 = 1000;

/// A budget of retries. Each request adds its share, each retry takes a whole one; ten can be saved up, which is also what
/// it starts with, unless the share is nothing. Attempts on another endpoint after a failed connect cost the app nothing and are not counted.
#[derive(Debug)]
pub struct RetryBudget {
    hundredths: AtomicU32,
}

impl RetryBudget {
    /// The budget of requests that allow `percent` of a retry each.
    #[must_use]
    pub fn new(percent: u8) -> Self {
        Self { hundredths: AtomicU32::new(if percent == 0 { 0 } else { RESERVE }) }
    }

    /// A request came that allows `percent` of a retry.
    pub fn deposit(&self, percent: u8) {
        // A full budget, the usual case, costs one load.
        if self.hundredths.load(Relaxed) < RESERVE {
            let _ = self.hundredths.fetch_update(Relaxed, Relaxed, |n| Some((n + u32::from(percent)).min(RESERVE)));
        }
    }

    /// Takes one retry, if there is one.
    pub fn withdraw(&self) -> bool {
        self.hundredths.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(100)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_requests_may_be_retried() {
        let budget = RetryBudget::new(20);
        assert_eq!((0..100).filter(|_| budget.withdraw()).count(), 10);
        (0..50).for_each(|_| budget.deposit(20));
        assert_eq!((0..100).filter(|_| budget.withdraw()).count(), 10);
        (0..50).for_each(|_| budget.deposit(0));
        assert!(!budget.withdraw());
        (0..10_000).for_each(|_| budget.deposit(100));
        assert_eq!((0..100).filter(|_| budget.withdraw()).count(), 10);
        assert!(!RetryBudget::new(0).withdraw());
    }
}
