//! How a body is framed in HTTP/1.1, and its bytes taken out of the stream, of requests and of responses (RFC 9112 sections 6 and 7).
//!
//! Pure: it looks at a buffer and says what is in it. Sockets and deadlines belong to those who use it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::header::grammar::{is_text_byte, is_token_byte};

/// Bytes of one chunk-size line with its extensions.
const CHUNK_LINE_MAX: usize = 256;
/// Bytes of all chunk extensions of one body beyond those of the body itself: they carry nothing and are paid for by us.
const EXTENSIONS_MAX: usize = 16 * 1024;
/// Bytes of the trailer section.
const TRAILERS_MAX: usize = 8 * 1024;

/// What comes next out of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Body bytes, never empty.
    Data(Bytes),
    /// The buffer holds no whole piece: read more.
    NeedMore,
    /// The body is complete; what is left in the buffer is the next request.
    End,
}

/// A body that breaks the grammar; the text says what was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Where in the body the reader stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyReader {
    /// No body, or all of it was taken.
    Done,
    /// That many bytes are still to come.
    Length(u64),
    Chunked(Chunked),
}

/// The state of the chunked coding (RFC 9112 section 7.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunked {
    at: At,
    extensions: usize,
    trailers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    SizeLine,
    Data(u64),
    DataEnd,
    Trailers,
}

impl BodyReader {
    /// A body of `length` bytes.
    #[must_use]
    pub fn length(length: u64) -> Self {
        if length == 0 { Self::Done } else { Self::Length(length) }
    }

    /// A body in the chunked coding.
    #[must_use]
    pub fn chunked() -> Self {
        Self::Chunked(Chunked { at: At::SizeLine, extensions: 0, trailers: 0 })
    }

    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Takes the next piece out of `buf`.
    ///
    /// # Errors
    /// [`Malformed`], after which the rest of the stream has no meaning.
    pub fn step(&mut self, buf: &mut BytesMut) -> Result<Step, Malformed> {
        match self {
            Self::Done => Ok(Step::End),
            Self::Length(left) => {
                let Some(data) = take(buf, left) else { return Ok(Step::NeedMore) };
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Step::Data(data))
            }
            Self::Chunked(chunked) => {
                let step = chunked.step(buf)?;
                if step == Step::End {
                    *self = Self::Done;
                }
                Ok(step)
            }
        }
    }
}

/// Takes at most `left` bytes; none when the buffer is empty.
fn take(buf: &mut BytesMut, left: &mut u64) -> Option<Bytes> {
    if buf.is_empty() {
        return None;
    }
    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
    *left -= n as u64;
    Some(buf.split_to(n).freeze())
}

impl Chunked {
    fn step(&mut self, buf: &mut BytesMut) -> Result<Step, Malformed> {
        loop {
            match &mut self.at {
                At::SizeLine => {
                    let Some(line) = line(buf, CHUNK_LINE_MAX, "chunk line too long")? else {
                        return Ok(Step::NeedMore);
                    };
                    let (size, extensions) = parse_size_line(&line)?;
                    self.extensions += extensions;
                    if self.extensions > EXTENSIONS_MAX {
                        return Err(Malformed("too many chunk extensions"));
                    }
                    self.at = if size == 0 { At::Trailers } else { At::Data(size) };
                }
                At::Data(left) => {
                    let Some(data) = take(buf, left) else { return Ok(Step::NeedMore) };
                    self.extensions = self.extensions.saturating_sub(data.len());
                    if *left == 0 {
                        self.at = At::DataEnd;
                    }
                    return Ok(Step::Data(data));
                }
                At::DataEnd => match buf.as_ref() {
                    [b'\r', b'\n', ..] => {
                        buf.advance(2);
                        self.at = At::SizeLine;
                    }
                    [] | [b'\r'] => return Ok(Step::NeedMore),
                    _ => return Err(Malformed("chunk data longer than its size")),
                },
                At::Trailers => {
                    let Some(line) = line(buf, TRAILERS_MAX, "trailers too long")? else {
                        return Ok(Step::NeedMore);
                    };
                    if line.is_empty() {
                        return Ok(Step::End);
                    }
                    self.trailers += line.len();
                    if self.trailers > TRAILERS_MAX {
                        return Err(Malformed("trailers too long"));
                    }
                    check_trailer(&line)?;
                }
            }
        }
    }
}

/// Takes a line without its CRLF; none while it is not whole.
fn line(buf: &mut BytesMut, max: usize, too_long: &'static str) -> Result<Option<Bytes>, Malformed> {
    let Some(lf) = memchr::memchr(b'\n', buf) else {
        // What follows a carriage return tells at once that it ends no line; whoever waits for the line feed may wait for ever.
        if memchr::memchr(b'\r', buf).is_some_and(|cr| cr + 1 < buf.len()) {
            return Err(Malformed("carriage return without line feed"));
        }
        // A size line or trailer that is not whole within the bound, its CR aside, never will be.
        return if buf.len() > max + 1 { Err(Malformed(too_long)) } else { Ok(None) };
    };
    if lf > max + 1 {
        return Err(Malformed(too_long));
    }
    let mut line = buf.split_to(lf + 1).freeze();
    line.truncate(lf);
    match line.last() {
        Some(b'\r') => {
            line.truncate(lf - 1);
            Ok(Some(line))
        }
        _ => Err(Malformed("bare line feed in chunked body")),
    }
}

/// `chunk-size [ chunk-ext ]`: the size, and the length of the extensions.
fn parse_size_line(line: &[u8]) -> Result<(u64, usize), Malformed> {
    let digits = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
    let (size, extensions) = line.split_at_checked(digits).unwrap_or_default();
    // 15 digits cannot overflow, and no body is that long.
    if size.is_empty() || size.len() > 15 {
        return Err(Malformed("invalid chunk size"));
    }
    let size = size.iter().fold(0_u64, |sum, b| sum << 4 | u64::from(hex_digit(*b)));
    check_extensions(extensions)?;
    Ok((size, extensions.len()))
}

fn hex_digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => byte.wrapping_sub(b'A').wrapping_add(10),
    }
}

/// `*( ";" token [ "=" ( token / quoted-string ) ] )`, without the white space that RFC 9112 section 7.1.1 tolerates:
/// servers disagree about it, so nothing that needs it is let through.
fn check_extensions(mut rest: &[u8]) -> Result<(), Malformed> {
    const BAD: Malformed = Malformed("invalid chunk extension");
    while let Some((first, after)) = rest.split_first() {
        if *first != b';' {
            return Err(BAD);
        }
        rest = skip_token(after).ok_or(BAD)?;
        if let Some((b'=', value)) = rest.split_first() {
            rest = match value.split_first() {
                Some((b'"', quoted)) => skip_quoted(quoted).ok_or(BAD)?,
                _ => skip_token(value).ok_or(BAD)?,
            };
        }
    }
    Ok(())
}

/// What follows the token at the start; none without one.
fn skip_token(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|b| !is_token_byte(*b)).unwrap_or(bytes.len());
    if end == 0 { None } else { bytes.get(end..) }
}

/// What follows the closing quote; none without one or with a control byte inside.
fn skip_quoted(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let (byte, rest) = bytes.split_first()?;
        bytes = match byte {
            b'"' => return Some(rest),
            b'\\' => rest.split_first().filter(|(b, _)| is_text_byte(**b))?.1,
            b if is_text_byte(*b) => rest,
            _ => return None,
        };
    }
}

fn check_trailer(line: &[u8]) -> Result<(), Malformed> {
    let colon = memchr::memchr(b':', line).ok_or(Malformed("invalid trailer"))?;
    let (name, value) = line.split_at_checked(colon).unwrap_or_default();
    let valid = !name.is_empty() && name.iter().all(|b| is_token_byte(*b)) && value.iter().all(|b| is_text_byte(*b));
    if valid { Ok(()) } else { Err(Malformed("invalid trailer")) }
}

/// The size line of a chunk of `length` bytes.
pub fn put_chunk_size(out: &mut BytesMut, length: usize) {
    let mut digits = [0_u8; 16];
    let mut at = digits.len();
    let mut rest = length;
    loop {
        at -= 1;
        if let Some(digit) = digits.get_mut(at) {
            *digit = b"0123456789abcdef".get(rest & 15).copied().unwrap_or(b'0');
        }
        rest >>= 4;
        if rest == 0 || at == 0 {
            break;
        }
    }
    out.put_slice(digits.get(at..).unwrap_or_default());
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `input` in pieces of `piece` bytes; the body, what was left over, or the error.
    fn decode(mut reader: BodyReader, input: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>), Malformed> {
        let mut buf = BytesMut::new();
        let mut body = Vec::new();
        let mut pieces = input.chunks(piece.max(1));
        loop {
            match reader.step(&mut buf)? {
                Step::Data(data) => body.extend_from_slice(&data),
                Step::End => {
                    let mut left = buf.to_vec();
                    pieces.for_each(|piece| left.extend_from_slice(piece));
                    return Ok((body, left));
                }
                Step::NeedMore => match pieces.next() {
                    Some(piece) => buf.extend_from_slice(piece),
                    None => return Err(Malformed("incomplete")),
                },
            }
        }
    }

    #[test]
    fn a_chunked_body_with_extensions_and_trailers() {
        let input = b"5;a=b;c=\"d \\\" e\"\r\nhello\r\n0A\r\n, world..!\r\n0\r\nX-T: 1\r\n\r\nGET ";
        let (body, left) = decode(BodyReader::chunked(), input, 3).unwrap();
        assert_eq!(body, b"hello, world..!");
        assert_eq!(left, b"GET ");
    }

    #[test]
    fn what_breaks_the_grammar_is_refused() {
        for input in [
            "5 \r\nhello\r\n0\r\n\r\n",
            "5;\r\nhello\r\n0\r\n\r\n",
            "5;a=\r\nhello\r\n0\r\n\r\n",
            "5;a b\r\nhello\r\n0\r\n\r\n",
            "5;a=\"b\r\nhello\r\n0\r\n\r\n",
            "5;\x01\r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello!\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "-1\r\n\r\n",
            "\r\n",
            "g\r\n",
            "0000000000000005\r\nhello\r\n0\r\n\r\n",
            "ffffffffffffffff\r\n",
            "0\r\nbad trailer\r\n\r\n",
            "0\r\nbad : x\r\n\r\n",
            "0\r\nx: \x01\r\n\r\n",
            "0\r\n x: folded\r\n\r\n",
            "5\rx",
            "0\r\n\rx",
        ] {
            for piece in [1, 2, 1000] {
                let result = decode(BodyReader::chunked(), input.as_bytes(), piece);
                assert!(matches!(result, Err(Malformed(text)) if text != "incomplete"), "{input:?}: {result:?}");
            }
        }
    }

    #[test]
    fn endless_lines_are_cut() {
        for start in ["5;", "0\r\nx: ", "5;a=\""] {
            let mut input = start.as_bytes().to_vec();
            input.resize(100_000, b'a');
            assert!(matches!(decode(BodyReader::chunked(), &input, 100), Err(Malformed(t)) if t != "incomplete"));
        }
        let line = format!("1;{}\r\nx\r\n", "a".repeat(200));
        assert_eq!(
            decode(BodyReader::chunked(), line.repeat(100).as_bytes(), 1000),
            Err(Malformed("too many chunk extensions"))
        );
    }

    #[test]
    fn a_line_of_the_longest_kind_is_read_however_it_arrives() {
        let size_line = |length: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(length - 2));
        let trailer = |length: usize| format!("1\r\nx\r\n0\r\nX:{}\r\n\r\n", "a".repeat(length - 2));
        for piece in [1, 2, 1000, usize::MAX] {
            for longest in [size_line(CHUNK_LINE_MAX), trailer(TRAILERS_MAX)] {
                assert_eq!(decode(BodyReader::chunked(), longest.as_bytes(), piece), Ok((b"x".to_vec(), vec![])));
            }
            for too_long in [size_line(CHUNK_LINE_MAX + 1), trailer(TRAILERS_MAX + 1)] {
                let result = decode(BodyReader::chunked(), too_long.as_bytes(), piece);
                assert!(matches!(result, Err(Malformed(text)) if text.ends_with("too long")), "{piece}: {result:?}");
            }
        }
    }

    #[test]
    fn chunk_sizes_are_hexadecimal() {
        for size in [0, 1, 15, 16, 255, 256, 65_536, usize::MAX] {
            let mut out = BytesMut::new();
            put_chunk_size(&mut out, size);
            assert_eq!(out, format!("{size:x}\r\n"));
        }
    }

    proptest! {
        #[test]
        fn any_body_survives_any_splitting(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..8), piece in 1_usize..40) {
            let mut input = Vec::new();
            for chunk in &chunks {
                input.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                input.extend_from_slice(chunk);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(b"0\r\n\r\nrest");
            let (body, left) = decode(BodyReader::chunked(), &input, piece).unwrap();
            prop_assert_eq!(body, chunks.concat());
            prop_assert_eq!(left, b"rest");
        }

        #[test]
        fn no_input_panics(input in prop::collection::vec(any::<u8>(), 0..300), piece in 1_usize..40) {
            let _ = decode(BodyReader::chunked(), &input, piece);
        }

        #[test]
        fn a_counted_body_takes_what_was_announced(body in prop::collection::vec(any::<u8>(), 0..200), piece in 1_usize..40) {
            let mut input = body.clone();
            input.extend_from_slice(b"rest");
            let (read, left) = decode(BodyReader::length(body.len() as u64), &input, piece).unwrap();
            prop_assert_eq!(read, body);
            prop_assert_eq!(left, b"rest");
        }
    }
}
