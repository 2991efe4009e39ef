//! Passwords checked: beside the workers, few at a time, and those that were right not again.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::rand::SystemRandom;
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;

use crate::access::credentials::Credentials;
use crate::access::password;
use crate::config::model::{PasswordHash, Users};

/// How long a request waits until it is its password's turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// Logins that are remembered, 80 bytes each.
const REMEMBERED: usize = 10_000;

/// Who may come to a route with which password.
#[derive(Debug)]
pub struct Gate {
    users: HashMap<String, PasswordHash>,
    /// What the password of somebody who is not known is checked against: it takes as long, and tells nobody that he is not.
    stand_in: PasswordHash,
}

/// What outlives every configuration.
#[derive(Debug)]
pub struct Logins {
    key: hmac::Key,
    /// Tags of what was right. Each is over the hash as well, so it is worth nothing once the password is another one.
    right: Cache<[u8; 32], ()>,
    rooms: Arc<Semaphore>,
}

/// There was no room to check it in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

impl Gate {
    #[must_use]
    pub fn build(users: &Users) -> Self {
        let nobody = || PasswordHash::Bcrypt(String::new());
        Self {
            stand_in: users.0.first().map_or_else(nobody, |(_, hash)| hash.clone()),
            users: users.0.iter().cloned().collect(),
        }
    }

    fn is_right(&self, credentials: &Credentials) -> bool {
        let hash = self.users.get(&credentials.name);
        let is_right = password::is_right(&credentials.password, hash.unwrap_or(&self.stand_in));
        is_right && hash.is_some()
    }
}

impl Logins {
    /// # Errors
    /// The system gives no random bytes.
    pub fn new() -> Result<Self, String> {
        let key = hmac::Key::generate(HMAC_SHA256, &SystemRandom::new());
        // One core is left to the workers.
        let rooms = available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
        Ok(Self {
            key: key.map_err(|_| "the system gives no random bytes".to_owned())?,
            right: Cache::new(REMEMBERED),
            rooms: Arc::new(Semaphore::new(rooms)),
        })
    }

    /// Whether it is known already that they are right. Takes about a microsecond.
    #[must_use]
    pub fn remembers(&self, gate: &Gate, credentials: &Credentials) -> bool {
        self.tag(gate, credentials).is_some_and(|tag| self.right.get(&tag).is_some())
    }

    /// Whether they are right. `concluded` hears it even if nobody waits for it any more.
    ///
    /// # Errors
    /// There is no room for it in time.
    pub async fn check(
        self: &Arc<Self>,
        gate: Arc<Gate>,
        credentials: Credentials,
        concluded: impl FnOnce(bool) + Send + 'static,
    ) -> Result<bool, Busy> {
        let room = tokio::time::timeout(PATIENCE, self.rooms.clone().acquire_owned()).await;
        let Ok(Ok(room)) = room else { return Err(Busy) };
        let logins = self.clone();
        let checked = tokio::task::spawn_blocking(move || {
            let is_right = gate.is_right(&credentials);
            if let Some(tag) = logins.tag(&gate, &credentials).filter(|_| is_right) {
                logins.right.insert(tag, ());
            }
            drop(room);
            concluded(is_right);
            is_right
        });
        checked.await.map_err(|_| Busy)
    }

    /// None for a name that is not known. No hash has a line feed, so no two that differ are written alike.
    fn tag(&self, gate: &Gate, credentials: &Credentials) -> Option<[u8; 32]> {
        let hash = gate.users.get(&credentials.name)?;
        let mut text = Vec::with_capacity(hash.text().len() + credentials.password.len() + 1);
        text.extend_from_slice(hash.text().as_bytes());
        text.push(b'\n');
        text.extend_from_slice(&credentials.password);
        hmac::sign(&self.key, &text).as_ref().try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    fn gate(password: &str) -> Arc<Gate> {
        let hash = PasswordHash::Bcrypt(bcrypt::hash(password, 4).unwrap());
        Arc::new(Gate::build(&Users(vec![("ann".to_owned(), hash)])))
    }

    fn says(name: &str, password: &str) -> Credentials {
        Credentials { name: name.to_owned(), password: password.into() }
    }

    #[tokio::test]
    async fn what_was_right_is_remembered_until_the_password_is_another() {
        let logins = Arc::new(Logins::new().unwrap());
        let (gate, other) = (gate("sesame"), gate("sesame"));
        let heard = Arc::new(AtomicUsize::new(0));
        for (name, password, expected) in
            [("ann", "sesame", true), ("ann", "wrong", false), ("bob", "sesame", false), ("", "", false)]
        {
            let credentials = says(name, password);
            assert!(!logins.remembers(&gate, &credentials));
            let counted = heard.clone();
            let concluded = move |is_right| {
                counted.fetch_add(usize::from(is_right) + 10, SeqCst);
            };
            assert_eq!(logins.check(gate.clone(), credentials.clone(), concluded).await, Ok(expected), "{name}");
            assert_eq!(logins.remembers(&gate, &credentials), expected);
            assert!(!logins.remembers(&other, &credentials), "another hash, if of the same password");
        }
        assert_eq!(heard.load(SeqCst), 41);
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_is_told_so() {
        let logins = Arc::new(Logins::new().unwrap());
        let rooms = u32::try_from(logins.rooms.available_permits()).unwrap();
        let held = logins.rooms.clone().acquire_many_owned(rooms).await.unwrap();
        assert_eq!(logins.check(gate("x"), says("ann", "x"), |_| {}).await, Err(Busy));
        drop(held);
        assert_eq!(logins.check(gate("x"), says("ann", "x"), |_| {}).await, Ok(true));
    }
}
