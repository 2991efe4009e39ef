//! Which bucket a request is for: a hash over the limit and whom it is counted for, so that neither a secret nor a text of any length
//! is kept anywhere.
//!
//! What is hashed can be written by hand: the name of the limit, its rate, and a line for each part of the key. Which hash it is
//! depends on who has to agree on it ([`Hash`]).

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr};

use aws_lc_rs::digest::{SHA256, digest};
use http::header;

use crate::config::model::{KeyPart, RateLimit};
use crate::headers::Headers;
use crate::net::Ipv4Text;

/// What a [`Hash`] makes of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(pub [u8; 16]);

/// In Redis.
impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "propylon:limit:{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// None: a peer of a Unix socket that nobody spoke for.
    pub client: Option<IpAddr>,
    /// In lower case, without port.
    pub host: Option<&'a str>,
    pub route: &'a str,
    pub headers: &'a Headers,
}

/// How a text becomes a key.
#[derive(Debug)]
pub enum Hash {
    /// The first half of its SHA-256: every gateway that shares a Redis makes the same key.
    Shared,
    /// For this process alone, which costs a tenth: two hashes with keys of their own that nobody knows, so that nobody finds two
    /// texts with the same key.
    Local(Box<[RandomState; 2]>),
}

impl Default for Hash {
    fn default() -> Self {
        Self::Local(Box::default())
    }
}

impl Hash {
    /// The key of a text.
    #[must_use]
    pub fn of(&self, text: &[u8]) -> Key {
        match self {
            Self::Shared => hashed(text),
            Self::Local(each) => {
                let [one, other] = each.each_ref().map(|hash| u128::from(hash.hash_one(text)));
                Key((one << 64 | other).to_be_bytes())
            }
        }
    }
}

/// What every text of a limit begins with.
#[must_use]
pub fn prefix(limit: &RateLimit) -> Vec<u8> {
    let rate = limit.rate.map_or_else(|| "concurrency".to_owned(), |rate| rate.to_string());
    format!("{}\n{rate}\n", limit.name).into_bytes()
}

/// One part of a key, ready to be written.
#[derive(Debug)]
pub struct Part {
    kind: KeyPart,
    /// What stands before its value.
    label: Box<[u8]>,
}

impl Part {
    #[must_use]
    pub fn new(kind: &KeyPart) -> Self {
        Self { kind: kind.clone(), label: format!("{kind}=").into_bytes().into() }
    }

    /// No value can hold a line feed, so none can pass for another part.
    fn write(&self, asker: &Asker<'_>, text: &mut Vec<u8>) {
        let begin = text.len();
        text.extend_from_slice(&self.label);
        let value = text.len();
        match &self.kind {
            KeyPart::ClientIp => write_address(asker.client, text),
            KeyPart::Host => text.extend_from_slice(asker.host.unwrap_or_default().as_bytes()),
            KeyPart::Route => text.extend_from_slice(asker.route.as_bytes()),
            KeyPart::Header(name) => {
                for (index, one) in asker.headers.get_all(name).enumerate() {
                    // As the app sees them.
                    text.extend_from_slice(if index > 0 { b"," } else { b"" });
                    text.extend_from_slice(one.as_bytes());
                }
            }
            KeyPart::Cookie(name) => text.extend_from_slice(the_cookie(asker.headers, name).unwrap_or_default()),
        }
        if text.len() == value {
            text.truncate(begin);
            text.extend_from_slice(b"client_ip=");
            write_address(asker.client, text);
        }
    }
}

/// The text of the bucket of `asker`. `prefix` is what [`prefix`] made.
pub fn text(prefix: &[u8], parts: &[Part], asker: &Asker<'_>) -> Vec<u8> {
    let mut text = Vec::with_capacity(prefix.len() + 64);
    text.extend_from_slice(prefix);
    for part in parts {
        part.write(asker, &mut text);
        text.push(b'\n');
    }
    text
}

/// One bucket for each client, for a purpose that `prefix` names.
#[must_use]
pub fn of_client(prefix: &[u8], client: Option<IpAddr>) -> Key {
    let mut text = prefix.to_vec();
    write_address(client, &mut text);
    hashed(&text)
}

fn hashed(text: &[u8]) -> Key {
    let digest = digest(&SHA256, text);
    let mut key = [0; 16];
    key.copy_from_slice(digest.as_ref().get(..16).unwrap_or(&[0; 16]));
    Key(key)
}

fn write_address(client: Option<IpAddr>, text: &mut Vec<u8>) {
    match client.map(|ip| ip.to_canonical()) {
        None => text.extend_from_slice(b"unix"),
        Some(IpAddr::V4(ip)) => text.extend_from_slice(Ipv4Text::of(ip).as_bytes()),
        // What one subscriber has; each of its addresses is his to choose.
        Some(IpAddr::V6(ip)) => {
            // Writing into memory cannot fail.
            let _ = write!(text, "{}/64", Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64));
        }
    }
}

/// The values of the cookies of this name in their order, without spaces and quotes around them, as Python frameworks read them.
pub fn cookies<'a>(headers: &'a Headers, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = headers.get_all(header::COOKIE).flat_map(|value| value.as_bytes().split(|b| *b == b';'));
    pairs.filter_map(move |pair| {
        let equals = pair.iter().position(|b| *b == b'=')?;
        let (key, value) = pair.split_at_checked(equals)?;
        (key.trim_ascii() == name.as_bytes()).then(|| unquoted(value.get(1..).unwrap_or_default().trim_ascii()))
    })
}

/// The value of the cookie of this name. None where frameworks would not agree on it, and a client could show each the one it likes:
/// there are two with different values, or one with escapes (RFC 6265 section 4.2 knows neither).
fn the_cookie<'a>(headers: &'a Headers, name: &str) -> Option<&'a [u8]> {
    let mut values = cookies(headers, name);
    let first = values.next()?;
    (!first.contains(&b'\\') && values.all(|other| other == first)).then_some(first)
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn text(parts: &[KeyPart], asker: &Asker<'_>) -> String {
        let mut text = Vec::new();
        for part in parts {
            Part::new(part).write(asker, &mut text);
            text.push(b' ');
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_key_of_this_process_is_the_same_for_the_same_text_alone() {
        let (one, other) = (Hash::default(), Hash::default());
        assert_eq!(one.of(b"a"), one.of(b"a"));
        assert_ne!(one.of(b"a"), one.of(b"b"));
        assert_ne!(one.of(b"a"), other.of(b"a"));
        let Key(bytes) = one.of(b"a");
        assert_ne!(bytes[..8], bytes[8..]);
        assert_eq!(Hash::Shared.of(b"a"), hashed(b"a"));
    }

    #[test]
    fn what_is_hashed() {
        let mut headers = Headers::default();
        headers.append(http::HeaderName::from_static("x-key"), HeaderValue::from_static("a"));
        headers.append(http::HeaderName::from_static("x-key"), HeaderValue::from_static("b"));
        headers.append(http::HeaderName::from_static("cookie"), HeaderValue::from_static("x=1; sid=s"));
        headers.append(http::HeaderName::from_static("empty"), HeaderValue::from_static(""));
        let asker =
            Asker { client: Some("192.0.2.1".parse().unwrap()), host: Some("h"), route: "r", headers: &headers };
        let header = |name| KeyPart::Header(name);
        let parts = [
            KeyPart::ClientIp,
            KeyPart::Host,
            KeyPart::Route,
            header("x-key".parse().unwrap()),
            KeyPart::Cookie("sid".into()),
            header("missing".parse().unwrap()),
            header("empty".parse().unwrap()),
            KeyPart::Cookie("si".into()),
        ];
        let expected = "client_ip=192.0.2.1 host=h route=r header:x-key=a,b cookie:sid=s client_ip=192.0.2.1 \
                        client_ip=192.0.2.1 client_ip=192.0.2.1 ";
        assert_eq!(text(&parts, &asker), expected);
        for (client, expected) in [
            (Some("2001:db8:1:2:3:4:5:6"), "client_ip=2001:db8:1:2::/64 "),
            (Some("::ffff:192.0.2.1"), "client_ip=192.0.2.1 "),
            (None, "client_ip=unix "),
        ] {
            let asker = Asker { client: client.map(|ip| ip.parse().unwrap()), ..asker };
            assert_eq!(text(&[KeyPart::ClientIp], &asker), expected);
        }
    }

    #[test]
    fn one_session_has_one_bucket_however_it_is_written() {
        let of = |fields: &[&str]| {
            let mut headers = Headers::default();
            for field in fields {
                headers.append(http::HeaderName::from_static("cookie"), HeaderValue::from_str(field).unwrap());
            }
            the_cookie(&headers, "sid").map(<[u8]>::to_vec)
        };
        for same in [&["sid=x"][..], &["sid=\"x\""], &["a=b;sid = x ; c=d"], &["sid=x; sid=x"], &["a=b", "sid=x"]] {
            assert_eq!(of(same).as_deref(), Some(&b"x"[..]), "{same:?}");
        }
        for odd in [&["sid=1; sid=x"][..], &["sid=\"\\170\""], &["asid=x"], &["sid"], &["SID=x"], &[]] {
            assert_eq!(of(odd), None, "{odd:?}");
        }
    }
}
