use serde_json::json;

use super::*;
use crate::model::document::{Problems, Reader};
use crate::model::id::UserId;
use crate::vault::change::resource::{self, EnvironmentDraft};
use crate::vault::change::{Change, Outcome};
use crate::vault::database::Database;
use crate::vault::fixture::{Home, author};

fn terms(document: &Value) -> Box<KeyTerms> {
    let problems = Problems::default();
    Box::new(KeyTerms::read(&Reader::new(document, "", &problems).unwrap()).unwrap())
}

async fn change(database: &Database, change: ApiKeyChange) -> Result<Outcome, DatabaseError> {
    database.commit(&author(), Change::ApiKey(change)).await
}

async fn create(database: &Database, organization: OrganizationId, document: &Value) -> ApiKeyId {
    let plain = PlainKey::generate().unwrap();
    let id = plain.id;
    let outcome = change(database, ApiKeyChange::Create { organization, plain, terms: terms(document) }).await.unwrap();
    assert_eq!(outcome.subjects, [Subject::ApiKey(id)]);
    id
}

#[tokio::test]
async fn a_key_comes_back_as_it_was_stored() {
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    let document = json!({
        "name": "n8n", "roles": ["caller", "viewer"], "environment": "staging", "expires_at": "2100-01-01T00:00:00Z",
        "limits": { "per_minute": 60 },
        "scope": {
            "connections": ["crm-*", "gh"], "methods": ["GET"], "paths": ["/v1/*"], "environments": ["staging"],
            "customers": ["acme"],
        },
    });
    let id = create(&database, organization, &document).await;
    let stored = database.api_key(organization, id).await.unwrap().unwrap();
    assert_eq!(stored.terms, *terms(&document));
    assert_eq!((stored.status, stored.last_used_at), (KeyStatus::Active, None));
    assert_eq!(database.api_key(OrganizationId::generate(), id).await.unwrap(), None, "it is nobody else's");
    let stranger = json!({ "name": "n8n", "owner": UserId::generate() });
    let plain = PlainKey::generate().unwrap();
    let refused = change(&database, ApiKeyChange::Create { organization, plain, terms: terms(&stranger) }).await;
    assert!(matches!(refused, Err(DatabaseError::NotFound("user"))));
    database.close().await;
}

#[tokio::test]
async fn keys_that_name_an_environment_follow_it() {
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    let with = |environments: Value| json!({ "name": "k", "environment": "staging", "scope": { "environments": environments } });
    let both = create(&database, organization, &with(json!(["production", "staging"]))).await;
    let other = create(&database, organization, &json!({ "name": "k", "environment": "production" })).await;
    let draft = EnvironmentDraft { name: "rehearsal".parse().unwrap(), position: None, designer: None };
    let name = "staging".parse().unwrap();
    let rename = resource::Change::PutEnvironment { organization, name, environment: draft };
    let outcome = database.commit(&author(), Change::Resource(rename)).await.unwrap();
    assert!(outcome.subjects.contains(&Subject::ApiKey(both)) && !outcome.subjects.contains(&Subject::ApiKey(other)));
    let named = async |id| {
        let key = database.api_key(organization, id).await.unwrap().unwrap();
        let names = key.terms.environments().unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>();
        (key.terms.environment.map(|name| name.to_string()).unwrap_or_default(), names)
    };
    assert_eq!(named(both).await, ("rehearsal".to_owned(), vec!["production".to_owned(), "rehearsal".to_owned()]));
    assert_eq!(named(other).await.0, "production");
    database.close().await;
}

#[tokio::test]
async fn what_is_revoked_stays_so_and_nothing_compares_with_it() {
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    let plain = PlainKey::generate().unwrap();
    let (id, text) = (plain.id, plain.text().clone());
    let created = ApiKeyChange::Create { organization, plain, terms: terms(&json!({ "name": "k" })) };
    change(&database, created).await.unwrap();
    let known = async || database.authenticate(&text, Moment::now()).await.unwrap().map(|known| known.key.id);
    let set = async |status| change(&database, ApiKeyChange::SetStatus { organization, id, status }).await;
    assert_eq!(known().await, Some(id));
    set(KeyStatus::Suspended).await.unwrap();
    assert_eq!(known().await, None);
    set(KeyStatus::Active).await.unwrap();
    assert_eq!(known().await, Some(id));
    set(KeyStatus::Revoked).await.unwrap();
    assert!(matches!(set(KeyStatus::Active).await, Err(DatabaseError::Conflict(_))));
    // Also where somebody writes another status into the file.
    sqlx::query("UPDATE api_keys SET status = 'active'").execute(&mut home.raw().await).await.unwrap();
    assert_eq!(known().await, None);
    database.close().await;
}
