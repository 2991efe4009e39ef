//! The strict reading of a response, while it is on its way to Pingora's HTTP/1.1 client, which is lenient (RFC 9112).
//!
//! Pure over the bytes the server sends. The head is judged as soon as it is whole, and before any of it is passed on; of the body
//! only the framing is followed. What has two readings is refused: the client might be given one, and whoever is behind us the
//! other; or the next response on the connection would begin at another place for us than for the server.

mod chunks;
mod head;

use chunks::Chunks;
use head::Framing;

pub use head::{Expected, Switched};

/// Interim responses before the real one; servers send one.
const INTERIM_MAX: usize = 16;

/// A response that breaks the rules; the text says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// What becomes of bytes that came.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// So many of them belong to the response and may be passed on; what is behind them is not asked for.
    Pass(usize),
    /// The head is not whole: keep them, and bring more.
    Wait,
    /// The server switches protocols as it was asked to; so many bytes are the head of its answer, with what came before it.
    Switched(usize, Box<Switched>),
}

/// Follows the response to one request.
#[derive(Debug)]
pub struct Judge {
    expected: Expected,
    /// Something has come.
    begun: bool,
    interim: usize,
    at: At,
}

#[derive(Debug)]
enum At {
    Head(head::Reader),
    /// That many bytes of the body are to come.
    Length(u64),
    Chunks(Chunks),
    /// The end of the connection is the end of the body.
    UntilClose,
    /// The response was whole.
    Done,
    /// It was, and yet it announced a body that it must not have: whether one follows nobody can tell.
    Unsure,
}

impl Judge {
    /// Of the response to a request that was made so.
    #[must_use]
    pub fn new(expected: Expected) -> Self {
        Self { expected, begun: false, interim: 0, at: At::Head(head::Reader::default()) }
    }

    /// Whether the response has come to its end, as far as that can be seen.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.at, At::Done | At::Unsure)
    }

    /// Whether it has, and the next byte on the connection is the next response's.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        matches!(self.at, At::Done)
    }

    /// Whether anything has come of the response.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Looks at what has come and was not passed on before.
    ///
    /// # Errors
    /// [`Malformed`]: neither the response nor the connection can be used.
    pub fn judge(&mut self, bytes: &[u8]) -> Result<Verdict, Malformed> {
        let mut passed = 0;
        self.begun |= !bytes.is_empty();
        loop {
            let rest = bytes.get(passed..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(Verdict::Pass(passed));
            }
            match &mut self.at {
                At::Head(reader) => {
                    let Some(end) = reader.find_end(rest)? else {
                        // Of a head that is not whole nothing is passed on; what came before it is.
                        return Ok(if passed == 0 { Verdict::Wait } else { Verdict::Pass(passed) });
                    };
                    let head = head::read(rest.get(..end).unwrap_or_default(), self.expected)?;
                    if let Some(switched) = head.switched {
                        return Ok(Verdict::Switched(passed + end, Box::new(switched)));
                    }
                    passed += end;
                    self.at = match head.framing {
                        Framing::Interim => {
                            self.interim += 1;
                            if self.interim > INTERIM_MAX {
                                return Err(Malformed("too many interim responses"));
                            }
                            At::Head(head::Reader::default())
                        }
                        Framing::None | Framing::Length(0) => At::Done,
                        Framing::Forbidden => At::Unsure,
                        Framing::Length(length) => At::Length(length),
                        Framing::Chunked => At::Chunks(Chunks::default()),
                        Framing::UntilClose => At::UntilClose,
                    };
                }
                At::Length(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= taken as u64;
                    passed += taken;
                    if *left == 0 {
                        self.at = At::Done;
                    }
                }
                At::Chunks(chunks) => {
                    passed += chunks.follow(rest)?;
                    if chunks.is_done() {
                        self.at = At::Done;
                    }
                }
                At::UntilClose => return Ok(Verdict::Pass(bytes.len())),
                At::Done | At::Unsure => return Ok(Verdict::Pass(passed)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
