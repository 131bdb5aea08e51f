//! Access tokens that end: they are replaced once for all who wait, and what was rotated is never lost or used twice.

use std::collections::BTreeSet;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::authorizer::journey::{
    CREDENTIAL, ask, client, connect, events, integration, method, server, shown, sign_in, standing,
};
use crate::harness::authorizer::{AUTHORIZER, Authorizer, redirect, refusal};
use crate::harness::sink::Step;
use crate::harness::{Reply, Script, Sidekey, Sink, get, problem, soon};

/// A connection `crm` with a refresh token that somebody has brought along, and nothing else.
async fn brought(authorizer: &Authorizer, sink: &Sink) -> Sidekey {
    let server = server(authorizer, sink).await;
    connect(&server.admin(), &method(&json!({})), with_refresh_token(authorizer)).await;
    server
}

fn with_refresh_token(authorizer: &Authorizer) -> Value {
    let mut credential = client(authorizer);
    credential["refresh_token"] = authorizer.issue().refresh_token.into();
    credential
}

#[track_caller]
fn assert_refused(reply: &Reply, status: u16, code: &str) {
    let told = problem(reply);
    assert_eq!((told.status, told.code.as_str()), (status, code), "{}", told.detail);
    assert!(!told.detail.contains("described"), "nothing of what the provider says is repeated: {}", told.detail);
}

#[tokio::test]
async fn one_refresh_is_for_all_who_wait() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = brought(&authorizer, &sink).await;
    let before = standing(&server).await;
    assert_eq!((&before["status"], &before["fields"]["refresh_token"]), (&json!("active"), &json!(true)), "{before}");
    let gate = authorizer.hold_answer();
    let mut asking = JoinSet::new();
    for _ in 0..50 {
        let address = server.proxy();
        asking.spawn(async move { get(address, "/", &[("Sidekey-Connection", "crm")]).await.status });
    }
    let asked = authorizer.asked(0).await;
    assert_eq!((asked.must("grant_type"), asked.form.get("scope")), ("refresh_token", None));
    gate.open();
    assert!(asking.join_all().await.iter().all(|status| *status == 200));
    assert_eq!((authorizer.count(), sink.count()), (1, 50));
    let expected = format!("Bearer {}", authorizer.issued().access_token);
    assert!(sink.requests().iter().all(|seen| seen.header("authorization") == Some(&expected)));
    let told = events(&server, "credential.refresh").await;
    assert_eq!((told.len(), &told[0]["detail"]["environment"]), (1, &json!("production")), "{told:?}");
    assert!(told[0]["actor"].to_string().contains("system"), "{told:?}");
    assert_eq!(server.admin().get("audit/verify").await.json()["intact"], true);
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

/// OA-22, with a tenth of the refreshes: every token has ended as soon as it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_is_never_used_twice_under_load_oa_22() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    authorizer.terms(|terms| terms.expires_in = Some("0".to_owned()));
    let server = brought(&authorizer, &sink).await;
    let mut asking = JoinSet::new();
    for _ in 0..8 {
        let address = server.proxy();
        asking.spawn(async move {
            for _ in 0..10 {
                let reply = get(address.clone(), "/", &[("Sidekey-Connection", "crm")]).await;
                assert_eq!(reply.status, 200, "{}", reply.text());
            }
        });
    }
    asking.join_all().await;
    while authorizer.count() < 50 {
        assert_eq!(ask(&server).await.status, 200);
    }
    assert!(authorizer.count() <= 80 + 50, "at most one for each request: {}", authorizer.count());
    let used: Vec<String> =
        sink.requests().iter().filter_map(|seen| Some(seen.header("authorization")?.to_owned())).collect();
    assert!(used.len() >= 80 && used.iter().collect::<BTreeSet<_>>().len() > 1);
    assert_eq!(standing(&server).await["status"], "active");
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn who_hangs_up_does_not_lose_the_rotated_token() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = brought(&authorizer, &sink).await;
    let gate = authorizer.hold_answer();
    let mut impatient = crate::harness::Raw::connect(&server.proxy()).await;
    impatient.request("GET", "/", &[("Sidekey-Connection", "crm")], "").await;
    authorizer.asked(0).await;
    impatient.reset();
    gate.open();
    assert_eq!(ask(&server).await.status, 200);
    assert_eq!((authorizer.count(), shown(&sink)), (1, format!("Bearer {}", authorizer.issued().access_token)));
    assert_eq!(events(&server, "credential.refresh").await.len(), 1);
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn a_grant_that_has_ended_is_asked_for_once_and_then_a_person_must_act_oa_17() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = brought(&authorizer, &sink).await;
    for (round, status) in [400, 401, 200].into_iter().enumerate() {
        let before = authorizer.count();
        authorizer.next(refusal(status, "invalid_grant"));
        let mut asking = JoinSet::new();
        for _ in 0..10 {
            let address = server.proxy();
            asking.spawn(async move { get(address, "/", &[("Sidekey-Connection", "crm")]).await });
        }
        for reply in asking.join_all().await {
            assert_refused(&reply, 424, "connection_needs_reconnect");
        }
        assert_refused(&ask(&server).await, 424, "connection_needs_reconnect");
        assert_eq!((authorizer.count() - before, sink.count()), (1, round), "{status}");
        let stands = standing(&server).await;
        assert!(stands["status"] == "expired" && stands["reason"].is_string(), "{status}: {stands}");
        assert_eq!(
            (&stands["fields"]["access_token"], &stands["fields"]["refresh_token"]),
            (&json!(false), &json!(false))
        );
        assert_eq!(events(&server, "credential.refused").await.len(), round + 1, "{status}");
        // Somebody signs in again, and it is well.
        sign_in(&server, &authorizer, "crm").await;
        assert_eq!((ask(&server).await.status, &standing(&server).await["status"]), (200, &json!("active")));
        server.admin().must("PUT", CREDENTIAL, with_refresh_token(&authorizer)).await;
    }
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

/// It stays so over a restart: nobody asks in vain for ever.
#[tokio::test]
async fn a_grant_that_has_ended_is_not_asked_for_after_a_restart_either_oa_17() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let mut server = brought(&authorizer, &sink).await;
    authorizer.next(refusal(400, "invalid_grant"));
    assert_refused(&ask(&server).await, 424, "connection_needs_reconnect");
    server.restart().await;
    assert_refused(&ask(&server).await, 424, "connection_needs_reconnect");
    assert_eq!((authorizer.count(), &standing(&server).await["status"]), (1, &json!("expired")));
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn a_client_that_is_refused_is_an_error_of_the_configuration_oa_18() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = brought(&authorizer, &sink).await;
    for (round, (status, error)) in
        [(401, "invalid_client"), (400, "unauthorized_client"), (400, "invalid_scope"), (400, "invalid_request")]
            .into_iter()
            .enumerate()
    {
        let before = authorizer.count();
        authorizer.next(refusal(status, error));
        for _ in 0..10 {
            assert_refused(&ask(&server).await, 502, "token_endpoint_failed");
        }
        assert_eq!(authorizer.count() - before, 1, "{error}: asked again a minute later at the earliest");
        let stands = standing(&server).await;
        assert!(stands["status"] == "error" && stands["reason"].is_string(), "{error}: {stands}");
        assert_eq!(stands["fields"]["refresh_token"], true, "{error}: {stands}");
        // Whoever corrects what is entered need not wait.
        server.admin().must("PUT", CREDENTIAL, with_refresh_token(&authorizer)).await;
        assert_eq!(ask(&server).await.status, 200, "{error}");
        assert_eq!((&standing(&server).await["status"], sink.count()), (&json!("active"), round + 1));
        server.admin().must("PUT", CREDENTIAL, with_refresh_token(&authorizer)).await;
    }
    assert_eq!(events(&server, "credential.refused").await.len(), 0);
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

/// HI-02 is among them: a token that is no field value.
#[tokio::test]
async fn an_endpoint_that_is_down_costs_no_token_oa_31() {
    let (authorizer, evil) = (Authorizer::start().await, Sink::builder().tls(&["evil.example.test"]).start().await);
    let sink = Sink::https().await;
    let mut server = Sidekey::with(|config| {
        authorizer.pin(config.to(&sink));
        config.pin("evil.example.test", evil.addr);
    })
    .await;
    connect(&server.admin(), &method(&json!({})), with_refresh_token(&authorizer)).await;
    let elsewhere = "https://evil.example.test/token";
    let json_type = [("content-type", "application/json")];
    for (what, script) in [
        ("302", redirect(302, elsewhere)),
        ("307", redirect(307, elsewhere)),
        ("308", redirect(308, elsewhere)),
        ("500", Script::respond(500, &[], "")),
        ("503", Script::respond(503, &[], "down")),
        ("503 with a code", refusal(503, "invalid_grant")),
        ("429", Script::respond(429, &[("retry-after", "3600")], "")),
        ("429 with a code", refusal(429, "invalid_grant")),
        ("404", Script::respond(404, &[], "<html>")),
        ("no JSON", Script::respond(200, &json_type, "<html>")),
        ("no token", Script::respond(200, &json_type, "{}")),
        ("an odd token", Script::respond(200, &json_type, "{\"access_token\":\"a\\nb\",\"token_type\":\"Bearer\"}")),
        ("no answer", Script::cut_in_head(Step::Fin)),
        ("302 with a code", Script::respond(302, &json_type, "{\"error\":\"invalid_grant\"}")),
        ("503 and at once", Script::respond(503, &[("retry-after", "0")], "down")),
    ] {
        let before = authorizer.count();
        authorizer.next(script);
        for _ in 0..5 {
            let reply = ask(&server).await;
            assert_eq!(reply.status, 502, "{what}: {}", reply.text());
            assert_refused(&reply, 502, "token_endpoint_failed");
        }
        assert_eq!(authorizer.count() - before, 1, "{what}: it is not asked again at once");
        let stands = standing(&server).await;
        assert_eq!(stands["fields"]["refresh_token"], true, "{what}: {stands}");
        assert!(stands["status"] != "expired" && stands["status"] != "error", "{what}: {stands}");
        // Nobody remembers how long to wait after a restart; the token is still there, and good.
        server.restart().await;
        assert_eq!(ask(&server).await.status, 200, "{what}");
        assert_eq!(standing(&server).await["status"], "active", "{what}");
        let mut again = client(&authorizer);
        again["refresh_token"] = authorizer.issued().refresh_token.into();
        server.admin().must("PUT", CREDENTIAL, again).await;
    }
    assert_eq!((evil.count(), evil.connection_count()), (0, 0));
    assert_eq!(events(&server, "credential.refused").await.len(), 0);
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

/// It becomes well by itself, too: it is asked again a few seconds later.
#[tokio::test]
async fn an_endpoint_that_was_down_is_asked_again() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = brought(&authorizer, &sink).await;
    authorizer.next(Script::respond(503, &[("retry-after", "1")], ""));
    assert_refused(&ask(&server).await, 502, "token_endpoint_failed");
    let well = async {
        while ask(&server).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("a connection that is well again", well).await;
    assert_eq!(authorizer.count(), 2);
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_is_given_up_in_time() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = brought(&authorizer, &sink).await;
    authorizer.next(Script::stall());
    assert_refused(&ask(&server).await, 504, "token_endpoint_timeout");
    let stands = standing(&server).await;
    assert_eq!((&stands["fields"]["refresh_token"], authorizer.count()), (&json!(true), 1), "{stands}");
    server.finish(&authorizer.canaries()).await;
}

/// A token that nobody can refresh is used while it is good, and never another's in its place.
#[tokio::test]
async fn a_token_without_a_refresh_token_is_used_as_it_is() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = server(&authorizer, &sink).await;
    let mut credential = client(&authorizer);
    credential["access_token"] = authorizer.issue().access_token.into();
    connect(&server.admin(), &method(&json!({})), credential).await;
    for _ in 0..2 {
        assert_eq!(
            (ask(&server).await.status, shown(&sink)),
            (200, format!("Bearer {}", authorizer.issued().access_token))
        );
    }
    // One that has ended when it comes, from a provider that gives nothing to refresh it by.
    let answer =
        format!("{{\"access_token\":\"{}.x\",\"token_type\":\"Bearer\",\"expires_in\":0}}", authorizer.access.text());
    authorizer.next(Script::respond(200, &[("content-type", "application/json")], answer));
    sign_in(&server, &authorizer, "crm").await;
    assert_refused(&ask(&server).await, 424, "connection_needs_reconnect");
    assert_eq!(authorizer.count(), 1);
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn another_endpoint_never_sees_the_tokens_of_the_old_one() {
    let (authorizer, evil) = (Authorizer::start().await, Sink::builder().tls(&["evil.example.test"]).start().await);
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        authorizer.pin(config.to(&sink));
        config.pin("evil.example.test", evil.addr);
    })
    .await;
    let admin = server.admin();
    connect(&admin, &method(&json!({})), with_refresh_token(&authorizer)).await;
    for name in ["token_url", "authorize_url", "revoke_url"] {
        let moved = method(&json!({ name: "https://evil.example.test/token" }));
        admin.must("PUT", "integrations/crm", integration("crm", &moved)).await;
        assert_refused(&ask(&server).await, 424, "connection_needs_reconnect");
        let stands = standing(&server).await;
        assert_eq!(stands["status"], "expired", "{name}: {stands}");
        let begun = admin.post("connections/crm/authorize", json!({ "environment": "production" })).await;
        assert_eq!(begun.status, 409, "{name}: {}", begun.text());
        admin.must("POST", "connections/crm/revoke", json!({})).await;
        assert_eq!((evil.connection_count(), authorizer.count()), (0, 0), "{name}");
        admin.must("PUT", "integrations/crm", integration("crm", &method(&json!({})))).await;
        admin.must("PUT", CREDENTIAL, with_refresh_token(&authorizer)).await;
    }
    assert_eq!(ask(&server).await.status, 200);
    assert_eq!(authorizer.asked(0).await.header("host"), Some(AUTHORIZER));
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

/// What becomes of a refresh does not bring back what was deleted meanwhile.
#[tokio::test]
async fn a_connection_that_is_deleted_while_it_is_refreshed_is_gone_oa_30() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = brought(&authorizer, &sink).await;
    let admin = server.admin();
    for what in ["connection", "credential", "replaced", "entered again"] {
        let (gate, number) = (authorizer.hold_answer(), authorizer.count());
        let deleting = async {
            authorizer.asked(number).await;
            match what {
                "connection" => assert_eq!(admin.delete("connections/crm?force=true").await.status, 204),
                "credential" => assert_eq!(admin.delete(CREDENTIAL).await.status, 204),
                "entered again" => drop(admin.must("PUT", CREDENTIAL, with_refresh_token(&authorizer)).await),
                _ => {
                    let mut other = client(&authorizer);
                    other["access_token"] = "another".into();
                    admin.must("PUT", CREDENTIAL, other).await;
                }
            }
            gate.open();
        };
        let (reply, ()) = tokio::join!(ask(&server), deleting);
        let expected = match what {
            "connection" => 404,
            "credential" => 424,
            _ => 200,
        };
        // Of what is deleted while somebody waits for it either may be told.
        let is_told = [404, 424].contains(&expected) && [404, 424].contains(&reply.status);
        assert!(reply.status == expected || is_told, "{what}: {}", reply.text());
        assert_eq!(ask(&server).await.status, expected, "{what}");
        if what == "connection" {
            admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await;
            assert_eq!(ask(&server).await.status, 424, "another of the same name has nothing of it");
        }
        if what == "replaced" {
            assert_eq!(shown(&sink), "Bearer another");
        }
        admin.must("PUT", CREDENTIAL, with_refresh_token(&authorizer)).await;
    }
    assert_eq!(admin.get("audit/verify").await.json()["intact"], true);
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

/// Until when somebody wants it to be used is not the provider's to say.
#[tokio::test]
async fn the_end_that_a_person_gave_outlives_a_refresh() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = brought(&authorizer, &sink).await;
    let until = format!("{CREDENTIAL}?expires_at=2999-01-01T00:00:00Z");
    server.admin().must("PUT", &until, with_refresh_token(&authorizer)).await;
    let before = standing(&server).await["expires_at"].clone();
    assert_eq!((ask(&server).await.status, authorizer.count()), (200, 1));
    assert_eq!(standing(&server).await["expires_at"], before);
    sign_in(&server, &authorizer, "crm").await;
    assert_eq!(standing(&server).await["expires_at"], before);
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn explaining_a_request_asks_nobody_for_a_token() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = brought(&authorizer, &sink).await;
    let body = json!({ "method": "GET", "path": "/x", "environment": "production" });
    let explained = server.admin().must("POST", "connections/crm/explain", body).await.json();
    assert_eq!((&explained["permitted"], authorizer.count(), sink.count()), (&json!(true), 0, 0), "{explained}");
    // A test asks like any other request, and says what came of it.
    server.admin().must("PUT", CREDENTIAL, with_refresh_token(&authorizer)).await;
    authorizer.next(refusal(401, "invalid_client"));
    let body = json!({ "environment": "production" });
    let tested = server.admin().must("POST", "connections/crm/test", body).await.json();
    assert_eq!((&tested["passed"], &tested["code"]), (&json!(false), &json!("token_endpoint_failed")), "{tested}");
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

/// Whoever enters something and whoever refreshes it meet at any point: what was entered last is good afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_entered_while_it_is_refreshed_is_never_lost() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    authorizer.terms(|terms| terms.expires_in = Some("0".to_owned()));
    let server = brought(&authorizer, &sink).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut asking = JoinSet::new();
    for _ in 0..4 {
        let (address, done) = (server.proxy(), Arc::clone(&done));
        asking.spawn(async move {
            while !done.load(Ordering::SeqCst) {
                let reply = get(address.clone(), "/", &[("Sidekey-Connection", "crm")]).await;
                assert_eq!(reply.status, 200, "{}", reply.text());
            }
        });
    }
    for round in 0..60 {
        server.admin().must("PUT", CREDENTIAL, with_refresh_token(&authorizer)).await;
        assert_eq!(ask(&server).await.status, 200, "{round}");
    }
    done.store(true, Ordering::SeqCst);
    asking.join_all().await;
    for _ in 0..3 {
        assert_eq!(ask(&server).await.status, 200);
    }
    assert_eq!((&standing(&server).await["status"], authorizer.reused()), (&json!("active"), 0));
    assert_eq!(events(&server, "credential.refused").await.len(), 0);
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}
