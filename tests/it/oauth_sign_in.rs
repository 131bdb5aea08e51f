//! Signing in for a connection: how it begins, who can end it, and what is there afterwards.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::authorizer::journey::{
    CREDENTIAL, ask, begin, client, come_back, connect, connect_as, connected, events, follow, integration, method,
    server, shown, sign_in, signed_in, standing,
};
use crate::harness::authorizer::{AUTHORIZER, Authorizer, ClientAuth};
use crate::harness::browser::user;
use crate::harness::{Browser, Canary, Sidekey, Sink, get, problem};

async fn start() -> (Authorizer, Sink, Sidekey) {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = connected(&authorizer, &sink).await;
    (authorizer, sink, server)
}

fn address(begun: &Value) -> &str {
    begun["authorize_url"].as_str().expect("an authorize_url")
}

#[tokio::test]
async fn somebody_signs_in_and_the_connection_works_at_once() {
    let (authorizer, sink, server) = start().await;
    let before = standing(&server).await;
    assert_eq!(before["status"], "incomplete", "{before}");
    assert!(before["reason"].as_str().is_some_and(|reason| reason.contains("signed in")), "{before}");
    let fields = json!({ "client_id": true, "client_secret": true, "access_token": false, "refresh_token": false });
    assert_eq!((&before["fields"], &before["grant"]), (&fields, &Value::Null), "{before}");
    let refused = problem(&ask(&server).await);
    assert_eq!((refused.status, refused.code.as_str()), (424, "credential_missing"), "{}", refused.detail);

    sign_in(&server, &authorizer, "crm").await;
    assert_eq!(ask(&server).await.status, 200);
    assert_eq!(shown(&sink), format!("Bearer {}", authorizer.issued().access_token));
    let after = standing(&server).await;
    let fields = json!({ "client_id": true, "client_secret": true, "access_token": true, "refresh_token": true });
    assert_eq!((&after["status"], &after["reason"], &after["fields"]), (&json!("active"), &Value::Null, &fields));
    assert_eq!(after["grant"]["scopes"], json!(["read", "write"]), "{after}");
    assert!(after["grant"]["obtained_at"].is_string() && after["grant"]["expires_at"].is_string(), "{after}");
    let told = events(&server, "credential.authorize").await;
    assert_eq!((told.len(), &told[0]["detail"]["environment"]), (1, &json!("production")), "{told:?}");
    assert_eq!(authorizer.count(), 1);
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

/// With a tenth of the starts.
#[tokio::test]
async fn every_start_is_its_own_and_shows_no_secret_oa_01() {
    let (authorizer, _sink, server) = start().await;
    let (mut states, mut challenges, mut starts) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let admin = server.admin();
    for _ in 0..1000 {
        let begun =
            admin.must("POST", "connections/crm/authorize", json!({ "environment": "production" })).await.json();
        let query = address(&begun).to_owned();
        assert!(
            query.contains(&format!("redirect_uri=http%3A%2F%2F127.0.0.1%3A{}%2F", server.admin_address.tcp().port()))
        );
        states.insert(authorizer.consent(&query).state);
        let challenge = query.split('&').find_map(|pair| pair.strip_prefix("code_challenge=")).expect("a challenge");
        challenges.insert(challenge.to_owned());
        starts.insert(begun["start_url"].as_str().expect("a start_url").to_owned());
    }
    assert_eq!((states.len(), challenges.len(), starts.len()), (1000, 1000, 1000));
    assert_eq!((authorizer.count(), authorizer.sink.count()), (0, 0), "nothing is asked before somebody comes back");
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn only_the_browser_that_began_can_end_it_oa_03() {
    let (authorizer, sink, server) = start().await;
    let mut ada = user(&server, "ada@example.test", "editor", "seven wise cranes").await;
    let begun = ada.post("connections/crm/authorize", json!({ "environment": "production" })).await;
    assert_eq!(begun.status, 200, "{}", begun.text());
    let set = begun.all("set-cookie");
    let cookie = set.iter().find(|line| line.starts_with("sidekey-authorize=")).expect("a cookie");
    assert!(["HttpOnly", "SameSite=Lax"].iter().all(|attribute| cookie.contains(attribute)), "{cookie}");
    assert!(!cookie.contains("Secure"), "over http it would not come back: {cookie}");
    let answer = authorizer.consent(address(&begun.json()));

    let mut eve = Browser::new(&server);
    assert_eq!(come_back(&mut eve, &answer).await.status, 400, "without a cookie");
    eve.keep("sidekey-authorize", "guessed");
    assert_eq!(come_back(&mut eve, &answer).await.status, 400, "with a guessed one");
    let own = begin(&server, "crm", json!({ "environment": "production" })).await;
    follow(&mut eve, &own).await;
    assert_eq!(come_back(&mut eve, &answer).await.status, 400, "with one of a sign-in of her own");
    assert_eq!((authorizer.count(), ask(&server).await.status), (0, 424));

    let reply = come_back(&mut ada, &answer).await;
    assert_eq!(reply.status, 303, "the others did not use it up: {}", reply.text());
    assert_eq!((authorizer.count(), ask(&server).await.status), (1, 200));
    assert_eq!(shown(&sink), format!("Bearer {}", authorizer.issued().access_token));
    let told = events(&server, "credential.authorize").await;
    assert!(told[0]["actor"].as_str().is_some_and(|actor| actor.starts_with("usr_")), "{told:?}");
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn an_answer_counts_once_however_often_it_comes_oa_04() {
    let (authorizer, _sink, server) = start().await;
    for at_once in [1, 50] {
        let before = authorizer.count();
        let begun = begin(&server, "crm", json!({ "environment": "production" })).await;
        let mut browser = Browser::new(&server);
        let answer = authorizer.consent(&follow(&mut browser, &begun).await);
        let cookie = format!("sidekey-authorize={}", browser.cookie("sidekey-authorize").expect("a cookie"));
        let mut asking = JoinSet::new();
        for _ in 0..at_once {
            let (address, path, cookie) = (server.admin_address.clone(), answer.path.clone(), cookie.clone());
            asking.spawn(async move { get(address, &path, &[("Cookie", &cookie)]).await.status });
        }
        let mut answers = asking.join_all().await;
        answers.sort_unstable();
        assert_eq!(answers[0], 303, "{answers:?}");
        assert!(answers[1..].iter().all(|status| *status == 400), "{answers:?}");
        browser.keep("sidekey-authorize", cookie.split_once('=').expect("a cookie").1);
        assert_eq!(come_back(&mut browser, &answer).await.status, 400, "a second time");
        assert_eq!(authorizer.count(), before + 1);
    }
    assert_eq!(ask(&server).await.status, 200);
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn each_sign_in_has_a_verifier_of_its_own_oa_05() {
    let (authorizer, _sink, server) = start().await;
    let mut verifiers = BTreeSet::new();
    for number in 0..5 {
        sign_in(&server, &authorizer, "crm").await;
        let asked = authorizer.asked(number).await;
        assert_eq!((asked.must("grant_type"), asked.form.get("scope")), ("authorization_code", None));
        let callback = format!("http://{}/oauth/callback", server.admin_address);
        assert_eq!(asked.must("redirect_uri"), callback);
        verifiers.insert(asked.must("code_verifier").to_owned());
        // Some providers answer with a form to who does not say what they want.
        assert!(asked.header("accept").is_some_and(|accept| accept.contains("application/json")), "{asked:?}");
    }
    assert_eq!(verifiers.len(), 5);
    let shown = server.process().stderr();
    assert!(verifiers.iter().all(|verifier| !shown.contains(verifier)));
    // That it is the challenge's, and of the right length and letters, is what the other side looks at.
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn how_a_client_says_who_it_is_is_the_auth_methods_oa_13() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = server(&authorizer, &sink).await;
    let secret = Canary::new("odd");
    let odd = format!("{}:%+ é", secret.text());
    for (key, auth, secret) in [
        ("basic", ClientAuth::Basic, Some(odd.as_str())),
        ("body", ClientAuth::Body, Some(odd.as_str())),
        ("none", ClientAuth::None, None),
    ] {
        let id = format!("client/{key}:%+ é");
        authorizer.register(&id, secret, auth);
        let mut credential = json!({ "client_id": id });
        if let Some(secret) = secret {
            credential["client_secret"] = secret.into();
        }
        connect_as(&server.admin(), key, &method(&json!({ "client_auth": key })), credential).await;
        // At the first request, at a refresh, and where something is revoked.
        authorizer.terms(|terms| terms.expires_in = Some("0".to_owned()));
        sign_in(&server, &authorizer, key).await;
        let reply = get(server.proxy(), "/", &[("Sidekey-Connection", key)]).await;
        assert_eq!(reply.status, 200, "{key}: {}", reply.text());
        let revoked = server.admin().must("POST", &format!("connections/{key}/revoke"), json!({})).await.json();
        assert_eq!(revoked["revoked"][0]["provider"], "revoked", "{key}: {revoked}");
        assert_eq!(authorizer.faults(), Vec::<String>::new(), "{key}");
    }
    assert!(authorizer.sink.requests().iter().all(|seen| !seen.target.contains(secret.text())));
    authorizer.assert_content();
    server.finish(&[&authorizer.canaries()[..], &[&secret]].concat()).await;
}

/// OA-32.
#[tokio::test]
async fn the_scope_that_was_granted_is_shown_and_the_resource_is_named_everywhere_oa_32() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = server(&authorizer, &sink).await;
    let more = json!({
        "resource": "https://api.example.test",
        "authorize_params": { "access_type": "offline", "prompt": "a b&c" },
        "token_params": { "audience": "https://api.example.test/" },
    });
    connect(&server.admin(), &method(&more), client(&authorizer)).await;
    authorizer.terms(|terms| {
        (terms.scope, terms.expires_in) = (Some("read".to_owned()), Some("0".to_owned()));
    });
    let begun = begin(&server, "crm", json!({ "environment": "production" })).await;
    let query = address(&begun);
    for part in ["resource=https%3A%2F%2Fapi.example.test&", "access_type=offline&", "prompt=a+b%26c&"] {
        let spelled = [part.to_owned(), part.replace('+', "%20")];
        assert!(spelled.iter().any(|part| format!("{query}&").contains(part)), "no {part} in {query}");
    }
    assert!(query.contains("scope=read+write") || query.contains("scope=read%20write"), "{query}");
    sign_in(&server, &authorizer, "crm").await;
    assert_eq!(standing(&server).await["grant"]["scopes"], json!(["read"]));
    assert_eq!(ask(&server).await.status, 200);
    for number in 0..2 {
        let asked = authorizer.asked(number).await;
        assert_eq!(asked.must("resource"), "https://api.example.test");
        assert_eq!(asked.must("audience"), "https://api.example.test/");
        assert_eq!((asked.form.get("access_type"), asked.form.get("prompt")), (None, None));
    }
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}

#[tokio::test]
async fn who_may_enter_a_credential_may_begin_and_nobody_else() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = Sidekey::with(|config| {
        authorizer.pin(config.to(&sink));
        config.bearer("declared", "t");
    })
    .await;
    let admin = server.admin();
    connect(&admin, &method(&json!({})), client(&authorizer)).await;
    let body = || json!({ "environment": "production" });
    for (role, status) in [("viewer", 403), ("member", 403), ("editor", 200)] {
        let mut somebody = user(&server, &format!("{role}@example.test"), role, "seven wise cranes").await;
        let reply = somebody.post("connections/crm/authorize", body()).await;
        assert!(reply.status == status || (role == "member" && reply.status == 404), "{role}: {}", reply.text());
    }
    assert_eq!(admin.with_key("").post("connections/crm/authorize", body()).await.status, 401);
    let bearer = json!({ "method": "main", "type": "bearer" });
    admin.must("POST", "integrations", integration("plain", &bearer)).await;
    admin.must("POST", "connections", json!({ "key": "plain", "integration": "plain" })).await;
    admin.must("PUT", "connections/plain/credentials/production", json!({ "token": "t" })).await;
    for (connection, body, status, code) in [
        ("nope", body(), 404, "not_found"),
        ("crm", json!({ "environment": "nowhere" }), 422, "invalid"),
        ("crm", json!({ "environment": "production", "redirect_uri": "https://evil.test" }), 422, "invalid"),
        // Who the client is was not entered there.
        ("crm", json!({ "environment": "staging" }), 409, "conflict"),
        ("plain", body(), 409, "conflict"),
        ("declared", body(), 409, "conflict"),
    ] {
        let told = problem(&admin.post(&format!("connections/{connection}/authorize"), body.clone()).await);
        assert_eq!((told.status, told.code.as_str()), (status, code), "{connection} {body}: {}", told.detail);
    }
    server.finish(&authorizer.canaries()).await;
}

/// EX-27, for the addresses as they are written.
#[tokio::test]
async fn an_endpoint_is_an_https_address_and_nothing_else_ex_27() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = server(&authorizer, &sink).await;
    let admin = server.admin();
    for name in ["authorize_url", "token_url", "revoke_url"] {
        for url in [
            "http://auth.example.test/x",
            "https://auth.example.test/x?a=b",
            "https://auth.example.test/x#a",
            "https://me:pw@auth.example.test/x",
            "//auth.example.test/x",
            "auth.example.test/x",
            "ftp://auth.example.test/x",
            "https://*.example.test/x",
            "https://auth.example.test/@@SECRET:K@@",
            "",
        ] {
            let mut document = integration("crm", &method(&json!({ name: url })));
            document["plaintext"] = true.into();
            let refused = problem(&admin.post("integrations", document).await);
            assert_eq!((refused.status, refused.code.as_str()), (422, "invalid"), "{name} {url}");
            let pointer = refused.body["errors"][0]["pointer"].as_str().expect("a pointer");
            assert_eq!(pointer, format!("/auth/0/{name}"), "{url}: {}", refused.body);
        }
    }
    for more in [
        json!({ "token_url": null }),
        json!({ "authorize_url": null }),
        json!({ "grant": "client_credentials" }),
        json!({ "grant": "password" }),
        json!({ "client_auth": "both" }),
        json!({ "authorize_params": { "state": "x" } }),
        json!({ "authorize_params": { "redirect_uri": "https://evil.test" } }),
        json!({ "token_params": { "client_secret": "x" } }),
        json!({ "token_params": { "code_verifier": "x" } }),
        json!({ "scopes": ["a b"] }),
    ] {
        let refused = admin.post("integrations", integration("crm", &method(&more))).await;
        assert_eq!(refused.status, 422, "{more}: {}", refused.text());
    }
    server.finish(&[]).await;
}

/// EX-27, for the addresses that names lead to.
#[tokio::test]
async fn endpoints_are_reached_only_where_upstreams_may_be_ex_27() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    for allowed in [vec![], vec!["169.254.0.0/16", "fd00:ec2::/32"]] {
        let server = Sidekey::with(|config| {
            authorizer.pin(config.to(&sink));
            config.set("upstream.allow_networks", allowed.clone()).pin("metadata.example.test", "169.254.169.254:443");
        })
        .await;
        let port = authorizer.sink.addr.port();
        let urls = [
            format!("https://{AUTHORIZER}/token"),
            format!("https://127.0.0.1:{port}/token"),
            format!("https://[::1]:{port}/token"),
            format!("https://[::ffff:127.0.0.1]:{port}/token"),
            "https://169.254.169.254/token".to_owned(),
            "https://metadata.example.test/token".to_owned(),
        ];
        for (number, url) in urls.iter().enumerate() {
            let key = format!("c{number}");
            connect_as(
                &server.admin(),
                &key,
                &method(&json!({ "token_url": url, "revoke_url": url })),
                client(&authorizer),
            )
            .await;
            let begun = begin(&server, &key, json!({ "environment": "production" })).await;
            let mut browser = Browser::new(&server);
            let answer = authorizer.consent(&follow(&mut browser, &begun).await);
            let page = come_back(&mut browser, &answer).await;
            assert_eq!(page.status, 502, "{url}: {}", page.text());
            assert!(!page.text().contains("127.0.0.1") && !page.text().contains("169.254"), "{}", page.text());
            let mut brought = client(&authorizer);
            brought["refresh_token"] = authorizer.issue().refresh_token.into();
            server.admin().must("PUT", &format!("connections/{key}/credentials/production"), brought).await;
            let refused = problem(&get(server.proxy(), "/", &[("Sidekey-Connection", &key)]).await);
            assert_eq!((refused.status, refused.code.as_str()), (502, "token_endpoint_failed"), "{url}");
            let revoked = server.admin().must("POST", &format!("connections/{key}/revoke"), json!({})).await.json();
            assert_eq!(revoked["revoked"][0]["provider"], "pending", "{url}: {revoked}");
        }
        assert_eq!((authorizer.sink.connection_count(), sink.connection_count()), (0, 0));
        server.finish(&authorizer.canaries()).await;
    }
}

/// What was there is replaced by what is entered, and what somebody signs in for again replaces that.
#[tokio::test]
async fn entering_a_credential_again_takes_the_tokens_away() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = signed_in(&authorizer, &sink).await;
    let admin = server.admin();
    let first = authorizer.issued().access_token;
    sign_in(&server, &authorizer, "crm").await;
    assert_eq!(ask(&server).await.status, 200);
    assert_eq!(shown(&sink), format!("Bearer {}", authorizer.issued().access_token));
    assert_ne!(authorizer.issued().access_token, first);
    // An answer that comes after the client was replaced is one to another client's question.
    let begun = begin(&server, "crm", json!({ "environment": "production" })).await;
    let mut browser = Browser::new(&server);
    let answer = authorizer.consent(&follow(&mut browser, &begun).await);
    admin.must("PUT", CREDENTIAL, client(&authorizer)).await;
    let after = standing(&server).await;
    assert_eq!((&after["status"], &after["grant"]), (&json!("incomplete"), &Value::Null), "{after}");
    assert_eq!(ask(&server).await.status, 424);
    let page = come_back(&mut browser, &answer).await;
    assert_eq!(page.status, 409, "{}", page.text());
    assert_eq!(ask(&server).await.status, 424);
    let mut brought = client(&authorizer);
    brought["access_token"] = "brought-along".into();
    admin.must("PUT", CREDENTIAL, brought).await;
    assert_eq!((ask(&server).await.status, shown(&sink)), (200, "Bearer brought-along".to_owned()));
    let mut unknown = client(&authorizer);
    unknown["code_verifier"] = "x".into();
    assert_eq!(admin.put(CREDENTIAL, unknown).await.status, 422);
    server.finish(&authorizer.canaries()).await;
}

/// Everything of it, and it is what an export takes along and an import makes again.
#[tokio::test]
async fn what_is_written_of_an_authorization_server_is_shown_and_travels() {
    let (authorizer, sink) = (Authorizer::start().await, Sink::https().await);
    let server = signed_in(&authorizer, &sink).await;
    let admin = server.admin();
    let written = method(&json!({
        "grant": "authorization_code",
        "client_auth": "body",
        "authorize_params": { "access_type": "offline", "a": "b" },
        "token_params": { "audience": "https://api.example.test" },
        "resource": "https://api.example.test",
        "token_url": format!("https://{AUTHORIZER}/token/"),
        "issuer": format!("https://{AUTHORIZER}"),
    }));
    admin.must("POST", "integrations", integration("whole", &written)).await;
    let shown = admin.get("integrations/whole").await.json();
    for (name, value) in written.as_object().expect("an object") {
        assert_eq!(&shown["auth"][0][name], value, "{name}: {shown}");
    }
    let exported = admin.get("export").await;
    assert_eq!(exported.status, 200, "{}", exported.text());
    admin.must("POST", "organizations", json!({ "key": "other" })).await;
    admin.must("POST", "import?organization=other", exported.json()).await;
    let there = admin.get("integrations/whole?organization=other").await.json();
    assert_eq!(there["auth"], shown["auth"]);
    // A connection comes along, and nothing of what somebody signed in for.
    let connection = admin.get("connections/crm/credentials/production?organization=other").await.json();
    assert_eq!((&connection["status"], &connection["grant"]), (&json!("incomplete"), &Value::Null), "{connection}");
    server.finish(&authorizer.canaries()).await;
}

/// Somebody with two tabs.
#[tokio::test]
async fn a_browser_is_away_for_several_connections_at_once() {
    let (authorizer, _sink, server) = start().await;
    connect_as(&server.admin(), "other", &method(&json!({})), client(&authorizer)).await;
    let mut ada = user(&server, "ada@example.test", "editor", "seven wise cranes").await;
    let mut away = Vec::new();
    for connection in ["crm", "other"] {
        let path = format!("connections/{connection}/authorize");
        let begun = ada.post(&path, json!({ "environment": "production" })).await.json();
        away.push(authorizer.consent(address(&begun)));
    }
    let link = begin(&server, "crm", json!({ "environment": "production" })).await;
    let address = follow(&mut ada, &link).await;
    away.push(authorizer.consent(&address));
    for answer in &away {
        let page = come_back(&mut ada, answer).await;
        assert_eq!(page.status, 303, "{}", page.text());
    }
    assert_eq!(come_back(&mut ada, &away[0]).await.status, 400);
    for connection in ["crm", "other"] {
        assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", connection)]).await.status, 200);
    }
    assert_eq!(authorizer.count(), 3);
    authorizer.assert_content();
    server.finish(&authorizer.canaries()).await;
}
