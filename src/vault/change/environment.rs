//! Environments: their names, their order, and what they are for.
//!
//! A sealed value is bound to the name of its environment, so renaming one seals all its values anew, in the one
//! transaction of the change.

use std::collections::BTreeSet;

use serde_json::json;
use sqlx::{Row, SqliteConnection};

use super::resource::EnvironmentDraft;
use super::{Event, Writing};
use crate::model::id::{ConnectionId, OrganizationId};
use crate::model::name::{EnvironmentName, SecretKey};
use crate::model::version::Version;
use crate::vault::error::DatabaseError;
use crate::vault::query::{self, Opening};
use crate::vault::revision::Subject;
use crate::vault::seal::{Place, Sealed};

/// What a new organization begins with, in this order.
pub(in crate::vault) const DEFAULT_ENVIRONMENTS: [&str; 3] = ["development", "staging", "production"];

/// What an environment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Workflows are built with its credentials.
    Design,
    /// Nothing that is known here.
    Any,
}

pub(super) async fn insert_environment(
    connection: &mut SqliteConnection,
    organization: OrganizationId,
    name: &str,
    position: i64,
    purpose: Purpose,
) -> Result<Version, DatabaseError> {
    let version = Version::fresh();
    sqlx::query(
        "INSERT INTO environments (organization_id, name, position, designer, version) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(organization.to_string())
    .bind(name)
    .bind(position)
    .bind(purpose == Purpose::Design)
    .bind(version.number())
    .execute(connection)
    .await?;
    Ok(version)
}

impl Writing<'_> {
    pub(super) async fn create_environment(
        &mut self,
        organization: OrganizationId,
        draft: &EnvironmentDraft,
    ) -> Result<Event, DatabaseError> {
        let EnvironmentDraft { name, position, designer } = draft;
        self.require_organization(organization).await?;
        let all = self.environments(organization).await?;
        self.expect_environment(organization, name).await?;
        if all.contains(name) {
            return Err(taken(name));
        }
        let purpose = self.purpose(organization, designer.unwrap_or(false)).await?;
        let last = i64::try_from(all.len()).unwrap_or(i64::MAX);
        let version = insert_environment(self.connection, organization, name.as_str(), last, purpose).await?;
        self.outcome.version = Some(version);
        self.order(organization, all, name, position.or(Some(u32::MAX))).await?;
        self.outcome.created = true;
        let detail = json!({ "position": position, "designer": designer });
        Ok(Event { organization, action: "environment.create", object: name.to_string(), detail })
    }

    pub(super) async fn put_environment(
        &mut self,
        organization: OrganizationId,
        name: &EnvironmentName,
        draft: &EnvironmentDraft,
    ) -> Result<Event, DatabaseError> {
        self.expect_environment(organization, name).await?;
        let mut all = self.environments(organization).await?;
        let at = all.iter().position(|other| other == name).ok_or(DatabaseError::NotFound("environment"))?;
        // Of a renamed one it is not known any more.
        let was = self.is_designers(organization, name).await?;
        if draft.name != *name {
            if all.contains(&draft.name) {
                return Err(taken(&draft.name));
            }
            self.rename_environment(organization, name, &draft.name).await?;
            all[at] = draft.name.clone();
        }
        let purpose = self.purpose(organization, draft.designer.unwrap_or(was)).await?;
        let version = self.next_version();
        sqlx::query("UPDATE environments SET designer = $3, version = $4 WHERE organization_id = $1 AND name = $2")
            .bind(organization.to_string())
            .bind(draft.name.as_str())
            .bind(purpose == Purpose::Design)
            .bind(version)
            .execute(&mut *self.connection)
            .await?;
        let at = u32::try_from(at).unwrap_or(u32::MAX);
        self.order(organization, all, &draft.name, draft.position.or(Some(at))).await?;
        let action = if draft.name == *name { "environment.replace" } else { "environment.rename" };
        let detail = json!({ "name": draft.name, "position": draft.position, "designer": draft.designer });
        Ok(Event { organization, action, object: name.to_string(), detail })
    }

    pub(super) async fn delete_environment(
        &mut self,
        organization: OrganizationId,
        name: &EnvironmentName,
    ) -> Result<Event, DatabaseError> {
        self.expect_environment(organization, name).await?;
        self.require_environment(organization, name).await?;
        let used: i64 = sqlx::query_scalar(
            "SELECT (SELECT COUNT(*) FROM credentials WHERE organization_id = $1 AND environment = $2) \
             + (SELECT COUNT(*) FROM secret_values WHERE organization_id = $1 AND environment = $2)",
        )
        .bind(organization.to_string())
        .bind(name.as_str())
        .fetch_one(&mut *self.connection)
        .await?;
        if used > 0 {
            return Err(DatabaseError::InUse(format!("there are credentials or secrets in {name}; delete them first")));
        }
        self.require_unnamed(organization, name).await?;
        for statement in [
            "DELETE FROM credential_removals WHERE organization_id = $1 AND environment = $2",
            "DELETE FROM connection_uses WHERE organization_id = $1 AND environment = $2",
            "DELETE FROM environments WHERE organization_id = $1 AND name = $2",
        ] {
            let delete = sqlx::query(statement).bind(organization.to_string()).bind(name.as_str());
            delete.execute(&mut *self.connection).await?;
        }
        Ok(Event { organization, action: "environment.delete", object: name.to_string(), detail: json!({}) })
    }

    async fn expect_environment(
        &mut self,
        organization: OrganizationId,
        name: &EnvironmentName,
    ) -> Result<(), DatabaseError> {
        let version = sqlx::query_scalar("SELECT version FROM environments WHERE organization_id = $1 AND name = $2")
            .bind(organization.to_string())
            .bind(name.as_str())
            .fetch_optional(&mut *self.connection)
            .await?;
        self.expect(version, organization, name)
    }

    async fn is_designers(
        &mut self,
        organization: OrganizationId,
        name: &EnvironmentName,
    ) -> Result<bool, DatabaseError> {
        let found = sqlx::query_scalar("SELECT designer FROM environments WHERE organization_id = $1 AND name = $2")
            .bind(organization.to_string())
            .bind(name.as_str());
        Ok(found.fetch_optional(&mut *self.connection).await?.unwrap_or(false))
    }

    /// There is one designer's environment at most: the last one that was said to be it.
    async fn purpose(&mut self, organization: OrganizationId, designer: bool) -> Result<Purpose, DatabaseError> {
        if !designer {
            return Ok(Purpose::Any);
        }
        let version = Version::fresh().number();
        sqlx::query("UPDATE environments SET designer = 0, version = $2 WHERE organization_id = $1 AND designer = 1")
            .bind(organization.to_string())
            .bind(version)
            .execute(&mut *self.connection)
            .await?;
        Ok(Purpose::Design)
    }

    /// Puts one environment in its place among the others.
    async fn order(
        &mut self,
        organization: OrganizationId,
        mut all: Vec<EnvironmentName>,
        name: &EnvironmentName,
        position: Option<u32>,
    ) -> Result<(), DatabaseError> {
        all.retain(|other| other != name);
        let position = position.and_then(|position| usize::try_from(position).ok()).unwrap_or(usize::MAX);
        all.insert(position.min(all.len()), name.clone());
        for (position, name) in (0i64..).zip(&all) {
            sqlx::query("UPDATE environments SET position = $3 WHERE organization_id = $1 AND name = $2")
                .bind(organization.to_string())
                .bind(name.as_str())
                .bind(position)
                .execute(&mut *self.connection)
                .await?;
        }
        Ok(())
    }

    async fn rename_environment(
        &mut self,
        organization: OrganizationId,
        from: &EnvironmentName,
        to: &EnvironmentName,
    ) -> Result<(), DatabaseError> {
        insert_environment(self.connection, organization, to.as_str(), 0, Purpose::Any).await?;
        self.move_credentials(organization, from, to).await?;
        self.move_secrets(organization, from, to).await?;
        self.move_api_keys(organization, from, to).await?;
        for statement in [
            "UPDATE credential_entries SET environment = $3 WHERE organization_id = $1 AND environment = $2",
            "UPDATE credential_removals SET environment = $3 WHERE organization_id = $1 AND environment = $2",
            "UPDATE connection_uses SET environment = $3 WHERE organization_id = $1 AND environment = $2",
            "DELETE FROM environments WHERE organization_id = $1 AND name = $2 AND name != $3",
        ] {
            let moving = sqlx::query(statement).bind(organization.to_string()).bind(from.as_str()).bind(to.as_str());
            moving.execute(&mut *self.connection).await?;
        }
        Ok(())
    }

    async fn move_credentials(
        &mut self,
        organization: OrganizationId,
        from: &EnvironmentName,
        to: &EnvironmentName,
    ) -> Result<(), DatabaseError> {
        let masters = self.inner.masters.all();
        let rows = sqlx::query(
            "SELECT c.connection_id, c.field, c.version, c.key_id AS value_key_id, c.nonce AS value_nonce, \
             c.ciphertext AS value_ciphertext, k.id, k.organization_id, k.purpose, k.master_key_id, k.nonce, \
             k.ciphertext FROM credentials c LEFT JOIN data_keys k ON k.id = c.key_id \
             WHERE c.organization_id = $1 AND c.environment = $2",
        )
        .bind(organization.to_string())
        .bind(from.as_str())
        .fetch_all(&mut *self.connection)
        .await?;
        if rows.is_empty() {
            return Ok(());
        }
        let (key, next) = self.sealing_key(organization, rows.len()).await?;
        let mut opening = Opening::new(self.inner, &masters);
        let mut moved = BTreeSet::new();
        for row in &rows {
            let (id, field): (String, String) = (row.try_get("connection_id")?, row.try_get("field")?);
            let connection: ConnectionId = query::parse(&id, "credential", &id)?;
            let version: i64 = row.try_get("version")?;
            let place = |environment, version| Place::Credential {
                organization,
                connection,
                environment,
                field: &field,
                version,
            };
            // What was damaged stays so, under the new name.
            let opened = opening.value(row, |key, sealed| key.open_bytes(&place(from, version), sealed));
            let (version, sealed) = match opened {
                Some(bytes) => (next, key.sealing(&self.inner.counters).seal_bytes(&place(to, next), &bytes)?),
                None => (version, query::sealed(row)?),
            };
            let Sealed { key_id, nonce, ciphertext } = sealed;
            sqlx::query(
                "UPDATE credentials SET environment = $4, version = $5, key_id = $6, nonce = $7, ciphertext = $8 \
                 WHERE connection_id = $1 AND environment = $2 AND field = $3",
            )
            .bind(&id)
            .bind(from.as_str())
            .bind(&field)
            .bind(to.as_str())
            .bind(version)
            .bind(key_id)
            .bind(nonce)
            .bind(ciphertext)
            .execute(&mut *self.connection)
            .await?;
            moved.insert(connection);
        }
        let both = moved.into_iter().flat_map(|id| [from, to].map(|name| Subject::Credential(id, name.clone())));
        self.outcome.subjects.extend(both);
        Ok(())
    }

    async fn move_secrets(
        &mut self,
        organization: OrganizationId,
        from: &EnvironmentName,
        to: &EnvironmentName,
    ) -> Result<(), DatabaseError> {
        let masters = self.inner.masters.all();
        let rows = sqlx::query(
            "SELECT v.secret_id, s.key, v.version, v.key_id AS value_key_id, v.nonce AS value_nonce, \
             v.ciphertext AS value_ciphertext, k.id, k.organization_id, k.purpose, k.master_key_id, k.nonce, \
             k.ciphertext FROM secret_values v JOIN secrets s ON s.id = v.secret_id \
             LEFT JOIN data_keys k ON k.id = v.key_id WHERE v.organization_id = $1 AND v.environment = $2",
        )
        .bind(organization.to_string())
        .bind(from.as_str())
        .fetch_all(&mut *self.connection)
        .await?;
        if rows.is_empty() {
            return Ok(());
        }
        let (data_key, next) = self.sealing_key(organization, rows.len()).await?;
        let mut opening = Opening::new(self.inner, &masters);
        for row in &rows {
            let (id, name): (String, String) = (row.try_get("secret_id")?, row.try_get("key")?);
            let key: SecretKey = query::parse(&name, "secret", &id)?;
            let version: i64 = row.try_get("version")?;
            let place = |environment, version| Place::Secret { organization, key: &key, environment, version };
            let opened = opening.value(row, |key, sealed| key.open_bytes(&place(from, version), sealed));
            let (version, sealed) = match opened {
                Some(bytes) => (next, data_key.sealing(&self.inner.counters).seal_bytes(&place(to, next), &bytes)?),
                None => (version, query::sealed(row)?),
            };
            let Sealed { key_id, nonce, ciphertext } = sealed;
            sqlx::query(
                "UPDATE secret_values SET environment = $3, version = $4, key_id = $5, nonce = $6, ciphertext = $7 \
                 WHERE secret_id = $1 AND environment = $2",
            )
            .bind(&id)
            .bind(from.as_str())
            .bind(to.as_str())
            .bind(version)
            .bind(key_id)
            .bind(nonce)
            .bind(ciphertext)
            .execute(&mut *self.connection)
            .await?;
            let subject =
                |environment: &EnvironmentName| Subject::Secret(organization, key.clone(), environment.clone());
            self.outcome.subjects.extend([subject(from), subject(to)]);
        }
        Ok(())
    }
}

fn taken(name: &EnvironmentName) -> DatabaseError {
    DatabaseError::Conflict(format!("there is an environment {name} already"))
}
