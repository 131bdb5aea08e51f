//! Signing in by a password: what is told, how often it may be tried, and the pages for it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::browser::user;
use crate::harness::client::get;
use crate::harness::{Browser, Reply, Sidekey, problem};

const PASSWORD: &str = "seven wise cranes";

async fn attempt(browser: &mut Browser, email: &str, password: &str) -> Reply {
    browser.post("sign-in", json!({ "email": email, "password": password })).await
}

#[tokio::test]
async fn whatever_is_wrong_is_told_in_the_same_words_and_time() {
    let server = Sidekey::with(|config| {
        config.set("admin.sign_in.per_account", 1000).set("admin.sign_in.per_address", 1000);
    })
    .await;
    user(&server, "ada@example.test", "viewer", PASSWORD).await;
    user(&server, "off@example.test", "viewer", PASSWORD).await;
    server.admin().call("POST", "users/off@example.test/disable", &[], None).await;
    let invited = json!({ "email": "new@example.test", "roles": ["viewer"] });
    server.admin().must("POST", "users", invited).await;
    let mut fastest = [Duration::MAX; 5];
    let cases = [
        ("default", "ada@example.test", "another password"),
        ("default", "nobody@example.test", PASSWORD),
        ("default", "off@example.test", PASSWORD),
        ("default", "new@example.test", PASSWORD),
        ("nowhere", "ada@example.test", PASSWORD),
    ];
    let mut bodies = Vec::new();
    for _ in 0..8 {
        for ((organization, email, password), fastest) in cases.iter().zip(&mut fastest) {
            let body = json!({ "organization": organization, "email": email, "password": password });
            let began = Instant::now();
            let reply = Browser::new(&server).post("sign-in", body).await;
            *fastest = began.elapsed().min(*fastest);
            assert_eq!((reply.status, problem(&reply).code.as_str()), (401, "sign_in_refused"), "{email}");
            bodies.push(problem(&reply).snapshot);
        }
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1);
    // A password is hashed for each of them, which is nearly all of the time: what is not hashed takes a tenth of it. The
    // machine may be busy with something else.
    assert!(fastest.iter().all(|time| *time * 4 > fastest[0]), "{fastest:?}");
    server.finish(&[]).await;
}

#[tokio::test]
async fn attempts_are_throttled_and_nobody_is_locked_out_ad_09() {
    let server = Sidekey::with(|config| {
        config.set("admin.sign_in.per_account", 5).set("admin.sign_in.per_address", 12);
    })
    .await;
    let mut ada = user(&server, "ada@example.test", "viewer", PASSWORD).await;
    let mut eve = Browser::new(&server);
    for _ in 0..5 {
        assert_eq!(attempt(&mut eve, "ada@example.test", "wrong wrong wrong").await.status, 401);
    }
    let throttled = attempt(&mut eve, "ada@example.test", PASSWORD).await;
    assert_eq!((throttled.status, problem(&throttled).code.as_str()), (429, "rate_limited"), "the right one too");
    let wait: u64 = throttled.header("retry-after").expect("how long to wait").parse().unwrap();
    assert!((1..=12).contains(&wait), "{wait}");
    // The real one goes on: in the open session, and where they were signed in before.
    assert_eq!(ada.get("me").await.status, 200);
    assert_eq!(ada.post("sign-out", json!({})).await.status, 204);
    ada.sign_in("ada@example.test", PASSWORD).await;
    // The mark of the browser is of one user and cannot be made.
    let mark = ada.cookie("sidekey-browser").expect("a mark").to_owned();
    let last = if mark.ends_with('0') { "1" } else { "0" };
    eve.keep("sidekey-browser", &format!("{}{last}", &mark[..mark.len() - 1]));
    assert_eq!(attempt(&mut eve, "ada@example.test", PASSWORD).await.status, 429);
    eve.forget("sidekey-browser");
    // An address has only so many, whomever it tries.
    let mut statuses = Vec::new();
    for number in 0..10 {
        statuses.push(attempt(&mut eve, &format!("user-{number}@example.test"), "wrong wrong wrong").await.status);
    }
    assert_eq!((statuses[0], statuses[9]), (401, 429), "{statuses:?}");
    ada.sign_in("ada@example.test", PASSWORD).await;
    // It is all in the audit log, and what was written as an address is not.
    let audit = server.admin().get("audit?limit=200").await;
    assert_eq!(audit.status, 200, "{}", audit.text());
    let events = audit.json();
    let actions = |action: &str| {
        let items = events["items"].as_array().unwrap();
        items.iter().filter(|event| event["action"] == action).count()
    };
    assert_eq!(actions("session.create"), 2);
    assert!(actions("session.refuse") >= 8 && !audit.text().contains("user-3@"), "{}", audit.text());
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_sign_in_is_small_flat_json_or_refused_ad_08() {
    let server = Sidekey::with(|_| {}).await;
    let mut browser = Browser::new(&server);
    for (body, status) in [
        (json!({}), 422),
        (json!([]), 422),
        (json!({ "email": 1, "password": ["x"] }), 422),
        (json!({ "email": "ada@example.test", "password": "x", "extra": true }), 422),
        (json!({ "email": "ada@example.test\r\nBcc: x@y.test", "password": "x" }), 422),
        (json!({ "email": "ada@example.test", "password": "x".repeat(100_000) }), 401),
        (json!({ "email": "ada@example.test", "password": "x".repeat(2 << 20) }), 413),
    ] {
        let reply = browser.post("sign-in", body.clone()).await;
        assert_eq!(reply.status, status, "{}", reply.text());
    }
    let headers = [("Content-Type", "text/plain")];
    assert_eq!(browser.send("POST", "sign-in", &headers, Some(json!({}))).await.status, 415);
    let foreign = [("Origin", "https://evil.test")];
    assert_eq!(browser.send("POST", "sign-in", &foreign, Some(json!({}))).await.status, 403);
    let ways: Value = browser.get("sign-in").await.json();
    assert_eq!(ways, json!({ "password": true, "oidc": false }));
    assert_eq!(browser.post("sign-in/oidc", json!({})).await.status, 404);
    server.finish(&[]).await;
}

#[tokio::test]
async fn the_pages_are_whole_and_take_nothing_from_elsewhere_ad_05_ad_22() {
    let server = Sidekey::with(|_| {}).await;
    let mut browser = Browser::new(&server);
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/sign-in", "text/html; charset=utf-8"),
        ("/invite", "text/html; charset=utf-8"),
        ("/assets/people.js", "text/javascript; charset=utf-8"),
        ("/assets/people.css", "text/css; charset=utf-8"),
    ] {
        let page = get(&server.admin_address, path, &[]).await;
        assert_eq!((page.status, page.header("content-type")), (200, Some(kind)), "{path}");
        for (name, value) in [
            (
                "content-security-policy",
                "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
            ),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(page.header(name), Some(value), "{path}");
        }
        let text = page.text();
        for inline in ["onclick", "onload", "style=", "<style", "javascript:", "innerHTML", "eval(", "localStorage"] {
            assert!(!text.contains(inline), "{path} has {inline}");
        }
        // What a page loads is there, and is ours.
        for (at, _) in text.match_indices("src=\"").chain(text.match_indices("href=\"")) {
            let target = text[at..].split('"').nth(1).unwrap();
            assert!(target.starts_with('/') && !target.starts_with("//"), "{path}: {target}");
            assert_eq!(get(&server.admin_address, target, &[]).await.status, 200, "{target}");
        }
        assert!(!text.contains("<script>"), "{path}");
    }
    // A person comes from a mail or an identity provider; a request of a foreign page's script is none of theirs.
    assert_eq!(browser.open_from_elsewhere("/invite").await.status, 200);
    assert_eq!(browser.open_from_elsewhere("/api/v1/sign-in").await.status, 403);
    for headers in [
        vec![("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Dest", "empty")],
        vec![("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe")],
        vec![("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "script")],
    ] {
        assert_eq!(browser.send("GET", "/invite", &headers, None).await.status, 403, "{headers:?}");
    }
    server.finish(&[]).await;
}
