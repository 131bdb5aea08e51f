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
mod foreseen;
pub mod healthcheck;
pub mod integration;
pub mod key;
pub mod organization;
mod resource;
pub mod role;
pub mod secret;
pub mod serve;
pub mod session;
mod show;
pub mod tap;
pub mod transfer;
pub mod user;
pub mod whoami;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::ConfigError;
use crate::server::{StartError, chain};
use access::Access;

/// A proxy that holds the credentials of your workflows: it injects them, guards where they go, and streams each
/// request to the real API.
#[derive(Debug, Parser)]
#[command(name = "sidekey", version, max_term_width = 100)]
pub struct Cli {
    /// The configuration file; also SIDEKEY_CONFIG, ./sidekey.toml, /etc/sidekey/sidekey.toml
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    verb: Verb,
}

/// What stands before the command.
#[derive(Debug)]
pub struct Before {
    config: Option<PathBuf>,
    /// What stands there of a command that asks the admin port is among that command's own options too.
    access: Access,
}

impl Before {
    /// For a command that asks no admin port: the configuration, where nothing else is said.
    fn only_config(self, verb: &str) -> Result<Option<PathBuf>, Failure> {
        match self.access.first_given() {
            None => Ok(self.config),
            Some(option) => Err(Failure::Usage(format!("{option} means nothing to `sidekey {verb}`; leave it out"))),
        }
    }
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
    Session(session::Command),
    /// Who did what, when and from where
    Audit(audit::Command),
    /// Watch requests as they pass the proxy, until Ctrl-C
    Tap(tap::Options),
    /// Roles, and what each may do
    Role(role::Command),
    /// Tell which server is asked, who asks it and what they may do
    Whoami(whoami::Command),
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
    /// What a person reads. Words of a server's may hold what somebody else wrote, which moves no cursor here.
    fn told(&self) -> String {
        match self {
            Failure::Config(_) | Failure::Start(_) => chain(self),
            _ => show::clean(&chain(self)),
        }
    }

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

/// The command line, as it is parsed and as shells complete it. What says which server is asked may stand before the
/// command too; commands that ask none do not offer it.
fn command() -> clap::Command {
    Cli::command().mut_args(|option| match option.get_id() == "config" {
        true => option,
        false => option.global(false),
    })
}

/// Runs the command line and gives the exit code.
pub fn run() -> ExitCode {
    let Cli { config, access, verb } =
        Cli::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit());
    let outcome = perform(Before { config, access }, verb);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("sidekey: {}", failure.told());
            ExitCode::from(failure.exit_code())
        }
    }
}

fn perform(before: Before, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Serve => serve::run(before.only_config("serve")?),
        Verb::Check => check::run(before.only_config("check")?),
        Verb::Healthcheck(options) => healthcheck::run(before.only_config("healthcheck")?, &options),
        Verb::Keygen(options) => before.only_config("keygen").and_then(|_| key::generate(&options)),
        Verb::Rekey(options) => key::renew(before.only_config("rekey")?, options),
        Verb::AdminLink(options) => admin_link::run(before.only_config("admin-link")?, options),
        Verb::Connection(command) => connection::run(before, command),
        Verb::Integration(command) => integration::run(before, command),
        Verb::Secret(command) => secret::run(before, command),
        Verb::Environment(command) => environment::run(before, command),
        Verb::Organization(command) => organization::run(before, command),
        Verb::ApiKey(command) => api_key::run(before, command),
        Verb::User(command) => user::run(before, command),
        Verb::Session(command) => session::run(before, command),
        Verb::Audit(command) => audit::run(before, command),
        Verb::Tap(options) => tap::run(before, options),
        Verb::Role(command) => role::run(before, command),
        Verb::Whoami(command) => whoami::run(before, command),
        Verb::Export(options) => transfer::export(before, options),
        Verb::Import(options) => transfer::import(before, options),
        Verb::Curl(options) => curl::run(before, options),
        Verb::Completions(options) => before.only_config("completions").and_then(|_| completions::run(&options)),
        Verb::Demo(options) => before.only_config("demo").and_then(|_| demo::run(&options)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn what_a_server_says_moves_no_cursor() {
        let failure = Failure::Failed("a\u{1b}[2Jb\nc".to_owned());
        assert_eq!(failure.told(), "a\\u{1b}[2Jb\nc");
    }
}
