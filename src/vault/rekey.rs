//! A new master key: every data key is wrapped anew, no value is touched.
//!
//! The new key is on disk before the vault needs it, and the old one is there until the vault does not: a process
//! killed after any `Step` leaves a vault that opens, with the old key before `Step::Wrap` and with the new one
//! after it. Where the key is in a file, the new one waits beside it and opening the vault puts it in its place.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sqlx::{Connection, SqliteConnection};

use super::audit::chain::{Keys, Told, record};
use super::audit::{Author, Chain};
use super::checkpoint;
use super::database::{Database, Inner, Options};
use super::durable;
use super::error::{Cause, DatabaseError};
use super::key::{KeyId, MasterKey, MasterKeySource};
use super::query;
use super::schema;
use super::seal::Sealed;

/// Where the new master key goes.
#[derive(Clone, Debug)]
pub enum NewKey {
    /// In the place of the old one: only where that is in a file.
    Replace,
    /// In this new file, from which whoever runs the vault takes it to where the old one is. The vault wants the new
    /// key as soon as this is done.
    Write(PathBuf),
}

/// What a rekey has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rekeyed {
    /// The key that opens the vault no more.
    pub from: KeyId,
    /// The key that does.
    pub to: KeyId,
    /// Where the new key is.
    pub path: PathBuf,
    /// How many data keys were wrapped anew.
    pub data_keys: u64,
    /// How many were damaged before, and were left as they are.
    pub damaged: u64,
}

impl fmt::Display for Rekeyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rekeyed { from, to, path, data_keys, damaged } = self;
        write!(f, "{data_keys} data keys are now wrapped by the master key {to}, which is in {}; ", path.display())?;
        write!(f, "the key {from} opens only backups made before")?;
        if *damaged > 0 {
            write!(f, "; {damaged} data keys were damaged before and are left as they are")?;
        }
        Ok(())
    }
}

impl Database {
    /// Makes a new master key for this open vault. Reads go on meanwhile, changes wait. Dropping the returned future
    /// does not stop what was begun.
    pub async fn rekey(&self, author: &Author, new: NewKey) -> Result<Rekeyed, DatabaseError> {
        let (inner, author) = (self.inner.clone(), author.clone());
        let task = self.inner.runtime.spawn(async move {
            // Two at once would take each other's new key away.
            let _alone = inner.rekeying.lock().await;
            let mut rekey = Rekey::new(&inner, author, new)?;
            for step in Step::ALL {
                rekey.perform(step).await.map_err(|error| inner.note(error))?;
            }
            rekey.done()
        });
        task.await.unwrap_or(Err(DatabaseError::Unavailable(Cause::Closed)))
    }
}

/// Makes a new master key for a vault that no server has open.
pub async fn rekey(options: Options, author: &Author, new: NewKey) -> Result<Rekeyed, DatabaseError> {
    let (database, _) = Database::open_existing(options).await?;
    let rekeyed = database.rekey(author, new).await;
    database.close().await;
    rekeyed
}

/// What is done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Makes the new key and writes it to its own file.
    WriteKey,
    /// Wraps every data key anew, in one transaction.
    Wrap,
    /// Moves the new key over the old one, where it is to replace it.
    Replace,
    /// Clears the old wraps out of the log.
    Checkpoint,
}

impl Step {
    pub(super) const ALL: [Step; 4] = [Step::WriteKey, Step::Wrap, Step::Replace, Step::Checkpoint];
}

/// A rekey under way.
pub(super) struct Rekey<'a> {
    inner: &'a Inner,
    author: Author,
    /// Where the new key is written.
    written: PathBuf,
    /// Where it goes in the end.
    path: PathBuf,
    old: Arc<MasterKey>,
    new: Option<Arc<MasterKey>>,
    data_keys: u64,
    damaged: u64,
}

impl<'a> Rekey<'a> {
    pub(super) fn new(inner: &'a Inner, author: Author, new: NewKey) -> Result<Self, DatabaseError> {
        let (written, path) = match new {
            NewKey::Write(path) => (path.clone(), path),
            NewKey::Replace => {
                let missing = "the master key is not in a file: say to which new file the new key is to be written";
                let path = inner.key_file.clone().ok_or_else(|| DatabaseError::Conflict(missing.to_owned()))?;
                (durable::beside(&path, ".new"), path)
            }
        };
        Ok(Rekey { inner, author, written, path, old: inner.masters.current(), new: None, data_keys: 0, damaged: 0 })
    }

    /// Does one step. Each needs those before it.
    pub(super) async fn perform(&mut self, step: Step) -> Result<(), DatabaseError> {
        match step {
            Step::WriteKey => self.write_key(),
            Step::Wrap => self.wrap().await,
            Step::Checkpoint => checkpoint::empty_log(&mut *self.inner.writer.acquire().await?).await,
            Step::Replace if self.written == self.path => Ok(()),
            Step::Replace => durable::rename(&self.written, &self.path),
        }
    }

    fn done(self) -> Result<Rekeyed, DatabaseError> {
        let Rekey { old, new, path, data_keys, damaged, .. } = self;
        let new = new.ok_or(DatabaseError::NotFound("master key"))?;
        Ok(Rekeyed { from: old.id().clone(), to: new.id().clone(), path, data_keys, damaged })
    }

    fn write_key(&mut self) -> Result<(), DatabaseError> {
        if self.written != self.path {
            let waiting = MasterKeySource::File { path: self.written.clone(), any_mode: true };
            match waiting.read() {
                // The step that should have put it in its place has failed: it is the only copy.
                Ok(Some(waiting)) if waiting.id() == self.old.id() => durable::rename(&self.written, &self.path)?,
                // Left by a rekey that did not come to its transaction: nothing was ever wrapped with that one.
                _ => durable::remove(&self.written)?,
            }
        }
        let key = MasterKey::generate()?;
        key.write_new(&self.written)?;
        self.new = Some(Arc::new(key));
        Ok(())
    }

    async fn wrap(&mut self) -> Result<(), DatabaseError> {
        let Some(new) = self.new.clone() else { return Err(DatabaseError::NotFound("master key")) };
        self.inner.check_writable()?;
        // Known before any row names it, so that a read between the commit and its acknowledgement finds it.
        self.inner.masters.set([self.old.clone(), new.clone()].into());
        // Held until it is settled which key is the current one: a change in between could wrap a new data key with
        // the old one.
        let mut writer = self.inner.writer.acquire().await?;
        let wrapped = self.wrap_all(&mut writer, &new).await;
        if let Err(error) = &wrapped {
            schema::settle(&mut writer, error).await;
        }
        // Asked and not assumed: after a failed commit either key may be the one.
        match schema::wanted_key(&mut writer, &self.inner.path).await {
            Ok(wanted) if wanted == *new.id() => self.inner.masters.set([new].into()),
            Ok(_) => self.inner.masters.set([self.old.clone()].into()),
            Err(_) => self.inner.unconfirmed.store(true, Ordering::Release),
        }
        wrapped
    }

    async fn wrap_all(&mut self, writer: &mut SqliteConnection, new: &MasterKey) -> Result<(), DatabaseError> {
        let counters = &self.inner.counters;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
        let rows = sqlx::query("SELECT id, organization_id, purpose, master_key_id, nonce, ciphertext FROM data_keys")
            .fetch_all(&mut *transaction)
            .await?;
        for row in &rows {
            let Some(key) = query::wrapped_key(row).ok().and_then(|wrapped| self.old.unwrap(&wrapped, counters)) else {
                // What it sealed was lost before; that must not keep the others under an old key.
                self.damaged += 1;
                continue;
            };
            let Sealed { key_id, nonce, ciphertext } = new.wrap(&key, counters)?;
            sqlx::query("UPDATE data_keys SET master_key_id = $2, nonce = $3, ciphertext = $4 WHERE id = $1")
                .bind(&key.id)
                .bind(key_id)
                .bind(nonce)
                .bind(ciphertext)
                .execute(&mut *transaction)
                .await?;
            self.data_keys += 1;
        }
        sqlx::query("UPDATE meta SET value = $1 WHERE name = 'master_key'")
            .bind(new.id().as_str())
            .execute(&mut *transaction)
            .await?;
        let detail = serde_json::json!({ "from": self.old.id().as_str(), "to": new.id().as_str() });
        // A key that is made now must open with the new master key.
        let keys = Keys { current: new, masters: &[], counters };
        let told = Told { action: "vault.rekey", object: new.id().as_str(), detail: &detail };
        record(&mut transaction, &keys, Chain::Vault, &self.author, told).await?;
        Ok(transaction.commit().await?)
    }
}

#[cfg(test)]
mod tests;
