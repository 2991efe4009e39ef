//! Counters for `/metrics`: handles to record through, and the page itself.
//!
//! [`table`] names every metric. A route, upstream, endpoint or listener asks here for its handle once, when a configuration is
//! loaded; recording then is a few relaxed additions to words that no other core writes ([`shards`]), without a lock, a hash or
//! an allocation. The sums are made when the page is scraped.

mod cache;
mod endpoint;
mod histogram;
mod label;
mod limit;
mod listener;
mod live;
mod minute;
mod page;
mod process;
mod redis;
mod route;
mod shards;
mod shared;
mod spool;
pub mod table;
mod tls;
mod upstream;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

pub use cache::{CacheHeld, CacheMetrics, DiskMetrics};
pub use endpoint::{EndpointInFlight, EndpointMetrics, EndpointOverdue};
pub use label::{
    Bypass, CacheResult, CacheTier, CheckResult, DiskWrite, FieldDrop, Handshake, LimitDecision, Method, NotStored,
    PasswordCheck, QueueDrop, RedisError, RedisUser, Refusal, Reload, Retry, SharedLook, SharedWrite, SpanResult,
    StatusClass, UpstreamError,
};
pub use limit::LimitMetrics;
pub use listener::{ListenerMetrics, OpenConnection};
pub use minute::{Lately, NOTE_EVERY};
pub use process::ProcessReading;
pub use redis::RedisMetrics;
pub use route::{RequestInFlight, RouteMetrics};
pub use shared::SharedMetrics;
pub use spool::SpoolReading;
pub use tls::{CertificateReading, TlsMetrics};
pub use upstream::UpstreamMetrics;

use live::Live;
use page::{Page, float};
use process::Process;

/// The media type of what [`Metrics::render`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The route label of requests that matched no route.
pub const NO_ROUTE: &str = "none";

/// Everything the process counts. One for the whole process; it outlives every configuration.
#[derive(Debug)]
pub struct Metrics {
    version: Box<str>,
    rejection_reasons: &'static [&'static str],
    rejections: Box<[AtomicU64]>,
    fields_dropped: [AtomicU64; FieldDrop::COUNT],
    reloads: [AtomicU64; Reload::COUNT],
    config_refused: AtomicBool,
    config_read_millis: AtomicU64,
    config_generation: AtomicU64,
    /// Access log lines lost.
    pub access_log_dropped: Counter,
    /// Writes to the access log that failed.
    pub access_log_errors: Counter,
    password_checks: [AtomicU64; PasswordCheck::COUNT],
    maintenance: AtomicBool,
    spans: [AtomicU64; SpanResult::COUNT],
    /// Panics that the hook of [`super::logging`] saw.
    pub panics: Counter,
    /// The certificates in use.
    pub tls: TlsMetrics,
    redis: Mutex<Vec<Arc<RedisMetrics>>>,
    disk: Mutex<Option<Arc<DiskMetrics>>>,
    shared: Mutex<Option<Arc<SharedMetrics>>>,
    /// Counts requests that matched no route.
    pub no_route: Arc<RouteMetrics>,
    routes: Live<String, RouteMetrics>,
    upstreams: Live<String, UpstreamMetrics>,
    endpoints: Live<(String, String), EndpointMetrics>,
    listeners: Live<String, ListenerMetrics>,
    limits: Live<String, LimitMetrics>,
    caches: Live<String, CacheMetrics>,
    process: Process,
}

impl Metrics {
    /// Begins to count. `rejection_reasons` are the values of the `reason` label of `propylon_rejections_total`, by index.
    #[must_use]
    pub fn new(version: &str, rejection_reasons: &'static [&'static str]) -> Arc<Self> {
        let routes: Live<String, RouteMetrics> = Live::default();
        Arc::new(Self {
            version: version.into(),
            rejection_reasons,
            rejections: rejection_reasons.iter().map(|_| AtomicU64::new(0)).collect(),
            fields_dropped: Default::default(),
            reloads: Default::default(),
            config_refused: AtomicBool::new(false),
            config_read_millis: AtomicU64::new(0),
            config_generation: AtomicU64::new(0),
            access_log_dropped: Counter::default(),
            access_log_errors: Counter::default(),
            password_checks: Default::default(),
            maintenance: AtomicBool::new(false),
            spans: Default::default(),
            panics: Counter::default(),
            tls: TlsMetrics::default(),
            redis: Mutex::default(),
            disk: Mutex::default(),
            shared: Mutex::default(),
            no_route: routes.get(NO_ROUTE.to_owned(), |name| RouteMetrics::new(name)),
            routes,
            upstreams: Live::default(),
            endpoints: Live::default(),
            listeners: Live::default(),
            limits: Live::default(),
            caches: Live::default(),
            process: Process::new(),
        })
    }

    /// The handle of the route `name`; the same one for as long as anybody holds it. A route called `none` shares the handle
    /// of requests without a route.
    #[must_use]
    pub fn route(&self, name: &str) -> Arc<RouteMetrics> {
        self.routes.get(name.to_owned(), |name| RouteMetrics::new(name))
    }

    /// The handle of the upstream `name`; the same one for as long as anybody holds it.
    #[must_use]
    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        self.upstreams.get(name.to_owned(), |name| UpstreamMetrics::new(name))
    }

    /// The handle of `endpoint`, an address as it is to be shown, in `upstream`; the same one for as long as anybody holds it.
    #[must_use]
    pub fn endpoint(&self, upstream: &str, endpoint: &str) -> Arc<EndpointMetrics> {
        let key = (upstream.to_owned(), endpoint.to_owned());
        self.endpoints.get(key, |(upstream, endpoint)| EndpointMetrics::new(upstream, endpoint))
    }

    /// The handle of the listener `name`, an address as it is to be shown; the same one for as long as anybody holds it.
    #[must_use]
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        self.listeners.get(name.to_owned(), |name| ListenerMetrics::new(name))
    }

    /// The handle of the rate limits called `name`; the same one for as long as anybody holds it.
    #[must_use]
    pub fn limit(&self, name: &str) -> Arc<LimitMetrics> {
        self.limits.get(name.to_owned(), |name| LimitMetrics::new(name))
    }

    /// The handle of the cache rule called `name`; the same one for as long as anybody holds it.
    #[must_use]
    pub fn cache(&self, name: &str) -> Arc<CacheMetrics> {
        self.caches.get(name.to_owned(), |name| CacheMetrics::new(name))
    }

    /// Every rate limit there is.
    #[must_use]
    pub fn limits(&self) -> Vec<Arc<LimitMetrics>> {
        self.limits.all()
    }

    /// Every listener there is.
    #[must_use]
    pub fn listeners(&self) -> Vec<Arc<ListenerMetrics>> {
        self.listeners.all()
    }

    /// What the process takes.
    #[must_use]
    pub fn process(&self) -> ProcessReading {
        ProcessReading::now()
    }

    /// How many requests the gateway answered itself, by reason; those of which there were any.
    #[must_use]
    pub fn rejections(&self) -> Vec<(&'static str, u64)> {
        let counts = self.rejections.iter().map(|count| count.load(Relaxed));
        self.rejection_reasons.iter().copied().zip(counts).filter(|(_, count)| *count > 0).collect()
    }

    /// Notes what was counted so far, for [`RouteMetrics::lately`] and [`EndpointMetrics::lately`]. To be called every [`NOTE_EVERY`],
    /// off the threads that serve requests.
    pub fn note(&self, now: Instant) {
        self.routes.all().iter().for_each(|route| route.note(now));
        self.endpoints.all().iter().for_each(|endpoint| endpoint.note(now));
    }

    /// When a configuration was last read without an error.
    #[must_use]
    pub fn last_read(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.config_read_millis.load(Relaxed))
    }

    /// Shows this Redis from now on, or that there is none.
    pub fn show_redis(&self, redis: Vec<Arc<RedisMetrics>>) {
        *self.redis.lock() = redis;
    }

    /// Shows this cache in Redis from now on, or that there is none.
    pub fn show_shared(&self, shared: Option<Arc<SharedMetrics>>) {
        *self.shared.lock() = shared;
    }

    /// Shows this disk of the cache from now on, or that there is none.
    pub fn show_disk(&self, disk: Option<Arc<DiskMetrics>>) {
        *self.disk.lock() = disk;
    }

    /// Counts an answer of our own. `reason` is an index into the reasons given to [`Metrics::new`].
    pub fn record_rejection(&self, reason: usize) {
        shards::increment(&self.rejections, reason);
    }

    /// Counts a request field that was not passed on.
    pub fn record_field_dropped(&self, reason: FieldDrop) {
        shards::increment(&self.fields_dropped, reason as usize);
    }

    /// Counts a password that was checked.
    pub fn record_password_check(&self, is_right: bool) {
        let result = if is_right { PasswordCheck::Right } else { PasswordCheck::Wrong };
        shards::increment(&self.password_checks, result as usize);
    }

    /// Counts steps of traces.
    pub fn record_spans(&self, result: SpanResult, count: u64) {
        if let Some(counter) = self.spans.get(result as usize) {
            counter.fetch_add(count, Relaxed);
        }
    }

    /// Whether there is maintenance.
    pub fn show_maintenance(&self, on: bool) {
        self.maintenance.store(on, Relaxed);
    }

    /// Says that the configuration the process starts with was read at `now`. It is no reload.
    pub fn record_start(&self, generation: u64, now: SystemTime) {
        self.config_read(generation, now);
    }

    /// Whether the last configuration that was read is the one in force.
    #[must_use]
    pub fn last_reload_succeeded(&self) -> bool {
        !self.config_refused.load(Relaxed)
    }

    /// Counts a reload. `generation` is the number of the configuration in force after it.
    pub fn record_reload(&self, result: Reload, generation: u64, now: SystemTime) {
        shards::increment(&self.reloads, result as usize);
        if result == Reload::Refused {
            self.config_refused.store(true, Relaxed);
        } else {
            self.config_read(generation, now);
        }
    }

    fn config_read(&self, generation: u64, now: SystemTime) {
        let millis = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        self.config_refused.store(false, Relaxed);
        self.config_generation.store(generation, Relaxed);
        self.config_read_millis.store(u64::try_from(millis).unwrap_or(u64::MAX), Relaxed);
    }

    /// The page of `/metrics`: Prometheus text format 0.0.4, of the type [`CONTENT_TYPE`]. `spool` is what the bodies hold now, which
    /// this module cannot ask for itself.
    ///
    /// Takes some milliseconds where there are a thousand endpoints, and reads a few files of `/proc`: not for a thread that
    /// serves requests when there are many.
    #[must_use]
    pub fn render(&self, spool: &SpoolReading) -> String {
        let mut page = Page::default();
        route::write(&self.routes.all(), &mut page);
        self.write_refusals(&mut page);
        limit::write(&self.limits.all(), &mut page);
        redis::write(&self.redis.lock(), &mut page);
        cache::write(&self.caches.all(), &mut page);
        cache::write_disk(self.disk.lock().as_deref(), &mut page);
        shared::write(self.shared.lock().as_deref(), &mut page);
        endpoint::write(&self.endpoints.all(), &mut page);
        upstream::write(&self.upstreams.all(), &mut page);
        spool::write(spool, &mut page);
        listener::write(&self.listeners.all(), &mut page);
        tls::write(&self.tls, &mut page);
        self.write_config(&mut page);
        page.single(&table::ACCESS_LOG_DROPPED, float(self.access_log_dropped.get()));
        page.single(&table::ACCESS_LOG_ERRORS, float(self.access_log_errors.get()));
        page.family(&table::SPANS, |samples| {
            for (result, count) in SpanResult::ALL.iter().zip(&self.spans) {
                samples.count(&[result.text()], count.load(Relaxed));
            }
        });
        page.single(&table::PANICS, float(self.panics.get()));
        page.family(&table::BUILD_INFO, |samples| {
            samples.value(&[&self.version], 1.0);
        });
        self.process.write(&mut page);
        page.into_text()
    }

    fn write_refusals(&self, page: &mut Page) {
        page.family(&table::REJECTIONS, |samples| {
            for (reason, count) in self.rejection_reasons.iter().zip(&self.rejections) {
                samples.count(&[reason], count.load(Relaxed));
            }
        });
        page.family(&table::FIELDS_DROPPED, |samples| {
            for (reason, count) in FieldDrop::ALL.iter().zip(&self.fields_dropped) {
                samples.count(&[reason.text()], count.load(Relaxed));
            }
        });
        page.family(&table::PASSWORD_CHECKS, |samples| {
            for (result, count) in PasswordCheck::ALL.iter().zip(&self.password_checks) {
                samples.count(&[result.text()], count.load(Relaxed));
            }
        });
        page.single(&table::MAINTENANCE, u8::from(self.maintenance.load(Relaxed)).into());
    }

    fn write_config(&self, page: &mut Page) {
        let succeeded = u8::from(!self.config_refused.load(Relaxed));
        page.single(&table::CONFIG_LAST_RELOAD_SUCCESS, succeeded.into());
        let read = float(self.config_read_millis.load(Relaxed)) / 1e3;
        page.single(&table::CONFIG_LAST_RELOAD_SUCCESS_TIME, read);
        page.single(&table::CONFIG_GENERATION, float(self.config_generation.load(Relaxed)));
        page.family(&table::CONFIG_RELOADS, |samples| {
            for (result, count) in Reload::ALL.iter().zip(&self.reloads) {
                samples.count(&[result.text()], count.load(Relaxed));
            }
        });
    }
}

/// A counter of the whole process for what happens seldom.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// What was added since the process started.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests;
