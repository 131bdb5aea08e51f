//! Certificates and keys out of PEM files, with errors that name the file and never quote it.

use std::fs;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::TlsError;

/// All certificates of a file, in its order; at least one.
pub(super) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = fs::read(file).map_err(|source| TlsError::Read { file: file.into(), source })?;
    parse_certificates(file, &text)
}

/// All certificates of a PEM text that is called `file` in errors; at least one.
pub(super) fn parse_certificates(file: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| TlsError::Pem { file: file.into(), reason: reason(&error) })?;
    if found.is_empty() {
        return Err(TlsError::NoCertificate { file: file.into() });
    }
    Ok(found)
}

/// The first private key of a file. The text read is wiped afterwards.
pub(super) fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = fs::read(file).map_err(|source| TlsError::Read { file: file.into(), source })?;
    let text = Zeroizing::new(text);
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        PemError::NoItemsFound => TlsError::NoKey { file: file.into() },
        other => TlsError::Pem { file: file.into(), reason: reason(&other) },
    })
}

/// The certificates of a file as roots; one that cannot be a root is an error, not skipped.
pub(super) fn roots(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(file)? {
        store
            .add(certificate)
            .map_err(|error| TlsError::Certificate { file: file.into(), reason: error.to_string() })?;
    }
    Ok(store)
}

/// What is wrong with a PEM text, in our words: the library's own would quote lines of a file that may hold a key.
fn reason(error: &PemError) -> &'static str {
    match error {
        PemError::MissingSectionEnd { .. } => "a block has no END line",
        PemError::IllegalSectionStart { .. } => "a BEGIN line is malformed",
        PemError::Base64Decode(_) => "a block is not base64",
        PemError::SectionTooLarge => "a block is too large",
        PemError::NoItemsFound => "it has no block of the kind needed",
        _ => "it cannot be read as PEM",
    }
}
