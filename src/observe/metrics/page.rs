//! Turns readings into the Prometheus text format 0.0.4, one family after the other.
//!
//! Written straight into the page: with a thousand endpoints it has sixty thousand lines, and building a tree of them first took
//! twice as long.

use std::fmt::Write as _;

use super::histogram::Reading;
use super::table::Family;

/// The page of `/metrics` while it is written.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
}

impl Page {
    /// Writes a family with the samples that `fill` gives it; without samples it is left out, as the format wants it.
    pub(super) fn family(&mut self, family: &'static Family, fill: impl FnOnce(&mut Samples)) {
        fill(&mut Samples { family, text: &mut self.text, began: false });
    }

    /// A family without labels.
    pub(super) fn single(&mut self, family: &'static Family, value: f64) {
        self.family(family, |samples| samples.value(&[], value));
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

/// The samples of one family.
#[derive(Debug)]
pub(super) struct Samples<'p> {
    family: &'static Family,
    text: &'p mut String,
    began: bool,
}

impl Samples<'_> {
    /// Adds a sample of a counter or a gauge; `labels` in the order of the table.
    pub(super) fn value(&mut self, labels: &[&str], value: f64) {
        self.begin("", labels, None);
        let _ = writeln!(self.text, " {value}");
    }

    /// [`Samples::value`] for a whole number.
    pub(super) fn count(&mut self, labels: &[&str], value: u64) {
        self.begin("", labels, None);
        self.end(value);
    }

    /// Adds the samples of a histogram.
    pub(super) fn histogram(&mut self, labels: &[&str], reading: &Reading) {
        let start = self.text.len();
        self.begin("_bucket", labels, Some(""));
        // All but the bound is the same in each line.
        let line = self.text.rfind('\n').map_or(0, |end| end + 1).max(start);
        let same = self.text.split_off(line);
        let same = same.strip_suffix("\"}").unwrap_or(&same);
        for (bound, count) in reading.cumulative() {
            self.text.push_str(same);
            let _ = write!(self.text, "{bound}\"}}");
            self.end(count);
        }
        self.text.push_str(same);
        self.text.push_str("+Inf\"}");
        self.end(reading.count());
        self.begin("_sum", labels, None);
        let _ = writeln!(self.text, " {}", reading.sum_seconds());
        self.begin("_count", labels, None);
        self.end(reading.count());
    }

    /// The name and the labels of a sample; before the first what the family is.
    fn begin(&mut self, suffix: &str, values: &[&str], bound: Option<&str>) {
        let Family { name, kind, labels, help } = self.family;
        debug_assert_eq!(values.len(), labels.len(), "labels of {name}");
        if !std::mem::replace(&mut self.began, true) {
            // A test keeps line feeds and backslashes out of the help.
            let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {}\n", kind.text());
        }
        self.text.push_str(name);
        self.text.push_str(suffix);
        let pairs = labels.iter().copied().zip(values.iter().copied()).chain(bound.map(|bound| ("le", bound)));
        let mut opening = '{';
        for (label, value) in pairs {
            self.text.push(opening);
            self.text.push_str(label);
            self.text.push_str("=\"");
            escape(value, self.text);
            self.text.push('"');
            opening = ',';
        }
        if opening == ',' {
            self.text.push('}');
        }
    }

    fn end(&mut self, value: u64) {
        self.text.push(' ');
        self.text.push_str(itoa::Buffer::new().format(value));
        self.text.push('\n');
    }
}

/// As the value of a label has it.
fn escape(value: &str, text: &mut String) {
    if !value.contains(['\\', '"', '\n']) {
        return text.push_str(value);
    }
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

/// A number as the text format has it.
#[expect(clippy::cast_precision_loss, reason = "Prometheus stores every sample as f64; counts stay exact up to 2^53")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_name_ends_its_label() {
        let mut text = String::new();
        escape("a\\b\"c\nd", &mut text);
        assert_eq!(text, "a\\\\b\\\"c\\nd");
    }
}
