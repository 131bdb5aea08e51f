//! Revoking a connection: its credentials go, and the provider is told where it can be.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tracing::Instrument;
use utoipa::ToSchema;

use super::super::Control;
use super::super::actor::Actor;
use super::super::condition::settled;
use super::super::document::Document;
use super::super::error::AdminError;
use super::super::openapi::OfCustomer;
use super::super::request::{At, Query};
use super::super::trials;
use super::{check_reach, environments_of, find, route};
use crate::clock;
use crate::credentials::oauth::endpoint::TokenError;
use crate::credentials::oauth::{Entered, patience};
use crate::directory::route::Route;
use crate::model::connection::Connection;
use crate::model::name::EnvironmentName;
use crate::model::version::Version;
use crate::upstream::outbound::Outbound;
use crate::vault::VaultError;
use crate::vault::change::{Change, Outcome, resource};
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

/// How often a provider is told again that did not listen.
const ATTEMPTS: u32 = 5;

/// A credential that is gone.
#[derive(Serialize, ToSchema)]
#[schema(as = RevokedCredential)]
pub struct Gone {
    environment: EnvironmentName,
    provider: Told,
}

/// What the provider was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ProviderRevocation)]
enum Told {
    /// Nothing: it has given out nothing for it, or has nowhere to be told. What was entered is good there until a person
    /// revokes it.
    None,
    /// It has taken its tokens back, or did not know them.
    Revoked,
    /// It did not listen. It is told again, five times at most, while this server runs.
    Pending,
}

/// Revokes the credentials of a connection: here, where they are gone at once, and then at the provider where it can be
/// told (OAuth2 with a `revoke_url`, RFC 7009).
///
/// What is open and rests on them ends, as where they are deleted. `provider` says for each of them whether it is still
/// good there. The connection stays; one without a credential is answered with an empty list.
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
    let environment = match named_environment {
        Some(named) => Some(trials::environment(&control, actor.organization, &connection, Some(named)).await?),
        None => None,
    };
    let (outcome, farewells) = settled(|| take(&control, &actor, &connection, environment.as_ref())).await?;
    // They are told whoever hangs up: here nothing is left to tell it by.
    let telling = async move { tell(outcome, farewells, &control.outbound).await };
    let told = tokio::spawn(telling.in_current_span()).await;
    Ok(Json(View { revoked: told.map_err(|_| AdminError::Vault(VaultError::Stopped))? }))
}

/// Takes the credentials away, and says whom to tell. What was read of them is what was taken: a refresh in between
/// makes it [`AdminError::Outdated`].
async fn take(
    control: &Control,
    actor: &Actor,
    connection: &Arc<Connection>,
    environment: Option<&EnvironmentName>,
) -> Result<(Outcome, Vec<Farewell>), AdminError> {
    let farewells = farewells(control, connection, environment).await?;
    let change = resource::Change::RevokeCredentials {
        organization: actor.organization,
        connection: connection.id,
        environment: environment.cloned(),
        seen: farewells.iter().map(|farewell| (farewell.environment.clone(), farewell.version)).collect(),
    };
    Ok((control.commit(actor, Change::Resource(change)).await?, farewells))
}

/// Tells all providers at once.
async fn tell(outcome: Outcome, mut farewells: Vec<Farewell>, outbound: &Outbound) -> Vec<Gone> {
    let gone = outcome.revoked.into_iter().filter_map(|revoked| match revoked {
        Revoked::Credential(_, environment) => Some(environment),
        Revoked::Connection(_) | Revoked::Key(_) => None,
    });
    let mut telling = Vec::new();
    for environment in gone {
        let found = farewells.iter().position(|farewell| farewell.environment == environment);
        let farewell = found.map(|found| farewells.swap_remove(found));
        let outbound = outbound.clone();
        let said =
            farewell.map(|farewell| tokio::spawn(async move { farewell.say(&outbound).await }.in_current_span()));
        telling.push((environment, said));
    }
    let mut told = Vec::with_capacity(telling.len());
    for (environment, said) in telling {
        let provider = match said {
            Some(said) => said.await.unwrap_or(Told::Pending),
            None => Told::None,
        };
        told.push(Gone { environment, provider });
    }
    told
}

/// What a provider is told once a credential is gone.
struct Farewell {
    route: Route,
    environment: EnvironmentName,
    entered: Entered,
    /// In which it was read.
    version: Version,
}

/// What will have to be told of the credentials of a connection. One that cannot be read cannot be told of either.
async fn farewells(
    control: &Control,
    connection: &Arc<Connection>,
    wanted: Option<&EnvironmentName>,
) -> Result<Vec<Farewell>, AdminError> {
    let mut farewells = Vec::new();
    for environment in environments_of(control, connection).await? {
        if wanted.is_some_and(|wanted| *wanted != environment) {
            continue;
        }
        let Ok(route) = route(control, connection).await? else { break };
        if route.auth().oauth.as_ref().is_none_or(|oauth| oauth.revoke_url.is_none()) {
            break;
        }
        let Some(entry) = control.vault.credential_entry(connection, &environment).await? else { continue };
        let entered = Entered::read(&control.vault, &route, &environment).await?;
        let Some(entered) = entered.ok().filter(Entered::is_signed_in) else { continue };
        farewells.push(Farewell { route, environment, entered, version: entry.version });
    }
    Ok(farewells)
}

impl Farewell {
    /// Tells the provider; in the background again where it does not listen.
    async fn say(self, outbound: &Outbound) -> Told {
        let Err(error) = self.entered.revoke(&self.route, outbound).await else { return Told::Revoked };
        let outbound = outbound.clone();
        let again = async move { self.repeat(&outbound, error).await };
        tokio::spawn(again.in_current_span());
        Told::Pending
    }

    async fn repeat(self, outbound: &Outbound, mut error: TokenError) {
        let (connection, environment) = (self.route.connection.id, &self.environment);
        for attempt in 0..ATTEMPTS {
            tracing::warn!(%connection, %environment, %error, "the provider has not taken its tokens back yet");
            let pause = patience(&error).max(Duration::from_secs(1 << attempt));
            clock::sleep(pause).await;
            match self.entered.revoke(&self.route, outbound).await {
                Ok(()) => {
                    tracing::info!(%connection, %environment, "the provider has taken its tokens back");
                    return;
                }
                Err(again) => error = again,
            }
        }
        tracing::error!(%connection, %environment, %error, "the provider has not taken its tokens back; revoke them there");
    }
}
