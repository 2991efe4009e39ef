//! A WebSocket client that is told each frame it sends, and reads strictly (RFC 6455).

use super::client::Client;
use super::message::Response;

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The example of RFC 6455 section 1.3, and what a server must answer to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// The fields that ask for a WebSocket.
pub const HANDSHAKE: [(&str, &str); 4] =
    [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", KEY)];

/// [`HANDSHAKE`] as lines of a head.
pub fn handshake() -> String {
    HANDSHAKE.map(|(name, value)| [name, ": ", value, "\r\n"].concat()).concat()
}

/// What a scripted origin answers to [`HANDSHAKE`].
pub fn agreement() -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    )
}

/// A frame as a client sends it: the first byte says whether it is the last of its message, and what it is.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = head(first, payload.len(), 0x80);
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A whole message as a server sends it.
pub fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    [head(0x80 | opcode, payload.len(), 0), payload.to_vec()].concat()
}

fn head(first: u8, length: usize, mask: u8) -> Vec<u8> {
    match length {
        0..126 => vec![first, mask | u8::try_from(length).unwrap()],
        126..65_536 => [&[first, mask | 0x7E], &u16::try_from(length).unwrap().to_be_bytes()[..]].concat(),
        _ => [&[first, mask | 0x7F], &(length as u64).to_be_bytes()[..]].concat(),
    }
}

/// What a close frame holds.
pub fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}

/// A frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The last one of its message.
    pub last: bool,
    /// Its payload is compressed (RFC 7692).
    pub compressed: bool,
    pub opcode: u8,
    pub payload: Vec<u8>,
}

/// A connection on which a server has agreed to speak WebSocket.
pub struct WebSocket {
    pub client: Client,
}

impl WebSocket {
    #[track_caller]
    pub fn open(client: Client, target: &str) -> Self {
        Self::open_with(client, target, &[]).0
    }

    /// With further fields; what the server answered as well.
    #[track_caller]
    pub fn open_with(mut client: Client, target: &str, fields: &[(&str, &str)]) -> (Self, Response) {
        client.send_request("GET", target, &[&HANDSHAKE, fields].concat(), "");
        let response = client.response_head().expect(101);
        for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket")] {
            assert!(response.field(name).is_some_and(|it| it.eq_ignore_ascii_case(value)), "{name}: {response}");
        }
        assert_eq!(response.field("sec-websocket-accept"), Some(ACCEPT), "{response}");
        (Self { client }, response)
    }

    /// A whole message in one frame.
    #[track_caller]
    pub fn send(&mut self, opcode: u8, payload: impl AsRef<[u8]>) {
        self.client.send(masked(0x80 | opcode, payload.as_ref()));
    }

    /// The next frame.
    #[track_caller]
    pub fn frame(&mut self) -> Frame {
        let start = self.client.read_raw(2);
        let (first, length) = (start[0], start[1]);
        assert_eq!((first & 0x30, length & 0x80), (0, 0), "a server sets neither these bits nor a mask: {start:x?}");
        let mut number = |count| self.client.read_raw(count).iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        let length = match length {
            126 => number(2),
            127 => number(8),
            short => usize::from(short),
        };
        Frame {
            last: first & 0x80 != 0,
            compressed: first & 0x40 != 0,
            opcode: first & 0x0F,
            payload: self.client.read_raw(length),
        }
    }

    /// The next message, its fragments put together. A control frame is one of its own.
    #[track_caller]
    pub fn message(&mut self) -> (u8, Vec<u8>) {
        let mut first = self.frame();
        while !first.last {
            let next = self.frame();
            assert_eq!(next.opcode, CONTINUATION, "within a message");
            first.payload.extend(next.payload);
            first.last = next.last;
        }
        (first.opcode, first.payload)
    }

    #[track_caller]
    pub fn expect(&mut self, opcode: u8, payload: impl AsRef<[u8]>) {
        let (got, came) = self.message();
        let shown = String::from_utf8_lossy(&came[..came.len().min(200)]);
        assert!(got == opcode && came == payload.as_ref(), "opcode {got}, {} bytes: {shown:?}", came.len());
    }

    /// Sends a text to an app that sends it back.
    #[track_caller]
    pub fn echo(&mut self, text: &str) {
        self.send(TEXT, text);
        self.expect(TEXT, text);
    }

    /// Reads a close frame with this code, answers it, and sees the connection end.
    #[track_caller]
    pub fn closed_with(mut self, code: u16, reason: &str) {
        self.expect(CLOSE, close_payload(code, reason));
        let _ = self.client.try_send(masked(0x80 | CLOSE, &code.to_be_bytes()));
        self.client.closed();
    }

    /// Closes as the protocol says, and waits for the server to do so.
    #[track_caller]
    pub fn close(mut self, code: u16) {
        self.send(CLOSE, code.to_be_bytes());
        let mut frame = self.frame();
        while frame.opcode == PING {
            frame = self.frame();
        }
        assert_eq!((frame.opcode, frame.payload.len()), (CLOSE, 2));
        self.client.closed();
    }
}
