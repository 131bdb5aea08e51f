//! What belongs to another organization is, to every call, what is not there.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::world::{Call, World, calls};
use crate::admin::{bearer, integration};
use crate::api_keys::create;
use crate::harness::{Reply, Sidekey};

/// Something of each kind in the organization `acme`, which nobody else has.
pub(crate) async fn theirs(server: &Sidekey) -> BTreeMap<&'static str, String> {
    let admin = server.admin();
    let of = |path: &str| format!("{path}?organization=acme");
    let text = |reply: Reply| reply.json()["id"].as_str().expect("an id").to_owned();
    let invited = json!({ "email": "eve@example.test", "roles": ["viewer"] });
    let user = text(admin.must("POST", &of("users"), invited).await);
    let key = text(admin.must("POST", &of("api-keys"), json!({ "name": "theirs" })).await);
    admin.must("POST", &of("environments"), json!({ "name": "theirs" })).await;
    admin.must("POST", &of("integrations"), integration("theirs", bearer())).await;
    admin.must("POST", &of("secrets"), json!({ "key": "THEIRS" })).await;
    admin.must("PUT", &of("secrets/THEIRS/values/production"), json!({ "value": "v" })).await;
    let connection = json!({ "key": "theirs", "integration": "theirs" });
    let connection = text(admin.must("POST", &of("connections"), connection).await);
    admin.must("PUT", &of(&format!("connections/{connection}/credentials/production")), json!({ "token": "t" })).await;
    let organization = text(admin.get("organizations/acme").await);
    let named = |name: &str| name.to_owned();
    BTreeMap::from([
        ("organization", organization),
        ("environment", named("theirs")),
        ("slug", named("theirs")),
        ("connection", connection),
        ("key", named("THEIRS")),
        ("user", user),
        ("api_key", key),
        // Nobody of theirs has signed in; the form is what counts.
        ("session", named("ses_01j00000000000000000000000")),
        ("number", named("1")),
    ])
}

/// Names of the same form that nothing has.
pub(crate) fn nobodys(theirs: &BTreeMap<&'static str, String>) -> BTreeMap<&'static str, String> {
    let other = |name: &str, text: &str| match text.split_once('_') {
        Some((prefix, _)) => format!("{prefix}_01j00000000000000000000001"),
        None if name == "key" => "NOBODYS".to_owned(),
        None if name == "number" => "1".to_owned(),
        None => "nobodys".to_owned(),
    };
    theirs.iter().map(|(name, text)| (*name, other(name, text))).collect()
}

#[tokio::test]
async fn what_is_another_organizations_is_nowhere_tn_01() {
    let server = Sidekey::with(|_| {}).await;
    let world = World::make(&server).await;
    let theirs = theirs(&server).await;
    let nobodys = nobodys(&theirs);
    let (_, key) = create(&server.admin(), json!({ "name": "here", "roles": ["org_admin"] })).await;
    let admin = server.admin().with_key(&key);
    let mut calls: Vec<Call> =
        calls(&server).await.into_iter().filter(|call| call.is_asked() && call.path.contains('{')).collect();
    assert!(calls.len() > 40, "{}", calls.len());
    // What would make something of that name comes last.
    calls.sort_by_key(|call| call.method == "PUT" && call.path.ends_with('}'));
    for call in &calls {
        let path = |names: &BTreeMap<&'static str, String>| world.path_with(call, |name| names[name].clone());
        let ask = async |names| admin.call(&call.method, &path(names), &[], body(&world, call)).await;
        let (their, nobody) = (ask(&theirs).await, ask(&nobodys).await);
        assert_eq!(their.status, nobody.status, "{call}: {} {}", their.text(), nobody.text());
        let makes = call.method == "PUT" && their.status == 201;
        assert!(makes || matches!(their.status, 403 | 404), "{call}: {} {}", their.status, their.text());
        if !makes {
            assert_eq!(their.said(), nobody.said(), "{call}");
        }
    }
    // They are as they were.
    let there = server.admin();
    for path in ["connections", "users", "api-keys", "secrets", "environments"] {
        let listed = there.get(&format!("{path}?organization=acme")).await.json();
        let last = listed["items"].as_array().expect("items").last().expect("one").to_string();
        assert!(last.to_lowercase().contains("theirs") || path == "users", "{path}: {last}");
    }
    server.finish(&[]).await;
}

/// A document without the name that the path has.
pub(crate) fn body(world: &World, call: &Call) -> Option<Value> {
    let mut body = world.body(call)?;
    for name in ["key", "slug", "name"] {
        if let Some(members) = body.as_object_mut()
            && call.method == "PUT"
            && !call.path.contains("api-keys")
        {
            members.remove(name);
        }
    }
    Some(body)
}
