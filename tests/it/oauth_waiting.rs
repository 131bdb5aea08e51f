//! What becomes of a token that was asked for when whoever wanted it is gone: its caller, its credential, its server.

use serde_json::{Value, json};

use crate::harness::authorizer::Authorizer;
use crate::harness::authorizer::journey::{
    CREDENTIAL, ask, client, client_credentials, connect, integration, method, server, shown, standing,
};
use crate::harness::{Client, Raw, Script, Sidekey, Sink, problem, soon};

/// Asks, and is gone once the token endpoint has the question.
async fn ask_and_leave(server: &Sidekey, authorizer: &Authorizer) {
    let number = authorizer.count();
    let mut impatient = Raw::connect(&server.proxy()).await;
    impatient.request("GET", "/", &[("Sidekey-Connection", "crm")], "").await;
    authorizer.asked(number).await;
    impatient.reset();
}

fn brought(authorizer: &Authorizer) -> Value {
    let (mut credential, issued) = (client(authorizer), authorizer.issue());
    credential["refresh_token"] = issued.refresh_token.into();
    credential
}

#[tokio::test]
async fn who_hangs_up_leaves_the_token_to_the_next() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = server(&authorizer, &sink).await;
    connect(&server.admin(), &client_credentials(&json!({})), client(&authorizer)).await;
    let gate = authorizer.hold_answer();
    ask_and_leave(&server, &authorizer).await;
    gate.open();
    assert_eq!((ask(&server).await.status, authorizer.count()), (200, 1));
    assert_eq!(shown(&sink), format!("Bearer {}", authorizer.issued().access_token));
    // It is the token's life that counts, and not what else is known of the connection.
    let renamed = json!({ "key": "crm", "integration": "crm", "name": "Renamed" });
    server.admin().must("PUT", "connections/crm", renamed).await;
    assert_eq!((ask(&server).await.status, authorizer.count()), (200, 1));
    // Another question gets another answer.
    let scoped = integration("crm", &client_credentials(&json!({ "scopes": ["other"] })));
    server.admin().must("PUT", "integrations/crm", scoped).await;
    assert_eq!((ask(&server).await.status, authorizer.count()), (200, 2));
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn who_hangs_up_makes_nobody_ask_a_failing_endpoint_again() {
    for signed_in in [false, true] {
        let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
        let server = server(&authorizer, &sink).await;
        let (auth, credential) = match signed_in {
            true => (method(&json!({})), brought(&authorizer)),
            false => (client_credentials(&json!({})), client(&authorizer)),
        };
        connect(&server.admin(), &auth, credential).await;
        let gate = crate::harness::sink::Gate::shut();
        authorizer.always(Some(Script::new().gate(&gate).answer(503, &[], "")));
        ask_and_leave(&server, &authorizer).await;
        gate.open();
        assert_eq!(problem(&ask(&server).await).code, "token_endpoint_failed");
        assert_eq!(authorizer.count(), 1, "five seconds have not passed");
        server.finish(&authorizer.canaries()).await;
    }
}

/// Nobody knows how long an access token lives that people have brought: one that can be replaced is.
#[tokio::test]
async fn tokens_that_were_brought_along_are_refreshed() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = server(&authorizer, &sink).await;
    let mut both = brought(&authorizer);
    both["access_token"] = "brought-along".into();
    connect(&server.admin(), &method(&json!({})), both).await;
    assert_eq!(standing(&server).await["status"], "active");
    assert_eq!((ask(&server).await.status, authorizer.count()), (200, 1));
    assert_eq!(shown(&sink), format!("Bearer {}", authorizer.issued().access_token));
    // While no other one can be had, it is used.
    let mut both = brought(&authorizer);
    both["access_token"] = "brought-along".into();
    server.admin().must("PUT", CREDENTIAL, both).await;
    authorizer.always(Some(Script::respond(503, &[], "")));
    assert_eq!((ask(&server).await.status, shown(&sink)), (200, "Bearer brought-along".to_owned()));
    server.finish(&authorizer.canaries()).await;
}

/// What was given out for a credential that is gone is taken back.
#[tokio::test]
async fn a_credential_that_is_deleted_meanwhile_leaves_no_tokens_oa_30() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = server(&authorizer, &sink).await;
    connect(&server.admin(), &method(&json!({})), brought(&authorizer)).await;
    let gate = authorizer.hold_answer();
    let mut waiting = Client::connect(server.proxy()).await;
    waiting.request("GET", "/", &[("Sidekey-Connection", "crm")], "").await;
    authorizer.asked(0).await;
    assert_eq!(server.admin().delete(CREDENTIAL).await.status, 204);
    let issued = authorizer.issued();
    gate.open();
    assert_eq!(waiting.response().await.status, 424);
    assert_eq!(authorizer.revocation(0).await.must("token"), issued.refresh_token);
    assert_eq!(authorizer.revocation(1).await.must("token"), issued.access_token);
    assert_eq!(sink.count(), 0);
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn a_server_that_stops_stores_what_was_asked_for() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let mut server = server(&authorizer, &sink).await;
    connect(&server.admin(), &method(&json!({})), brought(&authorizer)).await;
    let gate = authorizer.hold_answer();
    ask_and_leave(&server, &authorizer).await;
    server.sigterm();
    let crate::harness::client::Address::Tcp(address) = server.proxy() else { panic!("a TCP listener") };
    soon("nobody is let in", async { while tokio::net::TcpStream::connect(address).await.is_ok() {} }).await;
    gate.open();
    assert!(server.wait_exit().await.success());
    server.restart().await;
    assert_eq!(ask(&server).await.status, 200);
    assert_eq!((authorizer.count(), authorizer.reused()), (1, 0));
    assert_eq!(shown(&sink), format!("Bearer {}", authorizer.issued().access_token));
    server.finish(&authorizer.canaries()).await;
}

/// The client's id is a part of the address that a browser is shown.
#[tokio::test]
async fn no_secret_is_led_into_an_address() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = server(&authorizer, &sink).await;
    let admin = server.admin();
    connect(&admin, &method(&json!({})), client(&authorizer)).await;
    admin.must("POST", "secrets", json!({ "key": "OTHER" })).await;
    admin.must("PUT", "secrets/OTHER/values/production", json!({ "value": "a-secret-value" })).await;
    let referring = json!({ "client_id": "@@SECRET:OTHER@@", "client_secret": "x" });
    let refused = problem(&admin.put(CREDENTIAL, referring).await);
    assert_eq!((refused.status, &refused.body["errors"][0]["pointer"]), (422, &json!("/client_id")));
    server.finish(&authorizer.canaries()).await;
}
