//! The two sides of a TLS connection as [`stream`](super::stream) drives them.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::UnbufferedStatus;
use rustls::{ClientConfig, CommonState, Error, ServerConfig};

/// One side.
pub trait Peer {
    type Data;

    /// Takes in what was received, up to the next thing to do.
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// What was agreed on.
    fn agreed(&self) -> &CommonState;

    fn is_handshaking(&self) -> bool {
        self.agreed().is_handshaking()
    }
}

thread_local! {
    /// The name the client asks for. rustls tells it to the one who chooses the certificate, within [`Peer::process`], and has no
    /// other word for it in this interface.
    static ASKED: Cell<Option<Box<str>>> = const { Cell::new(None) };
}

/// Notes the name that a client asks for.
pub(super) fn note_asked(name: Option<&str>) {
    ASKED.set(name.map(str::to_ascii_lowercase).map(String::into_boxed_str));
}

/// The server's side.
pub struct Server {
    connection: UnbufferedServerConnection,
    asked: Option<Box<str>>,
}

impl Server {
    /// A connection to be accepted.
    ///
    /// # Errors
    /// None that these settings cause.
    pub fn new(settings: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self { connection: UnbufferedServerConnection::new(settings)?, asked: None })
    }

    /// The name the client asked for, in lower case.
    #[must_use]
    pub fn asked(&self) -> Option<&str> {
        self.asked.as_deref()
    }
}

impl Peer for Server {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        let Self { connection, asked } = self;
        if !connection.is_handshaking() {
            return connection.process_tls_records(incoming);
        }
        ASKED.take();
        let status = connection.process_tls_records(incoming);
        if let Some(name) = ASKED.take() {
            *asked = Some(name);
        }
        status
    }

    fn agreed(&self) -> &CommonState {
        &self.connection
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("asked", &self.asked).finish_non_exhaustive()
    }
}

/// The client's side.
pub struct Client(UnbufferedClientConnection);

impl Client {
    /// A connection to whoever can show a certificate for `name`.
    ///
    /// # Errors
    /// None that these settings cause.
    pub fn new(settings: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        Ok(Self(UnbufferedClientConnection::new(settings, name)?))
    }
}

impl Peer for Client {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.0.process_tls_records(incoming)
    }

    fn agreed(&self) -> &CommonState {
        &self.0
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}
