//! How an event becomes one line, whatever its values hold.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::observe::clock;
use crate::observe::unprintable::is_unprintable;

/// `time level target: message name=value …`
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let mut time = Vec::with_capacity(24);
        clock::write_rfc3339_millis(SystemTime::now(), &mut time);
        let metadata = event.metadata();
        let target = parts.target.as_deref().unwrap_or_else(|| metadata.target());
        write!(out, "{} {:>5} {target}:", String::from_utf8_lossy(&time), metadata.level().as_str())?;
        writeln!(out, "{}{}", parts.message, parts.fields)
    }
}

/// The values of one event.
#[derive(Debug, Default)]
struct Parts {
    /// Set when the event came by way of `log`: its own target is then the same for all.
    target: Option<String>,
    message: String,
    fields: String,
    scratch: String,
}

impl Visit for Parts {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            self.target = Some(value.to_owned());
        } else {
            self.add(field.name(), value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = std::mem::take(&mut self.scratch);
        text.clear();
        // Writing to a string fails only when the value's own formatting does: what it wrote before is shown.
        let _ = write!(text, "{value:?}");
        self.add(field.name(), &text);
        self.scratch = text;
    }
}

impl Parts {
    fn add(&mut self, name: &str, value: &str) {
        if name == "message" && self.message.is_empty() {
            self.message.push(' ');
            escape(value, false, &mut self.message);
        } else if !name.starts_with("log.") {
            self.fields.push(' ');
            self.fields.push_str(name);
            self.fields.push('=');
            let quoted = value.is_empty() || value.contains(|c: char| c.is_whitespace() || c == '"' || c == '=');
            if quoted {
                self.fields.push('"');
            }
            escape(value, quoted, &mut self.fields);
            if quoted {
                self.fields.push('"');
            }
        }
    }
}

/// Appends `text`, with everything that would end the line, or move about on a terminal, as an escape.
fn escape(text: &str, quoted: bool, out: &mut String) {
    for character in text.chars() {
        if is_unprintable(character) || (quoted && matches!(character, '"' | '\\')) {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
}
