//! The configuration: from the text of a file to values with nothing left to parse.
//!
//! [`load`] is the way in, [`Config`] the way out, and whatever is wrong comes back at once as [`Errors`]. No Pingora,
//! no sockets, no clock. What becomes of a configuration is for `state` and `server`.
//!
//! `raw.rs` and `raw/` list the keys and are the manual; `schema.rs` and `walk.rs` read them; `value/` knows the languages inside
//! strings; `validate/` builds the [`Config`].

pub mod diff;
mod error;
#[cfg(test)]
mod example_tests;
mod flags;
#[cfg(test)]
mod golden_tests;
mod interpolate;
pub mod model;
mod place;
pub mod preset;
#[cfg(test)]
mod property_tests;
mod raw;
pub mod reference;
mod schema;
mod validate;
mod value;
mod walk;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use toml::de::{DeTable, DeValue};

pub use error::{Errors, Notice, Warning, suggestion};
pub use flags::from_flags;
pub use model::Config;

use error::{Lines, Report};
use interpolate::Lookup;
use place::Place;
use walk::{Node, Read, Walk};

/// Bytes of a configuration file.
const FILE_MAX: u64 = 4 << 20;

/// A configuration that can be used, and what is odd about it.
pub type Loaded = Result<(Config, Vec<Warning>), Errors>;

/// Reads the file at `path`.
///
/// # Errors
/// Every problem of the file, in its order; or the one reason why it cannot be read.
pub fn load(path: &Path) -> Loaded {
    let text = read_file(path).map_err(|reason| Errors::unreadable(path, &reason))?;
    parse(&text, Some(path))
}

/// Reads `text`, which came from `source`. Relative files are looked for beside `source`.
///
/// # Errors
/// Every problem, in the order of the text.
pub fn parse(text: &str, source: Option<&Path>) -> Loaded {
    parse_with(text, source, &environment)
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// As [`parse`], with the environment as an argument.
fn parse_with(text: &str, source: Option<&Path>, environment: Lookup<'_>) -> Loaded {
    let document = parse_toml(text, source)?;
    let (config, report) = read_document(&document, source, environment);
    report.finish(text, source).map(|warnings| (config, warnings))
}

/// The raw sections and what was wrong with them; then what they mean.
fn read_document(document: &DeValue<'_>, source: Option<&Path>, environment: Lookup<'_>) -> (Config, Report) {
    let base = interpolate::base_of(source);
    let mut walk = Walk::new(environment, &base);
    let root = Place::root();
    let raw = raw::Gateway::read(Node { value: document, place: &root }, &mut walk).unwrap_or_default();
    let mut report = walk.report;
    let config = validate::build(raw, source, &base, &mut report);
    (config, report)
}

/// The document, or what is wrong with its TOML: the keys of a document that is not whole would only mislead.
fn parse_toml<'t>(text: &'t str, source: Option<&Path>) -> Result<DeValue<'t>, Errors> {
    let (document, mistakes) = DeTable::parse_recoverable(text);
    if mistakes.is_empty() {
        return Ok(DeValue::Table(document.into_inner()));
    }
    let mut report = Report::default();
    let lines = Lines::new(text);
    let mut told = BTreeSet::new();
    for mistake in mistakes {
        let offset = mistake.span().map_or(0, |span| span.start);
        // After the first mistake of a line the parser only guesses at the rest of it.
        if told.insert(lines.position(offset).0) {
            let place = Place { path: String::new(), offset: Some(offset) };
            report.problem(&place, format!("not TOML: {}", mistake.message()));
        }
    }
    Err(report.into_errors(text, source))
}

fn read_file(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| interpolate::reason(&error))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("larger than {FILE_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|error| format!("not UTF-8 from byte {} on", error.utf8_error().valid_up_to()))
}
