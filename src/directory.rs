//! Facts: which connection a name means to a caller, where its requests may go, and whether this one may.
//!
//! [`Directory::route`] finds a [`Route`]: in the worker's own table, or at once in what is declared, or in the vault,
//! for which it waits. [`Route::admit`] decides without waiting and gives a [`Permit`]. No secret is read here.

pub mod cache;
pub mod caller;
mod fingerprint;
mod integrations;
pub mod keys;
pub mod permit;
pub mod rate;
pub mod route;
pub mod scope;
pub mod table;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::model::connection::Connection;
use crate::model::id::{ApiKeyId, ConnectionRef, OrganizationId, Reference};
use crate::model::name::{CustomerName, NameError};
use crate::vault::revision::Stamp;
use crate::vault::{Vault, VaultError};

use cache::{Cache, Entry, Limits, LoadFailed, Stamped};
use integrations::Integrations;
use rate::Rates;
use route::{Route, RouteError};

pub use caller::Caller;
pub use permit::{Admission, Aim, Denied, Permit, Preview, Wanted};
pub use rate::Allowance;
pub use table::{Beside, Kept, Shown, Table};

/// How many connections a worker makes ready when it starts: what takes some tenths of a second.
const MOST_READY: usize = 16_384;

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

/// The same, borrowed from a request: nothing of it needs to be checked, or copied, to look it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Named<'a> {
    /// As [`Name::organization`].
    pub organization: OrganizationId,
    /// As [`Name::customer`].
    pub customer: Option<&'a str>,
    /// As [`Name::reference`].
    pub reference: Reference<'a>,
}

impl<'a> Named<'a> {
    /// A connection by its key.
    pub fn by_key(connection: &'a Connection) -> Self {
        let customer = connection.customer.as_ref().map(CustomerName::as_str);
        let reference = Reference::Key(connection.key.as_str().as_bytes());
        Named { organization: connection.organization, customer, reference }
    }

    /// The same by its id.
    fn by_id(connection: &'a Connection) -> Self {
        Named { reference: Reference::Id(connection.id), ..Self::by_key(connection) }
    }
}

impl<'a> From<&'a Name> for Named<'a> {
    fn from(name: &'a Name) -> Self {
        Named {
            organization: name.organization,
            customer: name.customer.as_ref().map(CustomerName::as_str),
            reference: Reference::from(&name.reference),
        }
    }
}

impl TryFrom<Named<'_>> for Name {
    type Error = NameError;

    fn try_from(named: Named<'_>) -> Result<Self, NameError> {
        let customer = named.customer.map(str::parse).transpose()?;
        Ok(Name { organization: named.organization, customer, reference: named.reference.try_into()? })
    }
}

/// What a lookup found. That nothing was found is remembered too, until the name changes.
#[derive(Clone)]
enum Found {
    Route(Arc<Route>),
    Nothing(Arc<Nothing>),
}

/// Why nothing was found, and what was read to find that out.
struct Nothing {
    error: RouteError,
    stamp: Stamp,
}

impl Stamped for Found {
    fn stamp(&self) -> &Stamp {
        match self {
            Found::Route(route) => route.stamp(),
            Found::Nothing(nothing) => &nothing.stamp,
        }
    }
}

/// Finds routes.
pub struct Directory {
    vault: Vault,
    stored: Cache<Name, Found>,
    keys: Cache<ApiKeyId, Arc<keys::Loaded>>,
    integrations: Arc<Integrations>,
    rates: Arc<Rates>,
    limits: Limits,
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

impl From<RouteError> for LookupError {
    fn from(error: RouteError) -> Self {
        match error {
            RouteError::Unknown => LookupError::Unknown,
            RouteError::Broken(why) => LookupError::Broken(why),
        }
    }
}

impl Directory {
    /// A directory over a vault; loads run on `control`, the runtime of the vault.
    pub fn new(vault: Vault, limits: Limits, control: tokio::runtime::Handle) -> Self {
        Directory {
            vault,
            stored: Cache::new(limits, control.clone()),
            keys: Cache::new(limits, control),
            integrations: Arc::default(),
            rates: Arc::default(),
            limits,
        }
    }

    /// A table for one worker.
    pub fn table<B: Beside>(&self) -> Table<B> {
        Table::new(self.limits)
    }

    /// The route of a name. Waits only for what the vault must be asked for; `now` is when it is asked.
    pub async fn route<B: Beside>(
        &self,
        table: &Table<B>,
        named: impl Into<Named<'_>>,
        now: Instant,
    ) -> Result<Rc<Kept<B>>, LookupError> {
        let named = named.into();
        if let Some(found) = self.known(table, named, now) {
            return found;
        }
        let name = Name::try_from(named).map_err(|_| LookupError::Unknown)?;
        let entry = self.stored(&name).await?;
        Ok(table.insert(table.hash(&named), &named, entry.value, entry.expires)?)
    }

    /// Makes the routes of what is declared in a worker's table, half of it at most and no more than 16,384, and
    /// gives each of them out. They do not all end in one moment.
    pub fn make_ready<B: Beside>(&self, table: &Table<B>, mut each: impl FnMut(&Kept<B>)) {
        let Some((declared, _)) = self.vault.snapshot() else { return };
        let (now, half) = (Instant::now(), self.limits.time_to_live / 2);
        let most = usize::try_from(self.limits.entries / 2).unwrap_or(usize::MAX).min(MOST_READY);
        for (place, connection) in declared.connections().take(most).enumerate() {
            if let Some(Ok(kept)) = self.known(table, Named::by_key(connection), now) {
                each(&kept);
                kept.added(now + half + half.mul_f64(place as f64 / most as f64));
            }
        }
    }

    /// Forgets, of what all workers share, what was not used lately and what is stale.
    pub async fn sweep(&self) {
        self.stored.sweep().await;
        self.keys.sweep().await;
    }

    /// The route of a name, if that can be told without waiting: it is in the worker's table, or what is declared
    /// decides it.
    pub fn known<B: Beside>(
        &self,
        table: &Table<B>,
        named: Named<'_>,
        now: Instant,
    ) -> Option<Result<Rc<Kept<B>>, LookupError>> {
        let hash = table.hash(&named);
        if let Some(found) = table.get(hash, &named, self.vault.revisions(), now) {
            return Some(found.map_err(LookupError::from));
        }
        let (declared, stamp) = self.vault.snapshot()?;
        let found = route::declared(
            &declared,
            stamp,
            &named,
            self.vault.is_declared_only(),
            &self.rates,
            &self.vault.ceiling(named.organization),
        )?;
        Some(table.insert(hash, &named, found, self.limits.expiry(now)).map_err(LookupError::from))
    }

    async fn stored(&self, name: &Name) -> Result<Entry<Found>, LookupError> {
        if let Some(entry) = self.stored.get(name).await {
            return Ok(entry);
        }
        let load = || {
            let (integrations, rates) = (Arc::clone(&self.integrations), Arc::clone(&self.rates));
            route::load(self.vault.clone(), integrations, name.clone(), rates)
        };
        self.stored.load(name, load).await.map_err(|error| match error {
            LoadFailed::Refused(error) => LookupError::Vault(error),
            LoadFailed::Lost => LookupError::Vault(Arc::new(VaultError::Stopped)),
        })
    }
}
