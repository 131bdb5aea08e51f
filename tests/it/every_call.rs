//! What holds for every call that the description has: a new one is tried as soon as it is described.

mod answers;
mod bodies;
mod cells;
pub(crate) mod strangers;
pub(crate) mod world;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::admin::Admin;
use crate::harness::{Sidekey, problem};
use world::{Call, World, calls};

/// A version that nothing has.
const NEVER: (&str, &str) = ("If-Match", "\"0123456789abcdef\"");

fn parameters(call: &Call) -> BTreeSet<&str> {
    let listed = call.operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
    listed.iter().filter_map(|parameter| parameter["name"].as_str()).collect()
}

/// What is tried, or begun elsewhere, and changes nothing.
fn tries(call: &Call) -> bool {
    ["/test", "/explain", "/authorize"].iter().any(|end| call.path.ends_with(end))
}

/// Whether it changes one thing that is there, or makes it.
fn changes_one(call: &Call) -> bool {
    call.is_asked() && call.method != "GET" && (call.method != "POST" || call.path.contains('{')) && !tries(call)
}

async fn count(admin: &Admin) -> Value {
    admin.get("audit/verify").await.json()["count"].clone()
}

#[tokio::test]
async fn every_change_is_refused_where_the_thing_is_in_another_version_ad_16() {
    let server = Sidekey::with(|_| {}).await;
    let world = World::make(&server).await;
    let calls = calls(&server).await;
    let changes: Vec<&Call> = calls.iter().filter(|call| changes_one(call)).collect();
    assert!(changes.len() > 25, "{}", changes.len());
    let admin = server.admin();
    for call in changes {
        let described = parameters(call);
        assert!(described.contains("If-Match") && described.contains("If-None-Match"), "{call}");
        assert!(call.operation["responses"]["412"].is_object(), "{call}");
        if call.path.ends_with("/me/password") {
            // A key is not a person.
            continue;
        }
        // What is tried with an organization is told there.
        let of = if call.path.contains("{organization}") { "acme" } else { "default" };
        let events = async || admin.get(&format!("audit?organization={of}&limit=2")).await.json()["items"].clone();
        let before = events().await[0].clone();
        let refused = admin.call(&call.method, &world.path(call), &[NEVER], world.body(call)).await;
        assert_eq!(problem(&refused).code, "precondition_failed", "{call}: {}", refused.text());
        assert_eq!(refused.status, 412, "{call}");
        let events = events().await;
        assert_eq!((&events[0]["action"], &events[1]), (&json!("change.overtaken"), &before), "{call}");
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn every_change_is_made_where_the_thing_is_there_ad_16() {
    let server = Sidekey::with(|_| {}).await;
    let world = World::make(&server).await;
    let mut calls: Vec<Call> = calls(&server).await.into_iter().filter(changes_one).collect();
    calls.retain(|call| !call.path.ends_with("/me/password"));
    calls.sort_by_key(world::turn);
    for call in &calls {
        let made = server.admin().call(&call.method, &world.path(call), &[("If-Match", "*")], world.body(call)).await;
        assert!((200..300).contains(&made.status), "{call}: {} {}", made.status, made.text());
        let shows = call.operation["responses"]["200"]["headers"]["ETag"].is_object();
        assert!(!shows || made.header("etag").is_some(), "{call}");
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn what_is_read_in_a_version_is_changed_in_it_once_ad_16() {
    let server = Sidekey::with(|_| {}).await;
    let world = World::make(&server).await;
    let admin = server.admin();
    let calls = calls(&server).await;
    let put = |call: &&Call| call.method == "PUT" && call.operation["responses"]["200"]["headers"]["ETag"].is_object();
    let puts: Vec<&Call> = calls.iter().filter(put).collect();
    assert!(puts.len() >= 9, "{}", puts.len());
    for call in puts {
        let path = world.path(call);
        // What is changed in part is read as a whole.
        let read = ["/roles", "/scope", "/limits"].iter().find_map(|part| path.strip_suffix(part)).unwrap_or(&path);
        let read = if call.path.contains("/organizations/") { &path } else { read };
        let tag = admin.get(read).await.header("etag").unwrap_or_else(|| panic!("{call}")).to_owned();
        let again = async || admin.call("PUT", &path, &[("If-Match", &tag)], world.another_body(call)).await;
        let (first, second) = (again().await, again().await);
        assert!(first.status < 300, "{call}: {}", first.text());
        assert_eq!(second.status, 412, "{call}: {}", second.text());
        let now = admin.get(read).await;
        assert_eq!(now.header("etag"), first.header("etag"), "{call}: what was answered is what is read");
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn every_post_is_done_once_for_its_idempotency_key_ad_15() {
    let server = Sidekey::with(|_| {}).await;
    let world = World::make(&server).await;
    let admin = server.admin();
    let calls = calls(&server).await;
    let mut posts: Vec<&Call> = calls.iter().filter(|call| call.method == "POST" && call.is_asked()).collect();
    posts.sort_by_key(|call| world::turn(call));
    assert!(posts.len() >= 14, "{}", posts.len());
    for (number, call) in posts.into_iter().enumerate() {
        assert!(parameters(call).contains("Idempotency-Key"), "{call}");
        let (path, key) = (world.path(call), format!("key-{number}"));
        let send = async || admin.call("POST", &path, &[("Idempotency-Key", &key)], world.new_body(call)).await;
        let first = send().await;
        let events = count(&admin).await;
        let second = send().await;
        assert!((200..300).contains(&first.status), "{call}: {}", first.text());
        assert_eq!(second.status, first.status, "{call}: {}", second.text());
        if tries(call) {
            continue;
        }
        assert_eq!(second.header("idempotency-replayed"), Some("true"), "{call}");
        for header in ["location", "etag"] {
            assert_eq!(second.header(header), first.header(header), "{call}: {header}");
        }
        assert_eq!(count(&admin).await, events, "{call}: nothing is done twice");
        let other = admin.call("POST", &format!("{path}?"), &[("Idempotency-Key", &key)], Some(json!({}))).await;
        assert_eq!(problem(&other).code, "idempotency_key_reused", "{call}");
    }
    server.finish(&[]).await;
}
