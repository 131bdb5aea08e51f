//! What every answer has: the id of its request, which the audit log has too.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::world::{self, Call, World, calls};
use super::{changes_one, count, tries};
use crate::harness::client::request;
use crate::harness::{Reply, Sidekey};

/// An id that is nobody's to choose.
const CHOSEN: (&str, &str) = ("Sidekey-Request-Id", "req_01j00000000000000000000000");

/// The id in an answer: one of our own, in the document of a refusal too.
fn id(reply: &Reply, what: &str) -> String {
    let id = reply.header("sidekey-request-id").unwrap_or_else(|| panic!("{what}: {} {}", reply.status, reply.text()));
    assert!(id.len() == 30 && id.starts_with("req_") && id != CHOSEN.1, "{what}: {id}");
    if reply.header("content-type").is_some_and(|media| media.starts_with("application/problem+json")) {
        assert_eq!(reply.json()["request_id"], id, "{what}");
        assert_eq!(reply.header("content-length"), Some(&*reply.body.len().to_string()), "{what}");
    }
    id.to_owned()
}

#[tokio::test]
async fn every_answer_names_its_request_and_the_audit_log_the_same_ad_21() {
    let server = Sidekey::with(|_| {}).await;
    let world = World::make(&server).await;
    let admin = server.admin();
    let mut all: Vec<Call> = calls(&server).await.into_iter().filter(Call::is_asked).collect();
    all.sort_by_key(world::turn);
    let mut seen = BTreeSet::new();
    for call in &all {
        let (path, what) = (world.path(call), call.to_string());
        let refused = admin.with_key("").call(&call.method, &path, &[CHOSEN], world.body(call)).await;
        assert!(refused.status == 401 && seen.insert(id(&refused, &what)), "{what}");
        let before = count(&admin).await;
        let made = admin.call(&call.method, &path, &[CHOSEN], world.body(call)).await;
        let id = id(&made, &what);
        assert!(seen.insert(id.clone()), "{what}: {id} was there before");
        if changes_one(call) && !tries(call) && made.status < 300 && count(&admin).await != before {
            let events = admin.get("audit?limit=5").await.json()["items"].clone();
            let named = |event: &Value| event["request_id"] == id.as_str();
            assert!(events.as_array().expect("events").iter().any(named), "{what}: {id} is not in {events}");
        }
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn what_is_no_call_is_answered_with_the_id_of_its_request_too() {
    let server = Sidekey::with(|_| {}).await;
    let key = std::fs::read_to_string(server.folder().join("admin.key")).expect("admin.key");
    let key = ("X-API-Key", key.trim());
    let json_type = ("Content-Type", "application/json");
    let mut seen = BTreeSet::new();
    for (method, path, headers, status) in [
        ("GET", "/", vec![], 200),
        ("GET", "/assets/people.js", vec![], 200),
        ("GET", "/oidc/callback", vec![], 400),
        ("GET", "/nope", vec![], 404),
        ("GET", "/healthz", vec![], 200),
        ("GET", "/readyz", vec![], 200),
        ("GET", "/metrics", vec![], 200),
        ("DELETE", "/healthz", vec![], 405),
        ("GET", "/api/v1/openapi.json", vec![], 200),
        ("POST", "/api/v1/sign-in", vec![json_type], 400),
        ("GET", "/api/v1/nope", vec![key], 404),
        ("PATCH", "/api/v1/secrets", vec![key], 405),
        ("HEAD", "/api/v1/secrets/K", vec![key], 404),
        ("GET", "/api/v1/roles", vec![key, ("Origin", "https://evil.test")], 403),
        ("GET", "/api/v1/roles", vec![key, ("Host", "evil.test")], 421),
        ("PUT", "/api/v1/secrets/K", vec![key], 415),
    ] {
        let headers = [&[CHOSEN][..], &headers].concat();
        let reply = request(&server.admin_address, method, path, &headers, "").await;
        let what = format!("{method} {path} {status}");
        assert_eq!(reply.status, status, "{what}: {}", reply.text());
        let name = reply.header("sidekey-request-id").map(str::to_owned);
        let name = if method == "HEAD" { name.expect("an id") } else { id(&reply, &what) };
        assert!(seen.insert(name), "{what}");
    }
    let made = server.admin().must("POST", "secrets", json!({ "key": "K" })).await;
    let newest = server.admin().get("audit?limit=1").await.json()["items"][0].clone();
    assert_eq!(newest["request_id"], id(&made, "a secret"));
    server.finish(&[]).await;
}
