//! A client of HTTP/2 that sends frames as they are, also those it must not send, and reads what comes frame by frame.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::eventually::DEADLINE;
use super::http2::offering_http2;
use super::socket::Address;
use super::tls::{TlsClient, TlsStream};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags.
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// Settings.
pub const HEADER_TABLE_SIZE: u16 = 1;
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// Error codes.
pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const INTERNAL_ERROR: u32 = 2;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;

/// The bytes of one frame, its length as it is.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    frame_head(payload.len(), kind, flags, stream).into_iter().chain(payload.iter().copied()).collect()
}

/// The head of a frame of any length.
pub fn frame_head(length: usize, kind: u8, flags: u8, stream: u32) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..3].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes()[1..]);
    (head[3], head[4]) = (kind, flags);
    head[5..].copy_from_slice(&stream.to_be_bytes());
    head
}

pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let each = values
        .iter()
        .flat_map(|(name, value)| name.to_be_bytes().into_iter().chain(value.to_be_bytes()).collect::<Vec<_>>());
    frame(SETTINGS, 0, 0, &each.collect::<Vec<_>>())
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

pub fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// A block of fields, each as a literal without indexing (RFC 7541 section 6.2.2), byte for byte.
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name.as_ref(), value.as_ref()] {
            length(&mut bytes, text.len());
            bytes.extend_from_slice(text);
        }
    }
    bytes
}

/// An integer with a prefix of seven bits (RFC 7541 section 5.1).
fn length(bytes: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(127) else { return bytes.push(u8::try_from(length).unwrap()) };
    bytes.push(127);
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
}

/// HEADERS with these fields, which end in it; with these flags besides.
pub fn headers<N: AsRef<[u8]>, V: AsRef<[u8]>>(stream: u32, flags: u8, fields: &[(N, V)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &block(fields))
}

/// The fields of a plain request, and those of a test.
pub fn request<'a>(method: &'a str, path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[(":method", method), (":scheme", "https"), (":authority", "test"), (":path", path)], more].concat()
}

/// A frame that was received.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    pub fn ends(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// The status at the head of a block of fields, in the forms it can have without a dynamic table.
    pub fn status(&self) -> u16 {
        assert_eq!(self.flags & 0x28, 0, "padded, or with a priority");
        let block = self.payload.strip_prefix(&[0x20]).unwrap_or(&self.payload);
        match block {
            [code @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(code - 0x88)],
            // A literal with the name of entry 8 and a value in Huffman's code, which has digits of five and six bits.
            [0x48 | 0x08, length, rest @ ..] if length & 0x80 != 0 => digits(&rest[..usize::from(length & 0x7f)]),
            [0x48 | 0x08, 3, a, b, c, ..] => std::str::from_utf8(&[*a, *b, *c]).unwrap().parse().unwrap(),
            other => panic!("no status first: {other:02x?}"),
        }
    }
}

fn digits(code: &[u8]) -> u16 {
    let mut bits = code.iter().flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let mut five = 0;
        for _ in 0..5 {
            five = five << 1 | bits.next().unwrap();
        }
        // 0, 1 and 2 are 00000 to 00010, 3 to 9 are 011001 to 011111.
        let digit = if five <= 2 { five } else { (five << 1 | bits.next().unwrap()) - 0b01_1001 + 3 };
        number = number * 10 + digit;
    }
    number
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Answered {
        status: u16,
        body: Vec<u8>,
    },
    Reset(u32),
    /// The whole connection was given up.
    GoneAway(u32),
    /// It was closed without a word.
    Closed,
}

impl Fate {
    #[track_caller]
    pub fn expect(self, status: u16) -> Vec<u8> {
        match self {
            Self::Answered { status: got, body } if got == status => body,
            other => panic!("expected {status}, got {other:?}"),
        }
    }
}

/// One connection.
pub struct Http2Frames {
    stream: TlsStream,
    received: Vec<u8>,
    /// Of requests whose fate was not asked for yet.
    heard: HashMap<u32, Heard>,
}

/// What has come of an answer.
#[derive(Default)]
struct Heard {
    status: u16,
    body: Vec<u8>,
    fate: Option<Fate>,
}

impl Heard {
    fn take(&mut self, frame: &Frame) {
        if self.fate.is_some() {
            return;
        }
        match frame.kind {
            RST_STREAM => self.fate = Some(Fate::Reset(frame.number(0))),
            HEADERS if self.status < 200 => self.status = frame.status(),
            DATA => self.body.extend_from_slice(&frame.payload),
            _ => {}
        }
        if frame.ends() {
            self.fate = Some(Fate::Answered { status: self.status, body: std::mem::take(&mut self.body) });
        }
    }
}

impl Http2Frames {
    /// A connection on which TLS was agreed on, and nothing said.
    #[track_caller]
    pub fn connect_silent(address: &Address) -> Self {
        let client = TlsClient { name: "localhost".to_owned(), config: offering_http2() };
        Self { stream: client.connect(address).unwrap(), received: Vec::new(), heard: HashMap::new() }
    }

    /// A connection that was greeted; the gateway is asked to use no dynamic table.
    #[track_caller]
    pub fn connect(address: &Address) -> Self {
        Self::connect_with(address, &[])
    }

    /// With settings of its own.
    #[track_caller]
    pub fn connect_with(address: &Address, values: &[(u16, u32)]) -> Self {
        let mut client = Self::connect_silent(address);
        client.send([PREFACE, &settings(&[&[(HEADER_TABLE_SIZE, 0)], values].concat())].concat());
        let theirs = client.expect_frame();
        assert_eq!((theirs.kind, theirs.flags), (SETTINGS, 0));
        client.send(frame(SETTINGS, ACK, 0, &[]));
        client.skip_to(|frame| frame.kind == SETTINGS && frame.flags == ACK);
        client
    }

    /// The socket below.
    pub fn socket(&self) -> TcpStream {
        self.stream.socket()
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("sending to the gateway");
    }

    /// [`Http2Frames::send`] where the gateway may close meanwhile.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// The next frame; none once the connection is closed, or nothing came for `patience`.
    fn frame_within(&mut self, patience: Duration) -> io::Result<Option<Frame>> {
        self.stream.socket().set_read_timeout(Some(patience))?;
        loop {
            if let Some(frame) = self.take_frame() {
                return Ok(Some(frame));
            }
            let mut piece = [0; 16 * 1024];
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(None),
                Ok(count) => self.received.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => return Ok(None),
            }
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let head: [u8; HEAD] = self.received.get(..HEAD)?.try_into().unwrap();
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let payload = self.received.get(HEAD..HEAD + length)?.to_vec();
        self.received.drain(..HEAD + length);
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame; none once the connection is closed.
    #[track_caller]
    pub fn next_frame(&mut self) -> Option<Frame> {
        self.frame_within(DEADLINE).expect("nothing came")
    }

    #[track_caller]
    pub fn expect_frame(&mut self) -> Frame {
        self.next_frame().expect("the connection was closed")
    }

    /// The first frame that is asked for; those before it are dropped.
    #[track_caller]
    pub fn skip_to(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            let frame = self.expect_frame();
            if wanted(&frame) {
                return frame;
            }
        }
    }

    /// What becomes of a request; what comes for others meanwhile is kept until they are asked for. What comes for it is paid for
    /// at once.
    #[track_caller]
    pub fn fate(&mut self, stream: u32) -> Fate {
        loop {
            if let Some(fate) = self.heard.get_mut(&stream).and_then(|heard| heard.fate.take()) {
                self.heard.remove(&stream);
                return fate;
            }
            let Some(frame) = self.next_frame() else { return Fate::Closed };
            if frame.kind == GOAWAY && (frame.number(4) != NO_ERROR || frame.number(0) < stream) {
                return Fate::GoneAway(frame.number(4));
            }
            if frame.kind == DATA && frame.stream == stream && !frame.payload.is_empty() {
                let by = u32::try_from(frame.payload.len()).unwrap();
                let _ = self.try_send([window_update(0, by), window_update(stream, by)].concat());
            }
            self.heard.entry(frame.stream).or_default().take(&frame);
        }
    }

    /// Sends a request without a body, and says what became of it.
    #[track_caller]
    pub fn get(&mut self, stream: u32, path: &str) -> Fate {
        self.send(headers(stream, END_STREAM, &request("GET", path, &[])));
        self.fate(stream)
    }

    /// The error code with which the gateway gives the connection up, which it must.
    #[track_caller]
    pub fn gone_away(&mut self) -> u32 {
        self.skip_to(|frame| frame.kind == GOAWAY).number(4)
    }

    /// Asserts that the gateway closes; what comes before is dropped.
    #[track_caller]
    pub fn closed(&mut self) {
        while self.next_frame().is_some() {}
    }

    /// Whether the connection is closed by now; what has come is dropped.
    pub fn is_closed(&mut self) -> bool {
        loop {
            match self.frame_within(Duration::from_millis(1)) {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Asserts that all that was sent was read, and the connection lives: a PING comes back.
    #[track_caller]
    pub fn ping(&mut self, text: [u8; 8]) {
        self.send(frame(PING, 0, 0, &text));
        self.skip_to(|frame| frame.kind == PING && frame.flags == ACK && frame.payload == text);
    }
}
