//! Secrets: named values, one for each environment, for credentials to refer to. Their values never come back.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use utoipa::ToSchema;

use super::Control;
use super::actor::Actor;
use super::condition::{Shown, tagged};
use super::connections::viewer;
use super::document::{Document, Given, SecretFields};
use super::environments;
use super::error::AdminError;
use super::integrations::Source;
use super::openapi::{Forced, Paging};
use super::request::{At, Items, Query, stored};
use crate::credentials::injection::referenced_secrets;
use crate::model::connection::Connection;
use crate::model::document::Problem;
use crate::model::id::{ConnectionId, OrganizationId, SecretId};
use crate::model::name::{CustomerName, EnvironmentName, Key, SecretKey};
use crate::vault::change::resource::Force;
use crate::vault::change::{Change, PutMode, resource};
use crate::vault::declared::Declared;
use crate::vault::list::{List, SecretSummary, Viewer};

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
    /// The connections whose credentials refer to it, at most 100 of them; not those that the reader does not see.
    used_by: Vec<User>,
    source: Source,
}

/// A connection whose credential refers to a secret.
#[derive(Clone, Serialize, ToSchema)]
#[schema(as = SecretUser)]
pub struct User {
    id: ConnectionId,
    key: Key,
    customer: Option<CustomerName>,
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
const SHOWN_ONLY: [&str; 4] = ["id", "environments", "used_by", "source"];

fn view(viewer: Viewer, summary: SecretSummary) -> View {
    let SecretSummary { id, key, description, environments, used_by, .. } = summary;
    let seen = used_by.iter().filter(|connection| viewer.sees(connection));
    View { id: Some(id), key, description, environments, used_by: seen.map(user).collect(), source: Source::Stored }
}

fn user(connection: &Connection) -> User {
    User { id: connection.id, key: connection.key.clone(), customer: connection.customer.clone() }
}

/// The declared connections whose declared credentials refer to secrets, by secret.
fn declared_users(declared: &Declared, owner: OrganizationId) -> BTreeMap<SecretKey, BTreeMap<ConnectionId, User>> {
    let mut users = BTreeMap::<SecretKey, BTreeMap<ConnectionId, User>>::new();
    for connection in declared.connections().filter(|connection| connection.organization == owner) {
        let fields = declared.environments(connection.id).filter_map(|name| declared.credential(connection.id, name));
        let values = fields.flat_map(|fields| fields.iter().map(|(_, value)| value));
        for key in referenced_secrets(values) {
            users.entry(key).or_default().insert(connection.id, user(connection));
        }
    }
    users
}

impl View {
    /// With the declared connections that refer to it.
    fn with_declared(mut self, users: &BTreeMap<SecretKey, BTreeMap<ConnectionId, User>>) -> Self {
        self.used_by.extend(users.get(&self.key).into_iter().flat_map(BTreeMap::values).cloned());
        self
    }
}

/// The declared secrets of an organization. One that was stored too, before it was declared, is shown as declared: it
/// can be changed in its file only.
fn declared(declared: &Declared, owner: OrganizationId) -> impl Iterator<Item = View> + use<> {
    let mut environments = BTreeMap::<SecretKey, Vec<EnvironmentName>>::new();
    for (_, key, environment) in declared.secrets().filter(|(organization, ..)| *organization == owner) {
        environments.entry(key.clone()).or_default().push(environment.clone());
    }
    environments.into_iter().map(|(key, mut environments)| {
        environments.sort_unstable();
        View { id: None, key, description: None, environments, used_by: Vec::new(), source: Source::Declared }
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
    let items = list.items.into_iter().map(|summary| view(viewer(&actor), summary)).collect();
    let stored = List { items, next: list.next };
    let users = declared_users(&control.vault.declared(), actor.organization);
    let declared = declared(&control.vault.declared(), actor.organization);
    let behind = declared.filter(|secret| secret.key.as_str() > query.cursor());
    let page = query.merge(behind, stored, |secret| secret.key.clone(), SecretKey::to_string);
    Ok(Json(page.map(|secret| secret.with_declared(&users))))
}

/// Creates a secret, without a value.
#[utoipa::path(post, path = "/secrets", request_body = Body, responses(
    (status = 201, description = "It is there.", body = View, headers(("Location" = String), ("ETag" = String)))
))]
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    actor: Actor,
    document: Document,
) -> Result<Response, AdminError> {
    store(&control, &actor, None, document, PutMode::Create).await
}

/// Shows a secret, without its values.
#[utoipa::path(get, path = "/secrets/{key}", responses(
    (status = 200, description = "The secret.", body = View, headers(("ETag" = String)))
))]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(key): At<String>,
) -> Result<Shown<View>, AdminError> {
    find(&control, &actor, &parse_key(&key)?).await
}

/// Creates a secret, or replaces its description and keeps its values. Its key is for ever: it stands in references.
#[utoipa::path(put, path = "/secrets/{key}", request_body = Body, responses(
    (status = 200, description = "It is replaced.", body = View, headers(("ETag" = String))),
    (status = 201, description = "It is there.", body = View, headers(("Location" = String), ("ETag" = String))),
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
#[utoipa::path(delete, path = "/secrets/{key}", params(Forced), responses(
    (status = 204, description = "It is gone."),
))]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    At(key): At<String>,
) -> Result<StatusCode, AdminError> {
    let key = parse_key(&key)?;
    if query.force == Force::No {
        check_undeclared(&control, actor.organization, &key)?;
    }
    let change = resource::Change::DeleteSecret { organization: actor.organization, key, force: query.force };
    control.commit(&actor, Change::Resource(change)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Refuses to take away what declared credentials refer to, of which the vault does not know.
fn check_undeclared(control: &Control, organization: OrganizationId, key: &SecretKey) -> Result<(), AdminError> {
    let users = declared_users(&control.vault.declared(), organization).remove(key).unwrap_or_default();
    if users.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = users.values().take(20).map(|user| user.key.as_str()).collect();
    Err(AdminError::Conflict(format!(
        "declared connections refer to the secret {key}: {}; change them first, or add ?force=true",
        names.join(", ")
    )))
}

/// Sets the value of a secret in an environment.
///
/// The version that `If-Match` names is the secret's, which every value of it moves.
#[utoipa::path(put, path = "/secrets/{key}/values/{environment}", request_body = ValueBody, responses(
    (status = 204, description = "It is set.", headers(("ETag" = String)))
))]
pub(super) async fn put_value(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At((key, environment)): At<(String, String)>,
    fields: SecretFields,
) -> Result<Response, AdminError> {
    let organization = actor.organization;
    let (key, value) = (parse_key(&key)?, parse_value(fields)?);
    let environment = environments::find(&control, organization, &environment).await?;
    let outcome = control.commit(&actor, Change::PutSecretValue { organization, key, environment, value }).await?;
    Ok(tagged(StatusCode::NO_CONTENT.into_response(), outcome.version))
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
    let Shown(view, _) = find(control, actor, &key).await?;
    Ok(tagged(stored(outcome.created, &format!("secrets/{key}"), view), outcome.version))
}

async fn find(control: &Control, actor: &Actor, key: &SecretKey) -> Result<Shown<View>, AdminError> {
    let users = declared_users(&control.vault.declared(), actor.organization);
    let mut all = declared(&control.vault.declared(), actor.organization);
    if let Some(declared) = all.find(|secret| secret.key == *key) {
        return Ok(Shown(declared.with_declared(&users), None));
    }
    let stored = control.vault.database()?.secret_summary(actor.organization, key).await?;
    let stored = stored.ok_or(AdminError::NotFound("secret"))?;
    let version = stored.version;
    Ok(Shown(view(viewer(actor), stored).with_declared(&users), Some(version)))
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
