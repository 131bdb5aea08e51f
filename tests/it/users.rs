//! Users: invited, let in once, given roles, disabled, deleted; and never more than whoever does it may.

use serde_json::{Value, json};

use crate::harness::browser::{token, user};
use crate::harness::{Browser, Sidekey, problem};

/// A password that nobody would refuse.
const PASSWORD: &str = "seven wise cranes";

async fn invite(server: &Sidekey, email: &str, role: &str) -> Value {
    server.admin().must("POST", "users", json!({ "email": email, "roles": [role] })).await.json()
}

fn link(invited: &Value) -> &str {
    invited["link"].as_str().expect("a link")
}

#[tokio::test]
async fn an_invitation_lets_somebody_in_once() {
    let server = Sidekey::with(|_| {}).await;
    let body = json!({ "email": "Ada@Example.test", "first_name": "Ada", "last_name": "L.", "roles": ["editor"] });
    let reply = server.admin().must("POST", "users", body).await;
    let invited = reply.json();
    assert_eq!(reply.status, 201);
    assert_eq!(reply.header("location"), Some(format!("/api/v1/users/{}", invited["id"].as_str().unwrap()).as_str()));
    insta::assert_json_snapshot!(invited, {
        ".id" => "[id]", ".organization" => "[id]", ".created_at" => "[time]", ".link" => "[link]",
        ".link_expires_at" => "[time]",
    });
    let token = token(link(&invited)).to_owned();
    assert!(link(&invited).starts_with(&format!("http://{}/invite#lnk_", server.admin_address)));
    let mut ada = Browser::new(&server);
    // Looking does not use it up, a bad password does not either.
    let purpose = ada.post("invite", json!({ "token": token })).await;
    insta::assert_json_snapshot!("invite_purpose", purpose.json());
    let early = ada.post("sign-in", json!({ "email": "ada@example.test", "password": PASSWORD })).await;
    assert_eq!(problem(&early).code, "sign_in_refused");
    for weak in ["short", "ada@example.test", "aaaaaaaaaaaaaaaaaa", "password1234"] {
        let refused = ada.post("invite/accept", json!({ "token": token, "password": weak })).await;
        assert_eq!((refused.status, &refused.json()["errors"][0]["pointer"]), (422, &json!("/password")), "{weak}");
    }
    let accepted = ada.accept(link(&invited), PASSWORD).await;
    assert_eq!((&accepted.json()["status"], &accepted.json()["email"]), (&json!("active"), &json!("ada@example.test")));
    assert_eq!(ada.get("me").await.json()["user"]["roles"], json!(["editor"]));
    for path in ["invite", "invite/accept"] {
        let body = match path {
            "invite" => json!({ "token": token }),
            _ => json!({ "token": token, "password": "another long enough one" }),
        };
        let again = Browser::new(&server).post(path, body).await;
        assert_eq!(problem(&again).code, "gone", "{path}");
        assert_eq!(again.status, 410);
    }
    // What was given for a secret is in no file: the token, the session's, the password.
    let session = ada.cookie("sidekey-session").expect("a session").to_owned();
    let vault = std::fs::read(server.folder().join("sidekey.vault")).unwrap();
    let log = std::fs::read(server.folder().join("sidekey.vault-wal")).unwrap_or_default();
    for secret in [&token[token.len() - 43..], &session[session.len() - 43..], PASSWORD] {
        for bytes in [&vault, &log] {
            assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()));
        }
        assert!(!server.process().stderr().contains(secret));
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn of_two_who_follow_a_link_at_once_one_is_let_in_ad_11() {
    let server = Sidekey::with(|_| {}).await;
    let invited = invite(&server, "ada@example.test", "viewer").await;
    let body = json!({ "token": token(link(&invited)), "password": PASSWORD });
    let (mut one, mut other) = (Browser::new(&server), Browser::new(&server));
    let (first, second) =
        tokio::join!(one.post("invite/accept", body.clone()), other.post("invite/accept", body.clone()));
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    // Who came while the first was being let in is told that; who came after it, that the link is used.
    assert!(matches!(statuses, [200, 409 | 410]), "{statuses:?}");
    assert_eq!(Browser::new(&server).post("invite/accept", body).await.status, 410);
    for wrong in ["", "lnk_1_x", &format!("lnk_{}_{}", "0".repeat(26), "a".repeat(43)), "apk_x"] {
        let reply = one.post("invite", json!({ "token": wrong })).await;
        assert_eq!((reply.status, problem(&reply).code.as_str()), (404, "not_found"), "{wrong}");
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn nobody_gives_or_changes_roles_above_their_own() {
    let server = Sidekey::with(|_| {}).await;
    let mut boss = user(&server, "boss@example.test", "super_admin", PASSWORD).await;
    let mut admin = user(&server, "admin@example.test", "org_admin", PASSWORD).await;
    let mut editor = user(&server, "editor@example.test", "editor", PASSWORD).await;
    let refused = |reply: &crate::harness::Reply| (reply.status, problem(reply).code);
    let no = (403, "role_insufficient".to_owned());
    let body = |role: &str| json!({ "email": format!("{role}@new.test"), "roles": [role] });
    assert_eq!(refused(&admin.post("users", body("super_admin")).await), no);
    for role in ["org_admin", "editor", "member", "viewer", "caller"] {
        assert_eq!(admin.post("users", body(role)).await.status, 201, "{role}");
    }
    for (method, path, body) in [
        ("PUT", "users/boss@example.test", Some(json!({ "first_name": "x" }))),
        ("PUT", "users/boss@example.test/roles", Some(json!({ "roles": ["viewer"] }))),
        ("POST", "users/boss@example.test/disable", None),
        ("POST", "users/boss@example.test/invite", None),
        ("DELETE", "users/boss@example.test", None),
        ("DELETE", "users/boss@example.test/sessions", None),
        ("PUT", "users/admin@example.test/roles", Some(json!({ "roles": ["super_admin"] }))),
    ] {
        assert_eq!(refused(&admin.call(method, path, body).await), no, "{method} {path}");
    }
    assert_eq!(refused(&editor.get("users").await), no);
    assert_eq!(refused(&editor.post("users", body("viewer")).await), no);
    let promoted = boss.call("PUT", "users/admin@example.test/roles", Some(json!({ "roles": ["super_admin"] }))).await;
    assert_eq!(promoted.status, 200, "{}", promoted.text());
    server.finish(&[]).await;
}

#[tokio::test]
async fn the_last_super_admin_stays() {
    let server = Sidekey::with(|_| {}).await;
    let mut boss = user(&server, "boss@example.test", "super_admin", PASSWORD).await;
    // Somebody who was invited only cannot sign in and does not count.
    invite(&server, "later@example.test", "super_admin").await;
    let calls: [(&str, &str, Option<Value>); 4] = [
        ("PUT", "users/boss@example.test/roles", Some(json!({ "roles": ["org_admin"] }))),
        ("PUT", "users/boss@example.test", Some(json!({ "roles": ["viewer"] }))),
        ("POST", "users/boss@example.test/disable", None),
        ("DELETE", "users/boss@example.test", None),
    ];
    for (method, path, body) in &calls {
        let reply = boss.call(method, path, body.clone()).await;
        assert_eq!((reply.status, problem(&reply).code.as_str()), (409, "conflict"), "{method} {path}");
        let reply = server.admin().call(method, path, &[], body.clone()).await;
        assert_eq!(reply.status, 409, "a key cannot either");
    }
    user(&server, "other@example.test", "super_admin", PASSWORD).await;
    let (method, path, body) = &calls[2];
    assert_eq!(boss.call(method, path, body.clone()).await.status, 200);
    assert_eq!(server.admin().delete("users/other@example.test").await.status, 409, "now this one is the last");
    server.finish(&[]).await;
}

#[tokio::test]
async fn disabling_and_deleting_hold_for_the_very_next_request_tn_08() {
    let server = Sidekey::with(|_| {}).await;
    let mut ada = user(&server, "ada@example.test", "viewer", PASSWORD).await;
    let admin = server.admin();
    assert_eq!(ada.get("connections").await.status, 200);
    let disabled = admin.call("POST", "users/ada@example.test/disable", &[], None).await;
    assert_eq!((disabled.status, &disabled.json()["status"]), (200, &json!("disabled")));
    assert_eq!(ada.get("connections").await.status, 401);
    let refused = ada.post("sign-in", json!({ "email": "ada@example.test", "password": PASSWORD })).await;
    assert_eq!(problem(&refused).code, "sign_in_refused");
    let renewed = admin.call("POST", "users/ada@example.test/invite", &[], None).await.json();
    let followed = ada.post("invite/accept", json!({ "token": token(link(&renewed)), "password": PASSWORD })).await;
    assert_eq!(followed.status, 410, "a link does not enable anybody");
    assert_eq!(admin.call("POST", "users/ada@example.test/enable", &[], None).await.json()["status"], "active");
    assert_eq!(ada.get("connections").await.status, 401, "what has ended does not come back");
    ada.sign_in("ada@example.test", PASSWORD).await;
    assert_eq!(admin.delete("users/ada@example.test").await.status, 204);
    assert_eq!(ada.get("connections").await.status, 401);
    assert_eq!(admin.get("users/ada@example.test").await.status, 404);
    // Who never came in is invited again, not active, when they are enabled.
    let waiting = invite(&server, "bob@example.test", "viewer").await;
    let bob = format!("users/{}", waiting["id"].as_str().unwrap());
    admin.call("POST", &format!("{bob}/disable"), &[], None).await;
    assert_eq!(admin.call("POST", &format!("{bob}/enable"), &[], None).await.json()["status"], "invited");
    server.finish(&[]).await;
}

#[tokio::test]
async fn keys_that_belong_to_somebody_stop_with_them_tn_08() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let mut ada = user(&server, "ada@example.test", "viewer", PASSWORD).await;
    let owner = ada.get("me").await.json()["id"].clone();
    let made =
        admin.must("POST", "api-keys", json!({ "name": "hers", "roles": ["viewer"], "owner": owner })).await.json();
    let key = server.admin().with_key(made["key"].as_str().expect("the key, once"));
    let named = format!("api-keys/{}", made["id"].as_str().expect("an id"));
    assert_eq!(key.get("connections").await.status, 200);
    assert_eq!(admin.call("POST", "users/ada@example.test/disable", &[], None).await.status, 200);
    assert_eq!(
        (key.get("connections").await.status, &admin.get(&named).await.json()["status"]),
        (401, &json!("suspended"))
    );
    assert_eq!(admin.call("POST", "users/ada@example.test/enable", &[], None).await.status, 200);
    assert_eq!(key.get("connections").await.status, 401, "somebody has to look at it first");
    assert_eq!(admin.delete("users/ada@example.test").await.status, 204);
    assert_eq!(admin.get(&named).await.json()["status"], "revoked");
    server.finish(&[]).await;
}

#[tokio::test]
async fn keys_do_no_more_than_their_owner_may_from_then_on() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let mut ada = user(&server, "ada@example.test", "org_admin", PASSWORD).await;
    let owner = ada.get("me").await.json()["id"].clone();
    let make = async |roles: &[&str]| {
        let made =
            admin.must("POST", "api-keys", json!({ "name": "hers", "roles": roles, "owner": owner })).await.json();
        let key = server.admin().with_key(made["key"].as_str().expect("the key, once"));
        (key, format!("api-keys/{}", made["id"].as_str().expect("an id")))
    };
    let (mighty, named) = make(&["org_admin"]).await;
    let (modest, _) = make(&["viewer"]).await;
    let (caller, _) = make(&["caller"]).await;
    assert_eq!(mighty.get("users").await.status, 200);
    let demoted = admin.call("PUT", "users/ada@example.test", &[], Some(json!({ "roles": ["viewer"] }))).await;
    assert_eq!(demoted.status, 200, "{}", demoted.text());
    assert_eq!(mighty.get("users").await.status, 401);
    assert_eq!(admin.get(&named).await.json()["status"], "suspended");
    assert_eq!(modest.get("connections").await.status, 200);
    assert_eq!(caller.get("connections").await.status, 403, "it is still known");
    // Nobody gets a key of somebody who is disabled, and none of theirs is resumed.
    assert_eq!(admin.call("POST", "users/ada@example.test/disable", &[], None).await.status, 200);
    let body = json!({ "name": "new", "roles": ["viewer"], "owner": owner });
    assert_eq!(admin.call("POST", "api-keys", &[], Some(body)).await.status, 409);
    assert_eq!(admin.call("POST", &format!("{named}/resume"), &[], None).await.status, 409);
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_new_link_is_the_only_one_and_a_new_password_ends_old_sessions() {
    let server = Sidekey::with(|_| {}).await;
    let first = invite(&server, "ada@example.test", "viewer").await;
    let renewed = server.admin().call("POST", "users/ada@example.test/invite", &[], None).await.json();
    let old = Browser::new(&server).post("invite", json!({ "token": token(link(&first)) })).await;
    assert_eq!(old.status, 404);
    let mut ada = Browser::new(&server);
    ada.accept(link(&renewed), PASSWORD).await;
    let reset = server.admin().call("POST", "users/ada@example.test/invite", &[], None).await.json();
    assert_eq!(ada.get("me").await.status, 200, "until it is followed all stays as it was");
    let mut again = Browser::new(&server);
    again.accept(link(&reset), "eight wise cranes").await;
    assert_eq!(ada.get("me").await.status, 401);
    let refused = ada.post("sign-in", json!({ "email": "ada@example.test", "password": PASSWORD })).await;
    assert_eq!(refused.status, 401);
    ada.sign_in("ada@example.test", "eight wise cranes").await;
    server.finish(&[]).await;
}

#[tokio::test]
async fn organizations_do_not_see_each_others_users_tn_01() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    admin.must("POST", "organizations", json!({ "key": "other" })).await;
    let mut ours = user(&server, "ada@example.test", "org_admin", PASSWORD).await;
    let body = json!({ "email": "ada@example.test", "roles": ["org_admin"] });
    let theirs = admin.must("POST", "users?organization=other", body).await.json();
    let mut other = Browser::new(&server);
    other.accept(link(&theirs), "eight wise cranes").await;
    // One address, two users: the organization says which.
    let mut signed = Browser::new(&server);
    let in_other = json!({ "organization": "other", "email": "ada@example.test", "password": "eight wise cranes" });
    assert_eq!(signed.post("sign-in", in_other).await.json()["id"], theirs["id"]);
    let in_default = json!({ "email": "ada@example.test", "password": "eight wise cranes" });
    assert_eq!(Browser::new(&server).post("sign-in", in_default).await.status, 401);
    let unknown = ours.get("users/usr_00000000000000000000000000").await;
    let foreign = ours.get(&format!("users/{}", theirs["id"].as_str().unwrap())).await;
    assert_eq!((unknown.status, unknown.said()), (404, foreign.said()));
    let delete = ours.call("DELETE", &format!("users/{}", theirs["id"].as_str().unwrap()), None).await;
    assert_eq!(delete.status, 404);
    assert_eq!(ours.get("users").await.json()["items"].as_array().unwrap().len(), 1);
    assert_eq!(ours.get("users?organization=other").await.status, 404);
    let full = admin.delete("organizations/other").await;
    assert_eq!((full.status, full.text().contains("1 users")), (409, true), "{}", full.text());
    server.finish(&[]).await;
}

#[tokio::test]
async fn every_mistake_in_an_invitation_is_told_at_once() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let body = json!({ "email": "no address", "first_name": 3, "method": "oidc", "roles": ["king"], "x": 1 });
    let reply = admin.post("users", body).await;
    assert_eq!(reply.status, 422);
    insta::assert_json_snapshot!(reply.json()["errors"]);
    for body in [json!({ "email": "a@b.test" }), json!({ "email": "a@b.test", "roles": [] })] {
        assert_eq!(admin.post("users", body).await.status, 422);
    }
    admin.must("POST", "users", json!({ "email": "a@b.test", "roles": ["viewer"] })).await;
    let twice = admin.post("users", json!({ "email": "A@B.test", "roles": ["viewer"] })).await;
    assert_eq!(twice.status, 409);
    for path in ["users/nobody@b.test", "users/nope", "users/usr_1", "users/%00"] {
        assert_eq!(admin.get(path).await.status, 404, "{path}");
    }
    let page = admin.get("users?limit=1").await.json();
    assert_eq!(page["next"], Value::Null);
    server.finish(&[]).await;
}
