//! `[tracing]`.

use super::super::model::Secret;
use super::super::place::At;
use super::super::schema::{Described, Inside, KeyInfo, Presence, SectionInfo, Table, section};
use super::super::value::{CollectorUrl, Share};
use super::super::walk::{Node, Read, Walk};

section! {
    /// Which trace a request belongs to (W3C Trace Context): what the gateway and the apps say of one request can be put together by it.
    /// `traceparent`, `tracestate` and `baggage` of a client go on to the app; each line of the access log has the trace's id.
    Tracing {
        /// Whether a request without a valid `traceparent` gets one, so that its trace begins here.
        start: bool = "true",
        /// How many of the traces that begin here, or that clients bring who are not in `server.trusted_proxies`, say that they are
        /// to be recorded; apps whose sampler follows its parent do as it says.
        sample: Share = r#""100%""#,
        /// A collector that takes OTLP over HTTP: the traces that are recorded are sent there, with the time in the queue and that in the
        /// app. A URL without a path gets `/v1/traces`.
        ///
        /// Example: `"http://127.0.0.1:4318"`
        otlp: CollectorUrl,
        /// Fields of the requests to it.
        ///
        /// Example: `{ Authorization = "file:/run/secrets/collector" }`
        headers: Table<Secret> = "{}",
        /// What the gateway is called there.
        service_name: String = r#""propylon""#,
    }
}
