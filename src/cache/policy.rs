//! What may be kept, for how long, and for whom it may be given again (RFC 9111 sections 3 to 4.2). Pure.

use std::time::Duration;

use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE, ETAG, LAST_MODIFIED, SET_COOKIE,
    TRANSFER_ENCODING,
};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::headers::Headers;
use crate::observe::metrics::{Bypass, NotStored};

use super::conditional;
use super::directives;
use super::freshness::{Fetched, Millis, X_ACCEL_EXPIRES, initial_age, stated_lifetime};
use super::rule::Rule;
use super::vary;

/// What of a GET or HEAD has a say.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools)] // Independent facts.
pub struct Asked<'a> {
    pub headers: &'a Headers,
    pub has_body: bool,
    /// To a WebSocket.
    pub is_upgrade: bool,
    /// Its client has shown who it is.
    pub has_client_cert: bool,
    /// Its host is written in the usual way, and nobody says another.
    pub host_is_plain: bool,
}

/// Fields by which frameworks let a GET be another method.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method-override", "x-method-override", "x-http-method"];

/// Why a request has nothing to do with what is kept, if so: what it is answered may be one user's, or is for the app alone to
/// say.
#[must_use]
pub fn bypass(rule: &Rule, asked: &Asked<'_>) -> Option<Bypass> {
    let cookies = || asked.headers.get_all(COOKIE).map(HeaderValue::as_bytes);
    if asked.has_body {
        Some(Bypass::Body)
    } else if asked.is_upgrade {
        Some(Bypass::Upgrade)
    } else if !cookies().all(|field| rule.ignores_cookies(field)) {
        Some(Bypass::Cookie)
    } else if asked.has_client_cert {
        Some(Bypass::ClientCert)
    } else if !asked.host_is_plain {
        Some(Bypass::Host)
    } else if METHOD_OVERRIDES.iter().any(|name| asked.headers.contains(*name)) {
        Some(Bypass::MethodOverride)
    } else if conditional::is_for_app(asked.headers) {
        Some(Bypass::Precondition)
    } else if !rule.config.ignore_client_directives && directives::Request::of(asked.headers).no_store {
        Some(Bypass::NoStore)
    } else {
        None
    }
}

/// How long an answer may be given, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// When it came.
    pub came: Millis,
    /// Seconds old when it came.
    pub initial_age: u64,
    /// Until when it is fresh.
    pub fresh_until: Millis,
    /// Milliseconds after that.
    pub stale_while_revalidate: u64,
    pub stale_if_error: u64,
    /// Whether a client that takes stale answers may have it.
    pub may_be_stale: bool,
    /// Never given without asking the app.
    pub no_cache: bool,
    /// Whether it may be given to a request with `Authorization` (RFC 9111 section 3.5).
    pub for_authorized: bool,
}

/// How fresh an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// For so many milliseconds more.
    Fresh(u64),
    /// For so many milliseconds already.
    Stale(u64),
}

impl Terms {
    /// `current_age` of RFC 9111 section 4.2.3, in seconds.
    #[must_use]
    pub fn age(&self, now: Millis) -> u64 {
        self.initial_age.saturating_add(now.saturating_sub(self.came) / 1000)
    }

    #[must_use]
    pub fn freshness(&self, now: Millis) -> Freshness {
        match self.fresh_until.checked_sub(now) {
            Some(left @ 1..) if !self.no_cache => Freshness::Fresh(left),
            _ => Freshness::Stale(now.saturating_sub(self.fresh_until)),
        }
    }
}

/// What of a response has a say.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools)] // Each is a fact of its own.
pub struct Answer<'a> {
    pub status: StatusCode,
    pub headers: &'a Headers,
    pub fetched: Fetched,
    /// Sent as it is made.
    pub is_stream: bool,
    /// To a request with `Authorization`.
    pub authorized: bool,
    /// To a request with `Range`.
    pub ranged: bool,
    /// Of a route whose pages have a nonce for each request.
    pub nonce: bool,
}

/// Whether it is what scripts are in.
#[must_use]
pub fn is_page(headers: &Headers) -> bool {
    const PAGES: [&[u8]; 5] =
        [b"text/html", b"application/xhtml+xml", b"image/svg+xml", b"application/xml", b"text/xml"];
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    // Without a type a browser may take it for one.
    kind.is_empty() || PAGES.iter().any(|page| kind.eq_ignore_ascii_case(page))
}

/// Judges a response to a GET, and names the request fields it depends on.
///
/// # Errors
/// Why it is not kept.
pub fn judge(rule: &Rule, answer: &Answer<'_>) -> Result<(Terms, Vec<HeaderName>), NotStored> {
    let Answer { status, headers, .. } = *answer;
    let is_part = status == StatusCode::PARTIAL_CONTENT || headers.contains(CONTENT_RANGE);
    // What answers to a range is for whoever asks for that range, unless it is the whole.
    let is_of_range = answer.ranged && status != StatusCode::OK;
    if status.as_u16() < 200 || status == StatusCode::NOT_MODIFIED || is_part || is_of_range {
        return Err(NotStored::Status);
    }
    if !headers.get_all(CONTENT_ENCODING).all(|value| vary::is_known_coding(value.as_bytes())) {
        return Err(NotStored::VaryAny);
    }
    if answer.nonce && is_page(headers) {
        return Err(NotStored::Nonce);
    }
    let says = directives::Response::of(headers);
    if headers.contains(SET_COOKIE) {
        return Err(NotStored::SetCookie);
    }
    if says.no_store {
        return Err(NotStored::NoStore);
    }
    if says.private {
        return Err(NotStored::Private);
    }
    let for_authorized = says.public || says.s_maxage.is_some() || says.must_revalidate;
    if answer.authorized && !for_authorized {
        return Err(NotStored::Authorization);
    }
    let varies = vary::fields(headers, &rule.config.key_headers)?;
    if answer.is_stream {
        return Err(NotStored::EventStream);
    }
    check_length(status, headers, rule.max_body)?;
    let terms = terms(rule, answer, &says, for_authorized)?;
    Ok((terms, varies))
}

/// Whether its end can be told from a connection that broke, and is not too far.
fn check_length(status: StatusCode, headers: &Headers, most: u64) -> Result<(), NotStored> {
    if status == StatusCode::NO_CONTENT {
        return Ok(());
    }
    match headers.get(CONTENT_LENGTH) {
        Some(length) => match length.to_str().ok().and_then(|length| length.parse::<u64>().ok()) {
            Some(length) if length <= most => Ok(()),
            Some(_) => Err(NotStored::TooLarge),
            None => Err(NotStored::LengthUnknown),
        },
        None if headers.contains(TRANSFER_ENCODING) => Ok(()),
        None => Err(NotStored::LengthUnknown),
    }
}

fn terms(
    rule: &Rule,
    answer: &Answer<'_>,
    says: &directives::Response,
    for_authorized: bool,
) -> Result<Terms, NotStored> {
    let Answer { status, headers, fetched, .. } = *answer;
    let by_rule = rule.config.ttl.as_ref().and_then(|ttl| ttl.of(status.as_u16()));
    let stated = stated_lifetime(headers, says, fetched);
    let age = initial_age(headers, fetched);
    let (fresh_until, ruled) = match (by_rule, stated) {
        // From when it came: how old it was then is between the app and whom it told so.
        (Some(time), None) => (fetched.came.saturating_add(millis(time)), true),
        (Some(time), _) if rule.config.overrides => (fetched.came.saturating_add(millis(time)), true),
        (_, Some(time)) => {
            let made = fetched.came.saturating_sub(age.saturating_mul(1000));
            (made.saturating_add(millis(time)), false)
        }
        // To be asked about each time.
        (None, None) if says.no_cache => (fetched.came, false),
        (None, None) => return Err(NotStored::NoLifetime),
    };
    if !ruled && stated == Some(Duration::ZERO) && headers.contains(X_ACCEL_EXPIRES) {
        return Err(NotStored::NoLifetime);
    }
    // `s-maxage` forbids it as `proxy-revalidate` does (RFC 9111 section 5.2.2.10).
    let may_be_stale =
        !(says.must_revalidate || says.proxy_revalidate || says.no_cache || (says.s_maxage.is_some() && !ruled));
    let window = |stated: Option<u64>, by_rule: Duration| {
        if may_be_stale { stated.map_or_else(|| millis(by_rule), |seconds| seconds.saturating_mul(1000)) } else { 0 }
    };
    let terms = Terms {
        came: fetched.came,
        initial_age: age,
        fresh_until,
        stale_while_revalidate: window(says.stale_while_revalidate, rule.config.stale_while_revalidate),
        stale_if_error: window(says.stale_if_error, rule.config.stale_if_error),
        may_be_stale,
        no_cache: says.no_cache,
        for_authorized,
    };
    let has_validator = headers.contains(ETAG) || headers.contains(LAST_MODIFIED);
    let is_of_use = (terms.fresh_until > terms.came && !terms.no_cache)
        || has_validator
        || terms.stale_while_revalidate > 0
        || terms.stale_if_error > 0;
    if is_of_use { Ok(terms) } else { Err(NotStored::NoLifetime) }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What a kept answer is to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// The answer.
    Fresh,
    /// The answer, past its time; with `refresh` a new one is fetched meanwhile.
    Stale { refresh: bool },
    /// The app is asked whether it still is.
    Validate,
    /// None.
    Nothing,
}

/// Whether an answer may be given to a request that says this (RFC 9111 sections 4 and 5.2.1).
#[must_use]
pub fn use_of(terms: &Terms, freshness: Freshness, says: &directives::Request, authorized: bool, now: Millis) -> Use {
    if authorized && !terms.for_authorized {
        return Use::Nothing;
    }
    let too_old = says.max_age.is_some_and(|most| most == 0 || terms.age(now) > most);
    if says.no_cache || (too_old && says.max_stale.is_none()) {
        return Use::Validate;
    }
    match freshness {
        Freshness::Fresh(left) if says.min_fresh.is_some_and(|least| left / 1000 < least) => Use::Validate,
        Freshness::Fresh(_) => Use::Fresh,
        // Somebody wants it fresh, and it is not.
        Freshness::Stale(_) if !terms.may_be_stale || terms.no_cache || says.min_fresh.is_some() => Use::Validate,
        Freshness::Stale(since) if since < terms.stale_while_revalidate => Use::Stale { refresh: true },
        Freshness::Stale(since) if says.max_stale.is_some_and(|most| since / 1000 <= most) => {
            Use::Stale { refresh: false }
        }
        Freshness::Stale(_) => Use::Validate,
    }
}

/// Whether an answer may be given in place of an error (RFC 5861 section 4).
#[must_use]
pub fn may_stand_in(terms: &Terms, freshness: Freshness, authorized: bool) -> bool {
    let within = match freshness {
        Freshness::Fresh(_) => terms.stale_if_error > 0,
        Freshness::Stale(since) => since < terms.stale_if_error,
    };
    within && (!authorized || terms.for_authorized)
}

/// Statuses in place of which a kept answer may be given (RFC 5861 section 4).
#[must_use]
pub fn is_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}
