//! Where the server listens: several addresses at once, TLS with its rules, addresses that are taken, and its limits.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;
use tokio::net::TcpListener;

use crate::api::{self, API};
use crate::harness::client::Address;
use crate::harness::client::h2::H2;
use crate::harness::config::table;
use crate::harness::pki::{self, Leaf};
use crate::harness::sink::{Gate, Step};
use crate::harness::{Raw, Script, Sidekey, Sink, client, get};

/// The name that the server's own certificates are for.
const NAME: &str = "sidekey.example.test";

/// Writes a certificate for [`NAME`] into a folder, and gives the `tls` table that names it.
pub(crate) fn certificate(folder: &Path, stem: &str, leaf: &Leaf) -> toml::Value {
    let (certificate, key) = leaf.write(folder, stem);
    table(&[("certificate", certificate.display().to_string().into()), ("key", key.display().to_string().into())])
}

#[tokio::test]
async fn several_addresses_are_served_at_once_by_either_version() {
    let sink = Sink::https().await;
    let server = api::with(&sink, |config| {
        config.add_listener(&[("address", "127.0.0.1:0".into()), ("trust", "local".into())]);
        config.unix_listener("proxy.sock");
        let open: toml::Value = "0660".into();
        let address = format!("unix:{}", config.folder().join("open.sock").display());
        config.add_listener(&[("address", address.into()), ("mode", open)]);
    })
    .await;
    assert_eq!(server.proxies.len(), 4);
    for address in &server.proxies {
        assert_eq!(get(address, "/", &[API]).await.status, 200, "{address}");
        assert_eq!(H2::connect(address).await.get("/", &[API]).await.status, 200, "{address}");
    }
    for (name, mode) in [("proxy.sock", 0o600), ("open.sock", 0o660)] {
        let permissions = server.folder().join(name).metadata().expect("a socket").permissions();
        assert_eq!(permissions.mode() & 0o777, mode, "{name}");
    }
    let folder = server.folder().to_owned();
    assert!(folder.join("proxy.sock").exists());
    server.finish(&[]).await;
}

/// Its first request pays for nothing that could be made before, whichever worker gets it.
#[tokio::test]
async fn what_is_declared_is_ready_in_every_worker_before_a_port_opens() {
    let sink = Sink::https().await;
    let server = api::with(&sink, |config| {
        config.set("proxy.threads", 3).set("log.level", "debug").bearer("other", "t");
    })
    .await;
    let is_open = |line: &Value| line["message"] == "every worker is ready: the proxy port opens";
    let lines = server.process().log_lines_when("an open port", |lines| lines.iter().any(is_open)).await;
    let before = lines.iter().take_while(|line| !is_open(line));
    let ready: Vec<_> = before.filter(|line| line["message"] == "what is declared is ready in this worker").collect();
    assert_eq!(ready.len(), 3, "{lines:?}");
    assert!(ready.iter().all(|line| line["connections"] == 2), "{lines:?}");
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_unix_socket_is_removed_at_the_end() {
    let sink = Sink::https().await;
    let mut server = api::with(&sink, |config| {
        config.unix_listener("proxy.sock");
    })
    .await;
    server.sigterm();
    assert_eq!(server.wait_exit().await.code(), Some(0));
    assert!(!server.folder().join("proxy.sock").exists());
}

#[tokio::test]
async fn a_listener_with_a_certificate_speaks_tls_1_3_and_nothing_else() {
    let sink = Sink::https().await;
    let server = api::with(&sink, |config| {
        let tls = certificate(config.folder(), "proxy", &pki::authority().leaf(&[NAME]));
        config.listener("tls", tls).listener("host_names", vec![NAME]);
    })
    .await;
    let mut raw = Raw::tls(server.proxy(), NAME, None).await.expect("a trusted certificate");
    assert_eq!(raw.agreed(), Some(("TLSv1_3".to_owned(), Some("http/1.1".to_owned()))));
    raw.request("GET", "/", &[API], "").await;
    assert_eq!(raw.response().await.status, 200);
    let client = H2::tls(server.proxy(), NAME, None).await.expect("a trusted certificate");
    assert_eq!(client.get("/", &[API]).await.status, 200);

    assert!(Raw::tls12(server.proxy(), NAME).await.is_err(), "TLS 1.2 is refused");
    let mut plain = Raw::connect(server.proxy()).await;
    plain.request("GET", "/", &[API], "").await;
    assert!(plain.try_response().await.is_err(), "HTTP in clear is not answered");
    assert_eq!(sink.count(), 2);
    server.finish(&[]).await;
}

/// Whether a client with this certificate, or none, is served. TLS 1.3 tells a client only with the first answer.
async fn is_served(address: &Address, leaf: Option<&Leaf>) -> bool {
    let Ok(mut raw) = Raw::tls(address, NAME, leaf).await else { return false };
    if raw.try_send("GET /healthz HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: api\r\n\r\n").await.is_err() {
        return false;
    }
    raw.try_response().await.is_ok_and(|reply| reply.status == 200)
}

#[tokio::test]
async fn with_a_client_ca_only_certified_clients_are_served_on_either_port() {
    let sink = Sink::https().await;
    let server = api::with(&sink, |config| {
        for (stem, key) in [("proxy", "listener"), ("admin-port", "admin")] {
            let mut tls = certificate(config.folder(), stem, &pki::authority().leaf(&[NAME]));
            tls.as_table_mut().expect("a table").insert("client_ca".to_owned(), "ca.pem".into());
            match key {
                "admin" => config.set("admin.tls", tls),
                _ => config.listener("tls", tls),
            };
        }
    })
    .await;
    let certified = pki::authority().client("a workflow");
    let strange = pki::stranger().client("a workflow");
    let as_server = pki::authority().leaf(&["a workflow"]);
    for address in [server.proxy(), server.admin_address.clone()] {
        assert!(is_served(&address, Some(&certified)).await, "{address}");
        for (what, leaf) in [("none", None), ("a stranger's", Some(&strange)), ("a server's", Some(&as_server))] {
            assert!(!is_served(&address, leaf).await, "{address}: a client with {what}");
        }
    }
    assert_eq!(sink.count(), 1);
    server.finish(&[]).await;
}

#[tokio::test]
async fn the_admin_port_has_tls_where_it_has_a_certificate() {
    let sink = Sink::https().await;
    let server = api::with(&sink, |config| {
        let tls = certificate(config.folder(), "admin-port", &pki::authority().leaf(&[NAME]));
        config.set("admin.tls", tls);
    })
    .await;
    assert!(is_served(&server.admin_address, None).await);
    assert!(Raw::tls12(server.admin_address.clone(), NAME).await.is_err(), "TLS 1.2 is refused");
    let mut plain = Raw::connect(&server.admin_address).await;
    plain.request("GET", "/healthz", &[], "").await;
    assert!(plain.try_response().await.is_err(), "HTTP in clear is not answered");
    server.finish(&[]).await;
}

/// A new certificate is taken while the server runs; one that does not load changes nothing, and is told.
#[tokio::test]
async fn a_certificate_is_taken_again_when_its_files_change() {
    let sink = Sink::https().await;
    let server = api::with(&sink, |config| {
        let tls = certificate(config.folder(), "proxy", &pki::authority().leaf(&[NAME]));
        config.listener("tls", tls.clone()).set("admin.tls", tls);
    })
    .await;
    let folder = server.folder();
    let mut kept = Raw::tls(server.proxy(), NAME, None).await.expect("the first certificate");

    std::fs::write(folder.join("proxy.pem"), "no certificate").expect("a file");
    let told = |line: &serde_json::Value| {
        line["message"].as_str().is_some_and(|message| message.contains("certificate was not loaded"))
    };
    let line = server.log_line("why it was not taken", told).await;
    assert!(line["reason"].as_str().is_some_and(|reason| reason.contains("proxy.pem")), "{line}");
    Raw::tls(server.proxy(), NAME, None).await.expect("the first certificate still");

    pki::authority().leaf(&["renamed.example.test"]).write(folder, "proxy");
    let taken = |line: &&serde_json::Value| line["message"] == "a certificate was loaded again";
    let on_both_ports = |lines: &[serde_json::Value]| lines.iter().filter(taken).count() == 2;
    server.process().log_lines_when("the new certificate", on_both_ports).await;
    for address in [server.proxy(), server.admin_address.clone()] {
        assert!(Raw::tls(&address, NAME, None).await.is_err(), "{address}: the first is gone");
        Raw::tls(&address, "renamed.example.test", None).await.expect("the new one");
    }
    kept.request("GET", "/", &[API], "").await;
    assert_eq!(kept.response().await.status, 200, "connections that are open go on");
    server.finish(&[]).await;
}

/// SO_REUSEPORT among our own threads must not hide that somebody else is there.
#[tokio::test]
async fn an_address_in_use_is_told_at_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = taken.local_addr().expect("a bound listener").to_string();
    for (port, threads) in [("proxy", 1), ("proxy", 4), ("admin", 1)] {
        let started = Sidekey::try_with(|config| {
            config.set("proxy.threads", threads);
            match port {
                "admin" => config.set("admin.address", address.as_str()),
                _ => config.listener("address", address.as_str()),
            };
        })
        .await;
        let failed = started.err().expect("a start-up error");
        assert_eq!(failed.code, 1, "{}", failed.stderr);
        assert!(failed.stderr.contains(&format!("{address} is in use")), "{}", failed.stderr);
    }
}

#[tokio::test]
async fn another_sidekey_on_the_address_is_told_at_the_start() {
    let first = Sidekey::with(|_| {}).await;
    let address = first.proxy().to_string();
    let started = Sidekey::try_with(|config| {
        config.listener("address", address.as_str());
    })
    .await;
    let failed = started.err().expect("a start-up error");
    assert!(failed.code == 1 && failed.stderr.contains(&format!("{address} is in use")), "{}", failed.stderr);
    first.finish(&[]).await;
}

#[tokio::test]
async fn a_unix_socket_left_behind_is_taken_over_and_a_live_one_is_not() {
    let sink = Sink::https().await;
    let mut server = api::with(&sink, |config| {
        config.unix_listener("proxy.sock");
    })
    .await;
    let path = server.folder().join("proxy.sock");
    let started = Sidekey::try_with(|config| {
        config.listener("address", format!("unix:{}", path.display()));
    })
    .await;
    let failed = started.err().expect("a start-up error");
    assert!(failed.code == 1 && failed.stderr.contains("proxy.sock is in use"), "{}", failed.stderr);

    server.kill().await;
    assert!(path.exists(), "a killed server removes nothing");
    server.restart().await;
    assert_eq!(get(Address::Unix(path), "/", &[API]).await.status, 200);
    server.finish(&[]).await;

    // A file that is no socket is somebody else's.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("notes");
    std::fs::write(&file, "keep me").expect("a file");
    let started = Sidekey::try_with(|config| {
        config.listener("address", format!("unix:{}", file.display()));
    })
    .await;
    assert_eq!(started.err().expect("a start-up error").code, 1);
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), "keep me");
}

/// OV-08: what is too much waits, and nothing is lost; other listeners and the admin port are served.
#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let sink = Sink::https().await;
    let server = api::with(&sink, |config| {
        config.set("proxy.max_connections", 2).set("proxy.threads", 2);
        config.unix_listener("proxy.sock");
    })
    .await;
    // Any two of the listeners can have both places.
    for addresses in [[0, 0], [0, 1], [1, 1]] {
        let mut held = Vec::new();
        for number in addresses {
            let mut raw = Raw::connect(&server.proxies[number]).await;
            raw.request("GET", "/", &[API], "").await;
            assert_eq!(raw.response().await.status, 200);
            held.push(raw);
        }
        let before = sink.count();
        let mut waiting = Raw::connect(server.proxy()).await;
        waiting.request("GET", "/waited", &[API], "").await;
        for raw in &mut held {
            raw.request("GET", "/", &[API], "").await;
            assert_eq!(raw.response().await.status, 200, "those with a place are served");
        }
        assert_eq!(server.metric("sidekey_open_connections").await, 2.0);
        assert_eq!(sink.count(), before + 2, "the third waits");
        drop(held);
        assert_eq!(waiting.response().await.status, 200);
    }
    server.finish(&[]).await;
}

/// Each worker has its own pool, so two connections to the upstream mean that both workers have served.
#[tokio::test]
async fn every_thread_serves() {
    let sink = Sink::https().await;
    let server = api::with(&sink, |config| {
        config.set("proxy.threads", 2);
    })
    .await;
    let mut requests = 0;
    // The kernel spreads connections by a hash of their ports: one side only, fifty times, does not happen.
    while sink.connection_count() < 2 {
        assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
        requests += 1;
        assert!(requests < 50, "one worker has served all of them");
    }
    // And side by side: what one waits for does not hold up the other.
    let gate = Gate::shut();
    sink.on("/slow", Script::new().gate(&gate).then(Step::Echo));
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::connect(server.proxy()).await;
        raw.request("GET", "/slow", &[API], "").await;
        sink.request_where("the slow request", |seen| seen.target == "/slow").await;
        slow.push(raw);
    }
    assert_eq!(client::request(server.proxy(), "POST", "/", &[API], "x").await.status, 200);
    gate.open();
    for raw in &mut slow {
        assert_eq!(raw.response().await.status, 200);
    }
    server.finish(&[]).await;
}

/// OV-14.
#[tokio::test]
async fn a_killed_server_has_its_address_back_at_once() {
    let sink = Sink::https().await;
    let mut server = api::before(&sink).await;
    let address = server.proxy().to_string();
    server.reconfigure(|config| {
        config.listener("address", address.as_str());
    });
    for _ in 0..5 {
        let mut open = Raw::connect(server.proxy()).await;
        open.request("GET", "/", &[API], "").await;
        assert_eq!(open.response().await.status, 200);
        server.kill().await;
        server.restart().await;
        assert_eq!(server.proxy().to_string(), address);
        open.closed().await;
    }
    server.finish(&[]).await;
}
