//! Integrations: the built-in and declared ones to read, the organization's own to write, and those of the whole system
//! for super admins to write.

pub mod values;
pub mod versions;
pub mod written;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::Control;
use super::actor::Actor;
use super::condition::{Shown, tagged};
use super::document::Document;
use super::error::AdminError;
use super::openapi::Paging;
use super::request::{At, Items, Own, Query, stored};
use crate::model::document::Problem;
use crate::model::id::{IntegrationId, OrganizationId};
use crate::model::integration::Integration;
use crate::model::name::Key;
use crate::model::role::Permission;
use crate::vault::change::resource::{Place, Reach};
use crate::vault::change::{Change, PutMode, resource};
use crate::vault::declared::Author;
use crate::vault::query::IntegrationFacts;
use crate::vault::{Vault, VaultError};

/// An integration as it is shown: as it was written, with where it is from.
#[derive(Serialize, ToSchema)]
#[schema(as = Integration)]
pub struct View {
    id: IntegrationId,
    source: Source,
    /// Which version of it this is, from 1; only of stored ones.
    number: Option<u32>,
    #[serde(flatten)]
    #[schema(value_type = written::Body)]
    document: Value,
}

/// What a view shows and nobody sets.
pub const SHOWN_ONLY: [&str; 3] = ["id", "source", "number"];

/// Where something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// In Sidekey itself.
    BuiltIn,
    /// In the operator's files.
    Declared,
    /// In the vault, the organization's own.
    Stored,
    /// In the vault, for every organization; only super admins change it.
    System,
}

/// Whose integration is meant.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Scope {
    /// Every organization's instead of this organization's own, which needs the role `super_admin`.
    #[param(nullable = false)]
    system: Option<bool>,
}

impl Scope {
    fn place(&self, actor: &Actor) -> Result<Place, AdminError> {
        let reach = if self.system.unwrap_or(false) { Reach::System } else { Reach::Organization };
        if reach == Reach::System {
            actor.require(Permission::ManageSystemIntegrations)?;
        }
        Ok(Place { organization: actor.organization, reach })
    }
}

fn view(vault: &Vault, integration: &Integration, facts: Option<&IntegrationFacts>) -> View {
    let source = match (vault.declared().author(&integration.slug), facts.map(|facts| facts.reach)) {
        (Some(Author::BuiltIn), _) => Source::BuiltIn,
        (Some(Author::Operator), _) => Source::Declared,
        (None, Some(Reach::System)) => Source::System,
        (None, _) => Source::Stored,
    };
    let number = facts.map(|facts| facts.number);
    View { id: integration.id, source, number, document: integration.document.clone() }
}

/// What is known of a stored integration; nothing of one that a file declares, which stands above it.
async fn facts(
    control: &Control,
    organization: OrganizationId,
    slug: &Key,
) -> Result<Option<IntegrationFacts>, AdminError> {
    match control.vault.declared().author(slug) {
        Some(_) => Ok(None),
        None => Ok(control.vault.database()?.integration_facts(organization, slug).await?),
    }
}

/// Lists the integrations that a connection of the organization may name.
#[utoipa::path(get, path = "/integrations", params(Paging), responses(
    (status = 200, description = "A page of them.", body = Items<View>)
))]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
) -> Result<Json<Items<View>>, AdminError> {
    let mut stored = control.vault.database()?.integrations(actor.organization, query.page()).await?;
    let own = std::mem::take(&mut stored.items).into_iter().map(Arc::new).collect();
    let stored = crate::vault::list::List { items: own, next: stored.next };
    let declared = control.vault.declared();
    let behind = declared.integrations().filter(|integration| integration.slug.as_str() > query.cursor()).cloned();
    let page = query.merge(behind, stored, |integration| integration.slug.clone(), Key::to_string);
    let mut items = Vec::with_capacity(page.items.len());
    for integration in &page.items {
        let facts = facts(&control, actor.organization, &integration.slug).await?;
        items.push(view(&control.vault, integration, facts.as_ref()));
    }
    Ok(Json(Items { items, next: page.next }))
}

/// Creates an integration of the organization's own, or of every organization's.
#[utoipa::path(post, path = "/integrations", params(Scope), request_body = written::Body, responses(
    (status = 201, description = "It is there.", body = View, headers(("Location" = String), ("ETag" = String)))
))]
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    actor: Actor,
    Own(scope): Own<Scope>,
    document: Document,
) -> Result<Response, AdminError> {
    let (place, integration) = (scope.place(&actor)?, parse(&document.without(&SHOWN_ONLY))?);
    store(&control, &actor, place, integration, PutMode::Create).await
}

/// Shows an integration.
#[utoipa::path(get, path = "/integrations/{slug}", responses(
    (status = 200, description = "The integration.", body = View, headers(("ETag" = String)))
))]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(slug): At<String>,
) -> Result<Shown<View>, AdminError> {
    let integration = find(&control, actor.organization, &parse_slug(&slug)?).await?;
    let facts = facts(&control, actor.organization, &integration.slug).await?;
    Ok(Shown(view(&control.vault, &integration, facts.as_ref()), facts.map(|facts| facts.version)))
}

/// Creates or replaces an integration of the organization's own, or of every organization's.
///
/// The version before is kept, and connections follow the newest. Credentials that were entered for other hosts are of
/// no use until they are entered again: they are bound to those.
#[utoipa::path(put, path = "/integrations/{slug}", params(Scope), request_body = written::Body, responses(
    (status = 200, description = "It is replaced.", body = View, headers(("ETag" = String))),
    (status = 201, description = "It is there.", body = View, headers(("Location" = String), ("ETag" = String))),
))]
pub(super) async fn replace(
    State(control): State<Arc<Control>>,
    actor: Actor,
    Own(scope): Own<Scope>,
    At(slug): At<String>,
    document: Document,
) -> Result<Response, AdminError> {
    let place = scope.place(&actor)?;
    let slug = parse_slug(&slug)?;
    check_own(&control.vault, &slug)?;
    let integration = parse(&document.without(&SHOWN_ONLY).or("slug", Some(slug.as_str())))?;
    if integration.slug != slug {
        let detail = format!("the slug cannot be changed; in the path it is {slug}");
        return Err(AdminError::Invalid(vec![Problem { pointer: "/slug".to_owned(), detail }]));
    }
    store(&control, &actor, place, integration, PutMode::Replace).await
}

/// Deletes an integration that no connection uses.
#[utoipa::path(delete, path = "/integrations/{slug}", params(Scope), responses(
    (status = 204, description = "It is gone."),
))]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    actor: Actor,
    Own(scope): Own<Scope>,
    At(slug): At<String>,
) -> Result<StatusCode, AdminError> {
    let place = scope.place(&actor)?;
    let slug = parse_slug(&slug)?;
    check_own(&control.vault, &slug)?;
    let change = Change::Resource(resource::Change::DeleteIntegration { place, slug });
    control.commit(&actor, change).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn store(
    control: &Control,
    actor: &Actor,
    place: Place,
    integration: Integration,
    mode: PutMode,
) -> Result<Response, AdminError> {
    let (organization, slug) = (actor.organization, integration.slug.clone());
    check_own(&control.vault, &slug)?;
    let change = resource::Change::PutIntegration { place, integration: Box::new(integration), mode };
    let outcome = control.commit(actor, Change::Resource(change)).await?;
    let integration = find(control, organization, &slug).await?;
    let facts = facts(control, organization, &slug).await?;
    let view = view(&control.vault, &integration, facts.as_ref());
    Ok(tagged(stored(outcome.created, &format!("integrations/{slug}"), view), outcome.version))
}

async fn find(control: &Control, organization: OrganizationId, slug: &Key) -> Result<Arc<Integration>, AdminError> {
    control.vault.integration(organization, slug).await?.ok_or(AdminError::NotFound("integration"))
}

fn parse(document: &Document) -> Result<Integration, AdminError> {
    Integration::parse(document.value(), IntegrationId::generate()).map_err(AdminError::Invalid)
}

fn parse_slug(text: &str) -> Result<Key, AdminError> {
    text.parse().map_err(|_| AdminError::NotFound("integration"))
}

/// Refuses to touch what is not the organization's own.
fn check_own(vault: &Vault, slug: &Key) -> Result<(), AdminError> {
    match vault.declared().author(slug) {
        None => Ok(()),
        Some(Author::BuiltIn) => Err(AdminError::Conflict(format!(
            "the integration {slug} is built in and read-only; create one of another slug for what differs"
        ))),
        Some(Author::Operator) => Err(VaultError::Declared(format!("the integration {slug}")).into()),
    }
}
