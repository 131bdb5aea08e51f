//! The work that an instrumented build is watched at: what a release build is laid out for. See `scripts/profile`.
//!
//! ```text
//! profile SERVER
//! ```
//!
//! It starts the server with everything on that a real installation has, sends it a fixed number of requests of the kinds
//! that workflows send, and stops it in an orderly way, as it writes what it counted at its end. Most are small and go to
//! an upstream behind TLS, half of them with an API key; some bodies are large in either direction, some answers come in
//! chunks, some requests go over HTTP/2, and now and then one is refused. No part of it is a timing.

#[path = "profile/clients.rs"]
mod clients;
#[path = "profile/http2.rs"]
mod http2;
#[path = "process.rs"]
mod process;
#[path = "profile/server.rs"]
mod server;
#[path = "profile/upstream.rs"]
mod upstream;

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// Why it came to nothing.
pub(crate) type Fault = Box<dyn Error + Send + Sync>;

/// Where requests go.
pub(crate) struct Upstreams {
    plain: SocketAddr,
    behind_tls: SocketAddr,
    of_http2: SocketAddr,
    /// Who has signed their certificates.
    authority: String,
}

/// How many connections are declared to each upstream.
pub(crate) const CONNECTIONS: usize = 500;

/// What the connection of that number is given.
pub(crate) fn token(number: usize) -> String {
    format!("ghp_{number:036}")
}

fn run() -> Result<(), Fault> {
    // Cargo says to every bench that it is one.
    let server = std::env::args().skip(1).find(|word| word != "--bench").ok_or("name the server")?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let authority = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);
    let upstreams = Upstreams {
        plain: upstream::start(None)?,
        behind_tls: upstream::start(Some(upstream::tls(&issuer)?))?,
        of_http2: http2::start(upstream::tls(&issuer)?)?,
        authority,
    };
    let server = server::Server::start(&std::fs::canonicalize(server)?, &upstreams)?;
    clients::send_all(server.proxy, &server.make_key()?)?;
    http2::send_all(server.proxy)?;
    server.stop()
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
