//! Reads the parsed document key by key, so that one run reports everything that is wrong.
//!
//! serde stops at its first error; this walk goes on after each. It answers for unknown keys, wrong types and text that
//! does not parse; whether the values fit together is for `validate`. A value that could not be read becomes `None`,
//! and has been reported once that happens.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Report, suggestion};
use super::interpolate::{self, Lookup};
use super::place::{At, Place};
use super::schema::{Described, Presence};

/// A value of the document and its place.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    pub value: &'a DeValue<'a>,
    pub place: &'a Place,
}

/// What a key of type `Self` accepts, and how it is read.
pub trait Read: Sized {
    /// What the manual says about the type.
    fn describe() -> Described;

    /// Reads it; `None` after having reported why not.
    fn read(node: Node<'_>, walk: &mut Walk<'_>) -> Option<Self>;
}

/// A value written as a string.
pub trait Text: Sized {
    /// One or two words for the manual, such as `duration`.
    const KIND: &'static str;
    /// What a message says was expected.
    const EXPECTED: &'static str;
    /// Whether what is written may hold a password, so that no message shows it.
    const IS_SECRET: bool = false;

    /// Reads it.
    ///
    /// # Errors
    /// Why not.
    fn parse(text: &str) -> Result<Self, Reject>;
}

impl Text for String {
    const KIND: &'static str = "string";
    const EXPECTED: &'static str = "a string";

    fn parse(text: &str) -> Result<Self, Reject> {
        Ok(text.to_owned())
    }
}

/// Why a string is not what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reject {
    /// There is no more to say than what was expected.
    Unlike,
    /// There is: a whole clause.
    Because(String),
    /// It is likely a slip for this.
    Near(String),
}

impl Reject {
    /// [`Reject::Because`] of anything that reads as text.
    pub fn because(reason: impl Into<String>) -> Self {
        Self::Because(reason.into())
    }

    /// The whole message for `found`, already quoted.
    #[must_use]
    pub fn message(&self, expected: &str, found: &str) -> String {
        match self {
            Self::Unlike => format!("expected {expected}; found {found}"),
            Self::Because(reason) => format!("expected {expected}; found {found}: {reason}"),
            Self::Near(near) => format!("expected {expected}; found {found} (did you mean \"{near}\"?)"),
        }
    }
}

/// The state of one reading.
pub struct Walk<'a> {
    pub report: Report,
    lookup: Lookup<'a>,
    base: PathBuf,
}

impl<'a> Walk<'a> {
    /// `lookup` answers for environment variables, `base` is where relative `file:` values are looked for.
    pub fn new(lookup: Lookup<'a>, base: &Path) -> Self {
        Self { report: Report::default(), lookup, base: base.to_path_buf() }
    }

    /// Reads the key `name` of `table`, or its default; `None` where neither is there, or what is there was refused.
    pub fn field<T: Read>(
        &mut self,
        table: &DeTable<'_>,
        name: &str,
        presence: Presence,
        parent: &Place,
    ) -> Option<At<T>> {
        if let Some(value) = table.get(name) {
            let place = parent.key(name, Some(value.span().start));
            let read = T::read(Node { value: value.get_ref(), place: &place }, self)?;
            return Some(At::new(read, place));
        }
        let default = match presence {
            Presence::Default(default) => default,
            Presence::Optional => return None,
            Presence::Required => {
                self.report.problem(parent, format!("missing key `{name}`"));
                return None;
            }
        };
        let place = parent.key(name, None);
        let value = DeValue::parse(default).ok()?;
        let read = T::read(Node { value: value.get_ref(), place: &place }, self)?;
        Some(At::new(read, place))
    }

    /// The table at `node`.
    pub fn table<'n>(&mut self, node: Node<'n>) -> Option<&'n DeTable<'n>> {
        match node.value {
            DeValue::Table(table) => Some(table),
            other => {
                self.wrong_type(node, "a table", other);
                None
            }
        }
    }

    /// Refuses every key of `table` that is not in `known`.
    pub fn refuse_unknown(&mut self, table: &DeTable<'_>, known: &[&str], parent: &Place) {
        for key in table.keys() {
            let name: &str = key.get_ref();
            let place = parent.key(name, Some(key.span().start));
            if !known.contains(&name) {
                let near = suggestion(name, known.iter().copied());
                self.report.problem(&place, format!("unknown key{near}"));
            }
        }
    }

    /// The string at `node` with variables and files put in, and the form that messages may repeat.
    pub fn text(&mut self, node: Node<'_>, expected: &str) -> Option<(String, String)> {
        let DeValue::String(raw) = node.value else {
            self.wrong_type(node, expected, node.value);
            return None;
        };
        match interpolate::expand(raw, self.lookup, &self.base) {
            Ok(expanded) if expanded.secret => Some((expanded.text, format!("the content of {}", quoted(raw)))),
            Ok(expanded) if expanded.text == **raw => Some((expanded.text, quoted(raw))),
            Ok(expanded) => {
                let shown = format!("{} (from {})", quoted(&expanded.text), quoted(raw));
                Some((expanded.text, shown))
            }
            Err(reason) => {
                self.report.problem(node.place, reason);
                None
            }
        }
    }

    /// A string parsed as `T`.
    pub fn parse<T: Text>(&mut self, node: Node<'_>) -> Option<T> {
        if T::IS_SECRET && !matches!(node.value, DeValue::String(_)) {
            let message = format!("expected {}; found something else, which is not shown", T::EXPECTED);
            self.report.problem(node.place, message);
            return None;
        }
        let (text, shown) = self.text(node, T::EXPECTED)?;
        let shown = if T::IS_SECRET { "a text that is not shown, as it may hold a password".to_owned() } else { shown };
        self.accept(T::parse(&text), node.place, T::EXPECTED, &shown)
    }

    /// Keeps a value, or reports why it was refused; `shown` is what was found, as messages may repeat it.
    pub fn accept<T>(&mut self, result: Result<T, Reject>, place: &Place, expected: &str, shown: &str) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(reject) => {
                self.report.problem(place, reject.message(expected, shown));
                None
            }
        }
    }

    /// An integer from `low` to `high`. A string that takes its value from outside counts as what it holds.
    pub fn integer(&mut self, node: Node<'_>, low: u64, high: u64) -> Option<u64> {
        let expected =
            if low == high { format!("the number {low}") } else { format!("a whole number from {low} to {high}") };
        let (number, shown) = match node.value {
            DeValue::Integer(integer) => {
                (i128::from_str_radix(integer.as_str(), integer.radix()).ok(), shortened(&integer.to_string()))
            }
            DeValue::String(raw) if interpolate::is_interpolated(raw) => {
                let (text, shown) = self.text(node, &expected)?;
                (text.trim().parse::<i128>().ok(), shown)
            }
            other => {
                self.wrong_type(node, &expected, other);
                return None;
            }
        };
        let fitting =
            number.and_then(|number| u64::try_from(number).ok()).filter(|number| (low..=high).contains(number));
        if fitting.is_none() {
            self.report.problem(node.place, format!("expected {expected}; found {shown}"));
        }
        fitting
    }

    /// `true` or `false`. A string that takes its value from outside counts as what it holds.
    pub fn boolean(&mut self, node: Node<'_>) -> Option<bool> {
        const EXPECTED: &str = "true or false";
        match node.value {
            DeValue::Boolean(value) => Some(*value),
            DeValue::String(raw) if interpolate::is_interpolated(raw) => {
                let (text, shown) = self.text(node, EXPECTED)?;
                self.accept(text.trim().parse().map_err(|_| Reject::Unlike), node.place, EXPECTED, &shown)
            }
            other => {
                self.wrong_type(node, EXPECTED, other);
                None
            }
        }
    }

    /// Reads every item it can of the list at `node`.
    pub fn list<T: Read>(&mut self, node: Node<'_>) -> Option<Vec<At<T>>> {
        let DeValue::Array(array) = node.value else {
            self.wrong_type(node, "a list", node.value);
            return None;
        };
        let items = array.iter().enumerate().filter_map(|(index, item): (usize, &Spanned<DeValue<'_>>)| {
            let offset = node.place.offset.map(|_| item.span().start);
            let place = node.place.item(index, offset);
            let value = T::read(Node { value: item.get_ref(), place: &place }, self)?;
            Some(At::new(value, place))
        });
        Some(items.collect())
    }

    /// Says that `node` should have been `expected`.
    pub fn wrong_type(&mut self, node: Node<'_>, expected: &str, found: &DeValue<'_>) {
        let hint = match found {
            DeValue::String(text) if expected == "a list" => format!(" (write `[{}]`)", quoted(text)),
            DeValue::Table(_) if expected == "a list" => format!(" (write `[[{}]]`)", node.place),
            DeValue::Array(_) if expected == "a table" => format!(" (write `[{}]`)", node.place),
            _ => String::new(),
        };
        self.report.problem(node.place, format!("expected {expected}; found {}{hint}", described(found)));
    }
}

/// A value of the wrong type, as a message shows it.
fn described(value: &DeValue<'_>) -> String {
    match value {
        // As a URL that stands where a table is wanted.
        DeValue::String(text) if text.contains('@') => {
            "a string, which is not shown as it may hold a password".to_owned()
        }
        DeValue::String(text) => format!("the string {}", quoted(text)),
        DeValue::Integer(integer) => format!("the integer {}", shortened(&integer.to_string())),
        DeValue::Float(float) => format!("the float {}", shortened(float.as_str())),
        DeValue::Boolean(value) => format!("the boolean {value}"),
        DeValue::Datetime(date) => format!("the date {date}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// `text` in quotes on one line, cut where a message would become unreadable.
#[must_use]
pub fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}
