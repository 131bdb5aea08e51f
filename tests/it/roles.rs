//! Roles: judged before anything is looked up. What each reaches of what is there, `every_call::cells` tells.

use std::fmt::Write;

use serde_json::{Value, json};
use sidekey::admin::permission::CALLS;
use sidekey::model::role::{Grant, Permission, Role};
use sqlx::{Connection, SqliteConnection};

use crate::harness::{Sidekey, problem};

/// A path of a call's route; nothing of what it names exists.
fn path(route: &str) -> String {
    let segments = route.split('/').map(|segment| if segment.starts_with('{') { "nope" } else { segment });
    segments.collect::<Vec<_>>().join("/").trim_start_matches('/').to_owned()
}

/// Restarts the server with an admin key of another role.
async fn become_role(server: &mut Sidekey, role: Role) {
    server.sigterm();
    server.wait_exit().await;
    let file = server.folder().join("sidekey.vault");
    let mut vault = SqliteConnection::connect(&format!("sqlite:{}", file.display())).await.expect("the vault");
    let roles = json!([role]).to_string();
    let changed = sqlx::query("UPDATE api_keys SET roles_json = $1").bind(roles).execute(&mut vault).await;
    assert_eq!(changed.expect("an update").rows_affected(), 1);
    vault.close().await.expect("a closed vault");
    server.restart().await;
}

#[tokio::test]
async fn a_role_that_may_not_call_is_refused_whether_or_not_the_thing_is_there_tn_12() {
    let mut server = Sidekey::with(|_| {}).await;
    let mut refusals = Vec::new();
    for role in Role::ALL {
        become_role(&mut server, role).await;
        let admin = server.admin();
        for (method, route, permission) in CALLS {
            // The body is no table: whoever reads it before the role is judged says 422.
            let body = matches!(method.as_str(), "POST" | "PUT" | "PATCH").then(|| json!("no table"));
            let reply = admin.call(method.as_str(), &path(route), &[], body).await;
            let refused = reply.status == 403;
            assert!(reply.status < 500, "{method} {route} as {role}: {}", reply.text());
            assert_eq!(refused, role.grant(*permission) == Grant::None, "{method} {route} as {role}");
            if refused {
                assert_eq!(problem(&reply).code, "role_insufficient");
                refusals.push(reply.said());
            }
        }
    }
    refusals.dedup();
    assert_eq!(refusals.len(), 1, "what is there is not told");
    server.finish(&[]).await;
}

#[tokio::test]
async fn the_table_of_roles_is_shown_as_it_is_judged_by() {
    let server = Sidekey::with(|_| {}).await;
    let shown = server.admin().get("roles").await.json();
    for (role, item) in Role::ALL.iter().zip(shown["items"].as_array().expect("items")) {
        assert_eq!(item["role"], role.as_str());
        for permission in Permission::ALL {
            let grant = serde_json::to_value(role.grant(*permission)).expect("a grant");
            assert_eq!(item["permissions"][permission.as_str()], grant, "{role} {}", permission.as_str());
        }
    }
    assert_eq!(shown["next"], Value::Null);
    // What the table says is decided, not only shown: a changed cell is seen here, whether or not a call needs it.
    let mut table = format!("{:22} {}\n", "", Role::ALL.map(Role::as_str).join(" "));
    for permission in Permission::ALL {
        let cell = |role: &Role| {
            let grant = shown["items"][*role as usize]["permissions"][permission.as_str()].as_str().expect("a grant");
            format!("{grant:<width$}", width = role.as_str().len())
        };
        let cells: Vec<String> = Role::ALL.iter().map(cell).collect();
        let _ = writeln!(table, "{:22} {}", permission.as_str(), cells.join(" ").trim_end());
    }
    insta::assert_snapshot!("grants", table);
    server.finish(&[]).await;
}

#[tokio::test]
async fn an_organization_that_is_not_ones_own_is_no_organization_tn_01() {
    let mut server = Sidekey::with(|_| {}).await;
    server.admin().must("POST", "organizations", json!({ "key": "other" })).await;
    become_role(&mut server, Role::OrgAdmin).await;
    let admin = server.admin();
    let listed = admin.get("organizations").await.json();
    let keys: Vec<&Value> = listed["items"].as_array().expect("items").iter().map(|item| &item["key"]).collect();
    assert_eq!(keys, ["default"]);
    for (method, route, _) in CALLS {
        let path = path(route);
        let body = || matches!(method.as_str(), "POST" | "PUT" | "PATCH").then(|| json!({}));
        let theirs = admin.call(method.as_str(), &format!("{path}?organization=other"), &[], body()).await;
        let nobodys = admin.call(method.as_str(), &format!("{path}?organization=nobody"), &[], body()).await;
        assert!(matches!(theirs.status, 403 | 404), "{method} {path}: {}", theirs.text());
        assert_eq!((theirs.status, theirs.said()), (nobodys.status, nobodys.said()), "{method} {path}");
    }
    let theirs = admin.get("organizations/other").await;
    assert_eq!((theirs.status, theirs.said()), (404, admin.get("organizations/nobody").await.said()));
    assert_eq!(admin.get("environments?organization=default").await.status, 200);
    server.finish(&[]).await;
}
