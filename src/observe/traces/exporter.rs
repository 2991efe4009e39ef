//! The task that sends spans, many at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::Settings;
use crate::observe::metrics::{Metrics, SpanResult};

/// Requests whose spans wait.
const WAITING: usize = 4096;
/// Of so many the spans are sent at once, or of those that came within so long.
const AT_ONCE: usize = 512;
const PAUSE: Duration = Duration::from_secs(1);
/// How long the collector may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the task is told.
enum Message {
    Spans(Vec<SpanData>),
    /// To be answered once all before it is sent.
    Flush(oneshot::Sender<()>),
}

#[derive(Debug)]
pub(super) struct Exporter {
    queue: mpsc::Sender<Message>,
    metrics: Arc<Metrics>,
}

impl Exporter {
    pub(super) fn start(settings: &Settings, metrics: Arc<Metrics>) -> Result<Self, String> {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&settings.url)
            .with_timeout(PATIENCE)
            .with_headers(settings.headers.iter().cloned().collect::<HashMap<_, _>>())
            .build();
        let mut exporter = exporter.map_err(|error| error.to_string())?;
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let name = settings.service_name.clone();
        exporter.set_resource(&Resource::builder().with_service_name(name).with_attribute(version).build());
        let (queue, messages) = mpsc::channel(WAITING);
        // It ends when nobody can push any more and all is sent.
        tokio::spawn(send(exporter, messages, metrics.clone(), shown(&settings.url)));
        Ok(Self { queue, metrics })
    }

    pub(super) fn push(&self, spans: Vec<SpanData>) {
        let count = spans.len() as u64;
        if self.queue.try_send(Message::Spans(spans)).is_err() {
            self.metrics.record_spans(SpanResult::Dropped, count);
        }
    }

    pub(super) async fn flush(&self) {
        let (done, sent) = oneshot::channel();
        if self.queue.send(Message::Flush(done)).await.is_ok() {
            let _ = sent.await;
        }
    }
}

/// Without what stands behind the host, which may be a key.
fn shown(url: &str) -> String {
    url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/")
}

async fn send(exporter: impl SpanExporter, mut messages: mpsc::Receiver<Message>, metrics: Arc<Metrics>, url: String) {
    let mut is_well = true;
    while let Some(first) = messages.recv().await {
        let (spans, flushes) = batch(first, &mut messages).await;
        let count = spans.len() as u64;
        if count > 0 {
            let sent = exporter.export(spans).await;
            metrics.record_spans(if sent.is_ok() { SpanResult::Sent } else { SpanResult::Failed }, count);
            // Said once, not with every batch.
            match &sent {
                Err(error) if is_well => tracing::warn!(collector = url, %error, "traces cannot be sent"),
                Ok(()) if !is_well => tracing::info!(collector = url, "traces are sent again"),
                _ => {}
            }
            is_well = sent.is_ok();
        }
        for done in flushes {
            let _ = done.send(());
        }
    }
}

/// What came, and who waits for it to be sent.
async fn batch(first: Message, messages: &mut mpsc::Receiver<Message>) -> (Vec<SpanData>, Vec<oneshot::Sender<()>>) {
    let (mut spans, mut flushes) = (Vec::new(), Vec::new());
    let deadline = Instant::now() + PAUSE;
    let mut next = Some(first);
    while let Some(message) = next {
        match message {
            Message::Spans(more) => spans.extend(more),
            Message::Flush(done) => {
                flushes.push(done);
                break;
            }
        }
        if spans.len() >= AT_ONCE {
            break;
        }
        next = timeout_at(deadline, messages.recv()).await.ok().flatten();
    }
    (spans, flushes)
}
