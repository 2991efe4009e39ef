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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_their_circle_for_as_long_as_anybody_has_them() {
        let tickets = Tickets::default();
        let clients = |authorities: &[u8], required| Circle::Clients { authorities: authorities.to_vec(), required };
        let circles = [Circle::Anybody, clients(b"a", true), clients(b"a", false), clients(b"b", true)];
        let keys: Vec<_> = circles.iter().map(|circle| tickets.of(circle.clone()).unwrap()).collect();
        let sealed: Vec<_> = keys.iter().map(|keys| keys.encrypt(b"secret").unwrap()).collect();
        for (place, circle) in circles.iter().enumerate() {
            // A later configuration gets the same; no circle opens another's.
            let again = tickets.of(circle.clone()).unwrap();
            let opened: Vec<_> = sealed.iter().map(|sealed| again.decrypt(sealed).is_some()).collect();
            assert_eq!(opened, (0..circles.len()).map(|other| other == place).collect::<Vec<_>>());
        }
        drop(keys);
        let later = tickets.of(Circle::Anybody).unwrap();
        assert!(later.decrypt(&sealed[0]).is_none());
        assert_eq!(tickets.0.lock().len(), 1);
    }
}
