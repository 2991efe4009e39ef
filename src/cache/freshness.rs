//! How old an answer is, and how long it may be given (RFC 9111 section 4.2). Pure: times come in.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{AGE, DATE, EXPIRES};
use http::{HeaderName, HeaderValue};

use super::directives::{Response, seconds};
use crate::headers::Headers;

/// Milliseconds since 1970.
pub type Millis = u64;

/// What nginx takes for a lifetime, and apps written for it say: seconds; 0 is none, `@` is a moment.
pub const X_ACCEL_EXPIRES: HeaderName = HeaderName::from_static("x-accel-expires");

/// The moment in [`Millis`].
#[must_use]
pub fn millis(time: SystemTime) -> Millis {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// When an answer was asked for, and when it came.
#[derive(Debug, Clone, Copy)]
pub struct Fetched {
    pub asked: Millis,
    pub came: Millis,
}

/// The age an answer had when it came, in seconds: `corrected_initial_age` of section 4.2.3.
#[must_use]
pub fn initial_age(headers: &Headers, fetched: Fetched) -> u64 {
    let came = fetched.came / 1000;
    let apparent = date(headers, &DATE).map_or(0, |date| came.saturating_sub(date));
    let delay = fetched.came.saturating_sub(fetched.asked) / 1000;
    let corrected = stated_age(headers).saturating_add(delay);
    apparent.max(corrected)
}

/// What `Age` says, and 0 where it says nothing that can be read. Of several the first counts (section 5.1).
fn stated_age(headers: &Headers) -> u64 {
    let line = headers.get(AGE).map(HeaderValue::as_bytes).unwrap_or_default();
    line.split(|byte| *byte == b',').next().and_then(|first| seconds(first.trim_ascii())).unwrap_or(0)
}

/// How long an answer says it is fresh from the moment it was made (section 4.2.1); none where it says nothing.
#[must_use]
pub fn stated_lifetime(headers: &Headers, says: &Response, fetched: Fetched) -> Option<Duration> {
    if let Some(lifetime) = accel_expires(headers, fetched) {
        return Some(lifetime);
    }
    if let Some(age) = says.s_maxage.or(says.max_age) {
        return Some(Duration::from_secs(age));
    }
    if !headers.contains(EXPIRES) || Response::targeted(headers).is_some() {
        return None;
    }
    // A date that is none lies in the past (section 5.3), and so do dates that contradict each other.
    let mut dates = headers.get_all(EXPIRES).map(parse_date);
    let expires = dates.next().flatten().filter(|first| dates.all(|other| other == Some(*first)));
    let made = date(headers, &DATE).unwrap_or(fetched.came / 1000);
    Some(Duration::from_secs(expires.map_or(0, |expires| expires.saturating_sub(made))))
}

fn accel_expires(headers: &Headers, fetched: Fetched) -> Option<Duration> {
    let value = headers.get(X_ACCEL_EXPIRES)?.as_bytes().trim_ascii();
    match value.strip_prefix(b"@") {
        Some(moment) => {
            seconds_since_1970(moment).map(|at| Duration::from_secs(at.saturating_sub(fetched.came / 1000)))
        }
        None => seconds(value).map(Duration::from_secs),
    }
}

fn seconds_since_1970(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A date in seconds since 1970, in any of the three forms of RFC 9110 section 5.6.7.
#[must_use]
pub fn date(headers: &Headers, name: &HeaderName) -> Option<u64> {
    parse_date(headers.get(name)?)
}

fn parse_date(value: &HeaderValue) -> Option<u64> {
    let time = httpdate::parse_http_date(value.to_str().ok()?).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const CAME: u64 = 1_700_000_000;
    const AT: Fetched = Fetched { asked: CAME * 1000, came: CAME * 1000 };

    fn of(fields: &[(&'static str, String)]) -> Headers {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn at(seconds: u64) -> String {
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    fn lifetime(fields: &[(&'static str, String)]) -> Option<u64> {
        let headers = of(fields);
        stated_lifetime(&headers, &Response::of(&headers), AT).map(|time| time.as_secs())
    }

    #[test]
    fn what_is_most_for_a_shared_cache_goes_first() {
        let all =
            [("cache-control", "max-age=20, s-maxage=10".to_owned()), ("expires", at(CAME + 30)), ("date", at(CAME))];
        assert_eq!(lifetime(&all), Some(10));
        assert_eq!(lifetime(&[("cache-control", "max-age=20".to_owned()), ("expires", at(CAME + 30))]), Some(20));
        assert_eq!(lifetime(&[("expires", at(CAME + 30)), ("date", at(CAME))]), Some(30));
        // Without a date it was made when it came.
        assert_eq!(lifetime(&[("expires", at(CAME + 30))]), Some(30));
        assert_eq!(lifetime(&[("date", at(CAME))]), None);
    }

    #[test]
    fn a_date_that_is_none_lies_in_the_past() {
        for bad in ["0", "-1", "", "soon", "Tue, 99 Foo 2026 00:00:00 GMT"] {
            assert_eq!(lifetime(&[("expires", bad.to_owned())]), Some(0), "{bad}");
        }
        assert_eq!(lifetime(&[("expires", at(CAME + 30)), ("expires", at(CAME + 60))]), Some(0));
        assert_eq!(lifetime(&[("expires", at(CAME - 30)), ("date", at(CAME))]), Some(0));
    }

    #[test]
    fn what_apps_behind_nginx_say() {
        assert_eq!(
            lifetime(&[("x-accel-expires", "0".to_owned()), ("cache-control", "max-age=20".to_owned())]),
            Some(0)
        );
        assert_eq!(lifetime(&[("x-accel-expires", format!("@{}", CAME + 7))]), Some(7));
        assert_eq!(lifetime(&[("x-accel-expires", "nonsense".to_owned())]), None);
    }

    #[test]
    fn the_age_is_the_larger_of_what_was_said_and_what_was_seen() {
        let age = |fields: &[(&'static str, String)]| initial_age(&of(fields), AT);
        assert_eq!(age(&[("age", "10".to_owned()), ("date", at(CAME - 4))]), 10);
        assert_eq!(age(&[("age", "3".to_owned()), ("date", at(CAME - 4))]), 4);
        // A clock that is ahead makes nothing younger than new.
        assert_eq!(age(&[("date", at(CAME + 100))]), 0);
        for bad in ["-1", "x", "1.5", ""] {
            assert_eq!(age(&[("age", bad.to_owned())]), 0, "{bad}");
        }
        assert_eq!(age(&[("age", "7, 9".to_owned())]), 7);
        let slow = Fetched { asked: (CAME - 5) * 1000, came: CAME * 1000 };
        assert_eq!(initial_age(&of(&[("age", "10".to_owned())]), slow), 15);
    }
}
