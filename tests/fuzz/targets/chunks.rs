//! The chunked coding: it is read alike however it arrives, and as the grammar of RFC 9112 section 7.1 says.

use std::sync::LazyLock;

use bytes::BytesMut;
use propylon::framing::{BodyReader, Step};
use regex::bytes::Regex;

/// Bounds the gateway sets itself.
const LINE_MAX: usize = 256;
const EXTENSIONS_MAX: usize = 16 * 1024;
const TRAILERS_MAX: usize = 8 * 1024;

const TOKEN: &str = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
static SIZE_LINE: LazyLock<Regex> = LazyLock::new(|| {
    let quoted = r#""(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*""#;
    grammar(&format!("([0-9A-Fa-f]{{1,15}})((?:;{TOKEN}(?:=(?:{TOKEN}|{quoted}))?)*)"))
});
static TRAILER: LazyLock<Regex> = LazyLock::new(|| grammar(&format!(r"{TOKEN}:[\t\x20-\x7e\x80-\xff]*")));

fn grammar(text: &str) -> Regex {
    Regex::new(&format!("(?s-u)^(?:{text})$")).expect("a grammar")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// After so many bytes.
    Whole(usize),
    NeedsMore,
    Malformed,
}

/// Takes the bytes behind the head of a chunked request.
pub fn check(input: &[u8]) {
    let expected = reference(input);
    for piece in [usize::MAX, 1, 5] {
        let found = decode(input, piece);
        assert!(found == expected, "in pieces of {piece}: {found:?} instead of {expected:?}: {}", input.escape_ascii());
    }
    if let (body, End::Whole(length)) = expected {
        check_again(&body);
        let beyond = [&input[..length], b"5\r\nhello\r\n0\r\n\r\n"].concat();
        assert_eq!(decode(&beyond, usize::MAX), (body, End::Whole(length)), "what follows is looked at");
    }
}

/// Body and end, fed in pieces.
fn decode(input: &[u8], piece: usize) -> (Vec<u8>, End) {
    let mut reader = BodyReader::chunked();
    let (mut body, mut buf, mut fed) = (Vec::new(), BytesMut::new(), 0);
    for piece in input.chunks(piece.min(input.len().max(1))) {
        buf.extend_from_slice(piece);
        fed += piece.len();
        loop {
            let before = buf.len();
            match reader.step(&mut buf) {
                Ok(Step::Data(data)) => {
                    assert!(!data.is_empty() && before - buf.len() >= data.len());
                    body.extend_from_slice(&data);
                }
                Ok(Step::NeedMore) => break,
                Ok(Step::End) => {
                    let left = buf.clone();
                    assert!(reader.is_done() && reader.step(&mut buf) == Ok(Step::End) && buf == left);
                    return (body, End::Whole(fed - left.len()));
                }
                Err(_) => return (body, End::Malformed),
            }
        }
    }
    (body, End::NeedsMore)
}

/// What was decoded is decoded from any other chunks as well.
fn check_again(body: &[u8]) {
    let mut text = Vec::new();
    for chunk in body.chunks(3) {
        text.extend_from_slice(format!("{:X};a=\"\\\"\"\r\n", chunk.len()).as_bytes());
        text.extend_from_slice(chunk);
        text.extend_from_slice(b"\r\n");
        if text.len() > EXTENSIONS_MAX {
            return;
        }
    }
    text.extend_from_slice(b"000\r\nA: b\r\n\r\n");
    assert_eq!(decode(&text, 4), (body.to_vec(), End::Whole(text.len())));
}

/// The grammar, over all that is there.
fn reference(input: &[u8]) -> (Vec<u8>, End) {
    let mut body = Vec::new();
    let end = read_chunks(input, &mut body).unwrap_or_else(|end| end);
    (body, end)
}

fn read_chunks(input: &[u8], body: &mut Vec<u8>) -> Result<End, End> {
    let (mut at, mut extensions) = (0, 0);
    loop {
        let size_line = line(input, &mut at, LINE_MAX)?;
        let parts = SIZE_LINE.captures(size_line).ok_or(End::Malformed)?;
        let size = usize::from_str_radix(&String::from_utf8_lossy(&parts[1]), 16).map_err(|_| End::Malformed)?;
        extensions += parts[2].len();
        if extensions > EXTENSIONS_MAX {
            return Err(End::Malformed);
        }
        if size == 0 {
            return read_trailers(input, at);
        }
        let rest = &input[at..];
        let data = &rest[..size.min(rest.len())];
        body.extend_from_slice(data);
        extensions = extensions.saturating_sub(data.len());
        at += data.len();
        match &rest[data.len()..] {
            [b'\r', b'\n', ..] => at += 2,
            [] | [b'\r'] => return Err(End::NeedsMore),
            _ => return Err(End::Malformed),
        }
    }
}

fn read_trailers(input: &[u8], mut at: usize) -> Result<End, End> {
    let mut length = 0;
    loop {
        let trailer = line(input, &mut at, TRAILERS_MAX)?;
        length += trailer.len();
        if trailer.is_empty() {
            return Ok(End::Whole(at));
        }
        if length > TRAILERS_MAX || !TRAILER.is_match(trailer) {
            return Err(End::Malformed);
        }
    }
}

/// The line at `at`, which then is behind it. It ends with CRLF and has no more than `max` bytes.
fn line<'a>(input: &'a [u8], at: &mut usize, max: usize) -> Result<&'a [u8], End> {
    let rest = &input[*at..];
    match rest.iter().position(|byte| *byte == b'\n') {
        Some(lf) if lf > 0 && rest[lf - 1] == b'\r' && lf - 1 <= max => {
            *at += lf + 1;
            Ok(&rest[..lf - 1])
        }
        // The CR may be there already, the LF is still to come; where it is another byte nothing helps any more.
        None if rest.len() <= max + 1 && !rest[..rest.len().saturating_sub(1)].contains(&b'\r') => Err(End::NeedsMore),
        _ => Err(End::Malformed),
    }
}
