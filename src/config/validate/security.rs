//! `[security_headers.*]`, and which of them a route has.

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue, header};

use super::super::error::{Report, suggestion};
use super::super::model::{Csp, HostPattern, Hsts, Route, SecurityField, SecurityHeaders};
use super::super::place::At;
use super::super::raw;
use super::super::schema::{Table, refuse_repeats};
use super::super::value::FieldValue;
use super::super::walk::quoted;
use super::given;
use super::headers::{Way, check_allowed, field_name};

/// The sets that are there without being written.
const BASIC: &str = "basic";
const STRICT: &str = "strict";
/// No set at all.
const OFF: &str = "off";

/// What stands for the nonce in a policy.
const NONCE: &str = "{nonce}";

/// Every set by its name.
pub(super) struct Sets(Vec<(String, SecurityHeaders)>);

/// Reads them.
pub(super) fn build(table: Table<raw::SecurityHeaders>, report: &mut Report) -> Sets {
    let mut sets = Vec::new();
    for (name, set) in table.0 {
        if matches!(&*name.value, OFF | STRICT) {
            report.problem(&name.place, format!("expected a name of your own; {} is taken", quoted(&name.value)));
        }
        sets.push((name.value, headers(set.value, report)));
    }
    if !sets.iter().any(|(name, _)| name == BASIC) {
        sets.push((BASIC.to_owned(), basic()));
    }
    sets.push((STRICT.to_owned(), strict()));
    Sets(sets)
}

/// What no app minds.
fn basic() -> SecurityHeaders {
    SecurityHeaders {
        hsts: Some(hsts(Duration::from_secs(300), None, "")),
        csp: None,
        fields: vec![
            fixed("x-content-type-options", "nosniff"),
            fixed("x-frame-options", "SAMEORIGIN"),
            fixed("referrer-policy", "strict-origin-when-cross-origin"),
        ],
        remove: telling(),
        harden_cookies: false,
    }
}

/// What an app can be made to live with: nothing from elsewhere, nothing inline, in no frame.
fn strict() -> SecurityHeaders {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; \
                          connect-src 'self'; media-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; \
                          frame-ancestors 'none'";
    const FEATURES: &str = "accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), magnetometer=(), \
                            microphone=(), midi=(), payment=(), usb=()";
    SecurityHeaders {
        hsts: Some(hsts(Duration::from_hours(365 * 24), None, "")),
        csp: Some(Csp::Fixed(SecurityField {
            name: header::CONTENT_SECURITY_POLICY,
            value: HeaderValue::from_static(POLICY),
            overrides: false,
        })),
        fields: vec![
            fixed("x-content-type-options", "nosniff"),
            fixed("x-frame-options", "DENY"),
            fixed("referrer-policy", "strict-origin-when-cross-origin"),
            fixed("cross-origin-opener-policy", "same-origin"),
            fixed("cross-origin-embedder-policy", "require-corp"),
            fixed("cross-origin-resource-policy", "same-origin"),
            fixed("permissions-policy", FEATURES),
        ],
        remove: telling(),
        harden_cookies: true,
    }
}

fn fixed(name: &'static str, value: &'static str) -> SecurityField {
    let (name, value) = (HeaderName::from_static(name), HeaderValue::from_static(value));
    SecurityField { name, value, overrides: false }
}

fn telling() -> Vec<HeaderName> {
    vec![header::SERVER, HeaderName::from_static("x-powered-by")]
}

fn hsts(max_age: Duration, ramp_from: Option<u64>, directives: &str) -> Hsts {
    let max_age = max_age.as_secs();
    let value = HeaderValue::try_from(format!("max-age={max_age}{directives}"));
    let value = value.unwrap_or_else(|_| unreachable!("digits and names"));
    Hsts { max_age, ramp_from, directives: directives.into(), value, overrides: false }
}

fn headers(raw: raw::SecurityHeaders, report: &mut Report) -> SecurityHeaders {
    let overrides = given(raw.r#override);
    refuse_repeats(report, &overrides, Clone::clone);
    let is_overridden = |name: &HeaderName| overrides.iter().any(|it| it.value.0 == *name);
    let mut fields: Vec<SecurityField> = Vec::new();
    for (name, value) in given(raw.fields).0 {
        let Some(name) = field_name(&name, report) else { continue };
        check_allowed(&name.value, &name.place, Way::Response, report);
        let own_key = [
            header::STRICT_TRANSPORT_SECURITY,
            header::CONTENT_SECURITY_POLICY,
            header::CONTENT_SECURITY_POLICY_REPORT_ONLY,
        ];
        if own_key.contains(&name.value) {
            report.problem(&name.place, format!("`{}` has a key of its own: `hsts` or `csp`", name.value));
        }
        if fields.iter().any(|earlier| earlier.name == name.value) {
            report.problem(&name.place, format!("`{}` is set twice; names are the same in either case", name.value));
        }
        let overrides = is_overridden(&name.value);
        fields.push(SecurityField { name: name.value, value: value.value.0, overrides });
    }
    let csp = csp(given(raw.csp), is_overridden, report);
    let raw_hsts = given(raw.hsts);
    let mut directives = String::new();
    if given(raw_hsts.include_subdomains) {
        directives.push_str("; includeSubDomains");
    }
    if given(raw_hsts.preload) {
        directives.push_str("; preload");
    }
    let ramp_from = raw_hsts.ramp_from.map(|date| date.value.0);
    let mut hsts = hsts(given(raw_hsts.max_age), ramp_from, &directives);
    hsts.overrides = is_overridden(&header::STRICT_TRANSPORT_SECURITY);
    for name in &overrides {
        let is_set = name.value.0 == header::STRICT_TRANSPORT_SECURITY
            || csp.as_ref().is_some_and(|csp| *csp.name() == name.value.0)
            || fields.iter().any(|field| field.name == name.value.0);
        if !is_set {
            report.problem(&name.place, format!("`{}` is not set here; expected a field of this set", name.value.0));
        }
    }
    let remove = given(raw.remove);
    refuse_repeats(report, &remove, Clone::clone);
    for name in &remove {
        check_allowed(&name.value.0, &name.place, Way::Response, report);
    }
    SecurityHeaders {
        hsts: Some(hsts),
        csp,
        fields,
        remove: remove.into_iter().map(|name| name.value.0).collect(),
        harden_cookies: raw.harden_cookies.is_some_and(|it| it.value),
    }
}

fn csp(raw: raw::Csp, is_overridden: impl Fn(&HeaderName) -> bool, report: &mut Report) -> Option<Csp> {
    let name = if given(raw.report_only) {
        header::CONTENT_SECURITY_POLICY_REPORT_ONLY
    } else {
        header::CONTENT_SECURITY_POLICY
    };
    let policy = raw.policy.filter(|policy| !policy.value.0.is_empty());
    let nonce = raw.nonce.as_ref().filter(|nonce| nonce.value);
    let text = |policy: &At<FieldValue>| policy.value.0.to_str().unwrap_or_default().to_owned();
    let has_nonce = policy.as_ref().is_some_and(|policy| text(policy).contains(NONCE));
    match (nonce, &policy) {
        (Some(nonce), _) if !has_nonce => {
            report.problem(
                &nonce.place,
                "no part of the policy has it; expected `{nonce}` in `policy`, as in 'nonce-{nonce}'",
            );
        }
        (None, Some(policy)) if has_nonce => {
            report.problem(&policy.place, "`{nonce}` stands for nothing; expected `nonce = true` beside it");
        }
        _ => {}
    }
    let policy = policy?;
    let overrides = is_overridden(&name);
    if nonce.is_none() {
        return Some(Csp::Fixed(SecurityField { name, value: policy.value.0, overrides }));
    }
    let parts = text(&policy).split(NONCE).map(Into::into).collect();
    Some(Csp::Nonce { name, parts, overrides })
}

/// Takes `Strict-Transport-Security` off routes whose host has a longer one elsewhere, and off answers without a route: browsers keep what
/// they were told last, for the whole host (RFC 6797 section 8.1), so that one such answer would shorten it.
pub(super) fn keep_longest(routes: &mut [Route], without_route: &mut SecurityHeaders) {
    let time = |set: &SecurityHeaders| set.hsts.as_ref().map_or(0, |hsts| hsts.max_age);
    let longest = routes.iter().map(|route| time(&route.security)).max().unwrap_or(0);
    let mut any_host = 0;
    let mut by_host: HashMap<HostPattern, u64> = HashMap::new();
    for route in routes.iter() {
        if route.hosts.is_empty() {
            any_host = any_host.max(time(&route.security));
        }
        for host in &route.hosts {
            let known = by_host.entry(host.clone()).or_default();
            *known = (*known).max(time(&route.security));
        }
    }
    let suffixes: Vec<(HostPattern, u64)> = by_host
        .iter()
        .filter(|(host, _)| matches!(host, HostPattern::Suffix(_)))
        .map(|(host, time)| (host.clone(), *time))
        .collect();
    let of_host = |host: &HostPattern| {
        let own = by_host.get(host).copied().unwrap_or(0);
        let around = suffixes.iter().filter(|(suffix, _)| suffix.covers(host)).map(|(_, time)| *time);
        let is_suffix = matches!(host, HostPattern::Suffix(_));
        let below = by_host.iter().filter(|(other, _)| is_suffix && host.covers(other)).map(|(_, time)| *time);
        around.chain(below).chain([own, any_host]).max().unwrap_or(0)
    };
    for route in routes.iter_mut() {
        let elsewhere =
            if route.hosts.is_empty() { longest } else { route.hosts.iter().map(of_host).max().unwrap_or(0) };
        route.security.hsts = route.security.hsts.take().filter(|hsts| hsts.max_age >= elsewhere);
    }
    without_route.hsts = without_route.hsts.take().filter(|hsts| hsts.max_age >= longest);
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
        let near = suggestion(&name.value, self.0.iter().map(|(name, _)| &**name));
        let expected = "expected a name under [security_headers], or \"off\"";
        report.problem(&name.place, format!("{expected}; found {}{near}", quoted(&name.value)));
        SecurityHeaders::default()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    #[test]
    fn the_longest_time_of_a_host_is_the_only_one() {
        let hosts = [
            ("[]", "strict"),
            ("['a.test']", "basic"),
            ("['a.test']", "strict"),
            ("['*.test']", "basic"),
            ("['b.example']", "basic"),
        ];
        let times = |routes: &[(&str, &str)]| {
            let routes: Vec<String> = routes
                .iter()
                .enumerate()
                .map(|(number, (host, set))| {
                    format!("{{ host = {host}, path = '/{number}', respond.body = '', security_headers = '{set}' }}")
                })
                .collect();
            let (config, _) = parse(&format!("routes = [{}]", routes.join(", ")), None).unwrap();
            let time = |set: &super::SecurityHeaders| set.hsts.as_ref().map(|hsts| hsts.max_age);
            (config.routes.iter().map(|route| time(&route.security)).collect::<Vec<_>>(), time(&config.security))
        };
        let (year, short) = (Some(31_536_000), Some(300));
        assert_eq!(times(&hosts), (vec![year, None, year, None, None], None));
        // Nobody tells clients of another host anything longer.
        assert_eq!(times(&hosts[1..]), (vec![None, year, None, short], None));
        assert_eq!(times(&hosts[3..]), (vec![short, short], short));
        assert_eq!(times(&[("['a.test']", "off"), ("['a.test']", "basic")]), (vec![None, short], short));
    }
}
