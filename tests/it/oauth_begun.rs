//! A sign-in that was begun: what it takes to go on with it, and who can still end it.

use serde_json::{Value, json};

use crate::api_keys::create;
use crate::harness::authorizer::journey::{ask, client, come_back, connect_as, connected, events, follow, method};
use crate::harness::authorizer::{Answer, Authorizer};
use crate::harness::browser::user;
use crate::harness::{Browser, Sidekey, Sink};

async fn start() -> (Authorizer, Sink, Sidekey) {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = connected(&authorizer, &sink).await;
    (authorizer, sink, server)
}

/// A key that may do what an editor may, with its id.
async fn editors_key(server: &Sidekey) -> (String, String) {
    create(&server.admin(), json!({ "name": "deploy", "roles": ["editor"] })).await
}

/// Begun with this key, and at the provider's page in a browser.
async fn begun_with(server: &Sidekey, authorizer: &Authorizer, key: &str) -> (Browser, Answer) {
    let holder = server.admin().with_key(key);
    let body = json!({ "environment": "production" });
    let begun = holder.must("POST", "connections/crm/authorize", body).await.json();
    let mut browser = Browser::new(server);
    let address = follow(&mut browser, &begun).await;
    (browser, authorizer.consent(&address))
}

#[tokio::test]
async fn who_may_less_by_now_ends_nothing() {
    let (authorizer, _sink, server) = start().await;
    let admin = server.admin();
    connect_as(&admin, "other", &method(&json!({})), client(&authorizer)).await;
    user(&server, "bob@example.test", "editor", "seven wise cranes").await;
    let bob = admin.get("users/bob@example.test").await.json()["id"].clone();
    let owned = |sharing: Value, owner: &Value| json!({ "integration": "crm", "visibility": sharing, "owner": owner });
    for (what, path, lowered) in [
        ("narrowed", "api-keys/{key}/scope", json!({ "connections": ["other"] })),
        ("lowered", "api-keys/{key}", json!({ "name": "deploy", "roles": ["member"] })),
        ("taken away", "connections/crm", owned("personal".into(), &bob)),
    ] {
        let (id, key) = editors_key(&server).await;
        let (mut browser, answer) = begun_with(&server, &authorizer, &key).await;
        admin.must("PUT", &path.replace("{key}", &id), lowered).await;
        let page = come_back(&mut browser, &answer).await;
        assert_eq!(page.status, 409, "{what}: {}", page.text());
        assert!(page.text().contains("has changed"), "{what}: {}", page.text());
        assert_eq!(authorizer.count(), 0, "{what}");
        assert_eq!(come_back(&mut browser, &answer).await.status, 400, "{what}: it is over");
    }
    admin.must("PUT", "connections/crm", owned("organization".into(), &bob)).await;
    assert_eq!(ask(&server).await.status, 424, "no token was stored");
    let (_, key) = editors_key(&server).await;
    let (mut browser, answer) = begun_with(&server, &authorizer, &key).await;
    assert_eq!(come_back(&mut browser, &answer).await.status, 303);
    assert_eq!(events(&server, "credential.authorize").await.len(), 1);
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}
