//! What a caller of the admin port is told when something does not work: problem+json (RFC 9457).

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::tap;
use crate::model::document::Problem;
use crate::model::role::Permission;
use crate::telemetry::request_id::RequestId;
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
    /// Whoever asks may do this, and not with what stands in these places.
    #[error("your roles do not grant the permission {}, which this needs; errors lists where", .0.as_str())]
    Ungranted(Permission, Vec<Problem>),
    /// They want to give what they do not have themselves.
    #[error("nobody gives a role, scope, limit, lifetime or owner that they do not have themselves")]
    AboveOwn,
    /// They want to let somebody in who would not be bound as they are.
    #[error(
        "your API key has bounds (a scope, limits, an environment or an end), and whom it lets in would have none; it \
         takes a signed-in user or a key without bounds"
    )]
    Bounded,
    /// They want to make something that they could not use.
    #[error("the scope of your API key does not cover this key of a connection; give it one that it covers")]
    OutOfScope,
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
    /// It is not as the request expects it to be.
    #[error("it is not in the version that If-Match or If-None-Match asks for; read it again and decide anew")]
    Overtaken,
    /// It was judged, and others have changed what was looked at before it was made.
    #[error("it is being changed by others; try again")]
    Outdated,
    /// The Idempotency-Key belongs to a request that said something else.
    #[error("another request was sent with this Idempotency-Key before; give each its own")]
    KeyReused,
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
    #[error("the body is larger than is taken here: 1 MiB, or 8 MiB of an import")]
    TooLarge,
    /// The body came too slowly.
    #[error("the body did not come in time")]
    RequestTimeout,
    /// What came is no request.
    #[error(transparent)]
    Unreadable(Unreadable),
    /// There is such a thing, and this cannot be done with it.
    #[error("this method is not allowed here; Allow lists those that are")]
    MethodNotAllowed,
    /// Somebody did not prove who they are; how they failed is not told.
    #[error("the address, the password or the organization is not right, or the account is not active")]
    SignInRefused,
    /// Too many attempts to sign in.
    #[error("too many attempts; wait as long as Retry-After says")]
    SignInThrottled(Duration),
    /// As many watch as may.
    #[error("as many taps are open as there may be; close one, or wait as long as Retry-After says")]
    TooManyTaps,
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

/// Why what came on a connection is no request. Who reads the connection puts it into the extensions of the request that
/// stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It breaks the syntax, or could be read in two ways.
    #[error("{0}")]
    Malformed(&'static str),
    /// Its head is too large.
    #[error("the head has more than 100 fields or 64 KiB")]
    HeadTooLarge,
    /// Its target alone is too long.
    #[error("the target is longer than 32 KiB")]
    TargetTooLong,
    /// Its head came too slowly.
    #[error("the head of the request did not come in time")]
    TooSlow,
}

impl From<VaultError> for AdminError {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Database(DatabaseError::NotFound(what)) => AdminError::NotFound(what),
            VaultError::Database(DatabaseError::Conflict(why) | DatabaseError::InUse(why)) => AdminError::Conflict(why),
            VaultError::Database(DatabaseError::Overtaken(_)) => AdminError::Overtaken,
            VaultError::Database(DatabaseError::Outdated) => AdminError::Outdated,
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

/// A refusal as programs know it, and as the description of the API tells it.
pub(super) struct Refusal {
    /// The code in the document.
    pub code: &'static str,
    /// The status of the answer.
    pub status: StatusCode,
    /// Which requests can meet it.
    pub when: When,
    /// When that is, in a few words.
    pub meaning: &'static str,
}

/// Which requests a refusal can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// All of them.
    Always,
    /// Those that ask who is there.
    Asked,
    /// Those with a body.
    Read,
    /// Those whose handler names its status.
    Named,
}

const fn refusal(code: &'static str, status: StatusCode, when: When, meaning: &'static str) -> Refusal {
    Refusal { code, status, when, meaning }
}

/// Every code that an answer of this port can have; the description of the API is made of it.
pub(super) const PROBLEMS: &[Refusal] = &[
    refusal(
        "request_malformed",
        StatusCode::BAD_REQUEST,
        When::Always,
        "what came can be read in two ways, or in none",
    ),
    refusal("target_too_long", StatusCode::URI_TOO_LONG, When::Always, "the target is longer than 32 KiB"),
    refusal(
        "head_too_large",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        When::Always,
        "the head has more than 100 fields or 64 KiB",
    ),
    refusal("syntax", StatusCode::BAD_REQUEST, When::Read, "the body is no JSON document"),
    refusal("unauthenticated", StatusCode::UNAUTHORIZED, When::Asked, "nobody knows who asks"),
    refusal("role_insufficient", StatusCode::FORBIDDEN, When::Asked, "whoever asks may not do this"),
    refusal("origin_not_allowed", StatusCode::FORBIDDEN, When::Always, "a web page of somebody else's asks"),
    refusal("not_found", StatusCode::NOT_FOUND, When::Asked, "there is no such thing, or not in this organization"),
    refusal("method_not_allowed", StatusCode::METHOD_NOT_ALLOWED, When::Named, "`Allow` lists the methods there are"),
    refusal("request_timeout", StatusCode::REQUEST_TIMEOUT, When::Always, "the request did not come in time"),
    refusal(
        "conflict",
        StatusCode::CONFLICT,
        When::Asked,
        "it is there already, in use or declared; or there is no vault",
    ),
    refusal("corrupt", StatusCode::CONFLICT, When::Asked, "what is stored is damaged"),
    refusal(
        "precondition_failed",
        StatusCode::PRECONDITION_FAILED,
        When::Named,
        "it is not in the version that `If-Match` or `If-None-Match` asks for",
    ),
    refusal(
        "body_too_large",
        StatusCode::PAYLOAD_TOO_LARGE,
        When::Read,
        "the body is larger than 1 MiB, or 8 MiB of an import",
    ),
    refusal(
        "media_type_unsupported",
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        When::Read,
        "the body is not declared as JSON",
    ),
    refusal(
        "host_unknown",
        StatusCode::MISDIRECTED_REQUEST,
        When::Always,
        "the request was sent to a name that is not ours",
    ),
    refusal(
        "invalid",
        StatusCode::UNPROCESSABLE_ENTITY,
        When::Asked,
        "document or query have mistakes, which `errors` lists",
    ),
    refusal(
        "idempotency_key_reused",
        StatusCode::UNPROCESSABLE_ENTITY,
        When::Asked,
        "another request was sent with this `Idempotency-Key` before",
    ),
    refusal("sign_in_refused", StatusCode::UNAUTHORIZED, When::Named, "nobody was signed in; why is not told"),
    refusal("gone", StatusCode::GONE, When::Named, "it was there and is of no use any more"),
    refusal("rate_limited", StatusCode::TOO_MANY_REQUESTS, When::Named, "too many attempts, or too many taps"),
    refusal(
        "provider_unavailable",
        StatusCode::BAD_GATEWAY,
        When::Named,
        "the identity provider does not answer as it should",
    ),
    refusal("vault_unavailable", StatusCode::SERVICE_UNAVAILABLE, When::Asked, "the vault cannot be read or written"),
];

impl AdminError {
    fn code(&self) -> &'static str {
        match self {
            AdminError::Unauthenticated => "unauthenticated",
            AdminError::RoleInsufficient
            | AdminError::Ungranted(..)
            | AdminError::AboveOwn
            | AdminError::Bounded
            | AdminError::OutOfScope => "role_insufficient",
            AdminError::OriginNotAllowed => "origin_not_allowed",
            AdminError::HostUnknown => "host_unknown",
            AdminError::NotFound(_) => "not_found",
            AdminError::Conflict(_) | AdminError::Outdated => "conflict",
            AdminError::Overtaken => "precondition_failed",
            AdminError::KeyReused => "idempotency_key_reused",
            AdminError::Invalid(_) => "invalid",
            AdminError::MediaType => "media_type_unsupported",
            AdminError::Syntax(_) => "syntax",
            AdminError::TooLarge => "body_too_large",
            AdminError::RequestTimeout | AdminError::Unreadable(Unreadable::TooSlow) => "request_timeout",
            AdminError::Unreadable(Unreadable::Malformed(_)) => "request_malformed",
            AdminError::Unreadable(Unreadable::HeadTooLarge) => "head_too_large",
            AdminError::Unreadable(Unreadable::TargetTooLong) => "target_too_long",
            AdminError::MethodNotAllowed => "method_not_allowed",
            AdminError::SignInRefused => "sign_in_refused",
            AdminError::SignInThrottled(_) | AdminError::TooManyTaps => "rate_limited",
            AdminError::ProviderUnavailable => "provider_unavailable",
            AdminError::Gone(_) => "gone",
            AdminError::NotPermitted(_) => "role_insufficient",
            AdminError::Vault(VaultError::Database(DatabaseError::Corrupt { .. })) => "corrupt",
            AdminError::Vault(_) => "vault_unavailable",
        }
    }

    /// The code and its status, as the table has them.
    fn told(&self) -> (StatusCode, &'static str) {
        let code = self.code();
        let known = PROBLEMS.iter().find(|refusal| refusal.code == code);
        debug_assert!(known.is_some(), "{code} is not in the table of problems");
        (known.map_or(StatusCode::INTERNAL_SERVER_ERROR, |refusal| refusal.status), code)
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
        if let AdminError::Invalid(problems) | AdminError::Ungranted(_, problems) = &self {
            // A document can have as many mistakes as values; nobody reads more than these.
            problem["errors"] = json!(problems.iter().take(MOST_PROBLEMS).collect::<Vec<_>>());
        }
        let mut response = status.into_response();
        response.extensions_mut().insert(Untold(problem));
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
        if matches!(self, AdminError::TooManyTaps) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(tap::HEARTBEAT.as_secs()));
        }
        if matches!(self, AdminError::Unreadable(_)) {
            // What follows on the same connection cannot be trusted to be a request.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// What a refusal says, while it is not known yet in which request.
#[derive(Clone)]
struct Untold(Value);

/// Writes a refusal, if the answer is one, naming the request.
pub(super) fn tell(response: &mut Response, request: RequestId) {
    let Some(Untold(mut problem)) = response.extensions_mut().remove() else { return };
    problem["request_id"] = json!(request.as_str());
    // The router has counted the body that was not there yet.
    response.headers_mut().remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(problem.to_string());
}

/// What no route answers.
pub async fn not_found() -> AdminError {
    AdminError::NotFound("resource")
}

/// What a route answers to a method it does not know.
pub async fn method_not_allowed() -> AdminError {
    AdminError::MethodNotAllowed
}
