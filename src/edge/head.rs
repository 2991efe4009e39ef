//! The strict reading of a request head (RFC 9112 sections 2, 3, 5 and 6): one meaning or none.
//!
//! Pure over a buffer: [`HeadReader::read`] is called after each read of the socket until the head is whole, broken or too
//! large. Fields that must not reach the app are dropped here, where each is looked at once; what is done with the rest is
//! `proxy`'s.

mod fields;

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderValue, Method, Version};

pub(super) use fields::{Fields, joined_cookies};

use crate::config::model::ClientLimits;
use crate::framing::BodyReader;
use crate::header::grammar::is_token_byte;
use crate::header::request_hygiene::FieldKind;
use crate::message::{Lines, RequestHead};
use crate::proxy::rejection::{Reason, Rejection};

/// Longer methods do not exist (the registry's longest has 17 bytes).
const METHOD_MAX: usize = 32;

/// Fields that are added on the way to the app, about.
pub(super) const FIELDS_OURS: usize = 10;

/// A head with exactly one meaning.
#[derive(Debug)]
pub struct Head {
    /// The request as it may go to the app: hop-by-hop, forwarding and ill-named fields are gone, Host is the one that counts.
    pub request: RequestHead,
    /// The request target as received.
    pub target: Bytes,
    /// Host of an absolute-form target, else of the Host field; none in HTTP/1.0 without one.
    pub host: Option<HeaderValue>,
    pub body: BodyReader,
    /// Whether the client wants the connection kept.
    pub keep_alive: bool,
    /// `Expect: 100-continue` of an HTTP/1.1 client with a body.
    pub expects_continue: bool,
    /// A WebSocket is asked for (RFC 6455 section 4.1), in every way that matters.
    pub upgrade: bool,
    /// Forwarding fields as received, in order, for whoever may believe them.
    pub claims: Vec<(FieldKind, HeaderValue)>,
    pub dropped: Dropped,
    pub size: HeadSize,
}

/// How many fields were not passed on, by why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Names with other bytes than letters, digits and `-`.
    pub name: u32,
    /// Fields that only a proxy may set.
    pub spoofable: u32,
}

/// What the limits of the server behind are compared with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeadSize {
    /// Bytes of the request line without CRLF, as it goes on.
    pub request_line: usize,
    /// Bytes of the longest field line without CRLF.
    pub longest_field: usize,
    /// Field lines.
    pub fields: usize,
}

/// How much a head may be; see `[server.client]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    pub request_line_max: usize,
    pub header_max: usize,
    pub field_max: usize,
    pub headers_max: usize,
}

impl From<&ClientLimits> for HeadLimits {
    fn from(client: &ClientLimits) -> Self {
        Self {
            request_line_max: client.request_line_max,
            header_max: client.header_max,
            field_max: client.field_max,
            headers_max: client.headers_max,
        }
    }
}

/// Finds the end of a head as it arrives. One for each head.
#[derive(Debug, Default)]
pub struct HeadReader {
    /// The one empty line before the head was there.
    skipped: bool,
    scanned: usize,
    line_start: usize,
    lines: usize,
    longest_field: usize,
    request_line: usize,
}

impl HeadReader {
    /// Looks at what has arrived; takes the head out of `buf` when it is whole. None: read more.
    ///
    /// # Errors
    /// The rejection to answer with; the connection ends after each of them.
    pub fn read(&mut self, buf: &mut BytesMut, limits: &HeadLimits) -> Result<Option<Head>, Rejection> {
        let Some(end) = self.find_end(buf, limits)? else { return Ok(None) };
        let head = buf.split_to(end).freeze();
        let size = HeadSize {
            request_line: self.request_line,
            longest_field: self.longest_field,
            fields: self.lines.saturating_sub(1),
        };
        parse(&head, size).map(Some)
    }

    /// The length of the head with its empty line. Every line must end with CRLF and respect its limit, whether or not
    /// the rest is there.
    fn find_end(&mut self, buf: &mut BytesMut, limits: &HeadLimits) -> Result<Option<usize>, Rejection> {
        self.skip_empty_line(buf);
        while let Some(found) = memchr::memchr(b'\n', buf.get(self.scanned..).unwrap_or_default()) {
            let lf = self.scanned + found;
            self.scanned = lf + 1;
            let Some(length) = lf.checked_sub(self.line_start + 1).filter(|_| buf.get(lf - 1) == Some(&b'\r')) else {
                return Err(malformed("line feed without carriage return"));
            };
            if length == 0 {
                if self.lines == 0 {
                    return Err(malformed("empty request line"));
                }
                self.check_size(lf + 1, limits)?;
                return Ok(Some(lf + 1));
            }
            self.check_line(length, limits)?;
            self.line_start = lf + 1;
            self.lines += 1;
            if self.lines > limits.headers_max + 1 {
                return Err(too_large(format!("more than {} fields", limits.headers_max)));
            }
        }
        self.scanned = buf.len();
        // A line that is not whole yet may still get its CR.
        self.check_line(buf.len().saturating_sub(self.line_start + 1), limits)?;
        self.check_size(buf.len(), limits)?;
        Ok(None)
    }

    /// One empty line before a request is an old client's mistake that RFC 9112 section 2.2 asks to overlook. It may come
    /// long before the request does, or its two bytes apart.
    fn skip_empty_line(&mut self, buf: &mut BytesMut) {
        if self.lines == 0 && !self.skipped && buf.starts_with(b"\r\n") {
            buf.advance(2);
            self.scanned = 0;
            self.skipped = true;
        }
    }

    fn check_line(&mut self, length: usize, limits: &HeadLimits) -> Result<(), Rejection> {
        if self.lines == 0 {
            self.request_line = length;
            if length > limits.request_line_max {
                let detail = format!("request line longer than {} bytes", limits.request_line_max);
                return Err(Rejection::new(Reason::RequestLineTooLong, detail));
            }
        } else {
            self.longest_field = self.longest_field.max(length);
            if length > limits.field_max {
                return Err(too_large(format!("field longer than {} bytes", limits.field_max)));
            }
        }
        Ok(())
    }

    fn check_size(&self, size: usize, limits: &HeadLimits) -> Result<(), Rejection> {
        if size > limits.header_max && self.lines > 0 {
            return Err(too_large(format!("head larger than {} bytes", limits.header_max)));
        }
        Ok(())
    }
}

pub(super) fn malformed(detail: &'static str) -> Rejection {
    Rejection::new(Reason::MalformedHead, detail)
}

fn framing(detail: &'static str) -> Rejection {
    Rejection::new(Reason::BadFraming, detail)
}

pub(super) fn bad_host(detail: &'static str) -> Rejection {
    Rejection::new(Reason::BadHost, detail)
}

pub(super) fn too_large(detail: String) -> Rejection {
    Rejection::new(Reason::HeadTooLarge, detail)
}

/// Reads a whole head, its empty line included; every line is known to end with CRLF.
fn parse(head: &Bytes, size: HeadSize) -> Result<Head, Rejection> {
    let mut lines = Lines::of(head);
    let request_line = lines.next().unwrap_or_default();
    let (method, target, version) = parse_request_line(request_line)?;
    let (path, authority) = parse_target(&method, target)?;
    let path = if path.is_empty() { b"/".as_slice() } else { path };
    let escaped = escape(path);
    let size = HeadSize { request_line: size.request_line + escaped.len() - path.len(), ..size };
    let target_on = match &escaped {
        Cow::Borrowed(path) if path.len() == 1 => Bytes::from_static(if *path == b"*" { b"*" } else { b"/" }),
        Cow::Borrowed(path) => head.slice_ref(path),
        Cow::Owned(escaped) => Bytes::copy_from_slice(escaped),
    };
    let request = RequestHead::new(method, target_on, version, size.fields + FIELDS_OURS);
    let mut fields = Fields::new(request, authority.map(<[u8]>::to_vec));
    for line in lines.take_while(|line| !line.is_empty()) {
        fields.take(head, line)?;
    }
    fields.finish(head.slice_ref(target), size)
}

fn parse_request_line(line: &[u8]) -> Result<(Method, &[u8], Version), Rejection> {
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed("request line is not method, target and version"));
    };
    if method.is_empty() || method.len() > METHOD_MAX || !method.iter().all(|b| is_token_byte(*b)) {
        return Err(malformed("invalid method"));
    }
    check_method(method)?;
    let method = Method::from_bytes(method).map_err(|_| malformed("invalid method"))?;
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            return Err(Rejection::from(Reason::VersionNotSupported));
        }
        _ => return Err(malformed("invalid HTTP version")),
    };
    Ok((method, target, version))
}

/// Methods tell case (RFC 9110 section 9.1), and many apps do not: to them `delete` is DELETE, to a route it is something else. No
/// method in use has a small letter.
pub(super) fn check_method(method: &[u8]) -> Result<(), Rejection> {
    if method.iter().any(u8::is_ascii_lowercase) { Err(malformed("method in small letters")) } else { Ok(()) }
}

/// Path with query, and the authority of an absolute-form target (RFC 9112 section 3.2).
pub(super) fn parse_target<'a>(method: &Method, target: &'a [u8]) -> Result<(&'a [u8], Option<&'a [u8]>), Rejection> {
    let bad = |detail| Rejection::new(Reason::BadTarget, detail);
    if *method == Method::CONNECT {
        return Err(Rejection::new(Reason::MethodNotAllowed, "CONNECT"));
    }
    if let Some(byte) = target.iter().find(|b| **b <= b' ' || **b >= 0x7f) {
        return Err(bad(if *byte >= 0x7f { "byte outside ASCII in target" } else { "control byte in target" }));
    }
    // A client keeps it to itself (RFC 9110 section 4.2.5): who sends one wants it read in two ways.
    if target.contains(&b'#') {
        return Err(bad("fragment in target"));
    }
    match target {
        [b'/', ..] => Ok((target, None)),
        b"*" if *method == Method::OPTIONS => Ok((target, None)),
        _ => {
            let rest = strip_scheme(target).ok_or_else(|| bad("target is neither a path nor a URL"))?;
            let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
            let (authority, path) = rest.split_at_checked(end).unwrap_or_default();
            match path.first() {
                None | Some(b'/') => Ok((path, Some(authority))),
                Some(_) => Err(bad("URL without a path")),
            }
        }
    }
}

/// Percent-encodes what RFC 3986 allows nowhere and clients send all the same. The app decodes it back;
/// every other byte stays the client's.
pub(super) fn escape(path: &[u8]) -> Cow<'_, [u8]> {
    if !path.iter().any(|byte| matches!(byte, b'"' | b'<' | b'>' | b'`')) {
        return Cow::Borrowed(path);
    }
    let mut escaped = Vec::with_capacity(path.len() + 16);
    for byte in path {
        match byte {
            b'"' => escaped.extend_from_slice(b"%22"),
            b'<' => escaped.extend_from_slice(b"%3C"),
            b'>' => escaped.extend_from_slice(b"%3E"),
            b'`' => escaped.extend_from_slice(b"%60"),
            other => escaped.push(*other),
        }
    }
    Cow::Owned(escaped)
}

fn strip_scheme(target: &[u8]) -> Option<&[u8]> {
    let starts = |scheme: &[u8]| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    [b"http://".as_slice(), b"https://"].into_iter().find(|scheme| starts(scheme)).and_then(|s| target.get(s.len()..))
}

#[cfg(test)]
mod tests;
