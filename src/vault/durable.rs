//! Files that are either there as a whole or not at all, for their owner only.
//!
//! A file is written under another name, made durable, moved to its name, and the move is made durable too: a process
//! killed or a power cut at any point leaves the old state or the new one.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::error::DatabaseError;

const PRIVATE: u32 = 0o600;

/// `<path><suffix>` in the same folder.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The folder a file stands in.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the folder of a file, for its owner only, where it is not there.
pub(super) fn make_folder(path: &Path) -> Result<(), DatabaseError> {
    let folder = folder(path);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(DatabaseError::file("make the folder", folder))
}

/// Opens a file for its owner only, whatever the umask is; makes it where it is not there.
pub(super) fn open_private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(PRIVATE).open(path)?;
    file.set_permissions(Permissions::from_mode(PRIVATE))?;
    Ok(file)
}

/// Takes away what group and others may do with a file that is there.
pub(super) fn make_private(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
            fs::set_permissions(path, Permissions::from_mode(PRIVATE))
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes what happened to names in a file's folder durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), DatabaseError> {
    let folder = folder(path);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(DatabaseError::file("sync the folder", folder))
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), DatabaseError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(DatabaseError::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Writes a new file for its owner only. One of that name is never touched: that is an error of the kind
/// [`ErrorKind::AlreadyExists`].
pub(super) fn write_new(path: &Path, contents: &[u8]) -> Result<(), DatabaseError> {
    let part = beside(path, ".part");
    remove(&part)?;
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(&part)?;
        file.set_permissions(Permissions::from_mode(PRIVATE))?;
        file.write_all(contents)?;
        file.sync_all()
    };
    let written = write().and_then(|()| rename_new(&part, path));
    if let Err(error) = written {
        remove(&part)?;
        return Err(DatabaseError::file("write", path)(error));
    }
    sync_folder(path)
}

fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot do this in one step.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if !to.try_exists()? => fs::rename(from, to),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Err(ErrorKind::AlreadyExists.into()),
        renamed => Ok(renamed?),
    }
}

/// Moves a file to its final name, over what may be there.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), DatabaseError> {
    fs::rename(from, to).map_err(DatabaseError::file("move a file to", to))?;
    sync_folder(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_private_and_never_replaces_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/key");
        make_folder(&path).unwrap();
        write_new(&path, b"one").unwrap();
        assert!(write_new(&path, b"two").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left behind");
    }
}
