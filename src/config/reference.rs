//! The manual of all keys, `docs/configuration.md`, out of the documentation and defaults in `raw.rs`, `raw/` and `preset.rs`.
//!
//! A test compares the file with this text; `PROPYLON_BLESS=1 cargo test` writes it anew.

use std::fmt::Write as _;

use super::model::ClientAbort;
use super::schema::{KeyInfo, Presence, SectionInfo};
use super::value::{PRESETS, duration_text};
use super::walk::Read as _;
use super::{raw, schema};

const OPENING: &str = r#"# Configuration

One TOML file, read at start and again with each reload (SIGHUP). `propylon check` reads it and says everything that is
wrong with it. Four lines are a whole gateway:

```toml
[upstreams.app]
endpoints = ["127.0.0.1:8000"]
[[routes]]
upstream = "app"
```

A reload takes over every change but those of keys marked as taking effect with a restart. A file that has any mistake
changes nothing.

## Values

- **Durations** are one whole number and one unit: `"500ms"`, `"30s"`, `"5m"`, `"1h"`. **Sizes** are a number and a unit:
  `"512B"`, `"8KiB"`, `"10MiB"` (powers of two), `"10MB"` (of ten). **Rates** are a size for each second: `"500B/s"`.
- **Any string** may take environment variables, `"${NAME}"` or `"${NAME:-default}"`; the default also stands in for a
  variable that is empty. `$$` is a dollar sign. A variable that is not set and has no default is an error. A whole
  number or a boolean may be given by such a string as well: `workers = "${WORKERS:-4}"`.
- **`"file:/run/secrets/x"`** is the content of that file, without the newline at its end. A relative path is looked for
  beside the configuration file.
- **Unknown keys**, wrong types and names that lead nowhere are errors, all told at once.
"#;

/// The whole manual.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(
        "<!-- Generated from src/config/raw.rs and raw/; write it anew with PROPYLON_BLESS=1 cargo test. -->\n\n",
    );
    out.push_str(OPENING);
    if let Some(root) = raw::Gateway::describe().inside {
        let root = (root.section)();
        for key in root.keys {
            write_root_key(&mut out, key);
        }
    }
    write_presets(&mut out);
    out
}

/// A key of the file's top level: its section, and the sections inside; or, without any, its own documentation.
fn write_root_key(out: &mut String, key: KeyInfo) {
    match key.described.inside {
        Some(inside) => {
            let path = format!("{}{}", key.name, inside.suffix);
            write_section(out, &path, (inside.section)());
        }
        None => {
            let _ = write!(out, "\n## `[{}]`\n\n{}\n", key.name, paragraphs(key.docs));
        }
    }
}

fn write_section(out: &mut String, path: &str, section: SectionInfo) {
    let _ = write!(out, "\n## {}\n\n{}\n", heading(path), paragraphs(section.about));
    let mut nested = Vec::new();
    for key in section.keys {
        write_key(out, path, &key);
        if let Some(inside) = key.described.inside {
            nested.push((format!("{path}.{}{}", key.name, inside.suffix), (inside.section)()));
        }
    }
    for (path, section) in nested {
        write_section(out, &path, section);
    }
}

/// The header a section has in the file; tables within lists have none.
fn heading(path: &str) -> String {
    match path.strip_suffix("[]") {
        Some(list) if list.contains(['.', '[']) => format!("A table in `{}`", in_file(list)),
        Some(list) => format!("`[[{list}]]`"),
        None => format!("`[{}]`", in_file(path)),
    }
}

/// A key path with a name in place of any name, and without the brackets that TOML does not write.
fn in_file(path: &str) -> String {
    path.replace(".*", ".NAME").replace("[]", "")
}

fn write_key(out: &mut String, section: &str, key: &KeyInfo) {
    let presence = match (key.presence, &key.described.inside) {
        (Presence::Required, _) => "required".to_owned(),
        (Presence::Default("{}") | Presence::Optional, Some(inside)) => {
            format!("see {}", heading(&format!("{section}.{}{}", key.name, inside.suffix)))
        }
        (Presence::Optional, None) => "optional".to_owned(),
        (Presence::Default(default), _) => format!("default `{default}`"),
    };
    let _ = write!(out, "\n### `{}`\n\n*{}; {presence}*\n\n{}\n", key.name, key.described.kind, paragraphs(key.docs));
}

/// Documentation lines without the space that follows `///`.
fn paragraphs(lines: &[&str]) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    lines.join("\n")
}

fn write_presets(out: &mut String) {
    out.push_str(
        "\n## Presets\n\nWhat `preset` fills in where the file says nothing. The head limits are those of the server, \
         less the fields the gateway adds;\na longer head is answered by the gateway instead of reaching a server that \
         would refuse it.\n\n\
         | preset | idle reuse | server closes idle after | requests a worker | client leaves | request line | field \
         | fields |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for (name, preset) in PRESETS {
        let facts = preset.facts();
        let keepalive = facts.keepalive.map_or_else(|| "off".to_owned(), duration_text);
        let closes = if facts.closes_idle_after.is_zero() {
            "at once".to_owned()
        } else {
            duration_text(facts.closes_idle_after)
        };
        let abort = match facts.client_abort {
            ClientAbort::Finish => "finish",
            ClientAbort::Close => "close",
        };
        let limit =
            |limit: Option<usize>, unit: &str| limit.map_or_else(|| "-".to_owned(), |limit| format!("{limit}{unit}"));
        let (line, field) = (limit(facts.request_line_max, " B"), limit(facts.field_max, " B"));
        let fields = limit(facts.headers_max, "");
        let _ = writeln!(
            out,
            "| `{name}` | {keepalive} | {closes} | {} | {abort} | {line} | {field} | {fields} |",
            facts.threads
        );
    }
    out.push_str("| none | 1s | unknown | 1 | close | - | - | - |\n\n");
    for (name, preset) in PRESETS {
        let _ = writeln!(out, "- `{name}`: {}", preset.facts().about);
    }
}

/// Every key path of the schema, with `[]` for items of lists and `.*` for names of the operator's own.
#[must_use]
pub fn key_paths() -> Vec<String> {
    let mut paths = Vec::new();
    if let Some(root) = raw::Gateway::describe().inside {
        collect(&(root.section)(), "", &mut paths);
    }
    paths
}

fn collect(section: &schema::SectionInfo, parent: &str, paths: &mut Vec<String>) {
    for key in &section.keys {
        let path = format!("{parent}{}", key.name);
        if let Some(inside) = &key.described.inside {
            collect(&(inside.section)(), &format!("{path}{}.", inside.suffix), paths);
        }
        paths.push(path);
    }
}
