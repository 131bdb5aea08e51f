//! What can go wrong with the vault, said so that a person can act on it.
//!
//! No message holds an SQL text, a text of the database engine, or a secret: the engine's errors are read for their
//! code and become one of the causes below.

use std::io;
use std::path::{Path, PathBuf};

use super::change::Attempt;
use super::key::{KeyId, KeyProblem};

/// Why the vault did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The thing is not there, or belongs to somebody else.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// Something of that name is there already.
    #[error("{0}")]
    Conflict(String),
    /// It is not as the change expected it to be: somebody else has changed it.
    #[error("it was changed by somebody else meanwhile; read it again and decide anew")]
    Overtaken(Attempt),
    /// What was judged before may not be so any more: it was changed since.
    #[error("it is being changed by others; try again")]
    Outdated,
    /// Other things still depend on it.
    #[error("{0}")]
    InUse(String),
    /// It was there and is of no use any more.
    #[error("{0}")]
    Gone(&'static str),
    /// Whoever asks may not do this to that.
    #[error("{0}")]
    NotPermitted(&'static str),
    /// One stored row does not open or cannot be read; the others are not affected.
    #[error("the stored {what} {id} was damaged or moved outside of sidekey and cannot be used; enter it again")]
    Corrupt {
        /// What kind of row.
        what: &'static str,
        /// Which one.
        id: String,
    },
    /// Another process has the vault open.
    #[error("the vault {} is in use by another sidekey; stop that one first", .0.display())]
    Locked(PathBuf),
    /// The master key is a key, but not this vault's.
    #[error(
        "the vault {} was sealed with the master key {wants}, but the key given is {given}; \
         give the right key (nothing was changed)",
        path.display()
    )]
    WrongKey {
        /// The vault.
        path: PathBuf,
        /// The key it was sealed with.
        wants: KeyId,
        /// The key that was given.
        given: KeyId,
    },
    /// The master key cannot be had.
    #[error("the master key from {from}: {problem}")]
    Key {
        /// The file, descriptor or variable.
        from: String,
        /// What is wrong with it.
        problem: KeyProblem,
    },
    /// There is a vault, but its key file is gone.
    #[error(
        "the vault {} is there, but its master key file {} is not; restore the key from its backup: \
         no other key can open this vault",
        vault.display(), key.display()
    )]
    KeyMissing {
        /// The vault.
        vault: PathBuf,
        /// Where the key should be.
        key: PathBuf,
    },
    /// There is something that belongs to a vault, but not the vault.
    #[error(
        "{} is there, but the vault {} is not; restore the vault from its backup, or move that file away \
         to begin with an empty vault",
        found.display(), vault.display()
    )]
    VaultMissing {
        /// What was found.
        found: PathBuf,
        /// What was not.
        vault: PathBuf,
    },
    /// The file is there and is no whole vault.
    #[error("{} {problem}; restore it from a backup, or move it away to begin with an empty vault", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The vault was written by a later version.
    #[error("the vault {} was written by a newer sidekey; use that one", .0.display())]
    Newer(PathBuf),
    /// The vault cannot be read or written now.
    #[error("the vault is not available: {0}")]
    Unavailable(Cause),
    /// A file beside the vault could not be read, written or moved.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Why the vault is not available.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// No room for the change.
    #[error("the disk is full; nothing was changed")]
    DiskFull,
    /// The file, its folder or its disk may not be written.
    #[error("the file cannot be written; nothing was changed")]
    ReadOnly,
    /// Reading or writing failed.
    #[error("reading or writing its file failed")]
    Io,
    /// The system could not say whether a change is on disk, and asking again would not tell (an `fsync` that failed
    /// is forgotten by the kernel). Nothing more is written until a restart has read back what is really there.
    #[error("the disk did not confirm a write; check the disk, then restart")]
    NotDurable,
    /// Somebody else holds it, for longer than anybody should.
    #[error("it is busy")]
    Busy,
    /// The file is not what it was when it was opened.
    #[error("its file was damaged while it was open; stop, and run check")]
    Damaged,
    /// It was closed.
    #[error("it is closed")]
    Closed,
    /// The operating system has no random numbers.
    #[error("the system gave no random numbers")]
    Randomness,
    /// The engine refused a statement of ours, which is a mistake of ours.
    #[error("an internal mistake (database code {0})")]
    Internal(i32),
}

impl DatabaseError {
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| DatabaseError::File { action, path, source }
    }

    /// What an error of the engine means while a certain file is opened.
    pub(super) fn opening(path: &Path) -> impl Fn(sqlx::Error) -> Self {
        let path = path.to_owned();
        move |error| match primary(code(&error)) {
            Some(SQLITE_NOTADB) => DatabaseError::Damaged { path: path.clone(), problem: "is not a vault of sidekey" },
            Some(SQLITE_CORRUPT) => DatabaseError::Damaged { path: path.clone(), problem: "is damaged or cut short" },
            _ => error.into(),
        }
    }
}

// The primary result codes of SQLite (sqlite.org/rescode.html) that mean something to us.
const SQLITE_BUSY: i32 = 5;
const SQLITE_LOCKED: i32 = 6;
const SQLITE_READONLY: i32 = 8;
const SQLITE_IOERR: i32 = 10;
const SQLITE_CORRUPT: i32 = 11;
const SQLITE_FULL: i32 = 13;
const SQLITE_CANTOPEN: i32 = 14;
const SQLITE_NOTADB: i32 = 26;
// And two extended ones.
const SQLITE_IOERR_FSYNC: i32 = SQLITE_IOERR | (4 << 8);
const SQLITE_IOERR_DIR_FSYNC: i32 = SQLITE_IOERR | (5 << 8);

fn code(error: &sqlx::Error) -> Option<i32> {
    match error {
        sqlx::Error::Database(error) => error.code()?.parse().ok(),
        _ => None,
    }
}

fn primary(code: Option<i32>) -> Option<i32> {
    code.map(|code| code & 0xff)
}

impl From<sqlx::Error> for DatabaseError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(_) => DatabaseError::Unavailable(cause(code(&error).unwrap_or_default())),
            sqlx::Error::PoolTimedOut => DatabaseError::Unavailable(Cause::Busy),
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => DatabaseError::Unavailable(Cause::Closed),
            sqlx::Error::Io(_) => DatabaseError::Unavailable(Cause::Io),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                DatabaseError::Corrupt { what: "row", id: "with an unreadable column".to_owned() }
            }
            _ => DatabaseError::Unavailable(Cause::Internal(0)),
        }
    }
}

fn cause(code: i32) -> Cause {
    match (code, code & 0xff) {
        (SQLITE_IOERR_FSYNC | SQLITE_IOERR_DIR_FSYNC, _) => Cause::NotDurable,
        (_, SQLITE_FULL) => Cause::DiskFull,
        (_, SQLITE_READONLY | SQLITE_CANTOPEN) => Cause::ReadOnly,
        (_, SQLITE_IOERR) => Cause::Io,
        (_, SQLITE_BUSY | SQLITE_LOCKED) => Cause::Busy,
        (_, SQLITE_CORRUPT | SQLITE_NOTADB) => Cause::Damaged,
        _ => Cause::Internal(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unconfirmed_write_is_told_from_a_failed_one() {
        assert_eq!(cause(1034), Cause::NotDurable);
        assert_eq!(cause(778), Cause::Io);
        assert_eq!(cause(13), Cause::DiskFull);
        assert_eq!(cause(1), Cause::Internal(1));
    }
}
