//! Where traces are sent.

use super::super::walk::{Reject, Text};

/// The URL of a collector of traces, whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectorUrl(pub String);

impl Text for CollectorUrl {
    const KIND: &'static str = "URL";
    const EXPECTED: &'static str = "the URL of a collector such as \"http://127.0.0.1:4318\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        let Some((scheme, rest)) = text.split_once("://") else { return Err(Reject::Unlike) };
        if !["http", "https"].contains(&scheme) {
            return Err(Reject::because("only http and https are spoken"));
        }
        if rest.contains('@') {
            return Err(Reject::because("a password belongs into `headers`"));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) || !text.is_ascii() {
            return Err(Reject::Unlike);
        }
        if authority.ends_with(":4317") {
            return Err(Reject::because("port 4317 is that of gRPC; HTTP is at 4318"));
        }
        Ok(Self(if path.is_empty() { format!("{scheme}://{authority}/v1/traces") } else { text.to_owned() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, expected) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            ("https://otel.example.com/own/path", "https://otel.example.com/own/path"),
        ] {
            assert_eq!(CollectorUrl::parse(text), Ok(CollectorUrl(expected.into())));
        }
        for bad in [
            "",
            "127.0.0.1:4318",
            "grpc://a:4317",
            "http://",
            "http:///v1",
            "http://a:4317",
            "http://u:p@a",
            "http://a b",
        ] {
            assert!(CollectorUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
