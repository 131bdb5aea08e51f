//! Everything that can stop a request, and what its caller is told.
//!
//! [`ProxyError`] is closed; one `match` gives status, code and words. No message holds a secret, a query string, or
//! the name that was asked for.

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, PROXY_AUTHENTICATE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::explain::Explanation;
use crate::credentials::Missing;
use crate::directory::rate::Exceeded;
use crate::model::name::EnvironmentName;
use crate::upstream::{DnsError, HandshakeError, UpstreamError};
use crate::wire::HeadError;

/// The header that only answers of Sidekey's own carry.
pub const SIDEKEY_ERROR: HeaderName = HeaderName::from_static("sidekey-error");
/// The header that names a request in answers and logs.
pub const SIDEKEY_REQUEST_ID: HeaderName = HeaderName::from_static("sidekey-request-id");
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Why a request was not answered by its upstream.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// No tag, and the listener has no default connection.
    #[error("the request names no connection; send the header Sidekey-Connection: <id or key>")]
    ConnectionMissing,
    /// A tag is no id, key or other value that it can be.
    #[error("{0}")]
    TagMalformed(&'static str),
    /// Two tags that differ, or one given twice.
    #[error("{0}")]
    TagConflict(&'static str),
    /// The request target cannot be forwarded.
    #[error("{0}")]
    TargetInvalid(&'static str),
    /// The message is ambiguous or malformed.
    #[error("{0}")]
    RequestMalformed(&'static str),
    /// An API key is required and none was shown.
    #[error("this listener requires an API key; send the header Sidekey-Key: apk_…")]
    KeyMissing,
    /// The API key that was shown is not valid.
    #[error("the API key is unknown, revoked, suspended or expired, or is no caller's")]
    KeyUnknown,
    /// A web page may not use a listener that trusts its network.
    #[error("this listener serves programs on its own network, and the request looks like a web page's")]
    BrowserRequest,
    /// The environment is not the caller's.
    #[error("this caller may not use that environment")]
    EnvironmentNotPermitted,
    /// No such connection for this caller.
    #[error("there is no such connection for this caller")]
    ConnectionUnknown,
    /// The origin is not allowed.
    #[error("the credential of this connection may not go to that host; its integration names the hosts")]
    HostNotAllowed,
    /// A rule of the caller's key.
    #[error("the rules of this API key do not allow this method or path, or the path can be read in two ways")]
    NotPermitted,
    /// Somebody asks what would become of a request who may not.
    #[error("this caller may not ask what would become of a request; its key, or the listener, must allow `explain`")]
    ExplainNotPermitted,
    /// The request was explained instead of being sent; no error of anybody's, and answered as a success.
    #[error("the request was explained and not sent")]
    Explained(Box<Explanation>),
    /// TRACE, CONNECT and their like.
    #[error("this method is not forwarded")]
    MethodRefused,
    /// The client was too slow.
    #[error("the request came too slowly")]
    RequestTimeout,
    /// A head of more bytes or fields than are read.
    #[error("the request's head has more than 100 fields or 64 KiB")]
    HeadTooLarge,
    /// A target longer than is read.
    #[error("the request's target is longer than 32 KiB")]
    TargetTooLong,
    /// A body that must be held in memory is too large.
    #[error("this connection's credential goes into the body, and the body is larger than {0} bytes")]
    BodyTooLarge(u64),
    /// A body that nothing can be put into.
    #[error("this connection's credential goes into the body: {0}")]
    BodyUnsupported(String),
    /// More requests than a limit allows.
    #[error("more requests than {} allows", .0.holder.in_words())]
    RateLimited(Exceeded),
    /// Nothing to inject.
    #[error(transparent)]
    Missing(Missing),
    /// The connection's configuration does not hold together.
    #[error("the connection cannot be used as it is configured: {0}")]
    Broken(String),
    /// The vault could not be read.
    #[error("the vault cannot be read at the moment")]
    VaultUnavailable,
    /// As many requests are under way as this server takes.
    #[error("this server has as many requests under way as it takes; send it again in a second")]
    Overloaded,
    /// What the request rests on was revoked while it was under way; its caller is told what whoever asks anew is told.
    #[error(transparent)]
    Revoked(Box<ProxyError>),
    /// The client went away.
    #[error("the client went away")]
    ClientGone,
    /// The upstream.
    #[error(transparent)]
    Upstream(UpstreamError),
    /// Our own mistake.
    #[error("Sidekey met a defect of its own; the request id is in its log")]
    Internal,
}

/// How an error is told.
struct Told {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    /// RFC 9209 §2.3.
    proxy_status: &'static str,
    /// Whether sending the same again may help.
    retry: Retry,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Retry {
    CannotHelp,
    MayHelp,
}

/// The reason of a request that was ended because what it rested on was revoked.
pub(super) const REVOKED: &str = "revoked";

/// Every code and every other reason, so that each can be counted from the start.
pub const CODES: [&str; 40] = [
    "connection_missing",
    "tag_malformed",
    "tag_conflict",
    "target_invalid",
    "request_malformed",
    "key_missing",
    "key_unknown",
    "browser_request",
    "environment_not_permitted",
    "host_not_allowed",
    "not_permitted",
    "address_prohibited",
    "connection_unknown",
    "method_refused",
    "request_timeout",
    "body_too_large",
    "head_too_large",
    "target_too_long",
    "body_unsupported",
    "rate_limited",
    "credential_missing",
    "secret_missing",
    "credential_corrupt",
    "connection_needs_reconnect",
    "token_endpoint_failed",
    "token_endpoint_timeout",
    "internal",
    "upstream_dns",
    "upstream_refused",
    "upstream_tls",
    "upstream_closed",
    "upstream_malformed",
    "vault_unavailable",
    "overloaded",
    "connect_timeout",
    "response_timeout",
    "client_gone",
    "upstream_idle",
    "upstream_truncated",
    REVOKED,
];

impl From<HeadError> for ProxyError {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Malformed(why) => ProxyError::RequestMalformed(why),
            HeadError::TooLarge => ProxyError::HeadTooLarge,
            HeadError::TargetTooLong => ProxyError::TargetTooLong,
        }
    }
}

impl ProxyError {
    /// The code, as in `Sidekey-Error`.
    pub fn code(&self) -> &'static str {
        self.told().code
    }

    /// The code as the access line has it.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Revoked(_) => REVOKED,
            other => other.code(),
        }
    }

    /// The status that its caller is told.
    pub(super) fn status(&self) -> StatusCode {
        self.told().status
    }

    fn told(&self) -> Told {
        use Retry::{CannotHelp, MayHelp};
        let bad = |code, title| Told::new(StatusCode::BAD_REQUEST, code, title, "http_request_error", CannotHelp);
        let denied = |status, code, title| Told::new(status, code, title, "http_request_denied", CannotHelp);
        let forbidden = |code, title| denied(StatusCode::FORBIDDEN, code, title);
        match self {
            Self::ConnectionMissing => bad("connection_missing", "No connection is named"),
            Self::TagMalformed(_) => bad("tag_malformed", "A tag is malformed"),
            Self::TagConflict(_) => bad("tag_conflict", "Tags contradict each other"),
            Self::TargetInvalid(_) => bad("target_invalid", "The request target is not forwarded"),
            Self::RequestMalformed(_) => bad("request_malformed", "The request is malformed"),
            Self::ClientGone => bad("client_gone", "The client went away"),
            Self::KeyMissing => denied(StatusCode::UNAUTHORIZED, "key_missing", "An API key is required"),
            Self::KeyUnknown => denied(StatusCode::UNAUTHORIZED, "key_unknown", "The API key is not valid"),
            Self::BrowserRequest => forbidden("browser_request", "Web pages are not served here"),
            Self::EnvironmentNotPermitted => forbidden("environment_not_permitted", "The environment is not permitted"),
            Self::HostNotAllowed => forbidden("host_not_allowed", "The host is not allowed"),
            Self::NotPermitted => forbidden("not_permitted", "The method or path is not permitted"),
            Self::ExplainNotPermitted => forbidden("not_permitted", "Explaining is not permitted"),
            Self::Explained(_) => Told::new(StatusCode::OK, "explained", "Explained", "", CannotHelp),
            Self::ConnectionUnknown => denied(StatusCode::NOT_FOUND, "connection_unknown", "The connection is unknown"),
            Self::MethodRefused => denied(StatusCode::METHOD_NOT_ALLOWED, "method_refused", "The method is refused"),
            Self::BodyTooLarge(_) => denied(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "The body is too large"),
            Self::HeadTooLarge => {
                denied(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", "The request's head is too large")
            }
            Self::TargetTooLong => denied(StatusCode::URI_TOO_LONG, "target_too_long", "The target is too long"),
            Self::BodyUnsupported(_) => {
                denied(StatusCode::UNSUPPORTED_MEDIA_TYPE, "body_unsupported", "The body cannot take the credential")
            }
            Self::RequestTimeout => Told::new(
                StatusCode::REQUEST_TIMEOUT,
                "request_timeout",
                "The request came too slowly",
                "http_request_error",
                MayHelp,
            ),
            Self::RateLimited(_) => Told::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                "A limit is reached",
                "http_request_denied",
                MayHelp,
            ),
            Self::Missing(missing) => missing_told(missing),
            Self::Broken(_) => Told::unusable("connection_needs_reconnect", "The connection needs attention"),
            Self::VaultUnavailable => {
                Told::ours(StatusCode::SERVICE_UNAVAILABLE, "vault_unavailable", "The vault is unavailable")
            }
            Self::Overloaded => Told::ours(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "The server is overloaded"),
            Self::Internal => Told::ours(StatusCode::INTERNAL_SERVER_ERROR, "internal", "A defect was met"),
            Self::Revoked(error) => error.told(),
            Self::Upstream(error) => upstream_told(error),
        }
    }
}

impl Told {
    fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        proxy_status: &'static str,
        retry: Retry,
    ) -> Self {
        Told { status, code, title, proxy_status, retry }
    }

    /// Of what is configured, or a credential: only who administers it can help.
    fn unusable(code: &'static str, title: &'static str) -> Self {
        let status = StatusCode::FAILED_DEPENDENCY;
        Self::new(status, code, title, "proxy_configuration_error", Retry::CannotHelp)
    }

    /// Of Sidekey itself, or of what it needs besides the upstream.
    fn ours(status: StatusCode, code: &'static str, title: &'static str) -> Self {
        Self::new(status, code, title, "proxy_internal_error", Retry::MayHelp)
    }
}

fn missing_told(missing: &Missing) -> Told {
    let (unusable, ours) = (Told::unusable, Told::ours);
    match missing {
        Missing::Corrupt(_) => unusable("credential_corrupt", "The credential cannot be used"),
        Missing::Credential(_) => unusable("credential_missing", "The connection has no credential"),
        Missing::Secret(..) => unusable("secret_missing", "A secret has no value"),
        Missing::SignIn(_) => unusable("credential_missing", "Nobody has signed in"),
        Missing::Rebound | Missing::Expired(_) => {
            unusable("connection_needs_reconnect", "The connection must be entered again")
        }
        Missing::SignedOut(_) => unusable("connection_needs_reconnect", "The connection must be authorized again"),
        Missing::TokenEndpoint(_) => {
            ours(StatusCode::BAD_GATEWAY, "token_endpoint_failed", "No access token was given out")
        }
        Missing::TokenTimeout => {
            ours(StatusCode::GATEWAY_TIMEOUT, "token_endpoint_timeout", "No access token was given out in time")
        }
    }
}

fn upstream_told(error: &UpstreamError) -> Told {
    use Retry::{CannotHelp, MayHelp};
    let told = Told::new;
    let bad = |code, title, proxy_status| told(StatusCode::BAD_GATEWAY, code, title, proxy_status, MayHelp);
    let late = |code, title, proxy_status| told(StatusCode::GATEWAY_TIMEOUT, code, title, proxy_status, MayHelp);
    match error {
        UpstreamError::Dns(DnsError::Timeout) => {
            bad("upstream_dns", "The upstream's name was not resolved in time", "dns_timeout")
        }
        UpstreamError::Dns(_) => bad("upstream_dns", "The upstream's name does not resolve", "dns_error"),
        UpstreamError::AddressProhibited => told(
            StatusCode::FORBIDDEN,
            "address_prohibited",
            "The address is prohibited",
            "destination_ip_prohibited",
            CannotHelp,
        ),
        UpstreamError::Refused(_) => {
            bad("upstream_refused", "The upstream refused the connection", "connection_refused")
        }
        UpstreamError::Tls(HandshakeError::Certificate(_)) => {
            bad("upstream_tls", "The upstream's certificate is not accepted", "tls_certificate_error")
        }
        UpstreamError::Tls(_) => bad("upstream_tls", "No verified TLS with the upstream", "tls_protocol_error"),
        UpstreamError::ConnectTimeout => {
            late("connect_timeout", "The upstream did not accept in time", "connection_timeout")
        }
        UpstreamError::TlsTimeout => late("connect_timeout", "The TLS handshake took too long", "connection_timeout"),
        UpstreamError::ResponseTimeout => {
            late("response_timeout", "The upstream did not answer in time", "http_response_timeout")
        }
        UpstreamError::IdleTimeout => late("response_timeout", "The upstream stood still", "connection_read_timeout"),
        UpstreamError::Malformed(_) => {
            bad("upstream_malformed", "The upstream's answer is malformed", "http_protocol_error")
        }
        _ => bad("upstream_closed", "The upstream closed the connection", "connection_terminated"),
    }
}

/// The document of RFC 9457, with what SDKs read so that they show the reason instead of "no body".
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<&'a EnvironmentName>,
    /// Which limit was reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'static str>,
    message: &'a str,
    error: SdkError<'a>,
}

#[derive(Serialize)]
struct SdkError<'a> {
    message: &'a str,
    r#type: &'static str,
    code: &'a str,
}

/// Which kind of client an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A client that took Sidekey for the server.
    Directly,
    /// A client that took Sidekey for its proxy: it expects 407 where credentials are wanted.
    AsProxy,
}

impl ProxyError {
    /// The answer: problem+json with the headers of CONTRACT's vocabulary.
    pub fn answer(&self, request_id: &str, asked: Asked) -> Response<Bytes> {
        if let ProxyError::Revoked(error) = self {
            return error.answer(request_id, asked);
        }
        let told = self.told();
        let wants_credentials =
            told.status == StatusCode::UNAUTHORIZED || matches!(self, ProxyError::ConnectionMissing);
        let (status, challenge) = match asked {
            Asked::AsProxy if wants_credentials => {
                (StatusCode::PROXY_AUTHENTICATION_REQUIRED, Some((PROXY_AUTHENTICATE, "Basic realm=\"sidekey\"")))
            }
            _ if told.status == StatusCode::UNAUTHORIZED => (told.status, Some((WWW_AUTHENTICATE, "Bearer"))),
            _ => (told.status, None),
        };
        let detail = self.to_string();
        let problem = Problem {
            r#type: format!("urn:sidekey:error:{}", told.code),
            title: told.title,
            status: status.as_u16(),
            detail: &detail,
            code: told.code,
            request_id,
            environment: match self {
                ProxyError::Missing(
                    Missing::Credential(environment) | Missing::SignIn(environment) | Missing::Secret(_, environment),
                ) => Some(environment),
                _ => None,
            },
            limit: match self {
                ProxyError::RateLimited(exceeded) => Some(exceeded.holder.as_str()),
                _ => None,
            },
            message: &detail,
            error: SdkError { message: &detail, r#type: "sidekey_error", code: told.code },
        };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json; charset=utf-8"));
        headers.insert(SIDEKEY_ERROR, HeaderValue::from_static(told.code));
        if let Ok(id) = HeaderValue::from_str(request_id) {
            headers.insert(SIDEKEY_REQUEST_ID, id);
        }
        if let Ok(value) = HeaderValue::try_from(format!("sidekey; error={}", told.proxy_status)) {
            headers.insert(PROXY_STATUS, value);
        }
        if let Some((name, value)) = challenge {
            headers.insert(name, HeaderValue::from_static(value));
        }
        self.add_advice(&told, headers);
        response
    }

    fn add_advice(&self, told: &Told, headers: &mut HeaderMap) {
        if told.retry == Retry::CannotHelp {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if told.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let ProxyError::RateLimited(exceeded) = self {
            add_limit(exceeded, headers);
        }
        if told.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
        }
        // What follows a malformed message on the same connection cannot be trusted to be a message.
        let malformed =
            matches!(self, ProxyError::RequestMalformed(_) | ProxyError::TargetInvalid(_) | ProxyError::RequestTimeout)
                || matches!(self, ProxyError::HeadTooLarge | ProxyError::TargetTooLong);
        if malformed || told.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// When to come again, and the limit in the words of draft-ietf-httpapi-ratelimit-headers: `q` requests pass in each
/// window of `w` seconds, `r` are left, and after `t` seconds there is one more.
fn add_limit(exceeded: &Exceeded, headers: &mut HeaderMap) {
    let (name, quota, wait) = (exceeded.holder.as_str(), exceeded.quota, exceeded.retry_after());
    let policy = format!("\"{name}\";q={};w={}", quota.burst(), quota.window_seconds());
    headers.insert(RETRY_AFTER, HeaderValue::from(wait));
    for (header, value) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, format!("\"{name}\";r=0;t={wait}"))] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(header, value);
        }
    }
}
