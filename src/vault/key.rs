//! Master keys: what they are, where they come from, and how a new one is made.
//!
//! A master key wraps data keys and seals nothing else. It is known by an id that was derived from it one-way, so that
//! a vault can say which key it wants and a person can tell two keys apart without seeing either.

use std::fmt::{self, Write};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::durable;
use super::error::DatabaseError;
use super::seal::{self, Counters, KeyBytes, Place, Purpose, Sealed, SealingKey};
use crate::model::id::OrganizationId;

/// The public name of a master key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An id as a vault holds it.
    pub(super) fn stored(text: &str) -> Self {
        KeyId(text.into())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is stored may have been tampered with; it must not reach a terminal as it is.
        write!(f, "{}", self.0.escape_debug())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where the master key is.
#[derive(Debug)]
pub enum MasterKeySource {
    /// In a file of its own.
    File {
        /// Its path.
        path: PathBuf,
        /// Whether group and others may be able to read it.
        any_mode: bool,
    },
    /// Behind an inherited descriptor: a file or a pipe.
    Fd(i32),
    /// In an environment variable.
    Env {
        /// Its name.
        name: String,
        /// What was read there.
        value: SecretString,
    },
}

impl MasterKeySource {
    /// Where it is, as a person would say it.
    pub fn describe(&self) -> String {
        match self {
            MasterKeySource::File { path, .. } => format!("the file {}", path.display()),
            MasterKeySource::Fd(fd) => format!("the descriptor {fd}"),
            MasterKeySource::Env { name, .. } => format!("the variable {}", name.escape_debug()),
        }
    }

    /// The file it is in, where it is in one.
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            MasterKeySource::File { path, .. } => Some(path),
            MasterKeySource::Fd(_) | MasterKeySource::Env { .. } => None,
        }
    }

    /// Reads it. `None`: it is to be in a file, and the file is not there.
    pub(super) fn read(&self) -> Result<Option<MasterKey>, DatabaseError> {
        let bytes = match self {
            MasterKeySource::File { path, any_mode } => read_file(path, *any_mode),
            // There is no safe way to own a descriptor by its number; opening it by name gives one of our own.
            MasterKeySource::Fd(fd) => {
                File::open(format!("/dev/fd/{fd}")).map_err(|e| KeyProblem::Unreadable(e.kind())).and_then(read_text)
            }
            MasterKeySource::Env { value, .. } => seal::decode_secret_key(value),
        };
        match bytes {
            Ok(bytes) => Ok(Some(MasterKey::new(bytes))),
            Err(KeyProblem::Unreadable(ErrorKind::NotFound)) if self.file().is_some() => Ok(None),
            Err(problem) => Err(DatabaseError::Key { from: self.describe(), problem }),
        }
    }
}

/// What is wrong with a master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyProblem {
    /// It is not base64.
    #[error("it is not base64 of 32 bytes on one line, as keygen writes it; restore it from its backup")]
    Encoding,
    /// It has another length.
    #[error("it has {0} bytes instead of 32; restore it from its backup")]
    Length(usize),
    /// Others could have read it.
    #[error("its mode {0:04o} lets others read it; run chmod 600 on it")]
    Mode(u32),
    /// It cannot be read.
    #[error("it cannot be read ({0})")]
    Unreadable(ErrorKind),
    /// There is one already.
    #[error("there is a file already, and it may be the only key of a vault; it was not touched")]
    Exists,
}

fn read_file(path: &Path, any_mode: bool) -> Result<KeyBytes, KeyProblem> {
    let unreadable = |error: std::io::Error| KeyProblem::Unreadable(error.kind());
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 && !any_mode {
        return Err(KeyProblem::Mode(mode));
    }
    read_text(file)
}

/// Reads at most as much as a key could have, so that a wrong path cannot fill the memory.
fn read_text(file: File) -> Result<KeyBytes, KeyProblem> {
    const LONGEST: u64 = 1024;
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST as usize));
    file.take(LONGEST).read_to_end(&mut bytes).map_err(|error| KeyProblem::Unreadable(error.kind()))?;
    seal::decode_key(str::from_utf8(&bytes).map_err(|_| KeyProblem::Encoding)?)
}

/// A key that wraps data keys.
pub(super) struct MasterKey {
    bytes: KeyBytes,
    id: KeyId,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl MasterKey {
    fn new(bytes: KeyBytes) -> Self {
        let mut id = String::with_capacity(35);
        id.push_str("mk_");
        for byte in &seal::mac(&bytes, b"sidekey master key id")[..16] {
            // Writing to a text cannot fail.
            let _ = write!(id, "{byte:02x}");
        }
        MasterKey { bytes, id: KeyId(id.into()) }
    }

    /// A key that was never there before.
    pub(super) fn generate() -> Result<Self, DatabaseError> {
        seal::random().map(MasterKey::new)
    }

    pub(super) fn id(&self) -> &KeyId {
        &self.id
    }

    fn sealing<'a>(&'a self, counters: &'a Counters) -> SealingKey<'a> {
        SealingKey { id: self.id.as_str(), bytes: &self.bytes, counters }
    }

    /// Seals a data key.
    pub(super) fn wrap(&self, key: &DataKey, counters: &Counters) -> Result<Sealed, DatabaseError> {
        self.sealing(counters).seal_bytes(&key.place(&self.id), key.bytes.as_slice())
    }

    /// Opens a data key. `None` where it is not as it was sealed.
    pub(super) fn unwrap(&self, wrapped: &WrappedKey, counters: &Counters) -> Option<DataKey> {
        let mut key = DataKey {
            id: wrapped.id.clone(),
            organization: wrapped.organization,
            purpose: wrapped.purpose,
            bytes: KeyBytes::default(),
        };
        let bytes = self.sealing(counters).open_bytes(&key.place(&self.id), &wrapped.sealed)?;
        if bytes.len() != key.bytes.len() {
            return None;
        }
        key.bytes.copy_from_slice(&bytes);
        Some(key)
    }

    /// Writes it to a new file. A file that is there is never touched.
    pub(super) fn write_new(&self, path: &Path) -> Result<(), DatabaseError> {
        match durable::write_new(path, seal::encode_key(&self.bytes).as_bytes()) {
            Err(DatabaseError::File { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {
                let from = format!("the file {}", path.display());
                Err(DatabaseError::Key { from, problem: KeyProblem::Exists })
            }
            written => written,
        }
    }
}

/// A data key as it is stored: sealed under a master key.
#[derive(Clone, Debug)]
pub(super) struct WrappedKey {
    pub id: String,
    pub organization: Option<OrganizationId>,
    pub purpose: Purpose,
    /// Its `key_id` is the master key's.
    pub sealed: Sealed,
}

/// A key that seals an organization's values, digests API keys, or authenticates audit events.
pub(super) struct DataKey {
    pub id: String,
    organization: Option<OrganizationId>,
    purpose: Purpose,
    bytes: KeyBytes,
}

impl DataKey {
    pub(super) fn generate(organization: Option<OrganizationId>, purpose: Purpose) -> Result<Self, DatabaseError> {
        let id = format!("key_{}", ulid::Ulid::generate().to_string().to_ascii_lowercase());
        Ok(DataKey { id, organization, purpose, bytes: seal::random()? })
    }

    pub(super) fn organization(&self) -> Option<OrganizationId> {
        self.organization
    }

    pub(super) fn purpose(&self) -> Purpose {
        self.purpose
    }

    fn place<'a>(&'a self, master: &'a KeyId) -> Place<'a> {
        Place::DataKey { organization: self.organization, purpose: self.purpose, id: &self.id, master }
    }

    /// As a key for values.
    pub(super) fn sealing<'a>(&'a self, counters: &'a Counters) -> SealingKey<'a> {
        SealingKey { id: &self.id, bytes: &self.bytes, counters }
    }

    /// What tells a request from others under this key. It says whose it is: no API key's digest is one.
    pub(super) fn fingerprint(&self, request: &[u8]) -> [u8; 32] {
        seal::mac(&self.bytes, &Zeroizing::new([b"request\0", request].concat()))
    }

    /// A tag of a text under this key, bound to what it is for.
    pub(super) fn tag(&self, label: &str, text: &str) -> [u8; 32] {
        // The zero byte ends the label: no label holds one, and no API key begins like a label.
        seal::mac(&self.bytes, format!("sidekey {label}\0{text}").as_bytes())
    }

    /// The digest of the bytes of an API key under this key.
    pub(super) fn digest_bytes(&self, presented: &[u8]) -> [u8; 32] {
        seal::mac(&self.bytes, presented)
    }

    /// The digest of an API key under this key.
    pub(super) fn digest(&self, presented: &SecretString) -> [u8; 32] {
        seal::digest(&self.bytes, presented)
    }

    /// The HMAC of an audit event, under the key that is derived from this one for its chain.
    pub(super) fn authenticate_event(&self, chain: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let label = seal::join_bytes([b"sidekey audit chain".as_slice(), chain].into_iter());
        let key = Zeroizing::new(seal::mac(&self.bytes, &label));
        seal::mac(&key, &seal::join_bytes(parts.iter().copied()))
    }
}

/// Writes a new master key to a file for its owner only, and tells its id. A file that is there is never touched.
pub fn keygen(path: &Path) -> Result<KeyId, DatabaseError> {
    durable::make_folder(path)?;
    let key = MasterKey::generate()?;
    key.write_new(path)?;
    Ok(key.id)
}

#[cfg(test)]
mod tests;
