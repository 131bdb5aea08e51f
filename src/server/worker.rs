//! Workers: one thread, one runtime, its own listening sockets, its own pool of upstream connections.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Version};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::LocalOptions;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::Protocol;
use super::stream::{ClientStream, Signs};
use crate::proxy::gate::Gate;
use crate::proxy::record::Reporter;
use crate::proxy::{Proxy, Shared};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::tls::ServerTls;
use crate::upstream::{self, Upstream};

/// What a worker is made of.
pub struct Setup {
    /// Its sockets, with what each asks of callers.
    pub doors: Vec<Door>,
    /// Facts, secrets, settings.
    pub shared: Arc<Shared>,
    /// How upstreams are reached.
    pub upstream: Arc<upstream::Settings>,
    /// Where access lines go.
    pub access: AccessLog,
    /// The process's counters.
    pub metrics: Arc<Metrics>,
    /// A place for each connection that may be open at once, over all workers.
    pub places: Arc<Semaphore>,
    /// See [`Protocol::new`].
    pub head_timeout: Duration,
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let reporter = runtime.block_on(work(setup))?;
    // What is cut here is told too: requests write their lines when their tasks are dropped.
    drop(runtime);
    reporter.access.flush();
    Ok(())
}

/// What the tasks of a worker share.
struct Worker {
    proxy: Proxy,
    protocol: Protocol,
    reporter: Rc<Reporter>,
    places: Arc<Semaphore>,
    connections: TaskTracker,
    head_timeout: Duration,
    drain: CancellationToken,
}

async fn work(setup: Setup) -> io::Result<Rc<Reporter>> {
    let reporter = Rc::new(Reporter::new(setup.access.buffer(), Arc::clone(&setup.metrics)));
    let connections = TaskTracker::new();
    let upstream = Upstream::new(setup.upstream);
    let worker = Rc::new(Worker {
        proxy: Proxy::new(setup.shared, upstream, Rc::clone(&reporter), connections.clone()),
        protocol: Protocol::new(setup.head_timeout, Arc::clone(&setup.metrics)),
        reporter,
        places: setup.places,
        connections,
        head_timeout: setup.head_timeout,
        drain: setup.drain.clone(),
    });
    for door in setup.doors {
        let accepting = accept_all(Rc::clone(&worker), door.socket.register()?, door.gate, door.tls);
        worker.connections.spawn_local(accepting);
    }
    worker.connections.close();
    tokio::select! {
        () = worker.connections.wait() => {}
        () = setup.stop.cancelled() => {}
        () = keep_house(&worker, setup.sweep_interval) => {}
    }
    Ok(Rc::clone(&worker.reporter))
}

/// Flushes the log and sweeps caches, for as long as it is polled.
async fn keep_house(worker: &Worker, sweep_interval: Duration) {
    let sweep = async {
        loop {
            tokio::time::sleep(sweep_interval).await;
            worker.proxy.sweep();
        }
    };
    tokio::select! {
        () = worker.reporter.access.keep_flushing() => {}
        () = sweep => {}
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
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn accept(
    worker: &Rc<Worker>,
    listener: &Listener,
    gate: &Arc<Gate>,
    tls: Option<&Arc<ServerTls>>,
) -> io::Result<()> {
    let (worker, gate, tls) = (Rc::clone(worker), Arc::clone(gate), tls.cloned());
    let connections = worker.connections.clone();
    let signs = Signs::default();
    match listener {
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            // Fails where the client has hung up already; the first read says so, and accepting goes on.
            let _hung_up = stream.set_nodelay(true);
            let stream = ClientStream::new(stream, signs.clone());
            let Some(place) = place(&worker).await else { return Ok(()) };
            connections.spawn_local(serve(worker, stream, signs, gate, tls, place));
        }
        Listener::Unix(listener) => {
            let (stream, _) = listener.accept().await?;
            let Some(place) = place(&worker).await else { return Ok(()) };
            connections.spawn_local(serve(worker, stream, signs, gate, tls, place));
        }
    }
    Ok(())
}

/// A place for a connection that has come. With every place taken it waits, and the next ones in the kernel's queue. An
/// idle listener holds no place: it would keep it from the others.
async fn place(worker: &Worker) -> Option<OwnedSemaphorePermit> {
    Arc::clone(&worker.places).acquire_owned().await.ok()
}

async fn serve<S>(
    worker: Rc<Worker>,
    stream: S,
    signs: Signs,
    gate: Arc<Gate>,
    tls: Option<Arc<ServerTls>>,
    _place: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let metrics = &worker.reporter.metrics;
    metrics.open_connections.inc();
    let drain = worker.drain.clone();
    // Beneath TLS nothing can be written that is not a record of it.
    let can_be_asked = tls.is_none();
    let answer = |request: Request<Incoming>| {
        let (worker, gate, signs) = (Rc::clone(&worker), Arc::clone(&gate), signs.clone());
        async move {
            let version = request.version();
            signs.waiting.set(can_be_asked && version == Version::HTTP_11);
            let mut response = worker.proxy.handle(&gate, request).await;
            signs.waiting.set(false);
            if version < Version::HTTP_11 {
                response.body_mut().ends_with_connection(&signs.unfinished);
            }
            response
        }
    };
    match tls {
        None => Box::pin(worker.protocol.serve(stream, drain, answer)).await,
        Some(tls) => {
            let shaken = tokio::select! {
                shaken = tokio::time::timeout(worker.head_timeout, tls.accept(stream)) => Some(shaken),
                // A handshake is no request that was begun.
                () = drain.cancelled() => None,
            };
            match shaken {
                Some(Ok(Ok((stream, _)))) => Box::pin(worker.protocol.serve(stream, drain, answer)).await,
                Some(Ok(Err(error))) => tracing::debug!(%error, "a TLS handshake with a client failed"),
                Some(Err(_)) => tracing::debug!("a TLS handshake with a client took too long"),
                None => {}
            }
        }
    }
    worker.reporter.metrics.open_connections.dec();
}
