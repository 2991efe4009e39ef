//! `[tls]` and the listeners that speak it.

use super::super::model::{ListenAddr, TlsVersion};
use super::super::place::At;
use super::super::schema::{Described, Inside, KeyInfo, Presence, SectionInfo, section};
use super::super::value::PemFile;
use super::super::walk::{Node, Read, Walk};

section! {
    /// Certificates and versions of the TLS listeners. Cipher suites and key exchange are not to be chosen: TLS 1.3 and the
    /// suites of TLS 1.2 that Mozilla calls intermediate; X25519MLKEM768, X25519, P-256 and P-384.
    ///
    /// The files are read again with a reload, and when they change. A certificate that cannot be used (unreadable, a key
    /// that does not belong to it, expired) leaves what was in use before, an error in the log and a metric.
    Tls {
        /// The oldest version that is spoken: `"1.2"` or `"1.3"`.
        min_version: TlsVersion = r#""1.2""#,
        /// The certificates. The names each is for are read from it; a client that asks for another name, or for none, is
        /// shown the first. Two for the same names, one with an ECDSA key and one with RSA, serve old clients beside new.
        certificates: Vec<At<Certificate>> = "[]",
    }
}

section! {
    /// A certificate and its key.
    Certificate {
        /// PEM: the certificate and those that lead from it to a root, in this order. Relative to the configuration file.
        ///
        /// Example: `"/etc/propylon/fullchain.pem"`
        cert: PemFile = required,
        /// PEM: its private key (PKCS#8, PKCS#1 or SEC1), not encrypted. Relative to the configuration file.
        ///
        /// Example: `"/etc/propylon/privkey.pem"`
        key: PemFile = required,
    }
}

section! {
    /// A TLS listener; `"0.0.0.0:443"` is short for `{ address = "0.0.0.0:443" }`.
    TlsListener {
        /// Where it is bound.
        address: ListenAddr = required,
        /// As for `listen`; the header comes before TLS begins.
        proxy_protocol: bool = "false",
        /// Whether clients are asked for a certificate. The app is told of the one a client has shown in
        /// `X-Client-Cert-Subject` (RFC 4514) and `X-Client-Cert-SHA256` (hexadecimal); clients cannot set these fields.
        client_certs: ClientCerts,
    }
    short address
}

section! {
    /// Which clients' certificates are accepted.
    ClientCerts {
        /// PEM: the authorities that sign them. Relative to the configuration file.
        ///
        /// Example: `"/etc/propylon/clients.pem"`
        ca: PemFile = required,
        /// Whether a client without one is turned away in the handshake. One with a certificate that is not valid always
        /// is.
        required: bool = "true",
    }
}
