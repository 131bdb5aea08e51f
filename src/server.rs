//! The server: builds every room from a configuration, runs it, reloads it and drains it.
//!
//! One control runtime on the calling thread holds the vault, the admin port and the watch over files; one worker
//! thread for each core serves the proxy port. The vault is open before a port is bound, and everything that could be
//! wrong with the configuration is told before that.

mod admin_port;
pub mod assemble;
mod bench;
pub mod bind;
pub mod connection;
pub mod control_socket;
pub mod people;
pub mod reload;
mod streams;
mod strict;
mod usage;
pub mod worker;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::admin::authorize::Authorizations;
use crate::admin::{Begun, Control, Guard};
use crate::clock;
use crate::config::{Config, Environment, Report};
use crate::credentials::Credentials;
use crate::directory::Directory;
use crate::model::id::OrganizationId;
use crate::model::name::Key;
use crate::proxy::record::Reporter;
use crate::proxy::revoked::Revoking;
use crate::proxy::tap::Taps;
use crate::proxy::trial::{Bench, Trials};
use crate::proxy::usage::{Handed, Unwritten, Uses, Wanted};
use crate::proxy::{Shared, error};
use crate::telemetry::access_log::{AccessLog, LogWriter};
use crate::telemetry::metrics::Metrics;
use crate::tls::{ServerTls, TlsError, client_config};
use crate::upstream;
use crate::upstream::outbound::Outbound;
use crate::vault::declared::Declared;
use crate::vault::query::Organization;
use crate::vault::{Vault, VaultError};

use admin_port::{AdminPort, Service};
use assemble::BoundDoor;
use bind::{BindError, take};
use reload::{Follower, Watched};
use worker::Door;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The declared part of the configuration is wrong.
    #[error("the configuration is wrong\n\n{0}")]
    Declared(Report),
    /// The variable that is to hold the master key.
    #[error("the master key's variable {name} cannot be used: {problem}")]
    MasterKey {
        /// The variable.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A listener belongs to an organization that does not exist.
    #[error("the organization `{0}` of a listener does not exist; create it first, or use `default`")]
    Organization(Key),
    /// A part of how people come in: a secret that cannot be had, or a mail server that cannot be used.
    #[error("{key} cannot be used: {problem}")]
    People {
        /// The setting.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The vault.
    #[error("the vault does not open")]
    Vault(#[from] VaultError),
    /// A certificate or CA file.
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    /// An address.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system gave no thread or runtime.
    #[error("the system refused a thread or a socket")]
    System(#[from] io::Error),
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The organizations that a configuration names, with their ids.
#[derive(Clone, Debug)]
pub struct Organizations(HashMap<Key, OrganizationId>);

impl Organizations {
    /// Asks the vault for those of listeners and declared connections.
    pub async fn of(config: &Config, vault: &Vault) -> Result<Self, StartError> {
        let mut ids = HashMap::new();
        let named = config.proxy.listeners.iter().map(|listener| &listener.organization);
        let declared = config.declared.connections.iter().map(|connection| &connection.organization);
        let secrets = config.declared.secrets.iter().map(|secret| &secret.organization);
        for key in named.chain(declared).chain(secrets) {
            if !ids.contains_key(key)
                && let Some(Organization { id, .. }) = vault.organization(key.as_str()).await?
            {
                ids.insert(key.clone(), id);
            }
        }
        Ok(Organizations(ids))
    }

    /// An organization's id.
    pub fn id(&self, key: &Key) -> Option<OrganizationId> {
        self.0.get(key).copied()
    }

    /// Every id.
    pub fn ids(&self) -> impl Iterator<Item = OrganizationId> {
        self.0.values().copied()
    }

    /// Reads what a configuration declares.
    pub fn declare(&self, config: &Config, environment: &Environment) -> Result<Declared, Report> {
        // An integration that is not declared may be in the vault; a request then finds out whether it is.
        config.declared.resolve(environment, |key| self.id(key), |_| config.vault.enabled)
    }
}

/// Opens the vault, and says what was made. On a first start that is told once, with paths and no values.
async fn open_vault(config: &Config, environment: &Environment) -> Result<Vault, StartError> {
    if !config.vault.enabled {
        return Ok(Vault::without_database());
    }
    let options = assemble::vault_options(&config.vault, environment)?;
    let path = options.path.display().to_string();
    let (vault, opened) = Vault::open(options).await?;
    if opened.created {
        tracing::info!(
            path,
            "a new vault was made; `sidekey admin-link` prints a link that makes the first super admin"
        );
    }
    if let Some(key) = &opened.master_key_path {
        tracing::info!(path = %key.display(), "a new master key was made; keep a copy of it apart from the vault's backups");
    }
    if let Some(key) = &opened.admin_key_path {
        tracing::info!(path = %key.display(), "the key of the first administrator was written");
    }
    if opened.finished_rekey {
        tracing::info!(path, "an interrupted rekey was brought to its end");
    }
    Ok(vault)
}

/// A running server.
pub struct Server {
    /// The addresses of the proxy port, as they are announced.
    pub proxy: Vec<String>,
    /// The address of the admin port.
    pub admin: Option<SocketAddr>,
    follower: Follower,
    vault: Vault,
    workers: Workers,
    shared: Arc<Shared>,
    access: LogWriter,
    recording: tokio::task::JoinHandle<()>,
    sockets: Vec<PathBuf>,
    tokens: Tokens,
    drain_timeout: Duration,
}

/// How the parts are told to end.
#[derive(Clone)]
struct Tokens {
    /// Finish what was begun.
    drain: CancellationToken,
    /// Stop at once.
    stop: CancellationToken,
}

/// Where access lines go instead of stderr.
pub type LineSink = Box<dyn io::Write + Send>;

impl Server {
    /// Starts everything; call it on the control runtime, which must be a local one and go on being polled.
    /// Access lines go to `lines`, or to stderr where it is absent. What the configuration declares is held once, by the
    /// vault.
    pub async fn start(config: Config, environment: Environment, lines: Option<LineSink>) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::for_codes(error::CODES));
        let vault = open_vault(&config, &environment).await?;
        let organizations = Organizations::of(&config, &vault).await?;
        let watched = Watched::of(&config);
        let declared = organizations.declare(&config, &environment).map_err(StartError::Declared)?;
        vault.declare(declared, &organizations.ids().collect());
        let client_tls = client_config(&config.upstream.ca_files)?;
        let listening = Listening::bind(&config, &organizations)?;
        let upstream = assemble::upstream_settings(&config.upstream, listening.own_addresses(), client_tls);
        let outbound = Outbound::start(Arc::new(upstream.clone()));
        let tokens = Tokens { drain: CancellationToken::new(), stop: CancellationToken::new() };
        let (proxy, mut sockets) = (listening.names(), listening.socket_files());
        let (bench, trials) = Bench::new();
        // The bench of the control runtime counts too.
        let (unwritten, asked) = Unwritten::of(worker_count(&config) + 1);
        let taps = Taps::new(tokens.drain.clone());
        let control = Arc::new(Control {
            vault: vault.clone(),
            bench,
            taps: taps.clone(),
            unwritten,
            metrics: Arc::clone(&metrics),
            people: people::assemble(&config, &environment, listening.admin_address(&config), &outbound)?,
            outbound: outbound.clone(),
            authorizations: Authorizations::default(),
            guard: Guard { host_names: assemble::admin_names(&config.admin) },
            begun: Begun::default(),
        });
        sockets.extend(control_socket::listen_beside(&control));
        let certificates = listening.certificates();
        let Listening { doors, admin } = listening;
        let (log, access) = open_access_log(&config, lines, &metrics)?;
        let (uses, taken) = unbounded_channel();
        let recording = usage::record(vault.clone(), Arc::clone(&metrics), taken, tokens.drain.clone());
        let told = Told { log, metrics: Arc::clone(&metrics), uses, asked, taps };
        let ways = Ways { upstream, outbound };
        let (workers, shared) = start_workers(&config, &vault, ways, trials, told, &tokens)?;
        let follower =
            Follower::new(&config, environment, organizations, vault.clone(), certificates, metrics, watched);
        let (head_timeout, write_timeout) = (config.proxy.head_timeout, config.proxy.body_idle_timeout);
        let admin = admin.map(|port| (port, Service::new(control, head_timeout, write_timeout)));
        let drain_timeout = config.proxy.drain_timeout;
        // A large one takes a while to let go of. Like everything else that takes long it is over when doors open.
        drop(config);
        let workers = open_doors(doors, workers).await?;
        let admin = admin.map(|(port, service)| port.serve(service, tokens.drain.clone())).transpose()?;
        Ok(Server { proxy, admin, follower, vault, workers, shared, access, recording, sockets, tokens, drain_timeout })
    }

    /// What it serves from.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Takes the files as they are now.
    pub fn reload(&mut self) {
        self.follower.reload();
    }

    /// Looks whether a file has changed.
    pub fn look(&mut self) {
        self.follower.look();
    }

    /// Stops accepting, finishes what was begun, and stops at the latest when the drain timeout is over or `hurry`
    /// resolves.
    pub async fn drain(self, hurry: impl Future<Output = ()>) {
        let end = clock::Instant::now() + self.drain_timeout;
        self.tokens.drain.cancel();
        let workers = self.workers;
        let mut finished = tokio::task::spawn_blocking(move || {
            for worker in workers {
                let _panicked = worker.join();
            }
        });
        tokio::select! {
            _ = &mut finished => {}
            () = clock::sleep_until(end) => {
                self.tokens.stop.cancel();
                let _joined = finished.await;
            }
            () = hurry => {
                self.tokens.stop.cancel();
                let _joined = finished.await;
            }
        }
        for socket in &self.sockets {
            let _already_gone = std::fs::remove_file(socket);
        }
        // It ends when the workers have, and has then written all that they counted.
        let _panicked = self.recording.await;
        // What a provider has given out it gives out once.
        if clock::timeout_at(end, self.shared.credentials.settle()).await.is_err() {
            tracing::error!(
                "tokens that were asked for could not be stored in time; their connections may need a sign-in"
            );
        }
        self.vault.close().await;
        drop(self.follower);
        self.access.join();
    }
}

/// Every address that was taken.
struct Listening {
    doors: Vec<BoundDoor>,
    admin: Option<AdminPort>,
}

impl Listening {
    fn bind(config: &Config, organizations: &Organizations) -> Result<Self, StartError> {
        let mut doors = Vec::new();
        for listener in &config.proxy.listeners {
            let id = organizations.id(&listener.organization);
            let id = id.ok_or_else(|| StartError::Organization(listener.organization.clone()))?;
            let tls = assemble::listener_tls(listener.tls.as_ref())?;
            let bound = take(&listener.address, listener.mode)?;
            doors.push(BoundDoor { bound, gate: Arc::new(assemble::gate(listener, id)), tls });
        }
        Ok(Listening { doors, admin: AdminPort::bind(&config.admin)? })
    }

    /// Where the admin port is, or would be.
    fn admin_address(&self, config: &Config) -> SocketAddr {
        self.admin.as_ref().map_or(config.admin.address, |admin| admin.address)
    }

    fn own_addresses(&self) -> Vec<SocketAddr> {
        let proxy = self.doors.iter().filter_map(|door| door.bound.address());
        proxy.chain(self.admin.iter().map(|admin| admin.address)).collect()
    }

    fn names(&self) -> Vec<String> {
        self.doors.iter().map(|door| door.bound.name()).collect()
    }

    fn socket_files(&self) -> Vec<PathBuf> {
        self.doors.iter().filter_map(|door| door.bound.socket_file()).collect()
    }

    fn certificates(&self) -> Vec<Arc<ServerTls>> {
        let admin = self.admin.iter().filter_map(|admin| admin.tls.clone());
        self.doors.iter().filter_map(|door| door.tls.clone()).chain(admin).collect()
    }
}

fn worker_count(config: &Config) -> usize {
    config.proxy.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into))
}

fn open_access_log(
    config: &Config,
    lines: Option<LineSink>,
    metrics: &Arc<Metrics>,
) -> Result<(AccessLog, LogWriter), StartError> {
    let sink = lines.unwrap_or_else(|| Box::new(io::stderr()));
    let (log, writer) = AccessLog::start(sink, config.log.format.resolve(), Arc::clone(metrics))?;
    let log = if config.log.access { log } else { AccessLog::off(Arc::clone(metrics)) };
    Ok((log, writer))
}

/// Where workers tell what happens.
struct Told {
    log: AccessLog,
    metrics: Arc<Metrics>,
    uses: UnboundedSender<Handed>,
    asked: Vec<UnboundedReceiver<Wanted>>,
    taps: Taps,
}

impl Told {
    /// What the worker of tests tells of its requests; they have no limit of their own.
    fn of_tests(&self, vault: &Vault) -> Reporter {
        let (metrics, uses) = (Arc::clone(&self.metrics), Uses::new(self.uses.clone()));
        let revoking = Revoking::new(vault.clone());
        Reporter::new(self.log.buffer(), metrics, uses, revoking, self.taps.clone(), usize::MAX)
    }
}

/// The threads that serve.
type Workers = Vec<JoinHandle<io::Result<()>>>;

/// A thread that gets ready to serve.
struct Started {
    thread: JoinHandle<io::Result<()>>,
    ready: oneshot::Receiver<()>,
    doors: oneshot::Sender<Vec<Door>>,
}

/// The ways out.
struct Ways {
    /// To upstreams, for each worker.
    upstream: upstream::Settings,
    /// To authorization servers, for all of them.
    outbound: Outbound,
}

fn start_workers(
    config: &Config,
    vault: &Vault,
    Ways { upstream, outbound }: Ways,
    trials: Trials,
    told: Told,
    tokens: &Tokens,
) -> Result<(Vec<Started>, Arc<Shared>), StartError> {
    let workers = worker_count(config);
    let (reporter, mut asked) = (told.of_tests(vault), told.asked.into_iter());
    let mut asked = || asked.next().unwrap_or_else(|| unbounded_channel().1);
    let control = tokio::runtime::Handle::current();
    let limits = assemble::limits(&config.cache);
    let shared = Arc::new(Shared {
        directory: Directory::new(vault.clone(), limits, control.clone()),
        credentials: Credentials::new(vault.clone(), outbound, limits, control),
        settings: assemble::proxy_settings(config, &upstream),
    });
    let upstream = Arc::new(upstream);
    let trying = bench::Setup {
        shared: Arc::clone(&shared),
        upstream: Arc::clone(&upstream),
        reporter,
        usage_interval: config.proxy.usage_interval,
        asked: asked(),
        sweep_interval: assemble::sweep_interval(&config.cache),
        drain: tokens.drain.clone(),
    };
    bench::serve(trials, trying);
    let places = Arc::new(Semaphore::new(config.proxy.max_connections));
    let mut started = Vec::new();
    for index in 0..workers {
        let ((is_ready, ready), (doors, opened)) = (oneshot::channel(), oneshot::channel());
        let setup = worker::Setup {
            ready: is_ready,
            doors: opened,
            shared: Arc::clone(&shared),
            upstream: Arc::clone(&upstream),
            access: told.log.clone(),
            metrics: Arc::clone(&told.metrics),
            uses: told.uses.clone(),
            asked: asked(),
            usage_interval: config.proxy.usage_interval,
            vault: vault.clone(),
            revoke_within: config.proxy.revoke_within,
            taps: told.taps.clone(),
            places: Arc::clone(&places),
            most_requests: config.proxy.max_requests.div_ceil(workers),
            head_timeout: config.proxy.head_timeout,
            write_timeout: config.proxy.body_idle_timeout,
            sweep_interval: assemble::sweep_interval(&config.cache),
            drain: tokens.drain.clone(),
            stop: tokens.stop.clone(),
        };
        let name = format!("worker-{index}");
        let thread = std::thread::Builder::new().name(name).spawn(move || worker::run(setup))?;
        started.push(Started { thread, ready, doors });
    }
    Ok((started, shared))
}

/// Listens, once every worker is ready: whoever can connect over TCP is served at once. Who came to a Unix socket before
/// has waited in its queue.
async fn open_doors(listeners: Vec<BoundDoor>, mut started: Vec<Started>) -> Result<Workers, StartError> {
    for worker in &mut started {
        (&mut worker.ready).await.map_err(|_| io::Error::other("a worker ended before it was ready"))?;
    }
    tracing::debug!(workers = started.len(), "every worker is ready: the proxy port opens");
    let doors = assemble::doors(listeners, started.len())?;
    let open = |(worker, doors): (Started, Vec<Door>)| {
        let _ended = worker.doors.send(doors);
        worker.thread
    };
    Ok(started.into_iter().zip(doors).map(open).collect())
}
