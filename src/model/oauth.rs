//! OAuth2 as an integration writes it: where a connection is signed in, where its tokens come from, and how.
//!
//! The addresses are https, whatever else the integration allows: what goes there is a client's secret and tokens
//! (RFC 6749 §3.1, §3.2). They are not hosts of the API: an access token is never sent to them as a request's credential.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::base_url::{BaseUrl, RenderError, UrlTemplate, UrlTemplateError};
use super::document::Reader;
use super::field::Field;
use super::integration::Integration;
use super::name::FieldName;
use super::origin::Scheme;
use super::template::Template;

/// As whom Sidekey comes to the token endpoint (RFC 6749 §2.2). Not secret.
pub const CLIENT_ID: &str = "client_id";
/// What proves that (RFC 6749 §2.3.1).
pub const CLIENT_SECRET: &str = "client_secret";
/// What is injected.
pub const ACCESS_TOKEN: &str = "access_token";
/// What a new access token is had for (RFC 6749 §1.5).
pub const REFRESH_TOKEN: &str = "refresh_token";
/// A public field of the integration that says which scopes are asked for, in place of the auth method's.
pub const SCOPES: &str = "scopes";

/// What an auth method of the type `oauth2` says beside its fields and slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuth {
    /// How it comes to its tokens.
    pub grant: Grant,
    /// Where access tokens are given out.
    pub token_url: UrlTemplate,
    /// Where tokens are taken back (RFC 7009), where the provider does that.
    pub revoke_url: Option<UrlTemplate>,
    /// What is asked for where the integration has no field [`SCOPES`].
    pub scopes: Vec<Scope>,
    /// What stands between two scopes: a space (RFC 6749 §3.3) but for the providers that want a comma.
    pub scope_separator: char,
    /// How Sidekey says who it is.
    pub client_auth: ClientAuth,
    /// What the provider wants beside it in the address where somebody signs in.
    pub authorize_params: Vec<(String, String)>,
    /// What it wants in each token request.
    pub token_params: Vec<(String, String)>,
    /// What the tokens are for (RFC 8707).
    pub resource: Option<String>,
    /// Who says in each answer that it is theirs, where the provider does (RFC 9207).
    pub issuer: Option<Issuer>,
}

/// What a provider calls itself: an https address without query and fragment (RFC 8414 §2), in which fields may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Its fields are those of an address, and are held to the same rules.
    url: UrlTemplate,
    /// As it was written: an issuer is compared as text and never normalised (RFC 9207 §2.4).
    text: Template,
}

impl FromStr for Issuer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let wrong = "an issuer is an https address of at most 512 bytes, without query and fragment (RFC 8414 §2)";
        let url =
            UrlTemplate::parse_endpoint(text).ok().filter(|url| url.scheme() == Scheme::Https && text.len() <= 512);
        Ok(Issuer { url: url.ok_or(wrong)?, text: text.parse().map_err(|_| wrong)? })
    }
}

impl Issuer {
    /// Its text with the values of a connection.
    pub fn render<'v>(&self, value: impl Fn(&FieldName) -> Option<&'v str>) -> Result<String, RenderError> {
        Ok(self.text.render(value)?.to_string())
    }
}

/// How tokens are come by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Somebody signs in at the provider, at this address (RFC 6749 §4.1, with PKCE, RFC 7636).
    AuthorizationCode(UrlTemplate),
    /// The client's own secret is enough (RFC 6749 §4.4).
    ClientCredentials,
}

/// How a client proves who it is at the token endpoint (RFC 6749 §2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// In `Authorization: Basic`, each part form-encoded.
    #[default]
    Basic,
    /// As `client_id` and `client_secret` in the body.
    Body,
    /// Not at all: a public client only says its id.
    None,
}

impl FromStr for ClientAuth {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "basic" => Ok(ClientAuth::Basic),
            "body" => Ok(ClientAuth::Body),
            "none" => Ok(ClientAuth::None),
            _ => Err("a client authenticates by basic, body or none"),
        }
    }
}

/// One scope: printable ASCII without space, quote and backslash (RFC 6749 §3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(String);

impl Scope {
    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Scope {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let fits = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        if (1..=256).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Scope(text.to_owned()))
        } else {
            Err("a scope has 1 to 256 printable characters without space, quote and backslash (RFC 6749 §3.3)")
        }
    }
}

/// What the protocol says by itself.
const OWN_PARAMS: [&str; 15] = [
    "response_type",
    "response_mode",
    "client_id",
    "client_secret",
    "redirect_uri",
    "scope",
    "state",
    "code",
    "code_challenge",
    "code_challenge_method",
    "code_verifier",
    "grant_type",
    "refresh_token",
    "resource",
    "token",
];

/// The addresses of a connection's authorization server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Where somebody signs in, where anybody does.
    pub authorize: Option<String>,
    /// Where tokens are given out.
    pub token: String,
    /// Where they are taken back.
    pub revoke: Option<String>,
}

impl Endpoints {
    /// What a credential is bound to beside the hosts of its API.
    pub fn bindings(&self) -> impl Iterator<Item = String> {
        let named =
            [("authorize", self.authorize.as_ref()), ("token", Some(&self.token)), ("revoke", self.revoke.as_ref())];
        named.into_iter().filter_map(|(name, address)| Some(format!("{name} {}", address?)))
    }
}

/// What is known of tokens beside themselves; sealed with them. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// When they were given out.
    pub obtained_at: i64,
    /// When the access token ends.
    pub expires_at: Option<i64>,
    /// What they may be used for, in the provider's words.
    pub scopes: Vec<String>,
    /// Why there are none any more: the provider's error code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl OAuth {
    /// Reads the keys of `type = "oauth2"` that are about the authorization server.
    pub(super) fn read(reader: &Reader<'_>) -> Option<Self> {
        let authorize_url = endpoint(reader, "authorize_url");
        let grant = match reader.text("grant").unwrap_or("authorization_code") {
            "authorization_code" => {
                reader.demand("authorize_url");
                authorize_url.map(Grant::AuthorizationCode)
            }
            "client_credentials" => {
                for key in ["authorize_url", "issuer"].into_iter().filter(|key| reader.has(key)) {
                    reader.problem(key, "nobody signs in with grant = \"client_credentials\"");
                }
                Some(Grant::ClientCredentials)
            }
            _ => {
                reader.problem("grant", "the grants are authorization_code and client_credentials");
                None
            }
        };
        reader.demand("token_url");
        let token_url = endpoint(reader, "token_url");
        let revoke_url = endpoint(reader, "revoke_url");
        let scope_separator = match reader.text("scope_separator") {
            None | Some(" ") => ' ',
            Some(",") => ',',
            Some(_) => {
                reader.problem("scope_separator", "scopes are separated by a space or by a comma");
                ' '
            }
        };
        let resource = reader.text("resource").map(str::to_owned);
        if resource.as_deref().is_some_and(|resource| resource.contains(['#', ' ']) || !resource.contains(':')) {
            reader.problem("resource", "a resource is an absolute address without a fragment (RFC 8707 §2)");
        }
        let oauth = OAuth {
            token_url: token_url?,
            grant: grant?,
            revoke_url,
            scopes: reader.parsed_list("scopes"),
            scope_separator,
            client_auth: reader.parsed("client_auth").unwrap_or_default(),
            authorize_params: params(reader, "authorize_params"),
            token_params: params(reader, "token_params"),
            resource,
            issuer: reader.parsed("issuer"),
        };
        Some(oauth)
    }

    /// The fields of a credential of it: `shared` are the integration's, one of which may be the client's id.
    pub(super) fn fields(&self, shared: &[Field]) -> Vec<Field> {
        let named = |name: &str| name.parse::<FieldName>().ok();
        let is_shared = |name: &FieldName| shared.iter().any(|field| field.name == *name && !field.secret);
        let optional = |field| Field { required: false, ..field };
        let client_id = named(CLIENT_ID).filter(|name| !is_shared(name)).map(|name| Field::implied(name, false));
        let secret = named(CLIENT_SECRET).filter(|_| self.client_auth != ClientAuth::None);
        let tokens = [Some(ACCESS_TOKEN), Some(REFRESH_TOKEN).filter(|_| self.is_signed_in())];
        let tokens = tokens.into_iter().flatten().filter_map(named).map(|name| optional(Field::implied(name, true)));
        client_id.into_iter().chain(secret.map(|name| Field::implied(name, true))).chain(tokens).collect()
    }

    /// Whether somebody signs in for it.
    pub fn is_signed_in(&self) -> bool {
        matches!(self.grant, Grant::AuthorizationCode(_))
    }

    /// Whether a field is entered by people; an access token that the client's secret is enough for is not.
    pub(super) fn is_entered(&self, name: &FieldName) -> bool {
        self.is_signed_in() || name.as_str() != ACCESS_TOKEN
    }

    /// Whether a slot may ask for a field: what goes to the token endpoint goes nowhere else.
    pub(super) fn is_injected(name: &FieldName) -> bool {
        !matches!(name.as_str(), CLIENT_SECRET | REFRESH_TOKEN)
    }

    /// Every address of it.
    pub fn urls(&self) -> impl Iterator<Item = &UrlTemplate> {
        let authorize = match &self.grant {
            Grant::AuthorizationCode(url) => Some(url),
            Grant::ClientCredentials => None,
        };
        let issuer = self.issuer.as_ref().map(|issuer| &issuer.url);
        authorize.into_iter().chain([&self.token_url]).chain(&self.revoke_url).chain(issuer)
    }

    /// Its addresses with the values of a connection.
    pub fn endpoints<'v>(&self, value: impl Fn(&FieldName) -> Option<&'v str>) -> Result<Endpoints, RenderError> {
        let render = |url: &UrlTemplate| url.render(&value).map(|url: BaseUrl| url.to_string());
        let authorize = match &self.grant {
            Grant::AuthorizationCode(url) => Some(render(url)?),
            Grant::ClientCredentials => None,
        };
        let revoke = self.revoke_url.as_ref().map(render).transpose()?;
        Ok(Endpoints { authorize, token: render(&self.token_url)?, revoke })
    }

    /// The scopes that are asked for, as the provider wants them; empty for none.
    pub fn scope(&self, integration: &Integration, value: Option<&str>) -> String {
        let has_field = integration.fields.iter().any(|field| field.name.as_str() == SCOPES && !field.secret);
        let scopes: Vec<&str> = match value.filter(|_| has_field) {
            Some(written) => written.split_ascii_whitespace().collect(),
            None => self.scopes.iter().map(Scope::as_str).collect(),
        };
        scopes.join(self.scope_separator.encode_utf8(&mut [0; 4]))
    }
}

fn endpoint(reader: &Reader<'_>, key: &'static str) -> Option<UrlTemplate> {
    let told = |error: UrlTemplateError| match error {
        UrlTemplateError::Query => {
            "the address has no query and no fragment; there are authorize_params and token_params".to_owned()
        }
        other => other.to_string(),
    };
    let url = UrlTemplate::parse_endpoint(reader.text(key)?).map_err(|error| reader.problem(key, told(error))).ok()?;
    if url.scheme() != Scheme::Https {
        reader.problem(key, "the address begins with https://: a secret goes there (RFC 6749 §3.2)");
        return None;
    }
    Some(url)
}

fn params(reader: &Reader<'_>, key: &'static str) -> Vec<(String, String)> {
    let Some(table) = reader.table(key) else { return Vec::new() };
    let mut params = Vec::new();
    for (name, value) in table.entries() {
        match value.as_str() {
            _ if OWN_PARAMS.contains(&name.as_str()) => table.problem(name, "the protocol says this by itself"),
            Some(text) if text.contains("@@SECRET:") => {
                table.problem(name, "a parameter is plain text; secrets belong in the credential");
            }
            Some(text) => params.push((name.clone(), text.to_owned())),
            None => table.problem(name, "expected a text"),
        }
    }
    params
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::id::IntegrationId;

    fn integration(auth: Value) -> Result<Integration, String> {
        let mut method = json!({
            "method": "oauth", "type": "oauth2", "authorize_url": "https://auth.test/a", "token_url": "https://auth.test/t/",
        });
        for (key, value) in auth.as_object().unwrap() {
            method[key] = value.clone();
        }
        let document = json!({
            "slug": "api", "base_url": "https://api.test", "auth": [method],
            "fields": [{ "name": "tenant", "required": false }, { "name": "scopes", "default": "a b" }],
        });
        let told =
            |problems: Vec<crate::model::document::Problem>| format!("{} {}", problems[0].pointer, problems[0].detail);
        Integration::parse(&document, IntegrationId::generate()).map_err(told)
    }

    #[test]
    fn what_is_asked_for_is_the_connections_or_the_methods() {
        let whole = integration(json!({ "scopes": ["x", "y"], "scope_separator": "," })).unwrap();
        let oauth = whole.auth[0].oauth.as_ref().unwrap();
        assert_eq!((oauth.scope(&whole, None), oauth.scope(&whole, Some("a  b"))), ("x,y".into(), "a,b".into()));
        let fields: Vec<&str> = whole.auth[0].fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(fields, ["client_id", "client_secret", "access_token", "refresh_token"]);
        let endpoints = oauth.endpoints(|_| None).unwrap();
        assert_eq!(endpoints.token, "https://auth.test/t/", "to the last byte");
    }

    #[test]
    fn an_issuer_is_the_text_that_was_written() {
        for written in
            ["https://auth.test", "https://auth.test/", "https://Auth.test:443/a", "https://{{ tenant }}.test"]
        {
            let whole = integration(json!({ "issuer": written })).unwrap();
            let issuer = whole.auth[0].oauth.as_ref().unwrap().issuer.as_ref().unwrap();
            assert_eq!(issuer.render(|_| Some("acme")).unwrap(), written.replace("{{ tenant }}", "acme"));
        }
    }

    #[test]
    fn an_address_is_https_and_a_parameter_is_no_other_one() {
        for (auth, pointer) in [
            (json!({ "token_url": "http://auth.test/t" }), "/auth/0/token_url"),
            (json!({ "token_url": "https://auth.test/t?x=y" }), "/auth/0/token_url"),
            (json!({ "authorize_url": "https://{{ nothing }}.auth.test/t" }), "/auth"),
            (json!({ "authorize_params": { "state": "x" } }), "/auth/0/authorize_params/state"),
            (json!({ "scopes": ["a b"] }), "/auth/0/scopes/0"),
            (json!({ "grant": "password" }), "/auth/0/grant"),
            (json!({ "grant": "client_credentials" }), "/auth/0/authorize_url"),
            (json!({ "template": "{{ client_secret }}" }), "/auth/0"),
            (json!({ "resource": "no address" }), "/auth/0/resource"),
            (json!({ "issuer": "http://auth.test" }), "/auth/0/issuer"),
            (json!({ "issuer": "https://auth.test?a=b" }), "/auth/0/issuer"),
            (json!({ "issuer": "https://auth.test/#a" }), "/auth/0/issuer"),
            (json!({ "issuer": "auth.test" }), "/auth/0/issuer"),
            (json!({ "issuer": "https://{{ nothing }}.auth.test" }), "/auth"),
            (
                json!({ "grant": "client_credentials", "authorize_url": null, "issuer": "https://auth.test" }),
                "/auth/0/issuer",
            ),
        ] {
            let wrong = integration(auth.clone()).expect_err("it is refused");
            assert!(wrong.starts_with(&format!("{pointer} ")), "{auth}: {wrong}");
        }
        assert!(integration(json!({ "token_url": "https://{{ tenant }}.auth.test/t" })).is_ok());
    }
}
