//! What becomes of a fetch: it is kept or it is not, and those who wait are told.

use std::sync::Arc;

use http::StatusCode;

use super::{Visit, Way};
use crate::cache::Fetching;
use crate::cache::collapse::{Fetched, Lead};
use crate::cache::entry::{Body, Entry, Head};
use crate::cache::memory::Key;
use crate::cache::rule::Rule;
use crate::cache::shared::{Lease, Refusal};
use crate::headers::Headers;
use crate::observe::metrics::NotStored;
use crate::state::Shared;

/// The right to say what was fetched. Dropped without a word, nothing was.
pub(super) struct Claim {
    shared: Arc<Shared>,
    rule: Arc<Rule>,
    primary: Vec<u8>,
    /// Where others who want the same look.
    key: Key,
    /// What this request was answered says something of others: it is not one user's.
    is_for_all: bool,
    asked: Arc<Headers>,
    lead: Option<Lead>,
    lease: Option<Lease>,
    _under_way: Option<Fetching>,
}

impl Claim {
    /// Takes it from a request; the fetch has no other.
    pub fn of(visit: &mut Visit, shared: &Arc<Shared>) -> Option<Self> {
        let key = visit.lead_key();
        let fetch = visit.fetch.as_deref_mut()?;
        Some(Self {
            shared: shared.clone(),
            rule: visit.rule.clone(),
            primary: visit.primary.clone(),
            key,
            is_for_all: visit.way == Way::ForAll && !fetch.asks.authorized,
            asked: fetch.asked.clone(),
            lead: fetch.lead.take(),
            lease: fetch.lease.take(),
            _under_way: fetch.under_way.take(),
        })
    }

    /// Keeps what was fetched, and hands it to those who wait.
    ///
    /// # Errors
    /// It was purged meanwhile.
    pub fn keep(mut self, head: Head, body: Body) -> Result<Arc<Entry>, NotStored> {
        let status = head.status;
        match self.shared.cache.keep(&self.rule, head, body, &self.asked) {
            Ok(entry) => {
                if let Some(lease) = self.lease.take() {
                    lease.keep(entry.clone());
                }
                if let Some(lead) = self.lead {
                    lead.conclude(Fetched::Kept(entry.clone()));
                }
                Ok(entry)
            }
            Err(why) => Err(self.refuse(why, status)),
        }
    }

    /// It is not kept. Those who wait go their own ways, and so do those who come for a while, where that was not by chance.
    pub fn refuse(self, why: NotStored, status: StatusCode) -> NotStored {
        self.rule.metrics.record_not_stored(why);
        let by_chance = matches!(why, NotStored::Incomplete | NotStored::Busy | NotStored::Purged);
        // An error may be what this request alone has brought about.
        let is_answer = status.is_success() || status.is_redirection();
        if self.is_for_all && !by_chance && is_answer {
            self.shared.cache.pass(&self.rule, &self.primary, self.key);
        }
        if let Some(lease) = self.lease.filter(|_| !by_chance) {
            lease.refuse(if is_answer { Refusal::Pass } else { Refusal::Alone });
        }
        match (self.lead, why) {
            (Some(lead), NotStored::Purged) => lead.conclude(Fetched::Purged),
            // What broke says nothing of the next.
            (None, _) | (_, NotStored::Incomplete) => {}
            (Some(lead), _) => lead.conclude(Fetched::NotKept),
        }
        why
    }
}
