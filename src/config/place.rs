//! Where a value stands: its key path and its position in the file.
//!
//! Every value read from the file keeps its [`Place`], so that an error found late, by comparing two values, still
//! names a line. Positions are byte offsets here; `error.rs` turns them into lines and columns once, at the end.

use std::fmt;

/// A key path such as `routes[2].upstream`, and where it is in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Keys joined by dots, list items as `[0]`, counted from 0. Empty: the file as a whole.
    pub path: String,
    /// Byte offset into the file; none for a default and for what came from the command line.
    pub offset: Option<usize>,
}

impl Place {
    /// The whole file.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// The key `name` inside this table. `offset` is that of the value, or of the key where the key is what is wrong.
    #[must_use]
    pub fn key(&self, name: &str, offset: Option<usize>) -> Self {
        let name = quoted_where_needed(name);
        let path = if self.path.is_empty() { name } else { format!("{}.{name}", self.path) };
        Self { path, offset }
    }

    /// Item `index` of this list.
    #[must_use]
    pub fn item(&self, index: usize, offset: Option<usize>) -> Self {
        Self { path: format!("{}[{index}]", self.path), offset }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.path)
    }
}

/// A key as TOML would need it written, on one line whatever it holds.
fn quoted_where_needed(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { format!("{name:?}") }
}

/// A value together with its place.
#[derive(Debug, Clone, Default)]
pub struct At<T> {
    pub value: T,
    pub place: Place,
}

impl<T> At<T> {
    /// Puts `value` at `place`.
    pub fn new(value: T, place: Place) -> Self {
        Self { value, place }
    }

    /// Whether the file gives it, rather than a default.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.place.offset.is_some()
    }
}
