//! A client of the admin API, with the key the first start left behind.

use serde_json::Value;

use super::client::{Address, Raw, Reply, archive};

/// The admin port of one server.
pub struct Admin {
    address: Address,
    key: String,
}

impl Admin {
    /// A client for the admin port at `address`, showing `key`.
    pub fn new(address: Address, key: &str) -> Self {
        Self { address, key: key.to_owned() }
    }

    /// The same port with another key.
    pub fn with_key(&self, key: &str) -> Self {
        Self::new(self.address.clone(), key)
    }

    /// GET; a path without a leading `/` starts at `/api/v1/`.
    pub async fn get(&self, path: &str) -> Reply {
        self.call("GET", path, &[], None).await
    }

    /// POST with JSON.
    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.call("POST", path, &[], Some(body)).await
    }

    /// PUT with JSON.
    pub async fn put(&self, path: &str, body: Value) -> Reply {
        self.call("PUT", path, &[], Some(body)).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Reply {
        self.call("DELETE", path, &[], None).await
    }

    /// PUT or POST that must succeed; panics with the answer otherwise.
    pub async fn must(&self, method: &str, path: &str, body: Value) -> Reply {
        let reply = self.call(method, path, &[], Some(body)).await;
        assert!((200..300).contains(&reply.status), "{method} {path}: {} {}", reply.status, reply.text());
        reply
    }

    /// Any call, with headers of the test's choice besides the key.
    pub async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Reply {
        let mut headers = headers.to_vec();
        let body = body.map(|body| body.to_string());
        if body.is_some() {
            headers.push(("Content-Type", "application/json"));
        }
        self.send(method, path, &headers, body.unwrap_or_default()).await
    }

    /// Any call with any text, which need be no document; its type is among the headers.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], text: String) -> Reply {
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/api/v1/{path}") };
        let mut headers = headers.to_vec();
        if !self.key.is_empty() {
            headers.push(("X-API-Key", &self.key));
        }
        let mut raw = Raw::connect(&self.address).await;
        raw.offer(method, &path, &headers, text).await;
        let reply = answer(&mut raw).await;
        archive::keep(&self.address, &reply.body);
        reply
    }
}

/// An answer; of one that does not end, such as a tap, its head. Whoever wants more of it reads it from a client.
pub async fn answer(raw: &mut Raw) -> Reply {
    let mut reply = raw.head().await;
    if reply.header("content-type") == Some("text/event-stream") {
        return reply;
    }
    while let Some(piece) = raw.piece().await {
        reply.body.extend_from_slice(&piece);
    }
    reply
}
