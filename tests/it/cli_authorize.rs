//! `sidekey connection authorize`: an address for a browser, and nothing of what is entered.

use serde_json::{Value, json};

use crate::cli_resources::{json_of, on};
use crate::harness::authorizer::Authorizer;
use crate::harness::authorizer::journey::{ask, client, come_back, connected, follow};
use crate::harness::{Browser, Sink};

const AUTHORIZE: [&str; 3] = ["connection", "authorize", "crm"];

#[tokio::test]
async fn what_it_prints_is_opened_in_a_browser() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = connected(&authorizer, &sink).await;
    let ran = on(&server, &[&AUTHORIZE[..], &["-e", "production"]].concat(), "").await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    // One line that can be handed on, and beside it one for people.
    let (address, rest) = ran.stdout.split_once('\n').expect("a line");
    assert!(
        address.starts_with(&format!("http://{}/oauth/start/", server.admin_address)) && rest.is_empty(),
        "{address}"
    );
    let told = ran.stderr.trim_end();
    assert!(told.starts_with("open it in a browser") && told.contains("crm") && told.contains("until 2"), "{told}");
    assert!(!told.contains('\n'), "{told}");
    let mut browser = Browser::new(&server);
    let answer = authorizer.consent(&follow(&mut browser, &json!({ "start_url": address })).await);
    assert_eq!(come_back(&mut browser, &answer).await.status, 303);
    assert_eq!(ask(&server).await.status, 200);

    let whole: Value = json_of(&server, &[&AUTHORIZE[..], &["-e", "production"]].concat()).await;
    for name in ["authorize_url", "start_url", "expires_at"] {
        assert!(whole[name].is_string(), "{whole}");
    }
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn what_cannot_be_signed_in_for_says_why() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = connected(&authorizer, &sink).await;
    let admin = server.admin();
    let customers = json!({ "key": "crm", "integration": "crm", "customer": "acme" });
    admin.must("POST", "connections", customers).await;
    for (args, code, told) in [
        (&["nope", "-e", "production"][..], 6, "there is no such connection"),
        (&["crm", "-e", "nowhere"], 1, "no such environment"),
        // The server has no environment of a designer's, and does not guess.
        (&["crm"], 1, "-e names one"),
        (&["crm", "-e", "staging"], 1, "sidekey: "),
        (&["crm", "-e", "production", "--customer", "acme"], 1, "sidekey: "),
        (&["crm", "-e", "production", "--customer", "nobody"], 6, "there is no such connection"),
        (&[], 2, "CONNECTION"),
    ] {
        let ran = on(&server, &[&AUTHORIZE[..2], args].concat(), "").await;
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(told), "{args:?}: {}", ran.stderr);
    }
    let path = "connections/crm/credentials/production?customer=acme";
    admin.must("PUT", path, client(&authorizer)).await;
    let ran = on(&server, &[&AUTHORIZE[..], &["-e", "production", "--customer", "acme"]].concat(), "").await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    server.finish(&authorizer.canaries()).await;
}
