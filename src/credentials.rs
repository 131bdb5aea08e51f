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
    /// The connection has changed since the permit was made; admit the request again.
    #[error("the connection has changed meanwhile")]
    Overtaken,
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
    ///
    /// What is returned was current at a moment at which the permit's route was current too, so a credential and the
    /// hosts it may go to always belong together.
    pub async fn resolve(&self, local: &LocalInjections, permit: &Permit) -> Result<Arc<Injection>, ResolveError> {
        let route = permit.route();
        let owner = Owner { connection: route.connection.id, environment: permit.environment().clone() };
        let loaded = match self.cache.get(local, &owner).await {
            Some(loaded) => loaded,
            None => {
                let load = || load(self.vault.clone(), Arc::clone(route), owner.clone());
                self.cache.load(local, &owner, load).await.map_err(|error| match error {
                    LoadFailed::Refused(error) => ResolveError::Vault(error),
                    LoadFailed::Lost => ResolveError::Vault(Arc::new(VaultError::Stopped)),
                })?
            }
        };
        // A change is visible a moment before its revision moves; what was rendered for other hosts shows it.
        let same_hosts = Arc::ptr_eq(&loaded.route, route) || loaded.route.origins == route.origins;
        if !same_hosts || !route.is_current() {
            return Err(ResolveError::Overtaken);
        }
        loaded.injection.clone().map_err(ResolveError::Missing)
    }
}

/// Reads and renders the credential of a connection in an environment.
async fn load(vault: Vault, route: Arc<Route>, owner: Owner) -> Result<Loaded, VaultError> {
    // It is as old as its route: an injection rendered for hosts that have changed since is never found again.
    let mut stamp = route.stamp().clone();
    stamp.take(vault.revisions(), Subject::Credential(route.connection.id, owner.environment.clone()));
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use secrecy::SecretString;

    use super::*;
    use crate::directory::scope::Scope;
    use crate::directory::{Aim, Directory, Name};
    use crate::model::connection::ConnectionDraft;
    use crate::model::document::{Problems, Reader};
    use crate::model::id::{ConnectionRef, IntegrationId, OrganizationId};
    use crate::model::integration::Integration;
    use crate::vault::declared::{Author, Declared};

    /// One declared bearer connection to `host`.
    fn declared(host: &str, token: &str) -> (Declared, HashSet<OrganizationId>) {
        let owner = OrganizationId::derived("default");
        let document = serde_json::json!({
            "slug": "api", "base_url": format!("https://{host}"), "auth": [{ "method": "token", "type": "bearer" }],
        });
        let problems = Problems::default();
        let draft = serde_json::json!({ "key": "api", "integration": "api" });
        let draft = ConnectionDraft::read(&Reader::new(&draft, "", &problems).unwrap()).unwrap();
        let connection = draft.into_connection(ConnectionId::derived("api"), owner);
        let mut declared = Declared::default();
        let integration = Integration::parse(&document, IntegrationId::derived("api")).unwrap();
        declared.add_integration(integration, Author::Operator);
        let token = vec![("token".parse().unwrap(), SecretString::from(token))];
        declared.add_credential(connection.id, "production".parse().unwrap(), token);
        declared.add_connection(connection);
        (declared, HashSet::from([owner]))
    }

    fn scope() -> Scope {
        let production: EnvironmentName = "production".parse().unwrap();
        Scope {
            organization: OrganizationId::derived("default"),
            environment: production.clone(),
            environments: vec![production],
            connections: vec!["*".parse().unwrap()],
            customers: Vec::new(),
            connection: None,
        }
    }

    #[tokio::test]
    async fn a_credential_is_never_used_with_the_hosts_of_another_revision() {
        let vault = Vault::without_database();
        let (before, owners) = declared("old.test", "old");
        vault.declare(before, &owners);
        let limits =
            Limits { entries: 10, time_to_live: Duration::from_secs(60), time_to_idle: Duration::from_secs(60) };
        let control = tokio::runtime::Handle::current();
        let directory = Directory::new(vault.clone(), limits, control.clone());
        let credentials = Credentials::new(vault.clone(), limits, control);
        let (routes, injections) = (directory.local(), credentials.local());
        let reference: ConnectionRef = "api".parse().unwrap();
        let name = Name { organization: scope().organization, customer: None, reference };
        let admit = async || {
            let route = directory.route(&routes, &name).await.unwrap();
            route.admit(&scope(), "production".parse().unwrap(), &Aim::Base, String::new(), None).unwrap()
        };

        let permit = admit().await;
        assert!(credentials.resolve(&injections, &permit).await.is_ok());

        // The host and its credential change after the permit was made for the old host.
        let (after, owners) = declared("new.test", "new");
        vault.declare(after, &owners);
        assert!(matches!(credentials.resolve(&injections, &permit).await, Err(ResolveError::Overtaken)));

        let permit = admit().await;
        assert_eq!(permit.target().origin.to_string(), "https://new.test");
        assert!(credentials.resolve(&injections, &permit).await.is_ok());
    }
}
