//! The bytes that names and values are made of, in requests and in responses.

/// A byte of a token, such as a field's name (RFC 9110 section 5.6.2).
#[must_use]
pub fn is_token_byte(byte: u8) -> bool {
    TOKEN_BYTES.get(usize::from(byte)).copied().unwrap_or_default()
}

/// Which bytes those are: a table, since every name of every message is looked at byte by byte.
static TOKEN_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        #[allow(clippy::cast_possible_truncation, clippy::indexing_slicing)] // Below the length of the table.
        {
            table[byte] = matches!(
                byte as u8,
                b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.'
                    | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        }
        byte += 1;
    }
    table
};

/// A byte of a field's value: visible, space, tab, or beyond ASCII (RFC 9110 section 5.5).
#[must_use]
pub fn is_text_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// Without the white space around it: spaces and tabs, nothing else (OWS, RFC 9110 section 5.6.3).
#[must_use]
pub fn trim_space(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}
