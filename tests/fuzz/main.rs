//! The fuzz targets on the stable toolchain: each with its corpus, and with mutations of it that are the same every time.
//!
//! What is looked for at length is `make fuzz`'s. An input that broke something becomes a file of the corpus.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod mutation;
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use mutation::Mutator;
use targets::Check;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

/// The files of the corpus, in the order of their names.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder().join("corpus").join(target)).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Runs the target over its corpus, then over so many mutations.
fn run(target: &str, mutations: usize) {
    let (_, check) = targets::ALL.into_iter().find(|(name, _)| *name == target).unwrap();
    let corpus = corpus(target);
    assert!(corpus.len() >= 5, "only {} files", corpus.len());
    corpus.iter().for_each(|input| run_one(target, check, input));
    let words = mutation::words(&fs::read_to_string(folder().join(format!("dict/{target}.dict"))).unwrap());
    let mut mutator = Mutator::new(&corpus, &words);
    for _ in 0..mutations {
        run_one(target, check, &mutator.next());
    }
}

/// Says which input it was, as a byte string of Rust.
fn run_one(target: &str, check: Check, input: &[u8]) {
    let outcome = catch_unwind(AssertUnwindSafe(|| check(input)));
    assert!(outcome.is_ok(), "{target} fails as said above on b\"{}\"", input.escape_ascii());
}

#[test]
fn a_head_has_one_meaning_however_it_arrives() {
    run("head", 10_000);
}

#[test]
fn chunks_are_read_as_the_grammar_says() {
    run("chunks", 10_000);
}

#[test]
fn strangers_do_not_say_who_the_client_is() {
    run("forwarded", 10_000);
}

#[test]
fn a_host_has_one_name() {
    run("host", 4000);
}

#[test]
fn a_path_is_the_one_the_app_sees() {
    run("path", 20_000);
}

#[test]
fn patterns_match_and_routes_are_found_as_defined() {
    run("patterns", 3000);
}

#[test]
fn a_configuration_is_used_or_its_errors_have_a_place() {
    run("config", 2000);
}

#[test]
fn a_connection_is_of_whom_its_proxy_says() {
    run("proxy_protocol", 20_000);
}

#[test]
fn what_may_be_kept_is_read_as_it_is_said() {
    run("cache_fields", 20_000);
}

#[test]
fn every_target_is_fuzzed() {
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    let listed: Vec<_> = manifest.lines().filter_map(|line| line.strip_prefix("path = \"bin/")).collect();
    assert_eq!(listed, targets::ALL.map(|(name, _)| format!("{name}.rs\"")));
    for (name, _) in targets::ALL {
        let binary = fs::read_to_string(folder().join(format!("bin/{name}.rs"))).unwrap();
        assert!(binary.contains(&format!("targets::{name}::check(input)")), "{name}");
        let tests = fs::read_to_string(folder().join("main.rs")).unwrap();
        assert!(tests.contains(&format!("run(\"{name}\", ")), "{name}");
    }
}
