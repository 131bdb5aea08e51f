//! Export and import: by stable key between organizations, without secrets, all or nothing.

use serde_json::{Value, json};

use crate::admin::bearer;
use crate::api_keys::create;
use crate::harness::admin::Admin;
use crate::harness::client::Raw;
use crate::harness::sink::HOST;
use crate::harness::{Canary, Sidekey, Sink, get, problem};

fn integration(slug: &str, base: &str) -> Value {
    json!({ "slug": slug, "base_url": base, "auth": [bearer()], "fields": [{ "name": "region", "default": "eu" }] })
}

/// Two integrations and three connections in the first organization, with a token; and an empty second one.
async fn enter(admin: &Admin, token: &Canary) {
    admin.must("POST", "integrations", integration("crm", &format!("https://{HOST}/v1"))).await;
    admin.must("POST", "integrations", integration("erp", &format!("https://{HOST}/erp"))).await;
    let labelled = json!({ "key": "crm", "integration": "crm", "name": "Sales", "values": { "region": "us" } });
    admin.must("POST", "connections", labelled).await;
    admin.must("POST", "connections", json!({ "key": "erp", "integration": "erp" })).await;
    admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm", "customer": "acme" })).await;
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": token.text() })).await;
    admin.must("PUT", "secrets/SECRET", json!({})).await;
    admin.must("PUT", "secrets/SECRET/values/production", json!({ "value": token.text() })).await;
    admin.must("POST", "organizations", json!({ "key": "other", "name": "Other" })).await;
}

fn actions(result: &Value) -> Vec<&str> {
    let changes = result["changes"].as_array().expect("changes");
    changes.iter().map(|change| change["action"].as_str().expect("an action")).collect()
}

#[tokio::test]
async fn what_one_organization_exports_another_imports() {
    let (sink, token) = (Sink::https().await, Canary::spiky("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink).listener("customers", vec!["*"]);
    })
    .await;
    let admin = server.admin();
    enter(&admin, &token).await;
    let exported = admin.get("export").await.json();
    assert_eq!(exported["integrations"].as_array().map(Vec::len), Some(2));
    assert_eq!(exported["connections"].as_array().map(Vec::len), Some(3));
    assert!(!exported.to_string().contains("conn_") && !exported.to_string().contains("org_"), "{exported}");

    // A dry run tells and changes nothing.
    let dry = admin.must("POST", "import?organization=other&dry_run=true", exported.clone()).await.json();
    assert_eq!((&dry["applied"], actions(&dry)), (&json!(false), vec!["create"; 5]));
    assert_eq!(dry["changes"][0]["text"], "+ integration crm");
    assert_eq!(admin.get("export?organization=other").await.json()["connections"], json!([]));

    let done = admin.must("POST", "import?organization=other", exported.clone()).await.json();
    assert_eq!((&done["applied"], &done["created"]), (&json!(true), &json!(5)));
    assert_eq!(admin.get("export?organization=other").await.json(), exported, "the same on both sides");
    let shown = admin.get("connections/crm?organization=other").await.json();
    assert_eq!((&shown["name"], &shown["values"]["region"]), (&json!("Sales"), &json!("us")));
    assert_eq!(shown["environments"]["production"]["status"], "incomplete", "no credential came along");
    assert_eq!(admin.get("secrets?organization=other").await.json()["items"], json!([]));

    // Once more: nothing is to be done, and nothing is told to the audit log.
    let events = async || admin.get("audit/verify?organization=other").await.json()["count"].as_i64();
    let before = events().await;
    let again = admin.must("POST", "import?organization=other", exported).await.json();
    assert_eq!((&again["unchanged"], actions(&again)), (&json!(5), vec!["same"; 5]));
    assert_eq!(events().await, before);
    server.finish(&[&token]).await;
}

/// An integration whose connections lead to an account that is filled in once.
fn desk() -> Value {
    json!({
        "slug": "desk", "base_url": "https://{{ account }}.desk.example.test", "auth": [bearer()],
        "fields": [{ "name": "account" }, { "name": "plan", "required": false }],
    })
}

#[tokio::test]
async fn what_is_filled_in_once_goes_along_and_what_became_secret_does_not() {
    let server = Sidekey::with(|_| {}).await;
    let (admin, token) = (server.admin(), Canary::new("plan"));
    admin.must("POST", "integrations", desk()).await;
    let plan = json!({ "account": "acme", "plan": token.text() });
    admin.must("PUT", "integrations/desk/values", json!({ "values": plan })).await;
    admin.must("PUT", "integrations/gitlab/values", json!({ "values": { "host": "git.example.test" } })).await;
    let of_its_own = json!({ "key": "own", "integration": "desk", "values": { "plan": token.text() } });
    admin.must("POST", "connections", json!({ "key": "desk", "integration": "desk" })).await;
    admin.must("POST", "connections", of_its_own).await;
    admin.must("POST", "connections", json!({ "key": "lab", "integration": "gitlab", "auth": "token" })).await;
    let with_plan = admin.get("export").await.json();
    assert_eq!(with_plan["values"][0], json!({ "integration": "desk", "values": plan }));
    let again = admin.must("POST", "import?dry_run=true", with_plan).await.json();
    assert_eq!(actions(&again), ["same"; 6], "{again}");
    // A field that has become secret since is not told.
    let mut secret = desk();
    secret["fields"][1]["secret"] = json!(true);
    admin.must("PUT", "integrations/desk", secret).await;
    let exported = admin.get("export").await.json();
    assert!(!exported.to_string().contains(token.text()), "{exported}");
    let values = json!([
        { "integration": "desk", "values": { "account": "acme" } },
        { "integration": "gitlab", "values": { "host": "git.example.test" } },
    ]);
    assert_eq!(exported["values"], values);

    admin.must("POST", "organizations", json!({ "key": "other", "name": "Other" })).await;
    let dry = admin.must("POST", "import?organization=other&dry_run=true", exported.clone()).await.json();
    assert_eq!(actions(&dry), ["create"; 6]);
    assert_eq!(dry["changes"][1]["text"], "+ values desk");
    let done = admin.must("POST", "import?organization=other", exported.clone()).await.json();
    assert_eq!((&done["changes"], &done["applied"]), (&dry["changes"], &json!(true)));
    assert_eq!(admin.get("export?organization=other").await.json(), exported, "the same on both sides");
    let shown = admin.get("connections/desk?organization=other").await.json();
    assert_eq!(shown["effective_values"]["account"], "acme");
    let told = admin.get("audit?organization=other&action=integration.put_values").await.json();
    assert_eq!(told["items"].as_array().map(Vec::len), Some(2), "each is told to the audit log");

    // Another account is told, and that it leads elsewhere.
    let mut moved = exported.clone();
    moved["values"][0]["values"]["account"] = json!("zen");
    moved["values"][1]["values"] = json!({});
    let dry = admin.must("POST", "import?organization=other&dry_run=true", moved.clone()).await.json();
    assert_eq!(dry["changes"][1]["text"], "~ values desk: account: \"acme\" -> \"zen\"");
    assert!(dry["changes"][1]["note"].as_str().is_some_and(|note| note.contains("entered again")), "{dry}");
    assert_eq!(dry["changes"][2]["text"], "~ values gitlab: host: \"git.example.test\" -> none");
    admin.must("POST", "import?organization=other", moved).await;
    assert_eq!(admin.get("connections/desk?organization=other").await.json()["effective_values"]["account"], "zen");
    let again = admin.get("export?organization=other").await.json();
    assert_eq!(again["values"], json!([{ "integration": "desk", "values": { "account": "zen" } }]));
    // What the document does not name stays.
    let part = json!({ "version": 1, "integrations": again["integrations"], "connections": [] });
    admin.must("POST", "import?organization=other", part).await;
    assert_eq!(admin.get("export?organization=other").await.json(), again);
    drop(token);
    server.finish(&[]).await;
}

/// A user's own connection `mine`, by a key of theirs.
async fn make_personal(admin: &Admin) {
    let user = json!({ "email": "ada@example.test", "roles": ["member"] });
    let id = admin.must("POST", "users", user).await.json()["id"].clone();
    let (_, key) = create(admin, json!({ "name": "ada", "roles": ["member"], "owner": id })).await;
    admin.with_key(&key).must("POST", "connections", json!({ "key": "mine", "integration": "crm" })).await;
}

#[tokio::test]
async fn a_dry_run_refuses_what_the_import_refuses() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("declared", token.text());
    })
    .await;
    let admin = server.admin();
    admin.must("POST", "integrations", integration("crm", &format!("https://{HOST}/v1"))).await;
    admin.must("POST", "integrations?system=true", integration("common", &format!("https://{HOST}/all"))).await;
    admin.must("PUT", "integrations/common/values", json!({ "values": { "region": "us" } })).await;
    admin.must("POST", "connections", json!({ "key": "all", "integration": "common" })).await;
    make_personal(&admin).await;
    // What every organization has and what is one person's own stays where it is.
    let good = admin.get("export").await.json();
    let slugs = |list: &str, name: &str| -> Vec<Value> {
        good[list].as_array().expect("a list").iter().map(|item| item[name].clone()).collect()
    };
    assert_eq!((slugs("integrations", "slug"), slugs("connections", "key")), (vec![json!("crm")], vec![json!("all")]));
    assert_eq!(slugs("values", "integration"), ["common"]);
    // It can be in a document as it is, and not as something else.
    let with = |list: &str, item: Value| {
        let mut document = good.clone();
        document[list].as_array_mut().expect("a list").push(item);
        document
    };
    let github = admin.get("integrations/github").await.json();
    let mut github: Value = github.as_object().expect("a table").clone().into();
    for name in ["id", "source", "number"] {
        github.as_object_mut().expect("a table").remove(name);
    }
    let common = integration("common", &format!("https://{HOST}/all"));
    for same in [github.clone(), common.clone()] {
        let dry = admin.must("POST", "import?dry_run=true", with("integrations", same)).await.json();
        assert_eq!(actions(&dry), ["same"; 4], "{dry}");
    }
    let renamed = |mut document: Value| {
        document["name"] = json!("Another");
        document
    };
    let before = admin.get("audit/verify").await.json();
    for (pointer, document) in [
        ("/integrations/1", with("integrations", renamed(github))),
        ("/integrations/1", with("integrations", renamed(common))),
        ("/connections/1", with("connections", json!({ "key": "declared", "integration": "crm" }))),
        ("/connections/1", with("connections", json!({ "key": "mine", "integration": "crm", "name": "Mine" }))),
        ("/connections/1", with("connections", json!({ "key": "x", "integration": "nobody" }))),
        ("/values/1", with("values", json!({ "integration": "nobody", "values": {} }))),
        ("/values/1/values/planet", with("values", json!({ "integration": "crm", "values": { "planet": "x" } }))),
        ("/values/1", with("values", json!({ "integration": "common", "values": {} }))),
        ("/values/1/more", with("values", json!({ "integration": "crm", "values": {}, "more": 1 }))),
    ] {
        let dry = admin.post("import?dry_run=true", document.clone()).await;
        let done = admin.post("import", document).await;
        assert_eq!(dry.status, 422, "{pointer}: {}", dry.text());
        assert_eq!(problem(&dry).snapshot, problem(&done).snapshot, "{pointer}");
        let errors = problem(&dry).body["errors"].clone();
        assert_eq!(errors.as_array().map(Vec::len), Some(1), "{errors}");
        assert_eq!(errors[0]["pointer"], pointer, "{errors}");
    }
    assert_eq!(admin.get("audit/verify").await.json(), before, "nothing was done");
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn what_is_replaced_keeps_its_credential_and_the_difference_can_be_read() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink);
    })
    .await;
    let admin = server.admin();
    enter(&admin, &token).await;
    let mut document = admin.get("export?integration=crm").await.json();
    assert_eq!(document["connections"].as_array().map(Vec::len), Some(2));
    document["connections"][0]["name"] = json!("Marketing");
    let done = admin.must("POST", "import", document.clone()).await.json();
    assert_eq!(actions(&done), ["same", "replace", "same"]);
    let change = &done["changes"][1];
    assert_eq!(change["text"], "~ connection crm: name: \"Sales\" -> \"Marketing\"");
    assert_eq!((&change["before"], &change["after"]), (&json!({ "name": "Sales" }), &json!({ "name": "Marketing" })));
    assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", "crm")]).await.status, 200);
    assert_eq!(sink.next_request().await.header("authorization"), Some(&*format!("Bearer {}", token.text())));
    let told = admin.get("audit?limit=2").await.json();
    let actions: Vec<_> = told["items"].as_array().expect("items").iter().map(|event| &event["action"]).collect();
    assert_eq!(actions, ["import", "connection.replace"]);

    // Elsewhere is elsewhere: the credential stays behind, as when the integration is changed by hand.
    document["integrations"][0]["base_url"] = json!("https://elsewhere.example.test");
    let dry = admin.must("POST", "import?dry_run=true", document.clone()).await.json();
    assert!(dry["changes"][0]["note"].as_str().is_some_and(|note| note.contains("entered again")), "{dry}");
    admin.must("POST", "import", document).await;
    assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", "crm")]).await.status, 424);
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn an_import_with_a_mistake_changes_nothing_ad_17() {
    let token = Canary::new("token");
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    enter(&admin, &token).await;
    let good = admin.get("export").await.json();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut document = good.clone();
        change(&mut document);
        document
    };
    let theirs = admin.get("connections/crm").await.json()["id"].clone();
    let cases: Vec<(&str, Value)> = vec![
        ("/connections/0/id", with(&|document| document["connections"][0]["id"] = theirs.clone())),
        ("/connections/0/organization", with(&|document| document["connections"][0]["organization"] = json!("x"))),
        ("/connections/0/credentials", with(&|document| document["connections"][0]["credentials"] = json!({}))),
        ("/connections/1", with(&|document| document["connections"][1] = document["connections"][0].clone())),
        ("/connections/2", with(&|document| document["connections"][2]["integration"] = json!("nobody"))),
        ("/connections/2", with(&|document| document["connections"][2]["values"] = json!({ "planet": "x" }))),
        (
            "/connections/0",
            with(&|document| document["connections"][0]["owner"] = json!("usr_01jabcdefghjkmnpqrstvwxyz0")),
        ),
        ("/integrations/1", with(&|document| document["integrations"][1] = document["integrations"][0].clone())),
        ("/integrations/0/base_url", with(&|document| document["integrations"][0]["base_url"] = json!("file:///etc"))),
        ("/version", with(&|document| document["version"] = json!(2))),
        ("/version", with(&|document| drop(document.as_object_mut().expect("a table").remove("version")))),
        ("/more", with(&|document| document["more"] = json!(1))),
    ];
    for (pointer, document) in cases {
        let reply = admin.post("import?organization=other", document).await;
        assert_eq!(reply.status, 422, "{pointer}: {}", reply.text());
        let errors = problem(&reply).body["errors"].clone();
        let found = errors.as_array().expect("errors").iter().any(|error| error["pointer"] == pointer);
        assert!(found, "{pointer} is not in {errors}");
    }
    let nothing = json!({ "version": 1, "integrations": [], "values": [], "connections": [] });
    assert_eq!(admin.get("export?organization=other").await.json(), nothing);
    // What is wrong late in the document keeps what comes before it from being made.
    let mut taken = good.clone();
    taken["integrations"][1]["slug"] = json!("github");
    taken["connections"] = json!([]);
    assert_eq!(admin.post("import?organization=other", taken).await.status, 422, "every organization has that one");
    assert_eq!(admin.get("export?organization=other").await.json(), nothing);
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn an_import_is_bounded_ad_17() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let many: Vec<Value> = (0..2_001).map(|at| json!({ "key": format!("c{at}"), "integration": "x" })).collect();
    let too_many = json!({ "version": 1, "integrations": [], "connections": many });
    assert_eq!(admin.post("import", too_many).await.status, 422);
    // A GiB is refused by what it announces, and read not at all.
    let key = std::fs::read_to_string(server.folder().join("admin.key")).expect("admin.key");
    let mut raw = Raw::connect(&server.admin_address).await;
    let head = format!(
        "POST /api/v1/import HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\nContent-Type: application/json\r\n\
         Content-Length: 1073741824\r\n\r\n",
        key.trim()
    );
    raw.send(head).await;
    let reply = raw.response().await;
    assert_eq!((reply.status, problem(&reply).code.as_str()), (413, "body_too_large"));
    let values = json!({ "version": 1, "integrations": [], "connections": vec![0; 200_001] });
    assert_eq!(admin.post("import", values).await.status, 400);
    let mut deep = json!(1);
    for _ in 0..200 {
        deep = json!([deep]);
    }
    assert_eq!(admin.post("import", json!({ "version": 1, "connections": deep })).await.status, 400);
    server.finish(&[]).await;
}
