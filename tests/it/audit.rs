//! The audit log: who changed what, whether the log is whole, and how often credentials were used.

use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};

use crate::admin::{bearer, integration};
use crate::harness::admin::Admin;
use crate::harness::{Canary, Sidekey, Sink, get, problem, soon};

/// Makes the integration and connection `crm` with a token.
async fn enter(admin: &Admin, token: &Canary) {
    admin.must("POST", "integrations", integration("crm", bearer())).await;
    admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await;
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": token.text() })).await;
}

fn items(page: &Value) -> &Vec<Value> {
    page["items"].as_array().expect("items")
}

/// Changes the file of a server that is not running, as whoever can write it would.
async fn tamper(server: &mut Sidekey, sql: &'static str) {
    server.sigterm();
    server.wait_exit().await;
    let file = server.folder().join("sidekey.vault");
    let mut vault = SqliteConnection::connect(&format!("sqlite:{}", file.display())).await.expect("the vault");
    sqlx::raw_sql(sql).execute(&mut vault).await.expect("a statement");
    vault.close().await.expect("a closed vault");
    server.restart().await;
}

#[tokio::test]
async fn every_change_is_told_with_who_and_from_where_and_never_with_a_secret_lk_18() {
    let (sink, token) = (Sink::https().await, Canary::spiky("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink);
    })
    .await;
    let admin = server.admin();
    enter(&admin, &token).await;
    let page = admin.get("audit").await.json();
    let actions: Vec<_> = items(&page).iter().map(|event| event["action"].as_str().expect("an action")).collect();
    assert_eq!(actions, ["credential.put", "connection.create", "integration.create", "vault.create"]);
    let newest = &items(&page)[0];
    let key = std::fs::read_to_string(server.folder().join("admin.key")).expect("admin.key");
    let (id, _) = key.rsplit_once('_').expect("an id and a secret");
    assert_eq!((newest["actor"].as_str(), newest["address"].as_str()), (Some(id), Some("127.0.0.1")));
    assert_eq!(newest["sequence"], 4);
    let requests: Vec<_> = items(&page).iter().take(3).map(|event| event["request_id"].as_str()).collect();
    assert!(requests.iter().all(Option::is_some), "{page}");
    assert!(newest["at"].as_str().is_some_and(|at| at.ends_with('Z')));
    // What is refused is no change.
    assert_eq!(admin.delete("integrations/crm").await.status, 409);
    assert_eq!(items(&admin.get("audit").await.json()).len(), 4);
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn events_are_found_by_filters_and_come_in_pages() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    for name in ["one", "two", "three"] {
        admin.must("POST", "environments", json!({ "name": name })).await;
    }
    let (mut cursor, mut seen) = (String::new(), Vec::new());
    loop {
        let page = admin.get(&format!("audit?limit=3{cursor}")).await.json();
        seen.extend(items(&page).iter().map(|event| event["sequence"].as_i64().expect("a number")));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, [4, 3, 2, 1]);
    let count = async |query: &str| items(&admin.get(&format!("audit?{query}")).await.json()).len();
    assert_eq!(count("object=two").await, 1);
    assert_eq!(count("action=environment.create").await, 3);
    assert_eq!(count("action=environment.*&object=three").await, 1);
    assert_eq!(count("actor=nobody").await, 0);
    assert_eq!(count("since=2020-01-01T00:00:00Z").await, 4);
    assert_eq!(count("until=2020-01-01T00:00:00Z").await, 0);
    for query in ["since=yesterday", "akteur=x", "action=a&action=b", "chain=else"] {
        let refused = problem(&admin.get(&format!("audit?{query}")).await);
        assert_eq!((refused.status, refused.code.as_str()), (422, "invalid"), "{query}");
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_log_that_was_changed_behind_our_back_is_found_and_one_that_was_cut_too() {
    let mut server = Sidekey::with(|_| {}).await;
    for name in ["one", "two", "three"] {
        server.admin().must("POST", "environments", json!({ "name": name })).await;
    }
    let whole = server.admin().get("audit/verify").await.json();
    assert_eq!((&whole["intact"], &whole["count"], &whole["broken"]), (&json!(true), &json!(4), &Value::Null));
    let kept = format!("audit/verify?count=4&head={}", whole["head"].as_str().expect("a head"));
    assert_eq!(server.admin().get(&kept).await.json()["intact"], true);

    tamper(&mut server, "UPDATE audit SET object = 'other' WHERE sequence = 3").await;
    let found = server.admin().get("audit/verify").await.json();
    assert_eq!((&found["intact"], &found["broken"]["sequence"]), (&json!(false), &json!(3)));
    assert_eq!(found["broken"]["reason"], "altered");
    tamper(&mut server, "UPDATE audit SET object = 'two' WHERE sequence = 3").await;
    assert_eq!(server.admin().get("audit/verify").await.json()["intact"], true);

    tamper(&mut server, "DELETE FROM audit WHERE sequence = 2").await;
    let found = server.admin().get("audit/verify").await.json();
    assert_eq!((&found["broken"]["sequence"], &found["broken"]["reason"]), (&json!(2), &json!("removed")));

    let cut = "DELETE FROM audit WHERE sequence > 1; UPDATE audit_chains SET count = 1, \
               head = (SELECT mac FROM audit WHERE sequence = 1)";
    tamper(&mut server, cut).await;
    assert_eq!(server.admin().get("audit/verify").await.json()["intact"], true, "from the inside it cannot be seen");
    let found = server.admin().get(&kept).await.json();
    assert_eq!((&found["broken"]["sequence"], &found["broken"]["reason"]), (&json!(4), &json!("cut")));
    assert_eq!(server.admin().get("audit/verify?count=4").await.status, 422);
    server.finish(&[]).await;
}

#[tokio::test]
async fn the_log_is_exported_as_json_lines() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    // More than one batch of them.
    for number in 0..520 {
        admin.must("PUT", &format!("secrets/KEY_{number}"), json!({})).await;
    }
    let reply = admin.get("audit/export").await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/jsonl")));
    let text = reply.text();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
    assert!(events.iter().map(|event| event["sequence"].as_i64()).eq((1..=521).map(Some)), "each once and in order");
    let some = admin.get("audit/export?object=KEY_7").await.text();
    assert_eq!(some.lines().count(), 1, "{some}");
    server.finish(&[]).await;
}

#[tokio::test]
async fn what_an_organization_did_is_told_to_nobody_else() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let made = admin.must("POST", "organizations", json!({ "key": "other", "name": "Other" })).await.json();
    admin.must("POST", "environments?organization=other", json!({ "name": "theirs" })).await;
    let actions = async |path: &str| {
        let page = admin.get(path).await.json();
        items(&page).iter().map(|event| event["action"].as_str().unwrap_or("?").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(actions("audit").await, ["vault.create"]);
    assert_eq!(actions("audit?organization=other").await, ["environment.create", "organization.create"]);
    assert_eq!(admin.delete("environments/theirs?organization=other").await.status, 204);
    assert_eq!(admin.delete("organizations/other").await.status, 204);
    // What outlives it is the vault's own chain, and its own under its id.
    assert_eq!(actions("audit?chain=vault").await, ["organization.delete"]);
    let id = made["id"].as_str().expect("an id");
    assert_eq!(actions(&format!("audit?chain={id}")).await.len(), 3);
    assert_eq!(admin.get(&format!("audit/verify?chain={id}")).await.json()["intact"], true);
    server.finish(&[]).await;
}

#[tokio::test]
async fn the_use_of_a_credential_is_counted_by_connection_caller_and_hour() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let mut server = Sidekey::with(|config| {
        config.to(&sink).set("proxy.usage_interval", "50ms");
    })
    .await;
    enter(&server.admin(), &token).await;
    let tag = [("Sidekey-Connection", "crm")];
    for _ in 0..20 {
        assert_eq!(get(server.proxy(), "/", &tag).await.status, 200);
    }
    // What was refused used nothing.
    assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", "nobody")]).await.status, 404);
    let counted = async |server: &Sidekey, query: &str| {
        let page = server.admin().get(&format!("audit/usage{query}")).await.json();
        items(&page).iter().map(|counter| counter["count"].as_i64().expect("a count")).sum::<i64>()
    };
    soon("the requests to be counted", async { while counted(&server, "").await < 20 {} }).await;
    assert_eq!(counted(&server, "?caller=local").await, 20);
    let page = server.admin().get("audit/usage").await.json();
    let counter = &items(&page)[0];
    assert_eq!(counter["environment"], "production");
    let connection = counter["connection"].as_str().expect("an id");
    assert_eq!(counted(&server, &format!("?connection={connection}")).await, 20);
    assert_eq!(counted(&server, "?until=2020-01-01T00:00:00Z").await, 0);
    assert_eq!(server.admin().get("audit/usage?caller=somebody").await.status, 422);
    // What was not handed over yet when the server stops is put down then, and counted once by the next one.
    for _ in 0..3 {
        assert_eq!(get(server.proxy(), "/", &tag).await.status, 200);
    }
    server.restart().await;
    soon("what was put down to be counted", async { while counted(&server, "").await < 23 {} }).await;
    server.restart().await;
    assert_eq!(get(server.proxy(), "/", &tag).await.status, 200);
    soon("the last request to be counted", async { while counted(&server, "").await < 24 {} }).await;
    assert_eq!(counted(&server, "").await, 24);
    server.finish(&[&token]).await;
}
