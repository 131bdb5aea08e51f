//! Sessions: somebody who signed in, until they sign out, are signed out, or are forgotten.

use serde_json::json;
use sqlx::Row;

use super::user::UserKey;
use super::{Event, Writing};
use crate::model::id::{OrganizationId, SessionId, UserId};
use crate::model::user::{User, UserStatus};
use crate::vault::error::DatabaseError;
use crate::vault::password::PasswordHash;
use crate::vault::schema;
use crate::vault::token::{self, NewToken};

/// How many sessions one user has; the oldest give way.
const MOST_OF_A_USER: i64 = 20;

/// What may be done with sessions.
#[derive(Debug)]
pub enum SessionChange {
    /// Somebody has proved who they are.
    Open {
        /// Who.
        user: UserKey,
        /// What they proved it by; it must still be so.
        proof: Proof,
        /// The session that begins.
        session: NewSession,
    },
    /// Ends a session.
    End {
        /// Whose user's.
        organization: OrganizationId,
        /// Only where it is this user's.
        of: Option<UserId>,
        /// Which.
        session: SessionId,
    },
}

/// A session that is about to begin.
#[derive(Debug)]
pub struct NewSession {
    /// What its cookie holds.
    pub token: NewToken<SessionId>,
    /// Where it was opened from.
    pub address: String,
    /// What the browser calls itself.
    pub agent: String,
    /// When it ends at the latest, in milliseconds since 1970.
    pub expires_at: i64,
}

/// What a sign-in was proved by.
#[derive(Debug)]
pub enum Proof {
    /// The password with this hash.
    Password(PasswordHash),
    /// The identity provider's word.
    Subject {
        /// The provider.
        issuer: String,
        /// Its name for the user.
        subject: String,
    },
}

impl Writing<'_> {
    pub(super) async fn change_session(&mut self, change: SessionChange) -> Result<Event, DatabaseError> {
        match change {
            SessionChange::Open { user, proof, session } => self.sign_in(user, &proof, &session).await,
            SessionChange::End { organization, of, session } => self.end_session(organization, of, session).await,
        }
    }

    async fn sign_in(&mut self, key: UserKey, proof: &Proof, session: &NewSession) -> Result<Event, DatabaseError> {
        let user = self.user(key).await?;
        let row = sqlx::query("SELECT password_hash, issuer, subject FROM users WHERE id = $1")
            .bind(key.id.to_string())
            .fetch_one(&mut *self.connection)
            .await?;
        let column = |name| row.try_get::<Option<String>, _>(name);
        // What was read before the proof was checked may have been changed meanwhile.
        let holds = match proof {
            Proof::Password(hash) => column("password_hash")?.as_ref() == Some(&hash.0),
            Proof::Subject { issuer, subject } => {
                column("issuer")?.as_ref() == Some(issuer) && column("subject")?.as_ref() == Some(subject)
            }
        };
        if !holds || user.status != UserStatus::Active {
            return Err(DatabaseError::NotPermitted("this user may not sign in any more"));
        }
        self.open_session(&user, session).await?;
        sqlx::query("UPDATE users SET last_sign_in_at = $2 WHERE id = $1")
            .bind(key.id.to_string())
            .bind(schema::now())
            .execute(&mut *self.connection)
            .await?;
        self.outcome.created = true;
        Ok(Event {
            organization: key.organization,
            action: "session.create",
            object: session.token.id.to_string(),
            detail: json!({ "user": key.id, "method": user.method }),
        })
    }

    pub(super) async fn open_session(&mut self, user: &User, session: &NewSession) -> Result<(), DatabaseError> {
        let now = schema::now();
        sqlx::query("DELETE FROM sessions WHERE expires_at <= $1").bind(now).execute(&mut *self.connection).await?;
        sqlx::query(
            "DELETE FROM sessions WHERE user_id = $1 AND id NOT IN \
             (SELECT id FROM sessions WHERE user_id = $1 ORDER BY used_at DESC, id DESC LIMIT $2)",
        )
        .bind(user.id.to_string())
        .bind(MOST_OF_A_USER - 1)
        .execute(&mut *self.connection)
        .await?;
        let digest = token::digest_key(self.inner, self.connection).await?.digest(&session.token.text);
        sqlx::query(
            "INSERT INTO sessions (id, organization_id, user_id, digest, address, agent, created_at, used_at, \
             expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8)",
        )
        .bind(session.token.id.to_string())
        .bind(user.organization.to_string())
        .bind(user.id.to_string())
        .bind(digest.as_slice())
        .bind(&session.address)
        .bind(&session.agent)
        .bind(now)
        .bind(session.expires_at)
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    /// Ends every session of a user, but for the one to keep.
    pub(super) async fn end_sessions(&mut self, user: UserId, keep: Option<SessionId>) -> Result<(), DatabaseError> {
        sqlx::query("DELETE FROM sessions WHERE user_id = $1 AND id <> $2")
            .bind(user.to_string())
            .bind(keep.map(|session| session.to_string()).unwrap_or_default())
            .execute(&mut *self.connection)
            .await?;
        Ok(())
    }

    async fn end_session(
        &mut self,
        organization: OrganizationId,
        of: Option<UserId>,
        session: SessionId,
    ) -> Result<Event, DatabaseError> {
        let ended: Option<String> = sqlx::query_scalar(
            "DELETE FROM sessions WHERE id = $1 AND organization_id = $2 AND ($3 IS NULL OR user_id = $3) \
             RETURNING user_id",
        )
        .bind(session.to_string())
        .bind(organization.to_string())
        .bind(of.map(|user| user.to_string()))
        .fetch_optional(&mut *self.connection)
        .await?;
        let user = ended.ok_or(DatabaseError::NotFound("session"))?;
        // A session never changes, so there is only one state of it to expect.
        self.expect(Some(0), organization, session)?;
        Ok(Event { organization, action: "session.end", object: session.to_string(), detail: json!({ "user": user }) })
    }
}
