//! A server that is killed while it replaces tokens: it goes on with the new ones, or says that a person must act.

use rustix::process::Signal;
use serde_json::json;

use crate::harness::authorizer::journey::{
    CREDENTIAL, ask, client, connect, events, method, server, shown, signed_in, standing,
};
use crate::harness::authorizer::{Authorizer, Issued};
use crate::harness::{Client, Sidekey, Sink, problem};

/// The point at which it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    /// The token endpoint has read the request and done nothing yet.
    Asked,
    /// The token endpoint has rotated the token and not answered yet.
    Rotated,
    /// The answer is on its way.
    Answered,
    /// The upstream has the new token.
    Used,
}

const POINTS: [Point; 9] = [
    Point::Asked,
    Point::Rotated,
    Point::Answered,
    Point::Answered,
    Point::Answered,
    Point::Answered,
    Point::Answered,
    Point::Used,
    Point::Used,
];

/// Enters tokens that somebody brings along, of which the access token is not.
async fn enter(server: &Sidekey, authorizer: &Authorizer) -> Issued {
    let (mut credential, issued) = (client(authorizer), authorizer.issue());
    credential["refresh_token"] = issued.refresh_token.clone().into();
    server.admin().must("PUT", CREDENTIAL, credential).await;
    issued
}

/// Lets a request begin a refresh, and kills the server when that has come so far.
async fn kill_at(server: &mut Sidekey, authorizer: &Authorizer, point: Point, sink: &Sink) {
    let (number, sent) = (authorizer.count(), sink.count());
    let gate = match point {
        Point::Asked => authorizer.hold_request(),
        _ => authorizer.hold_answer(),
    };
    let mut client = Client::connect(server.proxy()).await;
    client.request("GET", "/", &[("Sidekey-Connection", "crm")], "").await;
    authorizer.asked(number).await;
    if matches!(point, Point::Answered | Point::Used) {
        gate.open();
    }
    if point == Point::Used {
        sink.request_where("the request at the upstream", |seen| seen.number >= sent).await;
    }
    server.process().signal(Signal::KILL);
    server.kill().await;
}

/// OA-24, at chosen points.
#[tokio::test]
async fn a_kill_in_a_refresh_costs_a_sign_in_at_most_oa_24() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let mut server = server(&authorizer, &sink).await;
    connect(&server.admin(), &method(&json!({})), client(&authorizer)).await;
    for (round, point) in POINTS.into_iter().enumerate() {
        enter(&server, &authorizer).await;
        let refused = events(&server, "credential.refused").await.len();
        kill_at(&mut server, &authorizer, point, &sink).await;
        server.restart().await;
        let first = ask(&server).await;
        match first.status {
            200 => assert_eq!(shown(&sink), format!("Bearer {}", authorizer.issued().access_token), "{round}"),
            424 => {
                assert!(matches!(point, Point::Rotated | Point::Answered), "{round} {point:?}: {}", first.text());
                assert_eq!(problem(&first).code, "connection_needs_reconnect", "{round}");
                let asked = authorizer.count();
                for _ in 0..5 {
                    assert_eq!(ask(&server).await.status, 424, "{round}");
                }
                assert_eq!(authorizer.count(), asked, "{round} {point:?}: no end of asking");
                let stands = standing(&server).await;
                assert!(stands["status"] == "expired" && stands["reason"].is_string(), "{round}: {stands}");
                assert_eq!(events(&server, "credential.refused").await.len(), refused + 1, "{round}");
            }
            status => panic!("{round} {point:?}: {status} {}", first.text()),
        }
        assert_eq!(server.admin().get("audit/verify").await.json()["intact"], true, "{round}");
    }
    assert_eq!(authorizer.faults(), Vec::<String>::new());
    enter(&server, &authorizer).await;
    assert_eq!(ask(&server).await.status, 200);
    server.finish(&authorizer.canaries()).await;
}

/// What was rotated before outlives both ends.
#[tokio::test]
async fn rotated_tokens_outlive_a_restart_and_a_kill() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let mut server = signed_in(&authorizer, &sink).await;
    let first = format!("Bearer {}", authorizer.issued().access_token);
    server.restart().await;
    assert_eq!((ask(&server).await.status, shown(&sink), authorizer.count()), (200, first, 1));
    authorizer.terms(|terms| terms.expires_in = Some("0".to_owned()));
    enter(&server, &authorizer).await;
    for round in 0..4 {
        assert_eq!(ask(&server).await.status, 200, "{round}");
        if round % 2 == 0 {
            server.kill().await;
        }
        server.restart().await;
    }
    assert_eq!((ask(&server).await.status, authorizer.count()), (200, 6));
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}
