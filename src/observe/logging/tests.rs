//! Lines as they come out, through a subscriber of each test's own.

use std::io::{self, Write};

use parking_lot::Mutex;
use tracing::subscriber::with_default;
use tracing_subscriber::fmt::MakeWriter;

use super::*;

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Written {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// What `events` write at `level`, without the times, which are checked for their shape.
fn lines(level: Level, events: impl FnOnce()) -> Vec<String> {
    let written = Written::default();
    let layer = fmt::layer().event_format(line::Lines).with_writer(written.clone());
    with_default(tracing_subscriber::registry().with(targets(level)).with(layer), events);
    let text = String::from_utf8(written.0.lock().clone()).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    let rest = |line: &str| {
        let (time, rest) = line.split_at(25);
        assert!(time.starts_with("20") && time.ends_with("Z ") && time.as_bytes()[19] == b'.', "{line}");
        rest.to_owned()
    };
    text.lines().map(rest).collect()
}

#[test]
fn an_event_is_one_line() {
    let endpoint: std::net::SocketAddr = "127.0.0.1:8001".parse().unwrap();
    let lines = lines(Level::INFO, || {
        tracing::warn!(target: "propylon::upstream", upstream = "shop", %endpoint, "endpoint is {}", "unhealthy");
        tracing::info!(target: "t", count = 3, rate = 0.5, on = true, absent = None::<u8>, some = ?Some(1));
        tracing::debug!(target: "t", "not shown");
    });
    assert_eq!(
        lines,
        [
            " WARN propylon::upstream: endpoint is unhealthy upstream=shop endpoint=127.0.0.1:8001",
            " INFO t: count=3 rate=0.5 on=true some=Some(1)",
        ]
    );
}

#[test]
fn values_cannot_forge_a_line() {
    let lines = lines(Level::INFO, || {
        let hostile = "a\n2026-11-21T10:00:00.123Z ERROR x: forged\x1b[2J";
        tracing::error!(target: "t", hostile, empty = "", quote = %"say \"x=\\1\"", "message {hostile}");
    });
    assert_eq!(
        lines,
        [concat!(
            r#"ERROR t: message a\n2026-11-21T10:00:00.123Z ERROR x: forged\u{1b}[2J"#,
            r#" hostile="a\n2026-11-21T10:00:00.123Z ERROR x: forged\u{1b}[2J" empty="" quote="say \"x=\\1\"""#,
        )]
    );
}

#[test]
fn pingora_is_shown_from_debug_on() {
    let events = || {
        tracing::error!(target: "pingora_proxy", "every bad client");
        tracing::error!(target: "pingora_core::server", "and this");
        tracing::error!(target: "propylon", "ours");
    };
    assert_eq!(lines(Level::INFO, events), ["ERROR propylon: ours"]);
    assert_eq!(lines(Level::WARN, events), ["ERROR propylon: ours"]);
    assert_eq!(lines(Level::DEBUG, events).len(), 3);
    assert_eq!(lines(Level::TRACE, events).len(), 3);
}

#[test]
fn an_error_is_shown_by_its_text() {
    let lines = lines(Level::INFO, || {
        let error = io::Error::other("no space");
        tracing::error!(target: "t", error = &error as &dyn std::error::Error, "failed");
    });
    assert_eq!(lines, ["ERROR t: failed error=\"no space\""]);
}
