//! The life of one client connection: wait, read a head, have the request served, take the connection back, again.
//!
//! Between requests the task holds a socket, a few words and no buffer; the large future of a request exists only while the
//! request does (pingora.md measured 101 KB for an idle connection of the stock listener).

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::edge::alarm::{Alarm, deadline_in};
use crate::edge::exchange::{Accepted, ConnectionFacts, Exchange};
use crate::edge::head::{Head, HeadLimits, HeadReader};
use crate::edge::session::{Returned, Session};
use crate::edge::transport::Transport;
use crate::observe::metrics::OpenConnection;
use crate::proxy::rejection::{Reason, Rejection};
use crate::state::{Conversation, Shared, Snapshot};

/// For the first request of a connection that was accepted when the process was told to leave.
pub(super) const LEAVING_PATIENCE: Duration = Duration::from_secs(1);
/// How long a client is read from that is to see our answer before the connection closes: a browser looks for one only when it has
/// sent all. And how long it may say nothing meanwhile.
pub(super) const LINGER_TIME: Duration = Duration::from_secs(30);
pub(super) const LINGER_SILENCE: Duration = Duration::from_secs(5);

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
        let Self { transport, buf, alarm } = self;
        alarm.before(deadline, poll_fn(|cx| transport.poll_head(cx, buf))).await
    }
}

/// What every connection needs of the process.
#[derive(Clone)]
pub struct Gateway {
    pub shared: Arc<Shared>,
    /// The configuration of the moment.
    pub current: Arc<ArcSwap<Snapshot>>,
    /// True once the process leaves: idle connections close.
    pub draining: watch::Receiver<bool>,
}

impl Gateway {
    /// The configuration of the moment.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Ready when the process leaves and whoever has not begun yet has had his time.
    pub async fn out_of_patience(&mut self) {
        let _ = self.draining.wait_for(|draining| *draining).await;
        tokio::time::sleep(LEAVING_PATIENCE).await;
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
    mut gateway: Gateway,
    mut open: OpenConnection,
    conversation: Conversation,
) {
    let mut first = true;
    loop {
        if connection.buf.is_empty() && !wait_for_request(&mut connection, first, &mut gateway).await {
            return connection.transport.farewell();
        }
        first = false;
        open.set_active(true);
        let snapshot = gateway.snapshot();
        let started = Instant::now();
        let head = match read_head(&mut connection, &snapshot, started).await {
            Ok(head) => Ok(head),
            Err(Ended::Quietly) => return connection.transport.farewell(),
            Err(Ended::With(rejection)) => Err(rejection),
        };
        let session = open_session(connection, &facts, snapshot, started, head);
        match crate::proxy::serve(session).await {
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
async fn wait_for_request(connection: &mut Connection, first: bool, gateway: &mut Gateway) -> bool {
    let deadline = {
        let snapshot = gateway.snapshot();
        let client = &snapshot.config.client;
        deadline_in(if first { client.header_timeout } else { client.keepalive_timeout })
    };
    let leaving = async {
        if first {
            gateway.out_of_patience().await;
        } else {
            let _ = gateway.draining.wait_for(|draining| *draining).await;
        }
    };
    tokio::select! {
        biased;
        read = connection.read(deadline) => matches!(read, Some(Ok(1..))),
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
) -> Box<Session> {
    let (exchange, accepted) = match head {
        Ok(head) => Exchange::accepted(facts.clone(), snapshot, started.into_std(), head),
        Err(rejection) => {
            let exchange = Exchange::refused(facts.clone(), snapshot, started.into_std(), rejection);
            (exchange, Accepted::nothing())
        }
    };
    Box::new(Session::new(connection, Arc::new(exchange), accepted))
}

/// Says that nothing more comes and reads on for a while, so that the answer is not lost to a reset.
async fn linger(mut connection: Box<Connection>) {
    connection.transport.finish_writing().await;
    let end = deadline_in(LINGER_TIME);
    loop {
        connection.buf.clear();
        if !matches!(connection.read(end.min(deadline_in(LINGER_SILENCE))).await, Some(Ok(1..))) {
            return;
        }
    }
}
