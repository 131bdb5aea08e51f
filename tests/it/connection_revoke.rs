//! Revoking a connection: what goes, what stays, and what is said of the provider.

use serde_json::{Value, json};

use crate::admin::{bearer, integration};
use crate::harness::process::run;
use crate::harness::{Canary, Sidekey, Sink, get, problem};

/// A server with the connection `crm`, which has a credential in two environments.
async fn server(sink: &Sink, token: &Canary) -> Sidekey {
    let server = Sidekey::with(|config| {
        config.to(sink).bearer("declared", "t");
    })
    .await;
    let admin = server.admin();
    admin.must("POST", "integrations", integration("crm", bearer())).await;
    admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await;
    for environment in ["production", "staging"] {
        let path = format!("connections/crm/credentials/{environment}");
        admin.must("PUT", &path, json!({ "token": token.text() })).await;
    }
    server
}

fn gone(environments: &[&str]) -> Value {
    let gone = environments.iter().map(|environment| json!({ "environment": environment, "provider": "none" }));
    json!({ "revoked": gone.collect::<Vec<_>>() })
}

async fn ask(server: &Sidekey) -> u16 {
    get(server.proxy(), "/", &[("Sidekey-Connection", "crm")]).await.status
}

#[tokio::test]
async fn what_was_entered_is_gone_and_the_connection_stays() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = server(&sink, &token).await;
    let admin = server.admin();
    assert_eq!(ask(&server).await, 200);
    let revoke = async |body: Value| admin.must("POST", "connections/crm/revoke", body).await.json();
    assert_eq!(revoke(json!({ "environment": "staging" })).await, gone(&["staging"]));
    assert_eq!(ask(&server).await, 200, "another environment's is not touched");
    admin.must("PUT", "connections/crm/credentials/staging", json!({ "token": token.text() })).await;
    assert_eq!(revoke(json!({})).await, gone(&["production", "staging"]));
    assert_eq!(ask(&server).await, 424);
    for environment in ["production", "staging"] {
        let standing = admin.get(&format!("connections/crm/credentials/{environment}")).await.json();
        assert_eq!(standing["status"], "incomplete", "{standing}");
    }
    // That there is nothing left is what was asked for.
    assert_eq!(revoke(json!({})).await, gone(&[]));
    assert_eq!(revoke(json!({ "environment": "production" })).await, gone(&[]));
    let events = admin.get("audit?action=connection.revoke").await.json()["items"].clone();
    let told: Vec<&Value> = events.as_array().expect("events").iter().map(|event| &event["detail"]).collect();
    let environments = |names: &[&str]| json!({ "environments": names });
    let all = environments(&["production", "staging"]);
    assert_eq!(told, [&environments(&[]), &environments(&[]), &all, &environments(&["staging"])]);
    assert_eq!(events[2]["before"], json!({ "production": ["token"], "staging": ["token"] }));
    assert_eq!(events[3]["before"], json!({ "staging": ["token"] }));
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn what_cannot_be_revoked_is_refused_and_nothing_is_gone() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = server(&sink, &token).await;
    let admin = server.admin();
    for (path, body, status, code) in [
        ("connections/nope/revoke", json!({}), 404, "not_found"),
        ("connections/crm/revoke?customer=acme", json!({}), 404, "not_found"),
        ("connections/crm/revoke", json!({ "environment": "nowhere" }), 422, "invalid"),
        ("connections/crm/revoke", json!({ "environment": 1 }), 422, "invalid"),
        ("connections/crm/revoke", json!({ "environments": ["staging"] }), 422, "invalid"),
        ("connections/declared/revoke", json!({}), 409, "conflict"),
    ] {
        let told = problem(&admin.post(path, body).await);
        assert_eq!((told.status, told.code.as_str()), (status, code), "{path}");
    }
    let tag = admin.get("connections/crm").await.header("etag").expect("a version").to_owned();
    admin.must("PUT", "connections/crm", json!({ "integration": "crm", "name": "Sales" })).await;
    let stale = async |tag: &str| {
        admin.call("POST", "connections/crm/revoke", &[("If-Match", tag)], Some(json!({}))).await.status
    };
    assert_eq!(stale(&tag).await, 412);
    assert_eq!(ask(&server).await, 200);
    let now = admin.get("connections/crm").await.header("etag").expect("a version").to_owned();
    assert_eq!(stale(&now).await, 200);
    assert_eq!(ask(&server).await, 424);
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn the_command_says_that_the_provider_was_not_told() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = server(&sink, &token).await;
    let key = std::fs::read_to_string(server.folder().join("admin.key")).expect("admin.key");
    let env = [("SIDEKEY_SERVER", format!("http://{}", server.admin_address)), ("SIDEKEY_KEY", key.trim().to_owned())];
    let env = env.map(|(name, value)| (name.to_owned(), value));
    let revoke =
        async |args: &[&str]| run(&[&["connection", "revoke", "crm"], args].concat(), server.folder(), &env, "").await;
    let one = revoke(&["-e", "staging"]).await;
    assert_eq!((one.code, one.stdout.trim()), (0, "the credential of crm is gone in: staging"));
    assert!(one.stderr.contains("the provider was told nothing") && one.stderr.contains("staging"), "{}", one.stderr);
    let rest = revoke(&["--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&rest.stdout).expect("JSON"), gone(&["production"]));
    let nothing = revoke(&[]).await;
    assert_eq!((nothing.code, nothing.stderr.as_str()), (0, ""));
    assert!(nothing.stdout.contains("nothing was revoked"), "{}", nothing.stdout);
    let nowhere = revoke(&["-e", "nowhere"]).await;
    assert!(nowhere.code == 1 && nowhere.stderr.contains("no such environment"), "{}", nowhere.stderr);
    server.finish(&[&token]).await;
}
