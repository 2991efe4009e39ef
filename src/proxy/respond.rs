//! The only writer of our own answers: each carries the request id and says why, in HTML or as a problem document (RFC 9457).

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora_error::Result;

use crate::config::model::ErrorPage;
use crate::edge::session::Session;
use crate::header::request_id::X_REQUEST_ID;
use crate::message::{RequestHead, ResponseHead};
use crate::proxy::access;
use crate::proxy::context::Active;
use crate::proxy::rejection::{Reason, Rejection};
use crate::proxy::response::edit_for_route;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// An answer of our own.
#[derive(Debug)]
pub struct Answer {
    status: u16,
    fields: Vec<(HeaderName, HeaderValue)>,
    body: Body,
    rejection: Option<Rejection>,
}

#[derive(Debug)]
enum Body {
    Empty,
    Given(Bytes, HeaderValue),
    /// Made for the client that asks.
    Explained(Reason),
}

impl Answer {
    /// A status without a body.
    #[must_use]
    pub fn empty(status: u16) -> Self {
        Self { status, fields: Vec::new(), body: Body::Empty, rejection: None }
    }

    /// What a route's `respond` says.
    #[must_use]
    pub fn configured(status: u16, body: &str, content_type: &HeaderValue) -> Self {
        let body = Body::Given(Bytes::copy_from_slice(body.as_bytes()), content_type.clone());
        Self { status, fields: Vec::new(), body, rejection: None }
    }

    /// A refusal.
    #[must_use]
    pub fn rejection(rejection: Rejection) -> Self {
        let reason = rejection.reason;
        let mut fields = vec![(header::CACHE_CONTROL, NO_STORE)];
        if let Some(seconds) = rejection.retry_after {
            fields.push((header::RETRY_AFTER, HeaderValue::from(seconds)));
        }
        if reason == Reason::Unauthorized {
            fields.push((header::WWW_AUTHENTICATE, access::CHALLENGE));
        }
        Self { status: reason.status(), fields, body: Body::Explained(reason), rejection: Some(rejection) }
    }

    /// With one field more.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.fields.push((name, value));
        self
    }
}

/// Refuses the request.
pub async fn reject(session: &mut Session, active: &mut Active, rejection: Rejection) {
    let reason = rejection.reason;
    let mut refusal = Answer::rejection(rejection);
    if reason == Reason::MethodNotAllowed {
        // CONNECT: what a tunnel would lead to has no method here. 405 must name them (RFC 9110 section 15.5.6).
        refusal = refusal.with(header::ALLOW, HeaderValue::from_static(""));
    }
    answer(session, active, Box::new(refusal)).await;
}

/// Writes the answer. Whether the client took it is in the exchange's outcome.
pub async fn answer(session: &mut Session, active: &mut Active, mut answer: Box<Answer>) {
    if let Some(rejection) = answer.rejection.take() {
        if ends_connection(rejection.reason, session) {
            active.exchange.control.close_connection();
        }
        active.rejection = Some(rejection);
    }
    let (head, body) = head(session.request(), active, &answer);
    if let Err(error) = Box::pin(write(session, head, body)).await {
        tracing::debug!(%error, "an answer of ours was not taken");
    }
}

/// Writes an answer that does not come from the app now: ours, or one that was kept.
///
/// # Errors
/// The client does not take it.
pub async fn write(session: &mut Session, head: ResponseHead, body: Bytes) -> Result<()> {
    session.take_header(Box::new(head))?;
    session.take_body(body).await?;
    session.take_end()?;
    session.flush(Bytes::new()).await
}

fn head(request: &RequestHead, active: &Active, answer: &Answer) -> (ResponseHead, Bytes) {
    let (body, content_type) = body(request, active, answer);
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut head = ResponseHead::new(status, answer.fields.len() + 12);
    if let Some(content_type) = content_type {
        head.headers.append(header::CONTENT_TYPE, content_type);
    }
    if !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        head.headers.append(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    head.headers.extend(answer.fields.iter().cloned());
    head.headers.insert(X_REQUEST_ID, active.request_id.clone());
    edit_for_route(&mut head, active, false);
    (head, body)
}

/// Whether the next request on the connection could be misread, or would have to wait for a body nobody wants.
fn ends_connection(reason: Reason, session: &Session) -> bool {
    let outcome = &session.exchange().outcome;
    reason.ends_connection() || reason == Reason::BodyTooLarge || (outcome.body_touched() && !session.is_received())
}

/// The body and its type; nothing is explained where the operator gave a page for it.
fn body(request: &RequestHead, active: &Active, answer: &Answer) -> (Bytes, Option<HeaderValue>) {
    match &answer.body {
        Body::Empty => (Bytes::new(), None),
        Body::Given(body, content_type) => (body.clone(), Some(content_type.clone())),
        Body::Explained(reason) => match page(*reason, active) {
            Some(page) => (page.body.clone(), Some(page.content_type.clone())),
            None if wants_html(request) => (html(*reason, &active.request_id), Some(HTML)),
            None => (problem(*reason, active), Some(PROBLEM_JSON)),
        },
    }
}

/// The operator's own page.
fn page(reason: Reason, active: &Active) -> Option<&ErrorPage> {
    let config = &active.exchange.snapshot.config;
    let own = config.maintenance.page.as_ref().filter(|_| reason == Reason::Maintenance);
    own.or_else(|| config.error_pages.get(&reason.status())).map(|page| &**page)
}

/// Browsers name HTML; what names nothing, or anything, is a program.
fn wants_html(request: &RequestHead) -> bool {
    request.headers.get_all(header::ACCEPT).any(|value| {
        value.as_bytes().split(|b| *b == b',').any(|range| {
            let mut parts = range.split(|b| *b == b';').map(<[u8]>::trim_ascii);
            let named = parts.next().is_some_and(|media| {
                media.eq_ignore_ascii_case(b"text/html") || media.eq_ignore_ascii_case(b"application/xhtml+xml")
            });
            named && !parts.any(|parameter| matches!(parameter, b"q=0" | b"q=0.0" | b"q=0.00" | b"q=0.000"))
        })
    })
}

fn title(reason: Reason) -> &'static str {
    StatusCode::from_u16(reason.status()).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error")
}

/// RFC 9457, with the reason and the request id as members of their own; for a rate that is exceeded with the type and the member of
/// draft-ietf-httpapi-ratelimit-headers-10.
fn problem(reason: Reason, active: &Active) -> Bytes {
    let exceeded = active.limited.as_ref().and_then(|limited| limited.refusal.as_ref());
    let exceeded = exceeded.filter(|_| reason == Reason::RateLimited);
    let id = active.request_id.to_str().unwrap_or_default();
    let refused = exceeded.map(|refusal| &*refusal.limits).unwrap_or_default();
    Bytes::from(problem_text(reason, exceeded.is_some(), id, refused))
}

/// Written by hand: who is refused is to cost little. Titles, texts and words are ours, the id is of bytes that need no escaping.
fn problem_text(reason: Reason, exceeded: bool, id: &str, refused: &[Arc<str>]) -> String {
    let (status, title, detail, word) = (reason.status(), title(reason), reason.text(), reason.word());
    let kind = if exceeded { QUOTA_EXCEEDED } else { "about:blank" };
    let mut text = String::with_capacity(320);
    let mut number = itoa::Buffer::new();
    let members = [
        [r#"{"detail":""#, detail],
        [r#"","reason":""#, word],
        [r#"","request_id":""#, id],
        [r#"","status":"#, number.format(status)],
        [r#","title":""#, title],
        [r#"","type":""#, kind],
    ];
    members.into_iter().flatten().for_each(|part| text.push_str(part));
    text.push('"');
    if exceeded {
        text.push_str(r#","violated-policies":"#);
        let names: Vec<&str> = refused.iter().map(|name| &**name).collect();
        text.push_str(&serde_json::to_string(&names).unwrap_or_else(|_| "[]".to_owned()));
    }
    text.push('}');
    text
}

/// Nothing in it comes from the request but the id, whose bytes need no escaping.
fn html(reason: Reason, request_id: &HeaderValue) -> Bytes {
    let (status, title, text, word) = (reason.status(), title(reason), reason.text(), reason.word());
    let id = request_id.to_str().unwrap_or_default();
    Bytes::from(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{status} {title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"></head>\n\
         <body><h1>{status} {title}</h1><p>{text}.</p><p><small>Reason: {word}<br>Request: {id}</small></p></body></html>\n"
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_a_problem_document() {
        for reason in Reason::ALL {
            for names in [vec![], vec![Arc::from("per \"key\""), Arc::from("b")]] {
                let text = problem_text(*reason, !names.is_empty(), "0-1", &names);
                let document: serde_json::Value = serde_json::from_str(&text).unwrap();
                let mut expected = serde_json::json!({
                    "type": "about:blank", "title": title(*reason), "status": reason.status(), "detail": reason.text(),
                    "reason": reason.word(), "request_id": "0-1",
                });
                if !names.is_empty() {
                    expected["type"] = QUOTA_EXCEEDED.into();
                    expected["violated-policies"] = serde_json::json!(["per \"key\"", "b"]);
                }
                assert_eq!(document, expected, "{text}");
            }
        }
    }
}
