//! Handshakes over an in-memory pipe, and what becomes of bad files. The stream itself is tried in the modules below.

mod line;
mod reading;
mod transfer;
mod writing;

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::pki::Ca;
use super::*;

/// Handshakes and carries one byte each way; what the client agreed on.
async fn shake(client: &ClientTls, server: &ServerTls, name: &str, offer: Offer) -> Result<Negotiated, HandshakeError> {
    let (near, far) = duplex(64 * 1024);
    let serve = async {
        let Ok((mut stream, agreed)) = server.accept(far).await else { return None };
        let byte = stream.read_u8().await.ok()?;
        stream.write_u8(byte).await.ok()?;
        stream.flush().await.ok()?;
        Some(agreed)
    };
    let connect = async {
        let (mut stream, agreed) = client.connect(near, name, offer).await?;
        stream.write_u8(7).await.unwrap();
        stream.flush().await.unwrap();
        // A server that wants a client certificate says no only now (TLS 1.3).
        let answer = stream.read_u8().await.map_err(|error| HandshakeError::Protocol(error.to_string()))?;
        assert_eq!(answer, 7);
        Ok(agreed)
    };
    let (served, connected) = tokio::join!(serve, connect);
    if let Ok(agreed) = &connected {
        assert_eq!(served, Some(*agreed));
    }
    connected
}

#[tokio::test]
async fn the_offer_decides_the_protocol() {
    let ca = Ca::new();
    let (client, server) = (ca.client(), ca.server(&["api.test", "127.0.0.1", "::1"]));
    assert_eq!(shake(&client, &server, "api.test", Offer::Http2OrHttp1).await, Ok(Negotiated::Http2));
    assert_eq!(shake(&client, &server, "api.test", Offer::Http1).await, Ok(Negotiated::Http1));
    for literal in ["127.0.0.1", "::1"] {
        assert_eq!(shake(&client, &server, literal, Offer::Http1).await, Ok(Negotiated::Http1));
    }
}

#[tokio::test]
async fn a_wrong_name_or_a_foreign_ca_is_a_certificate_error() {
    let ca = Ca::new();
    let server = ca.server(&["api.test"]);
    for (client, name) in [(ca.client(), "other.test"), (ca.client(), "127.0.0.1"), (Ca::new().client(), "api.test")] {
        let error = shake(&client, &server, name, Offer::Http1).await.unwrap_err();
        assert!(matches!(error, HandshakeError::Certificate(_)), "{error}");
    }
}

#[tokio::test]
async fn the_platforms_trust_takes_extra_files_and_still_refuses_strangers() {
    let ca = Ca::new();
    let server = ca.server(&["api.test"]);
    let trusting = client_config(&[ca.file()]).unwrap();
    assert_eq!(shake(&trusting, &server, "api.test", Offer::Http1).await, Ok(Negotiated::Http1));
    let plain = client_config::<&Path>(&[]).unwrap();
    let error = shake(&plain, &server, "api.test", Offer::Http1).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Certificate(_)), "{error}");
}

#[tokio::test]
async fn a_pin_takes_its_certificate_under_any_name_and_no_other() {
    let ca = Ca::new();
    let (certificate, key) = ca.issue_files("pinned", &["api.test"]);
    let server = server_config(&certificate, &key, None).unwrap();
    let client = pinned_client_config(&certificate).unwrap();
    assert_eq!(shake(&client, &server, "localhost", Offer::Http2OrHttp1).await, Ok(Negotiated::Http1));
    let other = ca.server(&["api.test"]);
    let error = shake(&client, &other, "api.test", Offer::Http1).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Certificate(_)), "{error}");
}

#[tokio::test]
async fn a_peer_that_does_not_speak_tls_is_a_protocol_error() {
    let (near, mut far) = duplex(64 * 1024);
    let answer = async {
        far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        far
    };
    let client = Ca::new().client();
    let (error, _far) = tokio::join!(client.connect(near, "api.test", Offer::Http1), answer);
    assert!(matches!(error, Err(HandshakeError::Protocol(_))));
}

#[tokio::test]
async fn a_client_ca_lets_in_its_own_clients_only() {
    let ca = Ca::new();
    let (certificate, key) = ca.issue_files("server", &["api.test"]);
    let server = server_config(&certificate, &key, Some(&ca.file())).unwrap();
    let stranger = shake(&ca.client(), &server, "api.test", Offer::Http1).await;
    assert!(matches!(stranger, Err(HandshakeError::Protocol(_))), "{stranger:?}");

    for (issuer, welcome) in [(&ca, true), (&Ca::new(), false)] {
        let (near, far) = duplex(64 * 1024);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client_with_certificate(&ca, issuer)));
        let name = ServerName::try_from("api.test").unwrap();
        let (accepted, _connected) = tokio::join!(server.accept(far), connector.connect(name, near));
        assert_eq!(accepted.is_ok(), welcome);
    }
}

fn client_with_certificate(trusted: &Ca, issuer: &Ca) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.pem().as_bytes()).unwrap()).unwrap();
    let (certificate, key) = issuer.issue(&["client.test"]);
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap()
}

#[tokio::test]
async fn the_server_speaks_tls_1_3_only() {
    let ca = Ca::new();
    let server = ca.server(&["api.test"]);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
    let old = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (near, far) = duplex(64 * 1024);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(old));
    let name = ServerName::try_from("api.test").unwrap();
    let (accepted, connected) = tokio::join!(server.accept(far), connector.connect(name, near));
    assert!(accepted.is_err() && connected.is_err());
}

#[tokio::test]
async fn changed_files_are_used_and_bad_ones_change_nothing() {
    let (old, new) = (Ca::new(), Ca::new());
    let (certificate, key) = old.issue_files("server", &["api.test"]);
    let server = server_config(&certificate, &key, None).unwrap();
    assert_eq!(server.reload_if_changed().unwrap(), Reloaded::Unchanged);

    // The certificate arrives before its key, and with a length of its own.
    let (next_certificate, next_key) = new.issue(&["api.test", "a-longer-name.api.test"]);
    std::fs::write(&certificate, &next_certificate).unwrap();
    let error = server.reload_if_changed().unwrap_err();
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
    assert_eq!(shake(&old.client(), &server, "api.test", Offer::Http1).await, Ok(Negotiated::Http1));
    assert!(server.reload_if_changed().is_err(), "it is still wrong");

    std::fs::write(&key, &next_key).unwrap();
    assert_eq!(server.reload_if_changed().unwrap(), Reloaded::Changed);
    assert_eq!(server.reload_if_changed().unwrap(), Reloaded::Unchanged);
    assert_eq!(shake(&new.client(), &server, "api.test", Offer::Http1).await, Ok(Negotiated::Http1));
    assert!(shake(&old.client(), &server, "api.test", Offer::Http1).await.is_err());

    std::fs::remove_file(&key).unwrap();
    let error = server.reload_if_changed().unwrap_err();
    assert!(matches!(&error, TlsError::Read { file, .. } if *file == key), "{error}");
    assert_eq!(shake(&new.client(), &server, "api.test", Offer::Http1).await, Ok(Negotiated::Http1));
}

#[test]
fn errors_name_the_file_and_never_quote_it() {
    let ca = Ca::new();
    let (certificate, key) = ca.issue_files("server", &["api.test"]);
    let secret = "MHcCAQEEIBsecretsecretsecret";
    let broken =
        ca.write("broken.key", &format!("-----BEGIN PRIVATE KEY-----\n{secret}!\n-----END PRIVATE KEY-----\n"));
    let endless = ca.write("endless.key", &format!("-----BEGIN PRIVATE KEY-----\n{secret}\n"));
    let unusable = ca.write("unusable.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let empty = ca.write("empty.pem", "nothing\n");
    let (_, foreign) = ca.issue_files("other", &["api.test"]);

    let cases = [
        (certificate.clone(), broken.clone(), broken),
        (certificate.clone(), endless.clone(), endless),
        (certificate.clone(), unusable.clone(), unusable),
        (certificate.clone(), empty.clone(), empty.clone()),
        (certificate.clone(), foreign.clone(), foreign),
        (empty.clone(), key.clone(), empty),
        (key.clone(), key.clone(), key.clone()),
    ];
    for (certificate, key, named) in cases {
        let error = server_config(&certificate, &key, None).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(named.to_str().unwrap()), "{shown} does not name {}", named.display());
        assert!(!shown.contains("secret"), "{shown}");
    }
    assert!(matches!(server_config(&certificate, &key, Some(&key)), Err(TlsError::NoCertificate { .. })));
    assert!(matches!(client_config(&[ca.directory.path().join("absent.pem")]), Err(TlsError::Read { .. })));
    assert!(matches!(ClientTls::trusting_only(b""), Err(TlsError::NoCertificate { .. })));
}
