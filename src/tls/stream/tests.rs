//! Both sides over real sockets: what one writes the other reads, whatever the sizes, and what ends it.

use std::future::poll_fn;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, ServerConnection, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;
use crate::tls::peer::Server;
use crate::tls::rig;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| u8::try_from((n ^ (n >> 8)) & 0xff).unwrap()).collect()
}

/// Writes `pieces`, two at a time, and all that is left pending.
async fn write<P: Peer>(stream: &mut TlsStream<P>, pieces: &[Vec<u8>]) {
    for both in pieces.chunks(2) {
        let second = both.get(1).map_or(&[][..], Vec::as_slice);
        let mut both = [both[0].as_slice(), second];
        while !(both[0].is_empty() && both[1].is_empty()) {
            let taken = poll_fn(|cx| stream.poll_write_both(cx, both[0], both[1])).await.unwrap();
            let of_first = taken.min(both[0].len());
            both = [&both[0][of_first..], &both[1][taken - of_first..]];
        }
    }
    poll_fn(|cx| stream.poll_send(cx)).await.unwrap();
    assert!(!stream.has_pending());
}

/// Writes `pieces`, every third at once, the others when there is much of them or at the end.
async fn write_later<P: Peer>(stream: &mut TlsStream<P>, pieces: &[Vec<u8>]) {
    for (index, piece) in pieces.iter().enumerate() {
        let mut rest = piece.as_slice();
        while !rest.is_empty() {
            let taken = poll_fn(|cx| match index % 3 {
                2 => stream.poll_write_both(cx, rest, &[]),
                _ => stream.poll_write_later(cx, rest),
            });
            rest = &rest[taken.await.unwrap()..];
        }
    }
    poll_fn(|cx| stream.poll_send(cx)).await.unwrap();
    assert!(!stream.has_pending());
}

/// Reads `length` bytes, at most about `at_once` with each call.
async fn read<P: Peer>(stream: &mut TlsStream<P>, length: usize, at_once: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < length {
        let mut buf = BytesMut::new();
        let count = poll_fn(|cx| stream.poll_read_into(cx, &mut buf, at_once)).await.unwrap();
        assert!(count > 0 && count == buf.len(), "{count} of {}", buf.len());
        all.extend_from_slice(&buf);
    }
    all
}

/// Polls a read once.
async fn read_once<P: Peer>(stream: &mut TlsStream<P>) -> Poll<io::Result<usize>> {
    poll_fn(|cx| Poll::Ready(stream.poll_read_into(cx, &mut BytesMut::new(), READ_MAX))).await
}

#[test]
fn what_is_written_is_read_in_every_size() {
    run(async {
        for version in VERSIONS {
            let (mut client, mut server) = rig::pair(version).await;
            let edges = [RECORD_MAX, WRITE_MAX, READ_MAX, INCOMPLETE_MAX, READ_MAX + INCOMPLETE_MAX];
            for length in edges.into_iter().flat_map(|n| [n - 1, n, n + 1, 3 * n]).chain([1, 2, 100_000]) {
                let bytes = pattern(length);
                let whole = [bytes.clone()];
                let ((), got) = tokio::join!(write(&mut client, &whole), read(&mut server, length, READ_MAX));
                assert!(got == bytes, "{length} bytes to the server");
                let ((), got) = tokio::join!(write(&mut server, &whole), read(&mut client, length, 1000));
                assert!(got == bytes, "{length} bytes to the client");
            }
            // Nothing is kept of what is over.
            for stream in [&client.incoming, &client.plain, &client.outgoing] {
                assert_eq!(stream.capacity(), 0);
            }
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn pieces_of_any_size_are_the_same_bytes_on_the_other_side(
        new in any::<bool>(),
        up in prop::collection::vec(prop_oneof![0..50_usize, 0..40_000_usize], 1..12),
        down in prop::collection::vec(prop_oneof![0..50_usize, 0..40_000_usize], 1..12),
        at_once in prop_oneof![1..100_usize, 1..60_000_usize],
    ) {
        run(async {
            let (mut client, mut server) = rig::pair(VERSIONS[usize::from(new)]).await;
            let cut = |sizes: &[usize]| -> Vec<Vec<u8>> { sizes.iter().map(|size| pattern(*size)).collect() };
            let (up, down) = (cut(&up), cut(&down));
            let (all_up, all_down) = (up.concat(), down.concat());
            let ((), got) = tokio::join!(write(&mut client, &up), read(&mut server, all_up.len(), at_once));
            assert!(got == all_up);
            let ((), got) = tokio::join!(write(&mut server, &down), read(&mut client, all_down.len(), at_once));
            assert!(got == all_down);
            let ((), got) = tokio::join!(write_later(&mut server, &down), read(&mut client, all_down.len(), at_once));
            assert!(got == all_down);
        });
    }
}

#[test]
fn the_usual_interface_says_the_same() {
    run(async {
        let (mut client, mut server) = rig::pair(&TLS13).await;
        let bytes = pattern(300_000);
        let send = async {
            client.write_all(&bytes).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let ((), read) = tokio::join!(send, server.read_to_end(&mut got));
        assert!(read.unwrap() == bytes.len() && got == bytes);
        // A buffer that is smaller than a record.
        server.write_all(b"hello").await.unwrap();
        let mut small = [0; 2];
        client.read_exact(&mut small).await.unwrap();
        assert_eq!(&small, b"he");
        assert_eq!(read_once(&mut client).await.map(Result::unwrap), Poll::Ready(3));
    });
}

#[test]
fn what_a_full_socket_does_not_take_is_kept_and_sent_first() {
    run(async {
        for version in VERSIONS {
            let (mut client, mut server) = rig::pair(version).await;
            let piece = pattern(30_000);
            let mut written = 0;
            // The server reads nothing.
            loop {
                let taken = poll_fn(|cx| Poll::Ready(client.poll_write_both(cx, &piece, b"!"))).await;
                match taken {
                    Poll::Ready(taken) => assert_eq!(taken.unwrap(), piece.len() + 1),
                    Poll::Pending => break,
                }
                written += 1;
            }
            assert!(client.has_pending() && client.outgoing.len() <= WRITE_MAX + 4 * RECORD_OVERHEAD);
            let expected = [&piece[..], b"!"].concat().repeat(written);
            let rest = async {
                poll_fn(|cx| client.poll_send(cx)).await.unwrap();
                write(&mut client, &[b"last".to_vec()]).await;
            };
            let ((), got) = tokio::join!(rest, read(&mut server, expected.len() + 4, READ_MAX));
            assert!(got == [&expected[..], b"last"].concat());
        }
    });
}

#[test]
fn an_end_that_is_said_is_told_from_one_that_is_not() {
    run(async {
        for version in VERSIONS {
            let (mut client, mut server) = rig::pair(version).await;
            write(&mut server, &[b"bye".to_vec()]).await;
            server.farewell();
            assert_eq!(read(&mut client, 3, READ_MAX).await, b"bye");
            assert_eq!(read_once(&mut client).await.map(Result::unwrap), Poll::Ready(0));
            assert_eq!(client.read(&mut [0; 9]).await.unwrap(), 0);
            // The other direction is still open.
            write(&mut client, &[b"and you".to_vec()]).await;
            assert_eq!(read(&mut server, 7, READ_MAX).await, b"and you");
            client.farewell();
            assert_eq!(server.read(&mut [0; 9]).await.unwrap(), 0);

            let (mut client, server) = rig::pair(version).await;
            drop(server);
            assert_eq!(client.read(&mut [0; 9]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    });
}

#[test]
fn what_cannot_be_decrypted_ends_it_with_an_alert() {
    run(async {
        for version in VERSIONS {
            let (mut client, mut server) = rig::pair(version).await;
            // Past what encrypts.
            client.socket.write_all(&[23, 3, 3, 0, 40]).await.unwrap();
            client.socket.write_all(&[7; 40]).await.unwrap();
            let error = poll_fn(|cx| server.poll_read_into(cx, &mut BytesMut::new(), READ_MAX)).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            // Whoever goes on all the same is not heard.
            let written = poll_fn(|cx| server.poll_write_both(cx, b"more", &[])).await;
            assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
            client.socket.write_all(b"\x17\x03\x03\x00\x01x").await.unwrap();
            let again = poll_fn(|cx| server.poll_read_into(cx, &mut BytesMut::new(), READ_MAX)).await;
            assert_eq!(again.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
            server.farewell();
            let error = poll_fn(|cx| client.poll_read_into(cx, &mut BytesMut::new(), READ_MAX)).await.unwrap_err();
            assert!(error.to_string().contains("BadRecordMac"), "{error}");
        }
    });
}

#[test]
fn something_may_be_written_while_half_a_message_has_come() {
    run(async {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (settings, mut server) = rig::settings(&TLS13);
        // Tickets come in many small records.
        server.max_fragment_size = Some(40);
        let mut client = rig::client(settings, ours);
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let agree = async {
            let mut block = [0; 4096];
            while server.is_handshaking() {
                let count = theirs.read(&mut block).await.unwrap();
                server.read_tls(&mut &block[..count]).unwrap();
                server.process_new_packets().unwrap();
                let mut out = Vec::new();
                while server.is_handshaking() && server.wants_write() {
                    server.write_tls(&mut out).unwrap();
                }
                theirs.write_all(&out).await.unwrap();
            }
        };
        let (agreed, ()) = tokio::join!(client.handshake(), agree);
        agreed.unwrap();
        let mut tickets = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut tickets).unwrap();
        }
        // Wherever they are cut.
        for byte in &tickets {
            theirs.write_all(&[*byte]).await.unwrap();
            client.socket.readable().await.unwrap();
            assert!(read_once(&mut client).await.is_pending());
            write(&mut client, &[b"x".to_vec()]).await;
        }
        assert!(client.incoming.is_empty());
        let mut got = Vec::new();
        while got.len() < tickets.len() {
            let mut block = [0; 4096];
            let count = theirs.read(&mut block).await.unwrap();
            let mut received = &block[..count];
            while !received.is_empty() {
                server.read_tls(&mut received).unwrap();
                server.process_new_packets().unwrap();
            }
            let _ = io::Read::read_to_end(&mut server.reader(), &mut got);
        }
        assert!(got.iter().all(|byte| *byte == b'x'));
        client.farewell();
    });
}

/// A client that asks for new keys is answered with a message of its own place in the order.
#[test]
fn what_waits_to_be_sent_goes_out_before_what_is_said_after_it() {
    run(async {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (settings, server) = rig::settings(&TLS13);
        let server = Server::new(Arc::new(server)).unwrap();
        let mut server = TlsStream::new(Plain::Unix(ours), server, BytesMut::new());
        let mut client = ClientConnection::new(Arc::new(settings), "a.test".try_into().unwrap()).unwrap();
        let agree = async {
            while client.is_handshaking() {
                let mut out = Vec::new();
                while client.wants_write() {
                    client.write_tls(&mut out).unwrap();
                }
                theirs.write_all(&out).await.unwrap();
                let mut block = [0; 4096];
                let count = theirs.read(&mut block).await.unwrap();
                client.read_tls(&mut &block[..count]).unwrap();
                client.process_new_packets().unwrap();
            }
            let mut out = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut out).unwrap();
            }
            theirs.write_all(&out).await.unwrap();
        };
        let (agreed, ()) = tokio::join!(server.handshake(), agree);
        agreed.unwrap();
        let later = |server: &mut TlsStream<Server>, content: &[u8]| {
            assert!(matches!(
                server.poll_write_later(&mut Context::from_waker(Waker::noop()), content),
                Poll::Ready(Ok(taken)) if taken == content.len()
            ));
        };
        later(&mut server, b"one ");
        client.refresh_traffic_keys().unwrap();
        let mut asked = Vec::new();
        client.write_tls(&mut asked).unwrap();
        theirs.write_all(&asked).await.unwrap();
        server.socket.readable().await.unwrap();
        assert!(read_once(&mut server).await.is_pending());
        later(&mut server, b"two ");
        poll_fn(|cx| server.poll_send(cx)).await.unwrap();
        later(&mut server, b"three ");
        server.farewell();
        let mut got = Vec::new();
        loop {
            let mut block = [0; 4096];
            let count = theirs.read(&mut block).await.unwrap();
            let mut received = &block[..count];
            while !received.is_empty() {
                client.read_tls(&mut received).unwrap();
                client.process_new_packets().unwrap();
            }
            // Ok only at the end.
            if io::Read::read_to_end(&mut client.reader(), &mut got).is_ok() {
                break;
            }
        }
        assert_eq!(got.escape_ascii().to_string(), "one two three ");
    });
}

#[test]
fn a_handshake_begins_with_what_was_received_before() {
    run(async {
        for at in [0, 1, 5, 100] {
            let (ours, mut between) = UnixStream::pair().unwrap();
            let (relay, theirs) = UnixStream::pair().unwrap();
            let (settings, server) = rig::settings(&TLS13);
            let mut client = rig::client(settings, ours);
            let hello = async {
                let mut block = vec![0; 4096];
                let count = between.read(&mut block).await.unwrap();
                block.truncate(count);
                block
            };
            let mut hello = tokio::select! {
                hello = hello => hello,
                agreed = client.handshake() => panic!("{agreed:?} with nobody"),
            };
            let rest = hello.split_off(at);
            let server = Server::new(Arc::new(server)).unwrap();
            let mut server = TlsStream::new(Plain::Unix(theirs), server, BytesMut::from(&hello[..]));
            let (mut to_server, mut relay) = (relay, between);
            to_server.write_all(&rest).await.unwrap();
            let pass = tokio::io::copy_bidirectional(&mut to_server, &mut relay);
            tokio::select! {
                (one, other) = async { tokio::join!(client.handshake(), server.handshake()) } => {
                    one.unwrap();
                    other.unwrap();
                }
                _ = pass => panic!("the relay ended"),
            }
        }
    });
}
