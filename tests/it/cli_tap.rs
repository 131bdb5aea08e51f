//! `sidekey tap`: what it prints, and how it ends.

use rustix::process::Signal;
use serde_json::Value;

use crate::api::{self, API};
use crate::api_keys::create;
use crate::harness::process::{Process, Ran, run, unread};
use crate::harness::{Sidekey, Sink, get, soon};

/// Asks until a line is printed, whoever is first: the command, or what it is to print.
async fn first_line(server: &Sidekey, process: &Process) -> String {
    let asking = async {
        loop {
            let connection = [("Sidekey-Connection", "api")];
            get(server.proxy(), "/", &connection).await;
        }
    };
    tokio::select! {
        line = process.first_line() => line.unwrap_or_else(|| panic!("no line: {}", process.stderr())),
        never = asking => never,
    }
}

/// What a tap has left that was interrupted once it had printed a line.
pub(crate) async fn interrupted(server: &Sidekey, args: &[&str], env: &[(String, String)]) -> Ran {
    let mut process = Process::start(args, server.folder(), env);
    first_line(server, &process).await;
    process.signal(Signal::INT);
    let code = process.wait().await.code().unwrap_or(-1);
    Ran { code, stdout: process.stdout(), stderr: process.stderr() }
}

fn env(server: &Sidekey, key: &str) -> [(String, String); 2] {
    let server = format!("http://{}", server.admin_address);
    [("SIDEKEY_SERVER".to_owned(), server), ("SIDEKEY_KEY".to_owned(), key.to_owned())]
}

fn first_key(server: &Sidekey) -> String {
    std::fs::read_to_string(server.folder().join("admin.key")).expect("admin.key").trim().to_owned()
}

#[tokio::test]
async fn requests_are_printed_for_people_and_for_scripts_until_it_is_interrupted() {
    let sink = Sink::https().await;
    let server = api::before(&sink).await;
    let env = env(&server, &first_key(&server));
    let people = interrupted(&server, &["tap", "--connection", "api"], &env).await;
    assert_eq!((people.code, people.stderr.as_str()), (0, ""));
    let line = people.stdout.lines().next().expect("a line");
    assert!(line.contains("  200  GET api production -> ") && line.contains("  local  req_"), "{line}");
    let scripts = interrupted(&server, &["tap", "--json"], &env).await;
    assert_eq!((scripts.code, scripts.stderr.as_str()), (0, ""));
    for line in scripts.stdout.lines() {
        let line: Value = serde_json::from_str(line).expect("one object a line");
        assert_eq!((&line["connection"], &line["status"]), (&Value::from("api"), &Value::from(200)));
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn how_it_ends_is_told_by_its_exit_code() {
    let sink = Sink::https().await;
    let server = api::before(&sink).await;
    let admin = server.admin();
    let key = serde_json::json!({ "name": "ci", "roles": ["org_admin"] });
    let (id, key) = create(&admin, key).await;
    let mut revoked = Process::start(&["tap"], server.folder(), &env(&server, &key));
    let mut stopped = Process::start(&["tap"], server.folder(), &env(&server, &first_key(&server)));
    first_line(&server, &revoked).await;
    first_line(&server, &stopped).await;
    assert_eq!(admin.call("POST", &format!("api-keys/{id}/revoke"), &[], None).await.status, 200);
    assert_eq!(revoked.wait().await.code(), Some(5), "{}", revoked.stderr());
    assert!(revoked.stderr().contains("may not watch any more"), "{}", revoked.stderr());

    let known = env(&server, &first_key(&server));
    let nothing = run(&["tap", "--connection", "nope"], server.folder(), &known, "").await;
    assert_eq!(nothing.code, 6, "{}", nothing.stderr);
    let nobody = run(&["tap"], server.folder(), &env(&server, &key), "").await;
    assert_eq!(nobody.code, 5, "{}", nobody.stderr);

    // Who stops reading has read enough.
    let named = format!("http://{}", server.admin_address);
    let args = ["tap", "--server", &named, "--key-file", "admin.key"];
    let asking = async {
        loop {
            get(server.proxy(), "/", &[API]).await;
        }
    };
    let early = tokio::select! {
        early = soon("the end", unread(&args, server.folder())) => early,
        never = asking => never,
    };
    assert_eq!((early.code, early.stderr.as_str()), (0, ""));

    server.sigterm();
    assert_eq!(stopped.wait().await.code(), Some(4), "{}", stopped.stderr());
    assert!(stopped.stderr().contains("the server stops"), "{}", stopped.stderr());
    server.finish(&[]).await;
}
