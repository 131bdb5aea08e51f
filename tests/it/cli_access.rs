//! Which server the command line asks, and with whose key: options, variables, profiles, this machine.

use std::path::Path;

use serde_json::json;

use crate::cli_resources::{json_of, on};
use crate::harness::process::{Ran, run};
use crate::harness::{Sidekey, Sink, pki};
use crate::listeners::certificate;

/// Runs a command in a folder with these variables.
async fn in_folder(args: &[&str], folder: &Path, variables: &[(&str, &str)]) -> Ran {
    let env: Vec<_> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    run(args, folder, &env, "").await
}

#[tokio::test]
async fn on_the_same_machine_nothing_needs_to_be_said() {
    let server = Sidekey::with(|_| {}).await;
    assert_eq!(on(&server, &["organization", "list"], "").await.code, 0);
    // With another key nobody is known, and the message says which key that was.
    std::fs::write(server.folder().join("other.key"), format!("apk_01jabcdefghjkmnpqrstvwxyz0_{}\n", "a".repeat(43)))
        .expect("a file");
    let unknown = on(&server, &["organization", "list", "--key-file", "other.key"], "").await;
    assert_eq!(unknown.code, 5);
    assert!(unknown.stderr.contains("other.key"), "{}", unknown.stderr);
    server.finish(&[]).await;
}

#[tokio::test]
async fn what_says_which_server_is_asked_stands_before_the_command_or_behind_it() {
    let server = Sidekey::with(|_| {}).await;
    let named = format!("http://{}", server.admin_address);
    let options = ["--server", &named, "--key-file", "admin.key", "--organization", "default", "--json"];
    let verb = ["organization", "list"];
    // Anywhere: before the noun, behind it, behind the verb.
    for at in 0..=verb.len() {
        let args = [&verb[..at], &options, &verb[at..]].concat();
        let ran = in_folder(&args, server.folder(), &[]).await;
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{args:?}");
        assert!(ran.stdout.starts_with('['), "{args:?}: {}", ran.stdout);
    }
    let split = [&options[..2], &verb, &options[2..]].concat();
    assert_eq!(in_folder(&split, server.folder(), &[]).await.code, 0);
    // What contradicts itself is told, and so is what means nothing.
    for (args, told) in [
        (&["--server", &named, "organization", "list", "--profile", "x"][..], "either --server or --profile"),
        (&["--json", "check"], "--json means nothing to `sidekey check`"),
        (&["--organization", "x", "keygen", "x.key"], "--organization means nothing"),
    ] {
        let ran = in_folder(args, server.folder(), &[]).await;
        assert!(ran.code == 2 && ran.stderr.contains(told), "{args:?}: {}", ran.stderr);
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn stdin_holds_one_thing() {
    let server = Sidekey::with(|_| {}).await;
    let key = std::fs::read_to_string(server.folder().join("admin.key")).expect("admin.key");
    let asked = on(&server, &["whoami", "--key-file", "-"], &key).await;
    assert_eq!(asked.code, 0, "{}", asked.stderr);
    let twice = ["integration", "create", "crm", "--key-file", "-", "-f", "-"];
    let refused = on(&server, &twice, &key).await;
    assert!(refused.code == 2 && refused.stderr.contains("stdin can hold one thing"), "{}", refused.stderr);
    server.finish(&[]).await;
}

#[tokio::test]
async fn whoami_tells_which_server_is_asked_and_what_the_key_may_do() {
    let server = Sidekey::with(|_| {}).await;
    let me = json_of(&server, &["whoami", "--organization", "default"]).await;
    assert_eq!(me["server"], format!("http://{}", server.admin_address));
    assert!(me["key_from"].as_str().is_some_and(|from| from.ends_with("admin.key")), "{me}");
    assert_eq!((&me["roles"], &me["acts_in"]), (&json!(["super_admin"]), &json!("default")), "{me}");
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_key_goes_only_where_it_belongs() {
    let server = Sidekey::with(|_| {}).await;
    // This machine's own key is not sent to a server that is named.
    let stranger = Sink::http().await;
    let named = format!("http://{}", stranger.addr);
    let refused = on(&server, &["organization", "list", "--server", &named], "").await;
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(stranger.requests().is_empty(), "nothing was asked");
    // Another machine is not asked in clear.
    let clear = ["organization", "list", "--server", "http://sidekey.example.test:7879", "--key-file", "admin.key"];
    let refused = on(&server, &clear, "").await;
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("in clear"), "{}", refused.stderr);
    server.finish(&[]).await;
}

#[tokio::test]
async fn profiles_name_servers() {
    let server = Sidekey::with(|_| {}).await;
    let key = std::fs::read_to_string(server.folder().join("admin.key")).expect("admin.key");
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join(".config/sidekey");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("here.key"), &key).expect("a file");
    let profiles = format!(
        "default = \"here\"\n[profiles.here]\nserver = \"http://{0}\"\nkey = {{ file = \"here.key\" }}\n\
         [profiles.variable]\nserver = \"http://{0}\"\nkey = {{ env = \"OTHER_KEY\" }}\n\
         [profiles.gone]\nserver = \"http://127.0.0.1:1\"\nkey = {{ file = \"here.key\" }}\n",
        server.admin_address
    );
    std::fs::write(folder.join("profiles.toml"), profiles).expect("a file");
    let list = ["organization", "list"];
    assert_eq!(in_folder(&list, home.path(), &[]).await.code, 0, "the default one");
    let chosen = in_folder(&list, home.path(), &[("SIDEKEY_PROFILE", "variable"), ("OTHER_KEY", key.trim())]).await;
    assert_eq!(chosen.code, 0, "{}", chosen.stderr);
    assert_eq!(in_folder(&list, home.path(), &[("SIDEKEY_PROFILE", "variable")]).await.code, 5, "its key is missing");
    let gone = in_folder(&["organization", "list", "--profile", "gone"], home.path(), &[]).await;
    assert_eq!(gone.code, 4, "nobody answers there: {}", gone.stderr);
    let unknown = in_folder(&["organization", "list", "--profile", "nope"], home.path(), &[]).await;
    assert!(unknown.code == 2 && unknown.stderr.contains("there are: gone, here, variable"), "{}", unknown.stderr);
    let plain = [("SIDEKEY_SERVER", &*format!("http://{}", server.admin_address)), ("SIDEKEY_KEY", key.trim())];
    assert_eq!(in_folder(&list, home.path(), &plain).await.code, 0, "variables stand above the profile");
    std::fs::write(folder.join("profiles.toml"), "[profiles.a]\nserver = \"x y\"\nkey = \"apk_secret\"")
        .expect("a file");
    let wrong = in_folder(&list, home.path(), &[]).await;
    assert_eq!(wrong.code, 3);
    assert!(wrong.stderr.contains("profiles.toml:2") && !wrong.stderr.contains("apk_secret"), "{}", wrong.stderr);
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_server_with_a_certificate_is_asked_over_tls() {
    let server = Sidekey::with(|config| {
        let leaf = pki::authority().leaf(&["127.0.0.1"]);
        let tls = certificate(config.folder(), "admin-port", &leaf);
        config.set("admin.tls", tls);
    })
    .await;
    assert_eq!(on(&server, &["organization", "list"], "").await.code, 0, "this machine's own certificate is known");
    let named = format!("https://{}", server.admin_address);
    let trusted = ["organization", "list", "--server", &named, "--key-file", "admin.key", "--ca-file", "ca.pem"];
    let ran = on(&server, &trusted, "").await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let stranger = on(&server, &trusted[..6], "").await;
    assert_eq!(stranger.code, 4, "a certificate that nobody vouches for: {}", stranger.stderr);
    server.finish(&[]).await;
}

#[tokio::test]
async fn completions_know_the_verbs() {
    let folder = tempfile::tempdir().expect("a folder");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = in_folder(&["completions", shell], folder.path(), &[]).await;
        assert_eq!(ran.code, 0, "{shell}: {}", ran.stderr);
        assert!(ran.stdout.contains("connection") && ran.stdout.contains("rekey"), "{shell}");
    }
}
