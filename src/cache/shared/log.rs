//! The log of purges in Redis: every gateway writes its own into it, and reads those of all.
//!
//! A purge has the number that Redis gives it. What is kept in Redis says after which of them it was asked for; so a gateway
//! that has read the log knows what of it is purged, also if it began to run long after. A log that is full, or that Redis has
//! lost, begins anew, and what was kept before that is not used any more: too much may go, never too little.
//!
//! Keys that are purged for good have a log of their own: there are many, as each POST purges one, and nothing is left of them in Redis.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::{Cmd, Value};

use super::lines::{self, Followed, Line, Loss, News, Number, Own, Page, Reader, Says};
use super::outbox::{Outbox, Purge};
use super::packed::Offset;
use super::{Keys, bytes, integer};
use crate::cache::entry::Entry;
use crate::cache::purge::{Found, How, Purges, What};
use crate::cache::{Cache, half_sha256, now};
use crate::observe::metrics::SharedMetrics;
use crate::redis::{Redis, Script, Unanswered};

static PUBLISH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("publish.lua")));
static POLL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("poll.lua")));
static DROP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("drop.lua")));

/// In one slot of a cluster, and so on one node: what that loses is lost of both.
const KEY: &str = "propylon:cache:{purges}";
const KEY_OF_KEYS: &str = "propylon:cache:{purges}:keys";
/// Purges that the first may hold.
const MOST: usize = 50_000;
/// A longer key is told by its hash.
const LONG: usize = 512;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// Read at once; less where that takes too long.
const AT_ONCE: usize = 500;
/// Told at once, and keys dropped side by side.
const TOLD_AT_ONCE: usize = 64;
/// Who has not read it for so long knows too little to use what is in Redis.
const CURRENT: Duration = Duration::from_secs(2);
/// Between two notes of how far it was read, where there was nothing new.
const NOTED: Duration = Duration::from_secs(20);
/// A difference between clocks that is not worth reckoning with, in milliseconds.
const SAME_TIME: u64 = 100;

/// See the module.
#[derive(Debug)]
pub struct Log {
    redis: Arc<Redis>,
    /// All that was read, by the numbers of the log.
    purges: Purges,
    /// The last that was read.
    read_to: AtomicU64,
    /// When it was read to its end.
    current: Mutex<Option<Instant>>,
    offset: AtomicI64,
    pub outbox: Arc<Outbox>,
    metrics: Arc<SharedMetrics>,
}

impl Log {
    pub fn new(redis: Arc<Redis>, outbox: Arc<Outbox>, metrics: Arc<SharedMetrics>) -> Self {
        Self {
            redis,
            purges: Purges::default(),
            read_to: AtomicU64::new(0),
            current: Mutex::default(),
            offset: AtomicI64::new(0),
            outbox,
            metrics,
        }
    }

    /// How much Redis' clock is ahead of ours.
    pub fn offset(&self) -> Offset {
        self.offset.load(Relaxed)
    }

    /// The number of the last purge that was read: what is asked for from now on is after it.
    pub fn latest(&self) -> Number {
        self.read_to.load(Relaxed)
    }

    /// Whether enough is known to use what is in Redis under a key; a purge that is under way is waited for.
    pub async fn knows(&self, keys: &Keys, patience: Duration) -> bool {
        if !self.is_current() {
            return false;
        }
        match self.outbox.meets(&keys.hash) {
            Some(number) => self.outbox.told(number, patience).await,
            None => true,
        }
    }

    /// Whether it is being read.
    pub fn is_current(&self) -> bool {
        self.current.lock().is_some_and(|at| at.elapsed() < CURRENT)
    }

    /// What purges have to do with an answer that comes from Redis, and was asked for after the one with number `after`.
    pub fn find(&self, entry: &Entry, after: Number) -> Found {
        entry.checked.store(after, Relaxed);
        self.purges.find(entry)
    }

    /// Tells the others what is purged here, and purges here what others tell, until aborted.
    pub async fn follow(self: Arc<Self>, cache: Weak<Cache>) {
        let taker = self.outbox.begin();
        let place = crc32fast::hash(self.redis.config().url.to_string().as_bytes());
        let begin = match cache.upgrade() {
            Some(cache) => self.begin(&cache, place).await,
            None => return,
        };
        // A mark that is still to be written.
        let mut owes_mark = false;
        let (mut reader, mut own, mut most) = (Reader::new(begin), Own::default(), AT_ONCE);
        let mut noted: Option<Instant> = None;
        loop {
            let asked = Instant::now();
            let page = match self.exchange(&reader, taker, &mut own, &mut owes_mark, most).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::debug!(%error, "the log of purges was not read");
                    // It may be that much that it takes too long. The first of them was read already.
                    most = (most / 2).max(2);
                    self.metrics.set_current(self.is_current());
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Some(cache) = cache.upgrade() else { return };
            self.note_time(page.time);
            let news = reader.read(page, most, &own);
            most = (most * 2).min(AT_ONCE);
            if news.loss != Loss::None {
                self.outbox.repeat(*self.current.lock());
            }
            owes_mark |= news.loss == Loss::Unmarked;
            let more = news.more;
            let is_new = self.mark(news, &cache).await;
            self.read_to.store(reader.from().0, Relaxed);
            if more {
                continue;
            }
            own = Own::default();
            *self.current.lock() = Some(asked);
            self.metrics.set_current(true);
            self.outbox.settle(taker);
            if let Some(followed) = reader.followed(place)
                && (is_new || noted.is_none_or(|at| at.elapsed() > NOTED))
            {
                noted = Some(Instant::now());
                cache.note_followed(followed).await;
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = self.outbox.filled.notified() => {}
            }
        }
    }

    /// How far purges of others are done here. In another Redis they are others: then all that is here is let go.
    async fn begin(&self, cache: &Arc<Cache>, place: u32) -> Option<Followed> {
        let followed = cache.followed().await?;
        if followed.place == place {
            return Some(followed);
        }
        tracing::warn!("answers are shared through another redis: everything in the cache counts as purged");
        cache.clone().purge_from_afar(vec![Says::Purged(What::Prefix(Box::default()), How::Hard)]).await;
        None
    }

    /// Writes what waits, and reads on.
    async fn exchange(
        &self,
        reader: &Reader,
        taker: u64,
        own: &mut Own,
        owes_mark: &mut bool,
        most: usize,
    ) -> Result<Page, Unanswered> {
        if *owes_mark {
            self.begin_anew(reader).await?;
            *owes_mark = false;
        }
        self.publish(taker, own).await?;
        let (log, keys, time) = reader.from();
        let keys = keys.map(lines::id).unwrap_or_default();
        let time = time.map(|time| time.to_string()).unwrap_or_default();
        let fill = |command: &mut Cmd| {
            command.arg(2).arg(KEY).arg(KEY_OF_KEYS).arg(lines::id(log)).arg(&keys).arg(most).arg(&time);
        };
        self.redis.run(&POLL, fill, lines::read_page).await
    }

    fn note_time(&self, time: u64) {
        let ahead = i64::try_from(time).unwrap_or(0) - i64::try_from(now()).unwrap_or(0);
        self.offset.store(if ahead.unsigned_abs() < SAME_TIME { 0 } else { ahead }, Relaxed);
    }

    /// Writes what waits into the log.
    async fn publish(&self, taker: u64, own: &mut Own) -> Result<(), Unanswered> {
        loop {
            let some = self.outbox.take(taker, TOLD_AT_ONCE);
            if some.is_empty() {
                return Ok(());
            }
            // First of all nobody finds it in Redis any more.
            join_all(some.iter().map(|purge| self.drop_in_redis(purge)))
                .await
                .into_iter()
                .collect::<Result<(), _>>()?;
            let told: Vec<_> = some.iter().map(|purge| self.written(purge)).collect();
            for ((what, how), number) in some.iter().zip(self.tell(&told).await?) {
                let is_of_keys = what.key().is_some() && *how == How::Hard;
                if is_of_keys {
                    own.keys.insert(number)
                } else {
                    own.log.insert(number)
                };
            }
            self.outbox.sent(taker, some.len());
            self.metrics.record_told(some.len() as u64);
        }
    }

    async fn drop_in_redis(&self, (what, how): &Purge) -> Result<(), Unanswered> {
        let (Some(key), How::Hard) = (what.key(), how) else { return Ok(()) };
        let keys = Keys::of(key);
        let fill = |command: &mut Cmd| {
            command.arg(2).arg(&keys.answers).arg(&keys.leases);
        };
        self.redis.run(&DROP, fill, integer).await.map(drop)
    }

    /// Kind, what it means, and since when: as the log has it.
    fn written(&self, (what, how): &Purge) -> (&'static str, Vec<u8>, String) {
        let soft = match how {
            How::Hard => String::new(),
            How::Soft(at) => at.saturating_add_signed(self.offset()).to_string(),
        };
        let (kind, text) = match what {
            What::Key(key) if key.len() > LONG && *how == How::Hard => ("h", half_sha256(key).to_vec()),
            What::Key(text) => ("k", text.to_vec()),
            What::Prefix(text) => ("p", text.to_vec()),
            What::Tag(text) => ("t", text.to_vec()),
        };
        (kind, text, soft)
    }

    /// A mark for all: what is in Redis may have been purged, by what is not in the log any more.
    async fn begin_anew(&self, reader: &Reader) -> Result<(), Unanswered> {
        let time = reader.from().2.map(|time| time.to_string()).unwrap_or_default();
        self.tell(&[("b", format!("since {time}").into_bytes(), String::new())]).await.map(drop)
    }

    async fn tell(&self, told: &[(&'static str, Vec<u8>, String)]) -> Result<Vec<Number>, Unanswered> {
        let fill = |command: &mut Cmd| {
            command.arg(2).arg(KEY).arg(KEY_OF_KEYS).arg(MOST).arg(lines::MOST_KEYS);
            for (kind, text, soft) in told {
                command.arg(kind).arg(text).arg(soft);
            }
        };
        let read = |answer: &Value| match answer {
            Value::Array(ids) => ids.iter().map(|id| lines::number(bytes(id)?)).collect(),
            _ => None,
        };
        self.redis.run(&PUBLISH, fill, read).await
    }

    /// Marks what was purged: first for what is in Redis, then for what is here. Whether there was something.
    async fn mark(&self, news: News, cache: &Arc<Cache>) -> bool {
        let is_new = !news.marks.is_empty() || !news.purged.is_empty();
        for Line { number, says } in news.marks {
            match self.by_our_clock(says) {
                Says::After(_) | Says::Since(_) => self.purges.forget_before(number),
                Says::Purged(what, how) => self.purges.add_numbered(number, what, how),
                Says::Hash(_) => {}
            }
        }
        self.metrics.record_heard(news.purged.len() as u64);
        let mut purged: Vec<Says> = news.purged.into_iter().map(|says| self.by_our_clock(says)).collect();
        if news.missed {
            tracing::warn!("purges of other gateways were missed: everything in the cache counts as purged");
            purged = vec![Says::Purged(What::Prefix(Box::default()), How::Hard)];
        }
        if !purged.is_empty() {
            cache.clone().purge_from_afar(purged).await;
        }
        is_new
    }

    fn by_our_clock(&self, says: Says) -> Says {
        match says {
            Says::Purged(what, How::Soft(at)) => {
                Says::Purged(what, How::Soft(at.saturating_add_signed(-self.offset())))
            }
            other => other,
        }
    }
}
