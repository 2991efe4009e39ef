//! A scripted upstream: a closure says what happens on each connection, and every request it read is kept.

use std::io::{self, Write};
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::ServerConfig;
use tempfile::TempDir;

use super::eventually::{Gate, eventually};
use super::message::{Broken, Request};
use super::socket::{Address, Listener, Stream};
use super::tls::TlsStream;
use super::wire::Wire;

/// How TLS is spoken, and whether a connection may do without.
type Secure = (Arc<ServerConfig>, bool);
type Script = dyn Fn(&mut Connection) + Send + Sync;

/// A listening upstream; dropping it closes every connection and fails the test if a script failed.
pub struct Origin {
    address: Address,
    listener: Arc<Listener>,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
    /// Connections that fill a backlog nobody accepts from.
    fillers: Vec<Stream>,
    dir: Option<TempDir>,
}

/// What the origin and the threads of its connections share.
#[derive(Default)]
struct Shared {
    requests: Mutex<Vec<Request>>,
    accepted: AtomicUsize,
    open: Mutex<Vec<(usize, Stream)>>,
    /// Why TLS was not agreed on.
    refused: Mutex<Vec<String>>,
    /// What scripts panicked with.
    failures: Mutex<Vec<String>>,
    stopped: Gate,
}

impl Origin {
    /// On a free TCP port; `script` runs once for each connection, in a thread of its own, and closes it by returning.
    pub fn start(script: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        Self::start_at(&Address::any_port(), script)
    }

    /// On a free TCP port, over TLS: `script` runs once the two have agreed.
    pub fn start_tls(config: Arc<ServerConfig>, script: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        Self::start_with(&Address::any_port(), Some((config, false)), script)
    }

    /// The same on a port where plain connections are served as well.
    pub fn start_either(config: Arc<ServerConfig>, script: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        Self::start_with(&Address::any_port(), Some((config, true)), script)
    }

    /// On a Unix socket in a directory of its own.
    pub fn start_unix(script: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut origin = Self::start_at(&Address::Unix(dir.path().join("origin.sock")), script);
        origin.dir = Some(dir);
        origin
    }

    /// On a socket in Linux' abstract namespace.
    pub fn start_abstract(script: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("propylon-test-{}-{number}", std::process::id());
        Self::start_at(&Address::Abstract(name), script)
    }

    /// Where another one listened before: a server that comes back.
    #[track_caller]
    pub fn start_at(address: &Address, script: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        Self::start_with(address, None, script)
    }

    #[track_caller]
    fn start_with(
        address: &Address,
        tls: Option<Secure>,
        script: impl Fn(&mut Connection) + Send + Sync + 'static,
    ) -> Self {
        let mut origin = Self::bind(address);
        let (listener, shared) = (Arc::clone(&origin.listener), Arc::clone(&origin.shared));
        origin.acceptor = Some(thread::spawn(move || {
            let script: Arc<Script> = Arc::new(script);
            accept_all(&listener, &shared, tls.as_ref(), &script);
        }));
        origin
    }

    /// Answers every request with these bytes and keeps the connection.
    pub fn fixed(response: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self::start(
            move |connection| {
                while connection.read_request().is_some() && connection.write(response.as_ref()) {}
            },
        )
    }

    /// Answers every request with 200 and the raw request head as the body.
    pub fn echo_head() -> Self {
        Self::start(|connection| {
            while let Some(request) = connection.read_request() {
                connection.answer(200, request.raw_head);
            }
        })
    }

    /// Accepts nothing, and its backlog is full: a connection to it is neither made nor refused. A Unix socket in that
    /// state answers at once (EAGAIN), so this is TCP.
    pub fn unreachable() -> Self {
        let mut origin = Self::bind(&Address::any_port());
        let socket = origin.listener.as_socket();
        socket.listen(0).unwrap();
        let Address::Tcp(address) = origin.address else { unreachable!("bound to a port") };
        let wait = Duration::from_millis(200);
        while let Ok(filler) = std::net::TcpStream::connect_timeout(&address, wait) {
            origin.fillers.push(Stream::Tcp(filler));
        }
        origin
    }

    /// Accepts nothing; connections wait in its backlog and are never answered.
    pub fn never_accepting() -> Self {
        Self::bind(&Address::any_port())
    }

    #[track_caller]
    fn bind(address: &Address) -> Self {
        let listener = Listener::bind(address).unwrap_or_else(|error| panic!("an origin at {address}: {error}"));
        Self {
            address: listener.address(address),
            listener: Arc::new(listener),
            shared: Arc::default(),
            acceptor: None,
            fillers: Vec::new(),
            dir: None,
        }
    }

    /// Where it listens; displayed as an endpoint is written in the configuration.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Every request read so far, in the order in which they were complete.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Waits until at least `count` requests were read, and gives them all.
    #[track_caller]
    pub fn wait_for_requests(&self, count: usize) -> Vec<Request> {
        eventually(&format!("{count} requests at {}", self.address), || {
            Some(self.requests()).filter(|requests| requests.len() >= count)
        })
    }

    /// Why TLS was not agreed on, for each connection on which it was not.
    pub fn refused(&self) -> Vec<String> {
        self.shared.refused.lock().unwrap().clone()
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many of them have a script that still runs.
    pub fn open_connections(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }

    /// Refuses new connections from now on; those it has go on.
    pub fn stop_accepting(&mut self) {
        self.listener.close();
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().unwrap();
        }
    }

    /// Refuses new connections and closes those it has. [`Origin::start_at`] its address brings it back.
    pub fn stop(&mut self) {
        self.stop_accepting();
        self.shared.stopped.open();
        for (_, stream) in self.shared.open.lock().unwrap().iter() {
            stream.shutdown(Shutdown::Both);
        }
        eventually("the origin's scripts end", || (self.open_connections() == 0).then_some(()));
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if thread::panicking() {
            // The scripts end by themselves once their connections do; waiting could panic a second time.
            self.listener.close();
            self.shared.stopped.open();
            return;
        }
        self.stop();
        let failures = self.shared.failures.lock().unwrap();
        assert!(failures.is_empty(), "scripts of the origin at {} failed: {failures:#?}", self.address);
    }
}

fn accept_all(listener: &Listener, shared: &Arc<Shared>, tls: Option<&Secure>, script: &Arc<Script>) {
    while let Ok(stream) = listener.accept() {
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
        let clone = stream.try_clone().unwrap();
        shared.open.lock().unwrap().push((number, clone));
        let (script, shared, tls) = (Arc::clone(script), Arc::clone(shared), tls.cloned());
        thread::spawn(move || {
            let stream = match secure(stream, tls) {
                Ok(stream) => stream,
                Err(error) => {
                    shared.refused.lock().unwrap().push(error.to_string());
                    return shared.open.lock().unwrap().retain(|(other, _)| *other != number);
                }
            };
            let wire = Wire::new(stream.try_clone().unwrap());
            let mut connection = Connection { number, wire, stream, shared: Arc::clone(&shared) };
            let run = catch_unwind(AssertUnwindSafe(|| script(&mut connection)));
            if let Err(failure) = run {
                shared.failures.lock().unwrap().push(panic_text(&*failure));
            }
            // First the descriptors, then the count: who sees no open connection sees them closed.
            let mut open = shared.open.lock().unwrap();
            drop(connection);
            open.retain(|(other, _)| *other != number);
        });
    }
}

/// Agrees on TLS where it is spoken.
fn secure(stream: Stream, tls: Option<Secure>) -> io::Result<Stream> {
    let (Stream::Tcp(tcp), Some((config, or_plain))) = (&stream, tls) else { return Ok(stream) };
    let mut first = [0];
    // That of a handshake (RFC 8446 section 5.1).
    let said = tcp.peek(&mut first)? > 0;
    match (said, first) {
        (true, [22]) => TlsStream::accept(tcp.try_clone()?, config).map(Stream::Tls),
        _ if or_plain => Ok(stream),
        (true, _) => Err(io::Error::other("plain text")),
        (false, _) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without text").to_owned()
}

/// One accepted connection, in the hands of a script.
pub struct Connection {
    number: usize,
    stream: Stream,
    wire: Wire<Stream>,
    shared: Arc<Shared>,
}

impl Connection {
    /// Which connection of its origin this is, from 0.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Reads one whole request and keeps it. None: the connection ended, or stayed idle for the read timeout, instead.
    ///
    /// # Panics
    /// Where the bytes break RFC 9112, which fails the test: the gateway must not send such.
    pub fn read_request(&mut self) -> Option<Request> {
        let mut request = self.read_head()?;
        self.read_body(&mut request).then_some(request)
    }

    /// Reads a request's head alone; [`Connection::read_body`] reads on and keeps the request.
    pub fn read_head(&mut self) -> Option<Request> {
        match self.wire.read_request_head() {
            Ok(mut request) => {
                request.connection = self.number;
                Some(request)
            }
            Err(Broken::Closed | Broken::Reset | Broken::TimedOut) => None,
            Err(Broken::TruncatedHead(_)) if self.stopped() => None,
            Err(broken) => panic!("no request: {broken:?}"),
        }
    }

    /// Reads the rest of a request and keeps it; false if the connection ended before the body did.
    pub fn read_body(&mut self, request: &mut Request) -> bool {
        match self.wire.read_request_body(request) {
            Ok(()) => {
                self.shared.requests.lock().unwrap().push(request.clone());
                true
            }
            Err(Broken::TruncatedRequest(_)) => false,
            Err(broken) => panic!("no request body: {broken:?}"),
        }
    }

    /// Sends the bytes as they are; false if the gateway has closed meanwhile.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.try_write(bytes).is_ok()
    }

    pub fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends a response of this status and body, framed by Content-Length.
    pub fn answer(&mut self, status: u16, body: impl AsRef<[u8]>) -> bool {
        let body = body.as_ref();
        let head = format!("HTTP/1.1 {status} Scripted\r\nContent-Length: {}\r\n\r\n", body.len());
        self.write([head.as_bytes(), body].concat())
    }

    /// Lets time pass, or less when the origin stops meanwhile.
    pub fn delay(&self, time: Duration) {
        self.shared.stopped.wait_at_most(time);
    }

    /// Does nothing until the origin stops: a server that hangs.
    pub fn hang(&self) {
        self.shared.stopped.wait_at_most(Duration::from_mins(10));
    }

    /// Exactly `count` bytes that are part of no request: after an upgrade. None: fewer came.
    pub fn read_raw(&mut self, count: usize) -> Option<Vec<u8>> {
        self.wire.read_raw(count).ok()
    }

    /// Whether nothing has come so far of what follows the last request. It does not wait.
    pub fn has_nothing_ahead(&mut self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let read = self.wire.fill();
        self.stream.set_nonblocking(false).unwrap();
        matches!(read, Err(Broken::TimedOut)) && self.wire.ahead().is_empty()
    }

    /// What comes until the gateway closes or breaks the connection.
    pub fn read_rest(&mut self) -> Vec<u8> {
        while matches!(self.wire.fill(), Ok(1..)) {}
        self.wire.ahead().to_vec()
    }

    /// Waits until the gateway closes; false if it sent something, or stayed, instead.
    pub fn peer_closed(&mut self) -> bool {
        matches!(self.wire.fill(), Ok(0) | Err(Broken::Reset))
    }

    /// Over TLS: says that nothing more comes, which [`Connection::close`] alone does not.
    pub fn close_notify(&mut self) {
        self.tls().close_notify();
    }

    pub fn is_tls(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// The TLS below, where there is any.
    #[track_caller]
    pub fn tls(&self) -> &TlsStream {
        match &self.stream {
            Stream::Tls(stream) => stream,
            other => panic!("no TLS: {other:?}"),
        }
    }

    /// Closes both directions at once, with what was sent before delivered.
    pub fn close(&mut self) {
        self.stream.shutdown(Shutdown::Both);
    }

    /// Closes the direction to the gateway and goes on reading.
    pub fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write);
    }

    /// Breaks the connection with RST.
    pub fn reset(&mut self) {
        self.stream.reset();
    }

    fn stopped(&self) -> bool {
        self.shared.stopped.is_open()
    }
}
