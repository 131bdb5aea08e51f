//! P-08: what belongs to another organization takes the very work that nothing takes: the same statements to the
//! vault, which give the same numbers of rows. That is counted, not timed, so it holds on a busy machine too.

use std::collections::BTreeMap;

use serde_json::json;

use crate::api_keys::create;
use crate::every_call::strangers::{body, nobodys, theirs};
use crate::every_call::world::{Call, World, calls};
use crate::harness::Sidekey;
use crate::harness::browser::user;

/// The statements that a request has put to the vault, each with how many rows came and how many it wrote.
type Work = Vec<(String, u64, u64)>;

/// What each request has asked the vault, by its id; read once the server has written all it has to say.
async fn work(server: &mut Sidekey) -> BTreeMap<String, Work> {
    server.sigterm();
    server.wait_exit().await;
    let mut work = BTreeMap::<String, Work>::new();
    for line in server.process().log_lines().iter().filter(|line| line["target"] == "sqlx::query") {
        let Some(id) = line["span"]["request_id"].as_str() else { continue };
        let (full, short) = (line["db.statement"].as_str(), line["summary"].as_str());
        let statement = full.filter(|full| !full.is_empty()).or(short).expect("a statement").trim().to_owned();
        let count = |name: &str| line[name].as_u64().expect("a number");
        // SQLite tells of a statement that writes nothing what the last one before it wrote.
        let writes = !statement.starts_with("SELECT");
        let (rows, written) = (count("rows_returned"), if writes { count("rows_affected") } else { 0 });
        work.entry(id.to_owned()).or_default().push((statement, rows, written));
    }
    // Several connections answer at once, in no order.
    work.values_mut().for_each(|statements| statements.sort());
    work
}

async fn server() -> Sidekey {
    Sidekey::with(|config| {
        config.set("log.level", "info,sqlx::query=debug");
    })
    .await
}

#[tokio::test]
async fn a_foreign_thing_takes_the_statements_that_no_thing_takes_tn_01() {
    let mut server = server().await;
    let world = World::make(&server).await;
    let theirs = theirs(&server).await;
    let nobodys = nobodys(&theirs);
    let (_, key) = create(&server.admin(), json!({ "name": "here", "roles": ["org_admin"] })).await;
    let admin = server.admin().with_key(&key);
    // Whose key it is is known from here on.
    assert_eq!(admin.get("roles").await.status, 200);
    let mut calls: Vec<Call> =
        calls(&server).await.into_iter().filter(|call| call.is_asked() && call.path.contains('{')).collect();
    calls.sort_by_key(|call| call.method == "PUT" && call.path.ends_with('}'));
    let mut pairs = Vec::new();
    for call in &calls {
        let mut ids = Vec::new();
        for names in [&theirs, &nobodys] {
            let path = world.path_with(call, |name| names[name].clone());
            let reply = admin.call(&call.method, &path, &[], body(&world, call)).await;
            if reply.status >= 400 {
                ids.push(reply.header("sidekey-request-id").expect("an id").to_owned());
            }
        }
        // A name that is free here is free whoever has it elsewhere: what is made of it is no other's.
        if let [their, nobody] = &ids[..] {
            pairs.push((call.to_string(), their.clone(), nobody.clone()));
        }
    }
    // The organization that is asked about is no exception.
    for path in ["roles", "connections", "audit"] {
        let ask = async |named: &str| admin.get(&format!("{path}?organization={named}")).await;
        let id = async |named: &str| ask(named).await.header("sidekey-request-id").expect("an id").to_owned();
        assert_eq!(ask("acme").await.status, 404);
        pairs.push((format!("{path}?organization="), id("acme").await, id("nobody").await));
    }
    let work = work(&mut server).await;
    let (mut asked, nothing) = (0, Work::new());
    for (call, their, nobody) in &pairs {
        let of = |id: &String| work.get(id).unwrap_or(&nothing);
        assert_eq!(of(their), of(nobody), "{call}");
        asked += usize::from(!of(their).is_empty());
    }
    assert!(pairs.len() > 35 && asked > 30, "{} calls, of which {asked} have asked the vault", pairs.len());
}

/// A personal connection is in the organization of whoever does not see it, so its row is found; nothing else is done.
#[tokio::test]
async fn what_one_does_not_see_takes_the_statements_that_no_thing_takes_tn_06() {
    let mut server = server().await;
    let world = World::make(&server).await;
    let mut ada = user(&server, "grace@example.test", "member", "seven wise cranes").await;
    let me = ada.get("me").await.json()["user"]["id"].clone();
    let personal = json!({ "key": "mine", "integration": "crm", "owner": me, "visibility": "personal" });
    let personal = server.admin().must("POST", "connections", personal).await.json()["id"].clone();
    let personal = personal.as_str().expect("an id").to_owned();
    server
        .admin()
        .must("PUT", &format!("connections/{personal}/credentials/production"), json!({ "token": "t" }))
        .await;
    let (_, key) = create(&server.admin(), json!({ "name": "here", "roles": ["editor"] })).await;
    let editor = server.admin().with_key(&key);
    assert_eq!(editor.get("roles").await.status, 200);
    let mut pairs = Vec::new();
    for call in calls(&server).await.iter().filter(|call| call.path.contains("{connection}")) {
        let mut ids = Vec::new();
        for id in [&*personal, "conn_01j00000000000000000000001"] {
            let path = world.path_with(call, |name| match name {
                "connection" => id.to_owned(),
                other => world.named(call, other),
            });
            let reply = editor.call(&call.method, &path, &[], body(&world, call)).await;
            assert_eq!(reply.status, 404, "{call}: {}", reply.text());
            ids.push(reply.header("sidekey-request-id").expect("an id").to_owned());
        }
        pairs.push((call.to_string(), ids));
    }
    assert!(pairs.len() > 7, "{pairs:?}");
    let work = work(&mut server).await;
    let statements = |id: &String| -> Vec<&String> { work[id].iter().map(|(statement, ..)| statement).collect() };
    for (call, ids) in &pairs {
        assert_eq!(statements(&ids[0]), statements(&ids[1]), "{call}");
        let rows = |id: &String| work[id].iter().map(|(_, rows, _)| rows).sum::<u64>();
        assert!(rows(&ids[0]) <= rows(&ids[1]) + 1, "{call}: more than the connection's row");
    }
}
