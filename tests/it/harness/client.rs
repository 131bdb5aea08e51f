//! Clients: HTTP/1.1 on a socket, byte for byte ([`Raw`]), HTTP/2 by the h2 crate (`client::h2`), and the one of them that
//! the run's pair of wires names ([`Client`]), which is what a test uses that is about neither.
//!
//! Nothing is repaired or retried. Answers are read by the strict oracle, so a malformed or truncated one is noticed.

pub mod archive;
pub mod h2;
mod wire;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::pki::{self, Leaf, Versions};
use super::socket::Socket;
use super::strict::{self, BodyReader, Framing, Head};
use super::{PATIENCE, soon, within};
pub use wire::Client;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// The TCP address; panics on a Unix socket.
    pub fn tcp(&self) -> SocketAddr {
        match self {
            Self::Tcp(addr) => *addr,
            Self::Unix(path) => panic!("{} is no TCP address", path.display()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr)
    }
}

impl From<&Address> for Address {
    fn from(address: &Address) -> Self {
        address.clone()
    }
}

/// A response, as it was received.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Interim responses that came before it.
    pub interim: Vec<u16>,
    /// Fields in the order they came, names as they were written.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Trailer fields.
    pub trailers: Vec<(String, String)>,
}

impl Reply {
    /// The only value of the header `name`; panics where it came more than once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() <= 1, "{name} came more than once: {values:?}");
        values.first().copied()
    }

    /// Every value of the header `name`.
    pub fn all(&self, name: &str) -> Vec<&str> {
        strict::all(&self.headers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as text, without what only tells two refusals of the same apart: the id of the request.
    pub fn said(&self) -> String {
        let id = self.json()["request_id"].as_str().expect("a request id").to_owned();
        assert!(id.len() == 30 && self.header("sidekey-request-id") == Some(&id), "{}", self.text());
        self.text().replace(&id, "")
    }

    /// The body as JSON; panics with the whole reply where it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }
}

/// A response that did not end as it promised.
#[derive(Clone, Debug)]
pub struct Broken {
    /// What went wrong.
    pub what: String,
    /// What had come by then, where there was a head.
    pub partial: Option<Reply>,
}

/// An HTTP/1.1 connection of which the test decides every byte.
pub struct Raw {
    socket: Socket,
    peer: Address,
    buffer: Vec<u8>,
    eof: bool,
    method: String,
    reading: Option<(Reply, BodyReader)>,
}

impl Raw {
    /// Connects in clear, over TCP or a Unix socket.
    pub async fn connect(address: impl Into<Address>) -> Self {
        let peer = address.into();
        let socket = soon("a connection", dial(&peer)).await;
        Self::on(socket, peer)
    }

    /// Connects over TLS, trusting the test authority and expecting `name`.
    pub async fn tls(address: impl Into<Address>, name: &str, certificate: Option<&Leaf>) -> std::io::Result<Self> {
        let peer = address.into();
        let socket = soon("a TLS handshake", dial_tls(&peer, name, &["http/1.1"], certificate)).await?;
        Ok(Self::on(socket, peer))
    }

    /// Connects over TLS 1.2, where the server speaks it.
    pub async fn tls12(address: impl Into<Address>, name: &str) -> std::io::Result<Self> {
        let peer = address.into();
        let config = pki::client_config(&["http/1.1"], None, Versions::Old);
        let socket = soon("a TLS handshake", dial_tls_with(&peer, name, config)).await?;
        Ok(Self::on(socket, peer))
    }

    fn on(socket: Socket, peer: Address) -> Self {
        Self { socket, peer, buffer: Vec::new(), eof: false, method: String::new(), reading: None }
    }

    /// Sends bytes as they are; panics where the peer is gone.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("a peer that takes bytes");
    }

    /// Sends bytes as they are, which fails where the peer is gone.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        let bytes = bytes.as_ref();
        if let Some(end) = bytes.iter().position(|&byte| byte == b' ') {
            // The answer to HEAD has no body: the last method sent decides how the next answer is read.
            if !bytes[..end].is_empty() && bytes[..end].iter().all(u8::is_ascii_uppercase) {
                self.method = String::from_utf8_lossy(&bytes[..end]).into_owned();
            }
        }
        let sent = async {
            self.socket.write_all(bytes).await?;
            self.socket.flush().await
        };
        soon("room to send", sent).await
    }

    /// Sends a well-formed request: `Host` and `Content-Length` are added where they are missing.
    pub async fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) {
        let head = request_head(&self.peer, method, path, headers, body.as_ref());
        self.send([&head, body.as_ref()].concat()).await;
    }

    /// The same to who may answer before all of it was taken, and take no more.
    pub async fn offer(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) {
        let head = request_head(&self.peer, method, path, headers, body.as_ref());
        drop(self.try_send([&head, body.as_ref()].concat()).await);
    }

    /// The next whole response; panics where it is malformed, truncated or late.
    pub async fn response(&mut self) -> Reply {
        match self.try_response().await {
            Ok(reply) => reply,
            Err(broken) => panic!("no whole response: {broken:?}"),
        }
    }

    /// The next response, or what was wrong with it.
    pub async fn try_response(&mut self) -> Result<Reply, Broken> {
        let mut reply = self.try_head().await?;
        loop {
            match self.try_piece().await {
                Ok(Some(piece)) => reply.body.extend_from_slice(&piece),
                Ok(None) => {
                    reply.trailers = self.trailers();
                    return Ok(reply);
                }
                Err(what) => return Err(Broken { what, partial: Some(reply) }),
            }
        }
    }

    /// The head of the next response; its body then comes by `piece`.
    pub async fn head(&mut self) -> Reply {
        match self.try_head().await {
            Ok(reply) => reply,
            Err(broken) => panic!("no response head: {broken:?}"),
        }
    }

    /// The next interim response (`100`, `103`).
    pub async fn interim(&mut self) -> u16 {
        let (head, _) = self.any_head().await.unwrap_or_else(|broken| panic!("no interim response: {broken:?}"));
        let status = status(&head);
        assert!(status < 200, "{status} is no interim response");
        status
    }

    /// The head of the next final response, or why there is none.
    pub async fn try_head(&mut self) -> Result<Reply, Broken> {
        let mut interim = Vec::new();
        loop {
            let (head, raw) = self.any_head().await?;
            let status = status(&head);
            if status < 200 && status != 101 {
                interim.push(status);
                continue;
            }
            let reply = Reply { status, interim, headers: head.fields, ..Reply::default() };
            archive::head(&self.peer, &raw);
            self.reading = (status != 101).then(|| (reply.clone(), BodyReader::new(head.framing)));
            return Ok(reply);
        }
    }

    /// The next piece of the body as it arrives; `None` at its end. Panics where it is truncated.
    pub async fn piece(&mut self) -> Option<Vec<u8>> {
        self.try_piece().await.expect("a whole body")
    }

    /// The next piece of the body, or how it broke.
    pub async fn try_piece(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            let Some((reply, body)) = self.reading.as_mut() else { return Ok(None) };
            let (taken, data) = body.feed(&self.buffer).map_err(|violation| violation.0)?;
            self.buffer.drain(..taken);
            archive::body(&self.peer, reply, &data);
            if !data.is_empty() {
                return Ok(Some(data));
            }
            if body.is_done() || (self.eof && body.framing() == Framing::UntilClose) {
                let trailers = format!("{:?}", body.trailers);
                archive::keep(&self.peer, trailers.as_bytes());
                return Ok(None);
            }
            if self.eof {
                return Err("the connection ended before the body did".to_owned());
            }
            self.fill().await?;
        }
    }

    /// Bytes as they arrive, for what follows a `101`; empty at the end of the connection.
    pub async fn bytes(&mut self) -> Vec<u8> {
        if self.buffer.is_empty() && !self.eof {
            self.fill().await.expect("an open connection");
        }
        std::mem::take(&mut self.buffer)
    }

    /// Waits for exactly `length` bytes, for what follows a `101`.
    pub async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert!(!self.eof, "the connection ended after {} of {length} bytes", self.buffer.len());
            self.fill().await.expect("an open connection");
        }
        self.buffer.drain(..length).collect()
    }

    /// Waits for the connection to end; panics where anything but its end comes.
    pub async fn closed(&mut self) {
        while !self.eof {
            // A reset is an end as well.
            if self.fill().await.is_err() {
                break;
            }
            assert!(self.buffer.is_empty(), "bytes instead of an end: {}", self.buffer.escape_ascii());
        }
        assert!(self.buffer.is_empty(), "bytes before the end: {}", self.buffer.escape_ascii());
    }

    /// Sends FIN and keeps reading: a half-closed connection.
    pub async fn finish(&mut self) {
        self.try_finish().await.expect("an open connection");
    }

    /// Sends FIN, which fails where the peer is gone.
    pub async fn try_finish(&mut self) -> std::io::Result<()> {
        self.socket.shutdown().await
    }

    /// What TLS agreed on, as `(version, ALPN protocol)`.
    pub fn agreed(&self) -> Option<(String, Option<String>)> {
        self.socket.agreed()
    }

    /// Ends the connection by RST.
    pub fn reset(self) {
        self.socket.reset();
    }

    fn trailers(&self) -> Vec<(String, String)> {
        self.reading.as_ref().map(|(_, body)| body.trailers.clone()).unwrap_or_default()
    }

    async fn any_head(&mut self) -> Result<(Head, Vec<u8>), Broken> {
        let broken = |what: String| Broken { what, partial: None };
        loop {
            let parsed = strict::response_head(&self.buffer, &self.method);
            match parsed.map_err(|violation| broken(format!("malformed response: {}", violation.0)))? {
                Some(head) => {
                    let raw = self.buffer.drain(..head.length).collect();
                    return Ok((head, raw));
                }
                None if self.eof => {
                    return Err(broken(format!("the connection ended after {} bytes", self.buffer.len())));
                }
                None => self.fill().await.map_err(broken)?,
            }
        }
    }

    async fn fill(&mut self) -> Result<(), String> {
        let mut bytes = vec![0; 64 << 10];
        let read = within(PATIENCE, "bytes from the server", self.socket.read(&mut bytes)).await;
        match read {
            Ok(0) => self.eof = true,
            Ok(length) => self.buffer.extend_from_slice(&bytes[..length]),
            Err(error) => {
                self.eof = true;
                // TLS without close_notify is an error of the TLS layer, and truncation to us.
                return Err(error.to_string());
            }
        }
        Ok(())
    }
}

fn status(head: &Head) -> u16 {
    head.target.parse().expect("three digits")
}

fn request_head(peer: &Address, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let given = |name: &str| headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    if !given("host") {
        let host = match peer {
            Address::Tcp(addr) => addr.to_string(),
            Address::Unix(_) => "localhost".to_owned(),
        };
        head += &format!("Host: {host}\r\n");
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let wants_length = !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH");
    if wants_length && !given("content-length") && !given("transfer-encoding") {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    (head + "\r\n").into_bytes()
}

/// One request on a connection of its own, over the run's wire.
pub async fn request(
    address: impl Into<Address>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl AsRef<[u8]>,
) -> Reply {
    let mut client = Client::connect(address).await;
    client.request(method, path, headers, body).await;
    client.response().await
}

/// One GET on a connection of its own, over the run's wire.
pub async fn get(address: impl Into<Address>, path: &str, headers: &[(&str, &str)]) -> Reply {
    request(address, "GET", path, headers, "").await
}

/// One request over HTTP/1.1, whatever the run's wire is: for what only HTTP/1.1 has.
pub async fn http1(
    address: impl Into<Address>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl AsRef<[u8]>,
) -> Reply {
    let mut raw = Raw::connect(address).await;
    raw.request(method, path, headers, body).await;
    raw.response().await
}

/// A request in HTTP/1.1's own text, on a connection of its own, over the run's wire.
pub async fn ask(address: impl Into<Address>, text: impl AsRef<[u8]>) -> Reply {
    let mut client = Client::connect(address).await;
    client.send(text).await;
    client.response().await
}

async fn dial(peer: &Address) -> Socket {
    match peer {
        Address::Tcp(addr) => {
            let stream = TcpStream::connect(addr).await.unwrap_or_else(|error| panic!("{addr}: {error}"));
            stream.set_nodelay(true).expect("nodelay on a new socket");
            Socket::Tcp(stream)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await;
            Socket::Unix(stream.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        }
    }
}

async fn dial_tls(peer: &Address, name: &str, alpn: &[&str], certificate: Option<&Leaf>) -> std::io::Result<Socket> {
    dial_tls_with(peer, name, pki::client_config(alpn, certificate, Versions::All)).await
}

async fn dial_tls_with(peer: &Address, name: &str, config: rustls::ClientConfig) -> std::io::Result<Socket> {
    let stream = TcpStream::connect(peer.tcp()).await?;
    stream.set_nodelay(true)?;
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(name.to_owned()).expect("a valid server name");
    Ok(Socket::Tls(Box::new(connector.connect(name, stream).await?.into())))
}
