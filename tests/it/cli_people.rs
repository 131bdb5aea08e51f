//! The command line for keys, people and the audit log.

use serde_json::json;

use crate::cli_resources::{json_of, on};
use crate::harness::Sidekey;

#[tokio::test]
async fn the_audit_log_is_listed_exported_and_verified() {
    let server = Sidekey::with(|_| {}).await;
    assert_eq!(on(&server, &["environment", "create", "qa"], "").await.code, 0);
    let events = json_of(&server, &["audit", "list", "--action", "environment.*"]).await;
    assert_eq!((events.as_array().map(Vec::len), &events[0]["object"]), (Some(1), &json!("qa")), "{events}");
    let exported = on(&server, &["audit", "export"], "").await;
    assert_eq!(exported.code, 0, "{}", exported.stderr);
    let lines: Vec<serde_json::Value> =
        exported.stdout.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    assert!(lines.last().is_some_and(|line| line["object"] == "qa"), "{}", exported.stdout);
    let kept = json_of(&server, &["audit", "verify"]).await;
    let count = kept["count"].to_string();
    let head = kept["head"].as_str().expect("a head");
    let again = on(&server, &["audit", "verify", "--count", &count, "--head", head], "").await;
    assert_eq!((again.code, again.stdout.starts_with("count")), (0, true), "{}", again.stderr);
    // What was never in the log was cut out of it.
    let other = "0".repeat(64);
    let cut = on(&server, &["audit", "verify", "--count", &count, "--head", &other], "").await;
    assert_eq!(cut.code, 1);
    assert!(cut.stderr.contains("not as it was written"), "{}", cut.stderr);
    server.finish(&[]).await;
}
