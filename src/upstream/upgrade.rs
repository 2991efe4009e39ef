//! A connection to the app that has left HTTP behind, on its way from Pingora's engine to whoever tunnels.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::BytesMut;
use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;

use crate::upstream::socket::Socket;

/// Where an upgrade that was asked for ends up.
#[derive(Debug, Default)]
pub struct Upgrade {
    happened: AtomicBool,
    upgraded: Mutex<Option<Upgraded>>,
}

/// A connection that speaks another protocol from here on.
#[derive(Debug)]
pub struct Upgraded {
    pub socket: Socket,
    /// What came behind the head of the 101.
    pub received: BytesMut,
    /// The fields of the 101.
    pub fields: Vec<(HeaderName, HeaderValue)>,
}

impl Upgrade {
    /// The server has agreed. The connection follows when the engine lets go of it.
    pub(super) fn note(&self) {
        self.happened.store(true, Relaxed);
    }

    pub(super) fn fill(&self, upgraded: Upgraded) {
        *self.upgraded.lock() = Some(upgraded);
    }

    /// Whether the server has agreed: what the engine says of the exchange then means nothing.
    #[must_use]
    pub fn has_happened(&self) -> bool {
        self.happened.load(Relaxed)
    }

    /// The connection, once.
    #[must_use]
    pub fn take(&self) -> Option<Upgraded> {
        self.upgraded.lock().take()
    }
}
