//! Reads the Prometheus text format, as far as tests ask.

use std::collections::{BTreeMap, BTreeSet};

/// One scrape.
#[derive(Debug, Clone)]
pub struct Metrics {
    samples: Vec<Sample>,
    /// Names that a `# TYPE` line announces, with their types.
    types: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// # Panics
    /// Where the text is not in the format.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut types = BTreeMap::new();
        let mut samples = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type line");
                types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let sample = parse_sample(line);
                samples.push(sample.unwrap_or_else(|| panic!("no sample: {line}")));
            }
        }
        Self { samples, types }
    }

    /// The sum of all samples of this name that carry these labels; none where there is no such sample.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let carries = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|v| v == value))
        };
        let mut found = self.samples.iter().filter(carries).peekable();
        found.peek()?;
        Some(found.map(|sample| sample.value).sum())
    }

    /// The metric names announced, histograms without their suffixes.
    pub fn names(&self) -> BTreeSet<&str> {
        self.types.keys().map(String::as_str).collect()
    }

    /// Every value that this label has anywhere.
    pub fn label_values(&self, label: &str) -> BTreeSet<&str> {
        self.samples.iter().filter_map(|sample| sample.labels.get(label)).map(String::as_str).collect()
    }
}

/// `name{label="value",…} 1.5`, without a time stamp.
fn parse_sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = parse_label_value(after)?;
            labels.insert(label.to_owned(), value);
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = rest.strip_prefix('}')?;
    }
    Some(Sample { name: name.to_owned(), labels, value: rest.strip_prefix(' ')?.parse().ok()? })
}

/// A label's value up to its closing quote, escapes undone, and what follows.
fn parse_label_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            (_, other) => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_samples_and_sums_those_that_match() {
        let metrics = Metrics::parse(
            "# HELP a What it is, with { and \"\n# TYPE a counter\na{x=\"1\",y=\"q\\\"}\\n,=\\\\\"} 2\na{x=\"1\",y=\"r\"} 0.5\nb 7\nb_bucket{le=\"+Inf\"} 3\n",
        );
        assert_eq!(metrics.value("a", &[]), Some(2.5));
        assert_eq!(metrics.value("a", &[("y", "q\"}\n,=\\")]), Some(2.0));
        assert_eq!(metrics.value("a", &[("y", "none")]), None);
        assert_eq!(metrics.value("b", &[]), Some(7.0));
        assert_eq!(metrics.value("b_bucket", &[("le", "+Inf")]), Some(3.0));
        assert_eq!(metrics.names().into_iter().collect::<Vec<_>>(), ["a"]);
        assert_eq!(metrics.label_values("x").len(), 1);
    }
}
