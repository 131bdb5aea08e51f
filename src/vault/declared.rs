//! What is declared in files: integrations, connections, their credentials and secrets, held in memory.
//!
//! Declared things stand above the vault's: a declared connection is found first, is read-only to the admin port, and
//! follows the file. Their credentials come from files and the environment and are never written anywhere.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::revision::Subject;
use crate::model::connection::Connection;
use crate::model::id::{ConnectionId, ConnectionRef, OrganizationId};
use crate::model::integration::Integration;
use crate::model::name::{CustomerName, EnvironmentName, FieldName, Key, SecretKey};

/// Who wrote a declared integration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// It came with Sidekey.
    BuiltIn,
    /// The operator's files say it, also where they replace a built-in one.
    Operator,
}

/// The fields of a declared credential, in one environment.
pub type DeclaredCredential = Vec<(FieldName, SecretString)>;

type Named = (OrganizationId, Option<CustomerName>, Key);

/// Everything declared, as one reading of the files found it.
#[derive(Default)]
pub struct Declared {
    integrations: HashMap<Key, Arc<Integration>>,
    /// The slugs of those that nobody had to write.
    built_in: HashSet<Key>,
    connections: HashMap<ConnectionId, Arc<Connection>>,
    names: HashMap<Named, ConnectionId>,
    credentials: HashMap<(ConnectionId, EnvironmentName), Arc<DeclaredCredential>>,
    secrets: HashMap<(OrganizationId, SecretKey, EnvironmentName), SecretString>,
}

impl Declared {
    /// Adds an integration; it belongs to every organization. The last one of a slug holds.
    pub fn add_integration(&mut self, integration: Integration, author: Author) {
        match author {
            Author::BuiltIn => drop(self.built_in.insert(integration.slug.clone())),
            Author::Operator => drop(self.built_in.remove(&integration.slug)),
        }
        self.integrations.insert(integration.slug.clone(), Arc::new(integration));
    }

    /// Adds a connection. Its id is derived from organization, customer and key, so it is the same after each start.
    pub fn add_connection(&mut self, connection: Connection) {
        let named = (connection.organization, connection.customer.clone(), connection.key.clone());
        self.names.insert(named, connection.id);
        self.connections.insert(connection.id, Arc::new(connection));
    }

    /// Adds the credential of a connection in one environment.
    pub fn add_credential(&mut self, id: ConnectionId, environment: EnvironmentName, fields: DeclaredCredential) {
        self.credentials.insert((id, environment), Arc::new(fields));
    }

    /// Adds a secret's value in one environment.
    pub fn add_secret(
        &mut self,
        owner: OrganizationId,
        key: SecretKey,
        environment: EnvironmentName,
        value: SecretString,
    ) {
        self.secrets.insert((owner, key, environment), value);
    }

    /// The integration of a slug.
    pub fn integration(&self, slug: &Key) -> Option<&Arc<Integration>> {
        self.integrations.get(slug)
    }

    /// Who wrote the integration of a slug; `None` where there is none.
    pub fn author(&self, slug: &Key) -> Option<Author> {
        let author = if self.built_in.contains(slug) { Author::BuiltIn } else { Author::Operator };
        self.integrations.contains_key(slug).then_some(author)
    }

    /// Every declared integration.
    pub fn integrations(&self) -> impl Iterator<Item = &Arc<Integration>> {
        self.integrations.values()
    }

    /// Every declared connection.
    pub fn connections(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.connections.values()
    }

    /// A connection by reference; by id whatever its customer is.
    pub fn connection(
        &self,
        organization: OrganizationId,
        customer: Option<&CustomerName>,
        reference: &ConnectionRef,
    ) -> Option<&Arc<Connection>> {
        let id = match reference {
            ConnectionRef::Id(id) => *id,
            ConnectionRef::Key(key) => *self.names.get(&(organization, customer.cloned(), key.clone()))?,
        };
        self.connections.get(&id).filter(|connection| connection.organization == organization)
    }

    /// Whether a connection is declared.
    pub fn declares(&self, id: ConnectionId) -> bool {
        self.connections.contains_key(&id)
    }

    /// The environments a connection has a credential for.
    pub fn environments(&self, id: ConnectionId) -> impl Iterator<Item = &EnvironmentName> {
        self.credentials.keys().filter(move |(owner, _)| *owner == id).map(|(_, environment)| environment)
    }

    /// A connection's credential in one environment.
    pub fn credential(&self, id: ConnectionId, environment: &EnvironmentName) -> Option<&Arc<DeclaredCredential>> {
        self.credentials.get(&(id, environment.clone()))
    }

    /// A secret's value in one environment.
    pub fn secret(
        &self,
        owner: OrganizationId,
        key: &SecretKey,
        environment: &EnvironmentName,
    ) -> Option<&SecretString> {
        self.secrets.get(&(owner, key.clone(), environment.clone()))
    }

    /// Every declared secret with one of its environments.
    pub fn secrets(&self) -> impl Iterator<Item = &(OrganizationId, SecretKey, EnvironmentName)> {
        self.secrets.keys()
    }

    /// What differs from another reading: the subjects whose caches must cool.
    pub fn changes(&self, before: &Declared, organizations: &HashSet<OrganizationId>) -> Vec<Subject> {
        let mut subjects = Vec::new();
        for slug in changed_keys(&self.integrations, &before.integrations, |a, b| a == b) {
            subjects.extend(organizations.iter().map(|owner| Subject::Integration(*owner, slug.clone())));
        }
        subjects.extend(
            changed_keys(&self.connections, &before.connections, |a, b| a == b).map(|id| Subject::Connection(*id)),
        );
        let names = changed_keys(&self.names, &before.names, |a, b| a == b);
        subjects.extend(names.map(|(owner, customer, key)| Subject::Name(*owner, customer.clone(), key.clone())));
        let credentials = changed_keys(&self.credentials, &before.credentials, same_fields);
        subjects.extend(credentials.map(|(id, environment)| Subject::Credential(*id, environment.clone())));
        let secrets = changed_keys(&self.secrets, &before.secrets, same_secret);
        subjects
            .extend(secrets.map(|(owner, key, environment)| Subject::Secret(*owner, key.clone(), environment.clone())));
        subjects
    }
}

/// The keys that were added, removed or whose values differ.
fn changed_keys<'a, K: std::hash::Hash + Eq, V>(
    now: &'a HashMap<K, V>,
    before: &'a HashMap<K, V>,
    same: impl Fn(&V, &V) -> bool,
) -> impl Iterator<Item = &'a K> {
    let gone = before.keys().filter(|key| !now.contains_key(*key));
    let changed = now.iter().filter(move |(key, value)| !before.get(*key).is_some_and(|old| same(old, value)));
    gone.chain(changed.map(|(key, _)| key))
}

fn same_fields(a: &Arc<DeclaredCredential>, b: &Arc<DeclaredCredential>) -> bool {
    a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.0 == b.0 && same_secret(&a.1, &b.1))
}

#[expect(clippy::disallowed_methods, reason = "two readings of a secret are compared, in constant time")]
fn same_secret(a: &SecretString, b: &SecretString) -> bool {
    a.expose_secret().as_bytes().ct_eq(b.expose_secret().as_bytes()).into()
}
