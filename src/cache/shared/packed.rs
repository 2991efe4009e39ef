//! One kept answer as a value in Redis: its version, and what its file on disk would be.
//!
//! Times in it are by Redis' clock, which all gateways can ask.

use bytes::Bytes;

use crate::cache::disk::format::{self, BLOCK, FIXED, Fixed, Record};
use crate::cache::entry::{Body, Entry, Head};
use crate::cache::freshness::Millis;
use crate::cache::policy::Terms;

/// Bytes of a value, at most: what is larger would hold up what is asked for beside it.
pub const MOST: usize = 256 * 1024;
/// Hexadecimal digits of a version.
pub const VERSION: usize = 16;

/// How much Redis' clock is ahead of this machine's, in milliseconds.
pub type Offset = i64;

/// The version of an answer: when it came. Later ones are larger, as texts too.
#[must_use]
pub fn version(came: Millis, offset: Offset) -> String {
    format!("{:016x}", came.saturating_add_signed(offset))
}

/// The value for an answer that was asked for after the purge with number `after`; of one that is too large the version alone.
#[must_use]
pub fn pack(entry: &Entry, after: u64, offset: Offset) -> Vec<u8> {
    let mut value = version(entry.terms.came, offset).into_bytes();
    let Body::Here(body) = &entry.body else { return value };
    if body.len() > MOST {
        return value;
    }
    let Record::Entry(mut head, stale_from) = format::record_of(entry) else { return value };
    head.asked_after = after;
    head.terms = shifted(head.terms, offset);
    let stale_from = stale_from.map(|from| from.saturating_add_signed(offset));
    let front = format::front(&Record::Entry(head, stale_from), body, 0);
    if front.len() + body.len() <= MOST {
        value.reserve_exact(front.len() + body.len());
        value.extend_from_slice(&front);
        value.extend_from_slice(body);
    }
    value
}

/// What [`pack`] has made: the answer, after which purge it was asked for, and its version. None where it is anything else.
#[must_use]
pub fn unpack(value: &[u8], offset: Offset) -> Option<(Entry, u64, String)> {
    let (version, file) = value.split_at_checked(VERSION)?;
    let (fixed_bytes, rest) = file.split_at_checked(FIXED)?;
    let fixed = Fixed::read(fixed_bytes).filter(|fixed| fixed.whole() == Some(file.len() as u64))?;
    let (middle, body) = rest.split_at_checked(fixed.middle())?;
    let (record, sums) = format::read_middle(fixed_bytes, &fixed, middle)?;
    if !body.chunks(BLOCK).map(crc32fast::hash).eq(sums.iter().copied()) {
        return None;
    }
    let Record::Entry(head, stale_from) = record else { return None };
    let mut head: Head = *head;
    head.terms = shifted(head.terms, -offset);
    let after = head.asked_after;
    let entry = Entry::new(head, Body::Here(Bytes::copy_from_slice(body)));
    stale_from.into_iter().for_each(|from| entry.make_stale(from.saturating_add_signed(-offset)));
    Some((entry, after, std::str::from_utf8(version).ok()?.to_owned()))
}

fn shifted(terms: Terms, offset: Offset) -> Terms {
    Terms {
        came: terms.came.saturating_add_signed(offset),
        fresh_until: terms.fresh_until.saturating_add_signed(offset),
        ..terms
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::headers::Headers;
    use http::{HeaderValue, StatusCode};
    use proptest::prelude::*;

    fn entry(body: Vec<u8>) -> Entry {
        let terms = Terms {
            came: 1_000_000,
            initial_age: 2,
            fresh_until: 2_000_000,
            stale_while_revalidate: 4,
            stale_if_error: 5,
            may_be_stale: true,
            no_cache: false,
            for_authorized: true,
        };
        let mut headers = Headers::default();
        headers.insert(http::HeaderName::from_static("x-one"), HeaderValue::from_static("1"));
        let head = Head {
            primary: b"https\na\n/\na".as_slice().into(),
            status: StatusCode::OK,
            headers,
            terms,
            varies: [].into(),
            variant: [].into(),
            asked_after: 7,
        };
        Entry::new(head, Body::Here(body.into()))
    }

    #[test]
    fn what_is_packed_is_the_same_by_another_clock() {
        let value = pack(&entry(b"body".to_vec()), 42, 5000);
        let (entry, after, version) = unpack(&value, -3000).unwrap();
        assert_eq!((after, &*version), (42, "00000000000f55c8"));
        assert_eq!((entry.terms.came, entry.terms.fresh_until), (1_008_000, 2_008_000));
        assert_eq!(entry.headers.get("x-one").unwrap(), "1");
        assert!(matches!(&entry.body, Body::Here(body) if **body == *b"body"));
    }

    #[test]
    fn what_is_too_large_is_a_version_alone() {
        assert_eq!(pack(&entry(vec![0; MOST]), 42, 0).len(), VERSION);
        assert!(pack(&entry(vec![0; MOST - 4096]), 42, 0).len() > VERSION);
        assert!(unpack(&pack(&entry(vec![0; MOST]), 42, 0), 0).is_none());
    }

    proptest! {
        #[test]
        fn one_wrong_byte_is_found(at in any::<prop::sample::Index>(), flip in 1_u8..) {
            let mut value = pack(&entry(b"body".to_vec()), 42, 0);
            let at = VERSION + at.index(value.len() - VERSION);
            *value.get_mut(at).unwrap() ^= flip;
            prop_assert!(unpack(&value, 0).is_none());
        }

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = unpack(&bytes, 0);
        }
    }
}
