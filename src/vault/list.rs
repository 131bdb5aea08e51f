//! Lists, a page at a time.
//!
//! A cursor is the name of the last item of the page before. It is compared and never looked up, so a page is right
//! also when that item was deleted meanwhile, and any text is a cursor.

use std::collections::BTreeMap;

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::database::Database;
use super::error::DatabaseError;
use super::query::{self, BINDING, Organization, connection_columns};
use crate::model::connection::{Connection, Label};
use crate::model::id::{ConnectionId, OrganizationId, SecretId, UserId};
use crate::model::integration::Integration;
use crate::model::name::{CustomerName, EnvironmentName, FieldName, Key, SecretKey};
use crate::model::version::Version;

/// Which part of a list.
#[derive(Clone, Debug)]
pub struct Page<'a> {
    /// How many items at most.
    pub limit: u32,
    /// The [`List::next`] of the page before; `None` for the first.
    pub cursor: Option<&'a str>,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T> {
    /// In the order of their names.
    pub items: Vec<T>,
    /// The cursor of the next page, where there is one.
    pub next: Option<String>,
}

/// Whose connections.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'a> {
    /// Everybody's.
    Anyone,
    /// The organization's own.
    Organization,
    /// A customer's.
    Customer(&'a CustomerName),
}

/// Which connections are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Whose.
    pub owner: Owner<'a>,
    /// By whom: others' personal ones are left out.
    pub viewer: Viewer,
    /// Of one integration only.
    pub integration: Option<&'a Key>,
    /// With this label only.
    pub label: Option<&'a Label>,
    /// Only those that may be offered, or may not.
    pub exposed: Option<bool>,
}

impl Default for Wanted<'_> {
    fn default() -> Self {
        let (owner, viewer) = (Owner::Anyone, Viewer::Administrator);
        Wanted { owner, viewer, integration: None, label: None, exposed: None }
    }
}

impl Wanted<'_> {
    /// Whether a connection is wanted.
    pub fn includes(&self, connection: &Connection) -> bool {
        let of_owner = match self.owner {
            Owner::Anyone => true,
            Owner::Organization => connection.customer.is_none(),
            Owner::Customer(customer) => connection.customer.as_ref() == Some(customer),
        };
        of_owner
            && self.viewer.sees(connection)
            && self.integration.is_none_or(|integration| connection.integration == *integration)
            && self.label.is_none_or(|label| connection.sharing.labels.contains(label))
            && self.exposed.is_none_or(|exposed| connection.sharing.exposed == exposed)
    }
}

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Viewer {
    /// Somebody who sees all connections of the organization.
    Administrator,
    /// Somebody who sees of the personal ones only their own.
    User(Option<UserId>),
}

impl Viewer {
    /// Whether they see a connection.
    pub fn sees(self, connection: &Connection) -> bool {
        match self {
            Viewer::Administrator => true,
            Viewer::User(user) => connection.keeper().is_none_or(|keeper| keeper.is(user)),
        }
    }
}

/// A secret without its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretSummary {
    /// Its id.
    pub id: SecretId,
    /// As references name it.
    pub key: SecretKey,
    /// As a person reads it.
    pub description: Option<String>,
    /// Where it has a value, in the order of the environments.
    pub environments: Vec<EnvironmentName>,
    /// The stored connections whose credentials refer to it, by customer and key, at most 100 of them.
    pub used_by: Vec<Connection>,
    /// What tells this state of it from others.
    pub version: Version,
}

impl Page<'_> {
    pub(super) fn cursor(&self) -> &str {
        self.cursor.unwrap_or_default()
    }

    /// One more than asked for tells whether there is a next page.
    pub(super) fn fetch(&self) -> i64 {
        i64::from(self.limit) + 1
    }

    pub(super) fn list<T>(
        &self,
        rows: &[SqliteRow],
        read: impl Fn(&SqliteRow) -> Result<T, DatabaseError>,
        name: impl Fn(&T) -> String,
    ) -> Result<List<T>, DatabaseError> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let items = rows.iter().take(limit).map(read).collect::<Result<Vec<T>, _>>()?;
        let next = if rows.len() > limit { items.last().map(name) } else { None };
        Ok(List { items, next })
    }
}

impl Database {
    /// All organizations, by key.
    pub async fn organizations(&self, page: Page<'_>) -> Result<List<Organization>, DatabaseError> {
        self.inner.counters.read();
        let rows = sqlx::query("SELECT id, key, name, version FROM organizations WHERE key > $1 ORDER BY key LIMIT $2")
            .bind(page.cursor())
            .bind(page.fetch())
            .fetch_all(&self.inner.readers)
            .await?;
        page.list(&rows, query::organization, |organization| organization.key.to_string())
    }

    /// The stored integrations that an organization may use, by slug: its own, and those of all.
    pub async fn integrations(
        &self,
        organization: OrganizationId,
        page: Page<'_>,
    ) -> Result<List<Integration>, DatabaseError> {
        let statement = "SELECT id, slug, document FROM integrations i WHERE slug > $2 AND (organization_id = $1 OR \
                         organization_id IS NULL AND NOT EXISTS (SELECT 1 FROM integrations own \
                         WHERE own.organization_id = $1 AND own.slug = i.slug)) ORDER BY slug LIMIT $3";
        self.integrations_by(statement, organization, page).await
    }

    /// Of these, those that are the organization's own.
    pub async fn own_integrations(
        &self,
        organization: OrganizationId,
        page: Page<'_>,
    ) -> Result<List<Integration>, DatabaseError> {
        let statement = "SELECT id, slug, document FROM integrations WHERE organization_id = $1 AND slug > $2 \
                         ORDER BY slug LIMIT $3";
        self.integrations_by(statement, organization, page).await
    }

    async fn integrations_by(
        &self,
        statement: &'static str,
        organization: OrganizationId,
        page: Page<'_>,
    ) -> Result<List<Integration>, DatabaseError> {
        self.inner.counters.read();
        let rows = sqlx::query(statement)
            .bind(organization.to_string())
            .bind(page.cursor())
            .bind(page.fetch())
            .fetch_all(&self.inner.readers)
            .await?;
        page.list(&rows, query::integration, |integration| integration.slug.to_string())
    }

    /// The connections of an organization, its own first, then by customer, each by key.
    pub async fn connections(
        &self,
        organization: OrganizationId,
        owner: Owner<'_>,
        page: Page<'_>,
    ) -> Result<List<Connection>, DatabaseError> {
        self.connections_like(organization, &Wanted { owner, ..Wanted::default() }, page).await
    }

    /// Those of the connections of an organization that are wanted, in the same order.
    pub async fn connections_like(
        &self,
        organization: OrganizationId,
        wanted: &Wanted<'_>,
        page: Page<'_>,
    ) -> Result<List<Connection>, DatabaseError> {
        self.inner.counters.read();
        let rows = connections_like(organization, wanted, &page).build().fetch_all(&self.inner.readers).await?;
        page.list(&rows, query::connection, |connection| {
            format!("{}/{}", query::customer_column(connection.customer.as_ref()), connection.key)
        })
    }

    /// The secrets of an organization, by key, each with the environments it has a value in.
    pub async fn secrets(
        &self,
        organization: OrganizationId,
        page: Page<'_>,
    ) -> Result<List<SecretSummary>, DatabaseError> {
        self.inner.counters.read();
        let rows = sqlx::query(
            "SELECT id, key, description, version FROM secrets WHERE organization_id = $1 AND key > $2 \
             ORDER BY key LIMIT $3",
        )
        .bind(organization.to_string())
        .bind(page.cursor())
        .bind(page.fetch())
        .fetch_all(&self.inner.readers)
        .await?;
        let mut list = page.list(&rows, secret, |secret| secret.key.to_string())?;
        for secret in &mut list.items {
            secret.environments = self.secret_environments(organization, &secret.key).await?;
            secret.used_by = self.secret_users(organization, &secret.key).await?;
        }
        Ok(list)
    }

    /// One secret without its values.
    pub async fn secret_summary(
        &self,
        organization: OrganizationId,
        key: &SecretKey,
    ) -> Result<Option<SecretSummary>, DatabaseError> {
        self.inner.counters.read();
        let row =
            sqlx::query("SELECT id, key, description, version FROM secrets WHERE organization_id = $1 AND key = $2")
                .bind(organization.to_string())
                .bind(key.as_str())
                .fetch_optional(&self.inner.readers)
                .await?;
        let Some(row) = row else { return Ok(None) };
        let environments = self.secret_environments(organization, key).await?;
        let used_by = self.secret_users(organization, key).await?;
        Ok(Some(SecretSummary { environments, used_by, ..secret(&row)? }))
    }

    async fn secret_users(
        &self,
        organization: OrganizationId,
        key: &SecretKey,
    ) -> Result<Vec<Connection>, DatabaseError> {
        let rows = sqlx::query(concat!(
            "SELECT ",
            connection_columns!(),
            " FROM connections c WHERE id IN (SELECT connection_id FROM credential_secrets \
             WHERE organization_id = $1 AND secret_key = $2) ORDER BY customer, key LIMIT 100"
        ))
        .bind(organization.to_string())
        .bind(key.as_str())
        .fetch_all(&self.inner.readers)
        .await?;
        rows.iter().map(query::connection).collect()
    }

    async fn secret_environments(
        &self,
        organization: OrganizationId,
        key: &SecretKey,
    ) -> Result<Vec<EnvironmentName>, DatabaseError> {
        let names: Vec<String> = sqlx::query_scalar(
            "SELECT e.name FROM secrets s JOIN secret_values v ON v.secret_id = s.id \
             JOIN environments e ON e.organization_id = v.organization_id AND e.name = v.environment \
             WHERE s.organization_id = $1 AND s.key = $2 ORDER BY e.position, e.name",
        )
        .bind(organization.to_string())
        .bind(key.as_str())
        .fetch_all(&self.inner.readers)
        .await?;
        names.iter().map(|name| query::parse(name, "secret", key)).collect()
    }

    /// Which fields of a connection's credentials are set, for each environment that has a credential. Opens nothing.
    pub async fn credential_fields(
        &self,
        organization: OrganizationId,
        connection: ConnectionId,
    ) -> Result<BTreeMap<EnvironmentName, Vec<FieldName>>, DatabaseError> {
        self.inner.counters.read();
        let rows: Vec<(String, String)> = sqlx::query_as(
            "SELECT environment, field FROM credentials WHERE organization_id = $1 AND connection_id = $2 \
             ORDER BY environment, field",
        )
        .bind(organization.to_string())
        .bind(connection.to_string())
        .fetch_all(&self.inner.readers)
        .await?;
        let mut fields: BTreeMap<EnvironmentName, Vec<FieldName>> = BTreeMap::new();
        for (environment, field) in &rows {
            let fields = fields.entry(query::parse(environment, "credential", connection)?).or_default();
            if field != BINDING {
                fields.push(query::parse(field, "credential", connection)?);
            }
        }
        Ok(fields)
    }
}

/// Selects a page of connections. Each condition stands there only where it says something, so that one of them has an
/// index in the order of the list.
fn connections_like(organization: OrganizationId, wanted: &Wanted<'_>, page: &Page<'_>) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new(concat!("SELECT ", connection_columns!(), " FROM "));
    // The list is walked in the narrowest of its orders; what else is wanted of a connection is looked at there.
    let (from, order) = match wanted {
        Wanted { label: Some(_), .. } => {
            ("connection_labels AS l CROSS JOIN connections AS c ON c.id = l.connection_id", "l.")
        }
        Wanted { integration: Some(_), .. } => ("connections AS c INDEXED BY connections_by_integration", "c."),
        Wanted { exposed: Some(_), .. } => ("connections AS c INDEXED BY connections_by_exposure", "c."),
        _ => ("connections AS c", "c."),
    };
    query.push(from).push(" WHERE ").push(order).push("organization_id = ").push_bind(organization.to_string());
    // Neither a customer nor a key has a slash.
    let (after_customer, after_key) = page.cursor().split_once('/').unwrap_or_default();
    query.push(format!(" AND ({order}customer, {order}key) > (")).push_bind(after_customer.to_owned());
    query.push(", ").push_bind(after_key.to_owned()).push(")");
    if let Some(label) = wanted.label {
        query.push(" AND l.label = ").push_bind(label.as_str().to_owned());
    }
    if let Some(integration) = wanted.integration {
        query.push(" AND c.integration = ").push_bind(integration.as_str().to_owned());
    }
    if let Some(exposed) = wanted.exposed {
        query.push(" AND c.exposed = ").push_bind(exposed);
    }
    match wanted.owner {
        Owner::Anyone => {}
        Owner::Organization => drop(query.push(format!(" AND {order}customer = ''"))),
        Owner::Customer(customer) => {
            query.push(format!(" AND {order}customer = ")).push_bind(customer.as_str().to_owned());
        }
    }
    if let Viewer::User(user) = wanted.viewer {
        query.push(" AND (c.visibility = 'organization' OR c.owner_id = ");
        query.push_bind(user.map(|user| user.to_string())).push(")");
    }
    query.push(format!(" ORDER BY {order}customer, {order}key LIMIT ")).push_bind(page.fetch());
    query
}

fn secret(row: &SqliteRow) -> Result<SecretSummary, DatabaseError> {
    let (id, key): (String, String) = (row.try_get("id")?, row.try_get("key")?);
    Ok(SecretSummary {
        id: query::parse(&id, "secret", &key)?,
        key: query::parse(&key, "secret", &key)?,
        description: row.try_get("description")?,
        environments: Vec::new(),
        used_by: Vec::new(),
        version: Version::stored(row.try_get("version")?),
    })
}
