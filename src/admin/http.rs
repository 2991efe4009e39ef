//! A small HTTP/1.1 server for operators: one request a connection, read by the same strict reader as any other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use crate::admin::Desk;
use crate::admin::answer::Answer;
use crate::edge::head::{Head, HeadLimits, HeadReader};
use crate::edge::listener::Bound;
use crate::net::Plain;
use crate::route::target::split_query;

/// Connections served at once; more wait in the backlog. They are not counted among those of clients, so that a full house
/// can still be looked at.
const CONNECTIONS_MAX: usize = 64;
/// For the head of a request, and again for its answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);
/// What an operator's tool sends fits many times over.
const LIMITS: HeadLimits =
    HeadLimits { request_line_max: 16_384, header_max: 20_480, field_max: 4096, headers_max: 64 };
/// After an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often a failing accept is worth a log line.
const ACCEPT_LOG_EVERY: Duration = Duration::from_secs(10);

/// What an operator asked for.
#[derive(Debug)]
pub struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
    /// As it was sent.
    pub query: String,
}

/// Answers on `bound` until the task is aborted.
pub async fn serve(bound: Bound, desk: Desk) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut logged: Option<Instant> = None;
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match bound.accept().await {
            Ok((socket, _)) => {
                let desk = desk.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    converse(socket, &desk).await;
                });
            }
            Err(error) => {
                if logged.is_none_or(|at| at.elapsed() > ACCEPT_LOG_EVERY) {
                    tracing::warn!(address = %bound.address, %error, "admin connections cannot be accepted");
                    logged = Some(Instant::now());
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(mut socket: Plain, desk: &Desk) {
    let Ok(Some(head)) = tokio::time::timeout(PATIENCE, read_head(&mut socket)).await else { return };
    let (answer, head_only) = match head {
        Ok(head) => {
            let (path, query) = split_query(&head.request.target);
            let text = |raw| String::from_utf8_lossy(raw).into_owned();
            let (path, query) = (text(path), text(query.unwrap_or_default()));
            let request = Request { method: head.request.method.as_str().to_owned(), path, query };
            let head_only = request.method == "HEAD";
            (desk.answer(request).await, head_only)
        }
        Err(status) => (Answer::text(status, "the request could not be understood\n"), false),
    };
    let write = async {
        let _ = socket.write_all(&answer.to_bytes(head_only)).await;
        let _ = socket.shutdown().await;
    };
    let _ = tokio::time::timeout(PATIENCE, write).await;
}

/// The head, or the status to refuse it with; none when the peer left.
async fn read_head(socket: &mut Plain) -> Option<Result<Head, u16>> {
    let mut reader = HeadReader::default();
    let mut buf = BytesMut::new();
    loop {
        buf.reserve(1024);
        if !matches!(socket.read_buf(&mut buf).await, Ok(1..)) {
            return None;
        }
        match reader.read(&mut buf, &LIMITS) {
            Ok(Some(head)) => return Some(Ok(head)),
            Ok(None) => {}
            Err(rejection) => return Some(Err(rejection.reason.status())),
        }
    }
}
