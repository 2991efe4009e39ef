//! The strict reading of a request in HTTP/2 (RFC 9113 section 8): the library has checked its form, what it means is judged as in
//! HTTP/1.1, by the same limits.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Version, header};

use crate::edge::head::{
    FIELDS_OURS, Fields, Head, HeadLimits, HeadSize, bad_host, check_method, escape, joined_cookies, malformed,
    parse_target, too_large,
};
use crate::framing::BodyReader;
use crate::headers::Headers;
use crate::message::RequestHead;
use crate::proxy::rejection::{Reason, Rejection};

/// What stands around a field line: `: ` and CRLF.
const LINE: usize = 4;

/// Makes a head of what the library has read; `ends`: there is no body.
///
/// # Errors
/// The rejection to answer with.
pub fn head(parts: Parts, ends: bool, limits: &HeadLimits) -> Result<Head, Rejection> {
    let Parts { method, uri, headers, .. } = parts;
    let mut headers = Headers::from(headers);
    let target = uri.path_and_query().map(http::uri::PathAndQuery::as_str).unwrap_or_default().to_owned();
    check_method(method.as_str().as_bytes())?;
    let request_line = measure_line(&method, &target, limits)?;
    if uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(Rejection::new(Reason::BadTarget, "a scheme other than http and https"));
    }
    let (path, absolute) = parse_target(&method, target.as_bytes())?;
    // Of a request without :path and :authority the library makes one for `/`; the path of the URL is empty all the same.
    if uri.path().is_empty() || path.is_empty() || absolute.is_some() {
        return Err(Rejection::new(Reason::BadTarget, "target is not a path"));
    }
    let escaped = escape(path);
    check_host(uri.authority().map(|authority| authority.as_str().as_bytes()), &headers)?;
    if let Some(authority) = uri.authority() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| bad_host("invalid :authority"))?;
        headers.insert(header::HOST, host);
    }
    if headers.iter().any(|(_, value)| value.as_bytes().trim_ascii().len() != value.len()) {
        return Err(malformed("white space around a field value"));
    }
    if let Some(joined) = joined_cookies(&headers)? {
        headers.insert(header::COOKIE, joined);
    }
    let size = measure_fields(request_line, &headers, limits)?;
    let target_on = Bytes::copy_from_slice(&escaped);
    let request = RequestHead::new(method, target_on, Version::HTTP_11, size.fields + FIELDS_OURS);
    let mut fields = Fields::new(request, None);
    for (name, value) in headers {
        fields.field(name.as_str().as_bytes(), value)?;
    }
    let body = match (ends, fields.content_length()) {
        (true, _) => BodyReader::Done,
        (false, Some(length)) => BodyReader::length(length),
        (false, None) => BodyReader::chunked(),
    };
    let size = HeadSize { request_line: size.request_line + escaped.len() - path.len(), ..size };
    fields.finish_with(body, Bytes::from(target), size)
}

/// Bytes that the request line would have in HTTP/1.1; it has the same limit.
fn measure_line(method: &Method, target: &str, limits: &HeadLimits) -> Result<usize, Rejection> {
    let request_line = method.as_str().len() + target.len() + " ".len() + " HTTP/1.1".len();
    if request_line > limits.request_line_max {
        let detail = format!("request line longer than {} bytes", limits.request_line_max);
        return Err(Rejection::new(Reason::RequestLineTooLong, detail));
    }
    Ok(request_line)
}

/// The same limits as in HTTP/1.1, over the fields that the head would have there.
fn measure_fields(request_line: usize, headers: &Headers, limits: &HeadLimits) -> Result<HeadSize, Rejection> {
    let lengths = || headers.iter().map(|(name, value)| name.as_str().len() + value.len() + LINE);
    let longest_field = lengths().max().unwrap_or_default().saturating_sub(2);
    if longest_field > limits.field_max {
        return Err(too_large(format!("field longer than {} bytes", limits.field_max)));
    }
    if headers.len() > limits.headers_max {
        return Err(too_large(format!("more than {} fields", limits.headers_max)));
    }
    if request_line + lengths().sum::<usize>() + 2 * "\r\n".len() > limits.header_max {
        return Err(too_large(format!("head larger than {} bytes", limits.header_max)));
    }
    Ok(HeadSize { request_line, longest_field, fields: headers.len() })
}

/// One host: where both say it, they say the same (RFC 9113 section 8.3.1).
fn check_host(authority: Option<&[u8]>, headers: &Headers) -> Result<(), Rejection> {
    let mut hosts = headers.get_all(header::HOST);
    match (authority, hosts.next(), hosts.next()) {
        (_, _, Some(_)) => Err(bad_host("more than one Host field")),
        (None, None, _) => Err(bad_host("neither :authority nor Host")),
        (Some(authority), Some(host), _) if !host.as_bytes().eq_ignore_ascii_case(authority) => {
            Err(bad_host("Host is not :authority"))
        }
        _ => Ok(()),
    }
}
