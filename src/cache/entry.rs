//! One answer that is kept: its head without what ends at a hop, its body in one piece, and its terms.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

use bytes::{Bytes, BytesMut};
use http::header::{AGE, CONNECTION, CONTENT_LENGTH, DATE};
use http::{HeaderName, HeaderValue, StatusCode};

use super::disk::FileBody;
use super::freshness::Millis;
use super::policy::{Freshness, Terms};
use super::vary;
use crate::header::hop_by_hop::{is_hop_by_hop_response, listed_fields};
use crate::header::request_id::X_REQUEST_ID;
use crate::headers::Headers;
use crate::observe::metrics::CacheHeld;

/// What an entry costs beside its bytes, about.
const OVERHEAD: usize = 640;
/// The same for a field.
const FIELD_OVERHEAD: usize = 72;

/// Fields by which an app groups its answers, for purges: separated by spaces or commas.
pub static TAG_FIELDS: [HeaderName; 2] =
    [HeaderName::from_static("surrogate-key"), HeaderName::from_static("cache-tag")];
/// Tags of one answer more than this do not count.
const TAGS_MOST: usize = 128;

/// Where a body is.
#[derive(Debug, Clone)]
pub enum Body {
    /// In memory.
    Here(Bytes),
    /// On disk, and read as it is sent.
    There(Arc<FileBody>),
}

impl Body {
    /// Bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Here(bytes) => bytes.len(),
            Self::There(file) => file.len(),
        }
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// See the module.
#[derive(Debug)]
pub struct Entry {
    /// Of the resource, as [`super::rule::Rule::key`] writes it.
    pub primary: Box<[u8]>,
    pub status: StatusCode,
    /// With a `Date`, and the `Content-Length` of the body.
    pub headers: Headers,
    pub body: Body,
    pub terms: Terms,
    /// Request fields it depends on, and what the request said in them.
    pub varies: Box<[HeaderName]>,
    pub variant: Box<[u8]>,
    pub tags: Box<[Box<[u8]>]>,
    /// The last purge that it was compared with, and is not among.
    pub(super) checked: AtomicU64,
    /// From when on a purge makes it stale.
    stale_from: AtomicU64,
    /// What it costs in memory.
    pub(super) held: Option<CacheHeld>,
}

/// What an entry is made of.
#[derive(Debug, Clone)]
pub struct Head {
    pub primary: Box<[u8]>,
    pub status: StatusCode,
    pub headers: Headers,
    pub terms: Terms,
    pub varies: Box<[HeaderName]>,
    pub variant: Box<[u8]>,
    /// The last purge before it was asked for.
    pub asked_after: u64,
}

impl Entry {
    #[must_use]
    pub fn new(head: Head, body: Body) -> Self {
        let Head { primary, status, mut headers, terms, varies, variant, asked_after } = head;
        if status != StatusCode::NO_CONTENT {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        let tags = tags(&headers);
        Self {
            primary,
            status,
            headers,
            body,
            terms,
            varies,
            variant,
            tags,
            checked: AtomicU64::new(asked_after),
            stale_from: AtomicU64::new(Millis::MAX),
            held: None,
        }
    }

    /// Bytes it takes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        let fields: usize =
            self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD).sum();
        let tags: usize = self.tags.iter().map(|tag| tag.len() + 16).sum();
        OVERHEAD + self.primary.len() + self.variant.len() + fields + tags + self.bytes_here()
    }

    /// Bytes of its body that are in memory.
    #[must_use]
    pub fn bytes_here(&self) -> usize {
        match &self.body {
            Body::Here(bytes) => bytes.len(),
            Body::There(_) => 0,
        }
    }

    /// How fresh it is, its terms and purges considered.
    #[must_use]
    pub fn freshness(&self, now: Millis) -> Freshness {
        let stale_from = self.stale_from.load(Relaxed);
        if stale_from < self.terms.fresh_until {
            return Freshness::Stale(now.saturating_sub(stale_from));
        }
        self.terms.freshness(now)
    }

    /// The last purge that it was compared with.
    #[must_use]
    pub fn checked(&self) -> u64 {
        self.checked.load(Acquire)
    }

    /// Since when a purge has made it stale, if one has.
    #[must_use]
    pub fn stale_from(&self) -> Option<Millis> {
        Some(self.stale_from.load(Relaxed)).filter(|from| *from != Millis::MAX)
    }

    /// From now on it is stale.
    pub(super) fn make_stale(&self, from: Millis) {
        self.stale_from.fetch_min(from, Relaxed);
    }

    /// Whether it is the answer to a request that says this.
    #[must_use]
    pub fn suits(&self, request: &Headers) -> bool {
        if self.varies.is_empty() {
            return true;
        }
        let mut variant = Vec::with_capacity(self.variant.len());
        vary::write(&self.varies, request, &mut variant);
        *variant == *self.variant
    }
}

/// The fields of a response that are kept with it (RFC 9111 section 3.1), in one block of memory: as they came they would hold all
/// that was read with them. What is said of one request alone is left out; the age is in the terms. One without a date gets that of
/// its arrival (RFC 9110 section 6.6.1).
#[must_use]
pub fn kept_fields(headers: &Headers, came: Millis) -> Headers {
    let listed: Vec<HeaderName> = listed_fields(headers.get_all(CONNECTION).map(HeaderValue::as_bytes)).collect();
    let is_kept = |name: &HeaderName| {
        !is_hop_by_hop_response(name.as_str().as_bytes())
            && !listed.contains(name)
            && *name != AGE
            && *name != X_REQUEST_ID
            && !name.as_str().starts_with("x-accel-")
    };
    let mut block = BytesMut::with_capacity(headers.iter().map(|(_, value)| value.len()).sum());
    let mut kept = Headers::with_capacity(headers.len() + 4);
    for (name, value) in headers.iter().filter(|(name, _)| is_kept(name)) {
        block.extend_from_slice(value.as_bytes());
        if let Ok(value) = HeaderValue::from_maybe_shared(block.split().freeze()) {
            kept.append(name.clone(), value);
        }
    }
    if !kept.contains(DATE) {
        let date = httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_millis(came));
        if let Ok(date) = HeaderValue::from_maybe_shared(Bytes::from(date)) {
            kept.insert(DATE, date);
        }
    }
    kept
}

/// What a 304 says of a kept answer, in place of what it said before (RFC 9111 section 3.2): all but what describes the body that
/// is kept.
#[must_use]
pub fn updated_fields(kept: &Headers, says: &Headers) -> Headers {
    const OF_THE_BODY: [&str; 4] = ["content-length", "content-encoding", "content-range", "content-type"];
    let counts = |name: &HeaderName| !OF_THE_BODY.contains(&name.as_str());
    let mut updated = kept.clone();
    updated.retain(|name, _| !counts(name) || !says.contains(name));
    updated.extend(says.iter().filter(|(name, _)| counts(name)).cloned());
    updated
}

fn tags(headers: &Headers) -> Box<[Box<[u8]>]> {
    let lines = TAG_FIELDS.iter().flat_map(|name| headers.get_all(name)).map(HeaderValue::as_bytes);
    let tags = lines.flat_map(|line| line.split(|byte| matches!(byte, b' ' | b',' | b'\t')));
    tags.filter(|tag| !tag.is_empty()).take(TAGS_MOST).map(Box::from).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(fields: &[(&'static str, &'static str)]) -> Headers {
        let mut headers = Headers::default();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_ends_at_a_hop_or_is_for_one_request_is_not_kept() {
        let kept = kept_fields(
            &of(&[
                ("connection", "close, x-private-to-hop"),
                ("x-private-to-hop", "1"),
                ("transfer-encoding", "chunked"),
                ("keep-alive", "timeout=5"),
                ("age", "5"),
                ("x-request-id", "abc"),
                ("x-accel-expires", "10"),
                ("link", "</a>"),
                ("link", "</b>"),
                ("content-type", "text/plain"),
            ]),
            784_111_777_000,
        );
        assert_eq!(kept.get_all("link").count(), 2);
        assert_eq!(kept.get("date").unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
        let mut names: Vec<&str> = kept.names().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "date", "link", "link"]);
    }

    #[test]
    fn a_304_says_what_is_new_but_nothing_of_the_body() {
        let kept = of(&[
            ("etag", "\"1\""),
            ("content-type", "text/plain"),
            ("content-length", "5"),
            ("x-a", "1"),
            ("x-a", "2"),
        ]);
        let says =
            of(&[("x-a", "3"), ("content-length", "0"), ("content-type", "text/html"), ("cache-control", "max-age=9")]);
        let updated = updated_fields(&kept, &says);
        assert_eq!(updated.get_all("x-a").collect::<Vec<_>>(), ["3"]);
        assert_eq!(updated.get("content-length").unwrap(), "5");
        assert_eq!(updated.get("content-type").unwrap(), "text/plain");
        assert_eq!(updated.get("cache-control").unwrap(), "max-age=9");
    }

    #[test]
    fn tags_of_both_fields() {
        let found = tags(&of(&[("surrogate-key", "a b  c"), ("cache-tag", "d,e"), ("cache-tag", "")]));
        let found: Vec<&[u8]> = found.iter().map(|tag| &**tag).collect();
        assert_eq!(found, [b"a", b"b", b"c", b"d", b"e"]);
    }
}
