//! A disk that takes nothing more: changes are refused as a whole, what is cached is served, and all is well again when
//! there is room.

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};

use crate::admin::{bearer, integration};
use crate::harness::{Canary, Reply, Sidekey, Sink, get, problem};

/// Lets the server's files grow no further than to this size.
fn limit(server: &Sidekey, bytes: Option<u64>) {
    let pid = Pid::from_raw(server.process().pid());
    prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).expect("a limit");
}

fn told(reply: &Reply) -> (u16, String) {
    let problem = problem(reply);
    (problem.status, problem.code)
}

#[tokio::test]
async fn a_full_disk_refuses_changes_and_nothing_else_st_11() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink).set("proxy.usage_interval", "20ms");
    })
    .await;
    let admin = server.admin();
    admin.must("POST", "integrations", integration("crm", bearer())).await;
    admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await;
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": token.text() })).await;
    let tag = [("Sidekey-Connection", "crm")];
    assert_eq!(get(server.proxy(), "/", &tag).await.status, 200);
    let events = || async { admin.get("audit/verify").await.json()["count"].clone() };
    let before = events().await;

    limit(&server, Some(1));
    for (method, path, body) in [
        ("POST", "secrets", Some(json!({ "key": "K" }))),
        ("PUT", "connections/crm/credentials/production", Some(json!({ "token": "another" }))),
        ("PUT", "connections/new", Some(json!({ "integration": "crm" }))),
        ("DELETE", "connections/crm", None),
    ] {
        let reply = admin.call(method, path, &[("Idempotency-Key", path)], body).await;
        assert_eq!(told(&reply), (503, "vault_unavailable".to_owned()), "{method} {path}");
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    for _ in 0..20 {
        assert_eq!(get(server.proxy(), "/", &tag).await.status, 200, "what is cached is served");
    }
    let sent: Vec<_> =
        sink.requests().iter().filter_map(|seen| seen.header("authorization").map(str::to_owned)).collect();
    assert!(sent.iter().all(|sent| *sent == format!("Bearer {}", token.text())), "nothing was replaced");
    assert_eq!(admin.get("secrets/K").await.status, 404);
    assert_eq!(admin.get("connections/new").await.status, 404);
    assert_eq!(events().await, before, "nothing was half written");

    limit(&server, None);
    let made = admin.call("POST", "secrets", &[("Idempotency-Key", "secrets")], Some(json!({ "key": "K" }))).await;
    assert_eq!((made.status, made.header("idempotency-replayed")), (201, None), "without a restart");
    assert_ne!(events().await, before);
    assert_eq!(admin.get("audit/verify").await.json()["broken"], Value::Null);
    server.finish(&[&token]).await;
}
