//! Path patterns: `/a/b`, `/a/*`, `/img/*.png`, `~^/v[0-9]+/`; and the prefix that `strip_prefix` takes away.
//!
//! Only how they are written; `route/pattern.rs` matches them. They match the path as the app sees it, percent-decoded
//! once.

use std::fmt;

use regex::bytes::RegexBuilder;

use super::super::model::PathPattern;
use super::super::walk::{Reject, Text};

/// Bytes of a pattern; a request line is not longer.
const LONGEST: usize = 8192;
/// Bytes a compiled regular expression may take.
const REGEX_SIZE_MAX: usize = 1 << 20;

/// A prefix without wildcards: starts with `/`, does not end with one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StripPrefix(pub String);

impl Text for PathPattern {
    const KIND: &'static str = "path pattern";
    const EXPECTED: &'static str = "a path pattern such as \"/a/b\", \"/a/*\", \"/img/*.png\" or \"~^/v[0-9]+/\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        if text.len() > LONGEST {
            return Err(Reject::because(format!("it has more than {LONGEST} bytes")));
        }
        if let Some(source) = text.strip_prefix('~') {
            return regex(source);
        }
        check_plain(text)?;
        if text.contains("**") {
            return Err(Reject::because("\"**\" has no meaning; \"/*\" at the end matches everything below"));
        }
        match text.strip_suffix("/*") {
            Some(before) if !before.contains('*') => Ok(Self::Prefix(format!("{before}/"))),
            _ if text.contains('*') => Ok(Self::Glob(text.to_owned())),
            _ => Ok(Self::Exact(text.to_owned())),
        }
    }
}

fn regex(source: &str) -> Result<PathPattern, Reject> {
    if source.is_empty() {
        return Err(Reject::because("after \"~\" comes a regular expression"));
    }
    RegexBuilder::new(source).size_limit(REGEX_SIZE_MAX).build().map(PathPattern::Regex).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => Reject::because("the regular expression is too large"),
        // The last line says what is wrong; those before draw a picture.
        other => Reject::because(
            other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        ),
    })
}

/// What holds for every path that is not a regular expression.
fn check_plain(text: &str) -> Result<(), Reject> {
    let refuse = |reason: &str| Err(Reject::because(reason));
    if !text.starts_with('/') {
        return if text.is_empty() { refuse("it is empty") } else { Err(Reject::Near(format!("/{text}"))) };
    }
    if text.contains("//") {
        return refuse("\"//\" in a request is matched as \"/\", so this would never match");
    }
    if text.split('/').any(|segment| matches!(segment, "." | "..")) {
        return refuse("a request with a segment \".\" or \"..\" is refused before routes are looked at");
    }
    if text.contains(['?', '#']) {
        return refuse("a pattern matches the path alone, without query or fragment");
    }
    if text.chars().any(char::is_control) {
        return refuse("it has a control character");
    }
    let escape = |window: &[u8]| matches!(window, [b'%', a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    if text.as_bytes().windows(3).any(escape) {
        return refuse("a pattern matches the decoded path, so write the character itself, not its percent-escape");
    }
    Ok(())
}

impl Text for StripPrefix {
    const KIND: &'static str = "path prefix";
    const EXPECTED: &'static str = "a path prefix such as \"/api\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        check_plain(text)?;
        if text == "/" {
            return Err(Reject::because("there is nothing to take away"));
        }
        if text.contains('*') {
            return Err(Reject::because("a prefix is plain text, without \"*\""));
        }
        match text.strip_suffix('/') {
            Some(before) => Err(Reject::Near(before.to_owned())),
            None => Ok(Self(text.to_owned())),
        }
    }
}

/// Whether everything `pattern` matches is `prefix` itself or below it. A regular expression only counts where that is
/// plain to see.
#[must_use]
pub fn is_inside(pattern: &PathPattern, prefix: &str) -> bool {
    let below = |text: &str| text.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
    match pattern {
        PathPattern::Exact(path) => path == prefix || below(path),
        // The prefix holds no `*`, so it lies within the literal part of a glob.
        PathPattern::Prefix(path) | PathPattern::Glob(path) => below(path),
        PathPattern::Regex(regex) => starts_literally(regex.as_str(), prefix),
    }
}

/// Whether a regular expression begins with `^`, then literally `prefix`, then a literal `/` that is not repeated or
/// optional.
fn starts_literally(source: &str, prefix: &str) -> bool {
    // An alternative may begin elsewhere; telling whether it does takes a parser, so any `|` counts against it.
    let Some(body) = source.strip_prefix('^').filter(|body| !body.contains('|')) else { return false };
    let mut rest = body.chars();
    for wanted in prefix.chars().chain(['/']) {
        let literal = match rest.next() {
            Some('\\') => rest.next().filter(char::is_ascii_punctuation),
            Some(c) if !".^$*+?()[]{}|".contains(c) => Some(c),
            _ => None,
        };
        if literal != Some(wanted) {
            return false;
        }
    }
    !rest.as_str().starts_with(['*', '?', '{'])
}

impl fmt::Display for PathPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) | Self::Glob(text) => out.write_str(text),
            Self::Prefix(text) => write!(out, "{text}*"),
            Self::Regex(regex) => write!(out, "~{regex}"),
        }
    }
}

/// Equal where written the same; two regular expressions may still match the same paths.
impl PartialEq for PathPattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Prefix(a), Self::Prefix(b)) | (Self::Glob(a), Self::Glob(b)) => {
                a == b
            }
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

impl Eq for PathPattern {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> PathPattern {
        PathPattern::parse(text).unwrap()
    }

    #[test]
    fn four_kinds() {
        assert_eq!(pattern("/a/b"), PathPattern::Exact("/a/b".into()));
        assert_eq!(pattern("/"), PathPattern::Exact("/".into()));
        assert_eq!(pattern("/a/"), PathPattern::Exact("/a/".into()));
        assert_eq!(pattern("/a/*"), PathPattern::Prefix("/a/".into()));
        assert_eq!(pattern("/*"), PathPattern::Prefix("/".into()));
        for glob in ["/a*", "/img/*.png", "/a/*/b", "/a/*/*", "/*/b/*"] {
            assert_eq!(pattern(glob), PathPattern::Glob(glob.into()));
        }
        assert!(matches!(pattern("~^/v[0-9]+/"), PathPattern::Regex(_)));
        assert_eq!(pattern("/café au lait/100%"), PathPattern::Exact("/café au lait/100%".into()));
    }

    #[test]
    fn what_is_no_pattern() {
        assert_eq!(PathPattern::parse("a/*"), Err(Reject::Near("/a/*".into())));
        for bad in [
            "",
            "//",
            "/a//b",
            "/a/./b",
            "/a/..",
            "/a?x=1",
            "/a#b",
            "/caf%C3%A9",
            "/%2F",
            "/a/**",
            "/a\nb",
            "~",
            "~(",
            "~^/(a{1000}){1000}",
        ] {
            assert!(PathPattern::parse(bad).is_err(), "{bad}");
        }
        let Err(Reject::Because(reason)) = PathPattern::parse("~^/(a") else { panic!() };
        assert_eq!(reason, "unclosed group");
    }

    #[test]
    fn prefixes_inside_patterns() {
        for (text, prefix) in [
            ("/api/*", "/api"),
            ("/api", "/api"),
            ("/api/x", "/api"),
            ("/api/*/x", "/api"),
            ("~^/api/v[0-9]+/", "/api"),
            (r"~^/a\-b/", "/a-b"),
        ] {
            assert!(is_inside(&pattern(text), prefix), "{text} {prefix}");
        }
        for (text, prefix) in [
            ("/api/*", "/api/v1"),
            ("/apis/*", "/api"),
            ("/*", "/api"),
            ("/api*", "/api"),
            ("~^/api", "/api"),
            ("~/api/", "/api"),
            ("~^/api/|/x", "/api"),
            ("~^/api/?", "/api"),
            ("~^/a.i/", "/a.i"),
            (r"~^/\d/", "/d"),
        ] {
            assert!(!is_inside(&pattern(text), prefix), "{text} {prefix}");
        }
    }

    #[test]
    fn prefixes_to_strip() {
        assert_eq!(StripPrefix::parse("/api"), Ok(StripPrefix("/api".into())));
        assert_eq!(StripPrefix::parse("/api/"), Err(Reject::Near("/api".into())));
        for bad in ["", "/", "api", "/a*", "/a%20b", "/a/.."] {
            assert!(StripPrefix::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(text in r"(/[a-z*]{1,4}){1,4}/?|/\*|~[a-z^./]{1,8}") {
            if let Ok(pattern) = PathPattern::parse(&text) {
                prop_assert_eq!(pattern.to_string(), text);
            }
        }

        #[test]
        fn a_prefix_that_is_inside_starts_every_match(tail in r"[/a|?*+.\\(){}\[\]^$-]{0,8}", path in "(/[ab]?){1,4}") {
            if let Ok(PathPattern::Regex(regex)) = PathPattern::parse(&format!("~^/a{tail}"))
                && is_inside(&PathPattern::Regex(regex.clone()), "/a")
                && regex.is_match(path.as_bytes())
            {
                prop_assert!(path.starts_with("/a/"));
            }
        }

        #[test]
        fn never_panics(text in r"(/|~|\*|%2|.){0,12}") {
            let _ = (PathPattern::parse(&text), StripPrefix::parse(&text));
        }
    }
}
