//! Connections: named instances of an integration's auth method.

use std::fmt;
use std::str::FromStr;

use super::document::Reader;
use super::glob::Glob;
use super::id::{ConnectionId, OrganizationId, UserId};
use super::integration::{Limit, Values};
use super::name::{CustomerName, FieldName, Key, NameError};

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
    /// Who may see and use it, and what is told of it.
    pub sharing: Sharing,
}

impl Connection {
    /// Whose it is alone: its owner, where it is personal.
    pub fn keeper(&self) -> Option<Keeper> {
        (self.sharing.visibility == Visibility::Personal).then_some(Keeper(self.sharing.owner))
    }

    /// Whether one of these globs names it, by its key or its id.
    pub fn is_named_by(&self, globs: &[Glob]) -> bool {
        let key = self.key.as_str();
        globs.iter().any(|glob| glob.matches(key))
            || self.id.with_text(|id| globs.iter().any(|glob| glob.names_connection(key, id)))
    }
}

/// Who may see and use a connection, and what is told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Who may see and use it.
    pub visibility: Visibility,
    /// The user it belongs to.
    pub owner: Option<UserId>,
    /// What people file it under, each once, in alphabetical order.
    pub labels: Vec<Label>,
    /// Whether it may be offered in an embedded builder.
    pub exposed: bool,
}

/// Who may see and use a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// Everybody in the organization whose role and scope allow it.
    #[default]
    Organization,
    /// Its owner, and those who administer the organization.
    Personal,
}

impl Visibility {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Visibility::Organization => "organization",
            Visibility::Personal => "personal",
        }
    }
}

impl FromStr for Visibility {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text {
            "organization" => Ok(Visibility::Organization),
            "personal" => Ok(Visibility::Personal),
            _ => Err(NameError("the visibility is `organization` or `personal`")),
        }
    }
}

/// Whose a personal connection is. Nobody else's: where its owner is gone, nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeper(Option<UserId>);

impl Keeper {
    /// Whether it is this user, where it is anybody.
    pub fn is(self, user: Option<UserId>) -> bool {
        self.0.is_some() && self.0 == user
    }
}

/// What people file things under: 1 to 64 bytes without control characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(Box<str>);

impl Label {
    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if (1..=64).contains(&text.len()) && !text.chars().any(char::is_control) && text.trim() == text {
            Ok(Label(text.into()))
        } else {
            Err(NameError("a label has 1 to 64 bytes, no control characters, and no space at its ends"))
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for Label {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The most labels of one thing.
const MOST_LABELS: usize = 32;

/// [`Sharing`] as somebody writes it; what is absent is decided by who writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharingDraft {
    /// As [`Sharing::visibility`].
    pub visibility: Option<Visibility>,
    /// As [`Sharing::owner`].
    pub owner: Option<UserId>,
    /// As [`Sharing::labels`].
    pub labels: Vec<Label>,
    /// As [`Sharing::exposed`].
    pub exposed: bool,
}

impl SharingDraft {
    /// Reads `visibility`, `owner`, `labels` and `exposed`.
    pub fn read(reader: &Reader<'_>) -> Self {
        let mut labels: Vec<Label> = reader.parsed_list("labels");
        if labels.len() > MOST_LABELS {
            reader.problem("labels", format!("expected at most {MOST_LABELS} labels"));
        }
        labels.sort_unstable();
        labels.dedup();
        SharingDraft {
            visibility: reader.parsed("visibility"),
            owner: reader.parsed("owner"),
            labels,
            exposed: reader.flag("exposed").unwrap_or(false),
        }
    }
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

    /// The connection this makes, seen by the whole organization.
    pub fn into_connection(self, id: ConnectionId, organization: OrganizationId) -> Connection {
        let ConnectionDraft { key, customer, name, integration, auth, values, limit } = self;
        let sharing = Sharing::default();
        Connection { id, organization, customer, key, name, integration, auth, values, limit, sharing }
    }
}

/// Reads the values of an integration's fields: any field's, for the integration is not known here.
pub fn read_values(reader: Reader<'_>) -> Values {
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
