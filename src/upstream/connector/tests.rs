//! The way round with Pingora's own connector and HTTP/1.1 client: pool, engine's side, pool again.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::http::v1::client::HttpSession as Http1Session;
use pingora_http::RequestHeader;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::config::model::Keepalive;
use crate::upstream::endpoint::Address;
use crate::upstream::pool::Pool;
use crate::upstream::socket;

const LIMIT: Duration = Duration::from_mins(1);

/// A server that gives `answer` to each request without a body, and counts its connections.
struct Server {
    address: Address,
    connections: Arc<AtomicUsize>,
}

async fn server(answer: &'static [u8]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Relaxed);
            tokio::spawn(async move {
                let mut buf = [0; 4096];
                while stream.read(&mut buf).await.is_ok_and(|n| n > 0) {
                    stream.write_all(answer).await.unwrap();
                }
            });
        }
    });
    Server { address, connections }
}

fn engine() -> Connector {
    let options = ConnectorOptions { ca_file: Some("/dev/null".to_owned()), ..ConnectorOptions::new(8) };
    Connector::new(Some(options))
}

async fn stream(pool: &Arc<Pool>, server: &Server) -> UpstreamStream {
    match pool.take(None) {
        Some(stream) => stream,
        None => pool.wrap(socket::Socket::Plain(socket::connect(&server.address).await.unwrap()), None),
    }
}

fn peer(stream: UpstreamStream) -> Box<HttpPeer> {
    hand_over(stream)
}

async fn session(engine: &Connector, peer: &HttpPeer) -> Http1Session {
    match engine.get_http_session(peer).await.unwrap() {
        (HttpSession::H1(session), _) => session,
        _ => panic!("not HTTP/1.1"),
    }
}

fn request(method: &str, fields: &[(&'static str, &'static str)]) -> Box<RequestHeader> {
    let mut request = RequestHeader::build(method, b"/", None).unwrap();
    for (name, value) in fields {
        request.insert_header(*name, *value).unwrap();
    }
    Box::new(request)
}

/// One exchange as the engine makes it; how many connections are idle when it is over.
async fn exchange(engine: &Connector, pool: &Arc<Pool>, server: &Server, whole: bool) -> usize {
    let peer = peer(stream(pool, server).await);
    let mut session = session(engine, &peer).await;
    session.write_request_header(request("GET", &[("host", "app")])).await.unwrap();
    session.finish_body().await.unwrap();
    session.read_response().await.unwrap();
    while whole && session.read_body_bytes().await.unwrap().is_some() {}
    engine.release_http_session(HttpSession::H1(session), &*peer, None).await;
    pool.idle()
}

#[tokio::test]
async fn a_connection_goes_round_and_never_stays_with_pingora() {
    let answers: [&'static [u8]; 3] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n4\r\nello\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
    ];
    let engine = engine();
    for answer in answers {
        let server = server(answer).await;
        let pool = Pool::new(Keepalive::Fixed(LIMIT), None);
        for _ in 0..20 {
            assert_eq!(exchange(&engine, &pool, &server, true).await, 1);
        }
        assert_eq!(server.connections.load(Relaxed), 1);
    }
    assert_eq!(engine.unexpected_data_connection_count(), 0);
}

#[tokio::test]
async fn a_body_of_one_byte_and_one_that_comes_byte_by_byte_are_read_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server =
        Server { address: Address::Tcp(listener.local_addr().unwrap()), connections: Arc::new(AtomicUsize::new(0)) };
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buf = [0; 4096];
        while stream.read(&mut buf).await.is_ok_and(|n| n > 0) {
            for byte in
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\n"
            {
                stream.write_all(&[*byte]).await.unwrap();
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
    });
    let (engine, pool) = (engine(), Pool::new(Keepalive::Fixed(LIMIT), None));
    for _ in 0..2 {
        let peer = peer(stream(&pool, &server).await);
        let mut session = session(&engine, &peer).await;
        session.write_request_header(request("GET", &[])).await.unwrap();
        session.read_response().await.unwrap();
        let mut body = Vec::new();
        while let Some(piece) = session.read_body_bytes().await.unwrap() {
            body.extend_from_slice(&piece);
        }
        assert_eq!(body, b"hello!");
        engine.release_http_session(HttpSession::H1(session), &*peer, None).await;
        assert_eq!(pool.idle(), 1);
    }
}

#[tokio::test]
async fn what_may_not_be_kept_is_not() {
    let answers: [&'static [u8]; 6] = [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        // More than was announced, and bytes behind an answer without a body.
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhello",
        b"HTTP/1.1 204 No Content\r\n\r\nhello",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello",
    ];
    let engine = engine();
    for answer in answers {
        let server = server(answer).await;
        let pool = Pool::new(Keepalive::Fixed(LIMIT), None);
        for _ in 0..2 {
            assert_eq!(exchange(&engine, &pool, &server, true).await, 0, "{}", answer.escape_ascii());
        }
        assert_eq!(server.connections.load(Relaxed), 2);
    }
}

#[tokio::test]
async fn a_response_read_in_part_is_not_kept() {
    let engine = engine();
    let answers: [&'static [u8]; 2] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ];
    for answer in answers {
        let server = server(answer).await;
        let pool = Pool::new(Keepalive::Fixed(LIMIT), None);
        assert_eq!(exchange(&engine, &pool, &server, false).await, 0);
    }
}

#[tokio::test]
async fn bytes_that_come_after_the_exchange_do_not_reach_the_next() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let server = Server { address, connections: Arc::new(AtomicUsize::new(0)) };
    let (engine, pool) = (engine(), Pool::new(Keepalive::Fixed(LIMIT), None));
    let peer = peer(stream(&pool, &server).await);
    let (mut theirs, _) = listener.accept().await.unwrap();
    let mut session = session(&engine, &peer).await;
    session.write_request_header(request("DELETE", &[])).await.unwrap();
    theirs.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    session.read_response().await.unwrap();
    engine.release_http_session(HttpSession::H1(session), &*peer, None).await;
    assert_eq!(pool.idle(), 1);
    theirs.write_all(b"late").await.unwrap();
    // Loopback delivers before it returns, whether the runtime has heard of it or not.
    assert!(pool.take(None).is_none());
}

#[tokio::test]
async fn a_request_that_was_not_written_whole_is_not_kept() {
    let engine = engine();
    let server = server(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").await;
    for (written, idle) in [(&b"01234"[..], 0), (b"0123456789", 1)] {
        let pool = Pool::new(Keepalive::Fixed(LIMIT), None);
        let mut stream = stream(&pool, &server).await;
        stream.expect_body(10);
        let peer = peer(stream);
        let mut session = session(&engine, &peer).await;
        session.write_request_header(request("POST", &[("content-length", "10")])).await.unwrap();
        session.write_body(&Bytes::from_static(written)).await.unwrap();
        // Short of its length Pingora calls it an error, and flushes nothing: the app never hears of such a request.
        if session.finish_body().await.is_ok() {
            session.read_response().await.unwrap();
        }
        engine.release_http_session(HttpSession::H1(session), &*peer, None).await;
        assert_eq!(pool.idle(), idle);
    }
}

#[tokio::test]
async fn a_small_body_goes_out_with_its_head_in_one_piece() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let server = Server { address, connections: Arc::new(AtomicUsize::new(0)) };
    let (engine, pool) = (engine(), Pool::new(Keepalive::Fixed(LIMIT), None));
    let mut stream = stream(&pool, &server).await;
    let (mut theirs, _) = listener.accept().await.unwrap();
    stream.expect_body(4);
    let peer = peer(stream);
    let mut session = session(&engine, &peer).await;
    session.write_request_header(request("POST", &[("content-length", "4")])).await.unwrap();
    let mut buf = [0; 4096];
    assert!(theirs.try_read(&mut buf).is_err());
    session.write_body(b"body").await.unwrap();
    session.finish_body().await.unwrap();
    let len = theirs.read(&mut buf).await.unwrap();
    assert!(buf[..len].starts_with(b"POST / HTTP/1.1\r\n") && buf[..len].ends_with(b"\r\n\r\nbody"));
}

#[tokio::test]
async fn a_connection_is_handed_over_once() {
    let server = server(b"").await;
    let (engine, pool) = (engine(), Pool::new(Keepalive::Fixed(LIMIT), None));
    let peer = peer(stream(&pool, &server).await);
    assert!(engine.get_http_session(&*peer).await.is_ok());
    let error = engine.get_http_session(&*peer).await.err().unwrap();
    assert_eq!(*error.root_etype(), ErrorType::InternalError);
    assert_eq!(pool.idle(), 0);
}
