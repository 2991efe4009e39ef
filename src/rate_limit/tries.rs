//! Failed logins: how many passwords one client may try.

use std::net::IpAddr;
use std::sync::Arc;
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

/// A try that is under way. One that is dropped was none: nothing was learnt by it.
#[derive(Debug)]
pub struct Try {
    tries: Arc<Tries>,
    key: Key,
    failed: bool,
}

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
    pub fn begin(self: &Arc<Self>, client: Option<IpAddr>) -> Result<Try, u32> {
        let key = key::of_client(b"login\n", client);
        let decisions = self.buckets.take(&[self.ask(key)], self.buckets.now());
        match decisions.first() {
            Some(decision) if !decision.is_allowed() => Err(verdict::seconds(decision.wait)),
            _ => Ok(Try { tries: self.clone(), key, failed: false }),
        }
    }

    fn ask(&self, key: Key) -> Ask {
        Ask { rule: 0, key, bucket: self.bucket, must_agree: true }
    }
}

impl Try {
    /// The password was wrong.
    pub fn fail(mut self) {
        self.failed = true;
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        if !self.failed {
            self.tries.buckets.give_back(&self.tries.ask(self.key), self.tries.buckets.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_that_fail_and_any_number_that_do_not() {
        let tries = Arc::new(Tries::default());
        let fails = |client| tries.begin(client).map(Try::fail);
        let client = |text: &str| Some(text.parse().unwrap());
        assert!((0..50).all(|_| tries.begin(client("192.0.2.1")).is_ok()));
        let under_way: Vec<_> = (0..10).map(|_| tries.begin(client("192.0.2.1")).unwrap()).collect();
        assert!(tries.begin(client("192.0.2.1")).is_err(), "as many at once as may fail");
        drop(under_way);
        assert!((0..10).all(|_| fails(client("192.0.2.1")).is_ok()));
        assert!((1..=6).contains(&tries.begin(client("::ffff:192.0.2.1")).unwrap_err()));
        assert!(tries.begin(client("192.0.2.2")).is_ok());
        assert!((0..10).all(|host| fails(client(&format!("2001:db8::{host}"))).is_ok()));
        assert!(tries.begin(client("2001:db8::ffff")).is_err());
        assert!(tries.begin(client("2001:db8:0:1::")).is_ok());
    }
}
