//! What a caller may name: connections, environments, customers.

use crate::model::connection::Connection;
use crate::model::glob::Glob;
use crate::model::id::{ConnectionRef, OrganizationId, UserId};
use crate::model::name::{CustomerName, EnvironmentName};

/// The bounds of a listener: those of its callers, where it trusts its network, and of the keys that are shown there.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The organization it acts for.
    pub organization: OrganizationId,
    /// The environment that is meant where a request names none.
    pub environment: EnvironmentName,
    /// The environments a request may name; none leaves it to the keys of its callers.
    pub environments: Vec<EnvironmentName>,
    /// The connections it may use: ids, keys or globs.
    pub connections: Vec<Glob>,
    /// The customers it may name.
    pub customers: Vec<Glob>,
    /// The connection that is meant where a request names none.
    pub connection: Option<ConnectionRef>,
    /// Whose personal connections are covered where no key is shown; with a key it is the key's owner.
    pub owner: Option<UserId>,
}

impl Scope {
    /// Whether every connection is inside that is no customer's and nobody's own.
    pub(super) fn covers_all(&self) -> bool {
        self.connections.iter().any(Glob::is_everything)
    }

    /// Whether a connection is inside. Whose a personal one is says the caller.
    pub(super) fn covers(&self, connection: &Connection) -> bool {
        connection.is_named_by(&self.connections)
            && connection.customer.as_ref().is_none_or(|customer| self.covers_customer(customer))
    }

    /// Whether a customer is inside.
    pub fn covers_customer(&self, customer: &CustomerName) -> bool {
        self.customers.iter().any(|glob| glob.matches(customer.as_str()))
    }

    /// The environment of a request, `None` where it names one that it may not.
    pub fn environment(&self, named: Option<&EnvironmentName>) -> Option<EnvironmentName> {
        match named {
            None => Some(self.environment.clone()),
            Some(name) => self.environments.contains(name).then(|| name.clone()),
        }
    }
}
