//! Changes that meet: versions that a change expects, requests that are sent twice, and what an integration was before.

use serde_json::{Value, json};

use crate::admin::{bearer, integration};
use crate::api_keys::create;
use crate::harness::admin::Admin;
use crate::harness::sink::HOST;
use crate::harness::{Canary, Reply, Sidekey, Sink, get, problem};

const OTHER: &str = "other.example.test";

fn told(reply: &Reply) -> (u16, String) {
    let problem = problem(reply);
    (problem.status, problem.code)
}

fn tag(reply: &Reply) -> String {
    reply.header("etag").unwrap_or_else(|| panic!("no ETag: {}", reply.text())).to_owned()
}

async fn matching(admin: &Admin, method: &str, path: &str, tag: &str, body: Option<Value>) -> Reply {
    admin.call(method, path, &[("If-Match", tag)], body).await
}

#[tokio::test]
async fn of_two_changes_of_one_version_the_second_is_lost_ad_16() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    admin.must("POST", "integrations", integration("crm", bearer())).await;
    admin.must("POST", "secrets", json!({ "key": "K" })).await;
    admin.must("POST", "environments", json!({ "name": "preview" })).await;
    admin.must("POST", "organizations", json!({ "key": "acme" })).await;
    admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await;
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": "one" })).await;
    admin.must("PUT", "integrations/crm/values", json!({ "values": {} })).await;
    let mut attempts = 0;
    for (path, body) in [
        ("integrations/crm/values", json!({ "values": {} })),
        ("integrations/crm", integration("crm", bearer())),
        ("secrets/K", json!({ "description": "another" })),
        ("environments/preview", json!({ "position": 0 })),
        ("organizations/acme", json!({ "name": "Acme" })),
        ("connections/crm/credentials/production", json!({ "token": "two" })),
        ("connections/crm", json!({ "integration": "crm", "name": "A" })),
    ] {
        let read = tag(&admin.get(path).await);
        assert_eq!(tag(&admin.get(path).await), read, "{path}: it is the same while nobody changes it");
        let put = |tag: String| {
            let (admin, body) = (&admin, body.clone());
            async move { matching(admin, "PUT", path, &tag, Some(body)).await }
        };
        // Both were read in the same version, and are sent at once.
        let (one, two) = tokio::join!(put(read.clone()), put(read.clone()));
        let (won, lost) = if one.status < 300 { (one, two) } else { (two, one) };
        assert!(won.status < 300, "{path}: {}", won.text());
        assert_eq!(told(&lost), (412, "precondition_failed".to_owned()), "{path}");
        let written = tag(&won);
        assert_ne!(written, read, "{path}");
        assert_eq!(tag(&admin.get(path).await), written, "{path}: what was answered is what is read");
        for stale in [&*read, "\"0123456789abcdef\"", "\"of somebody else\"", &format!("W/{written}")] {
            assert_eq!(matching(&admin, "PUT", path, stale, Some(body.clone())).await.status, 412, "{path} {stale}");
        }
        assert_eq!(admin.call("PUT", path, &[("If-None-Match", "*")], Some(body.clone())).await.status, 412, "{path}");
        attempts += 6;
        for malformed in ["0123", "\"", "*, *"] {
            assert_eq!(matching(&admin, "PUT", path, malformed, Some(body.clone())).await.status, 422, "{malformed}");
        }
        if !path.ends_with("/values") {
            assert_eq!(matching(&admin, "DELETE", path, &read, None).await.status, 412, "{path}");
            attempts += 1;
        }
        assert!(matching(&admin, "PUT", path, "*", Some(body.clone())).await.status < 300, "{path}");
        let both = format!("{read}, {}", tag(&admin.get(path).await));
        assert!(matching(&admin, "PUT", path, &both, Some(body)).await.status < 300, "{path}");
    }
    // Both attempts are in the audit log.
    let events = admin.get("audit?action=change.overtaken&limit=200").await.json();
    let acme = admin.get("audit?action=change.overtaken&limit=200&organization=acme").await.json();
    let count = |list: &Value| list["items"].as_array().expect("events").len();
    assert_eq!(count(&events) + count(&acme), attempts);
    // Nothing that is not there has a version.
    let nothing = json!({ "integration": "crm" });
    assert_eq!(matching(&admin, "PUT", "connections/new", "*", Some(nothing.clone())).await.status, 412);
    assert_eq!(admin.call("PUT", "connections/new", &[("If-None-Match", "*")], Some(nothing)).await.status, 201);
    // What is made anew never has a version of what was there before.
    let before = tag(&admin.get("secrets/K").await);
    assert_eq!(matching(&admin, "DELETE", "secrets/K", &before, None).await.status, 204);
    admin.must("POST", "secrets", json!({ "key": "K" })).await;
    assert_eq!(matching(&admin, "PUT", "secrets/K", &before, Some(json!({}))).await.status, 412);
    server.finish(&[]).await;
}

async fn once(admin: &Admin, key: &str, path: &str, body: Value) -> Reply {
    admin.call("POST", path, &[("Idempotency-Key", key)], Some(body)).await
}

#[tokio::test]
async fn a_request_that_is_sent_twice_is_done_once() {
    let mut server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    admin.must("POST", "integrations", integration("crm", bearer())).await;
    let new = |key: &str| json!({ "key": key, "integration": "crm" });
    let made = once(&admin, "a", "connections", new("one")).await;
    assert_eq!((made.status, made.header("idempotency-replayed")), (201, None));
    for _ in 0..2 {
        let again = once(&admin, "a", "connections", new("one")).await;
        assert_eq!((again.status, again.json()), (201, made.json()));
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        for name in ["location", "etag"] {
            assert_eq!(again.header(name), made.header(name));
        }
    }
    // Another document, another target.
    for (path, body) in
        [("connections", new("two")), ("connections?customer=acme", new("one")), ("secrets", new("one"))]
    {
        assert_eq!(told(&once(&admin, "a", path, body).await), (422, "idempotency_key_reused".to_owned()), "{path}");
    }
    // Somebody else's key is another one.
    let (_, other) = create(&admin, json!({ "name": "other", "roles": ["editor"] })).await;
    assert_eq!(once(&admin.with_key(&other), "a", "connections", new("two")).await.status, 201);
    // What was refused was not done.
    assert_eq!(once(&admin, "b", "connections", json!({ "key": "three" })).await.status, 422);
    assert_eq!(once(&admin, "b", "connections", new("three")).await.status, 201);
    for key in ["", "a b", &"x".repeat(256)] {
        assert_eq!(told(&once(&admin, key, "connections", new("four")).await), (422, "invalid".to_owned()), "{key:?}");
    }
    // An answer outlives the process.
    server.restart().await;
    let admin = server.admin();
    assert_eq!(once(&admin, "a", "connections", new("one")).await.json(), made.json());
    server.finish(&[]).await;
}

#[tokio::test]
async fn many_at_once_with_one_key_make_one_thing() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let body = || json!({ "name": "workflows", "roles": ["viewer"] });
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (admin, body) = (server.admin(), body());
        tasks.spawn(async move { once(&admin, "k", "api-keys", body).await });
    }
    let mut made = 0;
    for reply in tasks.join_all().await {
        match (reply.status, reply.header("idempotency-replayed")) {
            (201, None) => made += 1,
            (201, Some("true")) => assert!(reply.json().get("key").is_none(), "shown once: {}", reply.text()),
            (409, _) => assert_eq!(problem(&reply).code, "conflict"),
            other => panic!("{other:?} {}", reply.text()),
        }
    }
    assert_eq!(made, 1);
    let again = once(&admin, "k", "api-keys", body()).await;
    assert_eq!((again.status, again.json().get("key")), (201, None), "a replayed creation answers without the secret");
    assert!(again.json()["id"].is_string());
    let listed = admin.get("api-keys").await.json();
    let names = listed["items"].as_array().expect("items").iter().filter(|item| item["name"] == "workflows");
    assert_eq!(names.count(), 1);
    let vault = std::fs::read(server.folder().join("sidekey.vault")).expect("the vault");
    let log = std::fs::read(server.folder().join("sidekey.vault-wal")).unwrap_or_default();
    let id = again.json()["id"].as_str().expect("an id").to_owned() + "_";
    let holds = |bytes: &[u8]| {
        bytes
            .windows(id.len() + 43)
            .any(|window| window.starts_with(id.as_bytes()) && window[id.len()..].iter().all(u8::is_ascii_alphanumeric))
    };
    assert!(!holds(&vault) && !holds(&log), "the key is in the vault");
    server.finish(&[]).await;
}

#[tokio::test]
async fn versions_of_an_integration_are_kept_and_connections_follow_the_newest() {
    let (sink, token) = (Sink::builder().tls(&[HOST, OTHER]).start().await, Canary::new("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink).pin(OTHER, sink.addr);
    })
    .await;
    let admin = server.admin();
    let version = |number: u32| {
        let mut document = integration("crm", bearer());
        document["headers"] = json!({ "X-Version": number.to_string() });
        document
    };
    admin.must("POST", "integrations", version(1)).await;
    admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await;
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": token.text() })).await;
    for number in 1..4 {
        let put = admin.must("PUT", "integrations/crm", version(number)).await.json();
        assert_eq!(put["number"], number, "the same document is the same version");
        assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", "crm")]).await.status, 200);
        assert_eq!(sink.next_request().await.header("x-version"), Some(&*number.to_string()));
    }
    let page = admin.get("integrations/crm/versions?limit=2").await.json();
    let numbers = |page: &Value| -> Vec<u64> {
        page["items"].as_array().expect("items").iter().map(|item| item["number"].as_u64().expect("one")).collect()
    };
    assert_eq!(numbers(&page), [3, 2]);
    let rest =
        admin.get(&format!("integrations/crm/versions?cursor={}", page["next"].as_str().expect("more"))).await.json();
    assert_eq!((numbers(&rest), &rest["next"]), (vec![1], &Value::Null));
    let second = admin.get("integrations/crm/versions/2").await.json();
    assert_eq!((&second["document"], second["actor"].as_str().map(|text| &text[..4])), (&version(2), Some("apk_")));
    for nothing in ["integrations/crm/versions/9", "integrations/crm/versions/x", "integrations/nope/versions/1"] {
        assert_eq!(admin.get(nothing).await.status, 404, "{nothing}");
    }
    assert_eq!(admin.get("integrations/github/versions").await.json()["items"], json!([]), "files keep no versions");
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn what_every_organization_uses_is_changed_by_super_admins_only() {
    let (sink, token) = (Sink::builder().tls(&[HOST, OTHER]).start().await, Canary::new("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink).pin(OTHER, sink.addr);
    })
    .await;
    let admin = server.admin();
    let (_, key) = create(&admin, json!({ "name": "org", "roles": ["org_admin"] })).await;
    let administrator = admin.with_key(&key);
    let shared = integration("shared", bearer());
    for (method, path) in [("POST", "integrations?system=true"), ("PUT", "integrations/shared?system=true")] {
        let reply = administrator.call(method, path, &[], Some(shared.clone())).await;
        assert_eq!(told(&reply), (403, "role_insufficient".to_owned()));
    }
    assert_eq!(told(&administrator.delete("integrations/nope?system=true").await).0, 403, "judged before existence");
    let made = admin.must("POST", "integrations?system=true", shared.clone()).await.json();
    assert_eq!(made["source"], "system");
    // Every organization has it, and none takes its place.
    admin.must("POST", "organizations", json!({ "key": "acme" })).await;
    assert_eq!(admin.get("integrations/shared?organization=acme").await.json()["id"], made["id"]);
    let taken = administrator.post("integrations", shared.clone()).await;
    assert!(problem(&taken).detail.contains("whole system's"), "{}", taken.text());
    assert_eq!(administrator.put("integrations/shared", shared.clone()).await.status, 409);
    assert_eq!(administrator.delete("integrations/shared").await.status, 404, "it has none of its own");
    administrator.must("POST", "connections", json!({ "key": "c", "integration": "shared" })).await;
    administrator.must("PUT", "connections/c/credentials/production", json!({ "token": token.text() })).await;
    let asked = || async { get(server.proxy(), "/", &[("Sidekey-Connection", "c")]).await };
    assert_eq!(asked().await.status, 200);
    let mut elsewhere = shared.clone();
    elsewhere["base_url"] = format!("https://{OTHER}").into();
    admin.must("PUT", "integrations/shared?system=true", elsewhere).await;
    assert_eq!(told(&asked().await), (424, "connection_needs_reconnect".to_owned()), "it holds for the next request");
    assert_eq!(admin.delete("integrations/shared?system=true").await.status, 409, "a connection uses it");
    assert_eq!(administrator.delete("connections/c").await.status, 204);
    assert_eq!(admin.delete("integrations/shared?system=true").await.status, 204);
    assert_eq!(administrator.get("integrations/shared").await.status, 404);
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn values_set_once_are_inherited_and_overridden_and_lead_no_credential_elsewhere() {
    let (sink, token) = (Sink::builder().tls(&[HOST, OTHER]).start().await, Canary::new("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink).pin(OTHER, sink.addr);
    })
    .await;
    let admin = server.admin();
    let mut desk = integration("desk", bearer());
    desk["base_url"] = "https://{{ name }}.example.test".into();
    desk["fields"] = json!([{ "name": "name" }, { "name": "secret", "secret": true, "required": false }]);
    admin.must("POST", "integrations", desk).await;
    let new = |key: &str, values: Value| json!({ "key": key, "integration": "desk", "values": values });
    assert_eq!(admin.post("connections", new("one", json!({}))).await.status, 422, "nothing says where to");
    for (values, pointer) in [
        (json!({ "name": "a.b" }), "/values/name"),
        (json!({ "secret": "x" }), "/values/secret"),
        (json!({ "nope": "x" }), "/values/nope"),
    ] {
        let reply = admin.put("integrations/desk/values", json!({ "values": values })).await;
        assert_eq!((reply.status, &problem(&reply).body["errors"][0]["pointer"]), (422, &json!(pointer)));
    }
    admin.must("PUT", "integrations/desk/values", json!({ "values": { "name": "api" } })).await;
    assert_eq!(admin.get("integrations/desk/values").await.json(), json!({ "values": { "name": "api" } }));
    let one = admin.must("POST", "connections", new("one", json!({}))).await.json();
    let two = admin.must("POST", "connections", new("two", json!({ "name": "other" }))).await.json();
    assert_eq!((&one["values"], &one["effective_values"]), (&json!({}), &json!({ "name": "api" })));
    assert_eq!(two["effective_values"], json!({ "name": "other" }));
    for (connection, host) in [("one", HOST), ("two", OTHER)] {
        let path = format!("connections/{connection}/credentials/production");
        admin.must("PUT", &path, json!({ "token": token.text() })).await;
        assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", connection)]).await.status, 200);
        assert_eq!(sink.next_request().await.header("host"), Some(host));
    }
    admin.must("PUT", "integrations/desk/values", json!({ "values": { "name": "other" } })).await;
    let moved = get(server.proxy(), "/", &[("Sidekey-Connection", "one")]).await;
    assert_eq!(told(&moved), (424, "connection_needs_reconnect".to_owned()));
    assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", "two")]).await.status, 200);
    assert_eq!(admin.get("connections/one").await.json()["environments"]["production"]["status"], "expired");
    server.finish(&[&token]).await;
}

/// Two people, none of whom says a version: what either was told is done still holds when both are answered.
#[tokio::test]
async fn changes_of_two_parts_at_once_both_hold() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let (id, _) = create(&admin, json!({ "name": "worker" })).await;
    let (key, scope, limits) =
        (format!("api-keys/{id}"), format!("api-keys/{id}/scope"), format!("api-keys/{id}/limits"));
    for round in 1..=25 {
        let name = format!("conn{round}");
        let (one, other) = tokio::join!(
            admin.must("PUT", &scope, json!({ "connections": [name] })),
            admin.must("PUT", &limits, json!({ "per_minute": round }))
        );
        let now = admin.get(&key).await.json();
        assert_eq!(now["scope"]["connections"], json!([name]), "{round}: {} {}", one.text(), other.text());
        assert_eq!(now["limits"]["per_minute"], round, "{round}: {} {}", one.text(), other.text());
    }
    let invited = json!({ "email": "ada@example.test", "roles": ["member"] });
    let ada = admin.must("POST", "users", invited).await.json()["id"].clone();
    admin.must("POST", "integrations", integration("crm", bearer())).await;
    admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm", "owner": ada })).await;
    for round in 1..=25 {
        let (visibility, labels) = (["personal", "organization"][round % 2], json!([format!("l{round}")]));
        tokio::join!(
            admin.must(
                "PUT",
                "connections/crm",
                json!({ "integration": "crm", "visibility": visibility, "labels": labels })
            ),
            admin.must("PUT", "connections/crm", json!({ "integration": "crm", "labels": labels }))
        );
        let now = admin.get("connections/crm").await.json();
        assert_eq!((&now["visibility"], &now["labels"]), (&json!(visibility), &labels), "{round}");
    }
}

/// Whoever says a version is told that it is another one; whoever says none never is.
#[tokio::test]
async fn a_change_that_says_no_version_is_judged_anew_and_one_that_does_is_refused() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let (id, _) = create(&admin, json!({ "name": "worker" })).await;
    let path = format!("api-keys/{id}");
    let limits = format!("{path}/limits");
    let read = tag(&admin.get(&path).await);
    let (one, two, three) = tokio::join!(
        admin.put(&limits, json!({ "per_minute": 1 })),
        admin.put(&limits, json!({ "per_minute": 2 })),
        admin.put(&limits, json!({ "per_minute": 3 }))
    );
    assert_eq!([one.status, two.status, three.status], [200; 3]);
    let stale = matching(&admin, "PUT", &limits, &read, Some(json!({ "per_minute": 9 }))).await;
    assert_eq!(told(&stale), (412, "precondition_failed".to_owned()));
    let any = matching(&admin, "PUT", &limits, "*", Some(json!({ "per_minute": 9 }))).await;
    assert_eq!(any.status, 200, "{}", any.text());
    // What was judged anew left no trace of a change that was overtaken: only the one that said a version did.
    let events = admin.get("audit?action=change.overtaken").await.json();
    assert_eq!(events["items"].as_array().map(Vec::len), Some(1), "{events}");
}
