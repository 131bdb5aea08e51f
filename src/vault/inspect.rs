//! A look at a vault from outside: for `check`, beside a running server, without a lock and without a change.

use sqlx::{Connection as _, Row, SqliteConnection};

use super::database::{self, Options};
use super::error::DatabaseError;
use super::key::{KeyId, MasterKey};
use super::query;
use super::schema;
use super::seal::Counters;
use crate::model::connection::Connection;
use crate::model::integration::{Integration, Values};

/// What was found.
#[derive(Debug)]
pub struct Inspection {
    /// The vault; `None` where there is none, and none can be damaged.
    pub vault: Option<VaultState>,
    /// The id of the master key; `None` where it is to be in a file that is not there.
    pub key: Result<Option<KeyId>, DatabaseError>,
}

/// What a vault holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultState {
    /// The master key it was sealed with.
    pub wants: KeyId,
    /// Whether the engine finds its file whole.
    pub sound: bool,
    /// Data keys that the given master key should open and does not; empty where it is not the right one.
    pub damaged_data_keys: Vec<String>,
    /// How many there are.
    pub organizations: u64,
    /// How many there are.
    pub integrations: u64,
    /// How many there are.
    pub connections: u64,
    /// How many there are, counted for each environment.
    pub credentials: u64,
    /// How many there are.
    pub secrets: u64,
}

impl Inspection {
    /// Whether the vault would open: it is there and the key given is the one it wants.
    pub fn opens(&self) -> bool {
        match (&self.vault, &self.key) {
            (Some(vault), Ok(Some(key))) => vault.wants == *key,
            _ => false,
        }
    }
}

/// Looks at a vault and its master key. A file that is no vault is an error; a wrong key is not.
pub async fn inspect(options: &Options) -> Result<Inspection, DatabaseError> {
    let master = options.master_key.read();
    let vault = if options.path.symlink_metadata().is_ok() {
        let path = database::resolved(&options.path)?;
        let mut connection = schema::look(&path).await?;
        let wants = schema::wanted_key(&mut connection, &path).await?;
        let key = master.as_ref().ok().and_then(Option::as_ref).filter(|master| *master.id() == wants);
        let state = count(&mut connection, wants, key).await.map_err(|error| match error {
            Counting::Engine(error) => DatabaseError::opening(&path)(error),
            Counting::Vault(error) => error,
        })?;
        connection.close().await?;
        Some(state)
    } else {
        None
    };
    Ok(Inspection { vault, key: master.map(|master| master.map(|master| master.id().clone())) })
}

/// A stored connection, and what else of the vault says where it leads.
#[derive(Debug)]
pub struct StoredConnection {
    /// The connection.
    pub connection: Connection,
    /// The integration it names, where that is stored too.
    pub integration: Option<Integration>,
    /// What its organization has filled in for all connections of that integration.
    pub filled: Values,
}

/// The connections that are stored. Takes no lock.
pub async fn connections(options: &Options) -> Result<Vec<StoredConnection>, DatabaseError> {
    let path = database::resolved(&options.path)?;
    let mut engine = schema::look(&path).await?;
    let rows = sqlx::query(
        "SELECT id, organization_id, customer, key, name, integration, auth, values_json, limit_json, visibility, \
         labels_json, owner_id, exposed FROM connections ORDER BY key",
    )
    .fetch_all(&mut engine)
    .await?;
    let mut found = Vec::new();
    for row in &rows {
        let connection = query::connection(row)?;
        let stored = sqlx::query(
            "SELECT id, slug, document FROM integrations \
                 WHERE slug = $2 AND (organization_id = $1 OR organization_id IS NULL) \
                 ORDER BY organization_id IS NULL LIMIT 1",
        )
        .bind(connection.organization.to_string())
        .bind(connection.integration.as_str())
        .fetch_optional(&mut engine)
        .await?;
        let integration = stored.as_ref().map(query::integration).transpose()?;
        let filled: Option<String> =
            sqlx::query_scalar("SELECT values_json FROM integration_values WHERE organization_id = $1 AND slug = $2")
                .bind(connection.organization.to_string())
                .bind(connection.integration.as_str())
                .fetch_optional(&mut engine)
                .await?;
        let filled = filled.and_then(|filled| query::read_values(&filled)).unwrap_or_default();
        found.push(StoredConnection { connection, integration, filled });
    }
    engine.close().await?;
    Ok(found)
}

/// Errors of the engine are still to be told from a damaged file.
enum Counting {
    Engine(sqlx::Error),
    Vault(DatabaseError),
}

impl From<sqlx::Error> for Counting {
    fn from(error: sqlx::Error) -> Self {
        Counting::Engine(error)
    }
}

async fn count(
    connection: &mut SqliteConnection,
    wants: KeyId,
    key: Option<&MasterKey>,
) -> Result<VaultState, Counting> {
    let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut *connection).await?;
    let mut damaged_data_keys = Vec::new();
    if let Some(key) = key {
        let rows = sqlx::query("SELECT id, organization_id, purpose, master_key_id, nonce, ciphertext FROM data_keys")
            .fetch_all(&mut *connection)
            .await?;
        let counters = Counters::default();
        for row in &rows {
            let wrapped = query::wrapped_key(row).map_err(Counting::Vault)?;
            if key.unwrap(&wrapped, &counters).is_none() {
                damaged_data_keys.push(wrapped.id);
            }
        }
    }
    let row = sqlx::query(
        "SELECT (SELECT COUNT(*) FROM organizations) AS organizations, \
         (SELECT COUNT(*) FROM integrations) AS integrations, (SELECT COUNT(*) FROM connections) AS connections, \
         (SELECT COUNT(*) FROM credentials WHERE field = $1) AS credentials, (SELECT COUNT(*) FROM secrets) AS secrets",
    )
    .bind(query::BINDING)
    .fetch_one(connection)
    .await?;
    let number = |column: &str| row.try_get::<i64, _>(column).map(i64::unsigned_abs);
    Ok(VaultState {
        wants,
        sound: verdict == "ok",
        damaged_data_keys,
        organizations: number("organizations")?,
        integrations: number("integrations")?,
        connections: number("connections")?,
        credentials: number("credentials")?,
        secrets: number("secrets")?,
    })
}
