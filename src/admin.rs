//! The control plane: the router of the admin port. Every endpoint is on this page.
//!
//! A request is checked before it is routed (is the name it was sent to ours, is it a web page's), then who asks, then
//! what they may; only then is its body read. Changes go through `Control::commit` and nowhere else. What is shown of
//! a thing is a view of its own, and no view has a field that could hold a secret.

pub mod actor;
pub mod connections;
mod cookie;
pub mod credentials;
mod document;
pub mod environments;
pub mod error;
mod form;
mod guard;
pub mod health;
pub mod integrations;
pub mod invite;
pub mod mail;
pub mod oidc;
pub mod organizations;
pub mod outbound;
mod pages;
pub mod people;
pub mod permission;
mod request;
pub mod roles;
pub mod secrets;
pub mod sessions;
pub mod sign_in;
pub mod throttle;
pub mod users;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post, put};

use crate::telemetry::metrics::Metrics;
use crate::vault::Vault;
use crate::vault::change::{Change, Outcome};

use actor::Actor;
use error::AdminError;
use people::People;

pub use cookie::Transport;
pub use guard::Guard;

/// Everything the endpoints share.
pub struct Control {
    /// What is stored.
    pub vault: Vault,
    /// The process's counters.
    pub metrics: Arc<Metrics>,
    /// Which requests are looked at, at all.
    pub guard: Guard,
    /// How people come in.
    pub people: People,
}

impl Control {
    /// Makes a change in somebody's name. When this returns it is durable, audited, and holds for the very next
    /// request.
    async fn commit(&self, actor: &Actor, change: Change) -> Result<Outcome, AdminError> {
        Ok(self.vault.commit(&actor.author(), change).await?)
    }
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
        .route("/", get(pages::sign_in))
        .route("/sign-in", get(pages::sign_in))
        .route("/invite", get(pages::invite))
        .route("/assets/people.js", get(pages::script))
        .route("/assets/people.css", get(pages::style))
        .route("/oidc/callback", get(oidc::end))
        .merge(open())
        .nest(permission::PREFIX, api(&control))
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(&control), guard::check))
        .with_state(control)
}

/// The endpoints of the API by which somebody who is not known yet comes in. They change nothing but what a password, a
/// link or an identity provider proves.
fn open() -> Router<Arc<Control>> {
    Router::new()
        .route("/api/v1/sign-in", get(sign_in::ways).post(sign_in::by_password))
        .route("/api/v1/sign-in/oidc", post(oidc::begin))
        .route("/api/v1/sign-out", post(people::sign_out))
        .route("/api/v1/invite", post(invite::show))
        .route("/api/v1/invite/accept", post(invite::accept))
}

/// Every endpoint that asks who is there; what each needs stands in [`permission::CALLS`]. The layer stands around all of them, and around what no route answers.
fn api(control: &Arc<Control>) -> Router<Arc<Control>> {
    Router::new()
        .route("/roles", get(roles::list))
        .route("/organizations", get(organizations::list).post(organizations::create))
        .route("/organizations/{organization}", get(organizations::show).delete(organizations::delete))
        .route("/users", get(users::list).post(users::invite))
        .route("/users/{user}", get(users::show).put(users::edit).delete(users::delete))
        .route("/users/{user}/roles", put(users::set_roles))
        .route("/users/{user}/invite", post(users::renew))
        .route("/users/{user}/disable", post(users::disable))
        .route("/users/{user}/enable", post(users::enable))
        .route("/users/{user}/sessions", get(sessions::list_of_user).delete(sessions::end_of_user))
        .route("/sessions", get(sessions::list))
        .route("/sessions/{session}", delete(sessions::end))
        .route("/me", get(sessions::me))
        .route("/me/password", put(sessions::set_password))
        .route("/environments", get(environments::list).post(environments::create))
        .route("/environments/{environment}", get(environments::show).delete(environments::delete))
        .route("/integrations", get(integrations::list).post(integrations::create))
        .route("/integrations/{slug}", get(integrations::show).put(integrations::replace).delete(integrations::delete))
        .route("/connections", get(connections::list).post(connections::create))
        .route(
            "/connections/{connection}",
            get(connections::show).put(connections::replace).delete(connections::delete),
        )
        .route(
            "/connections/{connection}/credentials/{environment}",
            get(credentials::show).put(credentials::replace).delete(credentials::delete),
        )
        .route("/secrets", get(secrets::list).post(secrets::create))
        .route("/secrets/{key}", get(secrets::show).put(secrets::replace).delete(secrets::delete))
        .route("/secrets/{key}/values/{environment}", put(secrets::put_value).delete(secrets::delete_value))
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(control), actor::admit))
}
