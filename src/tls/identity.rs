//! Who a client has shown to be, as fields of a request: the subject of its certificate, and the certificate's fingerprint.

use http::{HeaderName, HeaderValue};
use rustls::pki_types::CertificateDer;
use x509_parser::der_parser::asn1_rs::Any;
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
        Some(Self { subject, fingerprint: HeaderValue::from_str(&hex(digest.as_ref())).ok()? })
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
    let text = any.as_any_string();
    text.map_or_else(|_| format!("#{}", hex(any.data)), escape)
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

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pretend_to_be_two() {
        assert_eq!(escape("Jane, O=Admin"), "Jane\\, O\\=Admin");
        assert_eq!(escape(" #x "), "\\ #x\\ ");
        assert_eq!(escape("#1"), "\\#1");
        assert_eq!(escape("Łuk\r\n"), "\\C5\\81uk\\0D\\0A");
        assert_eq!(escape(""), "");
    }
}
