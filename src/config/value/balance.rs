//! How an endpoint is chosen: `least_conn`, `round_robin`, `p2c`, and `hash:` with what of a request is hashed.

use std::fmt;

use http::HeaderName;

use super::super::error::nearest;
use super::super::model::{Balance, HashKey};
use super::super::walk::{Reject, Text};

/// Keys without a name of the operator's own.
const KEYS: [(&str, HashKey); 3] = [("client_ip", HashKey::ClientIp), ("host", HashKey::Host), ("path", HashKey::Path)];
/// Keys with one.
const NAMED: [&str; 2] = ["header", "cookie"];
/// What other gateways call it.
const ELSEWHERE: [(&str, &str); 6] = [
    ("ip_hash", "hash:client_ip"),
    ("source", "hash:client_ip"),
    ("random", "p2c"),
    ("least_requests", "least_conn"),
    ("hash:ip", "hash:client_ip"),
    ("hash:uri", "hash:path"),
];

impl Text for Balance {
    const KIND: &'static str = "\"least_conn\", \"round_robin\", \"p2c\" or \"hash:<key>\"";
    const EXPECTED: &'static str = "one of least_conn, round_robin, p2c, hash:client_ip, hash:host, hash:path, \
                                    hash:header:<name>, hash:cookie:<name>";

    fn parse(text: &str) -> Result<Self, Reject> {
        match text {
            "least_conn" => return Ok(Self::LeastConn),
            "round_robin" => return Ok(Self::RoundRobin),
            "p2c" => return Ok(Self::P2c),
            "hash" | "hash:" => return Err(Reject::because("it needs a key, as in \"hash:client_ip\"")),
            _ => {}
        }
        if let Some((_, here)) = ELSEWHERE.iter().find(|(elsewhere, _)| *elsewhere == text) {
            return Err(Reject::Near((*here).to_owned()));
        }
        match text.strip_prefix("hash:") {
            Some(key) => parse_key(key).map(Self::Hash),
            None => Err(nearest(text, ["least_conn", "round_robin", "p2c", "hash:client_ip"])
                .map_or(Reject::Unlike, |near| Reject::Near(near.to_owned()))),
        }
    }
}

fn parse_key(text: &str) -> Result<HashKey, Reject> {
    if let Some((_, key)) = KEYS.iter().find(|(name, _)| *name == text) {
        return Ok(key.clone());
    }
    if let Some((kind, name)) = text.split_once(':') {
        return match parse_named(kind, name) {
            Some(key) => Ok(key),
            None if NAMED.contains(&kind) => Err(Reject::because(format!("{name:?} is no name of a {kind}"))),
            None => Err(nearest(kind, NAMED)
                .and_then(|kind| parse_named(kind, name))
                .map_or(Reject::Unlike, |key| Reject::Near(format!("hash:{key}")))),
        };
    }
    if NAMED.contains(&text) {
        return Err(Reject::because(format!("it needs the name of a {text}, as in \"hash:{text}:<name>\"")));
    }
    Err(nearest(text, KEYS.iter().map(|(name, _)| *name))
        .map_or(Reject::Unlike, |near| Reject::Near(format!("hash:{near}"))))
}

/// Names of fields are the same in either case, those of cookies are not; both are tokens (RFC 9110 section 5.1, RFC
/// 6265 section 4.1.1).
pub(super) fn parse_named(kind: &str, name: &str) -> Option<HashKey> {
    let field = HeaderName::from_bytes(name.as_bytes()).ok()?;
    match kind {
        "header" => Some(HashKey::Header(field)),
        "cookie" => Some(HashKey::Cookie(name.to_owned())),
        _ => None,
    }
}

impl fmt::Display for HashKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientIp => out.write_str("client_ip"),
            Self::Host => out.write_str("host"),
            Self::Path => out.write_str("path"),
            Self::Header(name) => write!(out, "header:{name}"),
            Self::Cookie(name) => write!(out, "cookie:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_and_keys() {
        assert_eq!(Balance::parse("p2c"), Ok(Balance::P2c));
        assert_eq!(Balance::parse("hash:client_ip"), Ok(Balance::Hash(HashKey::ClientIp)));
        let Ok(Balance::Hash(HashKey::Header(name))) = Balance::parse("hash:header:X-User") else { panic!() };
        assert_eq!(name, "x-user");
        assert_eq!(Balance::parse("hash:cookie:SID"), Ok(Balance::Hash(HashKey::Cookie("SID".into()))));
    }

    #[test]
    fn slips_are_seen() {
        for (slip, meant) in [
            ("least-conn", "least_conn"),
            ("roundrobin", "round_robin"),
            ("p2", "p2c"),
            ("ip_hash", "hash:client_ip"),
            ("hash:clientip", "hash:client_ip"),
            ("hash:paht", "hash:path"),
            ("hash:headers:X-User", "hash:header:x-user"),
            ("hash:cookies:sid", "hash:cookie:sid"),
        ] {
            assert_eq!(Balance::parse(slip), Err(Reject::Near(meant.into())), "{slip}");
        }
        for bad in
            ["", "hash", "hash:", "hash:header", "hash:header:", "hash:header:a b", "hash:cookie:a=b", "hash:x:y:z"]
        {
            assert!(!matches!(Balance::parse(bad), Ok(_) | Err(Reject::Near(_))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(kind in "header|cookie", name in "[A-Za-z0-9_.!-]{1,9}") {
            let balance = Balance::parse(&format!("hash:{kind}:{name}")).unwrap();
            prop_assert_eq!(Balance::parse(&balance.name()), Ok(balance));
        }

        #[test]
        fn never_panics(text in "(hash:)?(header:|cookie:)?.{0,12}") {
            let _ = Balance::parse(&text);
        }
    }
}
