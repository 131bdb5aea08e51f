//! Users: who they are and what they may do.
//!
//! Whoever changes a user brings the roles they have themselves: nobody gives what they do not have, and nobody changes
//! somebody who has more. One active super admin always stays.

use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::link::{NewLink, NewProof, Person};
use super::session::NewSession;
use super::{Event, Writing};
use crate::model::id::{ApiKeyId, OrganizationId, SessionId, UserId};
use crate::model::role::{Role, Roles};
use crate::model::user::{User, UserStatus};
use crate::vault::audit;
use crate::vault::derived;
use crate::vault::error::DatabaseError;
use crate::vault::password::PasswordHash;
use crate::vault::query;
use crate::vault::revision::Subject;
use crate::vault::revoked::Revoked;
use crate::vault::schema;

/// What may be done with users.
#[derive(Debug)]
pub enum UserChange {
    /// A new user, who may sign in when the link was followed.
    Invite {
        /// The user; `status` is [`UserStatus::Invited`].
        user: Box<User>,
        /// The way in.
        link: NewLink,
        /// The roles of whoever invites.
        by: Roles,
    },
    /// A new link for a user; earlier ones are of no use any more. Until it was followed everything stays as it was.
    Renew {
        /// Which.
        user: UserKey,
        /// The way in.
        link: NewLink,
        /// The roles of whoever does it.
        by: Roles,
    },
    /// Names and roles as they are to be. Other roles end the user's sessions.
    Edit {
        /// Which.
        user: UserKey,
        /// A new first name.
        first_name: Option<String>,
        /// A new last name.
        last_name: Option<String>,
        /// All roles from now on.
        roles: Option<Roles>,
        /// The roles of whoever does it.
        by: Roles,
    },
    /// No sign-in any more; the user's sessions end.
    Disable {
        /// Which.
        user: UserKey,
        /// The roles of whoever does it.
        by: Roles,
    },
    /// Undoes [`UserChange::Disable`].
    Enable {
        /// Which.
        user: UserKey,
        /// The roles of whoever does it.
        by: Roles,
    },
    /// With their sessions and links.
    Delete {
        /// Which.
        user: UserKey,
        /// The roles of whoever does it.
        by: Roles,
    },
    /// A link that makes a super admin, or lets one back in.
    AdminLink {
        /// Where the super admin will be at home.
        organization: OrganizationId,
        /// The way in.
        link: NewLink,
    },
    /// Follows a link: whoever holds it is the user from now on, and signed in.
    Accept {
        /// The link's token.
        link: SecretString,
        /// How the user will prove who they are.
        proof: NewProof,
        /// Who a new super admin is; for an invitation, the names as the user writes them.
        person: Person,
        /// The session that begins.
        session: NewSession,
    },
    /// Signs a user out everywhere.
    EndSessions {
        /// Which.
        user: UserKey,
        /// The roles of whoever does it.
        by: Roles,
    },
    /// A user's own new password. Their other sessions end.
    SetPassword {
        /// Which.
        user: UserKey,
        /// The hash that the old password was compared with.
        old: PasswordHash,
        /// The new one's.
        new: PasswordHash,
        /// The session that goes on.
        keep: Option<SessionId>,
    },
}

/// A user of an organization.
#[derive(Clone, Copy, Debug)]
pub struct UserKey {
    /// Whose.
    pub organization: OrganizationId,
    /// Which.
    pub id: UserId,
}

/// What stops a key until somebody has looked at it.
const SUSPENDED: &str = "status = 'suspended'";

const OUTRANKED: DatabaseError = DatabaseError::NotPermitted("nobody gives or changes roles above their own");

impl Writing<'_> {
    pub(super) async fn change_user(&mut self, change: UserChange) -> Result<Event, DatabaseError> {
        match change {
            UserChange::Invite { user, link, by } => self.invite(&user, &link, by).await,
            UserChange::Renew { user, link, by } => {
                let known = self.user_below(user, by).await?;
                self.drop_links(user.id).await?;
                self.insert_link(user.organization, Some(user.id), &link).await?;
                Ok(event(&known, "user.renew_link", json!({})))
            }
            UserChange::Edit { user, first_name, last_name, roles, by } => {
                self.edit_user(user, first_name, last_name, roles, by).await
            }
            UserChange::Disable { user, by } => self.set_enabled(user, by, false).await,
            UserChange::Enable { user, by } => self.set_enabled(user, by, true).await,
            UserChange::Delete { user, by } => self.delete_user(user, by).await,
            UserChange::EndSessions { user, by } => {
                let known = self.user_below(user, by).await?;
                self.end_sessions(user.id, None).await?;
                Ok(event(&known, "user.end_sessions", json!({})))
            }
            UserChange::AdminLink { organization, link } => {
                self.require_organization(organization).await?;
                self.insert_link(organization, None, &link).await?;
                let object = link.token.id.to_string();
                Ok(Event { organization, action: "admin_link.create", object, detail: json!({}) })
            }
            UserChange::Accept { link, proof, person, session } => self.accept(&link, proof, person, &session).await,
            UserChange::SetPassword { user, old, new, keep } => self.set_password(user, &old, &new, keep).await,
        }
    }

    async fn invite(&mut self, user: &User, link: &NewLink, by: Roles) -> Result<Event, DatabaseError> {
        self.require_organization(user.organization).await?;
        self.expect(None, user.organization, user.id)?;
        if !by.cover(user.roles) {
            return Err(OUTRANKED);
        }
        let taken = sqlx::query("SELECT 1 FROM users WHERE organization_id = $1 AND email = $2")
            .bind(user.organization.to_string())
            .bind(user.email.as_str())
            .fetch_optional(&mut *self.connection)
            .await?;
        if taken.is_some() {
            return Err(DatabaseError::Conflict(format!("there is a user {} already", user.email)));
        }
        self.insert_user(user).await?;
        self.insert_link(user.organization, Some(user.id), link).await?;
        self.outcome.created = true;
        Ok(event(user, "user.invite", audit::difference(&Value::Null, &shown(user))))
    }

    pub(super) async fn insert_user(&mut self, user: &User) -> Result<(), DatabaseError> {
        sqlx::query(
            "INSERT INTO users (id, organization_id, email, first_name, last_name, method, roles_json, status, \
             created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)",
        )
        .bind(user.id.to_string())
        .bind(user.organization.to_string())
        .bind(user.email.as_str())
        .bind(&user.first_name)
        .bind(&user.last_name)
        .bind(user.method.as_str())
        .bind(roles_column(user.roles))
        .bind(user.status.as_str())
        .bind(schema::now())
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    /// Stores everything of a user but what proves who they are.
    pub(super) async fn update_user(&mut self, user: &User) -> Result<(), DatabaseError> {
        sqlx::query(
            "UPDATE users SET first_name = $2, last_name = $3, method = $4, roles_json = $5, status = $6, \
             updated_at = $7 WHERE id = $1",
        )
        .bind(user.id.to_string())
        .bind(&user.first_name)
        .bind(&user.last_name)
        .bind(user.method.as_str())
        .bind(roles_column(user.roles))
        .bind(user.status.as_str())
        .bind(schema::now())
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    async fn edit_user(
        &mut self,
        key: UserKey,
        first_name: Option<String>,
        last_name: Option<String>,
        roles: Option<Roles>,
        by: Roles,
    ) -> Result<Event, DatabaseError> {
        let before = self.user_below(key, by).await?;
        let mut after = before.clone();
        after.first_name = first_name.unwrap_or(after.first_name);
        after.last_name = last_name.unwrap_or(after.last_name);
        after.roles = roles.unwrap_or(after.roles);
        if !by.cover(after.roles) {
            return Err(OUTRANKED);
        }
        self.keep_a_super_admin(&before, Some(&after)).await?;
        self.update_user(&after).await?;
        let mut detail = audit::difference(&shown(&before), &shown(&after));
        if after.roles != before.roles {
            self.end_sessions(key.id, None).await?;
            let beyond = self.keys_beyond(key.id, after.roles).await?;
            if !beyond.is_empty() {
                detail["suspended_keys"] = json!(self.stop_keys(&beyond, SUSPENDED).await?);
            }
        }
        Ok(event(&after, "user.edit", detail))
    }

    async fn set_enabled(&mut self, key: UserKey, by: Roles, enabled: bool) -> Result<Event, DatabaseError> {
        let before = self.user_below(key, by).await?;
        let mut after = before.clone();
        after.status = match (enabled, before.status) {
            (true, UserStatus::Disabled) if self.has_proof(key.id).await? => UserStatus::Active,
            (true, UserStatus::Disabled) => UserStatus::Invited,
            (true, status) => status,
            (false, _) => UserStatus::Disabled,
        };
        self.keep_a_super_admin(&before, Some(&after)).await?;
        self.update_user(&after).await?;
        let mut detail = audit::difference(&shown(&before), &shown(&after));
        if !enabled {
            self.end_sessions(key.id, None).await?;
            let keys = self.keys_of(key.id).await?;
            detail["suspended_keys"] = json!(self.stop_keys(&keys, SUSPENDED).await?);
        }
        Ok(event(&after, if enabled { "user.enable" } else { "user.disable" }, detail))
    }

    async fn delete_user(&mut self, key: UserKey, by: Roles) -> Result<Event, DatabaseError> {
        let before = self.user_below(key, by).await?;
        self.keep_a_super_admin(&before, None).await?;
        let mut detail = audit::difference(&shown(&before), &Value::Null);
        // As when they are revoked: nothing can be compared with them any more.
        let revoke = "status = 'revoked', digest = x'', previous_digest = NULL, previous_until = NULL";
        let keys = self.keys_of(key.id).await?;
        detail["revoked_keys"] = json!(self.stop_keys(&keys, revoke).await?);
        sqlx::query("DELETE FROM users WHERE id = $1").bind(key.id.to_string()).execute(&mut *self.connection).await?;
        Ok(event(&before, "user.delete", detail))
    }

    /// The API keys that belong to a user, which act in their name.
    async fn keys_of(&mut self, user: UserId) -> Result<Vec<(ApiKeyId, Roles)>, DatabaseError> {
        let rows = sqlx::query("SELECT id, roles_json FROM api_keys WHERE owner_id = $1 AND status <> 'revoked'")
            .bind(user.to_string())
            .fetch_all(&mut *self.connection)
            .await?;
        let read = |row: &SqliteRow| {
            let (id, roles): (String, String) = (row.try_get("id")?, row.try_get("roles_json")?);
            let corrupt = || DatabaseError::Corrupt { what: "API key", id: id.clone() };
            Ok((query::parse(&id, "API key", &id)?, query::api_key::read_roles(&roles).ok_or_else(corrupt)?))
        };
        rows.iter().map(read).collect()
    }

    /// Those of them that may do what the user's roles do not grant any more. That somebody's workflows call through the
    /// proxy is no power over others: it stays.
    async fn keys_beyond(&mut self, user: UserId, roles: Roles) -> Result<Vec<(ApiKeyId, Roles)>, DatabaseError> {
        let granted: Roles = roles.iter().chain([Role::Caller]).collect();
        let mut keys = self.keys_of(user).await?;
        keys.retain(|(_, roles)| !granted.cover(*roles));
        Ok(keys)
    }

    /// Stops API keys; says which. Enabling their owner, or giving roles back, resumes none: somebody has to look at them.
    async fn stop_keys(&mut self, keys: &[(ApiKeyId, Roles)], how: &'static str) -> Result<Vec<String>, DatabaseError> {
        for (id, _) in keys {
            sqlx::query(sqlx::AssertSqlSafe(format!("UPDATE api_keys SET {how} WHERE id = $1")))
                .bind(id.to_string())
                .execute(&mut *self.connection)
                .await?;
            self.outcome.subjects.push(Subject::ApiKey(*id));
            self.outcome.revoked.push(Revoked::Key(*id));
        }
        Ok(keys.iter().map(|(id, _)| id.to_string()).collect())
    }

    /// A user that whoever asks may change: one who has no more roles than they.
    async fn user_below(&mut self, key: UserKey, by: Roles) -> Result<User, DatabaseError> {
        let user = self.expected_user(key).await?;
        if by.cover(user.roles) { Ok(user) } else { Err(OUTRANKED) }
    }

    /// A user who is as the change expects.
    async fn expected_user(&mut self, key: UserKey) -> Result<User, DatabaseError> {
        let user = self.user(key).await?;
        self.expect(Some(derived::of_user(&user).number()), key.organization, key.id)?;
        Ok(user)
    }

    pub(super) async fn user(&mut self, key: UserKey) -> Result<User, DatabaseError> {
        let row = query::user::select("WHERE organization_id = $1 AND id = $2")
            .bind(key.organization.to_string())
            .bind(key.id.to_string())
            .fetch_optional(&mut *self.connection)
            .await?;
        query::user::read(&row.ok_or(DatabaseError::NotFound("user"))?)
    }

    /// Whether a user can prove who they are.
    async fn has_proof(&mut self, user: UserId) -> Result<bool, DatabaseError> {
        let row =
            sqlx::query("SELECT password_hash IS NOT NULL OR subject IS NOT NULL AS proof FROM users WHERE id = $1")
                .bind(user.to_string())
                .fetch_one(&mut *self.connection)
                .await?;
        Ok(row.try_get("proof")?)
    }

    /// Refuses to take the last super admin who can sign in.
    async fn keep_a_super_admin(&mut self, before: &User, after: Option<&User>) -> Result<(), DatabaseError> {
        let counts = |user: &User| user.status == UserStatus::Active && user.roles.has(Role::SuperAdmin);
        if !counts(before) || after.is_some_and(counts) {
            return Ok(());
        }
        let others: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM users WHERE status = 'active' AND id <> $1 AND roles_json LIKE '%\"super_admin\"%'",
        )
        .bind(before.id.to_string())
        .fetch_one(&mut *self.connection)
        .await?;
        match others {
            0 => Err(DatabaseError::InUse(format!("{} is the last super admin; make another one first", before.email))),
            _ => Ok(()),
        }
    }

    async fn set_password(
        &mut self,
        key: UserKey,
        old: &PasswordHash,
        new: &PasswordHash,
        keep: Option<SessionId>,
    ) -> Result<Event, DatabaseError> {
        let user = self.expected_user(key).await?;
        let changed = sqlx::query(
            "UPDATE users SET password_hash = $3, updated_at = $4 \
             WHERE id = $1 AND password_hash = $2 AND status = 'active'",
        )
        .bind(key.id.to_string())
        .bind(&old.0)
        .bind(&new.0)
        .bind(schema::now())
        .execute(&mut *self.connection)
        .await?;
        if changed.rows_affected() == 0 {
            return Err(DatabaseError::Conflict("the password was changed by somebody else just now".to_owned()));
        }
        self.drop_links(key.id).await?;
        self.end_sessions(key.id, keep).await?;
        Ok(event(&user, "user.set_password", json!({})))
    }
}

fn roles_column(roles: Roles) -> String {
    // A list of words always is JSON.
    serde_json::to_string(&roles).unwrap_or_default()
}

pub(super) fn event(user: &User, action: &'static str, detail: Value) -> Event {
    Event { organization: user.organization, action, object: user.id.to_string(), detail }
}

/// What an event tells of a user.
pub(super) fn shown(user: &User) -> Value {
    json!({
        "email": user.email,
        "first_name": user.first_name,
        "last_name": user.last_name,
        "method": user.method,
        "roles": user.roles,
        "status": user.status,
    })
}
