//! Responses that are sent as they are made: keeping any of it would only make what a client gets old.

use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};

use crate::headers::Headers;

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Whether it is one of server-sent events.
#[must_use]
pub fn is_event_stream(headers: &Headers) -> bool {
    media_type(headers).eq_ignore_ascii_case(b"text/event-stream")
}

/// Whether it is a stream, by its media type or because the app says so.
#[must_use]
pub fn is_stream(headers: &Headers) -> bool {
    let unbuffered = headers.get(X_ACCEL_BUFFERING).map(HeaderValue::as_bytes).unwrap_or_default();
    unbuffered.trim_ascii().eq_ignore_ascii_case(b"no") || is_stream_type(media_type(headers))
}

/// The media type without its parameters; empty where there is none.
fn media_type(headers: &Headers) -> &[u8] {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

fn is_stream_type(media: &[u8]) -> bool {
    const STREAMS: [&[u8]; 5] = [
        b"text/event-stream",
        b"multipart/x-mixed-replace",
        b"application/x-ndjson",
        b"application/stream+json",
        b"application/grpc",
    ];
    // gRPC comes with a suffix that names its coding: application/grpc+proto.
    let media = media
        .split(|b| *b == b'+')
        .next()
        .filter(|base| base.eq_ignore_ascii_case(b"application/grpc"))
        .unwrap_or(media);
    STREAMS.iter().any(|stream| media.eq_ignore_ascii_case(stream))
}
