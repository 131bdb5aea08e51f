//! Sessions: what their cookies say, how they end, and whose requests they count for.

use serde_json::{Value, json};

use crate::harness::browser::user;
use crate::harness::{Browser, Reply, Sidekey, problem, soon};

const PASSWORD: &str = "seven wise cranes";

fn told(reply: &Reply) -> (u16, String) {
    let problem = problem(reply);
    (problem.status, problem.code)
}

#[tokio::test]
async fn a_session_is_a_strict_cookie_that_no_script_reads_ad_04() {
    for (secure, name) in [(false, "sidekey-session"), (true, "__Host-sidekey-session")] {
        let server = Sidekey::with(|config| {
            if secure {
                config.set("admin.url", "https://sidekey.example.test");
            }
        })
        .await;
        let body = json!({ "email": "ada@example.test", "roles": ["viewer"] });
        let invited = server.admin().must("POST", "users", body).await.json();
        let link = invited["link"].as_str().unwrap();
        assert_eq!(link.starts_with("https://sidekey.example.test/invite#"), secure, "{link}");
        let mut ada = Browser::new(&server);
        let reply = ada.accept(link, PASSWORD).await;
        let lines = reply.all("set-cookie");
        let line = lines.iter().find(|line| line.starts_with(&format!("{name}=ses_"))).expect("a session's cookie");
        assert!(line.contains("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict"), "{line}");
        assert!(!line.contains("Domain") && line.contains("; Secure") == secure, "{line}");
        assert_eq!(ada.get("me").await.status, 200);
        // The other name is nobody's.
        let value = ada.cookie(name).unwrap().to_owned();
        let mut other = Browser::new(&server);
        other.keep(if secure { "sidekey-session" } else { "__Host-sidekey-session" }, &value);
        assert_eq!(other.get("me").await.status, 401);
        // Behind something that ends TLS, the page has the name that is configured.
        if secure {
            let headers = [("Host", "sidekey.example.test"), ("Origin", "https://sidekey.example.test")];
            assert_eq!(ada.send("POST", "sign-out", &headers, None).await.status, 204);
        }
        server.finish(&[]).await;
    }
}

#[tokio::test]
async fn a_session_changes_nothing_for_other_peoples_pages_ad_03_ad_04() {
    let server = Sidekey::with(|_| {}).await;
    let mut ada = user(&server, "ada@example.test", "super_admin", PASSWORD).await;
    let own = format!("http://{}", server.admin_address);
    let port = server.admin_address.tcp().port();
    let body = || Some(json!({ "key": "made" }));
    let refused = (403, "origin_not_allowed".to_owned());
    let neighbour = format!("http://127.0.0.1:{}", port ^ 1);
    for headers in [
        vec![],
        vec![("Origin", "null")],
        vec![("Origin", "https://evil.test")],
        vec![("Origin", neighbour.as_str())],
        vec![("Sec-Fetch-Site", "cross-site")],
        vec![("Sec-Fetch-Site", "same-site")],
        vec![("Sec-Fetch-Site", "none")],
        vec![("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")],
    ] {
        for (method, path) in [("POST", "organizations"), ("DELETE", "environments/staging"), ("PUT", "secrets/K")] {
            assert_eq!(told(&ada.send(method, path, &headers, body()).await), refused, "{method} {headers:?}");
        }
        assert_eq!(told(&ada.send("POST", "sign-out", &headers, None).await), refused, "{headers:?}");
    }
    for media in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        for (method, path) in [("POST", "organizations"), ("DELETE", "environments/staging")] {
            let headers = [("Origin", own.as_str()), ("Content-Type", media)];
            assert_eq!(told(&ada.send(method, path, &headers, body()).await).0, 415, "{method} {media}");
        }
    }
    for headers in [[("Origin", own.as_str())], [("Sec-Fetch-Site", "same-origin")]] {
        let key = json!({ "key": format!("made-{}", headers[0].0.to_lowercase()) });
        assert_eq!(ada.send("POST", "organizations", &headers, Some(key)).await.status, 201, "{headers:?}");
    }
    // An API key is no cookie: a program that shows one is no web page.
    assert_eq!(server.admin().post("organizations", json!({ "key": "by-key" })).await.status, 201);
    let wrong = Browser::new(&server).send("GET", "me", &[("Cookie", "sidekey-session=ses_x")], None).await;
    assert_eq!(told(&wrong), (401, "unauthenticated".to_owned()));
    server.finish(&[]).await;
}

#[tokio::test]
async fn sessions_are_listed_and_ended_one_by_one() {
    let server = Sidekey::with(|_| {}).await;
    let mut ada = user(&server, "ada@example.test", "viewer", PASSWORD).await;
    let mut second = Browser::new(&server);
    second.send("GET", "me", &[], None).await;
    second.sign_in("ada@example.test", PASSWORD).await;
    let mut boss = user(&server, "boss@example.test", "org_admin", PASSWORD).await;
    let listed = ada.get("sessions").await.json();
    insta::assert_json_snapshot!(listed, {
        ".items[].id" => "[id]", ".items[].user" => "[id]", ".items[].created_at" => "[time]",
        ".items[].used_at" => "[time]", ".items[].expires_at" => "[time]",
    });
    let sessions: Vec<&str> =
        listed["items"].as_array().unwrap().iter().map(|session| session["id"].as_str().unwrap()).collect();
    let first = ada.get("me").await.json()["session"].as_str().unwrap().to_owned();
    let other = sessions.iter().find(|session| **session != first).unwrap();
    // Nobody ends a stranger's; whoever manages users does.
    let bosses = boss.get("me").await.json()["session"].as_str().unwrap().to_owned();
    assert_eq!(ada.call("DELETE", &format!("sessions/{bosses}"), None).await.status, 404);
    assert_eq!(ada.call("DELETE", &format!("sessions/{other}"), None).await.status, 204);
    assert_eq!(second.get("me").await.status, 401);
    assert_eq!(boss.get("users/ada@example.test/sessions").await.json()["items"].as_array().unwrap().len(), 1);
    assert_eq!(boss.call("DELETE", &format!("sessions/{first}"), None).await.status, 204);
    assert_eq!(ada.get("me").await.status, 401);
    ada.sign_in("ada@example.test", PASSWORD).await;
    assert_eq!(boss.call("DELETE", "users/ada@example.test/sessions", None).await.status, 204);
    assert_eq!(ada.get("me").await.status, 401);
    // Signing out ends the session itself, not only the cookie.
    let token = boss.cookie("sidekey-session").unwrap().to_owned();
    assert_eq!(boss.post("sign-out", json!({})).await.status, 204);
    assert_eq!(boss.cookie("sidekey-session"), None);
    boss.keep("sidekey-session", &token);
    assert_eq!(boss.get("me").await.status, 401);
    assert_eq!(server.admin().get("sessions").await.json()["items"], json!([]));
    server.finish(&[]).await;
}

#[tokio::test]
async fn other_roles_and_a_new_password_end_sessions() {
    let server = Sidekey::with(|_| {}).await;
    let mut ada = user(&server, "ada@example.test", "editor", PASSWORD).await;
    let roles = json!({ "roles": ["viewer"] });
    assert_eq!(server.admin().put("users/ada@example.test/roles", roles).await.status, 200);
    assert_eq!(ada.get("me").await.status, 401);
    ada.sign_in("ada@example.test", PASSWORD).await;
    let mut second = Browser::new(&server);
    second.sign_in("ada@example.test", PASSWORD).await;
    let change = |old: &str, new: &str| Some(json!({ "old": old, "new": new }));
    assert_eq!(ada.call("PUT", "me/password", change("wrong", "eight wise cranes")).await.status, 401);
    assert_eq!(ada.call("PUT", "me/password", change(PASSWORD, "short")).await.status, 422);
    assert_eq!(ada.call("PUT", "me/password", change(PASSWORD, "eight wise cranes")).await.status, 204);
    assert_eq!((ada.get("me").await.status, second.get("me").await.status), (200, 401));
    assert_eq!(told(&server.admin().put("me/password", json!({ "old": "x", "new": "y" })).await).0, 403);
    server.finish(&[]).await;
}

#[tokio::test]
async fn sessions_end_by_themselves() {
    let server = Sidekey::with(|config| {
        config.set("admin.sessions.idle", "300ms").set("admin.sessions.lifetime", "30m");
    })
    .await;
    let mut ada = user(&server, "ada@example.test", "viewer", PASSWORD).await;
    let admin = server.admin();
    // Whoever looks from outside does not use it.
    let ended = async {
        while admin.get("users/ada@example.test/sessions").await.json()["items"] != json!([]) {
            tokio::task::yield_now().await;
        }
    };
    soon("an idle session's end", ended).await;
    assert_eq!(ada.get("me").await.status, 401);

    let server = Sidekey::with(|config| {
        config.set("admin.sessions.idle", "10m").set("admin.sessions.lifetime", "1500ms");
    })
    .await;
    let mut ada = user(&server, "ada@example.test", "viewer", PASSWORD).await;
    let used: Value = ada.get("me").await.json();
    assert_eq!(used["roles"], json!(["viewer"]));
    // However much it is used.
    let ended = async { while ada.get("me").await.status == 200 {} };
    soon("a session's end", ended).await;
    assert_eq!(ada.get("me").await.status, 401);
    server.finish(&[]).await;
}
