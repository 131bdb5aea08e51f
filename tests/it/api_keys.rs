//! API keys on the admin port: shown once, limited by whoever makes them, and of no use once they are revoked.

use serde_json::{Value, json};

use crate::harness::admin::Admin;
use crate::harness::{Reply, Sidekey, problem};

/// A key made by `admin`: its id and its text.
pub(crate) async fn create(admin: &Admin, document: Value) -> (String, String) {
    let made = admin.must("POST", "api-keys", document).await.json();
    (made["id"].as_str().expect("an id").to_owned(), made["key"].as_str().expect("a key").to_owned())
}

fn told(reply: &Reply) -> (u16, String) {
    let problem = problem(reply);
    (problem.status, problem.code)
}

fn pointers(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 422, "{}", reply.text());
    let errors = problem(reply).body["errors"].clone();
    errors.as_array().expect("errors").iter().map(|error| error["pointer"].as_str().expect("one").to_owned()).collect()
}

#[tokio::test]
async fn a_key_is_shown_once_and_is_nowhere_after_that_ak_01() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let made = admin.post("api-keys", json!({ "name": "workflows" })).await;
    let shown = made.json();
    let (id, key) = (shown["id"].as_str().expect("an id"), shown["key"].as_str().expect("a key"));
    assert_eq!((made.status, made.header("location")), (201, Some(&*format!("/api/v1/api-keys/{id}"))));
    assert_eq!((key.len(), key.starts_with(&format!("{id}_"))), (74, true));
    let mut redacted = shown.clone();
    for member in ["id", "prefix", "key", "created_at"] {
        redacted[member] = json!(format!("[{member}]"));
    }
    insta::assert_json_snapshot!("api_key_made", redacted);
    let listed = admin.get("api-keys").await;
    let one = admin.get(&format!("api-keys/{id}")).await;
    let secret = &key[31..];
    for reply in [&listed, &one, &admin.get("audit").await] {
        assert!(!reply.text().contains(secret), "{}", reply.text());
    }
    assert_eq!(listed.json()["items"][1], one.json());
    assert_eq!(one.json()["prefix"], format!("{id}_"));
    let folder = server.folder().to_owned();
    let log = server.process().stderr();
    server.finish(&[]).await;
    assert!(!log.contains(secret));
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if file.path().is_file() {
            let bytes = std::fs::read(file.path()).expect("a file");
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{:?}", file.path());
        }
    }
}

#[tokio::test]
async fn a_key_that_is_suspended_or_revoked_is_of_no_use_at_once() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let (id, key) = create(&admin, json!({ "name": "viewer", "roles": ["viewer"] })).await;
    let holder = admin.with_key(&key);
    let may = async || holder.get("connections").await.status;
    let set = async |what: &str| admin.call("POST", &format!("api-keys/{id}/{what}"), &[], None).await;
    assert_eq!(may().await, 200);
    assert_eq!(set("suspend").await.json()["status"], "suspended");
    let unknown = holder.get("connections").await;
    assert_eq!(unknown.said(), admin.with_key("").get("connections").await.said(), "told as any other");
    assert_eq!(set("resume").await.json()["status"], "active");
    assert_eq!(may().await, 200);
    assert_eq!(set("revoke").await.json()["status"], "revoked");
    assert_eq!(may().await, 401);
    assert_eq!(told(&set("resume").await), (409, "conflict".to_owned()));
    assert_eq!(told(&set("suspend").await), (409, "conflict".to_owned()));
    assert_eq!(set("revoke").await.status, 200, "that is what was wanted");
    assert_eq!(may().await, 401);
    let stranger = "apk_01jabcdefghjkmnpqrstvwxyz0";
    for path in ["api-keys/nope", &format!("api-keys/{stranger}")] {
        assert_eq!(told(&admin.get(path).await), (404, "not_found".to_owned()));
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_rotated_key_has_two_secrets_for_a_while_ak_10() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let (id, first) = create(&admin, json!({ "name": "viewer", "roles": ["viewer"] })).await;
    let rotate = async |document: Value| {
        let reply = admin.must("POST", &format!("api-keys/{id}/rotate"), document).await.json();
        reply["key"].as_str().expect("a key").to_owned()
    };
    let may = async |key: &str| admin.with_key(key).get("connections").await.status;
    let second = rotate(json!({ "grace": "60s" })).await;
    assert_ne!(first, second);
    assert_eq!((may(&first).await, may(&second).await), (200, 200));
    let third = rotate(json!({ "grace": "200ms" })).await;
    assert_eq!((may(&first).await, may(&third).await), (401, 200), "only the last one has a grace");
    let begun = std::time::Instant::now();
    while may(&second).await == 200 {
        assert!(begun.elapsed().as_secs() < 5, "the old secret goes on and on");
    }
    let fourth = rotate(json!({})).await;
    assert_eq!((may(&third).await, may(&fourth).await), (401, 200));
    let reply = admin.post(&format!("api-keys/{id}/rotate"), json!({ "grace": "8d" })).await;
    assert_eq!(pointers(&reply), ["/grace"]);
    server.finish(&[]).await;
}

#[tokio::test]
async fn every_mistake_of_a_key_is_told_at_once() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let document = json!({
        "name": "", "roles": ["admin"], "owner": "me", "environment": "Ö", "expires_at": "soon", "rolls": [],
        "scope": { "methods": ["get"], "paths": ["v1", "/a/../b"], "environments": [1], "nothing": 1 },
        "limits": { "per_minute": 0, "per_hour": -1 },
    });
    let mut found = pointers(&admin.post("api-keys", document).await);
    found.sort();
    assert_eq!(
        found,
        [
            "/environment",
            "/expires_at",
            "/limits/per_hour",
            "/limits/per_minute",
            "/name",
            "/owner",
            "/roles",
            "/roles/0",
            "/rolls",
            "/scope/environments/0",
            "/scope/methods/0",
            "/scope/nothing",
            "/scope/paths/0",
            "/scope/paths/1",
        ]
    );
    let over = json!({ "name": "late", "expires_at": "2020-01-01T00:00:00Z" });
    assert_eq!(pointers(&admin.post("api-keys", over).await), ["/expires_at"]);
    let many: Vec<String> = (0..257).map(|number| format!("c{number}")).collect();
    let wide = json!({ "name": "wide", "scope": { "connections": many } });
    assert_eq!(pointers(&admin.post("api-keys", wide).await), ["/scope/connections"]);
    server.finish(&[]).await;
}

/// RL-08: what is set by whoever pays is not changed by whoever is limited.
#[tokio::test]
async fn no_limit_is_above_the_organizations() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let ceiling = json!({ "per_minute": 100, "per_hour": 1000 });
    assert_eq!(admin.put("organizations/default/limits", ceiling.clone()).await.json(), ceiling);
    assert_eq!(admin.get("organizations/default/limits").await.json(), ceiling);
    let (_, key) = create(&admin, json!({ "name": "admin", "roles": ["org_admin"] })).await;
    let lesser = admin.with_key(&key);
    assert_eq!(
        told(&lesser.put("organizations/default/limits", json!({})).await),
        (403, "role_insufficient".to_owned())
    );
    assert_eq!(lesser.get("organizations/default/limits").await.json(), ceiling);
    let limited = |minute: u32, hour: u32| json!({ "name": "n", "limits": { "per_minute": minute, "per_hour": hour } });
    assert_eq!(
        pointers(&lesser.post("api-keys", limited(101, 1001)).await),
        ["/limits/per_minute", "/limits/per_hour"]
    );
    let (id, _) = create(&lesser, limited(100, 1000)).await;
    let limits = format!("api-keys/{id}/limits");
    assert_eq!(pointers(&lesser.put(&limits, json!({ "per_minute": 200 })).await), ["/limits/per_minute"]);
    assert_eq!(
        lesser.put(&limits, json!({ "per_minute": 50 })).await.json()["limits"],
        json!({ "per_minute": 50, "per_hour": 1000 }),
        "what is not said stays"
    );
    let none = json!({ "per_minute": null, "per_hour": null });
    assert_eq!(lesser.put(&limits, none.clone()).await.json()["limits"], none);
    // A ceiling that is lowered leaves a key as it is; what else is changed of it is not refused for that.
    let (id, _) = create(&lesser, limited(100, 1000)).await;
    admin.must("PUT", "organizations/default/limits", json!({ "per_minute": 10 })).await;
    lesser.must("PUT", &format!("api-keys/{id}/scope"), json!({ "methods": ["GET"] })).await;
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_key_makes_none_that_may_do_more_than_it_may_itself() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let own = json!({
        "name": "narrow", "roles": ["org_admin", "caller"], "environment": "staging",
        "scope": { "connections": ["crm-*"], "methods": ["GET"], "paths": ["/v1/*"], "customers": ["a*"] },
        "limits": { "per_minute": 60 }, "expires_at": "2100-01-01T00:00:00Z",
    });
    let (_, key) = create(&admin, own.clone()).await;
    let (mighty, _) = create(&admin, json!({ "name": "mighty", "roles": ["super_admin"] })).await;
    let narrow = admin.with_key(&key);
    let with = |pointer: &str, value: Value| {
        let mut document = own.clone();
        *document.pointer_mut(pointer).expect("a member") = value;
        document
    };
    for (pointer, value) in [
        ("/roles", json!(["super_admin"])),
        ("/environment", json!("production")),
        ("/environment", Value::Null),
        ("/scope/connections", json!(["*"])),
        ("/scope/connections", json!(["crm-eu", "other"])),
        ("/scope/methods", json!(["GET", "POST"])),
        ("/scope/methods", Value::Null),
        ("/scope/paths", json!(["/v2/*"])),
        ("/scope/paths", Value::Null),
        ("/scope/customers", json!(["b"])),
        ("/limits", json!({ "per_minute": 61 })),
        ("/limits", Value::Null),
        ("/expires_at", json!("2100-01-01T00:00:01Z")),
        ("/expires_at", Value::Null),
    ] {
        let reply = narrow.post("api-keys", with(pointer, value)).await;
        assert_eq!(told(&reply), (403, "role_insufficient".to_owned()), "{pointer}");
    }
    let narrower = json!({
        "name": "narrower", "roles": ["caller"], "environment": "staging", "expires_at": "2099-01-01T00:00:00Z",
        "scope": { "connections": ["crm-eu-*", "crm-us"], "methods": [], "paths": ["/v1/a/*"], "customers": ["ab*"] },
        "limits": { "per_minute": 10, "per_hour": 10 },
    });
    let (id, _) = create(&narrow, narrower).await;
    let calls = [
        ("POST", "rotate", Some(json!({}))),
        ("POST", "suspend", None),
        ("POST", "revoke", None),
        ("PUT", "limits", Some(json!({ "per_minute": 1 }))),
        ("PUT", "scope", Some(json!({ "connections": null }))),
    ];
    for (method, what, body) in &calls {
        let reply = narrow.call(method, &format!("api-keys/{mighty}/{what}"), &[], body.clone()).await;
        assert_eq!(told(&reply), (403, "role_insufficient".to_owned()), "{what} of a mightier key");
    }
    assert_eq!(told(&narrow.put(&format!("api-keys/{id}/scope"), json!({ "connections": null })).await).0, 403);
    assert_eq!(narrow.call("POST", &format!("api-keys/{id}/revoke"), &[], None).await.status, 200);
    // The first key is bound by no scope: it is nobody's who calls.
    create(&admin, json!({ "name": "wide", "scope": { "customers": ["*"] } })).await;
    server.finish(&[]).await;
}

#[tokio::test]
async fn an_organization_with_a_key_that_may_be_used_stays() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    admin.must("POST", "organizations", json!({ "key": "other" })).await;
    let made = admin.must("POST", "api-keys?organization=other", json!({ "name": "theirs" })).await.json();
    let id = made["id"].as_str().expect("an id");
    assert_eq!(admin.get(&format!("api-keys/{id}")).await.status, 404, "it is another organization's");
    assert_eq!(told(&admin.delete("organizations/other").await), (409, "conflict".to_owned()));
    admin.call("POST", &format!("api-keys/{id}/revoke?organization=other"), &[], None).await;
    assert_eq!(admin.delete("organizations/other").await.status, 204);
    server.finish(&[]).await;
}

/// What is left out of a change would widen a key if it were taken for nothing.
#[tokio::test]
async fn what_a_change_does_not_say_stays_and_null_takes_it_away() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let narrow = json!({
        "name": "narrow", "roles": ["viewer", "caller"], "environment": "staging",
        "scope": { "connections": ["crm-*"], "methods": ["GET"], "paths": ["/v1/*"], "environments": ["staging"],
                   "customers": ["a*"], "explain": true },
        "limits": { "per_minute": 60, "per_hour": 600 }, "expires_at": "2100-01-01T00:00:00Z",
    });
    let (id, _) = create(&admin, narrow).await;
    let path = format!("api-keys/{id}");
    let shown = admin.get(&path).await.json();
    for (at, document) in [
        ("", json!({ "name": "narrow" })),
        ("", json!({ "name": "narrow", "scope": {}, "limits": {} })),
        ("", json!({ "name": "narrow", "scope": { "methods": ["GET"] }, "limits": { "per_hour": 600 } })),
        ("/scope", json!({})),
        ("/scope", json!({ "paths": ["/v1/*"] })),
        ("/limits", json!({ "per_minute": 60 })),
    ] {
        assert_eq!(admin.must("PUT", &format!("{path}{at}"), document.clone()).await.json(), shown, "{at} {document}");
    }
    let less = json!({ "name": "less", "scope": { "methods": null, "explain": null }, "expires_at": null });
    let less = admin.must("PUT", &path, less).await.json();
    assert_eq!(less["scope"]["connections"], json!(["crm-*"]));
    assert_eq!((&less["scope"]["methods"], &less["expires_at"]), (&Value::Null, &Value::Null));
    assert_eq!((less["scope"].get("explain"), &less["limits"]["per_hour"]), (None, &json!(600)));
    let none = json!({ "name": "none", "scope": null, "limits": null, "environment": null });
    let none = admin.must("PUT", &path, none).await.json();
    assert_eq!((&none["scope"]["connections"], &none["scope"]["customers"]), (&json!(["*"]), &json!([])));
    assert_eq!(none["limits"], json!({ "per_minute": null, "per_hour": null }));
    assert_eq!((&none["environment"], &none["roles"]), (&Value::Null, &shown["roles"]));
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_scope_names_what_can_be() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let wrong = json!({
        "name": "wrong", "environment": "nowhere",
        "scope": { "connections": ["crm", "", "nope nope", "CRM*"], "environments": ["production", "elsewhere"] },
    });
    let expected = [
        "/scope/connections/1",
        "/scope/connections/2",
        "/scope/connections/3",
        "/scope/environments/1",
        "/environment",
    ];
    assert_eq!(pointers(&admin.post("api-keys", wrong.clone()).await), expected);
    let (id, _) = create(&admin, json!({ "name": "right", "scope": { "connections": ["crm", "*"] } })).await;
    assert_eq!(pointers(&admin.put(&format!("api-keys/{id}"), wrong.clone()).await), expected);
    assert_eq!(pointers(&admin.put(&format!("api-keys/{id}/scope"), wrong["scope"].clone()).await), expected[..4]);
    server.finish(&[]).await;
}
