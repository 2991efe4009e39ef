//! The client's end of a request: an HTTP/1.1 connection, one stream of an HTTP/2 connection, or nobody.
//!
//! What comes of the body, and what goes out of the response: where one is in bytes of its own framing, the other is in calls to
//! the library that frames it.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};

use crate::edge::connection::Connection;
use crate::edge::http2::stream::Stream;
use crate::framing::{BodyReader, Malformed, Step};

/// Bytes that a client may send ahead of its turn; more waits in the kernel.
const PIPELINED_MAX: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub enum Wire {
    Http1(Http1),
    Http2(Box<Stream>),
    /// The gateway asks for itself: there is nobody to answer.
    Nobody,
}

/// An HTTP/1.1 connection, of which the request was read as far as its head.
#[derive(Debug)]
pub struct Http1 {
    pub connection: Box<Connection>,
    pub body: BodyReader,
}

impl Wire {
    /// Takes the next piece of the body out of what has come.
    pub fn step(&mut self) -> Result<Step, Malformed> {
        match self {
            Self::Http1(Http1 { connection, body }) => body.step(&mut connection.buf),
            Self::Http2(stream) => Ok(stream.step()),
            Self::Nobody => Ok(Step::End),
        }
    }

    /// Whether nothing more is to come of the body.
    pub fn is_received(&self) -> bool {
        match self {
            Self::Http1(Http1 { body, .. }) => body.is_done(),
            Self::Http2(stream) => stream.is_received(),
            Self::Nobody => true,
        }
    }

    /// How much is still to come of a body that says its length.
    pub fn announced(&self) -> Option<u64> {
        match self {
            Self::Http1(Http1 { body: BodyReader::Length(left), .. }) => Some(*left),
            Self::Http1(_) | Self::Nobody => None,
            Self::Http2(stream) => stream.announced(),
        }
    }

    /// What the response may have of memory as long as the client does not take it, in bytes.
    pub fn memory_share(&self) -> usize {
        match self {
            Self::Http1(_) | Self::Nobody => usize::MAX,
            Self::Http2(stream) => stream.memory_share(),
        }
    }

    /// Bytes that have come and were not taken.
    pub fn ahead(&self) -> usize {
        match self {
            Self::Http1(Http1 { connection, .. }) => connection.buf.len(),
            Self::Http2(stream) => stream.ahead(),
            Self::Nobody => 0,
        }
    }

    /// Waits for more of the body, or with `wants_body` unset for the client to leave; `Ok(0)` and an error both say that it has.
    /// What is read ahead of its turn is bounded.
    pub fn poll_heard(&mut self, cx: &mut Context<'_>, at_once: usize, wants_body: bool) -> Poll<io::Result<usize>> {
        match self {
            // While a body is received the buffer was emptied before.
            Self::Http1(Http1 { connection, .. }) if connection.buf.len() >= PIPELINED_MAX => Poll::Pending,
            Self::Http1(Http1 { connection, .. }) => {
                let Connection { transport, buf, .. } = &mut **connection;
                transport.poll_arrived(cx, buf, at_once)
            }
            Self::Http2(stream) => stream.poll_heard(cx, wants_body),
            Self::Nobody => Poll::Pending,
        }
    }

    /// Sends of `out` and then of `data` what the client takes at once, and takes it off them; how much that was. `end`: nothing
    /// follows them.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut BytesMut,
        data: &mut Bytes,
        end: bool,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Http1(Http1 { connection, .. }) => {
                let written = ready!(connection.transport.poll_write_both(cx, out, data))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                let from_out = written.min(out.len());
                out.advance(from_out);
                data.advance(written - from_out);
                Poll::Ready(Ok(written))
            }
            Self::Http2(stream) => stream.poll_send(cx, out, data, end),
            Self::Nobody => {
                let length = out.len() + data.len();
                out.clear();
                data.clear();
                Poll::Ready(Ok(length))
            }
        }
    }

    /// Whether something is to be sent that is not among the bytes: the head or the end of a response in HTTP/2. `ended`: it is
    /// whole.
    pub fn owes(&self, ended: bool) -> bool {
        match self {
            Self::Http1(_) | Self::Nobody => false,
            Self::Http2(stream) => stream.owes(ended),
        }
    }

    /// Whether something that was sent waits for the socket.
    pub fn has_pending(&self) -> bool {
        match self {
            Self::Http1(Http1 { connection, .. }) => connection.transport.has_pending(),
            Self::Http2(_) | Self::Nobody => false,
        }
    }

    /// Goes on sending it; ready when some of it was taken.
    pub fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Http1(Http1 { connection, .. }) => {
                let transport = &mut connection.transport;
                let before = transport.pending();
                match transport.poll_send(cx) {
                    Poll::Pending if transport.pending() < before => Poll::Ready(Ok(())),
                    sent => sent,
                }
            }
            Self::Http2(_) | Self::Nobody => Poll::Ready(Ok(())),
        }
    }
}
