//! The only writer of our own answers: each carries the request id and says why, in HTML or as a problem document (RFC 9457).

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::{FailToProxy, Session};

use crate::header::request_id::X_REQUEST_ID;
use crate::proxy::context::{Active, Context};
use crate::proxy::rejection::{Reason, Rejection};
use crate::proxy::response::edit_for_route;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
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
        if let Some(seconds) = reason.retry_after() {
            fields.push((header::RETRY_AFTER, HeaderValue::from(seconds)));
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
///
/// # Errors
/// The client is gone.
pub async fn reject(session: &mut Session, active: &mut Active, rejection: Rejection) -> Result<()> {
    let reason = rejection.reason;
    let mut refusal = Answer::rejection(rejection);
    if reason == Reason::MethodNotAllowed {
        // CONNECT: what a tunnel would lead to has no method here. 405 must name them (RFC 9110 section 15.5.6).
        refusal = refusal.with(header::ALLOW, HeaderValue::from_static(""));
    }
    answer(session, active, refusal).await
}

/// Writes the answer and ends the exchange.
///
/// # Errors
/// The client is gone.
pub async fn answer(session: &mut Session, active: &mut Active, answer: Answer) -> Result<()> {
    let (body, content_type) = body(session, active, &answer);
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = ResponseHeader::build_no_case(status, Some(answer.fields.len() + 6))?;
    if let Some(content_type) = content_type {
        response.insert_header(header::CONTENT_TYPE, content_type)?;
    }
    if !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        response.insert_header(header::CONTENT_LENGTH, body.len())?;
    }
    for (name, value) in answer.fields {
        response.append_header(name, value)?;
    }
    response.insert_header(X_REQUEST_ID, active.request_id.clone())?;
    edit_for_route(&mut response, active)?;
    if let Some(rejection) = answer.rejection {
        if ends_connection(rejection.reason, active) {
            active.exchange.control.close_connection();
        }
        active.rejection = Some(rejection);
    }
    active.lease = None;
    let has_body = !body.is_empty() && session.req_header().method != Method::HEAD;
    let downstream = &mut session.downstream_session;
    downstream.write_response_header(Box::new(response)).await?;
    if has_body {
        downstream.write_response_body(body, true).await?;
    }
    downstream.finish_body().await
}

/// Whether the next request on the connection could be misread, or would have to wait for a body nobody wants.
fn ends_connection(reason: Reason, active: &Active) -> bool {
    reason.ends_connection()
        || (reason == Reason::BodyTooLarge)
        || (active.exchange.has_body && active.exchange.outcome.body_touched())
}

/// The body and its type; nothing is explained where the operator gave a page for it.
fn body(session: &Session, active: &Active, answer: &Answer) -> (Bytes, Option<HeaderValue>) {
    match &answer.body {
        Body::Empty => (Bytes::new(), None),
        Body::Given(body, content_type) => (body.clone(), Some(content_type.clone())),
        Body::Explained(reason) => match active.exchange.snapshot.config.error_pages.get(&answer.status) {
            Some(page) => (page.body.clone(), Some(page.content_type.clone())),
            None if wants_html(session) => (html(*reason, &active.request_id), Some(HTML)),
            None => (problem(*reason, &active.request_id), Some(PROBLEM_JSON)),
        },
    }
}

/// Browsers name HTML; what names nothing, or anything, is a program.
fn wants_html(session: &Session) -> bool {
    session.req_header().headers.get_all(header::ACCEPT).iter().any(|value| {
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

/// RFC 9457, with the reason and the request id as members of their own.
fn problem(reason: Reason, request_id: &HeaderValue) -> Bytes {
    let document = serde_json::json!({
        "type": "about:blank",
        "title": title(reason),
        "status": reason.status(),
        "detail": reason.text(),
        "reason": reason.word(),
        "request_id": request_id.to_str().unwrap_or_default(),
    });
    Bytes::from(document.to_string())
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

/// Answers for an exchange that failed, if there is still somebody to answer.
pub async fn fail(session: &mut Session, ctx: &mut Context, error: &Error) -> FailToProxy {
    // The connection is given back when the answer is whole, or not at all: Pingora has nothing to reuse.
    let failed = |error_code| FailToProxy { error_code, can_reuse_downstream: false };
    let Ok(active) = ctx.active() else { return failed(0) };
    let rejection = rejection_for(active, error);
    let status = rejection.reason.status();
    if rejection.reason == Reason::ClientClosed || session.response_written().is_some() {
        active.rejection = Some(rejection);
        return failed(0);
    }
    let _ = reject(session, active, rejection).await;
    failed(status)
}

/// What the session saw comes first, then what the attempts did.
fn rejection_for(active: &mut Active, error: &Error) -> Rejection {
    let outcome = &active.exchange.outcome;
    if outcome.client_gone() {
        return Reason::ClientClosed.into();
    }
    if let Some(rejection) = active.rejection.take() {
        return rejection;
    }
    match (outcome.fault(), error.esource(), error.etype()) {
        (Some(reason), ..) => Rejection::new(reason, error.etype().as_str().to_owned()),
        (None, ErrorSource::Downstream, ErrorType::WriteError | ErrorType::ConnectionClosed) => {
            Reason::ClientClosed.into()
        }
        _ => Rejection::new(Reason::Internal, error.to_string()),
    }
}
