//! `/purge`: what is kept is given no more, or only while a new answer is fetched.

use std::borrow::Cow;
use std::time::Duration;

use crate::admin::answer::Answer;
use crate::admin::drain::{bad, decode};
use crate::cache::now;
use crate::cache::purge::{How, What};
use crate::cache::rule::{Rules, Target};
use crate::config::suggestion;
use crate::route::host::Host;
use crate::route::target::{decode_path, split_query, split_url};
use crate::state::Snapshot;

/// How long an answer waits for the word that other gateways are told.
const PATIENCE: Duration = Duration::from_secs(1);
const PARAMETERS: [&str; 5] = ["url", "prefix", "tag", "all", "soft"];

/// What was asked for.
#[derive(Debug, Default)]
struct Wanted {
    urls: Vec<String>,
    prefixes: Vec<String>,
    tags: Vec<String>,
    all: bool,
    soft: bool,
}

/// Purges by URL, by the beginning of a URL, and by tag, as often as each is named; all of it with `all`.
pub async fn purge(snapshot: &Snapshot, query: &str) -> Answer {
    let purged = Wanted::read(query).and_then(|wanted| Ok((wanted.marks(&snapshot.cache_rules)?, wanted)));
    let (marks, wanted) = match purged {
        Ok(purged) => purged,
        Err(message) => return bad(message),
    };
    let shared = snapshot.shared.clone();
    let how = if wanted.soft { How::Soft(now()) } else { How::Hard };
    let met = tokio::task::spawn_blocking(move || shared.cache.purge(&marks, how)).await;
    let Ok((met, told)) = met else { return Answer::text(500, "the purge failed\n") };
    let answers = if met == 1 { "answer" } else { "answers" };
    let done = if wanted.soft { "made stale" } else { "dropped" };
    let others = match told {
        None => "",
        Some(told) if told.wait(PATIENCE).await => "; other gateways are told",
        Some(_) => "; other gateways are told when Redis answers",
    };
    Answer::text(200, format!("purged {}: {met} {answers} in memory {done}{others}\n", wanted.sentence()))
}

impl Wanted {
    fn read(query: &str) -> Result<Self, String> {
        let mut wanted = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value).ok_or_else(|| format!("{name}: not percent-encoded text"))?;
            match name {
                "url" => wanted.urls.push(value),
                "prefix" => wanted.prefixes.push(value),
                "tag" if value.is_empty() => return Err("tag: expected one; found nothing".to_owned()),
                "tag" => wanted.tags.push(value),
                "all" => wanted.all = is_true(name, &value)?,
                "soft" => wanted.soft = is_true(name, &value)?,
                _ => return Err(format!("unknown parameter \"{name}\"{}", suggestion(name, PARAMETERS.into_iter()))),
            }
        }
        let names_something = wanted.all || wanted.urls.len() + wanted.prefixes.len() + wanted.tags.len() > 0;
        if names_something { Ok(wanted) } else { Err("expected what to purge: url, prefix, tag or all".to_owned()) }
    }

    fn marks(&self, rules: &Rules) -> Result<Vec<What>, String> {
        let mut marks = Vec::new();
        if self.all {
            marks.push(What::Prefix(Box::default()));
        }
        for url in &self.urls {
            marks.extend(of_url(url, rules)?.into_iter().map(What::Key));
        }
        for prefix in &self.prefixes {
            marks.extend(of_prefix(prefix)?.map(What::Prefix));
        }
        marks.extend(self.tags.iter().map(|tag| What::Tag(tag.as_bytes().into())));
        Ok(marks)
    }

    fn sentence(&self) -> String {
        let count = |count: usize, one: &str, several: &str| match count {
            0 => None,
            1 => Some(format!("1 {one}")),
            count => Some(format!("{count} {several}")),
        };
        let parts = [
            self.all.then(|| "everything".to_owned()),
            count(self.urls.len(), "URL", "URLs"),
            count(self.prefixes.len(), "prefix", "prefixes"),
            count(self.tags.len(), "tag", "tags"),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

fn is_true(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{name}: expected true or false; found \"{value}\"")),
    }
}

/// The host and the target of a whole URL.
fn split(url: &str) -> Result<(Host<'_>, Cow<'_, str>), String> {
    let wrong = |why: &str| format!("{url}: {why}; expected a whole URL such as https://example.com/a");
    let (_, authority, target) = split_url(url).ok_or_else(|| wrong("no scheme"))?;
    let host = Host::parse(authority.as_bytes()).map_err(|error| wrong(&error.to_string()))?;
    Ok((host, target))
}

/// The ways in which a host stands in keys: over both schemes, whichever was said.
fn origins(host: &Host<'_>) -> [(bool, Option<u16>); 2] {
    [true, false].map(|https| (https, host.port.filter(|port| *port != if https { 443 } else { 80 })))
}

fn of_url(url: &str, rules: &Rules) -> Result<Vec<Box<[u8]>>, String> {
    let (host, target) = split(url)?;
    let (path, query) = split_query(target.as_bytes());
    let decoded = decode_path(path).map_err(|error| format!("{url}: {error}"))?;
    let Some(rule) = rules.find(Some(&host.name), &decoded) else {
        return Err(format!("{url}: no rule of the cache is for it"));
    };
    let key = |(https, port)| rule.key(&Target { https, host: &host.name, port, path, query }).into();
    Ok(origins(&host).map(key).into())
}

fn of_prefix(prefix: &str) -> Result<impl Iterator<Item = Box<[u8]>>, String> {
    let (host, path) = split(prefix)?;
    if path.contains('?') {
        return Err(format!("{prefix}: a prefix ends within the path; expected no query"));
    }
    let key = |(https, port): (bool, Option<u16>)| {
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}\n{}{port}\n{path}", if https { "https" } else { "http" }, host.name).into_bytes().into()
    };
    Ok(origins(&host).map(key).into_iter())
}
