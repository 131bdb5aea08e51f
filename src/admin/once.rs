//! Requests that are done once: `Idempotency-Key` on every POST.
//!
//! A client that did not hear an answer sends its request again with the same key, and is told what it was told before,
//! without what is shown only once. The key is its sender's own, is bound to what the request said, and is kept for a
//! day; that the request was done is written together with what it did ([`crate::vault::answer`]).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::Value;
use zeroize::Zeroizing;

use super::Control;
use super::actor::Actor;
use super::document;
use super::error::AdminError;
use super::request::wrong;
use crate::vault::answer::{Answer, Once};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The longest key.
const LONGEST: usize = 255;
/// The largest document that is kept.
const LARGEST: usize = 256 * 1024;

/// Members of documents that are shown once and kept nowhere: one-time links. API keys are known by their form.
const SHOWN_ONCE: [&str; 1] = ["link"];

/// The requests with a key that are being done.
#[derive(Debug, Default)]
pub struct Begun(Mutex<HashSet<(String, String)>>);

/// A request that is being done, until this is dropped.
struct Doing<'a> {
    begun: &'a Begun,
    named: (String, String),
}

impl Begun {
    /// `None` where the same request is being done already.
    fn begin(&self, once: &Once) -> Option<Doing<'_>> {
        let named = (once.actor.clone(), once.key.clone());
        let mut begun = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        begun.insert(named.clone()).then(|| Doing { begun: self, named })
    }
}

impl Drop for Doing<'_> {
    fn drop(&mut self) {
        self.begun.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.named);
    }
}

/// Does a request that has a key once, and any other as it comes.
pub(super) async fn answer(State(control): State<Arc<Control>>, request: Request, next: Next) -> Response {
    if request.method() != Method::POST || !request.headers().contains_key(&KEY) {
        return next.run(request).await;
    }
    answer_once(&control, request, next).await.unwrap_or_else(IntoResponse::into_response)
}

async fn answer_once(control: &Control, request: Request, next: Next) -> Result<Response, AdminError> {
    let key = key(request.headers())?;
    let (mut parts, body) = request.into_parts();
    let body = document::collect_body(body).await?;
    let database = control.vault.database()?;
    let actor = parts.extensions.get_mut::<Actor>().ok_or(AdminError::Unauthenticated)?;
    let fingerprint = database.fingerprint(&said(&parts.uri, &parts.headers, &body)).await?;
    let once = Once { actor: actor.who.to_string(), key, fingerprint };
    let in_progress = || AdminError::Conflict("a request with this Idempotency-Key is being done".to_owned());
    let _doing = control.begun.begin(&once).ok_or_else(in_progress)?;
    if let Some(done) = database.done(&once.actor, &once.key).await? {
        if done.fingerprint != once.fingerprint {
            return Err(AdminError::KeyReused);
        }
        let lost = "this was done before, and the answer to it was lost; look whether it is there";
        return done.answer.map(again).ok_or_else(|| AdminError::Conflict(lost.to_owned()));
    }
    actor.once = Some(Box::new(once.clone()));
    let request = Request::from_parts(parts, Body::from(Bytes::from_owner(body)));
    keep(control, &once, next.run(request).await).await
}

/// What a request says, each part behind its length, so that no two requests say the same.
fn said(uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Zeroizing<Vec<u8>> {
    let (target, media) = (uri.to_string(), headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes));
    let mut said = Zeroizing::new(Vec::with_capacity(body.len() + target.len() + 512));
    for part in [target.as_bytes(), media.unwrap_or_default(), body] {
        said.extend_from_slice(&(part.len() as u64).to_be_bytes());
        said.extend_from_slice(part);
    }
    said
}

/// The key of a request: one, of visible characters.
fn key(headers: &HeaderMap) -> Result<String, AdminError> {
    let mut lines = headers.get_all(&KEY).iter();
    let key = lines.next().and_then(|line| line.to_str().ok()).unwrap_or_default();
    let is_key = (1..=LONGEST).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    if is_key && lines.next().is_none() {
        return Ok(key.to_owned());
    }
    Err(wrong(format!("Idempotency-Key stands once and has 1 to {LONGEST} visible ASCII characters")))
}

/// Keeps an answer for whoever asks again.
async fn keep(control: &Control, once: &Once, response: Response) -> Result<Response, AdminError> {
    if !response.status().is_success() {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, LARGEST).await.map_err(|_| AdminError::TooLarge)?;
    let text = |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let answer = Answer {
        status: parts.status.as_u16(),
        location: text(header::LOCATION),
        etag: text(header::ETAG),
        body: (!body.is_empty()).then(|| without_secrets(&body).to_string()),
    };
    // It is done, so it is answered as done, whether or not that can be kept.
    if let Err(error) = control.vault.database()?.keep_answer(once, answer).await {
        tracing::warn!(%error, "the answer to a request with an Idempotency-Key could not be kept");
    }
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// A document without what is shown only once. What looks like an API key is taken out wherever it stands.
fn without_secrets(body: &[u8]) -> Value {
    let mut document: Value = serde_json::from_slice(body).unwrap_or_default();
    if let Value::Object(members) = &mut document {
        members.retain(|name, _| !SHOWN_ONCE.contains(&name.as_str()));
    }
    remove_keys(&mut document);
    document
}

fn remove_keys(value: &mut Value) {
    // An id is `apk_` and 26 characters, a shown prefix one more; a key goes on.
    let is_key = |value: &Value| value.as_str().is_some_and(|text| text.starts_with("apk_") && text.len() > 31);
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !is_key(member));
            members.values_mut().for_each(remove_keys);
        }
        Value::Array(items) => {
            items.retain(|item| !is_key(item));
            items.iter_mut().for_each(remove_keys);
        }
        _ => {}
    }
}

/// The answer that was given before.
fn again(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let document: Option<Value> = answer.body.and_then(|body| serde_json::from_str(&body).ok());
    let mut response = match document {
        Some(document) => (status, Json(document)).into_response(),
        None => status.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    for (name, value) in [(header::LOCATION, answer.location), (header::ETAG, answer.etag)] {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_kept_has_nothing_that_is_shown_once() {
        let key = format!("apk_{}_{}", "0".repeat(26), "a".repeat(43));
        let id = format!("apk_{}", "0".repeat(26));
        let body = json!({ "id": id, "prefix": format!("{id}_"), "key": key, "link": "x", "name": "n", "deep": [{ "again": key }, key] });
        let kept = without_secrets(body.to_string().as_bytes());
        assert_eq!(kept, json!({ "id": id, "prefix": format!("{id}_"), "name": "n", "deep": [{}] }));
    }

    #[test]
    fn the_same_request_is_not_begun_twice_at_once() {
        let begun = Begun::default();
        let once = |key: &str| Once { actor: "a".to_owned(), key: key.to_owned(), fingerprint: [0; 32] };
        let doing = begun.begin(&once("k"));
        assert!(doing.is_some() && begun.begin(&once("k")).is_none() && begun.begin(&once("l")).is_some());
        drop(doing);
        assert!(begun.begin(&once("k")).is_some());
    }
}
