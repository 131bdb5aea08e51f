//! An identity provider: where it is, what it answers, and whether an ID token of it is to be believed.
//!
//! OpenID Connect Core 1.0 with the code flow, PKCE (RFC 7636, S256) and a nonce. What the provider says of itself is
//! read from its discovery document and believed only where it names the configured issuer. A token is checked as Core
//! §3.1.3.7 says; the algorithm must be one of public keys, so that nobody signs a token with a key that is published.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request, StatusCode, header};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use oauth2::basic::{
    BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse, BasicTokenType,
};
use oauth2::{
    AsyncHttpClient, AuthType, AuthUrl, AuthorizationCode, Client, ClientId, ClientSecret, CsrfToken, ExtraTokenFields,
    HttpRequest, HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope, StandardRevocableToken,
    StandardTokenResponse, TokenUrl,
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::upstream::outbound::{Outbound, OutboundError};

/// What a token may be signed by.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// How long what the provider says of itself is believed.
const KEPT: Duration = Duration::from_secs(3600);
/// How soon its keys are asked for once more because of a key nobody knows.
const SOONEST: Duration = Duration::from_secs(30);
/// How far its clock may be from ours, in seconds.
const LEEWAY: u64 = 60;

/// Which provider, and as whom we come.
#[derive(Debug)]
pub struct Settings {
    /// As it names itself, to the last byte.
    pub issuer: String,
    /// As it knows us.
    pub client_id: String,
    /// Absent for a public client.
    pub client_secret: Option<SecretString>,
    /// What is asked for beside `openid`.
    pub scopes: Vec<String>,
    /// Where it sends people back to.
    pub redirect: String,
}

/// Why somebody could not be signed in through a provider. For the log; people are told less.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// It was not reached.
    #[error("the identity provider was not reached")]
    Unreachable(#[from] OutboundError),
    /// It answered something else than was asked.
    #[error("the identity provider's {0} is not as it should be")]
    Document(&'static str),
    /// It did not take the code.
    #[error("the identity provider refused the code: {0}")]
    Refused(String),
    /// Its token is not to be believed.
    #[error("the ID token is refused: {0}")]
    Token(&'static str),
    /// Its token is not to be believed, and the check says why.
    #[error("the ID token is refused")]
    Check(#[from] jsonwebtoken::errors::Error),
}

/// What a provider says of itself.
#[derive(Debug, Deserialize)]
struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
}

/// What is kept of what the provider has said, since when.
struct Kept<T>(Mutex<Option<(Instant, Arc<T>)>>);

/// The parts of a sign-in that have to be the same at its beginning and its end.
pub(super) struct Challenge {
    /// Comes back with the answer.
    pub state: String,
    /// Comes back in the token.
    pub nonce: String,
    /// Proves that whoever began is whoever ends it.
    pub verifier: String,
}

/// Whom the provider has signed in.
#[derive(Debug)]
pub(super) struct Subject {
    /// The provider's name for them.
    pub subject: String,
    /// Their address, where the provider has verified it.
    pub verified_email: Option<String>,
}

/// The field of a token answer that OpenID Connect adds.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct IdToken {
    id_token: String,
}

impl ExtraTokenFields for IdToken {}

type TokenAnswer = StandardTokenResponse<IdToken, BasicTokenType>;
type OidcClient = Client<
    BasicErrorResponse,
    TokenAnswer,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
>;

/// How the protocol's crate sends a request.
struct Sender(Outbound);

impl AsyncHttpClient<'_> for Sender {
    type Error = OutboundError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, OutboundError>> + Send>>;

    fn call(&self, request: HttpRequest) -> Self::Future {
        let outbound = self.0.clone();
        Box::pin(async move { outbound.send(request).await })
    }
}

/// What is read from a token.
#[derive(Deserialize)]
struct Claims {
    /// One text: the check of the crate would take a list that has the issuer in it.
    iss: String,
    sub: String,
    aud: Audience,
    #[serde(default)]
    azp: Option<String>,
    #[serde(default)]
    iat: Option<f64>,
    #[serde(default)]
    nonce: Option<String>,
    #[serde(default)]
    email: Option<String>,
    #[serde(default)]
    email_verified: Verified,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// A flag; some providers write it as a text.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Verified {
    Flag(bool),
    Text(String),
    #[default]
    Absent,
}

/// The provider.
pub(super) struct Provider {
    settings: Settings,
    outbound: Outbound,
    metadata: Kept<Metadata>,
    keys: Mutex<Keys>,
}

/// The keys it signs with.
#[derive(Default)]
struct Keys {
    kept: Option<(Instant, JwkSet)>,
    /// When they were asked for last because of a key nobody knew. Whoever brings such a key, however often, makes us
    /// ask no more often than that; a key that is new is known at once.
    sought: Option<Instant>,
}

impl Provider {
    pub(super) fn new(settings: Settings, outbound: Outbound) -> Self {
        Provider { settings, outbound, metadata: Kept(Mutex::default()), keys: Mutex::default() }
    }

    pub(super) fn issuer(&self) -> &str {
        &self.settings.issuer
    }

    /// Where to send somebody to be signed in.
    pub(super) async fn authorize_url(&self, challenge: &Challenge) -> Result<String, ProviderError> {
        let metadata = self.metadata().await?;
        let wrong = |_| ProviderError::Document("authorization endpoint");
        let client = self.client()?.set_auth_uri(AuthUrl::new(metadata.authorization_endpoint.clone()).map_err(wrong)?);
        let verifier = PkceCodeVerifier::new(challenge.verifier.clone());
        let scopes = self.settings.scopes.iter().filter(|scope| *scope != "openid").cloned();
        let state = challenge.state.clone();
        let (url, _) = client
            .authorize_url(|| CsrfToken::new(state))
            .add_scope(Scope::new("openid".to_owned()))
            .add_scopes(scopes.map(Scope::new))
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier))
            .add_extra_param("nonce", &challenge.nonce)
            .url();
        Ok(url.into())
    }

    /// Turns a code into who was signed in.
    pub(super) async fn redeem(&self, code: String, challenge: &Challenge) -> Result<Subject, ProviderError> {
        let metadata = self.metadata().await?;
        let uri = TokenUrl::new(metadata.token_endpoint.clone());
        let client = self.client()?.set_token_uri(uri.map_err(|_| ProviderError::Document("token endpoint"))?);
        let methods = &metadata.token_endpoint_auth_methods_supported;
        let knows = |method: &str| methods.iter().any(|known| known == method);
        // RFC 8414 §2: Basic where nothing is said.
        let in_body = !methods.is_empty() && !knows("client_secret_basic") && knows("client_secret_post");
        let client = client.set_auth_type(if in_body { AuthType::RequestBody } else { AuthType::BasicAuth });
        let sender = Sender(self.outbound.clone());
        let answer = client
            .exchange_code(AuthorizationCode::new(code))
            .set_pkce_verifier(PkceCodeVerifier::new(challenge.verifier.clone()))
            .request_async(&sender);
        let answer = answer.await.map_err(|error| match error {
            oauth2::RequestTokenError::Request(error) => ProviderError::Unreachable(error),
            // What a provider writes about an error may quote what it was sent; its code may not.
            oauth2::RequestTokenError::ServerResponse(refusal) => {
                ProviderError::Refused(refusal.error().to_string().chars().take(100).collect())
            }
            _ => ProviderError::Document("token answer"),
        })?;
        self.believe(&answer.extra_fields().id_token, &challenge.nonce).await
    }

    #[expect(clippy::disallowed_methods, reason = "the client's secret goes to its token endpoint")]
    fn client(&self) -> Result<OidcClient, ProviderError> {
        let Settings { client_id, client_secret, redirect, .. } = &self.settings;
        let redirect = RedirectUrl::new(redirect.clone()).map_err(|_| ProviderError::Document("redirect address"))?;
        let client = OidcClient::new(ClientId::new(client_id.clone())).set_redirect_uri(redirect);
        Ok(match client_secret {
            Some(secret) => client.set_client_secret(ClientSecret::new(secret.expose_secret().to_owned())),
            None => client,
        })
    }

    async fn metadata(&self) -> Result<Arc<Metadata>, ProviderError> {
        let mut kept = self.metadata.0.lock().await;
        if let Some((since, metadata)) = &*kept
            && since.elapsed() < KEPT
        {
            return Ok(Arc::clone(metadata));
        }
        let issuer = &self.settings.issuer;
        let address = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let metadata: Metadata = self.fetch(&address, "discovery document").await?;
        let is_https = |address: &String| address.starts_with("https://");
        let Metadata { authorization_endpoint, token_endpoint, jwks_uri, .. } = &metadata;
        // Discovery 1.0 §4.3: a document of another issuer would let that one sign people in here.
        if metadata.issuer != *issuer || ![authorization_endpoint, token_endpoint, jwks_uri].into_iter().all(is_https) {
            return Err(ProviderError::Document("discovery document"));
        }
        let metadata = Arc::new(metadata);
        *kept = Some((Instant::now(), Arc::clone(&metadata)));
        Ok(metadata)
    }

    /// The key that a token names. The provider is asked again for a key nobody knows: it may be new.
    async fn key(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Jwk, ProviderError> {
        let unknown = ProviderError::Token("nobody knows its key");
        let mut keys = self.keys.lock().await;
        if let Some((since, kept)) = &keys.kept
            && since.elapsed() < KEPT
        {
            if let Some(found) = find(kept, kid, algorithm) {
                return Ok(found);
            }
            if keys.sought.is_some_and(|sought| sought.elapsed() < SOONEST) {
                return Err(unknown);
            }
            keys.sought = Some(Instant::now());
        }
        let fetched: JwkSet = self.fetch(&self.metadata().await?.jwks_uri, "set of keys").await?;
        let found = find(&fetched, kid, algorithm);
        keys.kept = Some((Instant::now(), fetched));
        found.ok_or(unknown)
    }

    async fn fetch<T: serde::de::DeserializeOwned>(&self, uri: &str, what: &'static str) -> Result<T, ProviderError> {
        let request = Request::builder().method(Method::GET).uri(uri).header(header::ACCEPT, "application/json");
        let request = request.body(Vec::new()).map_err(|_| ProviderError::Document(what))?;
        let answer = self.outbound.send(request).await?;
        // A redirect is an answer like any other that is not the document.
        if answer.status() != StatusCode::OK {
            return Err(ProviderError::Document(what));
        }
        serde_json::from_slice(answer.body()).map_err(|_| ProviderError::Document(what))
    }

    /// Checks a token as Core §3.1.3.7 says.
    async fn believe(&self, token: &str, nonce: &str) -> Result<Subject, ProviderError> {
        let Settings { issuer, client_id, .. } = &self.settings;
        let header = jsonwebtoken::decode_header(token)?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(ProviderError::Token("its algorithm is not one of public keys"));
        }
        let key = self.key(header.kid.as_deref(), header.alg).await?;
        let mut validation = Validation::new(header.alg);
        validation.set_audience(&[client_id]);
        validation.set_issuer(&[issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY;
        let claims = jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_jwk(&key)?, &validation)?.claims;
        claims.judge(issuer, client_id, nonce)
    }
}

/// A key of the provider's that may sign tokens by this algorithm.
fn find(keys: &JwkSet, kid: Option<&str>, algorithm: Algorithm) -> Option<Jwk> {
    let fits = |key: &&Jwk| {
        let signs = key.common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature);
        let named = key.common.key_algorithm.is_none_or(|named| named.to_string() == format!("{algorithm:?}"));
        let family = DecodingKey::from_jwk(key).is_ok_and(|known| known.family() == algorithm.family());
        signs && named && family
    };
    let mut fitting = keys.keys.iter().filter(fits);
    match kid {
        Some(kid) => fitting.find(|key| key.common.key_id.as_deref() == Some(kid)).cloned(),
        // Without a name there must be no choice.
        None => fitting.next().filter(|_| fitting.next().is_none()).cloned(),
    }
}

impl Claims {
    fn judge(self, issuer: &str, client_id: &str, nonce: &str) -> Result<Subject, ProviderError> {
        let now = jsonwebtoken::get_current_timestamp();
        if self.iss != issuer {
            return Err(ProviderError::Token("it is another issuer's"));
        }
        if self.nonce.as_deref() != Some(nonce) {
            return Err(ProviderError::Token("its nonce is another sign-in's"));
        }
        let is_shared = matches!(&self.aud, Audience::Many(audiences) if audiences.len() > 1);
        let party = self.azp.as_deref();
        if party.is_some_and(|party| party != client_id) || is_shared && party.is_none() {
            return Err(ProviderError::Token("it was issued for somebody else"));
        }
        if self.iat.is_some_and(|at| at > (now + LEEWAY) as f64) {
            return Err(ProviderError::Token("it was issued in the future"));
        }
        if self.sub.is_empty() || self.sub.len() > 255 {
            return Err(ProviderError::Token("its subject is empty or too long"));
        }
        if let Audience::One(audience) = &self.aud
            && audience != client_id
        {
            return Err(ProviderError::Token("it was issued for somebody else"));
        }
        let verified = match &self.email_verified {
            Verified::Flag(flag) => *flag,
            Verified::Text(text) => text == "true",
            Verified::Absent => false,
        };
        Ok(Subject { subject: self.sub, verified_email: self.email.filter(|_| verified) })
    }
}
