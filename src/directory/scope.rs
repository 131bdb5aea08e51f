//! What a caller may name: connections, environments, customers.

use std::convert::Infallible;
use std::str::FromStr;

use crate::model::connection::Connection;
use crate::model::id::{ConnectionRef, OrganizationId};
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
}

impl Scope {
    /// Whether a connection is inside.
    pub fn covers(&self, connection: &Connection) -> bool {
        let by_key = |glob: &Glob| glob.matches(connection.key.as_str());
        let by_id = || {
            let id = connection.id.to_string();
            self.connections.iter().any(|glob| glob.matches(&id))
        };
        (self.connections.iter().any(by_key) || by_id())
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

/// A text in which `*` stands for any characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Box<str>);

impl FromStr for Glob {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Glob(text.into()))
    }
}

impl Glob {
    /// Whether the whole text matches.
    pub fn matches(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything_and_everything_else_for_itself() {
        let matches = |glob: &str, text: &str| glob.parse::<Glob>().unwrap().matches(text);
        for (glob, text) in
            [("*", "stripe"), ("crm-*", "crm-eu"), ("*-eu", "crm-eu"), ("a*b*c", "aXbYc"), ("a", "a"), ("**", "")]
        {
            assert!(matches(glob, text), "{glob} {text}");
        }
        for (glob, text) in [("crm-*", "crm"), ("a", "ab"), ("", "a"), ("a*a", "a"), ("a*b*c", "acb")] {
            assert!(!matches(glob, text), "{glob} {text}");
        }
    }
}
