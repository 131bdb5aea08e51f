//! A browser as far as signing in needs one: it keeps cookies, and says where its requests come from.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::admin::answer;
use super::client::{Address, Raw, Reply, archive};
use super::server::Sidekey;

/// A browser with a jar of its own, on a page of the server.
pub struct Browser {
    address: Address,
    cookies: BTreeMap<String, String>,
}

impl Browser {
    /// A browser that was never here.
    pub fn new(server: &Sidekey) -> Self {
        Self { address: server.admin_address.clone(), cookies: BTreeMap::new() }
    }

    /// The same jar after the server has moved to another port.
    pub fn follow(&mut self, server: &Sidekey) {
        self.address = server.admin_address.clone();
    }

    /// The value of a cookie.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        self.cookies.get(name).map(String::as_str)
    }

    /// Puts a cookie into the jar.
    pub fn keep(&mut self, name: &str, value: &str) {
        self.cookies.insert(name.to_owned(), value.to_owned());
    }

    /// Takes a cookie out of the jar.
    pub fn forget(&mut self, name: &str) {
        self.cookies.remove(name);
    }

    /// What a script of a page of ours asks.
    pub async fn call(&mut self, method: &str, path: &str, body: Option<Value>) -> Reply {
        let origin = format!("http://{}", self.address);
        self.send(method, path, &[("Origin", &origin), ("Sec-Fetch-Site", "same-origin")], body).await
    }

    /// GET by a script.
    pub async fn get(&mut self, path: &str) -> Reply {
        self.send("GET", path, &[("Sec-Fetch-Site", "same-origin")], None).await
    }

    /// POST by a script.
    pub async fn post(&mut self, path: &str, body: Value) -> Reply {
        self.call("POST", path, Some(body)).await
    }

    /// A navigation from a page of another site.
    pub async fn open_from_elsewhere(&mut self, path: &str) -> Reply {
        let headers = [
            ("Sec-Fetch-Site", "cross-site"),
            ("Sec-Fetch-Mode", "navigate"),
            ("Sec-Fetch-Dest", "document"),
            ("Sec-Fetch-User", "?1"),
        ];
        // The strict cookies stay at home.
        let mut stay = self.cookies.clone();
        stay.retain(|name, _| !travels(name));
        self.cookies.retain(|name, _| travels(name));
        let reply = self.send("GET", path, &headers, None).await;
        let came = std::mem::replace(&mut self.cookies, stay);
        self.cookies.extend(came);
        reply
    }

    /// An address that somebody types or pastes.
    pub async fn open(&mut self, path: &str) -> Reply {
        let headers = [
            ("Sec-Fetch-Site", "none"),
            ("Sec-Fetch-Mode", "navigate"),
            ("Sec-Fetch-Dest", "document"),
            ("Sec-Fetch-User", "?1"),
        ];
        self.send("GET", path, &headers, None).await
    }

    /// A request with headers of the test's choice, and the cookies.
    pub async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Reply {
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/api/v1/{path}") };
        let jar: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let jar = jar.join("; ");
        let mut headers = headers.to_vec();
        if !jar.is_empty() {
            headers.push(("Cookie", &jar));
        }
        let body = body.map(|body| body.to_string());
        if body.is_some() && !headers.iter().any(|(name, _)| *name == "Content-Type") {
            headers.push(("Content-Type", "application/json"));
        }
        let mut raw = Raw::connect(&self.address).await;
        raw.request(method, &path, &headers, body.unwrap_or_default()).await;
        let reply = answer(&mut raw).await;
        archive::keep(&self.address, &reply.body);
        for line in reply.all("set-cookie") {
            let (pair, attributes) = line.split_once(';').expect("attributes");
            let (name, value) = pair.split_once('=').expect("a name and a value");
            match attributes.contains("Max-Age=0;") {
                true => self.forget(name),
                false => self.keep(name, value),
            }
        }
        reply
    }

    /// Signs in by a password, which must succeed.
    pub async fn sign_in(&mut self, email: &str, password: &str) -> Reply {
        let reply = self.post("sign-in", json!({ "email": email, "password": password })).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply
    }

    /// Follows a link with a password, which must succeed.
    pub async fn accept(&mut self, link: &str, password: &str) -> Reply {
        let reply = self.post("invite/accept", json!({ "token": token(link), "password": password })).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply
    }
}

/// Whether a cookie goes with a navigation that another site's page began.
fn travels(name: &str) -> bool {
    name.ends_with("sign-in") || name.ends_with("authorize")
}

/// The token of a link.
pub fn token(link: &str) -> &str {
    link.split_once('#').expect("a token behind the #").1.trim()
}

/// Invites somebody with a role, lets them choose this password, and gives the browser they are signed in with.
pub async fn user(server: &Sidekey, email: &str, role: &str, password: &str) -> Browser {
    let invited = server.admin().must("POST", "users", json!({ "email": email, "roles": [role] })).await.json();
    let mut browser = Browser::new(server);
    browser.accept(invited["link"].as_str().expect("a link"), password).await;
    browser
}
