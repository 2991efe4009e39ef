//! Where the gateway listens: TCP, IPv6, Unix sockets, and what happens when it cannot.

use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;

use crate::harness::{Client, Finished, Gateway};

const GATEWAY: &str = r#"
    [server]
    listen = [{listen}]
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [[routes]]
    respond = { body = "hello" }
"#;

/// Why it did not start: what it wrote last, without warnings about this machine.
fn sentences(refused: &Finished) -> Vec<&str> {
    refused.stderr.lines().filter(|line| !line.contains(" WARN ")).collect()
}

#[test]
fn every_listener_serves() {
    let gateway =
        Gateway::with(GATEWAY).set("listen", r#""127.0.0.1:0", "[::1]:0", "unix:{dir}/gateway.sock""#).start();
    let labels: Vec<_> = gateway.addrs().iter().map(ToString::to_string).collect();
    assert_eq!(labels.len(), 3, "{labels:?}");
    for address in gateway.addrs() {
        let mut client = Client::connect(address);
        assert_eq!(client.get("/").expect(200).text(), "hello");
        assert_eq!(client.get("/").expect(200).text(), "hello");
    }
    let lines = gateway.access_log(6);
    for (place, client) in [("127.0.0.1:", "127.0.0.1"), ("[::1]:", "::1"), ("unix:", "unix")] {
        let label = labels.iter().find(|label| label.starts_with(place)).unwrap();
        let of_it: Vec<_> = lines.iter().filter(|line| line["listener"] == **label).collect();
        assert_eq!(of_it.len(), 2, "{label}");
        assert!(of_it.iter().all(|line| line["client"] == client), "{of_it:?}");
        let accepted = gateway.metrics().value("propylon_connections_total", &[("listener", label)]);
        assert_eq!(accepted, Some(1.0), "{label}");
    }
}

#[test]
fn an_ipv6_listener_is_ipv6_alone() {
    let gateway = Gateway::with(GATEWAY).set("listen", r#""[::]:0""#).start();
    let port = gateway.addr().port();
    // The same port is free for IPv4.
    let other = TcpListener::bind(("127.0.0.1", port));
    assert!(other.is_ok(), "{other:?}");
}

#[test]
fn a_unix_socket_is_anyone_s_to_connect_to_and_goes_with_the_gateway() {
    let gateway = Gateway::with(GATEWAY).set("listen", r#""unix:{dir}/gateway.sock""#).start();
    let dir = gateway.dir().to_owned();
    let path = dir.join("gateway.sock");
    let file = std::fs::metadata(&path).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o666);
    gateway.get("/").expect(200);
    let _kept = gateway.connect();
    gateway.signal(crate::harness::Signal::TERM);
    crate::harness::eventually("the socket file is gone", || (!path.exists()).then_some(()));
    gateway.wait_for_exit();
}

#[test]
fn a_socket_file_that_a_dead_process_left_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let gateway = Gateway::with(GATEWAY).set("listen", &format!("\"unix:{}\"", path.display())).start();
    gateway.get("/").expect(200);
    gateway.stop();
    assert!(!path.exists());
}

#[test]
fn a_socket_somebody_listens_on_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.sock");
    let listen = format!("\"unix:{}\"", path.display());
    let first = Gateway::with(GATEWAY).set("listen", &listen).start();
    let second = Gateway::with(GATEWAY).set("listen", &listen).expect_refused();
    let sentence = format!("cannot listen on unix:{}: the address is in use by another process", path.display());
    assert_eq!((second.code, sentences(&second)), (1, vec![&*sentence]));
    first.get("/").expect(200);
}

#[test]
fn a_socket_of_a_process_that_hangs_is_in_use_and_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.sock");
    let hanging = UnixListener::bind(&path).unwrap();
    let socket = socket2::SockRef::from(&hanging);
    socket.listen(0).unwrap();
    // One connection fills its backlog; a further one would wait for ever.
    let _filler = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let refused = Gateway::with(GATEWAY).set("listen", &format!("\"unix:{}\"", path.display())).expect_refused();
    let sentence = format!("cannot listen on unix:{}: the address is in use by another process", path.display());
    assert_eq!((refused.code, sentences(&refused)), (1, vec![&*sentence]));
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.sock");
    std::fs::write(&path, "precious").unwrap();
    let refused = Gateway::with(GATEWAY).set("listen", &format!("\"unix:{}\"", path.display())).expect_refused();
    let sentence = format!("cannot listen on unix:{}: there is a file that is no socket", path.display());
    assert_eq!((refused.code, sentences(&refused)), (1, vec![&*sentence]));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_socket_in_a_directory_that_does_not_exist_is_refused() {
    let refused = Gateway::with(GATEWAY).set("listen", r#""unix:{dir}/none/gateway.sock""#).expect_refused();
    assert_eq!(refused.code, 1);
    let sentences = sentences(&refused);
    assert!(sentences.len() == 1 && sentences[0].contains("/none/gateway.sock: "), "{sentences:?}");
}

#[test]
fn every_taken_port_is_named_at_once() {
    let taken = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("[::1]:0").unwrap()];
    let addresses = taken.each_ref().map(|listener| listener.local_addr().unwrap().to_string());
    let listen = addresses.each_ref().map(|address| format!("{address:?}")).join(", ");
    let refused = Gateway::with(GATEWAY).set("listen", &format!("\"127.0.0.1:0\", {listen}")).expect_refused();
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    let sentence = |address| format!("cannot listen on {address}: the address is in use by another process");
    assert_eq!(sentences(&refused), addresses.each_ref().map(sentence));
    assert!(refused.stdout.is_empty());
}

#[test]
fn an_address_no_interface_has_is_refused() {
    let refused = Gateway::with(GATEWAY).set("listen", r#""192.0.2.1:8080""#).expect_refused();
    let sentence = "cannot listen on 192.0.2.1:8080: no interface has this address";
    assert_eq!((refused.code, sentences(&refused)), (1, vec![sentence]));
}
