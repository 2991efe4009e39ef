//! Requests and responses as the tests see them: fields in order and in their original case, bodies with their framing
//! taken off.

use std::fmt;

use super::grammar::Framing;

/// The fields of a head, in order, names as they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<(String, String)>);

impl Fields {
    /// The value of a field that may be there once.
    ///
    /// # Panics
    /// If it is there more often: what a test asks for with `get` must not come twice.
    #[track_caller]
    pub fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} is there {} times: {all:?}", all.len());
        all.first().copied()
    }

    /// Every value of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.0.iter().filter(named).map(|(_, value)| value.as_str()).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// The names in order, as they were written.
    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// What an origin received.
#[derive(Debug, Clone)]
pub struct Request {
    /// Request line and fields with the empty line after them, byte for byte.
    pub raw_head: Vec<u8>,
    pub method: String,
    pub target: String,
    pub version: String,
    pub fields: Fields,
    pub framing: Framing,
    pub body: Vec<u8>,
    /// Fields after a chunked body.
    pub trailers: Fields,
    /// Which of the origin's connections it came on, from 0.
    pub connection: usize,
}

impl Request {
    /// The value of a field that may be there once; see [`Fields::get`].
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }
}

/// What a client received.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status line and fields with the empty line after them, byte for byte.
    pub raw_head: Vec<u8>,
    pub version: String,
    pub status: u16,
    pub reason: String,
    pub fields: Fields,
    pub framing: Framing,
    pub body: Vec<u8>,
    /// Fields after a chunked body.
    pub trailers: Fields,
    /// Status codes of the interim responses before it.
    pub interim: Vec<u16>,
}

impl Response {
    /// The value of a field that may be there once; see [`Fields::get`].
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }

    /// The body as text.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is no UTF-8")
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("the body is no JSON ({error}): {self}"))
    }

    /// Asserts the status, and shows the whole response where it is another.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self}");
        self
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = &self.body[..self.body.len().min(2000)];
        let head = String::from_utf8_lossy(&self.raw_head);
        write!(f, "{head}{} ({} bytes)", String::from_utf8_lossy(body), self.body.len())
    }
}

/// Why no whole message was read.
#[derive(Debug, Clone)]
pub enum Broken {
    /// The other side closed before the first byte of a message.
    Closed,
    /// The other side reset the connection before the first byte of a message.
    Reset,
    /// The connection ended inside a head.
    TruncatedHead(Vec<u8>),
    /// The connection ended inside a response's body; here is what had come.
    Truncated(Box<Response>),
    /// The same of a request.
    TruncatedRequest(Box<Request>),
    /// Nothing came for the read timeout.
    TimedOut,
    /// What came breaks RFC 9112.
    Malformed(String),
}

impl Broken {
    /// The response that ended too early.
    #[track_caller]
    pub fn truncated(self) -> Response {
        match self {
            Self::Truncated(response) => *response,
            other => panic!("expected a response broken off in its body, got {other:?}"),
        }
    }
}
