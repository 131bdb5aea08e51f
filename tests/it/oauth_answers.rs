//! What a token endpoint answers, and what is made of it: how long a token is good, what is said and what is left out.

use serde_json::{Value, json};
use sidekey::model::moment::Moment;

use crate::harness::authorizer::Authorizer;
use crate::harness::authorizer::journey::{ask, shown, sign_in, signed_in, standing};
use crate::harness::{Script, Sink};

fn seconds(moment: &Value) -> i64 {
    let moment: Moment = moment.as_str().expect("a moment").parse().expect("RFC 3339");
    moment.milliseconds() / 1000
}

#[tokio::test]
async fn how_long_a_token_is_good_is_read_however_it_is_written_oa_14() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = signed_in(&authorizer, &sink).await;
    const YEAR: i64 = 365 * 24 * 3600;
    for (text, life, refreshes) in [
        (Some("3600"), 3600, 0),
        (Some("\"3600\""), 3600, 0),
        (Some("3600.0"), 3600, 0),
        (Some("61"), 61, 0),
        (None, 3600, 0),
        (Some("null"), 3600, 0),
        (Some("0"), 0, 2),
        (Some("-5"), 0, 2),
        (Some("\"-5\""), 0, 2),
        (Some("1e12"), YEAR, 0),
        (Some("\"abc\""), 3600, 0),
        (Some("\"\""), 3600, 0),
        (Some("{}"), 3600, 0),
        (Some("true"), 3600, 0),
        (Some("9223372036854775807"), YEAR, 0),
        (Some("9223372036854775808"), YEAR, 0),
        (Some("-9223372036854775809"), 0, 2),
    ] {
        authorizer.terms(|terms| terms.expires_in = text.map(str::to_owned));
        sign_in(&server, &authorizer, "crm").await;
        let shown = standing(&server).await;
        let grant = &shown["grant"];
        let lasts = seconds(&grant["expires_at"]) - seconds(&grant["obtained_at"]);
        let possible = match life {
            YEAR => YEAR - 1..=YEAR + 24 * 3600,
            0 => i64::MIN..=0,
            life => life - 1..=life + 1,
        };
        assert!(possible.contains(&lasts), "{text:?}: {grant}");
        let before = authorizer.count();
        for _ in 0..2 {
            assert_eq!(ask(&server).await.status, 200, "{text:?}");
        }
        assert_eq!(authorizer.count() - before, refreshes, "{text:?}: once for each request at most");
    }
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn what_an_answer_leaves_out_stays_as_it_was_oa_25() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    authorizer.terms(|terms| terms.expires_in = Some("0".to_owned()));
    let mut server = signed_in(&authorizer, &sink).await;
    let refresh_token = authorizer.issued().refresh_token;
    authorizer.terms(|terms| (terms.rotates, terms.says_scope) = (false, false));
    for number in 1..4 {
        assert_eq!(ask(&server).await.status, 200);
        assert_eq!(authorizer.asked(number).await.must("refresh_token"), refresh_token);
        let shown = standing(&server).await;
        assert_eq!(shown["grant"]["scopes"], json!(["read", "write"]), "{shown}");
        assert_eq!(shown["fields"]["refresh_token"], true, "{shown}");
        if number == 2 {
            server.restart().await;
        }
    }
    // Who rotates after all is followed.
    authorizer.terms(|terms| (terms.rotates, terms.scope, terms.says_scope) = (true, Some("less".to_owned()), true));
    for number in 4..6 {
        assert_eq!(ask(&server).await.status, 200);
        let is_old = authorizer.asked(number).await.must("refresh_token") == refresh_token;
        assert_eq!(is_old, number == 4);
    }
    assert_eq!(standing(&server).await["grant"]["scopes"], json!(["less"]));
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

/// Some write down what there is not.
#[tokio::test]
async fn what_is_null_is_not_said() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    authorizer.terms(|terms| terms.expires_in = Some("0".to_owned()));
    let server = signed_in(&authorizer, &sink).await;
    let access = authorizer.access.text();
    let json_type = [("content-type", "application/json")];
    let answer = json!({
        "access_token": access, "token_type": null, "expires_in": null, "refresh_token": null, "scope": null,
        "error": null, "error_description": null,
    });
    authorizer.next(Script::respond(200, &json_type, answer.to_string()));
    let reply = ask(&server).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(shown(&sink), format!("Bearer {access}"));
    let stands = standing(&server).await;
    assert_eq!((&stands["status"], &stands["fields"]["refresh_token"]), (&json!("active"), &json!(true)), "{stands}");
    assert_eq!((ask(&server).await.status, authorizer.count()), (200, 2), "it is good for an hour");
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}
