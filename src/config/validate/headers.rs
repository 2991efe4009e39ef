//! `request_headers` and `response_headers`: fields that only the gateway itself may touch are refused.

use http::HeaderName;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};

use super::super::error::Report;
use super::super::model::HeaderEdits;
use super::super::place::{At, Place};
use super::super::raw;
use super::given;

/// Which way the edited message goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Request,
    Response,
}

/// Builds the edits of one message.
pub(super) fn build(raw: raw::HeaderEdits, way: Way, report: &mut Report) -> HeaderEdits {
    let mut edits = HeaderEdits::default();
    for (name, value) in given(raw.set).0 {
        let Some(name) = field_name(&name, report) else { continue };
        check_allowed(&name.value, &name.place, way, report);
        if edits.set.iter().any(|(earlier, _)| *earlier == name.value) {
            report.problem(&name.place, format!("`{}` is set twice; names are the same in either case", name.value));
        }
        edits.set.push((name.value, value.value.0));
    }
    for name in given(raw.remove) {
        let (place, name) = (name.place, name.value.0);
        check_allowed(&name, &place, way, report);
        if edits.remove.contains(&name) {
            report.problem(&place, format!("`{name}` is removed twice"));
        }
        if edits.set.iter().any(|(set, _)| *set == name) {
            report.problem(&place, format!("`{name}` is both set and removed; setting it replaces what is there"));
        }
        edits.remove.push(name);
    }
    edits
}

pub(super) fn field_name(name: &At<String>, report: &mut Report) -> Option<At<HeaderName>> {
    let parsed = HeaderName::from_bytes(name.value.as_bytes()).ok();
    if parsed.is_none() {
        report.problem(&name.place, "the name of a field has letters, digits and some of !#$%&'*+-.^_`|~ only");
    }
    parsed.map(|parsed| At::new(parsed, name.place.clone()))
}

/// RFC 9110 section 7.6.1: fields of one connection are not passed on; and framing is never left to the configuration.
pub(super) fn check_allowed(name: &HeaderName, place: &Place, way: Way, report: &mut Report) {
    let hop_by_hop = [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection");
    if hop_by_hop {
        report.problem(place, format!("`{name}` belongs to one connection and is the gateway's own"));
    } else if *name == CONTENT_LENGTH {
        report.problem(place, format!("`{name}` frames the message and is the gateway's own"));
    } else if *name == HOST && way == Way::Request {
        report.problem(place, "`host` is passed on as the client sent it: routes, redirects and the app rely on it");
    }
}
