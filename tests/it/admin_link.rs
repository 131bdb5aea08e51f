//! `sidekey admin-link`: the way in for who owns the vault's files.

use serde_json::json;

use crate::harness::browser::token;
use crate::harness::{Browser, Sidekey, problem};

const PASSWORD: &str = "seven wise cranes";

async fn link(server: &Sidekey, arguments: &[&str]) -> String {
    let ran = server.run_beside(&[&["admin-link"], arguments].concat(), "").await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let (line, rest) = ran.stdout.split_once('\n').expect("one line");
    assert_eq!(rest, "", "nothing but the link");
    line.to_owned()
}

#[tokio::test]
async fn it_makes_the_first_super_admin_once_ad_11() {
    let server = Sidekey::with(|_| {}).await;
    // The first start says how.
    server.process().stderr_line("the command", |line| line.contains("sidekey admin-link")).await;
    let made = link(&server, &[]).await;
    assert!(made.starts_with(&format!("http://{}/invite#lnk_", server.admin_address)), "{made}");
    // 43 characters of 62.
    assert_eq!(token(&made).rsplit('_').next().unwrap().len(), 43);
    let mut boss = Browser::new(&server);
    let purpose = boss.post("invite", json!({ "token": token(&made) })).await.json();
    assert_eq!((&purpose["purpose"], &purpose["organization"]), (&json!("admin"), &json!("default")));
    let nobody = boss.post("invite/accept", json!({ "token": token(&made), "password": PASSWORD })).await;
    assert_eq!(nobody.status, 422, "it does not say who");
    let who = json!({ "token": token(&made), "password": PASSWORD, "email": "boss@example.test", "first_name": "B" });
    let accepted = boss.post("invite/accept", who.clone()).await;
    assert_eq!((accepted.status, &accepted.json()["roles"]), (200, &json!(["super_admin"])), "{}", accepted.text());
    assert_eq!(boss.post("organizations", json!({ "key": "new" })).await.status, 201);
    let again = Browser::new(&server).post("invite/accept", who).await;
    assert_eq!((again.status, problem(&again).code.as_str()), (410, "gone"));
    let nowhere = server.run_beside(&["admin-link", "--organization", "nowhere"], "").await;
    assert_eq!((nowhere.code, nowhere.stdout.as_str()), (1, ""));
    assert!(nowhere.stderr.contains("there is no such organization"), "{}", nowhere.stderr);
    let elsewhere = link(&server, &["--organization", "new"]).await;
    let purpose = boss.post("invite", json!({ "token": token(&elsewhere) })).await.json();
    assert_eq!(purpose["organization"], "new");
    server.finish(&[]).await;
}

#[tokio::test]
async fn it_lets_a_super_admin_back_in_while_no_server_runs() {
    let mut server = Sidekey::with(|config| {
        config.set("admin.url", "http://localhost:7879");
    })
    .await;
    let first = link(&server, &[]).await;
    let who = |link: &str, password: &str| json!({ "token": token(link), "password": password, "email": "boss@example.test" });
    let mut boss = Browser::new(&server);
    assert_eq!(boss.post("invite/accept", who(&first, PASSWORD)).await.status, 200);
    let second = link(&server, &[]).await;
    let other = json!({ "token": token(&second), "password": PASSWORD, "email": "other@example.test" });
    assert_eq!(Browser::new(&server).post("invite/accept", other).await.status, 200);
    // Somebody takes their roles and their way in.
    let admin = server.admin();
    assert_eq!(admin.put("users/boss@example.test/roles", json!({ "roles": ["viewer"] })).await.status, 200);
    assert_eq!(admin.call("POST", "users/boss@example.test/disable", &[], None).await.status, 200);
    server.sigterm();
    server.wait_exit().await;
    let offline = link(&server, &[]).await;
    assert!(offline.starts_with("http://localhost:7879/invite#lnk_"), "{offline}");
    server.restart().await;
    boss.follow(&server);
    let back = boss.post("invite/accept", who(&offline, "eight wise cranes")).await;
    assert_eq!((back.status, &back.json()["status"]), (200, &json!("active")), "{}", back.text());
    assert_eq!(boss.get("organizations").await.status, 200);
    let users = boss.get("users").await.json();
    assert_eq!(users["items"].as_array().unwrap().len(), 2, "the same user as before");
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_link_is_of_use_for_as_long_as_is_said() {
    let server = Sidekey::with(|config| {
        config.set("admin.links.admin", "1ms").set("admin.links.invite", "1ms");
    })
    .await;
    let made = link(&server, &[]).await;
    let late = Browser::new(&server).post("invite", json!({ "token": token(&made) })).await;
    assert_eq!((late.status, late.text().contains("expired")), (410, true), "{}", late.text());
    let body = json!({ "email": "ada@example.test", "roles": ["viewer"] });
    let invited = server.admin().must("POST", "users", body).await.json();
    let body = json!({ "token": token(invited["link"].as_str().unwrap()), "password": PASSWORD });
    assert_eq!(Browser::new(&server).post("invite/accept", body).await.status, 410);
    server.finish(&[]).await;
}
