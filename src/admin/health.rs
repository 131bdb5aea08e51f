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
#[utoipa::path(get, path = "/healthz", security(()), responses((status = 200, description = "It is.", body = String)))]
pub async fn alive() -> &'static str {
    "ok\n"
}

/// The vault can be read.
///
/// Listeners were bound before this port answered.
#[utoipa::path(get, path = "/readyz", security(()), responses(
    (status = 200, description = "Requests are served.", body = String),
    (status = 503, description = "The vault cannot be read.", body = String),
))]
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

/// Counters in the OpenMetrics text format.
///
/// To loopback only: they tell what an installation does.
#[utoipa::path(get, path = "/metrics", security(()), responses(
    (status = 200, description = "The counters.", body = String,
        content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    (status = 404),
))]
pub async fn metrics(
    State(control): State<Arc<Control>>,
    Extension(peer): Extension<Peer>,
) -> Result<Response, AdminError> {
    if !is_told(&peer) {
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

/// Whether somebody may see the counters.
fn is_told(peer: &Peer) -> bool {
    peer.0.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AD-14
    #[test]
    fn counters_are_for_loopback_only_ad_14() {
        for (address, told) in [
            ("127.0.0.1:1", true),
            ("127.8.9.1:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("[::ffff:192.0.2.1]:1", false),
            ("192.0.2.1:1", false),
            ("10.0.0.1:1", false),
            ("0.0.0.0:1", false),
            ("[fe80::1]:1", false),
        ] {
            assert_eq!(is_told(&Peer(address.parse().unwrap())), told, "{address}");
        }
    }
}
