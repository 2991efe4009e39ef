//! Bytes from the network inside a log line: whatever they are, they end neither the line nor the value they stand in, and
//! they do nothing to a terminal that shows them.

use std::io::Write as _;

use crate::observe::unprintable::is_unprintable;

/// Appends `bytes` as the inside of a JSON string (RFC 8259 section 7). What is no UTF-8 becomes U+FFFD; control characters,
/// C1 ones and those that break or turn around a line when it is shown are written as escapes, which lose nothing.
pub(super) fn json(bytes: &[u8], line: &mut Vec<u8>) {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    // Nearly every value is plain from end to end.
    if bytes.iter().all(plain) {
        line.extend_from_slice(bytes);
        return;
    }
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            json_character(character, line);
        }
        if !chunk.invalid().is_empty() {
            line.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn json_character(character: char, line: &mut Vec<u8>) {
    match character {
        '"' => line.extend_from_slice(b"\\\""),
        '\\' => line.extend_from_slice(b"\\\\"),
        '\n' => line.extend_from_slice(b"\\n"),
        '\r' => line.extend_from_slice(b"\\r"),
        '\t' => line.extend_from_slice(b"\\t"),
        // All of them lie below U+10000, so one escape holds each.
        other if is_unprintable(other) => drop(write!(line, "\\u{:04x}", u32::from(other))),
        other => line.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Appends `bytes` as the inside of a quoted value of the combined format: the quote, the backslash and everything that is not
/// printable ASCII as `\xNN`. Nothing at all becomes `-`.
pub(super) fn combined(bytes: &[u8], line: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if bytes.is_empty() {
        line.push(b'-');
    }
    for byte in bytes {
        match byte {
            b'"' | b'\\' | 0..=0x1f | 0x7f..=0xff => {
                let digit = |half: u8| HEX.get(usize::from(half)).copied().unwrap_or(b'0');
                line.extend_from_slice(&[b'\\', b'x', digit(byte >> 4), digit(byte & 0xf)]);
            }
            plain => line.push(*plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(escape: fn(&[u8], &mut Vec<u8>), bytes: &[u8]) -> String {
        let mut line = Vec::new();
        escape(bytes, &mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn json_escapes_what_could_do_harm() {
        assert_eq!(escaped(json, b"/a?b=c"), "/a?b=c");
        assert_eq!(escaped(json, b"a\"b\\c\r\n\t\0\x1b[2J\x7f"), r#"a\"b\\c\r\n\t\u0000\u001b[2J\u007f"#);
        assert_eq!(escaped(json, "ä\u{85}\u{9b}\u{2028}\u{202e}€😀".as_bytes()), "ä\\u0085\\u009b\\u2028\\u202e€😀");
        assert_eq!(escaped(json, b"a\xff\xfeb\xc3"), "a\u{fffd}\u{fffd}b\u{fffd}");
    }

    #[test]
    fn combined_is_plain_ascii() {
        assert_eq!(escaped(combined, b""), "-");
        assert_eq!(escaped(combined, b"a b"), "a b");
        assert_eq!(escaped(combined, b"\"\\\n\x00\x7f\xc3\xa4"), r"\x22\x5C\x0A\x00\x7F\xC3\xA4");
    }

    proptest! {
        #[test]
        fn any_bytes_are_one_json_string(bytes: Vec<u8>) {
            let text = escaped(json, &bytes);
            prop_assert!(!text.contains(is_unprintable));
            let read: String = serde_json::from_str(&format!("\"{text}\"")).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn any_bytes_stay_inside_the_quotes_of_combined(bytes: Vec<u8>) {
            let text = escaped(combined, &bytes);
            prop_assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"'));
        }
    }
}
