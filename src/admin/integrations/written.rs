//! An integration as it is written, for the description of the API. `model::integration` is what reads it.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

use crate::admin::openapi::Limit;
use crate::model::name::{FieldName, Key};

/// How to talk to one provider. No secret in it.
#[derive(ToSchema)]
#[schema(as = NewIntegration)]
pub struct Body {
    /// Its key, for ever; the path says it already where there is one.
    pub slug: Option<Key>,
    /// As a person reads it.
    #[schema(max_length = 200)]
    pub name: Option<String>,
    /// What kind of API it is.
    pub kind: Option<Kind>,
    /// Where to read about it.
    #[schema(max_length = 500)]
    pub docs: Option<String>,
    /// Where requests go: `https://`, without query and fragment. `{{ name }}` in host or path is a field's value; `{name}`
    /// in the path is where an auth method of `in: path` puts its own.
    pub base_url: String,
    /// Further origins the credential may go to, as `[scheme://]host[:port]`.
    pub hosts: Option<Vec<String>>,
    /// Whether `http://` is allowed.
    pub plaintext: Option<bool>,
    /// Whether the caller's own `Authorization` passes.
    pub forward_authorization: Option<bool>,
    /// Whether the organization's own connection serves customers who have none.
    pub customer_fallback: Option<bool>,
    /// Default headers; they yield to the caller's.
    pub headers: Option<BTreeMap<String, String>>,
    /// What a connection fills in.
    pub fields: Option<Vec<Field>>,
    /// The ways to authenticate; at least one.
    #[schema(min_items = 1)]
    pub auth: Vec<AuthMethod>,
    /// How to find out whether a credential works.
    pub test: Option<TestRequest>,
    /// Deadlines of its own, such as `"30s"`.
    pub timeouts: Option<Timeouts>,
    /// The default for each of its connections.
    pub limit: Option<Limit>,
}

/// What kind of API an integration talks to.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum Kind {
    /// An ordinary HTTP API.
    Rest,
    /// A model provider.
    Ai,
    /// A Model Context Protocol server.
    Mcp,
    /// A mail API.
    Email,
    /// Object or file storage.
    Storage,
}

/// What a person fills in.
#[derive(ToSchema)]
pub struct Field {
    /// As templates name it.
    pub name: FieldName,
    /// As a person reads it.
    #[schema(max_length = 200)]
    pub label: Option<String>,
    /// A regular expression that the whole value must match.
    pub pattern: Option<String>,
    /// Whether it is part of the credential.
    pub secret: Option<bool>,
    /// Whether it must be given where it has no default; it must where it is not said.
    pub required: Option<bool>,
    /// What is meant where nothing is given.
    pub default: Option<String>,
}

/// One way to authenticate.
#[derive(ToSchema)]
pub struct AuthMethod {
    /// Its key in the integration.
    pub method: Key,
    /// Which kind it is: `bearer`, `basic`, `api_key`, `custom` or `none`.
    pub r#type: AuthType,
    /// What a credential of it holds, where that is not what its type implies.
    pub fields: Option<Vec<Field>>,
    /// `bearer`, `api_key`: what the value looks like, such as `Token {{ api_key }}`.
    pub template: Option<String>,
    /// `basic`: a template of the user name.
    pub username: Option<String>,
    /// `basic`: a template of the password.
    pub password: Option<String>,
    /// `api_key`: where it goes.
    pub r#in: Option<Place>,
    /// `api_key`: under which name.
    pub name: Option<String>,
    /// `custom`: everything that is put in.
    pub inject: Option<Vec<Inject>>,
}

/// The kind of an auth method.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum AuthType {
    /// `Authorization: Bearer …`, of `token`.
    Bearer,
    /// `Authorization: Basic …`, of `username` and `password`.
    Basic,
    /// One value in one place, of `api_key`.
    ApiKey,
    /// Own fields, any list of injections.
    Custom,
    /// Nothing is put in.
    None,
}

/// Where a value goes.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum Place {
    /// A header.
    Header,
    /// A query pair.
    Query,
    /// A cookie.
    Cookie,
    /// A form field, or a place in a JSON document where the name is a JSON pointer.
    Body,
    /// A `{name}` in the path of the base URL.
    Path,
}

/// One value that is put in.
#[derive(ToSchema)]
pub struct Inject {
    /// Where it goes.
    pub r#in: Place,
    /// Under which name.
    pub name: String,
    /// A template of fields.
    pub value: String,
}

/// The request that tells whether a credential works.
#[derive(ToSchema)]
pub struct TestRequest {
    /// `GET` where it is not said.
    pub method: Option<String>,
    /// Below the base path, query included.
    pub path: String,
    /// The statuses that mean success; 200 where none is said.
    pub status: Option<Vec<u16>>,
    /// A JSON document as text.
    pub body: Option<String>,
    /// What the answer must hold.
    pub assert: Option<Assertion>,
}

/// A condition on the JSON body of a test's answer: `equals` or `exists`.
#[derive(ToSchema)]
pub struct Assertion {
    /// Where to look (RFC 6901).
    pub pointer: String,
    /// What stands there.
    pub equals: Option<Value>,
    /// Whether anything stands there.
    pub exists: Option<bool>,
}

/// Deadlines; absent ones are the server's.
#[derive(ToSchema)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect: Option<String>,
    /// Until the head of the answer has come.
    pub response: Option<String>,
    /// Between two pieces of a body.
    pub idle: Option<String>,
}
