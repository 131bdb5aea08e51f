//! Organizations: the tenants.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::Control;
use super::actor::Actor;
use super::condition::{Shown, settled, tagged};
use super::document::Document;
use super::error::AdminError;
use super::openapi::Paging;
use super::request::{At, Items, Query, stored};
use crate::model::id::OrganizationId;
use crate::model::name::Key;
use crate::model::role::{Role, Roles};
use crate::vault::change::{Change, resource};
use crate::vault::query::Organization;

/// An organization as it is shown.
#[derive(Serialize, ToSchema)]
#[schema(as = Organization)]
pub struct View {
    id: OrganizationId,
    key: Key,
    name: String,
}

/// What a view shows and nobody sets.
const SHOWN_ONLY: [&str; 1] = ["id"];

/// An organization as it is written.
#[derive(ToSchema)]
#[schema(as = NewOrganization)]
pub struct Body {
    /// Its key; that of the path where it is not said.
    #[schema(required = false)]
    pub key: Key,
    /// As a person reads it; the key where it is not said.
    #[schema(max_length = 200)]
    pub name: Option<String>,
}

impl From<Organization> for View {
    fn from(Organization { id, key, name, .. }: Organization) -> Self {
        View { id, key, name }
    }
}

/// Lists the organizations: all of them to a super admin, to anybody else their own.
#[utoipa::path(get, path = "/organizations", params(Paging), responses(
    (status = 200, description = "A page of them.", body = Items<View>)
))]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
) -> Result<Json<Items<View>>, AdminError> {
    if !actor.roles.has(Role::SuperAdmin) {
        let own = find(&control, &actor, &actor.own_organization.to_string()).await?;
        let items = if own.key.as_str() > query.cursor() { vec![own.into()] } else { Vec::new() };
        return Ok(Json(Items { items, next: None }));
    }
    let list = control.vault.database()?.organizations(query.page()).await?;
    Ok(Json(Items::from(list).map(View::from)))
}

/// Creates an organization.
///
/// It begins with the three default environments.
#[utoipa::path(post, path = "/organizations", request_body = Body, responses(
    (status = 201, description = "It is there.", body = View, headers(("Location" = String), ("ETag" = String)))
))]
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    actor: Actor,
    document: Document,
) -> Result<Response, AdminError> {
    let (key, name) = read(&document)?;
    let id = OrganizationId::generate();
    let change = Change::CreateOrganization { id, key: key.clone(), name: name.clone() };
    let outcome = control.commit(&actor, change).await?;
    Ok(tagged(stored(true, &format!("organizations/{key}"), View { id, key, name }), outcome.version))
}

fn read(document: &Document) -> Result<(Key, String), AdminError> {
    document.read(|reader| {
        let (key, name) = (reader.required("key"), reader.label("name", 200).map(str::to_owned));
        let key: Key = key?;
        let name = name.unwrap_or_else(|| key.to_string());
        Some((key, name))
    })
}

/// Shows an organization.
#[utoipa::path(get, path = "/organizations/{organization}", responses(
    (status = 200, description = "The organization.", body = View, headers(("ETag" = String)))
))]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
) -> Result<Shown<View>, AdminError> {
    let found = find(&control, &actor, &named).await?;
    let version = found.version;
    Ok(Shown(found.into(), Some(version)))
}

/// Gives an organization another key or name. It keeps its id.
///
/// What names it by its key, such as a listener in the configuration, must name it by the new one.
#[utoipa::path(put, path = "/organizations/{organization}", request_body = Body, responses(
    (status = 200, description = "It is renamed.", body = View, headers(("ETag" = String))),
))]
pub(super) async fn replace(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
    document: Document,
) -> Result<Shown<View>, AdminError> {
    let document = document.without(&SHOWN_ONLY);
    settled(|| async {
        let organization = find(&control, &actor, &named).await?;
        let (key, name) = read(&document.clone().or("key", Some(organization.key.as_str())))?;
        let (id, at) = (organization.id, Some(organization.version));
        let rename = resource::Change::RenameOrganization { organization: id, key: key.clone(), name: name.clone() };
        let outcome = control.commit_judged(&actor, at, Change::Resource(rename)).await?;
        Ok(Shown(View { id, key, name }, outcome.version))
    })
    .await
}

/// Deletes an organization in which there is nothing.
#[utoipa::path(delete, path = "/organizations/{organization}", responses(
    (status = 204, description = "It is gone."),
))]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
) -> Result<StatusCode, AdminError> {
    let organization = find(&control, &actor, &named).await?.id;
    control.commit(&actor, Change::DeleteOrganization { organization }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An organization that the actor may see: their own, or any for a super admin.
pub(super) async fn find(control: &Control, actor: &Actor, named: &str) -> Result<Organization, AdminError> {
    reached(control, actor.own_organization, actor.roles, named).await
}

/// The organization of this name, where somebody of the organization `own` with these roles reaches it. Whose only is
/// their own is compared with that one, so that another one takes the same work as none.
pub(super) async fn reached(
    control: &Control,
    own: OrganizationId,
    roles: Roles,
    named: &str,
) -> Result<Organization, AdminError> {
    let found = if roles.has(Role::SuperAdmin) {
        control.vault.organization(named).await?
    } else {
        let found = control.vault.organization(&own.to_string()).await?;
        found.filter(|own| own.key.as_str() == named || own.id.to_string() == named)
    };
    found.ok_or(AdminError::NotFound("organization"))
}
