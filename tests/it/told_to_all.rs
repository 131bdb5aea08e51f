//! AD-14: what is told without a key: that the process is alive, that it serves, and to this machine how much it did.

use std::net::UdpSocket;

use serde_json::json;

use crate::admin::{bearer, integration};
use crate::harness::client::request;
use crate::harness::{Sidekey, Sink, get, problem};

#[tokio::test]
async fn health_is_two_letters_and_nothing_about_the_installation_ad_14() {
    let server = Sidekey::with(|_| {}).await;
    for path in ["/healthz", "/readyz"] {
        let reply = request(&server.admin_address, "GET", path, &[], "").await;
        assert_eq!((reply.status, &*reply.text()), (200, "ok\n"), "{path}");
        for (name, value) in &reply.headers {
            assert!(!matches!(&*name.to_lowercase(), "server" | "x-powered-by" | "via"), "{path}: {name}: {value}");
            assert!(!value.contains(env!("CARGO_PKG_VERSION")) && !value.contains('/') || name == "content-type");
        }
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn counters_name_no_host_path_connection_or_person_ad_14() {
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        config.to(&sink);
    })
    .await;
    let admin = server.admin();
    admin.must("POST", "integrations", integration("crm", bearer())).await;
    admin.must("POST", "connections", json!({ "key": "secretplan", "integration": "crm" })).await;
    admin.must("PUT", "connections/secretplan/credentials/production", json!({ "token": "t0ken" })).await;
    for path in ["/merger/with/acme?x=secretquery", "/merger"] {
        assert_eq!(get(server.proxy(), path, &[("Sidekey-Connection", "secretplan")]).await.status, 200);
    }
    assert_eq!(get(server.proxy(), "/merger", &[("Sidekey-Connection", "nosuchplan")]).await.status, 404);
    let metrics = server.metrics().await;
    let folder = server.folder().display().to_string();
    for told in
        ["secretplan", "nosuchplan", "merger", "secretquery", "example.test", "crm", "t0ken", "default", &folder]
    {
        assert!(!metrics.contains(told), "{told}: {metrics}");
    }
    assert!(!metrics.contains(env!("CARGO_PKG_VERSION")), "{metrics}");
    server.finish(&[]).await;
}

/// An address of this machine that is no loopback one. Nothing is sent to find it out.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[tokio::test]
async fn counters_are_told_to_this_machine_only_ad_14() {
    let Some(address) = own_address() else {
        // The rule itself has a test of its own beside it, which needs no network.
        eprintln!("NOT TESTED: this machine has no address but its loopback one");
        return;
    };
    let server = Sidekey::with(|config| {
        config.set("admin.address", "0.0.0.0:0");
    })
    .await;
    let port = server.admin_address.tcp().port();
    let ask = async |address: std::net::IpAddr, path: &str| {
        request(std::net::SocketAddr::new(address, port), "GET", path, &[], "").await
    };
    assert_eq!(ask([127, 0, 0, 1].into(), "/metrics").await.status, 200);
    assert_eq!(ask(address, "/healthz").await.status, 200);
    let refused = ask(address, "/metrics").await;
    assert_eq!((refused.status, &*problem(&refused).code), (404, "not_found"));
}
