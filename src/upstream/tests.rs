//! Against scripted upstreams on loopback sockets: each test says byte for byte what the upstream does.

mod again;
mod deadlines;
mod http1;
mod http2;
mod pooled;
mod secure;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::*;
use crate::tls::pki::Ca;
use crate::wire::source::{AsBody, FromBody};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(150);

fn on_local<F: Future>(test: F) -> impl Future<Output = F::Output> {
    let test = Box::pin(test);
    async move { LocalSet::new().run_until(test).await }
}

/// Every name used in tests leads to `address`.
fn settings(tls: ClientTls, address: SocketAddr) -> Settings {
    let names = ["api.test", "b.test", "wrong.test"];
    Settings {
        connect_timeout: LONG,
        tls_timeout: LONG,
        resolver: Resolver::default(),
        resolve_timeout: LONG,
        response_timeout: LONG,
        idle_timeout: LONG,
        pool_idle_timeout: LONG,
        pool_max_age: LONG,
        pool_max_idle_per_host: 8,
        hosts: names.iter().map(|name| ((*name).to_owned(), address)).collect(),
        allow_networks: vec!["127.0.0.0/8".parse().unwrap()],
        own_listeners: Vec::new(),
        tls,
    }
}

fn plain_settings(address: SocketAddr) -> Settings {
    settings(Ca::new().client(), address)
}

fn upstream(settings: Settings) -> (Upstream, Deadlines) {
    let deadlines = Deadlines::from(&settings);
    (Upstream::new(Arc::new(settings)), deadlines)
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn origin(text: &str) -> Origin {
    Origin::parse(text).unwrap()
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).body(Empty::new()).unwrap()
}

fn post(path: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::post(path).body(Full::from(body)).unwrap()
}

/// A response with its body as hyper would have it.
type Received = Response<AsBody<UpstreamBody>>;

async fn text(response: Received) -> Result<String, UpstreamError> {
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

impl std::fmt::Debug for AsBody<UpstreamBody> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a body")
    }
}

fn outgoing<B>(request: Request<B>) -> Outgoing
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (parts, body) = request.into_parts();
    let has_body = !body.is_end_stream();
    Outgoing {
        method: parts.method,
        path: Zeroizing::new(parts.uri.path_and_query().map_or(String::new(), ToString::to_string)),
        fields: Fields::from_map(&parts.headers),
        injected: Arc::new(()),
        body: has_body.then(|| Box::new(FromBody::new(body.map_err(Into::into))) as Box<dyn Source<Error = BoxError>>),
    }
}

fn received(answer: Answer) -> Received {
    let mut response = Response::new(AsBody::new(answer.body));
    *response.status_mut() = answer.head.status;
    *response.headers_mut() = answer.head.fields.to_map();
    response
}

impl Upstream {
    /// Sends a request of the `http` crate.
    async fn ask<B>(
        &self,
        origin: &Origin,
        request: Request<B>,
        deadlines: &Deadlines,
        record: &mut Exchange,
    ) -> Result<Received, UpstreamError>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        self.send(origin, &mut outgoing(request), deadlines, record).await.map(received)
    }

    /// Sends, and puts what happened on the way into the response's extensions.
    async fn send_noted<B>(
        &self,
        origin: &Origin,
        request: Request<B>,
        deadlines: &Deadlines,
    ) -> Result<Received, UpstreamError>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let mut record = Exchange::default();
        let mut response = self.ask(origin, request, deadlines, &mut record).await?;
        response.extensions_mut().insert(record);
        Ok(response)
    }
}

fn exchange(response: &Received) -> Exchange {
    *response.extensions().get::<Exchange>().unwrap()
}

/// Reads one request with a body of known length; `None` at the end of the stream.
async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> Option<String> {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(seen).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(head + std::str::from_utf8(&body).unwrap())
}

/// What one connection of a scripted upstream does: one answer for each request, in this order, then it hangs up.
type Script = &'static [&'static str];

/// Serves connection after connection by its script and reports every request it read, with the connection's number.
fn serve(listener: TcpListener, scripts: &'static [Script]) -> mpsc::UnboundedReceiver<(usize, String)> {
    let (report, requests) = mpsc::unbounded_channel();
    tokio::task::spawn_local(async move {
        for (number, script) in scripts.iter().enumerate() {
            let (mut stream, _) = listener.accept().await.unwrap();
            let report = report.clone();
            tokio::task::spawn_local(async move {
                for answer in *script {
                    let Some(request) = read_request(&mut stream).await else { return };
                    report.send((number, request)).unwrap();
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    requests
}

/// A request line and fields, without regard to the order of fields.
fn assert_fields(request: &str, line: &str, fields: &[&str]) {
    let mut lines = request.split("\r\n");
    assert_eq!(lines.next(), Some(line));
    let mut seen: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    let mut expected = fields.to_vec();
    seen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(seen, expected);
}

/// Waits until nothing is left in the pool of `upstream`: its connections ended and their drivers have noticed.
async fn until_empty(upstream: &Upstream) {
    let rc: Rc<Pool> = Rc::clone(&upstream.pool);
    tokio::time::timeout(LONG, async move {
        loop {
            rc.sweep();
            if rc.len() == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the pool empties");
}

/// Accepts a plain connection and swallows it.
async fn hold(listener: &TcpListener) -> TcpStream {
    listener.accept().await.unwrap().0
}

type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>;

/// A body that gives what is fed to it and ends when the feed is dropped.
fn fed_body() -> (Frames, FedBody) {
    let (feed, frames) = mpsc::unbounded_channel();
    (feed, FedBody(frames))
}

struct FedBody(mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>);

impl Body for FedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_recv(cx)
    }
}
