//! The first start: from nothing to a vault with one organization and one admin key.
//!
//! Each [`Step`] is durable before the next begins, so that a process killed anywhere leaves a state that the next
//! start handles: before [`Step::PublishVault`] there is no vault, and the next start clears what was begun and begins
//! anew; after it there is a whole vault whose admin key is on disk, and the next start only gives that file its name.

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use sqlx::{Connection, SqliteConnection};
use zeroize::Zeroizing;

use super::api_key::PlainKey;
use super::audit::chain::{Keys, Told, record};
use super::audit::{Author, Chain};
use super::change::{self, DEFAULT_ENVIRONMENTS};
use super::database::Options;
use super::durable;
use super::error::DatabaseError;
use super::key::{DataKey, MasterKey};
use super::schema;
use super::seal::{Counters, Purpose};
use crate::model::id::OrganizationId;

/// The files of a vault.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// The vault.
    pub vault: PathBuf,
    /// A vault that is being made.
    building: PathBuf,
    /// The admin key of a vault that is there.
    pub admin_key: PathBuf,
    /// The admin key of a vault that is being made.
    pending_admin_key: PathBuf,
}

impl Files {
    pub(super) fn of(vault: &Path) -> Self {
        let admin_key = durable::folder(vault).join("admin.key");
        Files {
            vault: vault.to_owned(),
            building: durable::beside(vault, ".new"),
            pending_admin_key: durable::beside(&admin_key, ".new"),
            admin_key,
        }
    }

    /// Refuses to begin with an empty vault where something says that there was one.
    pub(super) fn check_untouched(&self) -> Result<(), DatabaseError> {
        let log = durable::beside(&self.vault, "-wal");
        for found in [&self.admin_key, &log] {
            if found.symlink_metadata().is_ok() {
                return Err(DatabaseError::VaultMissing { found: found.clone(), vault: self.vault.clone() });
            }
        }
        Ok(())
    }

    fn clear(&self) -> Result<(), DatabaseError> {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            durable::remove(&durable::beside(&self.building, suffix))?;
        }
        durable::remove(&self.pending_admin_key)
    }

    /// The admin key that was written before the vault was published, where its name was not given yet.
    pub(super) fn pending_admin_key(&self) -> Option<SecretString> {
        if self.admin_key.symlink_metadata().is_ok() {
            return None;
        }
        let text = std::fs::read_to_string(&self.pending_admin_key).map(Zeroizing::new).ok()?;
        Some(SecretString::from(text.trim_ascii()))
    }

    /// Gives the admin key its name.
    pub(super) fn publish_admin_key(&self) -> Result<(), DatabaseError> {
        durable::rename(&self.pending_admin_key, &self.admin_key)
    }
}

/// What is done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Removes what a creation that was killed has left.
    Clear,
    /// Makes the master key, where it is to be in a file that is not there.
    MasterKey,
    /// Writes the admin key under a name that says it is of no use yet.
    AdminKey,
    /// Makes the vault under another name.
    Build,
    /// Gives the vault its name.
    PublishVault,
    /// Gives the admin key its name.
    PublishAdminKey,
}

impl Step {
    pub(super) const ALL: [Step; 6] =
        [Step::Clear, Step::MasterKey, Step::AdminKey, Step::Build, Step::PublishVault, Step::PublishAdminKey];
}

/// A vault in the making.
pub(super) struct Creation<'a> {
    options: &'a Options,
    files: &'a Files,
    /// Whether the master key was made too.
    pub made_master_key: bool,
    master: Option<MasterKey>,
    admin: Option<PlainKey>,
}

impl<'a> Creation<'a> {
    pub(super) fn new(options: &'a Options, files: &'a Files) -> Self {
        Creation { options, files, made_master_key: false, master: None, admin: None }
    }

    /// Does one step. Each needs those before it.
    pub(super) async fn perform(&mut self, step: Step) -> Result<(), DatabaseError> {
        match step {
            Step::Clear => self.files.clear(),
            Step::MasterKey => self.find_master_key(),
            Step::AdminKey => self.write_admin_key(),
            Step::Build => self.build().await,
            Step::PublishVault => durable::rename(&self.files.building, &self.files.vault),
            Step::PublishAdminKey => self.files.publish_admin_key(),
        }
    }

    fn find_master_key(&mut self) -> Result<(), DatabaseError> {
        let source = &self.options.master_key;
        self.master = source.read()?;
        if let (None, Some(path)) = (&self.master, source.file()) {
            durable::make_folder(path)?;
            let key = MasterKey::generate()?;
            key.write_new(path)?;
            self.made_master_key = true;
            self.master = Some(key);
        }
        Ok(())
    }

    fn write_admin_key(&mut self) -> Result<(), DatabaseError> {
        let admin = PlainKey::generate()?;
        durable::write_new(&self.files.pending_admin_key, &admin.line())?;
        self.admin = Some(admin);
        Ok(())
    }

    async fn build(&mut self) -> Result<(), DatabaseError> {
        let path = &self.files.building;
        durable::open_private(path).map_err(DatabaseError::file("make", path))?;
        let mut connection = schema::create(path).await?;
        self.fill(&mut connection).await?;
        connection.close().await?;
        // The last connection has moved the log into the file; were that not so, the file alone would not be whole.
        if durable::beside(path, "-wal").exists() {
            return Err(DatabaseError::Damaged { path: path.clone(), problem: "could not be completed" });
        }
        let synced = durable::open_private(path).and_then(|file| file.sync_all());
        synced.map_err(DatabaseError::file("sync", path))
    }

    async fn fill(&self, connection: &mut SqliteConnection) -> Result<(), DatabaseError> {
        let (Some(master), Some(admin)) = (&self.master, &self.admin) else {
            return Err(DatabaseError::NotFound("master key"));
        };
        let counters = Counters::default();
        let mut transaction = connection.begin().await?;
        sqlx::query("INSERT INTO meta (name, value) VALUES ('master_key', $1)")
            .bind(master.id().as_str())
            .execute(&mut *transaction)
            .await?;
        let digest_key = DataKey::generate(None, Purpose::Digest)?;
        change::insert_data_key(&mut transaction, master, &digest_key, &counters).await?;
        let organization = OrganizationId::generate();
        change::insert_organization(&mut transaction, organization, "default", "Default", &DEFAULT_ENVIRONMENTS)
            .await?;
        let data_key = DataKey::generate(Some(organization), Purpose::Values)?;
        change::insert_data_key(&mut transaction, master, &data_key, &counters).await?;
        sqlx::query(
            "INSERT INTO api_keys (id, organization_id, name, digest, roles_json, created_at) \
             VALUES ($1, $2, 'admin', $3, '[\"super_admin\"]', $4)",
        )
        .bind(admin.id.to_string())
        .bind(organization.to_string())
        .bind(digest_key.digest(admin.text()).as_slice())
        .bind(schema::now())
        .execute(&mut *transaction)
        .await?;
        let author = Author::system("sidekey");
        let keys = Keys { current: master, masters: &[], counters: &counters };
        let told = Told { action: "vault.create", object: &admin.id.to_string(), detail: &serde_json::json!({}) };
        record(&mut transaction, &keys, Chain::Organization(organization), &author, told).await?;
        Ok(transaction.commit().await?)
    }
}

#[cfg(test)]
mod tests;
