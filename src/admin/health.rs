//! Health and counters: what a container platform and Prometheus ask.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::error::AdminError;
use super::{Control, Peer};

/// The process is alive.
pub async fn alive() -> &'static str {
    "ok\n"
}

/// The vault can be read; listeners were bound before this port answered.
pub async fn ready(State(control): State<Arc<Control>>) -> Response {
    let vault = match control.vault.database() {
        Ok(database) => database.ready().await.is_ok(),
        Err(_) => true,
    };
    if vault {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the vault cannot be read\n").into_response()
    }
}

/// Counters in the OpenMetrics text format, to loopback only: they tell what an installation does.
pub async fn metrics(
    State(control): State<Arc<Control>>,
    Extension(peer): Extension<Peer>,
) -> Result<Response, AdminError> {
    if !peer.0.ip().to_canonical().is_loopback() {
        return Err(AdminError::NotFound("resource"));
    }
    let vault = control.vault.database().ok().map(|database| {
        let counters = database.counters();
        [
            ("vault_reads", "Questions to the vault's database", counters.reads.load(Ordering::Relaxed)),
            ("vault_opens", "Sealed values opened", counters.opens.load(Ordering::Relaxed)),
        ]
    });
    let text = control.metrics.render(vault.into_iter().flatten());
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response())
}
