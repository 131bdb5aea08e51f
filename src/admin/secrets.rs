//! Secrets: named values, one for each environment, for credentials to refer to. Their values never come back.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use utoipa::ToSchema;

use super::Control;
use super::actor::Actor;
use super::document::{Document, Given, SecretFields};
use super::environments;
use super::error::AdminError;
use super::integrations::Source;
use super::openapi::{Forced, Paging};
use super::request::{At, Items, Query, stored};
use crate::model::document::Problem;
use crate::model::id::{OrganizationId, SecretId};
use crate::model::name::{EnvironmentName, SecretKey};
use crate::vault::change::{Change, PutMode, resource};
use crate::vault::declared::Declared;
use crate::vault::list::{List, SecretSummary};

/// The longest value.
const LONGEST: usize = 64 * 1024;

/// A secret as it is shown: where it has a value, not which.
#[derive(Serialize, ToSchema)]
#[schema(as = Secret)]
pub struct View {
    /// A declared one has none.
    id: Option<SecretId>,
    key: SecretKey,
    description: Option<String>,
    environments: Vec<EnvironmentName>,
    source: Source,
}

/// A secret as it is written: without a value, which each environment has its own of.
#[derive(ToSchema)]
#[schema(as = NewSecret)]
pub struct Body {
    /// Its key, for ever; the path says it already where there is one.
    pub key: Option<SecretKey>,
    /// As a person reads it.
    #[schema(max_length = 500)]
    pub description: Option<String>,
}

/// A value of a secret.
#[derive(ToSchema)]
#[schema(as = SecretValue)]
pub struct ValueBody {
    /// At most 64 KiB; it never comes back.
    #[schema(min_length = 1, max_length = 65_536, write_only)]
    pub value: String,
}

/// What a view shows and nobody sets.
const SHOWN_ONLY: [&str; 3] = ["id", "environments", "source"];

impl From<SecretSummary> for View {
    fn from(SecretSummary { id, key, description, environments, .. }: SecretSummary) -> Self {
        View { id: Some(id), key, description, environments, source: Source::Stored }
    }
}

/// The declared secrets of an organization. One that was stored too, before it was declared, is shown as declared: it
/// can be changed in its file only.
fn declared(declared: &Declared, owner: OrganizationId) -> impl Iterator<Item = View> + use<> {
    let mut environments = std::collections::BTreeMap::<SecretKey, Vec<EnvironmentName>>::new();
    for (_, key, environment) in declared.secrets().filter(|(organization, ..)| *organization == owner) {
        environments.entry(key.clone()).or_default().push(environment.clone());
    }
    environments.into_iter().map(|(key, mut environments)| {
        environments.sort_unstable();
        View { id: None, key, description: None, environments, source: Source::Declared }
    })
}

/// Lists the secrets of the organization, without their values.
#[utoipa::path(get, path = "/secrets", params(Paging), responses(
    (status = 200, description = "A page of them.", body = Items<View>)
))]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
) -> Result<Json<Items<View>>, AdminError> {
    let list = control.vault.database()?.secrets(actor.organization, query.page()).await?;
    let stored = List { items: list.items.into_iter().map(View::from).collect(), next: list.next };
    let declared = declared(&control.vault.declared(), actor.organization);
    let behind = declared.filter(|secret| secret.key.as_str() > query.cursor());
    Ok(Json(query.merge(behind, stored, |secret| secret.key.clone(), SecretKey::to_string)))
}

/// Creates a secret, without a value.
#[utoipa::path(post, path = "/secrets", request_body = Body, responses(
    (status = 201, description = "It is there.", body = View, headers(("Location" = String)))
))]
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    actor: Actor,
    document: Document,
) -> Result<Response, AdminError> {
    store(&control, &actor, None, document, PutMode::Create).await
}

/// Shows a secret, without its values.
#[utoipa::path(get, path = "/secrets/{key}", responses((status = 200, description = "The secret.", body = View)))]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(key): At<String>,
) -> Result<Json<View>, AdminError> {
    Ok(Json(find(&control, actor.organization, &parse_key(&key)?).await?))
}

/// Creates a secret, or replaces its description and keeps its values.
#[utoipa::path(put, path = "/secrets/{key}", request_body = Body, responses(
    (status = 200, description = "It is replaced.", body = View),
    (status = 201, description = "It is there.", body = View, headers(("Location" = String))),
))]
pub(super) async fn replace(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(key): At<String>,
    document: Document,
) -> Result<Response, AdminError> {
    let key = parse_key(&key)?;
    store(&control, &actor, Some(key), document, PutMode::Replace).await
}

/// Deletes a secret with its values.
///
/// A secret that credentials refer to is not deleted unless that is forced: their next request is refused then, and
/// names what is missing.
#[utoipa::path(delete, path = "/secrets/{key}", params(Forced), responses((status = 204, description = "It is gone.")))]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    At(key): At<String>,
) -> Result<StatusCode, AdminError> {
    let key = parse_key(&key)?;
    let change = resource::Change::DeleteSecret { organization: actor.organization, key, force: query.force };
    control.commit(&actor, Change::Resource(change)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets the value of a secret in an environment.
#[utoipa::path(put, path = "/secrets/{key}/values/{environment}", request_body = ValueBody, responses(
    (status = 204, description = "It is set.")
))]
pub(super) async fn put_value(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At((key, environment)): At<(String, String)>,
    fields: SecretFields,
) -> Result<StatusCode, AdminError> {
    let organization = actor.organization;
    let (key, value) = (parse_key(&key)?, parse_value(fields)?);
    let environment = environments::find(&control, organization, &environment).await?;
    control.commit(&actor, Change::PutSecretValue { organization, key, environment, value }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes the value of a secret in an environment.
#[utoipa::path(delete, path = "/secrets/{key}/values/{environment}", responses((status = 204, description = "It is gone.")))]
pub(super) async fn delete_value(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At((key, environment)): At<(String, String)>,
) -> Result<StatusCode, AdminError> {
    let organization = actor.organization;
    let key = parse_key(&key)?;
    let environment = environments::find(&control, organization, &environment).await?;
    control.commit(&actor, Change::DeleteSecretValue { organization, key, environment }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn store(
    control: &Control,
    actor: &Actor,
    named: Option<SecretKey>,
    document: Document,
    mode: PutMode,
) -> Result<Response, AdminError> {
    let organization = actor.organization;
    let document = document.without(&SHOWN_ONLY).or("key", named.as_ref().map(SecretKey::as_str));
    let (key, description): (SecretKey, Option<String>) = document.read(|reader| {
        let (key, description) = (reader.required("key"), reader.label("description", 500).map(str::to_owned));
        Some((key?, description))
    })?;
    if named.is_some_and(|named| named != key) {
        let detail = "the key cannot be changed; it stands in references".to_owned();
        return Err(AdminError::Invalid(vec![Problem { pointer: "/key".to_owned(), detail }]));
    }
    let change = Change::PutSecret { organization, key: key.clone(), description, mode };
    let outcome = control.commit(actor, change).await?;
    Ok(stored(outcome.created, &format!("secrets/{key}"), find(control, organization, &key).await?))
}

async fn find(control: &Control, organization: OrganizationId, key: &SecretKey) -> Result<View, AdminError> {
    if let Some(declared) = declared(&control.vault.declared(), organization).find(|secret| secret.key == *key) {
        return Ok(declared);
    }
    let stored = control.vault.database()?.secret_summary(organization, key).await?;
    stored.map(View::from).ok_or(AdminError::NotFound("secret"))
}

fn parse_key(text: &str) -> Result<SecretKey, AdminError> {
    text.parse().map_err(|_| AdminError::NotFound("secret"))
}

/// The value of `{"value": "…"}`.
fn parse_value(fields: SecretFields) -> Result<SecretString, AdminError> {
    let mut problems = Vec::new();
    let mut value = None;
    for (name, given) in fields.0 {
        let detail = match (&*name, given) {
            ("value", Given::Text(text)) => match check_length(&text) {
                Ok(()) => {
                    value = Some(text);
                    continue;
                }
                Err(detail) => detail.to_owned(),
            },
            ("value", Given::Other(found)) => format!("expected a text, found {found}"),
            _ => "unknown key; known here: value".to_owned(),
        };
        problems.push(Problem { pointer: format!("/{}", name.replace('~', "~0").replace('/', "~1")), detail });
    }
    match value {
        Some(value) if problems.is_empty() => Ok(value),
        None if problems.is_empty() => {
            let detail = "the key `value` is missing".to_owned();
            Err(AdminError::Invalid(vec![Problem { pointer: String::new(), detail }]))
        }
        _ => Err(AdminError::Invalid(problems)),
    }
}

#[expect(clippy::disallowed_methods, reason = "a value's length is checked before it is stored")]
fn check_length(value: &SecretString) -> Result<(), &'static str> {
    match value.expose_secret().len() {
        0 => Err("the value is empty"),
        length if length > LONGEST => Err("the value is longer than 64 KiB"),
        _ => Ok(()),
    }
}
