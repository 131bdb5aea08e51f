//! The open vault: one file, one writer, a few readers, and the master keys that open it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use sqlx::Connection;
use sqlx::sqlite::SqlitePool;
use tokio::runtime::Handle;

use super::audit::{MOST_WAITING, chain};
use super::checkpoint::Checkpoints;
use super::create::{Creation, Files, Step};
use super::durable;
use super::error::{Cause, DatabaseError};
use super::key::{DataKey, KeyId, MasterKey, MasterKeySource, WrappedKey};
use super::lock::Lock;
use super::schema;
pub use super::seal::Counters;
use crate::model::moment::Moment;

/// Which vault, and where its master key is.
#[derive(Debug)]
pub struct Options {
    /// The file. Its folder is made where it is not there.
    pub path: PathBuf,
    /// The key that opens it.
    pub master_key: MasterKeySource,
}

/// What opening has done beside opening.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The vault was made.
    pub created: bool,
    /// The admin key was written to this file.
    pub admin_key_path: Option<PathBuf>,
    /// The master key was made and written to this file.
    pub master_key_path: Option<PathBuf>,
    /// A change of the master key that was interrupted was brought to its end.
    pub finished_rekey: bool,
}

/// An open vault. Clones share it.
#[derive(Clone)]
pub struct Database {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub path: PathBuf,
    pub writer: SqlitePool,
    pub readers: SqlitePool,
    pub masters: Masters,
    /// The file of the master key, where it is in one.
    pub key_file: Option<PathBuf>,
    pub counters: Arc<Counters>,
    /// Where commits run, so that they end although whoever asked for them, and their runtime, may be gone.
    pub runtime: Handle,
    /// Set when the disk did not confirm a write: what is on it is not known until it is read back.
    pub unconfirmed: AtomicBool,
    /// A place for each event that waits to be recorded.
    pub notices: Arc<tokio::sync::Semaphore>,
    /// Held by whoever changes the master key.
    pub rekeying: tokio::sync::Mutex<()>,
    checkpoints: Mutex<Option<Checkpoints>>,
    lock: Mutex<Option<Lock>>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Database {
    /// Opens the vault; makes it, and its master key where that is to be in a file, when nothing of either is there.
    /// Commits run on the runtime this is called on.
    ///
    /// A wrong key, a missing key, a damaged file and a vault in use are errors, and change nothing.
    pub async fn open(options: Options) -> Result<(Database, Opened), DatabaseError> {
        durable::make_folder(&options.path)?;
        Self::open_at(resolved(&options.path)?, options, Missing::Create).await
    }

    /// As [`open`](Self::open), but a vault that is not there is an error.
    pub async fn open_existing(options: Options) -> Result<(Database, Opened), DatabaseError> {
        Self::open_at(resolved(&options.path)?, options, Missing::Refuse).await
    }

    async fn open_at(path: PathBuf, options: Options, missing: Missing) -> Result<(Database, Opened), DatabaseError> {
        let files = Files::of(&path);
        if missing == Missing::Refuse && path.symlink_metadata().is_err() {
            return Err(DatabaseError::NotFound("vault"));
        }
        let lock = Lock::take(&path)?;
        let mut opened = Opened::default();
        // Looked at under the lock: whoever held it until now may just have made the vault.
        if path.symlink_metadata().is_err() {
            files.check_untouched()?;
            let mut creation = Creation::new(&options, &files);
            for step in Step::ALL {
                creation.perform(step).await?;
            }
            opened.created = true;
            opened.admin_key_path = Some(files.admin_key.clone());
            opened.master_key_path = options.master_key.file().filter(|_| creation.made_master_key).map(Path::to_owned);
        }
        let master = unlock(&path, &options.master_key, &mut opened).await?;
        for suffix in ["", "-wal", "-shm"] {
            let file = durable::beside(&path, suffix);
            durable::make_private(&file).map_err(DatabaseError::file("make private", &file))?;
        }
        let schema::Pools { writer, readers, checkpointer } = schema::open(&path).await?;
        let database = Database {
            inner: Arc::new(Inner {
                path,
                writer,
                readers,
                masters: Masters::new(master),
                key_file: options.master_key.file().map(Path::to_owned),
                counters: Arc::default(),
                runtime: Handle::current(),
                unconfirmed: AtomicBool::new(false),
                notices: Arc::new(tokio::sync::Semaphore::new(MOST_WAITING)),
                rekeying: tokio::sync::Mutex::default(),
                checkpoints: Mutex::default(),
                lock: Mutex::new(Some(lock)),
            }),
        };
        let checkpoints = Checkpoints::begin(&database.inner, checkpointer);
        *database.inner.checkpoints.lock().unwrap_or_else(PoisonError::into_inner) = Some(checkpoints);
        chain::begin_chains(&database.inner).await?;
        database.finish_creation(&files, &mut opened).await?;
        Ok((database, opened))
    }

    /// Gives the admin key its name, where a creation was killed between publishing the vault and that.
    async fn finish_creation(&self, files: &Files, opened: &mut Opened) -> Result<(), DatabaseError> {
        let Some(pending) = files.pending_admin_key() else { return Ok(()) };
        // One that does not open this vault belongs to something else and is left alone.
        if self.authenticate(&pending, Moment::now()).await?.is_some() {
            files.publish_admin_key()?;
            opened.admin_key_path = Some(files.admin_key.clone());
        }
        Ok(())
    }

    /// How often the database and the cipher were used.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.inner.counters
    }

    /// Where the vault is.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The id of the master key in use.
    pub fn master_key_id(&self) -> KeyId {
        self.inner.masters.current().id().clone()
    }

    /// Whether the vault can be read now.
    pub async fn ready(&self) -> Result<(), DatabaseError> {
        sqlx::query("SELECT 1 FROM meta").execute(&self.inner.readers).await?;
        Ok(())
    }

    /// Waits for what is under way, writes the log into the file and lets go of both. Clones are of no use after it.
    pub async fn close(self) {
        // The writer goes last: the last connection clears the log, and a reader may not.
        let checkpoints = self.inner.checkpoints.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(checkpoints) = checkpoints {
            checkpoints.end().await;
        }
        self.inner.readers.close().await;
        self.inner.writer.close().await;
        self.inner.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Refuse,
}

/// The vault's path without symbolic links, so that two names of it share one lock.
pub(super) fn resolved(path: &Path) -> Result<PathBuf, DatabaseError> {
    if path.to_str().is_none() {
        let problem = "does not have a name in UTF-8, which the database needs";
        return Err(DatabaseError::Damaged { path: path.to_owned(), problem });
    }
    if let Ok(resolved) = path.canonicalize() {
        return Ok(resolved);
    }
    let folder = durable::folder(path);
    let name = path.file_name().ok_or(DatabaseError::NotFound("file name in the path of the vault"))?;
    Ok(folder.canonicalize().map_err(DatabaseError::file("find the folder", folder))?.join(name))
}

/// Finds the key that a vault wants, before anything is written. Ends a rekey that was killed after its transaction.
async fn unlock(path: &Path, source: &MasterKeySource, opened: &mut Opened) -> Result<MasterKey, DatabaseError> {
    let mut connection = schema::look(path).await?;
    let wants = schema::wanted_key(&mut connection, path).await?;
    connection.close().await?;
    let given = source.read()?;
    if given.as_ref().is_some_and(|given| *given.id() == wants) {
        return given.ok_or(DatabaseError::NotFound("master key"));
    }
    if let Some((next, new, file)) = next_key(source)?
        && *next.id() == wants
    {
        durable::rename(&new, &file)?;
        opened.finished_rekey = true;
        return Ok(next);
    }
    Err(match (given, source.file()) {
        (Some(given), _) => DatabaseError::WrongKey { path: path.to_owned(), wants, given: given.id().clone() },
        (None, Some(key)) => DatabaseError::KeyMissing { vault: path.to_owned(), key: key.to_owned() },
        (None, None) => DatabaseError::NotFound("master key"),
    })
}

/// The key that a rekey has written and not yet put in its place, its file, and that place.
fn next_key(source: &MasterKeySource) -> Result<Option<(MasterKey, PathBuf, PathBuf)>, DatabaseError> {
    let MasterKeySource::File { path, any_mode } = source else { return Ok(None) };
    let new = durable::beside(path, ".new");
    let next = MasterKeySource::File { path: new.clone(), any_mode: *any_mode }.read()?;
    Ok(next.map(|next| (next, new, path.clone())))
}

/// The master keys in use: one, or the old and the new while a rekey is under way.
pub(super) struct Masters(RwLock<Arc<[Arc<MasterKey>]>>);

impl Masters {
    fn new(master: MasterKey) -> Self {
        Masters(RwLock::new([Arc::new(master)].into()))
    }

    /// All of them. Take this before a row is read: the key that the row names may have been retired after.
    pub(super) fn all(&self) -> Arc<[Arc<MasterKey>]> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The one that wraps new data keys.
    pub(super) fn current(&self) -> Arc<MasterKey> {
        self.all()[0].clone()
    }

    pub(super) fn set(&self, masters: Arc<[Arc<MasterKey>]>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = masters;
    }
}

impl Inner {
    /// Opens a data key that was read while `masters` were known.
    pub(super) fn unwrap(&self, masters: &[Arc<MasterKey>], wrapped: &WrappedKey) -> Result<DataKey, DatabaseError> {
        let named = |master: &&Arc<MasterKey>| master.id().as_str() == wrapped.sealed.key_id;
        let master = masters.iter().find(named).cloned().or_else(|| self.masters.all().iter().find(named).cloned());
        let corrupt = || DatabaseError::Corrupt { what: "data key", id: wrapped.id.clone() };
        master.and_then(|master| master.unwrap(wrapped, &self.counters)).ok_or_else(corrupt)
    }

    /// Refuses to write where it is not known what is on disk.
    pub(super) fn check_writable(&self) -> Result<(), DatabaseError> {
        if self.unconfirmed.load(Ordering::Acquire) {
            return Err(DatabaseError::Unavailable(Cause::NotDurable));
        }
        Ok(())
    }

    /// Notes an error that forbids further writes.
    pub(super) fn note(&self, error: DatabaseError) -> DatabaseError {
        if matches!(error, DatabaseError::Unavailable(Cause::NotDurable)) {
            self.unconfirmed.store(true, Ordering::Release);
        }
        error
    }
}

#[cfg(test)]
mod tests;
