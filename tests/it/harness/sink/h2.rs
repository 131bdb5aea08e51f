//! The HTTP/2 side of a scripted upstream. Its bytes are recorded too, for what the h2 crate does not show.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use super::script::{Fields, Framing, Script, Step};
use super::{End, Seen, Shared, echo};
use crate::harness::socket::Socket;

const WINDOW: u32 = 1 << 20;

/// What a stream asks of its connection.
enum Order {
    GoAway,
    Fin,
}

/// Serves streams on one connection until it ends, and says how it ended.
pub(super) async fn serve(socket: Socket, shared: &Arc<Shared>, number: usize, max_streams: Option<u32>) -> End {
    let tape = Tape { socket, shared: Arc::clone(shared), number };
    let mut builder = Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
    if let Some(streams) = max_streams {
        builder.max_concurrent_streams(streams);
    }
    let mut connection = match builder.handshake::<_, Bytes>(tape).await {
        Ok(connection) => connection,
        Err(error) => return End::Failed(error.to_string()),
    };
    let (orders, mut ordered) = mpsc::unbounded_channel();
    loop {
        tokio::select! {
            // What streams have queued is written before an order to end takes effect.
            biased;
            accepted = connection.accept() => match accepted {
                None => return End::Eof,
                Some(Err(error)) if error.is_io() => return End::Reset,
                Some(Err(error)) => return End::Failed(error.to_string()),
                Some(Ok((request, respond))) => {
                    tokio::spawn(answer(request, respond, Arc::clone(shared), number, orders.clone()));
                }
            },
            Some(order) = ordered.recv() => match order {
                Order::GoAway => connection.graceful_shutdown(),
                Order::Fin => return End::Script,
            },
        }
    }
}

async fn answer(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    shared: Arc<Shared>,
    connection: usize,
    orders: mpsc::UnboundedSender<Order>,
) {
    let (parts, body) = request.into_parts();
    let uri = &parts.uri;
    let target = uri.path_and_query().map_or("", |target| target.as_str()).to_owned();
    let pseudo = [(":scheme", uri.scheme_str()), (":authority", uri.authority().map(|authority| authority.as_str()))];
    let number = shared.begin(Seen {
        connection,
        version: 2,
        method: parts.method.to_string(),
        target: target.clone(),
        pseudo: pseudo.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect(),
        headers: fields(&parts.headers),
        raw_head: lines(&parts.headers),
        ..Seen::default()
    });
    let bodyless = parts.method == http::Method::HEAD;
    let script = shared.script(&target);
    let mut stream = Stream { shared, number, body, respond, sending: None, orders, bodyless };
    if stream.body.is_end_stream() {
        stream.shared.body(number, &[], Some(Vec::new()));
    }
    // The peer may reset the stream at any time; what the script would still do then has no addressee.
    if stream.play(script).await.is_err_and(|error| error.is_reset() && error.is_remote()) {
        stream.shared.reset(number);
    }
}

struct Stream {
    shared: Arc<Shared>,
    number: usize,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    sending: Option<SendStream<Bytes>>,
    orders: mpsc::UnboundedSender<Order>,
    bodyless: bool,
}

impl Stream {
    async fn play(&mut self, script: Script) -> Result<(), h2::Error> {
        let mut steps = VecDeque::from(script.steps);
        while let Some(step) = steps.pop_front() {
            if let Step::Decide(decision) = step {
                self.rest_of_body().await?;
                let decided = decision(&self.shared.seen(self.number)).steps;
                steps = decided.into_iter().chain(steps).collect();
            } else {
                self.step(step).await?;
            }
        }
        self.rest_of_body().await
    }

    async fn step(&mut self, step: Step) -> Result<(), h2::Error> {
        match step {
            Step::ReadBody => self.rest_of_body().await,
            Step::ReadSome(length) => {
                while self.shared.progress(self.number).0 < length && self.read().await? {}
                Ok(())
            }
            Step::Interim(status, fields) => self.respond.send_informational(response(status, &fields, None)),
            Step::Head(status, fields, framing) => self.head(status, &fields, framing),
            Step::Data(piece) => self.data(piece).await,
            Step::Fill(length) => self.fill(length).await,
            Step::End(trailers) => self.end(&trailers),
            Step::Gate(gate) | Step::Hold(gate) => self.unless_reset(gate.opened()).await,
            Step::Feed(feed) => {
                while let Some(piece) = self.unless_reset(feed.next()).await? {
                    self.data(piece).await?;
                }
                Ok(())
            }
            Step::Echo => {
                let body = Bytes::from(echo(&self.shared.seen(self.number)));
                let fields = vec![("content-type".to_owned(), "application/json".to_owned())];
                self.head(200, &fields, Framing::Length(body.len() as u64))?;
                self.data(body).await?;
                self.end(&Vec::new())
            }
            Step::Stall => {
                self.rest_of_body().await?;
                Err(self.reset_by_peer().await)
            }
            Step::Freeze => Err(self.reset_by_peer().await),
            Step::Fin | Step::Cut => {
                self.order(Order::Fin)?;
                // Letting go of the stream would reset it before the connection ends.
                std::future::pending().await
            }
            Step::GoAway => self.order(Order::GoAway),
            Step::Reset => self.reset(Reason::INTERNAL_ERROR),
            Step::RefuseStream => self.reset(Reason::REFUSED_STREAM),
            Step::HalfHead => Ok(()),
            Step::Decide(_) => unreachable!("its steps are taken in its place"),
            Step::Trickle(bytes, every) if self.sending.is_some() => self.trickle(bytes, every).await,
            Step::Raw(_) | Step::Trickle(..) | Step::WebSocket => panic!("a step of HTTP/1.1 in a script for HTTP/2"),
        }
    }

    fn head(&mut self, status: u16, fields: &Fields, framing: Framing) -> Result<(), h2::Error> {
        let length = match framing {
            Framing::Length(length) => (status != 204).then_some(length),
            Framing::Chunked | Framing::UntilClose => None,
        };
        let bodyless = self.bodyless || matches!(status, 204 | 304);
        let sending = self.respond.send_response(response(status, fields, length), bodyless)?;
        self.sending = (!bodyless).then_some(sending);
        Ok(())
    }

    async fn data(&mut self, mut piece: Bytes) -> Result<(), h2::Error> {
        let Some(sending) = self.sending.as_mut() else { return Ok(()) };
        while !piece.is_empty() {
            sending.reserve_capacity(piece.len());
            let Some(granted) = std::future::poll_fn(|cx| sending.poll_capacity(cx)).await else {
                return Err(self.reset_by_peer().await);
            };
            let granted = granted?;
            sending.send_data(piece.split_to(granted.min(piece.len())), false)?;
        }
        Ok(())
    }

    async fn fill(&mut self, length: u64) -> Result<(), h2::Error> {
        let block = Bytes::from(vec![b'.'; 64 << 10]);
        let mut left = length;
        while left > 0 {
            let size = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.data(block.slice(..size)).await?;
            left -= size as u64;
        }
        Ok(())
    }

    async fn trickle(&mut self, bytes: Bytes, every: Duration) -> Result<(), h2::Error> {
        for byte in bytes.chunks(1) {
            self.data(Bytes::copy_from_slice(byte)).await?;
            // The pace is what is being scripted here; nothing is synchronized by it.
            self.unless_reset(tokio::time::sleep(every)).await?;
        }
        self.end(&Vec::new())
    }

    fn end(&mut self, trailers: &Fields) -> Result<(), h2::Error> {
        let Some(mut sending) = self.sending.take() else { return Ok(()) };
        if trailers.is_empty() {
            return sending.send_data(Bytes::new(), true);
        }
        sending.send_trailers(header_map(trailers))
    }

    fn reset(&mut self, reason: Reason) -> Result<(), h2::Error> {
        match self.sending.as_mut() {
            Some(sending) => sending.send_reset(reason),
            None => self.respond.send_reset(reason),
        }
        Err(reason.into())
    }

    fn order(&self, order: Order) -> Result<(), h2::Error> {
        // A connection that has ended needs no orders.
        drop(self.orders.send(order));
        Ok(())
    }

    /// Waits for `event`, or for the peer to give the stream up.
    async fn unless_reset<T>(&mut self, event: impl Future<Output = T>) -> Result<T, h2::Error> {
        tokio::select! {
            output = event => Ok(output),
            reset = self.reset_by_peer() => Err(reset),
        }
    }

    /// Waits for the peer to give the stream up, and notes it.
    async fn reset_by_peer(&mut self) -> h2::Error {
        let reason = match self.sending.as_mut() {
            Some(sending) => std::future::poll_fn(|cx| sending.poll_reset(cx)).await,
            None => std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await,
        };
        self.shared.reset(self.number);
        reason.map_or_else(|error| error, h2::Error::from)
    }

    /// Reads one frame of the body; `false` at its end.
    async fn read(&mut self) -> Result<bool, h2::Error> {
        if let Some(piece) = self.body.data().await {
            let piece = piece?;
            self.body.flow_control().release_capacity(piece.len())?;
            self.shared.body(self.number, &piece, None);
            return Ok(true);
        }
        let trailers = self.body.trailers().await?.map(|trailers| fields(&trailers)).unwrap_or_default();
        self.shared.body(self.number, &[], Some(trailers));
        Ok(false)
    }

    async fn rest_of_body(&mut self) -> Result<(), h2::Error> {
        while !self.shared.progress(self.number).1 && self.read().await? {}
        Ok(())
    }
}

/// What a script may say of an HTTP/1.1 connection, and HTTP/2 does not have (RFC 9113 §8.2.2).
const CONNECTION_SPECIFIC: [&str; 4] = ["connection", "keep-alive", "proxy-connection", "upgrade"];

fn response(status: u16, fields: &Fields, length: Option<u64>) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(status).expect("a status of the script");
    *response.headers_mut() = header_map(fields);
    for name in CONNECTION_SPECIFIC {
        response.headers_mut().remove(name);
    }
    if let Some(length) = length {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    response
}

fn header_map(fields: &Fields) -> HeaderMap {
    let parsed = fields.iter().map(|(name, value)| {
        let name: HeaderName = name.parse().expect("a header name of the script");
        (name, HeaderValue::from_str(value).expect("a header value of the script"))
    });
    let mut map = HeaderMap::new();
    for (name, value) in parsed {
        map.append(name, value);
    }
    map
}

fn fields(map: &HeaderMap) -> Fields {
    map.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
}

fn lines(map: &HeaderMap) -> Vec<u8> {
    map.iter().flat_map(|(name, value)| [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat()).collect()
}

/// A socket that records what is read from it.
struct Tape {
    socket: Socket,
    shared: Arc<Shared>,
    number: usize,
}

impl AsyncRead for Tape {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let tape = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut tape.socket).poll_read(cx, buffer);
        let new = &buffer.filled()[before..];
        if !new.is_empty() {
            tape.shared.received(tape.number, new);
        }
        read
    }
}

impl AsyncWrite for Tape {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
