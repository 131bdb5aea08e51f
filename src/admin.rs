//! The control plane: the router of the admin port. Every endpoint is on this page.
//!
//! A request is checked before it is routed (is the name it was sent to ours, is it a web page's), then who asks, then
//! what they may. Changes go through the vault's `commit` and nowhere else.

pub mod error;
mod guard;
pub mod health;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;

use crate::telemetry::metrics::Metrics;
use crate::vault::Vault;

pub use guard::Guard;

/// Everything the endpoints share.
pub struct Control {
    /// What is stored.
    pub vault: Vault,
    /// The process's counters.
    pub metrics: Arc<Metrics>,
    /// Which requests are looked at, at all.
    pub guard: Guard,
}

/// Where a request came from; put into its extensions by who accepted the connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Every endpoint.
pub fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .fallback(error::not_found)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&control), guard::check))
        .with_state(control)
}
