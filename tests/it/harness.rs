//! What the integration tests are built with: the real server, scripted upstreams, raw clients, a test PKI, canaries.
//!
//! It deliberately knows nothing of Sidekey's own modules: it sees the product as its users do, from outside, so that
//! a test cannot pass because both sides share a mistake.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "a tool box: not every tool is used by every set of tests"
)]

pub mod admin;
pub mod authorizer;
pub mod board;
pub mod browser;
pub mod canary;
pub mod client;
pub mod config;
pub mod mail;
pub mod pki;
pub mod problem;
pub mod process;
pub mod provider;
pub mod recorder;
pub mod server;
pub mod sink;
pub mod socket;
pub mod strict;
pub mod wires;

use std::future::Future;
use std::time::Duration;

pub use browser::Browser;
pub use canary::Canary;
pub use client::{Client, Raw, Reply, ask, get};
pub use config::Config;
pub use problem::{Problem, problem};
pub use server::Sidekey;
pub use sink::{Script, Sink};

/// How long anything may take before a test gives up on it: generous, because a loaded machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The output of `future`, or a panic naming `what` was awaited when it takes longer than `limit`.
#[track_caller]
pub fn within<F: Future>(limit: Duration, what: &str, future: F) -> impl Future<Output = F::Output> {
    let (caller, what) = (std::panic::Location::caller(), what.to_owned());
    async move {
        match tokio::time::timeout(limit, future).await {
            Ok(output) => output,
            Err(_) => panic!("waited {limit:?} in vain for {what} ({caller})"),
        }
    }
}

/// `within` the usual patience.
#[track_caller]
pub fn soon<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    within(PATIENCE, what, future)
}
