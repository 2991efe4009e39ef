//! The PROXY protocol: a header says the same however it arrives, takes its own bytes and no more, and what a line or a
//! binary header means is what its specification says.

use std::io::{Cursor, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use bytes::BytesMut;
use propylon::edge::proxy_protocol::{Announced, read};
use regex::bytes::Regex;

/// Bounds of the specification, section 2.1, and of the gateway.
const LINE_MAX: usize = 107;
const VARIABLE_MAX: usize = 4096;

static LINE: LazyLock<Regex> = LazyLock::new(|| {
    let port = "(0|[1-9][0-9]{0,4})";
    let client = format!("(TCP[46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) {port} {port}");
    Regex::new(&format!(r"(?s-u)^PROXY (?:{client}|UNKNOWN(?: [\x00-\x09\x0b-\x7f]*)?)\r\n")).expect("a grammar")
});

#[derive(Debug, PartialEq, Eq)]
enum Reading {
    /// And so many bytes taken.
    Header(Announced, usize),
    NeedsMore,
    Malformed,
}

/// Takes the first bytes of a connection.
pub fn check(input: &[u8]) {
    let expected = reference(input);
    for piece in [usize::MAX, 1, 7] {
        let found = fed(input, piece);
        assert!(found == expected, "in pieces of {piece}: {found:?} instead of {expected:?}: {}", input.escape_ascii());
    }
    if let Reading::Header(Announced::Client(address), length) = expected {
        assert_eq!(address.ip(), address.ip().to_canonical(), "one spelling of one client");
        let text = match address {
            SocketAddr::V4(v4) => format!("PROXY TCP4 {} 192.0.2.9 {} 443\r\n", v4.ip(), v4.port()),
            SocketAddr::V6(v6) => format!("PROXY TCP6 {} 2001:db8::9 {} 443\r\n", v6.ip(), v6.port()),
        };
        let (length_again, beyond) = (text.len(), &input[length..]);
        let again = fed(&[text.as_bytes(), beyond].concat(), usize::MAX);
        assert_eq!(again, Reading::Header(Announced::Client(address), length_again));
    }
}

/// What is read as the bytes arrive.
fn fed(input: &[u8], piece: usize) -> Reading {
    let (mut buf, mut given) = (BytesMut::new(), 0);
    for piece in input.chunks(piece.min(input.len().max(1))) {
        buf.extend_from_slice(piece);
        given += piece.len();
        match read(&mut buf) {
            Ok(None) => assert_eq!(&buf[..], &input[..given], "what is not whole is left as it is"),
            Ok(Some(announced)) => {
                let length = given - buf.len();
                assert_eq!(&buf[..], &input[length..given], "what follows is somebody else's");
                return Reading::Header(announced, length);
            }
            Err(malformed) => {
                assert!(!malformed.0.is_empty());
                return Reading::Malformed;
            }
        }
    }
    assert!(buf.len() < 16 + VARIABLE_MAX, "{} bytes are waited with", buf.len());
    Reading::NeedsMore
}

/// The same from the whole input.
fn reference(input: &[u8]) -> Reading {
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    if signature.starts_with(&input[..input.len().min(12)]) {
        return if input.len() < 16 { Reading::NeedsMore } else { binary(&input[12..]).unwrap_or(Reading::Malformed) };
    }
    if !b"PROXY ".starts_with(&input[..input.len().min(6)]) {
        return Reading::Malformed;
    }
    match LINE.captures(&input[..input.len().min(LINE_MAX)]) {
        Some(parts) => {
            let text = |index| parts.get(index).map(|part| String::from_utf8_lossy(part.as_bytes()).into_owned());
            let length = parts.get(0).map_or(0, |line| line.len());
            let Some(kind) = text(1) else { return Reading::Header(Announced::Peer, length) };
            let address = |index| text(index)?.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv4() == (kind == "TCP4"));
            let port = |index| text(index)?.parse::<u16>().ok();
            let both = || Some((address(2)?, address(3)?, port(4)?, port(5)?));
            both().map_or(Reading::Malformed, |(ip, _, port, _)| {
                Reading::Header(Announced::Client(SocketAddr::new(ip.to_canonical(), port)), length)
            })
        }
        None if input.len() < LINE_MAX && !input.contains(&b'\n') => Reading::NeedsMore,
        None => Reading::Malformed,
    }
}

/// Version 2 behind its signature; None: it breaks the specification.
fn binary(input: &[u8]) -> Option<Reading> {
    let mut bytes = Cursor::new(input);
    let [command, family] = taken(&mut bytes)?;
    let length = usize::from(u16::from_be_bytes(taken(&mut bytes)?));
    if length > VARIABLE_MAX || command >> 4 != 2 || command & 0xf > 1 {
        return None;
    }
    if input.len() < 4 + length {
        return Some(Reading::NeedsMore);
    }
    let mut bytes = Cursor::new(&input[4..4 + length]);
    let client = |ip: IpAddr, port| Announced::Client(SocketAddr::new(ip.to_canonical(), u16::from_be_bytes(port)));
    let announced = match (command & 1, family) {
        (0, _) | (1, 0x00) => Announced::Peer,
        (1, 0x11) => {
            let [source, _] = [taken::<4>(&mut bytes)?, taken(&mut bytes)?];
            let [port, _] = [taken(&mut bytes)?, taken(&mut bytes)?];
            client(source.into(), port)
        }
        (1, 0x21) => {
            let [source, _] = [taken::<16>(&mut bytes)?, taken(&mut bytes)?];
            let [port, _] = [taken(&mut bytes)?, taken(&mut bytes)?];
            client(source.into(), port)
        }
        (1, 0x31) => taken::<216>(&mut bytes).map(|_| Announced::Peer)?,
        _ => return None,
    };
    Some(Reading::Header(announced, 12 + 4 + length))
}

fn taken<const N: usize>(bytes: &mut Cursor<&[u8]>) -> Option<[u8; N]> {
    let mut taken = [0; N];
    bytes.read_exact(&mut taken).ok()?;
    Some(taken)
}
