//! Keys of session tickets (RFC 8446 section 4.6.1): they change every few hours, and outlive reloads.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;

/// Who trusts whose tickets. A ticket stands for a handshake, so a client that was let in without a certificate, or by another
/// authority, must not come in by it where one is asked for: such listeners have keys of their own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Circle {
    Anybody,
    /// Clients whose certificates these authorities sign.
    Clients {
        authorities: Vec<u8>,
        required: bool,
    },
}

/// The keys in use.
#[derive(Debug, Default)]
pub struct Tickets(Mutex<HashMap<Circle, Weak<dyn ProducesTickets>>>);

impl Tickets {
    /// The keys of a circle: those in use, if a configuration has them, else new ones.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn of(&self, circle: Circle) -> Result<Arc<dyn ProducesTickets>, String> {
        let mut all = self.0.lock();
        if let Some(keys) = all.get(&circle).and_then(Weak::upgrade) {
            return Ok(keys);
        }
        let keys = Ticketer::new().map_err(|error| format!("cannot make session ticket keys: {error}"))?;
        all.retain(|_, keys| keys.strong_count() > 0);
        all.insert(circle, Arc::downgrade(&keys));
        Ok(keys)
    }
}
