//! Of the cache: times by status, parts of a query, names of cookies.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use toml::de::DeValue;

use super::super::error::nearest;
use super::super::model::{CookiePattern, KeyQuery, Ttl};
use super::super::place::At;
use super::super::schema::{Described, Table};
use super::super::walk::{Node, Read, Reject, Text, Walk};
use super::duration;

impl Read for Ttl {
    fn describe() -> Described {
        Described::leaf("duration, or table: status = duration")
    }

    fn read(node: Node<'_>, walk: &mut Walk<'_>) -> Option<Self> {
        if !matches!(node.value, DeValue::Table(_)) {
            return walk.parse::<Duration>(node).map(Self::alone);
        }
        let entries: Table<Duration> = Read::read(node, walk)?;
        let mut times = BTreeMap::new();
        for (status, time) in entries.0 {
            match status.value.parse::<u16>() {
                Ok(code) if (200..=599).contains(&code) && ![206, 304].contains(&code) && status.value.len() == 3 => {
                    times.insert(code, time.value);
                }
                Ok(code @ (206 | 304)) => {
                    let message = format!("an answer with status {code} is a part of another and not kept");
                    walk.report.problem(&status.place, message);
                }
                _ => {
                    let found = super::super::walk::quoted(&status.value);
                    walk.report.problem(&status.place, format!("expected a status, 200 to 599; found {found}"));
                }
            }
        }
        Some(Self { times, alone: false })
    }
}

impl Read for KeyQuery {
    fn describe() -> Described {
        Described::leaf("\"all\", \"none\", or list: parameter")
    }

    fn read(node: Node<'_>, walk: &mut Walk<'_>) -> Option<Self> {
        const EXPECTED: &str = "\"all\", \"none\" or a list of parameters";
        if matches!(node.value, DeValue::Array(_)) {
            let names: Vec<At<Parameter>> = Read::read(node, walk)?;
            super::super::schema::refuse_repeats(&mut walk.report, &names, |name| name.0.clone());
            return Some(Self::Only(names.into_iter().map(|name| name.value.0).collect()));
        }
        let (text, shown) = walk.text(node, EXPECTED)?;
        let result = match text.as_str() {
            "all" => Ok(Self::All),
            "none" => Ok(Self::None),
            other => Err(nearest(other, ["all", "none"]).map_or_else(
                || Reject::because(format!("a list of parameters has brackets: [\"{other}\"]")),
                |near| Reject::Near(near.to_owned()),
            )),
        };
        walk.accept(result, node.place, EXPECTED, &shown)
    }
}

/// The name of a parameter in a query, as clients send it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parameter(String);

impl Text for Parameter {
    const KIND: &'static str = "parameter";
    const EXPECTED: &'static str = "the name of a parameter such as \"page\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        if text.is_empty() || text.contains(['&', '=', '#', '?']) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Reject::Unlike);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Text for CookiePattern {
    const KIND: &'static str = "cookie name";
    const EXPECTED: &'static str = "the name of a cookie such as \"_ga\" or \"_ga*\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        // RFC 6265 section 4.1.1: a token.
        let is_token = |byte: u8| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&byte);
        if text.is_empty() || !text.bytes().all(is_token) {
            return Err(Reject::Unlike);
        }
        if text.bytes().all(|byte| byte == b'*') {
            return Err(Reject::because(
                "that is every cookie, those of sessions too: name the ones that are harmless",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for CookiePattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// As `explain` shows it.
impl fmt::Display for Ttl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (status, time)) in self.times.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(out, "{comma}{status}: {}", duration::text(*time))?;
        }
        Ok(())
    }
}
