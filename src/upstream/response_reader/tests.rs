//! Responses of every kind, whole and in pieces.

use proptest::prelude::*;

use super::*;
use crate::message::put_field;

/// What was made of a response: its head as text, its body, whether it was whole, and what was left.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    head: String,
    body: Vec<u8>,
    whole: bool,
    switched: bool,
    left: Vec<u8>,
}

/// Feeds pieces as a connection does.
fn feed(expected: Expected, pieces: &[&[u8]]) -> Result<Read, Malformed> {
    let mut reader = ResponseReader::new(expected);
    let mut read = Read { head: String::new(), body: Vec::new(), whole: false, switched: false, left: Vec::new() };
    let mut buf = BytesMut::new();
    'pieces: for piece in pieces {
        buf.extend_from_slice(piece);
        while !read.whole && !read.switched {
            match reader.next(&mut buf)? {
                None => continue 'pieces,
                Some(Piece::Interim) => {}
                Some(Piece::Head(head)) => read.head = text(&head),
                Some(Piece::Body(data)) => read.body.extend_from_slice(&data),
                Some(Piece::End) => read.whole = true,
                Some(Piece::Switched(head)) => {
                    read.head = text(&head);
                    read.switched = true;
                }
            }
        }
    }
    assert_eq!(read.whole || read.switched, reader.is_done());
    read.left = buf.to_vec();
    Ok(read)
}

fn text(head: &ResponseHead) -> String {
    let mut text = BytesMut::new();
    for (name, value) in head.fields() {
        put_field(&mut text, name, value);
    }
    format!("{} {}|{}", head.status.as_u16(), head.reason().escape_ascii(), text.escape_ascii())
}

fn whole(expected: Expected, bytes: &[u8]) -> Result<Read, Malformed> {
    feed(expected, &[bytes])
}

const PLAIN: Expected = Expected { head_only: false, upgrade: false };
const HEAD: Expected = Expected { head_only: true, upgrade: false };
const UPGRADE: Expected = Expected { head_only: false, upgrade: true };

#[test]
fn responses_that_are_well_formed_are_read_as_they_are() {
    let old = "200 OK|";
    for (expected, bytes, head, body, end) in [
        (PLAIN, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "200 OK|Content-Length: 5\\r\\n", "hello", true),
        (
            PLAIN,
            "HTTP/1.1 200 OK\r\ncontent-LENGTH: 5, 5\r\ncontent-length: 5\r\n\r\nhello",
            "200 OK|content-LENGTH: 5\\r\\n",
            "hello",
            true,
        ),
        (PLAIN, "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "200 |Content-Length: 0\\r\\n", "", true),
        (
            PLAIN,
            "HTTP/1.1 200 \r\nX-a:b\r\nContent-Length:0\r\n\r\n",
            "200 |X-a: b\\r\\nContent-Length: 0\\r\\n",
            "",
            true,
        ),
        (PLAIN, "HTTP/1.1 299 Fine so\r\nContent-Length:0\r\n\r\n", "299 Fine so|Content-Length: 0\\r\\n", "", true),
        (PLAIN, "HTTP/1.0 200 OK\r\n\r\nall there is", old, "all there is", false),
        (PLAIN, "HTTP/1.1 204 No Content\r\n\r\n", "204 No Content|", "", true),
        (
            PLAIN,
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            "304 Not Modified|Content-Length: 5\\r\\n",
            "",
            true,
        ),
        (
            PLAIN,
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            "200 OK|Content-Length: 1\\r\\n",
            "x",
            true,
        ),
        (
            PLAIN,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\nA;x=\"y\"\r\n0123456789\r\n000\r\nX: y\r\nZ:\r\n\r\n",
            "200 OK|Transfer-Encoding: Chunked\\r\\n",
            "0123456789",
            true,
        ),
        (
            PLAIN,
            "HTTP/1.1 200 OK\r\nX: \tcaf\u{e9} \t\r\nX: b\r\nContent-Length: 2\r\n\r\nab",
            "200 OK|X: caf\\xc3\\xa9\\r\\nX: b\\r\\nContent-Length: 2\\r\\n",
            "ab",
            true,
        ),
        (HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "200 OK|Content-Length: 5\\r\\n", "", true),
        (
            UPGRADE,
            "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno",
            "426 Upgrade Required|Content-Length: 2\\r\\n",
            "no",
            true,
        ),
    ] {
        let read = whole(expected, bytes.as_bytes()).unwrap_or_else(|error| panic!("{bytes:?}: {error:?}"));
        let expected = Read { head: head.to_owned(), body: body.into(), whole: end, switched: false, left: Vec::new() };
        assert_eq!(read, expected, "{bytes:?}");
    }
}

#[test]
fn a_connection_is_used_again_only_where_both_readings_agree() {
    for (expected, bytes, reusable) in [
        (PLAIN, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
        (PLAIN, "HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n", true),
        (PLAIN, "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", true),
        (HEAD, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true),
        (PLAIN, "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 0\r\n\r\n", false),
        (PLAIN, "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false),
        (PLAIN, "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", false),
        (PLAIN, "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", false),
    ] {
        let mut reader = ResponseReader::new(expected);
        let mut buf = BytesMut::from(bytes);
        assert!(matches!(reader.next(&mut buf), Ok(Some(Piece::Head(_)))), "{bytes:?}");
        assert!(reader.is_done(), "{bytes:?}");
        assert_eq!(reader.is_reusable(), reusable, "{bytes:?}");
    }
    let mut reader = ResponseReader::new(PLAIN);
    let mut buf = BytesMut::from("HTTP/1.1 200 OK\r\n\r\nabc");
    while reader.next(&mut buf).unwrap().is_some() {}
    assert!(reader.end_with_connection() && reader.is_done() && !reader.is_reusable());
}

#[test]
fn what_stands_behind_a_response_is_left_where_it_is() {
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    ] {
        let read = whole(PLAIN, format!("{text}HTTP/1.1 200 OK\r\n\r\n").as_bytes()).unwrap();
        assert!(read.whole && read.left == b"HTTP/1.1 200 OK\r\n\r\n", "{text:?}: {read:?}");
    }
    for interim in ["", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"] {
        let head = "HTTP/1.1 101 x\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Accept: y\r\n\r\n";
        let bytes = [interim.as_bytes(), head.as_bytes(), b"\x81\x05hello"].concat();
        let read = whole(UPGRADE, &bytes).unwrap();
        assert!(
            read.switched && read.left == b"\x81\x05hello" && read.head.contains("Sec-WebSocket-Accept: y"),
            "{read:?}"
        );
    }
}

#[test]
fn what_has_two_readings_is_refused() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(70_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(300));
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(17);
    let trailers = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}", "X: y\r\n".repeat(3000));
    let head = "HTTP/1.1 200 OK\r\n";
    let chunked = |body: &str| format!("{head}Transfer-Encoding: chunked\r\n\r\n{body}");
    let with = |fields: &str| format!("{head}{fields}\r\n\r\n");
    for text in [
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n".to_owned(),
        "\r\nHTTP/1.1 200 OK\r\n\r\n".to_owned(),
        "HTTP/2.0 200 OK\r\n\r\n".to_owned(),
        "HTTP/1.1  200 OK\r\n\r\n".to_owned(),
        "http/1.1 200 OK\r\n\r\n".to_owned(),
        "HTTP/1.1 99 x\r\n\r\n".to_owned(),
        "HTTP/1.1 600 x\r\n\r\n".to_owned(),
        "HTTP/1.1 2000 x\r\n\r\n".to_owned(),
        "HTTP/1.1 200OK\r\n\r\n".to_owned(),
        "HTTP/1.1 200 a\rb\r\n\r\n".to_owned(),
        with("X : y"),
        with(" X: y"),
        with("X: y\r\n folded"),
        with("X"),
        with(": y"),
        with("X: a\rb"),
        with("X: a\0b"),
        with("X: a\u{7f}b"),
        with("X\"Y: z"),
        with("Content-Length: 5, 6"),
        with("Content-Length: 5\r\nContent-Length: 6"),
        with("Content-Length: +5"),
        with("Content-Length: -5"),
        with("Content-Length: 0x5"),
        with("Content-Length: 5 5"),
        with("Content-Length:"),
        with("Content-Length: 5\r"),
        with("Content-Length: 5,\u{c}5"),
        with("Content-Length: 5\r\nContent-Length: \r5"),
        with("Content-Length: 99999999999999999999"),
        with("Content-Length: 5\r\nTransfer-Encoding: chunked"),
        with("Transfer-Encoding: chunked\r\nContent-Length: 5"),
        with("Transfer-Encoding: gzip, chunked"),
        with("Transfer-Encoding: identity"),
        with("Transfer-Encoding: xchunked"),
        with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        "HTTP/1.1 103 x\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".to_owned(),
        chunked("\r\n"),
        chunked(";x\r\n"),
        chunked(" 5\r\nhello\r\n"),
        chunked("5 \r\nhello\r\n"),
        chunked("5\nhello\r\n"),
        chunked("+5\r\nhello\r\n"),
        chunked("0x5\r\nhello\r\n"),
        chunked("5\r\nhelloX\r\n"),
        chunked("5\r\nhello\n0\r\n"),
        chunked("5;a\rb\r\nhello"),
        chunked("5;a\0\r\nhello"),
        chunked("1000000000000000\r\n"),
        chunked(&format!("5;{}\r\n", "x".repeat(300))),
        chunked("0\r\nX\r\n\r\n"),
        chunked("0\r\n X: y\r\n\r\n"),
        chunked("0\r\nX: a\0\r\n\r\n"),
        chunked("0\r\n\rX"),
        long,
        many,
        interim,
        trailers,
    ] {
        assert!(whole(PLAIN, text.as_bytes()).is_err(), "{text:.200}");
    }
    for text in [
        "HTTP/1.1 101 x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 x\r\nUpgrade: websocket, h2c\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 x\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.0 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ] {
        assert!(whole(UPGRADE, text.as_bytes()).is_err(), "{text:?}");
    }
}

fn some_response() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        "(Content-Length|Transfer-Encoding|Connection|X-A): ?(5|chunked|close|[ -~]{0,6})",
        "[A-Za-z-]{1,8}: [ -~]{0,12}",
    ];
    let body = prop_oneof![
        "[0-9a-f]{1,2}(;a=b)?\r\n.{0,8}\r\n0\r\n(X: y\r\n)?\r\n",
        ".{0,20}",
        "(3\r\nabc\r\n){0,4}0\r\n\r\n"
    ];
    let status = prop_oneof!["HTTP/1.[01] (200|204|304|100|103|500)( OK)?", "[ -~]{0,20}"];
    (status, prop::collection::vec(field, 0..5), body).prop_map(|(status, fields, body)| {
        let fields: String = fields.into_iter().map(|field| field + "\r\n").collect();
        format!("{status}\r\n{fields}\r\n{body}").into_bytes()
    })
}

proptest! {
    #[test]
    fn how_the_bytes_are_cut_means_nothing(
        bytes in prop_oneof![some_response(), prop::collection::vec(any::<u8>(), 0..200)],
        cuts in prop::collection::vec(1..30_usize, 1..10),
        upgrade: bool,
        head_only: bool,
    ) {
        let expected = Expected { head_only, upgrade };
        let mut pieces = Vec::new();
        let mut rest = &bytes[..];
        for size in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        match (whole(expected, &bytes), feed(expected, &pieces)) {
            (Ok(at_once), Ok(in_pieces)) => prop_assert_eq!(at_once, in_pieces),
            // What is wrong behind a piece that was passed on already.
            (at_once, in_pieces) => prop_assert_eq!(at_once.is_err(), in_pieces.is_err()),
        }
    }
}
