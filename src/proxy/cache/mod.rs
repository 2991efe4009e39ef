//! The cache's part in a request.
//!
//! | step | file |
//! |---|---|
//! | does a rule apply, and is the answer there | here, [`visit`] |
//! | is somebody else fetching it, or is it this request's turn | `turn`, and `elsewhere` of other gateways |
//! | a new one is fetched beside what is given | `refresh` |
//! | may the app's answer be kept | `judge` |
//! | it is kept, and those who wait are told | `claim` |
//! | or what was kept stands in for it | `conclude` |
//! | an answer that was kept is written | `hit` |

mod claim;
mod conclude;
mod elsewhere;
mod hit;
mod judge;
mod refresh;
mod turn;

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, header};

pub use conclude::{asks_again, conclude};
pub use hit::{add_status, answer};
pub use judge::judge;
pub use turn::{Next, turn};

use crate::cache::collapse::Lead;
use crate::cache::entry::Entry;
use crate::cache::memory::{Key, Look};
use crate::cache::policy::{self, Freshness, Use};
use crate::cache::rule::{Rule, Target};
use crate::cache::shared::Lease;
use crate::cache::tap::Tap;
use crate::cache::{Cache, Fetching, directives, freshness, now};
use crate::headers::Headers;
use crate::message::RequestHead;
use crate::observe::metrics::{Bypass, CacheResult, NotStored};
use crate::proxy::context::{Active, origin};
use crate::route::host::Host;

/// What a request has to do with the cache.
#[derive(Debug)]
pub struct Visit {
    pub rule: Arc<Rule>,
    /// Of the resource.
    primary: Vec<u8>,
    pub way: Way,
    /// It waits for another's fetch.
    patient: bool,
    pub result: CacheResult,
    /// Why its answer was not kept.
    pub not_stored: Option<NotStored>,
    /// What is kept already.
    pub entry: Option<Arc<Entry>>,
    pub fetch: Option<Box<Fetch>>,
}

/// How a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It changes things: what is kept is not true any more when the app has agreed.
    Unsafe,
    /// Past the cache.
    Bypass(Bypass),
    /// As the client sent it, conditions and ranges included; an answer that is whole may be kept.
    AsIs,
    /// For all who want the same.
    ForAll,
}

/// What a request says of the answers it takes.
#[derive(Debug, Clone, Copy)]
pub struct Asks {
    says: directives::Request,
    authorized: bool,
    /// A page has to have this request's nonce.
    nonce: bool,
}

/// A fetch from the app.
#[derive(Debug)]
pub struct Fetch {
    /// Fields of the request as the client sent them.
    pub asked: Arc<Headers>,
    asks: Asks,
    /// Where answers of this request are, if not under the primary key.
    at: Option<Key>,
    pub lead: Option<Lead>,
    /// The same for all gateways.
    lease: Option<Lease>,
    looked_on_disk: bool,
    looked_in_redis: bool,
    pub tap: Arc<Tap>,
    under_way: Option<Fetching>,
    /// When the app was asked, in milliseconds since 1970.
    asked_at: freshness::Millis,
    /// The app is asked whether [`Visit::entry`] is still true.
    validates: bool,
    /// What the app has said to that.
    said: Option<Headers>,
    /// The status that was kept from the client.
    pub withheld: Option<StatusCode>,
}

/// Finds the rule for a request that is about to be sent to an app, and the answer that is kept for it.
pub fn visit(
    request: &RequestHead,
    active: &mut Active,
    host: Option<&Host<'_>>,
    decoded: &[u8],
    (path, query): (&[u8], Option<&[u8]>),
) -> Option<Arc<Entry>> {
    let exchange = active.exchange.clone();
    let snapshot = &exchange.snapshot;
    let rule = snapshot.cache_rules.find(host.map(|host| &*host.name), decoded)?;
    let place = place(active, host);
    let way = way(request, active, rule, place.is_plain)?;
    let host = place.host.as_ref().map_or("", |host| &host.name);
    let key = rule.key(&Target { https: active.https, host, port: place.port, path, query });
    let mut visit = Visit {
        rule: rule.clone(),
        primary: key,
        way,
        patient: way == Way::ForAll && !rule.config.collapse_timeout.is_zero(),
        result: CacheResult::Miss,
        not_stored: None,
        entry: None,
        fetch: None,
    };
    let mut found = None;
    match way {
        Way::Unsafe => {}
        Way::Bypass(_) => visit.result = CacheResult::Bypass,
        Way::ForAll | Way::AsIs => {
            let (look, at) = snapshot.shared.cache.look(rule, &visit.primary, &request.headers);
            let mut asks = Asks::of(request, rule);
            let route = active.route.and_then(|index| snapshot.route(index));
            asks.nonce = route.is_some_and(|(route, _)| route.security.has_nonce());
            let passes = matches!(look, Look::Pass);
            match look {
                Look::Entry(entry) => match asks.use_of(&entry) {
                    Use::Fresh => found = Some(entry),
                    Use::Nothing => {}
                    Use::Stale { .. } | Use::Validate => visit.entry = Some(entry),
                },
                Look::Pass => visit.patient = false,
                Look::Nothing => {}
            }
            if found.is_some() {
                visit.result = CacheResult::Hit;
            } else {
                let mut fetch = Fetch::new(asks, Arc::new(request.headers.clone()), at);
                fetch.looked_in_redis = passes;
                visit.fetch = Some(Box::new(fetch));
            }
        }
    }
    active.visit = Some(Box::new(visit));
    found
}

/// Where a request goes, as the app is told; and whether it is told so in one way. Who writes a host in another way (in capitals, with
/// the port of the scheme, with a dot behind it), or another host or port than a trusted proxy says, may get another answer, which must
/// not be given to others.
struct Place<'a> {
    host: Option<Host<'a>>,
    port: Option<u16>,
    is_plain: bool,
}

fn place<'a>(active: &'a Active, host: Option<&Host<'a>>) -> Place<'a> {
    let exchange = &*active.exchange;
    let origin = origin(exchange);
    let of_scheme = if active.https { 443 } else { 80 };
    let port = origin.port.or_else(|| host.and_then(|host| host.port)).filter(|port| *port != of_scheme);
    let said = exchange.host.as_ref().map(HeaderValue::as_bytes);
    let is_usual = match (host, said) {
        (Some(host), Some(said)) => host.is_as_usual(said, active.https),
        (None, None) => true,
        _ => false,
    };
    let is_forwarded = origin.forwarded_host.is_none_or(|forwarded| Some(forwarded) == said);
    let port_agrees = host.and_then(|host| host.port).is_none_or(|said| origin.port.is_none_or(|port| port == said));
    Place { host: host.cloned(), port, is_plain: is_usual && is_forwarded && port_agrees }
}

/// None for methods that neither ask for a representation nor change one.
fn way(request: &RequestHead, active: &Active, rule: &Rule, host_is_plain: bool) -> Option<Way> {
    let exchange = &active.exchange;
    match exchange.method {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS | Method::TRACE => return None,
        _ => return Some(Way::Unsafe),
    }
    let asked = policy::Asked {
        headers: &request.headers,
        has_body: exchange.has_body,
        is_upgrade: exchange.upgrade,
        has_client_cert: exchange.facts.tls.as_ref().is_some_and(|tls| tls.client.is_some()),
        host_is_plain,
    };
    Some(match policy::bypass(rule, &asked) {
        Some(why) => Way::Bypass(why),
        None if exchange.method == Method::HEAD || request.headers.contains(header::RANGE) => Way::AsIs,
        None => Way::ForAll,
    })
}

impl Asks {
    fn of(request: &RequestHead, rule: &Rule) -> Self {
        let says = if rule.config.ignore_client_directives {
            directives::Request::default()
        } else {
            directives::Request::of(&request.headers)
        };
        Self { says, authorized: request.headers.contains(header::AUTHORIZATION), nonce: false }
    }

    /// What of an entry is of use to the request, if only to ask the app whether it is still true.
    fn usable(&self, entry: Option<Arc<Entry>>) -> Option<Arc<Entry>> {
        entry.filter(|entry| self.use_of(entry) != Use::Nothing)
    }

    fn use_of(&self, entry: &Entry) -> Use {
        if self.nonce && policy::is_page(&entry.headers) {
            return Use::Nothing;
        }
        let now = now();
        policy::use_of(&entry.terms, entry.freshness(now), &self.says, self.authorized, now)
    }

    /// Whether `entry` may be given in place of an error.
    fn may_stand_in(&self, entry: &Entry, cache: &Cache) -> bool {
        let is_gone = cache.is_purged(entry) || (self.nonce && policy::is_page(&entry.headers));
        !is_gone && policy::may_stand_in(&entry.terms, entry.freshness(now()), self.authorized)
    }
}

impl Fetch {
    fn new(asks: Asks, asked: Arc<Headers>, at: Option<Key>) -> Self {
        Self {
            asked,
            asks,
            at,
            lead: None,
            lease: None,
            looked_on_disk: false,
            looked_in_redis: false,
            tap: Arc::default(),
            under_way: None,
            asked_at: 0,
            validates: false,
            said: None,
            withheld: None,
        }
    }

    /// Whether what is stale is for this request, while another fetches what is new.
    fn takes_stale(&self, entry: &Entry) -> bool {
        matches!(self.asks.use_of(entry), Use::Stale { .. }) && entry.suits(&self.asked)
    }

    /// Whether what another has is for this request as well: one that has begun to look, or to ask the app, at `since`.
    fn is_given(&self, entry: &Entry, since: freshness::Millis) -> bool {
        let is_fresh = matches!(entry.freshness(now()), Freshness::Fresh(_));
        // Who wants no answer that was kept takes one that was fetched just now.
        let is_for = |usable| usable == Use::Fresh || (usable != Use::Nothing && entry.terms.came >= since);
        is_fresh
            && is_for(self.asks.use_of(entry))
            && entry.suits(&self.asked)
            && (!self.asks.authorized || entry.terms.for_authorized)
    }
}

impl Visit {
    /// The app is about to be asked: its answer is as old as that, at most (RFC 9111 section 4.2.3).
    pub fn asks_now(&mut self) {
        if let Some(fetch) = self.fetch.as_deref_mut() {
            fetch.asked_at = now();
        }
    }

    /// It does not wait for others any more.
    fn go_alone(&mut self) {
        self.patient = false;
        if let Some(fetch) = self.fetch.as_deref_mut() {
            fetch.looked_in_redis = true;
            fetch.lead = None;
        }
    }

    /// What others who want the same wait for.
    pub fn lead_key(&self) -> Key {
        self.fetch.as_ref().and_then(|fetch| fetch.at.clone()).unwrap_or_else(|| Key::from(&*self.primary))
    }

    /// What became of the request; none where it only changes things.
    pub fn outcome(&self) -> Option<CacheResult> {
        (self.way != Way::Unsafe).then_some(self.result)
    }

    /// Why it went past the cache, or its answer was not kept.
    pub fn detail(&self) -> Option<&'static str> {
        match self.way {
            Way::Bypass(why) => Some(why.text()),
            _ => self.not_stored.map(NotStored::text),
        }
    }

    /// Counts that.
    pub fn count(&self) {
        match (self.way, self.outcome()) {
            (Way::Bypass(why), _) => self.rule.metrics.record_bypass(why),
            (_, Some(result)) => self.rule.metrics.record(result),
            (_, None) => {}
        }
    }

    /// The same for a request of the gateway's own.
    pub fn for_refresh(&self) -> Option<Self> {
        let fetch = self.fetch.as_ref()?;
        Some(Self {
            rule: self.rule.clone(),
            primary: self.primary.clone(),
            way: Way::ForAll,
            patient: false,
            result: CacheResult::Miss,
            not_stored: None,
            entry: self.entry.clone(),
            fetch: Some(Box::new(Fetch::new(fetch.asks, fetch.asked.clone(), fetch.at.clone()))),
        })
    }
}
