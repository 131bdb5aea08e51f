//! An HTTP/2 client: prior knowledge over TCP and Unix sockets, or ALPN over TLS.

use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request};

use super::{Address, Reply, archive, dial, dial_tls};
use crate::harness::pki::Leaf;
use crate::harness::soon;

/// What a stream takes where nothing else is said (RFC 9113 §6.9.2), in bytes.
const DEFAULT_WINDOW: u32 = 65_535;

/// An HTTP/2 connection; requests on it run side by side.
#[derive(Clone)]
pub struct H2 {
    sender: SendRequest<Bytes>,
    peer: Address,
    scheme: &'static str,
    authority: String,
}

impl H2 {
    /// Connects in clear, with prior knowledge.
    pub async fn connect(address: impl Into<Address>) -> Self {
        Self::narrow(address, DEFAULT_WINDOW).await
    }

    /// The same, of which each stream takes so many bytes before somebody reads from it.
    pub async fn narrow(address: impl Into<Address>, window: u32) -> Self {
        let peer = address.into();
        let socket = soon("a connection", dial(&peer)).await;
        let authority = match &peer {
            Address::Tcp(addr) => addr.to_string(),
            Address::Unix(_) => "localhost".to_owned(),
        };
        Self::on(socket, peer, "http", authority, window).await
    }

    /// Connects over TLS, trusting the test authority and expecting `name`; panics unless HTTP/2 is agreed on.
    pub async fn tls(address: impl Into<Address>, name: &str, certificate: Option<&Leaf>) -> std::io::Result<Self> {
        let peer = address.into();
        let socket = soon("a TLS handshake", dial_tls(&peer, name, &["h2"], certificate)).await?;
        let agreed = socket.agreed().and_then(|(_, alpn)| alpn);
        assert_eq!(agreed.as_deref(), Some("h2"), "the server chose another protocol");
        Ok(Self::on(socket, peer, "https", name.to_owned(), DEFAULT_WINDOW).await)
    }

    async fn on(
        socket: crate::harness::socket::Socket,
        peer: Address,
        scheme: &'static str,
        authority: String,
        window: u32,
    ) -> Self {
        let mut builder = h2::client::Builder::new();
        let shaken = builder.initial_window_size(window).handshake(socket);
        let (sender, connection) = soon("an HTTP/2 handshake", shaken).await.expect("HTTP/2");
        tokio::spawn(async move {
            // How the connection ends shows in its streams.
            drop(connection.await);
        });
        Self { sender, peer, scheme, authority }
    }

    /// The same connection, on which requests name this host; its own address where there is none.
    pub(super) fn named(&self, host: Option<&str>) -> Self {
        Self { authority: host.map_or_else(|| self.authority.clone(), str::to_owned), ..self.clone() }
    }

    /// One request with its whole response; panics where the stream breaks.
    pub async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        self.try_request(method, path, headers, body).await.expect("a whole response")
    }

    /// One GET with its whole response.
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.request("GET", path, headers, Bytes::new()).await
    }

    /// One request with its whole response, or how the stream broke.
    pub async fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Reply, h2::Error> {
        let body = body.into();
        let (mut exchange, mut sending) = self.open(method, path, headers, body.is_empty()).await?;
        if !body.is_empty() {
            sending.send_data(body, true)?;
        }
        exchange.reply().await
    }

    /// Opens a stream and leaves its body to the test.
    pub async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        ended: bool,
    ) -> Result<(Exchange, SendStream<Bytes>), h2::Error> {
        self.open_with(method, path, header_map(headers), ended).await
    }

    /// The same with fields whose values need not be text.
    pub(super) async fn open_with(
        &self,
        method: &str,
        path: &str,
        headers: HeaderMap,
        ended: bool,
    ) -> Result<(Exchange, SendStream<Bytes>), h2::Error> {
        let uri = format!("{}://{}{path}", self.scheme, self.authority);
        let mut request = Request::builder().method(method).uri(uri).body(()).expect("a request h2 can send");
        *request.headers_mut() = headers;
        let mut sender = soon("a free stream", self.sender.clone().ready()).await?;
        let (response, sending) = sender.send_request(request, ended)?;
        Ok((
            Exchange { response: Some(response), body: None, reply: Reply::default(), peer: self.peer.clone() },
            sending,
        ))
    }
}

/// A stream whose response is awaited.
pub struct Exchange {
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    reply: Reply,
    peer: Address,
}

impl Exchange {
    /// The response head; its body then comes by `piece`.
    pub async fn head(&mut self) -> Result<Reply, h2::Error> {
        if let Some(mut response) = self.response.take() {
            let interim = &mut self.reply.interim;
            let answered = std::future::poll_fn(|cx| {
                while let Poll::Ready(Some(Ok(informational))) = response.poll_informational(cx) {
                    interim.push(informational.status().as_u16());
                }
                Pin::new(&mut response).poll(cx)
            });
            let (parts, body) = soon("a response head", answered).await?.into_parts();
            self.reply.status = parts.status.as_u16();
            self.reply.headers = fields(&parts.headers);
            archive::keep(&self.peer, format!("{:?}", self.reply.headers).as_bytes());
            self.body = Some(body);
        }
        Ok(self.reply.clone())
    }

    /// The next interim response; panics where the final one comes before it.
    pub async fn interim(&mut self) -> u16 {
        let response = self.response.as_mut().expect("the final response has not come");
        let interim = soon("an interim response", std::future::poll_fn(|cx| response.poll_informational(cx))).await;
        interim.expect("an interim response").expect("an open stream").status().as_u16()
    }

    /// The next piece of the body; `None` at its end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, h2::Error> {
        self.head().await?;
        let body = self.body.as_mut().expect("the head has come");
        let Some(piece) = soon("a piece of the body", body.data()).await else {
            let trailers = soon("the end of the body", body.trailers()).await?;
            self.reply.trailers = trailers.map(|trailers| fields(&trailers)).unwrap_or_default();
            return Ok(None);
        };
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        archive::body(&self.peer, &self.reply, &piece);
        Ok(Some(piece))
    }

    /// The whole response.
    pub async fn reply(&mut self) -> Result<Reply, h2::Error> {
        let mut whole = self.head().await?.body;
        while let Some(piece) = self.piece().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(Reply { body: whole, ..self.reply.clone() })
    }
}

pub(super) fn header_map(headers: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("a header name");
        map.append(name, HeaderValue::from_str(value).expect("a header value"));
    }
    map
}

fn fields(map: &HeaderMap) -> Vec<(String, String)> {
    map.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
}
