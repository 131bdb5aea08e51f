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

/// What a change asks of the thing it changes.
#[derive(Debug, Default)]
pub(super) struct Guards {
    /// What its author expects.
    expected: Option<Expected>,
    /// In which version it was looked at when the change was judged, if it was; in none where it was not there.
    judged: Option<Option<Version>>,
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
    /// The change itself, with what it asks of the thing it changes.
    pub(super) fn unguarded(self) -> (Guards, Change) {
        let (expected, change) = match self {
            Change::Guarded { expected, change } => (Some(expected), *change),
            change => (None, change),
        };
        let (judged, change) = match change {
            Change::Judged { at, change } => (Some(at), *change),
            change => (None, change),
        };
        (Guards { expected, judged }, change)
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
        let Guards { expected, judged } = std::mem::take(&mut self.guards);
        let found = found.map(Version::stored);
        // Who said what they expect is told so, also where looking again would do.
        if expected.is_some_and(|expected| !expected.is_met(found)) {
            return Err(DatabaseError::Overtaken(Attempt { organization, object: object.to_string() }));
        }
        if judged.is_some_and(|judged| judged != found) { Err(DatabaseError::Outdated) } else { Ok(()) }
    }

    /// A change that looked at no version cannot promise anything of one, so it is not made.
    pub(super) fn check_expected(&mut self, organization: OrganizationId, object: &str) -> Result<(), DatabaseError> {
        match self.guards {
            Guards { expected: None, judged: None } => Ok(()),
            Guards { expected: None, judged: Some(_) } => Err(DatabaseError::Outdated),
            _ => Err(DatabaseError::Overtaken(Attempt { organization, object: object.to_owned() })),
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
