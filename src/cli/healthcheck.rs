//! `sidekey healthcheck`: whether the server of this configuration answers, for container platforms.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Failure;
use crate::clock::timeout;
use crate::config::{Config, Environment};
use crate::tls::{Offer, pinned_client_config};

/// Options of `sidekey healthcheck`.
#[derive(Debug, Args)]
pub struct Options {
    /// The admin port to ask, where it is not the configuration's (as when that takes a free port)
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<SocketAddr>,
}

const PATIENCE: Duration = Duration::from_secs(4);

/// Asks `/readyz` of the admin port. Where the port wants a client certificate that this command does not have, a
/// handshake with the right server counts as an answer.
pub fn run(explicit: Option<PathBuf>, options: &Options) -> Result<(), Failure> {
    let config = Config::load(explicit, &Environment::of_process())?;
    if !config.admin.enabled {
        return Err(Failure::Failed(
            "the admin port is off, so there is nothing to ask; enable it on loopback".to_owned(),
        ));
    }
    let address = super::reachable(options.address.unwrap_or(config.admin.address));
    super::on_control_runtime(async {
        let asked = timeout(PATIENCE, ask(address, &config)).await;
        asked.map_err(|_| Failure::Unreachable(format!("nothing answered on {address} within 4 seconds")))?
    })
}

async fn ask(address: SocketAddr, config: &Config) -> Result<(), Failure> {
    let unreachable = |error: std::io::Error| Failure::Unreachable(format!("{address} does not answer: {error}"));
    let stream = TcpStream::connect(address).await.map_err(unreachable)?;
    let Some(tls) = &config.admin.tls else { return ask_over(stream, address).await };
    let pinned = pinned_client_config(&tls.certificate).map_err(|error| Failure::Failed(error.to_string()))?;
    let shaken = pinned.connect(stream, "localhost", Offer::Http1).await;
    let (stream, _) = shaken.map_err(|error| Failure::Failed(format!("{address}: {error}")))?;
    if tls.client_ca.is_some() { Ok(()) } else { ask_over(stream, address).await }
}

async fn ask_over(mut stream: impl AsyncRead + AsyncWrite + Unpin, address: SocketAddr) -> Result<(), Failure> {
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await?;
    let status = answer.get(9..12).map(String::from_utf8_lossy).unwrap_or_default().into_owned();
    if status == "200" {
        Ok(())
    } else {
        Err(Failure::Failed(format!("{address} answers with status {status}: it is not ready")))
    }
}
