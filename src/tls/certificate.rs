//! One certificate with its key: read, checked, and asked for what it says.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::config::model::CertificateFiles;
use crate::tls::{pem, provider};

/// A certificate that can be shown.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub files: CertificateFiles,
    pub key: Arc<CertifiedKey>,
    pub facts: Facts,
}

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// DNS names in lower case, `*.` in front of a wildcard; IP addresses. Where the extension is missing, as in some
    /// home-made ones, the common name.
    pub names: Vec<String>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl Certificate {
    /// Reads the two files.
    ///
    /// # Errors
    /// What is wrong with which file. That it is expired is not.
    pub fn load(files: &CertificateFiles) -> Result<Self, String> {
        let chain = pem::certificates(&files.cert)?;
        let key = pem::private_key(&files.key)?;
        let facts = chain.first().map_or_else(|| Err("empty".to_owned()), facts);
        let facts = facts.map_err(|error| format!("{}: {error}", files.cert.display()))?;
        if facts.names.is_empty() {
            return Err(format!("{}: the certificate is for no name at all", files.cert.display()));
        }
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("{}: is not the key of the certificate in {}", files.key.display(), files.cert.display())
            }
            error => format!("{}: {error}", files.key.display()),
        })?;
        Ok(Self { files: files.clone(), key: Arc::new(key), facts })
    }

    /// Why it should not be shown at `now`, if it should not.
    #[must_use]
    pub fn untimely(&self, now: SystemTime) -> Option<String> {
        let day = |time| httpdate::fmt_http_date(time);
        let file = self.files.cert.display();
        if now > self.facts.not_after {
            return Some(format!("{file}: expired on {}", day(self.facts.not_after)));
        }
        (now < self.facts.not_before).then(|| format!("{file}: is not valid before {}", day(self.facts.not_before)))
    }
}

/// Reads what a certificate says.
///
/// # Errors
/// It is none (RFC 5280).
pub fn facts(der: &CertificateDer<'_>) -> Result<Facts, String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| "not an X.509 certificate".to_owned())?;
    let alternatives =
        certificate.subject_alternative_name().map_err(|_| "its alternative names are malformed".to_owned())?;
    let names = if let Some(extension) = alternatives {
        extension.value.general_names.iter().filter_map(name).collect()
    } else {
        let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        common.map(str::to_ascii_lowercase).collect()
    };
    let validity = certificate.validity();
    Ok(Facts {
        names,
        not_before: time(validity.not_before.timestamp()),
        not_after: time(validity.not_after.timestamp()),
    })
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(|ip| ip.to_string())
        }
        _ => None,
    }
}

fn time(timestamp: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use rcgen::{DnType, SanType, date_time_ymd};

    use super::*;
    use crate::tls::rig;

    fn names(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Vec<String> {
        facts(&rig::certificate(change).0).unwrap().names
    }

    #[test]
    fn names_are_those_of_the_extension_or_the_common_one() {
        let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
        let ip = |text: &str| SanType::IpAddress(text.parse().unwrap());
        let alternatives = vec![dns("A.Test"), dns("*.B.test"), ip("192.0.2.1"), ip("2001:db8::1")];
        assert_eq!(
            names(|params| params.subject_alt_names = alternatives),
            ["a.test", "*.b.test", "192.0.2.1", "2001:db8::1"]
        );
        let common = |params: &mut rcgen::CertificateParams| {
            params.distinguished_name.push(DnType::CommonName, "Old.Test");
        };
        assert_eq!(
            names(|params| {
                params.subject_alt_names.clear();
                common(params);
            }),
            ["old.test"]
        );
        // RFC 6125 section 6.4.4: it counts for nothing beside the extension.
        assert_eq!(names(common), ["a.test"]);
        assert_eq!(
            names(|params| params.subject_alt_names = vec![SanType::Rfc822Name("a@b.test".try_into().unwrap())]),
            [""; 0]
        );
        assert!(facts(&CertificateDer::from(vec![1, 2, 3])).is_err());
    }

    #[test]
    fn a_certificate_is_for_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let files = CertificateFiles { cert: dir.path().join("a.pem"), key: dir.path().join("a.key") };
        let write = |from: i32, to: i32| {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
            (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
            std::fs::write(&files.cert, params.self_signed(&key).unwrap().pem()).unwrap();
            std::fs::write(&files.key, key.serialize_pem()).unwrap();
            Certificate::load(&files).unwrap()
        };
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        assert_eq!(write(2020, 2100).untimely(now), None);
        let said = |from, to| write(from, to).untimely(now).unwrap();
        let file = files.cert.display();
        assert_eq!(said(2020, 2021), format!("{file}: expired on Fri, 01 Jan 2021 00:00:00 GMT"));
        assert_eq!(said(2100, 2101), format!("{file}: is not valid before Fri, 01 Jan 2100 00:00:00 GMT"));
        let one = write(2020, 2100);
        assert_eq!(one.untimely(one.facts.not_after), None);
        assert!(one.untimely(one.facts.not_after + Duration::from_secs(1)).is_some());
    }
}
