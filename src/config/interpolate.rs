//! Values from outside the file: `${NAME}`, `${NAME:-default}` and `file:/run/secrets/x`, in any string.
//!
//! `$$` is a dollar sign; a `$` before anything but `{` or `$` stands for itself, so that regular expressions need no
//! escapes. What comes from a variable or a file is not looked at again for more of the same.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Bytes a `file:` value may have; a secret is short, and a device never ends.
pub const FILE_MAX: u64 = 64 * 1024;

/// What a variable is looked up with.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A string with everything from outside put in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expanded {
    pub text: String,
    /// Whether it came from a file, and so may be a secret that no message repeats.
    pub secret: bool,
}

/// Puts in variables, then reads the file where the result starts with `file:`. Relative files are looked for in
/// `base`.
///
/// # Errors
/// A sentence: a variable that is not set, a brace that is not closed, a file that cannot be read.
pub fn expand(text: &str, lookup: Lookup<'_>, base: &Path) -> Result<Expanded, String> {
    let text = variables(text, lookup)?;
    match text.strip_prefix("file:") {
        None => Ok(Expanded { text, secret: false }),
        Some(path) => read_value(&base.join(path)).map(|text| Expanded { text, secret: true }),
    }
}

/// Whether `text` asks for anything from outside.
#[must_use]
pub fn is_interpolated(text: &str) -> bool {
    text.contains("${") || text.starts_with("file:")
}

fn variables(text: &str, lookup: Lookup<'_>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(body) = after.strip_prefix('{') {
            let (inside, after) = body
                .split_once('}')
                .ok_or_else(|| "expected `}` after `${` (a dollar sign before a brace is written `$$`)".to_owned())?;
            out.push_str(&variable(inside, lookup)?);
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The value of what stands between the braces.
fn variable(inside: &str, lookup: Lookup<'_>) -> Result<String, String> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(format!("expected `${{NAME}}` or `${{NAME:-default}}`; found `${{{inside}}}`"));
    }
    match (lookup(name), default) {
        // As in a shell, `:-` also stands in for a variable that is set to nothing.
        (Some(value), Some(default)) if value.is_empty() => Ok(default.to_owned()),
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => {
            Err(format!("environment variable {name} is not set, and there is no default (`${{{name}:-default}}`)"))
        }
    }
}

/// Reads a value from a file, less one newline at its end.
fn read_value(path: &Path) -> Result<String, String> {
    let text = read_bounded(path, FILE_MAX)?;
    let mut text = String::from_utf8(text).map_err(|_| format!("file {} is not UTF-8", path.display()))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// Reads a whole file of at most `max` bytes.
///
/// # Errors
/// A sentence that names the file: it cannot be opened or read, is no file, or is too large.
pub fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {}", path.display(), reason(&error));
    // Opening a named pipe would wait for its writer, so look before opening.
    let kind = std::fs::metadata(path).map_err(failed)?;
    if kind.is_dir() {
        return Err(format!("cannot read {}: is a directory", path.display()));
    }
    if !kind.is_file() {
        return Err(format!("cannot read {}: is not a regular file", path.display()));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(max + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > max {
        return Err(format!("cannot read {}: larger than {max} bytes", path.display()));
    }
    Ok(bytes)
}

/// An operating system error in our own form: lower case, without its number.
#[must_use]
pub fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// The directory that relative files of a configuration are looked for in: the configuration's own.
#[must_use]
pub fn base_of(source: Option<&Path>) -> PathBuf {
    source.and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "SET" => Some("value".into()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${SET}".into()),
            _ => None,
        }
    }

    fn text(text: &str) -> Result<String, String> {
        expand(text, &lookup, Path::new("")).map(|expanded| expanded.text)
    }

    #[test]
    fn variables_and_defaults() {
        assert_eq!(text("a ${SET} b").as_deref(), Ok("a value b"));
        assert_eq!(text("${SET}${SET}").as_deref(), Ok("valuevalue"));
        assert_eq!(text("${UNSET:-x:-y}").as_deref(), Ok("x:-y"));
        assert_eq!(text("${UNSET:-}").as_deref(), Ok(""));
        assert_eq!(text("${EMPTY:-x}").as_deref(), Ok("x"));
        assert_eq!(text("${EMPTY}").as_deref(), Ok(""));
        assert_eq!(text("${TRICK}").as_deref(), Ok("${SET}"));
    }

    #[test]
    fn dollars_that_are_only_dollars() {
        assert_eq!(text("~^/v[0-9]+$").as_deref(), Ok("~^/v[0-9]+$"));
        assert_eq!(text("$SET").as_deref(), Ok("$SET"));
        assert_eq!(text("$$").as_deref(), Ok("$"));
        assert_eq!(text("$${SET}").as_deref(), Ok("${SET}"));
    }

    #[test]
    fn mistakes_name_what_is_wrong() {
        assert!(text("${UNSET}").unwrap_err().contains("UNSET is not set"));
        assert!(text("${SET").unwrap_err().contains('}'));
        for bad in ["${}", "${9}", "${A B}", "${:-x}"] {
            assert!(text(bad).unwrap_err().contains("${NAME}"), "{bad}");
        }
    }

    #[test]
    fn files_lose_one_newline_and_are_secret() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "s3cret\n\n").unwrap();
        let found = expand("file:secret", &lookup, dir.path()).unwrap();
        assert_eq!(found, Expanded { text: "s3cret\n".into(), secret: true });
        assert!(expand("file:none", &lookup, dir.path()).unwrap_err().ends_with("none: no such file or directory"));
        assert!(expand("file:.", &lookup, dir.path()).unwrap_err().ends_with("is a directory"));
        std::fs::write(dir.path().join("big"), vec![b'x'; 64 * 1024 + 1]).unwrap();
        assert!(expand("file:big", &lookup, dir.path()).unwrap_err().ends_with("larger than 65536 bytes"));
        std::fs::write(dir.path().join("bytes"), [0xff]).unwrap();
        assert!(expand("file:bytes", &lookup, dir.path()).unwrap_err().ends_with("is not UTF-8"));
        assert!(expand("file:/dev/zero", &lookup, dir.path()).unwrap_err().ends_with("is not a regular file"));
    }

    proptest! {
        #[test]
        fn never_panics(input in "[${}A-Z:a-z -]{0,40}") {
            let _ = text(&input);
        }

        #[test]
        fn doubling_every_dollar_keeps_the_text(input in "[${}A-Za-z0-9 ]{0,40}") {
            prop_assert_eq!(text(&input.replace('$', "$$")), Ok(input));
        }
    }
}
