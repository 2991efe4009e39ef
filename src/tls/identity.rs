//! Who a client has shown to be, as fields of a request: the subject of its certificate, and the certificate's fingerprint.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue};
use rustls::pki_types::CertificateDer;
use x509_parser::der_parser::asn1_rs::{Any, Tag, ToDer};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

pub const X_CLIENT_CERT_SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-subject");
pub const X_CLIENT_CERT_SHA256: HeaderName = HeaderName::from_static("x-client-cert-sha256");

/// A client's certificate, once it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// RFC 4514, every byte outside of ASCII escaped.
    pub subject: HeaderValue,
    /// SHA-256 over the certificate, in lower-case hexadecimal.
    pub fingerprint: HeaderValue,
}

impl Identity {
    /// What the certificate says; none for one that is not to be read, which cannot have been verified.
    #[must_use]
    pub fn of(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = HeaderValue::from_str(&distinguished_name(certificate.subject())).ok()?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
        Some(Self { subject, fingerprint: HeaderValue::from_str(&hex::encode(digest)).ok()? })
    }
}

/// RFC 4514 section 2: the last relative name first.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let relative: Vec<_> = name.iter_rdn().collect();
    let parts = relative.into_iter().rev().map(|relative| {
        let attributes = relative
            .iter()
            .map(|attribute| format!("{}={}", label(attribute.attr_type()), value(attribute.attr_value())));
        attributes.collect::<Vec<_>>().join("+")
    });
    parts.collect::<Vec<_>>().join(",")
}

/// The short names of RFC 4514 section 3, and the one that clients are named by most; the numbers of all others.
fn label(oid: &x509_parser::der_parser::oid::Oid<'_>) -> String {
    let id = oid.to_id_string();
    let short = match id.as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.6" => "C",
        "2.5.4.9" => "STREET",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return id,
    };
    short.to_owned()
}

/// RFC 4514 section 2.4: text escaped, anything else as the hexadecimal of its encoding.
fn value(any: &Any<'_>) -> String {
    match text(any) {
        Some(text) => escape(&text),
        None => format!("#{}", hex::encode(any.to_der_vec().unwrap_or_default())),
    }
}

/// The kinds of text there are (RFC 5280, `DirectoryString`), and those of single attributes. The parser's own conversion panics for
/// some.
fn text<'a>(any: &'a Any<'_>) -> Option<Cow<'a, str>> {
    match any.tag() {
        Tag::Utf8String
        | Tag::PrintableString
        | Tag::Ia5String
        | Tag::NumericString
        | Tag::VisibleString
        | Tag::T61String => std::str::from_utf8(any.data).ok().map(Cow::Borrowed),
        Tag::BmpString => {
            let (units, rest) = any.data.as_chunks();
            let units: Vec<u16> = units.iter().map(|unit| u16::from_be_bytes(*unit)).collect();
            String::from_utf16(&units).ok().filter(|_| rest.is_empty()).map(Cow::Owned)
        }
        _ => None,
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let last = text.len().saturating_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' | b'=' => {
                escaped.push('\\');
                escaped.push(char::from(byte));
            }
            b'#' | b' ' if at == 0 => {
                escaped.push('\\');
                escaped.push(char::from(byte));
            }
            b' ' if at == last => escaped.push_str("\\ "),
            b' '..=b'~' => escaped.push(char::from(byte)),
            other => escaped.push_str(&format!("\\{other:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use rcgen::{DnType, DnValue};
    use x509_parser::der_parser::asn1_rs::{Class, Header, Length};

    use super::*;
    use crate::tls::rig;

    #[test]
    fn a_name_cannot_pretend_to_be_two() {
        assert_eq!(escape("Jane, O=Admin"), "Jane\\, O\\=Admin");
        assert_eq!(escape(" #x "), "\\ #x\\ ");
        assert_eq!(escape("#1"), "\\#1");
        assert_eq!(escape("Łuk\r\n"), "\\C5\\81uk\\0D\\0A");
        assert_eq!(escape(""), "");
    }

    fn subject(names: &[(DnType, DnValue)]) -> String {
        let (der, _) = rig::certificate(|params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            for (kind, value) in names {
                params.distinguished_name.push(kind.clone(), value.clone());
            }
        });
        Identity::of(&der).unwrap().subject.to_str().unwrap().to_owned()
    }

    #[test]
    fn the_last_name_stands_first() {
        let text = |text: &str| DnValue::Utf8String(text.to_owned());
        assert_eq!(subject(&[]), "");
        let names = [
            (DnType::CountryName, DnValue::PrintableString("PL".try_into().unwrap())),
            (DnType::StateOrProvinceName, text("Łódź")),
            (DnType::LocalityName, text(" a ")),
            (DnType::OrganizationName, text("One, Two")),
            (DnType::OrganizationalUnitName, text("")),
            (DnType::CommonName, text("Jane, O=Admin")),
        ];
        assert_eq!(subject(&names), r"CN=Jane\, O\=Admin,OU=,O=One\, Two,L=\ a\ ,ST=\C5\81\C3\B3d\C5\BA,C=PL");
        let others = [
            (
                DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]),
                DnValue::Ia5String("a@b.test".try_into().unwrap()),
            ),
            (DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 1]), text("jane")),
            // One without a short name.
            (DnType::CustomDnType(vec![2, 5, 4, 5]), text("7")),
        ];
        assert_eq!(subject(&others), "2.5.4.5=7,UID=jane,emailAddress=a@b.test");
    }

    #[test]
    fn every_kind_of_text_is_read_and_what_is_none_is_its_encoding() {
        let common = |value: DnValue| subject(&[(DnType::CommonName, value)]);
        assert_eq!(common(DnValue::BmpString("Ж, a".try_into().unwrap())), r"CN=\D0\96\, a");
        assert_eq!(common(DnValue::Ia5String("a".try_into().unwrap())), "CN=a");
        assert_eq!(common(DnValue::TeletexString("a b".try_into().unwrap())), "CN=a b");
        // `#` and the encoding with its tag and length.
        assert_eq!(common(DnValue::UniversalString("a".try_into().unwrap())), "CN=#1c0400000061");
    }

    #[test]
    fn no_value_makes_it_panic() {
        for tag in 0..=255 {
            for data in [&[][..], b"a", &[0xd8, 0], &[0xff, 0xfe, 0xfd], &[0; 200]] {
                let header = Header::new(Class::Universal, false, Tag(tag), Length::Definite(data.len()));
                let told = value(&Any::new(header, data));
                assert!(told.is_ascii() && HeaderValue::from_str(&told).is_ok(), "{tag} {data:?}: {told}");
            }
        }
    }

    #[test]
    fn the_fingerprint_is_that_of_the_whole_certificate() {
        let (der, _) = rig::certificate(|_| {});
        let fingerprint = Identity::of(&der).unwrap().fingerprint;
        assert_eq!(fingerprint.len(), 64);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
        let bytes: Vec<_> = fingerprint.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect();
        let bytes: Vec<_> = bytes.into_iter().map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
        assert_eq!(bytes, digest.as_ref());
        assert_eq!(Identity::of(&CertificateDer::from(vec![48, 3, 1, 2, 3])), None);
    }
}
