//! The one Redis client: limits ask through it, and whatever else is shared between gateways.
//!
//! A question takes one round trip over one connection that all requests share, and never longer than `timeout`. A breaker
//! ([`breaker`]) stops asking a Redis that does not answer; a task of its own ([`keeper`]) connects ([`connect`]), looks after the
//! connection and finds Redis again, so that no request ever waits for any of that.
//!
//! The crate's `ConnectionManager` is not used: it keeps a connection on which nothing answers any more, as after the loss of a
//! machine, and connects anew while requests wait (redis 1.8.1, `aio/connection_manager.rs:410`).

mod breaker;
mod connect;
mod keeper;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::config::model;
use crate::observe::metrics::{RedisError as Kind, RedisMetrics, RedisUser};
use breaker::Breaker;
use connect::Link;
pub use connect::{authorities, quiet};

/// How long a configuration that comes into force waits for its first connection.
const FIRST_CONNECTION: Duration = Duration::from_secs(1);

/// A Redis, whichever way it is set up. Dropping the last handle ends its connection.
#[derive(Debug)]
pub struct Redis {
    core: Arc<Core>,
    keeper: AbortHandle,
}

/// What requests and the keeper share.
#[derive(Debug)]
struct Core {
    config: model::Redis,
    /// PEM; none: those this system trusts.
    authorities: Option<Vec<u8>>,
    /// The connection in use; none while Redis is not asked.
    link: ArcSwapOption<Link>,
    breaker: Breaker,
    /// Why it is not asked, if it is not.
    trouble: Mutex<Option<Unanswered>>,
    /// Wakes the keeper: the connection is no good.
    tripped: Notify,
    /// The keeper has tried to connect.
    tried: Notify,
    metrics: Arc<RedisMetrics>,
}

/// A script and the SHA-1 by which a Redis that has run it before knows it.
#[derive(Debug)]
pub struct Script {
    text: &'static str,
    hash: Box<str>,
}

impl Script {
    #[must_use]
    pub fn new(text: &'static str) -> Self {
        Self { text, hash: redis::Script::new(text).get_hash().into() }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    pub kind: Kind,
    pub detail: String,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.kind.text(), self.detail)
    }
}

impl Redis {
    /// Begins to keep a connection, and waits a moment for it. A Redis that is not there is no error: it is looked for.
    ///
    /// `authorities` is what [`authorities`] has read; `user` is what it is for, as it is shown.
    pub async fn start(config: model::Redis, authorities: Option<Vec<u8>>, user: RedisUser) -> Arc<Self> {
        let core = Arc::new(Core {
            breaker: Breaker::new(&config.url.kind),
            config,
            authorities,
            link: ArcSwapOption::empty(),
            trouble: Mutex::default(),
            tripped: Notify::new(),
            tried: Notify::new(),
            metrics: Arc::new(RedisMetrics::new(user)),
        });
        let tried = core.tried.notified();
        let keeper = tokio::spawn(keeper::keep_on(core.clone())).abort_handle();
        let redis = Arc::new(Self { core: core.clone(), keeper });
        let _ = tokio::time::timeout(FIRST_CONNECTION, tried).await;
        redis
    }

    /// What is shown of it.
    #[must_use]
    pub fn metrics(&self) -> Arc<RedisMetrics> {
        self.core.metrics.clone()
    }

    /// What it was made of.
    #[must_use]
    pub fn config(&self) -> &model::Redis {
        &self.core.config
    }

    /// Whether it was made of just this.
    #[must_use]
    pub fn is_of(&self, config: &model::Redis, authorities: Option<&Vec<u8>>) -> bool {
        self.core.config == *config && self.core.authorities.as_ref() == authorities
    }

    /// Why it is not asked at the moment.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.core.trouble.lock().as_ref().map(ToString::to_string)
    }

    /// Whether it is asked at the moment.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.core.link.load().is_some()
    }

    /// Whether keys that are asked for together must be asked for one by one: a cluster has each on a node of its own.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        matches!(self.core.config.url.kind, model::RedisKind::Cluster(_))
    }

    /// Runs a script: one round trip, or two where this Redis does not know it yet. `fill` adds the number of keys, the keys
    /// and the arguments; `read` takes the answer in, and gives none where no such script answers so: then whoever is at the
    /// other end is not asked on.
    ///
    /// # Errors
    /// Why there is no answer; within `timeout`, whatever happens.
    pub async fn run<T>(
        &self,
        script: &Script,
        fill: impl Fn(&mut Cmd) + Send,
        read: impl FnOnce(&Value) -> Option<T> + Send,
    ) -> Result<T, Unanswered> {
        let Some(link) = self.core.link.load_full() else {
            return Err(Unanswered { kind: Kind::Down, detail: "it has not answered before".to_owned() });
        };
        self.core.run(&link, script, fill, read).await
    }

    /// Asks nobody any more: another configuration is in force, and who still lives by this one needs no Redis.
    pub fn stop(&self) {
        self.keeper.abort();
        self.core.link.store(None);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Core {
    async fn run<T>(
        self: &Arc<Self>,
        link: &Arc<Link>,
        script: &Script,
        fill: impl Fn(&mut Cmd) + Send,
        read: impl FnOnce(&Value) -> Option<T> + Send,
    ) -> Result<T, Unanswered> {
        let unanswered = match tokio::time::timeout(self.config.timeout, evaluate(link, script, fill)).await {
            Ok(Ok(value)) => match read(&value) {
                Some(answer) => {
                    self.breaker.succeeded();
                    return Ok(answer);
                }
                None => Unanswered { kind: Kind::Nonsense, detail: format!("{value:?}").chars().take(200).collect() },
            },
            Ok(Err(error)) => unanswered(&error),
            Err(_) => {
                let detail = format!("no answer within {} ms", self.config.timeout.as_millis());
                Unanswered { kind: Kind::Timeout, detail }
            }
        };
        if self.breaker.failed(unanswered.kind) {
            self.trip(link, &unanswered);
        }
        Err(unanswered)
    }

    /// Stops asking over `link`. Says so once, however many requests find out.
    fn trip(&self, link: &Arc<Link>, why: &Unanswered) {
        let previous = self.link.compare_and_swap(link, None);
        if previous.as_ref().is_some_and(|previous| Arc::ptr_eq(previous, link)) {
            self.metrics.went_down();
            *self.trouble.lock() = Some(why.clone());
            tracing::warn!(redis = %self.config.url, user = self.metrics.user(), error = %why, "redis is not asked until it answers again");
            self.tripped.notify_one();
        }
    }
}

async fn evaluate(link: &Link, script: &Script, fill: impl Fn(&mut Cmd)) -> Result<Value, RedisError> {
    let mut link = link.clone();
    let mut by_hash = redis::cmd("EVALSHA");
    by_hash.arg(&*script.hash);
    fill(&mut by_hash);
    match link.send(&by_hash).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            let mut whole = redis::cmd("EVAL");
            whole.arg(script.text);
            fill(&mut whole);
            link.send(&whole).await
        }
        answer => answer,
    }
}

fn unanswered(error: &RedisError) -> Unanswered {
    let kind = match error.kind() {
        ErrorKind::Parse => Kind::Nonsense,
        // It passes by itself.
        ErrorKind::Server(ServerErrorKind::BusyLoading) => Kind::Down,
        ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed => Kind::Server,
        _ if error.is_timeout() => Kind::Timeout,
        _ => Kind::Connection,
    };
    Unanswered { kind, detail: error.to_string() }
}
