//! PEM files, read whole and with a bound. Every error names the file and what to do.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Bytes of one file; a bundle of every public authority has a quarter of it.
const FILE_MAX: u64 = 1 << 20;

/// The certificates of a file, in their order; at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| malformed(path, &error))?;
    if found.is_empty() {
        return Err(format!(
            "{}: holds no certificate; expected PEM that begins with -----BEGIN CERTIFICATE-----",
            path.display()
        ));
    }
    Ok(found)
}

/// The private key of a file.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let bytes = read(path)?;
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) if bytes.windows(9).any(|window| window == b"ENCRYPTED") => {
            Err(format!("{}: the key is encrypted; `openssl pkey -in … -out …` writes it without", path.display()))
        }
        Err(pem::Error::NoItemsFound) => {
            Err(format!("{}: holds no private key; expected PEM (PKCS#8, PKCS#1 or SEC1)", path.display()))
        }
        Err(error) => Err(malformed(path, &error)),
    }
}

fn malformed(path: &Path, error: &pem::Error) -> String {
    // What it quotes may be a part of a key.
    let what = match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end; is the file whole?",
        pem::Error::IllegalSectionStart { .. } => "a section begins in a wrong way",
        pem::Error::Base64Decode(_) => "not base64",
        _ => "not PEM",
    };
    format!("{}: {what}", path.display())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| format!("{}: {error}", path.display()))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("{}: larger than {FILE_MAX} bytes", path.display()));
    }
    Ok(bytes)
}
