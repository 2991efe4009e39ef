//! A response's head: one meaning or none (RFC 9112 sections 4 to 6, RFC 9110 sections 5.5, 7.8 and 8.6).

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

use super::Malformed;
use crate::header::grammar::{is_text_byte, trim_space};
use crate::message::{Lines, ResponseHead};

/// Bytes of a head, and lines of it. What a client is given is bounded by them.
const HEAD_MAX: usize = 64 * 1024;
const LINES_MAX: usize = 250;

/// What was asked for, as far as it says how the response ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expected {
    /// The method was HEAD.
    pub head_only: bool,
    /// An upgrade to WebSocket.
    pub upgrade: bool,
}

/// How the response ends, or what follows in place of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Another head follows.
    Interim,
    /// Another protocol follows.
    Switched,
    None,
    /// No body, and the head says that there is one.
    Forbidden,
    Length(u64),
    Chunked,
    UntilClose,
}

pub(super) struct Head {
    pub response: Box<ResponseHead>,
    pub ending: Ending,
    /// Whether the connection is to be used again (RFC 9112 section 9.3).
    pub keeps: bool,
}

/// Finds the end of a head as it arrives.
#[derive(Debug, Default)]
pub(super) struct HeadReader {
    scanned: usize,
    line_start: usize,
    lines: usize,
}

impl HeadReader {
    /// How many fields a head has whose end was found.
    pub fn fields(&self) -> usize {
        self.lines.saturating_sub(1)
    }

    /// The length of the head with its empty line, once it is whole.
    pub fn find_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        while let Some(found) = memchr::memchr(b'\n', bytes.get(self.scanned..).unwrap_or_default()) {
            let lf = self.scanned + found;
            self.scanned = lf + 1;
            if lf == self.line_start || bytes.get(lf - 1) != Some(&b'\r') {
                return Err(Malformed("line feed without carriage return"));
            }
            if lf - 1 == self.line_start {
                return if self.lines == 0 { Err(Malformed("no status line")) } else { Ok(Some(lf + 1)) };
            }
            self.line_start = lf + 1;
            self.lines += 1;
            if self.lines > LINES_MAX {
                return Err(Malformed("too many fields"));
            }
        }
        self.scanned = bytes.len();
        if bytes.len() > HEAD_MAX { Err(Malformed("head too large")) } else { Ok(None) }
    }
}

/// Reads a whole head with so many fields; every line is known to end with CRLF.
pub(super) fn read(head: &Bytes, fields: usize, expected: Expected) -> Result<Head, Malformed> {
    let mut lines = Lines::of(head);
    let StatusLine { status, reason, is_old } = status_line(lines.next().unwrap_or_default())?;
    let mut response = ResponseHead::of(status, head.clone(), fields + FIELDS_OURS);
    if status.canonical_reason().map(str::as_bytes) != Some(reason) {
        response.reason = Some(head.slice_ref(reason));
    }
    let mut fields = Fields::default();
    for line in lines.take_while(|line| !line.is_empty()) {
        fields.take(head, line, &mut response)?;
    }
    let ending = fields.ending(status.as_u16(), is_old, expected)?;
    let keeps = !fields.says_close && (!is_old || (fields.says_keep_alive && !fields.chunked));
    Ok(Head { response: Box::new(response), ending, keeps })
}

/// Fields that are added on the way to the client, about.
const FIELDS_OURS: usize = 6;

struct StatusLine<'a> {
    status: StatusCode,
    reason: &'a [u8],
    /// HTTP/1.0.
    is_old: bool,
}

/// The reason may be left out with the space before it, as many servers do.
fn status_line(line: &[u8]) -> Result<StatusLine<'_>, Malformed> {
    let is_old = match line.get(..9) {
        Some(b"HTTP/1.1 ") => false,
        Some(b"HTTP/1.0 ") => true,
        _ => return Err(Malformed("no HTTP/1.x status line")),
    };
    let rest = line.get(9..).unwrap_or_default();
    let (digits, reason) = rest.split_at_checked(3).ok_or(Malformed("invalid status"))?;
    let status = StatusCode::from_bytes(digits).ok().filter(|status| status.as_u16() < 600);
    let status = status.ok_or(Malformed("invalid status"))?;
    let reason = match reason.split_first() {
        None => reason,
        Some((b' ', reason)) if reason.iter().all(|byte| is_text_byte(*byte)) => reason,
        Some(_) => return Err(Malformed("invalid reason phrase")),
    };
    Ok(StatusLine { status, reason, is_old })
}

/// What the fields of a head say of its body, and of its connection.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // Independent facts.
struct Fields {
    length: Option<u64>,
    chunked: bool,
    says_close: bool,
    says_keep_alive: bool,
    says_upgrade: bool,
    protocols: usize,
    is_websocket: bool,
}

impl Fields {
    /// Takes in one line of `head`, and adds it to the response.
    fn take(&mut self, head: &Bytes, line: &[u8], response: &mut ResponseHead) -> Result<(), Malformed> {
        let colon = memchr::memchr(b':', line).ok_or(Malformed("field line without a colon"))?;
        let (name, value) = line.split_at_checked(colon).unwrap_or_default();
        let value = trim_space(value.get(1..).unwrap_or_default());
        // Few names are looked at, and their lengths tell most apart.
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.protocols += 1;
                self.is_websocket = value.eq_ignore_ascii_case(b"websocket");
            }
            10 if name.eq_ignore_ascii_case(b"connection") => self.take_connection(value),
            14 if name.eq_ignore_ascii_case(b"content-length") => return self.take_length(head, line, response, value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed("Transfer-Encoding other than chunked"));
                }
                self.chunked = true;
            }
            _ => {}
        }
        append(head, name, value, response)
    }

    fn take_connection(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            self.says_close |= option.eq_ignore_ascii_case(b"close");
            self.says_keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            self.says_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
        }
    }

    /// The same number may be said several times (RFC 9110 section 8.6): it goes on once.
    fn take_length(
        &mut self,
        head: &Bytes,
        line: &[u8],
        response: &mut ResponseHead,
        value: &[u8],
    ) -> Result<(), Malformed> {
        let is_first = self.length.is_none();
        if !value.iter().all(|byte| is_text_byte(*byte)) {
            return Err(Malformed("invalid field value"));
        }
        let once = value.split(|byte| *byte == b',').next().map(trim_space).unwrap_or_default();
        for value in value.split(|byte| *byte == b',').map(trim_space) {
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
            let length = length.ok_or(Malformed("invalid Content-Length"))?;
            if self.length.is_some_and(|earlier| earlier != length) {
                return Err(Malformed("several Content-Lengths"));
            }
            self.length = Some(length);
        }
        let name = line.get(..b"content-length".len()).unwrap_or_default();
        if is_first { append(head, name, once, response) } else { Ok(()) }
    }

    /// RFC 9112 section 6.3, without the tolerance for both.
    fn ending(&self, status: u16, is_old: bool, expected: Expected) -> Result<Ending, Malformed> {
        if self.chunked && (self.length.is_some() || is_old) {
            return Err(Malformed(if is_old {
                "Transfer-Encoding in HTTP/1.0"
            } else {
                "both Transfer-Encoding and Content-Length"
            }));
        }
        if self.chunked && status < 200 {
            return Err(Malformed("Transfer-Encoding where there is no body"));
        }
        Ok(match (status, self.length) {
            (101, _) => self.switched(is_old, expected)?,
            (..200, _) => Ending::Interim,
            _ if expected.head_only => Ending::None,
            // A 304 may say how long the response would be that it stands for (RFC 9110 section 8.6).
            (204, Some(1..)) => Ending::Forbidden,
            (204 | 304, _) if self.chunked => Ending::Forbidden,
            (204 | 304, _) => Ending::None,
            _ if self.chunked => Ending::Chunked,
            (_, Some(length)) => Ending::Length(length),
            (_, None) => Ending::UntilClose,
        })
    }

    fn switched(&self, is_old: bool, expected: Expected) -> Result<Ending, Malformed> {
        if !expected.upgrade || is_old {
            return Err(Malformed("101 that nobody asked for"));
        }
        if !self.says_upgrade || self.protocols != 1 || !self.is_websocket {
            return Err(Malformed("101 to another protocol than was asked for"));
        }
        if self.length.is_some_and(|length| length > 0) {
            return Err(Malformed("101 with a body"));
        }
        Ok(Ending::Switched)
    }
}

/// Adds a field.
fn append(head: &Bytes, name: &[u8], value: &[u8], response: &mut ResponseHead) -> Result<(), Malformed> {
    // Refuses control bytes other than the tab.
    let value = HeaderValue::from_maybe_shared(head.slice_ref(value)).map_err(|_| Malformed("invalid field value"))?;
    let name = HeaderName::from_bytes(name).map_err(|_| Malformed("invalid field name"))?;
    response.headers.append(name, value);
    Ok(())
}
