//! Secrets: what a permit's credential looks like on the wire.
//!
//! A credential is opened, its references to secrets are resolved and its templates rendered once, when it is loaded.
//! What is cached is the [`Injection`]: reference-counted bytes that a request clones. A worker keeps it beside the route
//! it belongs to, so a hit touches neither database nor cipher, nor looks anything up again.

pub mod apply;
pub mod body;
mod held;
pub mod injection;
mod mask;
pub mod outline;

use std::sync::Arc;
use std::time::Instant;

use secrecy::SecretString;

use crate::directory::cache::{Cache, Entry, Limits, LoadFailed, Stamped};
use crate::directory::route::Route;
use crate::directory::{Admission, Kept, Permit, Table};
use crate::model::id::ConnectionId;
use crate::model::moment::Moment;
use crate::model::name::{EnvironmentName, FieldName, SecretKey};
use crate::model::site::Site;
use crate::vault::declared::Declared;
use crate::vault::revision::{Stamp, Subject};
use crate::vault::{Vault, VaultError};

pub use held::Injections;
use held::{Held, Source};
pub use injection::Injection;
use injection::RenderError;

/// A worker's own table: routes, and their injections beside them.
pub type Local = Table<Injections>;

/// What an injection was rendered for: the key of a lookup.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Owner {
    connection: ConnectionId,
    environment: EnvironmentName,
}

/// A loaded injection, or why there is none; both hold until something it was read from changes.
struct Loaded {
    injection: Result<Arc<Injection>, Arc<Missing>>,
    /// Where it may go.
    site: Arc<Site>,
    /// When the credential ends to be of use, where that is known.
    until: Option<Instant>,
    stamp: Stamp,
}

impl Stamped for Arc<Loaded> {
    fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    fn is_current(&self) -> bool {
        self.stamp.is_current() && self.until.is_none_or(|until| Instant::now() < until)
    }
}

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
    /// It is of no use any more.
    #[error("the credential expired at {0}; enter it again")]
    Expired(Moment),
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
    stored: Cache<Owner, Arc<Loaded>>,
}

impl Credentials {
    /// Over a vault; loads run on `control`, the runtime of the vault.
    pub fn new(vault: Vault, limits: Limits, control: tokio::runtime::Handle) -> Self {
        Credentials { vault, stored: Cache::new(limits, control) }
    }

    /// What is injected under a permit that was made of this route. Waits only for what the vault must be asked for.
    ///
    /// What is returned was current at a moment at which the permit's route was current too, so a credential and the
    /// hosts it may go to always belong together.
    pub async fn resolve(&self, kept: &Kept<Injections>, permit: &Permit) -> Result<Arc<Injection>, ResolveError> {
        match self.known(kept, permit) {
            Some(found) => found,
            None => self.stored(kept, permit.admission()).await,
        }
    }

    /// Whether a request that would be admitted like this would get its credential, without giving it out: when that
    /// ends to be of use, where it is known, or why there is none.
    pub async fn check(&self, kept: &Kept<Injections>, admission: &Admission) -> Result<Option<Moment>, ResolveError> {
        match self.known_of(kept, admission) {
            Some(found) => found.map(drop)?,
            None => self.stored(kept, admission).await.map(drop)?,
        }
        let (vault, admission) = (self.vault.clone(), admission.clone());
        let expiry = async move { vault.credential_expiry(&admission.route.connection, &admission.environment).await };
        let expiry = self.stored.elsewhere(expiry).await.unwrap_or(Err(VaultError::Stopped));
        expiry.map_err(|error| ResolveError::Vault(Arc::new(error)))
    }

    /// Forgets, of what all workers share, what was not used lately and what is stale.
    pub async fn sweep(&self) {
        self.stored.sweep().await;
    }

    /// The same, if it can be told without waiting: it is held beside the route, or what is declared decides it.
    pub fn known(&self, kept: &Kept<Injections>, permit: &Permit) -> Option<Result<Arc<Injection>, ResolveError>> {
        self.known_of(kept, permit.admission())
    }

    fn known_of(&self, kept: &Kept<Injections>, admission: &Admission) -> Option<Result<Arc<Injection>, ResolveError>> {
        let Admission { route, environment, .. } = admission;
        if !Arc::ptr_eq(kept.route(), route) || !kept.is_current(self.vault.revisions()) {
            return Some(Err(ResolveError::Overtaken));
        }
        let found = kept.beside().get(environment).or_else(|| {
            let injection = self.declared(route, environment)?.map(Arc::new).map_err(Arc::new);
            let held = Held::new(environment.clone(), injection.clone(), Source::AsRoute);
            kept.beside().put(held);
            Some(injection)
        });
        found.map(as_resolved)
    }

    /// Renders what is declared, of the very moment that the route was made of. `None` where the vault must be asked.
    fn declared(&self, route: &Route, environment: &EnvironmentName) -> Option<Result<Injection, Missing>> {
        let (declared, stamp) = self.vault.snapshot().filter(|_| route.stamp().is_of_declared())?;
        let is_all = self.vault.is_declared_only();
        let injection = render_declared(&declared, route, environment, is_all)?;
        // Both of one moment: the route was made before what is declared was looked at, and has not changed since.
        (stamp.is_current() && route.is_current()).then_some(injection)
    }

    async fn stored(&self, kept: &Kept<Injections>, admission: &Admission) -> Result<Arc<Injection>, ResolveError> {
        let route = &admission.route;
        if !route.is_current() {
            return Err(ResolveError::Overtaken);
        }
        let owner = Owner { connection: route.connection.id, environment: admission.environment.clone() };
        let entry = match self.stored.get(&owner).await {
            Some(entry) => entry,
            None => self.load(&owner, route).await?,
        };
        let Entry { value: loaded, expires } = entry;
        // A change is visible a moment before its revision moves; what was rendered for other hosts shows it.
        let same_hosts = Arc::ptr_eq(&loaded.site, route.site()) || loaded.site.origins == route.origins;
        if !same_hosts || !route.is_current() {
            return Err(ResolveError::Overtaken);
        }
        let injection = loaded.injection.clone();
        let expires = loaded.until.map_or(expires, |until| until.min(expires));
        kept.beside().put(Held::new(owner.environment, injection.clone(), Source::Loaded(loaded)));
        kept.added(expires);
        as_resolved(injection)
    }

    async fn load(&self, owner: &Owner, route: &Arc<Route>) -> Result<Entry<Arc<Loaded>>, ResolveError> {
        let load = || load(self.vault.clone(), Arc::clone(route), owner.clone());
        self.stored.load(owner, load).await.map_err(|error| match error {
            LoadFailed::Refused(error) => ResolveError::Vault(error),
            LoadFailed::Lost => ResolveError::Vault(Arc::new(VaultError::Stopped)),
        })
    }
}

fn as_resolved(injection: Result<Arc<Injection>, Arc<Missing>>) -> Result<Arc<Injection>, ResolveError> {
    injection.map_err(|missing| ResolveError::Missing(Missing::clone(&missing)))
}

/// Whether a route's auth method asks for nothing at all.
fn needs_nothing(route: &Route) -> bool {
    route.auth().slots.is_empty() && route.auth().credential_fields(&route.integration.fields).next().is_none()
}

/// Whether every field may be left out.
fn may_be_absent(route: &Route) -> bool {
    let mut fields = route.auth().credential_fields(&route.integration.fields);
    fields.all(|field| !field.required || field.default.is_some())
}

/// Renders a declared credential. `None` where it refers to a secret that may be a stored one.
fn render_declared(
    declared: &Declared,
    route: &Route,
    environment: &EnvironmentName,
    is_all: bool,
) -> Option<Result<Injection, Missing>> {
    if needs_nothing(route) {
        return Some(Ok(Injection::default()));
    }
    let id = route.connection.id;
    let fields: &[(FieldName, SecretString)] = match declared.credential(id, environment) {
        Some(fields) => fields,
        None if may_be_absent(route) => &[],
        None => return Some(Err(Missing::Credential(environment.clone()))),
    };
    let owner = route.connection.organization;
    let mut secrets = injection::Secrets::default();
    for key in injection::referenced_secrets(fields.iter().map(|(_, value)| value)) {
        match declared.secret(owner, &key, environment) {
            Some(value) => drop(secrets.insert(key, value.clone())),
            None if is_all => return Some(Err(Missing::Secret(key, environment.clone()))),
            None => return None,
        }
    }
    let value = |name: &FieldName| fields.iter().find(|(other, _)| other == name).map(|(_, value)| value);
    Some(Injection::render_with(route, value, &secrets).map_err(|error| missing(error, environment)))
}

fn missing(error: RenderError, environment: &EnvironmentName) -> Missing {
    match error {
        RenderError::Secret(key) => Missing::Secret(key, environment.clone()),
        other => Missing::Corrupt(other.to_string()),
    }
}

/// Reads and renders the credential of a connection in an environment.
async fn load(vault: Vault, route: Arc<Route>, owner: Owner) -> Result<Arc<Loaded>, VaultError> {
    // It is as old as its route: an injection rendered for hosts that have changed since is never found again.
    let mut stamp = route.stamp().clone();
    stamp.take(vault.revisions(), Subject::Credential(route.connection.id, owner.environment.clone()));
    let mut until = None;
    let injection = render(&vault, &route, &owner.environment, &mut stamp, &mut until).await?;
    let injection = injection.map(Arc::new).map_err(Arc::new);
    Ok(Arc::new(Loaded { injection, site: Arc::clone(route.site()), until, stamp }))
}

async fn render(
    vault: &Vault,
    route: &Route,
    environment: &EnvironmentName,
    stamp: &mut Stamp,
    until: &mut Option<Instant>,
) -> Result<Result<Injection, Missing>, VaultError> {
    if needs_nothing(route) {
        return Ok(Ok(Injection::default()));
    }
    let stored = match vault.credential(&route.connection, environment).await {
        Ok(Some(stored)) => stored,
        Ok(None) if may_be_absent(route) => Default::default(),
        Ok(None) => return Ok(Err(Missing::Credential(environment.clone()))),
        Err(error) if error.is_corrupt() => return Ok(Err(Missing::Corrupt("it does not open".to_owned()))),
        Err(error) => return Err(error),
    };
    if let Some(bound) = &stored.origins
        && !route.origins.iter().all(|origin| bound.contains(&origin.to_string()))
    {
        return Ok(Err(Missing::Rebound));
    }
    if let Some(expires_at) = stored.expires_at.map(Moment::from_milliseconds) {
        let left = expires_at.since(Moment::now());
        if left.is_zero() {
            return Ok(Err(Missing::Expired(expires_at)));
        }
        *until = Instant::now().checked_add(left);
    }
    let owner = route.connection.organization;
    let mut secrets = injection::Secrets::default();
    for key in injection::referenced_secrets(stored.credential.fields().values()) {
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
    Ok(rendered.map_err(|error| missing(error, environment)))
}

#[cfg(test)]
mod tests;
