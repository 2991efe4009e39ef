//! TLS on both sides: certificates and who is shown which, the settings of listeners and of upstreams, and the byte stream.
//!
//! rustls on aws-lc-rs, used without its buffers, so that an idle connection holds none ([`stream`]). Pingora's own TLS is not
//! built in: neither clients nor endpoints are connected by it.

mod batch;
pub mod certificate;
pub mod client;
pub mod identity;
pub mod peer;
mod pem;
#[cfg(test)]
pub(crate) mod rig;
pub mod server;
pub mod store;
pub mod stream;
pub mod tickets;
pub mod watch;

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// What is offered and accepted: the suites of TLS 1.3, those of TLS 1.2 with forward secrecy and authenticated encryption
/// (Mozilla's intermediate set, without its finite-field Diffie-Hellman), and four groups for the key exchange, the first of
/// them safe from a later quantum computer.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
        let kx_groups = vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1];
        Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() })
    });
    PROVIDER.clone()
}
