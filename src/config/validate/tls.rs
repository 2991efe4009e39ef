//! `[tls]`, and TLS to upstreams. The files are read where they are used.

use std::path::{Path, PathBuf};

use super::super::error::Report;
use super::super::model::{CertificateFiles, EndpointAddr, EndpointConfig, Tls, TlsVersion, UpstreamTls};
use super::super::place::At;
use super::super::raw;
use super::super::schema::refuse_repeats;
use super::super::value::PemFile;
use super::given;

/// Where a file of the configuration is.
pub(super) fn path(file: &PemFile, base: &Path) -> PathBuf {
    base.join(&file.0)
}

/// `[tls]`.
pub(super) fn build(raw: raw::Tls, base: &Path, report: &mut Report) -> Tls {
    let list = given(raw.certificates);
    let certs: Vec<_> = list.iter().filter_map(|item| item.value.cert.clone()).collect();
    refuse_repeats(report, &certs, Clone::clone);
    let files = |certificate: raw::Certificate| {
        Some(CertificateFiles { cert: path(&certificate.cert?.value, base), key: path(&certificate.key?.value, base) })
    };
    Tls {
        min_version: raw.min_version.map_or(TlsVersion::V12, |version| version.value),
        certificates: list.into_iter().filter_map(|item| files(item.value)).collect(),
    }
}

/// `[upstreams.*.tls]`.
pub(super) fn upstream(
    raw: Option<At<raw::UpstreamTls>>,
    endpoints: &[EndpointConfig],
    base: &Path,
    report: &mut Report,
) -> Option<UpstreamTls> {
    let At { value: raw, place } = raw?;
    if raw.enabled.as_ref().is_some_and(|enabled| !enabled.value) {
        return None;
    }
    let nameless =
        |endpoint: &&EndpointConfig| matches!(endpoint.addr, EndpointAddr::Unix(_) | EndpointAddr::Abstract(_));
    if let Some(endpoint) = endpoints.iter().find(nameless).filter(|_| !raw.written.contains(&"sni")) {
        let message =
            format!("{} has no name that a certificate could be for; expected `sni` beside it", endpoint.addr);
        report.problem(&place, message);
    }
    if let Some(verify) = raw.verify.as_ref().filter(|verify| !verify.value) {
        report.warn(&verify.place, "the endpoints' certificates are not checked: whoever is on the way can be the app");
        if let Some(ca) = &raw.ca {
            report.problem(&ca.place, "`ca` has no effect where nothing is verified");
        }
    }
    let identity = match (raw.cert, raw.key) {
        (Some(cert), Some(key)) => {
            Some(CertificateFiles { cert: path(&cert.value, base), key: path(&key.value, base) })
        }
        (None, None) => None,
        (Some(at), None) => {
            report.problem(&at.place, "a certificate needs its private key; expected `key` beside it");
            None
        }
        (None, Some(at)) => {
            report.problem(&at.place, "a private key needs its certificate; expected `cert` beside it");
            None
        }
    };
    Some(UpstreamTls {
        sni: raw.sni.map(|sni| sni.value.0),
        ca: raw.ca.map(|ca| path(&ca.value, base)),
        verify: raw.verify.is_none_or(|verify| verify.value),
        identity,
    })
}
