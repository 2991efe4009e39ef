//! The request id: X-Request-ID to the app, back to the client, and in every log line of the request.
//!
//! New ones are random UUIDs (RFC 9562 version 4: no clock in them) as text, because the id middlewares of Django and
//! ASGI apps throw away what is none.

use http::{HeaderName, HeaderValue};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id accepted from a trusted peer, in bytes.
pub const LENGTH_MAX: usize = 128;

/// Keeps the id a trusted peer sent, or makes a new one.
///
/// `received` are the values of all X-Request-ID fields. One is kept if it is alone and holds 1 to [`LENGTH_MAX`] bytes
/// out of letters, digits, `.`, `_` and `-`: safe in a log line, a URL and a shell.
pub fn decide<'a>(received: impl IntoIterator<Item = &'a [u8]>, peer_trusted: bool) -> HeaderValue {
    let mut received = received.into_iter().filter(|_| peer_trusted);
    match (received.next(), received.next()) {
        (Some(only), None) => accept(only).unwrap_or_else(generate),
        _ => generate(),
    }
}

/// Makes a new id: 36 bytes, lower case.
#[must_use]
pub fn generate() -> HeaderValue {
    let mut text = [0; Hyphenated::LENGTH];
    let text = Uuid::new_v4().hyphenated().encode_lower(&mut text);
    // Hexadecimal digits and hyphens always are a value.
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("00000000-0000-0000-0000-000000000000"))
}

fn accept(value: &[u8]) -> Option<HeaderValue> {
    let safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let fits = matches!(value.len(), 1..=LENGTH_MAX) && value.iter().all(safe);
    fits.then(|| HeaderValue::from_bytes(value).ok())?
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_new(id: &HeaderValue) -> bool {
        let text = id.to_str().unwrap();
        text.len() == 36 && text.parse::<Uuid>().unwrap().get_version_num() == 4
    }

    #[test]
    fn new_ones_differ() {
        let (one, other) = (generate(), generate());
        assert!(is_new(&one) && is_new(&other));
        assert_ne!(one, other);
    }

    #[test]
    fn kept_from_trusted_peers_alone() {
        let id: &[u8] = b"Req_1.2-3";
        assert_eq!(decide([id], true), "Req_1.2-3");
        assert!(is_new(&decide([id], false)));
        assert!(is_new(&decide([id, id], true)));
        assert!(is_new(&decide([], true)));
        let longest = [b'a'; LENGTH_MAX];
        assert_eq!(decide([&longest[..]], true).len(), LENGTH_MAX);
        assert!(is_new(&decide([&[b'a'; LENGTH_MAX + 1][..]], true)));
        for bad in ["", "a b", "a,b", "é", "a\n", "a\"", "a/b", "a=b"] {
            assert!(is_new(&decide([bad.as_bytes()], true)), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_the_id_is_safe(value in prop::collection::vec(any::<u8>(), 0..140), trusted: bool) {
            let id = decide([value.as_slice()], trusted);
            prop_assert!(accept(id.as_bytes()).is_some());
        }
    }
}
