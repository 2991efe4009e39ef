//! A response's head: one meaning or none (RFC 9112 sections 4 to 6, RFC 9110 sections 5.5, 7.8 and 8.6).

use http::{HeaderName, HeaderValue};

use super::Malformed;
use crate::header::grammar::{is_text_byte, is_token_byte};

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

/// The server's 101: its fields without those that are the connection's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switched {
    pub fields: Vec<(HeaderName, HeaderValue)>,
}

/// How the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Another head follows.
    Interim,
    None,
    /// No body, and the head says that there is one.
    Forbidden,
    Length(u64),
    Chunked,
    UntilClose,
}

pub(super) struct Head {
    pub framing: Framing,
    pub switched: Option<Switched>,
}

/// Finds the end of a head as it arrives.
#[derive(Debug, Default)]
pub(super) struct Reader {
    scanned: usize,
    line_start: usize,
    lines: usize,
}

impl Reader {
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

/// Reads a whole head; every line is known to end with CRLF.
pub(super) fn read(head: &[u8], expected: Expected) -> Result<Head, Malformed> {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let (status, is_old) = status_line(lines.next().unwrap_or_default())?;
    let mut fields = Fields::default();
    for line in lines.take_while(|line| !line.is_empty()) {
        fields.take(line)?;
    }
    let switched = match status {
        101 if expected.upgrade && !is_old => Some(fields.switched(head)?),
        101 => return Err(Malformed("101 that nobody asked for")),
        _ => None,
    };
    Ok(Head { framing: fields.framing(status, is_old, expected)?, switched })
}

/// The status, and whether it is HTTP/1.0. The reason may be left out with the space before it, as many servers do.
fn status_line(line: &[u8]) -> Result<(u16, bool), Malformed> {
    let is_old = match line.get(..9) {
        Some(b"HTTP/1.1 ") => false,
        Some(b"HTTP/1.0 ") => true,
        _ => return Err(Malformed("no HTTP/1.x status line")),
    };
    let rest = line.get(9..).unwrap_or_default();
    let (Some(&[a @ b'1'..=b'5', b, c]), reason) = (rest.first_chunk::<3>(), rest.get(3..).unwrap_or_default()) else {
        return Err(Malformed("invalid status"));
    };
    if !b.is_ascii_digit() || !c.is_ascii_digit() {
        return Err(Malformed("invalid status"));
    }
    if !reason.is_empty() && (reason.first() != Some(&b' ') || !reason.iter().all(|byte| is_text_byte(*byte))) {
        return Err(Malformed("invalid reason phrase"));
    }
    let digit = |byte: u8| u16::from(byte - b'0');
    Ok((digit(a) * 100 + digit(b) * 10 + digit(c), is_old))
}

/// What the fields of a head say of its body, and of its connection.
#[derive(Debug, Default)]
struct Fields {
    length: Option<u64>,
    chunked: bool,
    says_upgrade: bool,
    protocols: usize,
    is_websocket: bool,
}

impl Fields {
    fn take(&mut self, line: &[u8]) -> Result<(), Malformed> {
        let colon = memchr::memchr(b':', line).ok_or(Malformed("field line without a colon"))?;
        let (name, value) = line.split_at_checked(colon).unwrap_or_default();
        let value = value.get(1..).unwrap_or_default();
        if name.is_empty() || !name.iter().all(|byte| is_token_byte(*byte)) {
            return Err(Malformed("invalid field name"));
        }
        if !value.iter().all(|byte| is_text_byte(*byte)) {
            return Err(Malformed("invalid field value"));
        }
        // Few names are looked at, and their lengths tell most apart.
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.protocols += 1;
                self.is_websocket = value.trim_ascii().eq_ignore_ascii_case(b"websocket");
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                let mut options = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                self.says_upgrade |= options.any(|option| option.eq_ignore_ascii_case(b"upgrade"));
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => self.take_length(value)?,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed("Transfer-Encoding other than chunked"));
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// The same number may be said several times (RFC 9110 section 8.6): it goes on once.
    fn take_length(&mut self, value: &[u8]) -> Result<(), Malformed> {
        for value in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
            let length = length.ok_or(Malformed("invalid Content-Length"))?;
            if self.length.is_some_and(|earlier| earlier != length) {
                return Err(Malformed("several Content-Lengths"));
            }
            self.length = Some(length);
        }
        Ok(())
    }

    /// RFC 9112 section 6.3, without the tolerance for both.
    fn framing(&self, status: u16, is_old: bool, expected: Expected) -> Result<Framing, Malformed> {
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
            (..200, _) => Framing::Interim,
            _ if expected.head_only => Framing::None,
            // A 304 may say how long the response would be that it stands for (RFC 9110 section 8.6).
            (204, Some(1..)) => Framing::Forbidden,
            (204 | 304, _) if self.chunked => Framing::Forbidden,
            (204 | 304, _) => Framing::None,
            _ if self.chunked => Framing::Chunked,
            (_, Some(length)) => Framing::Length(length),
            (_, None) => Framing::UntilClose,
        })
    }

    fn switched(&self, head: &[u8]) -> Result<Switched, Malformed> {
        if !self.says_upgrade || self.protocols != 1 || !self.is_websocket {
            return Err(Malformed("101 to another protocol than was asked for"));
        }
        if self.chunked || self.length.is_some_and(|length| length > 0) {
            return Err(Malformed("101 with a body"));
        }
        let mut fields = Vec::new();
        for line in head.split(|byte| *byte == b'\n').skip(1) {
            let Some(colon) = memchr::memchr(b':', line) else { continue };
            let (name, value) = line.split_at_checked(colon).unwrap_or_default();
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else {
                return Err(Malformed("invalid field"));
            };
            fields.push((name, value));
        }
        Ok(Switched { fields })
    }
}
