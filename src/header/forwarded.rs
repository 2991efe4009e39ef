//! Reads the field Forwarded from right to left (RFC 7239 section 4).
//!
//! From right to left because the right end is the nearest proxy's and the left end may be anyone's: an open quote in the
//! client's part must not swallow what proxies appended.

use std::net::IpAddr;

use super::client_address::parse_node;

/// One hop: what the proxy that added it says about its own client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Element<'a> {
    /// `for=`, if it is an address; "unknown" and "_hidden" are none.
    pub node: Option<IpAddr>,
    /// `proto=`
    pub proto: Option<&'a [u8]>,
    /// `host=`
    pub host: Option<&'a [u8]>,
}

/// The elements of one field line, rightmost first; None for one that cannot be read. Empty ones are left out.
pub(super) fn elements_from_right(line: &[u8]) -> impl Iterator<Item = Option<Element<'_>>> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        loop {
            let line = rest?;
            let Ok(start) = start_of_last(line) else {
                // Nothing left of an unreadable place can be told apart.
                rest = None;
                return Some(None);
            };
            rest = start.checked_sub(1).and_then(|comma| line.get(..comma));
            let element = line.get(start..).unwrap_or_default().trim_ascii();
            if !element.is_empty() {
                return Some(parse_element(element));
            }
        }
    })
}

/// A quoted string that does not begin.
struct Unquoted;

/// Where the last element of a line starts: behind its last comma outside quotes.
fn start_of_last(line: &[u8]) -> Result<usize, Unquoted> {
    let mut end = line.len();
    while let Some((&byte, before)) = line.get(..end).and_then(<[u8]>::split_last) {
        match byte {
            b',' => return Ok(end),
            b'"' => end = opening_quote(before).ok_or(Unquoted)?,
            _ => end = before.len(),
        }
    }
    Ok(0)
}

/// Where the quote stands that the one behind `text` closes: the last that no backslash escapes.
fn opening_quote(text: &[u8]) -> Option<usize> {
    let mut text = text;
    loop {
        let at = memchr::memrchr(b'"', text)?;
        text = text.get(..at)?;
        let backslashes = text.iter().rev().take_while(|&&byte| byte == b'\\').count();
        if backslashes % 2 == 0 {
            return Some(at);
        }
    }
}

/// Reads `name=value` pairs with `;` between them. None if one is malformed or a known name comes twice.
fn parse_element(element: &[u8]) -> Option<Element<'_>> {
    let mut parsed = Element::default();
    let mut seen_for = false;
    let mut rest = Some(element);
    while let Some(text) = rest {
        let (pair, behind) = split_pair(text);
        rest = behind;
        let pair = pair.trim_ascii();
        if pair.is_empty() {
            continue;
        }
        let equals = memchr::memchr(b'=', pair)?;
        let (name, value) = (pair.get(..equals)?, unquote(pair.get(equals + 1..)?)?);
        if name.eq_ignore_ascii_case(b"for") {
            if std::mem::replace(&mut seen_for, true) {
                return None;
            }
            parsed.node = parse_node(value);
        } else if name.eq_ignore_ascii_case(b"proto") {
            if parsed.proto.replace(value).is_some() {
                return None;
            }
        } else if name.eq_ignore_ascii_case(b"host") && parsed.host.replace(value).is_some() {
            return None;
        }
    }
    Some(parsed)
}

/// Splits at the first `;` outside quotes.
fn split_pair(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    let (mut quoted, mut escaped) = (false, false);
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b';' if !quoted => return (text.get(..at).unwrap_or_default(), text.get(at + 1..)),
            _ => {}
        }
    }
    (text, None)
}

/// Takes the quotes off. A value that needs its escapes undone keeps them: no address, scheme or host has any, so it is
/// then none of these.
fn unquote(value: &[u8]) -> Option<&[u8]> {
    match value {
        [b'"', inner @ .., b'"'] => Some(inner),
        [] => None,
        _ if value.contains(&b'"') => None,
        _ => Some(value),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(line: &str) -> Vec<Option<Element<'_>>> {
        elements_from_right(line.as_bytes()).collect()
    }

    fn node(text: &str) -> Element<'_> {
        Element { node: Some(text.parse().unwrap()), ..Element::default() }
    }

    #[test]
    fn reads_from_the_right() {
        let line =
            r#"for=192.0.2.43, For="[2001:db8:cafe::17]:4711";proto=https ; by=_x;Host="a.b:80", ,for=10.0.0.1:_p"#;
        let middle = Element { proto: Some(b"https"), host: Some(b"a.b:80"), ..node("2001:db8:cafe::17") };
        assert_eq!(read(line), [Some(node("10.0.0.1")), Some(middle), Some(node("192.0.2.43"))]);
        assert_eq!(read(""), []);
        assert_eq!(read(" , ,"), []);
    }

    #[test]
    fn quotes() {
        // Commas, semicolons and escaped quotes inside a quoted string divide nothing.
        let line = r#"for=1.1.1.1;x="a,\"b;for=2.2.2.2\\", for="3.3.3.3""#;
        assert_eq!(read(line), [Some(node("3.3.3.3")), Some(node("1.1.1.1"))]);
        // An open quote on the left swallows nothing.
        assert_eq!(read(r#"for="6.6.6.6, for=1.1.1.1"#), [Some(node("1.1.1.1")), None]);
        assert_eq!(read(r#"for=6.6.6.6", for="1.1.1.1""#)[0], Some(node("1.1.1.1")));
    }

    #[test]
    fn without_an_address() {
        for element in ["for=unknown", "for=_hidden", "proto=https", "for=\"1.1.1.1\\\"\""] {
            let read = read(element);
            assert!(read[0].is_none_or(|element| element.node.is_none()), "{element}");
        }
        for element in ["for", "for=", "for=1.1.1.1;for=2.2.2.2", "for=unknown;for=2.2.2.2", "proto=a;proto=b", "\""] {
            assert_eq!(read(element), [None], "{element}");
        }
    }

    proptest! {
        #[test]
        fn what_stands_left_changes_nothing(
            left in prop::collection::vec(prop::sample::select(b"\"\\,;=for1. ".to_vec()), 0..30),
            right in prop::sample::select(vec![
                "for=1.2.3.4", "for=\"[::1]:80\";proto=https", "for=1.2.3.4;x=\"a,\\\"b\"", "by=\"\\\\\";for=1.1.1.1",
            ]),
        ) {
            let line = [&left, b",".as_slice(), right.as_bytes()].concat();
            prop_assert_eq!(elements_from_right(&line).next(), Some(read(right)[0]));
        }

        #[test]
        fn any_bytes_end(line in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assert!(elements_from_right(&line).count() <= line.len());
        }
    }
}
