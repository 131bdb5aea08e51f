//! Every operation of the admin API is reached by a verb of the command line: the real binary, with the real server,
//! over a line on which is seen what it asks.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::admin::{bearer, integration};
use crate::harness::process::{Ran, run};
use crate::harness::recorder::Recorder;
use crate::harness::{Sidekey, Sink, get};

/// The operations, each with the command that asks it, in an order in which each finds what it needs. What a command
/// reads from stdin stands behind it: a text, or `EXPORTED` for what the last command has printed.
const REACHED: &[(&str, &str, &str)] = &[
    ("organizations.list", "organization list", ""),
    ("organizations.create", "organization create acme", ""),
    ("organizations.show", "organization show acme", ""),
    ("organizations.replace", "organization set acme --name Acme", ""),
    ("organizations.limits.show", "organization limits acme", ""),
    ("organizations.limits.replace", "organization limits acme --per-minute 1000", ""),
    ("organizations.delete", "organization delete acme", ""),
    ("roles.list", "role list", ""),
    ("me", "whoami", ""),
    ("readyz.ready", "healthcheck --address ADDRESS", ""),
    ("environments.list", "environment list", ""),
    ("environments.create", "environment create qa", ""),
    ("environments.show", "environment show qa", ""),
    ("environments.replace", "environment set qa --position 0", ""),
    ("environments.delete", "environment delete qa", ""),
    ("integrations.list", "integration list", ""),
    ("integrations.create", "integration create crm -f -", CRM),
    ("integrations.show", "integration show crm", ""),
    ("integrations.replace", "integration set crm --name CRM", ""),
    ("integrations.values.show", "integration values crm", ""),
    ("integrations.values.replace", "integration values crm --value region=us", ""),
    ("integrations.versions.list", "integration versions crm", ""),
    ("integrations.versions.show", "integration versions crm 1", ""),
    ("connections.create", "connection create crm", ""),
    ("connections.list", "connection list", ""),
    ("connections.show", "connection show crm", ""),
    ("connections.replace", "connection set crm --name CRM", ""),
    ("connections.credentials.replace", "connection set crm --set token=-", "a-token"),
    ("connections.credentials.show", "connection show crm -e production", ""),
    ("connections.test", "connection test crm -e production", ""),
    // Nobody signs in for a token that is entered. That it is asked is what is seen here.
    ("connections.authorize", "connection authorize crm -e production", ""),
    ("connections.explain", "connection explain crm /x -e production", ""),
    ("export", "export", ""),
    ("import", "import - --dry-run", EXPORTED),
    ("connections.credentials.delete", "connection unset crm -e production", ""),
    ("connections.revoke", "connection revoke crm", ""),
    ("connections.delete", "connection delete crm", ""),
    ("integrations.delete", "integration delete crm", ""),
    ("secrets.create", "secret create TOKEN", ""),
    ("secrets.list", "secret list", ""),
    ("secrets.show", "secret show TOKEN", ""),
    ("secrets.replace", "secret set TOKEN --description D", ""),
    ("secrets.values.put_value", "secret set TOKEN --set production=-", "a-value"),
    ("secrets.values.delete_value", "secret unset TOKEN -e production", ""),
    ("secrets.delete", "secret delete TOKEN", ""),
    ("api-keys.create", "api-key create ci", ""),
    ("api-keys.list", "api-key list", ""),
    ("api-keys.show", "api-key show ci", ""),
    ("api-keys.replace", "api-key set ci --role caller --role viewer", ""),
    ("api-keys.limits.limit", "api-key set ci --per-minute 5", ""),
    ("api-keys.scope.narrow", "api-key set ci --method GET --explain", ""),
    ("api-keys.suspend", "api-key suspend ci", ""),
    ("api-keys.resume", "api-key resume ci", ""),
    ("api-keys.rotate", "api-key rotate ci", ""),
    ("api-keys.revoke", "api-key revoke ci", ""),
    ("users.invite", "user invite ada@example.test --role viewer", ""),
    ("users.list", "user list", ""),
    ("users.show", "user show ada@example.test", ""),
    ("users.edit", "user set ada@example.test --first-name Ada", ""),
    ("users.roles.set_roles", "user set ada@example.test --role editor", ""),
    ("users.invite.renew", "user reinvite ada@example.test", ""),
    ("users.disable", "user disable ada@example.test", ""),
    ("users.enable", "user enable ada@example.test", ""),
    ("users.sessions.list_of_user", "session list --user ada@example.test", ""),
    ("users.sessions.end_of_user", "session revoke --user ada@example.test", ""),
    ("users.delete", "user delete ada@example.test", ""),
    ("sessions.list", "session list", ""),
    // There is none to end: nobody is signed in. That it is asked is what is seen here.
    ("sessions.end", "session revoke ses_01jabcdefghjkmnpqrstvwxyz0", ""),
    ("audit.list", "audit list", ""),
    ("audit.export", "audit export", ""),
    ("audit.verify", "audit verify", ""),
    ("audit.usage", "audit usage", ""),
    ("tap.open", "tap", ""),
];

/// What no verb asks, and why.
const BY_NO_VERB: &[(&str, &str)] = &[
    ("healthz.alive", "for supervisors; `healthcheck` asks whether the server is ready, which it is not if not alive"),
    ("metrics", "for a scraper, in its own format"),
    ("openapi.json.show", "for generators of clients"),
    ("sign-in.ways", "people sign in by a browser"),
    ("sign-in.by_password", "people sign in by a browser"),
    ("sign-in.oidc.begin", "people sign in by a browser"),
    ("sign-out.sign_out", "people sign out in a browser"),
    ("invite.show", "an invitation is opened in a browser"),
    ("invite.accept", "an invitation is opened in a browser"),
    ("me.password.set_password", "only who is signed in has a password, and a key is not"),
];

const CRM: &str = r#"{"base_url": "https://api.example.test", "auth": [{"method": "main", "type": "bearer"}],
    "fields": [{"name": "region", "default": "eu"}], "test": {"path": "/me"}}"#;

/// Stands for what the command before has printed.
const EXPORTED: &str = "<what was exported>";

/// The operations of the document: their ids with method and path.
async fn operations(server: &Sidekey) -> BTreeMap<String, (String, String)> {
    let document = get(server.admin_address.clone(), "/api/v1/openapi.json", &[]).await.json();
    let mut found = BTreeMap::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            let id = operation["operationId"].as_str().expect("an id").to_owned();
            found.insert(id, (method.to_uppercase(), path.clone()));
        }
    }
    found
}

/// Whether a request is of an operation.
fn is_of((method, target): &(String, String), (of_method, of_path): &(String, String)) -> bool {
    let path: Vec<&str> = target.split('?').next().unwrap_or_default().split('/').collect();
    let of_path: Vec<&str> = of_path.split('/').collect();
    let fits = |(part, of): (&&str, &&str)| of.starts_with('{') || part == of;
    method == of_method && path.len() == of_path.len() && path.iter().zip(&of_path).all(fits)
}

/// Runs commands over a line.
struct Shell<'a> {
    server: &'a Sidekey,
    recorder: Recorder,
}

impl<'a> Shell<'a> {
    async fn of(server: &'a Sidekey) -> Self {
        Self { server, recorder: Recorder::before(&server.admin_address).await }
    }

    /// What a command left, and what it asked. One that watches is interrupted once it is answered.
    async fn run(&self, command: &str, stdin: &str) -> (Ran, Vec<(String, String)>) {
        let address = self.recorder.address.to_string();
        let args: Vec<&str> =
            command.split(' ').map(|arg| if arg == "ADDRESS" { address.as_str() } else { arg }).collect();
        let key = std::fs::read_to_string(self.server.folder().join("admin.key")).expect("admin.key");
        let env = [("SIDEKEY_SERVER", format!("http://{address}")), ("SIDEKEY_KEY", key.trim().to_owned())];
        let env = env.map(|(name, value)| (name.to_owned(), value));
        let ran = match command {
            "tap" => crate::cli_tap::interrupted(self.server, &args, &env).await,
            _ => run(&args, self.server.folder(), &env, stdin).await,
        };
        (ran, self.recorder.taken())
    }
}

#[tokio::test]
async fn every_operation_is_reached_by_a_verb() {
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        config.to(&sink);
    })
    .await;
    let operations = operations(&server).await;
    let told: Vec<&str> = REACHED.iter().map(|(id, ..)| *id).chain(BY_NO_VERB.iter().map(|(id, _)| *id)).collect();
    let once: BTreeSet<&str> = told.iter().copied().collect();
    assert_eq!(told.len(), once.len(), "an operation stands in the tables once");
    let known: BTreeSet<&str> = operations.keys().map(String::as_str).collect();
    assert_eq!(once, known, "a new operation needs a verb, or a reason for having none");

    let shell = Shell::of(&server).await;
    let mut printed = String::new();
    for (id, command, stdin) in REACHED {
        let stdin = if *stdin == EXPORTED { printed.as_str() } else { *stdin };
        let (ran, asked) = shell.run(command, stdin).await;
        let code = match *id {
            "sessions.end" => 6,
            "connections.authorize" => 1,
            _ => 0,
        };
        assert_eq!(ran.code, code, "sidekey {command}: {}", ran.stderr);
        let operation = &operations[*id];
        assert!(asked.iter().any(|request| is_of(request, operation)), "sidekey {command} asks {asked:?}, not {id}");
        printed = ran.stdout;
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_rekey_is_looked_at_before_it_is_done() {
    let mut server = Sidekey::with(|_| {}).await;
    let key = || std::fs::read(server.folder().join("master.key")).expect("master.key");
    let before = key();
    let would = server.run_beside(&["rekey", "--dry-run"], "").await;
    assert_eq!(would.code, 0, "{}", would.stderr);
    assert!(would.stdout.contains("the running server would do it"), "{}", would.stdout);
    let elsewhere = server.run_beside(&["rekey", "--dry-run", "--write-to", "new.key"], "").await;
    assert!(elsewhere.stdout.contains("new.key") && !server.folder().join("new.key").exists(), "{}", elsewhere.stdout);
    let over = server.run_beside(&["rekey", "--dry-run", "--write-to", "admin.key"], "").await;
    assert!(over.code == 1 && over.stderr.contains("is there already"), "{}", over.stderr);
    assert_eq!(key(), before, "nothing was changed");
    server.restart().await;
    server.sigterm();
    server.wait_exit().await;
    let alone = server.run_beside(&["rekey", "--dry-run"], "").await;
    assert!(alone.code == 0 && alone.stdout.contains("this command would do it"), "{} {}", alone.stdout, alone.stderr);
    let vault = server.folder().join("sidekey.vault");
    std::fs::rename(&vault, server.folder().join("elsewhere.vault")).expect("it is moved");
    let nothing = server.run_beside(&["rekey", "--dry-run"], "").await;
    assert!(nothing.code == 1 && nothing.stderr.contains("there is no vault"), "{}", nothing.stderr);
}

/// Whatever is looked at before it is done sends nothing that changes anything; and then it does what it said.
#[tokio::test]
async fn a_dry_run_sends_nothing_and_says_what_would_be() {
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        config.to(&sink).pin("us.example.test", sink.addr).pin("eu.example.test", sink.addr);
    })
    .await;
    let admin = server.admin();
    let mut crm = integration("crm", bearer());
    crm["base_url"] = "https://{{ region }}.example.test".into();
    crm["fields"] = json!([{ "name": "region", "default": "eu" }]);
    admin.must("POST", "integrations", crm).await;
    admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await;
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": "t" })).await;
    admin.must("POST", "secrets", json!({ "key": "TOKEN" })).await;
    admin.must("PUT", "secrets/TOKEN/values/production", json!({ "value": "v" })).await;
    admin.must("POST", "users", json!({ "email": "ada@example.test", "roles": ["viewer"] })).await;
    let user = admin.get("users/ada@example.test").await.json()["id"].clone();
    admin.must("POST", "api-keys", json!({ "name": "adas", "owner": user, "roles": ["viewer"] })).await;
    let shell = Shell::of(&server).await;
    let blocked = "! crm: its credential is blocked until it is entered again: production";
    for (command, told) in [
        ("integration values crm --value region=us --dry-run", &["+ /region: \"us\"", blocked][..]),
        (
            "connection set crm --value region=us --name N --dry-run",
            &["+ /values/region: \"us\"", "+ /name: \"N\"", blocked],
        ),
        ("connection set crm --set token=- --dry-run", &["entered in production: token"]),
        (
            "connection create two --integration crm --value region=us --set token=- --dry-run",
            &["this would make", "+ /key: \"two\""],
        ),
        ("integration set crm --base-url https://us.example.test --dry-run", &[blocked, "~ /base_url: "]),
        ("integration set crm --name N --dry-run", &["+ /name: \"N\""]),
        ("integration delete crm --dry-run", &["connections: crm"]),
        ("connection delete crm --dry-run", &["credentials: production"]),
        ("secret delete TOKEN --dry-run", &["values: production"]),
        ("environment delete production --dry-run", &["a credential there: crm", "a value there: TOKEN"]),
        (
            "organization delete default --dry-run",
            &["connections: crm", "integrations: crm", "users: ada@example.test"],
        ),
        ("user delete ada@example.test --dry-run", &["revoked: adas"]),
    ] {
        let (ran, asked) = shell.run(command, "").await;
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "sidekey {command}");
        assert!(!asked.is_empty() && asked.iter().all(|(method, _)| method == "GET"), "sidekey {command}: {asked:?}");
        assert!(told.iter().all(|told| ran.stdout.contains(told)), "sidekey {command}: {}", ran.stdout);
        assert!(ran.stdout.contains("nothing was"), "sidekey {command}: {}", ran.stdout);
        let json: Value =
            serde_json::from_str(&shell.run(&format!("{command} --json"), "").await.0.stdout).expect("JSON");
        assert_eq!(json["dry_run"], true, "sidekey {command}: {json}");
    }
    // What the server would refuse is told as well, as far as it can be known.
    for (command, told) in [
        ("integration values crm --value region=a.b --dry-run", "/values/region: the value does not match"),
        ("integration values crm --value nope=1 --dry-run", "/values/nope: "),
        ("connection set crm --value nope=1 --dry-run", "/values/nope: "),
        ("connection create two --integration crm --set tokn=- --dry-run", "there are: token"),
        ("integration set crm --base-url http://x.test --dry-run", "/base_url: "),
    ] {
        let (ran, asked) = shell.run(command, "").await;
        assert!(ran.code != 0 && ran.stderr.contains(told), "sidekey {command}: {} {}", ran.stdout, ran.stderr);
        assert!(asked.iter().all(|(method, _)| method == "GET"), "sidekey {command}: {asked:?}");
    }
    // And it is so.
    let (done, _) = shell.run("integration values crm --value region=us", "").await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    let standing = admin.get("connections/crm").await.json()["environments"]["production"]["status"].clone();
    assert_eq!(standing, "expired");
    server.finish(&[]).await;
}
