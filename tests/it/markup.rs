//! AD-07: markup in whatever people may name is text to everybody: documents say that they are JSON and are not to be
//! guessed about, and no page has anything in it that somebody else has written.

use serde_json::{Value, json};

use crate::admin::{bearer, integration};
use crate::api_keys::create;
use crate::harness::browser::{token, user};
use crate::harness::client::request;
use crate::harness::{Browser, Reply, Sidekey};

const MARKUP: [&str; 4] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "</title><svg onload=alert(1)>",
    "' onfocus=alert(1) autofocus x='{{7*7}}",
];

/// A document, and nothing a browser would take for something else.
fn check_document(reply: &Reply, what: &str) {
    let media = reply.header("content-type").expect("a media type");
    let kinds = ["application/json", "application/problem+json; charset=utf-8", "application/jsonl"];
    assert!(kinds.iter().any(|kind| media.starts_with(kind)), "{what}: {media}");
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{what}");
    let policy = reply.header("content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe"), "{what}: {policy}");
}

#[tokio::test]
async fn markup_in_names_is_text_in_every_document_and_in_no_page_ad_07() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    for (number, markup) in MARKUP.iter().enumerate() {
        let key = format!("k{number}");
        let mut crm = integration(&key, bearer());
        crm["name"] = json!(markup);
        admin.must("POST", "organizations", json!({ "key": key, "name": markup })).await;
        admin.must("POST", "integrations", crm).await;
        let connection = json!({ "key": key, "integration": key, "name": markup, "labels": [markup] });
        admin.must("POST", "connections", connection).await;
        admin.must("POST", "secrets", json!({ "key": format!("K{number}"), "description": markup })).await;
        create(&admin, json!({ "name": markup })).await;
        let email = format!("ada{number}@example.test");
        let person = json!({ "email": email, "first_name": markup, "last_name": markup, "roles": ["viewer"] });
        admin.must("POST", "users", person).await;
    }
    for path in ["organizations", "integrations", "connections", "secrets", "api-keys", "users", "audit", "export"] {
        let reply = admin.get(path).await;
        check_document(&reply, path);
        let text = reply.json().to_string();
        for markup in MARKUP {
            let quoted = Value::from(markup).to_string();
            assert!(text.contains(quoted.trim_matches('"')), "{path} has {markup} as it was written");
        }
    }
    check_document(&admin.get("audit/export").await, "audit/export");
    let mut pages = Vec::new();
    let mut ada = user(&server, "eve@example.test", "viewer", "seven wise cranes").await;
    for markup in MARKUP {
        let encoded: String = markup.bytes().map(|byte| format!("%{byte:02x}")).collect();
        // What is refused is told with what was written, in a document.
        for (method, path, body) in [
            ("GET", format!("connections/{encoded}"), None),
            ("GET", format!("connections?{encoded}=1"), None),
            ("GET", format!("connections?limit={encoded}"), None),
            ("POST", "connections".to_owned(), Some(json!({ "key": markup, "integration": markup, markup: markup }))),
            ("POST", "environments".to_owned(), Some(json!({ "name": markup }))),
            ("PUT", format!("secrets/{encoded}"), Some(json!({}))),
        ] {
            let reply = admin.call(method, &path, &[], body).await;
            assert!((400..500).contains(&reply.status), "{method} {path}: {}", reply.status);
            check_document(&reply, &path);
        }
        for path in [
            "/".to_owned(),
            format!("/sign-in?organization={encoded}&next={encoded}"),
            format!("/invite?{encoded}"),
            format!("/oidc/callback?state={encoded}&error={encoded}&error_description={encoded}"),
            format!("/oidc/callback?state={encoded}&code={encoded}"),
        ] {
            pages.push((path.clone(), ada.send("GET", &path, &[("Sec-Fetch-Site", "none")], None).await));
            pages.push((path.clone(), Browser::new(&server).send("GET", &path, &[], None).await));
        }
        let missing = request(&server.admin_address, "GET", &format!("/{encoded}"), &[], "").await;
        assert_eq!(missing.status, 404);
        check_document(&missing, "nothing");
    }
    for (path, page) in &pages {
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"), "{path}");
        let policy = page.header("content-security-policy").expect("a policy");
        assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe"), "{path}: {policy}");
        for part in ["alert", "onerror", "<svg", "<img", "7*7", "%3c"] {
            assert!(!page.text().to_lowercase().contains(part), "{path}: {}", page.text());
        }
    }
    server.finish(&[]).await;
}

/// What the pages show of others, such as to whom an invitation is, they write as text.
#[tokio::test]
async fn pages_have_no_way_to_make_markup_of_what_they_are_told_ad_07() {
    let server = Sidekey::with(|_| {}).await;
    let script = request(&server.admin_address, "GET", "/assets/people.js", &[], "").await.text();
    for sink in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "DOMParser",
        "createContextualFragment",
        "srcdoc",
        "eval(",
        "Function(",
        "setTimeout(\"",
        "setAttribute(\"on",
        "javascript:",
    ] {
        assert!(!script.contains(sink), "{sink}");
    }
    assert!(script.contains("textContent"));
    // The one address that the pages go to by what they were told must be a web server's.
    for (at, _) in script.match_indices("location.assign(") {
        let argument = &script[at + "location.assign(".len()..];
        let checked = script[..at].ends_with("if (begun.authorize_url.startsWith(\"https://\")) window.");
        assert!(argument.starts_with("\"/") || checked, "{}", &argument[..argument.len().min(40)]);
    }
    let name = "<script>alert(1)</script>";
    let person = json!({ "email": "ada@example.test", "first_name": name, "roles": ["viewer"] });
    let invited = server.admin().must("POST", "users", person).await.json();
    let link = token(invited["link"].as_str().expect("a link"));
    let told = Browser::new(&server).post("invite", json!({ "token": link })).await;
    check_document(&told, "an invitation");
    server.finish(&[]).await;
}
