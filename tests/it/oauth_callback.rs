//! What comes back from a provider's page: what is believed of it, where it leads, and what pages say.

use serde_json::json;

use crate::harness::authorizer::journey::{
    CREDENTIAL, ask, begin, client, come_back, connect, connected, events, follow, method, path, standing,
};
use crate::harness::authorizer::{Answer, Authorizer, redirect, refusal};
use crate::harness::browser::user;
use crate::harness::sink::Step;
use crate::harness::{Browser, Reply, Script, Sidekey, Sink};

/// Where somebody comes out who asked for a place that is not ours.
const FIXED: &str = "/";

async fn start() -> (Authorizer, Sink, Sidekey) {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = connected(&authorizer, &sink).await;
    (authorizer, sink, server)
}

/// A browser that is at the provider's page, and what will come back from there.
async fn away(server: &Sidekey, authorizer: &Authorizer) -> (Browser, Answer) {
    let begun = begin(server, "crm", json!({ "environment": "production" })).await;
    let mut browser = Browser::new(server);
    let address = follow(&mut browser, &begun).await;
    (browser, authorizer.consent(&address))
}

/// OA-10: what every page on the way says of itself.
#[track_caller]
fn assert_guarded(page: &Reply) {
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"), "{} {:?}", page.status, page.headers);
    assert_eq!(page.header("cache-control"), Some("no-store"), "{} {:?}", page.status, page.headers);
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'none'") || policy.contains("default-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let text = page.text();
    assert!(["http://", "https://", "src=\"//", "<script>"].iter().all(|part| !text.contains(part)), "{text}");
}

#[tokio::test]
async fn it_leads_to_a_page_of_our_own_oa_08() {
    let (authorizer, _sink, server) = start().await;
    for (wanted, leads) in [
        (json!("/connections"), "/connections"),
        (json!("/connections?a=b#c"), "/connections?a=b#c"),
        (json!("https://evil.test"), FIXED),
        (json!("//evil.test"), FIXED),
        (json!("/\\evil.test"), FIXED),
        (json!("\\\\evil.test"), FIXED),
        (json!("/\t/evil.test"), FIXED),
        (json!("/\n/evil.test"), FIXED),
        (json!("/a\r\nSet-Cookie: a=b"), FIXED),
        (json!("javascript:1"), FIXED),
        (json!("https:evil.test"), FIXED),
        (json!("evil.test"), FIXED),
        (json!(" /x"), FIXED),
        (json!(""), FIXED),
    ] {
        let mut ada = Browser::new(&server);
        let begun = begin(&server, "crm", json!({ "environment": "production", "return_to": wanted })).await;
        let address = follow(&mut ada, &begun).await;
        let page = come_back(&mut ada, &authorizer.consent(&address)).await;
        assert_eq!((page.status, page.header("location")), (303, Some(leads)), "{wanted}: {}", page.text());
    }
    // Encoded it is a path like another.
    let mut ada = Browser::new(&server);
    let begun = begin(&server, "crm", json!({ "environment": "production", "return_to": "/%09/evil.test" })).await;
    let address = follow(&mut ada, &begun).await;
    let page = come_back(&mut ada, &authorizer.consent(&address)).await;
    let location = page.header("location").expect("a place");
    assert!(page.status == 303 && [FIXED, "/%09/evil.test"].contains(&location), "{location}");
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn who_does_not_consent_is_told_so_and_nothing_of_the_address_oa_09() {
    let (authorizer, _sink, server) = start().await;
    let (mut browser, answer) = away(&server, &authorizer).await;
    let callback = answer.path.split_once('?').expect("a query").0.to_owned();
    let state = &answer.state;
    let path = format!(
        "{callback}?error=access_denied&error_description=%3Cscript%3Ealert(1)%3C%2Fscript%3E&error_uri=javascript:alert(2)&state={state}"
    );
    let mut eve = Browser::new(&server);
    let elsewhere = eve.open_from_elsewhere(&path).await;
    assert_eq!(elsewhere.status, 400, "{}", elsewhere.text());
    let page = browser.open_from_elsewhere(&path).await;
    assert_eq!(page.status, 401, "{}", page.text());
    for page in [&page, &elsewhere] {
        assert_guarded(page);
        let said = page.text();
        assert!(["alert", "javascript:", "access_denied"].iter().all(|part| !said.contains(part)), "{said}");
    }
    assert_eq!(come_back(&mut browser, &answer).await.status, 400, "it is over");
    let after = standing(&server).await;
    assert_eq!((&after["status"], authorizer.count()), (&json!("incomplete"), 0), "{after}");
    assert_eq!(events(&server, "credential.authorize").await.len(), 0);
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn every_page_on_the_way_keeps_its_address_to_itself_oa_10() {
    let (authorizer, _sink, server) = start().await;
    let begun = begin(&server, "crm", json!({ "environment": "production" })).await;
    let start = path(begun["start_url"].as_str().expect("an address")).to_owned();
    let mut browser = Browser::new(&server);
    let opened = browser.open(&start).await;
    assert_eq!(opened.status, 200);
    assert_guarded(&opened);
    let answer = authorizer.consent(&follow(&mut browser, &begun).await);
    let used = browser.open(&start).await;
    assert_eq!(used.status, 404);
    assert_guarded(&used);
    let kept = browser.cookie("sidekey-authorize").expect("a cookie").to_owned();
    let page = come_back(&mut browser, &answer).await;
    assert_eq!((page.status, page.header("location")), (303, Some("/oauth/done")));
    assert_guarded(&page);
    assert_guarded(&browser.open("/oauth/done").await);
    browser.keep("sidekey-authorize", &kept);
    let again = come_back(&mut browser, &answer).await;
    assert_eq!(again.status, 400);
    assert_guarded(&again);
    // No proxy, no log and no page has what was in the address.
    let said = server.process().stderr();
    assert!(!said.contains(&answer.state) && !said.contains(start.rsplit('/').next().expect("a ticket")), "{said}");
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn where_people_come_back_to_is_configured_and_not_asked_of_a_request_oa_11() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let forged = [
        ("X-Forwarded-Host", "evil.test"),
        ("X-Forwarded-Proto", "https"),
        ("Forwarded", "host=evil.test;proto=https"),
        ("X-Original-Host", "evil.test"),
        ("X-Host", "evil.test"),
    ];
    for url in [None, Some("https://sidekey.example.test")] {
        let server = Sidekey::with(|config| {
            authorizer.pin(config.to(&sink));
            config.set("admin.host_names", vec!["also.example.test"]);
            if let Some(url) = url {
                config.set("admin.url", url);
            }
        })
        .await;
        connect(&server.admin(), &method(&json!({})), client(&authorizer)).await;
        let ours = url.map_or(format!("http://{}", server.admin_address), str::to_owned);
        for host in [None, Some("also.example.test")] {
            let mut headers = forged.to_vec();
            headers.extend(host.map(|host| ("Host", host)));
            let body = json!({ "environment": "production" });
            let reply = server.admin().call("POST", "connections/crm/authorize", &headers, Some(body)).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            let begun = reply.json();
            let answer = authorizer.consent(begun["authorize_url"].as_str().expect("an address"));
            assert!(answer.address.starts_with(&format!("{ours}/oauth/callback?")), "{}", answer.address);
            let start = begun["start_url"].as_str().expect("an address");
            assert!(start.starts_with(&format!("{ours}/oauth/start/")), "{start}");
            let cookie = reply.all("set-cookie").concat();
            let secure = cookie.starts_with("__Host-sidekey-authorize=") && cookie.contains("Secure");
            assert_eq!(secure, url.is_some(), "{cookie}");
        }
        let evil = [("Host", "evil.test")];
        let reply = server.admin().call("POST", "connections/crm/authorize", &evil, Some(json!({}))).await;
        assert_eq!(reply.status, 421, "{}", reply.text());
        server.finish(&authorizer.canaries()).await;
    }
}

#[tokio::test]
async fn only_a_code_is_an_answer_oa_12() {
    let (authorizer, _sink, server) = start().await;
    let (mut browser, answer) = away(&server, &authorizer).await;
    let callback = answer.path.split_once('?').expect("a query").0.to_owned();
    let (code, state) = (&answer.code, &answer.state);
    for query in [
        String::new(),
        "?".to_owned(),
        format!("?state={state}"),
        format!("?code={code}"),
        format!("?code={code}&state="),
        format!("?code=&state={state}"),
        format!("?code={code}&state=made-up"),
        format!("?access_token=stolen&token_type=bearer&state={state}"),
        format!("?id_token=stolen&state={state}"),
        format!("?response=x&state={state}"),
        format!("?code={code}&code={code}&state={state}"),
        format!("?code={code}&state={state}&state={state}"),
        format!("?code={code}&error=access_denied&state={state}&state=x"),
    ] {
        let page = browser.open_from_elsewhere(&format!("{callback}{query}")).await;
        assert_eq!(page.status, 400, "{query}: {}", page.text());
        assert_guarded(&page);
        assert!(!page.text().contains("stolen"), "{}", page.text());
    }
    assert_eq!((authorizer.count(), ask(&server).await.status), (0, 424));
    // A form that posts itself is not how this provider was asked to answer.
    let posted = browser.send("POST", &callback, &[("Sec-Fetch-Site", "cross-site")], None).await;
    assert!((400..500).contains(&posted.status), "{}", posted.text());
    assert_eq!(authorizer.count(), 0);
    server.finish(&authorizer.canaries()).await;
}

/// OA-31 among others.
#[tokio::test]
async fn a_token_endpoint_that_fails_leaves_everything_as_it_was_oa_31() {
    let (authorizer, evil) = (Authorizer::start().await, Sink::builder().tls(&["evil.example.test"]).start().await);
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        authorizer.pin(config.to(&sink));
        config.pin("evil.example.test", evil.addr);
    })
    .await;
    connect(&server.admin(), &method(&json!({})), client(&authorizer)).await;
    let json_type = [("content-type", "application/json")];
    let ok = |body: &str| Script::respond(200, &json_type, body);
    let access = authorizer.access.text();
    let scripts = [
        redirect(302, "https://evil.example.test/token"),
        redirect(307, "https://evil.example.test/token"),
        redirect(308, "https://evil.example.test/token"),
        refusal(400, "invalid_grant"),
        refusal(401, "invalid_client"),
        refusal(200, "invalid_grant"),
        refusal(503, "temporarily_unavailable"),
        ok("{}"),
        ok("[]"),
        ok("not JSON"),
        ok(&format!("{{\"access_token\":\"{access}\"}}")),
        ok("{\"access_token\":\"\",\"token_type\":\"Bearer\"}"),
        ok("{\"access_token\":7,\"token_type\":\"Bearer\"}"),
        ok("{\"access_token\":\"a\\r\\nb\",\"token_type\":\"Bearer\"}"),
        ok(&format!("{{\"access_token\":\"{access}\",\"token_type\":\"Bearer\",\"x\":\"{}\"}}", "y".repeat(2 << 20))),
        Script::cut_in_body(999_999, "{", Step::Fin),
    ];
    // Many of them leave the type out, which harms nobody.
    let lenient = [10];
    for (number, script) in scripts.into_iter().enumerate() {
        let (mut browser, answer) = away(&server, &authorizer).await;
        authorizer.next(script);
        let page = come_back(&mut browser, &answer).await;
        if lenient.contains(&number) && page.status == 303 {
            server.admin().must("PUT", "connections/crm/credentials/production", client(&authorizer)).await;
            continue;
        }
        assert_eq!(page.status, 502, "{number}: {}", page.text());
        assert_guarded(&page);
        assert!(!page.text().contains("described"), "nothing of what it says is shown: {}", page.text());
        let after = standing(&server).await;
        assert_eq!((&after["status"], ask(&server).await.status), (&json!("incomplete"), 424), "{number}: {after}");
        assert_eq!(authorizer.count(), number + 1, "asked once");
        assert_eq!(come_back(&mut browser, &answer).await.status, 400, "{number}: it is over");
    }
    assert_eq!((evil.count(), evil.connection_count()), (0, 0));
    assert!(!server.process().stderr().contains("described"));
    server.finish(&authorizer.canaries()).await;
}

/// What was signed in before stays what it was while a new sign-in fails.
#[tokio::test]
async fn a_sign_in_that_fails_takes_nothing_from_the_one_before() {
    let (authorizer, _sink, server) = start().await;
    let mut ada = user(&server, "ada@example.test", "editor", "seven wise cranes").await;
    let begin = async |ada: &mut Browser| {
        let begun = ada.post("connections/crm/authorize", json!({ "environment": "production" })).await.json();
        authorizer.consent(begun["authorize_url"].as_str().expect("an address"))
    };
    let answer = begin(&mut ada).await;
    assert_eq!(come_back(&mut ada, &answer).await.status, 303);
    assert_eq!(ask(&server).await.status, 200);
    let answer = begin(&mut ada).await;
    authorizer.next(refusal(400, "invalid_grant"));
    assert_eq!(come_back(&mut ada, &answer).await.status, 502);
    assert_eq!(ask(&server).await.status, 200);
    assert_eq!(standing(&server).await["status"], "active");
    // The server begins anew, and what was under way is forgotten at most; what was stored is not.
    let mut server = server;
    server.restart().await;
    assert_eq!(ask(&server).await.status, 200);
    server.finish(&authorizer.canaries()).await;
}

/// Tokens belong to the client that they were given to.
#[tokio::test]
async fn what_is_entered_while_a_code_is_exchanged_gets_no_tokens_of_it() {
    let (authorizer, _sink, server) = start().await;
    for entered in [true, false] {
        let (mut browser, answer) = away(&server, &authorizer).await;
        let (gate, number) = (authorizer.hold_answer(), authorizer.count());
        let meanwhile = async {
            authorizer.asked(number).await;
            match entered {
                true => drop(server.admin().must("PUT", CREDENTIAL, other_client()).await),
                false => assert_eq!(server.admin().delete(CREDENTIAL).await.status, 204),
            }
            gate.open();
        };
        let (page, ()) = tokio::join!(come_back(&mut browser, &answer), meanwhile);
        assert!(matches!(page.status, 400..500), "{entered}: {} {:?}", page.status, page.headers);
        assert_guarded(&page);
        let after = standing(&server).await;
        assert_eq!(
            (&after["status"], &after["fields"]["refresh_token"]),
            (&json!("incomplete"), &json!(false)),
            "{after}"
        );
        assert_eq!(ask(&server).await.status, 424, "{entered}");
        server.admin().must("PUT", CREDENTIAL, client(&authorizer)).await;
    }
    assert_eq!(events(&server, "credential.authorize").await.len(), 0);
    server.finish(&authorizer.canaries()).await;
}

fn other_client() -> serde_json::Value {
    json!({ "client_id": "another", "client_secret": "another" })
}

/// Nor does anybody end what they may not begin any more.
#[tokio::test]
async fn who_may_not_any_more_ends_nothing() {
    let (authorizer, _sink, server) = start().await;
    let demoted = json!({ "roles": ["viewer"] });
    for (name, method, call, body) in [("ada", "PUT", "roles", Some(demoted)), ("bob", "POST", "disable", None)] {
        let email = format!("{name}@example.test");
        let mut browser = user(&server, &email, "editor", "seven wise cranes").await;
        let begun = browser.post("connections/crm/authorize", json!({ "environment": "production" })).await.json();
        let answer = authorizer.consent(begun["authorize_url"].as_str().expect("an address"));
        let changed = server.admin().call(method, &format!("users/{email}/{call}"), &[], body).await;
        assert!(changed.status < 300, "{}", changed.text());
        let page = come_back(&mut browser, &answer).await;
        assert!((400..500).contains(&page.status), "{call}: {}", page.text());
        assert_eq!((authorizer.count(), ask(&server).await.status), (0, 424), "{call}");
    }
    server.finish(&authorizer.canaries()).await;
}

/// Programs that look at links before people do ask by HEAD.
#[tokio::test]
async fn who_only_looks_at_an_address_uses_nothing_up() {
    let (authorizer, _sink, server) = start().await;
    let begun = begin(&server, "crm", json!({ "environment": "production" })).await;
    let start = path(begun["start_url"].as_str().expect("an address"));
    let looked = Browser::new(&server).send("HEAD", start, &[], None).await;
    assert!(matches!(looked.status, 200..500) && looked.all("set-cookie").is_empty(), "{:?}", looked.headers);
    let mut browser = Browser::new(&server);
    let answer = authorizer.consent(&follow(&mut browser, &begun).await);
    let looked = browser.send("HEAD", &answer.path, &[], None).await;
    assert!((400..500).contains(&looked.status), "{:?}", looked.headers);
    assert_eq!((come_back(&mut browser, &answer).await.status, authorizer.count()), (303, 1));
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}
