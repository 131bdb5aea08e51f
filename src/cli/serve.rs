//! `sidekey serve`

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::Failure;
use crate::clock;
use crate::config::{Config, Environment};
use crate::server::Server;
use crate::telemetry;

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Serves until SIGTERM or SIGINT.
pub fn run(explicit: Option<PathBuf>) -> Result<(), Failure> {
    close_to_debuggers()?;
    let environment = Environment::of_process();
    let config = Config::load(explicit, &environment)?;
    telemetry::start_logging(&config.log.level, config.log.format.resolve())
        .map_err(|error| Failure::Failed(error.to_string()))?;
    super::on_control_runtime(serve(config, environment))
}

/// Secrets live in this process's memory: nobody but root reads it, and no core file keeps it.
fn close_to_debuggers() -> Result<(), Failure> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(std::io::Error::from)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(std::io::Error::from)?;
    Ok(())
}

async fn serve(config: Config, environment: Environment) -> Result<(), Failure> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hup = signal(SignalKind::hangup())?;
    // A file that may grow no further (RLIMIT_FSIZE) is told to whoever writes to it, instead of ending the process.
    let _told = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))?;
    for warning in config.warnings.details() {
        tracing::warn!(warning, "the configuration is accepted, and this is not advised");
    }
    let mut server = Server::start(config, environment, None).await?;
    announce(&server)?;
    let mut looks = clock::interval(LOOK);
    looks.set_missed_tick_behavior(clock::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            _ = hup.recv() => server.reload(),
            _ = looks.tick() => server.look(),
        }
    }
    tracing::info!("draining: a second signal stops at once");
    let hurry = async {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    };
    server.drain(hurry).await;
    Ok(())
}

/// The one line that stdout carries: scripts wait for it and read the ports from it.
fn announce(server: &Server) -> std::io::Result<()> {
    let admin = server.admin.map_or_else(|| "off".to_owned(), |address| address.to_string());
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "listening proxy={} admin={admin}", server.proxy.join(","))?;
    stdout.flush()
}
