//! A client of HTTP/2 that keeps to the rules: the `h2` crate's, over TLS, on a runtime that all tests share.

use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::eventually::DEADLINE;
use super::socket::Address;
use super::tls::{Authority, TlsClient};

/// A client's side of TLS that offers HTTP/2 alone.
pub fn offering_http2() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let make = || {
        let mut config = (*TlsClient::new(Authority::shared(), "localhost").config).clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    };
    CONFIG.get_or_init(make).clone()
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap())
}

/// Waits for what should not take long.
#[track_caller]
fn wait<F: Future>(what: &str, future: F) -> F::Output {
    let bounded = runtime().block_on(async { timeout(DEADLINE, future).await });
    bounded.unwrap_or_else(|_| panic!("did not happen within {DEADLINE:?}: {what}"))
}

/// One connection, for as many requests as a test has, one after the other or side by side.
pub struct Http2 {
    send: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Http2 {
    #[track_caller]
    pub fn connect(address: &Address) -> Self {
        Self::connect_with(address, |_| {})
    }

    /// With settings of its own.
    #[track_caller]
    pub fn connect_with(address: &Address, set: impl FnOnce(&mut Builder)) -> Self {
        let Address::Tcp(address) = address else { panic!("TLS over TCP alone") };
        let mut settings = Builder::new();
        // Room for all that is not read yet, on the connection: it holds nothing up that is read.
        settings.enable_push(false).initial_window_size(1 << 20).initial_connection_window_size(1 << 30);
        set(&mut settings);
        let (send, connection) = wait("an HTTP/2 connection", async {
            let socket = TcpStream::connect(address).await.unwrap();
            socket.set_nodelay(true).unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let mut tls = Tls { socket, tls: ClientConnection::new(offering_http2(), name).unwrap() };
            poll_fn(|cx| tls.poll_agree(cx)).await.unwrap();
            settings.handshake(tls).await.unwrap()
        });
        Self { send, connection: runtime().spawn(connection) }
    }

    /// Begins a request to the host `test`; with `ends` it has no body.
    #[track_caller]
    pub fn try_start(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        ends: bool,
    ) -> Result<Stream, h2::Error> {
        let mut request = Request::builder().method(method).uri(format!("https://test{target}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let mut send = wait("room for a request", self.send.clone().ready())?;
        let (response, body) = send.send_request(request, ends)?;
        Ok(Stream { response, body, receive: None, interim: Vec::new() })
    }

    #[track_caller]
    pub fn start(&self, method: &str, target: &str, fields: &[(&str, &str)], ends: bool) -> Stream {
        self.try_start(method, target, fields, ends).unwrap()
    }

    /// Sends a request and reads its answer.
    #[track_caller]
    pub fn try_request(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Result<Answer, h2::Error> {
        let body = body.as_ref();
        let mut stream = self.try_start(method, target, fields, body.is_empty())?;
        if !body.is_empty() {
            // One that is answered before is not sent to its end.
            let _ = stream.try_send(body, true);
        }
        stream.try_answer()
    }

    #[track_caller]
    pub fn request(&self, method: &str, target: &str, fields: &[(&str, &str)], body: impl AsRef<[u8]>) -> Answer {
        self.try_request(method, target, fields, body).unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    #[track_caller]
    pub fn get(&self, target: &str) -> Answer {
        self.request("GET", target, &[], "")
    }

    /// Waits until the connection has ended, by the gateway's doing or because nothing is left to do; how it did.
    #[track_caller]
    pub fn ended(self) -> Result<(), h2::Error> {
        let Self { send, connection } = self;
        let ended = wait("the connection ends", connection).unwrap();
        drop(send);
        ended
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.connection.is_finished()
    }
}

/// One request that was begun.
pub struct Stream {
    response: ResponseFuture,
    body: SendStream<Bytes>,
    receive: Option<RecvStream>,
    /// Status codes of interim answers.
    interim: Vec<u16>,
}

impl Stream {
    /// Sends a piece of the body, as far as the gateway makes room for it.
    pub fn try_send(&mut self, data: impl AsRef<[u8]>, ends: bool) -> Result<(), h2::Error> {
        let mut data = Bytes::copy_from_slice(data.as_ref());
        if data.is_empty() {
            return self.body.send_data(data, ends);
        }
        wait("room for a body", async {
            while !data.is_empty() {
                self.body.reserve_capacity(data.len());
                let room = poll_fn(|cx| self.body.poll_capacity(cx)).await;
                let Some(room) = room else { return Err(Reason::STREAM_CLOSED.into()) };
                let piece = data.split_to(room?.min(data.len()));
                let last = ends && data.is_empty();
                self.body.send_data(piece, last)?;
            }
            Ok(())
        })
    }

    #[track_caller]
    pub fn send(&mut self, data: impl AsRef<[u8]>, ends: bool) {
        self.try_send(data, ends).unwrap();
    }

    /// Ends the body with fields.
    #[track_caller]
    pub fn send_trailers(&mut self, fields: &[(&str, &str)]) {
        self.body.send_trailers(map(fields)).unwrap();
    }

    pub fn reset(&mut self) {
        self.body.send_reset(Reason::CANCEL);
    }

    /// Why the gateway has reset the stream; it is waited for.
    #[track_caller]
    pub fn reason(&mut self) -> Reason {
        wait("the stream is reset", poll_fn(|cx| self.body.poll_reset(cx))).unwrap()
    }

    /// The next interim answer, which must come.
    #[track_caller]
    pub fn interim(&mut self) -> u16 {
        let interim = wait("an interim answer", poll_fn(|cx| self.response.poll_informational(cx)));
        self.interim.push(interim.expect("no interim answer").unwrap().status().as_u16());
        self.interim[self.interim.len() - 1]
    }

    /// The head of the answer. The body stays to be read.
    pub fn try_head(&mut self) -> Result<Answer, h2::Error> {
        let (head, receive) = wait("an answer", async {
            loop {
                // Interim answers come first.
                if let Some(interim) = poll_fn(|cx| self.response.poll_informational(cx)).await {
                    self.interim.push(interim?.status().as_u16());
                    continue;
                }
                break (&mut self.response).await.map(http::Response::into_parts);
            }
        })?;
        self.receive = Some(receive);
        let (status, fields, interim) = (head.status.as_u16(), head.headers, self.interim.clone());
        Ok(Answer { status, fields, body: Vec::new(), trailers: None, interim })
    }

    #[track_caller]
    pub fn head(&mut self) -> Answer {
        self.try_head().unwrap()
    }

    /// The next piece of the body; none at its end.
    pub fn try_piece(&mut self) -> Result<Option<Bytes>, h2::Error> {
        let receive = self.receive.as_mut().expect("the head comes first");
        wait("a piece of the body", async {
            loop {
                match receive.data().await {
                    // The end may come in an empty piece.
                    Some(Ok(data)) if data.is_empty() => {}
                    Some(Ok(data)) => {
                        receive.flow_control().release_capacity(data.len())?;
                        break Ok(Some(data));
                    }
                    Some(Err(error)) => break Err(error),
                    None => break Ok(None),
                }
            }
        })
    }

    #[track_caller]
    pub fn piece(&mut self) -> Option<Bytes> {
        self.try_piece().unwrap()
    }

    /// The whole answer.
    pub fn try_answer(mut self) -> Result<Answer, h2::Error> {
        let mut answer = self.try_head()?;
        while let Some(piece) = self.try_piece()? {
            answer.body.extend_from_slice(&piece);
        }
        let mut receive = self.receive.take().unwrap();
        answer.trailers = wait("trailers", poll_fn(|cx| receive.poll_trailers(cx)))?;
        Ok(answer)
    }

    #[track_caller]
    pub fn answer(self) -> Answer {
        self.try_answer().unwrap()
    }
}

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let pairs = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    pairs.collect()
}

/// What a client received.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub fields: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// Status codes of the interim answers before it.
    pub interim: Vec<u16>,
}

impl Answer {
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {}", self.fields, String::from_utf8_lossy(&self.body));
        self
    }

    /// The value of a field that may be there once.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let all: Vec<_> = self.fields.get_all(name).iter().collect();
        assert!(all.len() <= 1, "{name} is there {} times: {all:?}", all.len());
        all.first().map(|value| value.to_str().unwrap())
    }

    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is no UTF-8")
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

/// TLS over a socket of the runtime.
struct Tls {
    socket: TcpStream,
    tls: ClientConnection,
}

/// The socket as rustls wants it.
struct Socket<'a, 'b>(&'a mut TcpStream, &'a mut Context<'b>);

fn now<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(done) => done,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl Read for Socket<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = ReadBuf::new(buffer);
        now(Pin::new(&mut *self.0).poll_read(self.1, &mut read))?;
        Ok(read.filled().len())
    }
}

impl Write for Socket<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        now(Pin::new(&mut *self.0).poll_write(self.1, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Tls {
    /// Sends what rustls has to say.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Socket(&mut self.socket, cx)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once, and decrypts what came.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.tls.read_tls(&mut Socket(&mut self.socket, cx)) {
            Ok(_) => Poll::Ready(self.tls.process_new_packets().map(drop).map_err(io::Error::other)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// What is written before the two have agreed would be kept, and no more of it taken at some point.
    fn poll_agree(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.is_handshaking() {
            ready!(self.poll_send(cx))?;
            ready!(self.poll_receive(cx))?;
        }
        self.poll_send(cx)
    }
}

impl AsyncRead for Tls {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let _ = this.poll_send(cx)?;
            match this.tls.reader().read(buf.initialize_unfilled()) {
                Ok(count) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            ready!(this.poll_receive(cx))?;
        }
    }
}

impl AsyncWrite for Tls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        let count = self.tls.writer().write(bytes)?;
        let _ = self.poll_send(cx)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tls.send_close_notify();
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
