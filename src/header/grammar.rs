//! The bytes that names and values are made of, in requests and in responses.

/// A byte of a token, such as a field's name (RFC 9110 section 5.6.2).
#[must_use]
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A byte of a field's value: visible, space, tab, or beyond ASCII (RFC 9110 section 5.5).
#[must_use]
pub fn is_text_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
