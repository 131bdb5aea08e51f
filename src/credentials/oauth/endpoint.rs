//! What is said to an authorization server: the address where somebody signs in, token requests, revocation.
//!
//! RFC 6749 with PKCE (RFC 7636, S256 always), resource indicators (RFC 8707) and revocation (RFC 7009). Written here
//! rather than with a crate of the protocol, which keeps the status and `Retry-After` of an answer to itself, and takes
//! no lifetime that is written as a text, nor an error with the status 200, both of which large providers send.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use form_urlencoded::Serializer;
use http::{HeaderMap, HeaderValue, Method, Request, header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::model::credential::refers;
use crate::model::oauth::{ACCESS_TOKEN, ClientAuth, Endpoints, OAuth, REFRESH_TOKEN, Scope};
use crate::upstream::UpstreamError;
use crate::upstream::outbound::{Outbound, OutboundError};

/// The longest token that is believed to be one.
const LONGEST_TOKEN: usize = 16 * 1024;
/// The longest list of scopes that is kept.
const LONGEST_SCOPE: usize = 4 * 1024;
/// The codes of errors that are told as they are (RFC 6749 §4.1.2.1, §5.2, RFC 8707 §2, RFC 7009 §2.2.1, and what large
/// providers answer). Any other text is the server's own, which may quote what it was sent.
const CODES: [&str; 20] = [
    "access_denied",
    "authorization_pending",
    "bad_refresh_token",
    "bad_verification_code",
    "expired_token",
    "incorrect_client_credentials",
    "invalid_client",
    "invalid_grant",
    "invalid_refresh_token",
    "invalid_request",
    "invalid_scope",
    "invalid_target",
    "invalid_token",
    "redirect_uri_mismatch",
    "server_error",
    "slow_down",
    "temporarily_unavailable",
    "unauthorized_client",
    "unsupported_grant_type",
    "unsupported_token_type",
];
/// The longest life of a token that is believed, in seconds: a year.
const LONGEST_LIFE: i64 = 365 * 24 * 60 * 60;
/// How long a token is taken to live whose end nobody tells, where another one can be had for it, in seconds.
const LIFE: i64 = 60 * 60;

/// As whom Sidekey comes.
pub struct Client {
    /// Its id.
    pub id: Zeroizing<String>,
    /// What proves it; a public client has none.
    pub secret: Option<Zeroizing<String>>,
}

/// What a token is asked for with.
pub enum Ask<'a> {
    /// What the provider sent somebody back with (RFC 6749 §4.1.3).
    Code {
        /// The code.
        code: &'a str,
        /// What the challenge was made of.
        verifier: &'a str,
        /// Where they were sent back to.
        redirect: &'a str,
    },
    /// A refresh token (§6).
    Refresh(&'a SecretString),
    /// Nothing but the client's own secret (§4.4).
    Client,
}

/// What a token endpoint gave out.
pub struct Answer {
    /// The access token.
    pub access: SecretString,
    /// What another one is had for.
    pub refresh: Option<SecretString>,
    /// How long the access token lives, in seconds, where that is said or must be guessed; less than nothing is nothing.
    pub life: Option<i64>,
    /// What it may be used for, where that is said.
    pub scope: Option<Vec<String>>,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The authorization server says no (§5.2), by this code.
    #[error("the authorization server refused: {0}")]
    Refused(String),
    /// It did not answer as it should; asking again later may help.
    #[error("the token endpoint failed: {why}")]
    Failed {
        /// How.
        why: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// It did not answer in time.
    #[error("the token endpoint did not answer in time")]
    Timeout,
}

impl From<OutboundError> for TokenError {
    fn from(error: OutboundError) -> Self {
        use UpstreamError::{ConnectTimeout, IdleTimeout, ResponseTimeout, TlsTimeout};
        match error {
            OutboundError::Deadline
            | OutboundError::Upstream(ConnectTimeout | TlsTimeout | ResponseTimeout | IdleTimeout) => Self::Timeout,
            OutboundError::Upstream(error) => Self::failed(error),
            other => Self::failed(other),
        }
    }
}

impl TokenError {
    /// Why no token will be given out for a refresh token again, where that is what the server says.
    pub fn is_final(&self) -> Option<&str> {
        let TokenError::Refused(code) = self else { return None };
        let is_final = ["invalid_grant", "bad_refresh_token", "invalid_refresh_token"].contains(&code.as_str());
        is_final.then_some(code)
    }

    fn failed(why: impl ToString) -> Self {
        TokenError::Failed { why: why.to_string(), retry_after: None }
    }
}

/// A question to a token endpoint.
pub struct Question {
    request: Request<Vec<u8>>,
    /// Whether a life that is not told is guessed.
    guess: bool,
}

impl Question {
    /// What tells it from every other one.
    pub fn digest(&self) -> [u8; 32] {
        let authorization = self.request.headers().get(header::AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
        let mut digest = Sha256::new();
        for part in [self.request.uri().to_string().as_bytes(), authorization, self.request.body()] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }
}

/// What is the same in every request of a connection.
pub struct Server<'a> {
    /// The way there.
    pub outbound: &'a Outbound,
    /// What its integration says of it.
    pub oauth: &'a OAuth,
    /// Where it is.
    pub endpoints: &'a Endpoints,
    /// The scopes that are asked for; empty for none.
    pub scope: &'a str,
}

/// What begins a sign-in.
pub struct Beginning<'a> {
    /// Comes back with the code.
    pub state: &'a str,
    /// 43 to 128 unreserved characters, kept until then.
    pub verifier: &'a str,
    /// Where the provider sends people back to.
    pub redirect: &'a str,
}

/// Where to send somebody to sign in (§4.1.1); no secret is in it. `None` where nobody signs in.
pub fn authorize_url(
    oauth: &OAuth,
    endpoints: &Endpoints,
    scope: &str,
    client_id: &str,
    beginning: &Beginning<'_>,
) -> Option<String> {
    let mut query = Serializer::new(String::new());
    query
        .append_pair("response_type", "code")
        .append_pair("client_id", client_id)
        .append_pair("redirect_uri", beginning.redirect)
        .append_pair("state", beginning.state)
        .append_pair("code_challenge", &URL_SAFE_NO_PAD.encode(Sha256::digest(beginning.verifier)))
        .append_pair("code_challenge_method", "S256");
    if !scope.is_empty() {
        query.append_pair("scope", scope);
    }
    if let Some(resource) = &oauth.resource {
        query.append_pair("resource", resource);
    }
    query.extend_pairs(&oauth.authorize_params);
    Some(format!("{}?{}", endpoints.authorize.as_ref()?, query.finish()))
}

impl Server<'_> {
    /// Asks for a token.
    pub async fn token(&self, client: &Client, ask: Ask<'_>) -> Result<Answer, TokenError> {
        self.put(self.question(client, &ask)?).await
    }

    /// What is asked, before it is.
    pub fn question(&self, client: &Client, ask: &Ask<'_>) -> Result<Question, TokenError> {
        Ok(Question { request: self.token_request(client, ask)?, guess: !matches!(ask, Ask::Code { .. }) })
    }

    /// Asks it.
    pub async fn put(&self, question: Question) -> Result<Answer, TokenError> {
        let (parts, body) = self.outbound.send(question.request).await?.into_parts();
        read(parts.status.as_u16(), &parts.headers, &Zeroizing::new(body), question.guess)
    }

    fn token_request(&self, client: &Client, ask: &Ask<'_>) -> Result<Request<Vec<u8>>, TokenError> {
        let mut form = Serializer::new(String::new());
        match ask {
            Ask::Code { code, verifier, redirect } => form
                .append_pair("grant_type", "authorization_code")
                .append_pair("code", code)
                .append_pair("redirect_uri", redirect)
                .append_pair("code_verifier", verifier),
            Ask::Refresh(token) => {
                form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", reveal(token))
            }
            Ask::Client => form.append_pair("grant_type", "client_credentials"),
        };
        // A refresh without a scope asks for what was granted (§6).
        if matches!(ask, Ask::Client) && !self.scope.is_empty() {
            form.append_pair("scope", self.scope);
        }
        if let Some(resource) = &self.oauth.resource {
            form.append_pair("resource", resource);
        }
        form.extend_pairs(&self.oauth.token_params);
        self.request(&self.endpoints.token, form, client)
    }

    /// Takes a token back (RFC 7009 §2). One that is not known there is taken back already.
    async fn revoke(&self, client: &Client, token: &SecretString, hint: &str) -> Result<(), TokenError> {
        let Some(address) = &self.endpoints.revoke else { return Ok(()) };
        let request = {
            let mut form = Serializer::new(String::new());
            form.append_pair("token", reveal(token)).append_pair("token_type_hint", hint);
            self.request(address, form, client)?
        };
        let answer = self.outbound.send(request).await?;
        match answer.status().as_u16() {
            200..=299 => Ok(()),
            400 if error_code(answer.body()).as_deref() == Some("invalid_token") => Ok(()),
            status => Err(failed_with(status, answer.headers())),
        }
    }

    /// Takes back what was given out together; the refresh token first, which could bring others.
    pub async fn revoke_both(
        &self,
        client: &Client,
        refresh: Option<&SecretString>,
        access: Option<&SecretString>,
    ) -> Result<(), TokenError> {
        for (token, hint) in [(refresh, REFRESH_TOKEN), (access, ACCESS_TOKEN)] {
            if let Some(token) = token {
                self.revoke(client, token, hint).await?;
            }
        }
        Ok(())
    }

    /// A form for one of its addresses, with who sends it.
    fn request(
        &self,
        address: &str,
        mut form: Serializer<'_, String>,
        client: &Client,
    ) -> Result<Request<Vec<u8>>, TokenError> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(address)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        match (self.oauth.client_auth, &client.secret) {
            (ClientAuth::Basic, Some(secret)) => {
                request = request.header(header::AUTHORIZATION, basic(client, secret)?)
            }
            (ClientAuth::Body, Some(secret)) => {
                form.append_pair("client_id", &client.id).append_pair("client_secret", secret);
            }
            _ => {
                form.append_pair("client_id", &client.id);
            }
        }
        request.body(form.finish().into_bytes()).map_err(TokenError::failed)
    }
}

#[expect(clippy::disallowed_methods, reason = "a token goes to the server that gave it out")]
fn reveal(token: &SecretString) -> &str {
    token.expose_secret()
}

/// `Basic` of id and secret, each form-encoded first (§2.3.1).
fn basic(client: &Client, secret: &str) -> Result<HeaderValue, TokenError> {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = Zeroizing::new(format!("{}:{}", encoded(&client.id), encoded(secret)));
    let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
    let mut value = HeaderValue::from_str(&text).map_err(TokenError::failed)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Reads an answer. `guess` says that a life that is not told is guessed.
fn read(status: u16, headers: &HeaderMap, body: &[u8], guess: bool) -> Result<Answer, TokenError> {
    // Some write an error with the status 200; with others than these it is not the protocol that speaks.
    if let Some(code) = error_code(body).filter(|_| matches!(status, 200 | 400 | 401 | 403)) {
        return Err(match &*code {
            "temporarily_unavailable" | "server_error" | "slow_down" => failed_with(status, headers),
            _ => TokenError::Refused(code),
        });
    }
    if !(200..=299).contains(&status) {
        return Err(failed_with(status, headers));
    }
    let wrong = |why: &str| TokenError::failed(format!("its answer {why}"));
    let answer: Value = serde_json::from_slice(body).map_err(|_| wrong("is no JSON"))?;
    let token = |name: &str| answer.get(name).and_then(Value::as_str).filter(|token| !token.is_empty());
    let access = token("access_token").ok_or_else(|| wrong("has no access_token"))?;
    let refresh = token("refresh_token");
    if answer.get("token_type").and_then(Value::as_str).is_some_and(needs_proof) {
        return Err(wrong("has a token of a type that takes a proof with each request"));
    }
    if [Some(access), refresh].into_iter().flatten().any(|token| !is_token(token)) {
        return Err(wrong("has a token that is none (RFC 6749, A.12)"));
    }
    Ok(Answer {
        access: access.into(),
        refresh: refresh.map(SecretString::from),
        life: life(answer.get("expires_in"), guess || refresh.is_some()),
        scope: answer.get("scope").and_then(Value::as_str).and_then(scopes),
    })
}

/// The scopes that an answer names; nothing where they are none, or too many to be kept in every record of them.
fn scopes(written: &str) -> Option<Vec<String>> {
    let parts = written.split([' ', ',']).filter(|part| !part.is_empty());
    let read = || parts.map(|part| part.parse::<Scope>().ok().map(|scope| scope.as_str().to_owned())).collect();
    if written.len() <= LONGEST_SCOPE { read() } else { None }
}

/// Printable ASCII (RFC 6749, A.12), and nothing that means something in a stored value.
fn is_token(text: &str) -> bool {
    text.len() <= LONGEST_TOKEN && text.bytes().all(|byte| matches!(byte, 0x20..=0x7e)) && !refers(text)
}

/// Whether a token of this type is not just shown: such a one is not to be used (§7.1). Others are often not the type
/// that is written, and it is the integration that says where a token goes.
fn needs_proof(token_type: &str) -> bool {
    ["mac", "dpop", "pop"].iter().any(|other| token_type.eq_ignore_ascii_case(other))
}

/// How long a token lives: `expires_in` as a number, with or without a fraction, or as a text.
fn life(written: Option<&Value>, guess: bool) -> Option<i64> {
    let number = match written {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => text.trim().parse::<f64>().ok(),
        Some(other) => other.as_f64(),
    };
    match number.filter(|number| number.is_finite()) {
        // What is too large for it becomes the largest.
        Some(seconds) => Some((seconds as i64).clamp(0, LONGEST_LIFE)),
        None => {
            if written.is_some_and(|written| !written.is_null()) {
                tracing::warn!("a token endpoint tells no number in expires_in; an hour is taken");
            }
            guess.then_some(LIFE)
        }
    }
}

/// The error that an answer tells (§5.2): what a person may be shown of it. The description may quote what was sent.
fn error_code(body: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let said = answer.get("error").filter(|error| !error.is_null() && error.as_str() != Some(""))?;
    let code = said.as_str().unwrap_or_default();
    Some(if CODES.contains(&code) { code } else { "unknown_error" }.to_owned())
}

fn failed_with(status: u16, headers: &HeaderMap) -> TokenError {
    let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    TokenError::Failed { why: format!("it answered with {status}"), retry_after: seconds.map(Duration::from_secs) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answered(status: u16, body: &Value) -> Result<Answer, TokenError> {
        read(status, &HeaderMap::new(), body.to_string().as_bytes(), true)
    }

    #[test]
    fn a_life_is_read_as_providers_write_it_oa_14() {
        let table = [
            (json!(3600), Some(3600)),
            (json!("3600"), Some(3600)),
            (json!(3600.0), Some(3600)),
            (json!(null), Some(LIFE)),
            (json!(0), Some(0)),
            (json!(-5), Some(0)),
            (json!(1e12), Some(LONGEST_LIFE)),
            (json!("abc"), Some(LIFE)),
            (json!(9_223_372_036_854_775_808_u64), Some(LONGEST_LIFE)),
        ];
        for (written, expected) in table {
            let answer = answered(200, &json!({ "access_token": "t", "expires_in": written })).unwrap();
            assert_eq!(answer.life, expected, "{written}");
        }
        assert_eq!(life(None, false), None, "nobody knows when it ends, and there is no other one");
    }

    #[test]
    fn an_error_is_one_whatever_its_status_and_no_secret_is_taken_for_a_token() {
        let refused = |status, body: Value| match answered(status, &body) {
            Err(TokenError::Refused(code)) => code,
            Err(other) => other.to_string(),
            Ok(_) => "a token".to_owned(),
        };
        for status in [200, 400, 401] {
            assert_eq!(refused(status, json!({ "error": "invalid_grant", "error_description": "x" })), "invalid_grant");
        }
        assert_eq!(
            refused(503, json!({ "error": "invalid_grant" })),
            "the token endpoint failed: it answered with 503"
        );
        assert_eq!(refused(400, json!({ "error": "the-clients-secret" })), "unknown_error");
        for token in ["", "@@SECRET:OTHER@@", "line\nbreak", "é", &"x".repeat(LONGEST_TOKEN + 1)] {
            assert!(refused(200, json!({ "access_token": token })).contains("its answer has"), "{token}");
        }
        assert!(refused(302, json!({ "access_token": "t" })).contains("302"), "a redirect is no answer");
    }

    #[test]
    fn scopes_are_scopes_and_few_enough_to_be_kept() {
        let kept = |scope: &str| answered(200, &json!({ "access_token": "t", "scope": scope })).unwrap().scope;
        assert_eq!(kept("read,write  all"), Some(vec!["read".to_owned(), "write".to_owned(), "all".to_owned()]));
        for scope in ["line\nbreak", "\u{1b}[31m", "quote\"", &"x ".repeat(LONGEST_SCOPE)] {
            assert_eq!(kept(scope), None, "{scope}");
        }
    }

    #[test]
    fn a_client_says_who_it_is_form_encoded_oa_13() {
        let client = Client { id: "a b".to_owned().into(), secret: None };
        let value = basic(&client, ":%+ é").unwrap();
        let text = STANDARD.decode(&value.as_bytes()["Basic ".len()..]).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "a+b:%3A%25%2B+%C3%A9");
    }
}
