//! One exchange with the app, run by Pingora's engine: what goes in and what comes home.
//!
//! The engine's future is large (13 KB), so it lives only from the moment a connection to the app is there until the app has
//! answered. It is polled by the connection's own task. A session that comes home before its time leaves the future to a task of its
//! own, together with the slot that the app still occupies.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;

use parking_lot::Mutex;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;

use crate::edge::connection::Engine;
use crate::edge::session::Session;
use crate::edge::session::engine::EngineSession;
use crate::proxy::attempt;
use crate::proxy::context::Active;

/// What a request's driver and the engine share while an exchange runs.
#[derive(Debug, Default)]
pub struct Flight {
    /// At home: the engine has let go of it.
    session: Mutex<Option<Box<Session>>>,
    /// What the hooks work on; none when the driver has taken it back.
    pub(super) active: Mutex<Option<Box<Active>>>,
    detached: AtomicBool,
}

impl Flight {
    /// The engine is done with the session.
    pub fn land(&self, session: Box<Session>) {
        *self.session.lock() = Some(session);
    }

    /// The session comes home while the exchange goes on.
    pub fn detach(&self, session: Box<Session>) {
        self.land(session);
        self.detached.store(true, Relaxed);
    }
}

thread_local! {
    /// On its way to [`super::hooks::Hooks::new_ctx`], which takes no arguments. The engine calls it in its first poll, before
    /// anything waits (pingora-proxy 0.9.1 lib.rs, `process_new_http`).
    static ENTERING: Cell<Option<Arc<Flight>>> = const { Cell::new(None) };
}

/// The flight that is entering the engine on this thread.
pub(super) fn entering() -> Option<Arc<Flight>> {
    ENTERING.take()
}

/// Exchanges the request for an answer, over the connection that `active` holds. The session and the request's state come back
/// with what became of it.
pub(super) async fn run(
    engine: &Engine,
    session: Box<Session>,
    active: Box<Active>,
    flight: &mut Arc<Flight>,
) -> (Box<Session>, Box<Active>) {
    *flight.active.lock() = Some(active);
    let session = EngineSession::new(session, flight.clone());
    let core = engine.core.clone();
    let mut exchange = Box::pin(async move {
        let session = ServerSession::new_custom(Box::new(session));
        // What it returns is for Pingora's own sessions.
        let _ = core.proxy.process_new_http(session, &core.never_shut_down).await;
    });
    let mut entering = Some(flight.clone());
    let ended = poll_fn(|cx| {
        let enters = entering.take();
        let first = enters.is_some();
        if first {
            ENTERING.set(enters);
        }
        let polled = exchange.as_mut().poll(cx);
        if first {
            ENTERING.take();
        }
        match polled {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending if flight.detached.load(Relaxed) => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    let home = (flight.session.lock().take(), flight.active.lock().take());
    let (Some(session), Some(mut active)) = home else {
        // Both are put there by drops and hooks that cannot be skipped.
        unreachable!("the engine kept a request");
    };
    if flight.detached.load(Relaxed) {
        *flight = Arc::default();
        // It may have ended in the same moment, and said why.
        let has_ended = ended && (active.rejection.is_some() || active.is_upgraded());
        let slot = if has_ended { None } else { attempt::outlived(&mut active) };
        if let Some(slot) = slot.filter(|_| !ended) {
            tokio::spawn(async move {
                exchange.await;
                drop(slot);
            });
        }
    }
    (session, active)
}
