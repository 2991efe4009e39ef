//! The task that keeps one connection: makes it, proves it, watches it, and makes another.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::{TlsCertificates, Value};
use tokio::time::{Instant, sleep, timeout};

use super::connect::{Link, connect};
use super::{Core, Script, Unanswered, unanswered};
use crate::observe::metrics::RedisError as Kind;

/// Between two looks at a connection.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Between two looks once one went wrong.
const SUSPICIOUS: Duration = Duration::from_millis(200);
/// Between two tries to connect, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// A connection that was good for less is no reason to believe in the next at once.
const SETTLED: Duration = Duration::from_secs(10);
/// The whole of a try: names, connections, logging in, Sentinels one after the other.
const TRY: Duration = Duration::from_secs(5);

/// What limits do, in small: a script that writes. A Redis that is full, read-only or forbids it fails this as it would fail them.
static PROBE: LazyLock<Script> =
    LazyLock::new(|| Script::new("return redis.call('SET', KEYS[1], redis.call('TIME')[1], 'PX', 60000)"));

/// Runs for as long as the Redis is configured.
pub(super) async fn keep(core: Arc<Core>, certificates: Option<TlsCertificates>) {
    let mut pause = Duration::ZERO;
    let mut told = false;
    loop {
        sleep(pause).await;
        match establish(&core, certificates.as_ref()).await {
            Ok(link) => {
                let since = Instant::now();
                core.breaker.succeeded();
                core.link.store(Some(link.clone()));
                core.metrics.came_up();
                tracing::info!(redis = %core.config.url, "redis answers");
                told = true;
                core.tried.notify_waiters();
                watch(&core, &link).await;
                if since.elapsed() > SETTLED {
                    pause = Duration::ZERO;
                    continue;
                }
            }
            Err(why) if !told => {
                told = true;
                core.metrics.went_down();
                tracing::warn!(redis = %core.config.url, error = %why, "redis is not asked until it answers");
                core.tried.notify_waiters();
            }
            Err(why) => tracing::debug!(redis = %core.config.url, error = %why, "redis does not answer yet"),
        }
        pause = (pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE);
    }
}

/// A connection over which an answer has come in time.
async fn establish(core: &Core, certificates: Option<&TlsCertificates>) -> Result<Arc<Link>, Unanswered> {
    let late = |what: &str| Unanswered { kind: Kind::Timeout, detail: what.to_owned() };
    let connected = timeout(TRY, connect(&core.config, certificates)).await;
    let link = connected.map_err(|_| late("no connection"))?.map_err(|error| unanswered(&error))?;
    let proof = timeout(core.config.timeout, super::evaluate(&link, &PROBE, probe)).await;
    match proof.map_err(|_| late("no answer in time on a new connection"))?.map_err(|error| unanswered(&error))? {
        Value::Okay => Ok(Arc::new(link)),
        other => Err(Unanswered {
            kind: Kind::Nonsense,
            detail: format!("{other:?} to a probe").chars().take(100).collect(),
        }),
    }
}

/// Returns when the connection is not in use any more. Asks now and then, so that a Redis is missed before a request needs it.
async fn watch(core: &Arc<Core>, link: &Arc<Link>) {
    let mut interval = HEARTBEAT;
    loop {
        tokio::select! {
            () = core.tripped.notified() => return,
            () = sleep(interval) => {}
        }
        interval = match core.run(link, &PROBE, probe).await {
            Ok(_) => HEARTBEAT,
            Err(_) => SUSPICIOUS,
        };
    }
}

fn probe(command: &mut redis::Cmd) {
    command.arg(1).arg("propylon:probe");
}
