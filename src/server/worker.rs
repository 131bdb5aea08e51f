//! Workers: one thread, one runtime, its own listening sockets, its own pool of upstream connections.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::LocalOptions;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::Protocol;
use crate::clock;
use crate::proxy::gate::Gate;
use crate::proxy::http1::{self, Client, Ended, Terms};
use crate::proxy::http2;
use crate::proxy::record::Reporter;
use crate::proxy::revoked::Revoking;
use crate::proxy::tap::Taps;
use crate::proxy::usage::{Handed, Uses, Wanted};
use crate::proxy::{Proxy, Shared};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::tls::ServerTls;
use crate::upstream::{self, Upstream};
use crate::vault::Vault;
use crate::wire::Stream;

/// What a worker is made of.
pub struct Setup {
    /// Told once it is ready for whoever comes.
    pub ready: oneshot::Sender<()>,
    /// Its sockets, with what each asks of callers. They are opened once every worker is ready.
    pub doors: oneshot::Receiver<Vec<Door>>,
    /// Facts, secrets, settings.
    pub shared: Arc<Shared>,
    /// How upstreams are reached.
    pub upstream: Arc<upstream::Settings>,
    /// Where access lines go.
    pub access: AccessLog,
    /// The process's counters.
    pub metrics: Arc<Metrics>,
    /// Who takes what requests have used.
    pub uses: UnboundedSender<Handed>,
    /// Where it is asked for what it has not handed over yet.
    pub asked: UnboundedReceiver<Wanted>,
    /// How often it is handed over.
    pub usage_interval: Duration,
    /// Whose revocations end what is open.
    pub vault: Vault,
    /// How long what is open may go on after it was revoked; `None` lets it end by itself.
    pub revoke_within: Option<Duration>,
    /// Who watches requests as they pass.
    pub taps: Taps,
    /// A place for each connection that may be open at once, over all workers.
    pub places: Arc<Semaphore>,
    /// How many requests this worker takes at once.
    pub most_requests: usize,
    /// See [`Terms`].
    pub head_timeout: Duration,
    /// See [`Terms`].
    pub write_timeout: Duration,
    /// How often unused cache entries are swept.
    pub sweep_interval: Duration,
    /// When to stop accepting.
    pub drain: CancellationToken,
    /// When to stop altogether.
    pub stop: CancellationToken,
}

/// One listening socket of a worker.
pub struct Door {
    /// The socket.
    pub socket: Socket,
    /// What it asks of callers.
    pub gate: Arc<Gate>,
    /// TLS, where it has a certificate.
    pub tls: Option<Arc<ServerTls>>,
}

/// A socket that is not yet registered with a runtime.
pub enum Socket {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// Unix.
    Unix(std::os::unix::net::UnixListener),
}

/// Runs a worker on this thread until it has drained or is stopped.
pub fn run(setup: Setup) -> io::Result<()> {
    clock::keep_elsewhere()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build_local(LocalOptions::default())?;
    let reporter = runtime.block_on(work(setup))?;
    // What is cut here is told too: requests write their lines when their tasks are dropped.
    drop(runtime);
    reporter.access.flush();
    reporter.uses.hand_over();
    Ok(())
}

/// What the tasks of a worker share.
struct Worker {
    proxy: Rc<Proxy>,
    protocol: Protocol,
    terms: Terms,
    reporter: Rc<Reporter>,
    places: Arc<Semaphore>,
    connections: TaskTracker,
    clients: RefCell<HashMap<u64, Weak<Client>>>,
    drain: CancellationToken,
}

async fn work(setup: Setup) -> io::Result<Rc<Reporter>> {
    let (access, metrics) = (setup.access.buffer(), Arc::clone(&setup.metrics));
    let revoking = Revoking::new(setup.vault);
    let uses = Uses::new(setup.uses);
    let reporter = Rc::new(Reporter::new(access, metrics, uses, revoking, setup.taps, setup.most_requests));
    let connections = TaskTracker::new();
    let upstream = Upstream::new(setup.upstream);
    let worker = Rc::new(Worker {
        proxy: Rc::new(Proxy::new(setup.shared, upstream, Rc::clone(&reporter))),
        protocol: Protocol::new(setup.head_timeout, setup.write_timeout, Arc::clone(&setup.metrics)),
        terms: Terms {
            head_timeout: setup.head_timeout,
            write_timeout: setup.write_timeout,
            draining: Cell::new(false),
        },
        reporter,
        places: setup.places,
        connections,
        clients: RefCell::default(),
        drain: setup.drain.clone(),
    });
    worker.proxy.make_ready();
    let _given_up = setup.ready.send(());
    let Ok(doors) = setup.doors.await else { return Ok(Rc::clone(&worker.reporter)) };
    for door in doors {
        let accepting = accept_all(Rc::clone(&worker), door.socket.register()?, door.gate, door.tls);
        worker.connections.spawn_local(accepting);
    }
    worker.connections.close();
    tokio::select! {
        () = worker.connections.wait() => {}
        () = setup.stop.cancelled() => {}
        () = keep_house(&worker, setup.sweep_interval, setup.usage_interval, setup.asked) => {}
        () = worker.reporter.revoking.keep_ending(setup.revoke_within) => {}
    }
    Ok(Rc::clone(&worker.reporter))
}

/// Flushes the log, hands over what was used, sweeps caches and passes on that the server drains, for as long as it is
/// polled.
async fn keep_house(
    worker: &Worker,
    sweep_interval: Duration,
    usage_interval: Duration,
    asked: UnboundedReceiver<Wanted>,
) {
    let sweep = async {
        loop {
            clock::sleep(sweep_interval).await;
            worker.proxy.sweep();
        }
    };
    let drain = async {
        worker.drain.cancelled().await;
        worker.terms.draining.set(true);
        worker.clients.borrow().values().filter_map(Weak::upgrade).for_each(|client| client.wake());
        std::future::pending().await
    };
    tokio::select! {
        () = worker.reporter.access.keep_flushing() => {}
        () = worker.reporter.uses.keep_handing_over(usage_interval, asked) => {}
        () = sweep => {}
        () = drain => {}
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    fn register(self) -> io::Result<Listener> {
        match self {
            Socket::Tcp(listener) => TcpListener::from_std(listener).map(Listener::Tcp),
            Socket::Unix(listener) => UnixListener::from_std(listener).map(Listener::Unix),
        }
    }
}

/// Accepts until the server drains. A failure to accept (too many open files) is waited out, not spun on.
async fn accept_all(worker: Rc<Worker>, listener: Listener, gate: Arc<Gate>, tls: Option<Arc<ServerTls>>) {
    loop {
        let accepted = tokio::select! {
            accepted = accept(&worker, &listener, &gate, tls.as_ref()) => accepted,
            () = worker.drain.cancelled() => return,
        };
        if let Err(error) = accepted {
            tracing::warn!(%error, "a connection could not be accepted");
            clock::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn accept(
    worker: &Rc<Worker>,
    listener: &Listener,
    gate: &Arc<Gate>,
    tls: Option<&Arc<ServerTls>>,
) -> io::Result<()> {
    let stream = match listener {
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            // Fails where the client has hung up already; the first read says so, and accepting goes on.
            let _hung_up = stream.set_nodelay(true);
            Stream::Tcp(stream)
        }
        Listener::Unix(listener) => Stream::Unix(listener.accept().await?.0),
    };
    if let Some(place) = place(worker).await {
        let opened = Opened::new(worker, place);
        let gate = Arc::clone(gate);
        match tls {
            None => worker.connections.spawn_local(serve(opened, Client::new(stream), gate)),
            Some(tls) => worker.connections.spawn_local(serve_over_tls(opened, stream, gate, Arc::clone(tls))),
        };
    }
    Ok(())
}

/// A place for a connection that has come. With every place taken it waits, and the next ones in the kernel's queue. An
/// idle listener holds no place: it would keep it from the others.
async fn place(worker: &Worker) -> Option<OwnedSemaphorePermit> {
    Arc::clone(&worker.places).acquire_owned().await.ok()
}

/// A connection that is counted as open until this is dropped.
struct Opened {
    worker: Rc<Worker>,
    number: u64,
    _place: OwnedSemaphorePermit,
}

impl Opened {
    fn new(worker: &Rc<Worker>, place: OwnedSemaphorePermit) -> Self {
        thread_local! {
            static NEXT: Cell<u64> = const { Cell::new(0) };
        }
        worker.reporter.metrics.open_connections.inc();
        Opened { worker: Rc::clone(worker), number: NEXT.replace(NEXT.get() + 1), _place: place }
    }

    /// Lets the connection be woken when the server drains.
    fn register(&self, client: &Rc<Client>) {
        self.worker.clients.borrow_mut().insert(self.number, Rc::downgrade(client));
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.worker.reporter.metrics.open_connections.dec();
        self.worker.clients.borrow_mut().remove(&self.number);
    }
}

/// Serves a client. What is in the argument list of an `async fn` lies in its future twice, and there is one for each
/// client that is connected; so the future is made here, of what it needs while it waits.
fn serve(opened: Opened, client: Rc<Client>, gate: Arc<Gate>) -> impl Future<Output = ()> {
    opened.register(&client);
    async move {
        let ended = http1::serve(&opened.worker.proxy, &gate, &opened.worker.terms, &client).await;
        if let Some(served) = go_on(&opened.worker, &gate, ended) {
            served.await;
        }
    }
}

/// Serves what HTTP/1.1 has ended with, if it goes on.
fn go_on<'a>(worker: &'a Worker, gate: &'a Arc<Gate>, ended: Ended) -> Option<Pin<Box<dyn Future<Output = ()> + 'a>>> {
    let Ended::Http2(stream) = ended else { return None };
    let answer = |request: Request<Incoming>| {
        let (proxy, gate) = (Rc::clone(&worker.proxy), Arc::clone(gate));
        async move { http2::answer(proxy, &gate, request).await }
    };
    Some(Box::pin(worker.protocol.serve(*stream, worker.drain.clone(), answer)))
}

/// The same behind TLS.
async fn serve_over_tls(opened: Opened, stream: Stream, gate: Arc<Gate>, tls: Arc<ServerTls>) {
    // Boxed: what a handshake needs is let go once it is made.
    if let Some(stream) = Box::pin(shake(&opened.worker, &tls, stream)).await {
        serve(opened, Client::new(stream), gate).await;
    }
}

/// Makes the handshake with a client; it is no request that was begun, so a server that drains gives it up.
async fn shake(worker: &Worker, tls: &ServerTls, stream: Stream) -> Option<Stream> {
    let shaken = async {
        match stream {
            Stream::Tcp(stream) => tls.accept(stream).await.map(|(stream, _)| Stream::Serving(Box::new(stream))),
            Stream::Unix(stream) => tls.accept(stream).await.map(|(stream, _)| Stream::ServingUnix(Box::new(stream))),
            other => Ok(other),
        }
    };
    tokio::select! {
        shaken = clock::timeout(worker.terms.head_timeout, shaken) => match shaken {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake with a client failed");
                None
            }
            Err(_) => {
                tracing::debug!("a TLS handshake with a client took too long");
                None
            }
        },
        () = worker.drain.cancelled() => None,
    }
}
