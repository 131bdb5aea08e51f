//! A vault of a million connections beside smaller ones: what a start, a change, a first use, a page and a request cost.
//!
//! ```text
//! cargo bench --bench vault -- [--counts 1000,10000,1000000] [--server PATH]
//! ```
//!
//! The vaults are made by the vault's own writing code: every credential is sealed for its place, every change is in the
//! audit chain of its organization. That takes minutes for a million, so a vault is kept in `target/vaults` and used
//! again as long as the tables are the same. The server is the real one, over loopback, with its default caches.

#[path = "vault/beside.rs"]
mod beside;
#[path = "vault/figures.rs"]
mod figures;
#[path = "vault/fill.rs"]
mod fill;
#[path = "vault/http.rs"]
mod http;
#[path = "process.rs"]
mod process;
#[path = "vault/server.rs"]
mod server;
#[path = "vault/uses.rs"]
mod uses;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use figures::Figures;
use fill::Filled;

/// Why a run came to nothing.
type Fault = Box<dyn Error + Send + Sync>;

struct Arguments {
    counts: Vec<usize>,
    server: PathBuf,
}

impl Arguments {
    fn read() -> Result<Self, Fault> {
        let mut read =
            Arguments { counts: vec![1_000, 10_000, 1_000_000], server: PathBuf::from(env!("CARGO_BIN_EXE_sidekey")) };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} takes a value"));
            match word.as_str() {
                // Cargo says to every bench that it is one.
                "--bench" => {}
                "--counts" => read.counts = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?,
                "--server" => read.server = value()?.into(),
                other => return Err(format!("unknown argument {other}").into()),
            }
        }
        if read.counts.iter().any(|count| *count < 1_000) {
            return Err("a vault has 1,000 connections or more".into());
        }
        Ok(read)
    }
}

fn run() -> Result<(), Fault> {
    let arguments = Arguments::read()?;
    let vaults: Vec<Filled> = arguments.counts.into_iter().map(Filled::with).collect::<Result<_, _>>()?;
    let measured: Vec<Figures> =
        vaults.iter().map(|filled| Figures::measure(&arguments.server, filled)).collect::<Result<_, _>>()?;
    figures::print(&measured);
    beside::print(&arguments.server, &vaults)
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
