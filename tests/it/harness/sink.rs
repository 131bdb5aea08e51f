//! A scripted upstream on a free port: it records every byte, answers as told, and can misbehave in every way.
//!
//! HTTP/1.1 is read by the strict oracle itself, so what it accepted was well formed; HTTP/2 by the h2 crate. A sink
//! belongs to the runtime of the test that started it and ends with it.

mod h1;
mod h2;
mod hpack;
pub mod places;
mod record;
mod script;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

pub use hpack::{How, Indexing};
use record::Record;
pub use record::{Connection, End, Seen};
pub use script::{Decision, Feed, Fields, Framing, Gate, Script, Step};

use super::board::Board;
use super::pki::{self, Clients, Leaf, Versions};
use super::socket::Socket;
use super::strict;
use super::wires::wires;

/// The host name that [`Sink::https`] has a certificate for, and that the default configuration pins to it.
pub const HOST: &str = "api.example.test";

/// What a sink does when a connection comes, before any request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Serves it.
    Serve,
    /// Accepts it and then says and reads nothing: a TLS handshake never ends.
    Silence,
    /// Ends it at once.
    Fin,
    /// Resets it at once.
    Reset,
}

struct Plans {
    by_path: Vec<(String, Script)>,
    queue: VecDeque<Script>,
    otherwise: Script,
    greetings: VecDeque<Greeting>,
    greeting: Greeting,
}

struct Shared {
    record: Board<Record>,
    plans: Mutex<Plans>,
    keep: usize,
    http2: bool,
}

/// A scripted upstream. Every request it has no other script for is echoed.
pub struct Sink {
    /// Where it listens.
    pub addr: SocketAddr,
    tls: bool,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

/// A sink that is being described.
pub struct Builder {
    leaf: Option<Leaf>,
    alpn: Vec<String>,
    clients: Clients,
    versions: Versions,
    keep: usize,
    http2: bool,
    max_streams: Option<u32>,
}

impl Builder {
    /// Speaks TLS with a certificate of the test authority for `names`.
    pub fn tls(self, names: &[&str]) -> Self {
        self.leaf(pki::authority().leaf(names))
    }

    /// Speaks TLS with this certificate.
    pub fn leaf(mut self, leaf: Leaf) -> Self {
        self.leaf = Some(leaf);
        self
    }

    /// The ALPN protocols it offers, best first; by default the one of the run's pair of wires.
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols.iter().map(|&protocol| protocol.to_owned()).collect();
        self
    }

    /// Speaks TLS 1.2 and nothing newer.
    pub fn tls12(mut self) -> Self {
        self.versions = Versions::Old;
        self
    }

    /// Requires client certificates of the test authority.
    pub fn certified_clients(mut self) -> Self {
        self.clients = Clients::Certified;
        self
    }

    /// Speaks HTTP/2 without being asked to (in clear).
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// How many streams it takes at once (HTTP/2).
    pub fn max_streams(mut self, streams: u32) -> Self {
        self.max_streams = Some(streams);
        self
    }

    /// Keeps at most this many bytes of each connection and body, for requests larger than memory.
    pub fn keep(mut self, bytes: usize) -> Self {
        self.keep = bytes;
        self
    }

    /// Begins to listen.
    pub async fn start(self) -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("a bound listener");
        let plans = Plans {
            by_path: Vec::new(),
            queue: VecDeque::new(),
            otherwise: Script::echo(),
            greetings: VecDeque::new(),
            greeting: Greeting::Serve,
        };
        let shared = Arc::new(Shared {
            record: Board::new(Record::default()),
            plans: Mutex::new(plans),
            keep: self.keep,
            http2: self.http2,
        });
        let acceptor = self.leaf.as_ref().map(|leaf| {
            let alpn: Vec<&str> = self.alpn.iter().map(String::as_str).collect();
            TlsAcceptor::from(Arc::new(pki::server_config(leaf, &alpn, self.clients, self.versions)))
        });
        let tls = acceptor.is_some();
        let accepting = tokio::spawn(accept(listener, acceptor, Arc::clone(&shared), self.max_streams));
        Sink { addr, tls, shared, accepting }
    }
}

impl Sink {
    /// A sink to describe.
    pub fn builder() -> Builder {
        Builder {
            leaf: None,
            alpn: vec![wires().upstream.alpn().to_owned()],
            clients: Clients::Anonymous,
            versions: Versions::All,
            keep: 64 << 20,
            http2: false,
            max_streams: None,
        }
    }

    /// HTTP/1.1 in clear, whatever the run's wires are: HTTP/2 is agreed on in TLS.
    pub async fn http() -> Self {
        Self::builder().start().await
    }

    /// TLS as [`HOST`], with the protocol of the run's pair of wires.
    pub async fn https() -> Self {
        Self::builder().tls(&[HOST, "localhost", "127.0.0.1"]).start().await
    }

    /// HTTP/1.1 over TLS as [`HOST`], whatever the run's wires are.
    pub async fn https1() -> Self {
        Self::builder().tls(&[HOST, "localhost", "127.0.0.1"]).alpn(&["http/1.1"]).start().await
    }

    /// HTTP/2 over TLS as [`HOST`], with HTTP/1.1 beside it.
    pub async fn https2() -> Self {
        Self::builder().tls(&[HOST, "localhost", "127.0.0.1"]).alpn(&["h2", "http/1.1"]).start().await
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Requests for `path` (without its query; a final `*` matches any ending) get this script, before all others.
    pub fn on(&self, path: &str, script: Script) -> &Self {
        self.plan(|plans| plans.by_path.insert(0, (path.to_owned(), script)))
    }

    /// The next request that no path claims gets this script; calls queue up.
    pub fn next(&self, script: Script) -> &Self {
        self.plan(|plans| plans.queue.push_back(script))
    }

    /// Requests that nothing else claims get this script from now on, instead of an echo.
    pub fn otherwise(&self, script: Script) -> &Self {
        self.plan(|plans| plans.otherwise = script)
    }

    /// The next connection is greeted so; calls queue up.
    pub fn greet(&self, greeting: Greeting) -> &Self {
        self.plan(|plans| plans.greetings.push_back(greeting))
    }

    /// Every connection from now on is greeted so.
    pub fn greet_all(&self, greeting: Greeting) -> &Self {
        self.plan(|plans| plans.greeting = greeting)
    }

    /// Stops listening: further connections are refused, those that are open go on.
    pub async fn refuse(&mut self) {
        self.accepting.abort();
        let ended = (&mut self.accepting).await;
        assert!(ended.is_err_and(|end| end.is_cancelled()), "the sink stopped by itself");
    }

    /// How many requests came, complete or not.
    pub fn count(&self) -> usize {
        self.shared.record.read(|record| record.requests.len())
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.record.read(|record| record.requests.clone())
    }

    /// How many connections were accepted.
    pub fn connection_count(&self) -> usize {
        self.shared.record.read(|record| record.connections.len())
    }

    /// A connection as it is now.
    pub fn connection(&self, number: usize) -> Connection {
        self.shared.record.read(|record| record.connections[number].clone())
    }

    /// The next request whose head has come; the body may still be coming.
    pub async fn next_head(&self) -> Seen {
        let take = |record: &mut Record| {
            let seen = record.requests.get(record.heads_taken)?.clone();
            record.heads_taken += 1;
            Some(seen)
        };
        self.shared.record.wait("a request head at the upstream", take).await
    }

    /// The next request, whole, in the order the heads came.
    pub async fn next_request(&self) -> Seen {
        let take = |record: &mut Record| {
            let seen = record.requests.get(record.requests_taken).filter(|seen| seen.complete)?.clone();
            record.requests_taken += 1;
            Some(seen)
        };
        self.shared.record.wait("a whole request at the upstream", take).await
    }

    /// The first request `wanted` says yes to, now or later.
    pub async fn request_where(&self, what: &str, wanted: impl Fn(&Seen) -> bool) -> Seen {
        self.shared.record.wait(what, |record| record.requests.iter().find(|seen| wanted(seen)).cloned()).await
    }

    /// Waits for connection `number` to be accepted.
    pub async fn accepted(&self, number: usize) -> Connection {
        self.shared.record.wait("a connection to the upstream", |record| record.connections.get(number).cloned()).await
    }

    /// Waits for connection `number` to end (the peer's side of it is enough) and says how.
    pub async fn closed(&self, number: usize) -> End {
        let ended = |record: &mut Record| record.connections.get(number)?.end.clone();
        self.shared.record.wait("the end of a connection to the upstream", ended).await
    }

    /// Waits until a request was given up by its sender: its connection ended, or its stream was reset.
    pub async fn given_up(&self, seen: &Seen) {
        let given_up = |record: &mut Record| {
            let end = record.connections[seen.connection].end.as_ref();
            assert_ne!(end, Some(&End::Script), "the script ended its connection");
            (record.requests[seen.number].reset || end.is_some()).then_some(())
        };
        self.shared.record.wait("a request to be given up", given_up).await;
    }

    /// Asserts that every byte received was a well-formed request, by a strict reader of RFC 9112.
    pub fn assert_strict(&self) {
        self.shared.record.read(|record| {
            for (number, connection) in record.connections.iter().enumerate() {
                assert_eq!(connection.violation, None, "connection {number} is malformed");
                let http1 = !connection.bytes.starts_with(b"PRI * HTTP/2.0\r\n");
                if http1 && connection.unkept == 0 {
                    let end = connection.upgraded_at.unwrap_or(connection.bytes.len());
                    let verdict = strict::requests(&connection.bytes[..end]);
                    assert!(verdict.is_ok(), "connection {number} is malformed: {verdict:?}");
                }
            }
        });
    }

    /// How the fields of every HTTP/2 request on a connection were encoded: whether an intermediary may index them.
    pub fn indexing(&self, connection: usize) -> Vec<Indexing> {
        hpack::fields(&self.connection(connection).bytes)
    }

    fn plan(&self, change: impl FnOnce(&mut Plans)) -> &Self {
        change(&mut self.shared.plans.lock().expect("no test panics while it plans"));
        self
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>, max_streams: Option<u32>) {
    loop {
        let (stream, _) = listener.accept().await.expect("an open listener accepts");
        stream.set_nodelay(true).expect("nodelay on a new socket");
        let number = shared.record.update(|record| {
            record.connections.push(Connection::default());
            record.connections.len() - 1
        });
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let end = greet(stream, tls, &shared, number, max_streams).await;
            shared.end(number, end);
        });
    }
}

async fn greet(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    shared: &Arc<Shared>,
    number: usize,
    max_streams: Option<u32>,
) -> End {
    match shared.greeting() {
        Greeting::Serve => {}
        Greeting::Silence => return std::future::pending().await,
        Greeting::Fin => return End::Script,
        Greeting::Reset => {
            Socket::Tcp(stream).reset();
            return End::Script;
        }
    }
    let socket = match tls {
        None => Socket::Tcp(stream),
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => Socket::Tls(Box::new(stream.into())),
            Err(error) => return End::Failed(format!("TLS: {error}")),
        },
    };
    let agreed = socket.agreed();
    let http2 = agreed.as_ref().is_some_and(|(_, alpn)| alpn.as_deref() == Some("h2")) || shared.http2;
    let sni = match &socket {
        Socket::Tls(stream) => match stream.as_ref() {
            tokio_rustls::TlsStream::Server(stream) => stream.get_ref().1.server_name().map(str::to_owned),
            tokio_rustls::TlsStream::Client(_) => None,
        },
        _ => None,
    };
    shared.connection(number, |connection| (connection.tls, connection.sni) = (agreed, sni));
    if http2 { h2::serve(socket, shared, number, max_streams).await } else { h1::serve(socket, shared, number).await }
}

impl Shared {
    fn greeting(&self) -> Greeting {
        let mut plans = self.plans.lock().expect("no test panics while it plans");
        plans.greetings.pop_front().unwrap_or(plans.greeting)
    }

    /// The script for a request, taken from the queue where it comes from there.
    fn script(&self, target: &str) -> Script {
        let mut plans = self.plans.lock().expect("no test panics while it plans");
        let path = target.split('?').next().unwrap_or_default();
        let claims = |pattern: &str| match pattern.strip_suffix('*') {
            Some(start) => path.starts_with(start),
            None => path == pattern,
        };
        if let Some((_, script)) = plans.by_path.iter().find(|(pattern, _)| claims(pattern)) {
            return script.clone();
        }
        plans.queue.pop_front().unwrap_or_else(|| plans.otherwise.clone())
    }
}

/// What [`Script::echo`] answers. Names are told in lower case, as every reader compares them.
fn echo(seen: &Seen) -> Vec<u8> {
    let headers: Vec<_> = seen.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    serde_json::to_vec(&serde_json::json!({
        "version": seen.version,
        "method": seen.method,
        "target": seen.target,
        "headers": headers,
        "body": seen.text(),
        "trailers": seen.trailers,
        "connection": seen.connection,
    }))
    .expect("plain JSON")
}

fn failure(error: &std::io::Error) -> End {
    match error.kind() {
        std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe => End::Reset,
        _ => End::Failed(error.to_string()),
    }
}
