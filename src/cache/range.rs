//! Ranges of what is kept (RFC 9110 section 14).

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, header};

use crate::headers::Headers;

/// More ranges than this in one request are answered with the whole: it would only be an effort (RFC 9110 section 17.15).
const MOST: usize = 16;

/// What of the body is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Whole,
    /// One part or more, none of them empty.
    Parts(Vec<Range<usize>>),
    /// Nothing that there is.
    Beyond,
}

/// Reads `Range` for a body of `length` bytes. What cannot be read is as if it were not there (section 14.2).
#[must_use]
pub fn asked(request: &Headers, length: usize) -> Asked {
    let mut lines = request.get_all(header::RANGE);
    let (Some(line), None) = (lines.next(), lines.next()) else { return Asked::Whole };
    read(line, length).unwrap_or(Asked::Whole)
}

fn read(line: &HeaderValue, length: usize) -> Option<Asked> {
    let (unit, set) = line.to_str().ok()?.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut parts = Vec::new();
    let mut count = 0;
    for item in set.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        count += 1;
        let (first, last) = item.split_once('-')?;
        let part = match (number(first)?, number(last)?) {
            (None, None) => return None,
            (None, Some(suffix)) => length.saturating_sub(suffix)..length,
            (Some(first), None) => first..length,
            (Some(first), Some(last)) if last < first => return None,
            (Some(first), Some(last)) => first..last.saturating_add(1).min(length),
        };
        if part.start < part.end {
            parts.push(part);
        }
    }
    if count == 0 {
        return None;
    }
    // Those that overlap would make much of little.
    let total: usize = parts.iter().map(Range::len).sum();
    if count > MOST || (parts.len() > 1 && total > length) {
        return Some(Asked::Whole);
    }
    Some(if parts.is_empty() { Asked::Beyond } else { Asked::Parts(parts) })
}

/// Digits, or nothing; none where it is something else. What is too large to count lies beyond everything.
#[allow(clippy::option_option)] // Absent and wrong are not the same.
fn number(text: &str) -> Option<Option<usize>> {
    if text.is_empty() {
        return Some(None);
    }
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| Some(text.parse().unwrap_or(usize::MAX)))
}

/// `Content-Range` of a part.
#[must_use]
pub fn content_range(part: &Range<usize>, length: usize) -> String {
    format!("bytes {}-{}/{length}", part.start, part.end.saturating_sub(1))
}

/// The body of an answer with several parts, and its media type (section 14.6). `boundary` stands in none of them.
#[must_use]
pub fn multipart(
    parts: &[Range<usize>],
    body: &Bytes,
    content_type: Option<&HeaderValue>,
    boundary: &str,
) -> (Bytes, String) {
    let mut out = BytesMut::with_capacity(parts.iter().map(|part| part.len() + 200).sum());
    for part in parts {
        out.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
        if let Some(content_type) = content_type {
            out.extend_from_slice(b"Content-Type: ");
            out.extend_from_slice(content_type.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(format!("Content-Range: {}\r\n\r\n", content_range(part, body.len())).as_bytes());
        out.extend_from_slice(body.get(part.clone()).unwrap_or_default());
    }
    out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    (out.freeze(), format!("multipart/byteranges; boundary={boundary}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(line: &str, length: usize) -> Asked {
        let mut request = Headers::default();
        request.insert(header::RANGE, HeaderValue::from_str(line).unwrap());
        asked(&request, length)
    }

    fn parts(list: &[Range<usize>]) -> Asked {
        Asked::Parts(list.to_vec())
    }

    #[test]
    fn what_the_book_shows() {
        assert_eq!(of("bytes=0-499", 10_000), parts(&[0..500]));
        assert_eq!(of("bytes=-500", 10_000), parts(&[9_500..10_000]));
        assert_eq!(of("bytes=9500-", 10_000), parts(&[9_500..10_000]));
        assert_eq!(of("bytes=0-0,-1", 10_000), parts(&[0..1, 9_999..10_000]));
        assert_eq!(of("Bytes = 0-1", 10), parts(&[0..2]));
        assert_eq!(of("bytes=-500", 10), parts(&[0..10]));
        assert_eq!(of("bytes=5-99999999999999999999999", 10), parts(&[5..10]));
    }

    #[test]
    fn what_is_beyond_and_what_is_none() {
        for beyond in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(of(beyond, 10), Asked::Beyond, "{beyond}");
        }
        assert_eq!(of("bytes=0-", 0), Asked::Beyond);
        for none in [
            "bytes=",
            "bytes=a-b",
            "bytes=5-4",
            "bytes=-",
            "lines=0-1",
            "0-1",
            "bytes=0-1;",
            "bytes=+1-2",
            "bytes=0-1,x",
        ] {
            assert_eq!(of(none, 10), Asked::Whole, "{none}");
        }
        assert_eq!(of("bytes=0-8,1-9", 10), Asked::Whole, "more than all of it");
        assert_eq!(of(&format!("bytes={}", "0-0,".repeat(17)), 1000), Asked::Whole);
    }

    #[test]
    fn several_parts_in_one_body() {
        let body = Bytes::from_static(b"0123456789");
        let (out, media) = multipart(&[0..2, 8..10], &body, Some(&HeaderValue::from_static("text/plain")), "B");
        assert_eq!(media, "multipart/byteranges; boundary=B");
        let expected = "\r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n01\
                        \r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 8-9/10\r\n\r\n89\r\n--B--\r\n";
        assert_eq!(out, expected);
    }

    proptest! {
        #[test]
        fn parts_lie_within(line in "bytes=[0-9,-]{0,30}", length in 0_usize..2000) {
            if let Asked::Parts(parts) = of(&line, length) {
                prop_assert!(!parts.is_empty() && parts.len() <= MOST);
                for part in parts {
                    prop_assert!(part.start < part.end && part.end <= length);
                }
            }
        }
    }
}
