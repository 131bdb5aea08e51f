//! One server for one vault: an advisory lock on a file of its own beside it.
//!
//! The lock is on `<vault>.lock` and not on the vault itself, because closing any descriptor of the vault's own file
//! would drop the database engine's locks on it (POSIX). The file stays when the lock goes: removing it would let two
//! processes each hold a lock on a different file of that name.

use std::fs::{File, TryLockError};
use std::path::Path;

use super::durable;
use super::error::DatabaseError;

/// A held lock; dropping it releases it, and so does the end of the process, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of a vault, or says at once that somebody has it.
    pub(super) fn take(vault: &Path) -> Result<Self, DatabaseError> {
        let path = durable::beside(vault, ".lock");
        let file = durable::open_private(&path).map_err(DatabaseError::file("open the lock file", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(DatabaseError::Locked(vault.to_owned())),
            Err(TryLockError::Error(error)) => Err(DatabaseError::file("lock", &path)(error)),
        }
    }
}
