//! The lines of an HTTP/1.1 head, read strictly (RFC 9110 section 5, RFC 9112 sections 2 to 7). Pure; `wire` feeds it.

use super::message::{Broken, Fields};

/// How a message says where its body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    /// A response that ends with its connection.
    UntilClose,
}

/// A [`Broken::Malformed`] that says what is.
pub fn malformed<T>(what: impl Into<String>) -> Result<T, Broken> {
    Err(Broken::Malformed(what.into()))
}

/// RFC 9110 section 5.6.2.
pub fn is_token(text: &str) -> bool {
    let special = "!#$%&'*+-.^_`|~";
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || special.contains(c))
}

/// A line with its end taken off. Bytes become the characters of the same number (Latin-1), so none is lost.
pub fn strict_line(line: &[u8]) -> Result<String, Broken> {
    let Some(line) = line.strip_suffix(b"\r\n") else {
        return malformed(format!("a bare LF ends {:?}", String::from_utf8_lossy(line)));
    };
    if let Some(byte) = line.iter().find(|&&byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f) {
        return malformed(format!("byte {byte:#04x} in {:?}", String::from_utf8_lossy(line)));
    }
    Ok(line.iter().map(|&byte| char::from(byte)).collect())
}

/// A field line into name and value, white space around the value taken off.
pub fn parse_field(line: &str) -> Result<(String, String), Broken> {
    match line.split_once(':') {
        Some((name, value)) if is_token(name) => Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned())),
        _ => malformed(format!("field line {line:?}")),
    }
}

/// Hexadecimal digits alone: no sign, no extension.
pub fn parse_chunk_size(line: &str) -> Result<u64, Broken> {
    if line.is_empty() || !line.chars().all(|c| c.is_ascii_hexdigit()) {
        return malformed(format!("chunk size {line:?}"));
    }
    u64::from_str_radix(line, 16).or_else(|_| malformed(format!("chunk size {line:?}")))
}

/// The framing that the fields state (RFC 9112 section 6), with at most one statement of it.
pub fn stated_framing(fields: &Fields) -> Result<Option<Framing>, Broken> {
    let codings = fields.all("transfer-encoding");
    let lengths = fields.all("content-length");
    match (codings.as_slice(), lengths.as_slice()) {
        ([], []) => Ok(None),
        (["chunked"], []) => Ok(Some(Framing::Chunked)),
        ([], [length]) if length.chars().all(|c| c.is_ascii_digit()) => match length.parse() {
            Ok(length) => Ok(Some(Framing::Length(length))),
            Err(_) => malformed(format!("Content-Length {length:?}")),
        },
        _ => malformed(format!("Transfer-Encoding {codings:?} with Content-Length {lengths:?}")),
    }
}
