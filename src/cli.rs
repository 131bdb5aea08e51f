//! The command line: one file for each verb.

mod access;
pub mod admin_link;
pub mod api_key;
pub mod audit;
pub mod check;
mod client;
pub mod completions;
pub mod connection;
pub mod curl;
pub mod demo;
mod entered;
pub mod environment;
pub mod healthcheck;
pub mod integration;
pub mod key;
pub mod organization;
mod resource;
pub mod role;
pub mod secret;
pub mod serve;
mod show;
pub mod transfer;
pub mod user;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::ConfigError;
use crate::server::{StartError, chain};

/// A proxy that holds the credentials of your workflows: it injects them, guards where they go, and streams each
/// request to the real API.
#[derive(Debug, Parser)]
#[command(name = "sidekey", version, max_term_width = 100)]
pub struct Cli {
    /// The configuration file; also SIDEKEY_CONFIG, ./sidekey.toml, /etc/sidekey/sidekey.toml
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve the proxy port and the admin port until SIGTERM
    Serve,
    /// Tell what is wrong with configuration, vault, keys, addresses and connections, and what to do; reads only
    Check,
    /// Whether the server of this configuration is ready: exit code 0 or not, for container platforms
    Healthcheck(healthcheck::Options),
    /// Write a new master key to a file
    Keygen(key::Keygen),
    /// Give the vault a new master key; the stored values stay as they are
    Rekey(key::Rekey),
    /// Print a one-time link that makes a super admin, or lets one back in; for who owns the vault's files
    AdminLink(admin_link::Options),
    /// Connections, and what is entered into them
    Connection(connection::Command),
    /// Integrations: how to talk to one provider
    Integration(integration::Command),
    /// Secrets, for credentials to refer to
    Secret(secret::Command),
    /// Environments, in their order
    Environment(environment::Command),
    /// Organizations, the tenants
    Organization(organization::Command),
    /// API keys: who may use what, and how often
    ApiKey(api_key::Command),
    /// Users: people who sign in
    User(user::Command),
    /// Sessions of people who are signed in
    Session(user::SessionCommand),
    /// Who did what, when and from where
    Audit(audit::Command),
    /// Roles, and what each may do
    Role(role::Command),
    /// Write integrations and connections, without secrets, for an import elsewhere
    Export(transfer::Export),
    /// Take over integrations and connections of an export: all of them, or none
    Import(transfer::Import),
    /// Send one request through the proxy, with the system's curl
    Curl(curl::Options),
    /// Print the completions of a shell
    Completions(completions::Options),
    /// Show it at work: a sample upstream, one connection for each kind of injection, curls that work
    Demo(demo::Options),
}

/// Why a verb did not succeed. Each says what to do; its exit code is what a script sees.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The server.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The command line asks for what makes no sense together.
    #[error("{0}")]
    Usage(String),
    /// No server answers.
    #[error("{0}")]
    Unreachable(String),
    /// The server does not know who asks, or they may not.
    #[error("{0}")]
    Unauthorized(String),
    /// The server knows no such thing.
    #[error("{0}")]
    NotFound(String),
    /// Anything else, told already or in words.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// 1 failed, 2 wrong usage (as clap's own), 3 bad configuration, 4 server unreachable, 5 not authorized, 6 not found.
    fn exit_code(&self) -> u8 {
        match self {
            Failure::Config(_)
            | Failure::Start(
                StartError::Declared(_)
                | StartError::Organization(_)
                | StartError::Tls(_)
                | StartError::MasterKey { .. }
                | StartError::People { .. },
            ) => 3,
            Failure::Usage(_) => 2,
            Failure::Unreachable(_) => 4,
            Failure::Unauthorized(_) => 5,
            Failure::NotFound(_) => 6,
            Failure::Start(_) | Failure::Failed(_) => 1,
        }
    }
}

impl Failure {
    /// The same failure, with a sentence behind it.
    fn with(self, sentence: &str) -> Self {
        let told = |text: String| format!("{text}\n{sentence}");
        match self {
            Failure::Usage(text) => Failure::Usage(told(text)),
            Failure::Unreachable(text) => Failure::Unreachable(told(text)),
            Failure::Unauthorized(text) => Failure::Unauthorized(told(text)),
            Failure::NotFound(text) => Failure::NotFound(told(text)),
            Failure::Failed(text) => Failure::Failed(told(text)),
            other @ (Failure::Config(_) | Failure::Start(_)) => other,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::Failed(error.to_string())
    }
}

/// Runs the command line and gives the exit code.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.verb {
        Verb::Serve => serve::run(cli.config),
        Verb::Check => check::run(cli.config),
        Verb::Healthcheck(options) => healthcheck::run(cli.config, &options),
        Verb::Keygen(options) => key::generate(&options),
        Verb::Rekey(options) => key::renew(cli.config, options),
        Verb::AdminLink(options) => admin_link::run(cli.config, options),
        Verb::Connection(command) => connection::run(cli.config, command),
        Verb::Integration(command) => integration::run(cli.config, command),
        Verb::Secret(command) => secret::run(cli.config, command),
        Verb::Environment(command) => environment::run(cli.config, command),
        Verb::Organization(command) => organization::run(cli.config, command),
        Verb::ApiKey(command) => api_key::run(cli.config, command),
        Verb::User(command) => user::run(cli.config, command),
        Verb::Session(command) => user::run_session(cli.config, command),
        Verb::Audit(command) => audit::run(cli.config, command),
        Verb::Role(command) => role::run(cli.config, command),
        Verb::Export(options) => transfer::export(cli.config, options),
        Verb::Import(options) => transfer::import(cli.config, options),
        Verb::Curl(options) => curl::run(cli.config, &options),
        Verb::Completions(options) => completions::run(&options),
        Verb::Demo(options) => demo::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("sidekey: {}", chain(&failure));
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Where a port that listens on every address can be asked.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            IpAddr::V6(Ipv6Addr::LOCALHOST)
        });
    }
    address
}

/// Runs a future on the control runtime: current-thread, on the thread that called, with local tasks.
fn on_control_runtime<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let options = tokio::runtime::LocalOptions::default();
    tokio::runtime::Builder::new_current_thread().enable_all().build_local(options)?.block_on(future)
}
