//! Facts: which connection a name means to a caller, where its requests may go, and whether this one may.
//!
//! [`Directory::route`] finds a [`Route`], waiting only where no cache holds it; [`Route::admit`] decides without
//! waiting and gives a [`Permit`]. No secret is read here.

pub mod cache;
pub mod permit;
pub mod rate;
pub mod route;
pub mod scope;

use std::sync::Arc;

use crate::model::id::{ConnectionRef, OrganizationId};
use crate::model::name::CustomerName;
use crate::vault::revision::Stamp;
use crate::vault::{Vault, VaultError};

use cache::{Cache, Limits, LoadFailed, Local, Stamped};
use rate::Rates;
use route::{Route, RouteError};

pub use permit::{Aim, Denied, Permit, Target};

/// What a caller named: the key of a lookup.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// The caller's organization.
    pub organization: OrganizationId,
    /// The customer it asked for.
    pub customer: Option<CustomerName>,
    /// The connection's id or key.
    pub reference: ConnectionRef,
}

/// What a lookup found. That nothing was found is remembered too, until the name changes.
pub struct Found {
    route: Result<Arc<Route>, RouteError>,
    stamp: Stamp,
}

impl Stamped for Found {
    fn stamp(&self) -> &Stamp {
        &self.stamp
    }
}

/// A worker's own table of what it found lately.
pub type LocalRoutes = Local<Name, Found>;

/// Finds routes.
pub struct Directory {
    vault: Vault,
    cache: Cache<Name, Found>,
    rates: Arc<Rates>,
}

/// Why no route could be had.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// There is none by that name for this caller.
    #[error("no such connection")]
    Unknown,
    /// There is one, and its configuration does not hold together.
    #[error("{0}")]
    Broken(String),
    /// The vault could not be read.
    #[error("the vault could not be read")]
    Vault(#[source] Arc<VaultError>),
}

impl Directory {
    /// A directory over a vault; loads run on `control`, the runtime of the vault.
    pub fn new(vault: Vault, limits: Limits, control: tokio::runtime::Handle) -> Self {
        Directory { vault, cache: Cache::new(limits, control), rates: Arc::default() }
    }

    /// A table for one worker.
    pub fn local(&self) -> LocalRoutes {
        self.cache.local()
    }

    /// The route of a name. Does not wait where the worker's table or the shared cache holds it.
    pub async fn route(&self, local: &LocalRoutes, name: &Name) -> Result<Arc<Route>, LookupError> {
        let found = match self.cache.get(local, name).await {
            Some(found) => found,
            None => {
                let load = || route::load(self.vault.clone(), name.clone(), Arc::clone(&self.rates));
                self.cache.load(local, name, load).await.map_err(|error| match error {
                    LoadFailed::Refused(error) => LookupError::Vault(error),
                    LoadFailed::Lost => LookupError::Vault(Arc::new(VaultError::Stopped)),
                })?
            }
        };
        match &found.route {
            Ok(route) => Ok(Arc::clone(route)),
            Err(RouteError::Unknown) => Err(LookupError::Unknown),
            Err(RouteError::Broken(why)) => Err(LookupError::Broken(why.clone())),
        }
    }
}
