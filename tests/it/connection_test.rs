//! Testing a connection: the integration's test request, through the path that every request takes.

use serde_json::{Value, json};

use crate::admin::bearer;
use crate::harness::admin::Admin;
use crate::harness::sink::{HOST, Script};
use crate::harness::{Canary, Sidekey, Sink, problem};

async fn server(sink: &Sink) -> Sidekey {
    Sidekey::with(|config| {
        config.to(sink);
    })
    .await
}

/// An integration `crm` with this test request and a connection `crm` with a token in production.
async fn enter(admin: &Admin, test: Value, token: &Canary) {
    let document = json!({ "slug": "crm", "base_url": format!("https://{HOST}/v1"), "auth": [bearer()], "test": test });
    admin.must("POST", "integrations", document).await;
    admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await;
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": token.text() })).await;
}

async fn test(admin: &Admin) -> Value {
    let reply = admin.post("connections/crm/test", json!({ "environment": "production" })).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[tokio::test]
async fn the_test_request_goes_the_way_of_every_request() {
    let (sink, token) = (Sink::https().await, Canary::spiky("token"));
    let server = server(&sink).await;
    enter(&server.admin(), json!({ "path": "/me?full=1", "status": [200, 204] }), &token).await;
    sink.next(Script::respond(200, &[("Content-Type", "application/json")], "{\"name\": \"Ada\"}"));
    let result = test(&server.admin()).await;
    let seen = sink.next_request().await;
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/v1/me?full=1"));
    assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {}", token.text())));
    assert_eq!((&result["passed"], &result["status"], &result["reason"]), (&json!(true), &json!(200), &Value::Null));
    assert_eq!(result["said"]["body"], "{\"name\": \"Ada\"}");
    let line = server.access_line(result["request_id"].as_str().expect("an id")).await;
    assert_eq!((&line["status"], &line["environment"]), (&json!(200), &json!("production")));
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn what_the_upstream_says_is_shown_without_the_credential_and_cut() {
    let (sink, token) = (Sink::https().await, Canary::spiky("token"));
    let server = server(&sink).await;
    enter(&server.admin(), json!({ "path": "/me" }), &token).await;
    let text = token.text();
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    let escaped = serde_json::to_string(text).expect("a text");
    let echoed = format!("raw {text} hex {hex} json {escaped} reversed {}", text.chars().rev().collect::<String>());
    // A second one lies over the end of what is shown.
    let body = format!("{echoed}{}{text}{}", "x".repeat(2040 - 50), "y".repeat(100_000));
    sink.next(Script::respond(401, &[], &body));
    let result = test(&server.admin()).await;
    let said = result["said"]["body"].as_str().expect("a text");
    assert!(said.starts_with("raw *** hex *** json \"***\" reversed ***x"), "{said}");
    assert_eq!((said.len(), &result["said"]["is_cut"]), (2048, &json!(true)));
    assert_eq!((&result["passed"], &result["status"]), (&json!(false), &json!(401)));
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn a_test_that_does_not_reach_the_upstream_says_why() {
    let (mut sink, token) = (Sink::https().await, Canary::new("token"));
    let server = server(&sink).await;
    let admin = server.admin();
    enter(&admin, json!({ "path": "/me" }), &token).await;
    let missing = admin.must("POST", "connections/crm/test", json!({ "environment": "staging" })).await.json();
    assert_eq!((&missing["passed"], &missing["code"]), (&json!(false), &json!("credential_missing")));
    sink.refuse().await;
    let result = test(&admin).await;
    assert_eq!((&result["passed"], &result["status"]), (&json!(false), &Value::Null));
    assert_eq!(result["code"], "upstream_refused");
    // Nothing was said of the credential.
    assert_eq!(admin.get("connections/crm").await.json()["environments"]["production"]["status"], "active");
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn the_designers_environment_is_used_where_none_is_named() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = server(&sink).await;
    let admin = server.admin();
    enter(&admin, json!({ "path": "/me" }), &token).await;
    let refused = problem(&admin.post("connections/crm/test", json!({})).await);
    assert_eq!((refused.status, refused.body["errors"][0]["pointer"].as_str()), (422, Some("/environment")));
    let unknown = problem(&admin.post("connections/crm/test", json!({ "environment": "nowhere" })).await);
    assert_eq!(unknown.status, 422);
    assert_eq!(admin.post("connections/nobody/test", json!({})).await.status, 404);
    admin
        .must(
            "PUT",
            "integrations/crm",
            json!({
                "slug": "crm", "base_url": format!("https://{HOST}/v1"), "auth": [bearer()]
            }),
        )
        .await;
    let none = problem(&admin.post("connections/crm/test", json!({ "environment": "production" })).await);
    assert_eq!((none.status, none.code.as_str()), (409, "conflict"));
    assert_eq!(sink.count(), 0);
    server.finish(&[&token]).await;
}
#[tokio::test]
async fn a_test_moves_the_status_of_the_connection() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = server(&sink).await;
    let assert = json!({ "pointer": "/ok", "equals": true });
    enter(&server.admin(), json!({ "path": "/me", "assert": assert }), &token).await;
    let status = async |admin: &Admin| {
        let shown = admin.get("connections/crm").await.json();
        shown["environments"]["production"]["status"].as_str().expect("a status").to_owned()
    };
    for (code, body, passes) in [
        (401, "{\"ok\": true}", false),
        (200, "{\"ok\": true}", true),
        (200, "{\"ok\": false}", false),
        (200, "no JSON", false),
        (200, "{\"ok\": true}", true),
        (500, "{\"ok\": true}", false),
    ] {
        sink.next(Script::respond(code, &[], body));
        let result = test(&server.admin()).await;
        assert_eq!(result["passed"], passes, "{code} {body}: {result}");
        assert_eq!(status(&server.admin()).await, if passes { "active" } else { "error" }, "{code} {body}");
    }
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn a_short_credential_is_masked_where_it_stands_alone() {
    let sink = Sink::https().await;
    let server = server(&sink).await;
    let admin = server.admin();
    enter(&admin, json!({ "path": "/me" }), &Canary::new("token")).await;
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": "k7" })).await;
    sink.next(Script::respond(401, &[], "{\"sent\": \"k7\", \"url\": \"/a?t=k7\", \"id\": \"ak7b\"} k7"));
    let said = test(&admin).await["said"]["body"].clone();
    assert_eq!(said, "{\"sent\": \"***\", \"url\": \"/a?t=***\", \"id\": \"ak7b\"} ***");
    server.finish(&[]).await;
}

/// A credential is of no use while a secret that it refers to has no value, and says so before anybody asks with it.
#[tokio::test]
async fn a_credential_whose_secret_has_no_value_any_more_stands_as_an_error() {
    let (sink, token) = (Sink::https().await, Canary::spiky("token"));
    let server = server(&sink).await;
    let admin = server.admin();
    let document = json!({
        "slug": "crm", "base_url": format!("https://{HOST}/v1"), "auth": [bearer()], "test": { "path": "/me" }
    });
    admin.must("POST", "integrations", document).await;
    admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await;
    admin.must("POST", "secrets", json!({ "key": "TOKEN" })).await;
    admin.must("PUT", "secrets/TOKEN/values/production", json!({ "value": token.text() })).await;
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": "@@SECRET:TOKEN@@" })).await;
    let standing = async || admin.get("connections/crm/credentials/production").await.json();
    assert_eq!(standing().await["status"], "active");
    sink.next(Script::respond(200, &[], "{}"));
    assert_eq!(test(&admin).await["passed"], json!(true));
    assert_eq!(admin.delete("secrets/TOKEN/values/production").await.status, 204);
    let tested = test(&admin).await;
    assert_eq!((&tested["passed"], &tested["code"]), (&json!(false), &json!("secret_missing")), "{tested}");
    let without = standing().await;
    let reason = json!("the secret TOKEN has no value in production");
    assert_eq!((&without["status"], &without["reason"]), (&json!("error"), &reason), "{without}");
    // The list says the same, and a value makes it well again.
    let listed = admin.get("connections").await.json();
    assert_eq!(listed["items"][0]["environments"]["production"]["reason"], reason, "{listed}");
    admin.must("PUT", "secrets/TOKEN/values/production", json!({ "value": token.text() })).await;
    let again = standing().await;
    assert_eq!((&again["status"], &again["reason"]), (&json!("active"), &Value::Null), "{again}");
    server.finish(&[&token]).await;
}
