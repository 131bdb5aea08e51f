//! The test PKI: one certificate authority for each test process, leaves for any name, TLS configurations of both sides.
//!
//! Keys live in memory; only what the server must read (`ca.pem`, client certificates) is written to a folder.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A certificate authority that exists for this process only.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
}

/// A certificate with its key, as PEM text.
#[derive(Clone)]
pub struct Leaf {
    /// The certificate alone; the authority is a root.
    pub certificate_pem: String,
    /// The private key, PKCS #8.
    pub key_pem: String,
}

/// What is wrong with a leaf, where a test wants it wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Nothing.
    Now,
    /// It ended years ago.
    Expired,
}

/// The authority every server under test trusts (`upstream.ca_files`).
pub fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::generate("Sidekey test authority"))
}

/// An authority nobody trusts, for leaves that must be refused.
pub fn stranger() -> &'static Authority {
    static STRANGER: OnceLock<Authority> = OnceLock::new();
    STRANGER.get_or_init(|| Authority::generate("A stranger"))
}

impl Authority {
    fn generate(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).expect("a self-signed authority");
        Self {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Writes this authority's certificate into `folder` as `ca.pem` and returns its path.
    pub fn write_ca(&self, folder: &Path) -> PathBuf {
        let file = folder.join("ca.pem");
        std::fs::write(&file, &self.certificate_pem).expect("ca.pem");
        file
    }

    /// A server certificate for `names` (host names or IP addresses).
    pub fn leaf(&self, names: &[&str]) -> Leaf {
        self.leaf_valid(names, Validity::Now)
    }

    /// A server certificate with a validity of the test's choice.
    pub fn leaf_valid(&self, names: &[&str], validity: Validity) -> Leaf {
        self.sign(names, validity, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client certificate with `name` as its common and alternative name.
    pub fn client(&self, name: &str) -> Leaf {
        self.sign(&[name], Validity::Now, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, names: &[&str], validity: Validity, usage: ExtendedKeyUsagePurpose) -> Leaf {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).expect("valid names");
        params.distinguished_name.push(DnType::CommonName, names.first().map_or("", String::as_str));
        params.extended_key_usages = vec![usage];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = match validity {
            Validity::Now => date_time_ymd(2099, 1, 1),
            Validity::Expired => date_time_ymd(2021, 1, 1),
        };
        let certificate = params.signed_by(&key, &self.issuer).expect("a signed leaf");
        Leaf { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("the authority's certificate");
        roots
    }
}

impl Leaf {
    /// Writes `{stem}.pem` and `{stem}.key` into `folder` and returns their paths.
    pub fn write(&self, folder: &Path, stem: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = (folder.join(format!("{stem}.pem")), folder.join(format!("{stem}.key")));
        std::fs::write(&certificate, &self.certificate_pem).expect("a certificate file");
        std::fs::write(&key, &self.key_pem).expect("a key file");
        (certificate, key)
    }

    fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let certificate = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).expect("our own PEM");
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("our own PEM");
        (vec![certificate], key)
    }
}

/// The server side of TLS with `leaf`; client certificates of `authority()` are required when `clients` says so.
pub fn server_config(leaf: &Leaf, alpn: &[&str], clients: Clients, versions: Versions) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions.list())
        .expect("the provider's own versions");
    let builder = match clients {
        Clients::Anonymous => builder.with_no_client_auth(),
        Clients::Certified => {
            let roots = Arc::new(authority().roots());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        }
    };
    let (chain, key) = leaf.parts();
    let mut config = builder.with_single_cert(chain, key).expect("a leaf with its key");
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

/// Which versions of TLS an end speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// 1.3 and 1.2.
    All,
    /// 1.2 and nothing newer.
    Old,
}

static OLD: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];

impl Versions {
    fn list(self) -> &'static [&'static rustls::SupportedProtocolVersion] {
        match self {
            Self::All => rustls::ALL_VERSIONS,
            Self::Old => OLD,
        }
    }
}

/// Whether a server asks its clients for certificates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// Any client may come.
    Anonymous,
    /// Only those with a certificate of `authority()`.
    Certified,
}

/// The client side of TLS, trusting `authority()` alone.
pub fn client_config(alpn: &[&str], certificate: Option<&Leaf>, versions: Versions) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions.list())
        .expect("the provider's own versions")
        .with_root_certificates(authority().roots());
    let mut config = match certificate.map(Leaf::parts) {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("a leaf with its key"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

// Named explicitly: the process-wide default is the product's business, not the tests'.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
