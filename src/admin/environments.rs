//! Environments of an organization, in their order.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::Control;
use super::actor::Actor;
use super::condition::{Shown, tagged};
use super::document::Document;
use super::error::AdminError;
use super::openapi::Paging;
use super::request::{At, Items, Query, stored};
use crate::model::id::OrganizationId;
use crate::model::name::EnvironmentName;
use crate::model::version::Version;
use crate::vault::change::resource::EnvironmentDraft;
use crate::vault::change::{Change, resource};
use crate::vault::query::Environment;

/// An environment as it is shown.
#[derive(Serialize, ToSchema)]
#[schema(as = Environment)]
pub struct View {
    name: EnvironmentName,
    /// Its place in the order, from 0.
    position: u32,
    /// Whether workflows are built with its credentials: `test` and `explain` use them where no environment is named.
    designer: bool,
}

/// An environment as it is written.
#[derive(ToSchema)]
#[schema(as = NewEnvironment)]
pub struct Body {
    /// Its name; that of the path where it is not said. Another one than in the path renames it: its credentials and
    /// values go with it.
    #[schema(required = false)]
    pub name: EnvironmentName,
    /// Its place in the order, from 0; the others make room. Where it is not said it stays; a new one is last.
    pub position: Option<u32>,
    /// Whether workflows are built with its credentials. At most one is: the one that was said to be it last. Where it is
    /// not said it stays as it is; a new one is not.
    pub designer: Option<bool>,
}

/// Lists the environments of the organization, in their order.
#[utoipa::path(get, path = "/environments", params(Paging), responses(
    (status = 200, description = "A page of them.", body = Items<View>)
))]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
) -> Result<Json<Items<View>>, AdminError> {
    // They are few and their order is theirs: the page is cut from all of them.
    let all = control.vault.database()?.environment_list(actor.organization).await?;
    let seen = all.iter().position(|one| one.name.as_str() == query.cursor()).map_or(0, |at| at + 1);
    let limit = usize::try_from(query.page().limit).unwrap_or(usize::MAX);
    let more = all.len() > seen.saturating_add(limit);
    let views = (0u32..).zip(all).map(|(position, one)| view(position, one).0);
    let items: Vec<View> = views.skip(seen).take(limit).collect();
    let next = items.last().filter(|_| more).map(|last| last.name.to_string());
    Ok(Json(Items { items, next }))
}

fn view(position: u32, Environment { name, designer, version }: Environment) -> (View, Version) {
    (View { name, position, designer }, version)
}

/// Creates an environment, ordered last where its place is not said.
#[utoipa::path(post, path = "/environments", request_body = Body, responses(
    (status = 201, description = "It is there.", body = View, headers(("Location" = String), ("ETag" = String)))
))]
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    actor: Actor,
    document: Document,
) -> Result<Response, AdminError> {
    let (organization, environment) = (actor.organization, read(&document, None)?);
    let name = environment.name.clone();
    let change = resource::Change::CreateEnvironment { organization, environment };
    let outcome = control.commit(&actor, Change::Resource(change)).await?;
    let (view, _) = shown(&control, organization, name.as_str()).await?;
    Ok(tagged(stored(true, &format!("environments/{name}"), view), outcome.version))
}

/// Shows an environment.
#[utoipa::path(get, path = "/environments/{environment}", responses(
    (status = 200, description = "The environment.", body = View, headers(("ETag" = String)))
))]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
) -> Result<Shown<View>, AdminError> {
    let (view, version) = shown(&control, actor.organization, &named).await?;
    Ok(Shown(view, Some(version)))
}

/// Changes an environment: its name, its place in the order, whether it is the designer's.
///
/// What is not said stays as it is. Credentials, values of secrets and the API keys that name it go with a new name. A
/// listener in the configuration must name it by the new one.
#[utoipa::path(put, path = "/environments/{environment}", request_body = Body, responses(
    (status = 200, description = "It is changed.", body = View, headers(("ETag" = String))),
))]
pub(super) async fn replace(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
    document: Document,
) -> Result<Shown<View>, AdminError> {
    let organization = actor.organization;
    let name = find(&control, organization, &named).await?;
    let environment = read(&document, Some(&name))?;
    let renamed = environment.name.clone();
    let change = Change::Resource(resource::Change::PutEnvironment { organization, name, environment });
    let outcome = control.commit(&actor, change).await?;
    let (view, _) = shown(&control, organization, renamed.as_str()).await?;
    Ok(Shown(view, outcome.version))
}

/// Deletes an environment for which no credential and no secret has a value, and which no API key names that is not
/// revoked.
#[utoipa::path(delete, path = "/environments/{environment}", responses(
    (status = 204, description = "It is gone."),
))]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
) -> Result<StatusCode, AdminError> {
    let name = find(&control, actor.organization, &named).await?;
    let change = Change::DeleteEnvironment { organization: actor.organization, name };
    control.commit(&actor, change).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn read(document: &Document, named: Option<&EnvironmentName>) -> Result<EnvironmentDraft, AdminError> {
    document.read(|reader| {
        let name = if reader.has("name") { reader.parsed("name") } else { named.cloned() };
        if name.is_none() && !reader.has("name") {
            let _told: Option<EnvironmentName> = reader.required("name");
        }
        let position = reader.number("position", 0..=u64::from(u32::MAX));
        let position = position.and_then(|position| u32::try_from(position).ok());
        let designer = reader.flag("designer");
        Some(EnvironmentDraft { name: name?, position, designer })
    })
}

async fn shown(control: &Control, organization: OrganizationId, named: &str) -> Result<(View, Version), AdminError> {
    let all = control.vault.database()?.environment_list(organization).await?;
    let found = (0u32..).zip(all).find(|(_, environment)| environment.name.as_str() == named);
    let (position, environment) = found.ok_or(AdminError::NotFound("environment"))?;
    Ok(view(position, environment))
}

/// An environment that is there.
pub(super) async fn find(
    control: &Control,
    organization: OrganizationId,
    named: &str,
) -> Result<EnvironmentName, AdminError> {
    let all = control.vault.database()?.environments(organization).await?;
    all.into_iter().find(|name| name.as_str() == named).ok_or(AdminError::NotFound("environment"))
}
