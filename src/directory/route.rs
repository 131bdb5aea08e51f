//! Routes: everything about a connection that decides where its requests go, made from facts only.

use std::ops::Deref;
use std::sync::Arc;

use super::integrations::Integrations;
use super::rate::{Limiter, Quota, Rates};
use super::{Found, Name, Named, Nothing};
use crate::model::api_key::RequestLimits;
use crate::model::auth::{AuthMethod, Place};
use crate::model::base_url::path_placeholders;
use crate::model::connection::Connection;
use crate::model::id::{ConnectionId, ConnectionRef, OrganizationId, Reference};
use crate::model::integration::Integration;
use crate::model::name::{CustomerName, FieldName};
use crate::model::site::Site;
use crate::telemetry::access_log::Names;
use crate::vault::declared::Declared;
use crate::vault::revision::{Stamp, Subject};
use crate::vault::{Vault, VaultError};

/// A connection with its integration, ready to decide on requests.
#[derive(Debug)]
pub struct Route {
    /// The connection.
    pub connection: Arc<Connection>,
    /// Its id. It lies here, as does whose it is, because every request's record needs them and little else of the
    /// connection.
    pub id: ConnectionId,
    /// Whose it is.
    pub organization: OrganizationId,
    /// Its integration.
    pub integration: Arc<Integration>,
    /// Which of the integration's auth methods it uses.
    method: u32,
    /// Whether it is a customer's or somebody's own: not for everybody who may use everything.
    pub(super) is_reserved: bool,
    /// Where its requests go, and what each of them has.
    site: Arc<Site>,
    /// What access lines say of it.
    names: Names,
    /// How many requests it takes, which all routes of the connection share, and how many all callers of its
    /// organization may make together.
    pub(super) limiters: Box<[Limiter]>,
    stamp: Stamp,
}

/// Why there is no route by a name.
#[derive(Clone, Debug)]
pub enum RouteError {
    /// Nothing is known by that name.
    Unknown,
    /// What is known does not hold together; a person must act.
    Broken(String),
}

impl Deref for Route {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl Route {
    /// Where its requests go; the same one for all connections of an integration that does not depend on their values.
    pub fn site(&self) -> &Arc<Site> {
        &self.site
    }

    /// The auth method its credential is for.
    pub fn auth(&self) -> &AuthMethod {
        &self.integration.auth[self.method as usize]
    }

    /// What access lines say of it, rendered once.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// What a credential that is entered now is bound to: it is of use while all of that is still so.
    pub fn bindings(&self) -> Vec<String> {
        // What cannot be rendered was found when the route was made.
        self.integration.bindings(&self.connection.values, self.auth()).unwrap_or_default()
    }

    /// The revisions it was made at.
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// Whether nothing that it was made from has changed since.
    pub fn is_current(&self) -> bool {
        self.stamp.is_current()
    }

    /// A public value of the connection.
    pub fn value(&self, name: &FieldName) -> Option<&str> {
        self.integration.value(&self.connection.values, name)
    }

    /// The limiters of the connection's own limit, else of its integration's, and of its organization's ceiling.
    fn limited(&self, rates: &Rates, ceiling: &RequestLimits) -> Box<[Limiter]> {
        let limit = self.connection.limit.or(self.integration.limit);
        let own = limit.map(|limit| rates.limiter(self.connection.id, Quota::new(limit)));
        own.into_iter().chain(rates.limiters_of_organization(self.connection.organization, ceiling)).collect()
    }

    /// Puts a connection and its integration together, or says why they do not fit. It has no limiters.
    pub fn new(connection: Arc<Connection>, integration: Arc<Integration>) -> Result<Route, String> {
        let method = match &connection.auth {
            Some(auth) => integration.auth.iter().position(|method| method.method == *auth),
            None => (integration.auth.len() == 1).then_some(0),
        };
        let method = method.ok_or_else(|| format!("the integration {} has no such auth method", integration.slug))?;
        if let Some((field, why)) = integration.check_values(&connection.values).into_iter().next() {
            return Err(format!("the value of `{field}`: {why}"));
        }
        let site = integration.site(&connection.values).map_err(|error| error.to_string())?;
        let endpoints = integration.auth[method].endpoints(|name| integration.value(&connection.values, name));
        endpoints.map_err(|error| error.to_string())?;
        let filled = |name: &str| {
            integration.auth[method].slots.iter().any(|slot| matches!(&slot.place, Place::Path(n) if **n == *name))
        };
        if let Some(name) = path_placeholders(site.base.path()).find(|name| !filled(name)) {
            return Err(format!("nothing fills {{{name}}} of the base URL with this auth method"));
        }
        let customer = connection.customer.as_ref().map(CustomerName::as_str);
        let names = Names::new(connection.key.as_str(), connection.id, customer);
        let is_reserved = customer.is_some() || connection.keeper().is_some();
        let method = method as u32; // a document has far fewer
        let stamp = Stamp::default();
        let (id, organization) = (connection.id, connection.organization);
        let limiters = Box::default();
        Ok(Route { connection, id, organization, integration, method, is_reserved, site, names, limiters, stamp })
    }

    /// The same, at the revisions it was made at and with its limiters.
    fn at(self, stamp: Stamp, rates: &Rates, ceiling: &RequestLimits) -> Arc<Self> {
        Arc::new(Route { limiters: self.limited(rates, ceiling), stamp, ..self })
    }
}

impl Found {
    fn unknown(stamp: Stamp) -> Self {
        Found::Nothing(Arc::new(Nothing { error: RouteError::Unknown, stamp }))
    }

    fn broken(why: String, stamp: Stamp) -> Self {
        Found::Nothing(Arc::new(Nothing { error: RouteError::Broken(why), stamp }))
    }

    /// What a connection comes to that was found by a name; `for_customer` says whether the name was a customer's.
    fn of(
        for_customer: bool,
        connection: Arc<Connection>,
        integration: Option<Arc<Integration>>,
        stamp: Stamp,
        rates: &Rates,
        ceiling: &RequestLimits,
    ) -> Self {
        let Some(integration) = integration else {
            let slug = &connection.integration;
            return Found::broken(format!("its integration {slug} does not exist any more"), stamp);
        };
        let falls_back = for_customer && connection.customer.is_none();
        if falls_back && !integration.customer_fallback {
            return Found::unknown(stamp);
        }
        match Route::new(connection, integration) {
            Ok(route) => Found::Route(route.at(stamp, rates, ceiling)),
            Err(why) => Found::broken(why, stamp),
        }
    }
}

/// Whether a connection that was named by its id may be used for a customer.
fn serves(connection: &Connection, customer: Option<&str>) -> bool {
    let own = connection.customer.as_ref().map(CustomerName::as_str);
    customer.is_none() || own.is_none() || own == customer
}

/// Looks a name up in what is declared, without waiting. `is_all` says that there is nothing else; otherwise `None`
/// means that the vault must be asked. `ceiling` is that of the organization.
pub(super) fn declared(
    declared: &Declared,
    stamp: Stamp,
    named: &Named<'_>,
    is_all: bool,
    rates: &Rates,
    ceiling: &RequestLimits,
) -> Option<Found> {
    let &Named { organization, customer, reference } = named;
    let own = declared.find(organization, customer, reference);
    let found = match reference {
        // The customer's own connection may be a stored one.
        Reference::Key(_) if customer.is_some() && is_all => {
            own.or_else(|| declared.find(organization, None, reference))
        }
        Reference::Id(_) | Reference::Key(_) => own,
    };
    let Some(connection) = found else { return is_all.then(|| Found::unknown(stamp)) };
    if matches!(reference, Reference::Id(_)) && !serves(connection, customer) {
        return Some(Found::unknown(stamp));
    }
    let integration = declared.integration(&connection.integration).cloned();
    let decided = integration.is_some() || is_all;
    decided.then(|| Found::of(customer.is_some(), Arc::clone(connection), integration, stamp, rates, ceiling))
}

/// Looks a name up in the vault: the customer's own connection, else the organization's where its integration allows
/// that.
pub(super) async fn load(
    vault: Vault,
    integrations: Arc<Integrations>,
    name: Name,
    rates: Arc<Rates>,
) -> Result<Found, VaultError> {
    let mut stamp = Stamp::default();
    let connection = find(&vault, &name, &mut stamp).await?;
    let Some(connection) = connection else { return Ok(Found::unknown(stamp)) };
    let (owner, slug) = (connection.organization, connection.integration.clone());
    let integration = integrations.get(&vault, owner, &slug, &mut stamp).await?;
    stamp.take(vault.revisions(), Subject::Ceiling(owner));
    let ceiling = vault.ceiling(owner);
    Ok(Found::of(name.customer.is_some(), connection, integration, stamp, &rates, &ceiling))
}

async fn find(vault: &Vault, name: &Name, stamp: &mut Stamp) -> Result<Option<Arc<Connection>>, VaultError> {
    let organization = name.organization;
    let changes = vault.revisions().changes();
    let connection = match &name.reference {
        ConnectionRef::Id(id) => {
            stamp.take(vault.revisions(), Subject::Connection(*id));
            let found = vault.connection(organization, None, &name.reference).await?;
            let customer = name.customer.as_ref().map(CustomerName::as_str);
            return Ok(found.filter(|connection| serves(connection, customer)));
        }
        ConnectionRef::Key(key) => {
            stamp.take(vault.revisions(), Subject::Name(organization, name.customer.clone(), key.clone()));
            match vault.connection(organization, name.customer.as_ref(), &name.reference).await? {
                None if name.customer.is_some() => {
                    stamp.take(vault.revisions(), Subject::Name(organization, None, key.clone()));
                    vault.connection(organization, None, &name.reference).await?
                }
                found => found,
            }
        }
    };
    if let Some(connection) = &connection {
        stamp.take(vault.revisions(), Subject::Connection(connection.id));
        if vault.revisions().changes() == changes {
            return Ok(Some(Arc::clone(connection)));
        }
        // The row may have changed between the look-up of its name and now: read it again under its own stamp.
        return vault.connection(organization, None, &ConnectionRef::Id(connection.id)).await;
    }
    Ok(None)
}
