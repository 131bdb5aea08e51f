//! Every cell of role × call, and in it each kind of thing: one's own, somebody else's, somebody else's personal one.
//!
//! The things are there and the documents would be taken, so whatever is not let through is refused by the role. What is
//! there is not used up by it: a change names a version that nothing has, and whoever is let through is told so (412).

use std::fmt::Write;

use serde_json::{Value, json};
use sidekey::admin::permission::CALLS;
use sidekey::model::role::{Grant, Permission, Role};

use super::world::{Call, World, calls};
use super::{NEVER, changes_one};
use crate::admin::{bearer, integration};
use crate::api_keys::create;
use crate::harness::browser::user;
use crate::harness::{Browser, Reply, Sidekey, Sink, problem};

const PASSWORD: &str = "seven wise cranes";

/// Whose the thing is that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// Of whoever asks; or, where things have no owner, of their organization.
    Own,
    /// Of somebody else in the organization; of the whole system; another organization.
    Others,
    /// A connection that nobody sees but its owner and administrators.
    Personal,
}

impl Whose {
    /// The kinds of things that a call can be about.
    fn of(call: &Call) -> &'static [Whose] {
        match call.path.trim_start_matches("/api/v1/") {
            "me" | "me/password" => &[Whose::Own],
            path if path.starts_with("connections/") => &[Whose::Own, Whose::Others, Whose::Personal],
            "connections" if call.method == "GET" => &[Whose::Own, Whose::Others, Whose::Personal],
            _ => &[Whose::Own, Whose::Others],
        }
    }
}

/// Somebody with what is theirs.
struct Somebody {
    browser: Browser,
    id: String,
    session: String,
    api_key: String,
    /// Seen by everybody.
    shared: String,
    personal: String,
}

impl Somebody {
    async fn make(server: &Sidekey, role: Role, name: &str) -> Self {
        let admin = server.admin();
        let mut browser = user(server, &format!("{name}@example.test"), role.as_str(), PASSWORD).await;
        let me = browser.get("me").await.json();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let (id, session) = (text(&me["user"]["id"]), text(&me["session"]));
        let (api_key, _) = create(&admin, json!({ "name": name })).await;
        let mut connections = ["organization", "personal"].map(|visibility| {
            json!({
                "key": format!("of-{name}-{visibility}"), "integration": "crm", "owner": id, "visibility": visibility,
            })
        });
        for connection in &mut connections {
            *connection = admin.must("POST", "connections", connection.take()).await.json()["id"].clone();
            let path = format!("connections/{}/credentials/production", text(connection));
            admin.must("PUT", &path, json!({ "token": "t" })).await;
        }
        let [shared, personal] = connections.map(|id| text(&id));
        Somebody { browser, id, session, api_key, shared, personal }
    }
}

/// The path of a call about a thing of this kind.
fn path(world: &World, call: &Call, whose: Whose, me: &Somebody, other: &Somebody) -> String {
    let owner = if whose == Whose::Own { me } else { other };
    let path = world.path_with(call, |name| match (name, whose) {
        ("organization", Whose::Own) => "default".to_owned(),
        ("organization", _) => "acme".to_owned(),
        ("slug", Whose::Others) => "everyones".to_owned(),
        ("connection", Whose::Others) => owner.shared.clone(),
        ("connection", _) => owner.personal.clone(),
        ("user", _) => owner.id.clone(),
        ("session", _) => owner.session.clone(),
        ("api_key", _) => owner.api_key.clone(),
        _ => world.named(call, name),
    });
    let is_systems = matches!((&*call.method, call.short()), ("POST", "integrations"))
        || matches!((&*call.method, call.short()), ("PUT" | "DELETE", "integrations/{slug}"));
    if whose == Whose::Others && is_systems { format!("{path}?system=true") } else { path }
}

/// The document of a call, of something new where it makes one.
fn body(world: &World, call: &Call, whose: Whose, me: &Somebody, other: &Somebody, number: usize) -> Option<Value> {
    let mut body = world.body(call)?;
    let owner = if whose == Whose::Own { me } else { other };
    match (&*call.method, call.short()) {
        ("POST", "organizations") => body["key"] = json!(format!("new-{number}")),
        ("POST", "environments") => body["name"] = json!(format!("new-{number}")),
        ("POST", "integrations") => body["slug"] = json!(format!("new-{number}")),
        ("POST", "users") => body["email"] = json!(format!("new-{number}@example.test")),
        ("POST", "secrets") => body["key"] = json!(format!("NEW_{number}")),
        ("POST", "connections") => {
            body["key"] = json!(format!("new-{number}"));
            body["owner"] = json!(owner.id);
        }
        ("PUT", "organizations/{organization}") => {
            body["key"] = json!(if whose == Whose::Own { "default" } else { "acme" });
        }
        ("PUT", "integrations/{slug}") if whose == Whose::Others => body["slug"] = json!("everyones"),
        // A connection that is named by its id keeps its key.
        ("PUT", "connections/{connection}") => drop(body.as_object_mut().expect("an object").remove("key")),
        _ => {}
    }
    Some(body)
}

/// Whether the one table of roles and permissions lets a call through.
fn is_granted(call: &Call, role: Role, whose: Whose, needed: Permission) -> bool {
    let administers = matches!(role, Role::SuperAdmin | Role::OrgAdmin);
    let has = |permission| role.grant(permission) == Grant::All;
    let path = call.short();
    match (role.grant(needed), whose) {
        (Grant::None, _) => false,
        (_, Whose::Own) => true,
        // Only administrators see what is personal, and give connections to others.
        (_, Whose::Personal) => administers,
        (_, Whose::Others) if (&*call.method, path) == ("POST", "connections") => administers,
        // Another organization is a super admin's only.
        (_, Whose::Others) if path.starts_with("organizations") && call.method != "POST" => role == Role::SuperAdmin,
        // Who manages users ends their sessions.
        (_, Whose::Others) if path == "sessions/{session}" => has(Permission::ManageUsers),
        // What every organization has is changed by those who manage that.
        (_, Whose::Others) if is_of_system(call) => has(Permission::ManageSystemIntegrations),
        (grant, Whose::Others) => grant == Grant::All,
    }
}

fn is_of_system(call: &Call) -> bool {
    call.method != "GET" && matches!(call.short(), "integrations" | "integrations/{slug}")
}

/// Whether an answer says that the call was let through. A list lets those things through that stand in it.
fn is_let_through(call: &Call, whose: Whose, reply: &Reply, me: &Somebody, other: &Somebody) -> bool {
    let owner = if whose == Whose::Own { me } else { other };
    match (reply.status, call.short()) {
        (412, _) if changes_one(call) => true,
        // Nobody signs in for a token that is entered, which only those are told who might.
        (409, "connections/{connection}/authorize") => true,
        (403, _) => false,
        (404, _) => false,
        // Whoever may make connections may not make them for others: the document says it, not the role.
        (422, "connections") => {
            assert_eq!(reply.json()["errors"][0]["pointer"], "/owner", "{}", reply.text());
            false
        }
        (200, path @ ("connections" | "sessions" | "organizations")) if call.method == "GET" => {
            let id = match (path, whose) {
                ("connections", Whose::Others) => &owner.shared,
                ("connections", _) => &owner.personal,
                ("sessions", _) => &owner.session,
                (_, Whose::Own) => "default",
                (..) => "acme",
            };
            let items = reply.json()["items"].as_array().expect("items").clone();
            items.iter().any(|item| item["id"] == *id || item["key"] == *id)
        }
        (200..300, _) if !changes_one(call) => true,
        _ => panic!("{call} of {whose:?}: {} {}", reply.status, reply.text()),
    }
}

/// What stands in a cell: whose things the role reaches by the call.
fn cell(reached: &[Whose]) -> &'static str {
    match reached {
        [] => "-",
        [Whose::Own] => "own",
        [Whose::Own, Whose::Others] => "yes",
        [Whose::Own, Whose::Others, Whose::Personal] => "all",
        _ => "?",
    }
}

#[tokio::test]
async fn every_role_reaches_by_every_call_what_the_table_says_and_nothing_else_tn_12() {
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        config.to(&sink).set("admin.sign_in.per_account", 1000).set("admin.sign_in.per_address", 1000);
    })
    .await;
    let world = World::make(&server).await;
    let admin = server.admin();
    admin.must("POST", "integrations?system=true", integration("everyones", bearer())).await;
    admin.must("PUT", "integrations/everyones/values", json!({ "values": {} })).await;
    let other = Somebody::make(&server, Role::Member, "other").await;
    let mut all: Vec<Call> = calls(&server).await.into_iter().filter(Call::is_asked).collect();
    let place = |call: &Call| CALLS.iter().position(|(method, route, _)| call.is(method.as_str(), route));
    all.sort_by_key(place);
    assert_eq!(all.len(), CALLS.len(), "every call of the description is a line of the table");

    let mut rows = vec![String::new(); all.len()];
    let mut number = 0;
    for role in Role::ALL {
        let mut me = Somebody::make(&server, role, role.as_str()).await;
        for ((call, (.., needed)), row) in all.iter().zip(CALLS).zip(&mut rows) {
            let mut reached = Vec::new();
            for whose in Whose::of(call) {
                number += 1;
                let (path, body) =
                    (path(&world, call, *whose, &me, &other), body(&world, call, *whose, &me, &other, number));
                let origin = format!("http://{}", server.admin_address);
                let mut headers = vec![("Origin", &*origin), ("Sec-Fetch-Site", "same-origin")];
                headers.extend(changes_one(call).then_some(NEVER));
                let reply = me.browser.send(&call.method, &path, &headers, body).await;
                let passed = is_let_through(call, *whose, &reply, &me, &other);
                let expected = is_granted(call, role, *whose, *needed);
                assert_eq!(passed, expected, "{call} of {whose:?} as {role}: {} {}", reply.status, reply.text());
                if role.grant(*needed) == Grant::None {
                    assert_eq!(problem(&reply).code, "role_insufficient", "{call} of {whose:?} as {role}");
                }
                reached.extend(passed.then_some(*whose));
            }
            let _ = write!(row, " {:<width$}", cell(&reached), width = role.as_str().len());
        }
    }
    let mut table = format!("{:6} {:50} {}\n", "", "", Role::ALL.map(Role::as_str).join(" "));
    for ((method, route, permission), row) in CALLS.iter().zip(&rows) {
        let _ = writeln!(table, "{:6} {route:50}{row} {}", method.as_str(), permission.as_str());
    }
    insta::assert_snapshot!("reach_of_roles", table);
    server.finish(&[]).await;
}
