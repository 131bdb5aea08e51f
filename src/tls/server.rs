//! TLS towards our own clients: TLS 1.3 only, client certificates required where a CA for them is given.
//!
//! Certificate, key and CA can change under a running server. New handshakes see the new files; a set of files that
//! does not load changes nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use super::{ALPN_HTTP1, ALPN_HTTP2, Negotiated, TlsError, negotiated, pem, provider};

/// An encrypted stream from a client.
pub type ServerStream<S> = tokio_rustls::server::TlsStream<S>;

/// What a look at the files found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// They are as they were loaded.
    Unchanged,
    /// They changed and are in use from the next handshake on.
    Changed,
}

/// The TLS of one listener. Shared by its threads; a handshake takes no lock.
pub struct ServerTls {
    files: Files,
    current: ArcSwap<ServerConfig>,
    /// The state of the files at the last load; also keeps two reloads apart.
    loaded: Mutex<Vec<Stamp>>,
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// How a file looked when it was loaded.
#[derive(PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls").field("certificate", &self.files.certificate).finish_non_exhaustive()
    }
}

/// Loads the TLS of a listener. With `client_ca`, only clients with a certificate from that CA get a connection.
pub fn server_config(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<ServerTls, TlsError> {
    let files = Files { certificate: certificate.into(), key: key.into(), client_ca: client_ca.map(Path::to_path_buf) };
    // Stamped before reading: a file that changes in between is found by the next look.
    let stamps = files.stamps()?;
    let config = files.load()?;
    Ok(ServerTls { files, current: ArcSwap::from_pointee(config), loaded: Mutex::new(stamps) })
}

impl ServerTls {
    /// Loads the files again if one of them changed (time or length). An error names the file and leaves everything
    /// as it was; it is repeated at each call until the files are right, so a certificate that arrived a moment before
    /// its key is taken at the next look.
    pub fn reload_if_changed(&self) -> Result<Reloaded, TlsError> {
        let stamps = self.files.stamps()?;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if *loaded == stamps {
            return Ok(Reloaded::Unchanged);
        }
        self.current.store(Arc::new(self.files.load()?));
        *loaded = stamps;
        Ok(Reloaded::Changed)
    }

    /// Makes the handshake with a client. Bounding its time is the caller's.
    pub async fn accept<S>(&self, stream: S) -> io::Result<(ServerStream<S>, Negotiated)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = TlsAcceptor::from(self.current.load_full()).accept(stream).await?;
        let agreed = negotiated(stream.get_ref().1.alpn_protocol());
        Ok((stream, agreed))
    }
}

impl Files {
    fn stamps(&self) -> Result<Vec<Stamp>, TlsError> {
        [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()]
            .into_iter()
            .flatten()
            .map(|file| {
                let metadata =
                    std::fs::metadata(file).map_err(|source| TlsError::Read { file: file.clone(), source })?;
                Ok(Stamp { modified: metadata.modified().ok(), length: metadata.len() })
            })
            .collect()
    }

    fn load(&self) -> Result<ServerConfig, TlsError> {
        let provider = provider();
        let chain = pem::certificates(&self.certificate)?;
        let key = pem::private_key(&self.key)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsError::Configuration(error.to_string()))?;
        let builder = match &self.client_ca {
            Some(file) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(pem::roots(file)?), provider)
                    .build()
                    .map_err(|error| TlsError::Certificate { file: file.clone(), reason: error.to_string() })?;
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| self.pair_error(&error))?;
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
        Ok(config)
    }

    fn pair_error(&self, error: &rustls::Error) -> TlsError {
        match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::Mismatch { certificate: self.certificate.clone(), key: self.key.clone() }
            }
            rustls::Error::InvalidCertificate(reason) => {
                TlsError::Certificate { file: self.certificate.clone(), reason: reason.to_string() }
            }
            _ => TlsError::Key { file: self.key.clone() },
        }
    }
}
