//! API keys with bounds on the admin port: none of them gets round its bounds by letting somebody in or by another name.

use serde_json::{Value, json};

use crate::api_keys::create;
use crate::harness::admin::Admin;
use crate::harness::{Reply, Sidekey, Sink, problem};

fn told(reply: &Reply) -> (u16, String) {
    let problem = problem(reply);
    (problem.status, problem.code)
}

/// Whoever holds a key with these members, and may do everything else.
async fn holder(admin: &Admin, terms: Value) -> Admin {
    let mut document = json!({ "name": "holder", "roles": ["org_admin", "caller"] });
    document.as_object_mut().expect("an object").extend(terms.as_object().expect("an object").clone());
    admin.with_key(&create(admin, document).await.1)
}

#[tokio::test]
async fn a_key_with_bounds_lets_nobody_in() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let user = |email: &str| json!({ "email": email, "roles": ["viewer"] });
    let ada = admin.must("POST", "users", user("ada@example.test")).await.json();
    let ada = ada["id"].as_str().expect("an id");
    let calls = [
        ("POST", "users".to_owned(), Some(user("bob@example.test"))),
        ("POST", format!("users/{ada}/invite"), None),
        ("PUT", format!("users/{ada}/roles"), Some(json!({ "roles": ["editor"] }))),
        ("PUT", format!("users/{ada}"), Some(json!({ "roles": ["editor"] }))),
        ("POST", format!("users/{ada}/enable"), None),
    ];
    for bounds in [
        json!({ "scope": { "connections": ["crm-*"] } }),
        json!({ "scope": { "methods": ["GET"] } }),
        json!({ "scope": { "paths": ["/v1/*"] } }),
        json!({ "scope": { "environments": ["staging"] } }),
        json!({ "environment": "staging" }),
        json!({ "limits": { "per_hour": 10 } }),
        json!({ "expires_at": "2100-01-01T00:00:00Z" }),
    ] {
        let bound = holder(&admin, bounds.clone()).await;
        for (method, path, body) in &calls {
            let reply = bound.call(method, path, &[], body.clone()).await;
            assert_eq!(told(&reply), (403, "role_insufficient".to_owned()), "{method} {path} {bounds}");
            assert!(reply.text().contains("your API key has bounds"), "{}", reply.text());
        }
        // Nor for what is somebody's own.
        let mut theirs = json!({ "name": "theirs", "roles": ["caller"], "owner": ada });
        theirs.as_object_mut().expect("an object").extend(bounds.as_object().expect("an object").clone());
        assert_eq!(told(&bound.post("api-keys", theirs).await).0, 403, "{bounds}");
        // What gives nobody anything it does.
        bound.must("PUT", &format!("users/{ada}"), json!({ "first_name": "Ada" })).await;
    }
    let listed = admin.get("users").await.json();
    assert_eq!((listed["items"].as_array().map(Vec::len), &listed["items"][0]["roles"]), (Some(1), &json!(["viewer"])));
    // That it names customers is no bound.
    let free = holder(&admin, json!({ "scope": { "customers": ["*"] } })).await;
    for (method, path, body) in &calls[..4] {
        let reply = free.call(method, path, &[], body.clone()).await;
        assert!(reply.status < 300, "{method} {path} {}", reply.text());
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_key_keeps_to_its_connections_on_the_admin_port() {
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        config.to(&sink);
        config.bearer("declared", "t");
    })
    .await;
    let admin = server.admin();
    let integration = "it-declared";
    for key in ["crm-eu", "mail", "other"] {
        admin.must("POST", "connections", json!({ "key": key, "integration": integration })).await;
    }
    let mail = admin.get("connections/mail").await.json();
    let scope = json!({ "scope": { "connections": ["crm-*", mail["id"]] } });
    let bound = holder(&admin, scope).await;
    let unknown = bound.delete("connections/none").await;
    assert_eq!(told(&unknown), (404, "not_found".to_owned()));
    let document = json!({ "key": "other", "integration": integration, "name": "mine" });
    let entered = json!({ "token": "mine" });
    for (method, path, body) in [
        ("PUT", "connections/other", Some(document.clone())),
        ("PUT", "connections/other", Some(json!({ "key": "crm-2", "integration": integration }))),
        ("DELETE", "connections/other", None),
        ("POST", "connections/other/test", Some(json!({ "environment": "production" }))),
        ("POST", "connections/other/explain", Some(json!({ "environment": "production" }))),
        ("PUT", "connections/other/credentials/production", Some(entered.clone())),
        ("DELETE", "connections/other/credentials/production", None),
    ] {
        let reply = bound.call(method, path, &[], body).await;
        assert_eq!((reply.status, problem(&reply).snapshot), (404, problem(&unknown).snapshot), "{method} {path}");
    }
    // What it makes, renames and imports is inside as well.
    let imported = json!({ "version": 1, "integrations": [], "values": [], "connections": [document.clone()] });
    for (method, path, body) in [
        ("POST", "connections", json!({ "key": "new", "integration": integration })),
        ("PUT", "connections/new", json!({ "integration": integration })),
        ("PUT", "connections/crm-eu", json!({ "key": "eu", "integration": integration })),
        ("POST", "import", imported.clone()),
        ("POST", "import?dry_run=true", imported),
    ] {
        let reply = bound.call(method, path, &[], Some(body)).await;
        assert_eq!(told(&reply), (403, "role_insufficient".to_owned()), "{method} {path} {}", reply.text());
    }
    for (method, path, body) in [
        ("POST", "connections", json!({ "key": "crm-new", "integration": integration })),
        ("PUT", "connections/crm-eu", json!({ "key": "crm-us", "integration": integration })),
        ("PUT", "connections/mail", json!({ "key": "letters", "integration": integration })),
        ("PUT", "connections/letters/credentials/production", entered),
        ("POST", "connections/letters/explain", json!({ "environment": "production" })),
    ] {
        bound.must(method, path, body).await;
    }
    assert_eq!(bound.delete("connections/letters").await.status, 204);
    let left = admin.get("connections").await.json();
    let keys = left["items"].as_array().expect("items").iter().map(|one| one["key"].as_str().expect("a key"));
    assert_eq!(keys.collect::<Vec<_>>(), ["crm-new", "crm-us", "declared", "other"]);
    server.finish(&[]).await;
}

#[tokio::test]
async fn an_environment_that_keys_name_is_renamed_with_an_event_for_each_and_not_deleted() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    admin.must("POST", "environments", json!({ "name": "qa" })).await;
    let scope = json!({ "environments": ["staging", "qa"] });
    let (own, _) = create(&admin, json!({ "name": "own", "environment": "qa" })).await;
    let (scoped, _) = create(&admin, json!({ "name": "scoped", "scope": scope })).await;
    let (other, _) = create(&admin, json!({ "name": "other", "environment": "staging" })).await;
    admin.must("PUT", "environments/qa", json!({ "name": "trial" })).await;
    let edits = admin.get("audit?action=api_key.edit").await.json();
    let edits = edits["items"].as_array().expect("items").clone();
    let of = |id: &str| edits.iter().find(|edit| edit["object"] == *id).cloned();
    let (of_own, of_scoped) = (of(&own).expect("an event"), of(&scoped).expect("an event"));
    assert_eq!((edits.len(), of(&other)), (2, None));
    assert_eq!((&of_own["before"]["environment"], &of_own["after"]["environment"]), (&json!("qa"), &json!("trial")));
    assert_eq!(of_scoped["after"]["scope"]["environments"], json!(["staging", "trial"]));
    let renamed = admin.get("audit?action=environment.rename").await.json();
    assert_eq!(of_own["request_id"], renamed["items"][0]["request_id"]);
    let verified = admin.get("audit/verify").await;
    assert_eq!(verified.status, 200, "{}", verified.text());

    let refused = admin.delete("environments/trial").await;
    assert_eq!(told(&refused), (409, "conflict".to_owned()));
    assert!(refused.text().contains(&own) && refused.text().contains(&scoped), "{}", refused.text());
    assert!(!refused.text().contains(&other), "{}", refused.text());
    admin.must("PUT", &format!("api-keys/{scoped}/scope"), json!({ "environments": ["staging"] })).await;
    assert_eq!(admin.delete("environments/trial").await.status, 409);
    assert_eq!(admin.call("POST", &format!("api-keys/{own}/revoke"), &[], None).await.status, 200);
    assert_eq!(admin.delete("environments/trial").await.status, 204);
    server.finish(&[]).await;
}
