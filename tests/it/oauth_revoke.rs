//! Revoking what somebody signed in for: it is gone here first, and then the provider is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::authorizer::journey::{
    CREDENTIAL, ask, begin, client, come_back, connect, events, follow, integration, method, server, sign_in,
    signed_in, standing,
};
use crate::harness::authorizer::{Authorizer, redirect, refusal};
use crate::harness::sink::{Gate, Step};
use crate::harness::{Browser, Raw, Script, Sidekey, Sink, get, problem};

async fn revoke(server: &Sidekey) -> Value {
    server.admin().must("POST", "connections/crm/revoke", json!({ "environment": "production" })).await.json()
}

fn told(provider: &str) -> Value {
    json!({ "revoked": [{ "environment": "production", "provider": provider }] })
}

#[tokio::test]
async fn it_is_gone_here_before_the_provider_is_told_oa_29() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = signed_in(&authorizer, &sink).await;
    let issued = authorizer.issued();
    assert_eq!(ask(&server).await.status, 200);
    let gate = Gate::shut();
    authorizer.next_revocation(Script::new().gate(&gate).answer(200, &[], ""));
    let meanwhile = async {
        let first = authorizer.revocation(0).await;
        assert_eq!(first.must("token"), issued.refresh_token, "the refresh token first");
        assert_eq!(first.form.get("token_type_hint"), Some("refresh_token"));
        assert!(first.header("authorization").is_some_and(|value| value.starts_with("Basic ")), "{first:?}");
        assert_eq!(ask(&server).await.status, 424, "while the provider thinks about it");
        gate.open();
    };
    let (answer, ()) = tokio::join!(revoke(&server), meanwhile);
    assert_eq!(answer, told("revoked"));
    let second = authorizer.revocation(1).await;
    assert_eq!(
        (second.must("token"), second.form.get("token_type_hint")),
        (&*issued.access_token, Some("access_token"))
    );
    let after = standing(&server).await;
    assert_eq!((&after["status"], &after["grant"]), (&json!("incomplete"), &Value::Null), "{after}");
    let event = &events(&server, "connection.revoke").await[0];
    assert_eq!(event["detail"]["environments"], json!(["production"]), "{event}");
    // There is nothing left to revoke.
    assert_eq!(revoke(&server).await, json!({ "revoked": [] }));
    assert_eq!((authorizer.revocation_count(), authorizer.count()), (2, 1));
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn a_provider_that_fails_changes_nothing_of_it_oa_29_oa_31() {
    let (authorizer, evil) = (Authorizer::start().await, Sink::builder().tls(&["evil.example.test"]).start().await);
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        authorizer.pin(config.to(&sink));
        config.pin("evil.example.test", evil.addr);
    })
    .await;
    connect(&server.admin(), &method(&json!({})), client(&authorizer)).await;
    for (script, provider) in [
        // It does not know the token: some say so (RFC 7009 has them say 200).
        (Script::respond(200, &[], ""), "revoked"),
        (refusal(400, "invalid_token"), "revoked"),
        (Script::respond(503, &[("retry-after", "1")], ""), "pending"),
        (Script::respond(500, &[], ""), "pending"),
        (redirect(302, "https://evil.example.test/revoke"), "pending"),
        (redirect(308, "https://evil.example.test/revoke"), "pending"),
        (Script::cut_in_head(Step::Fin), "pending"),
        (refusal(401, "invalid_client"), "pending"),
    ] {
        server.admin().must("PUT", CREDENTIAL, client(&authorizer)).await;
        sign_in(&server, &authorizer, "crm").await;
        assert_eq!(ask(&server).await.status, 200);
        let (before, issued) = (authorizer.revocation_count(), authorizer.issued());
        authorizer.next_revocation(script);
        assert_eq!(revoke(&server).await, told(provider));
        assert_eq!(authorizer.revocation(before).await.must("token"), issued.refresh_token);
        assert_eq!(ask(&server).await.status, 424, "{provider}");
        assert_eq!(standing(&server).await["status"], "incomplete", "{provider}");
    }
    assert_eq!((evil.count(), evil.connection_count()), (0, 0));
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn a_provider_that_failed_is_told_again_oa_29() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = signed_in(&authorizer, &sink).await;
    let issued = authorizer.issued();
    authorizer.next_revocation(Script::respond(503, &[("retry-after", "1")], ""));
    assert_eq!(revoke(&server).await, told("pending"));
    // Until the provider has taken it: then a refresh with it would be refused, and nothing is said again.
    let mut tokens = Vec::new();
    while !tokens.contains(&issued.refresh_token) || !tokens.contains(&issued.access_token) {
        let next = authorizer.revocation(tokens.len() + 1).await;
        tokens.push(next.must("token").to_owned());
    }
    assert!(tokens.len() <= 3, "{tokens:?}");
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn a_provider_that_says_nothing_is_given_up_oa_29() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = signed_in(&authorizer, &sink).await;
    authorizer.next_revocation(Script::stall());
    let meanwhile = async {
        authorizer.revocation(0).await;
        assert_eq!(ask(&server).await.status, 424);
    };
    let (answer, ()) = tokio::join!(revoke(&server), meanwhile);
    assert_eq!(answer, told("pending"));
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn who_has_nowhere_to_be_told_is_told_nothing() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = server(&authorizer, &sink).await;
    let admin = server.admin();
    connect(&admin, &method(&json!({ "revoke_url": null })), client(&authorizer)).await;
    sign_in(&server, &authorizer, "crm").await;
    assert_eq!(revoke(&server).await, told("none"));
    assert_eq!((authorizer.revocation_count(), ask(&server).await.status), (0, 424));
    // Nobody had signed in: there is a client to forget, and nothing that its provider gave out.
    let with = integration("crm", &method(&json!({})));
    admin.must("PUT", "integrations/crm", with).await;
    admin.must("PUT", CREDENTIAL, client(&authorizer)).await;
    assert_eq!(revoke(&server).await, told("none"));
    assert_eq!(authorizer.revocation_count(), 0);
    // Nor is anybody told who only wants to take a credential away.
    admin.must("PUT", CREDENTIAL, client(&authorizer)).await;
    sign_in(&server, &authorizer, "crm").await;
    assert_eq!(admin.delete(CREDENTIAL).await.status, 204);
    assert_eq!((authorizer.revocation_count(), ask(&server).await.status), (0, 424));
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn what_was_refreshed_is_revoked_as_it_is_now() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    authorizer.terms(|terms| terms.expires_in = Some("0".to_owned()));
    let server = signed_in(&authorizer, &sink).await;
    assert_eq!((ask(&server).await.status, ask(&server).await.status), (200, 200));
    let issued = authorizer.issued();
    assert_eq!(revoke(&server).await, told("revoked"));
    assert_eq!(authorizer.revocation(0).await.must("token"), issued.refresh_token);
    assert_eq!(authorizer.revocation(1).await.must("token"), issued.access_token);
    // What was under way when it was revoked is not brought back by its end.
    let mut credential = client(&authorizer);
    credential["refresh_token"] = authorizer.issue().refresh_token.into();
    server.admin().must("PUT", CREDENTIAL, credential).await;
    let (gate, number) = (authorizer.hold_answer(), authorizer.count());
    let revoking = async {
        authorizer.asked(number).await;
        let answer = revoke(&server).await;
        gate.open();
        answer
    };
    let (reply, answer) = tokio::join!(ask(&server), revoking);
    assert_eq!(reply.status, 424, "{}", problem(&reply).detail);
    assert_eq!(answer["revoked"][0]["environment"], "production", "{answer}");
    assert_eq!(ask(&server).await.status, 424);
    let after = standing(&server).await;
    assert_eq!(after["fields"]["refresh_token"], false, "{after}");
    server.finish(&authorizer.canaries()).await;
}

/// What is begun is done: a credential that is gone here and good there is what nobody wants.
#[tokio::test]
async fn who_hangs_up_while_the_provider_is_told_leaves_nothing_undone() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = signed_in(&authorizer, &sink).await;
    let issued = authorizer.issued();
    let gate = Gate::shut();
    authorizer.next_revocation(Script::new().gate(&gate).answer(200, &[], ""));
    let key = std::fs::read_to_string(server.folder().join("admin.key")).expect("admin.key");
    let mut impatient = Raw::connect(&server.admin_address).await;
    let headers = [("X-API-Key", key.trim()), ("Content-Type", "application/json")];
    let body = "{\"environment\":\"production\"}";
    impatient.request("POST", "/api/v1/connections/crm/revoke", &headers, body).await;
    authorizer.revocation(0).await;
    impatient.reset();
    // The server has noticed it, or will not any more: it has answered another one since.
    assert_eq!(standing(&server).await["status"], "incomplete");
    gate.open();
    assert_eq!(authorizer.revocation(1).await.must("token"), issued.access_token);
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn every_environment_is_told_of() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = signed_in(&authorizer, &sink).await;
    let first = authorizer.issued();
    let admin = server.admin();
    admin.must("PUT", "connections/crm/credentials/staging", client(&authorizer)).await;
    let begun = begin(&server, "crm", json!({ "environment": "staging" })).await;
    let mut browser = Browser::new(&server);
    let answer = authorizer.consent(&follow(&mut browser, &begun).await);
    assert_eq!(come_back(&mut browser, &answer).await.status, 303);
    let second = authorizer.issued();
    // There nobody has signed in.
    admin.must("PUT", "connections/crm/credentials/development", client(&authorizer)).await;
    let told = admin.must("POST", "connections/crm/revoke", json!({})).await.json();
    let mut of: Vec<(&str, &str)> = told["revoked"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|gone| (gone["environment"].as_str().expect("a name"), gone["provider"].as_str().expect("a word")))
        .collect();
    of.sort_unstable();
    assert_eq!(of, [("development", "none"), ("production", "revoked"), ("staging", "revoked")]);
    let mut tokens = Vec::new();
    for number in 0..4 {
        tokens.push(authorizer.revocation(number).await.must("token").to_owned());
    }
    for issued in [first, second] {
        let at = |token: &str| tokens.iter().position(|other| other == token).expect("it was told of");
        assert!(at(&issued.refresh_token) < at(&issued.access_token), "{tokens:?}");
    }
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

/// Wherever a refresh is then, it leaves nothing behind that is good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refreshed_while_it_is_revoked_is_revoked_too() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    authorizer.terms(|terms| terms.expires_in = Some("0".to_owned()));
    let server = signed_in(&authorizer, &sink).await;
    for round in 0..10 {
        let done = Arc::new(AtomicBool::new(false));
        let mut asking = JoinSet::new();
        for _ in 0..4 {
            let (address, done) = (server.proxy(), Arc::clone(&done));
            asking.spawn(async move {
                while !done.load(Ordering::SeqCst) {
                    let status = get(address.clone(), "/", &[("Sidekey-Connection", "crm")]).await.status;
                    assert!(matches!(status, 200 | 424), "{status}");
                }
            });
        }
        authorizer.asked(authorizer.count() + round).await;
        let answer = revoke(&server).await;
        assert_eq!(answer["revoked"][0]["environment"], "production", "{round}: {answer}");
        done.store(true, Ordering::SeqCst);
        asking.join_all().await;
        assert_eq!(ask(&server).await.status, 424, "{round}");
        authorizer.none_is_good().await;
        server.admin().must("PUT", CREDENTIAL, client(&authorizer)).await;
        sign_in(&server, &authorizer, "crm").await;
    }
    assert_eq!(authorizer.faults(), Vec::<String>::new());
    server.finish(&authorizer.canaries()).await;
}
