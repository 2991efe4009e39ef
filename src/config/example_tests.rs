//! `gateway.toml.example`: it loads on any machine, shows every key that is supported, and says the true defaults.

use std::collections::BTreeSet;
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::{load, reference};

fn example() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("gateway.toml.example")
}

#[test]
fn it_loads_without_complaint() {
    let (config, warnings) = load(&example()).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(!config.routes.is_empty());
    assert_eq!(warnings, []);
}

#[test]
fn it_shows_every_key() {
    let text = std::fs::read_to_string(example()).unwrap();
    let document = DeTable::parse(&text).unwrap();
    let mut shown = BTreeSet::new();
    collect(&DeValue::Table(document.into_inner()), "", &mut shown);
    let missing: Vec<String> = reference::key_paths().into_iter().filter(|path| !shown.contains(path)).collect();
    assert_eq!(missing, Vec::<String>::new());
}

/// Key paths of a document, with `[]` for every index, and as `.*` whatever follows a key that holds names.
fn collect(value: &DeValue<'_>, path: &str, shown: &mut BTreeSet<String>) {
    shown.insert(path.to_owned());
    match value {
        DeValue::Table(table) => {
            for (key, value) in table {
                let inner = match path {
                    "" => key.get_ref().to_string(),
                    "upstreams" | "security_headers" => format!("{path}.*"),
                    _ => format!("{path}.{}", key.get_ref()),
                };
                collect(value.get_ref(), &inner, shown);
            }
        }
        // `"0.0.0.0:80"` is short for `{ address = "0.0.0.0:80" }`.
        DeValue::String(_) if path.ends_with("[]") => drop(shown.insert(format!("{path}.address"))),
        // One table or a list of them.
        DeValue::Array(items) if path.ends_with(".rate_limit") => {
            items.iter().for_each(|item| collect(item.get_ref(), path, shown));
        }
        DeValue::Array(items) => items.iter().for_each(|item| collect(item.get_ref(), &format!("{path}[]"), shown)),
        _ => {}
    }
}
