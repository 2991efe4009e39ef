//! Other gateways that share what is kept: one of them has the answer, or fetches it, or it is this one's turn.

use std::time::Duration;

use tokio::time::Instant;

use super::{Visit, Way};
use crate::cache::policy::Use;
use crate::cache::shared::{Look, Question};
use crate::edge::session::Session;
use crate::proxy::rejection::Reason;
use crate::state::Shared;

/// Between two looks at what another gateway is fetching, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(40);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// There is an answer now that may be given.
    Found,
    /// The app is to be asked.
    Fetch,
    /// The same, and nobody is to wait for that.
    Pass,
    /// Another gateway is asking it.
    Wait,
}

/// Asks Redis for an answer that is better than what is there, or for the right to fetch it.
pub async fn ask(visit: &mut Visit, shared: &Shared) -> Asked {
    let Some(fetch) = visit.fetch.as_deref_mut() else { return Asked::Fetch };
    let Some(tier) = shared.cache.shared() else { return Asked::Fetch };
    // Hardly any answer is for who says who they are, and nothing remembers for which there is none.
    if fetch.asks.authorized {
        return Asked::Fetch;
    }
    let collapses = visit.way == Way::ForAll && !fetch.asks.says.only_if_cached;
    let question = Question {
        primary: &visit.primary,
        request: &fetch.asked,
        always: &visit.rule.config.key_headers,
        leads: collapses.then_some(visit.rule.config.collapse_timeout),
    };
    let mut than = visit.entry.as_ref().map(|entry| tier.version(entry)).unwrap_or_default();
    // What is there and only good for asking the app is followed by nothing, or by something newer.
    let begin = Instant::now();
    for round in 0..3 {
        if round > 0 && begin.elapsed() > tier.patience() {
            break;
        }
        match shared.cache.look_in_redis(&visit.rule, &question, &than).await {
            Look::Entry(entry, version) => {
                let usable = fetch.asks.use_of(&entry);
                if usable != Use::Nothing {
                    visit.entry = Some(entry);
                }
                if matches!(usable, Use::Fresh | Use::Stale { .. }) {
                    return Asked::Found;
                }
                than = version;
            }
            Look::Lease(lease) => {
                fetch.lease = Some(lease);
                return Asked::Fetch;
            }
            Look::Wait if collapses => return Asked::Wait,
            Look::Pass => return Asked::Pass,
            Look::Wait | Look::Nothing => return Asked::Fetch,
        }
    }
    Asked::Fetch
}

/// The same, and waits for another gateway that is asking the app, but not longer than `until`.
pub async fn wait(visit: &mut Visit, until: Instant, shared: &Shared) -> Asked {
    let mut pause = FIRST_PAUSE;
    loop {
        let asked = ask(visit, shared).await;
        if asked != Asked::Wait || Instant::now() >= until {
            return asked;
        }
        tokio::time::sleep_until(until.min(Instant::now() + pause)).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// The same for a request that a client waits for.
///
/// # Errors
/// The client or the gateway leaves.
pub async fn wait_for_client(
    session: &mut Session,
    visit: &mut Visit,
    until: Instant,
    shared: &Shared,
) -> Result<Asked, Reason> {
    tokio::select! {
        biased;
        asked = wait(visit, until, shared) => Ok(asked),
        () = session.departure() => Err(Reason::ClientClosed),
        () = shared.waiting_refused() => Err(Reason::Shutdown),
    }
}
