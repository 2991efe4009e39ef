//! Hosts as routes and `allowed_hosts` name them: `example.com`, `*.example.com`, `[::1]`.

use std::fmt;
use std::net::Ipv6Addr;

use super::super::model::HostPattern;
use super::super::walk::{Reject, Text};

impl Text for HostPattern {
    const KIND: &'static str = "host";
    const EXPECTED: &'static str = "a host such as \"example.com\" or \"*.example.com\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        if text == "*" {
            return Err(Reject::because("any host is what leaving the key out means"));
        }
        if text.contains("://") || text.contains('/') {
            return Err(Reject::because("it is a host alone, without scheme or path"));
        }
        if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let address: Ipv6Addr = inner.parse().map_err(|_| Reject::Unlike)?;
            return Ok(Self::Exact(format!("[{address}]")));
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(Reject::Near(format!("[{text}]")));
        }
        if text.contains(':') {
            return Err(Reject::because("hosts are compared without their port"));
        }
        let lower = text.to_ascii_lowercase();
        match lower.strip_prefix("*.") {
            Some(rest) => name(rest).map(Self::Suffix),
            None => name(&lower).map(Self::Exact),
        }
    }
}

/// A name a certificate may be for: one host, or an IP address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerName(pub String);

impl Text for ServerName {
    const KIND: &'static str = "host name";
    const EXPECTED: &'static str = "a host name such as \"app.internal\", or an IP address";

    fn parse(text: &str) -> Result<Self, Reject> {
        if text.parse::<std::net::IpAddr>().is_ok() {
            return Ok(Self(text.to_owned()));
        }
        name(&text.to_ascii_lowercase()).map(Self)
    }
}

/// Checks a DNS name and takes off its trailing dot.
pub(super) fn name(text: &str) -> Result<String, Reject> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if !text.is_ascii() {
        return Err(Reject::because("browsers send such a name in its xn-- form"));
    }
    if text.contains('*') {
        return Err(Reject::because("\"*\" stands only before the first dot, as in \"*.example.com\""));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if text.len() <= 253 && text.split('.').all(label) { Ok(text.to_owned()) } else { Err(Reject::Unlike) }
}

impl HostPattern {
    /// Whether every host that `other` names is also named by this.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Suffix(suffix), Self::Exact(host)) => is_below(host, suffix),
            (Self::Suffix(suffix), Self::Suffix(inner)) => suffix == inner || is_below(inner, suffix),
            (Self::Exact(_), _) => self == other,
        }
    }
}

/// Whether `host` has at least one label before `suffix`.
fn is_below(host: &str, suffix: &str) -> bool {
    host.strip_suffix(suffix).and_then(|rest| rest.strip_suffix('.')).is_some_and(|rest| !rest.is_empty())
}

impl fmt::Display for HostPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => out.write_str(host),
            Self::Suffix(suffix) => write!(out, "*.{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_folded() {
        assert_eq!(HostPattern::parse("Example.COM."), Ok(HostPattern::Exact("example.com".into())));
        assert_eq!(HostPattern::parse("*.Example.com"), Ok(HostPattern::Suffix("example.com".into())));
        assert_eq!(HostPattern::parse("[0:0::1]"), Ok(HostPattern::Exact("[::1]".into())));
        assert_eq!(HostPattern::parse("::1"), Err(Reject::Near("[::1]".into())));
        assert_eq!(HostPattern::parse("my_app"), Ok(HostPattern::Exact("my_app".into())));
    }

    #[test]
    fn what_is_no_host() {
        let long = "a".repeat(64);
        let bad = [
            "",
            ".",
            "*",
            "*.",
            "a..b",
            ".a",
            "a*.b",
            "*.*.b",
            "a.*",
            "a:80",
            "http://a",
            "a/b",
            "a b",
            "bücher.de",
            "[::1",
            "[a]",
            &long,
        ];
        for bad in bad {
            assert!(HostPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn covering() {
        let pattern = |text| HostPattern::parse(text).unwrap();
        assert!(pattern("*.a.b").covers(&pattern("x.a.b")));
        assert!(pattern("*.a.b").covers(&pattern("x.y.a.b")));
        assert!(pattern("*.a.b").covers(&pattern("*.y.a.b")));
        assert!(!pattern("*.a.b").covers(&pattern("a.b")));
        assert!(!pattern("*.a.b").covers(&pattern("xa.b")));
        assert!(!pattern("x.a.b").covers(&pattern("*.a.b")));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(text in r"(\*\.)?[A-Za-z0-9_-]{1,9}(\.[A-Za-z0-9_-]{1,9}){0,3}\.?") {
            let pattern = HostPattern::parse(&text).unwrap();
            prop_assert_eq!(HostPattern::parse(&pattern.to_string()), Ok(pattern));
        }

        #[test]
        fn never_panics(text in ".{0,12}") {
            let _ = HostPattern::parse(&text);
        }
    }
}
