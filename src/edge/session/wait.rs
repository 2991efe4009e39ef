//! What a session waits for while others act: the client sends, takes, stalls or leaves.

use std::future::poll_fn;
use std::task::Poll;

use tokio::time::Instant;

use crate::edge::connection::Connection;
use crate::edge::session::Session;
use crate::edge::session::reply::Backlog;

/// Bytes that a client may send ahead of its turn; more waits in the kernel.
const PIPELINED_MAX: usize = 16 * 1024;
/// What is read of them at once.
pub(super) const AHEAD_READ: usize = 4 * 1024;

/// What happened first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Bytes were added to the connection's buffer.
    Sent,
    /// The client took some of the backlog.
    Took,
    /// The client took nothing for longer than it may.
    Stalled,
    /// The connection is closed or broken.
    Left,
    /// What was spooled cannot be read back.
    Lost,
    /// The deadline came.
    Late,
}

impl Session {
    /// Waits until something happens, until `deadline` at the latest; meanwhile the client gets what it takes of the backlog.
    /// Bytes from the client are read `at_once` at most. Cancel safe.
    pub(super) async fn event(&mut self, deadline: Instant, at_once: usize) -> Event {
        let mut until = deadline;
        let mut waits = self.connection.transport.has_pending();
        if let Some(backlog) = &mut self.backlog {
            match backlog.fill().await {
                Ok(filled) => waits |= filled,
                Err(error) => {
                    tracing::error!(%error, "a response cannot be read back from the spool");
                    return Event::Lost;
                }
            }
        }
        if waits {
            until = until.min(self.patience.deadline());
        }
        let Connection { transport, buf, alarm } = &mut *self.connection;
        let backlog = &mut self.backlog;
        // While a body is received the buffer was emptied before.
        let watched = !self.discarding && buf.len() < PIPELINED_MAX;
        let first = poll_fn(|cx| {
            if let Some(piece) = backlog.as_deref().map(Backlog::piece).filter(|piece| !piece.is_empty()) {
                match transport.poll_write_both(cx, piece, &[]) {
                    Poll::Ready(Ok(written @ 1..)) => return Poll::Ready((Event::Took, written)),
                    Poll::Ready(_) => return Poll::Ready((Event::Left, 0)),
                    Poll::Pending => {}
                }
            } else if transport.has_pending() {
                match transport.poll_send(cx) {
                    Poll::Ready(Ok(())) => return Poll::Ready((Event::Took, 0)),
                    Poll::Ready(Err(_)) => return Poll::Ready((Event::Left, 0)),
                    Poll::Pending => {}
                }
            }
            if watched {
                match transport.poll_arrived(cx, buf, at_once) {
                    Poll::Ready(Ok(1..)) => return Poll::Ready((Event::Sent, 0)),
                    Poll::Ready(_) => return Poll::Ready((Event::Left, 0)),
                    Poll::Pending => {}
                }
            }
            Poll::Pending
        });
        match alarm.before(until, first).await {
            Some((event, written)) => {
                if let Some(backlog) = backlog
                    && written > 0
                {
                    backlog.took(written);
                    self.patience.progress(written);
                }
                event
            }
            None if until < deadline => Event::Stalled,
            None => Event::Late,
        }
    }
}
