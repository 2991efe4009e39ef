//! The strict reading of a response (RFC 9112): one meaning or none.
//!
//! Pure over the bytes the server sends. What has two readings is refused: the client might be given one, and whoever is behind us
//! the other; or the next response on the connection would begin at another place for us than for the server.

mod head;

use bytes::{Bytes, BytesMut};

use crate::framing::{BodyReader, Step};
use crate::message::ResponseHead;
use head::{Ending, HeadReader};

pub use crate::framing::Malformed;
pub use head::Expected;

/// Interim responses before the real one; servers send one.
const INTERIM_MAX: usize = 16;

/// What comes next out of the bytes that have come.
#[derive(Debug)]
pub enum Piece {
    /// An interim response; the real one follows.
    Interim,
    /// The head of the response.
    Head(Box<ResponseHead>),
    /// Bytes of its body, never empty.
    Body(Bytes),
    /// It was whole.
    End,
    /// The server switches protocols as it was asked to; what it has sent since is no HTTP.
    Switched(Box<ResponseHead>),
}

/// Reads the response to one request.
#[derive(Debug)]
pub struct ResponseReader {
    expected: Expected,
    interim: usize,
    /// Whether the server would have another request on the connection.
    keeps: bool,
    at: At,
}

#[derive(Debug)]
enum At {
    Head(HeadReader),
    Body(BodyReader),
    /// The end of the connection is the end of the body.
    UntilClose,
    /// The response was whole.
    Done,
    /// It was, and yet it announced a body that it must not have: whether one follows nobody can tell.
    Unsure,
}

impl ResponseReader {
    /// Of the response to a request that was made so.
    #[must_use]
    pub fn new(expected: Expected) -> Self {
        Self { expected, interim: 0, keeps: false, at: At::Head(HeadReader::default()) }
    }

    /// Whether the response has come to its end.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.at, At::Done | At::Unsure)
    }

    /// Whether it has, and the next byte on the connection is the next response's.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        matches!(self.at, At::Done) && self.keeps
    }

    /// Whether the head is still to come.
    #[must_use]
    pub fn awaits_head(&self) -> bool {
        matches!(self.at, At::Head(_))
    }

    /// Whether something has come of the response.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        !self.awaits_head() || self.interim > 0
    }

    /// The connection has ended: whether that is the end of the response.
    #[must_use]
    pub fn end_with_connection(&mut self) -> bool {
        let is_end = matches!(self.at, At::UntilClose);
        if is_end {
            (self.at, self.keeps) = (At::Done, false);
        }
        is_end
    }

    /// Bytes that are still to come of a body that says its length.
    #[must_use]
    pub fn announced(&self) -> Option<u64> {
        match self.at {
            At::Body(BodyReader::Length(left)) => Some(left),
            _ => None,
        }
    }

    /// Takes the next piece out of `buf`; none while it is not there.
    ///
    /// # Errors
    /// [`Malformed`]: neither the response nor the connection can be used.
    pub fn next(&mut self, buf: &mut BytesMut) -> Result<Option<Piece>, Malformed> {
        match &mut self.at {
            At::Head(reader) => match reader.find_end(buf)? {
                Some(end) => {
                    let fields = reader.fields();
                    self.head(buf, end, fields).map(Some)
                }
                None => Ok(None),
            },
            At::Body(body) => match body.step(buf)? {
                Step::Data(data) => {
                    if body.is_done() {
                        self.at = At::Done;
                    }
                    Ok(Some(Piece::Body(data)))
                }
                Step::NeedMore => Ok(None),
                Step::End => {
                    self.at = At::Done;
                    Ok(Some(Piece::End))
                }
            },
            At::UntilClose if buf.is_empty() => Ok(None),
            At::UntilClose => Ok(Some(Piece::Body(buf.split().freeze()))),
            At::Done | At::Unsure => Ok(Some(Piece::End)),
        }
    }

    fn head(&mut self, buf: &mut BytesMut, end: usize, fields: usize) -> Result<Piece, Malformed> {
        // Its values outlive what it was read into, which is far larger.
        let text = Bytes::copy_from_slice(buf.split_to(end).as_ref());
        let head = head::read(&text, fields, self.expected)?;
        self.keeps = head.keeps;
        self.at = match head.ending {
            Ending::Interim => {
                self.interim += 1;
                if self.interim > INTERIM_MAX {
                    return Err(Malformed("too many interim responses"));
                }
                self.at = At::Head(HeadReader::default());
                return Ok(Piece::Interim);
            }
            // What follows is not ours to read.
            Ending::Switched => {
                self.at = At::Unsure;
                return Ok(Piece::Switched(head.response));
            }
            Ending::None | Ending::Length(0) => At::Done,
            Ending::Forbidden => At::Unsure,
            Ending::Length(length) => At::Body(BodyReader::length(length)),
            Ending::Chunked => At::Body(BodyReader::chunked()),
            Ending::UntilClose => At::UntilClose,
        };
        Ok(Piece::Head(head.response))
    }
}

#[cfg(test)]
mod tests;
