//! TLS in both directions: the one place that knows rustls and where trust comes from.
//!
//! Every configuration is built with the aws-lc-rs provider named explicitly, so nothing depends on a process-wide
//! default that somebody else could install first. No configuration has a key log: `SSLKEYLOGFILE` is never read.
//! There is no way to switch verification off. Nothing here resolves names, dials or decides which address is allowed.

mod client;
mod pem;
mod server;
mod session;
mod stream;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use client::{ClientTls, HandshakeError, Offer, client_config, pinned_client_config};
pub use server::{Reloaded, ServerStream, ServerTls, server_config};
pub use stream::ClientStream;

/// The HTTP version agreed on in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Negotiated {
    /// `h2`.
    Http2,
    /// `http/1.1`, or the peer does not know ALPN.
    Http1,
}

/// Why a TLS configuration cannot be built. Names the file; never shows what is in it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", .file.display())]
    Read {
        /// Which one.
        file: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file is not PEM.
    #[error("{} is not valid PEM: {reason}", .file.display())]
    Pem {
        /// Which one.
        file: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file holds no certificate.
    #[error("{} holds no certificate: it needs at least one CERTIFICATE block", .file.display())]
    NoCertificate {
        /// Which one.
        file: PathBuf,
    },
    /// A file holds no private key.
    #[error("{} holds no private key: it needs a PRIVATE KEY block, not encrypted", .file.display())]
    NoKey {
        /// Which one.
        file: PathBuf,
    },
    /// A certificate in a file cannot be used.
    #[error("a certificate in {} cannot be used: {reason}", .file.display())]
    Certificate {
        /// Which one.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The private key in a file cannot be used.
    #[error("the private key in {} cannot be used: its kind is not supported or it is damaged", .file.display())]
    Key {
        /// Which one.
        file: PathBuf,
    },
    /// Certificate and key do not belong together.
    #[error("the key in {} does not belong to the certificate in {}", .key.display(), .certificate.display())]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// The library refused the configuration as a whole.
    #[error("this TLS configuration cannot be built: {0}")]
    Configuration(String),
}

/// The cryptography used everywhere: aws-lc-rs with post-quantum key exchange preferred.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

const ALPN_HTTP2: &[u8] = b"h2";
const ALPN_HTTP1: &[u8] = b"http/1.1";

fn negotiated(protocol: Option<&[u8]>) -> Negotiated {
    if protocol == Some(ALPN_HTTP2) { Negotiated::Http2 } else { Negotiated::Http1 }
}

#[cfg(test)]
pub(crate) mod pki;
#[cfg(test)]
mod tests;
