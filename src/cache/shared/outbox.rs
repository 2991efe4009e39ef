//! Purges of this gateway that the others are still to be told.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::lines::REPEATED;
use crate::cache::half_sha256;
use crate::cache::purge::{How, What};

/// So many may wait; with more everything counts as purged, which is one.
const WAITING_MOST: usize = 32_768;
/// So many of those that were told of late are told again where Redis may have lost them.
const REPEATED_MOST: usize = 4096;

/// One purge.
pub type Purge = (What, How);

/// See the module. It outlives the connection to Redis. One task takes out what all put in: [`Outbox::take`], [`Outbox::sent`] and
/// [`Outbox::settle`] are its own.
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
    /// Which task takes out: the one that began last.
    taker: u64,
    waiting: Vec<Purge>,
    put_in: u64,
    /// What waits means these.
    open: Means,
    /// Taken out, as far as [`State::put_in`] was then, but not yet told.
    sending: VecDeque<Purge>,
    taken: u64,
    /// What was taken out means these, until it is read in the log.
    unread: Means,
    sent: VecDeque<(Instant, Purge)>,
}

/// What some purges mean.
#[derive(Debug, Default)]
struct Means {
    /// Hashes of keys, and whether what is under them is to go for good.
    keys: HashMap<[u8; 16], bool>,
    others: bool,
}

impl Means {
    /// Whether it is not among them already.
    fn add(&mut self, (what, how): &Purge) -> bool {
        let Some(key) = what.key() else {
            self.others = true;
            return true;
        };
        let is_hard = self.keys.entry(half_sha256(key)).or_default();
        let is_new = *how != How::Hard || !*is_hard;
        *is_hard |= *how == How::Hard;
        is_new
    }

    fn meets(&self, key: &[u8; 16]) -> bool {
        self.others || self.keys.contains_key(key)
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

    /// A task begins to take out, for another Redis: what the one before has told there of late is told again. What comes back says who
    /// it is; another has nothing to say any more.
    pub fn begin(&self) -> u64 {
        let mut state = self.state.lock();
        state.taker += 1;
        let sending = std::mem::take(&mut state.sending);
        let sent = std::mem::take(&mut state.sent);
        let now = Instant::now();
        let recent = |at: Instant| now.saturating_duration_since(at) <= Duration::from_millis(REPEATED);
        let again = sent.into_iter().filter(|(at, _)| recent(*at)).map(|(_, purge)| purge);
        let again: Vec<Purge> = again.chain(sending).collect();
        again.into_iter().for_each(|purge| state.put(purge));
        state.taker
    }

    /// The next that are to be told, `most` at once; they stay until [`Outbox::sent`].
    pub fn take(&self, taker: u64, most: usize) -> Vec<Purge> {
        let mut state = self.state.lock();
        if state.taker != taker {
            return Vec::new();
        }
        if state.sending.is_empty() {
            state.sending = std::mem::take(&mut state.waiting).into();
            state.taken = state.put_in;
            let open = std::mem::take(&mut state.open);
            state.unread.others |= open.others;
            state.unread.keys.extend(open.keys);
        }
        state.sending.iter().take(most).cloned().collect()
    }

    /// The first so many of those that were taken out are in the log.
    pub fn sent(&self, taker: u64, count: usize) {
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.taker != taker {
            return;
        }
        let count = count.min(state.sending.len());
        let told: Vec<Purge> = state.sending.drain(..count).collect();
        state.sent.extend(told.into_iter().map(|purge| (now, purge)));
        let many = state.sent.len().saturating_sub(REPEATED_MOST);
        state.sent.drain(..many);
    }

    /// The log was read to its end.
    pub fn settle(&self, taker: u64) {
        let mut state = self.state.lock();
        if state.taker != taker || !state.sending.is_empty() {
            return;
        }
        state.unread = Means::default();
        let done = state.taken;
        drop(state);
        self.done.send_if_modified(|known| std::mem::replace(known, done) != done);
    }

    /// Redis may have lost what it was told since it was read last, or shortly before: it is told again.
    pub fn repeat(&self, read: Option<Instant>) {
        let since = read.and_then(|read| read.checked_sub(Duration::from_millis(REPEATED)));
        let mut state = self.state.lock();
        let sent = std::mem::take(&mut state.sent);
        for (_, purge) in sent.into_iter().filter(|(at, _)| since.is_none_or(|since| *at >= since)) {
            state.put(purge);
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
        // What goes for good goes once.
        if !self.open.add(&purge) {
            return;
        }
        self.put_in += 1;
        if self.waiting.len() < WAITING_MOST {
            return self.waiting.push(purge);
        }
        self.open = Means { keys: HashMap::new(), others: true };
        self.waiting = vec![(What::Prefix(Box::default()), How::Hard)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Purge {
        (What::Key(text.as_bytes().into()), How::Hard)
    }

    fn soft(text: &str) -> Purge {
        (What::Key(text.as_bytes().into()), How::Soft(1))
    }

    #[tokio::test]
    async fn what_is_put_in_is_open_until_it_is_read() {
        let outbox = Outbox::default();
        let (a, b) = (half_sha256(b"a"), half_sha256(b"b"));
        let number = outbox.put([soft("a"), key("a"), key("a")]);
        assert!(outbox.meets(&a).is_some() && outbox.meets(&b).is_none());
        assert_eq!(outbox.take(0, 9), [soft("a"), key("a")], "said twice, told once");
        // What was taken out may have been done already when the next is put in.
        outbox.put([key("a")]);
        assert_eq!(outbox.take(0, 1), [soft("a")], "not told yet: it is taken out again");
        outbox.sent(0, 1);
        outbox.settle(0);
        assert!(outbox.meets(&a).is_some() && !outbox.told(number, Duration::ZERO).await);
        assert_eq!(outbox.take(0, 9), [key("a")]);
        outbox.sent(0, 1);
        outbox.settle(0);
        assert!(outbox.told(number, Duration::ZERO).await);
        assert!(outbox.meets(&a).is_some(), "the second waits");
        assert_eq!(outbox.take(0, 9).len(), 1);
        outbox.sent(0, 1);
        assert!(outbox.meets(&a).is_some(), "not read yet");
        outbox.settle(0);
        assert!(outbox.meets(&a).is_none());
        outbox.put([(What::Tag(b"t".as_slice().into()), How::Hard)]);
        assert!(outbox.meets(&a).is_some() && outbox.meets(&b).is_some(), "what has the tag is not known");
    }

    #[test]
    fn what_was_told_of_late_is_told_again() {
        let outbox = Outbox::default();
        outbox.put([key("a"), key("b")]);
        outbox.take(0, 9);
        outbox.sent(0, 1);
        outbox.repeat(Some(Instant::now()));
        assert_eq!(outbox.take(0, 9), [key("b")]);
        outbox.sent(0, 1);
        assert_eq!(outbox.take(0, 9), [key("a")]);
        outbox.sent(0, 1);
        outbox.repeat(Some(Instant::now() + Duration::from_secs(61)));
        assert_eq!(outbox.take(0, 9), []);
    }

    #[test]
    fn too_many_are_everything() {
        let outbox = Outbox::default();
        outbox.put((0..=WAITING_MOST).map(|number| key(&number.to_string())));
        assert!(outbox.state.lock().open.keys.is_empty());
        assert_eq!(outbox.take(0, 9), [(What::Prefix(Box::default()), How::Hard)]);
    }

    #[test]
    fn one_task_takes_out_at_a_time() {
        let outbox = Outbox::default();
        outbox.put([key("a"), key("b"), key("c")]);
        outbox.take(0, 9);
        outbox.sent(0, 1);
        let next = outbox.begin();
        assert_eq!(outbox.take(0, 9), []);
        assert_eq!(outbox.take(next, 2), [key("a"), key("b")], "the other Redis was told of the first");
        outbox.sent(0, 2);
        outbox.settle(0);
        assert_eq!(outbox.take(next, 9), [key("a"), key("b"), key("c")]);
    }
}
