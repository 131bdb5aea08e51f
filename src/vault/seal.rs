//! The cipher: AES-256-GCM (NIST SP 800-38D), a fresh random nonce for each value, and what every value is bound to.
//!
//! A sealed value opens only in the place it was sealed for: its table, organization, object, environment, field and
//! version and the id of its key are associated data. So a row that was moved, mixed or edited does not open, and
//! nothing needs to be believed that stands beside it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use aes_gcm::aead::{Aead, AeadInOut, KeyInit, Nonce, Payload};
use aes_gcm::{Aes256Gcm, Key};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use rand::TryRng;
use rand::rngs::SysRng;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::error::{Cause, DatabaseError};
use super::key::{KeyId, KeyProblem};
use crate::model::credential::{self, Credential, Piece};
use crate::model::id::{ConnectionId, OrganizationId};
use crate::model::name::{EnvironmentName, SecretKey};

/// 256 random bits; they wipe themselves.
pub(super) type KeyBytes = Zeroizing<[u8; 32]>;

const NONCE: usize = 12;

/// How often the vault was asked for something. A cache that works keeps them still.
#[derive(Debug, Default)]
pub struct Counters {
    /// Questions to the database.
    pub reads: AtomicU64,
    /// Values and data keys that were decrypted.
    pub opens: AtomicU64,
    /// Values and data keys that were encrypted.
    pub seals: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }
}

/// An encrypted value as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sealed {
    /// The key that opens it.
    pub key_id: String,
    /// Never used before with this key.
    pub nonce: Vec<u8>,
    /// With the tag at its end.
    pub ciphertext: Vec<u8>,
}

/// Where a sealed value belongs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// A field of a credential.
    Credential {
        organization: OrganizationId,
        connection: ConnectionId,
        environment: &'a EnvironmentName,
        field: &'a str,
        version: i64,
    },
    /// The value of a secret.
    Secret { organization: OrganizationId, key: &'a SecretKey, environment: &'a EnvironmentName, version: i64 },
    /// A data key under the master key `master`.
    DataKey { organization: Option<OrganizationId>, purpose: Purpose, id: &'a str, master: &'a KeyId },
}

/// What a data key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Sealing an organization's values.
    Values,
    /// Digests of the vault's API keys.
    Digest,
    /// The chains of audit events.
    Audit,
}

impl Purpose {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Purpose::Values => "values",
            Purpose::Digest => "digest",
            Purpose::Audit => "audit",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Purpose::Values, Purpose::Digest, Purpose::Audit].into_iter().find(|purpose| purpose.as_str() == text)
    }
}

impl Place<'_> {
    /// The associated data: each part behind its length, so that no two places are written alike.
    fn associated_data(&self, key_id: &str) -> Vec<u8> {
        match self {
            Place::Credential { organization, connection, environment, field, version } => join(&[
                "sidekey credential",
                &organization.to_string(),
                &connection.to_string(),
                environment.as_str(),
                field,
                &version.to_string(),
                key_id,
            ]),
            Place::Secret { organization, key, environment, version } => join(&[
                "sidekey secret",
                &organization.to_string(),
                key.as_str(),
                environment.as_str(),
                "value",
                &version.to_string(),
                key_id,
            ]),
            Place::DataKey { organization, purpose, id, master } => {
                let organization = organization.map(|id| id.to_string()).unwrap_or_default();
                join(&["sidekey data key", &organization, purpose.as_str(), id, master.as_str(), key_id])
            }
        }
    }
}

/// Texts behind each other, each behind its length, so that no two lists are written alike.
fn join(parts: &[&str]) -> Vec<u8> {
    join_bytes(parts.iter().map(|part| part.as_bytes()))
}

/// As [`join`], of bytes.
pub(super) fn join_bytes<'a>(parts: impl Iterator<Item = &'a [u8]> + Clone) -> Vec<u8> {
    let mut joined = Vec::with_capacity(parts.clone().map(|part| part.len() + 8).sum());
    for part in parts {
        joined.extend_from_slice(&(part.len() as u64).to_be_bytes());
        joined.extend_from_slice(part);
    }
    joined
}

/// Random bytes from the operating system: never from a state in this process, which a snapshot could copy.
pub(super) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, DatabaseError> {
    let mut bytes = Zeroizing::new([0; N]);
    SysRng.try_fill_bytes(bytes.as_mut_slice()).map_err(|_| DatabaseError::Unavailable(Cause::Randomness))?;
    Ok(bytes)
}

/// A key that seals and opens.
pub(super) struct SealingKey<'a> {
    /// As sealed values name it.
    pub id: &'a str,
    /// Its bits.
    pub bytes: &'a KeyBytes,
    /// Where its use is counted.
    pub counters: &'a Counters,
}

impl SealingKey<'_> {
    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new(&Key::<Aes256Gcm>::from(**self.bytes))
    }

    /// Seals a text.
    #[expect(clippy::disallowed_methods, reason = "a secret is exposed to be sealed")]
    pub(super) fn seal(&self, place: &Place<'_>, value: &SecretString) -> Result<Sealed, DatabaseError> {
        self.seal_bytes(place, value.expose_secret().as_bytes())
    }

    /// Opens a text. `None` where anything about it is not as it was sealed.
    pub(super) fn open(&self, place: &Place<'_>, sealed: &Sealed) -> Option<SecretString> {
        let bytes = self.open_bytes(place, sealed)?;
        // The copy has no spare room, so that making the secret of it leaves no other copy behind.
        str::from_utf8(&bytes).ok().map(|text| SecretString::from(Box::<str>::from(text)))
    }

    /// Seals bytes.
    pub(super) fn seal_bytes(&self, place: &Place<'_>, plaintext: &[u8]) -> Result<Sealed, DatabaseError> {
        self.counters.seals.fetch_add(1, Ordering::Relaxed);
        let nonce = *random::<NONCE>()?;
        let aad = place.associated_data(self.id);
        let payload = Payload { msg: plaintext, aad: &aad };
        // The one error of this cipher is a plaintext beyond 64 GiB.
        let sealed = self.cipher().encrypt(&Nonce::<Aes256Gcm>::from(nonce), payload);
        let ciphertext = sealed.map_err(|_| DatabaseError::Conflict("the value is too large".to_owned()))?;
        Ok(Sealed { key_id: self.id.to_owned(), nonce: nonce.to_vec(), ciphertext })
    }

    /// Opens bytes. `None` where anything about them is not as it was sealed.
    pub(super) fn open_bytes(&self, place: &Place<'_>, sealed: &Sealed) -> Option<Zeroizing<Vec<u8>>> {
        self.counters.opens.fetch_add(1, Ordering::Relaxed);
        let nonce: [u8; NONCE] = sealed.nonce.as_slice().try_into().ok()?;
        if sealed.key_id != self.id {
            return None;
        }
        let mut buffer = Zeroizing::new(sealed.ciphertext.clone());
        let aad = place.associated_data(self.id);
        self.cipher().decrypt_in_place(&Nonce::<Aes256Gcm>::from(nonce), &aad, &mut *buffer).ok()?;
        Some(buffer)
    }
}

/// HMAC-SHA256 of one label or message under a key.
pub(super) fn mac(key: &KeyBytes, message: &[u8]) -> [u8; 32] {
    // A block of the hash is larger than the key, so the key is taken as it is.
    let mut block = Zeroizing::new([0; 64]);
    block[..key.len()].copy_from_slice(key.as_slice());
    let mut mac = <Hmac<Sha256> as KeyInit>::new((&*block).into());
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// The digest of an API key as it was presented.
#[expect(clippy::disallowed_methods, reason = "a presented key is exposed to be digested")]
pub(super) fn digest(key: &KeyBytes, presented: &SecretString) -> [u8; 32] {
    mac(key, presented.expose_secret().as_bytes())
}

/// The public part of a token such as `ses_…_…`, if it has the form of one.
#[expect(clippy::disallowed_methods, reason = "a presented token is taken apart to find its public part")]
pub(super) fn public_part<I: std::str::FromStr>(presented: &SecretString) -> Option<I> {
    let (id, secret) = presented.expose_secret().rsplit_once('_')?;
    let base62 = secret.len() == 43 && secret.bytes().all(|b| b.is_ascii_alphanumeric());
    if base62 { id.parse().ok() } else { None }
}

/// The secrets that the fields of a credential refer to.
#[expect(clippy::disallowed_methods, reason = "a value is read for the references in it when it is sealed")]
pub(super) fn referenced_secrets(credential: &Credential) -> BTreeSet<SecretKey> {
    let pieces = |value: &SecretString| -> Vec<SecretKey> {
        let pieces = credential::pieces(value.expose_secret()).unwrap_or_default();
        let key = |piece| if let Piece::Secret(key) = piece { Some(key) } else { None };
        pieces.into_iter().filter_map(key).collect()
    };
    credential.fields().values().flat_map(pieces).collect()
}

/// Reads a master key from its text form: base64 of 32 bytes, white space around it ignored.
pub(super) fn decode_key(text: &str) -> Result<KeyBytes, KeyProblem> {
    let bytes = Zeroizing::new(STANDARD.decode(text.trim_ascii()).map_err(|_| KeyProblem::Encoding)?);
    let mut key = KeyBytes::default();
    if bytes.len() != key.len() {
        return Err(KeyProblem::Length(bytes.len()));
    }
    key.copy_from_slice(&bytes);
    Ok(key)
}

/// As [`decode_key`], from a value that was read elsewhere.
#[expect(clippy::disallowed_methods, reason = "a master key from the environment is exposed to be decoded")]
pub(super) fn decode_secret_key(text: &SecretString) -> Result<KeyBytes, KeyProblem> {
    decode_key(text.expose_secret())
}

/// The text form of a master key, with a newline.
pub(super) fn encode_key(key: &KeyBytes) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(48));
    STANDARD.encode_string(key.as_slice(), &mut text);
    text.push('\n');
    text
}

/// What a test stored and reads again.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests compare what was stored")]
pub(super) fn plain(secret: &SecretString) -> &str {
    secret.expose_secret()
}

#[cfg(test)]
mod tests;
