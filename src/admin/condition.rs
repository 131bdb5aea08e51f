//! Versions over HTTP: `ETag` on what is read, `If-Match` and `If-None-Match` on what is changed (RFC 9110 §13).
//!
//! What a request expects goes into the change, whose own transaction judges it: two changes that expect the same version
//! cannot both be made. A change that looks at no version is not made at all.

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::IntoParams;

use super::error::AdminError;
use super::request::wrong;
use crate::model::version::Version;
use crate::vault::change::{Change, Expected};

/// How often a change is judged while others change what it was judged by.
const ATTEMPTS: usize = 5;

/// Judges and makes a change, and does both again where what it was judged by had changed in between: what others were
/// told is done is not undone by who looked before.
pub(super) async fn settled<T, F>(attempt: impl Fn() -> F) -> Result<T, AdminError>
where
    F: Future<Output = Result<T, AdminError>>,
{
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Err(AdminError::Outdated) => {}
            settled => return settled,
        }
    }
    attempt().await
}

/// What a change expects.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct Conditional {
    /// Only in this version: an `ETag` that was read, or `*` for any. Otherwise it is 412, and nothing was changed.
    #[param(rename = "If-Match", nullable = false, pattern = r#"^(\*|"[0-9a-f]{16}"(, *"[0-9a-f]{16}")*)$"#)]
    pub if_match: Option<String>,
    /// `*`: only where there is nothing yet.
    #[param(rename = "If-None-Match", nullable = false, pattern = r"^\*$")]
    pub if_none_match: Option<String>,
}

/// What a request expects of the thing it changes, if anything. It is the [`Actor`](super::actor::Actor)'s, so that no
/// handler can forget it.
#[derive(Clone, Debug)]
pub(super) struct Condition(Option<Expected>);

impl Condition {
    /// Nothing is expected.
    pub(super) fn none() -> Self {
        Condition(None)
    }

    /// The change, if the thing is as expected.
    pub(super) fn guard(&self, change: Change) -> Change {
        match &self.0 {
            Some(expected) => Change::Guarded { expected: expected.clone(), change: Box::new(change) },
            None => change,
        }
    }

    /// Reads what the headers of a request say.
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, AdminError> {
        let (with, without) = (listed(headers, header::IF_MATCH)?, listed(headers, header::IF_NONE_MATCH)?);
        Ok(Condition(match (with, without) {
            (None, None) => None,
            (Some(Listed::Any), None) => Some(Expected::Present),
            // A tag that is none of ours matches nothing.
            (Some(Listed::Tags(tags)), None) => Some(Expected::OneOf(tags)),
            (None, Some(Listed::Any)) => Some(Expected::Absent),
            (None, Some(Listed::Tags(_))) => return Err(wrong("If-None-Match can be * only".to_owned())),
            (Some(_), Some(_)) => return Err(wrong("If-Match and If-None-Match cannot both hold".to_owned())),
        }))
    }
}

enum Listed {
    Any,
    Tags(Vec<Version>),
}

/// The entity tags of a header; `None` where it is not there. Weak ones match nothing (RFC 9110 §13.1.1).
fn listed(headers: &HeaderMap, name: HeaderName) -> Result<Option<Listed>, AdminError> {
    let mut found = None;
    for line in headers.get_all(&name) {
        let text = line.to_str().map_err(|_| malformed(&name))?.trim();
        if text == "*" && found.is_none() {
            found = Some(Listed::Any);
            continue;
        }
        let mut tags = match found {
            None => Vec::new(),
            Some(Listed::Tags(tags)) => tags,
            Some(Listed::Any) => return Err(malformed(&name)),
        };
        // No tag of ours has a comma in it.
        for tag in text.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
            let (is_weak, quoted) = tag.strip_prefix("W/").map_or((false, tag), |rest| (true, rest));
            let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let inner = inner.filter(|inner| !inner.contains('"')).ok_or_else(|| malformed(&name))?;
            tags.extend(inner.parse().ok().filter(|_: &Version| !is_weak));
        }
        found = Some(Listed::Tags(tags));
    }
    Ok(found)
}

fn malformed(name: &HeaderName) -> AdminError {
    wrong(format!("{name} is * or a list of entity tags, each as an ETag header shows it, with its quotation marks"))
}

/// What is shown, with its version in `ETag`.
pub(super) struct Shown<T>(pub T, pub Option<Version>);

impl<T: Serialize> IntoResponse for Shown<T> {
    fn into_response(self) -> Response {
        tagged(Json(self.0).into_response(), self.1)
    }
}

/// An answer with the version of what it is about.
pub(super) fn tagged(mut response: Response, version: Option<Version>) -> Response {
    let tag = version.and_then(|version| HeaderValue::try_from(format!("\"{version}\"")).ok());
    if let Some(tag) = tag {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[(HeaderName, &str)]) -> Result<Option<Expected>, AdminError> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        Condition::read(&headers).map(|condition| condition.0)
    }

    #[test]
    fn a_condition_is_a_list_of_versions_or_any() {
        let (a, b) = (Version::stored(1), Version::stored(2));
        let with = |text: &str| read(&[(header::IF_MATCH, text)]).unwrap_or_else(|_| panic!("{text}"));
        assert_eq!(with("*"), Some(Expected::Present));
        assert_eq!(with(&format!("\"{a}\", \"{b}\"")), Some(Expected::OneOf(vec![a, b])));
        assert_eq!(with(&format!("W/\"{a}\"")), Some(Expected::OneOf(Vec::new())), "weak");
        assert_eq!(with("\"somebody else's\""), Some(Expected::OneOf(Vec::new())));
        assert_eq!(read(&[]).ok(), Some(None));
        assert_eq!(read(&[(header::IF_NONE_MATCH, "*")]).ok(), Some(Some(Expected::Absent)));
        let lines = [(header::IF_MATCH, &*format!("\"{a}\"")), (header::IF_MATCH, &*format!("\"{b}\""))];
        assert_eq!(read(&lines).ok(), Some(Some(Expected::OneOf(vec![a, b]))));
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for text in ["x", "\"", "\"a\"b\"", "*, *", "W/", "\"a\" \"b\""] {
            assert!(read(&[(header::IF_MATCH, text)]).is_err(), "{text}");
        }
        assert!(read(&[(header::IF_MATCH, "*"), (header::IF_MATCH, "*")]).is_err());
        assert!(read(&[(header::IF_NONE_MATCH, "\"a\"")]).is_err());
        assert!(read(&[(header::IF_MATCH, "*"), (header::IF_NONE_MATCH, "*")]).is_err());
    }
}
