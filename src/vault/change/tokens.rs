//! Tokens: what an authorization server has given out for a credential, stored with what people entered for it.
//!
//! They are fields of the credential like any other, sealed anew together with the rest, so that a token that was left
//! from an earlier state makes no credential. Whoever stores them says in which version they have seen it
//! ([`Change::Judged`](super::Change::Judged)): of two who did so at once the second is told to look again.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde_json::json;

use super::{Event, Writing};
use crate::model::credential::Credential;
use crate::model::id::{ConnectionId, OrganizationId};
use crate::model::moment::Moment;
use crate::model::name::{EnvironmentName, FieldName};
use crate::model::oauth::{ACCESS_TOKEN, Granted, REFRESH_TOKEN};
use crate::vault::Held;
use crate::vault::error::DatabaseError;
use crate::vault::query::{Binding, CREDENTIAL, CredentialOwner, Opening, StoredCredential};
use crate::vault::revision::Subject;

/// What is stored of what an authorization server answered.
#[derive(Debug)]
pub struct Obtained {
    /// The tokens; `None` where it takes no more requests for this sign-in, so that those that are there go.
    pub tokens: Option<Tokens>,
    /// What is known of them.
    pub granted: Granted,
    /// Why they are stored.
    pub occasion: Occasion,
}

/// Tokens that were given out.
#[derive(Debug)]
pub struct Tokens {
    /// What is injected.
    pub access: SecretString,
    /// What the next one is had for; the one that is there stays where there is no other.
    pub refresh: Option<SecretString>,
}

/// Why tokens are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Somebody has signed in for what was entered at this time; what was entered since is another client's.
    SignIn {
        /// In milliseconds since 1970.
        entered_at: i64,
    },
    /// The access token had come to its end.
    Refresh,
}

impl Obtained {
    /// As the audit log calls it.
    fn action(&self) -> &'static str {
        match (&self.tokens, self.occasion) {
            (None, _) => "credential.refused",
            (Some(_), Occasion::SignIn { .. }) => "credential.authorize",
            (Some(_), Occasion::Refresh) => "credential.refresh",
        }
    }

    /// The fields of a credential with these tokens in place of its own.
    fn put_into(&self, fields: &BTreeMap<FieldName, SecretString>) -> BTreeMap<FieldName, SecretString> {
        let mut fields = fields.clone();
        // A sign-in owes nothing to the one before.
        let keeps_refresh = self.occasion == Occasion::Refresh && self.tokens.is_some();
        fields.retain(|name, _| match name.as_str() {
            ACCESS_TOKEN => false,
            REFRESH_TOKEN => keeps_refresh,
            _ => true,
        });
        let Some(Tokens { access, refresh }) = &self.tokens else { return fields };
        let tokens = [(ACCESS_TOKEN, Some(access)), (REFRESH_TOKEN, refresh.as_ref())];
        let named = tokens.into_iter().filter_map(|(name, token)| Some((name.parse().ok()?, token?.clone())));
        fields.extend(named);
        fields
    }
}

impl Writing<'_> {
    pub(super) async fn store_tokens(
        &mut self,
        organization: OrganizationId,
        (connection, environment): (ConnectionId, &EnvironmentName),
        obtained: &Obtained,
    ) -> Result<Event, DatabaseError> {
        if self.credential_version(connection, environment).await?.is_none() {
            return Err(DatabaseError::NotFound("credential"));
        }
        self.expect_credential(organization, connection, environment).await?;
        self.check_occasion(connection, environment, obtained.occasion).await?;
        let stored = self.stored_credential(organization, connection, environment).await?;
        let (action, granted) = (obtained.action(), obtained.granted.clone());
        let credential = Credential::new(obtained.put_into(stored.credential.fields()));
        let binding =
            Binding { origins: stored.origins, expires_at: stored.expires_at, granted: Some(granted.clone()) };
        self.remove_fields(connection, environment).await?;
        self.seal_credential(organization, (connection, environment), &credential, binding.clone()).await?;
        let expires_at = Held::from(binding.of(credential)).ends_at();
        let version = self.next_version();
        sqlx::query(
            "UPDATE credential_entries SET version = $3, expires_at = $4 WHERE connection_id = $1 AND environment = $2",
        )
        .bind(connection.to_string())
        .bind(environment.as_str())
        .bind(version)
        .bind(expires_at)
        .execute(&mut *self.connection)
        .await?;
        self.forget_refusal(connection, environment).await?;
        self.outcome.subjects.push(Subject::Credential(connection, environment.clone()));
        let Granted { scopes, refused, .. } = &granted;
        let expires_at = granted.expires_at.map(Moment::from_milliseconds);
        Ok(Event {
            organization,
            action,
            object: connection.to_string(),
            detail: json!({
                "environment": environment, "scopes": scopes, "expires_at": expires_at, "refused": refused,
            }),
        })
    }

    async fn check_occasion(
        &mut self,
        connection: ConnectionId,
        environment: &EnvironmentName,
        occasion: Occasion,
    ) -> Result<(), DatabaseError> {
        let Occasion::SignIn { entered_at } = occasion else { return Ok(()) };
        let found: Option<i64> = sqlx::query_scalar(
            "SELECT entered_at FROM credential_entries WHERE connection_id = $1 AND environment = $2",
        )
        .bind(connection.to_string())
        .bind(environment.as_str())
        .fetch_optional(&mut *self.connection)
        .await?;
        if found.is_some_and(|found| found != entered_at) { Err(DatabaseError::Outdated) } else { Ok(()) }
    }

    async fn stored_credential(
        &mut self,
        organization: OrganizationId,
        connection: ConnectionId,
        environment: &EnvironmentName,
    ) -> Result<StoredCredential, DatabaseError> {
        let masters = self.inner.masters.all();
        let rows = sqlx::query(CREDENTIAL)
            .bind(connection.to_string())
            .bind(organization.to_string())
            .bind(environment.as_str())
            .fetch_all(&mut *self.connection)
            .await?;
        if rows.is_empty() {
            return Err(DatabaseError::NotFound("credential"));
        }
        let owner = CredentialOwner { organization, connection, environment };
        owner.open(&mut Opening::new(self.inner, &masters), &rows).ok_or_else(|| owner.corrupt())
    }
}
