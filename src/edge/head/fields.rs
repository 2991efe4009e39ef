//! The fields of a head, each looked at once: what goes on to the app, what frames the body, what is kept for whoever may believe
//! it (RFC 9112 sections 5 and 6, RFC 9110 section 7).

use std::collections::HashSet;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Version, header};

use super::{Dropped, Head, HeadSize, bad_host, framing, malformed};
use crate::framing::BodyReader;
use crate::header::grammar::{is_token_byte, trim_space};
use crate::header::hop_by_hop::{ConnectionOptions, listed_fields};
use crate::header::request_hygiene::{FieldKind, classify};
use crate::headers::Headers;
use crate::message::RequestHead;
use crate::proxy::rejection::{Reason, Rejection};
use crate::route::host::Host;

/// What the fields of one head come to.
pub struct Fields {
    request: RequestHead,
    authority: Option<Vec<u8>>,
    host: Option<HeaderValue>,
    content_length: Option<u64>,
    chunked: bool,
    connection: Vec<HeaderValue>,
    /// Upgrade fields, and whether the last of them names WebSocket alone.
    upgrades: usize,
    to_websocket: bool,
    expects_continue: bool,
    claims: Vec<(FieldKind, HeaderValue)>,
    cookies: usize,
    dropped: Dropped,
}

impl Fields {
    /// Of a head whose first line was read; `authority` is that of the target.
    pub fn new(request: RequestHead, authority: Option<Vec<u8>>) -> Self {
        Self {
            request,
            authority,
            host: None,
            content_length: None,
            chunked: false,
            connection: Vec::new(),
            upgrades: 0,
            to_websocket: false,
            expects_continue: false,
            claims: Vec::new(),
            cookies: 0,
            dropped: Dropped::default(),
        }
    }

    pub(super) fn take(&mut self, head: &Bytes, line: &[u8]) -> Result<(), Rejection> {
        let colon = memchr::memchr(b':', line).ok_or_else(|| malformed("field line without a colon"))?;
        let (name, value) = line.split_at_checked(colon).unwrap_or_default();
        let value = trim_space(value.get(1..).unwrap_or_default());
        // Validates as RFC 9110 section 5.5: no control bytes but tab.
        let value =
            HeaderValue::from_maybe_shared(head.slice_ref(value)).map_err(|_| malformed("invalid field value"))?;
        self.field(name, value)
    }

    /// Takes one field in.
    pub fn field(&mut self, name: &[u8], value: HeaderValue) -> Result<(), Rejection> {
        match classify(name) {
            FieldKind::Keep | FieldKind::UserAgent | FieldKind::Referer => self.keep(name, value)?,
            FieldKind::Cookie => {
                self.cookies += 1;
                self.keep(name, value)?;
            }
            FieldKind::Single => {
                let name = field_name(name)?;
                if self.request.headers.contains(&name) {
                    return Err(malformed("a field that there is one of came twice"));
                }
                self.request.headers.append(name, value);
            }
            FieldKind::BadName => {
                if name.is_empty() || !name.iter().all(|b| is_token_byte(*b)) {
                    return Err(malformed("invalid field name"));
                }
                self.dropped.name += 1;
            }
            FieldKind::Host => {
                if self.host.replace(value).is_some() {
                    return Err(bad_host("more than one Host field"));
                }
            }
            FieldKind::ContentLength => self.take_content_length(value.as_bytes())?,
            FieldKind::TransferEncoding => self.take_transfer_encoding(value.as_bytes())?,
            FieldKind::Connection => self.connection.push(value),
            FieldKind::HopByHop => {}
            FieldKind::Upgrade => {
                self.upgrades += 1;
                self.to_websocket = value.as_bytes().eq_ignore_ascii_case(b"websocket");
            }
            FieldKind::Expect => {
                if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") {
                    return Err(Rejection::from(Reason::ExpectationFailed));
                }
                self.expects_continue = true;
            }
            kind @ (FieldKind::ForwardedFor
            | FieldKind::ForwardedProto
            | FieldKind::ForwardedHost
            | FieldKind::ForwardedPort
            | FieldKind::Forwarded
            | FieldKind::RequestId) => {
                self.claims.push((kind, value));
            }
            FieldKind::Spoofable => self.dropped.spoofable += 1,
        }
        Ok(())
    }

    fn keep(&mut self, name: &[u8], value: HeaderValue) -> Result<(), Rejection> {
        self.request.headers.append(field_name(name)?, value);
        Ok(())
    }

    /// Digits alone, once: of several, even equal ones, some servers take the first and some the last.
    fn take_content_length(&mut self, value: &[u8]) -> Result<(), Rejection> {
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let length = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
        let length = length.ok_or_else(|| framing("invalid Content-Length"))?;
        if self.content_length.replace(length).is_some() {
            return Err(framing("more than one Content-Length"));
        }
        Ok(())
    }

    fn take_transfer_encoding(&mut self, value: &[u8]) -> Result<(), Rejection> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(framing("Transfer-Encoding other than chunked"));
        }
        self.chunked = true;
        Ok(())
    }

    pub(super) fn finish(self, target: Bytes, size: HeadSize) -> Result<Head, Rejection> {
        let body = self.body(self.request.version)?;
        self.finish_with(body, target, size)
    }

    /// The length that Content-Length says.
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// The head, where it is known otherwise how the body is framed.
    pub fn finish_with(mut self, body: BodyReader, target: Bytes, size: HeadSize) -> Result<Head, Rejection> {
        let version = self.request.version;
        let host = self.effective_host(version)?;
        if let Some(host) = &host {
            self.keep(b"host", host.clone())?;
        }
        if let BodyReader::Length(length) = body {
            self.keep(b"content-length", HeaderValue::from(length))?;
        } else if self.content_length == Some(0) {
            self.keep(b"content-length", HeaderValue::from_static("0"))?;
        }
        if self.cookies > 1
            && let Some(joined) = joined_cookies(&self.request.headers)?
        {
            self.request.headers.insert(header::COOKIE, joined);
        }
        let keep_alive = self.apply_connection(version);
        // By what goes on: a field that Connection names does not.
        let upgrade = body.is_done() && self.asks_for_websocket(version);
        let expects_continue = self.expects_continue && version == Version::HTTP_11 && !body.is_done();
        Ok(Head {
            request: self.request,
            target,
            host,
            body,
            keep_alive,
            expects_continue,
            upgrade,
            claims: self.claims,
            dropped: self.dropped,
            size,
        })
    }

    /// RFC 9112 section 6.3, without the tolerance for both.
    fn body(&self, version: Version) -> Result<BodyReader, Rejection> {
        match (self.chunked, self.content_length) {
            (true, Some(_)) => Err(framing("both Transfer-Encoding and Content-Length")),
            (true, None) if version == Version::HTTP_10 => Err(framing("Transfer-Encoding in HTTP/1.0")),
            (true, None) => Ok(BodyReader::chunked()),
            (false, length) => Ok(BodyReader::length(length.unwrap_or(0))),
        }
    }

    /// The authority of an absolute-form target takes the place of Host (RFC 9112 section 3.2.2), which has to be one all the
    /// same (section 3.2). Whether the one that counts is a host is judged with the rest of the request.
    fn effective_host(&mut self, version: Version) -> Result<Option<HeaderValue>, Rejection> {
        match (self.authority.take(), self.host.take()) {
            (_, None) if version == Version::HTTP_11 => Err(bad_host("no Host field")),
            (Some(authority), host) => {
                if host.is_some_and(|host| Host::parse(host.as_bytes()).is_err()) {
                    return Err(bad_host("invalid Host field beside the authority of the target"));
                }
                let value = HeaderValue::from_bytes(&authority).map_err(|_| bad_host("invalid authority"))?;
                Ok(Some(value))
            }
            (None, host) => Ok(host),
        }
    }

    /// Whether the request is the opening handshake of a WebSocket. One that is not in every way is an ordinary request: what an app
    /// makes of half an upgrade is not for us to find out.
    fn asks_for_websocket(&self, version: Version) -> bool {
        if self.upgrades != 1 || !self.to_websocket || version != Version::HTTP_11 || self.request.method != Method::GET
        {
            return false;
        }
        let values = self.connection.iter().map(HeaderValue::as_bytes);
        let only = |name: &str| {
            let mut values = self.request.headers.get_all(name);
            values.next().filter(|_| values.next().is_none()).map(HeaderValue::as_bytes)
        };
        ConnectionOptions::parse(values).upgrade
            && only("sec-websocket-version") == Some(b"13")
            && only("sec-websocket-key").is_some_and(is_websocket_key)
    }

    /// Removes what Connection names, before any field of ours is added; whether the connection is kept (RFC 9112 section 9.3).
    fn apply_connection(&mut self, version: Version) -> bool {
        if self.connection.is_empty() {
            return version == Version::HTTP_11;
        }
        let values: Vec<&[u8]> = self.connection.iter().map(HeaderValue::as_bytes).collect();
        let options = ConnectionOptions::parse(values.iter().copied());
        if options.others {
            let listed: HashSet<HeaderName> = listed_fields(values.iter().copied()).collect();
            self.request.headers.retain(|name, _| !listed.contains(name));
        }
        !options.close && (version == Version::HTTP_11 || options.keep_alive)
    }
}

fn field_name(name: &[u8]) -> Result<HeaderName, Rejection> {
    HeaderName::from_bytes(name).map_err(|_| malformed("invalid field name"))
}

/// 16 bytes in base64 (RFC 6455 section 4.1).
fn is_websocket_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key.strip_suffix(b"==").is_some_and(|digits| digits.iter().all(is_digit))
}

/// The crumbs of a cookie as one field; none where there are not several. HTTP/2 sends them apart because they compress better so
/// (RFC 9113 section 8.2.3); of several fields an app would make one with commas, and lose all but the first.
pub fn joined_cookies(headers: &Headers) -> Result<Option<HeaderValue>, Rejection> {
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).map(HeaderValue::as_bytes).collect();
    if crumbs.len() < 2 {
        return Ok(None);
    }
    let joined = Bytes::from(crumbs.join(b"; ".as_slice()));
    HeaderValue::from_maybe_shared(joined).map(Some).map_err(|_| malformed("invalid field value"))
}
