//! What the documents claim: blocks of configuration parse, links lead somewhere, names and flags exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::tls::Authority;
use crate::harness::{Finished, Gateway};

struct Page {
    /// From the repository's root.
    name: String,
    text: String,
}

/// A block between fences, with what stands behind the opening one.
struct Block {
    page: String,
    line: usize,
    info: String,
    text: String,
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, pages: &mut Vec<Page>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, pages);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            let name = path.strip_prefix(repository()).unwrap().display().to_string();
            pages.push(Page { name, text: fs::read_to_string(&path).unwrap() });
        }
    }
}

/// Every document: those of the root, and all in `docs` and `examples`.
fn pages() -> Vec<Page> {
    let mut pages = Vec::new();
    for name in ["README.md", "CHANGELOG.md"] {
        if let Ok(text) = fs::read_to_string(repository().join(name)) {
            pages.push(Page { name: name.to_owned(), text });
        }
    }
    collect(&repository().join("docs"), &mut pages);
    collect(&repository().join("examples"), &mut pages);
    pages
}

fn page(name: &str) -> String {
    fs::read_to_string(repository().join(name)).unwrap()
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    for page in pages() {
        let mut open: Option<Block> = None;
        for (index, line) in page.text.lines().enumerate() {
            match (line.trim_start().strip_prefix("```"), open.take()) {
                (Some(info), None) => {
                    let info = info.to_owned();
                    open = Some(Block { page: page.name.clone(), line: index + 1, info, text: String::new() });
                }
                (Some(_), Some(block)) => blocks.push(block),
                (None, Some(mut block)) => {
                    block.text += line;
                    block.text.push('\n');
                    open = Some(block);
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "a block of {} is not closed", page.name);
    }
    blocks
}

fn propylon(arguments: &[&str]) -> Finished {
    propylon_with(arguments, &[])
}

fn propylon_with(arguments: &[&str], environment: &[(&str, &str)]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_propylon"));
    let output = command.args(arguments).envs(environment.iter().copied()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Finished { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn every_block_of_configuration_passes_check() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gateway.toml");
    let issued = Authority::shared().issue(&["example.com"]);
    fs::write(dir.path().join("fullchain.pem"), &issued.cert).unwrap();
    fs::write(dir.path().join("privkey.pem"), &issued.key).unwrap();
    let mut whole = 0;
    for block in blocks().iter().filter(|block| block.info.starts_with("toml")) {
        let place = format!("{}:{}", block.page, block.line);
        if block.info == "toml,fragment" {
            let parsed = block.text.parse::<toml::Table>();
            assert!(parsed.is_ok(), "{place}: {parsed:?}");
            continue;
        }
        assert_eq!(block.info, "toml", "{place}: a part of a configuration is marked `toml,fragment`");
        fs::write(&file, &block.text).unwrap();
        let checked = propylon(&["check", "--config", file.to_str().unwrap()]);
        assert_eq!(checked.code, 0, "{place}: {}", checked.stderr);
        whole += 1;
    }
    assert!(whole > 0);
}

#[test]
fn the_example_configurations_pass_check() {
    // They name certificates where they would be installed.
    let certificates = tempfile::tempdir().unwrap();
    let issued = Authority::shared().issue(&["example.com"]);
    for (file, text) in [
        ("fullchain.pem", &*issued.cert),
        ("privkey.pem", &issued.key),
        ("gateway.pem", &issued.cert),
        ("gateway-key.pem", &issued.key),
        ("clients.pem", Authority::shared().pem()),
        ("internal-ca.pem", Authority::shared().pem()),
        ("redis-ca.pem", Authority::shared().pem()),
    ] {
        fs::write(certificates.path().join(file), text).unwrap();
    }
    let example = repository().join("gateway.toml.example");
    let arguments = ["check", "--config", example.to_str().unwrap()];
    let environment = [("TLS_DIR", certificates.path().to_str().unwrap())];
    let example = propylon_with(&arguments, &environment);
    assert_eq!(example.code, 0, "{}", example.stderr);
    let entries = fs::read_dir(repository().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    for directory in entries.filter(|path| path.is_dir()) {
        let file = directory.join("gateway.toml");
        let checked = propylon_with(&["check", "--config", file.to_str().unwrap()], &environment);
        assert_eq!(checked.code, 0, "{}", checked.stderr);
    }
}

/// The text without code, where brackets and parentheses mean something else.
fn prose(text: &str) -> String {
    let mut in_block = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        in_block ^= fence;
        !in_block && !fence
    });
    let without_code = |line: &str| line.split('`').step_by(2).collect::<Vec<_>>().join("`");
    lines.map(without_code).collect::<Vec<_>>().join("\n")
}

/// As the anchor of a heading is made: lower case, spaces to hyphens, punctuation gone.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let title = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut followed = 0;
    for page in pages() {
        let folder = repository().join(&page.name).parent().unwrap().to_path_buf();
        let text = prose(&page.text);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { repository().join(&page.name) } else { folder.join(file) };
            assert!(target.exists(), "{} links to {link}, which is not there", page.name);
            if !anchor.is_empty() {
                let known = anchors(&fs::read_to_string(&target).unwrap());
                assert!(known.contains(anchor), "{} links to {link}, which has no such heading", page.name);
            }
            followed += 1;
        }
    }
    assert!(followed > 10);
}

#[test]
fn the_index_lists_every_document() {
    let index = page("docs/README.md");
    for page in pages() {
        let Some(name) = page.name.strip_prefix("docs/") else { continue };
        let listed = name == "README.md" || name.starts_with("adr/") || index.contains(&format!("]({name})"));
        assert!(listed, "docs/README.md does not list {name}");
    }
    let records = page("docs/adr/README.md");
    for page in pages() {
        let Some(name) = page.name.strip_prefix("docs/adr/") else { continue };
        assert!(
            name == "README.md" || records.contains(&format!("]({name})")),
            "docs/adr/README.md does not list {name}"
        );
    }
}

/// Words of lower case letters, digits and underscores that begin so.
fn words<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let part = |c: char| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit();
    text.split(move |c| !part(c)).filter(move |word| word.starts_with(prefix))
}

#[test]
fn metrics_that_documents_name_exist() {
    let table = page("docs/metrics.md");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    let known: BTreeSet<_> = rows.map(|row| row.split('`').next().unwrap()).collect();
    assert!(known.len() > 30);
    for page in pages() {
        for word in words(&page.text, "propylon_") {
            let base =
                ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix)).unwrap_or(word);
            assert!(known.contains(word) || known.contains(base), "{} names {word}, which is no metric", page.name);
        }
    }
}

#[test]
fn the_reasons_are_those_of_the_metric() {
    let gateway = Gateway::start(
        r#"
        [server]
        listen = ["127.0.0.1:0"]
        [admin]
        listen = ["127.0.0.1:0"]
        [[routes]]
        respond = { body = "here" }
        "#,
    );
    let scraped = gateway.admin_get("/metrics").expect(200);
    let counted = scraped.text().lines().filter_map(|line| line.strip_prefix("propylon_rejections_total{reason=\""));
    let counted: BTreeSet<_> = counted.map(|rest| rest.split('"').next().unwrap()).collect();
    let reasons = page("docs/reasons.md");
    let rows = reasons.lines().filter_map(|line| line.strip_prefix("| `"));
    let explained: Vec<_> = rows.map(|row| row.split('`').next().unwrap()).collect();
    assert_eq!(explained.iter().copied().collect::<BTreeSet<_>>(), counted);
    assert_eq!(explained.len(), counted.len(), "each once");
}

/// Commands of shell blocks, continued lines joined, from the word `propylon` or `make` on.
fn commands(program: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for block in blocks().into_iter().filter(|block| block.info == "sh") {
        for line in block.text.replace("\\\n", " ").lines() {
            let line = line.split(" #").next().unwrap().trim_start_matches("$ ");
            if let Some(arguments) = line.strip_prefix(program).and_then(|rest| rest.strip_prefix(' ')) {
                let place = format!("{}:{}", block.page, block.line);
                found.push((place, arguments.split_whitespace().map(str::to_owned).collect()));
            }
        }
    }
    found
}

#[test]
fn commands_and_flags_that_documents_use_exist() {
    let commands = commands("propylon");
    assert!(commands.len() > 5);
    for (place, arguments) in commands {
        let help = propylon(&[&arguments[0], "--help"]);
        assert_eq!(help.code, 0, "{place}: propylon {}", arguments[0]);
        for flag in arguments.iter().filter(|argument| argument.starts_with("--")) {
            assert!(help.stdout.contains(&format!("{flag} ")), "{place}: propylon {} has no {flag}", arguments[0]);
        }
    }
}

#[test]
fn quoted_help_is_what_the_program_says() {
    for block in blocks().iter().filter(|block| block.text.contains("Usage: propylon")) {
        let place = format!("{}:{}", block.page, block.line);
        let (command, quoted) = block.text.split_once('\n').unwrap();
        let command = command.strip_prefix("$ propylon ");
        let command = command.unwrap_or_else(|| panic!("{place}: the first line is the command, `$ propylon …`"));
        let said = propylon(&command.split_whitespace().collect::<Vec<_>>());
        assert_eq!(quoted.trim_end(), said.stdout.trim_end(), "{place}");
    }
}

#[test]
fn make_targets_that_documents_use_exist() {
    let makefile = page("Makefile");
    for (place, arguments) in commands("make") {
        for target in arguments.iter().filter(|argument| !argument.contains('=') && !argument.starts_with('"')) {
            assert!(makefile.contains(&format!("\n{target}:")), "{place}: make has no target {target}");
        }
    }
}

#[test]
fn every_benchmark_says_what_it_does_and_has_its_place_on_the_page() {
    let (makefile, performance) = (page("Makefile"), page("docs/performance.md"));
    let scripts: Vec<&str> = makefile.split_whitespace().filter(|word| word.starts_with("tests/bench/")).collect();
    assert!(scripts.len() >= 4, "{scripts:?}");
    for script in scripts {
        let path = repository().join(script);
        let run = Command::new("python3").arg("-B").arg(&path).arg("--help").output().unwrap();
        assert!(run.status.success() && run.stdout.len() > 300, "{}: {run:?}", path.display());
    }
    // What is put on the page is the whole table.
    for (module, part) in [("race", "handshake"), ("growth", "routes"), ("shield", "calm")] {
        let takes = |arguments: &[&str]| {
            let says = format!("import {module}; {module}.arguments()");
            let mut python = Command::new("python3");
            python.args(["-B", "-c", &says]).args(arguments).env("PYTHONPATH", repository().join("tests/bench"));
            python.output().unwrap()
        };
        let (whole, a_part) = (takes(&["--write"]), takes(&["--write", "--only", part]));
        assert!(whole.status.success() && takes(&["--only", part]).status.success(), "{module}: {whole:?}");
        assert_eq!(a_part.status.code(), Some(2), "{module}: {a_part:?}");
    }
    for (name, target) in [("the race", "bench"), ("growth", "bench-growth"), ("the worker pool", "bench-shield")] {
        let begin = format!("<!-- {name}: make {target} ARGS=--write -->\n");
        let (_, rest) = performance.split_once(&begin).unwrap_or_else(|| panic!("no {begin:?}"));
        let (table, _) = rest.split_once(&format!("<!-- the end of {name} -->")).unwrap();
        assert!(table.contains("commit ") && table.lines().filter(|line| line.starts_with('|')).count() > 5, "{name}");
    }
}
