//! Integrations: the built-in and declared ones to read, the organization's own to write.

pub mod written;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Control;
use super::actor::Actor;
use super::document::Document;
use super::error::AdminError;
use super::openapi::Paging;
use super::request::{At, Items, Query, stored};
use crate::model::document::Problem;
use crate::model::id::{IntegrationId, OrganizationId};
use crate::model::integration::Integration;
use crate::model::name::Key;
use crate::vault::change::{Change, PutMode};
use crate::vault::declared::Author;
use crate::vault::{Vault, VaultError};

/// An integration as it is shown: as it was written, with where it is from.
#[derive(Serialize, ToSchema)]
#[schema(as = Integration)]
pub struct View {
    id: IntegrationId,
    source: Source,
    #[serde(flatten)]
    #[schema(value_type = written::Body)]
    document: Value,
}

/// What a view shows and nobody sets.
const SHOWN_ONLY: [&str; 2] = ["id", "source"];

/// Where something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// In Sidekey itself.
    BuiltIn,
    /// In the operator's files.
    Declared,
    /// In the vault; the only one that can be changed here.
    Stored,
}

fn view(vault: &Vault, integration: &Integration) -> View {
    let source = match vault.declared().author(&integration.slug) {
        Some(Author::BuiltIn) => Source::BuiltIn,
        Some(Author::Operator) => Source::Declared,
        None => Source::Stored,
    };
    View { id: integration.id, source, document: integration.document.clone() }
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
    Ok(Json(page.map(|integration| view(&control.vault, &integration))))
}

/// Creates an integration of the organization's own.
#[utoipa::path(post, path = "/integrations", request_body = written::Body, responses(
    (status = 201, description = "It is there.", body = View, headers(("Location" = String)))
))]
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    actor: Actor,
    document: Document,
) -> Result<Response, AdminError> {
    store(&control, &actor, parse(&document.without(&SHOWN_ONLY))?, PutMode::Create).await
}

/// Shows an integration.
#[utoipa::path(get, path = "/integrations/{slug}", responses(
    (status = 200, description = "The integration.", body = View)
))]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(slug): At<String>,
) -> Result<Json<View>, AdminError> {
    let integration = find(&control, actor.organization, &parse_slug(&slug)?).await?;
    Ok(Json(view(&control.vault, &integration)))
}

/// Creates or replaces an integration of the organization's own.
///
/// Credentials that were entered for other hosts are of no use until they are entered again: they are bound to those.
#[utoipa::path(put, path = "/integrations/{slug}", request_body = written::Body, responses(
    (status = 200, description = "It is replaced.", body = View),
    (status = 201, description = "It is there.", body = View, headers(("Location" = String))),
))]
pub(super) async fn replace(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(slug): At<String>,
    document: Document,
) -> Result<Response, AdminError> {
    let slug = parse_slug(&slug)?;
    check_own(&control.vault, &slug)?;
    let integration = parse(&document.without(&SHOWN_ONLY).or("slug", Some(slug.as_str())))?;
    if integration.slug != slug {
        let detail = format!("the slug cannot be changed; in the path it is {slug}");
        return Err(AdminError::Invalid(vec![Problem { pointer: "/slug".to_owned(), detail }]));
    }
    store(&control, &actor, integration, PutMode::Replace).await
}

/// Deletes an integration that no connection uses.
#[utoipa::path(delete, path = "/integrations/{slug}", responses((status = 204, description = "It is gone.")))]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(slug): At<String>,
) -> Result<StatusCode, AdminError> {
    let slug = parse_slug(&slug)?;
    check_own(&control.vault, &slug)?;
    control.commit(&actor, Change::DeleteIntegration { organization: actor.organization, slug }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn store(
    control: &Control,
    actor: &Actor,
    integration: Integration,
    mode: PutMode,
) -> Result<Response, AdminError> {
    let (organization, slug) = (actor.organization, integration.slug.clone());
    check_own(&control.vault, &slug)?;
    let change = Change::PutIntegration { organization, integration: Box::new(integration), mode };
    let outcome = control.commit(actor, change).await?;
    let integration = find(control, organization, &slug).await?;
    Ok(stored(outcome.created, &format!("integrations/{slug}"), view(&control.vault, &integration)))
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
