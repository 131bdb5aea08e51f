//! Organizations beside each other: the same names in two of them never meet, and one at its limits is no other's concern.

use serde_json::{Value, json};

use crate::admin::{bearer, integration};
use crate::harness::{Canary, Client, Reply, Sidekey, Sink, get, problem};

const OTHERS: &str = "organization=other";

/// A server with a second organization, whose listener takes the keys of both.
async fn server(sink: &Sink) -> Sidekey {
    let server = Sidekey::with(|config| {
        config.listener("trust", "key").to(sink);
    })
    .await;
    server.admin().must("POST", "organizations", json!({ "key": "other" })).await;
    server
}

/// Makes the integration and connection `crm` of an organization, and a key for it.
async fn make(server: &Sidekey, organization: &str, token: &str) -> String {
    let admin = server.admin();
    let path = |path: &str| format!("{path}?{organization}");
    admin.must("POST", &path("integrations"), integration("crm", bearer())).await;
    admin.must("POST", &path("connections"), json!({ "key": "crm", "integration": "crm" })).await;
    admin.must("PUT", &path("connections/crm/credentials/production"), json!({ "token": token })).await;
    let made = admin.must("POST", &path("api-keys"), json!({ "name": "caller" })).await.json();
    made["key"].as_str().expect("a key").to_owned()
}

async fn ask(server: &Sidekey, key: &str, connection: &str) -> Reply {
    get(server.proxy(), "/", &[("Sidekey-Connection", connection), ("Sidekey-Key", key)]).await
}

/// TN-10.
#[tokio::test]
async fn the_same_names_in_two_organizations_never_meet_tn_10() {
    let (sink, ours, theirs) = (Sink::https().await, Canary::new("ours"), Canary::new("theirs"));
    let server = server(&sink).await;
    let admin = server.admin();
    let (our_key, their_key) = (make(&server, "", ours.text()).await, make(&server, OTHERS, theirs.text()).await);
    for (key, token) in [(&our_key, &ours), (&their_key, &theirs), (&our_key, &ours)] {
        assert_eq!(ask(&server, key, "crm").await.status, 200);
        let seen = sink.next_request().await;
        assert_eq!(seen.header("authorization"), Some(format!("Bearer {}", token.text()).as_str()));
    }
    // Taken is told of one's own names only.
    admin.must("POST", &format!("secrets?{OTHERS}"), json!({ "key": "THEIRS" })).await;
    admin.must("POST", &format!("connections?{OTHERS}"), json!({ "key": "theirs", "integration": "crm" })).await;
    admin.must("POST", "secrets", json!({ "key": "THEIRS" })).await;
    admin.must("POST", "connections", json!({ "key": "theirs", "integration": "crm" })).await;
    let taken = problem(&admin.post("connections", json!({ "key": "crm", "integration": "crm" })).await);
    assert_eq!((taken.status, taken.code.as_str()), (409, "conflict"));
    assert!(!taken.body.to_string().contains("other"), "{}", taken.body);
    // A key has one form: what only looks like another one is none.
    for name in ["CRM", "Crm", "crm ", "ｃｒｍ", "c\u{ad}rm", "crm\u{301}"] {
        let reply = admin.post("connections", json!({ "key": name, "integration": "crm" })).await;
        assert_eq!(reply.status, 422, "{name:?}: {}", reply.text());
    }
    let refused = problem(&ask(&server, &our_key, "CRM").await);
    assert_eq!((refused.status, refused.code.as_str()), (400, "tag_malformed"));
    // Deleting one of them leaves the other.
    assert_eq!(admin.delete("connections/crm").await.status, 204);
    assert_eq!(ask(&server, &our_key, "crm").await.status, 404);
    assert_eq!(ask(&server, &their_key, "crm").await.status, 200);
    server.finish(&[&ours, &theirs]).await;
}

/// TN-11: far more requests than its limits let pass.
#[tokio::test]
async fn an_organization_at_its_limits_is_no_other_ones_concern_tn_11() {
    const MANY: usize = 300;
    let sink = Sink::https().await;
    let server = server(&sink).await;
    let (ours, theirs) = (make(&server, "", "ours").await, make(&server, OTHERS, "theirs").await);
    server.admin().must("PUT", "organizations/other/limits", json!({ "per_minute": 5 })).await;
    let loud = async {
        let mut client = Client::connect(server.proxy()).await;
        let mut refused = 0;
        for _ in 0..MANY {
            client.request("GET", "/", &[("Sidekey-Connection", "crm"), ("Sidekey-Key", &theirs)], "").await;
            refused += usize::from(client.response().await.status == 429);
        }
        refused
    };
    let quiet = async {
        let mut client = Client::connect(server.proxy()).await;
        for number in 0..MANY {
            client.request("GET", "/", &[("Sidekey-Connection", "crm"), ("Sidekey-Key", &ours)], "").await;
            assert_eq!(client.response().await.status, 200, "request {number}");
        }
    };
    let (refused, ()) = tokio::join!(loud, quiet);
    assert!(refused >= MANY - 10, "{refused} of {MANY}");
    server.finish(&[]).await;
}

#[tokio::test]
async fn an_owner_of_a_connection_is_a_user_of_its_organization() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let document = json!({ "slug": "crm", "base_url": "https://api.example.test", "auth": [bearer()] });
    admin.must("POST", "integrations", document).await;
    admin.must("POST", "organizations", json!({ "key": "other" })).await;
    let user = async |at: &str, email: &str| {
        admin.must("POST", at, json!({ "email": email, "roles": ["member"] })).await.json()["id"].clone()
    };
    let own = user("users", "ada@example.test").await;
    let foreign = user("users?organization=other", "eve@example.test").await;
    let connection = |owner: &Value| json!({ "key": "crm", "integration": "crm", "owner": owner });
    let nobody = json!("usr_01jabcdefghjkmnpqrstvwxyz0");
    for owner in [&foreign, &nobody] {
        let reply = admin.post("connections", connection(owner)).await;
        assert_eq!((reply.status, problem(&reply).body["errors"][0]["pointer"].clone()), (422, json!("/owner")));
    }
    admin.must("POST", "connections", connection(&own)).await;
    for owner in [&foreign, &nobody] {
        let reply = admin.put("connections/crm", connection(owner)).await;
        assert_eq!((reply.status, problem(&reply).body["errors"][0]["pointer"].clone()), (422, json!("/owner")));
    }
    assert_eq!(admin.must("PUT", "connections/crm", connection(&own)).await.json()["owner"], own);
    server.finish(&[]).await;
}
