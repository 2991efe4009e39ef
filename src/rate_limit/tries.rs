//! Failed logins: how many passwords one client may try.

use std::net::IpAddr;
use std::time::Duration;

use super::bucket::Bucket;
use super::key::{self, Key};
use super::local::{Ask, Buckets};
use super::verdict;
use crate::config::model::Rate;

/// Of one client, of IPv6 of a /64.
const RATE: Rate = Rate { count: 10, period: Duration::from_secs(60), burst: 10, cost: 1 };

/// Outlives every configuration.
#[derive(Debug)]
pub struct Tries {
    buckets: Buckets,
    bucket: Bucket,
}

/// A try that is counted.
#[derive(Debug)]
pub struct Try(Key);

impl Default for Tries {
    fn default() -> Self {
        Self { buckets: Buckets::default(), bucket: Bucket::new(&RATE) }
    }
}

impl Tries {
    /// Counts a try, before it is known how it ends: many at once are not more than one by one.
    ///
    /// # Errors
    /// There were too many; seconds until the next is allowed.
    pub fn begin(&self, client: Option<IpAddr>) -> Result<Try, u32> {
        let key = key::of_client(b"login\n", client);
        let decisions = self.buckets.take(&[self.ask(key)], self.buckets.now());
        match decisions.first() {
            Some(decision) if !decision.is_allowed() => Err(verdict::seconds(decision.wait)),
            _ => Ok(Try(key)),
        }
    }

    /// It was none.
    pub fn forgive(&self, tried: &Try) {
        self.buckets.give_back(&self.ask(tried.0), self.buckets.now());
    }

    fn ask(&self, key: Key) -> Ask {
        Ask { rule: 0, key, bucket: self.bucket, must_agree: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_that_fail_and_any_number_that_do_not() {
        let tries = Tries::default();
        let client = |text: &str| Some(text.parse().unwrap());
        for _ in 0..50 {
            tries.forgive(&tries.begin(client("192.0.2.1")).unwrap());
        }
        assert!((0..10).all(|_| tries.begin(client("192.0.2.1")).is_ok()));
        assert!((1..=6).contains(&tries.begin(client("::ffff:192.0.2.1")).unwrap_err()));
        assert!(tries.begin(client("192.0.2.2")).is_ok());
        assert!((0..10).all(|host| tries.begin(client(&format!("2001:db8::{host}"))).is_ok()));
        assert!(tries.begin(client("2001:db8::ffff")).is_err());
        assert!(tries.begin(client("2001:db8:0:1::")).is_ok());
    }
}
