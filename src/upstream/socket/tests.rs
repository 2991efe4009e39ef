//! Connecting to each kind of address, and what is seen on an idle socket.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as StdUnixAddr, UnixListener as StdUnixListener};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use super::*;

async fn failure(address: &Address) -> Failure {
    connect_failure(&connect(address).await.unwrap_err())
}

#[tokio::test]
async fn tcp_is_connected_without_delay_and_refused_where_nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let Plain::Tcp(stream) = connect(&address).await.unwrap() else { panic!("not TCP") };
    assert!(stream.nodelay().unwrap());
    drop(listener);
    assert_eq!(failure(&address).await, Failure::Refused);
}

#[tokio::test]
async fn another_machine_that_vanishes_is_noticed() {
    // Of this machine itself, by the address others know it by: where it has none there is nothing to see.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    if probe.connect("192.0.2.1:9").is_err() {
        return;
    }
    let listener = TcpListener::bind((probe.local_addr().unwrap().ip(), 0)).await.unwrap();
    let Plain::Tcp(stream) = connect(&Address::Tcp(listener.local_addr().unwrap())).await.unwrap() else {
        panic!("not TCP")
    };
    let socket = SockRef::from(&stream);
    assert!(socket.keepalive().unwrap());
    // It would also cut one that is there and makes no room for so long: how long an app may read nothing is for the session.
    assert_eq!(socket.tcp_user_timeout().unwrap(), None);
}

#[tokio::test]
async fn a_unix_socket_says_why_it_cannot_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let address = Address::Unix(path.clone());
    assert_eq!(failure(&address).await, Failure::NoSocketFile);
    let listener = UnixListener::bind(&path).unwrap();
    assert!(connect(&address).await.is_ok());
    drop(listener);
    assert_eq!(failure(&address).await, Failure::Refused);
    assert_eq!(failure(&Address::Unix("/x".repeat(100).into())).await, Failure::Other);
    let denied = io::Error::from_raw_os_error(13);
    assert_eq!(connect_failure(&denied), Failure::Permission);
    assert_eq!(connect_failure(&io::ErrorKind::TimedOut.into()), Failure::Timeout);
}

#[tokio::test]
async fn a_full_backlog_is_told_from_a_refusal() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(1).unwrap();
    let address = Address::Unix(path);
    let mut waiting = Vec::new();
    let error = loop {
        match connect(&address).await {
            Ok(socket) => waiting.push(socket),
            Err(error) => break error,
        }
        assert!(waiting.len() < 10);
    };
    assert_eq!(connect_failure(&error), Failure::BacklogFull);
}

#[tokio::test]
async fn an_abstract_name_is_connected() {
    let name = format!("propylon-test-{}", std::process::id());
    let listener = StdUnixListener::bind_addr(&StdUnixAddr::from_abstract_name(&name).unwrap()).unwrap();
    let mut socket = connect(&Address::Abstract(name.clone())).await.unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    std::io::Write::write_all(&mut accepted, b"hello").unwrap();
    let mut hello = [0; 5];
    socket.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    drop((listener, accepted));
    assert_eq!(failure(&Address::Abstract(name)).await, Failure::Refused);
}

#[tokio::test]
async fn the_state_of_an_idle_socket_is_seen_at_once() {
    for _ in 0..50 {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut socket = Socket::Plain(Plain::Unix(ours));
        assert_eq!((socket.peek(), socket.glance()), (Sight::Quiet, Sight::Quiet));
        theirs.write_all(b"x").await.unwrap();
        assert_eq!(socket.peek(), Sight::Talking);
        assert_eq!(socket.peek(), Sight::Talking, "the byte stays");

        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut socket = Socket::Plain(Plain::Unix(ours));
        drop(theirs);
        assert_eq!(socket.peek(), Sight::Closed);
        tokio::time::timeout(Duration::from_secs(5), socket.news()).await.unwrap();
        assert_eq!(socket.glance(), Sight::Closed);
    }
}

#[tokio::test]
async fn hanging_up_is_seen_by_the_other_side_while_the_socket_is_held() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut socket = Socket::Plain(Plain::Unix(ours));
    drop(socket.leash().unwrap());
    assert_eq!(theirs.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(socket.peek(), Sight::Closed);
}
