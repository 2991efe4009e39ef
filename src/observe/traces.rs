//! Traces for a collector (OTLP over HTTP): each finished request that is recorded, as spans, by a task of its own.
//!
//! A request never waits for the collector: what it does not take in time is dropped and counted. Without the feature `otlp` there is no
//! way to make a [`Traces`], and nothing of this is in the program.

#[cfg(feature = "otlp")]
mod exporter;
#[cfg(feature = "otlp")]
mod spans;

use std::sync::Arc;
use std::time::Duration;

use super::access_log::Entry;
use super::metrics::Metrics;

/// Where traces go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The whole URL.
    pub url: String,
    /// Fields of each request to it.
    pub headers: Vec<(String, String)>,
    pub service_name: String,
}

/// What is known of a request's trace beside what the log has.
#[derive(Debug, Clone, Copy)]
pub struct Steps {
    pub trace: [u8; 16],
    /// The client's step; none where the trace begins here.
    pub parent: Option<[u8; 8]>,
    /// Our own step, from the request's first byte to the end of the response.
    pub server: [u8; 8],
    /// What the app's own steps follow: the exchange with it.
    pub client: [u8; 8],
    /// When that began and ended, from the first byte of the request.
    pub exchange: Option<(Duration, Duration)>,
}

/// The way to a collector; ends when it is dropped.
#[derive(Debug)]
pub struct Traces {
    settings: Settings,
    #[cfg(feature = "otlp")]
    exporter: exporter::Exporter,
}

impl Traces {
    /// Begins to send, within a runtime.
    ///
    /// # Errors
    /// One sentence why it cannot, such as that this program was made without it.
    #[cfg(feature = "otlp")]
    pub fn start(settings: Settings, metrics: &Arc<Metrics>) -> Result<Arc<Self>, String> {
        let exporter = exporter::Exporter::start(&settings, metrics.clone())?;
        Ok(Arc::new(Self { settings, exporter }))
    }

    /// Says that there is no way.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "otlp"))]
    pub fn start(_: Settings, _: &Arc<Metrics>) -> Result<Arc<Self>, String> {
        Err("this propylon was built without the feature `otlp`".to_owned())
    }

    /// Where they go.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes note of a finished request.
    #[cfg(feature = "otlp")]
    pub fn record(&self, entry: &Entry<'_>, steps: &Steps) {
        self.exporter.push(spans::of(entry, steps));
    }

    #[cfg(not(feature = "otlp"))]
    pub fn record(&self, _: &Entry<'_>, _: &Steps) {}

    /// Sends what was recorded so far, for as long as `limit`.
    pub async fn flush(&self, limit: Duration) {
        #[cfg(feature = "otlp")]
        let _ = tokio::time::timeout(limit, self.exporter.flush()).await;
        #[cfg(not(feature = "otlp"))]
        let _ = limit;
    }
}
