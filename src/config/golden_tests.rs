//! Whole files and what is said about them: every `tests/config/bad/NAME.toml` against `NAME.expected`, every file of
//! `tests/config/good` loaded. And the manual on disk against the one that is generated.
//!
//! `PROPYLON_BLESS=1 cargo test` writes the expected texts anew; look at the difference before keeping it.

use std::fs;
use std::path::{Path, PathBuf};

use super::{load, reference};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Compares a file with what it should hold, or writes it.
fn compare(path: &Path, text: &str) {
    if std::env::var_os("PROPYLON_BLESS").is_some() {
        fs::write(path, text).unwrap();
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(text, expected, "{} differs; PROPYLON_BLESS=1 writes it anew", path.display());
}

fn toml_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files
}

#[test]
fn bad_files_are_told_what_is_wrong_with_them() {
    let dir = repository().join("tests/config/bad");
    let files = toml_files(&dir);
    assert!(files.len() >= 30, "only {} files", files.len());
    for path in files {
        let errors = load(&path).expect_err(&path.display().to_string());
        // The file as somebody beside it would have named it.
        let text = errors.to_string().replace(&format!("{}/", dir.display()), "");
        compare(&path.with_extension("expected"), &format!("{text}\n"));
    }
}

#[test]
fn good_files_load_and_warn_as_expected() {
    let dir = repository().join("tests/config/good");
    for path in toml_files(&dir) {
        let (_, warnings) = load(&path).unwrap_or_else(|errors| panic!("{errors}"));
        let lines: Vec<String> = warnings.iter().map(|warning| format!("{warning}\n")).collect();
        compare(&path.with_extension("expected"), &lines.concat().replace(&format!("{}/", dir.display()), ""));
    }
}

#[test]
fn the_manual_on_disk_is_the_generated_one() {
    compare(&repository().join("docs/configuration.md"), &reference::markdown());
}
