//! A response as HTTP/1.1 bytes: which framing the client gets, and the lines of the head (RFC 9112 sections 4 to 7).

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};

use crate::header::hop_by_hop::{ConnectionOptions, is_hop_by_hop_response, listed_fields};
use crate::message::{ResponseHead, put_field};

/// How the end of a response body is shown to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// The head is all there is.
    None,
    /// That many bytes are still to be written.
    Length(u64),
    Chunked,
    /// The end of the connection is the end of the body (HTTP/1.0 clients).
    UntilClose,
}

impl Framing {
    /// The framing of `response` to a request with `method` of a client that speaks `version` (RFC 9112 section 6.3). None
    /// when its Content-Length is not a number.
    pub fn of(response: &ResponseHead, method: &Method, version: Version) -> Option<Self> {
        if method == Method::HEAD || has_no_body(response.status) {
            return Some(Self::None);
        }
        if let Some(length) = response.headers.get(header::CONTENT_LENGTH) {
            return length.to_str().ok()?.trim().parse().ok().map(Self::Length);
        }
        Some(if version == Version::HTTP_11 { Self::Chunked } else { Self::UntilClose })
    }

    /// Bytes of the body, as far as the head says how many.
    pub fn length(self) -> u64 {
        if let Self::Length(length) = self { length } else { 0 }
    }
}

fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// What the Connection field says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Persistence {
    Close,
    /// HTTP/1.1: nothing needs to be said.
    Keep,
    /// HTTP/1.0 needs it said.
    KeepSaid,
    /// It is a WebSocket from here on.
    Upgrade,
}

/// Appends the head to `out`.
pub(super) fn write_head(out: &mut BytesMut, response: &ResponseHead, framing: Framing, persistence: Persistence) {
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(response.status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(response.reason());
    out.put_slice(b"\r\n");
    let nominated = nominated(response);
    let skip_length = has_no_body(response.status) && response.status != StatusCode::NOT_MODIFIED;
    for (name, value) in response.fields() {
        let ends_here = is_hop_by_hop_response(name)
            || nominated.iter().any(|nominated| nominated.as_str().as_bytes().eq_ignore_ascii_case(name))
            || (skip_length && name.eq_ignore_ascii_case(b"content-length"));
        if !ends_here {
            put_field(out, name, value);
        }
    }
    if !response.headers.contains(header::DATE) {
        put_date(out);
    }
    if framing == Framing::Chunked {
        out.put_slice(b"Transfer-Encoding: chunked\r\n");
    }
    match persistence {
        Persistence::Close => out.put_slice(b"Connection: close\r\n"),
        Persistence::KeepSaid => out.put_slice(b"Connection: keep-alive\r\n"),
        Persistence::Upgrade => out.put_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        Persistence::Keep => {}
    }
    out.put_slice(b"\r\n");
}

/// Fields that the app's Connection field names beside the standard ones.
pub(super) fn nominated(response: &ResponseHead) -> Vec<HeaderName> {
    let values = || response.headers.get_all(header::CONNECTION).map(HeaderValue::as_bytes);
    if ConnectionOptions::parse(values()).others { listed_fields(values()).collect() } else { Vec::new() }
}

thread_local! {
    static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// `Date: …`
fn put_date(out: &mut BytesMut) {
    date(|date| put_field(out, b"Date", date.as_bytes()));
}

/// The date, formatted once a second on each thread (RFC 9110 section 5.6.7).
pub(super) fn date<T>(take: impl FnOnce(&str) -> T) -> T {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    DATE.with_borrow_mut(|(at, text)| {
        if *at != second {
            *text = httpdate::fmt_http_date(now);
            *at = second;
        }
        take(text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, fields: &[(&'static str, &'static str)]) -> ResponseHead {
        let mut response = ResponseHead::new(StatusCode::from_u16(status).unwrap(), 0);
        for (name, value) in fields {
            response.headers.append(http::HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        response
    }

    fn head(response: &ResponseHead, framing: Framing, persistence: Persistence) -> String {
        let mut out = BytesMut::new();
        write_head(&mut out, response, framing, persistence);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn fields_that_end_here_are_not_passed_on() {
        let response = response(
            200,
            &[
                ("connection", "close, X-Secret, Date"),
                ("keep-alive", "timeout=2"),
                ("transfer-encoding", "chunked"),
                ("x-secret", "1"),
                ("x-app", "1"),
                ("date", "then"),
            ],
        );
        assert_eq!(
            head(&response, Framing::Chunked, Persistence::Keep),
            "HTTP/1.1 200 OK\r\nx-app: 1\r\ndate: then\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
    }

    #[test]
    fn an_app_cannot_take_the_length_off_its_answer() {
        let response = response(200, &[("connection", "Content-Length, X-A"), ("content-length", "5"), ("x-a", "1")]);
        let head = head(&response, Framing::Length(5), Persistence::Keep);
        assert!(head.contains("content-length: 5\r\n") && !head.contains("x-a"), "{head}");
    }

    #[test]
    fn framing_by_method_status_and_version() {
        let plain = response(200, &[]);
        let counted = response(200, &[("content-length", "5")]);
        let of = |r: &ResponseHead, method: Method, version| Framing::of(r, &method, version);
        assert_eq!(of(&plain, Method::GET, Version::HTTP_11), Some(Framing::Chunked));
        assert_eq!(of(&plain, Method::GET, Version::HTTP_10), Some(Framing::UntilClose));
        assert_eq!(of(&counted, Method::GET, Version::HTTP_10), Some(Framing::Length(5)));
        assert_eq!(of(&counted, Method::HEAD, Version::HTTP_11), Some(Framing::None));
        assert_eq!(of(&response(204, &[]), Method::GET, Version::HTTP_11), Some(Framing::None));
        assert_eq!(of(&response(304, &[("content-length", "5")]), Method::GET, Version::HTTP_11), Some(Framing::None));
        assert_eq!(of(&response(200, &[("content-length", "x")]), Method::GET, Version::HTTP_11), None);
    }

    #[test]
    fn a_date_is_added_and_persistence_is_said() {
        let text = head(&response(204, &[("content-length", "0")]), Framing::None, Persistence::Close);
        assert!(text.contains("\r\nDate: "), "{text}");
        assert!(text.ends_with("\r\nConnection: close\r\n\r\n"), "{text}");
        assert!(!text.contains("content-length"), "{text}");
        assert!(
            head(&response(200, &[]), Framing::Length(0), Persistence::KeepSaid).contains("Connection: keep-alive\r\n")
        );
    }
}
