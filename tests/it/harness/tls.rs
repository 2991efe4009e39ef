//! Certificates of our own making, and TLS connections that trust them.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    SupportedProtocolVersion, version,
};

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
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Each has a name of its own, as authorities have.
        let name = format!("Test Authority {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
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

    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()
    }

    /// Trusting it alone.
    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).unwrap();
        roots
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
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(authority.roots());
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

    /// Whether it is turned away, in the handshake or, with TLS 1.3, right behind what a client takes for its end.
    pub fn is_refused(&self, address: &Address) -> bool {
        let Ok(mut stream) = self.connect(address) else { return true };
        // The gateway may have been faster.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        stream.read(&mut [0]).is_err()
    }

    /// Agrees over a connection on which something may have been said already.
    pub fn agree(&self, mut stream: TcpStream) -> io::Result<TlsStream> {
        let name = ServerName::try_from(self.name.clone()).unwrap();
        let mut connection = ClientConnection::new(self.config.clone(), name).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(TlsStream(Arc::new(Mutex::new(Side::Client(StreamOwned::new(connection, stream))))))
    }
}

pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())).clone()
}

/// What a server of a test shows: this certificate; with `clients` it demands one that they have signed.
pub fn server_config(issued: &Issued, clients: Option<&Authority>) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let roots = Arc::new(authority.roots());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    Arc::new(builder.with_single_cert(vec![issued.der()], key).unwrap())
}

/// Runs `openssl s_client`, which agrees and leaves: whether it could agree, and what it printed.
pub fn s_client(address: &Address, arguments: &str) -> (bool, String) {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string()]).args(arguments.split_whitespace());
    let output = command.stdin(Stdio::null()).output().expect("openssl is missing: run scripts/setup.sh first");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Runs `openssl` with these arguments and this input; what it printed.
#[track_caller]
pub fn openssl(arguments: &str, input: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(arguments.split_whitespace()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("openssl is missing: run scripts/setup.sh first");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments}");
    String::from_utf8(output.stdout).unwrap()
}

/// A TLS connection, either side of it; clones are the same one.
#[derive(Debug, Clone)]
pub struct TlsStream(Arc<Mutex<Side>>);

#[derive(Debug)]
enum Side {
    Client(StreamOwned<ClientConnection, TcpStream>),
    Server(StreamOwned<ServerConnection, TcpStream>),
}

impl Side {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Client(stream) => &stream.sock,
            Self::Server(stream) => &stream.sock,
        }
    }
}

impl TlsStream {
    /// The server's side, once the two have agreed.
    pub fn accept(mut stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let mut connection = ServerConnection::new(config).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(Self(Arc::new(Mutex::new(Side::Server(StreamOwned::new(connection, stream))))))
    }

    /// Asks a client's connection something: what was agreed on, whom it speaks to.
    pub fn ask<T>(&self, question: impl FnOnce(&ClientConnection) -> T) -> T {
        match &*self.0.lock().unwrap() {
            Side::Client(stream) => question(&stream.conn),
            Side::Server(_) => panic!("the server's side was asked what a client knows"),
        }
    }

    /// The name that the client asked for, as the server's side knows it.
    pub fn asked(&self) -> Option<String> {
        match &*self.0.lock().unwrap() {
            Side::Client(_) => panic!("a client knows what it asked for"),
            Side::Server(stream) => stream.conn.server_name().map(str::to_owned),
        }
    }

    /// Says that nothing more will be sent (`close_notify`); the socket stays open.
    pub fn close_notify(&self) {
        // The other side may have been faster.
        let _ = match &mut *self.0.lock().unwrap() {
            Side::Client(stream) => {
                stream.conn.send_close_notify();
                stream.flush()
            }
            Side::Server(stream) => {
                stream.conn.send_close_notify();
                stream.flush()
            }
        };
    }

    /// Changes the keys of what is sent, and asks the other side to do the same.
    pub fn update_keys(&self) {
        match &mut *self.0.lock().unwrap() {
            Side::Client(stream) => stream.conn.refresh_traffic_keys().unwrap(),
            Side::Server(stream) => stream.conn.refresh_traffic_keys().unwrap(),
        }
    }

    /// The socket below.
    pub fn socket(&self) -> TcpStream {
        self.0.lock().unwrap().socket().try_clone().unwrap()
    }

    /// The certificate that was shown.
    pub fn shown(&self) -> CertificateDer<'static> {
        self.ask(|connection| connection.peer_certificates().unwrap()[0].clone().into_owned())
    }

    /// Whether an earlier connection's keys were used.
    pub fn is_resumed(&self) -> bool {
        let kind = match &*self.0.lock().unwrap() {
            Side::Client(stream) => stream.conn.handshake_kind(),
            Side::Server(stream) => stream.conn.handshake_kind(),
        };
        kind == Some(HandshakeKind::Resumed)
    }

    /// Sends what TLS itself has to say.
    pub fn send_pending(&self) {
        self.clone().flush().unwrap();
    }
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut *self.0.lock().unwrap() {
            Side::Client(stream) => stream.read(buffer),
            Side::Server(stream) => stream.read(buffer),
        }
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *self.0.lock().unwrap() {
            Side::Client(stream) => written(stream.write(bytes), stream),
            Side::Server(stream) => written(stream.write(bytes), stream),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut *self.0.lock().unwrap() {
            Side::Client(stream) => stream.flush(),
            Side::Server(stream) => stream.flush(),
        }
    }
}

/// What was taken is on its way before more is said.
fn written(count: io::Result<usize>, stream: &mut impl Write) -> io::Result<usize> {
    let count = count?;
    stream.flush()?;
    Ok(count)
}
