//! Users, their sessions and their links.

use std::time::Duration;

use secrecy::SecretString;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Row, Sqlite};
use tracing::Instrument;

use super::{corrupt, parse};
use crate::model::id::{LinkId, OrganizationId, SessionId, UserId};
use crate::model::role::{Role, Roles};
use crate::model::user::{Email, User, UserRef};
use crate::vault::database::Database;
use crate::vault::error::DatabaseError;
use crate::vault::list::{List, Page};
use crate::vault::password::PasswordHash;
use crate::vault::schema;
use crate::vault::token;

/// A user with the moments somebody asks for.
#[derive(Clone, Debug)]
pub struct UserRecord {
    /// Who.
    pub user: User,
    /// In milliseconds since 1970.
    pub created_at: i64,
    /// The same; absent where they never signed in.
    pub last_sign_in_at: Option<i64>,
}

/// What it means that a session is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Its user asks for something: it is in use.
    InUse,
    /// It is seen whether it is still there, which makes it live no longer.
    Aside,
}

/// A session as it is stored.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    /// Its public part.
    pub id: SessionId,
    /// Whose.
    pub user: UserId,
    /// As a person knows them.
    pub email: Email,
    /// Where it was opened from.
    pub address: String,
    /// What the browser called itself.
    pub agent: String,
    /// In milliseconds since 1970.
    pub created_at: i64,
    /// The same; written now and then, not with every request.
    pub used_at: i64,
    /// When it ends, used or not.
    pub expires_at: i64,
}

/// What a link is for, while it can be followed.
#[derive(Clone, Debug)]
pub struct OpenLink {
    /// Where it leads.
    pub organization: OrganizationId,
    /// Who may follow it; `None` where it makes a super admin.
    pub user: Option<User>,
}

/// Begins a query for the columns of users that [`read`] reads, and a few more.
pub(in crate::vault) fn select(rest: &str) -> Query<'static, Sqlite, SqliteArguments> {
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT id, organization_id, email, first_name, last_name, method, roles_json, status, password_hash, issuer, \
         subject, created_at, last_sign_in_at FROM users {rest}"
    )))
}

/// Reads a user.
pub(in crate::vault) fn read(row: &SqliteRow) -> Result<User, DatabaseError> {
    let id: String = row.try_get("id")?;
    let text = |column| row.try_get::<String, _>(column);
    let (organization, email, method, status) =
        (text("organization_id")?, text("email")?, text("method")?, text("status")?);
    Ok(User {
        organization: parse(&organization, "user", &id)?,
        email: parse(&email, "user", &id)?,
        first_name: text("first_name")?,
        last_name: text("last_name")?,
        method: parse(&method, "user", &id)?,
        roles: roles(&text("roles_json")?).ok_or_else(|| corrupt("user", &id))?,
        status: parse(&status, "user", &id)?,
        id: parse(&id, "user", &id)?,
    })
}

fn roles(json: &str) -> Option<Roles> {
    let words: Vec<String> = serde_json::from_str(json).ok()?;
    words.iter().map(|word| word.parse::<Role>().ok()).collect()
}

fn record(row: &SqliteRow) -> Result<UserRecord, DatabaseError> {
    Ok(UserRecord {
        user: read(row)?,
        created_at: row.try_get("created_at")?,
        last_sign_in_at: row.try_get("last_sign_in_at")?,
    })
}

impl Database {
    /// The users of an organization, by address.
    pub async fn users(&self, organization: OrganizationId, page: Page<'_>) -> Result<List<UserRecord>, DatabaseError> {
        self.inner.counters.read();
        let rows = select("WHERE organization_id = $1 AND email > $2 ORDER BY email LIMIT $3")
            .bind(organization.to_string())
            .bind(page.cursor().to_owned())
            .bind(page.fetch())
            .fetch_all(&self.inner.readers)
            .await?;
        page.list(&rows, record, |record| record.user.email.to_string())
    }

    /// One user of an organization.
    pub async fn user(
        &self,
        organization: OrganizationId,
        reference: &UserRef,
    ) -> Result<Option<UserRecord>, DatabaseError> {
        self.inner.counters.read();
        let name = match reference {
            UserRef::Id(id) => id.to_string(),
            UserRef::Email(email) => email.to_string(),
        };
        let row = select("WHERE organization_id = $1 AND (id = $2 OR email = $2)")
            .bind(organization.to_string())
            .bind(name)
            .fetch_optional(&self.inner.readers)
            .await?;
        row.as_ref().map(record).transpose()
    }

    /// A user by address, with the hash of their password where they have one.
    pub async fn user_with_password(
        &self,
        organization: OrganizationId,
        email: &Email,
    ) -> Result<Option<(User, Option<PasswordHash>)>, DatabaseError> {
        self.inner.counters.read();
        let row = select("WHERE organization_id = $1 AND email = $2")
            .bind(organization.to_string())
            .bind(email.to_string())
            .fetch_optional(&self.inner.readers)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let hash: Option<String> = row.try_get("password_hash")?;
        Ok(Some((read(&row)?, hash.map(PasswordHash))))
    }

    /// The user that an identity provider knows by this name.
    pub async fn user_of_subject(
        &self,
        organization: OrganizationId,
        issuer: &str,
        subject: &str,
    ) -> Result<Option<User>, DatabaseError> {
        self.inner.counters.read();
        let row = select("WHERE organization_id = $1 AND issuer = $2 AND subject = $3")
            .bind(organization.to_string())
            .bind(issuer.to_owned())
            .bind(subject.to_owned())
            .fetch_optional(&self.inner.readers)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// What a link's token opens. [`DatabaseError::Gone`] where it was used or has expired.
    pub async fn link(&self, presented: &SecretString) -> Result<Option<OpenLink>, DatabaseError> {
        self.inner.counters.read();
        let digest = self.digest_key().await?.digest(presented);
        let Some(id) = token::public_part::<LinkId>(presented) else { return Ok(None) };
        let row = sqlx::query("SELECT organization_id, user_id, digest, expires_at, used_at FROM links WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.inner.readers)
            .await?;
        let Some(row) = row else { return Ok(None) };
        if !token::matches(row.try_get("digest")?, &digest) {
            return Ok(None);
        }
        if row.try_get::<Option<i64>, _>("used_at")?.is_some() {
            return Err(DatabaseError::Gone("this link was used; ask for a new one"));
        }
        if row.try_get::<i64, _>("expires_at")? <= schema::now() {
            return Err(DatabaseError::Gone("this link has expired; ask for a new one"));
        }
        let (organization, user): (String, Option<String>) = (row.try_get("organization_id")?, row.try_get("user_id")?);
        let organization = parse(&organization, "link", id)?;
        let user = match user {
            Some(user) => self.user(organization, &UserRef::Id(parse(&user, "link", id)?)).await?,
            None => None,
        };
        Ok(Some(OpenLink { organization, user: user.map(|record| record.user) }))
    }

    /// The session whose token was presented, with its user as they are now. `None` also where it has ended: by itself,
    /// by somebody, or because nobody used it for `idle`.
    pub async fn session(
        &self,
        presented: &SecretString,
        idle: Duration,
        look: Look,
    ) -> Result<Option<(SessionRecord, User)>, DatabaseError> {
        self.inner.counters.read();
        let digest = self.digest_key().await?.digest(presented);
        let Some(id) = token::public_part::<SessionId>(presented) else { return Ok(None) };
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{SESSION} WHERE s.id = $1")))
            .bind(id.to_string())
            .fetch_optional(&self.inner.readers)
            .await?;
        let Some(row) = row else { return Ok(None) };
        if !token::matches(row.try_get("digest")?, &digest) {
            return Ok(None);
        }
        let session = session(&row)?;
        let now = schema::now();
        let idle = i64::try_from(idle.as_millis()).unwrap_or(i64::MAX);
        if session.expires_at <= now || now.saturating_sub(session.used_at) >= idle {
            // It does not come back, not even where the clock is set back.
            self.forget_session(id).await;
            return Ok(None);
        }
        // Written now and then, so that a session in use costs no write for each request.
        if look == Look::InUse && now.saturating_sub(session.used_at) > (idle / 8).min(60_000) {
            self.touch_session(id, now).await;
        }
        let organization: String = row.try_get("organization_id")?;
        let organization = parse(&organization, "session", id)?;
        let user = self.user(organization, &UserRef::Id(session.user)).await?;
        Ok(user.map(|record| (session, record.user)))
    }

    /// The sessions of an organization, or of one of its users, in the order they were opened.
    pub async fn sessions(
        &self,
        organization: OrganizationId,
        of: Option<UserId>,
        idle: Duration,
        page: Page<'_>,
    ) -> Result<List<SessionRecord>, DatabaseError> {
        self.inner.counters.read();
        let now = schema::now();
        let idle = i64::try_from(idle.as_millis()).unwrap_or(i64::MAX);
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{SESSION} WHERE s.organization_id = $1 AND ($2 IS NULL OR s.user_id = $2) AND s.id > $3 \
             AND s.expires_at > $4 AND s.used_at > $5 ORDER BY s.id LIMIT $6"
        )))
        .bind(organization.to_string())
        .bind(of.map(|user| user.to_string()))
        .bind(page.cursor().to_owned())
        .bind(now)
        .bind(now.saturating_sub(idle))
        .bind(page.fetch())
        .fetch_all(&self.inner.readers)
        .await?;
        page.list(&rows, session, |session| session.id.to_string())
    }

    /// Notes that a session was used. Where that cannot be written the session only ends earlier.
    async fn touch_session(&self, id: SessionId, now: i64) {
        let touched = sqlx::query("UPDATE sessions SET used_at = $2 WHERE id = $1").bind(id.to_string()).bind(now);
        self.aside(touched).await;
    }

    async fn forget_session(&self, id: SessionId) {
        self.aside(sqlx::query("DELETE FROM sessions WHERE id = $1").bind(id.to_string())).await;
    }

    /// Writes what is no change of anything and may fail.
    async fn aside(&self, statement: Query<'static, Sqlite, SqliteArguments>) {
        if self.inner.check_writable().is_err() {
            return;
        }
        let inner = self.inner.clone();
        let work = async move {
            let error = statement.execute(&inner.writer).await.map_err(DatabaseError::from).err()?;
            Some(inner.note(error))
        };
        let task = self.inner.runtime.spawn(work.in_current_span());
        if let Ok(Some(error)) = task.await {
            tracing::warn!(%error, "the use of a session was not noted");
        }
    }
}

const SESSION: &str = "SELECT s.id, s.organization_id, s.user_id, s.digest, s.address, s.agent, s.created_at, s.used_at, \
     s.expires_at, u.email FROM sessions s JOIN users u ON u.id = s.user_id";

fn session(row: &SqliteRow) -> Result<SessionRecord, DatabaseError> {
    let id: String = row.try_get("id")?;
    let (user, email): (String, String) = (row.try_get("user_id")?, row.try_get("email")?);
    Ok(SessionRecord {
        user: parse(&user, "session", &id)?,
        email: parse(&email, "session", &id)?,
        address: row.try_get("address")?,
        agent: row.try_get("agent")?,
        created_at: row.try_get("created_at")?,
        used_at: row.try_get("used_at")?,
        expires_at: row.try_get("expires_at")?,
        id: parse(&id, "session", &id)?,
    })
}
