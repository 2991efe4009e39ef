//! Passwords checked: beside the workers, few at a time, and those that were right not again.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::rand::SystemRandom;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::sync::{Semaphore, watch};

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
    /// What the password of somebody who is not known is checked against: always the same one of these for a name, so that it takes as
    /// long as that of somebody who is.
    stand_ins: Vec<PasswordHash>,
    choice: RandomState,
}

/// What outlives every configuration.
#[derive(Debug)]
pub struct Logins {
    key: hmac::Key,
    /// Tags of what was right. Each is over the hash as well, so it is worth nothing once the password is another one.
    right: Cache<Tag, ()>,
    rooms: Arc<Semaphore>,
    /// What is being checked; each tells who waits for it whether it was right.
    checking: Arc<Mutex<HashMap<Tag, watch::Receiver<Option<bool>>>>>,
}

/// Of credentials and the hash they are checked against.
type Tag = [u8; 32];

/// Whether credentials are to be checked by this request.
#[derive(Debug)]
pub enum Turn {
    /// Another has done it.
    Known(bool),
    Check(Checking),
}

/// A check that others may wait for; where it is dropped without an end one of them goes on.
#[derive(Debug)]
pub struct Checking {
    logins: Arc<Logins>,
    tag: Option<Tag>,
    result: watch::Sender<Option<bool>>,
}

impl Drop for Checking {
    fn drop(&mut self) {
        if let Some(tag) = &self.tag {
            self.logins.checking.lock().remove(tag);
        }
    }
}

/// There was no room to check it in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

impl Gate {
    #[must_use]
    pub fn build(users: &Users) -> Self {
        Self {
            stand_ins: users.0.iter().map(|(_, hash)| hash.clone()).collect(),
            users: users.0.iter().cloned().collect(),
            choice: RandomState::new(),
        }
    }

    fn is_right(&self, credentials: &Credentials) -> bool {
        let hash = self.users.get(&credentials.name);
        let count = self.stand_ins.len().max(1);
        let choice = usize::try_from(self.choice.hash_one(&credentials.name)).unwrap_or_default() % count;
        let Some(checked) = hash.or_else(|| self.stand_ins.get(choice)) else { return false };
        password::is_right(&credentials.password, checked) && hash.is_some()
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
            checking: Arc::default(),
        })
    }

    /// Whether it is known already that they are right. Takes about a microsecond.
    #[must_use]
    pub fn remembers(&self, gate: &Gate, credentials: &Credentials) -> bool {
        self.tag(gate, credentials).is_some_and(|tag| self.right.get(&tag).is_some())
    }

    /// Waits for another request that says the same, so that a page with many parts has its password checked once.
    ///
    /// # Errors
    /// None of them has come to an end in time.
    pub async fn turn(self: &Arc<Self>, gate: &Gate, credentials: &Credentials) -> Result<Turn, Busy> {
        tokio::time::timeout(PATIENCE, self.next_turn(gate, credentials)).await.map_err(|_| Busy)
    }

    async fn next_turn(self: &Arc<Self>, gate: &Gate, credentials: &Credentials) -> Turn {
        let tag = self.tag(gate, credentials);
        loop {
            let mut waits = {
                let mut checking = self.checking.lock();
                let Some(there) = tag.and_then(|tag| checking.get(&tag).cloned()) else {
                    // It may have come to its end since this request has looked.
                    if tag.is_some_and(|tag| self.right.get(&tag).is_some()) {
                        return Turn::Known(true);
                    }
                    let (result, others) = watch::channel(None);
                    checking.extend(tag.map(|tag| (tag, others)));
                    return Turn::Check(Checking { logins: self.clone(), tag, result });
                };
                there
            };
            if let Ok(known) = waits.wait_for(Option::is_some).await {
                return Turn::Known(*known == Some(true));
            }
        }
    }

    /// Whether they are right. `concluded` hears it even if nobody waits for it any more.
    ///
    /// # Errors
    /// There is no room for it in time.
    pub async fn check(
        self: &Arc<Self>,
        gate: Arc<Gate>,
        credentials: Credentials,
        checking: Checking,
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
            checking.result.send_replace(Some(is_right));
            is_right
        });
        checked.await.map_err(|_| Busy)
    }

    /// None for a name that is not known. No hash has a line feed, so no two that differ are written alike.
    fn tag(&self, gate: &Gate, credentials: &Credentials) -> Option<Tag> {
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
            let Ok(Turn::Check(checking)) = logins.turn(&gate, &credentials).await else {
                panic!("nobody else checks it")
            };
            let counted = heard.clone();
            let concluded = move |is_right| {
                counted.fetch_add(usize::from(is_right) + 10, SeqCst);
            };
            let checked = logins.check(gate.clone(), credentials.clone(), checking, concluded).await;
            assert_eq!(checked, Ok(expected), "{name}");
            assert_eq!(logins.remembers(&gate, &credentials), expected);
            // Who has looked before it was known, and asks for a turn now, hears of it.
            let turn = logins.turn(&gate, &credentials).await;
            assert_eq!(matches!(turn, Ok(Turn::Known(true))), expected, "{name}");
            assert!(!logins.remembers(&other, &credentials), "another hash, if of the same password");
        }
        assert_eq!(heard.load(SeqCst), 41);
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_is_told_so() {
        let logins = Arc::new(Logins::new().unwrap());
        let rooms = u32::try_from(logins.rooms.available_permits()).unwrap();
        let held = logins.rooms.clone().acquire_many_owned(rooms).await.unwrap();
        let check = async || {
            let (gate, credentials) = (gate("x"), says("ann", "x"));
            let Ok(Turn::Check(checking)) = logins.turn(&gate, &credentials).await else {
                panic!("nobody else checks it")
            };
            logins.check(gate, credentials, checking, |_| {}).await
        };
        assert_eq!(check().await, Err(Busy));
        drop(held);
        assert_eq!(check().await, Ok(true));
        assert!(logins.checking.lock().is_empty());
    }

    #[tokio::test]
    async fn who_says_the_same_waits_for_the_one_who_is_checked() {
        let logins = Arc::new(Logins::new().unwrap());
        let (gate, credentials) = (gate("x"), says("ann", "x"));
        let Ok(Turn::Check(given_up)) = logins.turn(&gate, &credentials).await else { panic!("nobody else checks it") };
        let (waiting, asked) = (logins.clone(), (gate.clone(), credentials.clone()));
        let second = tokio::spawn(async move { waiting.turn(&asked.0, &asked.1).await });
        tokio::task::yield_now().await;
        // The first leaves before its turn has come: the second goes on.
        drop(given_up);
        let Ok(Turn::Check(checking)) = second.await.unwrap() else { panic!("nobody has checked it") };
        let (waiting, asked) = (logins.clone(), (gate.clone(), credentials.clone()));
        let third = tokio::spawn(async move { waiting.turn(&asked.0, &asked.1).await });
        tokio::task::yield_now().await;
        assert_eq!(logins.check(gate, credentials, checking, |_| {}).await, Ok(true));
        assert!(matches!(third.await.unwrap(), Ok(Turn::Known(true))));
    }
}
