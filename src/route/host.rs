//! Judges a Host value once, and compares hosts (RFC 9110 section 7.2, RFC 3986 section 3.2.2).
//!
//! Stricter than RFC 3986: of its reg-names only letters, digits, `-`, `.` and `_` pass (`_` occurs in the names of
//! container services, though Django refuses it). Sub-delimiters, percent-encoding and user information mean different
//! things to different parsers. That there is exactly one Host is the head parser's business; the value goes on to the
//! app as it came, port included.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::net::Ipv6Addr;
use std::num::NonZeroU16;

use crate::config::model::HostPattern;

/// Longest name in bytes (RFC 1035 section 2.3.4, without the trailing dot).
const NAME_MAX: usize = 253;
/// Longest label in bytes.
const LABEL_MAX: usize = 63;

/// A Host value taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host<'a> {
    /// Lower case, without port and trailing dot; an IPv6 address in brackets, as RFC 5952 writes it.
    pub name: Cow<'a, str>,
    pub port: Option<u16>,
}

/// Why a Host value is refused. `Display` holds nothing the client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostError {
    Empty,
    /// A byte no host name holds: a comma, slash, `@`, space, anything outside ASCII.
    InvalidByte,
    /// Two dots in a row, or one in front.
    EmptyLabel,
    /// A name above 253 bytes or a label above 63.
    TooLong,
    /// Brackets without an IPv6 address in them; zones are refused too.
    InvalidAddress,
    /// A colon without a port from 1 to 65535 behind it.
    InvalidPort,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty host",
            Self::InvalidByte => "invalid byte in host",
            Self::EmptyLabel => "empty label in host",
            Self::TooLong => "host too long",
            Self::InvalidAddress => "invalid IPv6 address in host",
            Self::InvalidPort => "invalid port in host",
        })
    }
}

impl std::error::Error for HostError {}

impl<'a> Host<'a> {
    /// Takes a Host value, or the authority of an absolute-form target, without white space around it. Allocates only for
    /// upper case and IPv6 addresses.
    ///
    /// # Errors
    /// Every [`HostError`].
    pub fn parse(value: &'a [u8]) -> Result<Self, HostError> {
        if value.first() == Some(&b'[') {
            return Self::parse_bracketed(value);
        }
        let (name, port) = match memchr::memchr(b':', value).and_then(|at| value.split_at_checked(at)) {
            Some((name, port)) => (name, parse_port(port)?),
            None => (value, None),
        };
        Ok(Self { name: parse_name(name)?, port })
    }

    /// Whether `said`, which was parsed as this, writes it as browsers do: in lower case, without a dot behind it, and without the port
    /// of the scheme.
    #[must_use]
    pub fn is_as_usual(&self, said: &[u8], https: bool) -> bool {
        let of_scheme = if https { 443 } else { 80 };
        let Some(rest) = said.strip_prefix(self.name.as_bytes()) else { return false };
        match self.port {
            None => rest.is_empty(),
            Some(port) => {
                port != of_scheme && rest.strip_prefix(b":") == Some(itoa::Buffer::new().format(port).as_bytes())
            }
        }
    }

    fn parse_bracketed(value: &[u8]) -> Result<Self, HostError> {
        let (address, port) = value
            .iter()
            .position(|&byte| byte == b']')
            .and_then(|end| Some((value.get(1..end)?, value.get(end + 1..)?)))
            .ok_or(HostError::InvalidAddress)?;
        let address: Ipv6Addr =
            std::str::from_utf8(address).ok().and_then(|text| text.parse().ok()).ok_or(HostError::InvalidAddress)?;
        Ok(Self { name: Cow::Owned(format!("[{address}]")), port: parse_port(port)? })
    }
}

/// Takes nothing, or `:` and a port.
fn parse_port(text: &[u8]) -> Result<Option<u16>, HostError> {
    let digits = match text {
        [] => return Ok(None),
        [b':', digits @ ..] if digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit) => digits,
        _ => return Err(HostError::InvalidPort),
    };
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse::<NonZeroU16>().ok())
        .map(|port| Some(port.get()))
        .ok_or(HostError::InvalidPort)
}

fn parse_name(name: &[u8]) -> Result<Cow<'_, str>, HostError> {
    if name.is_empty() || name == b"." {
        return Err(HostError::Empty);
    }
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.len() > NAME_MAX {
        return Err(HostError::TooLong);
    }
    let (mut label, mut upper) = (0, false);
    for &byte in name {
        match byte {
            b'.' if label == 0 => return Err(HostError::EmptyLabel),
            b'.' => label = 0,
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => label += 1,
            b'A'..=b'Z' => (label, upper) = (label + 1, true),
            _ => return Err(HostError::InvalidByte),
        }
        if label > LABEL_MAX {
            return Err(HostError::TooLong);
        }
    }
    if label == 0 {
        return Err(HostError::EmptyLabel);
    }
    let text = std::str::from_utf8(name).map_err(|_| HostError::InvalidByte)?;
    Ok(if upper { Cow::Owned(text.to_ascii_lowercase()) } else { Cow::Borrowed(text) })
}

/// The domains above a name, longest first: of `a.b.c`, `b.c` and `c`.
pub(super) fn parents(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').filter_map(|(at, _)| name.get(at + 1..))
}

/// Writes a pattern's host as [`Host::parse`] writes names, so that both compare byte by byte. An IPv6 address may come
/// without brackets. What is no host stays as it is, and then matches nothing.
pub(super) fn normalise(pattern: &HostPattern) -> HostPattern {
    match pattern {
        HostPattern::Suffix(domain) => HostPattern::Suffix(normalise_name(domain)),
        HostPattern::Exact(name) => HostPattern::Exact(match name.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => normalise_name(name),
        }),
    }
}

fn normalise_name(name: &str) -> String {
    Host::parse(name.as_bytes()).map_or_else(|_| name.to_owned(), |host| host.name.into_owned())
}

/// `allowed_hosts`: which hosts are served at all.
#[derive(Debug, Clone, Default)]
pub struct AllowedHosts {
    any: bool,
    exact: HashSet<String>,
    suffixes: HashSet<String>,
}

impl AllowedHosts {
    /// An empty list allows every host.
    #[must_use]
    pub fn new(patterns: &[HostPattern]) -> Self {
        let mut allowed = Self { any: patterns.is_empty(), ..Self::default() };
        for pattern in patterns {
            match normalise(pattern) {
                HostPattern::Exact(name) => allowed.exact.insert(name),
                HostPattern::Suffix(domain) => allowed.suffixes.insert(domain),
            };
        }
        allowed
    }

    /// Whether a request for `name` (as in [`Host::name`]; none: a request without Host) is served. Costs no more with a
    /// longer list.
    #[must_use]
    pub fn allows(&self, name: Option<&str>) -> bool {
        self.any
            || name.is_some_and(|name| {
                self.exact.contains(name) || parents(name).any(|domain| self.suffixes.contains(domain))
            })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(value: &str) -> Result<(String, Option<u16>), HostError> {
        Host::parse(value.as_bytes()).map(|host| (host.name.into_owned(), host.port))
    }

    #[test]
    fn hosts_as_browsers_write_them() {
        for (said, https, expected) in [
            ("example.com", true, true),
            ("example.com:8443", true, true),
            ("example.com:80", true, true),
            ("example.com:443", true, false),
            ("example.com:80", false, false),
            ("example.com.", true, false),
            ("Example.com", true, false),
            ("example.com:08443", true, false),
            ("[::1]:8443", true, true),
            ("[0::1]", true, false),
        ] {
            assert_eq!(Host::parse(said.as_bytes()).unwrap().is_as_usual(said.as_bytes(), https), expected, "{said}");
        }
    }

    #[test]
    fn takes_apart() {
        for (value, name, port) in [
            ("example.com", "example.com", None),
            ("Example.COM:443", "example.com", Some(443)),
            ("example.com.", "example.com", None),
            ("example.com.:8080", "example.com", Some(8080)),
            ("my_app-1", "my_app-1", None),
            ("10.0.0.1:1", "10.0.0.1", Some(1)),
            ("h:65535", "h", Some(65535)),
            ("[::1]", "[::1]", None),
            ("[2001:DB8:0:0::1]:80", "[2001:db8::1]", Some(80)),
        ] {
            assert_eq!(parsed(value), Ok((name.to_owned(), port)), "{value}");
        }
        assert!(matches!(Host::parse(b"a.b:1").unwrap().name, Cow::Borrowed(_)));
    }

    #[test]
    fn refuses() {
        use HostError::*;
        for (value, error) in [
            ("", Empty),
            (".", Empty),
            (":80", Empty),
            ("a..b", EmptyLabel),
            (".a", EmptyLabel),
            ("a..", EmptyLabel),
            ("a,b", InvalidByte),
            ("a b", InvalidByte),
            ("a/b", InvalidByte),
            ("u@a", InvalidByte),
            ("a%41", InvalidByte),
            ("é", InvalidByte),
            ("*", InvalidByte),
            ("a:", InvalidPort),
            ("a:0", InvalidPort),
            ("a:65536", InvalidPort),
            ("a:+80", InvalidPort),
            ("a:80:80", InvalidPort),
            ("a:000080", InvalidPort),
            ("u:p@a", InvalidPort),
            ("::1", InvalidPort),
            ("[::1", InvalidAddress),
            ("[::1]x", InvalidPort),
            ("[1.2.3.4]", InvalidAddress),
            ("[fe80::1%eth0]", InvalidAddress),
            ("[v1.a]", InvalidAddress),
            ("[]", InvalidAddress),
        ] {
            assert_eq!(parsed(value), Err(error), "{value}");
        }
        assert_eq!(parsed(&"a".repeat(64)), Err(TooLong));
        assert_eq!(parsed(&"a.".repeat(128)), Err(TooLong));
        assert!(parsed(&"a.".repeat(127)).is_ok());
    }

    #[test]
    fn allowed_hosts() {
        let exact = |name: &str| HostPattern::Exact(name.into());
        let allowed = AllowedHosts::new(&[
            exact("example.com"),
            HostPattern::Suffix("example.org".into()),
            exact("2001:db8:0::1"),
        ]);
        for (name, served) in [
            ("example.com", true),
            ("a.example.com", false),
            ("example.org", false),
            ("a.example.org", true),
            ("a.b.example.org", true),
            ("badexample.org", false),
            ("[2001:db8::1]", true),
        ] {
            assert_eq!(allowed.allows(Some(name)), served, "{name}");
        }
        assert!(!allowed.allows(None));
        assert!(AllowedHosts::new(&[]).allows(None));
        assert!(AllowedHosts::new(&[]).allows(Some("x")));
    }

    proptest! {
        #[test]
        fn a_name_is_its_own_normal_form(value in "[A-Za-z0-9._:\\[\\]-]{0,20}") {
            if let Ok(host) = Host::parse(value.as_bytes()) {
                let again = Host::parse(host.name.as_bytes()).unwrap();
                prop_assert_eq!(&again.name, &host.name);
                prop_assert_eq!(again.port, None);
                prop_assert!(host.port != Some(0));
            }
        }

        #[test]
        fn any_bytes_are_taken(value in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(host) = Host::parse(&value) {
                prop_assert!(host.name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()));
            }
        }
    }
}
