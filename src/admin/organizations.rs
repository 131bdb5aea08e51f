//! Organizations: the tenants.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::Control;
use super::actor::Actor;
use super::document::Document;
use super::error::AdminError;
use super::request::{At, Items, Query, stored};
use crate::model::id::OrganizationId;
use crate::model::name::Key;
use crate::vault::change::Change;
use crate::vault::query::Organization;

/// An organization as it is shown.
#[derive(Serialize)]
pub struct View {
    id: OrganizationId,
    key: Key,
    name: String,
}

impl From<Organization> for View {
    fn from(Organization { id, key, name, .. }: Organization) -> Self {
        View { id, key, name }
    }
}

/// `GET /organizations`
pub(super) async fn list(State(control): State<Arc<Control>>, query: Query) -> Result<Json<Items<View>>, AdminError> {
    let list = control.vault.database()?.organizations(query.page()).await?;
    Ok(Json(Items::from(list).map(View::from)))
}

/// `POST /organizations` with `{"key", "name"}`. It begins with the three default environments.
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    actor: Actor,
    document: Document,
) -> Result<Response, AdminError> {
    let (key, name): (Key, Option<String>) = document.read(|reader| {
        let (key, name) = (reader.required("key"), reader.label("name", 200).map(str::to_owned));
        Some((key?, name))
    })?;
    let (id, name) = (OrganizationId::generate(), name.unwrap_or_else(|| key.to_string()));
    let change = Change::CreateOrganization { id, key: key.clone(), name: name.clone() };
    control.commit(&actor, change).await?;
    Ok(stored(true, &format!("organizations/{key}"), View { id, key, name }))
}

/// `GET /organizations/{organization}`
pub(super) async fn show(State(control): State<Arc<Control>>, At(named): At<String>) -> Result<Json<View>, AdminError> {
    Ok(Json(find(&control, &named).await?.into()))
}

/// `DELETE /organizations/{organization}`, when nothing is in it.
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
) -> Result<StatusCode, AdminError> {
    let organization = find(&control, &named).await?.id;
    control.commit(&actor, Change::DeleteOrganization { organization }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn find(control: &Control, named: &str) -> Result<Organization, AdminError> {
    control.vault.organization(named).await?.ok_or(AdminError::NotFound("organization"))
}
