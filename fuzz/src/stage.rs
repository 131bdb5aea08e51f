//! The real data plane on one thread, between a client's pair of sockets and an upstream on loopback.
//!
//! Facts and credential are those of one declared connection, the listener's default, without a vault. Each play has a
//! pool of its own, so that an input does what it does whatever ran before it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sidekey::config::{Config, Environment};
use sidekey::credentials::Credentials;
use sidekey::directory::Directory;
use sidekey::proxy::gate::Gate;
use sidekey::proxy::http1::{self, Client, Terms};
use sidekey::proxy::record::Reporter;
use sidekey::proxy::revoked::Revoking;
use sidekey::proxy::tap::Taps;
use sidekey::proxy::usage::Uses;
use sidekey::proxy::{Proxy, Shared, error};
use sidekey::server::{Organizations, assemble};
use sidekey::telemetry::access_log::AccessLog;
use sidekey::telemetry::metrics::Metrics;
use sidekey::tls::client_config;
use sidekey::upstream::outbound::Outbound;
use sidekey::upstream::{self, Upstream};
use sidekey::vault::Vault;
use sidekey::wire::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::Notify;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::strict::{self, BodyReader};

/// The credential.
pub const TOKEN: &str = "the-one-token";
/// The upstream's host: a name that leads to wherever it listens.
pub const HOST: &str = "api.example.test";

/// How many plays an address serves. Each may leave a pair of ports in TIME_WAIT, and one that comes again within the
/// minute would wait for a second SYN.
const PLAYS: u32 = 5_000;

/// No exchange here waits for anybody, so one that takes this long hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// Far longer than an exchange may take: no deadline hides one that hangs.
const DEADLINE: &str = "60s";

/// What the upstream does.
pub enum Plan {
    /// It answers every request with 200 and `ok`.
    Obedient,
    /// It answers the first request with these bytes, in two pieces, and ends its connection unless it `stays`; every
    /// later one with 200 and `ok`.
    Scripted { bytes: [Vec<u8>; 2], stays: bool },
}

/// A request as the upstream received it.
#[derive(Debug, Default)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub fields: Vec<(String, String)>,
    pub trailers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub complete: bool,
}

/// What became of a play.
pub struct Outcome {
    /// What the client received in each conversation.
    pub answers: Vec<Vec<u8>>,
    /// What the upstream received, in the order the heads came.
    pub seen: Vec<Seen>,
    /// What of it was malformed.
    pub violations: Vec<String>,
}

/// Has a client say `conversations` one after the other, each on a connection of its own and in its pieces, and end its
/// sending side after each.
pub fn conversation(plan: Plan, conversations: &[&[&[u8]]]) -> Outcome {
    thread_local! {
        static STAGE: Stage = Stage::new();
    }
    STAGE.with(|stage| stage.runtime.block_on(stage.play(plan, conversations)))
}

struct Stage {
    runtime: LocalRuntime,
    place: RefCell<Place>,
    shared: Arc<Shared>,
    reporter: Rc<Reporter>,
    gate: Gate,
    terms: Terms,
}

/// Where the upstream listens, and how it is reached.
struct Place {
    listener: Rc<TcpListener>,
    settings: Arc<upstream::Settings>,
    plays: u32,
}

impl Place {
    async fn new(settings: &upstream::Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let hosts = [(HOST.to_owned(), address)].into();
        Place {
            listener: Rc::new(listener),
            settings: Arc::new(upstream::Settings { hosts, ..settings.clone() }),
            plays: 0,
        }
    }
}

impl Stage {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let runtime = runtime.expect("a runtime");
        let environment = Environment::of::<String, String>([]);
        let config = Config::read(None, Zeroizing::new(configuration()), &environment).expect("a configuration");
        let vault = Vault::without_database();
        let organizations = runtime.block_on(Organizations::of(&config, &vault)).expect("the default organization");
        let declared = organizations.declare(&config, &environment).expect("one connection");
        vault.declare(declared, &organizations.ids().collect());
        let tls = client_config::<&str>(&[]).expect("a trust store");
        let upstream = assemble::upstream_settings(&config.upstream, Vec::new(), tls);
        let limits = assemble::limits(&config.cache);
        let control = runtime.handle().clone();
        let shared = Shared {
            directory: Directory::new(vault.clone(), limits, control.clone()),
            credentials: Credentials::new(vault.clone(), Outbound::closed(), limits, control),
            settings: assemble::proxy_settings(&config, &upstream),
        };
        let listens = &config.proxy.listeners[0];
        let gate = assemble::gate(listens, organizations.id(&listens.organization).expect("an organization"));
        let metrics = Arc::new(Metrics::for_codes(error::CODES));
        let access = AccessLog::off(Arc::clone(&metrics)).buffer();
        // Nobody counts what requests use; what is handed over is dropped.
        let uses = Uses::new(unbounded_channel().0);
        let reporter = Rc::new(Reporter::new(access, metrics, uses, Revoking::new(vault), Taps::default(), usize::MAX));
        let terms = Terms {
            head_timeout: config.proxy.head_timeout,
            write_timeout: config.proxy.body_idle_timeout,
            draining: Cell::new(false),
        };
        let place = RefCell::new(runtime.block_on(Place::new(&upstream)));
        Stage { runtime, place, shared: Arc::new(shared), reporter, gate, terms }
    }

    async fn play(&self, plan: Plan, conversations: &[&[&[u8]]]) -> Outcome {
        let (listener, settings) = self.place().await;
        let scripted = matches!(plan, Plan::Scripted { .. });
        let sink = Rc::new(Sink {
            plan: Cell::new(plan),
            seen: RefCell::default(),
            violations: RefCell::default(),
            played: Notify::new(),
        });
        let mut accepting = JoinSet::new();
        accepting.spawn_local(accept(listener, Rc::clone(&sink)));
        let proxy = Proxy::new(Arc::clone(&self.shared), Upstream::new(settings), Rc::clone(&self.reporter));
        let mut answers = Vec::new();
        for pieces in conversations {
            let answer = timeout(PATIENCE, self.converse(&proxy, pieces)).await;
            answers.push(answer.expect("an exchange that ends"));
            if scripted && answers.len() == 1 {
                // Bytes that come behind a request that was sent look like its answer to everybody; these are there
                // before the next one, and must be noticed.
                timeout(PATIENCE, sink.played.notified()).await.expect("a script that ends");
                arrived().await;
            }
        }
        drop(proxy);
        accepting.shutdown().await;
        Outcome { answers, seen: sink.seen.take(), violations: sink.violations.take() }
    }

    /// The place of the next play.
    async fn place(&self) -> (Rc<TcpListener>, Arc<upstream::Settings>) {
        let used = {
            let place = self.place.borrow();
            (place.plays >= PLAYS).then(|| Arc::clone(&place.settings))
        };
        if let Some(settings) = used {
            let fresh = Place::new(&settings).await;
            self.place.replace(fresh);
        }
        let mut place = self.place.borrow_mut();
        place.plays += 1;
        (Rc::clone(&place.listener), Arc::clone(&place.settings))
    }

    async fn converse(&self, proxy: &Proxy, pieces: &[&[u8]]) -> Vec<u8> {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let serving = async {
            let client = Client::new(Stream::Unix(theirs));
            // A connection that goes on in HTTP/2 ends here: that is hyper's to read.
            drop(http1::serve(proxy, &self.gate, &self.terms, &client).await);
        };
        let talking = async {
            let (mut read, mut write) = ours.into_split();
            let speaking = async {
                for piece in pieces {
                    // Who was refused in the middle need not be heard to the end.
                    if write.write_all(piece).await.is_err() {
                        break;
                    }
                    settle().await;
                }
                drop(write.shutdown().await);
            };
            let mut answer = Vec::new();
            let (_, read) = tokio::join!(speaking, read.read_to_end(&mut answer));
            // A reset behind the answer takes nothing of it back.
            drop(read);
            answer
        };
        tokio::join!(serving, talking).1
    }
}

/// Lets the other side read what there is before more comes.
async fn settle() {
    for _ in 0..4 {
        yield_now().await;
    }
}

/// Lets everything that was written so far arrive: what the system tells next, it tells with all that came before.
async fn arrived() {
    let (mut here, mut there) = UnixStream::pair().expect("a pair of sockets");
    here.write_all(b".").await.expect("room for a byte");
    there.read_u8().await.expect("the byte");
}

fn configuration() -> String {
    format!(
        r#"
        [[proxy.listeners]]
        address = "127.0.0.1:0"
        trust = "local"
        connection = "fuzz"
        [admin]
        enabled = false
        [vault]
        enabled = false
        [proxy]
        head_timeout = "{DEADLINE}"
        body_idle_timeout = "{DEADLINE}"
        [upstream]
        allow_networks = ["127.0.0.0/8"]
        response_timeout = "{DEADLINE}"
        idle_timeout = "{DEADLINE}"
        [[integration]]
        slug = "fuzz"
        base_url = "http://{HOST}"
        plaintext = true
        [[integration.auth]]
        method = "token"
        type = "bearer"
        [[connection]]
        key = "fuzz"
        integration = "fuzz"
        [connection.credentials.production]
        token = {{ value = "{TOKEN}" }}
        "#
    )
}

/// The upstream.
struct Sink {
    plan: Cell<Plan>,
    seen: RefCell<Vec<Seen>>,
    violations: RefCell<Vec<String>>,
    /// The planned answer was given.
    played: Notify,
}

async fn accept(listener: Rc<TcpListener>, sink: Rc<Sink>) {
    let mut serving = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("an open listener accepts");
        let sink = Rc::clone(&sink);
        serving.spawn_local(async move {
            // Closed by a reset, a connection leaves nothing behind: a port in TIME_WAIT for each input would use them up.
            stream.set_zero_linger().expect("an open socket");
            if let Err(violation) = serve(stream, &sink).await {
                sink.violations.borrow_mut().push(violation.0);
            }
        });
    }
}

async fn serve(mut stream: TcpStream, sink: &Sink) -> Result<(), strict::Violation> {
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            match strict::request_head(&buffer)? {
                Some(head) => break head,
                None if fill(&mut stream, &mut buffer).await => {}
                None => return Ok(()),
            }
        };
        buffer.drain(..head.length);
        let number = sink.seen.borrow().len();
        let bodyless = head.method == "HEAD";
        let seen = Seen { method: head.method, target: head.target, fields: head.fields, ..Seen::default() };
        sink.seen.borrow_mut().push(seen);
        let mut body = BodyReader::new(head.framing);
        loop {
            let (taken, data) = body.feed(&buffer)?;
            buffer.drain(..taken);
            sink.seen.borrow_mut()[number].body.extend_from_slice(&data);
            if body.is_done() {
                break;
            }
            if !fill(&mut stream, &mut buffer).await {
                return Ok(());
            }
        }
        sink.seen.borrow_mut()[number].trailers = std::mem::take(&mut body.trailers);
        sink.seen.borrow_mut()[number].complete = true;
        if !answer(&mut stream, sink, bodyless).await {
            return Ok(());
        }
    }
}

/// Reads once; whether anything came.
async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    stream.read_buf(buffer).await.is_ok_and(|count| count > 0)
}

/// Answers as planned; whether the connection goes on. Whoever asked may be gone.
async fn answer(stream: &mut TcpStream, sink: &Sink, bodyless: bool) -> bool {
    let Plan::Scripted { bytes, stays } = sink.plan.replace(Plan::Obedient) else {
        let body = if bodyless { "" } else { "ok" };
        return stream
            .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{body}").as_bytes())
            .await
            .is_ok();
    };
    for piece in bytes {
        // Who has seen enough may be gone.
        if stream.write_all(&piece).await.is_err() {
            break;
        }
        settle().await;
    }
    if !stays {
        drop(stream.shutdown().await);
    }
    sink.played.notify_one();
    // Waits for the other end, so that the reset of closing takes nothing of the answer back.
    while !stays && fill(stream, &mut Vec::new()).await {}
    stays
}
