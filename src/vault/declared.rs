//! What is declared in files: integrations, connections, their credentials and secrets, held in memory.
//!
//! Declared things stand above the vault's: a declared connection is found first, is read-only to the admin port, and
//! follows the file. Their credentials come from files and the environment and are never written anywhere.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use hashbrown::{Equivalent, HashMap};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::revision::Subject;
use crate::model::connection::Connection;
use crate::model::id::{ConnectionId, ConnectionRef, OrganizationId, Reference};
use crate::model::integration::Integration;
use crate::model::moment::Moment;
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

/// The same, borrowed from whoever asks.
#[derive(Hash)]
struct Wanted<'a>(OrganizationId, Option<&'a str>, &'a str);

impl Equivalent<Named> for Wanted<'_> {
    fn equivalent(&self, (organization, customer, key): &Named) -> bool {
        let Wanted(wanted, for_customer, wanted_key) = self;
        wanted_key == &key.as_str()
            && wanted == organization
            && for_customer == &customer.as_ref().map(CustomerName::as_str)
    }
}

/// Everything declared, as one reading of the files found it.
///
/// Only who writes the files can add to its tables, so a quick hash is enough for them.
#[derive(Default)]
pub struct Declared {
    integrations: HashMap<Key, Arc<Integration>>,
    /// The slugs of those that nobody had to write.
    built_in: HashSet<Key>,
    /// Since when each leads where it leads, as far as this process has seen.
    moved_at: HashMap<Key, Moment>,
    connections: HashMap<ConnectionId, Arc<Connection>>,
    names: HashMap<Named, Arc<Connection>>,
    /// By environment; most connections have one or two.
    credentials: HashMap<ConnectionId, Vec<(EnvironmentName, DeclaredCredential)>>,
    secrets: HashMap<(OrganizationId, SecretKey, EnvironmentName), SecretString>,
    words: Words,
}

/// Names that stand in many places, each kept once: thousands of connections share their environments, their fields and
/// the slugs of their integrations.
#[derive(Default)]
struct Words {
    environments: HashSet<EnvironmentName>,
    fields: HashSet<FieldName>,
    keys: HashSet<Key>,
}

/// The same name as it is kept already, or from now on.
fn kept<T: Clone + Eq + Hash>(words: &mut HashSet<T>, word: T) -> T {
    words.get(&word).cloned().unwrap_or_else(|| {
        words.insert(word.clone());
        word
    })
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
    pub fn add_connection(&mut self, mut connection: Connection) {
        connection.integration = kept(&mut self.words.keys, connection.integration);
        connection.auth = connection.auth.map(|auth| kept(&mut self.words.keys, auth));
        let named = (connection.organization, connection.customer.clone(), connection.key.clone());
        let connection = Arc::new(connection);
        self.names.insert(named, Arc::clone(&connection));
        self.connections.insert(connection.id, connection);
    }

    /// Adds the credential of a connection in one environment.
    pub fn add_credential(&mut self, id: ConnectionId, environment: EnvironmentName, fields: DeclaredCredential) {
        let environment = kept(&mut self.words.environments, environment);
        let named = fields.into_iter().map(|(name, value)| (kept(&mut self.words.fields, name), value));
        let fields = named.collect();
        let credentials = self.credentials.entry(id).or_default();
        credentials.retain(|(other, _)| *other != environment);
        credentials.reserve_exact(1);
        credentials.push((environment, fields));
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

    /// Notes since when each integration leads where it leads: as long as in the reading before, where it led there too.
    pub(super) fn date(&mut self, before: &Declared) {
        let now = Moment::now();
        for (slug, integration) in &self.integrations {
            let same = before.integrations.get(slug).is_some_and(|old| old.leads_as(integration));
            let moved_at = before.moved_at.get(slug).copied().filter(|_| same).unwrap_or(now);
            self.moved_at.insert(slug.clone(), moved_at);
        }
    }

    /// Since when an integration leads where it leads, as far as this process has seen.
    pub fn moved_at(&self, slug: &Key) -> Option<Moment> {
        self.moved_at.get(slug).copied()
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
        self.find(organization, customer.map(CustomerName::as_str), reference.into())
    }

    /// The same by borrowed text.
    pub fn find(
        &self,
        organization: OrganizationId,
        customer: Option<&str>,
        reference: Reference<'_>,
    ) -> Option<&Arc<Connection>> {
        let found = match reference {
            Reference::Id(id) => self.connections.get(&id),
            Reference::Key(key) => self.names.get(&Wanted(organization, customer, str::from_utf8(key).ok()?)),
        };
        found.filter(|connection| connection.organization == organization)
    }

    /// Whether a connection is declared.
    pub fn declares(&self, id: ConnectionId) -> bool {
        self.connections.contains_key(&id)
    }

    /// The environments a connection has a credential for.
    pub fn environments(&self, id: ConnectionId) -> impl Iterator<Item = &EnvironmentName> {
        self.credentials.get(&id).into_iter().flatten().map(|(environment, _)| environment)
    }

    /// A connection's credential in one environment.
    pub fn credential(&self, id: ConnectionId, environment: &EnvironmentName) -> Option<&DeclaredCredential> {
        let credentials = self.credentials.get(&id)?;
        credentials.iter().find(|(other, _)| other == environment).map(|(_, fields)| fields)
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
        let names = changed_keys(&self.names, &before.names, |a, b| a.id == b.id);
        subjects.extend(names.map(|(owner, customer, key)| Subject::Name(*owner, customer.clone(), key.clone())));
        for id in changed_keys(&self.credentials, &before.credentials, |_, _| false) {
            let environments: HashSet<_> = self.environments(*id).chain(before.environments(*id)).collect();
            let changed = environments.into_iter().filter(|environment| {
                let both = self.credential(*id, environment).zip(before.credential(*id, environment));
                !both.is_some_and(|(now, before)| same_fields(now, before))
            });
            subjects.extend(changed.map(|environment| Subject::Credential(*id, environment.clone())));
        }
        let secrets = changed_keys(&self.secrets, &before.secrets, same_secret);
        subjects
            .extend(secrets.map(|(owner, key, environment)| Subject::Secret(*owner, key.clone(), environment.clone())));
        subjects
    }
}

/// The keys that were added, removed or whose values differ.
fn changed_keys<'a, K: Hash + Eq, V>(
    now: &'a HashMap<K, V>,
    before: &'a HashMap<K, V>,
    same: impl Fn(&V, &V) -> bool,
) -> impl Iterator<Item = &'a K> {
    let gone = before.keys().filter(|key| !now.contains_key(*key));
    let changed = now.iter().filter(move |(key, value)| !before.get(*key).is_some_and(|old| same(old, value)));
    gone.chain(changed.map(|(key, _)| key))
}

fn same_fields(a: &DeclaredCredential, b: &DeclaredCredential) -> bool {
    a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.0 == b.0 && same_secret(&a.1, &b.1))
}

#[expect(clippy::disallowed_methods, reason = "two readings of a secret are compared, in constant time")]
fn same_secret(a: &SecretString, b: &SecretString) -> bool {
    a.expose_secret().as_bytes().ct_eq(b.expose_secret().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_borrowed_name_finds_what_the_owned_one_does() {
        let owner = OrganizationId::derived("default");
        let mut declared = Declared::default();
        for (customer, key) in [(None, "crm"), (Some("acme"), "crm"), (Some("acme"), "erp")] {
            let id = ConnectionId::derived(&format!("{customer:?}/{key}"));
            let customer = customer.map(|customer| customer.parse().unwrap());
            let (key, integration) = (key.parse().unwrap(), "api".parse().unwrap());
            let (name, auth, values, limit) = (None, None, Default::default(), None);
            declared.add_connection(Connection {
                id,
                organization: owner,
                customer,
                key,
                name,
                integration,
                auth,
                values,
                limit,
                sharing: Default::default(),
            });
        }
        for connection in declared.connections() {
            let (customer, key) = (connection.customer.as_ref(), ConnectionRef::Key(connection.key.clone()));
            for reference in [key, ConnectionRef::Id(connection.id)] {
                assert_eq!(declared.connection(owner, customer, &reference), Some(connection));
                assert_eq!(declared.connection(OrganizationId::derived("other"), customer, &reference), None);
            }
        }
        assert_eq!(declared.find(owner, Some("nobody"), Reference::Key(b"crm")), None);
        assert_eq!(declared.find(owner, None, Reference::Key(b"erp")), None);
    }
}
