//! Which certificate a client is shown: by the name it asks for (RFC 6066 section 3), and by what it can verify.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::tls::certificate::Certificate;
use crate::tls::peer::note_asked;

/// The certificates of a configuration.
#[derive(Debug)]
pub struct Store {
    certificates: Vec<Certificate>,
    /// Places in `certificates`, in the order of the file: those for the same name differ in the kind of their key.
    exact: HashMap<Box<str>, Vec<usize>>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, Vec<usize>>,
    default: Vec<usize>,
}

impl Store {
    /// The first certificate is the default, together with any other that is for its names.
    #[must_use]
    pub fn new(certificates: Vec<Certificate>) -> Self {
        let mut store =
            Self { certificates: Vec::new(), exact: HashMap::new(), wildcard: HashMap::new(), default: Vec::new() };
        for (place, certificate) in certificates.iter().enumerate() {
            for name in &certificate.facts.names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(suffix) => (&mut store.wildcard, suffix),
                    None => (&mut store.exact, name.as_str()),
                };
                let places = names.entry(name.into()).or_default();
                if !places.contains(&place) {
                    places.push(place);
                }
            }
        }
        // In whatever order.
        let names = |certificate: &Certificate| certificate.facts.names.iter().cloned().collect::<HashSet<_>>();
        let first = certificates.first().map(names);
        let same = |certificate: &Certificate| Some(names(certificate)) == first;
        store.default = certificates.iter().enumerate().filter(|(_, one)| same(one)).map(|(place, _)| place).collect();
        store.certificates = certificates;
        store
    }

    /// Every certificate, in the order of the file.
    #[must_use]
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// Those for `name`: exact, then a wildcard for its last labels but one (RFC 6125 section 6.4.3), then the default.
    fn find(&self, name: Option<&str>) -> &[usize] {
        let Some(name) = name else { return &self.default };
        let lower;
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = name.to_ascii_lowercase();
            lower.as_str()
        } else {
            name
        };
        let below = || name.split_once('.').and_then(|(_, suffix)| self.wildcard.get(suffix));
        self.exact.get(name).or_else(below).map_or(&self.default, Vec::as_slice)
    }

    /// Whether a client that asks for one name is shown what one that asks for the other is: then it may use its connection
    /// for both (RFC 9113 section 9.1.1).
    #[must_use]
    pub fn shows_the_same(&self, one: &str, other: &str) -> bool {
        self.find(Some(one)) == self.find(Some(other))
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let mut candidates = self.find(name).iter().filter_map(|place| self.certificates.get(*place));
        let first = candidates.clone().next();
        candidates
            .find(|certificate| certificate.key.key.choose_scheme(schemes).is_some())
            .or(first)
            .map(|certificate| certificate.key.clone())
    }
}

impl ResolvesServerCert for Store {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        note_asked(hello.server_name());
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rustls::pki_types::PrivateKeyDer;

    use super::*;
    use crate::config::model::CertificateFiles;
    use crate::tls::certificate::Facts;
    use crate::tls::{provider, rig};

    /// Certificates for these names, by their place.
    fn store(certificates: &[&[&str]]) -> Store {
        let (der, key) = rig::certificate(|_| {});
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let key = Arc::new(CertifiedKey::from_der(vec![der], key, &provider()).unwrap());
        let one = |names: &&[&str]| Certificate {
            files: CertificateFiles { cert: "a.pem".into(), key: "a.key".into() },
            key: key.clone(),
            facts: Facts {
                names: names.iter().map(|name| (*name).to_owned()).collect(),
                not_before: SystemTime::UNIX_EPOCH,
                not_after: SystemTime::UNIX_EPOCH,
            },
        };
        Store::new(certificates.iter().map(one).collect())
    }

    #[test]
    fn the_nearest_name_wins_and_the_first_is_for_all_others() {
        let store = store(&[
            &["default.test"],
            &["a.test", "*.a.test"],
            &["x.a.test"],
            &["*.a.test", "a.test"],
            &["*.x.a.test"],
        ]);
        for (name, expected) in [
            ("default.test", &[0][..]),
            ("a.test", &[1, 3]),
            ("A.Test", &[1, 3]),
            ("b.a.test", &[1, 3]),
            ("x.a.test", &[2]),
            ("X.a.test", &[2]),
            ("b.x.a.test", &[4]),
            ("c.b.a.test", &[0]),
            ("test", &[0]),
            (".a.test", &[1, 3]),
            ("*.a.test", &[1, 3]),
            ("", &[0]),
        ] {
            assert_eq!(store.find(Some(name)), expected, "{name}");
        }
        assert_eq!(store.find(None), [0]);
    }

    #[test]
    fn the_default_is_every_certificate_for_the_first_ones_names() {
        let store = store(&[&["a.test", "b.test"], &["a.test"], &["b.test", "a.test"]]);
        assert_eq!(store.find(None), [0, 2]);
        assert_eq!(store.find(Some("other.test")), [0, 2]);
        assert_eq!(store.find(Some("a.test")), [0, 1, 2]);
    }

    #[test]
    fn one_connection_is_good_for_the_names_of_one_certificate() {
        let store = store(&[&["default.test"], &["a.test", "b.test", "*.a.test"], &["c.test"]]);
        assert!(store.shows_the_same("a.test", "b.test"));
        assert!(store.shows_the_same("x.a.test", "b.test"));
        assert!(store.shows_the_same("unknown.test", "default.test"));
        assert!(!store.shows_the_same("a.test", "c.test"));
        assert!(!store.shows_the_same("a.test", "x.b.test"));
    }

    #[test]
    fn without_certificates_nothing_is_shown() {
        assert!(store(&[]).choose(Some("a.test"), &[]).is_none());
        // Rather one that the client cannot verify than none: it may say why.
        assert!(store(&[&["a.test"]]).choose(None, &[]).is_some());
    }
}
