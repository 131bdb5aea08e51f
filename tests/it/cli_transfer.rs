//! `sidekey export` and `sidekey import`: between organizations and servers, without secrets, looked at before it is done.

use serde_json::{Value, json};

use crate::admin::{bearer, integration};
use crate::cli_resources::{json_of, on};
use crate::harness::{Canary, Sidekey};

#[tokio::test]
async fn what_is_exported_is_imported_elsewhere_without_its_secrets() {
    let (server, canary) = (Sidekey::with(|_| {}).await, Canary::new("exported"));
    server.admin().must("POST", "integrations", integration("crm", bearer())).await;
    let made =
        on(&server, &["connection", "create", "crm", "--set", "token=-", "--name", "The CRM"], canary.text()).await;
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert_eq!(on(&server, &["organization", "create", "acme"], "").await.code, 0);
    let exported = on(&server, &["export"], "").await;
    assert_eq!(exported.code, 0, "{}", exported.stderr);
    assert!(!exported.stdout.contains(canary.text()));
    let document: Value = serde_json::from_str(&exported.stdout).expect("JSON");
    assert_eq!(document["connections"][0]["key"], "crm", "{document}");

    let import = ["import", "-", "--organization", "acme"];
    let would = on(&server, &[&import[..], &["--dry-run"]].concat(), &exported.stdout).await;
    assert_eq!(would.code, 0, "{}", would.stderr);
    let told = would.stdout.lines().collect::<Vec<_>>();
    assert!(told.contains(&"+ integration crm") && told.contains(&"+ connection crm"), "{}", would.stdout);
    assert!(
        would.stdout.ends_with("2 created, 0 replaced, 0 the same already; nothing was changed\n"),
        "{}",
        would.stdout
    );
    assert_eq!(json_of(&server, &["connection", "list", "--organization", "acme"]).await, json!([]));

    let done = on(&server, &import, &exported.stdout).await;
    assert!(done.stdout.ends_with("2 created, 0 replaced, 0 the same already\n"), "{} {}", done.stdout, done.stderr);
    let there = json_of(&server, &["connection", "show", "crm", "--organization", "acme"]).await;
    assert_eq!(
        (&there["name"], &there["environments"]["production"]["status"]),
        (&json!("The CRM"), &json!("incomplete"))
    );
    // A mistake anywhere changes nothing anywhere.
    let mut wrong = document.clone();
    wrong["connections"][0]["name"] = "Another".into();
    wrong["connections"].as_array_mut().expect("a list").push(json!({ "key": "x", "integration": "nope" }));
    let refused = on(&server, &import, &wrong.to_string()).await;
    assert!(refused.code == 1 && refused.stderr.contains("/connections/1"), "{}", refused.stderr);
    let same = json_of(&server, &["connection", "show", "crm", "--organization", "acme"]).await;
    assert_eq!(same["name"], "The CRM");
    server.finish(&[&canary]).await;
}
