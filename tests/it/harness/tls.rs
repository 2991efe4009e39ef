//! Certificates of our own making, and TLS connections that trust them.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion, version};

use super::eventually::DEADLINE;
use super::socket::Address;

/// The kind of a certificate's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Ecdsa,
    Rsa,
}

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Issued {
    pub cert: String,
    pub key: String,
}

/// The files of a certificate.
#[derive(Debug, Clone)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Issued {
    /// Writes `{name}.pem` and `{name}.key`, each in one step.
    pub fn write(&self, dir: &Path, name: &str) -> Files {
        let files = Files { cert: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) };
        write(&files.cert, &self.cert);
        write(&files.key, &self.key);
        files
    }

    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).unwrap()
    }
}

/// Writes a file in one step.
pub fn write(path: &Path, text: &str) {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap()).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.persist(path).unwrap();
}

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Test Authority");
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The one that most tests share: making keys takes time.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Authority> = OnceLock::new();
        SHARED.get_or_init(Self::new)
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes its own certificate.
    pub fn write(&self, dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        write(&path, &self.pem);
        path
    }

    /// A certificate with an ECDSA key for these names, wildcards and addresses among them.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_with(names, Key::Ecdsa, |_| {})
    }

    /// A certificate that `change` has the last word on.
    pub fn issue_with(&self, names: &[&str], key: Key, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let algorithm = match key {
            Key::Ecdsa => &PKCS_ECDSA_P256_SHA256,
            Key::Rsa => &PKCS_RSA_SHA256,
        };
        let key = KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Issued { cert: cert.pem(), key: key.serialize_pem() }
    }
}

/// How a client connects.
#[derive(Clone)]
pub struct TlsClient {
    /// The name asked for, and expected.
    pub name: String,
    pub config: Arc<ClientConfig>,
}

impl TlsClient {
    /// Trusts `authority` alone, asks for `name`, and speaks HTTP/1.1.
    pub fn new(authority: &Authority, name: &str) -> Self {
        Self::with(authority, name, &[&version::TLS13, &version::TLS12], None)
    }

    /// With these versions, and a certificate to show.
    pub fn with(
        authority: &Authority,
        name: &str,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&Issued>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![issued.der()], key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { name: name.to_owned(), config: Arc::new(config) }
    }

    /// Connects and agrees, or says why not.
    pub fn connect(&self, address: &Address) -> io::Result<TlsStream> {
        let Address::Tcp(address) = address else { panic!("TLS over TCP alone") };
        let stream = TcpStream::connect_timeout(address, DEADLINE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        self.agree(stream)
    }

    /// Agrees over a connection on which something may have been said already.
    pub fn agree(&self, mut stream: TcpStream) -> io::Result<TlsStream> {
        let name = ServerName::try_from(self.name.clone()).unwrap();
        let mut connection = ClientConnection::new(self.config.clone(), name).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(TlsStream(Arc::new(Mutex::new(StreamOwned::new(connection, stream)))))
    }
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())).clone()
}

/// A TLS connection; clones are the same one.
#[derive(Debug, Clone)]
pub struct TlsStream(Arc<Mutex<StreamOwned<ClientConnection, TcpStream>>>);

impl TlsStream {
    /// Asks the connection something: what was agreed on, whom it speaks to.
    pub fn ask<T>(&self, question: impl FnOnce(&ClientConnection) -> T) -> T {
        question(&self.0.lock().unwrap().conn)
    }

    /// The socket below.
    pub fn socket(&self) -> TcpStream {
        self.0.lock().unwrap().sock.try_clone().unwrap()
    }

    /// The certificate that was shown.
    pub fn shown(&self) -> CertificateDer<'static> {
        self.ask(|connection| connection.peer_certificates().unwrap()[0].clone().into_owned())
    }

    pub fn set_read_timeout(&self, time: Duration) -> io::Result<()> {
        self.0.lock().unwrap().sock.set_read_timeout(Some(time))
    }
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.lock().unwrap().read(buffer)
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stream = self.0.lock().unwrap();
        let written = stream.write(bytes)?;
        stream.flush()?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().unwrap().flush()
    }
}
