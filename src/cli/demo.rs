//! `sidekey demo`: everything in one process, with a sample upstream under a made-up host name.
//!
//! The upstream is real TLS on a loopback port; the names and the trust are those of a configuration that a person
//! could have written; the vault is a real one in a temporary folder. One connection for each kind of injection.

mod sample;
mod table;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use clap::Args;
use zeroize::Zeroizing;

use super::Failure;
use super::show::print;
use crate::config::{Config, Environment};
use crate::server::Server;
use crate::telemetry;
use sample::{Connection, HOST, SampleUpstream, connections};

/// Options of `sidekey demo`.
#[derive(Debug, Args)]
pub struct Options {
    /// Send one request over each connection, print a table, and end
    #[arg(long)]
    once: bool,
    /// The proxy port; a free one if it is left out
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    port: u16,
}

/// Runs the demo.
pub fn run(options: &Options) -> Result<(), Failure> {
    let format = telemetry::Format::of_stderr();
    telemetry::start_logging("warn", format).map_err(|error| Failure::Failed(error.to_string()))?;
    super::on_control_runtime(demonstrate(options))
}

async fn demonstrate(options: &Options) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let connections = connections();
    let upstream = SampleUpstream::start(folder.path(), &connections).await?;
    let text = configuration(folder.path(), upstream.address, options.port);
    let path = folder.path().join("sidekey.toml");
    let environment = Environment::of::<String, String>([]);
    let config = Config::read(Some(path), Zeroizing::new(text), &environment)?;
    let (lines, captured) = channel();
    let server = Server::start(config, environment, Some(Box::new(LineSink(lines)))).await?;
    for connection in &connections {
        connection.store(server.vault()).await?;
    }
    let proxy = server.proxy.first().cloned().unwrap_or_default();
    let outcome =
        if options.once { once(&proxy, &connections, &captured).await } else { stay(&proxy, &connections).await };
    server.drain(std::future::ready(())).await;
    outcome
}

/// Hands access lines to who measures.
struct LineSink(std::sync::mpsc::Sender<Vec<u8>>);

impl std::io::Write for LineSink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _nobody_measures = self.0.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A configuration as a person would write it. The vault is made in the same temporary folder.
fn configuration(folder: &Path, upstream: SocketAddr, port: u16) -> String {
    format!(
        "[[proxy.listeners]]\naddress = \"127.0.0.1:{port}\"\ntrust = \"local\"\n\n\
         [proxy]\nthreads = 1\n\n[admin]\nenabled = false\n\n[log]\nformat = \"json\"\n\n\
         [upstream]\nca_files = [\"{}\"]\nallow_networks = [\"127.0.0.0/8\"]\nhosts = {{ \"{HOST}\" = \"{upstream}\" }}\n",
        folder.join("ca.pem").display(),
    )
}

/// Sends one request over each connection and prints what became of it.
async fn once(proxy: &str, connections: &[Connection], captured: &Receiver<Vec<u8>>) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for connection in connections {
        rows.push(sample::ask(proxy, connection).await?);
    }
    let added = table::added_microseconds(captured, connections)?;
    print(&table::render(&rows, &added))?;
    match rows.iter().filter(|row| !row.as_expected).count() {
        0 => Ok(()),
        wrong => Err(Failure::Failed(format!("{wrong} of {} connections did not do what they should", rows.len()))),
    }
}

/// Prints what to try and waits to be interrupted.
async fn stay(proxy: &str, connections: &[Connection]) -> Result<(), Failure> {
    let each = connections.iter().map(|connection| format!("# {}\n{}\n\n", connection.what, connection.curl(proxy)));
    print(&format!(
        "Sidekey listens on {proxy}; the sample API is https://{HOST}, a name that exists only in here.\n\
         These work now. No credential is in any of them; the answer shows, masked, what the API received:\n\n{}\
         The same without a header, for clients that only take a base URL:\ncurl http://{proxy}/c/bearer/me\n\n\
         And as a forward proxy:\ncurl --proxy http://bearer:@{proxy} http://{HOST}/me\n\n\
         Ctrl-C ends it; nothing is left behind.\n",
        each.collect::<String>()
    ))?;
    tokio::signal::ctrl_c().await?;
    Ok(())
}
