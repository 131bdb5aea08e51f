//! Secrets: what a permit's credential looks like on the wire.
//!
//! A credential is opened, its references to secrets are resolved and its templates rendered once, when it is loaded.
//! What is cached is the [`Injection`]: reference-counted bytes that a request clones. A worker keeps it beside the route
//! it belongs to, so a hit touches neither database nor cipher, nor looks anything up again.

pub mod apply;
pub mod body;
mod fields;
mod held;
pub mod injection;
mod mask;
pub mod oauth;
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
use crate::model::oauth::ACCESS_TOKEN;
use crate::model::site::Site;
use crate::upstream::outbound::Outbound;
use crate::vault::declared::Declared;
use crate::vault::revision::{Stamp, Subject};
use crate::vault::{self, Vault, VaultError};

pub use held::Injections;
use held::{Held, Source};
pub use injection::Injection;
use injection::RenderError;
use oauth::{Came, Errand, Errands, Standing};

/// A worker's own table: routes, and their injections beside them.
pub type Local = Table<Injections>;

/// What an injection was rendered for: the key of a lookup.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Owner {
    connection: ConnectionId,
    environment: EnvironmentName,
}

/// An injection, or why there is none; both hold until something they were read from changes.
type Rendered = Result<Arc<Injection>, Arc<Missing>>;

/// A credential as it was loaded.
struct Loaded {
    injection: Rendered,
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
    /// Nobody has signed in for it.
    #[error("nobody has signed in for the environment `{0}`; authorize the connection")]
    SignIn(EnvironmentName),
    /// The provider gives out no tokens for it any more, and says why.
    #[error("the provider does not take the sign-in any more ({0}); authorize the connection again")]
    SignedOut(String),
    /// The authorization server gave out no token.
    #[error("no access token: {0}")]
    TokenEndpoint(String),
    /// It did not answer in time.
    #[error("no access token: the token endpoint did not answer in time")]
    TokenTimeout,
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
    errands: Arc<Errands>,
    stored: Cache<Owner, Arc<Loaded>>,
}

impl Credentials {
    /// Over a vault; loads run on `control`, the runtime of the vault, and ask for tokens by way of `outbound`.
    pub fn new(vault: Vault, outbound: Outbound, limits: Limits, control: tokio::runtime::Handle) -> Self {
        let errands = Arc::new(Errands::new(vault.clone(), outbound));
        Credentials { vault, errands, stored: Cache::new(limits, control) }
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
            None if admission.route.auth().oauth.is_some() => Box::pin(self.look(admission)).await?,
            None => self.stored(kept, admission).await.map(drop)?,
        }
        let (vault, admission) = (self.vault.clone(), admission.clone());
        let entry = async move { vault.credential_entry(&admission.route.connection, &admission.environment).await };
        let entry = self.elsewhere(entry).await?;
        Ok(entry.and_then(|entry| entry.expires_at).map(Moment::from_milliseconds))
    }

    /// Whether a token could be had, without asking for one.
    async fn look(&self, admission: &Admission) -> Result<(), ResolveError> {
        let (vault, route) = (self.vault.clone(), Arc::clone(&admission.route));
        let owner = Owner { connection: route.connection.id, environment: admission.environment.clone() };
        let look = async move {
            let read = Read::of(&vault, &route, &owner, &mut Stamp::default()).await?;
            Ok(read.and_then(|read| match read.standing(&route, &owner) {
                oauth::Standing::Missing(missing) => Err(missing),
                oauth::Standing::Usable(_) | oauth::Standing::Due(_) => Ok(()),
            }))
        };
        self.elsewhere(look).await?.map_err(ResolveError::Missing)
    }

    /// Asks the vault on its own runtime.
    async fn elsewhere<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, VaultError>> + Send + 'static,
    ) -> Result<T, ResolveError> {
        let done = self.stored.elsewhere(work).await.unwrap_or(Err(VaultError::Stopped));
        done.map_err(|error| ResolveError::Vault(Arc::new(error)))
    }

    /// Waits until every token that was asked for is stored.
    pub async fn settle(&self) {
        let errands = Arc::clone(&self.errands);
        let _stopped = self.stored.elsewhere(async move { errands.settle().await }).await;
    }

    /// Forgets, of what all workers share, what was not used lately and what is stale.
    pub async fn sweep(&self) {
        self.stored.sweep().await;
        // Nobody waits for it: it may take as long as a provider does.
        let errands = Arc::clone(&self.errands);
        tokio::spawn(async move { errands.settle().await });
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
        self.held(kept, environment).map(as_resolved)
    }

    /// Renders what a connection is declared with, before it is asked for.
    pub fn make_ready(&self, kept: &Kept<Injections>) {
        let declared = self.vault.declared();
        for environment in declared.environments(kept.connection.id) {
            self.held(kept, environment);
        }
    }

    /// What is held beside a route, or will be from now on as it is declared.
    fn held(&self, kept: &Kept<Injections>, environment: &EnvironmentName) -> Option<Rendered> {
        kept.beside().get(environment).or_else(|| {
            let injection = self.declared(kept, environment)?.map(Arc::new).map_err(Arc::new);
            kept.beside().put(Held::new(environment.clone(), injection.clone(), Source::AsRoute));
            Some(injection)
        })
    }

    /// Renders what is declared, of the very moment that the route was made of. `None` where the vault must be asked.
    fn declared(&self, route: &Route, environment: &EnvironmentName) -> Option<Result<Injection, Missing>> {
        // What a client's secret is enough for is asked for, and by one for all workers.
        if route.auth().oauth.as_ref().is_some_and(|oauth| !oauth.is_signed_in()) {
            return None;
        }
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
        // In a box: every request of a client is as large as what it might wait for.
        let load = || Box::pin(load(Arc::clone(&self.errands), Arc::clone(route), owner.clone()));
        self.stored.load(owner, load).await.map_err(|error| match error {
            LoadFailed::Refused(error) => ResolveError::Vault(error),
            LoadFailed::Lost => ResolveError::Vault(Arc::new(VaultError::Stopped)),
        })
    }
}

fn as_resolved(injection: Rendered) -> Result<Arc<Injection>, ResolveError> {
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

/// What a credential was read as.
struct Read {
    held: vault::Held,
    secrets: injection::Secrets,
}

impl Read {
    /// Reads the credential of a connection, and every secret that it refers to.
    async fn of(
        vault: &Vault,
        route: &Route,
        owner: &Owner,
        stamp: &mut Stamp,
    ) -> Result<Result<Self, Missing>, VaultError> {
        let environment = &owner.environment;
        stamp.take(vault.revisions(), Subject::Credential(route.connection.id, environment.clone()));
        let held = match vault.credential(&route.connection, environment).await {
            Ok(Some(held)) => held,
            Ok(None) if may_be_absent(route) => Default::default(),
            Ok(None) => return Ok(Err(Missing::Credential(environment.clone()))),
            Err(error) if error.is_corrupt() => return Ok(Err(Missing::Corrupt("it does not open".to_owned()))),
            Err(error) => return Err(error),
        };
        if let Some(bound) = &held.origins
            && !route.bindings().iter().all(|binding| bound.contains(binding))
        {
            return Ok(Err(Missing::Rebound));
        }
        let organization = route.connection.organization;
        let mut secrets = injection::Secrets::default();
        for key in injection::referenced_secrets(held.credential.fields().values()) {
            stamp.take(vault.revisions(), Subject::Secret(organization, key.clone(), environment.clone()));
            match vault.secret(organization, &key, environment).await {
                Ok(Some(value)) => drop(secrets.insert(key, value)),
                Ok(None) => return Ok(Err(Missing::Secret(key, environment.clone()))),
                Err(error) if error.is_corrupt() => {
                    return Ok(Err(Missing::Corrupt(format!("the secret {key} does not open"))));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Ok(Read { held, secrets }))
    }

    /// When it ends to be of use, where that is known, if it has not already.
    fn end(&self) -> Result<Option<Instant>, Missing> {
        let Some(expires_at) = self.held.ends_at().map(Moment::from_milliseconds) else { return Ok(None) };
        let left = expires_at.since(Moment::now());
        if left.is_zero() { Err(Missing::Expired(expires_at)) } else { Ok(Instant::now().checked_add(left)) }
    }

    fn has_token(&self) -> bool {
        self.held.credential.fields().keys().any(|name| name.as_str() == ACCESS_TOKEN)
    }

    fn standing(&self, route: &Route, owner: &Owner) -> Standing {
        match (&route.auth().oauth, self.end()) {
            (_, Err(missing)) => Standing::Missing(missing),
            (Some(oauth), Ok(_)) => oauth::standing(oauth, &self.held, owner),
            (None, Ok(end)) => Standing::Usable(end),
        }
    }

    /// Renders it, with an access token that is not part of it where there is one.
    fn render(mut self, route: &Route, owner: &Owner, token: Option<&SecretString>) -> Result<Injection, Missing> {
        let fields = self.held.credential.fields();
        let given = |name: &FieldName| token.filter(|_| name.as_str() == ACCESS_TOKEN).or_else(|| fields.get(name));
        // An upstream is told nothing of what only the token endpoint gets.
        let injected = route.auth().injected_fields(&route.integration.fields).filter_map(|field| given(&field.name));
        let told = injection::referenced_secrets(injected);
        self.secrets.retain(|key, _| told.contains(key));
        Injection::render_with(route, given, &self.secrets).map_err(|error| missing(error, &owner.environment))
    }
}

impl Loaded {
    fn new(injection: Result<Injection, Missing>, route: &Route, until: Option<Instant>, stamp: Stamp) -> Arc<Self> {
        let injection = injection.map(Arc::new).map_err(Arc::new);
        Arc::new(Loaded { injection, site: Arc::clone(route.site()), until, stamp })
    }
}

/// Reads and renders the credential of a connection in an environment. Where a token is due, it is asked for, once.
async fn load(errands: Arc<Errands>, route: Arc<Route>, owner: Owner) -> Result<Arc<Loaded>, VaultError> {
    // It is as old as its route: an injection rendered for hosts that have changed since is never found again.
    let stamp = route.stamp().clone();
    if needs_nothing(&route) {
        return Ok(Loaded::new(Ok(Injection::default()), &route, None, stamp));
    }
    if route.auth().oauth.is_some() {
        return load_with_token(errands, route, owner).await;
    }
    let mut stamp = stamp;
    let read = Read::of(&errands.vault, &route, &owner, &mut stamp).await?;
    let (injection, until) = match read.and_then(|read| Ok((read.end()?, read))) {
        Ok((end, read)) => (read.render(&route, &owner, None), end),
        Err(missing) => (Err(missing), None),
    };
    Ok(Loaded::new(injection, &route, until, stamp))
}

async fn load_with_token(errands: Arc<Errands>, route: Arc<Route>, owner: Owner) -> Result<Arc<Loaded>, VaultError> {
    let mut turn = errands.turn(&owner).await;
    errands.catch_up(&owner, &mut turn).await?;
    let mut has_asked = false;
    loop {
        let mut stamp = route.stamp().clone();
        let entry = errands.vault.credential_entry(&route.connection, &owner.environment).await?;
        let read = match Read::of(&errands.vault, &route, &owner, &mut stamp).await? {
            Ok(read) => read,
            Err(missing) => return Ok(Loaded::new(Err(missing), &route, None, stamp)),
        };
        let render = |read: Read, token: Option<&SecretString>, until, stamp| {
            Ok(Loaded::new(read.render(&route, &owner, token), &route, until, stamp))
        };
        let spare = match read.standing(&route, &owner) {
            Standing::Missing(missing) => return Ok(Loaded::new(Err(missing), &route, None, stamp)),
            Standing::Usable(until) => return render(read, None, until, stamp),
            // It was given out for those who wait for it now, whatever its life. Where there is none, the credential was
            // entered anew since.
            Standing::Due(until) if has_asked && read.has_token() => {
                return render(read, None, until.or_else(|| Some(Instant::now())), stamp);
            }
            Standing::Due(spare) => spare,
        };
        let version = entry.map(|entry| entry.version);
        let now = errands.vault.credential_entry(&route.connection, &owner.environment).await?;
        if version != now.map(|entry| entry.version) {
            // A refresh token of one version must not be spent in the name of another.
            continue;
        }
        let Read { held, secrets, .. } = &read;
        let errand = Errand { route: &route, owner: &owner, held, secrets, version, spare };
        match errands.run(&errand, &mut turn).await? {
            Came::Stored => has_asked = true,
            Came::Overtaken => {}
            Came::Token(token, until) => return render(read, Some(&token), until, stamp),
            Came::Spared(until) => return render(read, None, Some(until), stamp),
            Came::Missing(missing, until) => return Ok(Loaded::new(Err(missing), &route, Some(until), stamp)),
        }
    }
}

#[cfg(test)]
mod tests;
