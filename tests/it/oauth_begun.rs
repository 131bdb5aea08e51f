//! A sign-in that was begun: what it takes to go on with it, and who can still end it.

use serde_json::{Value, json};

use crate::api_keys::create;
use crate::harness::authorizer::journey::{
    ask, begin, client, come_back, connect_as, connected, events, follow, method, path,
};
use crate::harness::authorizer::{AUTHORIZER, Answer, Authorizer};
use crate::harness::browser::user;
use crate::harness::{Browser, Sidekey, Sink, problem};

async fn start() -> (Authorizer, Sink, Sidekey) {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = connected(&authorizer, &sink).await;
    (authorizer, sink, server)
}

/// A key that may do what an editor may, with its id.
async fn editors_key(server: &Sidekey) -> (String, String) {
    create(&server.admin(), json!({ "name": "deploy", "roles": ["editor"] })).await
}

/// Begun with this key, and at the provider's page in a browser.
async fn begun_with(server: &Sidekey, authorizer: &Authorizer, key: &str) -> (Browser, Answer) {
    let holder = server.admin().with_key(key);
    let body = json!({ "environment": "production" });
    let begun = holder.must("POST", "connections/crm/authorize", body).await.json();
    let mut browser = Browser::new(server);
    let address = follow(&mut browser, &begun).await;
    (browser, authorizer.consent(&address))
}

#[tokio::test]
async fn who_may_less_by_now_ends_nothing() {
    let (authorizer, _sink, server) = start().await;
    let admin = server.admin();
    connect_as(&admin, "other", &method(&json!({})), client(&authorizer)).await;
    user(&server, "bob@example.test", "editor", "seven wise cranes").await;
    let bob = admin.get("users/bob@example.test").await.json()["id"].clone();
    let owned = |sharing: Value, owner: &Value| json!({ "integration": "crm", "visibility": sharing, "owner": owner });
    for (what, path, lowered) in [
        ("narrowed", "api-keys/{key}/scope", json!({ "connections": ["other"] })),
        ("lowered", "api-keys/{key}", json!({ "name": "deploy", "roles": ["member"] })),
        ("taken away", "connections/crm", owned("personal".into(), &bob)),
    ] {
        let (id, key) = editors_key(&server).await;
        let (mut browser, answer) = begun_with(&server, &authorizer, &key).await;
        admin.must("PUT", &path.replace("{key}", &id), lowered).await;
        let page = come_back(&mut browser, &answer).await;
        assert_eq!(page.status, 409, "{what}: {}", page.text());
        assert!(page.text().contains("has changed"), "{what}: {}", page.text());
        assert_eq!(authorizer.count(), 0, "{what}");
        assert_eq!(come_back(&mut browser, &answer).await.status, 400, "{what}: it is over");
    }
    admin.must("PUT", "connections/crm", owned("organization".into(), &bob)).await;
    assert_eq!(ask(&server).await.status, 424, "no token was stored");
    let (_, key) = editors_key(&server).await;
    let (mut browser, answer) = begun_with(&server, &authorizer, &key).await;
    assert_eq!(come_back(&mut browser, &answer).await.status, 303);
    assert_eq!(events(&server, "credential.authorize").await.len(), 1);
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn a_link_says_what_it_is_for_and_is_gone_on_from_once() {
    let (authorizer, _sink, server) = start().await;
    let mut ada = user(&server, "ada@example.test", "editor", "seven wise cranes").await;
    let begun = ada.post("connections/crm/authorize", json!({ "environment": "production" })).await.json();
    assert!(begun["expires_at"].is_string(), "{begun}");
    let address = begun["authorize_url"].as_str().expect("an address");
    let start = path(begun["start_url"].as_str().expect("a start_url")).to_owned();
    assert!(start.starts_with("/oauth/start/"), "{start}");
    let (mut bob, mut eve) = (Browser::new(&server), Browser::new(&server));
    for page in [bob.open(&start).await, eve.open_from_elsewhere(&start).await, bob.open(&start).await] {
        assert_eq!((page.status, page.all("set-cookie").len(), page.header("location")), (200, 0, None));
        let text = page.text();
        for said in ["crm", "Default", "production", "ada@example.test", &format!("Sign in at {AUTHORIZER}<")] {
            assert!(text.contains(said), "no {said} in {text}");
        }
        assert!(!text.contains("state=") && !text.contains("https:"), "{text}");
    }
    // Looking has taken nothing on, and neither does another page, or a form.
    let other = [("Origin", "https://evil.test"), ("Sec-Fetch-Site", "cross-site")];
    let form = [("Sec-Fetch-Site", "same-origin"), ("Content-Type", "application/x-www-form-urlencoded")];
    for (headers, status) in [(&[][..], 403), (&other[..1], 403), (&other[1..], 403), (&form[..], 415)] {
        let refused = eve.send("POST", &start, headers, None).await;
        assert_eq!((refused.status, refused.all("set-cookie").len()), (status, 0), "{headers:?}");
    }
    let taken = bob.call("POST", &start, None).await;
    assert_eq!((taken.status, taken.json()), (200, json!({ "authorize_url": address })));
    for (browser, who) in [(&mut eve, "another"), (&mut bob, "the same")] {
        for start in [&start, "/oauth/start/made-up", "/oauth/start/%ff"] {
            let page = browser.open(start).await;
            assert_eq!((page.status, page.all("set-cookie").len()), (404, 0), "{who}: {}", page.text());
            assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{who} {start}");
            let again = browser.call("POST", start, None).await;
            assert_eq!((problem(&again).status, again.all("set-cookie").len()), (404, 0), "{who} {start}");
        }
    }
    let answer = authorizer.consent(address);
    for browser in [&mut ada, &mut eve] {
        assert_eq!(come_back(browser, &answer).await.status, 400);
    }
    assert_eq!(authorizer.count(), 0);
    let page = come_back(&mut bob, &answer).await;
    assert_eq!((page.status, page.header("location")), (303, Some("/oauth/done")), "{}", page.text());
    let done = bob.open("/oauth/done").await;
    assert!(done.status == 200 && done.header("content-security-policy").is_some(), "{}", done.text());
    assert_eq!(ask(&server).await.status, 200);
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn what_people_called_things_is_text_on_the_page_of_a_link() {
    let (authorizer, _sink, server) = start().await;
    let admin = server.admin();
    let odd = |what: &str| format!("<b title=\"x\">{what}</b> {{{{ host }}}} '&amp;");
    admin.must("PUT", "connections/crm", json!({ "integration": "crm", "name": odd("connection") })).await;
    admin.must("PUT", "organizations/default", json!({ "name": odd("organization") })).await;
    let (_, key) = create(&admin, json!({ "name": odd("key"), "roles": ["editor"] })).await;
    let body = json!({ "environment": "production" });
    let begun = admin.with_key(&key).must("POST", "connections/crm/authorize", body).await.json();
    let page = Browser::new(&server).open(path(begun["start_url"].as_str().expect("an address"))).await;
    assert_eq!(page.status, 200, "{}", page.text());
    let text = page.text();
    for what in ["connection", "organization", "key"] {
        let shown = format!("&lt;b title=&quot;x&quot;&gt;{what}&lt;/b&gt; {{{{ host }}}} &#39;&amp;amp;");
        assert!(text.contains(&shown), "no {shown} in {text}");
    }
    assert!(text.contains("the API key &lt;"), "{text}");
    for inline in ["<b ", "onclick", "onload", "style=", "<style", "<script>", "javascript:", "{{ name"] {
        assert!(!text.contains(inline), "{inline} in {text}");
    }
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn whoever_begins_much_ends_nobody_elses() {
    let (authorizer, _sink, server) = start().await;
    let admin = server.admin();
    let body = || json!({ "environment": "production" });
    // However much is sent along.
    let mut ada = user(&server, "ada@example.test", "editor", "seven wise cranes").await;
    let origin = format!("http://{}", server.admin_address);
    ada.keep("other", &"x".repeat(20_000));
    let headers = [("Origin", &*origin), ("If-Match", "*"), ("X-Much", &"y".repeat(20_000))];
    let begun = ada.send("POST", "connections/crm/authorize", &headers, Some(body())).await;
    assert_eq!(begun.status, 200, "{}", begun.text());
    let address = begun.json()["authorize_url"].as_str().expect("an address").to_owned();
    ada.forget("other");
    let mut many = Vec::new();
    for _ in 0..66 {
        many.push(admin.must("POST", "connections/crm/authorize", body()).await.json());
    }
    let mut browser = Browser::new(&server);
    for begun in &many[..2] {
        let gone = browser.open(path(begun["start_url"].as_str().expect("an address"))).await;
        assert_eq!(gone.status, 404, "the oldest of whoever began too many have given way");
    }
    for begun in [&many[2], &many[65]] {
        let answer = authorizer.consent(&follow(&mut browser, begun).await);
        assert_eq!(come_back(&mut browser, &answer).await.status, 303);
    }
    assert_eq!(come_back(&mut ada, &authorizer.consent(&address)).await.status, 303);
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn an_organization_that_was_named_is_still_the_one_that_is_meant() {
    let (authorizer, _sink, server) = start().await;
    let admin = server.admin();
    admin.must("POST", "organizations", json!({ "key": "other" })).await;
    admin.must("POST", "import?organization=other", admin.get("export").await.json()).await;
    let credential = "connections/crm/credentials/production?organization=other";
    admin.must("PUT", credential, client(&authorizer)).await;
    let body = json!({ "environment": "production" });
    let begun = admin.must("POST", "connections/crm/authorize?organization=other", body).await.json();
    let mut browser = Browser::new(&server);
    let answer = authorizer.consent(&follow(&mut browser, &begun).await);
    admin.must("PUT", "organizations/other", json!({ "key": "renamed" })).await;
    let page = come_back(&mut browser, &answer).await;
    assert_eq!(page.status, 303, "{}", page.text());
    let after = admin.get(&credential.replace("other", "renamed")).await.json();
    assert_eq!((&after["status"], ask(&server).await.status), (&json!("active"), 424), "{after}");
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

/// RFC 9207: what another provider answers is not ended with this one's client.
#[tokio::test]
async fn an_answer_is_the_issuers_where_one_is_named() {
    let (authorizer, _sink, server) = start().await;
    let ours = json!({ "issuer": format!("https://{AUTHORIZER}") });
    connect_as(&server.admin(), "named", &method(&ours), client(&authorizer)).await;
    let right = format!("&iss=https%3A%2F%2F{AUTHORIZER}");
    for (connection, iss, error, status) in [
        ("named", "", false, 400),
        ("named", "&iss=", false, 400),
        ("named", "&iss=https%3A%2F%2Fevil.test", false, 400),
        ("named", &format!("{right}%2F"), false, 400),
        ("named", &right.to_uppercase().replace("&ISS", "&iss"), false, 400),
        ("named", "&iss=https%3A%2F%2Fevil.test", true, 400),
        ("named", &right, true, 401),
        ("named", &right, false, 303),
        ("crm", "&iss=https%3A%2F%2Fevil.test", false, 303),
        ("crm", "", false, 303),
    ] {
        let before = authorizer.count();
        let begun = begin(&server, connection, json!({ "environment": "production" })).await;
        let mut browser = Browser::new(&server);
        let answer = authorizer.consent(&follow(&mut browser, &begun).await);
        let kept = browser.cookie("sidekey-authorize").expect("a cookie").to_owned();
        let callback = answer.path.split_once('?').expect("a query").0;
        let said = match error {
            true => format!("{callback}?error=access_denied&state={}{iss}", answer.state),
            false => format!("{}{iss}", answer.path),
        };
        let page = browser.open_from_elsewhere(&said).await;
        assert_eq!(page.status, status, "{connection} {iss}: {}", page.text());
        assert_eq!(authorizer.count() - before, usize::from(status == 303), "{connection} {iss}");
        browser.keep("sidekey-authorize", &kept);
        let again = browser.open_from_elsewhere(&format!("{}{right}", answer.path)).await;
        assert_eq!(again.status, 400, "{connection} {iss}: it is over");
    }
    assert!(!server.process().stderr().contains("evil.test"));
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}
