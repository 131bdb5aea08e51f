//! What a caller of the admin port is told when something does not work: problem+json (RFC 9457).

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::model::document::Problem;
use crate::vault::VaultError;
use crate::vault::error::DatabaseError;

/// How many mistakes of one document are listed.
const MOST_PROBLEMS: usize = 100;

/// Why an admin request was not done.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody knows who asks.
    #[error("show one API key: X-API-Key: apk_… or Authorization: Bearer apk_…")]
    Unauthenticated,
    /// Whoever asks may not do this.
    #[error("your roles do not allow this; GET /api/v1/roles tells which do")]
    RoleInsufficient,
    /// A web page of somebody else's asks.
    #[error("requests of other origins are not served")]
    OriginNotAllowed,
    /// The request was sent to a name that is not ours.
    #[error("this server is not called that; name it in admin.host_names if it is")]
    HostUnknown,
    /// There is no such thing.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// It is there already, still in use, or declared.
    #[error("{0}")]
    Conflict(String),
    /// The body is not what it should be.
    #[error("the document has mistakes; each is listed in errors")]
    Invalid(Vec<Problem>),
    /// The body is no JSON, or not declared as it.
    #[error("the body must be a JSON document with Content-Type: application/json")]
    MediaType,
    /// The body is no JSON document.
    #[error("the body is not a JSON document: {0}")]
    Syntax(&'static str),
    /// The body is too large.
    #[error("the body is larger than 1 MiB")]
    TooLarge,
    /// The body came too slowly.
    #[error("the body did not come in time")]
    RequestTimeout,
    /// There is such a thing, and this cannot be done with it.
    #[error("this method is not allowed here; Allow lists those that are")]
    MethodNotAllowed,
    /// Somebody did not prove who they are; how they failed is not told.
    #[error("the address, the password or the organization is not right, or the account is not active")]
    SignInRefused,
    /// Too many attempts to sign in.
    #[error("too many attempts; wait as long as Retry-After says")]
    SignInThrottled(Duration),
    /// The identity provider does not answer as it should.
    #[error("the identity provider cannot be used now; the log says why")]
    ProviderUnavailable,
    /// It was there and is of no use any more.
    #[error("{0}")]
    Gone(&'static str),
    /// Whoever asks may not do this to that.
    #[error("{0}")]
    NotPermitted(&'static str),
    /// The vault.
    #[error(transparent)]
    Vault(VaultError),
}

impl From<VaultError> for AdminError {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Database(DatabaseError::NotFound(what)) => AdminError::NotFound(what),
            VaultError::Database(DatabaseError::Conflict(why) | DatabaseError::InUse(why)) => AdminError::Conflict(why),
            VaultError::Database(DatabaseError::Gone(why)) => AdminError::Gone(why),
            VaultError::Database(DatabaseError::NotPermitted(why)) => AdminError::NotPermitted(why),
            VaultError::Declared(_) | VaultError::Off => AdminError::Conflict(error.to_string()),
            other => AdminError::Vault(other),
        }
    }
}

impl From<DatabaseError> for AdminError {
    fn from(error: DatabaseError) -> Self {
        VaultError::from(error).into()
    }
}

impl AdminError {
    fn told(&self) -> (StatusCode, &'static str) {
        match self {
            AdminError::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            AdminError::RoleInsufficient => (StatusCode::FORBIDDEN, "role_insufficient"),
            AdminError::OriginNotAllowed => (StatusCode::FORBIDDEN, "origin_not_allowed"),
            AdminError::HostUnknown => (StatusCode::MISDIRECTED_REQUEST, "host_unknown"),
            AdminError::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            AdminError::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            AdminError::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            AdminError::MediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type_unsupported"),
            AdminError::Syntax(_) => (StatusCode::BAD_REQUEST, "syntax"),
            AdminError::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            AdminError::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "request_timeout"),
            AdminError::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            AdminError::SignInRefused => (StatusCode::UNAUTHORIZED, "sign_in_refused"),
            AdminError::SignInThrottled(_) => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            AdminError::ProviderUnavailable => (StatusCode::BAD_GATEWAY, "provider_unavailable"),
            AdminError::Gone(_) => (StatusCode::GONE, "gone"),
            AdminError::NotPermitted(_) => (StatusCode::FORBIDDEN, "role_insufficient"),
            AdminError::Vault(VaultError::Database(DatabaseError::Corrupt { .. })) => (StatusCode::CONFLICT, "corrupt"),
            AdminError::Vault(_) => (StatusCode::SERVICE_UNAVAILABLE, "vault_unavailable"),
        }
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let (status, code) = self.told();
        if let AdminError::Vault(error) = &self {
            tracing::error!(%error, "the vault refused a change or a read");
        }
        let mut problem = json!({
            "type": format!("urn:sidekey:error:{code}"),
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": self.to_string(),
            "code": code,
        });
        if let AdminError::Invalid(problems) = &self {
            // A document can have as many mistakes as values; nobody reads more than these.
            problem["errors"] = json!(problems.iter().take(MOST_PROBLEMS).collect::<Vec<_>>());
        }
        let mut response = (status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json; charset=utf-8"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let AdminError::SignInThrottled(wait) = &self {
            // Rounded up: who waits as long as is told gets in.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// What no route answers.
pub async fn not_found() -> AdminError {
    AdminError::NotFound("resource")
}

/// What a route answers to a method it does not know.
pub async fn method_not_allowed() -> AdminError {
    AdminError::MethodNotAllowed
}
