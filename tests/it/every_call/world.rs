//! Something of each kind, and for every call of the description a request that would succeed.

use std::fmt;

use serde_json::{Value, json};

use crate::admin::{bearer, integration};
use crate::api_keys::create;
use crate::harness::Sidekey;
use crate::harness::authorizer::journey;
use crate::harness::browser::user;

/// A call of the description.
pub(crate) struct Call {
    pub(crate) method: String,
    /// With placeholders.
    pub(crate) path: String,
    pub(crate) operation: Value,
}

impl fmt::Display for Call {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.method, self.path)
    }
}

impl Call {
    /// Whether it asks who is there.
    pub(crate) fn is_asked(&self) -> bool {
        self.operation.get("security").is_none()
    }

    pub(crate) fn takes_a_body(&self) -> bool {
        self.operation["requestBody"].is_object()
    }

    /// The path below the prefix.
    pub(crate) fn short(&self) -> &str {
        self.path.trim_start_matches("/api/v1/")
    }

    /// Whether it is this one, whose route is written as in the table of permissions.
    pub(crate) fn is(&self, method: &str, route: &str) -> bool {
        self.method == method && route.trim_start_matches('/') == self.short()
    }
}

/// Every call.
pub(crate) async fn calls(server: &Sidekey) -> Vec<Call> {
    let document = server.admin().get("openapi.json").await.json();
    let mut calls = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            let (method, path, operation) = (method.to_uppercase(), path.clone(), operation.clone());
            calls.push(Call { method, path, operation });
        }
    }
    assert!(calls.len() > 70, "{}", calls.len());
    calls
}

/// When a call's turn is where each is made once: first those that leave everything in place, then those that end
/// something, what others rely on last.
pub(crate) fn turn(call: &Call) -> usize {
    const ENDS: [&str; 16] = [
        "DELETE sessions/{session}",
        "DELETE users/{user}/sessions",
        "POST users/{user}/disable",
        "POST users/{user}/enable",
        "DELETE users/{user}",
        "POST api-keys/{api_key}/suspend",
        "POST api-keys/{api_key}/resume",
        "POST api-keys/{api_key}/revoke",
        "DELETE connections/{connection}/credentials/{environment}",
        "POST connections/{connection}/revoke",
        "DELETE connections/{connection}",
        "DELETE integrations/{slug}",
        "DELETE secrets/{key}/values/{environment}",
        "DELETE secrets/{key}",
        "DELETE environments/{environment}",
        "DELETE organizations/{organization}",
    ];
    let name = format!("{} {}", call.method, call.short());
    // Whoever has other roles is signed in no more.
    let early = name == ENDS[0];
    let place = ENDS.iter().position(|end| *end == name).map_or(1, |place| place + 2);
    if early { 0 } else { place }
}

/// Something of each kind.
pub(crate) struct World {
    user: String,
    api_key: String,
    session: String,
    connection: String,
    /// One that somebody can sign in for.
    signed_in: String,
}

impl World {
    /// Makes it, in the organization `default`.
    pub(crate) async fn make(server: &Sidekey) -> Self {
        let admin = server.admin();
        let mut somebody = user(server, "ada@example.test", "editor", "seven wise cranes").await;
        let me = somebody.get("me").await.json();
        let (api_key, _) = create(&admin, json!({ "name": "workflows" })).await;
        admin.must("POST", "organizations", json!({ "key": "acme" })).await;
        admin.must("POST", "environments", json!({ "name": "preview" })).await;
        let mut tested = integration("crm", bearer());
        tested["test"] = json!({ "method": "GET", "path": "/" });
        admin.must("POST", "integrations", tested).await;
        admin.must("PUT", "integrations/crm/values", json!({ "values": {} })).await;
        admin.must("POST", "secrets", json!({ "key": "K" })).await;
        admin.must("PUT", "secrets/K/values/production", json!({ "value": "v" })).await;
        let made = admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await;
        admin.must("PUT", "connections/crm/credentials/production", json!({ "token": "t" })).await;
        let method = journey::method(&json!({}));
        admin.must("POST", "integrations", journey::integration("mail", &method)).await;
        let mail = admin.must("POST", "connections", json!({ "key": "mail", "integration": "mail" })).await;
        let client = json!({ "client_id": "a", "client_secret": "b" });
        admin.must("PUT", "connections/mail/credentials/production", client).await;
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let (user, session) = (text(&me["id"]), text(&me["session"]));
        let (connection, signed_in) = (text(&made.json()["id"]), text(&mail.json()["id"]));
        World { user, api_key, session, connection, signed_in }
    }

    /// The path of a call, with what is there in the place of each placeholder.
    pub(crate) fn path(&self, call: &Call) -> String {
        self.path_with(call, |name| self.named(call, name))
    }

    /// What is there in the place of a placeholder.
    pub(crate) fn named(&self, call: &Call, placeholder: &str) -> String {
        match placeholder {
            "organization" => "acme".to_owned(),
            "environment" if call.short().starts_with("environments/") => "preview".to_owned(),
            "environment" => "production".to_owned(),
            "slug" => "crm".to_owned(),
            "connection" if call.short().ends_with("/authorize") => self.signed_in.clone(),
            "connection" => self.connection.clone(),
            "key" => "K".to_owned(),
            "user" => self.user.clone(),
            "api_key" => self.api_key.clone(),
            "session" => self.session.clone(),
            "number" => "1".to_owned(),
            other => panic!("{call}: what stands for {other}?"),
        }
    }

    /// The same, with what somebody else says in the place of each placeholder.
    pub(crate) fn path_with(&self, call: &Call, named: impl Fn(&str) -> String) -> String {
        let mut parts = call.path.split('{');
        let mut path = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_once('}').expect("the end of a placeholder");
            path += &named(name);
            path += rest;
        }
        path
    }

    /// A body with which a call succeeds.
    pub(crate) fn body(&self, call: &Call) -> Option<Value> {
        call.takes_a_body().then(|| match (call.method.as_str(), call.short()) {
            ("POST", "organizations") | ("PUT", "organizations/{organization}") => {
                json!({ "key": "acme", "name": "A" })
            }
            ("PUT", "organizations/{organization}/limits" | "api-keys/{api_key}/limits") => json!({ "per_minute": 60 }),
            ("POST", "users") => json!({ "email": "b@example.test", "roles": ["viewer"] }),
            ("PUT", "users/{user}") => json!({ "first_name": "Ada" }),
            ("PUT", "users/{user}/roles") => json!({ "roles": ["viewer"] }),
            ("PUT", "me/password") => json!({ "old": "seven wise cranes", "new": "eight wise cranes" }),
            ("POST", "environments") | ("PUT", "environments/{environment}") => json!({ "name": "preview" }),
            ("POST", "integrations") | ("PUT", "integrations/{slug}") => integration("crm", bearer()),
            ("PUT", "integrations/{slug}/values") => json!({ "values": {} }),
            ("POST", "connections") | ("PUT", "connections/{connection}") => {
                json!({ "key": "crm", "integration": "crm" })
            }
            ("PUT", "connections/{connection}/credentials/{environment}") => json!({ "token": "t" }),
            (
                "POST",
                "connections/{connection}/test"
                | "connections/{connection}/authorize"
                | "connections/{connection}/revoke",
            ) => json!({ "environment": "production" }),
            ("POST", "connections/{connection}/explain") => {
                json!({ "environment": "production", "method": "GET", "path": "/" })
            }
            ("POST", "secrets") | ("PUT", "secrets/{key}") => json!({ "key": "K", "description": "D" }),
            ("PUT", "secrets/{key}/values/{environment}") => json!({ "value": "v" }),
            ("POST", "api-keys") | ("PUT", "api-keys/{api_key}") => json!({ "name": "callers" }),
            ("PUT", "api-keys/{api_key}/scope") => json!({ "methods": ["GET"] }),
            ("POST", "api-keys/{api_key}/rotate") => json!({ "grace": "60s" }),
            ("POST", "import") => json!({ "version": 1, "integrations": [], "connections": [] }),
            ("POST", "sign-in") => json!({ "email": "ada@example.test", "password": "seven wise cranes" }),
            ("POST", "sign-in/oidc") => json!({ "token": "lnk_x" }),
            ("POST", "invite") => json!({ "token": "lnk_x" }),
            ("POST", "invite/accept") => json!({ "token": "lnk_x", "password": "seven wise cranes" }),
            _ => panic!("what is the body of {call}?"),
        })
    }

    /// The same, of something that is not there yet.
    pub(crate) fn new_body(&self, call: &Call) -> Option<Value> {
        let mut body = self.body(call)?;
        let name = match call.short() {
            "organizations" | "connections" => "key",
            "environments" => "name",
            "integrations" => "slug",
            "import" => {
                body["integrations"] = json!([integration("imported", bearer())]);
                return Some(body);
            }
            "secrets" => {
                body["key"] = json!("ANOTHER");
                return Some(body);
            }
            _ => return Some(body),
        };
        body[name] = json!("another");
        Some(body)
    }

    /// The same, of something that is in another state than it was.
    pub(crate) fn another_body(&self, call: &Call) -> Option<Value> {
        let mut body = self.body(call)?;
        let (name, value) = match call.short() {
            "environments/{environment}" => ("designer", json!(true)),
            "integrations/{slug}" => ("name", json!("Another")),
            "connections/{connection}" => ("name", json!("Another")),
            "users/{user}" => ("first_name", json!("Grace")),
            _ => return Some(body),
        };
        body[name] = value;
        Some(body)
    }
}
