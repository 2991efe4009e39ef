//! TLS to the endpoints of an upstream: whom we trust, what we ask for, and what we show ourselves.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config::model::{EndpointAddr, UpstreamTls};
use crate::tls::watch::FromFiles;
use crate::tls::{pem, provider};

/// The settings of one upstream. The files can be read anew.
#[derive(Debug)]
pub struct ClientTls {
    config: UpstreamTls,
    current: ArcSwap<ClientConfig>,
}

impl ClientTls {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// One sentence that names the file.
    pub fn load(config: &UpstreamTls) -> Result<Arc<Self>, String> {
        let current = ArcSwap::from_pointee(build(config)?);
        Ok(Arc::new(Self { config: config.clone(), current }))
    }

    /// The settings for a connection that begins now.
    #[must_use]
    pub fn settings(&self) -> Arc<ClientConfig> {
        self.current.load_full()
    }

    /// Whether a connection that was made by one is good for the other.
    #[must_use]
    pub fn is_alike(&self, other: &Self) -> bool {
        self.config == other.config
    }

    /// The name that an endpoint must be able to show a certificate for.
    #[must_use]
    pub fn name(&self, endpoint: &EndpointAddr) -> Option<ServerName<'static>> {
        let name = match (&self.config.sni, endpoint) {
            (Some(name), _) => name.clone(),
            (None, EndpointAddr::Ip(address)) => return Some(ServerName::from(address.ip())),
            (None, EndpointAddr::Host { host, .. }) => host.clone(),
            (None, EndpointAddr::Unix(_) | EndpointAddr::Abstract(_)) => return None,
        };
        ServerName::try_from(name).ok()
    }
}

impl FromFiles for ClientTls {
    fn files(&self) -> Vec<PathBuf> {
        let identity = self.config.identity.iter().flat_map(|files| [&files.cert, &files.key]);
        self.config.ca.iter().chain(identity).cloned().collect()
    }

    fn read_again(&self) -> Result<(), String> {
        self.current.store(Arc::new(build(&self.config)?));
        Ok(())
    }
}

fn build(config: &UpstreamTls) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if config.verify {
        builder.with_root_certificates(roots(config.ca.as_deref())?)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider())))
    };
    let mut settings = match &config.identity {
        None => builder.with_no_client_auth(),
        Some(files) => builder
            .with_client_auth_cert(pem::certificates(&files.cert)?, pem::private_key(&files.key)?)
            .map_err(|error| format!("{}: {error}", files.cert.display()))?,
    };
    settings.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(settings)
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        for der in pem::certificates(path)? {
            roots.add(der).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        return Ok(roots);
    }
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        return Err("this system has no trusted authorities; install them (Debian: ca-certificates), or name a file \
                    with `ca`"
            .to_owned());
    }
    Ok(roots)
}

/// Believes every certificate; that the other side has its key is still checked.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
