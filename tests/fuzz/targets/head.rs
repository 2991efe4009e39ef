//! The request head: it is read alike however it arrives, and what is accepted has one meaning.

use bytes::BytesMut;
use http::{HeaderValue, Version};
use propylon::edge::head::{Head, HeadLimits, HeadReader};
use propylon::framing::BodyReader;
use propylon::header::request_hygiene::{FieldKind, classify};
use propylon::proxy::rejection::Reason;

/// Small enough to be met by small inputs.
const NARROW: HeadLimits = HeadLimits { request_line_max: 80, header_max: 300, field_max: 60, headers_max: 6 };
/// Never met.
const WIDE: HeadLimits =
    HeadLimits { request_line_max: 1 << 24, header_max: 1 << 24, field_max: 1 << 24, headers_max: 1 << 20 };
/// Fields that `Connection` takes away from nobody.
const PROTECTED: [&str; 5] = ["host", "content-length", "transfer-encoding", "expect", "date"];

#[derive(Debug)]
enum Verdict {
    /// And how many bytes it took.
    Accepted(Box<Head>, usize),
    NeedsMore,
    Refused(Reason),
}

/// Takes the bytes of a connection from its start.
pub fn check(input: &[u8]) {
    let wide = read(input, &WIDE, usize::MAX);
    let narrow = read(input, &NARROW, usize::MAX);
    for piece in [1, 7] {
        same_verdict(&wide, &read(input, &WIDE, piece), input);
        same_verdict(&narrow, &read(input, &NARROW, piece), input);
    }
    let Verdict::Accepted(head, taken) = &wide else {
        assert!(!matches!(narrow, Verdict::Accepted(..)), "only narrow limits accept it");
        return;
    };
    let raw = Raw::of(&input[..*taken]);
    raw.check_grammar();
    check_request(head);
    check_against_raw(head, &raw);
    check_limits(head, &raw, &narrow);
    let text = serialised(head);
    let Verdict::Accepted(again, length) = read(&text, &WIDE, usize::MAX) else {
        panic!("what goes on is refused: {}", text.escape_ascii());
    };
    assert_eq!(length, text.len());
    assert_eq!(meaning(head), meaning(&again), "{}", text.escape_ascii());
}

fn read(input: &[u8], limits: &HeadLimits, piece: usize) -> Verdict {
    let mut reader = HeadReader::default();
    let mut buf = BytesMut::new();
    let mut fed = 0;
    for piece in input.chunks(piece.min(input.len().max(1))) {
        buf.extend_from_slice(piece);
        fed += piece.len();
        match reader.read(&mut buf, limits) {
            Ok(Some(head)) => return Verdict::Accepted(Box::new(head), fed - buf.len()),
            Ok(None) => {}
            Err(rejection) => return Verdict::Refused(rejection.reason),
        }
    }
    Verdict::NeedsMore
}

/// Reasons may differ where one reading sees the limit first that a broken line is beyond.
fn same_verdict(whole: &Verdict, pieces: &Verdict, input: &[u8]) {
    let is_limit = |reason| matches!(reason, Reason::RequestLineTooLong | Reason::HeadTooLarge);
    let same = match (whole, pieces) {
        (Verdict::Accepted(a, taken), Verdict::Accepted(b, taken_in_pieces)) => {
            assert_eq!((a.size, a.dropped, &a.target), (b.size, b.dropped, &b.target));
            assert_eq!(a.claims, b.claims);
            taken == taken_in_pieces && meaning(a) == meaning(b)
        }
        (Verdict::NeedsMore, Verdict::NeedsMore) => true,
        (Verdict::Refused(a), Verdict::Refused(b)) => a == b || is_limit(*a) || is_limit(*b),
        _ => false,
    };
    assert!(same, "{} is {whole:?} at once and {pieces:?} in pieces", input.escape_ascii());
}

/// What the app is told, field by field in the order of their names.
type Meaning = (String, Vec<u8>, Version, Vec<(String, Vec<u8>)>, BodyReader, bool, bool);

fn meaning(head: &Head) -> Meaning {
    let fields = head.request.headers.iter();
    let mut fields: Vec<_> = fields.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    let request = &head.request;
    let path = request.target.to_vec();
    let method = request.method.to_string();
    (method, path, request.version, fields, head.body.clone(), head.keep_alive, head.expects_continue)
}

/// The request as it goes on, with what was said about its connection.
fn serialised(head: &Head) -> Vec<u8> {
    let mut text = head.request.method.as_str().as_bytes().to_vec();
    text.push(b' ');
    text.extend_from_slice(&head.request.target);
    text.extend_from_slice(format!(" {:?}\r\n", head.request.version).as_bytes());
    for (name, value) in &head.request.headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    if matches!(head.body, BodyReader::Chunked(_)) {
        text.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    if head.expects_continue {
        text.extend_from_slice(b"expect: 100-continue\r\n");
    }
    let connection = if head.keep_alive { "keep-alive" } else { "close" };
    text.extend_from_slice(format!("connection: {connection}\r\n\r\n").as_bytes());
    text
}

/// What the app gets is well-formed, framed once, and holds nothing that is not its business.
fn check_request(head: &Head) {
    use FieldKind::{ContentLength, Cookie, Host, Keep, Referer, Single, UserAgent};
    let request = &head.request;
    for (name, value) in &request.headers {
        assert!(!value.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{name}: {value:?}");
        assert_eq!(value.as_bytes(), value.as_bytes().trim_ascii(), "{name}");
        let kind = classify(name.as_str().as_bytes());
        let passes = matches!(kind, Keep | UserAgent | Referer | Host | ContentLength | Single | Cookie);
        assert!(passes, "{name} is {kind:?}");
        let count = request.headers.get_all(name).count();
        assert!(count == 1 || !matches!(kind, Host | ContentLength | Single | Cookie), "{count} of {name}");
    }
    assert!(!request.method.as_str().bytes().any(|byte| byte.is_ascii_lowercase()));
    let all = |name: &str| request.headers.get_all(name).collect::<Vec<_>>();
    match (all("host").as_slice(), &head.host) {
        ([], None) => assert_eq!(request.version, Version::HTTP_10),
        ([one], Some(host)) => assert_eq!(*one, host),
        several => panic!("{several:?}"),
    }
    match (all("content-length").as_slice(), &head.body) {
        ([], BodyReader::Chunked(_)) => assert_eq!(request.version, Version::HTTP_11),
        ([], BodyReader::Done) => {}
        ([one], BodyReader::Done) => assert_eq!(one.as_bytes(), b"0"),
        ([one], BodyReader::Length(length)) => assert_eq!(one.to_str().unwrap(), length.to_string()),
        other => panic!("{other:?}"),
    }
    assert!(!head.expects_continue || (request.version == Version::HTTP_11 && !head.body.is_done()));
    let path = &request.target[..];
    assert!(path.starts_with(b"/") || (path == b"*" && request.method == "OPTIONS"));
    assert!(path.iter().all(|byte| byte.is_ascii_graphic() && !b"#\"<>`".contains(byte)), "{}", path.escape_ascii());
}

/// An accepted head as whoever splits it at its line ends sees it.
struct Raw<'a> {
    bytes: &'a [u8],
    request_line: &'a [u8],
    fields: Vec<&'a [u8]>,
}

impl<'a> Raw<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
        let inner = bytes.strip_suffix(b"\r\n\r\n").expect("a head ends with an empty line");
        let mut lines = vec![];
        let mut rest = inner;
        while let Some(at) = rest.windows(2).position(|pair| pair == b"\r\n") {
            lines.push(&rest[..at]);
            rest = &rest[at + 2..];
        }
        lines.push(rest);
        let request_line = lines.remove(0);
        Self { bytes, request_line, fields: lines }
    }

    /// Values of the field, by a name that a careless reader would take for it as well.
    fn values(&self, name: &str) -> Vec<&'a [u8]> {
        let pairs = self.fields.iter().filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((line[..colon].trim_ascii(), line[colon + 1..].trim_ascii()))
        });
        pairs.filter(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value).collect()
    }

    /// No line can be read as two or as part of another, whichever line ends are believed in.
    fn check_grammar(&self) {
        for line in self.fields.iter().chain([&self.request_line]) {
            assert!(!line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0 | 0x7f)), "{}", line.escape_ascii());
        }
        for line in &self.fields {
            let name = line.split(|byte| *byte == b':').next().unwrap();
            let token = |byte: &u8| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(byte);
            assert!(name.len() < line.len() && !name.is_empty() && name.iter().all(token), "{}", line.escape_ascii());
        }
        assert_eq!(self.request_line.split(|byte| *byte == b' ').count(), 3);
    }
}

/// What was read is what the lines say, read the simple way.
fn check_against_raw(head: &Head, raw: &Raw<'_>) {
    let (hosts, lengths) = (raw.values("host"), raw.values("content-length"));
    let codings = raw.values("transfer-encoding");
    assert!(hosts.len() <= 1 && lengths.len() + codings.len() <= 1);
    assert!(hosts.len() == 1 || head.request.version == Version::HTTP_10);
    match head.body {
        BodyReader::Chunked(_) => assert!(codings.len() == 1 && codings[0].eq_ignore_ascii_case(b"chunked")),
        BodyReader::Length(length) => {
            let digits = String::from_utf8(lengths[0].to_vec()).unwrap();
            assert!(digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse() == Ok(length));
        }
        BodyReader::Done => assert!(codings.is_empty() && lengths.iter().all(|v| v.iter().all(|byte| *byte == b'0'))),
    }
    let target = raw.request_line.split(|byte| *byte == b' ').nth(1).unwrap();
    assert_eq!(&head.target[..], target);
    if target.starts_with(b"/") {
        assert_eq!(head.host.as_ref().map(HeaderValue::as_bytes), hosts.first().copied());
        let text = String::from_utf8(target.to_vec()).unwrap();
        let escaped = text.replace('"', "%22").replace('<', "%3C").replace('>', "%3E").replace('`', "%60");
        assert_eq!(head.request.target, escaped.as_bytes());
        assert_eq!(head.size.request_line, raw.request_line.len() + escaped.len() - target.len());
    }
    let listed = raw.values("connection").into_iter().flat_map(|value| value.split(|byte| *byte == b','));
    for option in listed.map(|option| option.trim_ascii().to_ascii_lowercase()) {
        let name = String::from_utf8_lossy(&option).into_owned();
        assert!(PROTECTED.contains(&&*name) || !head.request.headers.contains(&*name), "{name} is still there");
        assert!(name != "close" || !head.keep_alive);
    }
}

/// The limits refuse what is beyond them and nothing else.
fn check_limits(head: &Head, raw: &Raw<'_>, narrow: &Verdict) {
    let longest = raw.fields.iter().map(|line| line.len()).max().unwrap_or(0);
    assert_eq!((head.size.longest_field, head.size.fields), (longest, raw.fields.len()));
    let fits = raw.request_line.len() <= NARROW.request_line_max
        && longest <= NARROW.field_max
        && raw.fields.len() <= NARROW.headers_max
        && raw.bytes.len() <= NARROW.header_max;
    assert_eq!(matches!(narrow, Verdict::Accepted(..)), fits, "{narrow:?}");
}
