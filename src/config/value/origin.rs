//! Origins: `"https://app.example.com"`, a regular expression, or any.

use regex::bytes::RegexBuilder;

use super::super::model::OriginPattern;
use super::super::walk::{Reject, Text};

const REGEX_SIZE_MAX: usize = 1 << 20;

impl Text for OriginPattern {
    const KIND: &'static str = "origin";
    const EXPECTED: &'static str =
        "an origin such as \"https://app.example.com\", \"~https://[a-z]+\\\\.example\\\\.com\" or \"*\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(source) = text.strip_prefix('~') {
            return regex(source);
        }
        if text == "null" {
            return Err(Reject::because("that is every page in a sandbox, whoever made it"));
        }
        let (scheme, authority) = text.split_once("://").ok_or(Reject::Unlike)?;
        let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        if scheme.is_empty() || !scheme.bytes().all(is_scheme) || authority.is_empty() || !text.is_ascii() {
            return Err(Reject::Unlike);
        }
        // As a browser writes it (RFC 6454 section 6.2): in lower case, without the port of the scheme, without a path.
        let mut usual = text.trim_end_matches('/').to_ascii_lowercase();
        for (scheme, port) in [("https://", ":443"), ("http://", ":80")] {
            if let Some(short) = usual.strip_suffix(port).filter(|_| usual.starts_with(scheme)) {
                usual = short.to_owned();
            }
        }
        if usual != text {
            return Err(Reject::Near(usual));
        }
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        if authority.bytes().all(is_part) { Ok(Self::Exact(text.to_owned())) } else { Err(Reject::Unlike) }
    }
}

/// Matches whole origins alone: without anchors `https://example.com` would be found in `https://example.com.evil.test`.
fn regex(source: &str) -> Result<OriginPattern, Reject> {
    let bad = |error: regex::Error| match error {
        regex::Error::CompiledTooBig(_) => Reject::because("the regular expression is too large"),
        other => Reject::because(
            other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        ),
    };
    if source.is_empty() {
        return Err(Reject::because("after \"~\" comes a regular expression"));
    }
    // By itself first: what closes more than it opens must not close the anchors' group.
    RegexBuilder::new(source).size_limit(REGEX_SIZE_MAX).build().map_err(bad)?;
    RegexBuilder::new(&format!("^(?:{source})$"))
        .size_limit(REGEX_SIZE_MAX)
        .build()
        .map(OriginPattern::Regex)
        .map_err(bad)
}

impl std::fmt::Display for OriginPattern {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => out.write_str("*"),
            Self::Exact(origin) => out.write_str(origin),
            Self::Regex(regex) => write!(out, "~{regex}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_exact_or_anchored() {
        let matches = |pattern: &str, origin: &str| OriginPattern::parse(pattern).unwrap().matches(origin.as_bytes());
        assert!(matches("https://example.com", "https://example.com"));
        for other in ["https://example.com.evil.test", "http://example.com", "https://example.com:8443", "null", ""] {
            assert!(!matches("https://example.com", other), "{other}");
            assert!(!matches("~https://example.com", other), "{other}");
            assert!(!matches("~https://example.com|https://b.test", other), "{other}");
        }
        assert!(matches("~https://[a-z]+\\.example\\.com", "https://a.example.com"));
        assert!(!matches("~https://[a-z]+\\.example\\.com", "https://evil.test/https://a.example.com"));
        assert!(matches("*", "null") && matches("http://localhost:3000", "http://localhost:3000"));
        assert!(matches("capacitor://localhost", "capacitor://localhost"));
        for (bad, near) in [
            ("https://example.com/", "https://example.com"),
            ("https://Example.com", "https://example.com"),
            ("https://example.com:443", "https://example.com"),
            ("http://example.com:80", "http://example.com"),
        ] {
            assert_eq!(OriginPattern::parse(bad).unwrap_err(), Reject::Near(near.to_owned()), "{bad}");
        }
        for bad in [
            "",
            "example.com",
            "null",
            "https://",
            "https://a b",
            "https://a/b",
            "https://*.example.com",
            "~",
            "~(",
            "~a)|(b",
        ] {
            assert!(OriginPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
