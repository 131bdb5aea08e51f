//! An upstream: it answers with as many bytes as the path ends with, behind `/c/` in chunks, each connection by a thread
//! of its own. What came with the request is read to its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::Fault;

/// Starts one, behind TLS or without.
pub(crate) fn start(tls: Option<ServerConfig>) -> Result<SocketAddr, Fault> {
    let tls = tls.map(Arc::new);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tls = tls.clone();
            // Ends when the server closes the connection.
            std::thread::spawn(move || drop(serve(stream, tls)));
        }
    });
    Ok(address)
}

/// TLS with a certificate that somebody has signed.
pub(crate) fn tls(issuer: &Issuer<'static, KeyPair>) -> Result<ServerConfig, Fault> {
    let key = KeyPair::generate()?;
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned(), "two.localhost".to_owned()])?.signed_by(&key, issuer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key)?)
}

fn serve(stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> Result<(), Fault> {
    stream.set_nodelay(true)?;
    match tls {
        None => answer_all(stream),
        Some(tls) => answer_all(StreamOwned::new(ServerConnection::new(tls)?, stream)),
    }
}

fn answer_all(stream: impl Read + Write) -> Result<(), Fault> {
    let mut stream = BufReader::with_capacity(64 * 1024, stream);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if stream.read_line(&mut first)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        std::io::copy(&mut (&mut stream).take(length), &mut std::io::sink())?;
        let path = first.split(' ').nth(1).ok_or("no path")?;
        let size: usize = path.rsplit('/').next().unwrap_or_default().parse()?;
        stream.get_mut().write_all(&answer(path.contains("/c/"), &vec![b'x'; size]))?;
        stream.get_mut().flush()?;
    }
}

fn answer(is_chunked: bool, body: &[u8]) -> Vec<u8> {
    let mut answer = b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 00:00:00 GMT\r\n\
        Content-Type: application/json; charset=utf-8\r\nCache-Control: private, max-age=60, s-maxage=60\r\n\
        Vary: Accept, Authorization, Cookie\r\nETag: W/\"4f53cda18c2baa0c0354bb5f9a3ecbe5\"\r\n\
        X-RateLimit-Limit: 5000\r\nX-RateLimit-Remaining: 4987\r\n"
        .to_vec();
    if is_chunked {
        answer.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
        for chunk in body.chunks(4096) {
            answer.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            answer.extend_from_slice(chunk);
            answer.extend_from_slice(b"\r\n");
        }
        answer.extend_from_slice(b"0\r\n\r\n");
    } else {
        answer.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        answer.extend_from_slice(body);
    }
    answer
}
