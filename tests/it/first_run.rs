//! The first start, and starts that must not succeed: what is made, what is told, and what is never made anew.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine as _;
use serde_json::json;
use tokio::net::TcpListener;

use crate::admin::{bearer, integration};
use crate::api::{self, API};
use crate::harness::process::{Process, run};
use crate::harness::{Canary, Sidekey, Sink, get, soon};

/// Free ports, for a server that has no configuration file.
fn free_ports() -> Vec<(String, String)> {
    ["SIDEKEY_PROXY__LISTENERS__0__ADDRESS", "SIDEKEY_ADMIN__ADDRESS"]
        .map(|name| (name.to_owned(), "127.0.0.1:0".to_owned()))
        .to_vec()
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The files that hold the secrets of an installation, by content.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let read = |name: &str| std::fs::read(folder.join(name)).ok().map(|bytes| (name.to_owned(), bytes));
    ["sidekey.vault", "master.key", "admin.key"].into_iter().filter_map(read).collect()
}

/// ST-13.
#[tokio::test]
async fn serve_in_an_empty_directory_makes_what_it_needs_and_says_where() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut process = Process::start(&["serve"], folder.path(), &free_ports());
    let line = process.first_line().await.unwrap_or_else(|| panic!("it did not start:\n{}", process.stderr()));
    assert!(line.starts_with("listening proxy=127.0.0.1:") && line.contains(" admin=127.0.0.1:"), "{line}");
    for name in ["sidekey.vault", "master.key", "admin.key"] {
        let mode = folder.path().join(name).metadata().expect(name).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
        let told = |line: &serde_json::Value| line["path"].as_str().is_some_and(|path| path.ends_with(name));
        process.log_line("where it is", told).await;
    }
    let open = |name: &String| folder.path().join(name).metadata().expect("a file").permissions().mode() & 0o077 != 0;
    assert_eq!(files(folder.path()).into_iter().filter(open).collect::<Vec<_>>(), Vec::<String>::new());
    let key = std::fs::read_to_string(folder.path().join("admin.key")).expect("the admin key");
    assert!(key.starts_with("apk_"), "an API key");
    assert!(!process.stderr().contains(key.trim()), "the key itself is not told");
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.wait().await.code(), Some(0));

    // The second start finds everything and makes nothing.
    let before = contents(folder.path());
    let mut process = Process::start(&["serve"], folder.path(), &free_ports());
    assert!(process.first_line().await.is_some(), "{}", process.stderr());
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.wait().await.code(), Some(0));
    assert_eq!(contents(folder.path())[1..], before[1..]);
    assert!(!process.stderr().contains("was made"), "{}", process.stderr());
}

/// Starts a server in a folder where it must fail, before it takes a port: the port it is told to take is taken, and
/// that is not what it complains about.
async fn refused(folder: &Path, expected: &str) {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = taken.local_addr().expect("a bound listener").to_string();
    let ports: Vec<_> = free_ports().into_iter().map(|(name, _)| (name, address.clone())).take(1).collect();
    let ports = [ports, vec![("SIDEKEY_ADMIN__ENABLED".to_owned(), "false".to_owned())]].concat();
    let before = contents(folder);
    let mut process = Process::start(&["serve"], folder, &ports);
    assert_eq!(process.first_line().await, None, "it started");
    assert_eq!(process.wait().await.code(), Some(1), "{}", process.stderr());
    assert!(process.stderr().contains(expected), "not {expected:?}:\n{}", process.stderr());
    assert_eq!(contents(folder), before, "something was made anew or changed");
}

/// A folder after a first start.
async fn started_once() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut process = Process::start(&["serve"], folder.path(), &free_ports());
    assert!(process.first_line().await.is_some(), "{}", process.stderr());
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.wait().await.code(), Some(0));
    folder
}

/// ST-04.
#[tokio::test]
async fn a_master_key_that_is_wrong_missing_or_open_to_others_is_told_before_a_port_is_taken() {
    let (folder, other) = (started_once().await, started_once().await);
    let key = folder.path().join("master.key");
    let right = std::fs::read(&key).expect("the key");

    std::fs::copy(other.path().join("master.key"), &key).expect("another key");
    refused(folder.path(), "was sealed with the master key").await;
    let short = base64::engine::general_purpose::STANDARD.encode([7; 31]);
    for (text, told) in [
        ("not a key\n", "it is not base64 of 32 bytes"),
        ("", "it has 0 bytes instead of 32"),
        (&short, "it has 31 bytes instead of 32"),
    ] {
        std::fs::write(&key, text).expect("a file");
        refused(folder.path(), told).await;
    }
    std::fs::remove_file(&key).expect("the key");
    refused(folder.path(), "restore the key from its backup").await;
    std::fs::write(&key, &right).expect("the key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("permissions");
    refused(folder.path(), "run chmod 600 on it").await;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("permissions");

    // With the right key all is as it was.
    let mut process = Process::start(&["serve"], folder.path(), &free_ports());
    assert!(process.first_line().await.is_some(), "{}", process.stderr());
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.wait().await.code(), Some(0));
}

#[tokio::test]
async fn a_vault_that_is_gone_or_damaged_is_not_replaced_by_an_empty_one() {
    let folder = started_once().await;
    let vault = folder.path().join("sidekey.vault");
    let whole = std::fs::read(&vault).expect("the vault");
    std::fs::remove_file(&vault).expect("the vault");
    refused(folder.path(), "restore the vault from its backup").await;
    std::fs::write(&vault, &whole[..whole.len() / 2]).expect("a file");
    refused(folder.path(), "restore it from a backup").await;
    std::fs::write(&vault, "").expect("a file");
    refused(folder.path(), "restore it from a backup").await;
}

/// ST-14.
#[tokio::test]
async fn a_second_server_on_the_same_vault_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = Process::start(&["serve"], folder.path(), &free_ports());
    assert!(first.first_line().await.is_some(), "{}", first.stderr());
    refused(folder.path(), "is in use by another sidekey; stop that one first").await;
    assert!(!first.has_ended());
    // Killed, the first leaves no lock behind.
    first.kill().await;
    let mut second = Process::start(&["serve"], folder.path(), &free_ports());
    assert!(second.first_line().await.is_some(), "{}", second.stderr());
    second.signal(rustix::process::Signal::TERM);
    assert_eq!(second.wait().await.code(), Some(0));
}

#[tokio::test]
async fn mistakes_of_the_configuration_are_told_all_at_once_with_their_place() {
    let secret = Canary::new("pasted");
    let started = Sidekey::try_with(|config| {
        config.replace(&format!(
            "[proxy]\nthraeds = 4\nhead_timeout = \"soon\"\n\n[[connection]]\nkey = \"Not A Key\"\n\
             integration = \"github\"\ncredentials = \"{}\"\n\n[upstream]\nhosts = {{ \"x.test\" = \"nowhere\" }}\n",
            secret.text()
        ));
    })
    .await;
    let failed = started.err().expect("a start-up error");
    assert_eq!(failed.code, 3, "{}", failed.stderr);
    for (line, key) in [(3, "thraeds"), (4, "head_timeout"), (7, "connection[0].key"), (12, "upstream.hosts")] {
        assert!(failed.stderr.contains(key), "{key} is not named:\n{}", failed.stderr);
        assert!(failed.stderr.contains(&format!("sidekey.toml:{line}:")), "line {line}:\n{}", failed.stderr);
    }
    let carets =
        failed.stderr.lines().filter(|line| line.trim_start().trim_start_matches('|').trim_start().starts_with('^'));
    assert!(carets.count() >= 4, "{}", failed.stderr);
    crate::harness::canary::assert_absent(failed.stderr.as_bytes(), &secret, "the mistakes");
}

/// A mistake that shows only when the sources of credentials are read is one of the configuration too.
#[tokio::test]
async fn a_credential_that_cannot_be_read_is_a_mistake_of_the_configuration() {
    for (source, named) in [("{ env = \"NOT_SET\" }", "NOT_SET"), ("{ file = \"no.such\" }", "no.such")] {
        let started = Sidekey::try_with(|config| {
            config.append(&format!(
                "[[connection]]\nkey = \"a\"\nintegration = \"github\"\n[connection.credentials.production]\ntoken = {source}"
            ));
        })
        .await;
        let failed = started.err().expect("a start-up error");
        assert_eq!(failed.code, 3, "{}", failed.stderr);
        assert!(failed.stderr.contains(named) && failed.stderr.contains('^'), "{}", failed.stderr);
    }
}

#[tokio::test]
async fn without_a_vault_declared_connections_are_served_and_nothing_is_written() {
    let (sink, token) = (Sink::https().await, Canary::new("sidecar"));
    let server = Sidekey::with(|config| {
        config.set("vault.enabled", false).set("proxy.usage_interval", "20ms").to(&sink).bearer("api", token.text());
    })
    .await;
    assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
    assert_eq!(sink.next_request().await.header("authorization"), Some(format!("Bearer {}", token.text()).as_str()));
    assert_eq!(files(server.folder()), ["ca.pem", "sidekey.toml"]);
    let ready = server.admin_address.clone();
    assert_eq!(get(ready, "/readyz", &[]).await.status, 200);
    let counted = "sidekey_caller_requests_total{caller=\"local\"}";
    soon("the request to be counted", async { while server.metric(counted).await < 1.0 {} }).await;
    server.finish(&[&token]).await;
}

/// ST-13: what the umask allows to everybody, the server does not give.
#[tokio::test]
async fn a_wide_umask_opens_no_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = format!("umask 000; exec {} serve", env!("CARGO_BIN_EXE_sidekey"));
    let mut process = Process::start_program("/bin/sh", &["-c", &script], folder.path(), &free_ports());
    assert!(process.first_line().await.is_some(), "{}", process.stderr());
    for name in files(folder.path()) {
        let mode = folder.path().join(&name).metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} is open to others");
    }
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.wait().await.code(), Some(0));
}

/// What is in the vault survives, and what is declared is declared again.
#[tokio::test]
async fn a_restart_finds_everything_again() {
    let sink = Sink::https().await;
    let mut server = api::before(&sink).await;
    let before = contents(server.folder());
    assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
    server.restart().await;
    assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
    assert_eq!(contents(server.folder())[1..], before[1..]);
    server.finish(&[]).await;
}

#[tokio::test]
async fn check_looks_at_what_is_stored_too() {
    let (sink, token) = (Sink::https().await, Canary::new("check"));
    let server = Sidekey::with(|config| {
        config.to(&sink);
    })
    .await;
    let admin = server.admin();
    admin.must("POST", "integrations", integration("stored", bearer())).await;
    admin.must("POST", "connections", json!({ "key": "crm", "integration": "stored", "labels": ["one"] })).await;
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": token.text() })).await;
    // What is filled in once for an integration's connections, a built-in one's too.
    admin.must("PUT", "integrations/azure_devops/values", json!({ "values": { "organization": "acme" } })).await;
    admin.must("POST", "connections", json!({ "key": "az", "integration": "azure_devops", "auth": "pat" })).await;
    let ran = run(&["check", "--config", "sidekey.toml"], server.folder(), &[], "").await;
    let line = ran.stdout.lines().find(|line| line.contains("crm"));
    assert!(ran.stdout.contains("(az)") && !ran.stdout.contains("connection az:"), "{}{}", ran.stdout, ran.stderr);
    assert!(line.is_some() && !ran.stdout.contains("not available"), "{}{}", ran.stdout, ran.stderr);
    server.finish(&[&token]).await;
}
