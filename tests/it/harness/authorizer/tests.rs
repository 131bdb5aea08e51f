//! That the authorization server notices what it is there to notice.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{AUTHORIZER, Authorizer, CLIENT, ClientAuth, refusal};
use crate::harness::Reply;
use crate::harness::client::Raw;

const VERIFIER: &str = "a-verifier-of-forty-three-characters-or-more";

/// A request as a client with a secret makes it.
async fn post(authorizer: &Authorizer, path: &str, form: &str) -> Reply {
    let basic = STANDARD.encode(format!("{CLIENT}:{}", authorizer.secret.text()));
    send(authorizer, path, &[("authorization", &format!("Basic {basic}"))], form).await
}

async fn send(authorizer: &Authorizer, path: &str, headers: &[(&str, &str)], form: &str) -> Reply {
    let mut raw = Raw::tls(authorizer.sink.addr, AUTHORIZER, None).await.expect("a handshake");
    let typed = [("content-type", "application/x-www-form-urlencoded")];
    raw.request("POST", path, &[&typed[..], headers].concat(), form).await;
    raw.response().await
}

fn code(authorizer: &Authorizer) -> String {
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
    let address = format!(
        "https://{AUTHORIZER}/authorize?response_type=code&client_id={CLIENT}&redirect_uri=http%3A%2F%2Fus%2Fback\
         &state=0123456789012345678901&scope=read&code_challenge={challenge}&code_challenge_method=S256"
    );
    let answer = authorizer.consent(&address);
    assert_eq!(answer.path, format!("/back?code={}&state=0123456789012345678901", answer.code));
    answer.code
}

fn exchange(code: &str) -> String {
    format!("grant_type=authorization_code&code={code}&redirect_uri=http%3A%2F%2Fus%2Fback&code_verifier={VERIFIER}")
}

/// It speaks the protocol of the run's wires; this client speaks one of them.
fn is_spoken() -> bool {
    crate::harness::wires::wires().upstream == crate::harness::wires::Version::Http1
}

#[tokio::test]
async fn a_code_counts_once_and_a_refresh_token_that_comes_again_ends_its_family() {
    if !is_spoken() {
        return;
    }
    let authorizer = Authorizer::start().await;
    let code = code(&authorizer);
    let granted: Value = post(&authorizer, "/token", &exchange(&code)).await.json();
    assert_eq!((&granted["scope"], &granted["expires_in"]), (&"read".into(), &3600.into()));
    assert_eq!(granted["access_token"], authorizer.issued().access_token);
    let refresh = |token: &str| format!("grant_type=refresh_token&refresh_token={token}");
    let first = authorizer.issued().refresh_token;
    assert_eq!(post(&authorizer, "/token", &refresh(&first)).await.status, 200);
    let second = authorizer.issued().refresh_token;
    assert_ne!(first, second);
    authorizer.assert_content();
    assert_eq!(post(&authorizer, "/token", &refresh(&first)).await.status, 400);
    assert_eq!(authorizer.reused(), 1);
    assert_eq!(post(&authorizer, "/token", &refresh(&second)).await.status, 400, "it goes with the first");
    assert_eq!(authorizer.faults(), Vec::<String>::new());
    assert_eq!(post(&authorizer, "/token", &exchange(&code)).await.status, 400);
    assert_eq!(authorizer.faults(), ["a code a second time"]);
    assert_eq!(authorizer.count(), 5);
}

#[tokio::test]
async fn who_is_not_as_they_should_be_gets_nothing() {
    if !is_spoken() {
        return;
    }
    let authorizer = Authorizer::start().await;
    authorizer.register("public", None, ClientAuth::None);
    let secret = authorizer.secret.text().to_owned();
    for (form, basic, told) in [
        (exchange(&code(&authorizer)).replace("forty", "fifty"), true, "code_verifier"),
        (exchange(&code(&authorizer)).replace("us%2F", "evil%2F"), true, "redirect_uri"),
        (format!("{}&client_id=public", exchange(&code(&authorizer))), false, "another client"),
        (format!("{}&client_id={CLIENT}&client_secret={secret}", exchange(&code(&authorizer))), true, "in one way"),
        (format!("{}&client_id={CLIENT}&client_secret={secret}", exchange(&code(&authorizer))), false, "by Body"),
        (format!("{}&scope=a&scope=b", exchange(&code(&authorizer))), true, "twice"),
        ("grant_type=refresh_token&refresh_token=x".to_owned(), true, "an unknown refresh token"),
        ("grant_type=password".to_owned(), true, "the grant type"),
    ] {
        let reply = match basic {
            true => post(&authorizer, "/token", &form).await,
            false => send(&authorizer, "/token", &[], &form).await,
        };
        assert!(matches!(reply.status, 400 | 401), "{form}: {}", reply.text());
        let last = authorizer.faults().pop().expect("a fault");
        assert!(last.contains(told), "{form}: {last}");
    }
    let token = authorizer.issue().refresh_token;
    assert_eq!(post(&authorizer, "/revoke", &format!("token={token}")).await.status, 200);
    let refresh = format!("grant_type=refresh_token&refresh_token={token}");
    assert_eq!(post(&authorizer, "/token", &refresh).await.status, 400);
    assert_eq!((authorizer.reused(), authorizer.revocation_count()), (0, 1));
}

#[tokio::test]
async fn answers_can_be_scripted_and_held_back() {
    if !is_spoken() {
        return;
    }
    let authorizer = Authorizer::start().await;
    let refresh = |token: &str| format!("grant_type=refresh_token&refresh_token={token}");
    let (first, second) = (authorizer.issue().refresh_token, authorizer.issue().refresh_token);
    authorizer.next(refusal(503, "down"));
    assert_eq!(post(&authorizer, "/token", &refresh(&first)).await.status, 503);
    for (gate, token, takes_effect) in
        [(authorizer.hold_answer(), first, true), (authorizer.hold_request(), second, false)]
    {
        let (number, before) = (authorizer.count(), authorizer.issued());
        let form = refresh(&token);
        let releasing = async {
            authorizer.asked(number).await;
            assert_eq!(authorizer.issued() != before, takes_effect);
            gate.open();
        };
        let (reply, ()) = tokio::join!(post(&authorizer, "/token", &form), releasing);
        assert_eq!((reply.status, authorizer.issued() != before), (200, true));
    }
    authorizer.assert_content();
}
