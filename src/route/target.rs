//! Judges a request target once, and gives its path as the app will see it (RFC 9112 section 3.2.1, RFC 3986 section 3.3).
//!
//! Python servers percent-decode the path once, `%2F` included, and keep dot segments and `//`. Routes therefore match the
//! path decoded once. A dot segment is refused rather than resolved: the app would not resolve it, so any answer of ours
//! about which route it belongs to would be a guess. `//` is read as `/`, for matching only: the bytes sent on stay the
//! client's. Absolute-form, `*` and CONNECT are the head parser's business; limits of length too.
//!
//! RFC 3986 allows none of ``"<>^`{|}[]`` in a path or query. Browsers and command-line clients send several of them as
//! they are, and every server behind reads them as they stand, so they pass (``"<>` `` percent-encoded, which the head
//! parser sees to). What is refused are the bytes that some parser gives a second meaning.

use std::borrow::Cow;
use std::fmt;

/// Why a target is answered 400. `Display` is one plain phrase, safe to log: it holds nothing the client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetError {
    Empty,
    /// The path does not start with `/`.
    NotAbsolute,
    /// A raw byte below 0x20, or DEL.
    Control,
    Space,
    NonAscii,
    /// `#`: a fragment is never sent, and parsers disagree on what one means.
    Fragment,
    /// A raw `\`, in the path: some parsers read it as `/`. As `%5C` it is an ordinary byte.
    Backslash,
    /// `?` within what was handed over as a path; [`split_query`] never leaves one.
    QuestionMark,
    /// `%` without two hexadecimal digits behind it, in the path.
    InvalidPercent,
    /// `%00`
    EncodedNul,
    /// `%0D` or `%0A`: decoded into `PATH_INFO`, they split log lines and fields an app makes of its path.
    EncodedLineBreak,
    /// A segment that is `.` or `..` once decoded, also where `%2F` made the slash.
    DotSegment,
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty target",
            Self::NotAbsolute => "path does not start with a slash",
            Self::Control => "control byte in target",
            Self::Space => "space in target",
            Self::NonAscii => "byte outside ASCII in target",
            Self::Fragment => "fragment in target",
            Self::Backslash => "backslash in path",
            Self::QuestionMark => "question mark in path",
            Self::InvalidPercent => "invalid percent-encoding in path",
            Self::EncodedNul => "encoded NUL in path",
            Self::EncodedLineBreak => "encoded line break in path",
            Self::DotSegment => "dot segment in path",
        })
    }
}

impl std::error::Error for TargetError {}

/// Whether authorities look here for proof that we are who we say (RFC 8555 section 8.3): over plain HTTP.
#[must_use]
pub fn is_acme_challenge(path: &[u8]) -> bool {
    path.starts_with(b"/.well-known/acme-challenge/")
}

/// Splits an origin-form target at its first `?` into the path and, if there is one, the query without its `?`.
#[must_use]
pub fn split_query(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'?', target).and_then(|at| target.split_at_checked(at)) {
        Some((path, query)) => (path, query.get(1..)),
        None => (target, None),
    }
}

/// Gives the path for matching: percent-decoded once, every run of slashes read as one.
///
/// Takes the raw path, without the query. The answer starts with `/`, holds no `//`, no dot segment, no NUL, CR or LF; it
/// may hold any other byte, UTF-8 or not. Allocates only where decoding changes something.
///
/// # Errors
/// Every [`TargetError`]; the request is answered 400.
pub fn decode_path(raw: &[u8]) -> Result<Cow<'_, [u8]>, TargetError> {
    match raw.first() {
        None => return Err(TargetError::Empty),
        Some(b'/') => {}
        Some(_) => return Err(TargetError::NotAbsolute),
    }
    let (mut changes, mut dots) = (false, false);
    let mut previous = 0;
    for &byte in raw {
        check_byte(byte)?;
        match byte {
            b'\\' => return Err(TargetError::Backslash),
            b'?' => return Err(TargetError::QuestionMark),
            b'%' => changes = true,
            b'/' if previous == b'/' => changes = true,
            b'.' if previous == b'/' => dots = true,
            _ => {}
        }
        previous = byte;
    }
    let path = if changes { Cow::Owned(decode_all(raw)?) } else { Cow::Borrowed(raw) };
    if (dots || changes) && has_dot_segment(&path) {
        return Err(TargetError::DotSegment);
    }
    Ok(path)
}

/// Judges a raw query, without its `?`.
///
/// Percent-encoding is not looked at: apps get the query raw, and forms in the wild hold a bare `%`. A backslash passes
/// too, browsers send it as it is.
///
/// # Errors
/// [`TargetError::Control`], [`TargetError::Space`], [`TargetError::NonAscii`], [`TargetError::Fragment`].
pub fn check_query(raw: &[u8]) -> Result<(), TargetError> {
    raw.iter().try_for_each(|&byte| check_byte(byte))
}

/// Takes a decoded prefix off a raw path: as many raw bytes go as the prefix came from.
///
/// `raw` is a path that [`decode_path`] accepted, `decoded_prefix` is `Route::strip_prefix` (starts with `/`, does not end
/// with one). The rest starts with `/` or is empty, and then `/` is what to send. None where the raw bytes do not line up
/// with the prefix, above all where the slash behind it is written `%2F`: the request is answered 400. What follows the
/// prefix is the client's, a run of slashes included.
#[must_use]
pub fn strip_prefix_raw<'a>(raw: &'a [u8], decoded_prefix: &str) -> Option<&'a [u8]> {
    let mut rest = raw;
    let mut previous = 0;
    for &wanted in decoded_prefix.as_bytes() {
        loop {
            let (byte, behind) = next_decoded(rest).ok()??;
            if byte == b'/' && previous == b'/' && wanted != b'/' {
                rest = behind;
                continue;
            }
            if byte != wanted {
                return None;
            }
            (rest, previous) = (behind, byte);
            break;
        }
    }
    matches!(rest.first(), None | Some(b'/')).then_some(rest)
}

/// Refuses what neither a path nor a query may hold raw.
fn check_byte(byte: u8) -> Result<(), TargetError> {
    match byte {
        b'#' => Err(TargetError::Fragment),
        b'!'..=b'~' => Ok(()),
        b' ' => Err(TargetError::Space),
        0x80.. => Err(TargetError::NonAscii),
        _ => Err(TargetError::Control),
    }
}

fn decode_all(raw: &[u8]) -> Result<Vec<u8>, TargetError> {
    let mut path = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((byte, behind)) = next_decoded(rest)? {
        rest = behind;
        match byte {
            0 => return Err(TargetError::EncodedNul),
            b'\r' | b'\n' => return Err(TargetError::EncodedLineBreak),
            b'/' if path.last() == Some(&b'/') => {}
            _ => path.push(byte),
        }
    }
    Ok(path)
}

/// Takes a whole `http` or `https` URL apart, as an operator writes it: whether it is `https`, its authority, and its target, which begins
/// with a slash. A fragment is left out. None where it is no such URL.
#[must_use]
pub fn split_url(url: &str) -> Option<(bool, &str, Cow<'_, str>)> {
    let (scheme, rest) = url.split_once("://")?;
    let https = scheme.eq_ignore_ascii_case("https");
    if !https && !scheme.eq_ignore_ascii_case("http") {
        return None;
    }
    let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let target = target.split('#').next().unwrap_or_default();
    let target = if target.starts_with('/') { Cow::Borrowed(target) } else { Cow::Owned(format!("/{target}")) };
    Some((https, authority, target))
}

/// Takes percent-encoding off a value of a query, whatever bytes come out. None where it is broken.
#[must_use]
pub fn decode_value(raw: &[u8]) -> Option<Vec<u8>> {
    let (mut value, mut rest) = (Vec::with_capacity(raw.len()), raw);
    while let Some((byte, behind)) = next_decoded(rest).ok()? {
        value.push(byte);
        rest = behind;
    }
    Some(value)
}

/// The first decoded byte, and the raw bytes behind those it came from.
fn next_decoded(raw: &[u8]) -> Result<Option<(u8, &[u8])>, TargetError> {
    match raw {
        [] => Ok(None),
        [b'%', high, low, rest @ ..] => match (hex(*high), hex(*low)) {
            (Some(high), Some(low)) => Ok(Some((high << 4 | low, rest))),
            _ => Err(TargetError::InvalidPercent),
        },
        [b'%', ..] => Err(TargetError::InvalidPercent),
        [byte, rest @ ..] => Ok(Some((*byte, rest))),
    }
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn has_dot_segment(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').any(|segment| matches!(segment, b"." | b".."))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(raw: &str) -> Result<String, TargetError> {
        decode_path(raw.as_bytes()).map(|path| String::from_utf8_lossy(&path).into_owned())
    }

    #[test]
    fn decodes_once_and_merges_slashes() {
        for (raw, path) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("//a///b//", "/a/b/"),
            ("/%61", "/a"),
            ("/a%2Fb", "/a/b"),
            ("/a%2f/%2Fb", "/a/b"),
            ("/%252e%252e/", "/%2e%2e/"),
            ("/%5C", "/\\"),
            ("/a%3Fb%23", "/a?b#"),
            ("/.well-known/a..b/...", "/.well-known/a..b/..."),
            ("/a|b{c}[d]^`\"<>", "/a|b{c}[d]^`\"<>"),
            ("/%C3%A9", "/é"),
            ("/*;v=1", "/*;v=1"),
        ] {
            assert_eq!(decoded(raw).as_deref(), Ok(path), "{raw}");
        }
    }

    #[test]
    fn refuses() {
        use TargetError::*;
        for (raw, error) in [
            ("", Empty),
            ("a", NotAbsolute),
            ("*", NotAbsolute),
            ("%2Fa", NotAbsolute),
            ("/\t", Control),
            ("/\u{7f}", Control),
            ("/a b", Space),
            ("/é", NonAscii),
            ("/a#b", Fragment),
            ("/a\\b", Backslash),
            ("/a?b", QuestionMark),
            ("/%", InvalidPercent),
            ("/%4", InvalidPercent),
            ("/%4g", InvalidPercent),
            ("/%+1", InvalidPercent),
            ("/a%00", EncodedNul),
            ("/a%0d", EncodedLineBreak),
            ("/a%0A", EncodedLineBreak),
            ("/.", DotSegment),
            ("/a/..", DotSegment),
            ("/a/./b", DotSegment),
            ("/a/%2e%2E/b", DotSegment),
            ("/a/.%2e", DotSegment),
            ("/a%2F..%2Fb", DotSegment),
            ("/a//../b", DotSegment),
        ] {
            assert_eq!(decoded(raw), Err(error), "{raw}");
        }
    }

    #[test]
    fn borrows_what_needs_no_change() {
        for raw in ["/", "/a/b.css", "/.well-known/x", "/a/"] {
            assert!(matches!(decode_path(raw.as_bytes()), Ok(Cow::Borrowed(_))), "{raw}");
        }
    }

    #[test]
    fn queries() {
        assert_eq!(split_query(b"/a?b?c"), (&b"/a"[..], Some(&b"b?c"[..])));
        assert_eq!(split_query(b"/a?"), (&b"/a"[..], Some(&b""[..])));
        assert_eq!(split_query(b"/a"), (&b"/a"[..], None));
        assert_eq!(check_query(b"a=100%&b=%zz\\|{}[]\"?/../"), Ok(()));
        assert_eq!(check_query(b"a b"), Err(TargetError::Space));
        assert_eq!(check_query(b"a\0"), Err(TargetError::Control));
        assert_eq!(check_query(b"a\x7f"), Err(TargetError::Control));
        assert_eq!(check_query(b"\xff"), Err(TargetError::NonAscii));
        assert_eq!(check_query(b"#"), Err(TargetError::Fragment));
    }

    #[test]
    fn strips_the_bytes_the_prefix_came_from() {
        for (raw, prefix, rest) in [
            ("/api/x", "/api", Some("/x")),
            ("/api", "/api", Some("")),
            ("/api/", "/api", Some("/")),
            ("//api//x", "/api", Some("//x")),
            ("/%61p%69/x%2Fy", "/api", Some("/x%2Fy")),
            ("/a%2Fb/c", "/a/b", Some("/c")),
            ("/a/%2Fb/c", "/a/b", Some("/c")),
            ("/api%2Fx", "/api", None),
            ("/apix", "/api", None),
            ("/ap", "/api", None),
            ("/%C3%A9/x", "/é", Some("/x")),
        ] {
            let got = strip_prefix_raw(raw.as_bytes(), prefix);
            assert_eq!(got, rest.map(str::as_bytes), "{raw} {prefix}");
        }
    }

    /// Paths made of the pieces that matter, most of them acceptable.
    fn raw_path() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "/", "a", "b", "%61", "%2F", "%2f", ".", "%2e", "%C3%A9", "%25", "%5c", "x", "|",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn never_panics_and_keeps_its_promise(raw in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(path) = decode_path(&raw) {
                prop_assert!(path.starts_with(b"/"));
                prop_assert!(!path.windows(2).any(|pair| pair == b"//"));
                prop_assert!(!path.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')));
                prop_assert!(!has_dot_segment(&path));
            }
            let _ = strip_prefix_raw(&raw, "/a");
        }

        #[test]
        fn encoding_every_byte_changes_nothing(raw in raw_path()) {
            if let Ok(path) = decode_path(raw.as_bytes()) {
                let encoded: Vec<_> = path.iter().skip(1).map(|byte| format!("%{byte:02x}")).collect();
                let encoded = format!("/{}", encoded.concat());
                let again = decode_path(encoded.as_bytes());
                prop_assert_eq!(again.as_deref(), Ok(&*path));
            }
        }

        #[test]
        fn the_rest_decodes_to_the_decoded_path_less_the_prefix(
            raw in raw_path(),
            prefix in prop::sample::select(vec!["/a", "/a/b", "/b", "/é", "/a/a", "/x/."]),
        ) {
            let Ok(path) = decode_path(raw.as_bytes()) else { return Ok(()) };
            let behind = path.strip_prefix(prefix.as_bytes());
            match strip_prefix_raw(raw.as_bytes(), prefix) {
                Some(b"") => prop_assert_eq!(behind, Some(&b""[..])),
                Some(rest) => {
                    let rest = decode_path(rest);
                    prop_assert_eq!(rest.as_deref().ok(), behind);
                }
                // Refused only where the prefix is not there, or its end is no raw slash.
                None => prop_assert!(
                    behind.is_none_or(|behind| !behind.starts_with(b"/") || raw.to_ascii_lowercase().contains("%2f"))
                ),
            }
        }
    }
}
