//! Which certificate a client is shown: by the name it asks for (RFC 6066 section 3), and by what it can verify.

use std::collections::HashMap;
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
        let first = certificates.first().map(|certificate| &certificate.facts.names);
        let same = |certificate: &Certificate| Some(&certificate.facts.names) == first;
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
