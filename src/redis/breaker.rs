//! When a Redis is not asked any more.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::config::model::RedisKind;
use crate::observe::metrics::RedisError as Kind;

/// Failures one after another after which one Redis is taken for gone.
const FAILURES: u32 = 5;
/// The same of a cluster, of which one node that is gone says little about the others.
const FAILURES_CLUSTER: u32 = 50;

/// Counts failures without a success between them. Requests are decided in many threads at once; a count that is one off does no
/// harm.
#[derive(Debug)]
pub struct Breaker {
    failures: AtomicU32,
    most: u32,
    /// Whether a connection that is lost is all there is.
    single: bool,
}

impl Breaker {
    pub fn new(kind: &RedisKind) -> Self {
        let single = !matches!(kind, RedisKind::Cluster(_));
        Self { failures: AtomicU32::new(0), most: if single { FAILURES } else { FAILURES_CLUSTER }, single }
    }

    /// An answer came.
    pub fn succeeded(&self) {
        // Mostly it is zero already, and a word that is only read travels between no cores.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// None did. Whether to stop asking.
    pub fn failed(&self, kind: Kind) -> bool {
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        failures >= self.most || (self.single && matches!(kind, Kind::Connection | Kind::Nonsense))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_failures_in_a_row_open_it() {
        let breaker = Breaker::new(&RedisKind::default());
        for _ in 0..3 {
            assert!((1..FAILURES).all(|_| !breaker.failed(Kind::Timeout)));
            breaker.succeeded();
        }
        assert!((1..FAILURES).all(|_| !breaker.failed(Kind::Server)));
        assert!(breaker.failed(Kind::Timeout));
    }

    #[test]
    fn a_lost_connection_opens_it_at_once_but_for_a_cluster() {
        assert!(Breaker::new(&RedisKind::default()).failed(Kind::Connection));
        let cluster = Breaker::new(&RedisKind::Cluster(Vec::new()));
        assert!((1..FAILURES_CLUSTER).all(|_| !cluster.failed(Kind::Connection)));
        assert!(cluster.failed(Kind::Connection));
    }
}
