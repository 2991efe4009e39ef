//! What `Authorization` says with the Basic scheme (RFC 7617).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header;

use crate::headers::Headers;

/// A name and a password, as the client says.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub name: String,
    pub password: Vec<u8>,
}

impl Credentials {
    /// None where there are none that can be read: another scheme, no base64, no colon, a name that is not UTF-8.
    #[must_use]
    pub fn of(headers: &Headers) -> Option<Self> {
        let mut fields = headers.get_all(header::AUTHORIZATION);
        let (Some(field), None) = (fields.next(), fields.next()) else { return None };
        let space = field.as_bytes().iter().position(|byte| *byte == b' ')?;
        let (scheme, encoded) = field.as_bytes().split_at_checked(space)?;
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return None;
        }
        let mut name = STANDARD.decode(encoded.trim_ascii()).ok()?;
        let colon = name.iter().position(|byte| *byte == b':')?;
        let password = name.get(colon + 1..)?.to_vec();
        name.truncate(colon);
        Some(Self { name: String::from_utf8(name).ok()?, password })
    }
}

/// Nothing that is logged shows a password.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Credentials")
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(fields: &[&str]) -> Option<(String, String)> {
        let mut headers = Headers::default();
        for field in fields {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(field).unwrap());
        }
        Credentials::of(&headers).map(|it| (it.name, String::from_utf8(it.password).unwrap()))
    }

    #[test]
    fn what_a_field_says() {
        let aladdin = Some(("Aladdin".to_owned(), "open sesame".to_owned()));
        assert_eq!(of(&["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]), aladdin);
        assert_eq!(of(&["basic  QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]), aladdin);
        assert_eq!(of(&["Basic YTpiOmM="]), Some(("a".into(), "b:c".into())));
        assert_eq!(of(&["Basic Og=="]), Some((String::new(), String::new())));
        assert_eq!(of(&["Basic dGVzdDoxMjPCow=="]), Some(("test".into(), "123£".into())));
        for odd in [
            &[][..],
            &["Basic"],
            &["Basic "],
            &["Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ=="],
            &["Basic QWxhZGRpbg=="],
            &["Basic ???"],
            &["Basic /zph"],
            &["Basic YTpi", "Basic YTpi"],
        ] {
            assert_eq!(of(odd), None, "{odd:?}");
        }
    }
}
