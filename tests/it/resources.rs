//! What people manage beside credentials: who shares a connection, how it stands, what it is called and used by.

use std::time::Duration;

use serde_json::{Value, json};

use crate::admin::{bearer, integration};
use crate::api_keys::create;
use crate::harness::admin::Admin;
use crate::harness::sink::{HOST, Script};
use crate::harness::{Canary, Config, Reply, Sidekey, Sink, get, problem, soon};

const OTHER: &str = "other.example.test";

async fn server(sink: &Sink, describe: impl FnOnce(&mut Config)) -> Sidekey {
    Sidekey::with(|config| {
        config.to(sink).pin(OTHER, sink.addr).set("proxy.usage_interval", "20ms");
        describe(config);
    })
    .await
}

/// A connection `crm` with a credential for production.
async fn crm(admin: &Admin, token: &Canary) {
    admin.must("POST", "integrations", integration("crm", bearer())).await;
    admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await;
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": token.text() })).await;
}

async fn ask(server: &Sidekey, headers: &[(&str, &str)]) -> Reply {
    get(server.proxy(), "/v1/me", headers).await
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

/// Asks until the answer is as wanted; what workers counted is written a moment after it was counted.
async fn until(admin: &Admin, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let asking = async {
        loop {
            last = admin.get(path).await.json();
            if wanted(&last) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let is_there = tokio::time::timeout(Duration::from_secs(10), asking).await.is_ok();
    assert!(is_there, "{path} is {last:#}");
    last
}

fn keys(list: &Value) -> Vec<&str> {
    list["items"].as_array().expect("items").iter().map(|item| item["key"].as_str().expect("a key")).collect()
}

#[tokio::test]
async fn a_connection_says_since_when_and_why_it_stands_as_it_does() {
    let (sink, token) = (Sink::builder().tls(&[HOST, OTHER]).start().await, Canary::new("token"));
    let server = server(&sink, |_| {}).await;
    let admin = server.admin();
    admin.must("POST", "integrations", integration("crm", bearer())).await;
    let made = admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await.json();
    let production = |shown: &Value| shown["environments"]["production"].clone();
    assert_eq!(production(&made)["status"], "incomplete");
    assert_eq!(production(&made)["since"], made["created_at"]);

    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": token.text() })).await;
    let entered = production(&admin.get("connections/crm").await.json());
    assert_eq!((&entered["status"], &entered["last_used_at"]), (&json!("active"), &Value::Null));
    assert!(entered["since"].as_str() >= made["created_at"].as_str(), "{entered}");

    // The upstream refuses it, which is told until it takes a credential again.
    let tag = [("Sidekey-Connection", "crm")];
    sink.next(Script::respond(401, &[], ""));
    assert_eq!(ask(&server, &tag).await.status, 401);
    let is = |status: &'static str| move |shown: &Value| shown["environments"]["production"]["status"] == status;
    let refused = production(&until(&admin, "connections/crm", is("error")).await);
    assert!(refused["reason"].as_str().is_some_and(|why| why.contains("401")), "{refused}");
    assert!(refused["last_used_at"].is_string() && refused["since"].is_string(), "{refused}");
    assert_eq!(ask(&server, &tag).await.status, 200, "it is tried all the same");
    until(&admin, "connections/crm", is("active")).await;

    // Other hosts: blocked until it is entered again, and nothing is sent meanwhile.
    let mut elsewhere = integration("crm", bearer());
    elsewhere["base_url"] = format!("https://{OTHER}").into();
    admin.must("PUT", "integrations/crm", elsewhere).await;
    let moved = production(&admin.get("connections/crm").await.json());
    assert_eq!(moved["status"], "expired");
    assert!(moved["since"].as_str() >= entered["since"].as_str(), "{moved}");
    let count = sink.count();
    assert_eq!(told(&ask(&server, &tag).await), (424, "connection_needs_reconnect".to_owned()));
    assert_eq!(sink.count(), count);
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": token.text() })).await;
    assert_eq!(ask(&server, &tag).await.status, 200);

    assert_eq!(admin.delete("connections/crm/credentials/production").await.status, 204);
    let removed = production(&admin.get("connections/crm").await.json());
    assert_eq!(removed["status"], "incomplete");
    assert!(removed["since"].as_str() >= moved["since"].as_str(), "since it was removed: {removed}");
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn a_declared_integration_that_leads_elsewhere_blocks_what_was_entered_for_it() {
    let (sink, token) = (Sink::builder().tls(&[HOST, OTHER]).start().await, Canary::new("token"));
    let mut server = server(&sink, |config| {
        config.bearer("declared", "declared-token");
    })
    .await;
    let admin = server.admin();
    admin.must("POST", "connections", json!({ "key": "own", "integration": "it-declared" })).await;
    admin.must("PUT", "connections/own/credentials/production", json!({ "token": token.text() })).await;
    let tag = [("Sidekey-Connection", "own")];
    assert_eq!(ask(&server, &tag).await.status, 200);
    let text = std::fs::read_to_string(server.folder().join("sidekey.toml")).expect("a file");
    let moved = text.replace(&format!("\"https://{HOST}\""), &format!("\"https://{OTHER}\""));
    assert_ne!(text, moved);
    std::fs::write(server.folder().join("sidekey.toml"), moved).expect("a file");
    server.sighup();
    let expired = |shown: &Value| shown["environments"]["production"]["status"] == "expired";
    let shown = until(&admin, "connections/own", expired).await;
    assert!(shown["environments"]["production"]["since"].is_string());
    let count = sink.count();
    assert_eq!(told(&ask(&server, &tag).await), (424, "connection_needs_reconnect".to_owned()));
    assert_eq!(sink.count(), count);
    server.restart().await;
    assert_eq!(told(&ask(&server, &tag).await), (424, "connection_needs_reconnect".to_owned()), "after a restart too");
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn a_credential_is_of_use_until_it_expires() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = server(&sink, |_| {}).await;
    let admin = server.admin();
    crm(&admin, &token).await;
    let path = "connections/crm/credentials/production";
    let body = || json!({ "token": token.text() });
    assert_eq!(pointers(&admin.put(&format!("{path}?expires_at=tomorrow"), body()).await), [""]);
    admin.must("PUT", &format!("{path}?expires_at=2999-01-01T00:00:00Z"), body()).await;
    let shown = admin.get("connections/crm").await.json();
    assert_eq!(shown["expires_at"], "2999-01-01T00:00:00.000Z");
    assert_eq!(shown["environments"]["production"]["expires_at"], "2999-01-01T00:00:00.000Z");
    let tag = [("Sidekey-Connection", "crm")];
    assert_eq!(ask(&server, &tag).await.status, 200);
    let soon = sidekey::model::moment::Moment::now().after(Duration::from_millis(1_500));
    admin.must("PUT", &format!("{path}?expires_at={soon}"), body()).await;
    assert_eq!(ask(&server, &tag).await.status, 200, "not yet");
    until(&admin, path, |shown| shown["status"] == "expired").await;
    assert_eq!(told(&ask(&server, &tag).await), (424, "connection_needs_reconnect".to_owned()));
    assert_eq!(sink.count(), 2, "what was cached is not used any longer");
    admin.must("PUT", path, body()).await;
    assert_eq!(ask(&server, &tag).await.status, 200);
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn who_uses_a_connection_is_told_before_it_is_deleted() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = server(&sink, |config| {
        config.bearer("declared", "declared-token");
    })
    .await;
    let admin = server.admin();
    crm(&admin, &token).await;
    for (connection, workflow) in [("crm", "nightly"), ("crm", "billing"), ("crm", "nightly"), ("declared", "other")] {
        let headers = [("Sidekey-Connection", connection), ("Sidekey-Workflow", workflow)];
        assert_eq!(ask(&server, &headers).await.status, 200);
    }
    let shown = until(&admin, "connections/crm", |shown| shown["used_by_count"] == 2).await;
    let mut names: Vec<&str> = shown["used_by"].as_array().expect("names").iter().filter_map(Value::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["billing", "nightly"]);
    assert!(shown["last_used_at"].is_string());
    let declared = until(&admin, "connections/declared", |shown| shown["used_by_count"] == 1).await;
    assert_eq!(declared["used_by"], json!(["other"]));

    let refused = admin.delete("connections/crm").await;
    assert_eq!(told(&refused), (409, "conflict".to_owned()));
    assert!(problem(&refused).detail.starts_with("2 workflows have used this connection"), "{}", refused.text());
    assert_eq!(admin.get("connections/crm").await.status, 200);
    assert_eq!(admin.delete("connections/crm?force=true").await.status, 204);
    // TN-08
    assert_eq!(told(&ask(&server, &[("Sidekey-Connection", "crm")]).await), (404, "connection_unknown".to_owned()));
    // One of that name made anew has been used by nobody.
    admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await;
    assert_eq!(admin.get("connections/crm").await.json()["used_by"], json!([]));
    assert_eq!(admin.delete("connections/crm").await.status, 204);
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn who_used_a_connection_a_moment_ago_is_told_before_it_is_deleted() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink).set("proxy.threads", 3).set("proxy.usage_interval", "1h");
    })
    .await;
    let admin = server.admin();
    crm(&admin, &token).await;
    admin.must("POST", "connections", json!({ "key": "other", "integration": "crm" })).await;
    admin.must("PUT", "connections/other/credentials/production", json!({ "token": token.text() })).await;
    let requests = 24;
    for number in 0..requests {
        let connection = if number % 2 == 0 { "crm" } else { "other" };
        let workflow = format!("w{number}");
        let headers = [("Sidekey-Connection", connection), ("Sidekey-Workflow", &*workflow)];
        assert_eq!(ask(&server, &headers).await.status, 200);
    }
    // A request is counted when it is over, which its client may see earlier.
    let all = f64::from(requests);
    soon("every request", async { while server.metric("sidekey_requests_total{status=\"2xx\"}").await != all {} })
        .await;
    assert_eq!(admin.get("connections/crm").await.json()["used_by_count"], 0, "nothing is written yet");
    let refused = admin.delete("connections/crm").await;
    assert_eq!(told(&refused), (409, "conflict".to_owned()));
    assert!(problem(&refused).detail.starts_with("12 workflows have used this connection"), "{}", refused.text());
    assert_eq!(admin.get("connections/crm").await.json()["used_by_count"], 12);
    assert_eq!(
        admin.get("connections/other").await.json()["used_by_count"],
        0,
        "of no other one is it written for that"
    );
    assert_eq!(admin.delete("connections/other?force=true").await.status, 204, "nobody asks who used it");
    server.finish(&[&token]).await;
}

/// The id of a user who is invited as a member.
async fn invited(admin: &Admin, name: &str) -> String {
    let user = json!({ "email": format!("{name}@example.test"), "roles": ["member"] });
    let invited = admin.must("POST", "users", user).await.json();
    invited["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_personal_connection_is_its_owners_tn_06() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = server(&sink, |_| {}).await;
    let admin = server.admin();
    crm(&admin, &token).await;
    let (ada_id, bob_id) = (invited(&admin, "ada").await, invited(&admin, "bob").await);
    let key = |role: &str, owner: Option<&str>| json!({ "name": role, "roles": [role], "owner": owner });
    let ada = admin.with_key(&create(&admin, key("member", Some(&*ada_id))).await.1);
    let bob = admin.with_key(&create(&admin, key("editor", Some(&*bob_id))).await.1);
    let nobody = admin.with_key(&create(&admin, key("viewer", None)).await.1);

    // A member makes personal connections, and of others' it changes none.
    let made = ada.must("POST", "connections", json!({ "key": "mine", "integration": "crm" })).await.json();
    assert_eq!((&made["visibility"], &made["owner"]), (&json!("personal"), &json!(&*ada_id)));
    ada.must("PUT", "connections/mine/credentials/production", json!({ "token": token.text() })).await;
    for (method, path) in [("PUT", "connections/crm"), ("DELETE", "connections/crm")] {
        let body = (method == "PUT").then(|| json!({ "integration": "crm" }));
        assert_eq!(told(&ada.call(method, path, &[], body).await), (403, "role_insufficient".to_owned()));
    }
    let path = "connections/crm/credentials/production";
    assert_eq!(ada.put(path, json!({ "token": "x" })).await.status, 403);
    assert_eq!(ada.delete(path).await.status, 403);

    // Nobody else sees it but administrators, by whatever name.
    let id = made["id"].as_str().expect("an id").to_owned();
    for other in [&bob, &nobody] {
        for named in ["mine", &id] {
            assert_eq!(other.get(&format!("connections/{named}")).await.status, 404);
            assert_eq!(other.get(&format!("connections/{named}/credentials/production")).await.status, 404);
        }
        assert_eq!(keys(&other.get("connections").await.json()), ["crm"]);
    }
    assert_eq!(bob.delete(&format!("connections/{id}")).await.status, 404);
    assert_eq!(bob.put(&format!("connections/{id}"), json!({ "integration": "crm" })).await.status, 404);
    // A key means one connection, so that it is taken is told to whoever wants it, and nothing more than that.
    let put = bob.put("connections/mine", json!({ "integration": "crm" })).await;
    let post = bob.post("connections", json!({ "key": "mine", "integration": "crm" })).await;
    bob.must("POST", "connections", json!({ "key": "bobs", "integration": "crm" })).await;
    let rename = bob.put("connections/bobs", json!({ "key": "mine", "integration": "crm" })).await;
    for reply in [&put, &post, &rename] {
        assert_eq!(told(reply), (409, "conflict".to_owned()));
        let detail = problem(reply).detail;
        assert_eq!(detail, "the key mine is taken by a connection that you may not see; choose another one");
    }
    assert_eq!(bob.delete("connections/bobs").await.status, 204);
    for seeing in [&ada, &admin] {
        assert_eq!(keys(&seeing.get("connections").await.json()), ["crm", "mine"]);
        assert_eq!(seeing.get(&format!("connections/{id}")).await.status, 200);
    }
    // No scope covers it that has another owner or none, not even one that names it.
    for named in ["mine", &id] {
        assert_eq!(told(&ask(&server, &[("Sidekey-Connection", named)]).await), (404, "connection_unknown".to_owned()));
    }
    assert_eq!(sink.count(), 0);
    // Nothing becomes everybody's because it is not said again, and nobody takes it away from its owner.
    let kept =
        ada.must("PUT", "connections/mine", json!({ "integration": "crm", "labels": ["b", "a", "b"] })).await.json();
    assert_eq!((&kept["visibility"], &kept["labels"]), (&json!("personal"), &json!(["a", "b"])));
    assert_eq!(
        pointers(&ada.put("connections/mine", json!({ "integration": "crm", "owner": &*bob_id })).await),
        ["/owner"]
    );
    let given = admin.must("PUT", "connections/mine", json!({ "integration": "crm", "owner": &*bob_id })).await.json();
    assert_eq!(given["owner"], &*bob_id);
    assert_eq!((ada.get("connections/mine").await.status, bob.get("connections/mine").await.status), (404, 200));
    // Who has no user can own nothing.
    let ownerless = json!({ "key": "x", "integration": "crm", "visibility": "personal" });
    assert_eq!(pointers(&admin.post("connections", ownerless).await), ["/visibility"]);
    let shared =
        bob.must("PUT", "connections/mine", json!({ "integration": "crm", "visibility": "organization" })).await;
    assert_eq!(shared.json()["visibility"], "organization");
    assert_eq!(ask(&server, &[("Sidekey-Connection", "mine")]).await.status, 200);
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn a_renamed_connection_is_the_same_under_another_key_tn_08() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = server(&sink, |_| {}).await;
    let admin = server.admin();
    crm(&admin, &token).await;
    let (old, new) = ([("Sidekey-Connection", "crm")], [("Sidekey-Connection", "sales")]);
    assert_eq!(ask(&server, &old).await.status, 200);
    assert_eq!(ask(&server, &new).await.status, 404, "which is remembered, until the name means something");
    let id = admin.get("connections/crm").await.json()["id"].clone();
    let renamed = admin.put("connections/crm", json!({ "key": "sales", "integration": "crm" })).await;
    assert_eq!((renamed.status, &renamed.json()["id"], &renamed.json()["key"]), (200, &id, &json!("sales")));
    assert_eq!((ask(&server, &old).await.status, ask(&server, &new).await.status), (404, 200));
    assert_eq!(admin.get("connections/crm").await.status, 404);
    admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await;
    let by_id = format!("connections/{}", id.as_str().expect("an id"));
    let taken = admin.put(&by_id, json!({ "key": "crm", "integration": "crm" })).await;
    assert_eq!(told(&taken), (409, "conflict".to_owned()));
    let nothing = admin.put("connections/nope", json!({ "key": "other", "integration": "crm" })).await;
    assert_eq!(pointers(&nothing), ["/key"]);
    // Labels and what is exposed narrow lists.
    for (key, labels, exposed) in [("a", json!(["x"]), true), ("b", json!(["x", "y"]), false)] {
        let body = json!({ "key": key, "integration": "crm", "labels": labels, "exposed": exposed });
        admin.must("POST", "connections", body).await;
    }
    for (filter, found) in [
        ("label=x", &["a", "b"][..]),
        ("label=y", &["b"]),
        ("exposed=true", &["a"]),
        ("exposed=false", &["b", "crm", "sales"]),
        ("integration=crm&label=x&limit=1", &["a"]),
        ("integration=nope", &[]),
    ] {
        assert_eq!(keys(&admin.get(&format!("connections?{filter}")).await.json()), found, "{filter}");
    }
    for filter in ["label=%20x", "exposed=1", "integration=A", "colour=red"] {
        assert_eq!(admin.get(&format!("connections?{filter}")).await.status, 422, "{filter}");
    }
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn an_environment_takes_its_credentials_along() {
    let (sink, token, value) = (Sink::https().await, Canary::new("token"), Canary::new("value"));
    let server = server(&sink, |config| {
        config.listener("environments", vec!["production", "live"]);
    })
    .await;
    let admin = server.admin();
    crm(&admin, &token).await;
    admin.must("POST", "secrets", json!({ "key": "K" })).await;
    admin.must("PUT", "secrets/K/values/production", json!({ "value": value.text() })).await;
    admin.must("POST", "connections", json!({ "key": "ref", "integration": "crm" })).await;
    admin.must("PUT", "connections/ref/credentials/production", json!({ "token": "@@SECRET:K@@" })).await;
    let names = |list: Value| -> Vec<String> {
        list["items"]
            .as_array()
            .expect("items")
            .iter()
            .map(|item| item["name"].as_str().expect("one").to_owned())
            .collect()
    };
    assert_eq!(names(admin.get("environments").await.json()), ["development", "staging", "production"]);
    let made = admin.must("POST", "environments", json!({ "name": "preview", "position": 1, "designer": true })).await;
    assert_eq!(made.json(), json!({ "name": "preview", "position": 1, "designer": true }));
    assert_eq!(names(admin.get("environments").await.json()), ["development", "preview", "staging", "production"]);
    // There is one designer's environment at most.
    let moved = admin.must("PUT", "environments/staging", json!({ "designer": true, "position": 0 })).await;
    assert_eq!(moved.json(), json!({ "name": "staging", "position": 0, "designer": true }));
    assert_eq!(admin.get("environments/preview").await.json()["designer"], false);
    assert_eq!(names(admin.get("environments?limit=2").await.json()), ["staging", "development"]);
    // What is not said stays as it is, under another name too; it is taken away by saying so.
    for (name, body, designer) in [
        ("staging", json!({}), true),
        ("staging", json!({ "position": 0 }), true),
        ("staging", json!({ "name": "rehearsal" }), true),
        ("rehearsal", json!({ "name": "staging", "designer": false }), false),
        ("staging", json!({ "position": 0 }), false),
    ] {
        let shown = admin.must("PUT", &format!("environments/{name}"), body.clone()).await.json();
        assert_eq!((&shown["designer"], &shown["position"]), (&json!(designer), &json!(0)), "{name} {body}");
    }

    let ask_in = |connection: &'static str, environment: &'static str| {
        let server = &server;
        async move {
            let headers = [("Sidekey-Connection", connection), ("Sidekey-Environment", environment)];
            get(server.proxy(), "/", &headers).await.status
        }
    };
    assert_eq!((ask_in("crm", "production").await, ask_in("crm", "live").await), (200, 424));
    assert_eq!((ask_in("ref", "production").await, ask_in("ref", "live").await), (200, 424));
    admin.must("PUT", "environments/production", json!({ "name": "live" })).await;
    assert_eq!((ask_in("crm", "production").await, ask_in("crm", "live").await), (424, 200));
    assert_eq!((ask_in("ref", "production").await, ask_in("ref", "live").await), (424, 200));
    let sent = sink.requests();
    let tokens: Vec<_> = sent.iter().filter_map(|seen| seen.header("authorization")).collect();
    assert_eq!(tokens[2..], [format!("Bearer {}", token.text()), format!("Bearer {}", value.text())]);
    assert_eq!(admin.get("environments/production").await.status, 404);
    assert_eq!(admin.put("environments/live", json!({ "name": "staging" })).await.status, 409);
    assert_eq!(admin.delete("environments/live").await.status, 409, "it holds credentials");
    assert_eq!(admin.delete("environments/preview").await.status, 204);
    server.finish(&[&token, &value]).await;
}

#[tokio::test]
async fn an_organization_is_renamed_and_deleted_when_it_is_empty() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let made = admin.must("POST", "organizations", json!({ "key": "acme" })).await.json();
    let renamed = admin.must("PUT", "organizations/acme", json!({ "key": "acme-2", "name": "Acme" })).await.json();
    assert_eq!(renamed, json!({ "id": made["id"], "key": "acme-2", "name": "Acme" }));
    assert_eq!(admin.get("organizations/acme").await.status, 404);
    assert_eq!(admin.put("organizations/acme-2", json!({ "key": "default" })).await.status, 409);
    admin.must("POST", "secrets?organization=acme-2", json!({ "key": "K" })).await;
    assert_eq!(admin.delete("organizations/acme-2").await.status, 409);
    assert_eq!(admin.delete("secrets/K?organization=acme-2").await.status, 204);
    assert_eq!(admin.delete("organizations/acme-2").await.status, 204);
    assert_eq!(admin.get("connections?organization=acme-2").await.status, 404);
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_secret_says_who_refers_to_it_and_keeps_its_key() {
    let (sink, value) = (Sink::https().await, Canary::new("value"));
    let server = server(&sink, |config| {
        config.bearer("declared", "@@SECRET:K@@");
    })
    .await;
    let admin = server.admin();
    admin.must("POST", "integrations", integration("crm", bearer())).await;
    admin.must("POST", "secrets", json!({ "key": "K", "description": "for the CRM" })).await;
    admin.must("PUT", "secrets/K/values/production", json!({ "value": value.text() })).await;
    for key in ["one", "two"] {
        admin.must("POST", "connections", json!({ "key": key, "integration": "crm" })).await;
        let body = json!({ "token": "a-@@SECRET:K@@" });
        admin.must("PUT", &format!("connections/{key}/credentials/staging"), body).await;
    }
    let used_by = |shown: &Value| -> Vec<String> {
        shown["used_by"]
            .as_array()
            .expect("users")
            .iter()
            .map(|user| user["key"].as_str().expect("one").to_owned())
            .collect()
    };
    assert_eq!(used_by(&admin.get("secrets/K").await.json()), ["one", "two", "declared"]);
    assert_eq!(used_by(&admin.get("secrets").await.json()["items"][0]), ["one", "two", "declared"]);
    assert_eq!(pointers(&admin.put("secrets/K", json!({ "key": "L" })).await), ["/key"], "renaming is refused");
    let refused = admin.delete("secrets/K").await;
    assert_eq!(told(&refused), (409, "conflict".to_owned()));
    assert!(problem(&refused).detail.contains("declared"), "{}", refused.text());
    // What was entered anew without the reference refers to it no more.
    for key in ["one", "two"] {
        admin.must("PUT", &format!("connections/{key}/credentials/staging"), json!({ "token": "plain" })).await;
    }
    assert_eq!(used_by(&admin.get("secrets/K").await.json()), ["declared"]);
    assert_eq!(admin.delete("secrets/K?force=true").await.status, 204);
    server.finish(&[&value]).await;
}
