//! A raw HTTP/1.1 client: sends the bytes it is given, as they are and when it is told, and reads strictly.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use super::eventually::scripted_delay;
use super::message::{Broken, Response};
use super::socket::{Address, Stream};
use super::tls::{TlsClient, TlsStream};
use super::wire::Wire;

/// One connection. It is kept alive over as many requests as a test sends on it.
pub struct Client {
    stream: Stream,
    wire: Wire<Stream>,
}

impl Client {
    #[track_caller]
    pub fn connect(address: &Address) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    pub fn try_connect(address: &Address) -> io::Result<Self> {
        let stream = Stream::connect(address)?;
        let wire = Wire::new(stream.try_clone()?);
        Ok(Self { stream, wire })
    }

    /// A connection with TLS, once the two have agreed.
    #[track_caller]
    pub fn connect_tls(address: &Address, tls: &TlsClient) -> Self {
        Self::over(tls.connect(address).unwrap_or_else(|error| panic!("no TLS with {address}: {error}")))
    }

    /// A client on a connection that is there already.
    pub fn over(stream: TlsStream) -> Self {
        Self { stream: Stream::Tls(stream.clone()), wire: Wire::new(Stream::Tls(stream)) }
    }

    /// The TLS below, where there is any.
    #[track_caller]
    pub fn tls(&self) -> &TlsStream {
        match &self.stream {
            Stream::Tls(stream) => stream,
            other => panic!("no TLS: {other:?}"),
        }
    }

    /// Where this connection comes from.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.stream.local_addr()
    }

    /// How long [`Client::try_response`] waits for each piece.
    pub fn set_timeout(&self, time: Duration) {
        self.stream.set_read_timeout(time).unwrap();
    }

    /// Shrinks the receive buffer, so that not reading holds the sender up early.
    pub fn set_receive_buffer(&self, bytes: usize) {
        self.stream.set_receive_buffer(bytes).unwrap();
    }

    /// Sends the bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("sending to the gateway");
    }

    /// [`Client::send`] where the gateway may close meanwhile.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends `block` again and again, until the gateway takes nothing of it for `patience`.
    pub fn fill(&mut self, block: &[u8], patience: Duration) {
        self.stream.set_write_timeout(patience).unwrap();
        while self.try_send(block).is_ok() {}
    }

    /// Sends pieces with a pause after each; stops early, and says so with `false`, once the gateway has closed.
    pub fn drip<B: AsRef<[u8]>>(&mut self, pieces: impl IntoIterator<Item = B>, pause: Duration) -> bool {
        for piece in pieces {
            if self.try_send(piece).is_err() {
                return false;
            }
            scripted_delay(pause);
        }
        true
    }

    /// Sends a request without waiting for its answer (so several may be pipelined). `Host: test` and, where there is a
    /// body, Content-Length are added unless they are among the fields.
    #[track_caller]
    pub fn send_request(&mut self, method: &str, target: &str, fields: &[(&str, &str)], body: impl AsRef<[u8]>) {
        self.send(request_bytes(method, target, fields, body.as_ref()));
    }

    /// Sends a request and reads its answer.
    #[track_caller]
    pub fn request(&mut self, method: &str, target: &str, fields: &[(&str, &str)], body: impl AsRef<[u8]>) -> Response {
        self.send_request(method, target, fields, body);
        self.response_to(method)
    }

    #[track_caller]
    pub fn get(&mut self, target: &str) -> Response {
        self.request("GET", target, &[], "")
    }

    /// The next response, to any method but HEAD.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    /// The next response, to a request of this method.
    #[track_caller]
    pub fn response_to(&mut self, method: &str) -> Response {
        match self.wire.read_response(method) {
            Ok(response) => response,
            Err(broken) => panic!("no whole response: {broken:?}"),
        }
    }

    /// The next response, or why there is none; [`Broken::Truncated`] when the transfer was broken off.
    pub fn try_response(&mut self) -> Result<Response, Broken> {
        self.wire.read_response("GET")
    }

    /// The head of the next response; its body stays unread, see [`Client::read_raw`].
    #[track_caller]
    pub fn response_head(&mut self) -> Response {
        match self.wire.read_response_head("GET") {
            Ok(response) => response,
            Err(broken) => panic!("no response head: {broken:?}"),
        }
    }

    /// Exactly `count` bytes as they come: after an upgrade, or a body in pieces.
    #[track_caller]
    pub fn read_raw(&mut self, count: usize) -> Vec<u8> {
        match self.wire.read_raw(count) {
            Ok(bytes) => bytes,
            Err(Broken::TruncatedHead(came)) if came.len() > 1000 => panic!("only {} of {count} bytes", came.len()),
            Err(broken) => panic!("no {count} bytes: {broken:?}"),
        }
    }

    /// Everything until the gateway closes, byte for byte.
    pub fn read_rest(&mut self) -> Result<Vec<u8>, Broken> {
        self.wire.read_rest()
    }

    /// Asserts that nothing has come so far. It does not wait: be sure by other means that it would have come.
    #[track_caller]
    pub fn assert_silent(&mut self) {
        self.stream.set_nonblocking(true).unwrap();
        let read = self.wire.fill();
        self.stream.set_nonblocking(false).unwrap();
        let ahead = String::from_utf8_lossy(self.wire.ahead());
        assert!(
            matches!(read, Err(Broken::TimedOut)) && ahead.is_empty(),
            "expected nothing yet, got {read:?} {ahead:?}"
        );
    }

    /// Waits until the gateway closes, and asserts that nothing more came before.
    #[track_caller]
    pub fn closed(&mut self) {
        match self.wire.read_rest() {
            Ok(rest) if rest.is_empty() => {}
            Err(Broken::Reset) => {}
            other => panic!("expected the end of the connection, got {other:?}"),
        }
    }

    /// Says that nothing more will be sent, and goes on reading.
    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write);
    }

    /// Breaks the connection with RST.
    pub fn reset(self) {
        self.stream.reset();
    }
}

fn request_bytes(method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let given = |name: &str| fields.iter().any(|field| field.0.eq_ignore_ascii_case(name));
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    if !given("host") {
        head += "Host: test\r\n";
    }
    for &(name, value) in fields {
        head.extend([name, ": ", value, "\r\n"]);
    }
    if !body.is_empty() && !given("content-length") && !given("transfer-encoding") {
        let length = body.len().to_string();
        head.extend(["Content-Length: ", &length, "\r\n"]);
    }
    head += "\r\n";
    [head.as_bytes(), body].concat()
}
