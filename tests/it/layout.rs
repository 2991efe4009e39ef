//! The shape of the source: who may import whom, where Pingora's types may stand, and what every file has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines a file may have before its tests.
const LONGEST: usize = 500;
/// Modules of one layer that are written together; all others of a layer know nothing of each other.
const NEIGHBOURS: [[&str; 2]; 3] = [["main", "cli"], ["server", "admin"], ["edge", "proxy"]];

struct Source {
    /// From `src/` on.
    path: String,
    text: String,
}

impl Source {
    /// What the first folder, or a file of its own, is called.
    fn module(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap()
    }

    /// How many modules there are between this file's and the crate's root, less one.
    fn depth(&self) -> usize {
        let is_folder = self.path.ends_with("/mod.rs");
        self.path.matches('/').count() - usize::from(is_folder)
    }

    /// The code without its tests and comments.
    fn code(&self) -> Vec<&str> {
        if self.path.ends_with("tests.rs") || self.path.contains("/tests/") {
            return Vec::new();
        }
        let code = self.text.split_once("#[cfg(test)]\nmod tests {").map_or(&*self.text, |(code, _)| code);
        code.lines().filter(|line| !line.trim_start().starts_with("//")).collect()
    }

    /// The modules of this crate that the code names.
    fn imports(&self) -> Vec<&str> {
        let root = if self.module() == "main" { "propylon::" } else { "crate::" };
        let named = self.code().into_iter().flat_map(move |line| line.split(root).skip(1));
        named.map(|rest| rest.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()).next().unwrap()).collect()
    }
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(repository().join("src")).unwrap().display().to_string();
            sources.push(Source { path: name, text: fs::read_to_string(&path).unwrap() });
        }
    }
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    collect(&repository().join("src"), &mut sources);
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(sources.len() > 50, "the source is not where it is looked for");
    sources
}

/// The layers as docs/architecture.md draws them, the top one first.
fn layers() -> Vec<Vec<String>> {
    let page = fs::read_to_string(repository().join("docs/architecture.md")).unwrap();
    let line = page.lines().find(|line| line.starts_with("main cli")).expect("the line with the layers");
    line.split('>').map(|layer| layer.split_whitespace().map(str::to_owned).collect()).collect()
}

fn may_import(layers: &[Vec<String>], from: &str, to: &str) -> bool {
    let layer = |module: &str| layers.iter().position(|layer| layer.iter().any(|name| name == module));
    let (above, below) = (layer(from).unwrap(), layer(to).unwrap());
    let neighbours = || NEIGHBOURS.iter().any(|pair| pair.contains(&from) && pair.contains(&to));
    from == to || above < below || (above == below && neighbours())
}

#[test]
fn a_module_imports_only_what_stands_below_it() {
    let layers = layers();
    let known = |module: &str| layers.iter().flatten().any(|name| name == module);
    for source in sources().iter().filter(|source| source.module() != "lib") {
        assert!(known(source.module()), "docs/architecture.md has no place for {}", source.path);
        for import in source.imports().into_iter().filter(|import| known(import)) {
            let (path, module) = (&source.path, source.module());
            assert!(
                may_import(&layers, module, import),
                "{path} imports {import}, which does not stand below {module}"
            );
        }
        // Nor does it leave its own module by the back door.
        let back = "super::".repeat(source.depth() + 1);
        let leaving = source.code().into_iter().find(|line| line.contains(&back));
        assert!(
            leaving.is_none() || source.depth() == 0 && source.path.starts_with("main"),
            "{}: {leaving:?}",
            source.path
        );
    }
}

#[test]
fn the_rule_itself_knows_above_from_below() {
    let layers = layers();
    for (from, to) in
        [("server", "config"), ("edge", "proxy"), ("proxy", "edge"), ("state", "upstream"), ("main", "cli")]
    {
        assert!(may_import(&layers, from, to), "{from} {to}");
    }
    for (from, to) in
        [("config", "observe"), ("route", "header"), ("upstream", "state"), ("state", "edge"), ("edge", "admin")]
    {
        assert!(!may_import(&layers, from, to), "{from} {to}");
    }
    let source = Source {
        path: "route/a.rs".to_owned(),
        text: "// crate::no\nuse crate::edge::x;\nlet y = crate::proxy;".to_owned(),
    };
    assert_eq!(source.imports(), ["edge", "proxy"]);
}

/// `pingora_http::RequestHeader`, but not a text such as `"pingora_proxy"`.
fn names_a_crate_of_pingora(line: &str) -> bool {
    line.split("pingora_")
        .skip(1)
        .any(|rest| rest.trim_start_matches(|c: char| c.is_ascii_lowercase() || c == '_').starts_with("::"))
}

#[test]
fn pingoras_types_stay_where_they_are_needed() {
    let allowed = |path: &str| {
        ["edge/", "proxy/"].iter().any(|folder| path.starts_with(folder))
            || ["peer", "checker"].iter().any(|name| path == format!("upstream/{name}.rs"))
    };
    for source in sources().iter().filter(|source| !allowed(&source.path)) {
        let named = source.code().into_iter().find(|line| names_a_crate_of_pingora(line));
        assert!(named.is_none(), "{}: {named:?}", source.path);
    }
}

#[test]
fn every_file_says_what_it_is_for_and_stays_short() {
    for source in sources() {
        assert!(source.text.starts_with("//! "), "{} does not open with //!", source.path);
        let lines = source.text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        assert!(lines <= LONGEST, "{} has {lines} lines", source.path);
    }
    for folder in ["tests/it", "tests/it/harness", "tests/it/hostile", "tests/it/http2"] {
        for entry in fs::read_dir(repository().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                assert!(text.starts_with("//! "), "{} does not open with //!", path.display());
            }
        }
    }
}

#[test]
fn every_test_file_is_listed() {
    let list = fs::read_to_string(repository().join("tests/it/main.rs")).unwrap();
    for entry in fs::read_dir(repository().join("tests/it")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(name == "main" || list.contains(&format!("\nmod {name};\n")), "{name} runs nowhere");
    }
}

#[test]
fn nothing_tracked_names_this_machine_or_a_registry() {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(repository()).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).unwrap();
    let files: Vec<_> = listed.split('\0').filter(|name| !name.is_empty()).collect();
    assert!(files.contains(&"Cargo.toml"));
    let here = repository().display().to_string();
    // Put together here, or this file would be found.
    let hosts = [["pypi", ".org"], ["pythonhosted", ".org"], ["static.crates", ".io"], ["index.crates", ".io"]];
    let forbidden: Vec<_> = hosts.iter().map(|parts| parts.concat()).chain([here]).collect();
    // Cargo writes the one, and only by its index' name.
    for name in files.into_iter().filter(|name| *name != "Cargo.lock") {
        let Ok(bytes) = fs::read(repository().join(name)) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        for word in &forbidden {
            assert!(!text.contains(word), "{name} names {word}");
        }
    }
}
