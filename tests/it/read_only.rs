//! A vault that may not be written any more: changes are refused as a whole, what is cached is served, and all is well
//! again when it may.
//!
//! Permissions mean nothing to root, nor to a file that is open. The flag that makes a file immutable (`chattr +i`) does:
//! the kernel refuses every write to it. It needs root and a file system that has it. Where it cannot be set the test
//! fails, so that nobody takes it for passed; whoever knows that sets `SIDEKEY_TEST_WITHOUT=immutable-files`.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use serde_json::{Value, json};

use crate::admin::{bearer, integration};
use crate::harness::{Canary, Sidekey, Sink, get, problem};

/// Files that nobody can write, for as long as this is there.
struct Immutable(Vec<PathBuf>);

impl Immutable {
    /// The vault with its log; `None` where that cannot be done here.
    fn vault(folder: &Path) -> Option<Self> {
        let files: Vec<PathBuf> = ["", "-wal"].map(|suffix| folder.join(format!("sidekey.vault{suffix}"))).into();
        let made = Immutable(files);
        let all = made.0.iter().all(|file| mark(file, true).is_ok());
        all.then_some(made)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        for file in &self.0 {
            let _ = mark(file, false);
        }
    }
}

fn mark(file: &Path, immutable: bool) -> std::io::Result<()> {
    let file = File::open(file)?;
    let mut flags = ioctl_getflags(&file)?;
    flags.set(IFlags::IMMUTABLE, immutable);
    Ok(ioctl_setflags(&file, flags)?)
}

#[tokio::test]
async fn a_vault_that_cannot_be_written_refuses_changes_and_nothing_else_st_11() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink).set("proxy.usage_interval", "20ms");
    })
    .await;
    let admin = server.admin();
    admin.must("POST", "integrations", integration("crm", bearer())).await;
    for (key, token) in [("crm", token.text()), ("cold", "cold-token")] {
        admin.must("POST", "connections", json!({ "key": key, "integration": "crm" })).await;
        let path = format!("connections/{key}/credentials/production");
        admin.must("PUT", &path, json!({ "token": token })).await;
    }
    let ask = async |key| get(server.proxy(), "/", &[("Sidekey-Connection", key)]).await.status;
    assert_eq!(ask("crm").await, 200);
    let state = async || (admin.get("export").await.json(), admin.get("audit/verify").await.json()["count"].clone());
    let before = state().await;

    let Some(immutable) = Immutable::vault(server.folder()) else {
        let known = std::env::var_os("SIDEKEY_TEST_WITHOUT").is_some_and(|without| without == "immutable-files");
        assert!(
            known,
            "no file can be made immutable here (chattr +i): SIDEKEY_TEST_WITHOUT=immutable-files leaves it out"
        );
        return server.finish(&[&token]).await;
    };
    for (method, path, body) in [
        ("POST", "secrets", Some(json!({ "key": "K" }))),
        ("POST", "users", Some(json!({ "email": "a@example.test", "roles": ["viewer"] }))),
        ("PUT", "connections/crm/credentials/production", Some(json!({ "token": "another" }))),
        ("PUT", "connections/new", Some(json!({ "integration": "crm" }))),
        ("DELETE", "connections/crm", None),
    ] {
        let reply = admin.call(method, path, &[("Idempotency-Key", path)], body).await;
        let told = problem(&reply);
        assert_eq!((told.status, &*told.code), (503, "vault_unavailable"), "{method} {path}");
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    for _ in 0..20 {
        assert_eq!(ask("crm").await, 200, "what is cached is served");
    }
    assert_eq!(ask("cold").await, 200, "and what is not is read");
    let tokens: Vec<_> =
        sink.requests().iter().filter_map(|seen| seen.header("authorization").map(str::to_owned)).collect();
    assert!(tokens.iter().all(|sent| [&*format!("Bearer {}", token.text()), "Bearer cold-token"].contains(&&**sent)));
    assert_eq!(state().await, before, "nothing was half written");

    drop(immutable);
    let made = admin.call("POST", "secrets", &[("Idempotency-Key", "secrets")], Some(json!({ "key": "K" }))).await;
    assert_eq!((made.status, made.header("idempotency-replayed")), (201, None), "without a restart: {}", made.text());
    assert_ne!(state().await, before);
    assert_eq!(admin.get("audit/verify").await.json()["broken"], Value::Null);
    server.finish(&[&token]).await;
}
