//! Signing in at an identity provider.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::browser::token;
use crate::harness::provider::{PROVIDER, Provider, issuer};
use crate::harness::{Browser, Reply, Script, Sidekey, problem};

const EMAIL: &str = "ada@example.test";

async fn start() -> (Provider, Sidekey) {
    let provider = Provider::start().await;
    let server = Sidekey::with(|config| {
        provider.configure(config);
        config.set("admin.sign_in.per_account", 1000).set("admin.sign_in.per_address", 1000);
    })
    .await;
    (provider, server)
}

/// A parameter of an address.
fn parameter(address: &str, name: &str) -> String {
    let query = address.split_once('?').expect("a query").1;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no {name} in {address}")).1;
    percent_decode_str(&value.replace('+', " ")).decode_utf8().expect("text").into_owned()
}

async fn begin(browser: &mut Browser, body: Value) -> String {
    let reply = browser.post("sign-in/oidc", body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["authorize_url"].as_str().expect("an address").to_owned()
}

/// The claims of somebody who is signed in now.
fn claims(address: &str) -> Value {
    let now = jsonwebtoken::get_current_timestamp();
    json!({ "iss": issuer(), "aud": "sidekey", "sub": "248289761001", "exp": now + 300, "iat": now,
        "nonce": parameter(address, "nonce"), "email": EMAIL, "email_verified": true })
}

async fn back(browser: &mut Browser, address: &str) -> Reply {
    let state = parameter(address, "state");
    browser.open_from_elsewhere(&format!("/oidc/callback?code=a-code&state={state}")).await
}

/// Changes claims for the worse.
type Spoil = Box<dyn Fn(&mut Value)>;

/// A user who has followed their invitation.
async fn bound(provider: &Provider, server: &Sidekey) -> Browser {
    let body = json!({ "email": EMAIL, "method": "oidc", "roles": ["viewer"] });
    let invited = server.admin().must("POST", "users", body).await.json();
    let mut browser = Browser::new(server);
    let link = invited["link"].as_str().expect("a link");
    let address = begin(&mut browser, json!({ "token": token(link) })).await;
    provider.grant(&provider.sign("first", &claims(&address)));
    let reply = back(&mut browser, &address).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    browser
}

#[tokio::test]
async fn an_invitation_is_followed_at_the_provider_and_then_somebody_signs_in_there() {
    let (provider, server) = start().await;
    let mut ada = bound(&provider, &server).await;
    let me = ada.get("me").await.json();
    assert_eq!((&me["user"]["email"], &me["user"]["status"]), (&json!(EMAIL), &json!("active")));
    assert_eq!(ada.cookie("sidekey-sign-in"), None, "it has done its work");
    let mut again = Browser::new(&server);
    let address = begin(&mut again, json!({})).await;
    assert!(address.starts_with(&format!("https://{PROVIDER}/authorize?")), "{address}");
    assert_eq!(parameter(&address, "response_type"), "code");
    assert_eq!(parameter(&address, "client_id"), "sidekey");
    assert_eq!(parameter(&address, "scope"), "openid email profile");
    assert_eq!(parameter(&address, "redirect_uri"), format!("http://{}/oidc/callback", server.admin_address));
    assert_eq!(parameter(&address, "code_challenge_method"), "S256");
    provider.grant(&provider.sign("first", &claims(&address)));
    let page = back(&mut again, &address).await;
    assert_eq!((page.status, page.header("refresh")), (200, Some("0; url=/")));
    assert!(page.all("set-cookie").iter().any(|line| line.contains("SameSite=Strict")));
    assert_eq!(again.get("me").await.json()["user"]["email"], EMAIL);
    // The provider was shown who we are, and what only whoever began this knows.
    let asked = provider.sink.requests().into_iter().rfind(|seen| seen.target == "/token").expect("a code");
    let sent = String::from_utf8(asked.body.clone()).unwrap();
    let verifier = parameter(&format!("?{sent}"), "code_verifier");
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
    assert_eq!(challenge, parameter(&address, "code_challenge"));
    assert!(asked.header("authorization").expect("a secret").starts_with("Basic "));
    assert_eq!(parameter(&format!("?{sent}"), "code"), "a-code");
    // Nobody asks a provider twice for what it has said.
    let documents =
        provider.sink.requests().iter().filter(|seen| seen.target.ends_with("openid-configuration")).count();
    assert_eq!(documents, 1);
    // There is no password to change or to sign in with.
    let refused = again.post("sign-in", json!({ "email": EMAIL, "password": "seven wise cranes" })).await;
    assert_eq!(refused.status, 401);
    let change = json!({ "old": "seven wise cranes", "new": "eight wise cranes" });
    assert_eq!(again.call("PUT", "me/password", Some(change)).await.status, 409);
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_token_that_is_not_to_be_believed_lets_nobody_in() {
    let (provider, server) = start().await;
    bound(&provider, &server).await;
    let with = |name: &'static str, value: Value| {
        move |claims: &mut Value| {
            claims[name] = value.clone();
        }
    };
    let without = |name: &'static str| {
        move |claims: &mut Value| {
            claims.as_object_mut().unwrap().remove(name);
        }
    };
    let now = jsonwebtoken::get_current_timestamp();
    let cases: Vec<(&str, Spoil)> = vec![
        ("another issuer", Box::new(with("iss", json!("https://login.example.test")))),
        ("several issuers", Box::new(with("iss", json!([issuer(), "https://evil.test"])))),
        ("no issuer", Box::new(without("iss"))),
        ("another audience", Box::new(with("aud", json!("other")))),
        ("several audiences", Box::new(with("aud", json!(["sidekey", "other"])))),
        ("no audience", Box::new(without("aud"))),
        ("another party", Box::new(with("azp", json!("other")))),
        ("expired", Box::new(with("exp", json!(now - 120)))),
        ("no expiry", Box::new(without("exp"))),
        ("not yet", Box::new(with("nbf", json!(now + 600)))),
        ("from the future", Box::new(with("iat", json!(now + 600)))),
        ("another nonce", Box::new(with("nonce", json!("x")))),
        ("no nonce", Box::new(without("nonce"))),
        ("no subject", Box::new(without("sub"))),
        ("an empty subject", Box::new(with("sub", json!("")))),
        ("a stranger", Box::new(with("sub", json!("somebody-else")))),
    ];
    for (what, spoil) in cases {
        let mut browser = Browser::new(&server);
        let address = begin(&mut browser, json!({})).await;
        let mut claims = claims(&address);
        spoil(&mut claims);
        provider.grant(&provider.sign("first", &claims));
        let reply = back(&mut browser, &address).await;
        assert!(matches!(reply.status, 401 | 403), "{what}: {} {}", reply.status, reply.text());
        assert_eq!((browser.get("me").await.status, browser.cookie("sidekey-session")), (401, None), "{what}");
    }
    // By what nobody but the provider could have signed it.
    let key = provider.public_key("first").to_string();
    for what in ["none", "hs256", "cut", "unknown key", "changed"] {
        let mut browser = Browser::new(&server);
        let address = begin(&mut browser, json!({})).await;
        let good = provider.sign("first", &claims(&address));
        let parts: Vec<&str> = good.split('.').collect();
        let forged = match what {
            "none" => format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"first"}"#), parts[1]),
            "hs256" => {
                let mut header = Header::new(Algorithm::HS256);
                header.kid = Some("first".to_owned());
                jsonwebtoken::encode(&header, &claims(&address), &EncodingKey::from_secret(key.as_bytes())).unwrap()
            }
            "cut" => format!("{}.{}.{}", parts[0], parts[1], &parts[2][..20]),
            "unknown key" => provider.sign("second", &claims(&address)),
            _ => {
                let mut other = claims(&address);
                other["email"] = json!("eve@evil.test");
                format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(other.to_string()), parts[2])
            }
        };
        provider.grant(&forged);
        assert_eq!(back(&mut browser, &address).await.status, 401, "{what}");
        assert_eq!(browser.get("me").await.status, 401, "{what}");
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn an_answer_counts_once_and_in_the_browser_that_began() {
    let (provider, server) = start().await;
    bound(&provider, &server).await;
    let mut ada = Browser::new(&server);
    let address = begin(&mut ada, json!({})).await;
    provider.grant(&provider.sign("first", &claims(&address)));
    // A link with somebody's code, opened elsewhere, signs nobody in.
    let mut other = Browser::new(&server);
    assert_eq!(back(&mut other, &address).await.status, 400);
    other.keep("sidekey-sign-in", "guessed");
    assert_eq!(back(&mut other, &address).await.status, 400);
    assert_eq!(other.get("me").await.status, 401);
    let cookie = ada.cookie("sidekey-sign-in").unwrap().to_owned();
    assert_eq!(back(&mut ada, &address).await.status, 200, "it was not used up by the others");
    ada.keep("sidekey-sign-in", &cookie);
    assert_eq!(back(&mut ada, &address).await.status, 400, "it is now");
    for path in ["", "?state=x", "?code=x", "?code=x&state=", "?state=a&state=b&code=c", "?error=access_denied"] {
        let reply = ada.open_from_elsewhere(&format!("/oidc/callback{path}")).await;
        assert_eq!(reply.status, 400, "{path}");
        assert!(!reply.text().contains("access_denied"), "nothing of the address is shown");
    }
    let mut refused = Browser::new(&server);
    let address = begin(&mut refused, json!({})).await;
    let state = parameter(&address, "state");
    let path = format!("/oidc/callback?error=access_denied&state={state}");
    assert_eq!(refused.open_from_elsewhere(&path).await.status, 401);
    // An answer of another provider (RFC 9207).
    let address = begin(&mut refused, json!({})).await;
    let state = parameter(&address, "state");
    let path = format!("/oidc/callback?code=a-code&state={state}&iss=https%3A%2F%2Fevil.test");
    assert_eq!(refused.open_from_elsewhere(&path).await.status, 401);
    server.finish(&[]).await;
}

#[tokio::test]
async fn an_invitation_is_for_the_address_that_was_invited() {
    let (provider, server) = start().await;
    let body = json!({ "email": EMAIL, "method": "oidc", "roles": ["viewer"] });
    let invited = server.admin().must("POST", "users", body).await.json();
    let token = token(invited["link"].as_str().unwrap()).to_owned();
    for (name, value) in [("email", json!("eve@evil.test")), ("email_verified", json!(false))] {
        let mut eve = Browser::new(&server);
        let address = begin(&mut eve, json!({ "token": token })).await;
        let mut claims = claims(&address);
        claims[name] = value;
        provider.grant(&provider.sign("first", &claims));
        assert_eq!(back(&mut eve, &address).await.status, 403, "{name}");
    }
    let password = json!({ "token": token, "password": "seven wise cranes" });
    assert_eq!(Browser::new(&server).post("invite/accept", password).await.status, 409);
    let mut ada = Browser::new(&server);
    let address = begin(&mut ada, json!({ "token": token })).await;
    provider.grant(&provider.sign("first", &claims(&address)));
    assert_eq!(back(&mut ada, &address).await.status, 200, "it is still good for her");
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_provider_that_is_not_as_it_should_be_signs_nobody_in() {
    let (provider, server) = start().await;
    let refused = async || {
        let reply = Browser::new(&server).post("sign-in/oidc", json!({})).await;
        assert_eq!((reply.status, problem(&reply).code.as_str()), (502, "provider_unavailable"), "{}", reply.text());
    };
    provider.describe("https://evil.test");
    refused().await;
    let elsewhere = [("location", "https://login.example.test/other")];
    provider.sink.on("/realm/.well-known/openid-configuration", Script::respond(302, &elsewhere, ""));
    refused().await;
    assert!(provider.sink.requests().iter().all(|seen| seen.target != "/other"), "redirects are not followed");
    let large = json!({ "issuer": issuer(), "x": "y".repeat(600 << 10) }).to_string();
    provider.sink.on("/realm/.well-known/openid-configuration", Script::ok(&large));
    refused().await;
    provider.describe(&issuer());
    bound(&provider, &server).await;
    let mut ada = Browser::new(&server);
    provider.sink.on("/token", Script::respond(302, &elsewhere, ""));
    let address = begin(&mut ada, json!({})).await;
    assert_eq!(back(&mut ada, &address).await.status, 401);
    let error = json!({ "error": "invalid_grant", "error_description": "the-clients-secret" }).to_string();
    provider.sink.on("/token", Script::respond(400, &[("content-type", "application/json")], error));
    let address = begin(&mut ada, json!({})).await;
    assert_eq!(back(&mut ada, &address).await.status, 401);
    assert!(!server.process().stderr().contains("the-clients-secret"));
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_new_key_of_the_provider_is_known_at_once_and_unknown_ones_do_not_make_us_ask() {
    let (provider, server) = start().await;
    bound(&provider, &server).await;
    let sign_in = async |provider: &Provider, kid: &str| {
        let mut browser = Browser::new(&server);
        let address = begin(&mut browser, json!({})).await;
        provider.grant(&provider.sign(kid, &claims(&address)));
        back(&mut browser, &address).await.status
    };
    let asked = |provider: &Provider| provider.sink.requests().iter().filter(|seen| seen.target == "/keys").count();
    assert_eq!((sign_in(&provider, "first").await, asked(&provider)), (200, 1));
    // It signs with another key, and has published it just now.
    let (old, provider) = (provider.public_key("first"), provider.rotated());
    provider.publish(json!({ "keys": [old, provider.public_key("second")] }));
    assert_eq!((sign_in(&provider, "second").await, asked(&provider)), (200, 2));
    assert_eq!((sign_in(&provider, "second").await, asked(&provider)), (200, 2), "it is known now");
    assert_eq!(sign_in(&provider, "first").await, 401, "the new key under the name of the old one");
    for number in 0..20 {
        assert_eq!(sign_in(&provider, &format!("made-up-{number}")).await, 401);
    }
    assert_eq!(asked(&provider), 2, "whoever makes up keys is not asked for them");
    assert_eq!(sign_in(&provider, "second").await, 200, "nor does that harm anybody");
    server.finish(&[]).await;
}

#[tokio::test]
async fn the_provider_is_reached_only_where_upstreams_may_be() {
    let provider = Provider::start().await;
    let server = Sidekey::with(|config| {
        provider.configure(config);
        config.set("upstream.allow_networks", Vec::<String>::new());
    })
    .await;
    let reply = Browser::new(&server).post("sign-in/oidc", json!({})).await;
    assert_eq!((reply.status, provider.sink.connection_count()), (502, 0), "{}", reply.text());
    server.finish(&[]).await;
    for (key, value) in [("admin.oidc.issuer", "http://login.test"), ("admin.oidc.issuer", "https://a.test?x")] {
        let failed = Sidekey::try_with(|config| {
            config.set("admin.oidc.client_id", "x").set(key, value);
        });
        assert_eq!(failed.await.err().map(|failed| failed.code), Some(3), "{value}");
    }
}
