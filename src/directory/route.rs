//! Routes: everything about a connection that decides where its requests go, made from facts only.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::rate::{Limiter, Quota, Rates};
use super::{Found, Name};
use crate::model::auth::{AuthMethod, Place};
use crate::model::base_url::{BaseUrl, path_placeholders};
use crate::model::connection::Connection;
use crate::model::id::ConnectionRef;
use crate::model::integration::Integration;
use crate::model::name::{CustomerName, FieldName};
use crate::model::origin::Origin;
use crate::telemetry::access_log::Names;
use crate::vault::revision::{Stamp, Subject};
use crate::vault::{Vault, VaultError};

/// A connection with its integration, ready to decide on requests.
#[derive(Debug)]
pub struct Route {
    /// The connection.
    pub connection: Arc<Connection>,
    /// Its integration.
    pub integration: Arc<Integration>,
    /// Which of the integration's auth methods it uses.
    method: usize,
    /// Where reverse requests go.
    pub base: BaseUrl,
    /// Where its credential may go at all; the base URL's origin first.
    pub origins: Vec<Origin>,
    /// Default headers, rendered.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What access lines say of it.
    names: Names,
    /// How many requests it takes; the one that all routes of the connection share.
    pub(super) limiter: Option<Limiter>,
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

impl Route {
    /// The auth method its credential is for.
    pub fn auth(&self) -> &AuthMethod {
        &self.integration.auth[self.method]
    }

    /// What access lines say of it, rendered once; its upstreams are its origins, in their order.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Which of its origins this one is.
    pub fn origin_index(&self, origin: &Origin) -> usize {
        self.origins.iter().position(|own| own == origin).unwrap_or_default()
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

    /// The limiter of the connection's own limit, else of its integration's.
    fn limited(&self, rates: &Rates) -> Option<Limiter> {
        let limit = self.connection.limit.or(self.integration.limit)?;
        Some(rates.limiter(self.connection.id, Quota::new(limit)))
    }

    /// Puts a connection and its integration together, or says why they do not fit. It has no limiter.
    pub fn new(connection: Arc<Connection>, integration: Arc<Integration>) -> Result<Route, String> {
        let method = match &connection.auth {
            Some(auth) => integration.auth.iter().position(|method| method.method == *auth),
            None => (integration.auth.len() == 1).then_some(0),
        };
        let method = method.ok_or_else(|| format!("the integration {} has no such auth method", integration.slug))?;
        if let Some((field, why)) = integration.check_values(&connection.values).into_iter().next() {
            return Err(format!("the value of `{field}`: {why}"));
        }
        let (base, origins) = integration.place(&connection.values).map_err(|error| error.to_string())?;
        let filled = |name: &str| {
            integration.auth[method].slots.iter().any(|slot| matches!(&slot.place, Place::Path(n) if **n == *name))
        };
        if let Some(name) = path_placeholders(base.path()).find(|name| !filled(name)) {
            return Err(format!("nothing fills {{{name}}} of the base URL with this auth method"));
        }
        let mut headers = Vec::new();
        for (name, template) in &integration.headers {
            let text =
                template.render(|field| integration.value(&connection.values, field)).map_err(|e| e.to_string())?;
            let value =
                HeaderValue::from_str(&text).map_err(|_| format!("the default header {name} is no header value"))?;
            headers.push((name.clone(), value));
        }
        let customer = connection.customer.as_ref().map(CustomerName::as_str);
        let upstreams = origins.iter().map(Origin::authority);
        let names = Names::new(connection.key.as_str(), &connection.id.to_string(), customer, upstreams);
        let stamp = Stamp::default();
        Ok(Route { connection, integration, method, base, origins, headers, names, limiter: None, stamp })
    }
}

/// Looks a name up in the vault: the customer's own connection, else the organization's where its integration allows
/// that.
pub(super) async fn load(vault: Vault, name: Name, rates: Arc<Rates>) -> Result<Found, VaultError> {
    let mut stamp = Stamp::default();
    let connection = find(&vault, &name, &mut stamp).await?;
    let Some(connection) = connection else { return Ok(Found { route: Err(RouteError::Unknown), stamp }) };
    stamp.take(vault.revisions(), Subject::Integration(connection.organization, connection.integration.clone()));
    let route = match vault.integration(connection.organization, &connection.integration).await? {
        None => Err(RouteError::Broken(format!("its integration {} does not exist any more", connection.integration))),
        Some(integration) if falls_back(&name, &connection) && !integration.customer_fallback => {
            Err(RouteError::Unknown)
        }
        Some(integration) => Route::new(connection, integration)
            .map(|route| Arc::new(Route { limiter: route.limited(&rates), stamp: stamp.clone(), ..route }))
            .map_err(RouteError::Broken),
    };
    Ok(Found { route, stamp })
}

/// Whether a customer is about to be served by the organization's own connection.
fn falls_back(name: &Name, connection: &Connection) -> bool {
    name.customer.is_some() && connection.customer.is_none()
}

async fn find(vault: &Vault, name: &Name, stamp: &mut Stamp) -> Result<Option<Arc<Connection>>, VaultError> {
    let organization = name.organization;
    let connection = match &name.reference {
        ConnectionRef::Id(id) => {
            stamp.take(vault.revisions(), Subject::Connection(*id));
            let found = vault.connection(organization, None, &name.reference).await?;
            return Ok(found.filter(|c| name.customer.is_none() || c.customer.is_none() || c.customer == name.customer));
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
        // The row may have changed between the look-up of its name and now: read it again under its own stamp.
        stamp.take(vault.revisions(), Subject::Connection(connection.id));
        return vault.connection(organization, None, &ConnectionRef::Id(connection.id)).await;
    }
    Ok(None)
}
