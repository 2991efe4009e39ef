//! What waits beside a pool: one task that closes idle connections when their time is over, and lives only while
//! there are any, and at most one that watches a connection to see when the server closes it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Idle, Policy, Pool, Watch};
use crate::upstream::keepalive::Closing;
use crate::upstream::socket::{Sight, Socket};

const RARELY: Duration = Duration::from_hours(1);

/// Closes what is idle for too long, until nothing is idle or the pool is gone.
pub(super) async fn sweep(pool: Weak<Pool>, changed: Arc<Notify>) {
    loop {
        // No reference is kept while waiting: a pool that nobody needs ends at once.
        let Some(next) = pool.upgrade().and_then(|pool| pool.sweep_at(Instant::now())) else { return };
        tokio::select! {
            () = sleep_until(next) => {}
            () = changed.notified() => {}
        }
    }
}

/// Waits until the server closes `socket` or it was watched for long enough, and tells the pool; or until it is told to stop,
/// which says nothing.
async fn watch(pool: Weak<Pool>, mut socket: Socket, since: Instant, until: Instant, mut stop: oneshot::Receiver<()>) {
    let stopped = tokio::select! {
        biased;
        _ = &mut stop => true,
        // At the end of the time the server still keeps it, which says as much.
        _ = timeout_at(until, socket.news()) => false,
    };
    drop(socket);
    if stopped || stop.try_recv() == Err(TryRecvError::Closed) {
        return;
    }
    if let Some(pool) = pool.upgrade() {
        pool.inner.lock().watched = None;
        pool.record(since, Instant::now(), Closing::Witnessed);
    }
}

impl Pool {
    /// Takes out what is over its time at `now`. When the next one will be; none when nothing is idle: the sweeper
    /// ends then.
    fn sweep_at(self: &Arc<Self>, now: Instant) -> Option<Instant> {
        loop {
            let expired = {
                let mut inner = self.inner.lock();
                let limit = inner.limit();
                let Some(first) = inner.idle.front() else {
                    inner.sweeping = false;
                    return None;
                };
                // A limit past the end of the clock is no limit; the sweeper then looks in now and then.
                let end = first.since.checked_add(limit).unwrap_or(now + RARELY);
                if now < end {
                    return Some(end);
                }
                inner.idle.pop_front()
            };
            if let Some(idle) = expired {
                self.expire(idle, now);
            }
        }
    }

    /// Ends the use of a connection: it is watched, if something is to be learnt from it, or closed.
    pub(super) fn expire(self: &Arc<Self>, idle: Idle, now: Instant) {
        let Idle { mut socket, since, .. } = idle;
        let until = {
            let inner = self.inner.lock();
            match &inner.policy {
                Policy::Learned(learner) if inner.watched.is_none() && learner.wants_watch(since, now) => {
                    since + learner.horizon()
                }
                _ => return,
            }
        };
        match socket.peek() {
            Sight::Quiet => {}
            // The server was first, at an age that is not known better.
            Sight::Closed => return self.record(since, now, Closing::Found),
            Sight::Talking => return,
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let Ok(leash) = socket.leash() else { return };
        let (stop, stopped) = oneshot::channel();
        let mut inner = self.inner.lock();
        if inner.watched.is_some() || inner.held() >= inner.most_idle() {
            drop(inner);
            return;
        }
        inner.watched = Some(Watch { _leash: leash, _stop: stop });
        drop(inner);
        runtime.spawn(watch(Arc::downgrade(self), socket, since, until, stopped));
    }
}
