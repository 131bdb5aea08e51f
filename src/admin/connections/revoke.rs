//! Revoking a connection: its credentials go, and whoever asked is told where they are still good.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::Control;
use super::super::actor::Actor;
use super::super::document::Document;
use super::super::error::AdminError;
use super::super::openapi::OfCustomer;
use super::super::request::{At, Query};
use super::super::trials;
use super::{check_reach, find};
use crate::model::name::EnvironmentName;
use crate::vault::VaultError;
use crate::vault::change::{Change, resource};
use crate::vault::revoked::Revoked;

/// What is revoked.
#[derive(ToSchema)]
#[schema(as = RevocationOrder)]
pub struct Body {
    /// In this environment only; in every one where it is not said.
    #[schema(nullable = false)]
    pub environment: Option<EnvironmentName>,
}

/// What was revoked.
#[derive(Serialize, ToSchema)]
#[schema(as = Revocation)]
pub struct View {
    /// Each credential that is gone, by environment.
    revoked: Vec<Gone>,
}

/// A credential that is gone.
#[derive(Serialize, ToSchema)]
#[schema(as = RevokedCredential)]
pub struct Gone {
    environment: EnvironmentName,
    /// What the provider was told. `none`: nothing, for no auth method that there is can revoke anything there; a person
    /// has to.
    #[schema(pattern = "^none$")]
    provider: &'static str,
}

/// Revokes the credentials of a connection: at the provider where its auth method can do that, and then here.
///
/// No auth method that there is can, so the provider is told nothing: `provider` says so for each credential, and what
/// was entered stays good there until somebody revokes it. Here it is gone at once, and what is open and rests on it
/// ends, as where it is deleted. The connection stays; one without a credential is answered with an empty list.
#[utoipa::path(post, path = "/connections/{connection}/revoke", params(OfCustomer), request_body = Body, responses(
    (status = 200, description = "What was revoked.", body = View)
))]
pub(in super::super) async fn revoke(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    At(named): At<String>,
    document: Document,
) -> Result<Json<View>, AdminError> {
    let named_environment = document.read(|reader| Some(reader.parsed("environment")))?;
    let connection = find(&control, &actor, &query, &named).await?;
    check_reach(&actor, &connection)?;
    if control.vault.declares(connection.id) {
        return Err(VaultError::Declared(format!("the connection {}", connection.key)).into());
    }
    let organization = actor.organization;
    let environment = match named_environment {
        Some(named) => Some(trials::environment(&control, organization, &connection, Some(named)).await?),
        None => None,
    };
    let change = resource::Change::RevokeCredentials { organization, connection: connection.id, environment };
    let outcome = control.commit(&actor, Change::Resource(change)).await?;
    let gone = outcome.revoked.into_iter().filter_map(|revoked| match revoked {
        Revoked::Credential(_, environment) => Some(Gone { environment, provider: "none" }),
        Revoked::Connection(_) | Revoked::Key(_) => None,
    });
    Ok(Json(View { revoked: gone.collect() }))
}
