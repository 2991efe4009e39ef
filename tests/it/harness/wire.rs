//! Strict reading of HTTP/1.1 messages (RFC 9112) from any byte source: what a lenient reader would wave through is an
//! error here, so that neither the gateway's requests nor its responses can be sloppy unnoticed.

use std::io::{self, ErrorKind, Read};

use super::grammar::{Framing, is_token, malformed, parse_chunk_size, parse_field, stated_framing, strict_line};
use super::message::{Broken, Fields, Request, Response};

/// A byte source with what was read ahead of the message in hand.
pub struct Wire<R> {
    source: R,
    ahead: Vec<u8>,
}

/// How reading a body ended before the body did.
enum Cut {
    Truncated,
    Other(Broken),
}

impl<R: Read> Wire<R> {
    pub fn new(source: R) -> Self {
        Self { source, ahead: Vec::new() }
    }

    /// The bytes read so far that belong to no message yet.
    pub fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Reads a request's head; [`Wire::read_request_body`] reads the rest.
    pub fn read_request_head(&mut self) -> Result<Request, Broken> {
        let head = self.read_head()?;
        let parts: Vec<&str> = head.start.split(' ').collect();
        let &[method, target, version] = parts.as_slice() else {
            return malformed(format!("request line {:?}", head.start));
        };
        if !matches!(version, "HTTP/1.1" | "HTTP/1.0") || target.is_empty() || !is_token(method) {
            return malformed(format!("request line {:?}", head.start));
        }
        Ok(Request {
            method: method.to_owned(),
            target: target.to_owned(),
            version: version.to_owned(),
            framing: stated_framing(&head.fields)?.unwrap_or(Framing::None),
            fields: head.fields,
            raw_head: head.raw,
            body: Vec::new(),
            trailers: Fields::default(),
            connection: 0,
        })
    }

    /// Reads the body that `request` announces into it.
    pub fn read_request_body(&mut self, request: &mut Request) -> Result<(), Broken> {
        match self.read_body(request.framing, &mut request.body) {
            Ok(trailers) => {
                request.trailers = trailers;
                Ok(())
            }
            Err(Cut::Truncated) => Err(Broken::TruncatedRequest(Box::new(request.clone()))),
            Err(Cut::Other(broken)) => Err(broken),
        }
    }

    /// Reads the final response to a request of this method, interim ones before it included.
    pub fn read_response(&mut self, method: &str) -> Result<Response, Broken> {
        let mut response = self.read_response_head(method)?;
        match self.read_body(response.framing, &mut response.body) {
            Ok(trailers) => {
                response.trailers = trailers;
                Ok(response)
            }
            Err(Cut::Truncated) => Err(Broken::Truncated(Box::new(response))),
            Err(Cut::Other(broken)) => Err(broken),
        }
    }

    /// The head of the final response alone; its body stays unread.
    pub fn read_response_head(&mut self, method: &str) -> Result<Response, Broken> {
        let mut interim = Vec::new();
        loop {
            let mut response = one_response_head(self.read_head()?, method)?;
            // 101 is the last response of this protocol, the other 1xx are followed by one more.
            if response.status >= 200 || response.status == 101 {
                response.interim = interim;
                return Ok(response);
            }
            interim.push(response.status);
        }
    }

    /// Exactly `count` bytes that are part of no message (after an upgrade).
    pub fn read_raw(&mut self, count: usize) -> Result<Vec<u8>, Broken> {
        while self.ahead.len() < count {
            if self.fill()? == 0 {
                return Err(Broken::TruncatedHead(std::mem::take(&mut self.ahead)));
            }
        }
        Ok(self.ahead.drain(..count).collect())
    }

    /// Reads until the other side closes, and gives what came.
    pub fn read_rest(&mut self) -> Result<Vec<u8>, Broken> {
        while self.fill()? > 0 {}
        Ok(std::mem::take(&mut self.ahead))
    }

    /// Reads on: how many bytes came, 0 at the end.
    pub fn fill(&mut self) -> Result<usize, Broken> {
        let mut block = [0; 16 * 1024];
        loop {
            match self.source.read(&mut block) {
                Ok(count) => {
                    self.ahead.extend_from_slice(&block[..count]);
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(broken_by(&error)),
            }
        }
    }

    /// One line without its CRLF, at most `max` bytes. None: the connection ended inside it.
    fn read_line(&mut self, max: usize) -> Result<Option<String>, Broken> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.ahead[searched..].iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.ahead.drain(..=searched + at).collect();
                return strict_line(&line).map(Some);
            }
            searched = self.ahead.len();
            if searched > max {
                return malformed(format!("a line of more than {max} bytes"));
            }
            match self.fill() {
                Ok(0) | Err(Broken::Reset) => return Ok(None),
                Ok(_) => {}
                Err(broken) => return Err(broken),
            }
        }
    }

    fn read_head(&mut self) -> Result<Head, Broken> {
        if self.ahead.is_empty() && self.fill()? == 0 {
            return Err(Broken::Closed);
        }
        let (mut raw, mut lines) = (Vec::new(), Vec::new());
        loop {
            let Some(line) = self.read_line(MAX_LINE)? else {
                raw.append(&mut self.ahead);
                return Err(Broken::TruncatedHead(raw));
            };
            raw.extend(line.chars().map(|c| c as u8));
            raw.extend_from_slice(b"\r\n");
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let mut lines = lines.into_iter();
        let Some(start) = lines.next() else {
            return malformed("an empty line before the head");
        };
        let fields = lines.map(|line| parse_field(&line)).collect::<Result<_, _>>()?;
        Ok(Head { raw, start, fields: Fields(fields) })
    }

    fn read_body(&mut self, framing: Framing, body: &mut Vec<u8>) -> Result<Fields, Cut> {
        match framing {
            Framing::None => {}
            Framing::Length(length) => self.read_exactly(length, body)?,
            Framing::Chunked => return self.read_chunks(body),
            Framing::UntilClose => loop {
                body.append(&mut self.ahead);
                match self.fill() {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(broken) => return Err(cut_by(broken)),
                }
            },
        }
        Ok(Fields::default())
    }

    fn read_exactly(&mut self, length: u64, body: &mut Vec<u8>) -> Result<(), Cut> {
        let mut left = usize::try_from(length).expect("a length that fits the machine");
        loop {
            let count = left.min(self.ahead.len());
            body.extend(self.ahead.drain(..count));
            left -= count;
            if left == 0 {
                return Ok(());
            }
            match self.fill() {
                Ok(0) => return Err(Cut::Truncated),
                Ok(_) => {}
                Err(broken) => return Err(cut_by(broken)),
            }
        }
    }

    /// Chunks without extensions, and the trailer section.
    fn read_chunks(&mut self, body: &mut Vec<u8>) -> Result<Fields, Cut> {
        loop {
            let line = self.read_line(64).map_err(Cut::Other)?;
            let size = parse_chunk_size(&line.ok_or(Cut::Truncated)?).map_err(Cut::Other)?;
            if size == 0 {
                break;
            }
            self.read_exactly(size, body)?;
            let mut end = Vec::new();
            self.read_exactly(2, &mut end)?;
            if end != b"\r\n" {
                return Err(Cut::Other(Broken::Malformed(format!("{end:?} after a chunk"))));
            }
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.read_line(MAX_LINE).map_err(Cut::Other)?;
            let line = line.ok_or(Cut::Truncated)?;
            if line.is_empty() {
                return Ok(Fields(trailers));
            }
            trailers.push(parse_field(&line).map_err(Cut::Other)?);
        }
    }
}

/// Longer than any limit a test sets.
const MAX_LINE: usize = 1 << 20;

struct Head {
    raw: Vec<u8>,
    start: String,
    fields: Fields,
}

fn broken_by(error: &io::Error) -> Broken {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Broken::TimedOut,
        _ => Broken::Reset,
    }
}

fn cut_by(broken: Broken) -> Cut {
    match broken {
        Broken::Reset => Cut::Truncated,
        other => Cut::Other(other),
    }
}

fn one_response_head(head: Head, method: &str) -> Result<Response, Broken> {
    let (version, rest) = head.start.split_once(' ').unwrap_or_default();
    // The space after the code is not optional, the reason is.
    let (code, reason) = rest.split_once(' ').unwrap_or_default();
    let status = code.parse().ok().filter(|_| code.len() == 3);
    let (Some(status @ 100..=599), "HTTP/1.1" | "HTTP/1.0") = (status, version) else {
        return malformed(format!("status line {:?}", head.start));
    };
    let stated = stated_framing(&head.fields)?;
    let bodiless = status < 200 || status == 204;
    if bodiless && stated.is_some() {
        return malformed(format!("{status} with {stated:?} (RFC 9110 section 8.6)"));
    }
    let framing = if bodiless || status == 304 || method == "HEAD" {
        Framing::None
    } else {
        stated.unwrap_or(Framing::UntilClose)
    };
    Ok(Response {
        version: version.to_owned(),
        status,
        reason: reason.to_owned(),
        framing,
        fields: head.fields,
        raw_head: head.raw,
        body: Vec::new(),
        trailers: Fields::default(),
        interim: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes one at a time, so that every boundary is met.
    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.len().min(1).min(buffer.len());
            let (now, later) = self.0.split_at(count);
            buffer[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    fn response(bytes: &[u8]) -> Result<Response, Broken> {
        let whole = Wire::new(bytes).read_response("GET");
        let dripped = Wire::new(Drip(bytes)).read_response("GET");
        assert_eq!(format!("{whole:?}"), format!("{dripped:?}"));
        whole
    }

    #[test]
    fn reads_a_body_by_its_length_and_leaves_the_next_response() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-a:  b \r\n\r\nabcHTTP/1.1 204 \r\n\r\n";
        let mut wire = Wire::new(bytes.as_slice());
        let first = wire.read_response("GET").unwrap();
        assert_eq!((first.status, first.body.as_slice()), (200, b"abc".as_slice()));
        assert_eq!(first.fields.names(), ["Content-Length", "X-a"]);
        assert_eq!(first.field("x-A"), Some("b"));
        assert_eq!(first.raw_head, bytes[..46 + 2]);
        assert_eq!(wire.read_response("GET").unwrap().status, 204);
        assert!(matches!(wire.read_response("GET"), Err(Broken::Closed)));
    }

    #[test]
    fn reads_chunks_and_trailers() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let whole = response(format!("{head}3\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n").as_bytes());
        let whole = whole.unwrap();
        assert_eq!(whole.body, b"abc0123456789");
        assert_eq!(whole.trailers.get("x-t"), Some("1"));
        for cut in ["3\r\nab", "3\r\nabc\r\n", "3\r\nabc\r\n0\r\n", "3\r\nabc\r\n0\r\nX-T: 1\r\n"] {
            let broken = response(format!("{head}{cut}").as_bytes()).unwrap_err();
            assert!(broken.truncated().body.starts_with(b"ab"), "{cut:?}");
        }
        for bad in [
            "3;x=1\r\nabc\r\n0\r\n\r\n",
            "+3\r\nabc\r\n",
            "\r\n",
            "3\nabc\r\n",
            "3\r\nabcd\r\n",
            "fffffffffffffffff\r\n",
        ] {
            let broken = response(format!("{head}{bad}").as_bytes());
            assert!(matches!(broken, Err(Broken::Malformed(_))), "{bad:?}: {broken:?}");
        }
    }

    #[test]
    fn tells_a_truncated_body_from_one_that_ends_with_its_connection() {
        let broken = response(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc").unwrap_err();
        assert_eq!(broken.truncated().body, b"abc");
        let whole = response(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc").unwrap();
        assert_eq!((whole.framing, whole.body.as_slice()), (Framing::UntilClose, b"abc".as_slice()));
        assert!(matches!(response(b"HTTP/1.1 200 OK\r\nA: b"), Err(Broken::TruncatedHead(_))));
    }

    #[test]
    fn collects_interim_responses_and_stops_at_an_upgrade() {
        let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 \r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        let last = response(bytes).unwrap();
        assert_eq!((last.status, last.interim), (204, vec![100, 103]));
        let bytes = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x00";
        let mut wire = Wire::new(bytes.as_slice());
        assert_eq!(wire.read_response("GET").unwrap().status, 101);
        assert_eq!(wire.read_raw(2).unwrap(), b"\x81\x00");
    }

    #[test]
    fn a_head_has_no_body_however_long_it_says() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 304 \r\nContent-Length: 9\r\n\r\n";
        let mut wire = Wire::new(bytes.as_slice());
        assert!(wire.read_response("HEAD").unwrap().body.is_empty());
        assert_eq!(wire.read_response("GET").unwrap().status, 304);
    }

    #[test]
    fn refuses_what_a_lenient_reader_lets_through() {
        for bad in [
            "HTTP/1.1 200\r\n\r\n",
            "HTTP/1.1  200 OK\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 600 OK\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
            "HTTP/1.1 200 OK\r\nnothing\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0, 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        ] {
            let broken = response(bad.as_bytes());
            assert!(matches!(broken, Err(Broken::Malformed(_))), "{bad:?}: {broken:?}");
        }
    }

    #[test]
    fn reads_requests() {
        let bytes = b"POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhiGET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut wire = Wire::new(Drip(bytes));
        let mut request = wire.read_request_head().unwrap();
        assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/a?b"));
        wire.read_request_body(&mut request).unwrap();
        assert_eq!(request.body, b"hi");
        assert_eq!(wire.read_request_head().unwrap().framing, Framing::None);
        for bad in [
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1 \r\n\r\n",
            "G(T / HTTP/1.1\r\n\r\n",
            "GET /a b HTTP/1.1\r\n\r\n",
        ] {
            let broken = Wire::new(bad.as_bytes()).read_request_head();
            assert!(matches!(broken, Err(Broken::Malformed(_))), "{bad:?}");
        }
    }
}
