//! One request of an HTTP/2 client, and its answer, in the hands of a session (RFC 9113 section 8).
//!
//! The library frames and counts windows. Nothing is given to it that the client has not made room for, and of that a bounded rest
//! (`SEND_BUFFER`), so that what waits for a slow client waits where bodies are budgeted.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderValue, Response, StatusCode, Version, header};

use crate::edge::http2::Live;
use crate::edge::response_writer::{date, nominated};
use crate::framing::Step;
use crate::header::hop_by_hop::is_hop_by_hop_response;
use crate::message::ResponseHead;

/// What is given to the library at once.
const PIECE_MAX: usize = 16 * 1024;
/// What the client does not take of all responses on a connection: in memory up to about so much, in bytes. Each has its share of
/// that by the number there is when it first falls behind; those that were fewer before have larger ones.
const RESPONSES_MEMORY: usize = 1536 * 1024;
/// Pieces of a body below this are copied: each would hold a whole block of what was read with it.
const COPY_BELOW: usize = 4 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Stream {
    /// Until the head of the response was given to the library.
    respond: SendResponse<Bytes>,
    send: Option<SendStream<Bytes>>,
    /// The head, as long as it is to go out with what follows.
    head: Option<Box<Response<()>>>,
    /// The end was given to the library.
    ended: bool,
    receive: RecvStream,
    arrived: Bytes,
    received: bool,
    /// Of the body, where the request says its length.
    left: Option<u64>,
    /// The requests that are under way on the connection.
    live: Arc<Live>,
}

impl Stream {
    /// A request whose body is `left` bytes long, if it says so.
    #[must_use]
    pub fn new(respond: SendResponse<Bytes>, receive: RecvStream, left: Option<u64>, live: Arc<Live>) -> Self {
        let (received, arrived) = (receive.is_end_stream(), Bytes::new());
        Self { respond, send: None, head: None, ended: false, receive, arrived, received, left, live }
    }

    /// This one's part of the memory that the connection's responses may have as long as the client does not take them, in bytes.
    #[must_use]
    pub fn memory_share(&self) -> usize {
        RESPONSES_MEMORY / self.live.count().max(1)
    }

    /// Takes what has come of the body.
    pub fn step(&mut self) -> Step {
        if self.arrived.is_empty() {
            return if self.received { Step::End } else { Step::NeedMore };
        }
        let arrived = std::mem::take(&mut self.arrived);
        // It cannot be more than what was counted against the window.
        let _ = self.receive.flow_control().release_capacity(arrived.len());
        self.left = self.left.map(|left| left.saturating_sub(arrived.len() as u64));
        Step::Data(if arrived.len() < COPY_BELOW { Bytes::copy_from_slice(&arrived) } else { arrived })
    }

    #[must_use]
    pub fn is_received(&self) -> bool {
        self.received && self.arrived.is_empty()
    }

    #[must_use]
    pub fn announced(&self) -> Option<u64> {
        self.left
    }

    #[must_use]
    pub fn ahead(&self) -> usize {
        self.arrived.len()
    }

    /// Waits for more of the body, where it is wanted, and for the client to reset the stream. The end of the body counts as
    /// something that has come.
    ///
    /// # Errors
    /// The stream or its connection is broken.
    pub fn poll_heard(&mut self, cx: &mut Context<'_>, wants_body: bool) -> Poll<io::Result<usize>> {
        if wants_body && !self.received && self.arrived.is_empty() {
            loop {
                match self.receive.poll_data(cx) {
                    Poll::Ready(Some(Ok(data))) if data.is_empty() => {}
                    Poll::Ready(Some(Ok(data))) => {
                        self.arrived = data;
                        return Poll::Ready(Ok(self.arrived.len()));
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(broken(error))),
                    // Trailers say nothing that HTTP/1.1 servers of apps would listen to.
                    Poll::Ready(None) => {
                        self.received = true;
                        return Poll::Ready(Ok(1));
                    }
                    Poll::Pending => break,
                }
            }
        }
        let reset = match &mut self.send {
            Some(send) => send.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        reset.map(|_| Err(io::ErrorKind::ConnectionReset.into()))
    }

    /// Tells a client that waits for it to send its body.
    pub fn ask_for_body(&mut self) {
        let mut interim = Response::new(());
        *interim.status_mut() = StatusCode::CONTINUE;
        // A client that is gone shows elsewhere.
        let _ = self.respond.send_informational(interim);
    }

    /// Takes the head of the response; it goes out with what follows.
    pub fn take_head(&mut self, response: ResponseHead) {
        let nominated = nominated(&response);
        let mut headers = response.headers;
        // The connection to the app ends here.
        headers.retain(|name, _| !is_hop_by_hop_response(name.as_str().as_bytes()) && !nominated.contains(name));
        if response.status == StatusCode::NO_CONTENT {
            headers.remove(header::CONTENT_LENGTH);
        }
        if !headers.contains(header::DATE)
            && let Ok(date) = date(HeaderValue::from_str)
        {
            headers.append(header::DATE, date);
        }
        let mut parts = Response::new(()).into_parts().0;
        (parts.status, parts.headers, parts.version) = (response.status, headers.into(), Version::HTTP_2);
        self.head = Some(Box::new(Response::from_parts(parts, ())));
    }

    /// Whether the head, or the end of a response that has `ended`, is still to be given to the library.
    #[must_use]
    pub fn owes(&self, ended: bool) -> bool {
        self.head.is_some() || (ended && !self.ended)
    }

    /// Gives the library of `out` and then of `data` what the client has made room for; with `end` nothing follows.
    ///
    /// # Errors
    /// The stream or its connection is broken.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut BytesMut,
        data: &mut Bytes,
        end: bool,
    ) -> Poll<io::Result<usize>> {
        let length = out.len() + data.len();
        if let Some(head) = self.head.take() {
            let ends = end && length == 0;
            self.send = Some(self.respond.send_response(*head, ends).map_err(broken)?);
            self.ended = ends;
        }
        let Some(send) = &mut self.send else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        if length == 0 {
            if end && !self.ended {
                send.send_data(Bytes::new(), true).map_err(broken)?;
                self.ended = true;
            }
            return Poll::Ready(Ok(0));
        }
        send.reserve_capacity(length.min(PIECE_MAX));
        let mut room = send.capacity();
        while room == 0 {
            room = match ready!(send.poll_capacity(cx)) {
                Some(room) => room.map_err(broken)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let from_out = room.min(out.len());
        let piece = if from_out > 0 { out.split_to(from_out).freeze() } else { split_off(data, room) };
        let sent = piece.len();
        self.ended = end && sent == length;
        send.send_data(piece, self.ended).map_err(broken)?;
        Poll::Ready(Ok(sent))
    }

    /// Takes up to `most` bytes more of a body that nobody wants, and drops them; until it ends, or the client resets the stream. Some
    /// clients lose an answer when the reset comes with it (curl 7.88 is one), and this lets them end by themselves.
    pub async fn discard(&mut self, most: u64) {
        let mut discarded = 0;
        while !self.received && discarded <= most {
            match poll_fn(|cx| self.poll_heard(cx, true)).await {
                Ok(_) => {
                    if let Step::Data(data) = self.step() {
                        discarded += data.len() as u64;
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// Ends the stream. One that is whole is left to the library, which sends what it has; any other is reset.
    pub fn close(mut self, is_broken: bool) {
        if is_broken || !self.ended {
            match &mut self.send {
                Some(send) => send.send_reset(Reason::INTERNAL_ERROR),
                None => self.respond.send_reset(Reason::INTERNAL_ERROR),
            }
        }
    }
}

/// Takes up to `room` bytes off `data`. A little of much is copied: waiting for the socket, it would hold all of it.
fn split_off(data: &mut Bytes, room: usize) -> Bytes {
    if room < COPY_BELOW && room < data.len() {
        let piece = Bytes::copy_from_slice(data.get(..room).unwrap_or_default());
        data.advance(piece.len());
        return piece;
    }
    data.split_to(room.min(data.len()))
}

fn broken(error: h2::Error) -> io::Error {
    io::Error::other(error)
}
