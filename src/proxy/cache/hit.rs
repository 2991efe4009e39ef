//! An answer out of the cache: whole, in part, or that the client has it already.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use pingora_error::Result;

use super::{Visit, Way};
use crate::cache::disk::FileBody;
use crate::cache::entry::{Body, Entry};
use crate::cache::policy::Freshness;
use crate::cache::{conditional, now, range};
use crate::edge::session::Session;
use crate::header::request_id::X_REQUEST_ID;
use crate::headers::Headers;
use crate::message::ResponseHead;
use crate::observe::metrics::CacheResult;
use crate::proxy::context::Active;
use crate::proxy::rejection::{Reason, Rejection};
use crate::proxy::respond;
use crate::proxy::response::edit_for_route;

pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Writes it. Whether the client took it is in the exchange's outcome.
pub async fn answer(session: &mut Session, active: &mut Active, entry: &Entry) {
    // It is in memory already: what a slow client does not take waits there.
    active.exchange.control.spool_response(false);
    let (head, body) = head(session, active, entry);
    let written = Box::pin(write(session, head, body)).await;
    if let Err(error) = written {
        tracing::debug!(%error, "an answer of the cache was not taken");
        if active.exchange.outcome.fault() == Some(Reason::SpoolFailed) {
            active.rejection = Some(Rejection::new(Reason::SpoolFailed, "a file of the cache is torn"));
            if let Some(visit) = &active.visit {
                active.exchange.snapshot.shared.cache.invalidate(&visit.rule, &visit.primary);
            }
        }
    }
}

/// Bytes of several parts of a body that are put together; for more the whole is sent, which costs no copy.
const PARTS_MOST: usize = 64 * 1024;

/// What of a body is sent.
enum Sent {
    Bytes(Bytes),
    /// A part of what is on disk.
    Part(Arc<FileBody>, Range<usize>),
}

impl Sent {
    fn of(body: &Body, part: Range<usize>) -> Self {
        match body {
            Body::Here(bytes) => Self::Bytes(bytes.slice(part)),
            Body::There(file) => Self::Part(file.clone(), part),
        }
    }
}

async fn write(session: &mut Session, head: ResponseHead, body: Sent) -> Result<()> {
    let (file, part) = match body {
        Sent::Bytes(bytes) => return respond::write(session, head, bytes).await,
        Sent::Part(file, part) => (file, part),
    };
    session.take_header(Box::new(head))?;
    write_part(session, &file, part).await?;
    session.take_end()?;
    session.flush(Bytes::new()).await
}

/// Block by block: no more of it is in memory than the client is about to take.
async fn write_part(session: &mut Session, file: &Arc<FileBody>, part: Range<usize>) -> Result<()> {
    let mut at = part.start;
    while at < part.end && !session.is_for_nobody() {
        let reader = file.clone();
        let read = tokio::task::spawn_blocking(move || reader.read_from(at)).await;
        let block = match read.map_err(std::io::Error::other).and_then(|read| read) {
            Ok(block) if !block.is_empty() => block,
            Ok(_) => return session.lose_body(),
            Err(error) => {
                tracing::error!(%error, "a kept answer cannot be read from disk");
                return session.lose_body();
            }
        };
        let block = block.slice(..block.len().min(part.end - at));
        at += block.len();
        session.take_body(block).await?;
    }
    Ok(())
}

fn head(session: &mut Session, active: &Active, entry: &Entry) -> (ResponseHead, Sent) {
    session.untap();
    let asked = active.visit.as_ref().and_then(|visit| visit.fetch.as_ref()).map(|fetch| &*fetch.asked);
    let asked = asked.unwrap_or(&session.request().headers);
    let (status, headers, body) = part(asked, &active.exchange.method, entry);
    let mut head = ResponseHead::new(status, 0);
    head.headers = headers;
    let now = now();
    head.headers.insert(AGE, HeaderValue::from(entry.terms.age(now)));
    if let Some(visit) = &active.visit {
        add_status(&mut head, visit, Some(entry.freshness(now)));
    }
    head.headers.insert(X_REQUEST_ID, active.request_id.clone());
    edit_for_route(&mut head, active, false);
    (head, body)
}

/// What of the entry is the answer to a request with these fields.
fn part(asked: &Headers, method: &Method, entry: &Entry) -> (StatusCode, Headers, Sent) {
    if conditional::is_not_modified(asked, entry.status, &entry.headers) {
        return (StatusCode::NOT_MODIFIED, conditional::not_modified(&entry.headers), Sent::Bytes(Bytes::new()));
    }
    let length = entry.body.len();
    // There is nothing to be sent to HEAD.
    let sent = if *method == Method::HEAD { 0 } else { length };
    let whole = || (entry.status, entry.headers.clone(), Sent::of(&entry.body, 0..sent));
    let is_ranged = *method == Method::GET
        && entry.status == StatusCode::OK
        && asked.contains(RANGE)
        && conditional::range_is_of(asked, &entry.headers);
    if !is_ranged {
        return whole();
    }
    let mut headers = entry.headers.clone();
    let mut set = |name: HeaderName, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    match range::asked(asked, length) {
        range::Asked::Whole => whole(),
        range::Asked::Beyond => {
            let mut headers = Headers::default();
            headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
            if let Ok(value) = HeaderValue::try_from(format!("bytes */{length}")) {
                headers.insert(CONTENT_RANGE, value);
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, headers, Sent::Bytes(Bytes::new()))
        }
        range::Asked::Parts(parts) => {
            let body = match (&*parts, &entry.body) {
                ([part], body) => {
                    set(CONTENT_RANGE, range::content_range(part, length));
                    set(CONTENT_LENGTH, part.len().to_string());
                    Sent::of(body, part.clone())
                }
                (_, Body::Here(bytes)) if parts.iter().map(Range::len).sum::<usize>() <= PARTS_MOST => {
                    let boundary = uuid::Uuid::new_v4().simple().to_string();
                    let content_type = entry.headers.get(CONTENT_TYPE);
                    let (body, media) = range::multipart(&parts, bytes, content_type, &boundary);
                    set(CONTENT_TYPE, media);
                    set(CONTENT_LENGTH, body.len().to_string());
                    Sent::Bytes(body)
                }
                // Several parts are put together in memory.
                _ => return whole(),
            };
            (StatusCode::PARTIAL_CONTENT, headers, body)
        }
    }
}

/// Says in `Cache-Status` what the cache did (RFC 9211).
pub fn add_status(head: &mut ResponseHead, visit: &Visit, freshness: Option<Freshness>) {
    let mut text = String::with_capacity(48);
    text.push_str("propylon; ");
    let bypass = match visit.way {
        Way::Bypass(why) => Some(why),
        _ => None,
    };
    let fetch = visit.fetch.as_deref();
    match (visit.result, bypass) {
        (_, Some(why)) => {
            text.push_str("fwd=bypass; detail=");
            text.push_str(why.text());
        }
        (CacheResult::Revalidated, _) => text.push_str("fwd=stale; fwd-status=304"),
        (CacheResult::Collapsed, _) => text.push_str("fwd=miss; collapsed"),
        (CacheResult::Stale, _) if fetch.is_some_and(|fetch| fetch.withheld.is_some()) => {
            text.push_str("fwd=stale; detail=stale-if-error");
        }
        (CacheResult::Hit | CacheResult::Stale, _) => text.push_str("hit"),
        _ => text.push_str(if visit.entry.is_some() { "fwd=stale" } else { "fwd=miss" }),
    }
    let mut number = itoa::Buffer::new();
    match freshness {
        Some(Freshness::Fresh(left)) => {
            text.push_str("; ttl=");
            text.push_str(number.format(left / 1000));
        }
        Some(Freshness::Stale(since)) => {
            text.push_str("; ttl=-");
            text.push_str(number.format(since / 1000));
        }
        None => match visit.not_stored {
            Some(why) => {
                text.push_str("; detail=");
                text.push_str(why.text());
            }
            None if fetch.is_some_and(|fetch| fetch.tap.records()) => text.push_str("; stored"),
            None => {}
        },
    }
    if let Ok(value) = HeaderValue::try_from(text) {
        // Behind what caches nearer to the app have said.
        head.headers.append(CACHE_STATUS, value);
    }
}
