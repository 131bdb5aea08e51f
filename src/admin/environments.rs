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
use super::document::Document;
use super::error::AdminError;
use super::openapi::Paging;
use super::request::{At, Items, Query, stored};
use crate::model::id::OrganizationId;
use crate::model::name::EnvironmentName;
use crate::vault::change::Change;

/// An environment as it is shown.
#[derive(Serialize, ToSchema)]
#[schema(as = Environment)]
pub struct View {
    name: EnvironmentName,
}

/// An environment as it is written.
#[derive(ToSchema)]
#[schema(as = NewEnvironment)]
pub struct Body {
    /// Its name.
    pub name: EnvironmentName,
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
    let all = control.vault.database()?.environments(actor.organization).await?;
    let seen = all.iter().position(|name| name.as_str() == query.cursor()).map_or(0, |at| at + 1);
    let limit = usize::try_from(query.page().limit).unwrap_or(usize::MAX);
    let items: Vec<View> = all.iter().skip(seen).take(limit).map(|name| View { name: name.clone() }).collect();
    let more = all.len() > seen + items.len();
    let next = items.last().filter(|_| more).map(|last| last.name.to_string());
    Ok(Json(Items { items, next }))
}

/// Creates an environment, ordered last.
#[utoipa::path(post, path = "/environments", request_body = Body, responses(
    (status = 201, description = "It is there.", body = View, headers(("Location" = String)))
))]
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    actor: Actor,
    document: Document,
) -> Result<Response, AdminError> {
    let name: EnvironmentName = document.read(|reader| reader.required("name"))?;
    let change = Change::CreateEnvironment { organization: actor.organization, name: name.clone() };
    control.commit(&actor, change).await?;
    Ok(stored(true, &format!("environments/{name}"), View { name }))
}

/// Shows an environment.
#[utoipa::path(get, path = "/environments/{environment}", responses(
    (status = 200, description = "The environment.", body = View)
))]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
) -> Result<Json<View>, AdminError> {
    Ok(Json(View { name: find(&control, actor.organization, &named).await? }))
}

/// Deletes an environment for which no credential and no secret has a value.
#[utoipa::path(delete, path = "/environments/{environment}", responses((status = 204, description = "It is gone.")))]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
) -> Result<StatusCode, AdminError> {
    let name = find(&control, actor.organization, &named).await?;
    control.commit(&actor, Change::DeleteEnvironment { organization: actor.organization, name }).await?;
    Ok(StatusCode::NO_CONTENT)
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
