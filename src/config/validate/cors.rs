//! `cors` of a route.

use super::super::error::Report;
use super::super::model::{Cors, OriginPattern};
use super::super::place::At;
use super::super::raw;
use super::super::schema::refuse_repeats;
use super::super::value::CorsField;
use super::given;

/// Whether it means pages that nobody can have had in mind.
fn is_any_page(origin: &OriginPattern) -> bool {
    [&b"https://evil.invalid"[..], b"https://evil.invalid:4711"].iter().any(|nobody| origin.matches(nobody))
}

pub(super) fn build(raw: At<raw::Cors>, report: &mut Report) -> Cors {
    let place = raw.place;
    let raw = raw.value;
    let is_written = raw.origins.is_some();
    let origins = given(raw.origins);
    refuse_repeats(report, &origins, ToString::to_string);
    let (methods, headers, expose) = (given(raw.methods), given(raw.headers), given(raw.expose));
    refuse_repeats(report, &methods, Clone::clone);
    refuse_repeats(report, &headers, Clone::clone);
    refuse_repeats(report, &expose, Clone::clone);
    let credentials = raw.credentials.as_ref().is_some_and(|it| it.value);
    if is_written && origins.is_empty() {
        report.problem(&place, "allows nobody; expected an origin in `origins`, or no `cors`");
    }
    if let Some(any) = origins.iter().find(|origin| credentials && is_any_page(&origin.value)) {
        let message = "any page could act for whoever visits it; expected origins by name, or `credentials = false`";
        report.problem(&any.place, message);
    }
    let is_any = headers.iter().any(|header| header.value == CorsField::Any);
    let named = headers.into_iter().filter_map(|header| match header.value {
        CorsField::Named(name) => Some(name),
        CorsField::Any => None,
    });
    let named: Vec<_> = named.collect();
    Cors {
        origins: origins.into_iter().map(|origin| origin.value).collect(),
        methods: methods.into_iter().map(|method| method.value).collect(),
        headers: (!is_any).then_some(named),
        expose: expose.into_iter().map(|name| name.value.0).collect(),
        credentials,
        max_age: given(raw.max_age),
    }
}
