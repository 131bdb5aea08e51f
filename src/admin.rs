//! The control plane: the router of the admin port. Every endpoint is on this page.
//!
//! A request is checked before it is routed (is the name it was sent to ours, is it a web page's), then who asks, then
//! what they may; only then is its body read. Changes go through `Control::commit` and nowhere else. What is shown of
//! a thing is a view of its own, and no view has a field that could hold a secret.
//!
//! The description of the API (OpenAPI 3.1) is made from the handlers. A new endpoint follows in three steps:
//! 1. `#[utoipa::path(post, path = "/things", request_body = Body, responses((status = 201, body = View)))]` above the
//!    handler, whose doc comment is its description; say only what is its own, for `openapi` adds who may ask, names in
//!    the path, `?organization=` and the problems every such request can meet. `params(Paging)` for lists, a bare
//!    `(status = 412)` for a problem of its own, `security(())` where nobody is asked for.
//! 2. `#[derive(ToSchema)]` with `#[schema(as = Thing)]` on the view, and on a `pub struct Body` that is read by nobody.
//! 3. A line in `permission::CALLS`, and `.routes(routes!(things::list, things::create))` below; a new code goes into
//!    `error::PROBLEMS`. Then `INSTA_UPDATE=always cargo test --test it openapi`: the snapshot is made anew, after a
//!    merge too.

pub mod actor;
pub mod api_keys;
pub mod audit;
pub mod authorize;
pub mod ceilings;
pub mod condition;
pub mod connections;
mod cookie;
pub mod credentials;
mod document;
pub mod environments;
pub mod error;
pub mod explain;
mod form;
mod guard;
pub mod health;
pub mod integrations;
pub mod invite;
pub mod mail;
pub mod oidc;
mod once;
pub mod openapi;
pub mod organizations;
mod pages;
pub mod people;
pub mod permission;
mod request;
pub mod roles;
pub mod secrets;
pub mod sessions;
pub mod sign_in;
pub mod standing;
pub mod tap;
pub mod throttle;
pub mod transfer;
pub mod trials;
mod underway;
pub mod users;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::model::version::Version;
use crate::proxy::tap::Taps;
use crate::proxy::trial::Bench;
use crate::proxy::usage::Unwritten;
use crate::telemetry::metrics::Metrics;
use authorize::Authorizations;

use crate::upstream::outbound::Outbound;
use crate::vault::Vault;
use crate::vault::change::{Change, Outcome};

use actor::Actor;
use error::AdminError;
use people::People;

pub use cookie::Transport;
pub use guard::Guard;
pub use once::Begun;

/// Everything the endpoints share.
pub struct Control {
    /// What is stored.
    pub vault: Vault,
    /// Where requests are tried.
    pub bench: Bench,
    /// Who watches requests as they pass.
    pub taps: Taps,
    /// What was counted of the use of connections and is not in the vault yet.
    pub unwritten: Unwritten,
    /// The process's counters.
    pub metrics: Arc<Metrics>,
    /// Which requests are looked at, at all.
    pub guard: Guard,
    /// The requests with an `Idempotency-Key` that are being done.
    pub begun: Begun,
    /// How people come in.
    pub people: People,
    /// The way to authorization servers.
    pub outbound: Outbound,
    /// The sign-ins of connections that are under way.
    pub authorizations: Authorizations,
}

impl Control {
    /// Makes a change in somebody's name. When this returns it is durable, audited, and holds for the very next
    /// request.
    async fn commit(&self, actor: &Actor, change: Change) -> Result<Outcome, AdminError> {
        let change = actor.condition.guard(change);
        let change = match actor.once.clone() {
            Some(once) => Change::Once { once: *once, change: Box::new(change) },
            None => change,
        };
        Ok(self.vault.commit(&actor.author(), change).await?)
    }

    /// As [`commit`](Self::commit), of a change that was judged by looking at what it changes in this version; where that
    /// is another one by now it is [`AdminError::Outdated`], and [`settled`](condition::settled) judges it anew.
    async fn commit_judged(&self, actor: &Actor, at: Option<Version>, change: Change) -> Result<Outcome, AdminError> {
        self.commit(actor, Change::Judged { at, change: Box::new(change) }).await
    }
}

/// Where a request came from; put into its extensions by who accepted the connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// The router of the port, with everything that stands around its endpoints.
pub fn router(control: Arc<Control>) -> Router {
    let ((open, described), (asking, described_too)) = (open().split_for_parts(), asking().split_for_parts());
    let around = from_fn_with_state(Arc::clone(&control), actor::admit);
    let asking = asking.fallback(error::not_found).method_not_allowed_fallback(error::method_not_allowed);
    let asking = asking.layer(from_fn_with_state(Arc::clone(&control), once::answer)).layer(around);
    open.merge(pages())
        .nest(permission::PREFIX, asking)
        .layer(axum::Extension(Arc::new(openapi::complete(described.nest(permission::PREFIX, described_too)))))
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(&control), guard::check))
        .with_state(control)
}

/// Every endpoint that anybody may ask.
fn open() -> OpenApiRouter<Arc<Control>> {
    OpenApiRouter::with_openapi(openapi::opening())
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
        .routes(routes!(openapi::show))
        .routes(routes!(sign_in::ways, sign_in::by_password))
        .routes(routes!(oidc::begin))
        .routes(routes!(people::sign_out))
        .routes(routes!(invite::show))
        .routes(routes!(invite::accept))
}

/// What a person's browser asks for to come in; it is no part of the API.
fn pages() -> Router<Arc<Control>> {
    Router::new()
        .route("/", get(pages::sign_in))
        .route("/sign-in", get(pages::sign_in))
        .route("/invite", get(pages::invite))
        .route("/assets/people.js", get(pages::script))
        .route("/assets/people.css", get(pages::style))
        .route("/oidc/callback", get(oidc::end))
        .route("/oauth/start/{ticket}", get(authorize::start::show).post(authorize::start::take))
        .route("/oauth/callback", get(authorize::end))
        .route("/oauth/done", get(authorize::done))
}

/// Every endpoint that asks who is there, below `/api/v1`; what each needs stands in [`permission::CALLS`]. The layer of
/// `actor` stands around all of them, and around what no route answers.
fn asking() -> OpenApiRouter<Arc<Control>> {
    OpenApiRouter::default()
        .routes(routes!(roles::list))
        .routes(routes!(organizations::list, organizations::create))
        .routes(routes!(organizations::show, organizations::replace, organizations::delete))
        .routes(routes!(users::list, users::invite))
        .routes(routes!(users::show, users::edit, users::delete))
        .routes(routes!(users::set_roles))
        .routes(routes!(users::renew))
        .routes(routes!(users::disable))
        .routes(routes!(users::enable))
        .routes(routes!(sessions::list_of_user, sessions::end_of_user))
        .routes(routes!(sessions::list))
        .routes(routes!(sessions::end))
        .routes(routes!(sessions::me))
        .routes(routes!(sessions::set_password))
        .routes(routes!(ceilings::show, ceilings::replace))
        .routes(routes!(environments::list, environments::create))
        .routes(routes!(environments::show, environments::replace, environments::delete))
        .routes(routes!(integrations::list, integrations::create))
        .routes(routes!(integrations::show, integrations::replace, integrations::delete))
        .routes(routes!(integrations::versions::list))
        .routes(routes!(integrations::versions::show))
        .routes(routes!(integrations::values::show, integrations::values::replace))
        .routes(routes!(connections::list, connections::create))
        .routes(routes!(connections::show, connections::replace, connections::delete))
        .routes(routes!(credentials::show, credentials::replace, credentials::delete))
        .routes(routes!(secrets::list, secrets::create))
        .routes(routes!(secrets::show, secrets::replace, secrets::delete))
        .routes(routes!(secrets::put_value, secrets::delete_value))
        .routes(routes!(trials::test))
        .routes(routes!(authorize::authorize))
        .routes(routes!(connections::revoke::revoke))
        .routes(routes!(explain::explain))
        .routes(routes!(transfer::export))
        .routes(routes!(transfer::import))
        .routes(routes!(api_keys::list, api_keys::create))
        .routes(routes!(api_keys::show, api_keys::replace))
        .routes(routes!(api_keys::limit))
        .routes(routes!(api_keys::narrow))
        .routes(routes!(api_keys::suspend))
        .routes(routes!(api_keys::resume))
        .routes(routes!(api_keys::revoke))
        .routes(routes!(api_keys::rotate))
        .routes(routes!(audit::list))
        .routes(routes!(audit::export))
        .routes(routes!(audit::verify))
        .routes(routes!(audit::usage))
        .routes(routes!(tap::open))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The paths of a router, which it tells nobody but who debugs it.
    fn routed(router: OpenApiRouter<Arc<Control>>) -> BTreeSet<String> {
        let shown = format!("{:?}", Router::from(router));
        let (_, paths) = shown.split_once("paths: {").unwrap();
        let (paths, _) = paths.split_once("} }").unwrap();
        paths.split('"').skip(1).step_by(2).map(str::to_owned).filter(|path| !path.contains("__private")).collect()
    }

    #[test]
    fn every_route_is_described_and_every_description_is_of_a_route() {
        for (which, router) in [("open", open()), ("asking", asking())] {
            let described: BTreeSet<String> = router.get_openapi().paths.paths.keys().cloned().collect();
            assert!(described.len() > 3, "{which}");
            assert_eq!(routed(router), described, "{which}");
        }
        let secret = open().route("/hidden", axum::routing::get(health::alive));
        assert!(routed(secret).contains("/hidden"), "a route without a description would be seen");
    }
}
