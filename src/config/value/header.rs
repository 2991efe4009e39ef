//! Field names and values (RFC 9110 section 5), methods, and what a health probe sends.

use std::str::FromStr;

use http::uri::Authority;
use http::{HeaderName, HeaderValue, Method};

use super::super::walk::{Reject, Text};

/// A field name, held in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldName(pub HeaderName);

/// The name of a field that a page may set, or any.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CorsField {
    Any,
    Named(HeaderName),
}

impl Text for CorsField {
    const KIND: &'static str = "field name";
    const EXPECTED: &'static str = "a field name such as \"Authorization\", or \"*\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        if text == "*" { Ok(Self::Any) } else { FieldName::parse(text).map(|name| Self::Named(name.0)) }
    }
}

impl std::fmt::Display for CorsField {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => out.write_str("*"),
            Self::Named(name) => out.write_str(name.as_str()),
        }
    }
}

/// A field value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldValue(pub HeaderValue);

/// What a probe asks for: a path, and a query if there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthPath(pub String);

/// The `Host` of a probe, with a port if there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthHost(pub String);

impl Text for FieldName {
    const KIND: &'static str = "field name";
    const EXPECTED: &'static str = "a field name such as \"X-Env\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        HeaderName::from_bytes(text.as_bytes()).map(Self).map_err(|_| Reject::Unlike)
    }
}

impl Text for FieldValue {
    const KIND: &'static str = "field value";
    const EXPECTED: &'static str = "a field value: printable ASCII, no space at either end";

    fn parse(text: &str) -> Result<Self, Reject> {
        if text.trim_matches([' ', '\t']) != text {
            return Err(Reject::Unlike);
        }
        // Servers disagree about bytes outside ASCII in fields (RFC 9110 section 5.5), so none are sent.
        HeaderValue::from_str(text).ok().filter(|_| text.is_ascii()).map(Self).ok_or(Reject::Unlike)
    }
}

impl Text for Method {
    const KIND: &'static str = "method";
    const EXPECTED: &'static str = "a method such as \"GET\" or \"POST\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        let method = Self::from_bytes(text.as_bytes()).map_err(|_| Reject::Unlike)?;
        if method == Self::CONNECT {
            return Err(Reject::because("CONNECT is never forwarded"));
        }
        // Methods are told apart by case (RFC 9110 section 9.1), so "get" would never match.
        let upper = text.to_ascii_uppercase();
        if text == upper { Ok(method) } else { Err(Reject::Near(upper)) }
    }
}

impl Text for HealthPath {
    const KIND: &'static str = "path";
    const EXPECTED: &'static str = "a path such as \"/healthz\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        if !text.starts_with('/') {
            return if text.is_empty() { Err(Reject::Unlike) } else { Err(Reject::Near(format!("/{text}"))) };
        }
        if text.contains('#') || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Reject::because(
                "it is sent as it is, so it has neither spaces, fragment nor anything outside ASCII",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Text for HealthHost {
    const KIND: &'static str = "host";
    const EXPECTED: &'static str = "a host such as \"example.com\" or \"example.com:8443\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        let authority = Authority::from_str(text).map_err(|_| Reject::Unlike)?;
        if text.contains('@') || authority.host().is_empty() {
            return Err(Reject::Unlike);
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields() {
        assert_eq!(FieldName::parse("X-Env").unwrap().0.as_str(), "x-env");
        for bad in ["", "X Env", "X:", "Ä", "a\r\nb"] {
            assert!(FieldName::parse(bad).is_err(), "{bad}");
        }
        assert!(FieldValue::parse("").is_ok());
        for bad in [" a", "a\t", "a\r\nSet-Cookie: x", "a\0", "ä", "\u{7f}"] {
            assert!(FieldValue::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn methods_are_upper_case() {
        assert_eq!(Method::parse("PROPFIND").unwrap().as_str(), "PROPFIND");
        assert_eq!(Method::parse("get"), Err(Reject::Near("GET".into())));
        for bad in ["", "G ET", "CONNECT", "ÄT"] {
            assert!(Method::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn probes() {
        assert!(HealthPath::parse("/ht/?format=json").is_ok());
        assert_eq!(HealthPath::parse("ht"), Err(Reject::Near("/ht".into())));
        for bad in ["", "/a b", "/ä", "/a#b", "/a\r\nX: y"] {
            assert!(HealthPath::parse(bad).is_err(), "{bad}");
        }
        assert!(HealthHost::parse("[::1]:8000").is_ok());
        for bad in ["", "a@b", "a b", "http://a", "a/b", ":80"] {
            assert!(HealthHost::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,12}") {
            let _ = (FieldName::parse(&text), FieldValue::parse(&text), Method::parse(&text), HealthHost::parse(&text));
        }
    }
}
