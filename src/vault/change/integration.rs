//! Integrations: every version of them is kept, and connections follow the newest.

use serde_json::{Value, json};
use sqlx::Row;

use super::resource::{Place, Reach};
use super::{Event, PutMode, Writing};
use crate::model::id::{IntegrationId, OrganizationId};
use crate::model::integration::{Integration, Values};
use crate::model::name::Key;
use crate::vault::error::DatabaseError;
use crate::vault::query;
use crate::vault::revision::Subject;
use crate::vault::schema;

/// An integration that is there.
struct Found {
    id: String,
    document: String,
    number: i64,
    version: i64,
    moved_at: i64,
}

impl Place {
    /// What stands in the column of the organization.
    fn column(self) -> Option<String> {
        (self.reach == Reach::Organization).then(|| self.organization.to_string())
    }

    fn subject(self, slug: &Key) -> Subject {
        match self.reach {
            Reach::Organization => Subject::Integration(self.organization, slug.clone()),
            Reach::System => Subject::SystemIntegration(slug.clone()),
        }
    }
}

impl Writing<'_> {
    pub(super) async fn put_integration(
        &mut self,
        place: Place,
        integration: &Integration,
        mode: PutMode,
    ) -> Result<Event, DatabaseError> {
        let organization = place.organization;
        self.require_organization(organization).await?;
        let slug = &integration.slug;
        let found = self.integration_named(place, slug).await?;
        self.expect(found.as_ref().map(|found| found.version), organization, slug)?;
        match &found {
            Some(_) if mode == PutMode::Create => return Err(taken(slug)),
            None if place.reach == Reach::Organization => self.check_not_the_systems(slug).await?,
            _ => {}
        }
        // What cannot be read any more may have led anywhere.
        let before = found.as_ref().map(|found| read(&found.document, slug));
        let moved = before.as_ref().is_some_and(|before| !before.as_ref().is_some_and(|b| b.leads_as(integration)));
        let number = self.write_integration(place, integration, found.as_ref(), moved).await?;
        self.outcome.created = found.is_none();
        self.outcome.subjects.push(place.subject(slug));
        let action = if found.is_none() { "integration.create" } else { "integration.replace" };
        let detail = json!({ "number": number, "moved": moved, "system": place.reach == Reach::System });
        Ok(Event { organization, action, object: slug.to_string(), detail })
    }

    async fn write_integration(
        &mut self,
        place: Place,
        integration: &Integration,
        found: Option<&Found>,
        moved: bool,
    ) -> Result<i64, DatabaseError> {
        let (now, document) = (schema::now(), integration.document.to_string());
        let id = found.map_or_else(|| integration.id.to_string(), |found| found.id.clone());
        let changed = found.is_none_or(|found| found.document != document);
        let number = found.map_or(0, |found| found.number) + i64::from(changed);
        let moved_at = found.filter(|_| !moved).map_or(now, |found| found.moved_at);
        let version = self.next_version();
        sqlx::query(
            "INSERT INTO integrations (id, organization_id, slug, document, number, version, created_at, updated_at, \
             moved_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8) ON CONFLICT (id) DO UPDATE SET document = $4, \
             number = $5, version = $6, updated_at = $7, moved_at = $8",
        )
        .bind(&id)
        .bind(place.column())
        .bind(integration.slug.as_str())
        .bind(&document)
        .bind(number)
        .bind(version)
        .bind(now)
        .bind(moved_at)
        .execute(&mut *self.connection)
        .await?;
        if changed {
            sqlx::query(
                "INSERT INTO integration_versions (integration_id, number, document, actor, created_at) \
                 VALUES ($1, $2, $3, $4, $5)",
            )
            .bind(&id)
            .bind(number)
            .bind(&document)
            .bind(&self.author.actor)
            .bind(now)
            .execute(&mut *self.connection)
            .await?;
        }
        Ok(number)
    }

    async fn integration_named(&mut self, place: Place, slug: &Key) -> Result<Option<Found>, DatabaseError> {
        let row = sqlx::query(
            "SELECT id, document, number, version, moved_at FROM integrations WHERE organization_id IS $1 AND slug = $2",
        )
        .bind(place.column())
        .bind(slug.as_str())
        .fetch_optional(&mut *self.connection)
        .await?;
        let found = |row: &sqlx::sqlite::SqliteRow| {
            Ok::<_, DatabaseError>(Found {
                id: row.try_get("id")?,
                document: row.try_get("document")?,
                number: row.try_get("number")?,
                version: row.try_get("version")?,
                moved_at: row.try_get("moved_at")?,
            })
        };
        row.as_ref().map(found).transpose()
    }

    /// What all organizations use is not overshadowed by one of them: its connections would lead elsewhere.
    async fn check_not_the_systems(&mut self, slug: &Key) -> Result<(), DatabaseError> {
        let found = sqlx::query("SELECT 1 FROM integrations WHERE organization_id IS NULL AND slug = $1")
            .bind(slug.as_str())
            .fetch_optional(&mut *self.connection)
            .await?;
        if found.is_none() {
            return Ok(());
        }
        Err(DatabaseError::Conflict(format!(
            "the integration {slug} is the whole system's; create one of another slug for what differs"
        )))
    }

    pub(super) async fn delete_integration(&mut self, place: Place, slug: &Key) -> Result<Event, DatabaseError> {
        let organization = place.organization;
        let found = self.integration_named(place, slug).await?;
        self.expect(found.as_ref().map(|found| found.version), organization, slug)?;
        let Found { id, .. } = found.ok_or(DatabaseError::NotFound("integration"))?;
        let users: i64 = match place.reach {
            Reach::Organization => {
                sqlx::query_scalar("SELECT COUNT(*) FROM connections WHERE organization_id = $1 AND integration = $2")
                    .bind(organization.to_string())
            }
            Reach::System => sqlx::query_scalar(
                "SELECT COUNT(*) FROM organizations o CROSS JOIN connections c \
                 ON c.organization_id = o.id AND c.integration = $2 WHERE $1 IS NULL AND NOT EXISTS \
                 (SELECT 1 FROM integrations i WHERE i.organization_id = o.id AND i.slug = $2)",
            )
            .bind(None::<String>),
        }
        .bind(slug.as_str())
        .fetch_one(&mut *self.connection)
        .await?;
        if users > 0 {
            return Err(DatabaseError::InUse(format!("{users} connections use {slug}; delete them first")));
        }
        sqlx::query("DELETE FROM integrations WHERE id = $1").bind(id).execute(&mut *self.connection).await?;
        if place.reach == Reach::Organization {
            // What was said of it is not to be said of another one that comes by the same name.
            sqlx::query("DELETE FROM integration_values WHERE organization_id = $1 AND slug = $2")
                .bind(organization.to_string())
                .bind(slug.as_str())
                .execute(&mut *self.connection)
                .await?;
        }
        self.outcome.subjects.push(place.subject(slug));
        let detail = json!({ "system": place.reach == Reach::System });
        Ok(Event { organization, action: "integration.delete", object: slug.to_string(), detail })
    }

    pub(super) async fn put_integration_values(
        &mut self,
        organization: OrganizationId,
        slug: &Key,
        values: &Values,
    ) -> Result<Event, DatabaseError> {
        self.require_organization(organization).await?;
        let found: Option<i64> =
            sqlx::query_scalar("SELECT version FROM integration_values WHERE organization_id = $1 AND slug = $2")
                .bind(organization.to_string())
                .bind(slug.as_str())
                .fetch_optional(&mut *self.connection)
                .await?;
        self.expect(found, organization, slug)?;
        let version = self.next_version();
        sqlx::query(
            "INSERT INTO integration_values (organization_id, slug, values_json, version, updated_at) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (organization_id, slug) DO UPDATE SET values_json = $3, \
             version = $4, updated_at = $5",
        )
        .bind(organization.to_string())
        .bind(slug.as_str())
        .bind(json!(values).to_string())
        .bind(version)
        .bind(schema::now())
        .execute(&mut *self.connection)
        .await?;
        self.outcome.subjects.push(Subject::Integration(organization, slug.clone()));
        let detail = json!({ "values": values });
        Ok(Event { organization, action: "integration.put_values", object: slug.to_string(), detail })
    }
}

fn taken(slug: &Key) -> DatabaseError {
    DatabaseError::Conflict(format!("there is an integration {slug} already"))
}

/// A stored document, where it can be read.
fn read(document: &str, slug: &Key) -> Option<Integration> {
    let document: Value = serde_json::from_str(document).ok()?;
    let id = query::parse(&IntegrationId::derived("").to_string(), "integration", slug).ok()?;
    Integration::parse(&document, id).ok()
}
