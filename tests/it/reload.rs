//! The configuration is followed while the server runs: at once on SIGHUP, soon after a file has changed. A bad new
//! state changes nothing and is told.

use std::path::PathBuf;

use serde_json::Value;

use crate::api::{self, API};
use crate::harness::config::table;
use crate::harness::{Canary, Client, Config, Reply, Sidekey, Sink, get, problem, soon};

async fn ask(server: &Sidekey, connection: &str) -> Reply {
    get(server.proxy(), "/", &[("Sidekey-Connection", connection)]).await
}

/// What the upstream saw in `Authorization`.
async fn credential(server: &Sidekey, connection: &str) -> String {
    let echo = ask(server, connection).await.json();
    let headers = echo["headers"].as_array().expect("headers");
    let value = headers.iter().find(|pair| pair[0] == "authorization").map(|pair| pair[1].clone());
    value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The token of the connection declared last comes from `source`.
fn token_from(config: &mut Config, source: toml::Value) {
    config.connection_key("credentials", table(&[("production", table(&[("token", source)]))]));
}

/// Waits until the configuration was loaded `times` times after the start.
async fn loaded(server: &Sidekey, times: usize) {
    let is_load = |line: &&Value| line["message"] == "the configuration was loaded again";
    server.process().log_lines_when("a load", |lines| lines.iter().filter(is_load).count() >= times).await;
}

/// Waits until `times` loads have failed, and says why the last did.
async fn refused(server: &Sidekey, times: usize) -> String {
    let is_refusal = |line: &&Value| line["message"] == "the configuration was not loaded; the one before still holds";
    let enough = |lines: &[Value]| lines.iter().filter(is_refusal).count() >= times;
    let lines = server.process().log_lines_when("why it was not loaded", enough).await;
    lines.iter().rfind(is_refusal).and_then(|line| line["reason"].as_str()).expect("a reason").to_owned()
}

#[tokio::test]
async fn sighup_takes_new_changed_and_removed_connections() {
    let sink = Sink::https().await;
    let tokens = ["old", "first", "second"].map(Canary::new);
    let mut server = Sidekey::with(|config| {
        config.to(&sink).bearer("kept", tokens[0].text()).bearer("changed", tokens[1].text());
    })
    .await;
    let mut open = Client::connect(server.proxy()).await;
    open.request("GET", "/", &[("Sidekey-Connection", "changed")], "").await;
    assert_eq!(open.response().await.status, 200);
    assert_eq!(problem(&ask(&server, "new").await).code, "connection_unknown");

    server.reconfigure(|config| {
        config.begin_anew().to(&sink).bearer("changed", tokens[2].text()).bearer("new", tokens[0].text());
    });
    server.sighup();
    loaded(&server, 1).await;
    assert_eq!(credential(&server, "changed").await, format!("Bearer {}", tokens[2].text()));
    assert_eq!(credential(&server, "new").await, format!("Bearer {}", tokens[0].text()));
    assert_eq!(problem(&ask(&server, "kept").await).code, "connection_unknown");
    // A connection that was open before is asked the same.
    open.request("GET", "/", &[("Sidekey-Connection", "changed")], "").await;
    assert!(open.response().await.text().contains(tokens[2].text()));
    assert_eq!(server.metric("sidekey_reloads_total").await, 1.0);
    server.finish(&tokens.iter().collect::<Vec<_>>()).await;
}

/// Nobody sends a signal: the file is looked at.
#[tokio::test]
async fn a_change_of_the_file_is_noticed_within_two_seconds() {
    let sink = Sink::https().await;
    let mut server = api::before(&sink).await;
    server.reconfigure(|config| {
        config.bearer("new", "new-token");
    });
    let changed = std::time::Instant::now();
    while ask(&server, "new").await.status != 200 {
        // Half a second for a busy machine.
        assert!(changed.elapsed().as_millis() < 2500, "not noticed for {:?}", changed.elapsed());
    }
    assert_eq!(credential(&server, "new").await, "Bearer new-token");
    server.finish(&[]).await;
}

/// The files in which credentials stand are followed like the configuration.
#[tokio::test]
async fn a_change_of_a_credentials_file_is_noticed() {
    let sink = Sink::https().await;
    let mut file = PathBuf::new();
    let server = api::with(&sink, |config| {
        let source = config.secret_file("first");
        file = PathBuf::from(source["file"].as_str().expect("a path"));
        token_from(config.bearer("followed", "replaced by the next line"), source);
    })
    .await;
    assert_eq!(credential(&server, "followed").await, "Bearer first");
    std::fs::write(&file, "second").expect("the file");
    soon("the second credential", async { while credential(&server, "followed").await != "Bearer second" {} }).await;

    // As secrets are mounted: another file takes the name. The same length, so that only the file tells.
    let other = file.with_extension("new");
    std::fs::write(&other, "thirds").expect("a file");
    std::fs::rename(&other, &file).expect("a rename");
    soon("the third credential", async { while credential(&server, "followed").await != "Bearer thirds" {} }).await;

    // Gone: what was there still holds, and the reason is told by name.
    std::fs::remove_file(&file).expect("the file");
    let reason = refused(&server, 1).await;
    assert!(reason.contains(file.file_name().and_then(|name| name.to_str()).expect("a name")), "{reason}");
    assert_eq!(credential(&server, "followed").await, "Bearer thirds");
    // And back again.
    std::fs::write(&file, "fourth").expect("the file");
    soon("the fourth credential", async { while credential(&server, "followed").await != "Bearer fourth" {} }).await;
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_bad_file_keeps_the_old_state_says_why_and_is_followed_until_it_is_good() {
    let sink = Sink::https().await;
    let secret = Canary::new("pasted");
    let mut server = api::before(&sink).await;
    let folder = server.folder().to_owned();
    let good = std::fs::read_to_string(folder.join("sidekey.toml")).expect("the configuration");
    let write = |text: &str| std::fs::write(folder.join("sidekey.toml"), text).expect("the configuration");

    // No TOML; a secret that stands in the wrong place is not shown.
    write(&format!("{good}\n[oops\ntoken = \"{}\n", secret.text()));
    let reason = refused(&server, 1).await;
    assert!(reason.contains("sidekey.toml") && reason.contains('^'), "{reason}");
    assert_eq!(ask(&server, "api").await.status, 200);

    // A key that nobody knows, at once by a signal.
    write(&format!("{good}\n[proxi]\nthreads = 1\n"));
    server.sighup();
    let reason = refused(&server, 2).await;
    assert!(reason.contains("proxi"), "{reason}");
    assert_eq!(ask(&server, "api").await.status, 200);

    // A credential whose file is not there: what mends it is that file, not the configuration.
    write(&good);
    let missing = folder.parent().expect("a parent").join(format!("{}.token", ulid::Ulid::generate()));
    let source = table(&[("file", missing.display().to_string().into())]);
    server.reconfigure(|config| {
        token_from(config.bearer("later", "replaced by this line"), source);
    });
    server
        .process()
        .stderr_line("the missing file", |line| line.contains("not loaded") && line.contains(".token"))
        .await;
    assert_eq!(ask(&server, "api").await.status, 200);
    assert_eq!(ask(&server, "later").await.status, 404);
    std::fs::write(&missing, "late-token").expect("the file");
    soon("the connection", async { while ask(&server, "later").await.status != 200 {} }).await;
    assert_eq!(credential(&server, "later").await, "Bearer late-token");
    std::fs::remove_file(&missing).expect("the file");
    server.finish(&[&secret]).await;
}

/// What is bound to the start is named, so that nobody waits for it.
#[tokio::test]
async fn settings_that_wait_for_the_next_start_are_named() {
    let sink = Sink::https().await;
    let mut server = api::before(&sink).await;
    server.reconfigure(|config| {
        config.set("proxy.max_connections", 5).set("log.level", "debug").bearer("new", "new-token");
    });
    server.sighup();
    let line = server.log_line("a warning", |line| line["sections"].is_string()).await;
    assert_eq!((&line["level"], &line["sections"]), (&"WARN".into(), &"proxy, log".into()), "{line}");
    assert_eq!(ask(&server, "new").await.status, 200, "what can be taken is taken");
    server.finish(&[]).await;
}

/// What was begun with the old credential ends with it; the next request has the new one.
#[tokio::test]
async fn a_reload_does_not_disturb_what_is_under_way() {
    let sink = Sink::https().await;
    let (script, feed) = crate::harness::Script::events();
    sink.on("/events", script);
    let mut server = api::before(&sink).await;
    let mut raw = Client::connect(server.proxy()).await;
    raw.request("GET", "/events", &[API], "").await;
    feed.send("data: 1\n\n");
    assert_eq!(raw.head().await.status, 200);
    assert!(raw.piece().await.is_some());
    server.reconfigure(|config| {
        let source = config.secret_file("changed");
        token_from(config, source);
    });
    server.sighup();
    loaded(&server, 1).await;
    assert_eq!(credential(&server, "api").await, "Bearer changed");
    feed.send("data: 2\n\n");
    assert_eq!(raw.piece().await.as_deref(), Some(&b"data: 2\n\n"[..]));
    feed.close();
    assert_eq!(raw.piece().await, None);
    server.finish(&[]).await;
}
