//! The command line: one file for each verb.

pub mod admin_link;
pub mod check;
pub mod demo;
pub mod healthcheck;
pub mod key;
pub mod serve;

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
    /// No server answers.
    #[error("{0}")]
    Unreachable(String),
    /// Anything else, told already or in words.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// 1 failed, 3 bad configuration, 4 server unreachable; 2 is clap's for a wrong command line.
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
            Failure::Unreachable(_) => 4,
            Failure::Start(_) | Failure::Failed(_) => 1,
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

/// Runs a future on the control runtime: current-thread, on the thread that called, with local tasks.
fn on_control_runtime<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let options = tokio::runtime::LocalOptions::default();
    tokio::runtime::Builder::new_current_thread().enable_all().build_local(options)?.block_on(future)
}
