//! What a caller may name: connections, environments, customers.

use crate::model::connection::Connection;
use crate::model::glob::Glob;
use crate::model::id::{ConnectionRef, OrganizationId, UserId};
use crate::model::name::{CustomerName, EnvironmentName};

/// The bounds of a caller: a listener's that trusts its network.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The organization it acts for.
    pub organization: OrganizationId,
    /// The environment that is meant where a request names none.
    pub environment: EnvironmentName,
    /// The environments a request may name.
    pub environments: Vec<EnvironmentName>,
    /// The connections it may use: ids, keys or globs.
    pub connections: Vec<Glob>,
    /// The customers it may name.
    pub customers: Vec<Glob>,
    /// The connection that is meant where a request names none.
    pub connection: Option<ConnectionRef>,
    /// Whose personal connections it may use, beside what is everybody's.
    pub owner: Option<UserId>,
}

impl Scope {
    /// Whether every connection is inside that is no customer's and nobody's own.
    pub fn covers_all(&self) -> bool {
        self.connections.iter().any(Glob::is_everything)
    }

    /// Whether a connection is inside. A personal one is so for its owner only, whatever names it.
    pub fn covers(&self, connection: &Connection) -> bool {
        let by_key = |glob: &Glob| glob.matches(connection.key.as_str());
        let by_id = || {
            let id = connection.id.to_string();
            self.connections.iter().any(|glob| glob.matches(&id))
        };
        (self.connections.iter().any(by_key) || by_id())
            && connection.customer.as_ref().is_none_or(|customer| self.covers_customer(customer))
            && connection.keeper().is_none_or(|keeper| keeper.is(self.owner))
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
