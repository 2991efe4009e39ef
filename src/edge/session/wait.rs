//! What a session waits for while others act: the client sends, takes, stalls or leaves.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::edge::session::Session;
use crate::edge::session::reply::Backlog;
use crate::edge::session::wire::Wire;

/// What is read at once of what a client sends ahead of its turn.
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
    /// Bytes from the client are read `at_once` at most, and in HTTP/2 only where the body is wanted. Cancel safe.
    pub(super) async fn event(&mut self, deadline: Instant, at_once: usize, wants_body: bool) -> Event {
        // Who cannot be written to is not waited for.
        let mut waits = !self.discarding && self.wire.has_pending();
        if let Some(backlog) = &mut self.backlog {
            match backlog.fill().await {
                Ok(filled) => waits |= filled,
                Err(error) => {
                    tracing::error!(%error, "a response cannot be read back from the spool");
                    return Event::Lost;
                }
            }
        }
        let until = if waits { deadline.min(self.patience.deadline()) } else { deadline };
        let Self { wire, alarm, backlog, patience, ended, discarding, .. } = self;
        let first = poll_fn(|cx| {
            if *discarding {
                return Poll::Pending;
            }
            if let Some(sent) = ready_to_send(cx, wire, backlog.as_deref_mut(), *ended) {
                return Poll::Ready(match sent {
                    Ok(sent) => {
                        patience.progress(sent);
                        Event::Took
                    }
                    Err(_) => Event::Left,
                });
            }
            match wire.poll_heard(cx, at_once, wants_body) {
                Poll::Ready(Ok(1..)) => Poll::Ready(Event::Sent),
                Poll::Ready(_) => Poll::Ready(Event::Left),
                Poll::Pending => Poll::Pending,
            }
        });
        match alarm.before(until, first).await {
            Some(event) => event,
            None if until < deadline => Event::Stalled,
            None => Event::Late,
        }
    }
}

/// Sends what is pending or kept back, as far as the client takes it; none where there is nothing, or it takes nothing now.
fn ready_to_send(
    cx: &mut Context<'_>,
    wire: &mut Wire,
    backlog: Option<&mut Backlog>,
    ended: bool,
) -> Option<io::Result<usize>> {
    let sent = match backlog.filter(|backlog| backlog.has_piece()) {
        Some(backlog) => {
            let end = ended && backlog.is_last();
            wire.poll_send(cx, &mut BytesMut::new(), backlog.piece(), end)
        }
        _ if wire.owes(ended) => wire.poll_send(cx, &mut BytesMut::new(), &mut Bytes::new(), ended),
        _ if wire.has_pending() => wire.poll_pending(cx).map_ok(|()| 0),
        _ => return None,
    };
    match sent {
        Poll::Ready(sent) => Some(sent),
        Poll::Pending => None,
    }
}
