//! Cross-origin resource sharing (Fetch Standard, section 3.3): what browsers ask beforehand is answered here, and what they then ask gets
//! the fields by which a page may read the answer, the app's or ours.

use http::{HeaderValue, Method, header};

use crate::config::model::{Cors, OriginPattern};
use crate::headers::Headers;
use crate::message::{RequestHead, ResponseHead};
use crate::proxy::rejection::{Reason, Rejection};
use crate::proxy::respond::Answer;

const ASTERISK: HeaderValue = HeaderValue::from_static("*");
const TRUE: HeaderValue = HeaderValue::from_static("true");
/// What a preflight answer depends on.
const VARY_PREFLIGHT: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");

/// The method a preflight request asks for; none if it is no preflight. An OPTIONS of another kind is the app's.
#[must_use]
pub fn preflighted(request: &RequestHead) -> Option<Method> {
    if request.method != Method::OPTIONS || !request.headers.contains(header::ORIGIN) {
        return None;
    }
    let wanted = request.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(wanted.as_bytes()).ok()
}

/// What the origin of a request is told it is: itself, any, or nothing.
#[must_use]
pub fn allowed(request: &Headers, cors: &Cors) -> Option<HeaderValue> {
    let mut origins = request.get_all(header::ORIGIN);
    let (Some(origin), None) = (origins.next(), origins.next()) else { return None };
    if is_for_any(cors) {
        return Some(ASTERISK);
    }
    cors.origins.iter().any(|pattern| pattern.matches(origin.as_bytes())).then(|| origin.clone())
}

/// Answers a preflight request for `method`.
///
/// # Errors
/// What is asked for is not allowed.
pub fn answer(request: &Headers, cors: &Cors, method: &Method) -> Result<Answer, Rejection> {
    let refuse = |what: &'static str| Err(Rejection::new(Reason::CorsRefused, what));
    let Some(origin) = allowed(request, cors) else { return refuse("the origin is not one of cors.origins") };
    // Browsers need nobody's word for these (Fetch Standard, section 2.2.1); nor for POST, but what they ask about here changes things.
    let is_simple = [Method::GET, Method::HEAD].contains(method);
    if !is_simple && !cors.methods.contains(method) {
        return refuse("the method is not one of cors.methods");
    }
    let asked: Vec<&[u8]> = request
        .get_all(header::ACCESS_CONTROL_REQUEST_HEADERS)
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.is_empty())
        .collect();
    let allowed = match &cors.headers {
        Some(names) => {
            let is_named = |asked: &[u8]| names.iter().any(|name| asked.eq_ignore_ascii_case(name.as_str().as_bytes()));
            if !asked.iter().all(|asked| is_named(asked)) {
                return refuse("a field is not one of cors.headers");
            }
            let names: Vec<&[u8]> = names.iter().map(|name| name.as_str().as_bytes()).collect();
            names.join(&b", "[..])
        }
        None => asked.join(&b", "[..]),
    };
    let methods: Vec<&str> = cors.methods.iter().map(Method::as_str).collect();
    let mut answer = Answer::empty(204)
        .with(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin)
        .with(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(cors.max_age.as_secs()))
        .with(header::VARY, VARY_PREFLIGHT);
    if let Ok(methods) = HeaderValue::try_from(methods.join(", ")) {
        answer = answer.with(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    if let Some(headers) = HeaderValue::from_bytes(&allowed).ok().filter(|headers| !headers.is_empty()) {
        answer = answer.with(header::ACCESS_CONTROL_ALLOW_HEADERS, headers);
    }
    if cors.credentials {
        answer = answer.with(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
    }
    Ok(answer)
}

/// Adds what lets a page of `origin` read an answer, unless the app has said itself who may.
pub fn add(response: &mut ResponseHead, cors: &Cors, origin: Option<&HeaderValue>) {
    if response.headers.names().any(|name| name.as_str().starts_with("access-control-")) {
        return;
    }
    // Whoever is asked by another origin, or by none, gets another answer.
    if !is_for_any(cors) && !varies_by_origin(&response.headers) {
        response.headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
    let Some(origin) = origin else { return };
    response.headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if cors.credentials {
        response.headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
    }
    if !cors.expose.is_empty() {
        let names: Vec<&str> = cors.expose.iter().map(http::HeaderName::as_str).collect();
        if let Ok(names) = HeaderValue::try_from(names.join(", ")) {
            response.headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, names);
        }
    }
}

/// Whether everybody gets the same answer.
fn is_for_any(cors: &Cors) -> bool {
    !cors.credentials && cors.origins.iter().any(|origin| matches!(origin, OriginPattern::Any))
}

fn varies_by_origin(headers: &Headers) -> bool {
    let items = headers.get_all(header::VARY).flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    items.map(<[u8]>::trim_ascii).any(|item| item == b"*" || item.eq_ignore_ascii_case(b"origin"))
}
