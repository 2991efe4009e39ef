//! Which request fields an answer depends on (RFC 9111 section 4.1), and how their values are compared.

use http::header::{ACCEPT_ENCODING, VARY};
use http::{HeaderName, HeaderValue};

use crate::headers::Headers;
use crate::observe::metrics::NotStored;

/// Fields more than this are no answer worth keeping.
const MOST: usize = 12;

/// What the gateway says itself and is another for each client or request.
const OURS: [&str; 5] = ["x-forwarded-for", "x-real-ip", "x-request-id", "x-request-start", "forwarded"];
/// What it says itself and is in the key already.
const IN_KEY: [&str; 4] = ["host", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port"];

/// The fields that `Vary` names, sorted, each once; `always` are those of the rule.
///
/// # Errors
/// The answer is for one request alone, or one user.
pub fn fields(headers: &Headers, always: &[HeaderName]) -> Result<Vec<HeaderName>, NotStored> {
    let mut names = always.to_vec();
    let items = headers.get_all(VARY).flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    for item in items.map(<[u8]>::trim_ascii).filter(|item| !item.is_empty()) {
        // `*` is among what is no name, and means the same.
        let name = HeaderName::from_bytes(item).map_err(|_| NotStored::VaryAny)?;
        match name.as_str() {
            "*" => return Err(NotStored::VaryAny),
            "cookie" | "authorization" => return Err(NotStored::VaryUser),
            ours if OURS.contains(&ours) => return Err(NotStored::VaryAny),
            known if IN_KEY.contains(&known) => {}
            _ => names.push(name),
        }
    }
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    if names.len() > MOST { Err(NotStored::VaryAny) } else { Ok(names) }
}

/// Writes what a request says in `names`, so that requests that say the same write the same.
pub fn write(names: &[HeaderName], headers: &Headers, out: &mut Vec<u8>) {
    for name in names {
        out.push(b'\n');
        // Absent is not the same as empty (RFC 9111 section 4.1).
        if headers.contains(name) {
            out.push(b'=');
            if *name == ACCEPT_ENCODING { write_encodings(headers, out) } else { write_values(name, headers, out) }
        }
    }
}

fn write_values(name: &HeaderName, headers: &Headers, out: &mut Vec<u8>) {
    for (index, value) in headers.get_all(name).map(HeaderValue::as_bytes).enumerate() {
        out.extend_from_slice(if index > 0 { b"," } else { b"" });
        // White space beside a comma says nothing.
        let mut items = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        if let Some(first) = items.next() {
            out.extend_from_slice(first);
        }
        for item in items {
            out.push(b',');
            out.extend_from_slice(item);
        }
    }
}

/// Codings that servers of apps know; what else a client takes makes no other answer.
const CODINGS: [&[u8]; 4] = [b"br", b"deflate", b"gzip", b"zstd"];

/// Whether a `Content-Encoding` is one of those that are told apart.
#[must_use]
pub fn is_known_coding(value: &[u8]) -> bool {
    let mut codings = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    codings.all(|coding| {
        [b"identity".as_slice(), b"x-gzip", b""]
            .into_iter()
            .chain(CODINGS)
            .any(|known| coding.eq_ignore_ascii_case(known))
    })
}

/// The codings a client takes, in one order: browsers differ in spaces, order and weights, apps only ask what is there.
fn write_encodings(headers: &Headers, out: &mut Vec<u8>) {
    let mut taken = [None; CODINGS.len()];
    let mut any = None;
    let mut identity_refused = false;
    let lines = headers.get_all(ACCEPT_ENCODING).map(HeaderValue::as_bytes);
    for item in lines.flat_map(|line| line.split(|byte| *byte == b',')) {
        let mut parts = item.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let coding = parts.next().unwrap_or_default();
        let is_taken = !parts.any(is_zero);
        if coding == b"*" {
            any = Some(is_taken);
        }
        identity_refused |= coding.eq_ignore_ascii_case(b"identity") && !is_taken;
        for (known, place) in CODINGS.iter().zip(&mut taken) {
            let is_it =
                coding.eq_ignore_ascii_case(known) || (*known == b"gzip" && coding.eq_ignore_ascii_case(b"x-gzip"));
            if is_it {
                *place = Some(is_taken);
            }
        }
    }
    for (known, is_taken) in CODINGS.iter().zip(taken) {
        if is_taken.or(any) == Some(true) {
            out.extend_from_slice(known);
            out.push(b',');
        }
    }
    if identity_refused || any == Some(false) {
        out.push(b'!');
    }
}

/// Whether a parameter is a weight of nothing (RFC 9110 section 12.4.2).
fn is_zero(parameter: &[u8]) -> bool {
    let weight = parameter.strip_prefix(b"q").or_else(|| parameter.strip_prefix(b"Q")).map(<[u8]>::trim_ascii);
    let weight = weight.and_then(|rest| rest.strip_prefix(b"=")).map(<[u8]>::trim_ascii);
    weight.is_some_and(|weight| matches!(weight, b"0" | b"0." | b"0.0" | b"0.00" | b"0.000"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(fields: &[(&'static str, &str)]) -> Headers {
        let mut headers = Headers::default();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn written(names: &[&'static str], fields: &[(&'static str, &str)]) -> String {
        let names: Vec<HeaderName> = names.iter().map(|name| HeaderName::from_static(name)).collect();
        let mut out = Vec::new();
        write(&names, &of(fields), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn names_are_sorted_and_said_once() {
        let names =
            fields(&of(&[("vary", "Accept-Language, accept-encoding"), ("vary", " ,Accept-Language,host")]), &[]);
        assert_eq!(names.unwrap(), ["accept-encoding", "accept-language"]);
        assert_eq!(fields(&of(&[]), &[ACCEPT_ENCODING]).unwrap(), [ACCEPT_ENCODING]);
    }

    #[test]
    fn what_is_for_one_user_is_refused() {
        for (vary, expected) in [
            ("*", NotStored::VaryAny),
            ("Accept, *", NotStored::VaryAny),
            ("in valid", NotStored::VaryAny),
            ("Cookie", NotStored::VaryUser),
            ("accept-language, COOKIE", NotStored::VaryUser),
            ("Authorization", NotStored::VaryUser),
            ("X-Forwarded-For", NotStored::VaryAny),
            ("a,b,c,d,e,f,g,h,i,j,k,l,m", NotStored::VaryAny),
        ] {
            assert_eq!(fields(&of(&[("vary", vary)]), &[]), Err(expected), "{vary}");
        }
    }

    #[test]
    fn encodings_are_compared_by_what_they_allow() {
        let of = |value: &str| written(&["accept-encoding"], &[("accept-encoding", value)]);
        assert_eq!(of("gzip, deflate, br"), of("br;q=1.0,gzip;q=0.8 , deflate, pack200"));
        assert_eq!(of("gzip;q=0"), of("identity"));
        assert_ne!(of("gzip;q=0, *"), of("*"));
        assert_eq!(of("*"), of("gzip, br, zstd, deflate"));
        assert_ne!(of("identity;q=0"), of(""));
        assert_eq!(of("x-gzip"), of("GZIP"));
        assert_ne!(written(&["accept-encoding"], &[]), of(""));
    }

    #[test]
    fn other_values_are_compared_as_they_are_but_for_space() {
        let of = |value: &str| written(&["accept-language"], &[("accept-language", value)]);
        assert_eq!(of("de,  en;q=0.5"), of("de,en;q=0.5"));
        assert_ne!(of("de"), of("en"));
        let lines = written(&["accept-language"], &[("accept-language", "de"), ("accept-language", "en")]);
        assert_eq!(lines, of("de, en"));
    }
}
