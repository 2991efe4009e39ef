//! The request body: taken from the client under its limits, and handed on to the app, at once or once it is whole.

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, header};
use pingora_error::{Error, ErrorType, Result};
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::edge::alarm::{NEVER, deadline_in};
use crate::edge::session::reply::slowest;
use crate::edge::session::wait::{AHEAD_READ, Event};
use crate::edge::session::wire::Wire;
use crate::edge::session::{BODY_READ, Session};
use crate::framing::Step;
use crate::proxy::rejection::{Reason, Rejection};
use crate::spool::{Full, Keep, Spooled};

impl Session {
    /// Receives the whole body, so that no worker has to wait for it. Afterwards the request says its length.
    ///
    /// `keep` says whether it may be sent more than once.
    ///
    /// # Errors
    /// Why the body is not acceptable, or cannot be kept.
    pub async fn receive(&mut self, keep: Keep) -> Result<(), Rejection> {
        let mut spooled = Spooled::new(&self.exchange.snapshot.shared.depot, keep);
        if let Some(length) = self.wire.announced() {
            spooled.announce(length).map_err(|full| refusal(&full))?;
        }
        loop {
            match self.next_gathered().await {
                Ok(Some(data)) => spooled.push(data).await.map_err(|full| refusal(&full))?,
                Ok(None) => break,
                Err(error) => {
                    let reason = self.exchange.outcome.fault().unwrap_or(Reason::Internal);
                    let detail = error.context.as_ref().map(|context| context.as_str().to_owned());
                    return Err(Rejection::new(reason, detail.unwrap_or_default()));
                }
            }
        }
        // How a chunked body was framed is not among the fields any more.
        if !self.request.headers.contains(header::CONTENT_LENGTH) {
            self.request.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(spooled.len()));
        }
        self.spooled = Some(Box::new(spooled));
        Ok(())
    }

    /// Tells a client that waits for it to send its body; the checks are done by then.
    async fn ask_for_body(&mut self) -> Result<()> {
        if self.expects_continue && self.response.is_none() {
            self.expects_continue = false;
            match &mut self.wire {
                Wire::Http1(_) => self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n"),
                Wire::Http2(stream) => stream.ask_for_body(),
                Wire::Nobody => {}
            }
            return Box::pin(self.flush(Bytes::new())).await;
        }
        Ok(())
    }

    /// Makes the session ready for another exchange with the app, or the first.
    pub fn rewind(&mut self) {
        self.app_wait = None;
        self.app_late = false;
        if let Some(spooled) = &mut self.spooled {
            spooled.rewind();
        }
    }

    /// Forgets the body: no app will be sent it again.
    pub fn drop_body(&mut self) {
        self.spooled = None;
    }

    /// Bytes of the body, once it was received whole.
    #[must_use]
    pub fn stored(&self) -> Option<u64> {
        self.spooled.as_ref().map(|spooled| spooled.len())
    }

    /// Whether the app is to be told of a body at all.
    #[must_use]
    pub fn has_no_body(&self) -> bool {
        !self.exchange.has_body || self.spooled.as_ref().is_some_and(|spooled| spooled.is_empty())
    }

    /// Whether the app has been given the whole body, as far as the session can tell.
    #[must_use]
    pub fn is_handed_on(&self) -> bool {
        match &self.spooled {
            Some(spooled) => spooled.unread() == 0,
            None => self.wire.is_received(),
        }
    }

    /// The next piece for the app; none at the end. Cancel safe.
    ///
    /// # Errors
    /// The body breaks a rule or a limit, or cannot be had.
    pub async fn body_for_app(&mut self) -> Result<Option<Bytes>> {
        let Some(spooled) = &mut self.spooled else { return self.next_body().await };
        match spooled.next().await {
            Ok(piece) => Ok(piece),
            Err(error) => {
                tracing::error!(%error, "a request body cannot be read back from the spool");
                self.fail(Reason::SpoolFailed, ErrorType::InternalError, "spooled body unreadable")
            }
        }
    }

    /// The next piece from the client. Cancel safe.
    async fn next_body(&mut self) -> Result<Option<Bytes>> {
        self.ask_for_body().await?;
        loop {
            match self.step()? {
                Step::Data(data) => return Ok(Some(data)),
                Step::End => return Ok(None),
                Step::NeedMore => self.read_more_body().await?,
            }
        }
    }

    /// The next piece from the client, with what was read behind it: a body may come in chunks of a byte, and each piece costs
    /// the spool a turn.
    async fn next_gathered(&mut self) -> Result<Option<Bytes>> {
        let Some(first) = self.next_body().await? else { return Ok(None) };
        let Step::Data(second) = self.step()? else { return Ok(Some(first)) };
        let mut gathered = BytesMut::with_capacity(first.len() + second.len() + self.wire.ahead());
        gathered.extend_from_slice(&first);
        gathered.extend_from_slice(&second);
        while let Step::Data(data) = self.step()? {
            gathered.extend_from_slice(&data);
        }
        Ok(Some(gathered.freeze()))
    }

    /// Takes the next piece out of what was read.
    fn step(&mut self) -> Result<Step> {
        match self.wire.step() {
            Ok(Step::Data(data)) => {
                self.exchange.outcome.count_body(data.len());
                if self.exchange.outcome.body_bytes() > self.exchange.control.max_body() {
                    return self.fail(Reason::BodyTooLarge, ErrorType::ReadError, "request body too large");
                }
                Ok(Step::Data(data))
            }
            Ok(step) => Ok(step),
            Err(malformed) => self.fail(Reason::BadBody, ErrorType::ReadError, malformed.0),
        }
    }

    async fn read_more_body(&mut self) -> Result<()> {
        let client = self.exchange.client();
        let received = self.exchange.outcome.body_bytes();
        let since = *self.body_wait.get_or_insert_with(Instant::now);
        // Only the time in which the client is waited for counts: an app that reads slowly is not its fault.
        let slowest = slowest(received, client.body_min_rate).saturating_sub(self.body_waited);
        let deadline = since + client.body_idle_timeout.min(slowest);
        // No more room than what is to come: it is kept for as long as the request waits.
        let at_once = match self.wire.announced() {
            Some(left) => usize::try_from(left).unwrap_or(BODY_READ).clamp(1, BODY_READ),
            None => BODY_READ,
        };
        loop {
            match self.event(deadline, at_once, true).await {
                Event::Sent => break,
                Event::Took => {}
                Event::Left => {
                    self.exchange.outcome.mark_client_gone();
                    return self.fail(
                        Reason::ClientClosed,
                        ErrorType::ConnectionClosed,
                        "client left while sending its body",
                    );
                }
                Event::Late => {
                    return self.fail(Reason::BodyTimeout, ErrorType::ReadTimedout, "request body too slow");
                }
                Event::Stalled => return self.client_stalled(),
                Event::Lost => return self.backlog_lost(),
            }
        }
        self.body_waited += since.elapsed();
        self.body_wait = None;
        Ok(())
    }

    /// Waits for what ends an exchange from outside: the client leaves, or the app's time is up. `stalled`: since when the app takes
    /// nothing of what it is sent; otherwise the time counts from when it was last heard. Cancel safe.
    pub async fn broken_off(&mut self, stalled: Option<Instant>) -> Box<Error> {
        let patience = self.exchange.control.upstream_patience(self.response.is_some()).min(NEVER);
        let since = stalled.unwrap_or_else(|| *self.app_wait.get_or_insert_with(Instant::now));
        if let Err(left) = self.watch(since + patience).await {
            return left;
        }
        // It may be us who are late: what has come meanwhile is read in the first turn, and ends this wait in the second.
        yield_now().await;
        yield_now().await;
        self.app_late = true;
        self.exchange.outcome.set_fault(Reason::UpstreamTimeout);
        Error::explain(ErrorType::ReadTimedout, "the app took too long")
    }

    /// Waits until `deadline`, unless the client ends the exchange before. Cancel safe.
    async fn watch(&mut self, deadline: Instant) -> Result<()> {
        loop {
            match self.event(deadline, AHEAD_READ, false).await {
                // The next request, ahead of its time.
                Event::Sent | Event::Took => {}
                Event::Left => self.client_left()?,
                Event::Stalled => self.client_stalled()?,
                Event::Lost => self.backlog_lost()?,
                Event::Late => return Ok(()),
            }
        }
    }

    /// Returns when the client is gone. One that has sent more than is read ahead (16 KiB of a body that is streamed, or of further
    /// requests) is seen to be gone when its turn has come. Cancel safe.
    pub async fn departure(&mut self) {
        let far = deadline_in(NEVER);
        loop {
            match self.event(far, AHEAD_READ, false).await {
                // Who does not even take an interim answer is as good as gone.
                Event::Left | Event::Stalled | Event::Lost => return self.exchange.outcome.mark_client_gone(),
                Event::Sent | Event::Took | Event::Late => {}
            }
        }
    }
}

fn refusal(full: &Full) -> Rejection {
    let text = full.to_string();
    match full {
        Full::Body => Rejection::new(Reason::BodyTooLarge, text),
        Full::Budget | Full::Io(_) => Rejection::new(Reason::SpoolFull, text),
    }
}
