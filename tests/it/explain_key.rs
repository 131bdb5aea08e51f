//! Explaining for who administers a key: whether it would be let through, judged by what judges its requests.

use serde_json::{Value, json};

use crate::admin::bearer;
use crate::api_keys::create;
use crate::cli_resources::{json_of, on};
use crate::harness::admin::Admin;
use crate::harness::client::request;
use crate::harness::sink::HOST;
use crate::harness::{Canary, Sidekey, Sink, problem};

/// A server whose second listener takes keys, with a connection `crm` and one of the customer `acme`.
async fn server(sink: &Sink, token: &Canary) -> Sidekey {
    let server = Sidekey::with(|config| {
        config.to(sink);
        let environments = vec!["production", "staging"];
        config.add_listener(&[
            ("address", "127.0.0.1:0".into()),
            ("trust", "key".into()),
            ("environments", environments.into()),
            ("customers", vec!["*"].into()),
        ]);
    })
    .await;
    let admin = server.admin();
    let document = json!({ "slug": "crm", "base_url": format!("https://{HOST}/v1"), "auth": [bearer()] });
    admin.must("POST", "integrations", document).await;
    for connection in [json!({ "key": "crm" }), json!({ "key": "other" }), json!({ "key": "crm", "customer": "acme" })]
    {
        let mut document = connection.clone();
        document["integration"] = json!("crm");
        let id = admin.must("POST", "connections", document).await.json()["id"].clone();
        let path = format!("connections/{}/credentials/production", id.as_str().expect("an id"));
        admin.must("PUT", &path, json!({ "token": token.text() })).await;
    }
    server
}

/// What becomes of a request: what it is refused with, where it is.
fn refusal(explanation: &Value) -> Option<String> {
    explanation["refusal"]["code"].as_str().map(str::to_owned)
}

fn rule<'e>(explanation: &'e Value, about: &str) -> (&'e Value, &'e str) {
    let all = explanation["decisions"].as_array().expect("decisions");
    let found = all.iter().find(|one| one["about"] == about).unwrap_or_else(|| panic!("{about}: {explanation}"));
    (&found["passed"], found["rule"].as_str().expect("a rule"))
}

/// A request with tags, as the holder of a key sends it and as who administers the key asks about it.
struct Asked<'a> {
    method: &'a str,
    path: &'a str,
    environment: Option<&'a str>,
    customer: Option<&'a str>,
}

const PLAIN: Asked<'static> = Asked { method: "GET", path: "/me", environment: None, customer: None };

async fn explain(admin: &Admin, id: &str, asked: &Asked<'_>) -> Value {
    let Asked { method, path, environment, customer } = asked;
    let order = json!({ "method": method, "path": path, "environment": environment, "api_key": id });
    let query = customer.map(|customer| format!("?customer={customer}")).unwrap_or_default();
    admin.must("POST", &format!("connections/crm/explain{query}"), order).await.json()
}

async fn send(server: &Sidekey, key: &str, asked: &Asked<'_>) -> (u16, Option<String>) {
    let mut tags = vec![("Sidekey-Connection", "crm"), ("Sidekey-Key", key)];
    tags.extend(asked.environment.map(|environment| ("Sidekey-Environment", environment)));
    tags.extend(asked.customer.map(|customer| ("Sidekey-Customer", customer)));
    let reply = request(&server.proxies[1], asked.method, asked.path, &tags, "").await;
    (reply.status, reply.header("sidekey-error").map(str::to_owned))
}

#[tokio::test]
async fn what_is_explained_of_a_key_is_what_becomes_of_its_requests() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = server(&sink, &token).await;
    let admin = server.admin();
    let with = |scope: Value| json!({ "name": "k", "environment": "production", "scope": scope });
    let past = json!({ "name": "k", "expires_at": "2030-01-01T00:00:00.000Z", "environment": "production",
        "scope": { "connections": ["*"] } });
    let rules = json!({ "connections": ["cr*"], "methods": ["GET"], "paths": ["/v1/me", "/v1/things/*"] });
    let asks = |path| Asked { path, ..PLAIN };
    let cases: Vec<(Value, Asked<'_>, &str, &str, Option<&str>)> = vec![
        (past, PLAIN, "key", "2030-01-01", None),
        (with(json!({ "connections": ["*"] })), PLAIN, "connection", "`*`", None),
        (with(json!({ "connections": ["gh", "x-*"] })), PLAIN, "connection", "`gh`, `x-*`", Some("connection_unknown")),
        (with(json!({ "connections": [] })), PLAIN, "connection", "none at all", Some("connection_unknown")),
        (with(rules.clone()), asks("/things/7"), "path", "/v1/things/*", None),
        (with(rules.clone()), asks("/secret"), "path", "/v1/secret", Some("not_permitted")),
        (with(rules), Asked { method: "DELETE", ..PLAIN }, "method", "GET", Some("not_permitted")),
        (
            with(json!({ "connections": ["*"] })),
            Asked { environment: Some("staging"), ..PLAIN },
            "environment",
            "production",
            Some("environment_not_permitted"),
        ),
        (
            with(json!({ "connections": ["*"], "environments": ["production", "staging"] })),
            Asked { environment: Some("staging"), ..PLAIN },
            "credential",
            "staging",
            Some("credential_missing"),
        ),
        (
            with(json!({ "connections": ["*"] })),
            Asked { customer: Some("acme"), ..PLAIN },
            "customer",
            "scope",
            Some("connection_unknown"),
        ),
        (
            with(json!({ "connections": ["*"], "customers": ["acme"] })),
            Asked { customer: Some("acme"), ..PLAIN },
            "customer",
            "scope",
            None,
        ),
    ];
    for (document, asked, about, text, code) in cases {
        let (id, key) = create(&admin, document.clone()).await;
        let told = explain(&admin, &id, &asked).await;
        assert_eq!(
            (refusal(&told).as_deref(), &told["permitted"]),
            (code, &json!(code.is_none())),
            "{document}: {told}"
        );
        assert_eq!(told["caller"], *id);
        let (passed, rule) = rule(&told, about);
        assert!(rule.contains(text) && *passed == json!(code.is_none()), "{about} {text}: {told}");
        let count = sink.count();
        let (status, error) = send(&server, &key, &asked).await;
        assert_eq!((error.as_deref(), status == 200), (code, code.is_none()), "{document}");
        assert_eq!(sink.count() - count, usize::from(code.is_none()));
    }
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn a_key_that_is_of_no_use_is_told_with_the_reason() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = server(&sink, &token).await;
    let admin = server.admin();
    let make = async |change: Value| {
        let mut document = json!({ "name": "k", "environment": "production", "scope": { "connections": ["*"] } });
        document.as_object_mut().expect("a table").extend(change.as_object().expect("a table").clone());
        create(&admin, document).await
    };
    let set = async |id: &str, what: &str| {
        let reply = admin.call("POST", &format!("api-keys/{id}/{what}"), &[], None).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    let (suspended, revoked, viewer) =
        (make(json!({})).await, make(json!({})).await, make(json!({ "roles": ["viewer"], "scope": {} })).await);
    set(&suspended.0, "suspend").await;
    set(&revoked.0, "revoke").await;
    for ((id, key), text) in
        [(&suspended, "it is suspended"), (&revoked, "it is revoked"), (&viewer, "its roles do not grant `proxy.use`")]
    {
        let told = explain(&admin, id, &PLAIN).await;
        assert_eq!(rule(&told, "key"), (&json!(false), text));
        assert_eq!((refusal(&told).as_deref(), &told["url"]), (Some("key_unknown"), &Value::Null));
        assert_eq!(send(&server, key, &PLAIN).await, (401, Some("key_unknown".to_owned())));
    }
    // A change holds for the very next question.
    set(&suspended.0, "resume").await;
    assert_eq!(explain(&admin, &suspended.0, &PLAIN).await["permitted"], true);
    assert_eq!(sink.count(), 0);
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn the_limits_of_a_key_are_told_as_they_stand_and_are_not_spent() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = server(&sink, &token).await;
    let admin = server.admin();
    let document = json!({ "name": "k", "environment": "production", "scope": { "connections": ["crm"] },
        "limits": { "per_hour": 3 }, "expires_at": "2030-01-01T00:00:00.000Z" });
    let (id, key) = create(&admin, document).await;
    let left = |told: &Value| {
        let all = told["limits"].as_array().expect("limits").clone();
        let own: Vec<_> = all.iter().filter(|limit| limit["requests"] == 3).collect();
        assert_eq!(own.len(), 1, "{told}");
        own[0]["left"].as_u64()
    };
    for spent in 0..3 {
        for _ in 0..2 {
            let told = explain(&admin, &id, &PLAIN).await;
            assert_eq!((left(&told), &told["permitted"]), (Some(3 - spent), &json!(true)), "{told}");
            assert_eq!(told["key_expires_at"], "2030-01-01T00:00:00.000Z");
        }
        assert_eq!(send(&server, &key, &PLAIN).await.0, 200);
    }
    let told = explain(&admin, &id, &PLAIN).await;
    assert_eq!((left(&told), refusal(&told).as_deref()), (Some(0), Some("rate_limited")), "{told}");
    assert_eq!(send(&server, &key, &PLAIN).await.0, 429);
    assert_eq!(sink.count(), 3);
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn only_who_may_read_keys_asks_about_one_and_of_its_own_organization() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = server(&sink, &token).await;
    let admin = server.admin();
    let (id, _) =
        create(&admin, json!({ "name": "k", "environment": "production", "scope": { "connections": ["*"] } })).await;
    for role in ["editor", "member", "viewer"] {
        let (_, key) = create(&admin, json!({ "name": role, "roles": [role] })).await;
        let reply = admin.with_key(&key).post("connections/crm/explain", json!({ "api_key": id })).await;
        let told = problem(&reply);
        assert_eq!((told.status, told.code.as_str()), (403, "role_insufficient"), "{role}");
        assert!(told.detail.contains("api_keys.read"), "{}", told.detail);
        assert_eq!(told.body["errors"][0]["pointer"], "/api_key");
    }
    admin.must("POST", "organizations", json!({ "key": "acme" })).await;
    let theirs = admin.must("POST", "api-keys?organization=acme", json!({ "name": "theirs" })).await.json();
    let nobodys = json!("apk_01jabcdefghjkmnpqrstvwxyz0");
    let mut answers = Vec::new();
    for unknown in [&theirs["id"], &nobodys] {
        let reply = admin.post("connections/crm/explain", json!({ "api_key": unknown })).await;
        assert_eq!((reply.status, &problem(&reply).body["errors"][0]["pointer"]), (422, &json!("/api_key")));
        answers.push(problem(&reply).snapshot);
    }
    assert_eq!(answers[0], answers[1], "another organization's is as unknown as nobody's");
    assert_eq!(admin.post("connections/crm/explain", json!({ "api_key": "apk_x" })).await.status, 422);
    // The same from the shell.
    let told = json_of(&server, &["connection", "explain", "crm", "/me", "--key", &id]).await;
    assert_eq!((&told["permitted"], &told["caller"]), (&json!(true), &json!(id)));
    let people = on(&server, &["connection", "explain", "crm", "/me", "--key", &id], "").await;
    assert!(people.stdout.contains("ok      key"), "{}", people.stdout);
    assert_eq!(sink.count(), 0);
    server.finish(&[&token]).await;
}
