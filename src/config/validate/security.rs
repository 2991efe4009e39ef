//! `[security_headers.*]`, and which of them a route has.

use http::HeaderValue;

use super::super::error::{Report, suggestion};
use super::super::model::SecurityHeaders;
use super::super::place::At;
use super::super::raw;
use super::super::schema::Table;
use super::super::walk::quoted;
use super::given;

/// The set that is there without being written.
const BASIC: &str = "basic";
/// No set at all.
const OFF: &str = "off";

/// Every set by its name.
pub(super) struct Sets(Vec<(String, SecurityHeaders)>);

/// Reads them.
pub(super) fn build(table: Table<raw::SecurityHeaders>, report: &mut Report) -> Sets {
    let mut sets = Vec::new();
    for (name, set) in table.0 {
        if matches!(&*name.value, OFF | "strict") {
            report.problem(&name.place, format!("expected a name of your own; {} is taken", quoted(&name.value)));
        }
        sets.push((name.value, headers(set.value)));
    }
    if !sets.iter().any(|(name, _)| name == BASIC) {
        sets.push((BASIC.to_owned(), SecurityHeaders { hsts: Some(HeaderValue::from_static("max-age=300")) }));
    }
    Sets(sets)
}

fn headers(raw: raw::SecurityHeaders) -> SecurityHeaders {
    let hsts = given(raw.hsts);
    let mut value = format!("max-age={}", given(hsts.max_age).as_secs());
    if given(hsts.include_subdomains) {
        value.push_str("; includeSubDomains");
    }
    if given(hsts.preload) {
        value.push_str("; preload");
    }
    SecurityHeaders { hsts: HeaderValue::from_str(&value).ok() }
}

impl Sets {
    /// That of answers without a route.
    pub fn basic(&self) -> SecurityHeaders {
        self.find(BASIC).cloned().unwrap_or_default()
    }

    fn find(&self, name: &str) -> Option<&SecurityHeaders> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, set)| set)
    }

    /// The one a route names.
    pub fn of(&self, name: Option<&At<String>>, report: &mut Report) -> SecurityHeaders {
        let Some(name) = name else { return SecurityHeaders::default() };
        if name.value == OFF {
            return SecurityHeaders::default();
        }
        if let Some(set) = self.find(&name.value) {
            return set.clone();
        }
        if name.value == "strict" {
            report.problem(&name.place, "`strict` is not supported yet");
        } else {
            let near = suggestion(&name.value, self.0.iter().map(|(name, _)| &**name));
            let expected = "expected a name under [security_headers], or \"off\"";
            report.problem(&name.place, format!("{expected}; found {}{near}", quoted(&name.value)));
        }
        SecurityHeaders::default()
    }
}
