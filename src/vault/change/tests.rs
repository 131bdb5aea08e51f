use secrecy::SecretString;

use super::*;
use crate::model::id::ConnectionRef;
use crate::model::integration::Limit;
use crate::vault::fixture::{Home, author, connection, credential, environment, integration, plain};
use crate::vault::list::{Owner, Page, Viewer, Wanted};

async fn refused(database: &Database, change: Change) -> DatabaseError {
    database.commit(&author(), change).await.unwrap_err()
}

fn first(limit: u32) -> Page<'static> {
    Page { limit, cursor: None }
}

#[tokio::test]
async fn a_connection_comes_back_as_it_was_stored() {
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    let mut stored = connection(organization, "one");
    stored.customer = Some("acme:1".parse().unwrap());
    stored.auth = Some("token".parse().unwrap());
    stored.limit = Some(Limit { per_second: 5, burst: 7 });
    let put = |connection: &Connection, mode| Change::PutConnection { connection: Box::new(connection.clone()), mode };
    let outcome = database.put(put(&stored, PutMode::Create)).await;
    let name = Subject::Name(organization, stored.customer.clone(), stored.key.clone());
    assert_eq!(outcome.subjects, [Subject::Connection(stored.id), name.clone()]);
    assert!(outcome.created && outcome.connection == Some(stored.id));
    let (by_id, by_key) = (ConnectionRef::Id(stored.id), ConnectionRef::Key(stored.key.clone()));
    let customer = stored.customer.as_ref();
    assert_eq!(database.connection(organization, customer, &by_key).await.unwrap().as_ref(), Some(&stored));
    assert_eq!(database.connection(organization, None, &by_id).await.unwrap().as_ref(), Some(&stored));
    assert_eq!(database.connection(organization, None, &by_key).await.unwrap(), None, "it is a customer's");
    let elsewhere = OrganizationId::generate();
    assert_eq!(database.connection(elsewhere, None, &by_id).await.unwrap(), None);

    let conflict = refused(&database, put(&stored, PutMode::Create)).await;
    assert!(matches!(conflict, DatabaseError::Conflict(_)), "{conflict}");
    // One that is replaced keeps its id, whatever id the new one came with.
    let replacement = Connection { id: ConnectionId::generate(), limit: None, auth: None, ..stored.clone() };
    let outcome = database.put(put(&replacement, PutMode::Replace)).await;
    assert_eq!((outcome.created, outcome.connection), (false, Some(stored.id)));
    assert_eq!(outcome.subjects, [Subject::Connection(stored.id)]);
    let read = database.connection(organization, None, &by_id).await.unwrap().unwrap();
    assert_eq!(read, Connection { id: stored.id, ..replacement });

    let outcome = database.put(Change::DeleteConnection { organization, connection: stored.id }).await;
    let credentials = ["development", "staging", "production"].map(|e| Subject::Credential(stored.id, environment(e)));
    assert_eq!(outcome.subjects, [&[name, Subject::Connection(stored.id)][..], &credentials].concat());
    assert_eq!(database.connection(organization, None, &by_id).await.unwrap(), None);
    let again = refused(&database, Change::DeleteConnection { organization, connection: stored.id }).await;
    assert!(matches!(again, DatabaseError::NotFound("connection")));
    database.close().await;
}

#[tokio::test]
async fn a_credential_is_replaced_as_a_whole_and_keeps_to_its_environment() {
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    let connection = database.put_connection(organization, "one").await;
    let production = environment("production");
    let put = |fields: &[(&str, &str)]| Change::PutCredential {
        organization,
        connection,
        environment: environment("production"),
        credential: credential(fields),
        origins: vec!["https://api.example.test".to_owned()],
        expires_at: None,
    };
    let outcome = database.put(put(&[("username", "u"), ("password", "p\u{e9}")])).await;
    assert_eq!(outcome.subjects, [Subject::Credential(connection, production.clone())]);
    assert!(outcome.created);
    let stored = database.credential(organization, connection, &production).await.unwrap().unwrap();
    assert_eq!(stored.origins, ["https://api.example.test"]);
    assert_eq!(plain(&stored.credential.fields()["password"]), "p\u{e9}");
    assert!(database.credential(organization, connection, &environment("staging")).await.unwrap().is_none());
    assert!(database.credential(OrganizationId::generate(), connection, &production).await.unwrap().is_none());

    assert!(!database.put(put(&[("token", "t")])).await.created);
    let set = database.credential_fields(organization, connection).await.unwrap();
    assert_eq!(set, [(production.clone(), vec!["token".parse().unwrap()])].into());
    assert_eq!(database.token(organization, connection, "production").await.unwrap().unwrap(), "t");
    // A credential without fields is a credential.
    database.put(put(&[])).await;
    assert!(database.credential(organization, connection, &production).await.unwrap().is_some());

    let delete = || Change::DeleteCredential { organization, connection, environment: environment("production") };
    assert_eq!(database.put(delete()).await.subjects, [Subject::Credential(connection, production.clone())]);
    assert!(database.credential(organization, connection, &production).await.unwrap().is_none());
    assert!(matches!(refused(&database, delete()).await, DatabaseError::NotFound("credential")));
    let nowhere = Change::PutCredential {
        organization,
        connection,
        environment: environment("nowhere"),
        credential: credential(&[]),
        origins: Vec::new(),
        expires_at: None,
    };
    assert!(matches!(refused(&database, nowhere).await, DatabaseError::NotFound("environment")));
    database.close().await;
}

#[tokio::test]
async fn a_secret_has_one_value_for_each_environment() {
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    let key: SecretKey = "TOKEN".parse().unwrap();
    let value = |env: &str| Change::PutSecretValue {
        organization,
        key: key.clone(),
        environment: environment(env),
        value: SecretString::from(format!("for {env}")),
    };
    assert!(matches!(refused(&database, value("staging")).await, DatabaseError::NotFound("secret")));
    let create = |mode| Change::PutSecret { organization, key: key.clone(), description: Some("d".to_owned()), mode };
    assert!(database.put(create(PutMode::Create)).await.created);
    assert!(matches!(refused(&database, create(PutMode::Create)).await, DatabaseError::Conflict(_)));
    assert!(!database.put(create(PutMode::Replace)).await.created);
    let subject = |env| Subject::Secret(organization, key.clone(), environment(env));
    assert_eq!(database.put(value("staging")).await.subjects, [subject("staging")]);
    database.put(value("production")).await;
    let read = async |env: &str| database.secret(organization, &key, &environment(env)).await.unwrap();
    assert_eq!(plain(&read("staging").await.unwrap()), "for staging");
    assert_eq!(plain(&read("production").await.unwrap()), "for production");
    assert!(read("development").await.is_none());
    let list = database.secrets(organization, first(10)).await.unwrap();
    assert_eq!(list.items[0].environments, ["staging", "production"].map(environment));
    assert_eq!(database.secret_summary(organization, &key).await.unwrap().as_ref(), Some(&list.items[0]));

    let environment = environment("staging");
    let delete = Change::DeleteSecretValue { organization, key: key.clone(), environment };
    assert_eq!(database.put(delete).await.subjects, [subject("staging")]);
    assert!(read("staging").await.is_none() && read("production").await.is_some());
    let outcome = database.put(Change::DeleteSecret { organization, key: key.clone() }).await;
    assert_eq!(outcome.subjects, ["development", "staging", "production"].map(subject));
    assert!(read("production").await.is_none());
    database.close().await;
}

#[tokio::test]
async fn what_is_in_use_is_not_deleted() {
    let home = Home::new();
    let database = home.open().await;
    let organization = OrganizationId::generate();
    let create = |id| Change::CreateOrganization { id, key: "acme".parse().unwrap(), name: "Acme".to_owned() };
    assert!(database.put(create(organization)).await.created);
    assert!(matches!(refused(&database, create(OrganizationId::generate())).await, DatabaseError::Conflict(_)));
    let put = |mode| Change::PutIntegration { organization, integration: Box::new(integration("example")), mode };
    let slug: Key = "example".parse().unwrap();
    let outcome = database.put(put(PutMode::Create)).await;
    assert_eq!(outcome.subjects, [Subject::Integration(organization, slug.clone())]);
    let id = database.integration(organization, &slug).await.unwrap().unwrap().id;
    assert!(matches!(refused(&database, put(PutMode::Create)).await, DatabaseError::Conflict(_)));
    database.put(put(PutMode::Replace)).await;
    assert_eq!(database.integration(organization, &slug).await.unwrap().unwrap().id, id, "it keeps its id");
    let qa = || environment("qa");
    database.put(Change::CreateEnvironment { organization, name: qa() }).await;
    assert_eq!(database.environments(organization).await.unwrap().last(), Some(&qa()));
    let connection = database.put_connection(organization, "one").await;
    database.put_token(organization, connection, "qa", "canary").await;

    let in_use = [
        Change::DeleteIntegration { organization, slug: slug.clone() },
        Change::DeleteEnvironment { organization, name: qa() },
        Change::DeleteOrganization { organization },
    ];
    for change in in_use {
        let told = format!("{change:?}");
        assert!(matches!(refused(&database, change).await, DatabaseError::InUse(_)), "{told}");
    }
    assert!(database.integration(organization, &slug).await.unwrap().is_some(), "nothing was changed");
    database.put(Change::DeleteConnection { organization, connection }).await;
    database.put(Change::DeleteEnvironment { organization, name: qa() }).await;
    database.put(Change::DeleteIntegration { organization, slug }).await;
    database.put(Change::DeleteOrganization { organization }).await;
    assert_eq!(database.organization("acme").await.unwrap(), None);
    let gone = refused(&database, Change::CreateEnvironment { organization, name: qa() }).await;
    assert!(matches!(gone, DatabaseError::NotFound("organization")));
    database.close().await;
}

#[tokio::test]
async fn lists_come_a_page_at_a_time() {
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    let customer = "acme".parse().unwrap();
    for (key, customer) in [("a", None), ("b", None), ("c", None), ("a", Some(&customer)), ("b", Some(&customer))] {
        let mut connection = Box::new(connection(organization, key));
        connection.customer = customer.cloned();
        database.put(Change::PutConnection { connection, mode: PutMode::Create }).await;
    }
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = Page { limit: 2, cursor: cursor.as_deref() };
        let list = database.connections(organization, Owner::Anyone, page).await.unwrap();
        assert!(list.items.len() <= 2);
        seen.extend(list.items.iter().map(|c| format!("{:?} {}", c.customer.as_ref().map(|c| c.as_str()), c.key)));
        cursor = list.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["None a", "None b", "None c", "Some(\"acme\") a", "Some(\"acme\") b"]);
    let count = async |owner| database.connections(organization, owner, first(9)).await.unwrap().items.len();
    assert_eq!((count(Owner::Organization).await, count(Owner::Customer(&customer)).await), (3, 2));
    let hostile = Page { limit: 9, cursor: Some("' OR 1=1; --\0/x") };
    assert_eq!(database.connections(organization, Owner::Anyone, hostile).await.unwrap().items.len(), 2);
    assert_eq!(database.organizations(first(1)).await.unwrap().next, None);
    database.close().await;
}

#[tokio::test]
async fn a_filtered_list_follows_what_becomes_of_a_connection() {
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    let put = async |key: &str, labels: &[&str], exposed, id: Option<ConnectionId>| {
        let mut connection = Box::new(connection(organization, key));
        connection.id = id.unwrap_or(connection.id);
        connection.sharing.labels = labels.iter().map(|label| label.parse().unwrap()).collect();
        connection.sharing.exposed = exposed;
        let mode = if id.is_some() { PutMode::Update } else { PutMode::Create };
        database.put(Change::PutConnection { connection, mode }).await.connection.unwrap()
    };
    let (slug, other): (Key, Key) = ("example".parse().unwrap(), "other".parse().unwrap());
    let (red, blue) = ("red".parse().unwrap(), "blue".parse().unwrap());
    let listed = async |wanted: Wanted<'_>| {
        let (mut keys, mut cursor) = (Vec::new(), None);
        loop {
            let page = Page { limit: 1, cursor: cursor.as_deref() };
            let list = database.connections_like(organization, &wanted, page).await.unwrap();
            keys.extend(list.items.iter().map(|connection| connection.key.to_string()));
            cursor = list.next;
            if cursor.is_none() {
                return keys.join(" ");
            }
        }
    };
    let one = put("a", &["red", "blue"], true, None).await;
    put("b", &["red"], false, None).await;
    put("c", &[], true, None).await;
    let red = || Wanted { label: Some(&red), ..Wanted::default() };
    let exposed = |exposed| Wanted { exposed: Some(exposed), ..Wanted::default() };
    assert_eq!(
        (listed(red()).await, listed(exposed(true)).await, listed(exposed(false)).await),
        ("a b".into(), "a c".into(), "b".into())
    );
    assert_eq!(listed(Wanted { integration: Some(&slug), ..red() }).await, "a b");
    assert_eq!(listed(Wanted { integration: Some(&other), ..red() }).await, "");
    assert_eq!(listed(Wanted { exposed: Some(true), owner: Owner::Organization, ..red() }).await, "a");
    assert_eq!(listed(Wanted { viewer: Viewer::User(None), integration: Some(&slug), ..exposed(true) }).await, "a c");
    put("z", &["red"], false, Some(one)).await;
    assert_eq!(
        (listed(red()).await, listed(Wanted { label: Some(&blue), ..red() }).await),
        ("b z".into(), String::new())
    );
    assert_eq!((listed(exposed(true)).await, listed(exposed(false)).await), ("c".into(), "b z".into()));
    database.put(Change::DeleteConnection { organization, connection: one }).await;
    assert_eq!(listed(red()).await, "b");
    database.close().await;
}

#[tokio::test]
async fn an_import_may_bring_credentials_of_its_connections() {
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    let before = database.put_connection(organization, "a").await;
    let import = |entered: fn(&[Connection]) -> ConnectionId| {
        let connections = vec![connection(organization, "a"), connection(organization, "b")];
        let credentials = vec![import::Entered {
            connection: entered(&connections),
            environment: environment("production"),
            credential: credential(&[("token", "t")]),
            origins: vec!["https://api.example.test".to_owned()],
        }];
        Change::Import(import::Import {
            organization,
            integrations: vec![integration("new")],
            values: Vec::new(),
            connections,
            credentials,
            judged_at: None,
        })
    };
    let stranger = refused(&database, import(|_| ConnectionId::generate())).await;
    assert!(matches!(stranger, DatabaseError::NotFound("connection")), "{stranger}");
    assert_eq!(
        database.connections(organization, Owner::Anyone, first(9)).await.unwrap().items.len(),
        1,
        "all or none"
    );
    database.put(import(|connections| connections[0].id)).await;
    // The connection that was there has kept its id, and the credential is its own.
    assert_eq!(database.token(organization, before, "production").await.unwrap().unwrap(), "t");
    database.close().await;
}

#[tokio::test]
async fn what_was_judged_before_a_change_is_not_imported() {
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    let import = |judged_at| {
        Change::Import(import::Import {
            organization,
            integrations: vec![integration("new")],
            values: Vec::new(),
            connections: Vec::new(),
            credentials: Vec::new(),
            judged_at,
        })
    };
    let judged_at = database.event_count(organization).await.unwrap();
    database.put_connection(organization, "meanwhile").await;
    let overtaken = refused(&database, import(Some(judged_at))).await;
    assert!(matches!(overtaken, DatabaseError::Outdated), "{overtaken}");
    assert_eq!(database.integration(organization, &"new".parse().unwrap()).await.unwrap(), None);
    let judged_at = database.event_count(organization).await.unwrap();
    database.put(import(Some(judged_at))).await;
    assert!(database.integration(organization, &"new".parse().unwrap()).await.unwrap().is_some());
    database.close().await;
}

#[tokio::test]
async fn a_change_and_its_event_come_together() {
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    let connection = database.put_connection(organization, "one").await;
    database.put_token(organization, connection, "production", "canary-secret").await;
    refused(&database, Change::DeleteOrganization { organization }).await;
    let events: Vec<(String, String, String, String)> =
        sqlx::query_as("SELECT actor, action, object, detail FROM audit ORDER BY id")
            .fetch_all(&database.inner.readers)
            .await
            .unwrap();
    let actions: Vec<_> = events.iter().map(|(_, action, ..)| action.as_str()).collect();
    assert_eq!(actions, ["vault.create", "connection.create", "credential.put"], "what was refused is no event");
    assert_eq!((events[2].0.as_str(), events[2].2.as_str()), ("test", connection.to_string().as_str()));
    assert!(events[2].3.contains("token") && !format!("{events:?}").contains("canary-secret"));
    database.close().await;
}

#[test]
fn a_change_ends_although_nobody_waits_for_it() {
    let home = Home::new();
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let database = control.block_on(home.open());
    let organization = control.block_on(database.default_organization());
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // Asked for on a runtime that is gone before the change can be done.
    let author = author();
    let worker = tokio::runtime::Builder::new_current_thread().build().unwrap();
    worker.block_on(async {
        let change =
            Change::PutConnection { connection: connection(organization, "one").into(), mode: PutMode::Create };
        let mut commit = std::pin::pin!(database.commit_then(&author, change, move |outcome| {
            sender.send(outcome.clone()).unwrap();
        }));
        let begun = std::future::poll_fn(|context| std::task::Poll::Ready(commit.as_mut().poll(context).is_pending()));
        assert!(begun.await);
    });
    drop(worker);
    let outcome = control.block_on(receiver).unwrap();
    assert!(outcome.created);
    let found = control.block_on(database.connection(organization, None, &"one".parse().unwrap())).unwrap();
    assert_eq!(found.unwrap().id, outcome.connection.unwrap());
    control.block_on(database.close());
}

/// ST-08.
#[tokio::test]
async fn a_data_key_that_has_sealed_enough_is_replaced_and_still_opens_what_it_sealed() {
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    let (one, two) =
        (database.put_connection(organization, "one").await, database.put_connection(organization, "two").await);
    database.put_token(organization, one, "production", "first").await;
    let seals = "SELECT seals FROM data_keys WHERE purpose = 'values' ORDER BY created_at, id";
    let counts = async || sqlx::query_scalar::<_, i64>(seals).fetch_all(&database.inner.readers).await.unwrap();
    assert_eq!(counts().await, [2], "the token and the binding");
    sqlx::query("UPDATE data_keys SET seals = $1, created_at = created_at - 1000 WHERE purpose = 'values'")
        .bind(SEALS_OF_A_KEY - 1)
        .execute(&mut home.raw().await)
        .await
        .unwrap();
    database.put_token(organization, two, "production", "second").await;
    assert_eq!(counts().await, [SEALS_OF_A_KEY - 1, 2]);
    assert_eq!(database.token(organization, one, "production").await.unwrap().unwrap(), "first");
    assert_eq!(database.token(organization, two, "production").await.unwrap().unwrap(), "second");
    database.close().await;
}

#[tokio::test]
async fn a_full_disk_changes_nothing_and_reads_go_on() {
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    let connection = database.put_connection(organization, "one").await;
    database.put_token(organization, connection, "production", "before").await;
    // The engine answers to this limit as it does to a full disk.
    let limit = async |pages: i64| {
        let mut writer = database.inner.writer.acquire().await.unwrap();
        let text = format!("PRAGMA max_page_count = {pages}");
        sqlx::query(sqlx::AssertSqlSafe(text)).execute(&mut *writer).await.unwrap();
    };
    limit(1).await;
    let large = |value: &str| Change::PutCredential {
        organization,
        connection,
        environment: environment("production"),
        credential: credential(&[("token", value)]),
        origins: Vec::new(),
        expires_at: None,
    };
    let full = refused(&database, large(&"x".repeat(100_000))).await;
    assert!(matches!(full, DatabaseError::Unavailable(Cause::DiskFull)), "{full}");
    assert_eq!(database.token(organization, connection, "production").await.unwrap().unwrap(), "before");
    limit(1 << 30).await;
    database.put(large("after")).await;
    assert_eq!(database.token(organization, connection, "production").await.unwrap().unwrap(), "after");
    database.close().await;
}

#[tokio::test]
async fn a_file_that_may_not_be_written_is_told_and_reads_go_on() {
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    // The engine answers to this as it does to a file that became read-only.
    let writer = async |sql: &'static str| {
        sqlx::query(sql).execute(&mut *database.inner.writer.acquire().await.unwrap()).await.unwrap();
    };
    let create = || Change::CreateEnvironment { organization, name: environment("qa") };
    writer("PRAGMA query_only = on").await;
    let error = refused(&database, create()).await;
    assert!(matches!(error, DatabaseError::Unavailable(Cause::ReadOnly)), "{error}");
    assert_eq!(database.environments(organization).await.unwrap().len(), 3);
    writer("PRAGMA query_only = off").await;
    database.put(create()).await;
    assert_eq!(database.environments(organization).await.unwrap().len(), 4);
    database.close().await;
}
