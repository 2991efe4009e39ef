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
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::config::model;
use crate::observe::metrics::{RedisError as Kind, RedisMetrics};
use breaker::Breaker;
use connect::Link;
pub use connect::check;

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
    /// The connection in use; none while Redis is not asked.
    link: ArcSwapOption<Link>,
    breaker: Breaker,
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
    /// # Errors
    /// `redis.ca` cannot be used.
    pub async fn start(config: model::Redis) -> Result<Arc<Self>, String> {
        let certificates = connect::certificates(&config)?;
        let core = Arc::new(Core {
            breaker: Breaker::new(&config.url.kind),
            config,
            link: ArcSwapOption::empty(),
            tripped: Notify::new(),
            tried: Notify::new(),
            metrics: Arc::default(),
        });
        let tried = core.tried.notified();
        let keeper = tokio::spawn(keeper::keep(core.clone(), certificates)).abort_handle();
        let redis = Arc::new(Self { core: core.clone(), keeper });
        let _ = tokio::time::timeout(FIRST_CONNECTION, tried).await;
        Ok(redis)
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
    /// and the arguments.
    ///
    /// # Errors
    /// Why there is no answer; within `timeout`, whatever happens.
    pub async fn run(&self, script: &Script, fill: impl Fn(&mut Cmd) + Send) -> Result<Value, Unanswered> {
        let Some(link) = self.core.link.load_full() else {
            return Err(Unanswered { kind: Kind::Down, detail: "it has not answered before".to_owned() });
        };
        self.core.run(&link, script, fill).await
    }

    /// Says that an answer was none that the script gives: whoever is at the other end is not to be asked on.
    #[must_use]
    pub fn distrust(&self, detail: String) -> Unanswered {
        let unanswered = Unanswered { kind: Kind::Nonsense, detail };
        if let Some(link) = self.core.link.load_full() {
            self.core.trip(&link, &unanswered);
        }
        unanswered
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Core {
    async fn run(
        self: &Arc<Self>,
        link: &Arc<Link>,
        script: &Script,
        fill: impl Fn(&mut Cmd) + Send,
    ) -> Result<Value, Unanswered> {
        let answer = tokio::time::timeout(self.config.timeout, evaluate(link, script, fill)).await;
        let unanswered = match answer {
            Ok(Ok(value)) => {
                self.breaker.succeeded();
                return Ok(value);
            }
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
            tracing::warn!(redis = %self.config.url, error = %why, "redis is not asked until it answers again");
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
        ErrorKind::Server(_) | ErrorKind::Extension => Kind::Server,
        _ if error.is_timeout() => Kind::Timeout,
        _ => Kind::Connection,
    };
    Unanswered { kind, detail: error.to_string() }
}
