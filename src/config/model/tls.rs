//! TLS, with nothing left to parse. The files are named here and read by `tls`.

use std::path::PathBuf;

/// Certificates and versions of the TLS listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub min_version: TlsVersion,
    /// The first is the default. At least one where a listener speaks TLS.
    pub certificates: Vec<CertificateFiles>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    V12,
    V13,
}

/// A certificate, with those that lead to its root, and its key; both PEM.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Which clients' certificates are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientCerts {
    /// PEM: the authorities that sign them.
    pub ca: PathBuf,
    /// Whether there must be one.
    pub required: bool,
}

/// TLS to the endpoints of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The name to ask for; none: the endpoint's own.
    pub sni: Option<String>,
    /// PEM: authorities in place of the system's.
    pub ca: Option<PathBuf>,
    pub verify: bool,
    /// What we show ourselves by.
    pub identity: Option<CertificateFiles>,
}
