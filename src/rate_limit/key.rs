//! Which bucket a request is for: a hash over the limit and whom it is counted for, so that neither a secret nor a text of any length
//! is kept anywhere.
//!
//! What is hashed can be written by hand: the name of the limit, its rate, and a line for each part of the key.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderMap, HeaderValue, header};

use crate::config::model::{KeyPart, RateLimit};

/// The first half of a SHA-256.
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
    pub headers: &'a HeaderMap<HeaderValue>,
}

/// What every text of a limit begins with.
#[must_use]
pub fn prefix(limit: &RateLimit) -> Vec<u8> {
    let rate = limit.rate.map_or_else(|| "concurrency".to_owned(), |rate| rate.to_string());
    format!("{}\n{rate}\n", limit.name).into_bytes()
}

/// The bucket of `asker`. `prefix` is what [`prefix`] made.
pub fn key(prefix: &[u8], parts: &[KeyPart], asker: &Asker<'_>) -> Key {
    let mut text = Vec::with_capacity(prefix.len() + 64);
    text.extend_from_slice(prefix);
    for part in parts {
        write_part(part, asker, &mut text);
        text.push(b'\n');
    }
    let digest = digest(&SHA256, &text);
    let mut key = [0; 16];
    key.copy_from_slice(digest.as_ref().get(..16).unwrap_or(&[0; 16]));
    Key(key)
}

/// No value can hold a line feed, so none can pass for another part.
fn write_part(part: &KeyPart, asker: &Asker<'_>, text: &mut Vec<u8>) {
    let begin = text.len();
    text.extend_from_slice(part.to_string().as_bytes());
    text.push(b'=');
    let value = text.len();
    match part {
        KeyPart::ClientIp => write_address(asker.client, text),
        KeyPart::Host => text.extend_from_slice(asker.host.unwrap_or_default().as_bytes()),
        KeyPart::Route => text.extend_from_slice(asker.route.as_bytes()),
        KeyPart::Header(name) => {
            for (index, one) in asker.headers.get_all(name).iter().enumerate() {
                // As the app sees them.
                text.extend_from_slice(if index > 0 { b"," } else { b"" });
                text.extend_from_slice(one.as_bytes());
            }
        }
        KeyPart::Cookie(name) => text.extend_from_slice(cookie(asker.headers, name).unwrap_or_default()),
    }
    if text.len() == value {
        text.truncate(begin);
        text.extend_from_slice(b"client_ip=");
        write_address(asker.client, text);
    }
}

fn write_address(client: Option<IpAddr>, text: &mut Vec<u8>) {
    let address = match client.map(|ip| ip.to_canonical()) {
        None => "unix".to_owned(),
        Some(IpAddr::V4(ip)) => ip.to_string(),
        // What one subscriber has; each of its addresses is his to choose.
        Some(IpAddr::V6(ip)) => format!("{}/64", Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
    };
    text.extend_from_slice(address.as_bytes());
}

/// The value of the first cookie of this name (RFC 6265 section 4.2).
pub fn cookie<'a>(headers: &'a HeaderMap<HeaderValue>, name: &str) -> Option<&'a [u8]> {
    let mut pairs = headers.get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|b| *b == b';'));
    pairs.find_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(parts: &[KeyPart], asker: &Asker<'_>) -> String {
        let mut text = Vec::new();
        for part in parts {
            write_part(part, asker, &mut text);
            text.push(b' ');
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn what_is_hashed() {
        let mut headers = HeaderMap::new();
        headers.append("x-key", HeaderValue::from_static("a"));
        headers.append("x-key", HeaderValue::from_static("b"));
        headers.append("cookie", HeaderValue::from_static("x=1; sid=s"));
        headers.append("empty", HeaderValue::from_static(""));
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
}
