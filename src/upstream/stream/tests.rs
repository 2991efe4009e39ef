//! What goes over the wire and when, what is made of the answer, and which connections come back.

mod slots;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::Version;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};

use super::*;
use crate::config::model::Keepalive;
use crate::tls;
use crate::upstream::endpoint::Address;
use crate::upstream::rig::{answer, exchange};
use crate::upstream::socket;

const LIMIT: Duration = Duration::from_mins(1);
const AT_ONCE: usize = 64 * 1024;
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn connection() -> (UpstreamStream, UnixStream, Arc<Pool>) {
    let pool = Pool::new(Keepalive::Fixed(LIMIT), None);
    let (ours, theirs) = UnixStream::pair().unwrap();
    (pool.wrap(Socket::Plain(crate::net::Plain::Unix(ours)), None), theirs, pool)
}

fn request(method: &str, fields: &[(&'static str, String)]) -> RequestHead {
    let mut request = RequestHead::new(method.parse().unwrap(), Bytes::from_static(b"/a?b"), Version::HTTP_11, 1);
    for (name, value) in fields {
        request.headers.insert(http::HeaderName::from_static(name), value.parse().unwrap());
    }
    request
}

/// Begins with a request whose body has `length` bytes.
fn begin(stream: &mut UpstreamStream, length: usize) {
    let length = [("content-length", length.to_string())];
    stream.begin(&request("POST", &length), true, Expected::default());
}

fn begin_get(stream: &mut UpstreamStream) {
    stream.begin(&request("GET", &[]), false, Expected::default());
}

/// What has come to the server, without waiting.
fn arrived(theirs: &UnixStream) -> Vec<u8> {
    let mut buf = vec![0; 1 << 20];
    match rustix::net::recv(theirs, &mut buf[..], rustix::net::RecvFlags::DONTWAIT) {
        Ok((_, len)) => buf[..len].to_vec(),
        Err(_) => Vec::new(),
    }
}

/// Whether the connection is pooled once the answer was read.
async fn comes_back(mut stream: UpstreamStream, theirs: &mut UnixStream, pool: &Pool) -> bool {
    theirs.write_all(OK).await.unwrap();
    assert_eq!(answer(&mut stream).await.unwrap(), (200, b"ok".to_vec()));
    drop(stream);
    pool.idle() == 1
}

#[tokio::test]
async fn a_head_and_what_lies_ready_of_its_body_go_out_in_one_piece() {
    for size in [10, COPY_MAX, COPY_MAX + 1, 16 << 10] {
        let (mut stream, mut theirs, pool) = connection();
        begin(&mut stream, size);
        stream.give(vec![b'x'; size].into());
        assert_eq!(arrived(&theirs), b"");
        stream.send().await;
        let request = arrived(&theirs);
        let head = format!("POST /a?b HTTP/1.1\r\ncontent-length: {size}\r\n\r\n");
        assert!(request.starts_with(head.as_bytes()) && request.len() == head.len() + size);
        assert!(comes_back(stream, &mut theirs, &pool).await);
    }
}

#[tokio::test]
async fn a_body_without_a_length_is_chunked() {
    let (mut stream, mut theirs, pool) = connection();
    stream.begin(&request("POST", &[]), true, Expected::default());
    stream.send().await;
    stream.give(Bytes::from_static(b"hello"));
    stream.send().await;
    stream.give_end();
    stream.send().await;
    let expected = b"POST /a?b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(arrived(&theirs), expected);
    assert!(comes_back(stream, &mut theirs, &pool).await);
}

#[tokio::test]
async fn a_request_that_was_not_given_whole_forbids_reuse() {
    for chunked in [true, false] {
        let (mut stream, mut theirs, pool) = connection();
        if chunked {
            stream.begin(&request("POST", &[]), true, Expected::default());
        } else {
            begin(&mut stream, 10);
        }
        stream.give(Bytes::from_static(b"01234"));
        stream.send().await;
        assert!(!comes_back(stream, &mut theirs, &pool).await);
    }
    let (mut stream, mut theirs, pool) = connection();
    stream.begin(&request("GET", &[("connection", "close".to_owned())]), false, Expected::default());
    stream.send().await;
    assert!(!comes_back(stream, &mut theirs, &pool).await, "it said that it is the last");
}

#[tokio::test]
async fn what_a_full_socket_left_goes_on_while_the_answer_is_awaited() {
    let (mut stream, mut theirs, pool) = connection();
    begin(&mut stream, 4 << 20);
    stream.give(vec![b'x'; 4 << 20].into());
    stream.send().await;
    assert!(stream.is_behind());
    let server = tokio::spawn(async move {
        let mut came = vec![0; 4 << 20];
        theirs.read_exact(&mut came).await.unwrap();
        while arrived(&theirs).is_empty() {
            tokio::task::yield_now().await;
        }
        theirs.write_all(OK).await.unwrap();
        theirs
    });
    let mut taken = 0;
    while stream.came(AT_ONCE).await.unwrap() == Came::Taken {
        taken += 1;
    }
    assert!(taken > 1 && !stream.is_behind());
    let _theirs = server.await.unwrap();
    assert_eq!(answer(&mut stream).await.unwrap().0, 200);
    drop(stream);
    assert_eq!(pool.idle(), 1);
}

#[tokio::test]
async fn an_answer_is_heard_though_the_server_takes_no_more() {
    let (mut stream, mut theirs, pool) = connection();
    theirs.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
    drop(theirs);
    begin(&mut stream, 1 << 20);
    stream.give(vec![b'x'; 1 << 20].into());
    stream.send().await;
    assert!(!stream.is_behind(), "what is given goes nowhere");
    assert_eq!(answer(&mut stream).await.unwrap(), (413, b"no".to_vec()));
    drop(stream);
    assert_eq!(pool.idle(), 0);
}

#[tokio::test]
async fn a_server_that_is_given_up_hears_it_and_may_still_answer() {
    let (mut stream, mut theirs, pool) = connection();
    begin(&mut stream, 4 << 20);
    stream.give(vec![b'x'; 2 << 20].into());
    stream.send().await;
    assert!(stream.is_behind());
    stream.give_up();
    assert!(!stream.is_behind());
    stream.give(vec![b'x'; 2 << 20].into());
    stream.send().await;
    theirs.write_all(OK).await.unwrap();
    let mut came = Vec::new();
    theirs.read_to_end(&mut came).await.unwrap();
    assert!(came.len() < 2 << 20);
    assert_eq!(answer(&mut stream).await.unwrap().0, 200);
    drop(stream);
    assert_eq!(pool.idle(), 0);
}

#[tokio::test]
async fn who_waits_for_something_else_goes_on_sending() {
    let (mut stream, mut theirs, _pool) = connection();
    begin(&mut stream, 4 << 20);
    stream.give(vec![b'x'; 4 << 20].into());
    let mut came = vec![0; 4 << 20];
    tokio::select! {
        read = theirs.read_exact(&mut came) => assert_eq!(read.unwrap(), 4 << 20),
        () = stream.go_on_sending() => {}
    }
}

#[tokio::test]
async fn how_a_connection_ends_is_told_apart() {
    for (sent, expected) in [
        ("", "Closed"),
        ("HTTP/1.1 2", "WithinHead"),
        ("HTTP/1.1 100 Continue\r\n\r\n", "WithinHead"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", "WithinBody"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "WithinBody"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "Malformed(\"Transfer-Encoding other than chunked\")"),
    ] {
        let (mut stream, mut theirs, pool) = connection();
        begin_get(&mut stream);
        stream.send().await;
        theirs.write_all(sent.as_bytes()).await.unwrap();
        theirs.shutdown().await.unwrap();
        let broken = answer(&mut stream).await.unwrap_err();
        assert_eq!(format!("{broken:?}"), expected, "{sent:?}");
        drop(stream);
        assert_eq!(pool.idle(), 0);
    }
    let (mut stream, mut theirs, pool) = connection();
    begin_get(&mut stream);
    stream.send().await;
    theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\nall there is").await.unwrap();
    theirs.shutdown().await.unwrap();
    assert_eq!(answer(&mut stream).await.unwrap(), (200, b"all there is".to_vec()));
    drop(stream);
    assert_eq!(pool.idle(), 0);
}

/// A server that gives `answer` to each request without a body, and counts its connections.
struct Server {
    address: Address,
    connections: Arc<AtomicUsize>,
}

async fn server(answer: &'static [u8], piece: usize) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            count.fetch_add(1, Relaxed);
            tokio::spawn(async move {
                let mut buf = [0; 4096];
                while stream.read(&mut buf).await.is_ok_and(|n| n > 0) {
                    for piece in answer.chunks(piece) {
                        stream.write_all(piece).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                }
            });
        }
    });
    Server { address, connections }
}

async fn stream_to(pool: &Arc<Pool>, server: &Server) -> UpstreamStream {
    match pool.take(None) {
        Some(stream) => stream,
        None => pool.wrap(Socket::Plain(socket::connect(&server.address).await.unwrap()), None),
    }
}

#[tokio::test]
async fn a_connection_goes_round() {
    let answers: [&'static [u8]; 4] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n5\r\nello!\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 6\r\n\r\nhello!",
    ];
    for answer_bytes in answers {
        for piece in [1, 1000] {
            let server = server(answer_bytes, piece).await;
            let pool = Pool::new(Keepalive::Fixed(LIMIT), None);
            for _ in 0..20 {
                let mut stream = stream_to(&pool, &server).await;
                assert_eq!(exchange(&mut stream, "/", async || {}).await, (200, b"hello!".to_vec()));
                drop(stream);
                assert_eq!(pool.idle(), 1);
            }
            assert_eq!(server.connections.load(Relaxed), 1);
        }
    }
}

#[tokio::test]
async fn what_may_not_be_kept_is_not() {
    let answers: [&'static [u8]; 5] = [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        // More than was announced, and bytes behind an answer without a body.
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhello",
        b"HTTP/1.1 204 No Content\r\n\r\nhello",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello",
    ];
    for answer_bytes in answers {
        let server = server(answer_bytes, usize::MAX).await;
        let pool = Pool::new(Keepalive::Fixed(LIMIT), None);
        for _ in 0..2 {
            let mut stream = stream_to(&pool, &server).await;
            exchange(&mut stream, "/", async || {}).await;
            drop(stream);
            assert_eq!(pool.idle(), 0, "{}", answer_bytes.escape_ascii());
        }
        assert_eq!(server.connections.load(Relaxed), 2);
    }
}

#[tokio::test]
async fn bytes_that_come_after_the_exchange_do_not_reach_the_next() {
    let (mut stream, mut theirs, pool) = connection();
    begin_get(&mut stream);
    stream.send().await;
    assert!(comes_back(stream, &mut theirs, &pool).await);
    theirs.write_all(b"late").await.unwrap();
    assert!(pool.take(None).is_none());
}

#[tokio::test]
async fn a_connection_that_is_upgraded_is_not_ours_any_more() {
    let (mut stream, mut theirs, pool) = connection();
    stream.begin(&request("GET", &[]), false, Expected { head_only: false, upgrade: true });
    stream.send().await;
    let agreed = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x05hello";
    theirs.write_all(agreed).await.unwrap();
    stream.came(AT_ONCE).await.unwrap();
    assert!(matches!(stream.piece(), Ok(Some(Piece::Switched(_)))));
    let upgraded = stream.into_upgraded().unwrap();
    assert_eq!(upgraded.received, &b"\x81\x05hello"[..]);
    assert_eq!(pool.idle(), 0);
}

#[tokio::test]
async fn pieces_that_are_kept_share_what_they_were_read_into() {
    let (mut stream, mut theirs, _pool) = connection();
    begin_get(&mut stream);
    stream.send().await;
    theirs.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await.unwrap();
    let (mut kept, mut buffers) = (Vec::<Bytes>::new(), 0);
    while kept.len() < 100 {
        match stream.piece().unwrap() {
            Some(Piece::Body(data)) => {
                let follows = kept.last().is_some_and(|last| last.as_ptr_range().end == data.as_ptr());
                buffers += usize::from(!follows);
                kept.push(data);
                theirs.write_all(&[b'x'; 9000]).await.unwrap();
            }
            Some(_) => theirs.write_all(&[b'x'; 9000]).await.unwrap(),
            None => drop(stream.came(128 << 10).await.unwrap()),
        }
    }
    assert!(buffers < 15, "{buffers} buffers for 900,000 bytes");
}

#[tokio::test]
async fn who_waits_for_the_next_event_holds_no_buffer() {
    let (mut stream, mut theirs, _pool) = connection();
    begin_get(&mut stream);
    stream.send().await;
    theirs.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    for _ in 0..3 {
        theirs.write_all(b"5\r\nevent\r\n").await.unwrap();
        loop {
            match stream.piece().unwrap() {
                Some(Piece::Body(data)) => break assert_eq!(data, "event"),
                Some(_) => {}
                None => drop(stream.came(AT_ONCE).await.unwrap()),
            }
        }
        assert!(stream.piece().unwrap().is_none());
        tokio::select! {
            biased;
            came = stream.came(AT_ONCE) => panic!("{came:?}"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(stream.input.capacity(), 0);
    }
}

#[tokio::test]
async fn what_tls_keeps_of_a_request_is_sent_while_the_answer_is_awaited() {
    let pool = Pool::new(Keepalive::Fixed(LIMIT), None);
    let (ours, mut theirs) = tls::rig::pair(&rustls::version::TLS13).await;
    let mut stream = pool.wrap(Socket::Tls(Box::new(ours)), None);
    begin(&mut stream, 1 << 30);
    // Until the socket is full.
    let mut written = 0;
    while !stream.is_behind() {
        stream.give(vec![b'x'; 3000].into());
        stream.send().await;
        written += 3000;
    }
    let reader = tokio::spawn(async move {
        let mut got = vec![0; written];
        tokio::time::timeout(Duration::from_secs(5), theirs.read_exact(&mut got))
            .await
            .expect("the rest comes")
            .unwrap();
        theirs
    });
    while stream.is_behind() {
        assert_eq!(stream.came(AT_ONCE).await.unwrap(), Came::Taken);
    }
    let mut theirs = reader.await.unwrap();
    theirs.write_all(OK).await.unwrap();
    assert_eq!(answer(&mut stream).await.unwrap().0, 200);
}

proptest! {
    /// However a body is given, and whatever is awaited between, the server gets the same bytes.
    #[test]
    fn the_bytes_are_those_that_were_given(
        pieces in vec(vec(any::<u8>(), 1..9000), 0..6),
        awaits in vec(any::<bool>(), 6),
        chunked: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut stream, mut theirs, pool) = connection();
            let server = tokio::spawn(async move {
                let mut request = Vec::new();
                theirs.read_to_end(&mut request).await.unwrap();
                request
            });
            let body = pieces.concat();
            let has_body = !body.is_empty();
            if chunked {
                stream.begin(&request("POST", &[]), has_body, Expected::default());
            } else {
                let length = [("content-length", body.len().to_string())];
                stream.begin(&request("POST", &length), has_body, Expected::default());
            }
            for (piece, awaits) in pieces.iter().zip(awaits) {
                stream.give(piece.clone().into());
                if awaits {
                    stream.send().await;
                }
                while stream.is_behind() {
                    let _ = tokio::time::timeout(Duration::from_millis(1), stream.came(AT_ONCE)).await;
                }
            }
            stream.give_end();
            stream.send().await;
            drop(stream);
            pool.clear();
            let came = server.await.unwrap();
            let head_end = came.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
            let mut reader = match (chunked, has_body) {
                (_, false) => crate::framing::BodyReader::Done,
                (true, true) => crate::framing::BodyReader::chunked(),
                (false, true) => crate::framing::BodyReader::length(body.len() as u64),
            };
            let (mut rest, mut read) = (BytesMut::from(&came[head_end..]), Vec::new());
            while let crate::framing::Step::Data(data) = reader.step(&mut rest).unwrap() {
                read.extend_from_slice(&data);
            }
            assert_eq!(reader.step(&mut rest).unwrap(), crate::framing::Step::End);
            assert!(rest.is_empty());
            assert_eq!(read, body);
        });
    }
}
