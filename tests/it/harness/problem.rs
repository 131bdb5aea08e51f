//! Reads the answers that are Sidekey's own (CONTRACT §2.6), for assertions and for snapshots.

use serde_json::Value;

use super::Reply;

/// A parsed problem document.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The status of the response, equal to the one in the document.
    pub status: u16,
    /// The code, equal in body, `error.code` and (on the proxy port) the `Sidekey-Error` header.
    pub code: String,
    /// The text for people.
    pub detail: String,
    /// The request id, equal to the `Sidekey-Request-Id` header where there is one.
    pub request_id: String,
    /// The whole document.
    pub body: Value,
    /// The same with its request id replaced, for `insta::assert_json_snapshot!`.
    pub snapshot: Value,
}

/// Parses an own answer; panics with the whole reply where it is none, or where its parts disagree.
pub fn problem(reply: &Reply) -> Problem {
    let shown = || format!("{} {:?} {}", reply.status, reply.headers, reply.text());
    let media_type = reply.header("content-type").unwrap_or_default();
    assert!(media_type.starts_with("application/problem+json"), "no problem document: {}", shown());
    let body = reply.json();
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (code, request_id) = (text("/code"), text("/request_id"));
    assert_eq!(body["status"], reply.status, "the document names another status: {}", shown());
    assert!(!code.is_empty(), "no code: {}", shown());
    if let Some(header) = reply.header("sidekey-error") {
        assert_eq!(header, code, "the header names another code: {}", shown());
    }
    if let Some(header) = reply.header("sidekey-request-id") {
        assert_eq!(header, request_id, "the header names another request: {}", shown());
    }
    let mut snapshot = body.clone();
    if let Some(id) = snapshot.get_mut("request_id") {
        *id = Value::from("[request id]");
    }
    Problem { status: reply.status, code, detail: text("/detail"), request_id, body, snapshot }
}
