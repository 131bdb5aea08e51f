//! The description of this port: OpenAPI 3.1, made from the handlers themselves.
//!
//! A handler says what is its own: what it takes, what it answers, in which states it refuses. What holds for all of
//! them is added here, once, from the same table that refusals are told from: who may ask, the names in a path, the
//! organization behind the `?`, and every code that can stand in a problem. Bodies are described by types beside the
//! views; no body is read by them, because the project's own reader tells all mistakes of a document at once.

mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::Query;
use axum::http::{Method, Uri};
use axum::{Extension, Json};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::response::Response as Described;
use utoipa::openapi::schema::{AllOfBuilder, ComponentsBuilder, Object, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, License, OpenApi, OpenApiBuilder, Ref, RefOr, Required, ResponseBuilder, Schema,
};
use utoipa::{IntoParams, ToSchema};

use super::condition::Conditional;
use super::error::{AdminError, PROBLEMS, Refusal, When};
use super::permission::{self, CALLS};
use super::request::wrong;

/// The media type of every refusal.
const PROBLEM_JSON: &str = "application/problem+json";

/// The cookie of somebody who signed in.
const SESSION_COOKIE: &str = "sidekey-session";

/// Which part of a list is asked for.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Paging {
    /// How many items at most; 50 where it is not said.
    #[param(minimum = 1, maximum = 200, nullable = false)]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[param(nullable = false)]
    pub cursor: Option<String>,
}

/// Whose connection a key means.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OfCustomer {
    /// A connection of this customer. A key names the organization's own without it; an id needs none.
    #[param(pattern = "^[A-Za-z0-9._:-]{1,128}$", nullable = false)]
    pub customer: Option<String>,
}

/// Whether something is deleted that others rely on.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Forced {
    /// Also where it is in use; without it that is a conflict which says by whom.
    #[param(nullable = false)]
    pub force: Option<bool>,
}

/// What a refusal says (RFC 9457).
#[derive(ToSchema)]
pub struct Problem {
    /// `urn:sidekey:error:` and the code.
    pub r#type: String,
    /// The status in words.
    pub title: String,
    /// The status.
    pub status: u16,
    /// What is wrong and what to do; for people, and never with a secret in it.
    pub detail: String,
    /// What is wrong; for programs.
    pub code: String,
    /// The request, as `Sidekey-Request-Id` and the audit log name it.
    pub request_id: String,
    /// Each mistake of a document, all of them at once.
    #[schema(nullable = false)]
    pub errors: Option<Vec<Mistake>>,
}

/// One mistake in a document.
#[derive(ToSchema)]
pub struct Mistake {
    /// Where (RFC 6901); empty for the whole document and for what stands in the target.
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

/// Requests per second, and how many may come at once.
#[derive(ToSchema)]
pub struct Limit {
    /// How many a second.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub per_second: u32,
    /// How many at once; as many as a second where it is not said.
    #[schema(minimum = 1, maximum = 1_000_000, nullable = false)]
    pub burst: Option<u32>,
}

/// The description before any endpoint is in it.
pub(super) fn opening() -> OpenApi {
    let mut key = ApiKeyValue::new("X-API-Key");
    key.description = Some("An API key: `apk_…`.".to_owned());
    let mut session = ApiKeyValue::new(SESSION_COOKIE);
    session.description = Some("The session of a user who signed in; `__Host-sidekey-session` over https.".to_owned());
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("apk_…")
        .description(Some("An API key, as `Authorization: Bearer apk_…`."))
        .build();
    let components = ComponentsBuilder::new()
        .schema("Problem", <Problem as utoipa::PartialSchema>::schema())
        .schema("Mistake", <Mistake as utoipa::PartialSchema>::schema())
        .security_scheme("key", SecurityScheme::ApiKey(ApiKey::Header(key)))
        .security_scheme("bearer", SecurityScheme::Http(bearer))
        .security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(session)))
        .build();
    let mut license = License::new("Apache-2.0");
    license.identifier = Some("Apache-2.0".to_owned());
    let info = InfoBuilder::new()
        .title("Sidekey")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(include_str!("openapi/opening.md")))
        .license(Some(license))
        .build();
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components))
        .security(Some(["key", "bearer", "session"].map(|scheme| SecurityRequirement::new(scheme, [""; 0]))))
        .build()
}

/// Adds to each endpoint what all of its kind have.
pub(super) fn complete(mut api: OpenApi) -> OpenApi {
    let mut refusals = BTreeMap::new();
    for (path, item) in &mut api.paths.paths {
        for (method, operation) in operations(item) {
            name(path, operation);
            tell_permission(path, &method, operation);
            let parameters = operation.parameters.get_or_insert_default();
            let is_named =
                |name: &str| parameters.iter().any(|known| matches!(known, RefOr::T(known) if known.name == name));
            let mut added: Vec<Parameter> = placeholders(path).filter(|name| !is_named(name)).map(in_path).collect();
            if operation.security.is_none() && !is_named("organization") {
                added.push(organization());
            }
            if operation.security.is_none() && method == Method::POST {
                added.push(idempotency_key());
            }
            if operation.security.is_none() && changes_one(path, &method) {
                added.extend(Conditional::into_params(|| None));
                operation.responses.responses.insert("412".to_owned(), RefOr::T(Described::default()));
            }
            parameters.extend(added.into_iter().map(RefOr::T));
            add_refusals(operation, &mut refusals);
        }
    }
    api.components.get_or_insert_default().responses.extend(refusals);
    api
}

/// This description.
///
/// It says nothing of what is stored here, so nobody is asked for a key.
#[utoipa::path(get, path = "/api/v1/openapi.json", security(()), responses(
    (status = 200, description = "An OpenAPI 3.1 document.", body = serde_json::Value)
))]
pub(super) async fn show(Extension(api): Extension<Arc<OpenApi>>) -> Json<OpenApi> {
    Json(OpenApi::clone(&api))
}

/// Refuses a query parameter that a call does not have. `route` is as the router matched it.
pub(super) fn check_query(api: &OpenApi, method: &Method, route: &str, uri: &Uri) -> Result<(), AdminError> {
    let item = api.paths.paths.get(route);
    let operation = item.and_then(|item| match *method {
        Method::GET | Method::HEAD => item.get.as_ref(),
        Method::PUT => item.put.as_ref(),
        Method::POST => item.post.as_ref(),
        Method::DELETE => item.delete.as_ref(),
        Method::PATCH => item.patch.as_ref(),
        _ => None,
    });
    let known = operation.and_then(|operation| operation.parameters.as_deref()).unwrap_or_default();
    let Query(pairs): Query<Vec<(String, String)>> =
        Query::try_from_uri(uri).map_err(|error| wrong(error.body_text()))?;
    for (name, _) in &pairs {
        let is_it = |parameter: &RefOr<Parameter>| matches!(parameter, RefOr::T(known) if known.name == *name && known.parameter_in == ParameterIn::Query);
        if !known.iter().any(is_it) {
            return Err(wrong(format!("this call has no query parameter `{}`", name.escape_debug())));
        }
    }
    Ok(())
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [(Method::GET, get), (Method::PUT, put), (Method::POST, post), (Method::DELETE, delete), (Method::PATCH, patch)]
        .into_iter()
        .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// Groups an endpoint by the resource it belongs to, and gives it a name that no other has: its path in words, and what
/// its handler is called.
fn name(path: &str, operation: &mut Operation) {
    let segments = path.trim_start_matches("/api/v1").split('/').filter(|segment| !segment.is_empty());
    let mut words: Vec<&str> = segments.filter(|segment| !segment.starts_with('{')).collect();
    if operation.tags.as_ref().is_none_or(Vec::is_empty) {
        operation.tags = words.first().map(|word| vec![(*word).to_owned()]);
    }
    let handler = operation.operation_id.take().unwrap_or_default();
    words.retain(|word| *word != handler);
    words.push(&handler);
    operation.operation_id = Some(words.join("."));
}

/// Whether a call changes one thing that has versions, or would make it.
fn changes_one(path: &str, method: &Method) -> bool {
    let tries = ["/test", "/explain"].iter().any(|end| path.ends_with(end));
    match *method {
        Method::PUT | Method::DELETE | Method::PATCH => true,
        Method::POST => path.contains('{') && !tries,
        _ => false,
    }
}

/// What makes a request that is sent again the same request.
fn idempotency_key() -> Parameter {
    let text = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).pattern(Some("^[!-~]{1,255}$")).build();
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "Whoever sends the same request with the same key again, within a day, is answered as before, without what \
             is shown only once, and nothing is done twice.",
        ))
        .schema(Some(text))
        .build()
}

/// Says which permission an endpoint needs, from the table that it is judged by.
fn tell_permission(path: &str, method: &Method, operation: &mut Operation) {
    let Some(route) = path.strip_prefix(permission::PREFIX) else { return };
    if let Some((.., needed)) = CALLS.iter().find(|(of, listed, _)| of == method && *listed == route) {
        let said = operation.description.take().filter(|said| !said.is_empty()).map(|said| format!("{said}\n\n"));
        operation.description =
            Some(format!("{}Needs the permission `{}`.", said.unwrap_or_default(), needed.as_str()));
    }
}

fn placeholders(path: &str) -> impl Iterator<Item = &str> {
    path.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name)
}

fn in_path(name: &str) -> Parameter {
    let description = match name {
        "key" => "The key of a secret.",
        "slug" => "The slug of an integration.",
        "user" => "The id or the e-mail address of a user.",
        "session" => "The id of a session.",
        "environment" => "The name of an environment.",
        "api_key" => "The id of an API key.",
        _ => "An id or key.",
    };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(text()))
        .build()
}

fn organization() -> Parameter {
    ParameterBuilder::new()
        .name("organization")
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some("For super admins: the organization that is meant, by id or key, instead of their own."))
        .schema(Some(text()))
        .build()
}

fn text() -> Object {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).build()
}

/// Adds every refusal that can meet a request of this kind, beside those that the handler names by their status.
fn add_refusals(operation: &mut Operation, refusals: &mut BTreeMap<String, RefOr<Described>>) {
    let named = operation.responses.responses.iter();
    let own: BTreeSet<u16> =
        named.filter(|(_, response)| is_bare(response)).filter_map(|(status, _)| status.parse().ok()).collect();
    let is_met = |refusal: &&Refusal| match refusal.when {
        _ if own.contains(&refusal.status.as_u16()) => true,
        When::Always => true,
        When::Asked => operation.security.is_none(),
        When::Read => operation.request_body.is_some(),
        When::Named => false,
    };
    let mut met = BTreeMap::<u16, Vec<&Refusal>>::new();
    for refusal in PROBLEMS.iter().filter(is_met) {
        met.entry(refusal.status.as_u16()).or_default().push(refusal);
    }
    for (status, codes) in met {
        let component = codes.iter().map(|refusal| refusal.code).collect::<Vec<_>>().join(".");
        refusals.entry(component.clone()).or_insert_with(|| RefOr::T(describe(status, &codes)));
        let reference = RefOr::Ref(Ref::from_response_name(component));
        operation.responses.responses.insert(status.to_string(), reference);
    }
}

/// Whether a handler says no more of an answer than its status, and in which case it comes.
fn is_bare(response: &RefOr<Described>) -> bool {
    matches!(response, RefOr::T(response) if response.content.is_empty())
}

fn describe(status: u16, codes: &[&Refusal]) -> Described {
    let names = codes.iter().map(|refusal| refusal.code);
    let told = ObjectBuilder::new()
        .property(
            "status",
            ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer)).enum_values(Some([status])),
        )
        .property("code", ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).enum_values(Some(names)));
    let schema = AllOfBuilder::new().item(Ref::from_schema_name("Problem")).item(told).build();
    let lines: Vec<String> = codes.iter().map(|refusal| format!("`{}`: {}", refusal.code, refusal.meaning)).collect();
    let content = ContentBuilder::new().schema(Some(Schema::AllOf(schema))).build();
    let mut response = ResponseBuilder::new().description(lines.join("; ")).content(PROBLEM_JSON, content);
    let header = |text_: &str| HeaderBuilder::new().schema(Some(text())).description(Some(text_)).build();
    match status {
        401 => response = response.header("WWW-Authenticate", header("`Bearer`.")),
        429 | 503 => response = response.header("Retry-After", header("After how many seconds it may work.")),
        _ => {}
    }
    response.build()
}
