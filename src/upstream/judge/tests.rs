//! Responses of every kind, whole and in pieces.

use proptest::prelude::*;

use super::*;

/// Feeds pieces as a stream does: what is to wait is brought again with more. What was passed on, and whether the response was whole.
fn feed(expected: Expected, pieces: &[&[u8]]) -> Result<(Vec<u8>, bool), Malformed> {
    let mut judge = Judge::new(expected);
    let (mut kept, mut passed) = (Vec::new(), Vec::new());
    for piece in pieces {
        kept.extend_from_slice(piece);
        match judge.judge(&kept)? {
            Verdict::Wait => {}
            Verdict::Pass(count) => {
                passed.extend(kept.drain(..count));
                if judge.is_done() {
                    return Ok((passed, true));
                }
            }
            Verdict::Switched(count, _) => {
                passed.extend(kept.drain(..count));
                return Ok((passed, true));
            }
        }
    }
    Ok((passed, judge.is_done()))
}

fn whole(expected: Expected, bytes: &[u8]) -> Result<(Vec<u8>, bool), Malformed> {
    feed(expected, &[bytes])
}

const PLAIN: Expected = Expected { head_only: false, upgrade: false };
const HEAD: Expected = Expected { head_only: true, upgrade: false };
const UPGRADE: Expected = Expected { head_only: false, upgrade: true };

#[test]
fn responses_that_are_well_formed_pass_as_they_are() {
    for (expected, text, done) in [
        (PLAIN, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true),
        (PLAIN, "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\ncontent-length: 5\r\n\r\nhello", true),
        (PLAIN, "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", true),
        (PLAIN, "HTTP/1.1 200 \r\nContent-Length:0\r\n\r\n", true),
        (PLAIN, "HTTP/1.0 200 OK\r\n\r\nall there is", false),
        (PLAIN, "HTTP/1.1 204 No Content\r\n\r\n", true),
        (PLAIN, "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", true),
        (PLAIN, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", true),
        (PLAIN, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", true),
        (PLAIN, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", true),
        (
            PLAIN,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\nA;x=\"y\"\r\n0123456789\r\n000\r\nX: y\r\nZ:\r\n\r\n",
            true,
        ),
        (PLAIN, "HTTP/1.1 200 OK\r\nX: caf\u{e9} \t\r\nContent-Length: 2\r\n\r\nab", true),
        (HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true),
        (HEAD, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true),
        (UPGRADE, "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno", true),
        (
            UPGRADE,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\r\n",
            true,
        ),
    ] {
        assert_eq!(whole(expected, text.as_bytes()), Ok((text.as_bytes().to_vec(), done)), "{text:?}");
    }
}

#[test]
fn what_stands_behind_a_response_is_not_passed_on() {
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    ] {
        let more = format!("{text}HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(whole(PLAIN, more.as_bytes()), Ok((text.as_bytes().to_vec(), true)), "{text:?}");
    }
    let head = b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: y\r\n\r\n";
    for interim in ["", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"] {
        let bytes = [interim.as_bytes(), head, b"\x81\x05hello"].concat();
        let verdict = Judge::new(UPGRADE).judge(&bytes);
        let Ok(Verdict::Switched(length, switched)) = verdict else { panic!("{verdict:?}") };
        assert_eq!(length, interim.len() + head.len());
        assert_eq!(switched.fields[2].0, "sec-websocket-accept");
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
            (at_once, in_pieces) => prop_assert_eq!(at_once.is_err(), in_pieces.is_err()),
        }
    }
}
