//! What a change expects of the thing it changes: that nobody has changed it since somebody looked.
//!
//! It is judged inside the change's own transaction, so of two changes that expect the same version one is lost, and
//! its author is told. That it was tried is audited too.

use serde_json::json;

use super::{Change, Writing};
use crate::model::id::OrganizationId;
use crate::model::version::Version;
use crate::vault::audit::chain::record_alone;
use crate::vault::audit::{Author, Chain, Notice};
use crate::vault::database::Inner;
use crate::vault::error::DatabaseError;

/// How a thing must be for a change to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It is there, in one of these versions.
    OneOf(Vec<Version>),
    /// It is there.
    Present,
    /// It is not there.
    Absent,
}

/// A change that was not made, because the thing was not as expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    organization: OrganizationId,
    object: String,
}

impl Expected {
    fn is_met(&self, found: Option<Version>) -> bool {
        match self {
            Expected::OneOf(versions) => found.is_some_and(|found| versions.contains(&found)),
            Expected::Present => found.is_some(),
            Expected::Absent => found.is_none(),
        }
    }
}

impl Change {
    /// The change itself, with what it expects.
    pub(super) fn unguarded(self) -> (Option<Expected>, Change) {
        match self {
            Change::Guarded { expected, change } => (Some(expected), *change),
            change => (None, change),
        }
    }
}

impl Writing<'_> {
    /// Compares what was found with what is expected. `object` is what the audit log calls it.
    pub(super) fn expect(
        &mut self,
        found: Option<i64>,
        organization: OrganizationId,
        object: impl ToString,
    ) -> Result<(), DatabaseError> {
        match self.expected.take() {
            Some(expected) if !expected.is_met(found.map(Version::stored)) => {
                Err(DatabaseError::Overtaken(Attempt { organization, object: object.to_string() }))
            }
            _ => Ok(()),
        }
    }

    /// A change that looked at no version cannot promise anything of one, so it is not made.
    pub(super) fn check_expected(&mut self, organization: OrganizationId, object: &str) -> Result<(), DatabaseError> {
        match self.expected {
            None => Ok(()),
            Some(_) => Err(DatabaseError::Overtaken(Attempt { organization, object: object.to_owned() })),
        }
    }

    /// A version for what is stored now.
    pub(super) fn next_version(&mut self) -> i64 {
        let version = Version::fresh();
        self.outcome.version = Some(version);
        version.number()
    }
}

/// Tells the audit log of a change that was not made.
pub(super) async fn record_attempt(inner: &Inner, author: &Author, attempt: &Attempt) -> Result<(), DatabaseError> {
    let notice = Notice {
        chain: Chain::Organization(attempt.organization),
        action: "change.overtaken",
        object: attempt.object.clone(),
        detail: json!({ "reason": "it has another version than the change expected" }),
    };
    record_alone(inner, author, &notice).await
}
