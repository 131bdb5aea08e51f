//! Ceilings: how many requests all callers of an organization may make together. Whoever pays for them sets them.

use std::sync::Arc;

use axum::extract::State;

use super::Control;
use super::actor::Actor;
use super::api_keys::Limits;
use super::condition::Shown;
use super::document::Document;
use super::error::AdminError;
use super::organizations;
use super::request::At;
use crate::model::api_key::RequestLimits;
use crate::model::id::OrganizationId;
use crate::vault::change::{ApiKeyChange, Change};
use crate::vault::derived;

/// Shows how many requests the callers of an organization may make together.
#[utoipa::path(get, path = "/organizations/{organization}/limits", responses(
    (status = 200, description = "So many.", body = Limits, headers(("ETag" = String)))
))]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
) -> Result<Shown<RequestLimits>, AdminError> {
    let organization = organizations::find(&control, &actor, &named).await?.id;
    Ok(shown(organization, control.vault.ceiling(organization)))
}

/// Replaces how many requests the callers of an organization may make together.
///
/// No API key may have a limit above it. Those that have one already are not changed; what they make together is limited
/// all the same.
#[utoipa::path(put, path = "/organizations/{organization}/limits", request_body = Limits, responses(
    (status = 200, description = "It is so.", body = Limits, headers(("ETag" = String)))
))]
pub(super) async fn replace(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
    document: Document,
) -> Result<Shown<RequestLimits>, AdminError> {
    let organization = organizations::find(&control, &actor, &named).await?.id;
    let limits = document.read(|reader| Some(RequestLimits::read(reader)))?;
    control.commit(&actor, Change::ApiKey(ApiKeyChange::SetCeiling { organization, limits })).await?;
    Ok(shown(organization, limits))
}

fn shown(organization: OrganizationId, limits: RequestLimits) -> Shown<RequestLimits> {
    Shown(limits, Some(derived::of_ceiling(organization, &limits)))
}
