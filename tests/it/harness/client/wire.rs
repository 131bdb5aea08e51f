//! A client on the wire of the run: a test writes HTTP/1.1 and reads answers, whatever is spoken in between.
//!
//! Over HTTP/1.1 it is [`Raw`]. Over HTTP/2 the bytes are read by the strict oracle and sent as the same message: fields
//! in lower case, `Host` as `:authority`, the body in frames as its pieces come, trailers behind it. What HTTP/2 does not
//! have is left out, namely the framing and the other fields of a connection (RFC 9113 §8.2.2). Bytes that are no
//! strictly well-formed HTTP/1.1 in origin-form have no equivalent and panic: such a test is about HTTP/1.1 itself and
//! uses [`Raw`].

use std::io;

use bytes::Bytes;
use h2::SendStream;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::h2::{Exchange, H2};
use super::{Address, Broken, Raw, Reply, request_head};
use crate::harness::soon;
use crate::harness::strict::{self, BodyReader, Head};
use crate::harness::wires::{Version, wires};

/// A connection to Sidekey; requests on it come one after the other.
pub enum Client {
    /// HTTP/1.1.
    Http1(Box<Raw>),
    /// HTTP/2 with prior knowledge.
    Http2(Box<Translated>),
}

impl Client {
    /// Connects in clear, over TCP or a Unix socket.
    pub async fn connect(address: impl Into<Address>) -> Self {
        match wires().client {
            Version::Http1 => Self::Http1(Box::new(Raw::connect(address).await)),
            Version::Http2 => Self::Http2(Box::new(Translated::connect(address.into()).await)),
        }
    }

    /// Sends bytes of HTTP/1.1; panics where the peer is gone.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("a peer that takes bytes");
    }

    /// Sends bytes of HTTP/1.1, which fails where the peer is gone.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        match self {
            Self::Http1(raw) => raw.try_send(bytes).await,
            Self::Http2(translated) => translated.try_send(bytes.as_ref()).await,
        }
    }

    /// Sends a well-formed request: `Host` and `Content-Length` are added where they are missing.
    pub async fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) {
        match self {
            Self::Http1(raw) => raw.request(method, path, headers, body).await,
            Self::Http2(translated) => {
                let head = request_head(&translated.peer, method, path, headers, body.as_ref());
                // A stream whose body is not wanted is answered and then takes no more of it; the answer says so.
                drop(translated.try_send(&[&head, body.as_ref()].concat()).await);
            }
        }
    }

    /// The next whole response; panics where it is malformed, truncated or late.
    pub async fn response(&mut self) -> Reply {
        self.try_response().await.unwrap_or_else(|broken| panic!("no whole response: {broken:?}"))
    }

    /// The next response, or what was wrong with it.
    pub async fn try_response(&mut self) -> Result<Reply, Broken> {
        match self {
            Self::Http1(raw) => raw.try_response().await,
            Self::Http2(translated) => translated.try_response().await,
        }
    }

    /// The head of the next response; its body then comes by `piece`.
    pub async fn head(&mut self) -> Reply {
        match self {
            Self::Http1(raw) => raw.head().await,
            Self::Http2(translated) => translated.exchange().head().await.expect("a response head"),
        }
    }

    /// The next interim response (`100`, `103`).
    pub async fn interim(&mut self) -> u16 {
        match self {
            Self::Http1(raw) => raw.interim().await,
            Self::Http2(translated) => translated.exchange().interim().await,
        }
    }

    /// The next piece of the body as it arrives; `None` at its end. Panics where it is truncated.
    pub async fn piece(&mut self) -> Option<Vec<u8>> {
        self.try_piece().await.expect("a whole body")
    }

    /// The next piece of the body, or how it broke.
    pub async fn try_piece(&mut self) -> Result<Option<Vec<u8>>, String> {
        match self {
            Self::Http1(raw) => raw.try_piece().await,
            Self::Http2(translated) => loop {
                let piece = translated.exchange().piece().await.map_err(|error| error.to_string())?;
                // The mark of the end may come in a frame of its own, which is no piece.
                if piece.as_ref().is_none_or(|piece| !piece.is_empty()) {
                    return Ok(piece.map(|piece| piece.to_vec()));
                }
            },
        }
    }

    /// Goes away in the middle of a request: its connection is reset, or its stream.
    pub fn reset(self) {
        match self {
            Self::Http1(raw) => raw.reset(),
            Self::Http2(mut translated) => {
                if let Some(sending) = translated.sending.as_mut() {
                    sending.send_reset(h2::Reason::CANCEL);
                }
            }
        }
    }

    /// Waits for the server to end the connection after an answer that says so. Over HTTP/2 no answer does: its stream
    /// has ended, and others of the connection go on.
    pub async fn closed(&mut self) {
        match self {
            Self::Http1(raw) => raw.closed().await,
            Self::Http2(_) => {}
        }
    }
}

/// An HTTP/2 connection on which HTTP/1.1 is written.
pub struct Translated {
    h2: H2,
    peer: Address,
    // Bytes that do not make a whole head yet.
    buffer: Vec<u8>,
    // The request whose body is still to come, and how it is framed.
    body: Option<BodyReader>,
    // Kept after the end of the body too: dropping it before the answer has come would reset the stream.
    sending: Option<SendStream<Bytes>>,
    exchange: Option<Exchange>,
}

impl Translated {
    async fn connect(peer: Address) -> Self {
        let h2 = H2::connect(&peer).await;
        Self { h2, peer, buffer: Vec::new(), body: None, sending: None, exchange: None }
    }

    fn exchange(&mut self) -> &mut Exchange {
        self.exchange.as_mut().expect("a request was sent")
    }

    async fn try_response(&mut self) -> Result<Reply, Broken> {
        let broken = |error: h2::Error, partial| Broken { what: error.to_string(), partial };
        let exchange = self.exchange();
        let mut reply = exchange.head().await.map_err(|error| broken(error, None))?;
        loop {
            match exchange.piece().await {
                Ok(Some(piece)) => reply.body.extend_from_slice(&piece),
                Ok(None) => return Ok(Reply { body: reply.body, ..exchange.head().await.expect("it has come") }),
                Err(error) => return Err(broken(error, Some(reply))),
            }
        }
    }

    async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        while !self.buffer.is_empty() {
            if self.body.is_none() {
                let head = strict::request_head(&self.buffer);
                let Some(head) = head.unwrap_or_else(|what| panic!("not for HTTP/2: {}", what.0)) else { break };
                let raw: Vec<u8> = self.buffer.drain(..head.length).collect();
                self.begin(&head, &raw).await?;
            }
            self.body().await?;
        }
        Ok(())
    }

    async fn begin(&mut self, head: &Head, raw: &[u8]) -> io::Result<()> {
        assert_eq!(head.minor, 1, "HTTP/1.0 has no equivalent over HTTP/2");
        let body = BodyReader::new(head.framing);
        let named = self.h2.named(head.all("host").first().copied());
        let opened = named.open_with(&head.method, &head.target, fields(raw), body.is_done()).await;
        let (exchange, sending) = opened.map_err(io::Error::other)?;
        (self.exchange, self.sending) = (Some(exchange), Some(sending));
        self.body = (!body.is_done()).then_some(body);
        Ok(())
    }

    /// Sends what has come of the body.
    async fn body(&mut self) -> io::Result<()> {
        let (Some(body), Some(sending)) = (self.body.as_mut(), self.sending.as_mut()) else { return Ok(()) };
        let (taken, data) = body.feed(&self.buffer).unwrap_or_else(|what| panic!("not for HTTP/2: {}", what.0));
        self.buffer.drain(..taken);
        let mut data = Bytes::from(data);
        let (ends, mut sent) = (body.is_done() && body.trailers.is_empty(), false);
        while !data.is_empty() {
            sending.reserve_capacity(data.len());
            let granted = soon("room to send", std::future::poll_fn(|cx| sending.poll_capacity(cx))).await;
            let granted = granted.unwrap_or(Err(h2::Reason::CANCEL.into())).map_err(io::Error::other)?;
            let piece = data.split_to(granted.min(data.len()));
            sent = ends && data.is_empty();
            sending.send_data(piece, sent).map_err(io::Error::other)?;
        }
        if !body.is_done() {
            return Ok(());
        }
        let trailers: Vec<(&str, &str)> = body.trailers.iter().map(|(name, value)| (&**name, &**value)).collect();
        match (sent, ends) {
            (true, _) => {}
            (false, true) => sending.send_data(Bytes::new(), true).map_err(io::Error::other)?,
            (false, false) => sending.send_trailers(super::h2::header_map(&trailers)).map_err(io::Error::other)?,
        }
        self.body = None;
        Ok(())
    }
}

/// The fields of a head that the oracle has read, with the bytes of their values.
fn fields(head: &[u8]) -> HeaderMap {
    let lines = head.split(|&byte| byte == b'\n').skip(1).map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let mut fields = HeaderMap::new();
    for line in lines {
        let colon = line.iter().position(|&byte| byte == b':').expect("a field line");
        let name = HeaderName::from_bytes(&line[..colon]).expect("a field name");
        if !STAYS.contains(&name.as_str()) {
            fields.append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).expect("a field value"));
        }
    }
    fields
}

/// What HTTP/1.1 says of a connection and of framing; `Host` becomes `:authority`.
const STAYS: [&str; 7] =
    ["host", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings"];
