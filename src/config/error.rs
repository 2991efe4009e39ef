//! What is wrong with a configuration, and what is only odd about it.
//!
//! [`Report`] collects while the file is read and checked; [`Errors`] and [`Warning`] are what the operator sees, one
//! line each, with file, line, column and key path. What is expected of which key is decided where it is read.

use std::fmt;
use std::path::Path;

use super::place::Place;

/// Problems and warnings as they are found, with byte offsets.
#[derive(Debug, Default)]
pub struct Report {
    problems: Vec<(Place, String)>,
    warnings: Vec<(Place, String)>,
}

impl Report {
    /// Notes what makes the configuration unusable.
    pub fn problem(&mut self, place: &Place, message: impl Into<String>) {
        self.problems.push((place.clone(), message.into()));
    }

    /// Notes what is allowed, but likely not meant.
    pub fn warn(&mut self, place: &Place, message: impl Into<String>) {
        self.warnings.push((place.clone(), message.into()));
    }

    /// Whether nothing is wrong so far.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// Whether something is wrong at `path`, or inside it.
    #[must_use]
    pub fn has_problem_in(&self, path: &str) -> bool {
        let inside =
            |place: &Place| place.path.strip_prefix(path).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric));
        self.problems.iter().any(|(place, _)| inside(place))
    }

    /// Names places as `rename` does, and without a position.
    pub fn rename(&mut self, rename: impl Fn(&str) -> String) {
        for (place, _) in self.problems.iter_mut().chain(&mut self.warnings) {
            *place = Place { path: rename(&place.path), offset: None };
        }
    }

    /// The problems alone, of a text that got no further.
    #[must_use]
    pub fn into_errors(self, text: &str, source: Option<&Path>) -> Errors {
        Errors { problems: placed(self.problems, text, source) }
    }

    /// Turns offsets into lines and columns of `text`, read from `source`.
    ///
    /// # Errors
    /// Every problem noted, in the order of the file.
    pub fn finish(self, text: &str, source: Option<&Path>) -> Result<Vec<Warning>, Errors> {
        if self.problems.is_empty() {
            Ok(placed(self.warnings, text, source).into_iter().map(Warning).collect())
        } else {
            Err(self.into_errors(text, source))
        }
    }
}

/// Notices in the order of the text, each once.
fn placed(found: Vec<(Place, String)>, text: &str, source: Option<&Path>) -> Vec<Notice> {
    let file = source.map(|path| path.display().to_string());
    let lines = Lines::new(text);
    let mut found: Vec<Notice> =
        found.into_iter().map(|(place, message)| Notice::new(file.as_deref(), &lines, place, message)).collect();
    found.sort_by(|a, b| (a.line, a.column, &a.path).cmp(&(b.line, b.column, &b.path)));
    found.dedup();
    found
}

/// One line for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The file as it was named; none without a file.
    pub file: Option<String>,
    /// Counted from 1; none where no line is to blame.
    pub line: Option<usize>,
    /// In characters, counted from 1.
    pub column: Option<usize>,
    /// The key path, such as `routes[2].upstream`, or a flag, such as `--to`; empty for the file as a whole.
    pub path: String,
    /// What was expected and what was found.
    pub message: String,
}

impl Notice {
    fn new(file: Option<&str>, lines: &Lines<'_>, place: Place, message: String) -> Self {
        let position = place.offset.map(|offset| lines.position(offset));
        Self {
            file: file.map(str::to_owned),
            line: position.map(|(line, _)| line),
            column: position.map(|(_, column)| column),
            path: place.path,
            message: on_one_line(message),
        }
    }
}

/// What a message repeats of the file or of the environment may hold line ends, or what moves a terminal's cursor.
fn on_one_line(message: String) -> String {
    if !message.chars().any(char::is_control) {
        return message;
    }
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    message.chars().map(escaped).collect()
}

impl fmt::Display for Notice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line, self.column) {
            (Some(file), Some(line), Some(column)) => write!(out, "{file}:{line}:{column}: ")?,
            (None, Some(line), Some(column)) => write!(out, "{line}:{column}: ")?,
            (Some(file), ..) => write!(out, "{file}: ")?,
            (None, ..) => {}
        }
        if !self.path.is_empty() {
            write!(out, "{}: ", self.path)?;
        }
        out.write_str(&self.message)
    }
}

/// Every problem of a configuration that cannot be used; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors {
    problems: Vec<Notice>,
}

impl Errors {
    /// The one problem of a file that could not even be read.
    #[must_use]
    pub fn unreadable(source: &Path, reason: &str) -> Self {
        let message = format!("cannot be read: {reason}");
        Self {
            problems: vec![Notice::new(Some(&source.display().to_string()), &Lines::new(""), Place::root(), message)],
        }
    }

    /// The problems, in the order of the file.
    #[must_use]
    pub fn problems(&self) -> &[Notice] {
        &self.problems
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(out, "{problem}")?;
        }
        match self.problems.len() {
            1 => out.write_str("1 problem"),
            count => write!(out, "{count} problems"),
        }
    }
}

impl std::error::Error for Errors {}

/// Something odd that does not keep the gateway from running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(pub Notice);

impl fmt::Display for Warning {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// Where the lines of a text begin, so that thousands of offsets are placed without counting lines anew.
pub struct Lines<'t> {
    text: &'t str,
    /// Byte offsets, ascending, the first 0.
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    /// Looks for the lines of `text`.
    #[must_use]
    pub fn new(text: &'t str) -> Self {
        let newlines = text.match_indices('\n').map(|(offset, _)| offset + 1);
        Self { text, starts: std::iter::once(0).chain(newlines).collect() }
    }

    /// Line and column of a byte offset, both from 1, the column in characters. An offset past the end is the end.
    #[must_use]
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let offset = self.text.floor_char_boundary(offset);
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = line.checked_sub(1).and_then(|index| self.starts.get(index)).copied().unwrap_or_default();
        let before = self.text.get(start..offset).unwrap_or_default();
        // A byte order mark takes no column in any editor.
        let before = if start == 0 { before.strip_prefix('\u{feff}').unwrap_or(before) } else { before };
        (line, before.chars().count() + 1)
    }
}

/// `(did you mean "x"?)` with a space before it, or nothing where no known name is near.
#[must_use]
pub fn suggestion<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(found, known).map_or_else(String::new, |near| format!(" (did you mean \"{near}\"?)"))
}

/// The known name that `found` was likely meant to be.
#[must_use]
pub fn nearest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Long input cannot be near any name, and comparing it would cost the product of both lengths.
    if found.len() > 64 {
        return None;
    }
    let lower = found.to_ascii_lowercase().replace('-', "_");
    let distance = |name: &str| {
        let name = name.to_ascii_lowercase().replace('-', "_");
        let begins = lower.len() >= 4 && name.len() >= 4 && (name.starts_with(&lower) || lower.starts_with(&name));
        let letters = strsim::osa_distance(&lower, &name);
        // A beginning is as likely as one letter: "gunicorn" is nearer to "gunicorn-sync" than to "uvicorn".
        (if begins { letters.min(1) } else { letters }, letters)
    };
    known
        .into_iter()
        .map(|name| (distance(name), name))
        // One slip in three letters, so that "on" is not taken for "off".
        .filter(|&((distance, _), name)| distance * 3 <= name.chars().count().max(found.chars().count()))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_lines_start_at_one() {
        assert_eq!(Lines::new("").position(0), (1, 1));
        assert_eq!(Lines::new("ä = 1\nö = 2").position(9), (2, 2));
        assert_eq!(Lines::new("\u{feff}a = 1").position(3), (1, 1));
        // An offset past the end or inside a character is no reason to panic.
        assert_eq!(Lines::new("ä").position(1), (1, 1));
        assert_eq!(Lines::new("a\n").position(99), (2, 1));
    }

    #[test]
    fn suggestions_are_near_or_absent() {
        let known = ["listen", "threads", "trusted_proxies"];
        assert_eq!(nearest("lisen", known), Some("listen"));
        assert_eq!(nearest("trusted-proxies", known), Some("trusted_proxies"));
        assert_eq!(nearest("Threads", known), Some("threads"));
        assert_eq!(nearest("gunicorn", ["gunicorn-sync", "uvicorn"]), Some("gunicorn-sync"));
        assert_eq!(nearest("memory_per_bdy", ["memory", "memory_per_body"]), Some("memory_per_body"));
        assert_eq!(nearest("warning", ["error", "warn"]), Some("warn"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest(&"listen".repeat(1000), known), None);
        assert_eq!(nearest("", known), None);
    }

    #[test]
    fn a_message_is_one_line_that_a_terminal_shows_as_it_is() {
        let mut report = Report::default();
        report.problem(&Place::root(), "cannot read a\nb\u{1b}[31m\u{7f}é\\: none");
        let errors = report.finish("", None).unwrap_err();
        assert_eq!(errors.problems()[0].message, "cannot read a\\nb\\u{1b}[31m\\u{7f}é\\: none");
    }

    #[test]
    fn problems_are_sorted_counted_and_told_once() {
        let mut report = Report::default();
        report.problem(&Place { path: "b".into(), offset: Some(6) }, "second");
        report.problem(&Place { path: "a".into(), offset: Some(0) }, "first");
        report.problem(&Place { path: "a".into(), offset: Some(0) }, "first");
        let errors = report.finish("a = 1\nb = 2\n", Some(Path::new("x.toml"))).unwrap_err();
        assert_eq!(errors.to_string(), "x.toml:1:1: a: first\nx.toml:2:1: b: second\n2 problems");
    }
}
