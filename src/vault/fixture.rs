//! A vault in a folder of its own, for the tests of the vault.

use std::fs;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;

use secrecy::SecretString;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use sqlx::{ConnectOptions, Sqlite, SqliteConnection};
use tempfile::TempDir;

use super::Vault;
use super::audit::Author;
use super::change::{Change, Outcome, PutMode};
use super::database::{Database, Opened, Options};
use super::error::DatabaseError;
use super::key::MasterKeySource;
pub(super) use super::seal::plain;
use crate::model::connection::{Connection, Sharing};
use crate::model::credential::Credential;
use crate::model::id::{ConnectionId, IntegrationId, OrganizationId};
use crate::model::integration::Integration;
use crate::model::name::EnvironmentName;

/// A folder for a vault.
pub(super) struct Home(TempDir);

impl Home {
    pub(super) fn new() -> Self {
        Home(tempfile::tempdir().unwrap())
    }

    /// A copy of the folder as it is now: what a process killed now would leave.
    pub(super) fn killed(&self) -> Self {
        let copy = Home::new();
        for entry in fs::read_dir(self.path()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.file(entry.file_name().to_str().unwrap())).unwrap();
        }
        copy
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(super) fn vault(&self) -> PathBuf {
        self.file("sidekey.vault")
    }

    pub(super) fn options(&self) -> Options {
        let master_key = MasterKeySource::File { path: self.file("master.key"), any_mode: false };
        Options { path: self.vault(), master_key }
    }

    pub(super) async fn try_open(&self) -> Result<(Database, Opened), DatabaseError> {
        Database::open(self.options()).await
    }

    pub(super) async fn open(&self) -> Database {
        self.try_open().await.unwrap().0
    }

    /// Every file with its bytes, but for those that hold nothing: the lock and the index of the log.
    pub(super) fn contents(&self) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.to_str().unwrap().ends_with(".lock") && !path.to_str().unwrap().ends_with("-shm"))
            .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
            .collect();
        files.sort();
        files
    }

    /// The database as somebody else would open it, to damage it.
    pub(super) async fn raw(&self) -> SqliteConnection {
        SqliteConnectOptions::new().filename(self.vault()).foreign_keys(false).connect().await.unwrap()
    }

    pub(super) fn admin_key(&self) -> SecretString {
        SecretString::from(fs::read_to_string(self.file("admin.key")).unwrap().trim())
    }
}

/// Whoever changes something in a test.
pub(super) fn author() -> Author {
    Author::system("test")
}

pub(super) fn environment(name: &str) -> EnvironmentName {
    name.parse().unwrap()
}

pub(super) fn credential(fields: &[(&str, &str)]) -> Credential {
    Credential::new(fields.iter().map(|(name, value)| (name.parse().unwrap(), SecretString::from(*value))).collect())
}

pub(super) fn integration(slug: &str) -> Integration {
    let document = serde_json::json!({
        "slug": slug,
        "base_url": "https://api.example.test/v1",
        "auth": [{ "method": "token", "type": "bearer" }],
    });
    Integration::parse(&document, IntegrationId::generate()).unwrap()
}

pub(super) fn connection(organization: OrganizationId, key: &str) -> Connection {
    Connection {
        id: ConnectionId::generate(),
        organization,
        customer: None,
        key: key.parse().unwrap(),
        name: Some("A name".to_owned()),
        integration: "example".parse().unwrap(),
        auth: None,
        values: [("region".parse().unwrap(), "eu".to_owned())].into(),
        limit: None,
        sharing: Sharing::default(),
    }
}

/// What the tests do most often.
impl Database {
    pub(super) async fn default_organization(&self) -> OrganizationId {
        self.organization("default").await.unwrap().unwrap().id
    }

    pub(super) async fn put(&self, change: Change) -> Outcome {
        self.commit(&author(), change).await.unwrap()
    }

    pub(super) async fn put_connection(&self, organization: OrganizationId, key: &str) -> ConnectionId {
        let connection = Box::new(connection(organization, key));
        let outcome = self.put(Change::PutConnection { connection, mode: PutMode::Create }).await;
        outcome.connection.unwrap()
    }

    /// Stores a credential with one field `token`.
    pub(super) async fn put_token(
        &self,
        organization: OrganizationId,
        connection: ConnectionId,
        env: &str,
        token: &str,
    ) {
        let change = Change::PutCredential {
            organization,
            connection,
            environment: environment(env),
            credential: credential(&[("token", token)]),
            origins: vec!["https://api.example.test".to_owned()],
            expires_at: None,
        };
        self.put(change).await;
    }

    /// Reads the field `token` of a credential.
    pub(super) async fn token(
        &self,
        organization: OrganizationId,
        connection: ConnectionId,
        env: &str,
    ) -> Result<Option<String>, DatabaseError> {
        let stored = self.credential(organization, connection, &environment(env)).await?;
        Ok(stored.map(|stored| plain(&stored.credential.fields()["token"]).to_owned()))
    }

    pub(super) async fn put_secret(&self, organization: OrganizationId, key: &str, env: &str, value: &str) {
        let key: crate::model::name::SecretKey = key.parse().unwrap();
        let description = None;
        self.put(Change::PutSecret { organization, key: key.clone(), description, mode: PutMode::Replace }).await;
        let (environment, value) = (environment(env), SecretString::from(value));
        self.put(Change::PutSecretValue { organization, key, environment, value }).await;
    }
}

/// A vault whose reads stand still where the next one would begin. Dropping this lets them all go on.
pub(crate) struct Paused {
    readers: SqlitePool,
    held: Vec<PoolConnection<Sqlite>>,
}

impl Vault {
    /// Takes all that reads.
    pub(crate) async fn pause_reads(&self) -> Paused {
        let readers = self.database().unwrap().inner.readers.clone();
        let mut held = Vec::new();
        for _ in 0..readers.options().get_max_connections() {
            held.push(readers.acquire().await.unwrap());
        }
        Paused { readers, held }
    }

    /// How many reads have begun, those with them that stand still.
    pub(crate) fn reads_begun(&self) -> u64 {
        self.database().unwrap().counters().reads.load(Ordering::Relaxed)
    }
}

impl Paused {
    /// Lets the read through that has waited for longest, to its end.
    pub(crate) async fn let_one_through(&mut self) {
        let mut next = pin!(self.readers.acquire());
        // Whoever waits longer is served first, so what is freed comes back here when that read is done with it.
        assert!(poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx).is_pending())).await);
        drop(self.held.pop());
        self.held.push(next.await.unwrap());
    }
}
