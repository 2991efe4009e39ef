//! Certificates, and connections between the two sides, for tests.

use std::sync::Arc;

use bytes::BytesMut;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::net::UnixStream;

use crate::net::Plain;
use crate::tls::peer::{Client, Server};
use crate::tls::provider;
use crate::tls::stream::TlsStream;

/// A certificate that signs itself, and its key, once `change` had its word.
pub fn certificate(change: impl FnOnce(&mut CertificateParams)) -> (CertificateDer<'static>, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    change(&mut params);
    (params.self_signed(&key).unwrap().der().clone(), key)
}

/// The settings of a server, and of a client that trusts it, which speak this version.
pub fn settings(version: &'static SupportedProtocolVersion) -> (ClientConfig, ServerConfig) {
    let (certificate, key) = certificate(|_| {});
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[version]).unwrap();
    let server = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[version]).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    (
        client.with_root_certificates(roots).with_no_client_auth(),
        server.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap(),
    )
}

/// The client's side over a socket.
pub fn client(settings: ClientConfig, socket: UnixStream) -> TlsStream<Client> {
    let client = Client::new(Arc::new(settings), ServerName::try_from("a.test").unwrap()).unwrap();
    TlsStream::new(Plain::Unix(socket), client, BytesMut::new())
}

/// The two sides, which have agreed on this version.
pub async fn pair(version: &'static SupportedProtocolVersion) -> (TlsStream<Client>, TlsStream<Server>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (settings, server) = settings(version);
    let mut client = client(settings, ours);
    let server = Server::new(Arc::new(server)).unwrap();
    let mut server = TlsStream::new(Plain::Unix(theirs), server, BytesMut::new());
    let (one, other) = tokio::join!(client.handshake(), server.handshake());
    one.unwrap();
    other.unwrap();
    (client, server)
}
