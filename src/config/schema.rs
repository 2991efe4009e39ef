//! One table for each section: its keys, their types, defaults and documentation.
//!
//! [`section!`] turns the list in `raw.rs` into three things that therefore cannot disagree: the struct that holds what
//! was written, the walk that fills it, and the description that the manual is generated from.

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::error::{Report, nearest};
use super::place::{At, Place};
use super::walk::{Node, Read, Reject, Text, Walk};

/// What the manual says about a type.
pub struct Described {
    /// A few words, such as `list of durations`.
    pub kind: String,
    /// The keys inside, where it is a table.
    pub inside: Option<Inside>,
}

impl Described {
    /// A type without keys of its own.
    #[must_use]
    pub fn leaf(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), inside: None }
    }
}

/// A table inside a key.
pub struct Inside {
    /// What follows the key in a key path: nothing, `[]` for items of a list, `.*` for names of the operator's own.
    pub suffix: &'static str,
    /// The table.
    pub section: fn() -> SectionInfo,
}

/// What a key that is not written means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Required,
    Optional,
    /// This, in TOML.
    Default(&'static str),
}

/// A section as the manual shows it.
pub struct SectionInfo {
    /// Lines of its documentation.
    pub about: &'static [&'static str],
    pub keys: Vec<KeyInfo>,
}

/// A key as the manual shows it.
pub struct KeyInfo {
    pub name: &'static str,
    /// Lines of its documentation.
    pub docs: &'static [&'static str],
    pub presence: Presence,
    pub described: Described,
}

/// Entries under names of the operator's own, in the order of the names.
#[derive(Debug)]
pub struct Table<T>(pub Vec<(At<String>, At<T>)>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Text> Read for T {
    fn describe() -> Described {
        Described::leaf(T::KIND)
    }

    fn read(node: Node<'_>, walk: &mut Walk<'_>) -> Option<Self> {
        walk.parse(node)
    }
}

impl Read for bool {
    fn describe() -> Described {
        Described::leaf("boolean")
    }

    fn read(node: Node<'_>, walk: &mut Walk<'_>) -> Option<Self> {
        walk.boolean(node)
    }
}

/// A whole number from `LOW` to `HIGH`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Int<const LOW: u32, const HIGH: u32>(pub u32);

impl<const LOW: u32, const HIGH: u32> Read for Int<LOW, HIGH> {
    fn describe() -> Described {
        Described::leaf(format!("integer, {LOW} to {HIGH}"))
    }

    fn read(node: Node<'_>, walk: &mut Walk<'_>) -> Option<Self> {
        walk.integer(node, LOW.into(), HIGH.into()).and_then(|value| u32::try_from(value).ok()).map(Self)
    }
}

impl<T: Read> Read for Vec<At<T>> {
    fn describe() -> Described {
        let item = T::describe();
        let inside = item.inside.map(|inside| Inside { suffix: "[]", ..inside });
        Described { kind: format!("list: {}", item.kind), inside }
    }

    fn read(node: Node<'_>, walk: &mut Walk<'_>) -> Option<Self> {
        walk.list(node)
    }
}

/// A list with at least one item.
#[derive(Debug)]
pub struct NonEmpty<T>(pub Vec<At<T>>);

impl<T> Default for NonEmpty<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Read> Read for NonEmpty<T> {
    fn describe() -> Described {
        <Vec<At<T>> as Read>::describe()
    }

    fn read(node: Node<'_>, walk: &mut Walk<'_>) -> Option<Self> {
        if let DeValue::Array(array) = node.value
            && array.is_empty()
        {
            walk.report.problem(node.place, "expected at least one; found an empty list");
            return None;
        }
        walk.list(node).map(Self)
    }
}

/// A list, or one item without the brackets.
#[derive(Debug)]
pub struct OneOrMany<T> {
    /// Those that could be read.
    pub items: Vec<At<T>>,
    /// How many there are.
    pub written: usize,
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self { items: Vec::new(), written: 0 }
    }
}

impl<T: Read> Read for OneOrMany<T> {
    fn describe() -> Described {
        let item = T::describe();
        Described { kind: format!("{}, or a list", item.kind), inside: item.inside }
    }

    fn read(node: Node<'_>, walk: &mut Walk<'_>) -> Option<Self> {
        if let DeValue::Array(array) = node.value {
            return walk.list(node).map(|items| Self { items, written: array.len() });
        }
        T::read(node, walk).map(|item| Self { items: vec![At::new(item, node.place.clone())], written: 1 })
    }
}

impl<T: Read> Read for Table<T> {
    fn describe() -> Described {
        let item = T::describe();
        let inside = item.inside.map(|inside| Inside { suffix: ".*", ..inside });
        Described { kind: format!("table: name = {}", item.kind), inside }
    }

    fn read(node: Node<'_>, walk: &mut Walk<'_>) -> Option<Self> {
        let table = walk.table(node)?;
        // By name, whatever order the parser keeps its keys in.
        let sorted: BTreeMap<&str, _> =
            table.iter().map(|(key, value)| (key.get_ref().as_ref(), (key, value))).collect();
        let entries = sorted.into_iter().filter_map(|(name, (key, value))| {
            let written = node.place.offset.is_some();
            let place = node.place.key(name, written.then(|| value.span().start));
            let read = T::read(Node { value: value.get_ref(), place: &place }, walk)?;
            let name_place = node.place.key(name, written.then(|| key.span().start));
            Some((At::new(name.to_owned(), name_place), At::new(read, place)))
        });
        Some(Self(entries.collect()))
    }
}

/// A closed set of words, for a message: `one of a, b, c`.
#[must_use]
pub fn one_of(words: &[&str]) -> String {
    format!("one of {}", words.join(", "))
}

/// Reads one of `words`.
pub fn word<T: Copy>(node: Node<'_>, walk: &mut Walk<'_>, words: &[(&'static str, T)]) -> Option<T> {
    let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
    let expected = one_of(&names);
    let (text, shown) = walk.text(node, &expected)?;
    let result = match words.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(*value),
        None => Err(nearest(&text, names).map_or(Reject::Unlike, |near| Reject::Near(near.to_owned()))),
    };
    walk.accept(result, node.place, &expected, &shown)
}

/// Refuses an item that a list holds twice, going by `key`.
pub fn refuse_repeats<T, K: PartialEq>(report: &mut Report, list: &[At<T>], key: impl Fn(&T) -> K) {
    let mut seen: Vec<(K, &Place)> = Vec::new();
    for item in list {
        let this = key(&item.value);
        match seen.iter().find(|(earlier, _)| *earlier == this) {
            Some((_, place)) => report.problem(&item.place, format!("is listed twice: it is the same as {place}")),
            None => seen.push((this, &item.place)),
        }
    }
}

/// How a key is written in the file, where it is a word that Rust keeps for itself.
#[must_use]
pub const fn key_name(identifier: &'static str) -> &'static str {
    match identifier.as_bytes() {
        [b'r', b'#', ..] => identifier.split_at(2).1,
        _ => identifier,
    }
}

/// Declares a section: documentation, and keys with type and default.
/// With `short key`, a value that is no table is read as that key alone.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        $name:ident {
            $(
                $(#[doc = $doc:literal])*
                $key:ident: $type:ty $(= $default:tt)?,
            )*
        }
        $(short $short:ident)?
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Default)]
        pub struct $name {
            $(
                $(#[doc = $doc])*
                pub $key: Option<At<$type>>,
            )*
            /// Which keys the table holds, those whose value was refused among them.
            #[allow(dead_code, reason = "few sections need to tell an absent key from a refused one")]
            pub written: Vec<&'static str>,
        }

        impl $name {
            fn section() -> SectionInfo {
                SectionInfo {
                    about: &[$($about),*],
                    keys: vec![$(KeyInfo {
                        name: $crate::config::schema::key_name(stringify!($key)),
                        docs: &[$($doc),*],
                        presence: section!(@presence $($default)?),
                        described: <$type as Read>::describe(),
                    }),*],
                }
            }
        }

        impl Read for $name {
            fn describe() -> Described {
                let inside = Inside { suffix: "", section: Self::section };
                let kind = section!(@kind $($short)?).to_owned();
                Described { kind, inside: Some(inside) }
            }

            fn read(node: Node<'_>, walk: &mut Walk<'_>) -> Option<Self> {
                $(if !matches!(node.value, toml::de::DeValue::Table(_)) {
                    let value = Read::read(node, walk)?;
                    return Some(Self { $short: Some(At::new(value, node.place.clone())), ..Self::default() });
                })?
                let table = walk.table(node)?;
                walk.refuse_unknown(table, &[$($crate::config::schema::key_name(stringify!($key))),*], node.place);
                Some(Self {
                    $($key: walk.field(table, $crate::config::schema::key_name(stringify!($key)), section!(@presence $($default)?), node.place),)*
                    written: [$($crate::config::schema::key_name(stringify!($key))),*].into_iter().filter(|key| table.contains_key(*key)).collect(),
                })
            }
        }
    };
    (@kind) => { "table" };
    (@kind $short:ident) => { concat!(stringify!($short), ", or a table") };
    (@presence) => { Presence::Optional };
    (@presence required) => { Presence::Required };
    (@presence $default:literal) => { Presence::Default($default) };
}
pub(super) use section;
