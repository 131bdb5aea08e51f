//! The versions that a stored integration has had.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::super::Control;
use super::super::actor::Actor;
use super::super::error::AdminError;
use super::super::openapi::Paging;
use super::super::request::{At, Items, Query};
use super::{facts, find, parse_slug, written};
use crate::model::moment::Moment;
use crate::model::name::Key;
use crate::vault::list::Page;
use crate::vault::query::IntegrationVersion;

/// A version of an integration as it is shown.
#[derive(Serialize, ToSchema)]
#[schema(as = IntegrationVersion)]
pub struct View {
    /// From 1.
    number: u32,
    /// Who wrote it: an API key, a user, or a part of Sidekey.
    actor: String,
    created_at: Moment,
    /// As it was written.
    #[schema(value_type = written::Body)]
    document: Value,
}

impl From<IntegrationVersion> for View {
    fn from(IntegrationVersion { number, document, actor, created_at }: IntegrationVersion) -> Self {
        View { number, actor, created_at: Moment::from_milliseconds(created_at), document }
    }
}

/// Lists the versions of a stored integration, the newest first. Connections follow the newest.
#[utoipa::path(get, path = "/integrations/{slug}/versions", params(Paging), responses(
    (status = 200, description = "A page of them.", body = Items<View>)
))]
pub(in crate::admin) async fn list(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    At(slug): At<String>,
) -> Result<Json<Items<View>>, AdminError> {
    let slug = stored(&control, &actor, &slug).await?;
    let Some(slug) = slug else { return Ok(Json(Items { items: Vec::new(), next: None })) };
    let list = control.vault.database()?.integration_versions(actor.organization, &slug, query.page()).await?;
    Ok(Json(Items::from(list).map(View::from)))
}

/// Shows a version of a stored integration.
#[utoipa::path(get, path = "/integrations/{slug}/versions/{number}", responses(
    (status = 200, description = "The version.", body = View)
))]
pub(in crate::admin) async fn show(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At((slug, number)): At<(String, String)>,
) -> Result<Json<View>, AdminError> {
    let nothing = || AdminError::NotFound("version of this integration");
    let slug = stored(&control, &actor, &slug).await?.ok_or_else(nothing)?;
    let number: u32 = number.parse().map_err(|_| nothing())?;
    let behind = u64::from(number) + 1;
    let page = Page { limit: 1, cursor: Some(&behind.to_string()) };
    let list = control.vault.database()?.integration_versions(actor.organization, &slug, page).await?;
    let found = list.items.into_iter().find(|version| version.number == number);
    found.map(View::from).map(Json).ok_or_else(nothing)
}

/// The slug of an integration that is there; `None` where it is none that is stored, of which no versions are kept.
async fn stored(control: &Control, actor: &Actor, slug: &str) -> Result<Option<Key>, AdminError> {
    let slug = find(control, actor.organization, &parse_slug(slug)?).await?.slug.clone();
    Ok(facts(control, actor.organization, &slug).await?.map(|_| slug))
}
