//! The life of one client connection: wait, read a head, hand the request to Pingora, take the connection back, again.
//!
//! Between requests the task holds a socket, a few words and no buffer; the large future of a request exists only while the
//! request does (pingora.md measured 101 KB for an idle connection of the stock listener).

use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_http::RequestHeader;
use pingora_proxy::HttpProxy;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::edge::alarm::{Alarm, deadline_in};
use crate::edge::body::BodyReader;
use crate::edge::exchange::{Accepted, ConnectionFacts, Exchange};
use crate::edge::head::{Head, HeadLimits, HeadReader};
use crate::edge::session::{GiveBack, Returned, Session};
use crate::edge::transport::{Transport, poll_once};
use crate::observe::metrics::OpenConnection;
use crate::proxy::Gateway;
use crate::proxy::rejection::{Reason, Rejection};
use crate::state::{Conversation, Shared, Snapshot};

/// First allocation for a head.
const HEAD_READ: usize = 4 * 1024;
/// For the first request of a connection that was accepted when the process was told to leave.
const LEAVING_PATIENCE: Duration = Duration::from_secs(1);
/// How much is read, and how long, of a client that is to see our answer before the connection closes.
const LINGER_MAX: usize = 8 * 1024 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(5);

/// A client's connection and what was read of it but not yet used.
#[derive(Debug)]
pub struct Connection {
    pub transport: Transport,
    pub buf: BytesMut,
    pub alarm: Alarm,
}

impl Connection {
    /// A connection of which nothing was read.
    #[must_use]
    pub fn new(transport: Transport) -> Self {
        Self { transport, buf: BytesMut::new(), alarm: Alarm::default() }
    }

    /// Reads more, until `deadline` at the latest: none then. Cancel safe.
    pub async fn read(&mut self, deadline: Instant) -> Option<io::Result<usize>> {
        self.alarm.before(deadline, self.transport.read_into(&mut self.buf)).await
    }
}

/// What every connection needs of the process.
#[derive(Clone)]
pub struct Engine {
    pub proxy: Arc<HttpProxy<Gateway>>,
    pub shared: Arc<Shared>,
    /// The configuration of the moment.
    pub current: Arc<ArcSwap<Snapshot>>,
    /// True once the process leaves: idle connections close.
    pub draining: watch::Receiver<bool>,
}

impl Engine {
    /// The configuration of the moment.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }
}

/// Why there is no next request.
enum Ended {
    /// The client closed, or went silent where silence is no fault.
    Quietly,
    /// The client is told why.
    With(Rejection),
}

/// Serves `connection` until it ends.
pub async fn serve(
    mut connection: Box<Connection>,
    facts: Arc<ConnectionFacts>,
    mut engine: Engine,
    mut open: OpenConnection,
    conversation: Conversation,
) {
    let give_back = Arc::new(GiveBack::default());
    let mut first = true;
    loop {
        if connection.buf.is_empty() && !wait_for_request(&mut connection, first, &mut engine).await {
            return;
        }
        first = false;
        open.set_active(true);
        let snapshot = engine.snapshot();
        let started = Instant::now();
        let head = match read_head(&mut connection, &snapshot, started).await {
            Ok(head) => Ok(head),
            Err(Ended::Quietly) => return,
            Err(Ended::With(rejection)) => Err(rejection),
        };
        let session = open_session(connection, &facts, snapshot, started, head, &give_back);
        // What Pingora returns is for its own sessions; ours gives the connection back itself.
        let _ = engine.proxy.process_new_http(ServerSession::new_custom(session), &engine.draining).await;
        match give_back.take() {
            Some(Returned::Reuse(returned)) => connection = returned,
            Some(Returned::Linger(returned)) => {
                drop(conversation);
                return linger(returned).await;
            }
            None => return,
        }
        open.set_active(false);
        if connection.buf.is_empty() {
            connection.buf = BytesMut::new();
        }
    }
}

/// Parks until the first bytes of a request were read; false when none will come. A process that is leaving waits for nobody, but for
/// the first request of a connection a little.
async fn wait_for_request(connection: &mut Connection, first: bool, engine: &mut Engine) -> bool {
    let deadline = {
        let snapshot = engine.snapshot();
        let client = &snapshot.config.client;
        deadline_in(if first { client.header_timeout } else { client.keepalive_timeout })
    };
    let Connection { transport, buf, alarm } = connection;
    let arrived = async {
        loop {
            transport.readable().await?;
            buf.reserve(HEAD_READ);
            match poll_once(transport.read_into(buf)).await {
                Poll::Ready(read) => return read,
                // A new socket is called readable before anything has come.
                Poll::Pending => *buf = BytesMut::new(),
            }
        }
    };
    let leaving = async {
        let _ = engine.draining.wait_for(|draining| *draining).await;
        if first {
            tokio::time::sleep(LEAVING_PATIENCE).await;
        }
    };
    tokio::select! {
        biased;
        read = alarm.before(deadline, arrived) => matches!(read, Some(Ok(1..))),
        () = leaving => false,
    }
}

async fn read_head(connection: &mut Connection, snapshot: &Snapshot, started: Instant) -> Result<Head, Ended> {
    let client = &snapshot.config.client;
    let limits = HeadLimits::from(client);
    let mut reader = HeadReader::default();
    loop {
        if !connection.buf.is_empty() {
            match reader.read(&mut connection.buf, &limits) {
                Ok(Some(head)) => return Ok(head),
                Ok(None) => {}
                Err(rejection) => return Err(Ended::With(rejection)),
            }
        }
        connection.buf.reserve(HEAD_READ);
        match connection.read(started + client.header_timeout).await {
            Some(Ok(1..)) => {}
            Some(_) => return Err(Ended::Quietly),
            None if connection.buf.is_empty() => return Err(Ended::Quietly),
            None => return Err(Ended::With(Reason::HeaderTimeout.into())),
        }
    }
}

fn open_session(
    connection: Box<Connection>,
    facts: &Arc<ConnectionFacts>,
    snapshot: Arc<Snapshot>,
    started: Instant,
    head: Result<Head, Rejection>,
    give_back: &Arc<GiveBack>,
) -> Box<Session> {
    let (exchange, mut accepted) = match head {
        Ok(head) => Exchange::accepted(facts.clone(), snapshot, started.into_std(), head),
        Err(rejection) => {
            let exchange = Exchange::refused(facts.clone(), snapshot, started.into_std(), rejection);
            (
                exchange,
                Accepted {
                    request: placeholder(),
                    body: BodyReader::length(0),
                    keep_alive: false,
                    expects_continue: false,
                },
            )
        }
    };
    let exchange = Arc::new(exchange);
    accepted.request.extensions_mut().insert(exchange.clone());
    Box::new(Session::new(connection, give_back.clone(), exchange, accepted))
}

/// Stands where a request would, for a head that was none.
fn placeholder() -> RequestHeader {
    RequestHeader::build_no_case(http::Method::GET, b"/", Some(0))
        .unwrap_or_else(|_| unreachable!("a constant request"))
}

/// Says that nothing more comes and reads on for a while, so that the answer is not lost to a reset.
async fn linger(mut connection: Box<Connection>) {
    connection.transport.finish_writing().await;
    let mut discarded = 0;
    let read = async {
        while discarded < LINGER_MAX {
            connection.buf.clear();
            connection.buf.reserve(HEAD_READ);
            match connection.transport.read_into(&mut connection.buf).await {
                Ok(n @ 1..) => discarded += n,
                _ => return,
            }
        }
    };
    let _ = tokio::time::timeout(LINGER_TIME, read).await;
}
