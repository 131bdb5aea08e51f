//! Clients that ask for tokens in their own name, and what stands in the configuration file.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::authorizer::journey::{
    ask, client, client_credentials, connect, connect_as, integration, server, shown, standing,
};
use crate::harness::authorizer::{AUTHORIZER, Authorizer, CLIENT, refusal};
use crate::harness::config::table;
use crate::harness::sink::HOST;
use crate::harness::{Sidekey, Sink, get, problem, soon};

/// Asks so often at once over a connection, and expects an answer of the upstream each time.
async fn crowd(server: &Sidekey, times: usize, connection: &'static str) {
    let mut asking = JoinSet::new();
    for _ in 0..times {
        let address = server.proxy();
        asking.spawn(async move { get(address, "/", &[("Sidekey-Connection", connection)]).await });
    }
    for reply in asking.join_all().await {
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
}

#[tokio::test]
async fn a_token_is_got_once_for_all_who_wait_and_kept_while_it_is_good_oa_33() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let mut server = Sidekey::with(|config| {
        authorizer.pin(config.to(&sink));
    })
    .await;
    let admin = server.admin();
    let mut document = integration("crm", &client_credentials(&json!({})));
    document["fields"] = json!([{ "name": "scopes", "default": "read" }]);
    admin.must("POST", "integrations", document).await;
    for (key, values) in [("crm", json!({})), ("other", json!({ "scopes": "write more" }))] {
        admin.must("POST", "connections", json!({ "key": key, "integration": "crm", "values": values })).await;
        admin.must("PUT", &format!("connections/{key}/credentials/production"), client(&authorizer)).await;
    }
    let before = standing(&server).await;
    assert_eq!((&before["status"], authorizer.count()), (&json!("active"), 0), "{before}");
    let gate = authorizer.hold_answer();
    let opening = async {
        authorizer.asked(0).await;
        gate.open();
    };
    tokio::join!(crowd(&server, 50, "crm"), crowd(&server, 50, "other"), opening);
    assert_eq!(authorizer.count(), 2);
    let scopes = [authorizer.asked(0).await, authorizer.asked(1).await];
    let mut scopes: Vec<&str> = scopes.iter().map(|asked| asked.must("scope")).collect();
    scopes.sort_unstable();
    assert_eq!(scopes, ["read", "write more"]);
    assert_eq!(authorizer.asked(0).await.must("grant_type"), "client_credentials");
    // Neither is shown the other's.
    let mut seen = Vec::new();
    for connection in ["crm", "other"] {
        crowd(&server, 1, connection).await;
        seen.push(shown(&sink));
    }
    assert_ne!(seen[0], seen[1]);
    assert_eq!(authorizer.count(), 2, "kept while they are good");
    // In memory, and nowhere else.
    server.restart().await;
    assert_eq!((ask(&server).await.status, authorizer.count()), (200, 3));
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn one_organizations_token_is_never_anothers_oa_33() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = Sidekey::with(|config| {
        authorizer.pin(config.listener("trust", "key").to(&sink));
    })
    .await;
    let admin = server.admin();
    admin.must("POST", "organizations", json!({ "key": "other" })).await;
    let mut shown_to = Vec::new();
    for organization in ["", "organization=other"] {
        let at = |path: &str| format!("{path}?{organization}");
        let method = client_credentials(&json!({}));
        admin.must("POST", &at("integrations"), integration("crm", &method)).await;
        admin.must("POST", &at("connections"), json!({ "key": "crm", "integration": "crm" })).await;
        admin.must("PUT", &at("connections/crm/credentials/production"), client(&authorizer)).await;
        let made = admin.must("POST", &at("api-keys"), json!({ "name": "caller" })).await.json();
        let key = made["key"].as_str().expect("a key");
        for _ in 0..2 {
            let tags = [("Sidekey-Connection", "crm"), ("Sidekey-Key", key)];
            let reply = get(server.proxy(), "/", &tags).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            shown_to.push(shown(&sink));
        }
    }
    assert!(shown_to[0] == shown_to[1] && shown_to[2] == shown_to[3] && shown_to[1] != shown_to[2], "{shown_to:?}");
    assert_eq!(authorizer.count(), 2);
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn a_client_that_is_refused_is_an_error_and_another_secret_makes_it_well() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = server(&authorizer, &sink).await;
    let admin = server.admin();
    admin.must("POST", "secrets", json!({ "key": "CLIENT_SECRET" })).await;
    let value = "secrets/CLIENT_SECRET/values/production";
    admin.must("PUT", value, json!({ "value": "wrong" })).await;
    let credential = json!({ "client_id": CLIENT, "client_secret": "@@SECRET:CLIENT_SECRET@@" });
    connect(&admin, &client_credentials(&json!({})), credential).await;
    for _ in 0..5 {
        let refused = problem(&ask(&server).await);
        assert_eq!((refused.status, refused.code.as_str()), (502, "token_endpoint_failed"), "{}", refused.detail);
        assert!(!refused.detail.contains("described"), "{}", refused.detail);
    }
    assert_eq!(authorizer.count(), 1, "asked again a minute later at the earliest");
    assert_eq!(authorizer.faults().len(), 1);
    let stands = standing(&server).await;
    assert!(stands["status"] == "error" && stands["reason"].is_string(), "{stands}");
    // What is entered counts for the very next request.
    admin.must("PUT", value, json!({ "value": authorizer.secret.text() })).await;
    let reply = ask(&server).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(shown(&sink), format!("Bearer {}", authorizer.issued().access_token));
    // That it was used is noted a moment after it was.
    let well = async {
        while standing(&server).await["status"] != "active" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("a status that is well again", well).await;
    server.finish(&authorizer.canaries()).await;
}

/// There is nobody to sign in, and nothing is taken that could not be used.
#[tokio::test]
async fn a_client_has_no_tokens_to_enter_and_nobody_to_sign_in() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = server(&authorizer, &sink).await;
    let admin = server.admin();
    connect(&admin, &client_credentials(&json!({})), client(&authorizer)).await;
    let begun = problem(&admin.post("connections/crm/authorize", json!({ "environment": "production" })).await);
    assert_eq!((begun.status, begun.code.as_str()), (409, "conflict"), "{}", begun.detail);
    for field in ["access_token", "refresh_token"] {
        let mut credential = client(&authorizer);
        credential[field] = "x".into();
        let refused = problem(&admin.put("connections/crm/credentials/production", credential).await);
        assert_eq!(refused.body["errors"][0]["pointer"], format!("/{field}"), "{}", refused.body);
    }
    let refusals = [
        (json!({}), json!({ "client_id": CLIENT }), ""),
        (json!({}), json!({ "client_secret": "x" }), ""),
        (json!({ "client_auth": "none" }), json!({ "client_id": "x", "client_secret": "x" }), "/client_secret"),
    ];
    for (number, (method, credential, pointer)) in refusals.into_iter().enumerate() {
        let key = format!("c{number}");
        admin.must("POST", "integrations", integration(&key, &client_credentials(&method))).await;
        admin.must("POST", "connections", json!({ "key": key, "integration": key })).await;
        let refused = problem(&admin.put(&format!("connections/{key}/credentials/production"), credential).await);
        assert_eq!(refused.body["errors"][0]["pointer"], pointer, "{}", refused.body);
    }
    // Explaining a request asks nobody for a token.
    let body = json!({ "method": "GET", "path": "/x", "environment": "production" });
    let explained = admin.must("POST", "connections/crm/explain", body).await.json();
    assert_eq!((&explained["permitted"], authorizer.count(), sink.count()), (&json!(true), 0, 0), "{explained}");
    server.finish(&authorizer.canaries()).await;
}

/// As after a restart, when every workflow comes at once.
#[tokio::test]
async fn many_connections_get_their_tokens_at_once() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = server(&authorizer, &sink).await;
    let admin = server.admin();
    admin.must("POST", "integrations", integration("crm", &client_credentials(&json!({})))).await;
    let keys: Vec<String> = (0..100).map(|number| format!("c{number}")).collect();
    for key in &keys {
        admin.must("POST", "connections", json!({ "key": key, "integration": "crm" })).await;
        admin.must("PUT", &format!("connections/{key}/credentials/production"), client(&authorizer)).await;
    }
    let mut asking = JoinSet::new();
    for key in keys {
        let address = server.proxy();
        asking.spawn(async move { get(address, "/", &[("Sidekey-Connection", &key)]).await });
    }
    for reply in asking.join_all().await {
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert_eq!(authorizer.count(), 100);
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

/// Each token that has ended is replaced by one request, and each environment and connection has its own.
#[tokio::test]
async fn a_token_that_has_ended_is_got_anew() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = server(&authorizer, &sink).await;
    authorizer.terms(|terms| terms.expires_in = Some("0".to_owned()));
    connect_as(&server.admin(), "crm", &client_credentials(&json!({ "client_auth": "basic" })), client(&authorizer))
        .await;
    for number in 1..4 {
        assert_eq!((ask(&server).await.status, authorizer.count()), (200, number));
        assert_eq!(shown(&sink), format!("Bearer {}", authorizer.issued().access_token));
    }
    authorizer.terms(|terms| terms.expires_in = Some("3600".to_owned()));
    for _ in 0..2 {
        assert_eq!((ask(&server).await.status, authorizer.count()), (200, 4));
    }
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

/// Declares an integration with a method of type `oauth2`, and a connection `crm` with this credential.
fn declare(
    config: &mut crate::harness::Config,
    authorizer: &Authorizer,
    sink: &Sink,
    grant: &str,
    credential: &[(&str, &str)],
) {
    authorizer.pin(config.to(sink));
    let mut auth = vec![
        ("method", "main".into()),
        ("type", "oauth2".into()),
        ("grant", grant.into()),
        ("token_url", format!("https://{AUTHORIZER}/token").into()),
        ("scopes", vec!["read"].into()),
    ];
    if grant == "authorization_code" {
        auth.push(("authorize_url", format!("https://{AUTHORIZER}/authorize").into()));
    }
    let base = format!("https://{HOST}");
    config.integration(&[("slug", "crm".into()), ("base_url", base.into()), ("auth", vec![table(&auth)].into())]);
    config.connection(&[("key", "crm".into()), ("integration", "crm".into()), ("auth", "main".into())]);
    config.credential(credential);
}

#[tokio::test]
async fn a_declared_client_gets_its_tokens_oa_33() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let secret = authorizer.secret.text().to_owned();
    let mut server = Sidekey::with(|config| {
        let credential = [("client_id", CLIENT), ("client_secret", secret.as_str())];
        declare(config, &authorizer, &sink, "client_credentials", &credential);
    })
    .await;
    crowd(&server, 20, "crm").await;
    assert_eq!((authorizer.count(), shown(&sink)), (1, format!("Bearer {}", authorizer.issued().access_token)));
    assert_eq!(authorizer.asked(0).await.must("scope"), "read");
    // Nothing of it is stored: what the vault does not have it cannot lose.
    server.restart().await;
    assert_eq!((ask(&server).await.status, authorizer.count()), (200, 2));
    let begun = server.admin().post("connections/crm/authorize", json!({ "environment": "production" })).await;
    assert_eq!(begun.status, 409, "{}", begun.text());
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

/// A sidecar without a vault has nobody to store anything, and needs nobody.
#[tokio::test]
async fn a_declared_client_needs_no_vault() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let secret = authorizer.secret.text().to_owned();
    let server = Sidekey::with(|config| {
        config.set("vault.enabled", false);
        let credential = [("client_id", CLIENT), ("client_secret", secret.as_str())];
        declare(config, &authorizer, &sink, "client_credentials", &credential);
    })
    .await;
    authorizer.next(refusal(503, "down"));
    let refused = problem(&ask(&server).await);
    assert_eq!((refused.status, refused.code.as_str()), (502, "token_endpoint_failed"), "{}", refused.detail);
    let mut server = server;
    server.restart().await;
    assert_eq!((ask(&server).await.status, authorizer.count()), (200, 2));
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn what_is_declared_of_a_person_is_an_access_token_and_no_more() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let issued = authorizer.issue();
    let access = issued.access_token.as_str();
    let server = Sidekey::with(|config| {
        declare(config, &authorizer, &sink, "authorization_code", &[("access_token", access)]);
    })
    .await;
    assert_eq!((ask(&server).await.status, shown(&sink)), (200, format!("Bearer {access}")));
    let begun = server.admin().post("connections/crm/authorize", json!({ "environment": "production" })).await;
    assert_eq!((begun.status, problem(&begun).code.as_str()), (409, "conflict"), "{}", begun.text());
    assert_eq!(authorizer.count(), 0);
    server.finish(&authorizer.canaries()).await;
}

/// A new one could not be kept.
#[tokio::test]
async fn a_refresh_token_is_not_declared() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let issued = authorizer.issue();
    let (access, refresh, secret) =
        (issued.access_token.as_str(), issued.refresh_token.as_str(), authorizer.secret.text().to_owned());
    let client = [("client_id", CLIENT), ("client_secret", secret.as_str())];
    for (grant, fields) in [
        ("authorization_code", [&client[..], &[("refresh_token", refresh)]].concat()),
        ("authorization_code", [&client[..], &[("access_token", access), ("refresh_token", refresh)]].concat()),
        ("client_credentials", [&client[..], &[("refresh_token", refresh)]].concat()),
    ] {
        let started = Sidekey::try_with(|config| declare(config, &authorizer, &sink, grant, &fields)).await;
        let failed = started.err().expect("a mistake that is noticed at the start");
        assert!(failed.code == 3 && failed.stderr.contains("refresh_token"), "{grant}: {}", failed.stderr);
        assert!(!failed.stderr.contains(refresh) && !failed.stderr.contains(&secret), "{}", failed.stderr);
    }
}
