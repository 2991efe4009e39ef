//! Whether a connection could send what it was given of a request, for the one who gives.
//!
//! Pingora waits for a write to end before it reads what the app says meanwhile (pingora-proxy 0.9.1 `proxy_h1.rs`,
//! `proxy_handle_upstream`): an app that answers while it is sent a large body would be stuck, and so would the session, which
//! watches the client and the time. So no write to the app waits. What the socket does not take the stream keeps, and says so
//! here; nothing more is given until it has caught up.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// One exchange's; shared by the stream and the session.
#[derive(Debug, Default)]
pub struct Flow {
    behind: AtomicBool,
    /// Bytes that were sent while it was behind.
    moved: AtomicU64,
    given_up: AtomicBool,
    session: AtomicWaker,
    stream: AtomicWaker,
}

impl Flow {
    /// Whether something is kept that the socket did not take yet.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.behind.load(SeqCst)
    }

    /// Bytes that were sent while it was behind: it grows as long as the app takes anything.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.moved.load(Relaxed)
    }

    /// Ready when it is not behind.
    pub fn poll_caught_up(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.session.register(cx.waker());
        if self.is_behind() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// The app has had its time, and nothing more will be given. It is told so, or it would wait for the rest for ever.
    pub fn give_up(&self) {
        self.given_up.store(true, SeqCst);
        self.stream.wake();
    }

    pub(super) fn fall_behind(&self) {
        self.behind.store(true, SeqCst);
    }

    pub(super) fn record_moved(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn catch_up(&self) {
        if self.behind.swap(false, SeqCst) {
            self.session.wake();
        }
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(SeqCst)
    }

    /// Whether it was given up; otherwise the stream is woken when it is.
    pub(super) fn poll_given_up(&self, cx: &mut Context<'_>) -> bool {
        self.stream.register(cx.waker());
        self.is_given_up()
    }
}
