//! Connection, and the fields that end at this hop (RFC 9110 section 7.6.1).
//!
//! The order matters. Who the client is comes first, from the fields as received. Then what Connection lists is taken out
//! of a request, before routes, limits, the cache or the app look at it: a field that one of them sees and the other does
//! not is a way to poison a cache. Our own fields come last, so that no client can have them removed (CVE-2022-31813).

use http::HeaderName;

/// What a message's Connection fields ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Independent of one another, as in the field itself.
pub struct ConnectionOptions {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    /// Whether field names are listed besides; only then is [`listed_fields`] worth asking.
    pub others: bool,
}

impl ConnectionOptions {
    /// Reads the values of all Connection fields, in any case; empty elements are passed over.
    #[must_use]
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut parsed = Self::default();
        for option in values.into_iter().flat_map(options) {
            if option.eq_ignore_ascii_case(b"keep-alive") {
                parsed.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"close") {
                parsed.close = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                parsed.upgrade = true;
            } else {
                parsed.others = true;
            }
        }
        parsed
    }
}

/// The fields that the values of Connection list, beside its standard options.
///
/// Never what frames, addresses or dates the message, whatever is listed: a message that loses its Content-Length on the
/// way is another message.
pub fn listed_fields<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> impl Iterator<Item = HeaderName> {
    let names = values.into_iter().flat_map(options).filter(|name| !is_protected(name));
    names.filter_map(|name| HeaderName::from_bytes(name).ok())
}

/// Whether a response field, in any case, ends at this hop: it speaks of the connection to the app. Connection itself is
/// among them, and Trailer, because trailers are not passed on. An upgrade that is passed on sets its own.
#[must_use]
pub fn is_hop_by_hop_response(name: &[u8]) -> bool {
    let known: &[&str] = match name.len() {
        2 => &["te"],
        7 => &["upgrade", "trailer"],
        10 => &["connection", "keep-alive"],
        16 => &["proxy-connection"],
        17 => &["transfer-encoding"],
        18 => &["proxy-authenticate"],
        25 => &["proxy-authentication-info"],
        _ => &[],
    };
    is_one_of(name, known)
}

fn is_protected(name: &[u8]) -> bool {
    is_one_of(name, &["host", "content-length", "transfer-encoding", "expect", "date"])
}

fn is_one_of(name: &[u8], known: &[&str]) -> bool {
    known.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name))
}

fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|option| !option.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(values: &[&str]) -> ConnectionOptions {
        ConnectionOptions::parse(values.iter().map(|value| value.as_bytes()))
    }

    #[test]
    fn reads_options() {
        let none = ConnectionOptions::default();
        assert_eq!(parse(&[]), none);
        assert_eq!(parse(&[" , ", ""]), none);
        assert_eq!(parse(&["Keep-Alive"]), ConnectionOptions { keep_alive: true, ..none });
        assert_eq!(
            parse(&["keep-alive ,UPGRADE", "X-A"]),
            ConnectionOptions { keep_alive: true, upgrade: true, others: true, ..none }
        );
        assert_eq!(parse(&["close", "closed"]), ConnectionOptions { close: true, others: true, ..none });
    }

    #[test]
    fn lists_names() {
        let values: &[&[u8]] = &[b"close, X-Forwarded-Proto", b"x-a,, Content-Length ,host"];
        let listed: Vec<_> = listed_fields(values.iter().copied()).collect();
        assert!(listed.iter().any(|name| name == "x-forwarded-proto"));
        assert!(listed.iter().any(|name| name == "x-a"));
        for name in [&b"x"[..], b"", b"Content-Length", b"Host"] {
            assert!(!listed.iter().any(|listed| listed.as_str().as_bytes() == name));
        }
    }

    #[test]
    fn response_fields() {
        for name in ["Connection", "keep-alive", "Transfer-Encoding", "TE", "Trailer", "Upgrade", "Proxy-Authenticate"]
        {
            assert!(is_hop_by_hop_response(name.as_bytes()), "{name}");
        }
        for name in ["Content-Length", "Date", "Set-Cookie", "WWW-Authenticate", "", "Connections"] {
            assert!(!is_hop_by_hop_response(name.as_bytes()), "{name}");
        }
    }

    proptest! {
        #[test]
        fn others_says_whether_to_ask(values in prop::collection::vec("(close|upgrade|x-a|[ ,]){0,6}", 0..3), name in "x-a") {
            let bytes: Vec<_> = values.iter().map(String::as_bytes).collect();
            let options = ConnectionOptions::parse(bytes.iter().copied());
            let listed = listed_fields(bytes.iter().copied()).any(|listed| listed == name.as_str());
            let standard = ["close", "keep-alive", "upgrade"].contains(&name.as_str());
            prop_assert!(options.others || standard || !listed);
        }
    }
}
