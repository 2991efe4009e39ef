//! A TLS connection over a socket, either side of it: rustls' unbuffered interface with buffers that are shared by all
//! connections of a thread. A connection that waits holds none of its own.
//!
//! Bytes are decrypted into the caller's buffer. What is written is encrypted at once and kept as far as the socket does not take
//! it, 64 KiB at most; [`TlsStream::has_pending`] says whether there is a rest, and whoever goes on writing sends it first.

mod usual;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::net::Plain;
use crate::tls::batch::Batch;
use crate::tls::peer::Peer;

/// What is read from a socket at once.
const READ_MAX: usize = 32 * 1024;
/// Bytes of records that are not whole: one of the greatest size, or a handshake message that goes over several.
const INCOMPLETE_MAX: usize = 24 * 1024;
/// Of what is written, encrypted at once: four records of the greatest size.
pub(super) const WRITE_MAX: usize = 64 * 1024;
/// The greatest record's content (RFC 8446 section 5.1), and what encryption adds to one at most.
const RECORD_MAX: usize = 16 * 1024;
pub(super) const RECORD_OVERHEAD: usize = 64;

/// Where records are read to, gathered, and encrypted.
struct Scratch {
    incoming: Box<[u8; INCOMPLETE_MAX + READ_MAX]>,
    gathered: Box<[u8; RECORD_MAX]>,
    sealed: Box<[u8; WRITE_MAX + 6 * RECORD_OVERHEAD]>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        incoming: Box::new([0; INCOMPLETE_MAX + READ_MAX]),
        gathered: Box::new([0; RECORD_MAX]),
        sealed: Box::new([0; WRITE_MAX + 6 * RECORD_OVERHEAD]),
    });
}

/// A connection that speaks TLS.
#[derive(Debug)]
pub struct TlsStream<P> {
    socket: Plain,
    peer: P,
    /// Received, and not a whole record yet.
    incoming: BytesMut,
    /// Decrypted, and not asked for yet.
    plain: BytesMut,
    /// Encrypted, and not taken by the socket yet.
    outgoing: BytesMut,
    /// Encrypted behind that, and not sent on purpose.
    batch: Option<Batch>,
    /// Nothing more will be received.
    ended: bool,
    /// The other side has said that nothing more comes (RFC 8446 section 6.1): nothing was cut off.
    closed: bool,
    /// An error has ended it: nothing more is said.
    failed: bool,
}

impl<P: Peer> TlsStream<P> {
    /// A connection on which nothing was said yet but `received`.
    #[must_use]
    pub fn new(socket: Plain, peer: P, received: BytesMut) -> Self {
        let (plain, outgoing) = (BytesMut::new(), BytesMut::new());
        let batch = None;
        Self { socket, peer, incoming: received, plain, outgoing, batch, ended: false, closed: false, failed: false }
    }

    /// What the handshake came to.
    #[must_use]
    pub fn peer(&self) -> &P {
        &self.peer
    }

    #[must_use]
    pub fn socket(&self) -> &Plain {
        &self.socket
    }

    /// Agrees with the other side.
    ///
    /// # Errors
    /// What the socket reports; `InvalidData` with rustls' reason where the two cannot agree, after telling the other side.
    pub async fn handshake(&mut self) -> io::Result<()> {
        let mut received = std::mem::take(&mut self.incoming);
        let mut none = BytesMut::new();
        let processed = self.process(&mut received, &mut none);
        self.settle(processed, &mut received)?;
        poll_fn(|cx| -> Poll<io::Result<()>> {
            while self.peer.is_handshaking() {
                ready!(self.poll_send(cx))?;
                if ready!(self.poll_receive(cx, &mut none, READ_MAX))? == 0 && self.ended && self.peer.is_handshaking()
                {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            // The other side may be waiting for our last message: in TLS 1.2 a client is.
            self.poll_send(cx)
        })
        .await?;
        self.plain.unsplit(none);
        Ok(())
    }

    /// Keeps what was not consumed of `received`.
    fn settle(&mut self, processed: io::Result<usize>, received: &mut BytesMut) -> io::Result<()> {
        received.advance(processed?.min(received.len()));
        self.incoming = std::mem::take(received);
        Ok(())
    }

    /// Appends what has come to `buf`; 0 at the end of the stream. Not much more than `at_once` bytes.
    ///
    /// # Errors
    /// What the socket reports; `InvalidData` for what is not TLS.
    pub fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        at_once: usize,
    ) -> Poll<io::Result<usize>> {
        if !self.plain.is_empty() {
            let ready = std::mem::take(&mut self.plain);
            buf.extend_from_slice(&ready);
            return Poll::Ready(Ok(ready.len()));
        }
        loop {
            let received = ready!(self.poll_receive(cx, buf, at_once))?;
            if received > 0 || self.ended {
                return Poll::Ready(Ok(received));
            }
        }
    }

    /// Whether the other side has said that nothing more comes.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Reads once, and decrypts what is whole into `buf`; how much that was.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut, at_once: usize) -> Poll<io::Result<usize>> {
        if self.failed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        let (before, was_quiet) = (buf.len(), !self.has_pending());
        let received = SCRATCH
            .with_borrow_mut(|scratch| {
                let kept = self.incoming.len();
                let Some((front, rest)) = scratch.incoming.split_at_mut_checked(kept) else {
                    return Poll::Ready(Err(invalid("a record that does not end")));
                };
                let at_once = at_once.clamp(RECORD_OVERHEAD, READ_MAX);
                let mut read = ReadBuf::new(rest.get_mut(..at_once).unwrap_or_default());
                ready!(Pin::new(&mut self.socket).poll_read(cx, &mut read))?;
                let count = read.filled().len();
                if count == 0 {
                    self.ended = true;
                    return Poll::Ready(Ok(()));
                }
                front.copy_from_slice(&self.incoming);
                self.incoming.clear();
                let received = scratch.incoming.get_mut(..kept + count).unwrap_or_default();
                let consumed = self.process(received, buf)?;
                let left = received.get(consumed..).unwrap_or_default();
                if left.len() > INCOMPLETE_MAX {
                    return Poll::Ready(Err(invalid("a message that does not end")));
                }
                if left.is_empty() {
                    self.incoming = BytesMut::new();
                } else {
                    self.incoming.extend_from_slice(left);
                }
                Poll::Ready(Ok(()))
            })
            .map_ok(|()| buf.len() - before);
        match &received {
            // What rustls has noted of messages that were not whole is about bytes that are gone.
            Poll::Ready(Err(_)) => self.failed = true,
            // An answer of the protocol itself; nobody else may have something to write.
            Poll::Ready(Ok(_)) if was_quiet && self.has_pending() => _ = self.poll_send(cx),
            _ => {}
        }
        received
    }

    /// Takes in what was received: appends what was decrypted to `plain`, and what is to be said to `outgoing`. How much of
    /// `received` was used.
    fn process(&mut self, received: &mut [u8], plain: &mut BytesMut) -> io::Result<usize> {
        // What is said in answer goes behind it.
        self.queue_batch();
        let mut used = 0;
        loop {
            let rest = received.get_mut(used..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state } = self.peer.process(rest);
            let more = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.inspect_err(|_| self.failed = true).map_err(broken)?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                    true
                }
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    encode(&mut self.outgoing, &mut message);
                    true
                }
                // It is in our hands by now, whether or not the socket has it.
                Ok(ConnectionState::TransmitTlsData(message)) => {
                    message.done();
                    true
                }
                Ok(ConnectionState::PeerClosed) => {
                    (self.ended, self.closed) = (true, true);
                    true
                }
                // Early data is not asked for.
                Ok(_) => false,
                Err(error) => {
                    self.take_alert();
                    self.failed = true;
                    return Err(broken(error));
                }
            };
            used += discard;
            if !more {
                return Ok(used);
            }
        }
    }

    /// Takes what rustls has to say after an error, and says it as far as the socket takes it at once. It is asked for no more than
    /// that: what it goes by are the places of messages in what was received, which is gone.
    fn take_alert(&mut self) {
        while self.peer.agreed().wants_write() {
            let Ok(ConnectionState::EncodeTlsData(mut message)) = self.peer.process(&mut []).state else { break };
            encode(&mut self.outgoing, &mut message);
        }
        let _ = self.poll_send(&mut Context::from_waker(Waker::noop()));
    }

    /// Whether something was written that the socket has not taken.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.pending() > 0
    }

    /// How much that is, encrypted, in bytes.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.outgoing.len() + self.batch.as_ref().map_or(0, |batch| batch.records().len())
    }

    /// Whether a part of a record has come, or of a message.
    #[must_use]
    pub fn has_partial(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// Sends what is pending.
    ///
    /// # Errors
    /// What the socket reports.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.outgoing))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(sent);
        }
        if self.outgoing.capacity() > 0 {
            self.outgoing = BytesMut::new();
        }
        self.poll_send_batch(cx)
    }

    fn poll_send_batch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(batch) = self.batch.take() else { return Poll::Ready(Ok(())) };
        let mut rest = batch.records();
        while !rest.is_empty() {
            match Pin::new(&mut self.socket).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(sent)) => rest = rest.get(sent..).unwrap_or_default(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.outgoing.extend_from_slice(rest);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Makes the batch wait behind what the socket has not taken.
    fn queue_batch(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.outgoing.extend_from_slice(batch.records());
        }
    }

    /// Encrypts `content`, or one record of it, to be sent by [`TlsStream::poll_send`] or for want of room. How much was taken.
    ///
    /// # Errors
    /// What the socket reports.
    pub fn poll_write_later(&mut self, cx: &mut Context<'_>, content: &[u8]) -> Poll<io::Result<usize>> {
        let content = content.get(..RECORD_MAX).unwrap_or(content);
        let is_full = |batch: &mut Batch| batch.room().len() < content.len() + 2 * RECORD_OVERHEAD;
        if !self.outgoing.is_empty() || self.batch.as_mut().is_some_and(is_full) {
            ready!(self.poll_send(cx))?;
        }
        let mut batch = self.batch.take().unwrap_or_default();
        let sealed = self.seal(content, batch.room());
        batch.record_written(*sealed.as_ref().unwrap_or(&0));
        self.batch = Some(batch);
        Poll::Ready(sealed.map(|_| content.len()))
    }

    /// Writes `first` and then `second`, 64 KiB at once; how much was taken.
    ///
    /// # Errors
    /// What the socket reports.
    pub fn poll_write_both(&mut self, cx: &mut Context<'_>, first: &[u8], second: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        SCRATCH.with_borrow_mut(|Scratch { gathered, sealed, .. }| {
            let (mut taken, mut length) = (0, 0);
            let (mut first, mut second) = (first, second);
            while taken + RECORD_MAX <= WRITE_MAX && !(first.is_empty() && second.is_empty()) {
                let content = next_record(&mut first, &mut second, &mut **gathered);
                length += self.seal(content, sealed.get_mut(length..).unwrap_or_default())?;
                taken += content.len();
            }
            let mut rest = sealed.get(..length).unwrap_or_default();
            while !rest.is_empty() {
                match Pin::new(&mut self.socket).poll_write(cx, rest) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(sent)) => rest = rest.get(sent..).unwrap_or_default(),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            self.outgoing.extend_from_slice(rest);
            Poll::Ready(Ok(taken))
        })
    }

    /// Encrypts one record into `room`; its length.
    fn seal(&mut self, content: &[u8], room: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut length = 0;
        loop {
            // Half a message may lie in what was received, and rustls has noted where.
            match self.peer.process(&mut self.incoming).state.map_err(broken)? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    let room = room.get_mut(length..).unwrap_or_default();
                    return match traffic.encrypt(content, room) {
                        Ok(sealed) => Ok(length + sealed),
                        Err(EncryptError::InsufficientSize(_)) => Err(invalid("no room for a record")),
                        Err(EncryptError::EncryptExhausted) => Err(invalid("the keys are used up")),
                    };
                }
                // A message of the protocol itself goes first.
                ConnectionState::EncodeTlsData(mut message) => {
                    let room = room.get_mut(length..).unwrap_or_default();
                    length += message.encode(room).map_err(|_| invalid("no room for a message"))?;
                }
                ConnectionState::TransmitTlsData(message) => message.done(),
                ConnectionState::PeerClosed => (self.ended, self.closed) = (true, true),
                ConnectionState::BlockedHandshake => return Err(invalid("written before the handshake has ended")),
                _ => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    /// Says that nothing more comes (RFC 8446 section 6.1), as far as the socket takes it at once: the other side then knows that
    /// nothing was cut off.
    pub fn farewell(&mut self) {
        self.queue_close();
        let _ = self.poll_send(&mut Context::from_waker(Waker::noop()));
    }

    /// Says it, and that the socket will be written to no more; the other side may go on.
    ///
    /// # Errors
    /// What the socket reports.
    pub async fn finish_writing(&mut self) -> io::Result<()> {
        self.farewell();
        self.socket.shutdown().await
    }

    fn queue_close(&mut self) {
        if self.failed {
            return;
        }
        self.queue_batch();
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = self.peer.process(&mut self.incoming).state {
            append(&mut self.outgoing, |room| {
                traffic.queue_close_notify(room).map_err(|error| match error {
                    EncryptError::InsufficientSize(InsufficientSizeError { required_size }) => required_size,
                    EncryptError::EncryptExhausted => 0,
                })
            });
        }
    }
}

/// Cuts the next record's content off the two: without a copy where it lies in one of them.
fn next_record<'a: 'b, 'b>(first: &mut &'a [u8], second: &mut &'a [u8], gathered: &'b mut [u8]) -> &'b [u8] {
    let cut = |bytes: &mut &'a [u8], most: usize| {
        let (front, rest) = bytes.split_at_checked(most).unwrap_or((*bytes, &[]));
        *bytes = rest;
        front
    };
    if first.is_empty() || second.is_empty() || first.len() >= RECORD_MAX {
        return cut(if first.is_empty() { second } else { first }, RECORD_MAX);
    }
    let head = cut(first, RECORD_MAX);
    let body = cut(second, RECORD_MAX - head.len());
    let length = head.len() + body.len();
    if let Some((to_head, rest)) = gathered.split_at_mut_checked(head.len())
        && let Some(to_body) = rest.get_mut(..body.len())
    {
        to_head.copy_from_slice(head);
        to_body.copy_from_slice(body);
    }
    gathered.get(..length).unwrap_or_default()
}

/// Appends a message of the protocol itself.
fn encode<D>(out: &mut BytesMut, message: &mut EncodeTlsData<'_, D>) {
    append(out, |room| {
        message.encode(room).map_err(|error| match error {
            EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => required_size,
            EncodeError::AlreadyEncoded => 0,
        })
    });
}

/// Appends what `write` puts into the room it is given. It says how much it needs where that is too little.
fn append(out: &mut BytesMut, mut write: impl FnMut(&mut [u8]) -> Result<usize, usize>) {
    let before = out.len();
    let mut room = 1024;
    loop {
        out.resize(before + room, 0);
        match write(out.get_mut(before..).unwrap_or_default()) {
            Ok(written) => return out.truncate(before + written),
            Err(needed) if needed > room => room = needed,
            Err(_) => return out.truncate(before),
        }
    }
}

fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests;
