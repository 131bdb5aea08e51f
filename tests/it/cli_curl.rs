//! `sidekey curl`: one request through the proxy, with the system's curl.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use crate::cli_resources::on;
use crate::harness::process::run;
use crate::harness::{Canary, Script, Sidekey, Sink};

#[tokio::test]
async fn a_request_goes_through_the_proxy_with_its_body_and_options() {
    let (sink, canary) = (Sink::https().await, Canary::new("curl"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("crm", canary.text());
    })
    .await;
    let ran = on(&server, &["curl", "crm", "/v1/me?a=%2e%2E&b=[1]"], "").await;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let ran =
        on(&server, &["curl", "crm", "v1/things", "-X", "PUT", "--data-binary", "@-", "-H", "X-Own: 1"], "from stdin")
            .await;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let requests = sink.requests();
    assert_eq!(requests[0].target, "/v1/me?a=%2e%2E&b=[1]", "as it was written");
    assert!(requests[0].header("authorization").is_some_and(|value| value.ends_with(canary.text())));
    assert_eq!((requests[1].method.as_str(), requests[1].body.as_ref()), ("PUT", &b"from stdin"[..]));
    assert_eq!(requests[1].header("x-own"), Some("1"));
    server.finish(&[&canary]).await;
}

/// A curl that does something else, and the variable by which it is found.
fn fake(folder: &Path, script: &str) -> (String, String) {
    let curl = folder.join("curl");
    std::fs::write(&curl, format!("#!/bin/sh\n{script}\n")).expect("a file");
    std::fs::set_permissions(&curl, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    ("PATH".to_owned(), format!("{}:/usr/bin:/bin", folder.display()))
}

#[tokio::test]
async fn the_key_stands_in_no_argument() {
    let (sink, canary) = (Sink::https().await, Canary::new("curl-key"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("crm", canary.text());
    })
    .await;
    // A curl that tells how it was called, and what it was told apart from that.
    let folder = tempfile::tempdir().expect("a folder");
    let path = fake(folder.path(), "printf '%s\\n' \"$@\"\necho ---\ncat \"$3\"");
    let key = format!("apk_01jabcdefghjkmnpqrstvwxyz0_{}", "a".repeat(43));
    let administrator = std::fs::read_to_string(server.folder().join("admin.key")).expect("admin.key");
    let keys = [("SIDEKEY_CALLER_KEY", key.as_str()), ("SIDEKEY_KEY", administrator.trim())];
    let keys = keys.map(|(name, key)| (name.to_owned(), key.to_owned()));
    let env: Vec<_> = [path].into_iter().chain(keys).collect();
    let proxy = format!("http://{}", server.proxy());
    let args = ["curl", "--proxy", &proxy, "crm", "https://other.example.test/x", "-v"];
    let ran = run(&args, server.folder(), &env, "").await;
    let (argv, told) = ran.stdout.split_once("---\n").unwrap_or_else(|| panic!("{} {}", ran.stdout, ran.stderr));
    assert!(!argv.contains(&key) && argv.ends_with("-v\n"), "{argv}");
    assert!(told.contains(&format!("header = \"Sidekey-Key: {key}\"")), "{told}");
    assert!(!ran.stdout.contains(administrator.trim()), "an administrator's key is not shown to the proxy: {told}");
    assert!(told.contains("header = \"Sidekey-Upstream: https://other.example.test\""), "{told}");
    // Without a curl the message says so.
    let nowhere = [("PATH".to_owned(), "/nowhere".to_owned())];
    // By the heads a refusal is seen, so nothing else has them.
    let ran = on(&server, &["curl", "none", "/x", "-s", "-D", "heads.txt"], "").await;
    assert!(ran.code == 2 && ran.stderr.contains("-i or -v"), "{} {}", ran.code, ran.stderr);
    let ran = run(&args, server.folder(), &nowhere, "").await;
    assert!(ran.code == 1 && ran.stderr.contains("curl is not installed"), "{}", ran.stderr);
    server.finish(&[&canary]).await;
}

#[tokio::test]
async fn the_key_goes_to_the_proxy_and_nowhere_else() {
    let (sink, evil, canary) = (Sink::https().await, Sink::http().await, Canary::new("curl-elsewhere"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("crm", canary.text());
    })
    .await;
    let elsewhere = format!("http://{}/stolen", evil.addr);
    sink.next(Script::respond(302, &[("location", &elsewhere)], ""));
    // A redirect that is followed, another URL beside the request's, and a configuration of one's own.
    on(&server, &["curl", "crm", "/x", "-L"], "").await;
    on(&server, &["curl", "crm", "/x", &elsewhere], "").await;
    std::fs::write(server.folder().join(".curlrc"), format!("url = \"{elsewhere}\"\n")).expect("a file");
    let home = ("CURL_HOME".to_owned(), server.folder().display().to_string());
    let proxy = format!("http://{}", server.proxy());
    let args = ["curl", "--proxy", &proxy, "crm", "/x"];
    assert_eq!(run(&args, server.folder(), &[home], "").await.code, 0);
    assert_eq!(evil.requests().len(), 0);
    let ran = on(&server, &["curl", "crm", "/x", "--json", "{\"a\":1}"], "").await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let last = sink.requests().pop().expect("the request");
    assert_eq!((last.method.as_str(), last.body.as_ref()), ("POST", &b"{\"a\":1}"[..]));
    server.finish(&[&canary]).await;
}

/// A server with a listener that asks for a key, the upstream behind it, and a home with a profile for it: the
/// administrator's key, and a caller's where `caller` says one.
async fn keyed(sink: &Sink, token: &Canary, caller: bool) -> (Sidekey, TempDir) {
    let server = Sidekey::with(|config| {
        config.to(sink).listener("trust", "key").bearer("crm", token.text());
    })
    .await;
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join(".config/sidekey");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::copy(server.folder().join("admin.key"), folder.join("admin.key")).expect("a copy");
    let made = server.admin().must("POST", "api-keys", json!({ "name": "mine", "roles": ["caller"] })).await.json();
    std::fs::write(folder.join("caller.key"), made["key"].as_str().expect("a key")).expect("a file");
    let own = if caller { "caller_key = { file = \"caller.key\" }\n" } else { "" };
    let profile = format!(
        "default = \"keyed\"\n[profiles.keyed]\nserver = \"http://{}\"\nproxy = \"http://{}\"\n\
         key = {{ file = \"admin.key\" }}\n{own}",
        server.admin_address,
        server.proxy()
    );
    std::fs::write(folder.join("profiles.toml"), profile).expect("a file");
    (server, home)
}

#[tokio::test]
async fn everything_behind_the_path_is_curls() {
    let (sink, canary) = (Sink::https().await, Canary::new("curl-options"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("crm", canary.text());
    })
    .await;
    // These are options of commands too: a referer, a jar for cookies, a proxy that curl has been told not to use.
    let options = ["-e", "https://from.example.test/", "-c", "jar", "--proxy", "http://127.0.0.1:1", "--json", "{}"];
    let ran = on(&server, &[&["curl", "crm", "/x"], &options[..]].concat(), "").await;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert_eq!(sink.requests()[0].header("referer"), Some("https://from.example.test/"));
    assert_eq!(sink.requests()[0].method, "POST");
    let before = on(&server, &["curl", "crm", "-e", "nowhere", "/x"], "").await;
    assert!(before.code == 5 && before.stderr.contains("environment_not_permitted"), "{}", before.stderr);
    let misplaced = on(&server, &["curl", "crm", "--fail", "/x"], "").await;
    assert!(misplaced.code == 2 && misplaced.stderr.contains("--fail stands where"), "{}", misplaced.stderr);
    server.finish(&[&canary]).await;
}

#[tokio::test]
async fn a_profile_has_a_key_of_its_own_for_the_proxy() {
    let (sink, canary) = (Sink::https().await, Canary::new("curl-keyed"));
    let (server, home) = keyed(&sink, &canary, true).await;
    let ran = run(&["curl", "crm", "/x"], home.path(), &[], "").await;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{}", ran.stdout);
    assert_eq!(run(&["connection", "list"], home.path(), &[], "").await.code, 0, "and one for the admin port");
    // What the profile is called may stand before the command too.
    assert_eq!(run(&["--profile", "keyed", "curl", "crm", "/x"], home.path(), &[], "").await.code, 0);
    let means_nothing = run(&["--json", "curl", "crm", "/x"], home.path(), &[], "").await;
    assert!(means_nothing.code == 2 && means_nothing.stderr.contains("--json"), "{}", means_nothing.stderr);
    server.finish(&[&canary]).await;
}

#[tokio::test]
async fn an_administrators_key_is_not_shown_to_the_proxy_and_what_is_missing_is_told() {
    let (sink, canary) = (Sink::https().await, Canary::new("curl-unkeyed"));
    let (server, home) = keyed(&sink, &canary, false).await;
    let missing = run(&["curl", "crm", "/x"], home.path(), &[], "").await;
    assert_eq!(missing.code, 5, "{}", missing.stderr);
    assert!(missing.stderr.contains("401 key_missing") && missing.stderr.contains("caller_key"), "{}", missing.stderr);
    let named = ["curl", "--caller-key-file", ".config/sidekey/admin.key", "crm", "/x"];
    let unknown = run(&named, home.path(), &[], "").await;
    assert_eq!(unknown.code, 5, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("key_unknown") && unknown.stderr.contains("role `caller`"), "{}", unknown.stderr);
    assert_eq!(sink.count(), 0);
    server.finish(&[&canary]).await;
}

#[tokio::test]
async fn exit_codes_tell_the_proxys_refusals_from_upstreams_answers_and_curls_own_failures() {
    let (sink, canary) = (Sink::https().await, Canary::new("curl-codes"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("crm", canary.text());
    })
    .await;
    let unknown = on(&server, &["curl", "nope", "/x"], "").await;
    assert_eq!(unknown.code, 6, "{}", unknown.stderr);
    assert!(unknown.stdout.contains("connection_unknown") && unknown.stderr.contains("404"), "{}", unknown.stderr);
    let elsewhere = on(&server, &["curl", "crm", "https://elsewhere.example.test/x"], "").await;
    assert_eq!(elsewhere.code, 5, "{}", elsewhere.stderr);
    // An upstream's own refusals are its answers, unless curl is told to take them for failures.
    for status in [401, 403, 404, 500] {
        sink.next(Script::respond(status, &[("sidekey-error", "key_unknown")], "its own words"));
        let ran = on(&server, &["curl", "crm", "/x"], "").await;
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "its own words"), "{status}: {}", ran.stderr);
    }
    sink.next(Script::respond(404, &[], ""));
    let failed = on(&server, &["curl", "crm", "/x", "--fail"], "").await;
    assert!(failed.code == 1 && failed.stderr.contains("curl ended with 22"), "{}", failed.stderr);
    assert_eq!(on(&server, &["curl", "nope", "/x", "--fail"], "").await.code, 6);
    // curl's 5 and 6 are not ours: a name that is not found is a proxy that is not there.
    let (folder, proxy) = (tempfile::tempdir().expect("a folder"), format!("http://{}", server.proxy()));
    for (code, ours) in [(5, 4), (6, 4), (7, 4), (22, 1), (28, 1)] {
        let path = fake(folder.path(), &format!("exit {code}"));
        let ran = run(&["curl", "--proxy", &proxy, "crm", "/x"], folder.path(), &[path], "").await;
        assert_eq!(ran.code, ours, "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("curl ended with {code}")), "{}", ran.stderr);
    }
    server.finish(&[&canary]).await;
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = ["curl", "--proxy", "http://127.0.0.1:1", "crm", "/"];
    let ran = run(&args, folder.path(), &[], "").await;
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    let far = ["curl", "--proxy", "http://proxy.example.test:7878", "--caller-key-file", "-", "crm", "/"];
    let clear = run(&far, folder.path(), &[], "apk_x").await;
    assert!(clear.code == 2 && clear.stderr.contains("in clear"), "{}", clear.stderr);
    let line = run(&["curl", "crm", "/\nheader = \"X: y\""], folder.path(), &[], "").await;
    assert_eq!(line.code, 2, "{}", line.stderr);
}
