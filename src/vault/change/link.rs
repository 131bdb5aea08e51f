//! One-time links: how a user comes in the first time, and a super admin when nobody else can let them in.
//!
//! A link is used up in the transaction that makes its holder the user, so of two who follow it at once one is let in.

use secrecy::SecretString;
use serde_json::json;
use sqlx::Row;

use super::session::NewSession;
use super::user::{UserKey, event, shown};
use super::{Event, Writing};
use crate::model::id::{LinkId, OrganizationId, UserId};
use crate::model::role::Role;
use crate::model::user::{Email, SignInMethod, User, UserStatus};
use crate::vault::audit;
use crate::vault::error::DatabaseError;
use crate::vault::password::PasswordHash;
use crate::vault::query;
use crate::vault::schema;
use crate::vault::token::{self, NewToken};

/// A one-time link that was made just now.
#[derive(Debug)]
pub struct NewLink {
    /// What it carries.
    pub token: NewToken<LinkId>,
    /// When it is of no use any more, in milliseconds since 1970.
    pub expires_at: i64,
}

/// How a user will prove who they are.
#[derive(Debug)]
pub enum NewProof {
    /// By a password.
    Password(PasswordHash),
    /// As an identity provider knows them.
    Subject {
        /// The provider.
        issuer: String,
        /// Its name for the user.
        subject: String,
    },
}

/// Who a user is, where a link leaves it open.
#[derive(Clone, Debug, Default)]
pub struct Person {
    /// Needed for a link that makes a super admin.
    pub email: Option<Email>,
    /// As a person reads it.
    pub first_name: Option<String>,
    /// As a person reads it.
    pub last_name: Option<String>,
}

/// A link as it is stored.
struct Link {
    id: String,
    organization: OrganizationId,
    user: Option<UserId>,
}

impl Writing<'_> {
    pub(super) async fn insert_link(
        &mut self,
        organization: OrganizationId,
        user: Option<UserId>,
        link: &NewLink,
    ) -> Result<(), DatabaseError> {
        // Links that nobody can follow any more are kept for as long as somebody may still try.
        const REMEMBERED: i64 = 30 * 86_400_000;
        sqlx::query("DELETE FROM links WHERE expires_at < $1")
            .bind(schema::now() - REMEMBERED)
            .execute(&mut *self.connection)
            .await?;
        let digest = token::digest_key(self.inner, self.connection).await?.digest(&link.token.text);
        sqlx::query(
            "INSERT INTO links (id, organization_id, user_id, digest, created_at, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(link.token.id.to_string())
        .bind(organization.to_string())
        .bind(user.map(|user| user.to_string()))
        .bind(digest.as_slice())
        .bind(schema::now())
        .bind(link.expires_at)
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    pub(super) async fn drop_links(&mut self, user: UserId) -> Result<(), DatabaseError> {
        sqlx::query("DELETE FROM links WHERE user_id = $1")
            .bind(user.to_string())
            .execute(&mut *self.connection)
            .await?;
        Ok(())
    }

    pub(super) async fn accept(
        &mut self,
        presented: &SecretString,
        proof: NewProof,
        person: Person,
        session: &NewSession,
    ) -> Result<Event, DatabaseError> {
        let link = self.spend(presented).await?;
        let (mut user, action) = match link.user {
            Some(id) => (self.user(UserKey { organization: link.organization, id }).await?, "user.accept_invite"),
            None => (self.super_admin(link.organization, &person).await?, "admin_link.accept"),
        };
        if user.status == UserStatus::Disabled {
            return Err(DatabaseError::Gone("this user is disabled; ask an administrator"));
        }
        let before = (!self.outcome.created).then(|| user.clone());
        user.status = UserStatus::Active;
        user.first_name = person.first_name.unwrap_or(user.first_name);
        user.last_name = person.last_name.unwrap_or(user.last_name);
        self.update_user(&user).await?;
        self.prove(&user, proof).await?;
        self.end_sessions(user.id, None).await?;
        self.open_session(&user, session).await?;
        self.outcome.user = Some(user.id);
        let (before, after) = (before.map_or(json!(null), |user| shown(&user)), shown(&user));
        let mut detail = audit::difference(&before, &after);
        detail["link"] = json!(link.id);
        detail["session"] = json!(session.token.id);
        Ok(event(&user, action, detail))
    }

    /// Takes a link out of use. Of two who follow it at once, one gets here first.
    async fn spend(&mut self, presented: &SecretString) -> Result<Link, DatabaseError> {
        let digest = token::digest_key(self.inner, self.connection).await?.digest(presented);
        let id: LinkId = token::public_part(presented).ok_or(DatabaseError::NotFound("link"))?;
        let row = sqlx::query("SELECT organization_id, user_id, digest, expires_at, used_at FROM links WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&mut *self.connection)
            .await?;
        let row = row.ok_or(DatabaseError::NotFound("link"))?;
        if !token::matches(row.try_get("digest")?, &digest) {
            return Err(DatabaseError::NotFound("link"));
        }
        if row.try_get::<i64, _>("expires_at")? <= schema::now() {
            return Err(DatabaseError::Gone("this link has expired; ask for a new one"));
        }
        if row.try_get::<Option<i64>, _>("used_at")?.is_some() {
            return Err(DatabaseError::Conflict("somebody has just used this link; ask for a new one".to_owned()));
        }
        sqlx::query("UPDATE links SET used_at = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(schema::now())
            .execute(&mut *self.connection)
            .await?;
        let (organization, user): (String, Option<String>) = (row.try_get("organization_id")?, row.try_get("user_id")?);
        Ok(Link {
            organization: query::parse(&organization, "link", id)?,
            user: user.map(|user| query::parse(&user, "link", id)).transpose()?,
            id: id.to_string(),
        })
    }

    /// The user of that address as a super admin, made where there is none.
    async fn super_admin(&mut self, organization: OrganizationId, person: &Person) -> Result<User, DatabaseError> {
        let email = person.email.clone().ok_or(DatabaseError::NotFound("e-mail address for the super admin"))?;
        let row = query::user::select("WHERE organization_id = $1 AND email = $2")
            .bind(organization.to_string())
            .bind(email.as_str())
            .fetch_optional(&mut *self.connection)
            .await?;
        if let Some(row) = row {
            let mut user = query::user::read(&row)?;
            user.roles = user.roles.iter().chain([Role::SuperAdmin]).collect();
            user.method = SignInMethod::Password;
            user.status = UserStatus::Active;
            return Ok(user);
        }
        let user = User {
            id: UserId::generate(),
            organization,
            email,
            first_name: String::new(),
            last_name: String::new(),
            method: SignInMethod::Password,
            roles: [Role::SuperAdmin].into_iter().collect(),
            status: UserStatus::Active,
        };
        self.insert_user(&user).await?;
        self.outcome.created = true;
        Ok(user)
    }

    /// Stores what proves who a user is, in the place of what did before.
    async fn prove(&mut self, user: &User, proof: NewProof) -> Result<(), DatabaseError> {
        let (hash, issuer, subject) = match (proof, user.method) {
            (NewProof::Password(hash), SignInMethod::Password) => (Some(hash.0), None, None),
            (NewProof::Subject { issuer, subject }, SignInMethod::Oidc) => {
                self.check_subject_is_free(user, &issuer, &subject).await?;
                (None, Some(issuer), Some(subject))
            }
            (_, SignInMethod::Password) => {
                return Err(DatabaseError::Conflict("this user signs in by a password".to_owned()));
            }
            (_, SignInMethod::Oidc) => {
                return Err(DatabaseError::Conflict("this user signs in at the identity provider".to_owned()));
            }
        };
        sqlx::query(
            "UPDATE users SET password_hash = $2, issuer = $3, subject = $4, last_sign_in_at = $5 WHERE id = $1",
        )
        .bind(user.id.to_string())
        .bind(hash)
        .bind(issuer)
        .bind(subject)
        .bind(schema::now())
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    async fn check_subject_is_free(&mut self, user: &User, issuer: &str, subject: &str) -> Result<(), DatabaseError> {
        let taken =
            sqlx::query("SELECT 1 FROM users WHERE organization_id = $1 AND issuer = $2 AND subject = $3 AND id <> $4")
                .bind(user.organization.to_string())
                .bind(issuer)
                .bind(subject)
                .bind(user.id.to_string())
                .fetch_optional(&mut *self.connection)
                .await?;
        let told = "another user of the organization signs in with that account already";
        taken.map_or(Ok(()), |_| Err(DatabaseError::Conflict(told.to_owned())))
    }
}
