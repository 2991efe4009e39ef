//! How far a connection to the app is read ahead of the session that passes it on.
//!
//! Pingora reads up to 64 KiB at once, and up to six times before anybody has taken any of it (pingora-proxy 0.9.1
//! `proxy_h1.rs`: a channel of four, one that waits to be sent to it, one read): with hundreds of clients that read slowly
//! that is more than all they may have in the spool. So the stream reads no further than the session says, as long as that
//! one has its hands full.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// A read is not for less, in bytes.
const READ_LEAST: usize = 1024;

/// One exchange's; shared by the stream and the session.
#[derive(Debug, Default)]
pub struct ReadAhead {
    limit: AtomicUsize,
    /// Bytes that were read since the session last took what there was; one read that waited to be sent to it may be forgotten.
    read: AtomicUsize,
    /// The session passes on what it took.
    busy: AtomicBool,
    /// The session was given its turn.
    yielded: AtomicBool,
    stream: AtomicWaker,
}

impl ReadAhead {
    /// Allows so many bytes, at least one.
    pub fn allow(&self, limit: usize) {
        self.limit.store(limit.max(1), Relaxed);
    }

    /// The session takes what was read.
    pub fn taking(&self) {
        self.read.store(0, Relaxed);
        self.yielded.store(false, Relaxed);
        self.busy.store(true, SeqCst);
    }

    /// It has passed that on.
    pub fn passed_on(&self) {
        self.busy.store(false, SeqCst);
        self.stream.wake();
    }

    /// How much may be read, at most `wanted` bytes. Where it is nothing, the session has its turn: if that one is not busy and does
    /// not take anything either, what was read was not yet enough to be given to it, and reading goes on.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>, wanted: usize) -> Poll<usize> {
        let limit = self.limit.load(Relaxed);
        let room = limit.saturating_sub(self.read.load(Relaxed));
        if room > 0 {
            return Poll::Ready(wanted.min(room.max(READ_LEAST)));
        }
        self.stream.register(cx.waker());
        if self.busy.load(SeqCst) {
            return Poll::Pending;
        }
        if self.yielded.swap(true, Relaxed) {
            self.yielded.store(false, Relaxed);
            return Poll::Ready(wanted.min(limit));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    pub(super) fn record_read(&self, bytes: usize) {
        self.read.fetch_add(bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn no_further_than_allowed_while_the_session_is_busy() {
        let (ahead, woken) = (ReadAhead::default(), Arc::new(Woken::default()));
        let waker = Waker::from(woken.clone());
        let cx = &mut Context::from_waker(&waker);
        ahead.allow(10_000);
        assert_eq!(ahead.poll_room(cx, 6000), Poll::Ready(6000));
        ahead.record_read(6000);
        assert_eq!(ahead.poll_room(cx, 6000), Poll::Ready(4000));
        ahead.record_read(3999);
        assert_eq!(ahead.poll_room(cx, 6000), Poll::Ready(1024));
        ahead.taking();
        assert_eq!(ahead.poll_room(cx, 6000), Poll::Ready(6000));
        ahead.record_read(12_000);
        assert_eq!((ahead.poll_room(cx, 6000), ahead.poll_room(cx, 6000)), (Poll::Pending, Poll::Pending));
        assert_eq!(woken.0.load(Relaxed), 0);
        ahead.passed_on();
        assert_eq!(woken.0.load(Relaxed), 1);
    }

    #[test]
    fn a_session_that_takes_nothing_is_not_waited_for() {
        let (ahead, woken) = (ReadAhead::default(), Arc::new(Woken::default()));
        let waker = Waker::from(woken.clone());
        let cx = &mut Context::from_waker(&waker);
        ahead.allow(2000);
        ahead.record_read(2000);
        assert_eq!((ahead.poll_room(cx, 6000), woken.0.load(Relaxed)), (Poll::Pending, 1));
        assert_eq!(ahead.poll_room(cx, 6000), Poll::Ready(2000));
        ahead.record_read(2000);
        assert_eq!((ahead.poll_room(cx, 6000), woken.0.load(Relaxed)), (Poll::Pending, 2));
        ahead.taking();
        ahead.passed_on();
        assert_eq!(ahead.poll_room(cx, 6000), Poll::Ready(2000));
    }
}
