//! Purges of this gateway that the others are still to be told.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::cache::half_sha256;
use crate::cache::purge::{How, What};

/// So many may wait; with more everything counts as purged, which is one.
const WAITING_MOST: usize = 32_768;
/// What was told in this time is told once more where Redis may have lost it.
const REPEATED: Duration = Duration::from_secs(60);
/// So many at most.
const REPEATED_MOST: usize = 4096;

/// One purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purge {
    pub what: What,
    pub how: How,
    /// Told in any case; otherwise only if Redis knows of the key.
    pub certain: bool,
}

/// See the module. One task takes out what all put in: [`Outbox::take`], [`Outbox::sent`] and [`Outbox::settle`] are its own.
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<State>,
    /// Something waits.
    pub filled: Notify,
    /// How many of all that were ever put in are done with.
    done: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Purge>,
    put_in: u64,
    /// What waits means these.
    open: Means,
    /// Taken out, as far as [`State::put_in`] was then, but not yet told.
    sending: Vec<Purge>,
    taken: u64,
    /// What was taken out means these, until it is read in the log.
    unread: Means,
    sent: VecDeque<(Instant, Purge)>,
}

/// What some purges mean.
#[derive(Debug, Default)]
struct Means {
    keys: HashSet<[u8; 16]>,
    others: bool,
}

impl Means {
    /// Whether it is new.
    fn add(&mut self, what: &What) -> bool {
        if let Some(key) = what.key() {
            return self.keys.insert(half_sha256(key));
        }
        self.others = true;
        true
    }

    fn meets(&self, key: &[u8; 16]) -> bool {
        self.others || self.keys.contains(key)
    }
}

impl Outbox {
    /// Puts purges in. What comes back is for [`Outbox::told`].
    pub fn put(&self, purges: impl IntoIterator<Item = Purge>) -> u64 {
        let mut state = self.state.lock();
        purges.into_iter().for_each(|purge| state.put(purge));
        let number = state.put_in;
        drop(state);
        self.filled.notify_one();
        number
    }

    /// Whether a purge that may mean this key is not yet in the log, as far as it was read: then what to wait for. `key` is its hash.
    pub fn meets(&self, key: &[u8; 16]) -> Option<u64> {
        let state = self.state.lock();
        let open = state.open.meets(key).then_some(state.put_in);
        open.or_else(|| state.unread.meets(key).then_some(state.taken))
    }

    /// Takes out what waits; or what was taken out before and not told.
    pub fn take(&self) -> Vec<Purge> {
        let mut state = self.state.lock();
        if state.sending.is_empty() {
            state.sending = std::mem::take(&mut state.waiting);
            state.taken = state.put_in;
            let open = std::mem::take(&mut state.open);
            state.unread.others |= open.others;
            state.unread.keys.extend(open.keys);
        }
        state.sending.clone()
    }

    /// What was taken out is in the log. `told` is what Redis knew of.
    pub fn sent(&self, told: Vec<Purge>) {
        let mut state = self.state.lock();
        state.sending.clear();
        let now = Instant::now();
        state.sent.extend(told.into_iter().map(|purge| (now, purge)));
        let old = state.sent.iter().take_while(|(at, _)| now - *at > REPEATED).count();
        let many = state.sent.len().saturating_sub(REPEATED_MOST);
        state.sent.drain(..old.max(many));
    }

    /// The log was read to its end.
    pub fn settle(&self) {
        let mut state = self.state.lock();
        if !state.sending.is_empty() {
            return;
        }
        state.unread = Means::default();
        let done = state.taken;
        drop(state);
        self.done.send_if_modified(|known| std::mem::replace(known, done) != done);
    }

    /// Redis may have lost what it was told of late: it is told again.
    pub fn repeat(&self) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let sent = std::mem::take(&mut state.sent);
        for (_, purge) in sent.into_iter().filter(|(at, _)| now - *at <= REPEATED) {
            state.put(Purge { certain: true, ..purge });
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Waits until what was put in is told; whether that was in time.
    pub async fn told(&self, number: u64, patience: Duration) -> bool {
        let mut done = self.done.subscribe();
        tokio::time::timeout(patience, done.wait_for(|done| *done >= number)).await.is_ok_and(|told| told.is_ok())
    }
}

impl State {
    fn put(&mut self, purge: Purge) {
        // One key waits once; a certain one does not rely on one that is not.
        if !self.open.add(&purge.what) && !purge.certain {
            return;
        }
        self.put_in += 1;
        if self.waiting.len() < WAITING_MOST {
            return self.waiting.push(purge);
        }
        let all = Purge { what: What::Prefix(Box::default()), how: How::Hard, certain: true };
        self.open.others = true;
        self.waiting = vec![all];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str, certain: bool) -> Purge {
        Purge { what: What::Key(text.as_bytes().into()), how: How::Hard, certain }
    }

    #[tokio::test]
    async fn what_is_put_in_is_open_until_it_is_read() {
        let outbox = Outbox::default();
        let (a, b) = (half_sha256(b"a"), half_sha256(b"b"));
        let number = outbox.put([key("a", false), key("a", false)]);
        assert!(outbox.meets(&a).is_some() && outbox.meets(&b).is_none());
        assert_eq!(outbox.take(), [key("a", false)], "said twice, told once");
        // What was taken out may have been done already when the next is put in.
        outbox.put([key("a", false)]);
        assert_eq!(outbox.take(), [key("a", false)], "not told yet: it is taken out again");
        outbox.settle();
        assert!(outbox.meets(&a).is_some() && !outbox.told(number, Duration::ZERO).await);
        outbox.sent(vec![]);
        outbox.settle();
        assert!(outbox.told(number, Duration::ZERO).await);
        assert!(outbox.meets(&a).is_some(), "the second waits");
        assert_eq!(outbox.take().len(), 1);
        outbox.sent(vec![]);
        assert!(outbox.meets(&a).is_some(), "not read yet");
        outbox.settle();
        assert!(outbox.meets(&a).is_none());
        outbox.put([Purge { what: What::Tag(b"t".as_slice().into()), how: How::Hard, certain: true }]);
        assert!(outbox.meets(&a).is_some() && outbox.meets(&b).is_some(), "what has the tag is not known");
    }

    #[test]
    fn what_was_told_of_late_is_told_again() {
        let outbox = Outbox::default();
        outbox.put([key("a", false), key("b", false)]);
        let taken = outbox.take();
        outbox.sent(vec![taken[0].clone()]);
        outbox.settle();
        outbox.repeat();
        assert_eq!(outbox.take(), [key("a", true)]);
    }

    #[test]
    fn too_many_are_everything() {
        let outbox = Outbox::default();
        outbox.put((0..=WAITING_MOST).map(|number| key(&number.to_string(), false)));
        let taken = outbox.take();
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].what, What::Prefix(Box::default()));
    }
}
