//! The heads of requests and responses on their way through.

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, StatusCode, Version};

use crate::header::grammar::trim_space;
use crate::headers::Headers;

/// The head of a request, as it may go to the app.
#[derive(Debug, Clone)]
pub struct RequestHead {
    pub method: Method,
    /// Path and query, or `*`.
    pub target: Bytes,
    /// What the client speaks. What goes to the app is HTTP/1.1.
    pub version: Version,
    pub headers: Headers,
}

impl RequestHead {
    /// One without fields yet, and room for so many.
    #[must_use]
    pub fn new(method: Method, target: Bytes, version: Version, room: usize) -> Self {
        Self { method, target, version, headers: Headers::with_capacity(room) }
    }
}

/// The head of a response.
#[derive(Debug, Clone, Default)]
pub struct ResponseHead {
    pub status: StatusCode,
    /// Where it is not the usual one of the status.
    pub reason: Option<Bytes>,
    pub headers: Headers,
    /// What the app has sent; its fields' values lie in it.
    text: Bytes,
}

impl ResponseHead {
    /// One of ours, without fields yet, and room for so many.
    #[must_use]
    pub fn new(status: StatusCode, room: usize) -> Self {
        Self { status, reason: None, headers: Headers::with_capacity(room), text: Bytes::new() }
    }

    /// An app's; the values of its fields are to be slices of `text`, the names before them.
    #[must_use]
    pub fn of(status: StatusCode, text: Bytes, room: usize) -> Self {
        Self { text, ..Self::new(status, room) }
    }

    /// What follows the status in the first line.
    #[must_use]
    pub fn reason(&self) -> &[u8] {
        match &self.reason {
            Some(reason) => reason,
            None => self.status.canonical_reason().unwrap_or_default().as_bytes(),
        }
    }

    /// The fields, with their names as the app writes them: what it has said itself goes on as it came.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.headers.iter().map(|(name, value)| {
            let name = name.as_str().as_bytes();
            (self.written_before(name, value).unwrap_or(name), value.as_bytes())
        })
    }

    /// `name` as it stands before `value` in what the app has sent; none where the value is not the app's, or empty.
    fn written_before(&self, name: &[u8], value: &HeaderValue) -> Option<&[u8]> {
        let at = value.as_bytes().as_ptr().addr().checked_sub(self.text.as_ptr().addr())?;
        let before = self.text.get(..at).filter(|_| at < self.text.len())?;
        // Between the two there are a colon and white space, of which there is usually one.
        let before = before.strip_suffix(b": ").or_else(|| trim_space(before).strip_suffix(b":"))?;
        let written = before.get(before.len().checked_sub(name.len())?..)?;
        // In any case: letters differ by one bit, and no two other bytes of names differ by that one alone but `^`, `~` and the like.
        let differ = written.iter().zip(name).fold(0, |differ, (a, b)| differ | (a ^ b));
        (differ & !0x20 == 0).then_some(written)
    }
}

/// The lines of a head without their CRLF.
pub struct Lines<'a> {
    head: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    /// Of a head whose lines are known to end with CRLF.
    #[must_use]
    pub fn of(head: &'a [u8]) -> Self {
        Self { head, at: 0 }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.head.get(self.at..)?;
        let lf = memchr::memchr(b'\n', rest)?;
        self.at += lf + 1;
        rest.get(..lf.saturating_sub(1))
    }
}

/// Writes a field line.
pub fn put_field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + b": \r\n".len());
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, header};

    use super::*;

    #[test]
    fn names_of_the_app_stay_as_it_writes_them() {
        let text = Bytes::from_static(
            b"HTTP/1.1 200 OK\r\nETag: \"x\"\r\nx-POWERED-by:me\r\nEmpty:\r\nWWW-Authenticate: a: b\r\n\r\n",
        );
        let mut head = ResponseHead::of(StatusCode::OK, text.clone(), 8);
        for (name, value) in [("etag", "\"x\""), ("x-powered-by", "me"), ("empty", ""), ("www-authenticate", "a: b")] {
            let at = text.windows(value.len().max(1)).position(|window| window == value.as_bytes()).unwrap_or(0);
            let value = HeaderValue::from_maybe_shared(text.slice(at..at + value.len())).unwrap();
            head.headers.append(HeaderName::from_static(name), value);
        }
        head.headers.insert(header::SERVER, HeaderValue::from_static("ours"));
        // A value of the app's under another name.
        head.headers.insert(header::VIA, head.headers.get("etag").unwrap().clone());
        let fields: Vec<_> = head.fields().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        let expected = [
            ("ETag", "\"x\""),
            ("x-POWERED-by", "me"),
            ("empty", ""),
            ("WWW-Authenticate", "a: b"),
            ("server", "ours"),
            ("via", "\"x\""),
        ];
        let expected: Vec<_> =
            expected.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).into();
        assert_eq!(fields, expected);
    }

    #[test]
    fn the_reason_is_the_app_s_or_the_usual_one() {
        let mut head = ResponseHead::new(StatusCode::NOT_FOUND, 0);
        assert_eq!(head.reason(), b"Not Found");
        head.reason = Some(Bytes::from_static(b"Nothing"));
        assert_eq!(head.reason(), b"Nothing");
        assert_eq!(ResponseHead::new(StatusCode::from_u16(299).unwrap(), 0).reason(), b"");
    }
}
