//! `Cache-Control`, of requests and of responses (RFC 9111 section 5.2), and its targeted form `CDN-Cache-Control` (RFC 9213).
//!
//! Whatever cannot be read is taken for what keeps less and for a shorter time.

use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderName, HeaderValue};

use crate::headers::Headers;

pub const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// The largest time, in seconds; what is above it means as much (RFC 9111 section 1.2.2).
const LONGEST: u64 = 1 << 31;

/// What a response says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // One for each directive.
pub struct Response {
    pub no_store: bool,
    pub no_cache: bool,
    pub private: bool,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    /// Seconds.
    pub max_age: Option<u64>,
    pub s_maxage: Option<u64>,
    pub stale_while_revalidate: Option<u64>,
    pub stale_if_error: Option<u64>,
}

/// What a request says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // One for each directive.
pub struct Request {
    pub no_store: bool,
    pub no_cache: bool,
    pub only_if_cached: bool,
    /// Seconds.
    pub max_age: Option<u64>,
    pub min_fresh: Option<u64>,
    /// How stale an answer may be; `u64::MAX` where it does not matter.
    pub max_stale: Option<u64>,
}

impl Response {
    /// Reads what is for a shared cache: `CDN-Cache-Control` alone where it is there and can be read (RFC 9213 section 2.2), else
    /// `Cache-Control`.
    #[must_use]
    pub fn of(headers: &Headers) -> Self {
        Self::targeted(headers).unwrap_or_else(|| {
            let mut read = Self::default();
            if !each(headers, &CACHE_CONTROL, |name, value| read.take(name, value)) {
                // Something stands there that could be anything, `private` too.
                read.no_store = true;
            }
            read
        })
    }

    /// Whether it says that in a field for caches like this one, beside which `Expires` does not count.
    #[must_use]
    pub fn targeted(headers: &Headers) -> Option<Self> {
        if !headers.contains(CDN_CACHE_CONTROL) {
            return None;
        }
        let mut read = Self::default();
        let mut any = false;
        let whole = each(headers, &CDN_CACHE_CONTROL, |name, value| {
            any = true;
            // Parameters mean nothing here.
            read.take(
                name,
                value.map(|value| value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()),
            );
        });
        (whole && any).then_some(read)
    }

    fn take(&mut self, name: &[u8], value: Option<&[u8]>) {
        match &*name.to_ascii_lowercase() {
            b"no-store" => self.no_store = true,
            // With a list of fields as well: those alone would be withheld, and all of it is safer.
            b"no-cache" => self.no_cache = true,
            b"private" => self.private = true,
            b"public" => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand = true,
            b"max-age" => set(&mut self.max_age, value),
            b"s-maxage" => set(&mut self.s_maxage, value),
            b"stale-while-revalidate" => set(&mut self.stale_while_revalidate, value),
            b"stale-if-error" => set(&mut self.stale_if_error, value),
            _ => {}
        }
    }
}

impl Request {
    /// Reads `Cache-Control`, and `Pragma` where there is none (RFC 9111 section 5.4).
    #[must_use]
    pub fn of(headers: &Headers) -> Self {
        let mut read = Self::default();
        if headers.contains(CACHE_CONTROL) {
            each(headers, &CACHE_CONTROL, |name, value| read.take(name, value));
        } else if headers.contains(PRAGMA) {
            each(headers, &PRAGMA, |name, _| read.no_cache |= name.eq_ignore_ascii_case(b"no-cache"));
        }
        read
    }

    fn take(&mut self, name: &[u8], value: Option<&[u8]>) {
        match &*name.to_ascii_lowercase() {
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache = true,
            b"only-if-cached" => self.only_if_cached = true,
            b"max-age" => set(&mut self.max_age, value),
            b"min-fresh" => self.min_fresh = value.and_then(seconds),
            b"max-stale" => self.max_stale = Some(value.map_or(u64::MAX, |value| seconds(value).unwrap_or(0))),
            _ => {}
        }
    }
}

/// A time that is not one, and times that contradict each other, leave nothing (RFC 9111 section 4.2.1).
fn set(place: &mut Option<u64>, value: Option<&[u8]>) {
    let new = value.and_then(seconds).unwrap_or(0);
    *place = Some(match *place {
        Some(earlier) if earlier != new => 0,
        _ => new,
    });
}

/// `delta-seconds`, in its quotes or without (RFC 9111 sections 1.2.2 and 5.2).
#[must_use]
pub fn seconds(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let sum = value.iter().fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    Some(sum.min(LONGEST))
}

/// Hands on each directive of a field, over all its lines; false where one cannot be told from the next.
fn each(headers: &Headers, name: &HeaderName, mut take: impl FnMut(&[u8], Option<&[u8]>)) -> bool {
    headers.get_all(name).map(HeaderValue::as_bytes).all(|line| each_of_line(line, &mut take))
}

fn each_of_line(mut rest: &[u8], take: &mut impl FnMut(&[u8], Option<&[u8]>)) -> bool {
    loop {
        let end = rest.iter().position(|byte| matches!(byte, b'=' | b',')).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let name = name.trim_ascii();
        match after {
            [b'=', after @ ..] => {
                let after = after.trim_ascii_start();
                let (value, left) = match after {
                    [b'"', quoted @ ..] => match split_quoted(quoted) {
                        Some(split) => split,
                        None => return false,
                    },
                    _ => after.split_at(after.iter().position(|byte| *byte == b',').unwrap_or(after.len())),
                };
                take(name, Some(value.trim_ascii()));
                match left.iter().position(|byte| *byte == b',') {
                    Some(comma) => rest = left.get(comma + 1..).unwrap_or_default(),
                    None => return true,
                }
            }
            [_, after @ ..] => {
                if !name.is_empty() {
                    take(name, None);
                }
                rest = after;
            }
            [] => {
                if !name.is_empty() {
                    take(name, None);
                }
                return true;
            }
        }
    }
}

/// Splits behind the closing quote; none where there is none. What is escaped inside stays so: no number is.
fn split_quoted(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut escaped = false;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some((text.get(..at)?, text.get(at + 1..)?)),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn response(lines: &[&str]) -> Response {
        Response::of(&headers(&CACHE_CONTROL, lines))
    }

    fn headers(name: &HeaderName, lines: &[&str]) -> Headers {
        lines.iter().map(|line| (name.clone(), HeaderValue::from_str(line).unwrap())).collect()
    }

    #[test]
    fn directives_over_lines_and_in_any_case() {
        let read = response(&["Public, MAX-AGE=60 ,", " s-maxage = \"30\", stale-if-error=5", ",must-revalidate"]);
        let expected = Response {
            public: true,
            max_age: Some(60),
            s_maxage: Some(30),
            stale_if_error: Some(5),
            must_revalidate: true,
            ..Response::default()
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn times_that_are_none_leave_nothing() {
        for bad in
            ["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age=a", "max-age=10,max-age=20", "max-age=\"\""]
        {
            assert_eq!(response(&[bad]).max_age, Some(0), "{bad}");
        }
        assert_eq!(response(&["max-age=10, max-age=10"]).max_age, Some(10));
        assert_eq!(response(&["max-age=99999999999999999999999"]).max_age, Some(LONGEST));
    }

    #[test]
    fn what_is_quoted_hides_no_directive_and_makes_none() {
        let read = response(&["private=\"set-cookie, no-store\", x=\"a\\\", no-cache\""]);
        assert!(read.private && !read.no_store && !read.no_cache);
        // The quote does not end: whatever is in it may be meant.
        assert!(response(&["max-age=60, x=\"private"]).no_store);
    }

    #[test]
    fn the_field_for_caches_like_this_one_stands_alone() {
        let mut both = headers(&CACHE_CONTROL, &["private, max-age=1"]);
        both.insert(CDN_CACHE_CONTROL, HeaderValue::from_static("max-age=60;x=1, public"));
        let read = Response::of(&both);
        assert!(!read.private && read.public && read.max_age == Some(60));
        // One that cannot be read does not count.
        both.insert(CDN_CACHE_CONTROL, HeaderValue::from_static("max-age=\"60"));
        assert!(Response::of(&both).private);
        both.insert(CDN_CACHE_CONTROL, HeaderValue::from_static(""));
        assert!(Response::of(&both).private);
    }

    #[test]
    fn what_a_request_says() {
        let of = |name: HeaderName, line| Request::of(&headers(&name, &[line]));
        assert!(of(PRAGMA, "no-cache").no_cache);
        assert_eq!(of(CACHE_CONTROL, "max-stale").max_stale, Some(u64::MAX));
        assert_eq!(of(CACHE_CONTROL, "max-stale=5, min-fresh=2").max_stale, Some(5));
        assert_eq!(of(CACHE_CONTROL, "max-stale=x").max_stale, Some(0));
        assert!(of(CACHE_CONTROL, "only-if-cached, no-store").only_if_cached);
        // Pragma is for those who know no Cache-Control.
        let mut both = headers(&CACHE_CONTROL, &["max-age=5"]);
        both.insert(PRAGMA, HeaderValue::from_static("no-cache"));
        assert!(!Request::of(&both).no_cache);
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in "[ -~]{0,60}") {
            let _ = response(&[&text]);
            let _ = Request::of(&headers(&CACHE_CONTROL, &[&text]));
        }

        #[test]
        fn a_directive_is_found_wherever_it_stands(before in "[a-z,= ]{0,20}", after in "[a-z,= ]{0,20}") {
            let read = response(&[&format!("{before},no-store,{after}")]);
            prop_assert!(read.no_store);
        }
    }
}
