//! The life of an HTTP/2 connection: its streams are served each by a task of its own, and what a client can do to the connection
//! itself is bounded (RFC 9113).
//!
//! The library (`h2`) frames, compresses and counts windows; it moves only while the connection's task asks it to. What it does not
//! bound is bounded here: how long the client may take, how many streams are worked on, and frames that only cost.

mod flood;
mod request;
pub mod stream;
mod watched;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Version};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::edge::alarm::{Alarm, deadline_in};
use crate::edge::connection::{Gateway, LEAVING_PATIENCE};
use crate::edge::exchange::{Accepted, ConnectionFacts, Exchange};
use crate::edge::head::HeadLimits;
use crate::edge::http2::stream::Stream;
use crate::edge::http2::watched::{Link, Trouble, Watch};
use crate::edge::session::Session;
use crate::framing::BodyReader;
use crate::observe::metrics::{OpenConnection, Refusal};
use crate::state::Conversation;
use crate::tls::peer::Server;
use crate::tls::stream::TlsStream;

/// Streams a client may have open at once.
const STREAMS_MAX: u32 = 100;
/// Requests of one connection that are worked on: those a client has given up among them.
const LIVE_MAX: usize = 2 * STREAMS_MAX as usize;
/// What a client may send before it is asked for more: on a stream, and on all together. What is not read yet, because its turn has
/// not come, waits in memory.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Of a response, what the library keeps beyond what the socket took.
const SEND_BUFFER: usize = 64 * 1024;
/// Heads are limited by the configuration; beyond so many times that the library answers by itself, without a log line.
const HEADER_LIST_FACTOR: usize = 4;
/// Streams that we have to reset because of what the client does on them, in the life of a connection.
const RESETS_MAX: usize = 256;
/// The rest of answers that were all made may take the client so many times as long as it may take nothing: an answer to a PING is
/// something it takes, too.
const REST_PAUSES: u32 = 20;
/// For a connection to end once it was told to, and nothing is under way on it.
const CLOSING_PATIENCE: Duration = Duration::from_secs(1);

type Connection = h2::server::Connection<Link, Bytes>;

/// How many requests are under way.
#[derive(Debug, Default)]
pub struct Live {
    count: AtomicUsize,
    changed: Notify,
}

impl Live {
    fn count(&self) -> usize {
        self.count.load(Relaxed)
    }
}

/// One of them, until dropped.
struct LiveRequest(Arc<Live>);

impl Drop for LiveRequest {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Relaxed);
        self.0.changed.notify_one();
    }
}

/// What happened on a connection.
enum Event {
    Request(Box<(Request<RecvStream>, SendResponse<Bytes>)>),
    /// Nothing more comes.
    Over,
    /// It is to be told to go elsewhere.
    Leave,
    Trouble(Trouble),
    /// The deadline is another one by now.
    Again,
}

/// How far the end of a connection has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// The client was told at that time; what is under way goes on.
    Told(Instant),
    /// It was cut off, and has until then to take the news.
    Until(Instant),
}

/// Serves the connection until it ends.
pub async fn serve(
    stream: Box<TlsStream<Server>>,
    facts: Arc<ConnectionFacts>,
    gateway: Gateway,
    open: OpenConnection,
    conversation: Conversation,
) {
    let snapshot = gateway.snapshot();
    let client = &snapshot.config.client;
    let watch = Watch::new(stream);
    let mut settings = Builder::new();
    settings
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(client.header_max * HEADER_LIST_FACTOR).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_local_error_reset_streams(Some(RESETS_MAX));
    let mut draining = gateway.draining.clone();
    let leaving = async {
        let _ = draining.wait_for(|draining| *draining).await;
        sleep(LEAVING_PATIENCE).await;
    };
    let greeted = tokio::select! {
        biased;
        greeted = timeout(client.header_timeout, settings.handshake(Link(watch.clone()))) => greeted,
        () = leaving => return,
    };
    let Ok(Ok(connection)) = greeted else { return };
    drop((snapshot, draining));
    watch.gather();
    let driver = Driver {
        connection,
        watch,
        facts,
        gateway,
        open,
        live: Arc::default(),
        asked: false,
        idle_since: Instant::now(),
        made_at: Instant::now(),
        ending: Ending::No,
        conversation: Some(Arc::new(conversation)),
    };
    driver.run().await;
}

struct Driver {
    connection: Connection,
    watch: Arc<Watch>,
    facts: Arc<ConnectionFacts>,
    gateway: Gateway,
    open: OpenConnection,
    live: Arc<Live>,
    /// There was a request.
    asked: bool,
    /// When the last request ended, while none is under way.
    idle_since: Instant,
    /// When the last answer was all made: the library may have a rest of it.
    made_at: Instant,
    ending: Ending,
    /// Until all was said that is to be said. The requests have it too: some go on without their client.
    conversation: Option<Arc<Conversation>>,
}

impl Driver {
    async fn run(mut self) {
        let mut draining = self.gateway.draining.clone();
        let mut reloads = self.gateway.shared.reload_watch();
        let mut leave = pin!(async move {
            tokio::select! {
                _ = draining.wait_for(|draining| *draining) => {}
                _ = reloads.changed() => {}
            }
        });
        let live = self.live.clone();
        let mut alarm = Alarm::default();
        let (mut was_asked, mut was_live, mut is_late) = (false, false, false);
        loop {
            let busy = self.is_busy();
            if was_asked && !busy {
                self.idle_since = Instant::now();
            }
            let is_live = self.live.count() > 0;
            if was_live && !is_live {
                self.made_at = Instant::now();
            }
            // A request that is refused at once is none: a client could stay with such.
            (was_asked, was_live) = (busy && (was_asked || is_live), is_live);
            self.open.set_active(busy);
            let deadline = self.deadline(busy);
            let changed = live.changed.notified();
            let mut changed = pin!(changed);
            let mut is_woken = false;
            let happened = poll_fn(|cx| {
                if std::mem::take(&mut is_woken) {
                    // By one stream, most likely: others that are ready have their turn first, and go out in one write.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                match self.connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok(request))) => return Poll::Ready(Event::Request(Box::new(request))),
                    Poll::Ready(Some(Err(error))) => {
                        let listener = &self.facts.listener;
                        tracing::debug!(listener = listener.label, %error, "HTTP/2 connection failed");
                        if error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM) {
                            // The library's own limits were met.
                            listener.metrics.record_closed(Refusal::Http2Flood);
                        }
                        return Poll::Ready(Event::Over);
                    }
                    Poll::Ready(None) => return Poll::Ready(Event::Over),
                    Poll::Pending => {}
                }
                if self.ending == Ending::No && leave.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Leave);
                }
                if let Some(trouble) = self.watch.flood().filter(|_| !self.is_cut()) {
                    return Poll::Ready(Event::Trouble(trouble));
                }
                if self.watch.lingers() {
                    self.conversation = None;
                }
                if let Poll::Ready(Err(_)) = self.watch.poll_send(cx) {
                    return Poll::Ready(Event::Over);
                }
                let is_other = self.is_busy() != busy || self.deadline(busy) < deadline;
                if changed.as_mut().poll(cx).is_ready() || is_other {
                    return Poll::Ready(Event::Again);
                }
                is_woken = true;
                Poll::Pending
            });
            let event = match alarm.before(deadline, happened).await {
                Some(event) => event,
                // It may be us who are late: what has come meanwhile is looked at first.
                None if !std::mem::replace(&mut is_late, true) => continue,
                None => match self.late(busy) {
                    Some(event) => event,
                    None => continue,
                },
            };
            is_late = false;
            match event {
                Event::Request(request) => self.begin(*request),
                Event::Over => return,
                Event::Leave => {
                    self.connection.graceful_shutdown();
                    self.ending = Ending::Told(Instant::now());
                }
                Event::Trouble(trouble) => self.cut(trouble),
                Event::Again => {}
            }
        }
    }

    /// Whether a request is under way, or what was answered is not all with the socket.
    fn is_busy(&self) -> bool {
        self.live.count() > 0 || self.connection.has_streams()
    }

    fn is_cut(&self) -> bool {
        matches!(self.ending, Ending::Until(_))
    }

    /// When somebody has had enough time.
    fn deadline(&self, busy: bool) -> Instant {
        let snapshot = self.gateway.current.load();
        let client = &snapshot.config.client;
        let far = deadline_in(Duration::MAX);
        if self.watch.lingers() {
            return far;
        }
        let idle = match self.ending {
            Ending::Until(end) => return end,
            Ending::Told(at) => self.idle_since.max(at) + CLOSING_PATIENCE,
            Ending::No if self.asked => self.idle_since + client.keepalive_timeout,
            Ending::No => self.idle_since + client.header_timeout,
        };
        let silent = self.watch.deadline(client.header_timeout, client.write_idle_timeout);
        // A client that is waited for is not idle. Of requests that are over there may be a rest that it makes no room for.
        silent.unwrap_or(match busy {
            true if self.live.count() > 0 => far,
            true => rest_deadline(self.made_at, self.watch.sent_at(), client.write_idle_timeout),
            false => idle,
        })
    }

    /// What the deadline means, now that it has come.
    fn late(&mut self, busy: bool) -> Option<Event> {
        if self.deadline(busy) > Instant::now() {
            return None;
        }
        if self.is_cut() {
            return Some(Event::Over);
        }
        let snapshot = self.gateway.current.load();
        let client = &snapshot.config.client;
        let trouble = self.watch.silence(client.header_timeout, client.write_idle_timeout);
        Some(Event::Trouble(trouble.unwrap_or(Trouble::Idle)))
    }

    /// Ends the connection, and tells the client why.
    fn cut(&mut self, trouble: Trouble) {
        let reason = match trouble {
            Trouble::Idle | Trouble::Stalled => Reason::NO_ERROR,
            Trouble::Flood | Trouble::LateFields => {
                let listener = &self.facts.listener;
                listener.metrics.record_closed(Refusal::Http2Flood);
                tracing::debug!(listener = listener.label, ?trouble, "HTTP/2 connection cut");
                Reason::ENHANCE_YOUR_CALM
            }
        };
        self.connection.abrupt_shutdown(reason);
        self.ending = Ending::Until(Instant::now() + CLOSING_PATIENCE);
    }

    /// Serves a request, in a task of its own.
    fn begin(&mut self, (request, mut respond): (Request<RecvStream>, SendResponse<Bytes>)) {
        // One that does not go although it was told to asks on another connection.
        let is_late = matches!(self.ending, Ending::Told(at) if at.elapsed() > CLOSING_PATIENCE);
        if is_late || self.live.count() >= LIVE_MAX {
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
        (self.asked, self.idle_since) = (true, Instant::now());
        self.live.count.fetch_add(1, Relaxed);
        let live = LiveRequest(self.live.clone());
        let session = self.open_session(request, respond);
        let (watch, exchange) = (self.watch.clone(), session.exchange().clone());
        let held = (live, self.conversation.clone());
        tokio::spawn(async move {
            let _held = held;
            crate::proxy::serve(session).await;
            if !exchange.outcome.client_gone() {
                watch.answered();
            }
        });
    }

    fn open_session(&self, request: Request<RecvStream>, respond: SendResponse<Bytes>) -> Box<Session> {
        let (started, snapshot) = (std::time::Instant::now(), self.gateway.snapshot());
        let (parts, receive) = request.into_parts();
        let limits = HeadLimits::from(&snapshot.config.client);
        let (mut exchange, accepted) = match request::head(parts, receive.is_end_stream(), &limits) {
            Ok(head) => Exchange::accepted(self.facts.clone(), snapshot, started, head),
            Err(rejection) => {
                let exchange = Exchange::refused(self.facts.clone(), snapshot, started, rejection);
                (exchange, Accepted::nothing())
            }
        };
        exchange.version = Version::HTTP_2;
        let announced = match accepted.body {
            BodyReader::Length(length) => Some(length),
            _ => None,
        };
        let stream = Stream::new(respond, receive, announced, self.live.clone());
        Box::new(Session::on_stream(stream, Arc::new(exchange), accepted))
    }
}

/// When a client has had enough time for the rest of what was answered: all of it was made by `made`, and it took something at `sent`.
fn rest_deadline(made: Instant, sent: Instant, write_idle_timeout: Duration) -> Instant {
    (made.max(sent) + write_idle_timeout).min(made + write_idle_timeout * REST_PAUSES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_takes_little_at_a_time_has_a_bound() {
        let (made, second) = (Instant::now(), Duration::from_secs(1));
        let after = |sent| rest_deadline(made, made + second * sent, second * 3) - made;
        assert_eq!([after(0), after(50), after(57), after(1000)], [3, 53, 60, 60].map(|seconds| second * seconds));
        assert_eq!(rest_deadline(made + second, made, second), made + second * 2);
    }
}
