//! A session in the hands of Pingora's engine, for one exchange with the app.
//!
//! It implements Pingora's custom session trait (pingora-core `protocols/http/custom/server.rs`; hidden from its docs, hence
//! the exact version pin and the ADR): each call is a line or two that hands over to the session's own steps. The session
//! comes home through the [`Flight`] when the engine drops it, or before: a client whose app is late is answered while the
//! exchange goes on without it, so that the app's slot is free only when the app is.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session as CustomSession;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};

use crate::edge::session::{DRAIN_TIME, Session};
use crate::proxy::exchange::Flight;

type MessageReader = Box<dyn futures_util::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;

/// A session that Pingora holds. It has a session, or the request of one that went home before its time.
#[derive(Debug)]
pub struct EngineSession {
    session: Option<Box<Session>>,
    left_behind: Option<Box<RequestHeader>>,
    home: Arc<Flight>,
}

impl EngineSession {
    #[must_use]
    pub fn new(session: Box<Session>, home: Arc<Flight>) -> Self {
        Self { session: Some(session), left_behind: None, home }
    }

    /// Sends the session home; the exchange goes on without it, and what the app says is discarded.
    fn detach(&mut self) {
        if let Some(session) = self.session.take() {
            self.left_behind = Some(Box::new(session.request.clone()));
            self.home.detach(session);
        }
    }

    async fn body_for_app(&mut self) -> Result<Option<Bytes>> {
        let Some(session) = &mut self.session else { return Ok(None) };
        let given = session.body_for_app().await;
        self.outlive(given).await
    }

    /// Waits for what ends the exchange from outside.
    async fn idle(&mut self) -> Result<Option<Bytes>> {
        let Some(session) = &mut self.session else { return pending().await };
        let ended = session.idle().await;
        self.outlive(ended).await
    }

    /// An app that is late is not given up where its slot must stay taken.
    async fn outlive(&mut self, ended: Result<Option<Bytes>>) -> Result<Option<Bytes>> {
        match &self.session {
            Some(session) if session.app_late && session.exchange.control.outlives_timeout() => {
                self.detach();
                pending().await
            }
            _ => ended,
        }
    }
}

impl Drop for EngineSession {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.home.land(session);
        }
    }
}

#[async_trait]
impl CustomSession for EngineSession {
    fn req_header(&self) -> &RequestHeader {
        match (&self.session, &self.left_behind) {
            (Some(session), _) => &session.request,
            (None, Some(request)) => request,
            (None, None) => unreachable!("a session leaves its request behind"),
        }
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        match (&mut self.session, &mut self.left_behind) {
            (Some(session), _) => &mut session.request,
            (None, Some(request)) => request,
            (None, None) => unreachable!("a session leaves its request behind"),
        }
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.body_for_app().await
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        match &mut self.session {
            Some(session) if !no_body_expected && !session.is_handed_on() => self.body_for_app().await,
            _ => self.idle().await,
        }
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        // Done where the connection is given back, with bounds.
        Ok(())
    }

    async fn write_response_header(&mut self, response: Box<ResponseHeader>, _end: bool) -> Result<()> {
        self.session.as_mut().map_or(Ok(()), |session| session.take_header(response))
    }

    async fn write_response_header_ref(&mut self, response: &ResponseHeader, _end: bool) -> Result<()> {
        self.session.as_mut().map_or(Ok(()), |session| session.take_header(Box::new(response.clone())))
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        let Some(session) = &mut self.session else { return Ok(()) };
        session.take_body(data).await?;
        if end {
            session.take_end()?;
        }
        session.flush(Bytes::new()).await
    }

    async fn write_trailers(&mut self, _trailers: HeaderMap) -> Result<()> {
        Ok(())
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        self.session.iter().for_each(|session| session.taking());
        let mut end = false;
        for task in tasks {
            let session = &mut self.session;
            end |= match task {
                HttpTask::Header(response, end) => {
                    session.as_mut().map_or(Ok(()), |session| session.take_header(response))?;
                    end
                }
                HttpTask::Body(data, end) | HttpTask::UpgradedBody(data, end) => {
                    if let (Some(session), Some(data)) = (session, data) {
                        session.take_body(data).await?;
                    }
                    end
                }
                HttpTask::Trailer(_) | HttpTask::Done => true,
                HttpTask::Failed(error) => {
                    // What came before is the client's, so that it sees a response that broke, and not nothing.
                    self.flush().await?;
                    return Err(error);
                }
            };
        }
        if end && let Some(session) = &mut self.session {
            session.take_end()?;
        }
        self.flush().await?;
        self.session.iter().for_each(|session| session.passed_on());
        Ok(end)
    }

    // Deadlines come with the exchange and the client's limits.
    fn set_read_timeout(&mut self, _timeout: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, _timeout: Option<Duration>) {}

    fn get_write_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_total_drain_timeout(&mut self, _timeout: Option<Duration>) {}

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        Some(DRAIN_TIME)
    }

    fn request_summary(&self) -> String {
        self.session.as_ref().map_or_else(String::new, |session| {
            format!("{} {}", session.method, session.exchange.target.escape_ascii())
        })
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.session.as_ref().and_then(|session| session.response.as_deref())
    }

    // Whether the connection is kept is decided where it is given back.
    async fn shutdown(&mut self, _code: u32, _context: &str) {}

    fn is_body_done(&mut self) -> bool {
        self.session.as_ref().is_none_or(|session| session.is_handed_on())
    }

    async fn finish(&mut self) -> Result<()> {
        if let Some(session) = &mut self.session {
            session.take_end()?;
        }
        self.flush().await
    }

    fn is_body_empty(&mut self) -> bool {
        self.session.as_ref().is_none_or(|session| session.has_no_body())
    }

    fn body_bytes_sent(&self) -> usize {
        0
    }

    fn body_bytes_read(&self) -> usize {
        0
    }

    fn digest(&self) -> Option<&Digest> {
        None
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        None
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    // The engine makes one attempt; another begins with the session at home, from the start of the body.
    fn enable_retry_buffering(&mut self) {}

    fn retry_buffer_truncated(&self) -> bool {
        true
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        None
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<MessageReader> {
        None
    }

    fn restore_custom_message_reader(&mut self, _reader: MessageReader) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}

impl EngineSession {
    async fn flush(&mut self) -> Result<()> {
        match &mut self.session {
            Some(session) => session.flush(Bytes::new()).await,
            None => Ok(()),
        }
    }
}
