//! What goes over the wire and when, and which streams come back.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;
use crate::config::model::Keepalive;
use crate::tls;
use crate::upstream::group::Group;
use crate::upstream::rig::{MS, RULES, Rig, at_once, endpoint, settle};

const LIMIT: Duration = Duration::from_mins(1);

fn connection() -> (UpstreamStream, UnixStream, Arc<Pool>) {
    let pool = Pool::new(Keepalive::Fixed(LIMIT), None);
    let (ours, theirs) = UnixStream::pair().unwrap();
    (pool.wrap(Socket::Plain(crate::net::Plain::Unix(ours)), None), theirs, pool)
}

/// Polls a read once.
async fn read_once(stream: &mut UpstreamStream) {
    let mut buf = [0; 4096];
    let read = std::future::poll_fn(|cx| {
        let mut buf = ReadBuf::new(&mut buf);
        Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut buf).is_pending())
    });
    assert!(read.await);
}

/// What has come to the server, without waiting.
fn arrived(theirs: &UnixStream) -> Vec<u8> {
    let mut buf = vec![0; 1 << 20];
    match rustix::net::recv(theirs, &mut buf[..], rustix::net::RecvFlags::DONTWAIT) {
        Ok((_, len)) => buf[..len].to_vec(),
        Err(_) => Vec::new(),
    }
}

async fn write(stream: &mut UpstreamStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
}

/// Whether Pingora's question makes the stream go back to the pool.
async fn comes_back(mut stream: UpstreamStream, pool: &Pool) -> bool {
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    drop(stream);
    pool.idle() == 1
}

#[tokio::test]
async fn without_a_body_at_hand_everything_is_sent_at_once() {
    for expected in [None, Some(0)] {
        let (mut stream, theirs, pool) = connection();
        if let Some(length) = expected {
            stream.expect_body(length);
        }
        write(&mut stream, b"head").await;
        assert_eq!(arrived(&theirs), b"head");
        stream.write_all(b"piece").await.unwrap();
        assert_eq!(arrived(&theirs), b"piece", "a streamed body is not kept waiting for its end");
        assert!(comes_back(stream, &pool).await);
    }
}

#[tokio::test]
async fn head_and_body_go_out_together_whatever_is_polled_between() {
    let (mut stream, theirs, pool) = connection();
    stream.expect_body(10);
    write(&mut stream, b"head").await;
    read_once(&mut stream).await;
    stream.write_all(b"01234").await.unwrap();
    read_once(&mut stream).await;
    assert_eq!(arrived(&theirs), b"");
    stream.write_all(b"56789").await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(arrived(&theirs), b"head0123456789");
    assert!(comes_back(stream, &pool).await);
}

#[tokio::test]
async fn a_whole_body_is_sent_by_a_read_too() {
    let (mut stream, theirs, _pool) = connection();
    stream.expect_body(4);
    write(&mut stream, b"head").await;
    stream.write_all(b"body").await.unwrap();
    read_once(&mut stream).await;
    assert_eq!(arrived(&theirs), b"headbody");
}

#[tokio::test]
async fn a_wrong_length_keeps_nothing_back() {
    let (mut stream, theirs, pool) = connection();
    stream.expect_body(100);
    write(&mut stream, b"head").await;
    stream.write_all(b"short").await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(arrived(&theirs), b"headshort");
    assert!(!comes_back(stream, &pool).await, "a request that was not written to its end");

    let (mut stream, theirs, pool) = connection();
    stream.expect_body(2);
    write(&mut stream, b"head").await;
    write(&mut stream, b"longer").await;
    assert_eq!(arrived(&theirs), b"headlonger");
    assert!(comes_back(stream, &pool).await);
}

#[tokio::test]
async fn a_large_body_goes_out_with_the_head_in_front() {
    let (mut stream, theirs, pool) = connection();
    let body = vec![7; 64 * 1024];
    stream.expect_body(body.len() as u64);
    write(&mut stream, b"head").await;
    assert_eq!(arrived(&theirs), b"");
    let sent = stream.write(&body).await.unwrap();
    let first = arrived(&theirs);
    assert!(first.starts_with(b"head\x07") && first.len() == 4 + sent);
    stream.write_all(&body[sent..]).await.unwrap();
    assert!(comes_back(stream, &pool).await);
}

#[tokio::test]
async fn what_a_full_socket_left_goes_on_while_only_the_answer_is_awaited() {
    let (mut stream, mut theirs, pool) = connection();
    let flow = stream.flow();
    let mut filled = 0;
    while !flow.is_behind() {
        stream.write_all(&[1; 1024]).await.unwrap();
        filled += 1024;
    }
    stream.expect_body(4);
    stream.write_all(b"head").await.unwrap();
    stream.flush().await.unwrap();
    write(&mut stream, b"body").await;
    let server = tokio::spawn(async move {
        let mut request = vec![0; filled + 8];
        theirs.read_exact(&mut request).await.unwrap();
        theirs.write_all(b"answer").await.unwrap();
        (request, theirs)
    });
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).await.unwrap();
    let (request, _theirs) = server.await.unwrap();
    assert_eq!(&request[filled..], b"headbody");
    assert!(comes_back(stream, &pool).await);
}

#[tokio::test]
async fn unsent_bytes_an_end_or_a_shutdown_forbid_reuse() {
    let (mut stream, _theirs, pool) = connection();
    stream.expect_body(10);
    write(&mut stream, b"head").await;
    assert!(!comes_back(stream, &pool).await);

    let (mut stream, theirs, pool) = connection();
    drop(theirs);
    assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
    assert!(!comes_back(stream, &pool).await);

    let (mut stream, _theirs, pool) = connection();
    stream.shutdown().await.unwrap();
    assert!(!comes_back(stream, &pool).await);
}

#[tokio::test]
async fn an_answer_is_read_though_the_request_cannot_be_sent() {
    let (mut stream, mut theirs, pool) = connection();
    stream.expect_body(4);
    write(&mut stream, b"head").await;
    stream.write_all(b"body").await.unwrap();
    theirs.write_all(b"early").await.unwrap();
    drop(theirs);
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"early");
    assert!(!comes_back(stream, &pool).await);
}

/// A connection that occupies the only slot of an app, for `patience` at most once its exchange is over.
async fn occupying(patience: Duration) -> (UpstreamStream, UnixStream, Arc<Pool>, Arc<Group>) {
    let group = Rig::alone(&[1], 1, &RULES);
    let (mut stream, theirs, pool) = connection();
    stream.occupy(at_once(&group).await, patience);
    (stream, theirs, pool, group)
}

fn is_occupied(group: &Group) -> bool {
    endpoint(group, 0).is_full()
}

/// The exchange is over, and the connection is not to be kept.
async fn end(mut stream: UpstreamStream) {
    stream.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slot_stays_taken_until_the_server_hangs_up() {
    let (stream, mut theirs, _pool, group) = occupying(LIMIT).await;
    end(stream).await;
    assert_eq!(theirs.read(&mut [0; 9]).await.unwrap(), 0, "a server that waits for our end sees it");
    settle().await;
    assert!(is_occupied(&group));
    drop(theirs);
    tokio::time::timeout(LIMIT / 2, async {
        while is_occupied(&group) {
            tokio::time::sleep(MS).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_hang_up_is_waited_for_no_longer_than_we_have_patience() {
    let (stream, _theirs, _pool, group) = occupying(300 * MS).await;
    end(stream).await;
    tokio::time::sleep(299 * MS).await;
    assert!(is_occupied(&group));
    tokio::time::sleep(2 * MS).await;
    assert!(!is_occupied(&group));
}

#[tokio::test]
async fn a_slot_is_free_at_once_where_nothing_is_to_be_waited_for() {
    // The server was first.
    let (stream, theirs, _pool, group) = occupying(LIMIT).await;
    drop(theirs);
    end(stream).await;
    assert!(!is_occupied(&group));

    // It says what nobody asked for.
    let (stream, mut theirs, _pool, group) = occupying(LIMIT).await;
    theirs.write_all(b"more").await.unwrap();
    end(stream).await;
    assert!(!is_occupied(&group));

    // The connection is kept.
    let (stream, _theirs, pool, group) = occupying(LIMIT).await;
    assert!(comes_back(stream, &pool).await);
    assert!(!is_occupied(&group));

    // The exchange was broken off.
    let (stream, mut theirs, _pool, group) = occupying(LIMIT).await;
    drop(stream);
    assert!(!is_occupied(&group));
    assert_eq!(theirs.read(&mut [0; 9]).await.unwrap(), 0);
}

proptest! {
    /// Any way of writing a request, with any expectation, puts the same bytes on the wire once it was flushed twice.
    #[test]
    fn the_bytes_are_those_that_were_written(
        head in vec(any::<u8>(), 1..3000),
        pieces in vec((vec(any::<u8>(), 0..9000), any::<bool>(), any::<bool>()), 0..6),
        expected in proptest::option::of(0_u64..30_000),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut stream, mut theirs, pool) = connection();
            let server = tokio::spawn(async move {
                let mut request = Vec::new();
                theirs.read_to_end(&mut request).await.unwrap();
                request
            });
            if let Some(length) = expected {
                stream.expect_body(length);
            }
            let mut whole = head.clone();
            write(&mut stream, &head).await;
            for (piece, vectored, read) in &pieces {
                let middle = piece.len() / 2;
                if *vectored {
                    let mut chain = Buf::chain(&piece[..middle], &piece[middle..]);
                    stream.write_all_buf(&mut chain).await.unwrap();
                } else {
                    stream.write_all(piece).await.unwrap();
                }
                whole.extend_from_slice(piece);
                if *read {
                    read_once(&mut stream).await;
                }
            }
            stream.flush().await.unwrap();
            let written = pieces.iter().map(|(piece, ..)| piece.len() as u64).sum::<u64>();
            let kept = comes_back(stream, &pool).await;
            assert_eq!(kept, written >= expected.unwrap_or(0));
            pool.clear();
            assert_eq!(server.await.unwrap(), whole);
        });
    }
}

#[tokio::test]
async fn no_write_waits_and_who_reads_sends_the_rest() {
    let (mut stream, mut theirs, pool) = connection();
    stream.expect_body(4 << 20);
    let flow = stream.flow();
    stream.write_all(b"POST / HTTP/1.1\r\n\r\n").await.unwrap();
    stream.flush().await.unwrap();
    for _ in 0..64 {
        stream.write_all(&vec![b'x'; 64 << 10]).await.unwrap();
    }
    stream.flush().await.unwrap();
    assert!(flow.is_behind());
    let reader = tokio::spawn(async move {
        let mut came = vec![0; 19 + (4 << 20)];
        theirs.read_exact(&mut came).await.unwrap();
        theirs.write_all(b"done").await.unwrap();
        theirs
    });
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"done");
    assert!(!flow.is_behind() && flow.moved() > 1 << 20);
    let _theirs = reader.await.unwrap();
    assert!(comes_back(stream, &pool).await);
}

#[tokio::test]
async fn a_server_that_is_given_up_hears_it_and_may_still_answer() {
    let (mut stream, mut theirs, pool) = connection();
    stream.expect_body(4 << 20);
    let flow = stream.flow();
    stream.write_all(b"POST / HTTP/1.1\r\n\r\n").await.unwrap();
    stream.flush().await.unwrap();
    stream.write_all(&vec![b'x'; 2 << 20]).await.unwrap();
    read_once(&mut stream).await;
    let told = flow.clone();
    let told = tokio::spawn(async move { std::future::poll_fn(|cx| told.poll_caught_up(cx)).await });
    settle().await;
    assert!(flow.is_behind() && !told.is_finished());
    flow.give_up();
    read_once(&mut stream).await;
    told.await.unwrap();
    // What follows goes nowhere, and does not wait either.
    stream.write_all(&vec![b'x'; 2 << 20]).await.unwrap();
    stream.flush().await.unwrap();
    theirs.write_all(b"busy").await.unwrap();
    let mut came = Vec::new();
    theirs.read_to_end(&mut came).await.unwrap();
    assert!(came.len() < 2 << 20);
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"busy");
    assert!(!comes_back(stream, &pool).await);
}

#[tokio::test]
async fn a_server_that_takes_no_more_is_still_heard() {
    let (mut stream, mut theirs, pool) = connection();
    theirs.write_all(b"no").await.unwrap();
    drop(theirs);
    stream.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"no");
    assert!(!comes_back(stream, &pool).await);
}

#[tokio::test]
async fn what_tls_keeps_of_a_request_is_sent_by_a_read_too() {
    let pool = Pool::new(Keepalive::Fixed(LIMIT), None);
    let (ours, mut theirs) = tls::rig::pair(&rustls::version::TLS13).await;
    let mut stream = pool.wrap(Socket::Tls(Box::new(ours)), None);
    let flow = stream.flow();
    let mut written = 0;
    // Until the socket is full, and not one piece more.
    while !stream.has_pending() {
        stream.write_all(&[b'x'; 3000]).await.unwrap();
        written += 3000;
    }
    assert!(stream.held.is_empty());
    stream.flush().await.unwrap();
    assert!(flow.is_behind());
    let mut got = vec![0; written];
    let mut answer = [0; 100];
    tokio::select! {
        read = stream.read(&mut answer) => panic!("{read:?} before an answer"),
        read = tokio::time::timeout(Duration::from_secs(5), theirs.read_exact(&mut got)) => {
            read.expect("the rest comes").unwrap();
        }
    }
    assert!(!flow.is_behind());
    theirs.write_all(b"done").await.unwrap();
    assert_eq!(stream.read(&mut answer).await.unwrap(), 4);
    assert!(comes_back(stream, &pool).await);
}
