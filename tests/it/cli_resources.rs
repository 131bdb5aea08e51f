//! The command line as a client of the admin API: the real binary against the real server.

use serde_json::{Value, json};

use crate::admin::{bearer, integration};
use crate::harness::process::{Ran, run};
use crate::harness::{Canary, Script, Sidekey, Sink, get};

/// Runs a command on the server's own machine: with its configuration, in which the ports are not free any more.
pub(crate) async fn on(server: &Sidekey, args: &[&str], stdin: &str) -> Ran {
    let places = [("SIDEKEY_ADMIN__ADDRESS", server.admin_address.to_string())];
    let places = places.into_iter().chain([("SIDEKEY_PROXY__LISTENERS__0__ADDRESS", server.proxy().to_string())]);
    let env: Vec<(String, String)> = places.map(|(name, value)| (name.to_owned(), value)).collect();
    run(args, server.folder(), &env, stdin).await
}

/// What a command that must succeed prints.
#[track_caller]
fn printed(ran: &Ran) -> &str {
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{}", ran.stdout);
    &ran.stdout
}

/// As [`on`], for a command that must succeed; the answer as JSON.
pub(crate) async fn json_of(server: &Sidekey, args: &[&str]) -> Value {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let ran = on(server, &args, "").await;
    serde_json::from_str(printed(&ran)).unwrap_or_else(|error| panic!("{args:?}: {error}: {}", ran.stdout))
}

async fn server(sink: &Sink) -> Sidekey {
    let server = Sidekey::with(|config| {
        config.to(sink);
    })
    .await;
    server.admin().must("POST", "integrations", integration("crm", bearer())).await;
    server
}

#[tokio::test]
async fn a_connection_is_made_with_a_secret_from_stdin_and_works_at_once() {
    let (sink, first, second) = (Sink::https().await, Canary::new("first"), Canary::new("second"));
    let server = server(&sink).await;
    let made = on(&server, &["connection", "create", "crm", "--set", "token=-"], &format!("{}\n", first.text())).await;
    assert_eq!(
        printed(&made),
        "the connection crm is there: development incomplete, production active, staging incomplete\n"
    );
    assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", "crm")]).await.status, 200);
    assert!(sink.requests()[0].header("authorization").is_some_and(|value| value.ends_with(first.text())));

    // A file, whose newline nobody means.
    let secrets = tempfile::tempdir().expect("a folder");
    let file = secrets.path().join("token");
    std::fs::write(&file, format!("{}\r\n", second.text())).expect("a file");
    let set = format!("token=@{}", file.display());
    let changed = on(&server, &["connection", "set", "crm", "--set", &set, "--name", "The CRM"], "").await;
    assert!(printed(&changed).starts_with("the connection crm is changed: "), "{}", changed.stdout);
    get(server.proxy(), "/", &[("Sidekey-Connection", "crm")]).await;
    assert!(sink.requests()[1].header("authorization").is_some_and(|value| value.ends_with(second.text())));
    let shown = json_of(&server, &["connection", "show", "crm"]).await;
    assert_eq!((&shown["name"], &shown["integration"]), (&json!("The CRM"), &json!("crm")));

    let gone = on(&server, &["connection", "unset", "crm", "-e", "production"], "").await;
    assert_eq!(printed(&gone), "the credential of crm in production is gone\n");
    assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", "crm")]).await.status, 424);
    server.finish(&[&first, &second]).await;
}

#[tokio::test]
async fn a_secret_in_an_argument_is_refused_and_goes_nowhere() {
    let (sink, canary) = (Sink::https().await, Canary::new("argument"));
    let server = server(&sink).await;
    let set = format!("token={}", canary.text());
    let refused = on(&server, &["connection", "create", "crm", "--set", &set], "").await;
    assert_eq!((refused.code, refused.stdout.as_str()), (2, ""));
    assert!(refused.stderr.contains("--set token=-"), "it says what to do instead: {}", refused.stderr);
    assert!(!refused.stderr.contains(canary.text()), "{}", refused.stderr);
    let twice = on(&server, &["connection", "create", "crm", "--set", "a=-", "--set", "b=-"], "x").await;
    assert_eq!((twice.code, twice.stdout.as_str()), (2, ""));
    let nobody = on(&server, &["connection", "create", "crm", "--set", "token"], "").await;
    assert_eq!(nobody.code, 2, "there is no terminal to ask at: {}", nobody.stderr);
    assert_eq!(json_of(&server, &["connection", "list"]).await, json!([]), "nothing was made");
    server.finish(&[&canary]).await;
}

#[tokio::test]
async fn what_is_refused_says_why_and_the_exit_code_which_kind_it_is() {
    let sink = Sink::https().await;
    let server = server(&sink).await;
    let ran = on(&server, &["connection", "show", "nope"], "").await;
    assert_eq!(ran.code, 6);
    assert!(
        ran.stderr.starts_with("sidekey: there is no such connection; `sidekey connection list`"),
        "{}",
        ran.stderr
    );
    let nowhere = on(&server, &["connection", "show", "nope", "-e", "nope"], "").await;
    assert_eq!(nowhere.code, 6, "{}", nowhere.stderr);
    let wrong = on(&server, &["connection", "create", "x", "--integration", "nope", "--per-second", "0"], "").await;
    assert_eq!(wrong.code, 1);
    assert!(wrong.stderr.contains("/limit/per_second: "), "each mistake with its place: {}", wrong.stderr);
    printed(&on(&server, &["connection", "create", "crm"], "").await);
    let again = on(&server, &["connection", "create", "crm"], "").await;
    assert_eq!(again.code, 1, "{}", again.stderr);
    assert_eq!(on(&server, &["connection", "set", "crm"], "").await.code, 2, "nothing to change");
    assert_eq!(on(&server, &["connection", "lsit"], "").await.code, 2);
    server.finish(&[]).await;
}

/// Nothing is half made: neither where it can be known before, nor where the server alone knows.
#[tokio::test]
async fn a_connection_is_made_with_its_credential_or_not_at_all() {
    let (sink, canary) = (Sink::https().await, Canary::new("half"));
    let server = server(&sink).await;
    let refused = [
        (&["--set", "tokn=-"][..], 2, "there are: token"),
        (&["--set", "token=-", "-e", "nowhere"], 6, "`sidekey environment list`"),
        // What only the server knows: this cannot stand in a header.
        (&["--set", "token=@two-lines"], 1, "nothing was changed"),
        (&["--set", "token=-", "--expires-at", "never"], 1, "nothing was changed"),
    ];
    std::fs::write(server.folder().join("two-lines"), "one\ntwo").expect("a file");
    for (options, code, told) in refused {
        let ran = on(&server, &[&["connection", "create", "crm"], options].concat(), canary.text()).await;
        assert_eq!(ran.code, code, "{options:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(told), "{options:?}: {}", ran.stderr);
        assert_eq!(on(&server, &["connection", "show", "crm"], "").await.code, 6, "{options:?}");
    }
    printed(&on(&server, &["connection", "create", "crm", "--set", "token=-"], canary.text()).await);
    let before = json_of(&server, &["connection", "show", "crm"]).await;
    for (options, code, told) in refused {
        let set = ["connection", "set", "crm", "--name", "Other", "--rename", "other"];
        let ran = on(&server, &[&set, options].concat(), canary.text()).await;
        assert!(ran.code == code && ran.stderr.contains(told), "{options:?}: {} {}", ran.code, ran.stderr);
        let after = json_of(&server, &["connection", "show", "crm"]).await;
        assert_eq!((&after["name"], &after["key"]), (&before["name"], &before["key"]), "{options:?}");
    }
    assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", "crm")]).await.status, 200, "the old token holds");
    // Another host and the credential for it, at once: it is bound to the new one.
    let mut regional = integration("regional", bearer());
    regional["base_url"] = "https://{{ region }}.example.test".into();
    regional["fields"] = json!([{ "name": "region", "default": "eu" }]);
    server.admin().must("POST", "integrations", regional).await;
    printed(&on(&server, &["connection", "create", "regional", "--set", "token=-"], canary.text()).await);
    let moved = ["connection", "set", "regional", "--value", "region=us", "--set", "token=-"];
    let moved = on(&server, &moved, canary.text()).await;
    assert!(printed(&moved).contains("production active"), "{}", moved.stdout);
    // A secret likewise.
    for (options, code) in [(["--set", "nowhere=-"], 6), (["--set", "production=@empty"], 1)] {
        std::fs::write(server.folder().join("empty"), "").expect("a file");
        let ran = on(&server, &[&["secret", "create", "TOKEN"], &options[..]].concat(), "v").await;
        assert_eq!(ran.code, code, "{options:?}: {}", ran.stderr);
        assert_eq!(on(&server, &["secret", "show", "TOKEN"], "").await.code, 6, "{options:?}");
    }
    server.finish(&[&canary]).await;
}

#[tokio::test]
async fn people_get_tables_and_scripts_get_json() {
    let sink = Sink::https().await;
    let server = server(&sink).await;
    for key in ["alpha", "beta-with-a-long-name", "gamma"] {
        printed(&on(&server, &["connection", "create", key, "--integration", "crm"], "").await);
    }
    let table = on(&server, &["connection", "list"], "").await;
    let lines: Vec<&str> = printed(&table).lines().collect();
    assert_eq!(lines.len(), 4, "{}", table.stdout);
    let column = lines[0].find("INTEGRATION").expect("a column");
    assert!(lines[1..].iter().all(|line| line[column..].starts_with("crm ")), "{}", table.stdout);
    for column in ["STATUS", "EXPIRES", "LAST USED", "USED BY", "VISIBILITY", "OWNER", "SOURCE"] {
        assert!(lines[0].contains(column), "{column}: {}", lines[0]);
    }
    let items = json_of(&server, &["connection", "list"]).await;
    let keys: Vec<&str> = items.as_array().expect("a list").iter().filter_map(|item| item["key"].as_str()).collect();
    assert_eq!(keys, ["alpha", "beta-with-a-long-name", "gamma"]);
    assert_eq!(json_of(&server, &["connection", "list", "--limit", "2"]).await.as_array().map(Vec::len), Some(2));
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_list_of_more_than_one_page_is_whole() {
    let sink = Sink::https().await;
    let server = server(&sink).await;
    for number in 0..205 {
        let connection = json!({ "key": format!("c{number:03}"), "integration": "crm" });
        server.admin().must("POST", "connections", connection).await;
    }
    let items = json_of(&server, &["connection", "list"]).await;
    assert_eq!(items.as_array().map(Vec::len), Some(205));
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_large_change_can_be_looked_at_before_it_is_made() {
    let (sink, canary) = (Sink::https().await, Canary::new("kept"));
    let server = server(&sink).await;
    printed(&on(&server, &["connection", "create", "crm", "--set", "token=-"], canary.text()).await);
    let would = on(&server, &["connection", "delete", "crm", "--dry-run"], "").await;
    assert!(printed(&would).contains("production") && would.stdout.contains("nothing was deleted"), "{}", would.stdout);
    let moved = ["integration", "set", "crm", "--base-url", "https://other.example.test", "--dry-run"];
    let would = json_of(&server, &moved).await;
    assert_eq!(would["blocked"], json!([{ "connection": "crm", "environments": ["production"] }]));
    let renamed = json_of(&server, &["integration", "set", "crm", "--name", "X", "--dry-run"]).await;
    assert_eq!(renamed["blocked"], json!([]));
    assert_eq!(
        json_of(&server, &["connection", "show", "crm"]).await["environments"]["production"]["status"],
        "active"
    );
    // And made.
    printed(&on(&server, &moved[..5], "").await);
    let standing = json_of(&server, &["connection", "show", "crm"]).await["environments"]["production"].clone();
    assert_ne!(standing["status"], "active", "{standing}");
    printed(&on(&server, &["connection", "delete", "crm"], "").await);
    assert_eq!(on(&server, &["connection", "show", "crm"], "").await.code, 6);
    server.finish(&[&canary]).await;
}

#[tokio::test]
async fn integrations_are_written_in_toml_or_json() {
    let sink = Sink::https().await;
    let server = server(&sink).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("erp.toml");
    let text =
        "slug = \"erp\"\nbase_url = \"https://erp.example.test\"\n[[auth]]\nmethod = \"main\"\ntype = \"bearer\"\n";
    std::fs::write(&file, text).expect("a file");
    printed(&on(&server, &["integration", "create", "erp", "-f", &file.display().to_string()], "").await);
    let changed = json!({ "base_url": "https://erp2.example.test", "auth": [{ "method": "main", "type": "bearer" }] });
    printed(&on(&server, &["integration", "set", "erp", "-f", "-"], &changed.to_string()).await);
    assert_eq!(json_of(&server, &["integration", "show", "erp"]).await["base_url"], "https://erp2.example.test");
    std::fs::write(&file, "slug = ").expect("a file");
    let wrong = on(&server, &["integration", "create", "x", "-f", &file.display().to_string()], "").await;
    assert!(wrong.code == 1 && wrong.stderr.contains("it is not TOML"), "{}", wrong.stderr);
    printed(&on(&server, &["integration", "delete", "erp"], "").await);
    server.finish(&[]).await;
}

#[tokio::test]
async fn secrets_environments_organizations_and_roles_have_their_commands() {
    let (sink, canary) = (Sink::https().await, Canary::new("named"));
    let server = server(&sink).await;
    let made = on(
        &server,
        &["secret", "create", "CRM_TOKEN", "--set", "production=-", "--description", "of the CRM"],
        canary.text(),
    )
    .await;
    assert_eq!(printed(&made), "the secret CRM_TOKEN is there; it has values in: production\n");
    let would = on(&server, &["secret", "delete", "CRM_TOKEN", "--dry-run"], "").await;
    assert!(printed(&would).contains("nothing was deleted"));
    printed(&on(&server, &["secret", "set", "CRM_TOKEN", "--description", "another"], "").await);
    assert_eq!(json_of(&server, &["secret", "show", "CRM_TOKEN"]).await["description"], "another");
    printed(&on(&server, &["secret", "unset", "CRM_TOKEN", "-e", "production"], "").await);
    printed(&on(&server, &["secret", "delete", "CRM_TOKEN"], "").await);

    printed(&on(&server, &["environment", "create", "qa"], "").await);
    let names = json_of(&server, &["environment", "list"]).await;
    assert!(names.as_array().expect("a list").iter().any(|item| item["name"] == "qa"), "{names}");
    printed(&on(&server, &["environment", "delete", "qa"], "").await);

    printed(&on(&server, &["organization", "create", "acme", "--name", "Acme"], "").await);
    printed(&on(&server, &["secret", "create", "ONLY_ACME", "--organization", "acme"], "").await);
    assert_eq!(json_of(&server, &["secret", "list"]).await, json!([]));
    assert_eq!(json_of(&server, &["secret", "list", "--organization", "acme"]).await[0]["key"], "ONLY_ACME");

    let roles = on(&server, &["role", "list"], "").await;
    assert!(printed(&roles).lines().any(|line| line.starts_with("connections.manage")), "{}", roles.stdout);
    server.finish(&[&canary]).await;
}

#[tokio::test]
async fn a_test_that_does_not_pass_is_a_failure() {
    let (sink, canary) = (Sink::https().await, Canary::new("tested"));
    let server = server(&sink).await;
    let mut tested = integration("tested", bearer());
    tested["test"] = json!({ "path": "/me" });
    server.admin().must("POST", "integrations", tested).await;
    printed(&on(&server, &["connection", "create", "tested", "--set", "token=-"], canary.text()).await);
    let test = ["connection", "test", "tested", "-e", "production"];
    let passed = on(&server, &test, "").await;
    assert!(printed(&passed).lines().any(|line| line.split_whitespace().eq(["passed", "true"])), "{}", passed.stdout);
    sink.otherwise(Script::respond(401, &[], ""));
    let failed = on(&server, &test, "").await;
    assert_eq!(failed.code, 1, "{}", failed.stdout);
    assert!(failed.stderr.contains("tested did not pass: "), "{}", failed.stderr);
    server.finish(&[&canary]).await;
}

#[tokio::test]
async fn what_would_become_of_a_request_is_told_and_nothing_is_sent() {
    let (sink, canary) = (Sink::https().await, Canary::new("explained"));
    let server = server(&sink).await;
    printed(&on(&server, &["connection", "create", "crm", "--set", "token=-"], canary.text()).await);
    let told = on(&server, &["connection", "explain", "crm", "/v1/me?a=b", "-e", "production"], "").await;
    let lines: Vec<&str> = printed(&told).lines().collect();
    assert!(lines[0].starts_with("GET https://") && lines[1] == "would be sent", "{}", told.stdout);
    assert!(told.stdout.contains("header  authorization: "), "{}", told.stdout);
    let refused = json_of(&server, &["connection", "explain", "crm", "/../x", "-e", "production"]).await;
    assert_eq!((&refused["permitted"], &refused["refusal"]["code"]), (&json!(false), &json!("target_invalid")));
    assert_eq!(sink.count(), 0);
    server.finish(&[&canary]).await;
}
