//! The thread that writes the access log.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::queue::{Batch, Queue};
use super::sink::Sink;
use crate::observe::metrics::Metrics;

/// Trouble is reported this often at most.
const REPORT_EVERY: Duration = Duration::from_mins(1);

/// Starts the thread. It ends when the queue is closed and empty.
pub(super) fn spawn(queue: Arc<Queue>, sink: Sink, metrics: Arc<Metrics>) -> io::Result<()> {
    let writer = Writer { sink, metrics, unreported: 0, reported: None };
    // Not joined: a reader that hangs would hang our end as well. Who wants the lines written waits with a flush.
    thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run(&queue)).map(drop)
}

struct Writer {
    sink: Sink,
    metrics: Arc<Metrics>,
    /// Lines lost since the last report.
    unreported: u64,
    reported: Option<Instant>,
}

impl Writer {
    fn run(mut self, queue: &Queue) {
        let mut batch = Batch::default();
        while queue.take(&mut batch) {
            if batch.dropped > 0 {
                // The worker that dropped them counted them: this thread may hang for long before it comes here.
                self.report(batch.dropped, None);
            }
            let mut begin = 0;
            for (end, sink) in batch.switches.drain(..) {
                self.write(batch.lines.get(begin..end).unwrap_or_default());
                self.sink = sink;
                begin = end;
            }
            self.write(batch.lines.get(begin..).unwrap_or_default());
        }
    }

    fn write(&mut self, lines: &[u8]) {
        if let Err(loss) = self.sink.write(lines) {
            self.metrics.access_log_errors.add(1);
            self.metrics.access_log_dropped.add(loss.lines);
            self.report(loss.lines, Some(&loss.error));
        }
    }

    /// Says that lines were lost, unless that was said a moment ago.
    fn report(&mut self, lines: u64, error: Option<&io::Error>) {
        self.unreported = self.unreported.saturating_add(lines);
        if self.reported.is_some_and(|reported| reported.elapsed() < REPORT_EVERY) {
            return;
        }
        self.reported = Some(Instant::now());
        let lines = std::mem::take(&mut self.unreported);
        let target = self.sink.target();
        if let Some(error) = error {
            tracing::error!(%target, %error, lines, "access log cannot be written, lines are lost");
        } else {
            tracing::error!(%target, lines, "access log is slower than the requests, lines are lost");
        }
    }
}
