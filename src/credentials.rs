//! Secrets: what a permit's credential looks like on the wire.
//!
//! A credential is opened, its references to secrets are resolved and its templates rendered once, when it is loaded.
//! What is cached is the [`Injection`]: reference-counted bytes that a request clones. A hit touches neither database
//! nor cipher.

pub mod apply;
pub mod body;
pub mod injection;

use std::sync::Arc;

use crate::directory::Permit;
use crate::directory::cache::{Cache, Limits, LoadFailed, Local, Stamped};
use crate::directory::route::Route;
use crate::model::id::ConnectionId;
use crate::model::name::{EnvironmentName, SecretKey};
use crate::vault::revision::{Stamp, Subject};
use crate::vault::{Vault, VaultError};

pub use injection::Injection;
use injection::RenderError;

/// What an injection was rendered for: the key of a lookup.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    connection: ConnectionId,
    environment: EnvironmentName,
}

/// A loaded injection, or why there is none; both hold until something it was read from changes.
pub struct Loaded {
    injection: Result<Arc<Injection>, Missing>,
    route: Arc<Route>,
    stamp: Stamp,
}

impl Stamped for Loaded {
    fn stamp(&self) -> &Stamp {
        &self.stamp
    }
}

/// A worker's own table of injections.
pub type LocalInjections = Local<Owner, Loaded>;

/// Why a connection has nothing to inject in an environment. A person must act.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Missing {
    /// There is no credential.
    #[error("the connection has no credential for the environment `{0}`; enter one, or ask for another environment")]
    Credential(EnvironmentName),
    /// A secret it refers to has no value.
    #[error("the secret `{0}` has no value in the environment `{1}`")]
    Secret(SecretKey, EnvironmentName),
    /// What is stored does not open, or does not fit the auth method.
    #[error("the stored credential cannot be used: {0}; enter it again")]
    Corrupt(String),
    /// It was entered for other hosts than the integration names now.
    #[error("the integration's hosts have changed since the credential was entered; enter it again")]
    Rebound,
}

/// Why a permit's credential could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// There is none, and asking again will not help.
    #[error(transparent)]
    Missing(Missing),
    /// The vault could not be read.
    #[error("the vault could not be read")]
    Vault(#[source] Arc<VaultError>),
}

/// Resolves permits to injections.
pub struct Credentials {
    vault: Vault,
    cache: Cache<Owner, Loaded>,
}

impl Credentials {
    /// Over a vault; loads run on `control`, the runtime of the vault.
    pub fn new(vault: Vault, limits: Limits, control: tokio::runtime::Handle) -> Self {
        Credentials { vault, cache: Cache::new(limits, control) }
    }

    /// A table for one worker.
    pub fn local(&self) -> LocalInjections {
        self.cache.local()
    }

    /// What is injected under a permit. Does not wait where a cache holds it.
    pub async fn resolve(&self, local: &LocalInjections, permit: &Permit) -> Result<Arc<Injection>, ResolveError> {
        let owner = Owner { connection: permit.route().connection.id, environment: permit.environment().clone() };
        let route = permit.route();
        // An injection belongs to the very route it was rendered for: a changed integration makes a new route.
        let cached = self.cache.get(local, &owner).await.filter(|loaded| same_route(&loaded.route, route));
        let loaded = match cached {
            Some(loaded) => loaded,
            None => {
                let load = || load(self.vault.clone(), Arc::clone(route), owner.clone());
                let loaded = self.cache.load(local, &owner, load).await.map_err(failed)?;
                if same_route(&loaded.route, route) {
                    loaded
                } else {
                    Arc::new(load().await.map_err(|e| failed(LoadFailed::Refused(Arc::new(e))))?)
                }
            }
        };
        loaded.injection.clone().map_err(ResolveError::Missing)
    }
}

fn failed(error: LoadFailed<VaultError>) -> ResolveError {
    ResolveError::Vault(match error {
        LoadFailed::Refused(error) => error,
        LoadFailed::Lost => Arc::new(VaultError::Stopped),
    })
}

/// Whether two routes inject the same into the same places.
fn same_route(a: &Arc<Route>, b: &Arc<Route>) -> bool {
    Arc::ptr_eq(a, b) || (a.connection == b.connection && a.integration == b.integration)
}

/// Reads and renders the credential of a connection in an environment.
async fn load(vault: Vault, route: Arc<Route>, owner: Owner) -> Result<Loaded, VaultError> {
    let mut stamp = Stamp::default();
    let connection = &route.connection;
    stamp.take(vault.revisions(), Subject::Connection(connection.id));
    stamp.take(vault.revisions(), Subject::Integration(connection.organization, connection.integration.clone()));
    stamp.take(vault.revisions(), Subject::Credential(connection.id, owner.environment.clone()));
    let injection = render(&vault, &route, &owner.environment, &mut stamp).await?;
    Ok(Loaded { injection: injection.map(Arc::new), route, stamp })
}

async fn render(
    vault: &Vault,
    route: &Route,
    environment: &EnvironmentName,
    stamp: &mut Stamp,
) -> Result<Result<Injection, Missing>, VaultError> {
    let auth = route.auth();
    if auth.credential_fields(&route.integration.fields).next().is_none() && auth.slots.is_empty() {
        return Ok(Ok(Injection::default()));
    }
    let stored = match vault.credential(&route.connection, environment).await {
        Ok(Some(stored)) => stored,
        Ok(None)
            if auth
                .credential_fields(&route.integration.fields)
                .all(|field| !field.required || field.default.is_some()) =>
        {
            Default::default()
        }
        Ok(None) => return Ok(Err(Missing::Credential(environment.clone()))),
        Err(error) if error.is_corrupt() => return Ok(Err(Missing::Corrupt("it does not open".to_owned()))),
        Err(error) => return Err(error),
    };
    if let Some(bound) = &stored.origins
        && !route.origins.iter().all(|origin| bound.contains(&origin.to_string()))
    {
        return Ok(Err(Missing::Rebound));
    }
    let owner = route.connection.organization;
    let mut secrets = injection::Secrets::default();
    for key in injection::referenced_secrets(&stored.credential) {
        stamp.take(vault.revisions(), Subject::Secret(owner, key.clone(), environment.clone()));
        match vault.secret(owner, &key, environment).await {
            Ok(Some(value)) => drop(secrets.insert(key, value)),
            Ok(None) => return Ok(Err(Missing::Secret(key, environment.clone()))),
            Err(error) if error.is_corrupt() => {
                return Ok(Err(Missing::Corrupt(format!("the secret {key} does not open"))));
            }
            Err(error) => return Err(error),
        }
    }
    let rendered = Injection::render(route, &stored.credential, &secrets);
    Ok(rendered.map_err(|error| match error {
        RenderError::Secret(key) => Missing::Secret(key, environment.clone()),
        other => Missing::Corrupt(other.to_string()),
    }))
}
