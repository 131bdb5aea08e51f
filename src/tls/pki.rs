//! Certificates for tests: a CA made a moment ago and what it signs.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};

use super::{ClientTls, ServerTls, server_config};

/// A CA with a directory for the files it makes.
pub(crate) struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(crate) directory: tempfile::TempDir,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "Test CA");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Ca { issuer, directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.as_ref().pem()
    }

    /// Writes the CA's own certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.write("ca.pem", &self.pem())
    }

    /// A certificate for `names` and its key, as PEM.
    pub(crate) fn issue(&self, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &*self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Writes a certificate for `names` and its key into files that begin with `stem`.
    pub(crate) fn issue_files(&self, stem: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.issue(names);
        (self.write(&format!("{stem}.pem"), &certificate), self.write(&format!("{stem}.key"), &key))
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A server for `names`.
    pub(crate) fn server(&self, names: &[&str]) -> ServerTls {
        let (certificate, key) = self.issue_files("server", names);
        server_config(&certificate, &key, None).unwrap()
    }

    /// A client that trusts this CA only.
    pub(crate) fn client(&self) -> ClientTls {
        ClientTls::trusting_only(self.pem().as_bytes()).unwrap()
    }
}
