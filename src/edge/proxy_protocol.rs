//! The PROXY protocol, versions 1 and 2: the first bytes of a connection, by which a proxy that passes on bytes says whose they
//! are (its specification is HAProxy's doc/proxy-protocol.txt).
//!
//! Pure over a buffer. Whose word is believed is for the caller.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BytesMut};

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// The proxy speaks for this client.
    Client(SocketAddr),
    /// It speaks for itself (LOCAL), or for somebody without an address that is of use here (UNKNOWN, UNSPEC, a Unix socket).
    Peer,
}

/// A header that breaks the specification; the text says how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Version 1, with its CRLF (section 2.1).
const LINE_MAX: usize = 107;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2 before its addresses.
const FIXED: usize = 16;
/// Bytes of addresses and extensions; those in use need some hundred, certificates a little more.
const VARIABLE_MAX: usize = 4096;

/// Takes a header off the front of `buf`. None: it is not whole yet.
///
/// # Errors
/// [`Malformed`]: the connection has no meaning.
pub fn read(buf: &mut BytesMut) -> Result<Option<Announced>, Malformed> {
    if matches(buf, SIGNATURE) {
        return version_2(buf);
    }
    if matches(buf, b"PROXY ") {
        return version_1(buf);
    }
    Err(Malformed("no PROXY protocol header"))
}

/// Whether `buf` begins with `start`, as far as it goes.
fn matches(buf: &[u8], start: &[u8]) -> bool {
    buf.iter().zip(start).all(|(have, want)| have == want)
}

fn version_1(buf: &mut BytesMut) -> Result<Option<Announced>, Malformed> {
    let Some(lf) = memchr::memchr(b'\n', buf.get(..buf.len().min(LINE_MAX)).unwrap_or_default()) else {
        return if buf.len() >= LINE_MAX { Err(Malformed("line too long")) } else { Ok(None) };
    };
    let line = buf.split_to(lf + 1);
    let line = line.strip_suffix(b"\r\n").ok_or(Malformed("line feed without carriage return"))?;
    let line = std::str::from_utf8(line).ok().filter(|line| line.is_ascii()).ok_or(Malformed("byte outside ASCII"))?;
    let mut words = line.split(' ').skip(1);
    let kind = words.next().unwrap_or_default();
    if kind == "UNKNOWN" {
        // Whatever follows is to be ignored.
        return Ok(Some(Announced::Peer));
    }
    let words: Vec<&str> = words.collect();
    let [source, destination, source_port, destination_port] = words.as_slice() else {
        return Err(Malformed("expected two addresses and two ports"));
    };
    let address = |text: &str| -> Option<IpAddr> {
        match kind {
            "TCP4" => text.parse().ok().map(IpAddr::V4),
            "TCP6" => text.parse().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (Some(source), Some(_)) = (address(source), address(destination)) else {
        return Err(Malformed("invalid address"));
    };
    let (Some(port), Some(_)) = (port(source_port), port(destination_port)) else {
        return Err(Malformed("invalid port"));
    };
    Ok(Some(client(source, port)))
}

/// Digits, without zeros in front.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn client(ip: IpAddr, port: u16) -> Announced {
    Announced::Client(SocketAddr::new(ip.to_canonical(), port))
}

fn version_2(buf: &mut BytesMut) -> Result<Option<Announced>, Malformed> {
    let Some(&[command, family, high, low]) = buf.get(SIGNATURE.len()..FIXED).and_then(<[u8]>::first_chunk::<4>) else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > VARIABLE_MAX {
        return Err(Malformed("header too long"));
    }
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed("unknown version or command")),
    };
    if buf.len() < FIXED + length {
        return Ok(None);
    }
    buf.advance(FIXED);
    let addresses = buf.split_to(length);
    if is_local {
        return Ok(Some(Announced::Peer));
    }
    let announced = match family {
        // Source and destination address, source and destination port.
        0x11 => addresses.first_chunk::<12>().map(|&[a, b, c, d, _, _, _, _, high, low, _, _]| {
            client(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), u16::from_be_bytes([high, low]))
        }),
        0x21 => addresses.first_chunk::<36>().and_then(|bytes| {
            let ip = Ipv6Addr::from(*bytes.first_chunk::<16>()?);
            let port = u16::from_be_bytes(*bytes.get(32..34)?.first_chunk::<2>()?);
            Some(client(IpAddr::V6(ip), port))
        }),
        0x31 => (addresses.len() >= 216).then_some(Announced::Peer),
        0x00 => Some(Announced::Peer),
        _ => return Err(Malformed("a family of addresses that no TCP connection has")),
    };
    announced.map(Some).ok_or(Malformed("addresses cut short"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(bytes: &[u8]) -> Result<Option<(Announced, Vec<u8>)>, Malformed> {
        let mut buf = BytesMut::from(bytes);
        Ok(read(&mut buf)?.map(|announced| (announced, buf.to_vec())))
    }

    fn client_at(address: &str) -> Announced {
        Announced::Client(address.parse().unwrap())
    }

    fn second(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(addresses.len()).unwrap().to_be_bytes());
        bytes.extend(addresses);
        bytes
    }

    #[test]
    fn version_1_lines() {
        let cases = [
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET", Some((client_at("192.0.2.1:56324"), "GET"))),
            ("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", Some((client_at("[2001:db8::1]:1"), ""))),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", Some((client_at("192.0.2.1:1"), ""))),
            ("PROXY UNKNOWN\r\nx", Some((Announced::Peer, "x"))),
            ("PROXY UNKNOWN ffff::1 what ever\r\n", Some((Announced::Peer, ""))),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 1 443\r", None),
            ("PROX", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(announced, rest)| (announced, rest.as_bytes().to_vec()));
            assert_eq!(read_all(text.as_bytes()), Ok(expected), "{text:?}");
        }
        let long = format!("PROXY UNKNOWN {}", "x".repeat(200));
        for text in [
            "GET / HTTP/1.1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 443\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY\r\n",
            "proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            &long,
        ] {
            assert!(read_all(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn version_2_headers() {
        let four = [192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x34, 1, 187];
        let announced = |bytes: &[u8]| read_all(bytes).map(|read| read.map(|(announced, _)| announced));
        assert_eq!(announced(&second(0x21, 0x11, &four)), Ok(Some(client_at("192.0.2.1:4660"))));
        let with_extensions = [&four[..], &[3, 0, 4, 1, 2, 3, 4]].concat();
        let bytes = [&second(0x21, 0x11, &with_extensions)[..], b"rest"].concat();
        assert_eq!(read_all(&bytes), Ok(Some((client_at("192.0.2.1:4660"), b"rest".to_vec()))));
        let mut six = [0; 36];
        six[15] = 1;
        six[33] = 80;
        assert_eq!(announced(&second(0x21, 0x21, &six)), Ok(Some(client_at("[::1]:80"))));
        assert_eq!(announced(&second(0x20, 0x11, &four)), Ok(Some(Announced::Peer)));
        assert_eq!(announced(&second(0x20, 0x00, &[])), Ok(Some(Announced::Peer)));
        assert_eq!(announced(&second(0x21, 0x00, &[1, 2])), Ok(Some(Announced::Peer)));
        assert_eq!(announced(&second(0x21, 0x31, &[0; 216])), Ok(Some(Announced::Peer)));
        for (command, family, addresses) in [
            (0x11, 0x11, &four[..]),
            (0x22, 0x11, &four),
            (0x21, 0x12, &four),
            (0x21, 0x11, &four[..11]),
            (0x21, 0x21, &four),
            (0x21, 0x31, &four),
            (0x21, 0x11, &[0; VARIABLE_MAX + 1]),
        ] {
            assert!(announced(&second(command, family, addresses)).is_err(), "{command:#x} {family:#x}");
        }
    }

    proptest! {
        #[test]
        fn a_header_in_pieces_says_the_same(
            bytes in prop_oneof![
                "PROXY (TCP4|TCP6|UNKNOWN)( [0-9a-f.:]{1,12}){0,5}\r\n.{0,9}".prop_map(String::into_bytes),
                prop::collection::vec(any::<u8>(), 0..60).prop_map(|rest| [&SIGNATURE[..], &rest].concat()),
                prop::collection::vec(any::<u8>(), 0..200),
            ]
        ) {
            let mut buf = BytesMut::new();
            let mut read_so_far = Ok(None);
            let mut fed = 0;
            for byte in &bytes {
                buf.extend_from_slice(&[*byte]);
                fed += 1;
                read_so_far = read(&mut buf);
                if read_so_far != Ok(None) {
                    break;
                }
            }
            let whole = read_all(&bytes);
            prop_assert_eq!(read_so_far.is_err(), whole.is_err());
            if let (Ok(Some(announced)), Ok(Some((expected, rest)))) = (read_so_far, whole) {
                prop_assert_eq!(announced, expected);
                prop_assert_eq!(&bytes[fed..], &rest[..]);
            }
        }
    }
}
