//! The task that keeps one connection: makes it, proves it, watches it, and makes another.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::connect::{Link, connect_aside};
use super::{Core, Script, Unanswered, unanswered};
use crate::observe::metrics::RedisError as Kind;

/// Between two looks at a connection.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Between two looks once one went wrong.
const SUSPICIOUS: Duration = Duration::from_millis(200);
/// Between two tries to connect, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// A connection that was good for less is no reason to believe in the next at once.
const SETTLED: Duration = Duration::from_secs(10);
/// The longest that a proof may take, whatever requests have.
const PROOF: Duration = Duration::from_secs(2);

/// What limits do, in small: a script that writes. A Redis that is full, read-only or forbids it fails this as it would fail them.
static PROBE: LazyLock<Script> =
    LazyLock::new(|| Script::new("return redis.call('SET', KEYS[1], redis.call('TIME')[1], 'PX', 60000)"));

/// Runs for as long as the Redis is configured.
pub(super) async fn keep_on(core: Arc<Core>) {
    loop {
        // Aborted together with this.
        let mut keeper = JoinSet::new();
        keeper.spawn(keep(core.clone()));
        keeper.join_next().await;
        // It ends by a panic alone, which is in the log; nobody else would look for Redis.
        core.link.store(None);
        sleep(LAST_PAUSE).await;
    }
}

async fn keep(core: Arc<Core>) {
    let mut pause = Duration::ZERO;
    // What was said of the trouble it is in.
    let mut told: Option<Kind> = None;
    loop {
        sleep(pause).await;
        match establish(&core).await {
            Ok(link) => {
                let since = Instant::now();
                core.breaker.succeeded();
                *core.trouble.lock() = None;
                core.link.store(Some(link.clone()));
                core.metrics.came_up();
                tracing::info!(redis = %core.config.url, user = core.metrics.user(), "redis answers");
                core.tried.notify_waiters();
                watch(&core, &link).await;
                told = core.trouble.lock().as_ref().map(|why| why.kind);
                if since.elapsed() > SETTLED {
                    pause = Duration::ZERO;
                    continue;
                }
            }
            Err(why) => {
                tell(&core, &why, &mut told);
                *core.trouble.lock() = Some(why);
                core.tried.notify_waiters();
            }
        }
        pause = (pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE);
    }
}

/// One line when it is found not to answer, and one more if it then answers that it does not want to: that does not pass by itself.
fn tell(core: &Core, why: &Unanswered, told: &mut Option<Kind>) {
    match told {
        None => {
            core.metrics.went_down();
            tracing::warn!(redis = %core.config.url, user = core.metrics.user(), error = %why, "redis is not asked until it answers");
        }
        Some(before) if why.kind == Kind::Server && *before != Kind::Server => {
            tracing::warn!(redis = %core.config.url, user = core.metrics.user(), error = %why, "redis refuses what it is asked");
        }
        Some(_) => {
            tracing::debug!(redis = %core.config.url, user = core.metrics.user(), error = %why, "redis does not answer yet");
            return;
        }
    }
    *told = Some(why.kind);
}

/// A connection over which an answer has come in time.
async fn establish(core: &Core) -> Result<Arc<Link>, Unanswered> {
    let connected = connect_aside(core.config.clone(), core.authorities.clone()).await;
    let link = connected.map_err(|error| unanswered(&error))?;
    let proof = timeout(core.config.timeout.min(PROOF), super::evaluate(&link, &PROBE, probe)).await;
    let late = |_| Unanswered { kind: Kind::Timeout, detail: "no answer in time on a new connection".to_owned() };
    let answer = proof.map_err(late)?.map_err(|error| unanswered(&error))?;
    match is_proof(&answer) {
        Some(()) => Ok(Arc::new(link)),
        None => Err(Unanswered { kind: Kind::Nonsense, detail: format!("{answer:?}").chars().take(200).collect() }),
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
        interval = match core.run(link, &PROBE, probe, is_proof).await {
            Ok(()) => HEARTBEAT,
            Err(_) => SUSPICIOUS,
        };
    }
}

fn is_proof(answer: &Value) -> Option<()> {
    matches!(answer, Value::Okay).then_some(())
}

/// Another key each time: in a cluster they are on all nodes.
fn probe(command: &mut redis::Cmd) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Relaxed) % 64;
    command.arg(1).arg(format!("propylon:probe:{number}"));
}
