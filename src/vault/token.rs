//! Tokens that are shown once: of sessions and of one-time links.
//!
//! A token is an id and 256 random bits, written as an API key is. The id finds the row, and what is stored there is a
//! digest under a key of the vault: whoever reads the file can neither use a token nor make one.

use std::fmt::Display;
use std::str::FromStr;

use secrecy::SecretString;
use sqlx::SqliteConnection;
use subtle::ConstantTimeEq;

use super::api_key::base62;
use super::database::{Database, Inner};
use super::error::DatabaseError;
use super::key::DataKey;
use super::query;
use super::seal::{self, Purpose};
use crate::model::id::{LinkId, SessionId};

/// A token that was made just now, with the id it is found by.
#[derive(Debug)]
pub struct NewToken<I> {
    /// Its public part.
    pub id: I,
    /// All of it; to be shown once and kept nowhere.
    pub text: SecretString,
}

impl NewToken<SessionId> {
    /// A token for a session.
    pub fn session() -> Result<Self, DatabaseError> {
        Self::of(SessionId::generate())
    }
}

impl NewToken<LinkId> {
    /// A token for a one-time link.
    pub fn link() -> Result<Self, DatabaseError> {
        Self::of(LinkId::generate())
    }
}

impl<I: Display> NewToken<I> {
    fn of(id: I) -> Result<Self, DatabaseError> {
        let text = zeroize::Zeroizing::new(format!("{id}_{}", *base62()?));
        Ok(NewToken { id, text: SecretString::from(text.as_str()) })
    }
}

/// A text that nobody can guess: 43 characters of 62.
pub fn random_text() -> Result<String, DatabaseError> {
    Ok(base62()?.to_string())
}

/// Whether a text may be one of [`random_text`].
pub fn is_random_text(text: &str) -> bool {
    text.len() == 43 && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The public part of a token, where the text has the form of one.
pub(super) fn public_part<I: FromStr>(presented: &SecretString) -> Option<I> {
    seal::public_part(presented)
}

/// Whether a digest is that of what was presented; in a time that does not depend on where they differ.
pub(super) fn matches(stored: Option<&[u8]>, presented: &[u8; 32]) -> bool {
    // Compared also where there is nothing to compare with, so that the time does not tell.
    let is_same = stored.unwrap_or(&[0; 32]).ct_eq(presented);
    bool::from(is_same) && stored.is_some()
}

/// The key of the vault's digests.
pub(super) async fn digest_key(inner: &Inner, connection: &mut SqliteConnection) -> Result<DataKey, DatabaseError> {
    let masters = inner.masters.all();
    let row = sqlx::query(
        "SELECT id, organization_id, purpose, master_key_id, nonce, ciphertext FROM data_keys \
         WHERE organization_id IS NULL AND purpose = $1 ORDER BY created_at, id LIMIT 1",
    )
    .bind(Purpose::Digest.as_str())
    .fetch_optional(connection)
    .await?;
    let row = row.ok_or(DatabaseError::NotFound("key for digests"))?;
    inner.unwrap(&masters, &query::wrapped_key(&row)?)
}

impl Database {
    /// The key of the vault's digests.
    pub(super) async fn digest_key(&self) -> Result<DataKey, DatabaseError> {
        digest_key(&self.inner, &mut *self.inner.readers.acquire().await?).await
    }

    /// A tag that only this vault can make of a text, for what a browser keeps and brings back.
    pub async fn tag(&self, label: &str, text: &str) -> Result<[u8; 32], DatabaseError> {
        Ok(self.digest_key().await?.tag(label, text))
    }
}
