//! The log of purges in Redis: every gateway writes its own into it, and reads those of all.
//!
//! A purge has the number that Redis gives it. What is kept in Redis says after which of them it was asked for; so a gateway
//! that has read the log knows what of it is purged, also if it began to run long after. A log that is full, or that Redis has
//! lost, begins anew, and what was kept before that is not used any more: too much may go, never too little.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::Value;

use super::outbox::{Outbox, Purge};
use super::packed::Offset;
use super::{Keys, bytes, integer};
use crate::cache::entry::Entry;
use crate::cache::purge::{Found, How, Purges, What};
use crate::cache::{Cache, now};
use crate::observe::metrics::SharedMetrics;
use crate::redis::{Redis, Script, Unanswered};

static PUBLISH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("publish.lua")));
static POLL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("poll.lua")));
static DROP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("drop.lua")));

const KEY: &str = "propylon:cache:purges";
/// Purges it may hold.
const MOST: usize = 50_000;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// Read at once.
const AT_ONCE: usize = 500;
/// Told at once, and keys dropped side by side.
const TOLD_AT_ONCE: usize = 64;
/// Who has not read it for so long knows too little to use what is in Redis.
const CURRENT: Duration = Duration::from_secs(2);
/// A difference between clocks that is not worth reckoning with, in milliseconds.
const SAME_TIME: u64 = 1000;

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
    pub outbox: Outbox,
    metrics: Arc<SharedMetrics>,
}

/// The number of a purge in one word: milliseconds since 1970, and which of that millisecond it was.
fn number(id: &[u8]) -> Option<u64> {
    let (millis, count) = std::str::from_utf8(id).ok()?.split_once('-')?;
    let (millis, count) = (millis.parse::<u64>().ok()?, count.parse::<u64>().ok()?);
    (millis < 1 << 44 && count < 1 << 20).then_some(millis << 20 | count)
}

/// The same as Redis writes it.
fn id(number: u64) -> String {
    format!("{}-{}", number >> 20, number & ((1 << 20) - 1))
}

/// One line of it.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    number: u64,
    says: Says,
}

#[derive(Debug, PartialEq, Eq)]
enum Says {
    /// It begins here. The last before that, where it is known.
    Begins(Option<u64>),
    Purged(What, How),
}

/// What a look has brought.
#[derive(Debug)]
struct Page {
    /// The last one there is.
    last: u64,
    /// The time, in milliseconds since 1970.
    time: u64,
    lines: Vec<Line>,
    is_full: bool,
}

/// What of a look is to be done here.
#[derive(Debug, Default)]
struct News {
    purged: Vec<(What, How)>,
    /// Something was missed.
    missed: bool,
}

impl Log {
    pub fn new(redis: Arc<Redis>, metrics: Arc<SharedMetrics>) -> Self {
        Self {
            redis,
            purges: Purges::default(),
            read_to: AtomicU64::new(0),
            current: Mutex::default(),
            offset: AtomicI64::new(0),
            outbox: Outbox::default(),
            metrics,
        }
    }

    /// How much Redis' clock is ahead of ours.
    pub fn offset(&self) -> Offset {
        self.offset.load(Relaxed)
    }

    /// The number of the last purge that was read: what is asked for from now on is after it.
    pub fn latest(&self) -> u64 {
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

    /// What purges have to do with an answer from Redis that was asked for after the one with number `after`.
    pub fn find(&self, entry: &Entry, after: u64) -> Found {
        entry.checked.store(after, Relaxed);
        self.purges.find(entry)
    }

    /// Tells the others what is purged here, and purges here what others tell, until aborted.
    pub async fn follow(self: Arc<Self>, cache: Weak<Cache>) {
        // From which on purges are news for what is in memory and on disk.
        let mut begin: Option<u64> = None;
        loop {
            let own = self.publish().await.unwrap_or_default();
            match self.poll().await {
                Ok(page) => {
                    let Some(cache) = cache.upgrade() else { return };
                    let known = match &mut begin {
                        Some(known) => known,
                        none => none.insert(cache.followed_to().await.unwrap_or(page.last)),
                    };
                    let is_full = page.is_full;
                    let read_to = self.latest();
                    let news = self.read(page, known, &own);
                    if self.latest() != read_to {
                        cache.purge_from_afar(news.purged, news.missed, self.latest()).await;
                    }
                    if is_full {
                        continue;
                    }
                    *self.current.lock() = Some(Instant::now());
                    self.outbox.settle();
                }
                Err(error) => tracing::debug!(%error, "the log of purges was not read"),
            }
            self.metrics.set_current(self.is_current());
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = self.outbox.filled.notified() => {}
            }
        }
    }

    /// Writes what waits into the log; the numbers it has there.
    async fn publish(&self) -> Result<HashSet<u64>, Unanswered> {
        let mut waiting = self.outbox.take();
        let mut numbers = HashSet::new();
        if waiting.is_empty() {
            return Ok(numbers);
        }
        for some in waiting.chunks_mut(TOLD_AT_ONCE) {
            // First of all nobody finds it in Redis any more.
            join_all(some.iter_mut().map(|purge| self.drop_key(purge))).await.into_iter().collect::<Result<(), _>>()?;
            let told: Vec<&Purge> = some.iter().filter(|purge| purge.certain).collect();
            if !told.is_empty() {
                numbers.extend(self.tell(&told).await?);
                self.metrics.record_told(told.len() as u64);
            }
        }
        waiting.retain(|purge| purge.certain);
        self.outbox.sent(waiting);
        Ok(numbers)
    }

    async fn drop_key(&self, purge: &mut Purge) -> Result<(), Unanswered> {
        let (Some(key), How::Hard) = (purge.what.key(), purge.how) else { return Ok(()) };
        let keys = Keys::of(key);
        let fill = |command: &mut redis::Cmd| {
            command.arg(2).arg(&keys.answers).arg(&keys.leases);
        };
        let there = self.redis.run(&DROP, fill, integer).await?;
        purge.certain |= there > 0;
        Ok(())
    }

    async fn tell(&self, purges: &[&Purge]) -> Result<Vec<u64>, Unanswered> {
        let offset = self.offset();
        let fill = |command: &mut redis::Cmd| {
            command.arg(1).arg(KEY).arg(MOST);
            for purge in purges {
                let (kind, text) = match &purge.what {
                    What::Key(text) => ("k", text),
                    What::Prefix(text) => ("p", text),
                    What::Tag(text) => ("t", text),
                };
                let soft = match purge.how {
                    How::Hard => String::new(),
                    How::Soft(at) => at.saturating_add_signed(offset).to_string(),
                };
                command.arg(kind).arg(&**text).arg(soft);
            }
        };
        let read = |answer: &Value| match answer {
            Value::Array(ids) => ids.iter().map(|id| number(bytes(id)?)).collect(),
            _ => None,
        };
        self.redis.run(&PUBLISH, fill, read).await
    }

    async fn poll(&self) -> Result<Page, Unanswered> {
        let read_to = self.latest();
        let from = if read_to == 0 { "-".to_owned() } else { id(read_to) };
        let fill = |command: &mut redis::Cmd| {
            command.arg(1).arg(KEY).arg(&from).arg(AT_ONCE);
        };
        self.redis.run(&POLL, fill, read_page).await
    }

    /// Takes in what a look has brought. `known`: what is in memory and on disk is not met by what is before that; `own` was purged
    /// here already.
    fn read(&self, page: Page, known: &mut u64, own: &HashSet<u64>) -> News {
        let ahead = i64::try_from(page.time).unwrap_or(0) - i64::try_from(now()).unwrap_or(0);
        let offset = if ahead.unsigned_abs() < SAME_TIME { 0 } else { ahead };
        self.offset.store(offset, Relaxed);
        let mut read_to = self.latest();
        let mut news = News::default();
        if page.last < read_to {
            // Redis has lost some: it failed over to one that did not have them yet.
            self.outbox.repeat();
            read_to = page.last;
            *known = page.last.min(*known);
        }
        let from = read_to;
        for line in page.lines.into_iter().filter(|line| line.number > from) {
            match line.says {
                Says::Begins(last) => {
                    self.purges.forget_before(line.number);
                    match last {
                        Some(last) => news.missed |= line.number > *known && last > read_to.max(*known),
                        None => self.outbox.repeat(),
                    }
                }
                Says::Purged(what, how) => {
                    let how = match how {
                        How::Hard => How::Hard,
                        How::Soft(at) => How::Soft(at.saturating_add_signed(-offset)),
                    };
                    // Of a key nothing is left in Redis.
                    if what.key().is_none() || how != How::Hard {
                        self.purges.add_numbered(line.number, what.clone(), how);
                    }
                    if line.number > *known && !own.contains(&line.number) {
                        self.metrics.record_heard();
                        news.purged.push((what, how));
                    }
                }
            }
            read_to = line.number;
        }
        self.read_to.store(read_to, Relaxed);
        news
    }
}

fn read_page(answer: &Value) -> Option<Page> {
    let Value::Array(parts) = answer else { return None };
    let [last, Value::Array(time), Value::Array(lines)] = &parts[..] else { return None };
    let [seconds, micros] = &time[..] else { return None };
    let whole = |value: &Value| std::str::from_utf8(bytes(value)?).ok()?.parse::<u64>().ok();
    let time = whole(seconds)?.checked_mul(1000)?.checked_add(whole(micros)? / 1000)?;
    let is_full = lines.len() >= AT_ONCE;
    // One that cannot be read is none of ours, or of a later version; what it means is not known.
    let unknown = |number| Line { number, says: Says::Purged(What::Prefix(Box::default()), How::Hard) };
    let lines = lines.iter().map(|line| {
        read_line(line).map(|(number, says)| says.map_or_else(|| unknown(number), |says| Line { number, says }))
    });
    Some(Page { last: number(bytes(last)?)?, time, lines: lines.collect::<Option<_>>()?, is_full })
}

fn read_line(line: &Value) -> Option<(u64, Option<Says>)> {
    let Value::Array(parts) = line else { return None };
    let [id, Value::Array(fields)] = &parts[..] else { return None };
    let number = number(bytes(id)?)?;
    let says = || {
        let [kind, text, _, soft] = &fields[..] else { return None };
        let (text, soft) = (bytes(text)?, std::str::from_utf8(bytes(soft)?).ok()?);
        let how = if soft.is_empty() { How::Hard } else { How::Soft(soft.parse().ok()?) };
        Some(match bytes(kind)? {
            b"b" => Says::Begins(self::number(text)),
            b"k" => Says::Purged(What::Key(text.into()), how),
            b"p" => Says::Purged(What::Prefix(text.into()), how),
            b"t" => Says::Purged(What::Tag(text.into()), how),
            _ => return None,
        })
    };
    Some((number, says()))
}
