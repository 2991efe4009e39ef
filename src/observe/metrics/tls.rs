//! What is shown of certificates.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::page::{Page, float};
use super::table;

/// The certificates in use.
#[derive(Debug, Default)]
pub struct TlsMetrics {
    certificates: Mutex<Vec<CertificateReading>>,
    refused: AtomicBool,
}

/// One certificate in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateReading {
    /// As the configuration names it.
    pub file: String,
    pub names: Vec<String>,
    pub not_after: SystemTime,
}

impl TlsMetrics {
    /// Shows these certificates from now on.
    pub fn show(&self, certificates: Vec<CertificateReading>) {
        *self.certificates.lock() = certificates;
    }

    /// The certificates in use.
    #[must_use]
    pub fn certificates(&self) -> Vec<CertificateReading> {
        self.certificates.lock().clone()
    }

    /// Says whether files on disk cannot be used, and what was read before stays.
    pub fn show_refused(&self, refused: bool) {
        self.refused.store(refused, Relaxed);
    }
}

pub(super) fn write(tls: &TlsMetrics, page: &mut Page) {
    page.family(&table::TLS_CERTIFICATE_EXPIRY, |samples| {
        for one in &*tls.certificates.lock() {
            let expiry = one.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
            samples.value(&[&one.file], float(expiry.as_secs()));
        }
    });
    page.single(&table::TLS_FILES_REFUSED, u8::from(tls.refused.load(Relaxed)).into());
}
