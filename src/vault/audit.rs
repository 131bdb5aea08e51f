//! Who did what: the author of a change, the events that tell of it, and the chain that holds them together.
//!
//! An event is written in the transaction of what it tells of (`chain::record`). The events of an organization
//! are numbered without a gap, and each carries an HMAC over itself and the one before it, so that a row that was
//! removed, altered or put elsewhere shows ([`Database::verify_audit`]). What nobody can see from the inside is a tail
//! that was cut off together with the note of where the chain ended: whoever wants to see that keeps the count and head
//! that a verification returned, and shows them to a later one.

pub(super) mod chain;
pub mod put_down;
mod read;
pub mod usage;

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tracing::Instrument;

pub use chain::{Broken, Kept, Reason, Verified};
pub use read::{Filter, Order, Recorded};

use super::database::Database;
use super::error::{Cause, DatabaseError};
use crate::model::id::OrganizationId;

/// Who makes a change, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// `apk_…`, `usr_…`, or the name of a part of Sidekey that acts by itself, such as `system`.
    pub actor: String,
    /// Where the request came from; `None` where it came through no network.
    pub address: Option<IpAddr>,
    /// The request's; empty where there was none.
    pub request_id: String,
}

impl Author {
    /// A part of Sidekey that acts by itself, or by a command on the vault's own machine.
    pub fn system(name: &str) -> Self {
        Author { actor: name.to_owned(), address: None, request_id: String::new() }
    }
}

/// Whose events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// An organization's, also one that was deleted.
    Organization(OrganizationId),
    /// Those of the vault as a whole, such as a new master key and the end of an organization.
    Vault,
}

impl Chain {
    /// As its events and its end are stored.
    fn column(self) -> String {
        match self {
            Chain::Organization(organization) => organization.to_string(),
            Chain::Vault => String::new(),
        }
    }
}

/// An event that is no change, such as somebody signing in.
#[derive(Clone, Debug)]
pub struct Notice {
    /// In whose chain it stands.
    pub chain: Chain,
    /// What happened, such as `session.create`.
    pub action: &'static str,
    /// To what: an id, or a name. No more than [`LONGEST_OBJECT`] bytes of it are kept.
    pub object: String,
    /// More, without a secret. Beyond [`LARGEST_VALUE`] bytes only its size and digest are kept.
    pub detail: Value,
}

/// How much of an object's name is kept, in bytes.
pub const LONGEST_OBJECT: usize = 256;
/// The size up to which a value is kept as it is, in bytes of JSON.
pub const LARGEST_VALUE: usize = 4096;
/// How many notices may wait to be written. More of them come only from somebody who tries to flood the log.
pub(super) const MOST_WAITING: usize = 64;

impl Database {
    /// Records an event that is no change. When this returns it is durable. What happens without limit, such as a
    /// sign-in that fails, is the caller's to throttle; beyond a number of events at once this is
    /// [`Cause::Busy`], and nothing was recorded.
    pub async fn record_event(&self, author: &Author, notice: Notice) -> Result<(), DatabaseError> {
        let (inner, author) = (self.inner.clone(), author.clone());
        let busy = |_| DatabaseError::Unavailable(Cause::Busy);
        let place = inner.notices.clone().try_acquire_owned().map_err(busy)?;
        let work = async move {
            let recorded = chain::record_alone(&inner, &author, &notice).await.map_err(|error| inner.note(error));
            drop(place);
            recorded
        };
        let task = self.inner.runtime.spawn(work.in_current_span());
        task.await.unwrap_or(Err(DatabaseError::Unavailable(Cause::Closed)))
    }
}

/// What an event tells of two states of a thing: the members that differ, as they were and as they are. `Null` stands
/// for a thing that is not there. Neither state may hold a secret.
pub fn difference(before: &Value, after: &Value) -> Value {
    let one_sided = |value: &Value| match value {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), kept(value))).collect(),
        _ => Map::new(),
    };
    let (mut was, mut is) = (one_sided(before), one_sided(after));
    if let (Value::Object(old), Value::Object(new)) = (before, after) {
        was.retain(|name, _| old.get(name) != new.get(name));
        is.retain(|name, _| old.get(name) != new.get(name));
    }
    let mut told = Map::new();
    for (name, state, members) in [("before", before, was), ("after", after, is)] {
        if !state.is_null() {
            told.insert(name.to_owned(), Value::Object(members));
        }
    }
    Value::Object(told)
}

/// A value as an event keeps it.
fn kept(value: &Value) -> Value {
    let text = value.to_string();
    if text.len() <= LARGEST_VALUE {
        return value.clone();
    }
    json!({ "bytes": text.len(), "sha256": hex(&Sha256::digest(text.as_bytes())) })
}

/// The beginning of a text, cut between two characters.
fn beginning(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
