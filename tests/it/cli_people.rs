//! The command line for keys, people and the audit log.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::cli_resources::{json_of, on};
use crate::harness::Sidekey;
use crate::harness::process::{run, unread};

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

/// A pipe that nobody reads from any more, as `head` leaves one.
#[tokio::test]
async fn who_stops_reading_early_has_read_enough() {
    let server = Sidekey::with(|_| {}).await;
    let named = format!("http://{}", server.admin_address);
    let to_admin = ["--server", &named, "--key-file", "admin.key"];
    for verb in [&["audit", "export"][..], &["audit", "list"], &["export"], &["organization", "list", "--json"]] {
        let args = [&to_admin, verb].concat();
        let ran = unread(&args, server.folder()).await;
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{verb:?}");
    }
    for verb in [&["check"][..], &["keygen", "unread.key"], &["admin-link"], &["completions", "bash"], &["--help"]] {
        let ran = unread(verb, server.folder()).await;
        assert!(ran.code < 2 && !ran.stderr.contains("panicked"), "{verb:?}: {} {}", ran.code, ran.stderr);
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn an_api_key_is_shown_once_and_ends_when_it_is_told_to() {
    let server = Sidekey::with(|_| {}).await;
    let terms = ["--role", "viewer", "--role", "caller", "--method", "GET", "--per-minute", "60"];
    let made = on(&server, &[&["api-key", "create", "ci"], &terms[..]].concat(), "").await;
    assert_eq!(made.code, 0, "{}", made.stderr);
    let key = made.stdout.trim().to_owned();
    assert!(key.starts_with("apk_") && made.stderr.contains("this once"), "{}", made.stderr);
    // It is of use at once, for what its roles allow.
    let env = |key: &str| {
        let server = ("SIDEKEY_SERVER".to_owned(), format!("http://{}", server.admin_address));
        [server, ("SIDEKEY_KEY".to_owned(), key.to_owned())]
    };
    let asked = run(&["connection", "list"], server.folder(), &env(&key), "").await;
    assert_eq!(asked.code, 0, "{}", asked.stderr);
    let refused = run(&["environment", "create", "qa"], server.folder(), &env(&key), "").await;
    assert_eq!(refused.code, 5, "{}", refused.stderr);

    let shown = json_of(&server, &["api-key", "show", "ci"]).await;
    assert_eq!((&shown["scope"]["methods"], &shown["limits"]["per_minute"]), (&json!(["GET"]), &json!(60)), "{shown}");
    assert!(!shown.to_string().contains(&key[31..]), "its secret does not come back");
    let changed = json_of(&server, &["api-key", "set", "ci", "--method", "", "--per-hour", "100"]).await;
    let expected = (&json!(null), &json!({ "per_minute": 60, "per_hour": 100 }));
    assert_eq!((&changed["scope"]["methods"], &changed["limits"]), expected, "{changed}");
    for (verb, code) in [("suspend", 5), ("resume", 0), ("revoke", 5)] {
        assert_eq!(on(&server, &["api-key", verb, "ci"], "").await.code, 0, "{verb}");
        assert_eq!(run(&["connection", "list"], server.folder(), &env(&key), "").await.code, code, "{verb}");
    }
    // Into a file of its owner's, and never over another.
    let written = ["api-key", "create", "file", "--write-to", "ci.key"];
    assert_eq!(on(&server, &written, "").await.code, 0);
    let mode = std::fs::metadata(server.folder().join("ci.key")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(on(&server, &written, "").await.code, 1);
    let keys = json_of(&server, &["api-key", "list"]).await;
    let named = |name: &str| keys.as_array().expect("a list").iter().filter(|key| key["name"] == name).count();
    assert_eq!((named("ci"), named("file")), (1, 1), "nothing was made that could not be written: {keys}");
    server.finish(&[]).await;
}

#[tokio::test]
async fn people_are_invited_given_roles_disabled_and_deleted() {
    let server = Sidekey::with(|_| {}).await;
    let invite = ["user", "invite", "ada@example.test", "--role", "viewer", "--first-name", "Ada"];
    let invited = on(&server, &invite, "").await;
    assert_eq!(invited.code, 0, "{}", invited.stderr);
    assert!(invited.stdout.starts_with("http") && invited.stdout.trim().lines().count() == 1, "{}", invited.stdout);
    assert!(invited.stderr.contains("ada@example.test is invited"), "{}", invited.stderr);
    let again = on(&server, &["user", "reinvite", "ada@example.test"], "").await;
    assert!(again.code == 0 && again.stdout != invited.stdout, "another link: {}", again.stderr);
    let changed = json_of(&server, &["user", "set", "ada@example.test", "--role", "editor", "--last-name", "L"]).await;
    assert_eq!((&changed["roles"], &changed["first_name"]), (&json!(["editor"]), &json!("Ada")), "{changed}");
    for (verb, status) in [("disable", "disabled"), ("enable", "invited")] {
        assert_eq!(on(&server, &["user", verb, "ada@example.test"], "").await.code, 0, "{verb}");
        let shown = json_of(&server, &["user", "show", "ada@example.test"]).await;
        assert_eq!(shown["status"], status, "{verb}");
    }
    assert_eq!(json_of(&server, &["user", "sessions", "ada@example.test"]).await, json!([]));
    assert_eq!(json_of(&server, &["session", "list"]).await, json!([]));
    assert_eq!(json_of(&server, &["session", "list", "--user", "ada@example.test"]).await, json!([]));
    assert_eq!(on(&server, &["session", "revoke", "--user", "ada@example.test"], "").await.code, 0);
    assert_eq!(on(&server, &["session", "revoke", "--user", "bob@example.test"], "").await.code, 6);
    assert_eq!(on(&server, &["session", "revoke"], "").await.code, 2, "all of nobody's");
    assert_eq!(on(&server, &["session", "revoke", "x", "--user", "ada@example.test"], "").await.code, 2);
    let listed = on(&server, &["user", "list"], "").await;
    assert!(listed.stdout.lines().any(|line| line.starts_with("ada@example.test  Ada L  editor")), "{}", listed.stdout);
    assert_eq!(on(&server, &["user", "delete", "ada@example.test"], "").await.code, 0);
    assert_eq!(on(&server, &["user", "show", "ada@example.test"], "").await.code, 6);
    assert_eq!(on(&server, &["session", "revoke", "nope"], "").await.code, 6);
    server.finish(&[]).await;
}
