//! The endpoints of an upstream under one configuration: which of them a request gets, when it waits, and what failures do to
//! them.

use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::{Instant, sleep_until};

use crate::config::model;
use crate::observe::metrics::{QueueDrop, UpstreamMetrics};
use crate::upstream::chance;
use crate::upstream::ejection;
use crate::upstream::endpoint::{Clock, Endpoint, Lease};
use crate::upstream::queue::{Queue, Refused, Wanted, Wish};
use crate::upstream::reach::STEP_MIN;
use crate::upstream::selection::schedule::Schedule;
use crate::upstream::selection::{
    Candidate, Condition, Drawback, FULL_SHARE, idle, least_conn, rendezvous, two_choices,
};
use crate::upstream::socket::Secured;

/// How often a count is fought over before a slot is taken without comparing.
const SELECT_TRIES: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) rules: Rules,
    pub(super) metrics: Arc<UpstreamMetrics>,
    pub(super) queue: Arc<Queue>,
    targets: ArcSwap<Targets>,
}

/// What of the configuration matters here.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) balance: Balance,
    pub(super) queue: model::Queue,
    pub(super) slow_start: Duration,
    pub(super) ejection: model::Ejection,
}

/// How an endpoint is chosen. What the key of a hash is made of is the proxy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Balance {
    LeastConn,
    RoundRobin,
    P2c,
    Hash,
}

impl Rules {
    pub(super) fn new(config: &model::Upstream) -> Self {
        let balance = match config.balance {
            model::Balance::LeastConn => Balance::LeastConn,
            model::Balance::RoundRobin => Balance::RoundRobin,
            model::Balance::P2c => Balance::P2c,
            model::Balance::Hash(_) => Balance::Hash,
        };
        Self { balance, queue: config.queue, slow_start: config.slow_start, ejection: config.ejection }
    }
}

/// The endpoints of the moment.
#[derive(Debug, Default)]
pub struct Targets {
    pub list: Vec<Target>,
    schedule: Schedule,
    /// The greatest weight of those that are no backups.
    heaviest: u32,
}

/// An endpoint's place in an upstream.
#[derive(Debug)]
pub struct Target {
    pub endpoint: Arc<Endpoint>,
    pub weight: u32,
    pub backup: bool,
    /// None: plain HTTP.
    pub tls: Option<Arc<Secured>>,
}

impl Group {
    pub(super) fn new(rules: Rules, metrics: Arc<UpstreamMetrics>, queue: Arc<Queue>) -> Arc<Self> {
        Arc::new(Self { rules, metrics, queue, targets: ArcSwap::default() })
    }

    pub(super) fn targets(&self) -> Arc<Targets> {
        self.targets.load_full()
    }

    /// Replaces the endpoints; whether that changed anything. Who waits is placed among the new ones.
    pub(super) fn set_targets(&self, list: Vec<Target>) -> bool {
        let current = self.targets.load();
        let same = |(old, new): (&Target, &Target)| Arc::ptr_eq(&old.endpoint, &new.endpoint);
        if current.list.len() == list.len() && current.list.iter().zip(&list).all(same) {
            return false;
        }
        let schedule = Schedule::new(list.iter().map(|target| target.weight));
        let heaviest =
            list.iter().filter(|target| !target.backup).map(|target| target.weight).max().unwrap_or_default();
        self.targets.store(Arc::new(Targets { list, schedule, heaviest }));
        self.queue.offer();
        true
    }

    /// Takes a slot at once, or waits for one in turn.
    pub(super) async fn acquire(self: &Arc<Self>, wanted: &mut Wanted) -> Result<Lease, Refused> {
        if self.targets.load().list.is_empty() {
            return Err(Refused::NoEndpoint);
        }
        let ticket = wanted.ticket(&self.queue);
        // Boxed below, so that those who need not wait make no room for it.
        if wanted.is_resting() && !Box::pin(self.rest(wanted)).await {
            self.metrics.record_queue_drop(QueueDrop::Late);
            return Err(Refused::Late { unreachable: true });
        }
        // Nobody is overtaken: where others wait, this one lines up.
        let at_once = if self.queue.waiting() == 0 {
            self.take(Wish { hash: wanted.hash, tried: wanted.tried() }, ticket, &Clock::default())
        } else {
            None
        };
        let lease = match at_once {
            Some(lease) => lease,
            None => Box::pin(self.wait(wanted)).await?,
        };
        wanted.admit();
        Ok(lease)
    }

    /// Waits for a moment; false when that was the last one.
    async fn rest(&self, wanted: &mut Wanted) -> bool {
        let deadline = wanted.deadline_after(self.rules.queue.timeout);
        let queueing = wanted.queueing();
        sleep_until(deadline.min(Instant::now() + STEP_MIN)).await;
        queueing.end();
        wanted.end_rest();
        Instant::now() < deadline
    }

    pub(super) async fn wait(self: &Arc<Self>, wanted: &mut Wanted) -> Result<Lease, Refused> {
        let Some(mut stay) = self.queue.enter(self, wanted, self.room()) else {
            self.metrics.record_queue_drop(QueueDrop::Full);
            return Err(Refused::Full { unreachable: self.is_unreachable() });
        };
        if let Some(lease) = stay.served() {
            return Ok(lease);
        }
        let late = sleep_until(wanted.deadline_after(self.rules.queue.timeout));
        let queueing = wanted.queueing();
        let lease = {
            let mut late = pin!(late);
            poll_fn(|context| match stay.poll_served(context) {
                Poll::Ready(lease) => Poll::Ready(Some(lease)),
                Poll::Pending => late.as_mut().poll(context).map(|()| stay.give_up()),
            })
            .await
        };
        let queued = queueing.end();
        if let Some(lease) = lease {
            self.metrics.record_queue_wait(queued);
            return Ok(lease);
        }
        self.metrics.record_queue_drop(QueueDrop::Late);
        Err(Refused::Late { unreachable: self.is_unreachable() })
    }

    /// How many may wait at once. A slot that a health check has is no reason to send anybody away, even where nobody is to wait.
    fn room(&self) -> usize {
        let probing: u32 = self.targets.load().list.iter().map(|target| target.endpoint.probing()).sum();
        self.rules.queue.max.max(usize::try_from(probing).unwrap_or_default())
    }

    /// Whether no endpoint could be connected to, or all are drained, rather than all being busy.
    fn is_unreachable(&self) -> bool {
        let is_there = |target: &Target| target.endpoint.is_reachable() && !target.endpoint.is_drained();
        !self.targets.load().list.iter().any(is_there)
    }

    /// A slot on the endpoint that is to have the next request, if there is one. Among equals `turn` says whose turn it is, or chance
    /// where they are many.
    pub(super) fn take(&self, wish: Wish<'_>, turn: u64, clock: &Clock) -> Option<Lease> {
        let targets = self.targets.load();
        let chance = chance::next();
        // Whose turn it is, or whose key, does not depend on counts.
        let by_count = matches!(self.rules.balance, Balance::LeastConn | Balance::P2c);
        for attempt in 0_usize.. {
            let at = |index| targets.list.get(index).map(|target| self.judge(target, wish, chance, clock));
            let (index, candidate) = self.choose(&targets, &at, wish.hash, turn, chance)?;
            let observed = (by_count && attempt < SELECT_TRIES).then_some(candidate.in_flight);
            if let Some(lease) = targets.list.get(index)?.endpoint.take(observed, clock) {
                return Some(lease);
            }
            // Somebody else was faster, so that it gets on.
        }
        None
    }

    fn choose(
        &self,
        targets: &Targets,
        at: &impl Fn(usize) -> Option<Candidate>,
        hash: Option<u64>,
        turn: u64,
        chance: u64,
    ) -> Option<(usize, Candidate)> {
        // Only the rest of a division by a small number is of interest.
        let turn = usize::try_from(turn).unwrap_or_default();
        match (self.rules.balance, hash) {
            (Balance::RoundRobin, _) => targets.schedule.next(turn, at),
            (Balance::P2c, _) => two_choices(at, targets.list.len(), chance),
            (Balance::Hash, Some(key)) => rendezvous::highest(at, key),
            (Balance::LeastConn, _) | (Balance::Hash, None) => {
                idle(at, targets.list.len(), targets.heaviest, chance).or_else(|| least_conn(at, turn))
            }
        }
    }

    fn judge(&self, target: &Target, wish: Wish<'_>, chance: u64, clock: &Clock) -> Candidate {
        let endpoint = &target.endpoint;
        let (condition, share, free) = endpoint.standing(self.rules.slow_start, clock);
        let by_dice = matches!(self.rules.balance, Balance::RoundRobin | Balance::Hash) && share < FULL_SHARE;
        // The same for each look at it within one choice.
        let dice = || chance::below(chance::mix(chance ^ endpoint.id), usize::from(FULL_SHARE));
        Candidate {
            id: endpoint.id,
            in_flight: endpoint.in_flight(),
            free,
            weight: target.weight,
            share,
            backup: target.backup,
            condition,
            drawback: if wish.tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint)) {
                Drawback::Tried
            } else if by_dice && dice() >= usize::from(share) {
                Drawback::Reluctant
            } else {
                Drawback::None
            },
        }
    }

    /// When time alone will change what can be had; none if it will not.
    pub(super) fn next_change(&self, clock: &Clock) -> Option<Instant> {
        self.targets.load().list.iter().filter_map(|target| target.endpoint.next_change(clock)).min()
    }

    /// No connection could be made to `endpoint`: it is asked again in steps, and ejected if that was one failure too many.
    pub(super) fn record_connect_failure(&self, endpoint: &Arc<Endpoint>, error: &dyn Display) {
        if endpoint.record_connect_failure(&self.rules.ejection, error) {
            self.eject(endpoint);
        }
    }

    /// A request failed on `endpoint` after it had a connection.
    pub(super) fn record_failure(&self, endpoint: &Arc<Endpoint>) {
        if endpoint.record_failure(&self.rules.ejection) {
            self.eject(endpoint);
        }
    }

    /// Ejects `endpoint`, unless too many are out or nobody well would be left.
    fn eject(&self, endpoint: &Arc<Endpoint>) {
        let targets = self.targets.load();
        let clock = Clock::default();
        let _one_at_a_time = self.queue.ejecting.lock();
        let condition = |target: &Target| target.endpoint.standing(self.rules.slow_start, &clock).0;
        let others = || targets.list.iter().filter(|target| !Arc::ptr_eq(&target.endpoint, endpoint));
        let out = others().filter(|target| target.endpoint.is_ejected()).count();
        let is_left = others().any(|target| condition(target) == Condition::Well && target.endpoint.is_reachable());
        if is_left && !endpoint.is_ejected() && ejection::has_room(&self.rules.ejection, targets.list.len(), out) {
            endpoint.eject(&self.rules.ejection);
        }
    }
}

#[cfg(test)]
mod tests;
