//! Rate limits: how many in how long, `100/m`, and whom that is counted for, `client_ip`.

use std::fmt;
use std::time::Duration;

use super::super::error::nearest;
use super::super::model::{HashKey, KeyPart, OnRedisDown};
use super::super::schema::{Described, word};
use super::super::walk::{Node, Read, Reject, Text, Walk};
use super::balance::parse_named;

/// So many requests in so long a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitRate {
    pub count: u32,
    pub period: Duration,
}

impl Default for LimitRate {
    fn default() -> Self {
        Self { count: 1, period: Duration::from_secs(1) }
    }
}

/// Most tokens a bucket may have.
pub const COUNT_MAX: u32 = 1_000_000_000;

/// One letter for a time, and the words other limiters have for it.
const UNITS: [(&str, u64, &[&str]); 4] = [
    ("s", 1, &["sec", "second", "seconds"]),
    ("m", 60, &["min", "minute", "minutes"]),
    ("h", 3_600, &["hour", "hours"]),
    ("d", 86_400, &["day", "days"]),
];

impl Text for LimitRate {
    const KIND: &'static str = "rate";
    const EXPECTED: &'static str = "a rate such as \"100/m\", \"10/s\", \"1000/h\", \"5000/d\" or \"5/15m\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        let Some((count, per)) = text.split_once('/') else {
            return Err(match text.split_once(" per ") {
                Some((count, unit)) => near(count.trim(), unit.trim()),
                None => Reject::Unlike,
            });
        };
        let digits = per.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = per.split_at(digits);
        let Some((_, seconds, _)) = UNITS.iter().find(|(letter, ..)| *letter == unit) else {
            return Err(if number.is_empty() { near(count.trim(), unit.trim()) } else { Reject::Unlike });
        };
        let number: u64 = match number {
            "" => 1,
            number => number.parse().ok().filter(|number| *number > 0).ok_or(Reject::Unlike)?,
        };
        let seconds = number.checked_mul(*seconds).filter(|seconds| *seconds <= 31 * 86_400);
        let seconds = seconds.ok_or_else(|| Reject::because("it is longer than 31 days"))?;
        if !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Reject::Unlike);
        }
        match count.parse::<u32>() {
            Ok(0) => Err(Reject::because("a route that nobody may use needs no rate")),
            Ok(count) if count <= COUNT_MAX => Ok(Self { count, period: Duration::from_secs(seconds) }),
            _ if count.is_empty() => Err(Reject::Unlike),
            _ => Err(Reject::because(format!("it is more than {COUNT_MAX}"))),
        }
    }
}

/// `100 per minute`, `100/minute`: what it is here.
fn near(count: &str, unit: &str) -> Reject {
    let letter = UNITS.iter().find(|(letter, _, words)| *letter == unit || words.contains(&unit)).map(|unit| unit.0);
    match letter {
        Some(letter) if !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit()) => {
            Reject::Near(format!("{count}/{letter}"))
        }
        _ => Reject::Unlike,
    }
}

/// As it is written: `100/m`, `5/15m`.
impl fmt::Display for LimitRate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.period.as_secs();
        let (letter, unit, _) =
            UNITS.iter().rev().find(|(_, unit, _)| seconds.is_multiple_of(*unit)).unwrap_or(&UNITS[0]);
        match seconds / unit {
            1 => write!(out, "{}/{letter}", self.count),
            number => write!(out, "{}/{number}{letter}", self.count),
        }
    }
}

/// Keys without a name of the operator's own.
const KEYS: [(&str, KeyPart); 3] =
    [("client_ip", KeyPart::ClientIp), ("host", KeyPart::Host), ("route", KeyPart::Route)];
/// Keys with one.
const NAMED: [&str; 2] = ["header", "cookie"];

impl Text for KeyPart {
    const KIND: &'static str = "\"client_ip\", \"host\", \"route\", \"header:<name>\" or \"cookie:<name>\"";
    const EXPECTED: &'static str = "one of client_ip, host, route, header:<name>, cookie:<name>";

    fn parse(text: &str) -> Result<Self, Reject> {
        if let Some((_, key)) = KEYS.iter().find(|(name, _)| *name == text) {
            return Ok(key.clone());
        }
        if let Some((kind, name)) = text.split_once(':') {
            let named = |kind| match parse_named(kind, name) {
                Some(HashKey::Header(name)) => Some(Self::Header(name)),
                Some(HashKey::Cookie(name)) => Some(Self::Cookie(name)),
                _ => None,
            };
            return match named(kind) {
                Some(key) => Ok(key),
                None if NAMED.contains(&kind) => Err(Reject::because(format!("{name:?} is no name of a {kind}"))),
                None => Err(nearest(kind, NAMED)
                    .and_then(named)
                    .map_or(Reject::Unlike, |key| Reject::Near(key.to_string()))),
            };
        }
        if NAMED.contains(&text) {
            return Err(Reject::because(format!("it needs the name of a {text}, as in \"{text}:<name>\"")));
        }
        // What it is called in Flask-Limiter and elsewhere.
        if matches!(text, "ip" | "remote_addr" | "remote_address" | "address") {
            return Err(Reject::Near("client_ip".to_owned()));
        }
        Err(nearest(text, KEYS.iter().map(|(name, _)| *name))
            .map_or(Reject::Unlike, |near| Reject::Near(near.to_owned())))
    }
}

impl fmt::Display for KeyPart {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientIp => out.write_str("client_ip"),
            Self::Host => out.write_str("host"),
            Self::Route => out.write_str("route"),
            Self::Header(name) => write!(out, "header:{name}"),
            Self::Cookie(name) => write!(out, "cookie:{name}"),
        }
    }
}

const POLICIES: [(&str, OnRedisDown); 3] =
    [("local", OnRedisDown::Local), ("allow", OnRedisDown::Allow), ("deny", OnRedisDown::Deny)];

impl Read for OnRedisDown {
    fn describe() -> Described {
        Described::leaf("\"local\", \"allow\", \"deny\"")
    }

    fn read(node: Node<'_>, walk: &mut Walk<'_>) -> Option<Self> {
        word(node, walk, &POLICIES)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(count: u32, seconds: u64) -> LimitRate {
        LimitRate { count, period: Duration::from_secs(seconds) }
    }

    #[test]
    fn rates() {
        for (text, count, seconds) in
            [("100/m", 100, 60), ("1/s", 1, 1), ("5000/d", 5000, 86_400), ("5/15m", 5, 900), ("7/90s", 7, 90)]
        {
            assert_eq!(LimitRate::parse(text), Ok(rate(count, seconds)), "{text}");
            assert_eq!(rate(count, seconds).to_string(), text);
        }
        for (slip, meant) in
            [("100/minute", "100/m"), ("5 per second", "5/s"), ("10/hour", "10/h"), ("100 per m", "100/m")]
        {
            assert_eq!(LimitRate::parse(slip), Err(Reject::Near(meant.into())), "{slip}");
        }
        for bad in ["", "100", "/m", "100/", "0/m", "-1/m", "+1/m", "1.5/s", "100/0m", "100/w", "1/32d", "2000000000/s"]
        {
            assert!(matches!(LimitRate::parse(bad), Err(Reject::Unlike | Reject::Because(_))), "{bad}");
        }
    }

    #[test]
    fn keys() {
        assert_eq!(KeyPart::parse("client_ip"), Ok(KeyPart::ClientIp));
        assert_eq!(KeyPart::parse("header:X-API-Key").unwrap().to_string(), "header:x-api-key");
        assert_eq!(KeyPart::parse("cookie:SID"), Ok(KeyPart::Cookie("SID".into())));
        for (slip, meant) in [
            ("ip", "client_ip"),
            ("clientip", "client_ip"),
            ("remote_address", "client_ip"),
            ("headers:X-Key", "header:x-key"),
            ("rout", "route"),
        ] {
            assert_eq!(KeyPart::parse(slip), Err(Reject::Near(meant.into())), "{slip}");
        }
        for bad in ["", "header", "header:", "header:a b", "cookie:a=b", "x:y"] {
            assert!(matches!(KeyPart::parse(bad), Err(Reject::Unlike | Reject::Because(_))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(count in 1..=COUNT_MAX, seconds in 1_u64..=31 * 86_400) {
            let rate = rate(count, seconds);
            prop_assert_eq!(LimitRate::parse(&rate.to_string()), Ok(rate));
        }

        #[test]
        fn never_panics(text in ".{0,12}") {
            let _ = (LimitRate::parse(&text), KeyPart::parse(&text));
        }
    }
}
