//! Security fields: on every answer, set where the app has not set them, and never twice.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use http::{HeaderName, HeaderValue, StatusCode, header};

use crate::config::model::{Csp, Hsts, SecurityField, SecurityHeaders};
use crate::message::ResponseHead;

/// Tells the app the nonce of its page.
pub const X_CSP_NONCE: HeaderName = HeaderName::from_static("x-csp-nonce");

/// A nonce: 128 bits that nobody can guess, in letters and digits (W3C Content Security Policy Level 3, section 7.1).
#[must_use]
pub fn nonce() -> Option<HeaderValue> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).ok()?;
    HeaderValue::try_from(hex::encode(bytes)).ok()
}

/// Adds a set to an answer. A 304 of an app is short of fields that its answer had: what is added to it would take their place in what
/// the client has kept (RFC 9111 section 3.2), so with `is_short` it gets only what goes before the app's anyway.
pub fn add(
    response: &mut ResponseHead,
    set: &SecurityHeaders,
    https: bool,
    says_hsts: bool,
    nonce: Option<&HeaderValue>,
    is_short: bool,
) {
    for name in &set.remove {
        response.headers.remove(name);
    }
    // Before ours is there, unless that takes its place.
    let stays = set.csp.as_ref().is_none_or(|csp| !csp.overrides() || *csp.name() != header::CONTENT_SECURITY_POLICY);
    let app_says_who_frames = stays && says_who_frames(response);
    if let Some(hsts) = set.hsts.as_ref().filter(|_| says_hsts) {
        add_hsts(response, hsts);
    }
    match &set.csp {
        Some(Csp::Fixed(field)) if field.overrides || !is_short => add_field(response, field),
        // What the client has kept has the nonce that it came with.
        Some(Csp::Nonce { name, parts, overrides })
            if response.status != StatusCode::NOT_MODIFIED && (*overrides || !response.headers.contains(name)) =>
        {
            // An answer of ours has no script that would need it, and gets one that nobody knows.
            let nonce = nonce.cloned().or_else(self::nonce);
            let nonce = nonce.as_ref().and_then(|nonce| nonce.to_str().ok()).unwrap_or_default();
            if let Ok(policy) = HeaderValue::try_from(parts.join(nonce)) {
                response.headers.insert(name.clone(), policy);
            }
        }
        Some(_) | None => {}
    }
    for field in set.fields.iter().filter(|field| field.overrides || !is_short) {
        if field.name == header::X_FRAME_OPTIONS && app_says_who_frames && !field.overrides {
            continue;
        }
        add_field(response, field);
    }
    if set.harden_cookies {
        harden_cookies(response, https);
    }
}

fn add_field(response: &mut ResponseHead, field: &SecurityField) {
    if field.overrides || !response.headers.contains(&field.name) {
        response.headers.insert(field.name.clone(), field.value.clone());
    }
}

fn add_hsts(response: &mut ResponseHead, hsts: &Hsts) {
    if !hsts.overrides && response.headers.contains(header::STRICT_TRANSPORT_SECURITY) {
        return;
    }
    if hsts.ramp_from.is_some() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if let Ok(value) = HeaderValue::try_from(format!("max-age={}{}", hsts.max_age_at(now), hsts.directives)) {
            response.headers.insert(header::STRICT_TRANSPORT_SECURITY, value);
        }
        return;
    }
    response.headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts.value.clone());
}

/// Whether a policy that is in force says who may frame the page: it goes before X-Frame-Options where both are known.
fn says_who_frames(response: &ResponseHead) -> bool {
    let policies = response.headers.get_all(header::CONTENT_SECURITY_POLICY).map(HeaderValue::as_bytes);
    let mut directives = policies.flat_map(|policy| policy.split(|byte| matches!(byte, b';' | b',')));
    directives.any(|directive| {
        let name = directive.trim_ascii().split(u8::is_ascii_whitespace).next().unwrap_or_default();
        name.eq_ignore_ascii_case(b"frame-ancestors")
    })
}

/// Adds what a cookie lacks (RFC 6265bis section 4.1.2).
fn harden_cookies(response: &mut ResponseHead, https: bool) {
    if !response.headers.contains(header::SET_COOKIE) {
        return;
    }
    let cookies: Vec<HeaderValue> = response.headers.get_all(header::SET_COOKIE).cloned().collect();
    let hardened: Vec<HeaderValue> = cookies.iter().map(|cookie| hardened(cookie, https)).collect();
    if hardened != cookies {
        response.headers.remove(header::SET_COOKIE);
        for cookie in hardened {
            response.headers.append(header::SET_COOKIE, cookie);
        }
    }
}

fn hardened(cookie: &HeaderValue, https: bool) -> HeaderValue {
    let says = |wanted: &[u8]| {
        cookie.as_bytes().split(|byte| *byte == b';').skip(1).any(|attribute| {
            let name = attribute.split(|byte| *byte == b'=').next().unwrap_or_default();
            name.trim_ascii().eq_ignore_ascii_case(wanted)
        })
    };
    let mut value = cookie.as_bytes().to_vec();
    if https && !says(b"secure") {
        value.extend_from_slice(b"; Secure");
    }
    if !says(b"samesite") {
        value.extend_from_slice(b"; SameSite=Lax");
    }
    HeaderValue::from_bytes(&value).unwrap_or_else(|_| cookie.clone())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn cookies_get_what_they_lack() {
        for (cookie, https, expected) in [
            ("a=b", true, "a=b; Secure; SameSite=Lax"),
            ("a=b", false, "a=b; SameSite=Lax"),
            ("a=b; Path=/; secure", true, "a=b; Path=/; secure; SameSite=Lax"),
            ("a=b; SameSite=None", true, "a=b; SameSite=None; Secure"),
            ("a=b;samesite = strict ; Secure", true, "a=b;samesite = strict ; Secure"),
            ("secure=samesite", true, "secure=samesite; Secure; SameSite=Lax"),
        ] {
            assert_eq!(hardened(&HeaderValue::from_static(cookie), https), expected, "{cookie}");
        }
    }

    #[test]
    fn who_may_frame_a_page() {
        for (policy, expected) in [
            ("default-src 'self'; Frame-Ancestors 'none'", true),
            ("frame-ancestors\thttps://a.test", true),
            ("default-src 'self', frame-ancestors 'self'", true),
            ("default-src frame-ancestors", false),
            ("frame-ancestors-not 'none'", false),
        ] {
            let mut response = ResponseHead::new(StatusCode::OK, 1);
            response.headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
            assert_eq!(says_who_frames(&response), expected, "{policy}");
        }
    }

    #[test]
    fn nonces_are_long_and_differ() {
        let (one, other) = (nonce().unwrap(), nonce().unwrap());
        assert!(one != other && one.len() == 32);
    }
}
