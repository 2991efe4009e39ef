//! One timer for each connection, for every wait on it.
//!
//! A request waits several times and hardly ever to the end; making a timer for each wait costs more than the waits. So the
//! timer stays where it was set until it rings, and only then looks what it is set for now.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Far enough for a wait that nothing ends.
pub const NEVER: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// A timer that is made when a wait first has to wait.
#[derive(Debug, Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Awaits `future`, until `deadline` at the latest: none then. Cancel safe as `future` is.
    pub async fn before<F: Future>(&mut self, deadline: Instant, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            if timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            while timer.as_mut().poll(cx).is_ready() {
                if Instant::now() >= deadline {
                    return Poll::Ready(None);
                }
                timer.as_mut().reset(deadline);
            }
            Poll::Pending
        })
        .await
    }
}

/// The deadline of a wait of `patience` that begins now.
pub fn deadline_in(patience: Duration) -> Instant {
    Instant::now() + patience.min(NEVER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_own_end() {
        let mut alarm = Alarm::default();
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        assert_eq!(alarm.before(after(60), async { 1 }).await, Some(1));
        assert_eq!(alarm.before(after(60), tokio::time::sleep_until(after(1))).await, Some(()));
        // Shorter than what it is set for, then longer, then past.
        assert_eq!(alarm.before(after(5), pending::<()>()).await, None);
        assert_eq!(start.elapsed().as_secs(), 5);
        assert_eq!(alarm.before(after(90), pending::<()>()).await, None);
        assert_eq!(start.elapsed().as_secs(), 90);
        assert_eq!(alarm.before(after(80), pending::<()>()).await, None);
        assert_eq!(alarm.before(deadline_in(Duration::MAX), async { 2 }).await, Some(2));
        assert_eq!(alarm.before(deadline_in(Duration::ZERO), pending::<()>()).await, None);
    }
}
