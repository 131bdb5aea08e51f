//! TLS towards an upstream: whom we trust, what we offer, and the handshake.
//!
//! Trust is the platform's own store plus the CA files of the configuration. In a container without a store it is the
//! set of roots compiled in (Mozilla's, through webpki-roots) plus those files. The peer is always verified against the
//! name that was asked for, a literal address included.

use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};

use super::stream::{ClientStream, Fault};
use super::{ALPN_HTTP1, ALPN_HTTP2, Negotiated, TlsError, negotiated, pem, provider};

/// Which HTTP versions the client hello offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// `h2`, then `http/1.1`.
    Http2OrHttp1,
    /// `http/1.1` only: WebSocket needs it.
    Http1,
}

/// Why a handshake failed. Contains what the peer's certificate and alerts say, nothing of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The peer's certificate is not acceptable for this name.
    #[error("the certificate is not accepted: {0}")]
    Certificate(String),
    /// The peer does not speak TLS, no common version or cipher, an alert, or it hung up.
    #[error("the handshake failed: {0}")]
    Protocol(String),
}

/// Everything needed to open verified TLS connections to upstreams. Cheap to clone; the clones share the session
/// cache.
#[derive(Clone)]
pub struct ClientTls {
    http2_or_http1: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}

/// The trust for real upstreams: the platform's store (or, where it has none, the compiled-in roots) plus `ca_files`.
pub fn client_config<P: AsRef<Path>>(ca_files: &[P]) -> Result<ClientTls, TlsError> {
    let provider = provider();
    let mut extra = RootCertStore::empty();
    let mut certificates = Vec::new();
    for file in ca_files.iter().map(AsRef::as_ref) {
        extra.roots.extend(pem::roots(file)?.roots);
        certificates.extend(pem::certificates(file)?);
    }
    // Asked without the extra files first: with them an empty platform store would go unnoticed, and a container
    // without one would then trust nothing but the files.
    let verifier: Arc<dyn ServerCertVerifier> = match platform_verifier(Vec::new(), &provider) {
        Ok(verifier) if certificates.is_empty() => Arc::new(verifier),
        Ok(_) => Arc::new(
            platform_verifier(certificates, &provider).map_err(|error| TlsError::Configuration(error.to_string()))?,
        ),
        Err(_) => {
            extra.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            webpki_verifier(extra, &provider)?
        }
    };
    ClientTls::with_verifier(verifier, &provider)
}

/// Trusts exactly the first certificate of `certificate_file`, whatever its name, issuer or dates, and speaks HTTP/1.1
/// only: for asking a port of our own, whose certificate file we can read, whether it is well.
pub fn pinned_client_config(certificate_file: &Path) -> Result<ClientTls, TlsError> {
    let provider = provider();
    let pinned = pem::certificates(certificate_file)?.swap_remove(0);
    let verifier = Arc::new(PinnedVerifier { pinned, provider: Arc::clone(&provider) });
    let mut tls = ClientTls::with_verifier(verifier, &provider)?;
    tls.http2_or_http1 = Arc::clone(&tls.http1);
    Ok(tls)
}

impl ClientTls {
    /// Trusts the certificates of one PEM text and nothing else: for a process that made its own CA a moment ago (the
    /// demo, a test).
    pub fn trusting_only(ca_pem: &[u8]) -> Result<Self, TlsError> {
        let provider = provider();
        let name = PathBuf::from("the CA given");
        let mut roots = RootCertStore::empty();
        for certificate in pem::parse_certificates(&name, ca_pem)? {
            roots
                .add(certificate)
                .map_err(|error| TlsError::Certificate { file: name.clone(), reason: error.to_string() })?;
        }
        Self::with_verifier(webpki_verifier(roots, &provider)?, &provider)
    }

    /// Makes the handshake with the peer behind `stream`, verified for `server_name`: a DNS name or an address without
    /// brackets. Bounding its time is the caller's.
    pub async fn connect<S>(
        &self,
        stream: S,
        server_name: &str,
        offer: Offer,
    ) -> Result<(ClientStream<S>, Negotiated), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| HandshakeError::Certificate("the host is no name a certificate can carry".into()))?;
        let config = match offer {
            Offer::Http2OrHttp1 => &self.http2_or_http1,
            Offer::Http1 => &self.http1,
        };
        let mut stream = ClientStream::new(Arc::clone(config), name, stream).map_err(handshake_error)?;
        poll_fn(|cx| stream.poll_handshake(cx)).await.map_err(handshake_error)?;
        let agreed = negotiated(stream.protocol());
        Ok((stream, agreed))
    }

    fn with_verifier(verifier: Arc<dyn ServerCertVerifier>, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| TlsError::Configuration(error.to_string()))?
            .dangerous() // The verifiers given are the platform's, webpki's and a pin; none accepts everybody.
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
        let mut http1 = config.clone();
        http1.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
        // A ticket taken for one offer is not shown with the other.
        http1.resumption = rustls::client::Resumption::default();
        Ok(ClientTls { http2_or_http1: Arc::new(config), http1: Arc::new(http1) })
    }
}

fn platform_verifier(
    extra: Vec<CertificateDer<'static>>,
    provider: &Arc<CryptoProvider>,
) -> Result<rustls_platform_verifier::Verifier, rustls::Error> {
    rustls_platform_verifier::Verifier::new_with_extra_roots(extra, Arc::clone(provider))
}

fn webpki_verifier(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| TlsError::Configuration(error.to_string()))?;
    Ok(verifier)
}

fn handshake_error(fault: Fault) -> HandshakeError {
    match fault {
        Fault::Tls(rustls::Error::InvalidCertificate(reason)) => HandshakeError::Certificate(objection(&reason)),
        Fault::Tls(other) => HandshakeError::Protocol(other.to_string()),
        Fault::Truncated => HandshakeError::Protocol("the peer closed the connection".into()),
        Fault::Socket(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            HandshakeError::Protocol("the peer closed the connection".into())
        }
        Fault::Socket(error) => HandshakeError::Protocol(error.to_string()),
    }
}

/// What is wrong with a certificate. Never when it was looked at: that would make each answer another one.
fn objection(reason: &CertificateError) -> String {
    match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        CertificateError::UnknownIssuer => "its issuer is not trusted (upstream.ca_files adds one)".to_owned(),
        other => other.to_string(),
    }
}

/// Accepts one certificate, byte for byte, from a peer that proves it has the key.
#[derive(Debug)]
struct PinnedVerifier {
    pinned: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if end_entity.as_ref() == self.pinned.as_ref() {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
