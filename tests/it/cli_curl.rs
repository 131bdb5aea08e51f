//! `sidekey curl`: one request through the proxy, with the system's curl.

use std::os::unix::fs::PermissionsExt;

use crate::cli_resources::on;
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

#[tokio::test]
async fn the_key_stands_in_no_argument() {
    let (sink, canary) = (Sink::https().await, Canary::new("curl-key"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("crm", canary.text());
    })
    .await;
    // A curl that tells how it was called, and what it was told apart from that.
    let folder = tempfile::tempdir().expect("a folder");
    let fake = folder.path().join("curl");
    std::fs::write(&fake, "#!/bin/sh\nprintf '%s\\n' \"$@\"\necho ---\ncat \"$3\"\n").expect("a file");
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    let key = std::fs::read_to_string(server.folder().join("admin.key")).expect("admin.key");
    let env = [("PATH".to_owned(), path), ("SIDEKEY_KEY".to_owned(), key.clone())];
    let proxy = format!("http://{}", server.proxy());
    let args = ["curl", "--proxy", &proxy, "crm", "https://other.example.test/x", "-v"];
    let ran = crate::harness::process::run(&args, server.folder(), &env, "").await;
    let (argv, told) = ran.stdout.split_once("---\n").unwrap_or_else(|| panic!("{} {}", ran.stdout, ran.stderr));
    assert!(!argv.contains(key.trim()) && argv.ends_with("-v\n"), "{argv}");
    assert!(told.contains(&format!("header = \"Sidekey-Key: {}\"", key.trim())), "{told}");
    assert!(told.contains("header = \"Sidekey-Upstream: https://other.example.test\""), "{told}");
    // Without a curl the message says so.
    let nowhere = [("PATH".to_owned(), "/nowhere".to_owned())];
    let ran = crate::harness::process::run(&args, server.folder(), &nowhere, "").await;
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
    assert_eq!(crate::harness::process::run(&args, server.folder(), &[home], "").await.code, 0);
    assert_eq!(evil.requests().len(), 0);
    let ran = on(&server, &["curl", "crm", "/x", "--json", "{\"a\":1}"], "").await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let last = sink.requests().pop().expect("the request");
    assert_eq!((last.method.as_str(), last.body.as_ref()), ("POST", &b"{\"a\":1}"[..]));
    server.finish(&[&canary]).await;
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = ["curl", "--proxy", "http://127.0.0.1:1", "crm", "/"];
    let ran = crate::harness::process::run(&args, folder.path(), &[], "").await;
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    let far = ["curl", "--proxy", "http://proxy.example.test:7878", "--key-file", "-", "crm", "/"];
    let clear = crate::harness::process::run(&far, folder.path(), &[], "apk_x").await;
    assert!(clear.code == 2 && clear.stderr.contains("in clear"), "{}", clear.stderr);
    let line = crate::harness::process::run(&["curl", "crm", "/\nheader = \"X: y\""], folder.path(), &[], "").await;
    assert_eq!(line.code, 2, "{}", line.stderr);
}
