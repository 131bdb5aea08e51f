//! Connections: named instances of an integration's auth method.

use super::document::Reader;
use super::id::{ConnectionId, OrganizationId};
use super::integration::{Limit, Values};
use super::name::{CustomerName, FieldName, Key};

/// A connection as it is stored. It holds no secret; its credentials are kept apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// Whose it is.
    pub organization: OrganizationId,
    /// The customer it belongs to, where the organization serves many.
    pub customer: Option<CustomerName>,
    /// Unique in its organization and customer.
    pub key: Key,
    /// As a person reads it.
    pub name: Option<String>,
    /// The slug of its integration.
    pub integration: Key,
    /// The auth method; absent where the integration has only one.
    pub auth: Option<Key>,
    /// The values of the integration's public fields.
    pub values: Values,
    /// Its own limit, instead of the integration's.
    pub limit: Option<Limit>,
}

/// A connection as somebody writes it, its shape checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionDraft {
    /// As [`Connection::key`].
    pub key: Key,
    /// As [`Connection::customer`].
    pub customer: Option<CustomerName>,
    /// As [`Connection::name`].
    pub name: Option<String>,
    /// As [`Connection::integration`].
    pub integration: Key,
    /// As [`Connection::auth`].
    pub auth: Option<Key>,
    /// As [`Connection::values`].
    pub values: Values,
    /// As [`Connection::limit`].
    pub limit: Option<Limit>,
}

impl ConnectionDraft {
    /// Reads `key`, `customer`, `name`, `integration`, `auth`, `values` and `limit`. The caller asks for further keys
    /// and finishes the reader.
    pub fn read(reader: &Reader<'_>) -> Option<Self> {
        let key = reader.required("key");
        let integration = reader.required("integration");
        let customer = reader.parsed("customer");
        let auth = reader.parsed("auth");
        let name = reader.label("name", 200).map(str::to_owned);
        let values = reader.table("values").map(read_values).unwrap_or_default();
        let limit = reader.table("limit").and_then(Limit::read);
        Some(ConnectionDraft { key: key?, customer, name, integration: integration?, auth, values, limit })
    }

    /// The connection this makes.
    pub fn into_connection(self, id: ConnectionId, organization: OrganizationId) -> Connection {
        let ConnectionDraft { key, customer, name, integration, auth, values, limit } = self;
        Connection { id, organization, customer, key, name, integration, auth, values, limit }
    }
}

fn read_values(reader: Reader<'_>) -> Values {
    let mut values = Values::new();
    for (name, value) in reader.entries() {
        match (name.parse::<FieldName>(), value.as_str()) {
            (Ok(name), Some(value)) if value.len() <= 4096 => drop(values.insert(name, value.to_owned())),
            (Err(error), _) => reader.problem(name, error.to_string()),
            (Ok(_), _) => reader.problem(name, "expected a text of at most 4096 bytes"),
        }
    }
    values
}
