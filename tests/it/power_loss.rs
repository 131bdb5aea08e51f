//! A power cut: what was written and not synced is lost, and with it every name whose folder was not synced. What was
//! answered is there nevertheless.
//!
//! The disk that forgets stands in front of libc (`power_loss/disk.c`), so the server under test is the real one. It is
//! stricter than a disk, which may write by itself what nobody synced.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::admin::{bearer, integration};
use crate::harness::{Canary, Sidekey, Sink, get};

/// Builds the disk; the compiler is the one that the project's own libraries in C are built with.
fn build(folder: &Path) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/power_loss/disk.c");
    let library = folder.join("disk.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-o"]).arg(&library).arg(&source).arg("-ldl");
    let built = compiler.status().expect("a C compiler called cc");
    assert!(built.success(), "disk.c does not compile");
    library.display().to_string()
}

/// Makes the folder what it is when the power is back: only what was synced, under names that were synced.
fn lose(disk: &Path, kept: &Path, library: &str) {
    let names = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
        let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()));
        files.map(|entry| entry.file_name().into_string().expect("a text")).collect()
    };
    // What the test itself wrote is on another disk, as it were.
    let server_made = |name: &str| !matches!(name, "sidekey.toml" | "ca.pem");
    for name in names(disk).iter().filter(|name| server_made(name)) {
        std::fs::remove_file(disk.join(name)).expect("a file that goes");
    }
    for name in names(kept) {
        let Some(name) = name.strip_suffix(".named").filter(|name| server_made(name)) else { continue };
        let file = std::fs::read_to_string(kept.join(format!("{name}.named"))).expect("the file of a name");
        let bytes = kept.join(format!("{file}.bytes"));
        let contents = if bytes.exists() { std::fs::read(&bytes).expect("the bytes") } else { Vec::new() };
        let file = disk.join(name);
        std::fs::write(&file, contents).expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, mode).expect("its mode");
    }
    for name in names(kept) {
        std::fs::remove_file(kept.join(name)).expect("a file that goes");
    }
    // What is there now is safe.
    run("for file in *; do [ -f \"$file\" ] && sync \"$file\"; done; sync .", disk, kept, library);
}

/// Runs a script in the folder on this disk.
fn run(script: &str, disk: &Path, kept: &Path, library: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).current_dir(disk).env("LD_PRELOAD", library);
    let ran = shell.env("TEST_DISK", disk).env("TEST_KEPT", kept).status().expect("a shell");
    assert!(ran.success(), "{script}");
}

/// ST-03
#[tokio::test]
async fn what_was_answered_outlives_a_power_cut_st_03() {
    let (tools, kept) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let (library, keeps) = (build(tools.path()), kept.path().display().to_string());
    let (sink, canary) = (Sink::https().await, Canary::new("token"));
    let mut server = Sidekey::with(|config| {
        let disk = config.folder().display().to_string();
        config.to(&sink).env("LD_PRELOAD", &library).env("TEST_DISK", &disk).env("TEST_KEPT", &keeps);
    })
    .await;
    // The very first start: its key, its vault and the first administrator's key are there after it.
    server.kill().await;
    lose(server.folder(), kept.path(), &library);
    server.restart().await;
    server.admin().must("POST", "integrations", integration("crm", bearer())).await;
    server.admin().must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await;
    for round in 0..12 {
        let (admin, token) = (server.admin(), format!("{}-{round}-", canary.text()));
        let key = format!("secrets/KEY_{round}");
        admin.must("PUT", &key, json!({})).await;
        admin.must("PUT", "connections/crm/credentials/production", json!({ "token": token })).await;
        if round % 3 == 2 {
            // The log is moved into the file at an orderly end; then the power goes at the next one.
            server.restart().await;
            server.admin().must("PUT", &format!("{key}/values/production"), json!({ "value": "v" })).await;
        }
        let count = server.admin().get("audit/verify").await.json()["count"].clone();
        server.kill().await;
        lose(server.folder(), kept.path(), &library);
        server.restart().await;

        let admin = server.admin();
        let verified = admin.get("audit/verify").await.json();
        assert_eq!((&verified["intact"], &verified["count"]), (&json!(true), &count), "round {round}: {verified}");
        for earlier in 0..=round {
            assert_eq!(admin.get(&format!("secrets/KEY_{earlier}")).await.status, 200, "round {round}: KEY_{earlier}");
        }
        let reply = get(server.proxy(), "/", &[("Sidekey-Connection", "crm")]).await;
        assert_eq!(reply.status, 200, "round {round}: {}", reply.text());
        let sent = sink.requests().pop().expect("a request");
        assert_eq!(sent.header("authorization"), Some(&*format!("Bearer {token}")), "round {round}");
    }
    // A new master key is on the disk before the old one is of no use.
    let rekeyed = server.run_beside(&["rekey", "--config", "sidekey.toml"], "").await;
    assert_eq!(rekeyed.code, 0, "{}", rekeyed.stderr);
    server.kill().await;
    lose(server.folder(), kept.path(), &library);
    server.restart().await;
    assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", "crm")]).await.status, 200);
    server.finish(&[&canary]).await;
}

/// The disk does forget: what nobody has synced is not there any more.
#[tokio::test]
async fn a_disk_that_nobody_syncs_is_empty_after_a_power_cut() {
    let (tools, disk, kept) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let library = build(tools.path());
    let there = |name: &str| std::fs::read_to_string(disk.path().join(name)).ok();
    let script = "echo safe > safe; sync safe; echo lost > named; sync .; echo later > unsynced; echo more >> safe";
    run(script, disk.path(), kept.path(), &library);
    lose(disk.path(), kept.path(), &library);
    assert_eq!(there("safe").as_deref(), Some("safe\n"), "what came after the sync is lost");
    assert_eq!(there("named").as_deref(), Some(""), "a name without bytes");
    assert_eq!(there("unsynced"), None);
}
