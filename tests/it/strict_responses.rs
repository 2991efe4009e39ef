//! Responses are judged as strictly as requests: what has two readings is 502, or torn where the head was passed on already, and the
//! connection it came on serves nobody else (RFC 9112, RFC 9110).

// Counters are whole numbers, and small ones.
#![allow(clippy::float_cmp)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::*;
use crate::in_flight::nothing_in_flight;

const TOML: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[admin]
listen = ["127.0.0.1:0"]
[log]
access = "{dir}/access.log"
[upstreams.app]
endpoints = ["{origin}"]
[[routes]]
upstream = "app"
"#;

fn gateway(origin: &Origin) -> Gateway {
    Gateway::with(TOML).set("origin", origin.address()).start()
}

/// Answers `/NUMBER/SIZE` with that case, so many bytes at a time, and `/good` with 200. The gateway is to give up
/// the connection of a case.
fn reciting(cases: Vec<String>) -> Origin {
    Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            let Some((number, size)) = request.target[1..].split_once('/') else {
                connection.answer(200, "good");
                continue;
            };
            let bytes = cases[number.parse::<usize>().unwrap()].as_bytes();
            for piece in bytes.chunks(size.parse().unwrap()) {
                if !connection.write(piece) {
                    break;
                }
            }
            assert_eq!(connection.read_rest(), b"", "the connection must not be used again");
            return;
        }
    })
}

/// How many connections had requests; the gateway looks at its start whether there is somebody.
fn used(origin: &Origin) -> usize {
    origin.requests().iter().map(|request| request.connection).collect::<BTreeSet<_>>().len()
}

const HEAD: &str = "HTTP/1.1 200 OK\r\n";

fn with(fields: &str) -> String {
    format!("{HEAD}{fields}\r\n\r\n")
}

fn chunked(body: &str) -> String {
    format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{body}")
}

/// What is wrong within the head.
fn bad_heads() -> Vec<String> {
    let lines = [
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 99 x\r\n\r\n",
        "HTTP/1.1 600 x\r\n\r\n",
        "HTTP/1.1 2000 x\r\n\r\n",
        "HTTP/1.1 200OK\r\n\r\n",
        "HTTP/1.1 200 a\rb\r\n\r\n",
        "HTTP/1.1 200 a\0b\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 103 x\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ];
    let fields = [
        "X : y",
        " X: y",
        "X: y\r\n folded",
        "X: y\r\n\tfolded",
        "X",
        ": y",
        "X: a\rb",
        "X: a\0b",
        "X: a\u{7f}b",
        "X\"Y: z",
        "X\u{e9}: z",
        "Content-Length: 5, 6",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ];
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(70_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(300));
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(17);
    let lines = lines.into_iter().map(str::to_owned);
    lines.chain(fields.into_iter().map(with)).chain([long, many, interim]).collect()
}

/// What is wrong within a chunked body, behind two good chunks.
fn bad_chunks() -> Vec<String> {
    let long = format!("5;{}\r\n", "x".repeat(300));
    let trailers = format!("0\r\n{}", "X: y\r\n".repeat(3000));
    let bodies = [
        "\r\n",
        ";x\r\n",
        " 5\r\nhello\r\n",
        "5 \r\nhello\r\n",
        "5\nhello\r\n",
        "+5\r\nhello\r\n",
        "0x5\r\nhello\r\n",
        "g\r\n",
        "5\r\nhelloX\r\n",
        "5\r\nhello\n0\r\n",
        "5;a\rb\r\nhello",
        "5;a\0\r\nhello",
        "1000000000000000\r\n",
        &long,
        "0\r\nX\r\n\r\n",
        "0\r\n X: y\r\n\r\n",
        "0\r\nX: a\0\r\n\r\n",
        "0\r\n\rX",
        &trailers,
    ];
    bodies.iter().map(|body| chunked(&format!("3\r\none\r\n3\r\ntwo\r\n{body}"))).collect()
}

#[track_caller]
fn is_refused(cases: &[String], check: impl Fn(&str, Result<Response, Broken>)) {
    let origin = reciting(cases.to_vec());
    let gateway = gateway(&origin);
    let mut asked = 0;
    for size in [1, 7, 1_000_000] {
        for (number, case) in cases.iter().enumerate() {
            // What is that long drips in larger pieces.
            let size = if case.len() > 2000 { size.max(1000) } else { size };
            let mut client = gateway.connect();
            client.send_request("GET", &format!("/{number}/{size}"), &[], "");
            check(case, client.try_response());
            asked += 1;
            let line = gateway.access_log(asked).pop().unwrap();
            assert_eq!(
                (&line["reason"], &line["retries"]),
                (&"upstream_invalid".into(), &0.into()),
                "{case:.200}\n{line}"
            );
        }
        assert_eq!(gateway.get("/good").expect(200).text(), "good");
        asked += 1;
    }
    nothing_in_flight(&gateway);
    let metrics = gateway.metrics();
    let refused = f64::from(u32::try_from(3 * cases.len()).unwrap());
    assert_eq!(metrics.value("propylon_upstream_errors_total", &[("kind", "invalid_response")]), Some(refused));
    assert_eq!(metrics.value("propylon_upstream_errors_total", &[]), Some(refused), "and of no other kind");
    // It is no sign of an endpoint that is not there, and what a client asks for may have called it forth.
    assert_eq!(metrics.value("propylon_endpoint_ejected", &[]), Some(0.0));
    assert_eq!(origin.wait_for_requests(asked).len(), asked, "none was repeated");
}

#[test]
fn a_head_with_two_readings_is_502() {
    is_refused(&bad_heads(), |case, response| {
        assert!(matches!(&response, Ok(response) if response.status == 502), "{case:.200}: {response:?}");
    });
}

#[test]
fn a_body_whose_framing_breaks_is_never_whole_to_the_client() {
    is_refused(&bad_chunks(), |case, response| match response {
        Ok(response) => assert_eq!(response.status, 502, "{case:.200}: {response}"),
        Err(broken) => {
            let came = broken.truncated();
            assert!(b"onetwohello".starts_with(&came.body), "{case:.200}: {came}");
        }
    });
}

#[test]
fn what_has_one_reading_arrives() {
    let cases: Vec<(&str, &str, u16, &str, bool)> = vec![
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", true),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\ncontent-length: 5\r\n\r\nhello", 200, "hello", true),
        ("GET", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, "", true),
        ("GET", "HTTP/1.1 200 \r\nContent-Length:0\r\n\r\n", 200, "", true),
        ("GET", "HTTP/1.0 200 OK\r\n\r\nall there is", 200, "all there is", false),
        ("GET", "HTTP/1.1 200 OK\r\n\r\nall there is", 200, "all there is", false),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", true),
        // What it announces may follow.
        ("GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", 204, "", false),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, "", false),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 204, "", true),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, "", true),
        ("GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", 304, "", false),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            200,
            "x",
            true,
        ),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\nContent-Length: 3\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            200,
            "x",
            true,
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\nA;x=\"y\"\r\n0123456789\r\n000\r\nX: y\r\nZ:\r\n\r\n",
            200,
            "0123456789",
            true,
        ),
        ("GET", "HTTP/1.1 200 OK\r\nX: caf\u{e9} \t\r\nContent-Length: 2\r\n\r\nab", 200, "ab", true),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, "", true),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, "", true),
        ("HEAD", "HTTP/1.1 200 OK\r\n\r\n", 200, "", true),
        ("GET", "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno", 426, "no", true),
    ];
    let ends: Vec<bool> = cases.iter().map(|case| case.4).collect();
    let texts: Vec<String> = cases.iter().map(|case| case.1.to_owned()).collect();
    let origin = Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            let (number, size) = request.target[1..].split_once('/').unwrap();
            let number: usize = number.parse().unwrap();
            texts[number].as_bytes().chunks(size.parse().unwrap()).for_each(|piece| {
                connection.write(piece);
            });
            if !ends[number] {
                return;
            }
        }
    });
    let gateway = gateway(&origin);
    let mut closed = 0;
    for size in [1, 5, 1_000_000] {
        for (number, (method, text, status, body, ends)) in cases.iter().enumerate() {
            let mut client = gateway.connect();
            let response = client.request(method, &format!("/{number}/{size}"), &[], "").expect(*status);
            assert_eq!(response.text(), *body, "{text:?}");
            closed += usize::from(!ends);
            nothing_in_flight(&gateway);
            assert!(used(&origin) <= closed + 1, "{text:?}: a connection that is good is kept");
        }
    }
    assert!(gateway.access_log(3 * cases.len()).iter().all(|line| line["reason"].is_null()));
}

/// The next response on a connection must be the answer to the next request.
#[test]
fn bytes_behind_a_response_reach_nobody() {
    let responses = [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        ("GET", "HTTP/1.1 304 Not Modified\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 60\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"),
    ];
    let stray = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret";
    for (method, text) in responses {
        for late in [false, true] {
            let (answered, strayed) = (Gate::new(), Gate::new());
            let origin = Origin::start({
                let (answered, strayed) = (answered.clone(), strayed.clone());
                move |connection| {
                    while let Some(request) = connection.read_request() {
                        if request.target == "/good" {
                            connection.answer(200, "good");
                            continue;
                        }
                        if late {
                            connection.write(text);
                            answered.wait();
                            connection.write(stray);
                        } else {
                            connection.write(format!("{text}{stray}"));
                        }
                        strayed.open();
                        assert_eq!(connection.read_rest(), b"");
                        return;
                    }
                }
            });
            let gateway = gateway(&origin);
            let mut client = gateway.connect();
            let response = client.request(method, "/odd", &[], "");
            assert!(!response.text().contains("secret"), "{response}");
            nothing_in_flight(&gateway);
            answered.open();
            strayed.wait();
            if late {
                eventually("the connection is given up", || (origin.open_connections() == 0).then_some(()));
            }
            client.assert_silent();
            assert_eq!(client.get("/good").expect(200).text(), "good", "{text:?}");
            assert_eq!(gateway.get("/good").expect(200).text(), "good", "{text:?}");
        }
    }
}

/// An app that never comes to an end is given up, and what was kept of its words is little.
#[test]
fn what_does_not_end_is_bounded() {
    let endless: [(&str, &str); 6] = [
        ("HTTP/1.1 200 ", "reason "),
        ("HTTP/1.1 200 OK\r\nX: ", "value "),
        ("HTTP/1.1 200 OK\r\n", "X: y\r\n"),
        ("", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X: y\r\n"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "0"),
    ];
    let written = Arc::new(AtomicUsize::new(0));
    let origin = Origin::start({
        let written = Arc::clone(&written);
        move |connection| {
            let Some(request) = connection.read_request() else { return };
            let (begin, more) = endless[request.target[1..].parse::<usize>().unwrap()];
            connection.write(begin);
            let block = more.repeat(1000);
            written.store(0, Ordering::Relaxed);
            while connection.write(&block) {
                written.fetch_add(block.len(), Ordering::Relaxed);
                connection.delay(Duration::from_millis(1));
            }
        }
    });
    let gateway = gateway(&origin);
    for (number, (begin, more)) in endless.iter().enumerate() {
        let mut client = gateway.connect();
        client.send_request("GET", &format!("/{number}"), &[], "");
        let response = client.try_response();
        let refused = match &response {
            Ok(response) => response.status == 502,
            Err(broken) => matches!(broken, Broken::Truncated(torn) if torn.body.is_empty()),
        };
        assert!(refused, "{begin:?} {more:?}: {response:?}");
        nothing_in_flight(&gateway);
        eventually("the connection is given up", || (origin.open_connections() == 0).then_some(()));
        let written = written.load(Ordering::Relaxed);
        assert!(written < 2 << 20, "{begin:?} {more:?}: {written} bytes");
        assert_eq!(gateway.access_log(number + 1).pop().unwrap()["reason"], "upstream_invalid");
    }
}
