//! The third tier: Redis, which several gateways share. Small answers are kept there for all of them, one of them fetches what all
//! want, and what is purged at one is purged at all.
//!
//! Under one key of the cache there are two hashes in Redis: the answers ([`packed`]), by what of the request they depend on, and the
//! leases. Who finds no answer gets a lease: the right to fetch it, for which others wait, and the right to keep it. A purge takes both
//! away, so what was fetched before it is not kept after. Gateways tell each other of purges in a [`log`](self::log).
//!
//! Nothing here is needed: while Redis does not answer each gateway goes on by itself. No question takes longer than
//! `redis.timeout`, and none waits for another gateway longer than the rule's `collapse_timeout`. It has a connection of its own, so that bodies
//! do not hold up what limits ask.

mod lines;
mod log;
mod outbox;
mod packed;

use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use http::HeaderName;
use redis::{Cmd, Value};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::Cache;
use super::entry::Entry;
use super::freshness::Millis;
use super::purge::{Found, How, What};
use super::{half_sha256, vary};
use crate::headers::Headers;
use crate::observe::metrics::{SharedLook, SharedMetrics, SharedWrite};
use crate::redis::{Redis, Script, Unanswered};
pub use lines::{Followed, Says};
use log::Log;
pub use outbox::Outbox;

static LOOK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("look.lua")));
static KEEP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("keep.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("release.lua")));

/// Questions that may be under way at once: each may bring [`packed::MOST`].
const LOOKS: usize = 64;
/// The same for what is kept, and for leases that are given back.
const WRITES: usize = 64;
const RELEASES: usize = 256;
/// How long gateways fetch for themselves what was no answer for others.
const ALONE: Duration = Duration::from_millis(250);
/// What is only good for asking the app whether it is still true is kept so long, in milliseconds.
const VALIDATORS: Millis = 600_000;
/// Longer is not kept: what is wanted is kept anew by then.
const LONGEST: Millis = 30 * 24 * 3_600_000;
/// The field of answers that depend on nothing, and of leases where it is not known on what they do.
const PLAIN: &str = ".";

/// See the module.
#[derive(Debug)]
pub struct Tier {
    core: Arc<Core>,
    follower: AbortHandle,
}

#[derive(Debug)]
struct Core {
    redis: Arc<Redis>,
    log: Arc<Log>,
    looks: Semaphore,
    writes: Arc<Semaphore>,
    releases: Arc<Semaphore>,
    metrics: Arc<SharedMetrics>,
}

impl Drop for Tier {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// Where the answers under one key of the cache are: in one slot of a cluster.
#[derive(Debug, Clone)]
struct Keys {
    hash: [u8; 16],
    answers: String,
    leases: String,
}

impl Keys {
    fn of(primary: &[u8]) -> Self {
        let hash = half_sha256(primary);
        let hex = hex::encode(hash);
        Self { hash, answers: format!("propylon:cache:{{{hex}}}"), leases: format!("propylon:cache:{{{hex}}}:leases") }
    }
}

/// The field for a request that says this in the fields on which answers depend.
fn field(names: &[HeaderName], request: &Headers) -> String {
    if names.is_empty() {
        return PLAIN.to_owned();
    }
    let mut variant = Vec::new();
    vary::write(names, request, &mut variant);
    hex::encode(half_sha256(&variant))
}

/// What a request wants to know.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub primary: &'a [u8],
    pub request: &'a Headers,
    /// Request fields on which answers depend in any case.
    pub always: &'a [HeaderName],
    /// The request fetches for others, who wait for it so long. None: it only looks.
    pub leads: Option<Duration>,
}

/// What there is already: only what came after it is an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Version(String);

/// What a look has brought.
#[derive(Debug)]
pub enum Look<E = Entry> {
    Entry(E, Version),
    /// This request is to fetch it.
    Lease(Lease),
    /// Another gateway fetches it.
    Wait,
    /// Answers of late were not to be kept.
    Pass,
    Nothing,
}

impl<E> Look<E> {
    /// Makes another of an answer, if it is one.
    pub fn and_then<F>(self, make: impl FnOnce(E, Version) -> Look<F>) -> Look<F> {
        match self {
            Self::Entry(entry, version) => make(entry, version),
            Self::Lease(lease) => Look::Lease(lease),
            Self::Wait => Look::Wait,
            Self::Pass => Look::Pass,
            Self::Nothing => Look::Nothing,
        }
    }
}

/// What Redis has said.
#[derive(Debug)]
enum Said {
    Vary(Vec<HeaderName>),
    Answer(Vec<u8>),
    Lease,
    Wait,
    Pass,
    Nothing,
}

impl Tier {
    /// Begins to follow what is purged elsewhere.
    pub fn start(redis: Arc<Redis>, cache: Weak<Cache>, outbox: Arc<Outbox>, metrics: Arc<SharedMetrics>) -> Self {
        let log = Arc::new(Log::new(redis.clone(), outbox, metrics.clone()));
        let follower = tokio::spawn(log.clone().follow(cache)).abort_handle();
        let (looks, writes) = (Semaphore::new(LOOKS), Arc::new(Semaphore::new(WRITES)));
        let releases = Arc::new(Semaphore::new(RELEASES));
        Self { core: Arc::new(Core { redis, log, looks, writes, releases, metrics }), follower }
    }

    /// Whether it is in this Redis.
    #[must_use]
    pub fn is_in(&self, redis: &Arc<Redis>) -> bool {
        Arc::ptr_eq(&self.core.redis, redis)
    }

    /// Whether what is in Redis can be used: the log of purges is being read.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.core.log.is_current()
    }

    /// How the version of an entry of ours is written.
    #[must_use]
    pub fn version(&self, entry: &Entry) -> Version {
        Version(packed::version(entry.terms.came, self.core.log.offset()))
    }

    /// Looks for the answer to a request, or for the right to fetch it.
    pub async fn look(&self, question: &Question<'_>, than: &Version) -> Look {
        let keys = Keys::of(question.primary);
        let core = &self.core;
        // What follows a purge of this gateway's own waits until it is done there.
        if !core.redis.is_up() || !core.log.knows(&keys, self.patience()).await {
            core.metrics.record_look(SharedLook::Down);
            return Look::Nothing;
        }
        let (look, result) = match core.looks.try_acquire() {
            Ok(_room) => core.look(question, &keys, than).await,
            Err(_) => (Look::Nothing, SharedLook::Busy),
        };
        core.metrics.record_look(result);
        look
    }

    /// Tells other gateways what is purged here. What comes back is for [`Tier::told`].
    #[must_use]
    pub fn tell(&self, purged: &[What], how: How) -> u64 {
        self.core.log.outbox.put(purged.iter().map(|what| (what.clone(), how)))
    }

    /// How long Redis may take.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.core.redis.config().timeout
    }

    /// Waits until the others can know; whether that was in time.
    pub async fn told(&self, number: u64, patience: Duration) -> bool {
        self.core.log.outbox.told(number, patience).await
    }
}

impl Core {
    async fn look(self: &Arc<Self>, question: &Question<'_>, keys: &Keys, than: &Version) -> (Look, SharedLook) {
        let mut lease = question.leads.map(|_| Lease::new(self.clone(), keys.clone()));
        let mut than = &than.0;
        let unusable = "f".repeat(packed::VERSION);
        let mut names = Vec::new();
        let begin = Instant::now();
        // What answers depend on is found out by the first question, and what is there may be of no use.
        for round in 0..4 {
            if round > 0 && begin.elapsed() > self.redis.config().timeout {
                break;
            }
            let field = field(&names, question.request);
            // From here on it may be ours, whether or not we get to hear of it.
            let token = lease.as_mut().map(|lease| lease.ask_for(&field).to_owned()).unwrap_or_default();
            let said = self.ask(question, keys, &names, &field, than, &token).await;
            if let (Some(lease), Ok(said)) = (&mut lease, &said) {
                lease.is_open = matches!(said, Said::Lease);
            }
            match said {
                Ok(Said::Vary(vary)) if !question.always.iter().all(|name| vary.contains(name)) => break,
                Ok(Said::Vary(vary)) => names = vary,
                Ok(Said::Answer(value)) => match self.entry(question, &value) {
                    Ok((entry, version)) => return (Look::Entry(entry, version), SharedLook::Found),
                    Err(why) => {
                        self.metrics.record_look(why);
                        than = &unusable;
                    }
                },
                Ok(Said::Lease) => return (lease.map_or(Look::Nothing, Look::Lease), SharedLook::Lease),
                Ok(Said::Wait) => return (Look::Wait, SharedLook::Wait),
                Ok(Said::Pass) => return (Look::Pass, SharedLook::Pass),
                Ok(Said::Nothing) => break,
                Err(error) => {
                    tracing::debug!(%error, "the cache in redis did not answer");
                    return (lease.map_or(Look::Nothing, Look::Lease), SharedLook::Failed);
                }
            }
        }
        (Look::Nothing, SharedLook::Nothing)
    }

    async fn ask(
        &self,
        question: &Question<'_>,
        keys: &Keys,
        names: &[HeaderName],
        field: &str,
        than: &str,
        token: &str,
    ) -> Result<Said, Unanswered> {
        let wait = u64::try_from(question.leads.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        let names = joined(names);
        let fill = |command: &mut Cmd| {
            command.arg(2).arg(&keys.answers).arg(&keys.leases);
            command.arg(&names).arg(field).arg(than).arg(token).arg(wait);
        };
        self.redis.run(&LOOK, fill, said).await
    }

    /// Makes sure that it is an answer to the question, and not purged.
    fn entry(&self, question: &Question<'_>, value: &[u8]) -> Result<(Entry, Version), SharedLook> {
        let Some((entry, after, version)) = packed::unpack(value, self.log.offset()) else {
            tracing::warn!("an answer in redis is torn or of another version, and not used");
            return Err(SharedLook::Torn);
        };
        let always = question.always;
        if *entry.primary != *question.primary
            || !entry.suits(question.request)
            || !always.iter().all(|name| entry.varies.contains(name))
        {
            return Err(SharedLook::Torn);
        }
        match self.log.find(&entry, after) {
            Found::Gone => Err(SharedLook::Purged),
            Found::Kept | Found::Stale => Ok((entry, Version(version))),
        }
    }
}

/// Of one request: nobody else's.
fn token() -> String {
    let mut bytes = [0; 12];
    // Without it two might think that they have the same lease; no system is without.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    hex::encode(bytes)
}

fn joined(names: &[HeaderName]) -> String {
    names.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(",")
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        _ => None,
    }
}

fn said(answer: &Value) -> Option<Said> {
    let Value::Array(parts) = answer else { return None };
    match (bytes(parts.first()?)?, parts.get(1)) {
        (b"vary", Some(names)) => {
            let names = std::str::from_utf8(bytes(names)?).ok()?.split(',').filter(|name| !name.is_empty());
            Some(Said::Vary(names.map(|name| name.parse().ok()).collect::<Option<_>>()?))
        }
        (b"answer", Some(value)) => Some(Said::Answer(bytes(value)?.to_vec())),
        (b"lease", None) => Some(Said::Lease),
        (b"wait", None) => Some(Said::Wait),
        (b"pass", None) => Some(Said::Pass),
        (b"nothing", None) => Some(Said::Nothing),
        _ => None,
    }
}

/// What becomes of those who want what was fetched, and is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It will not be kept: nobody waits for it, in any gateway.
    Pass,
    /// It was not for others, as an error; for a moment each gateway fetches for itself.
    Alone,
}

/// The right to fetch an answer for all gateways. Dropped without a word, another has it.
#[derive(Debug)]
pub struct Lease {
    core: Arc<Core>,
    keys: Keys,
    field: String,
    token: String,
    /// The last purge that was known before.
    after: u64,
    is_open: bool,
}

impl Lease {
    /// One that is still to be asked for.
    fn new(core: Arc<Core>, keys: Keys) -> Self {
        let after = core.log.latest();
        Self { core, keys, field: String::new(), token: token(), after, is_open: false }
    }

    /// Its token, with which it is asked for; it is given back even if nothing is heard of it.
    fn ask_for(&mut self, field: &str) -> &str {
        field.clone_into(&mut self.field);
        self.is_open = true;
        &self.token
    }

    /// Keeps what was fetched, a moment later.
    pub fn keep(mut self, entry: Arc<Entry>) {
        self.is_open = false;
        let core = self.core.clone();
        let Ok(room) = core.writes.clone().try_acquire_owned() else {
            // The lease runs out by itself.
            return core.metrics.record_write(SharedWrite::Skipped);
        };
        tokio::spawn(async move {
            let result = self.write(&entry).await;
            core.metrics.record_write(result);
            drop(room);
        });
    }

    async fn write(&self, entry: &Entry) -> SharedWrite {
        let value = packed::pack(entry, self.after, self.core.log.offset());
        let is_large = value.len() == packed::VERSION;
        let field = variant(entry);
        let (names, lifetime) = (joined(&entry.varies), lifetime(entry, super::now()));
        let fill = |command: &mut Cmd| {
            command.arg(2).arg(&self.keys.answers).arg(&self.keys.leases).arg(&self.field).arg(&self.token);
            command.arg(&names).arg(&field).arg(&value).arg(lifetime);
        };
        match self.core.redis.run(&KEEP, fill, integer).await {
            Ok(1) if is_large => SharedWrite::TooLarge,
            Ok(1) => SharedWrite::Written,
            Ok(_) => SharedWrite::Overtaken,
            Err(error) => {
                tracing::debug!(%error, "an answer was not kept in redis");
                SharedWrite::Failed
            }
        }
    }

    /// Nothing is kept, and others are told what to do for a while.
    pub fn refuse(mut self, refusal: Refusal) {
        self.release(Some(refusal));
    }

    fn release(&mut self, refusal: Option<Refusal>) {
        if !std::mem::replace(&mut self.is_open, false) {
            return;
        }
        let (Ok(runtime), Ok(room)) = (Handle::try_current(), self.core.releases.clone().try_acquire_owned()) else {
            return;
        };
        let (core, leases) = (self.core.clone(), self.keys.leases.clone());
        let (field, token) = (std::mem::take(&mut self.field), std::mem::take(&mut self.token));
        runtime.spawn(async move {
            let fill = |command: &mut Cmd| {
                command.arg(1).arg(&leases).arg(&field).arg(&token);
                let (word, time) = match refusal {
                    Some(Refusal::Pass) => ("pass", super::PASS.as_millis()),
                    Some(Refusal::Alone) => ("alone", ALONE.as_millis()),
                    None => ("", 0),
                };
                command.arg(word).arg(u64::try_from(time).unwrap_or(u64::MAX));
            };
            if let Err(error) = core.redis.run(&RELEASE, fill, integer).await {
                tracing::debug!(%error, "a lease was not given back");
            }
            drop(room);
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.release(None);
    }
}

/// The field an entry is in.
fn variant(entry: &Entry) -> String {
    if entry.varies.is_empty() { PLAIN.to_owned() } else { hex::encode(half_sha256(&entry.variant)) }
}

/// How long it is of any use from now on, in milliseconds.
fn lifetime(entry: &Entry, now: Millis) -> Millis {
    let terms = &entry.terms;
    let fresh = terms.fresh_until.saturating_sub(now);
    let stale = terms.stale_while_revalidate.max(terms.stale_if_error);
    let has_validator =
        [http::header::ETAG, http::header::LAST_MODIFIED].iter().any(|name| entry.headers.contains(name));
    let asked_about = if has_validator { VALIDATORS } else { 0 };
    fresh.saturating_add(stale.max(asked_about)).clamp(1, LONGEST)
}
